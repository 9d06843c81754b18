"""How many bytes weights and contexts take, and whether they fit; counted from configs, with nothing allocated."""

from enum import StrEnum
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..cache.layout import GROWTH, CacheLayout
from ..cache.quantization import KVQuantization
from ..checkpoints.quantized import Quantizable, Quantization
from ..engine.engine import SLACK_STEP
from ..models.config import Gemma4TextConfig
from ..models.cost import score_bytes
from ..models.families import Family
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from ..models.network import named_parameters
from ..options import GenerationOptions

HALF = 2  # bytes of a bfloat16 or float16
TIGHT = 0.9  # of the memory; mlx-lm warns from the same share on


def weight_bytes(network: nn.Module, quantization: Quantization | None = None) -> int:
    """Bytes of a network's parameters, in half precision or quantized. The network is changed, and never evaluated."""
    if quantization is not None:
        size = quantization.group_size

        def fits(_: str, module: nn.Module) -> bool:
            return isinstance(module, Quantizable) and module.weight.shape[-1] % size == 0

        nn.quantize(network, size, quantization.bits, mode=quantization.mode, class_predicate=fits)
    parameters = named_parameters(network).values()
    return sum(a.size * (HALF if mx.issubdtype(a.dtype, mx.floating) else a.itemsize) for a in parameters)


def pair_bytes(family: Family, quantization: Quantization | None = None) -> int:
    """Bytes of a target and its assistant, both in the same format."""
    networks = Gemma4ForCausalLM(family.target), Gemma4AssistantForCausalLM(family.assistant)
    return sum(weight_bytes(network, quantization) for network in networks)


class ContextBytes(NamedTuple):
    """What a context costs besides the weights.

    Attributes:
        per_token: keys and values of the layers with full attention; where they are quantized, from there on.
        sliding: keys and values of the sliding layers, once the context is longer than their window.
        keys_values: both, at the context asked for.
        scores: of one full layer's attention while a prompt's chunk is computed; such layers are never fused.
    """

    per_token: int
    sliding: int
    keys_values: int
    scores: int


def context_bytes(
    config: Gemma4TextConfig, context: int, quantization: KVQuantization | None = None, dtype: mx.Dtype = mx.bfloat16
) -> ContextBytes:
    """For one conversation of ``context`` tokens, stored as ``KVCache`` does at default settings.

    Args:
        config: the target's.
        context: tokens.
        quantization: of keys and values; None where they are dense.
        dtype: of what is not quantized.
    """
    layout = CacheLayout(config, SLACK_STEP, dtype, quantization)
    late = context if quantization is None else max(context, quantization.start + GROWTH)
    per_token = layout.linear_bytes(late + 1) - layout.linear_bytes(late)
    scores = score_bytes(config, min(GenerationOptions.prefill_step_size, context), context, dtype.size)
    return ContextBytes(per_token, layout.row_bytes(0), layout.row_bytes(context), scores)


class Fit(StrEnum):
    FITS = "fits"
    TIGHT = "tight"
    NO = "no"


def fit(needed: int, usable: int) -> Fit:
    if needed > usable:
        return Fit.NO
    return Fit.TIGHT if needed > TIGHT * usable else Fit.FITS
