"""Whether a pair and a conversation have room on this machine: a warning before the weights are read."""

from bisect import bisect_right
from pathlib import Path

import mlx.core as mx

from ..backend import readable
from ..cache.quantization import KVQuantization
from ..checkpoints.loading import held
from ..files import read_json
from ..models.config import read_assistant_config, read_target_config
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from .doctor import Machine
from .memory import Fit, context_bytes, fit


def memory_warning(
    machine: Machine,
    target: Path,
    assistant: Path | None = None,
    dtype: str | mx.Dtype | None = None,
    tokens: int | None = None,
    quantization: KVQuantization | None = None,
) -> str | None:
    """What is too large, in one sentence with the figures; None if weights, keys and values fit.

    Towers, the attention of a long prompt and what others use of the memory come on top.

    Args:
        machine: where they are to fit.
        target, assistant: folders; no assistant counts for nothing.
        dtype: as for ``load_model``, of both.
        tokens: of the conversation; None is all that the model has.
        quantization: of keys and values; None where they are dense.

    Raises:
        InputError: files that are missing or damaged.
    """
    config = read_target_config(read_json(target / "config.json"))
    network = held(Gemma4ForCausalLM(config), target, dtype)
    weights = network.nbytes + (0 if assistant is None else _assistant_bytes(assistant, dtype))
    asked = config.max_position_embeddings if tokens is None else min(tokens, config.max_position_embeddings)

    def cache_bytes(length: int) -> int:
        return context_bytes(config, length, quantization, network.dtype).keys_values

    cache = cache_bytes(asked)
    if fit(weights + cache, machine.usable) is not Fit.NO:
        return None
    have = f"the {readable(machine.usable)} that MLX may use on this machine"
    if weights > machine.usable:
        return f"the weights take {readable(weights)}, more than {have}"
    room = bisect_right(range(1, asked), machine.usable - weights, key=cache_bytes)
    return (
        f"weights of {readable(weights)} and {readable(cache)} of keys and values for {asked:,} tokens are more than "
        f"{have}: it has room for about {room:,} tokens"
    )


def _assistant_bytes(folder: Path, dtype: str | mx.Dtype | None) -> int:
    config = read_assistant_config(read_json(folder / "config.json"))
    return held(Gemma4AssistantForCausalLM(config), folder, dtype).nbytes
