"""Which format to quantize to: the one asked for, or the one that suits the chip."""

from ..checkpoints.quantized import FLOAT_MODES, Quantization
from ..errors import InputError
from ..machine.chip import FormatChoice, has_small_batch_kernel, recommended_format

AFFINE = "affine"
AUTO = "auto"
Q_MODES = (AFFINE, *FLOAT_MODES, AUTO)
DEFAULT_BITS, DEFAULT_GROUP_SIZE = 4, 64
SIZES = "affine has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128"


def choose_format(
    mode: str = AFFINE, bits: int | None = None, group_size: int | None = None, generation: int | None = None
) -> FormatChoice:
    """The format to quantize to, and why.

    Args:
        mode: affine, mxfp4, mxfp8 or nvfp4, as mlx-lm's ``q_mode``; or auto, which chooses among them.
        bits, group_size: None leaves them to the mode: affine has 4 bits in groups of 64.
        generation: of the Apple GPU, from ``metal.chip_generation``; None is a machine without Metal.

    Raises:
        InputError: a format that MLX does not have.
    """
    if mode not in Q_MODES:
        raise InputError(f"the quantization mode is {mode!r}, expected {', '.join(Q_MODES)}")
    if mode != AUTO:
        return FormatChoice(mode, *_sizes(mode, bits, group_size), "as asked for")
    if bits is None and group_size is None:
        return recommended_format(generation)
    bits = bits or DEFAULT_BITS
    affine = (AFFINE, bits, group_size or DEFAULT_GROUP_SIZE)
    # nvfp4 before mxfp4: it rounds less.
    floating = [(mode, *FLOAT_MODES[mode]) for mode in ("nvfp4", "mxfp4", "mxfp8")]
    floating = [form for form in floating if form[1] == bits and group_size in (None, form[2])]
    if generation is None or has_small_batch_kernel(AFFINE, generation) or not floating:
        _sizes(*affine)
        why = "no other format has these sizes" if not floating else "the most common format"
        return FormatChoice(*affine, why)
    return FormatChoice(*floating[0], "before M3 affine formats lack the small-batch kernel that makes drafts pay")


def advice(mode: str, generation: int | None) -> str | None:
    """A word to those who chose a format that drafts gain little from on their chip."""
    if generation is None or has_small_batch_kernel(mode, generation):
        return None
    better = recommended_format(generation)
    return f"on this chip {mode} weights are read once per token of a block; {better.mode} ones once per block"


def _sizes(mode: str, bits: int | None, group_size: int | None) -> tuple[int, int]:
    own_bits, own_group_size = FLOAT_MODES.get(mode, (DEFAULT_BITS, DEFAULT_GROUP_SIZE))
    found = Quantization(group_size or own_group_size, bits or own_bits, mode)
    if not found.exists():
        exists = SIZES if mode == AFFINE else f"{mode} has {own_bits} bits in groups of {own_group_size}"
        raise InputError(f"no {mode} quantization has {found.bits} bits in groups of {found.group_size}: {exists}")
    return found.bits, found.group_size
