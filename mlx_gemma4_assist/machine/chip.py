"""What MLX does on Metal with few rows at once, as decisions that need no Metal to be made or tested.

Each was chosen from MLX's source (0.32), not measured: the package was written where there is no GPU.
"""

import re
from typing import NamedTuple

from ..checkpoints.quantized import FLOAT_MODES, Quantization

WIDE_AFFINE_GENERATION = 15  # M3
FUSED_HEAD_DIMS = (64, 96, 128, 192, 256)
FUSED_QUERIES = 8
FUSED_ROWS = 32


def chip_generation(name: str) -> int | None:
    """The generation of an Apple GPU: 13 for M1, 14 for M2, 15 for M3, and so on; None for any other.

    Chosen from MLX's source (``metal/device.cpp`` reads it out of the architecture's name), not measured.

    Args:
        name: ``mx.device_info()``'s ``architecture`` ("applegpu_g15s") or ``device_name`` ("Apple M3 Max").
    """
    if found := re.fullmatch(r"applegpu_g(\d+)\w?", name):
        return int(found[1])
    if found := re.search(r"\bApple M(\d+)\b", name):
        return 12 + int(found[1])
    return None


def has_small_batch_kernel(mode: str, generation: int | None) -> bool:
    """Whether ``mx.quantized_matmul`` of a few rows reads each weight once for all of them (MLX's ``qmv_wide``).

    Verifying drafts consists of such products. Without the kernel a block of n tokens reads the weights n times, and
    costs nearly n plain steps. Chosen from MLX's source (``use_qmv_wide`` in ``metal/quantized.cpp``), not measured.

    Args:
        mode: of the quantization: affine, mxfp4, mxfp8, nvfp4.
        generation: from :func:`chip_generation`; None is a machine without Metal.
    """
    if generation is None:
        return False
    return mode in FLOAT_MODES or (mode == "affine" and generation >= WIDE_AFFINE_GENERATION)


class FormatChoice(NamedTuple):
    """A quantization to convert to (see ``Quantization``), and why."""

    mode: str
    bits: int
    group_size: int
    reason: str

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.group_size, self.bits, self.mode)


def recommended_format(generation: int | None) -> FormatChoice:
    """The 4-bit format for a chip: the one of 4.5 bits per weight that has the small-batch kernel there.

    Chosen from MLX's source, not measured. Rounding is no reason against either: on normally distributed weights
    ``mx.quantize`` is off by 9.1 % (affine, groups of 64) and 9.5 % (nvfp4); mxfp4, of 4.25 bits, by 11.6 %.
    """
    if generation is None:
        return FormatChoice("affine", 4, 64, "the most common format; without Metal none is faster than another")
    if has_small_batch_kernel("affine", generation):
        return FormatChoice("affine", 4, 64, "the most common format, and from M3 on it has the small-batch kernel")
    return FormatChoice(
        "nvfp4", 4, 16, "before M3 only mxfp4, mxfp8 and nvfp4 have the small-batch kernel that makes drafts pay"
    )


def fused_attention_queries(heads: int, kv_heads: int, head_dim: int) -> int:
    """The most tokens of a block for which attention stays in Metal's fused kernel; 0 if it never is.

    A longer block computes its scores as separate products, which is right but slower. Chosen from MLX's source
    (``metal/scaled_dot_product_attention.cpp``: at most 8 queries, queries x heads / KV heads at most 32, some head
    dims), not measured. Head dim 512, Gemma 4's full layers, is not among them; versions of MLX that have it take it
    for a single query without an array mask only, which a block never is.
    """
    if head_dim not in FUSED_HEAD_DIMS:
        return 0
    return min(FUSED_QUERIES, FUSED_ROWS * kv_heads // heads)
