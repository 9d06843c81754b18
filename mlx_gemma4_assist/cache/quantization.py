"""How keys and values are quantized: a small value that is fixed for a cache's life."""

from dataclasses import dataclass

from ..errors import OptionError
from ..models.config import FULL, Gemma4TextConfig
from ..options import KV_GROUP_SIZES, GenerationOptions

OVERLAP = 64  # positions; a round, of at most 33 tokens, that crosses ``start`` is written whole on both sides of it


@dataclass(frozen=True)
class KVQuantization:
    """What layers with full attention hold quantized: all positions from ``start`` on.

    Which positions these are depends on nothing else, so that a text does not depend on how it is cut into forwards.
    Two arrays hold the keys of a layer: a dense one, whose slot s holds position s, up to ``start + OVERLAP``; and a
    quantized one, whose slot s holds position ``first + s``. Where both hold a position, ``start`` decides which is
    seen; the other is only written to.

    Attributes:
        bits: of a number, 4 or 8.
        group_size: numbers that share a scale and a bias.
        start: the first position that is seen quantized.
    """

    bits: int
    group_size: int
    start: int

    @property
    def first(self) -> int:
        """The position in the first slot of quantized arrays."""
        return max(0, self.start - OVERLAP)

    def slots(self, size: int) -> tuple[int, int]:
        """Of the dense and of the quantized arrays, where there is room for ``size`` positions."""
        return min(size, self.start + OVERLAP) if self.start else 0, max(0, size - self.first)

    def ranges(self, begin: int, end: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The slots of positions ``begin`` to ``end`` - 1 that are seen: in dense arrays, and in quantized ones."""
        middle = min(max(begin, self.start), end)
        return (begin, middle) if begin < middle else (0, 0), (middle - self.first, end - self.first)

    def size(self, dense: int, quantized: int) -> int:
        """For how many positions there is room in so many slots."""
        return self.first + quantized if quantized else dense

    def check(self, config: Gemma4TextConfig) -> None:
        """Raises:
        OptionError: the model has no layer with full attention, or heads that cannot be divided into groups.
        """
        if FULL not in config.layer_types[: config.num_kv_layers]:
            raise OptionError("{kv_bits} is for layers with full attention, and this model has none")
        width = config.head_dim_of(FULL)
        if width % self.group_size:
            fitting = [str(size) for size in KV_GROUP_SIZES if width % size == 0]
            instead = f"{{kv_group_size}} {' or '.join(fitting)} does" if fitting else "no {kv_group_size} does"
            raise OptionError(
                "{kv_bits} quantizes in groups of {value} numbers, and {value} does not divide the head dimension "
                f"{{width}} of this model's layers with full attention: {instead}",
                value=self.group_size,
                width=width,
            )

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group_size} from position {self.start} on"


def kv_quantization(options: GenerationOptions, config: Gemma4TextConfig) -> KVQuantization | None:
    """What options ask for; None for dense keys and values.

    Raises:
        OptionError: the model's keys cannot be quantized so.
    """
    if options.kv_bits is None:
        return None
    asked = KVQuantization(options.kv_bits, options.kv_group_size, options.quantized_kv_start)
    asked.check(config)
    return asked
