"""What a conversion was asked for, settled before anything is read."""

from dataclasses import dataclass, replace

from ..checkpoints.quantized import Quantization
from ..errors import InputError
from ..machine.chip import FormatChoice
from .formats import AFFINE, AUTO, choose_format
from .plan import Wishes
from .recipes import MIXED, RECIPES, Predicate, Recipe, low_bits

ASSISTANT_BITS = 4
"""Fewer save little, since an assistant is small, and cost acceptance: tools/measure_recipes.py."""


@dataclass(frozen=True)
class Precision:
    """mlx-lm's options of ``convert``, under its names.

    Attributes:
        quantize: in the format of the ``q_`` options; ``dequantize``: back.
        q_mode: affine, mxfp4, mxfp8, nvfp4, or auto: what suits the chip.
        q_bits, q_group_size: None leaves them to the mode or the recipe.
        dtype: float32, bfloat16 or float16 of all that is not packed; None leaves it to the checkpoint.
        quant_predicate: a name out of ``RECIPES``, or a function of path, layer and config.json, see ``Predicate``.
    """

    quantize: bool = False
    q_bits: int | None = None
    q_group_size: int | None = None
    q_mode: str = AFFINE
    dtype: str | None = None
    dequantize: bool = False
    quant_predicate: str | Predicate | None = None

    def __post_init__(self):
        if self.quantize and self.dequantize:
            raise InputError("either quantize or dequantize, not both")
        if not self.quantize:
            given = {"q_bits": self.q_bits, "q_group_size": self.q_group_size, "quant_predicate": self.quant_predicate}
            unused = [name for name, value in given.items() if value is not None]
            unused += ["q_mode"] if self.q_mode != AFFINE else []
            if unused:
                raise InputError(f"{unused[0].replace('_', '-')} says how to quantize, which takes -q, --quantize")

    def choose(self, generation: int | None) -> FormatChoice | None:
        """The general format, and why; None without quantization.

        Args:
            generation: of the Apple GPU, or None; see ``metal.chip_generation``.

        Raises:
            InputError: options that do not go together, or a format that MLX does not have.
        """
        if not self.quantize:
            return None
        bits, mode = self.q_bits, self.q_mode
        if isinstance(self.quant_predicate, str):
            low = low_bits(self.quant_predicate)
            if bits not in (None, low):
                raise InputError(f"the recipe {self.quant_predicate} does not go with {bits} bits")
            bits = low
            if mode == AUTO and (self.quant_predicate in MIXED or RECIPES[self.quant_predicate][1] != 8):
                affine = choose_format(AFFINE, bits, self.q_group_size)
                return affine._replace(reason=f"the recipe {self.quant_predicate} exists in affine formats only")
            if mode == AUTO and self.q_group_size is None:
                return choose_format(AUTO, None, None, generation)  # of 4 bits, as the recipe's lower ones
        return choose_format(mode, bits, self.q_group_size, generation)

    def wishes(self, choice: FormatChoice | None, *, text_only: bool = False, is_assistant: bool = False) -> Wishes:
        """The same for one checkpoint.

        An assistant has at least ``ASSISTANT_BITS``, unless a predicate says otherwise.

        Raises:
            InputError: a recipe that does not exist in this format.
        """
        if choice is None:
            return Wishes(None, self.dequantize, self.dtype, text_only)
        general, rule = choice.quantization, self.quant_predicate
        if is_assistant:
            general = replace(general, bits=max(general.bits, ASSISTANT_BITS))
            rule = rule if callable(rule) else None
        return Wishes(Recipe(general, rule), self.dequantize, self.dtype, text_only)


def described(quantization: Quantization) -> str:
    return f"{quantization.mode}, {quantization.bits} bits in groups of {quantization.group_size}"
