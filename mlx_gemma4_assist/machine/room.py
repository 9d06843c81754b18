"""Whether a pair and a conversation have room on this machine: counted before the weights are read."""

from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from ..backend import readable
from ..cache.layout import CacheLayout
from ..cache.quantization import KVQuantization
from ..checkpoints.loading import held
from ..engine import admission
from ..engine.engine import SLACK_STEP
from ..files import read_json
from ..models.config import read_assistant_config, read_target_config
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from .doctor import Machine
from .memory import Fit, context_bytes, fit


class Needs(NamedTuple):
    """What a pair takes.

    Attributes:
        weights: bytes.
        least: bytes that the shortest conversation takes besides, while it is computed.
        longest: tokens of the model's context.
        keys_values: bytes, by the tokens of a conversation.
    """

    weights: int
    least: int
    longest: int
    keys_values: Callable[[int], int]

    def room(self, memory: int, most: int) -> int:
        """The longest conversation, up to ``most`` tokens, for which so many bytes are enough."""
        return bisect_right(range(1, most + 1), memory - self.weights, key=self.keys_values)


def needs_of(
    target: Path,
    assistant: Path | None = None,
    dtype: str | mx.Dtype | None = None,
    quantization: KVQuantization | None = None,
) -> Needs:
    """What a pair takes. Arguments and errors as for :func:`memory_warning`."""
    config = read_target_config(read_json(target / "config.json"))
    network = held(Gemma4ForCausalLM(config), target, dtype)
    weights = network.nbytes + (0 if assistant is None else _assistant_bytes(assistant, dtype))

    def keys_values(tokens: int) -> int:
        return context_bytes(config, tokens, quantization, network.dtype).keys_values

    shortest = admission.Needs(
        CacheLayout(config, SLACK_STEP, network.dtype, quantization), prompt=1, budget=1, chunk=1
    )
    return Needs(weights, admission.joined_bytes([shortest]), config.max_position_embeddings, keys_values)


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
    needs = needs_of(target, assistant, dtype, quantization)
    asked = needs.longest if tokens is None else min(tokens, needs.longest)
    cache = needs.keys_values(asked)
    if fit(needs.weights + cache, machine.usable) is not Fit.NO:
        return None
    have = f"the {readable(machine.usable)} that MLX may use on this machine"
    if needs.weights > machine.usable:
        return f"the weights take {readable(needs.weights)}, more than {have}"
    return (
        f"weights of {readable(needs.weights)} and {readable(cache)} of keys and values for {asked:,} tokens are more "
        f"than {have}: it has room for about {needs.room(machine.usable, asked - 1):,} tokens"
    )


def _assistant_bytes(folder: Path, dtype: str | mx.Dtype | None) -> int:
    config = read_assistant_config(read_json(folder / "config.json"))
    return held(Gemma4AssistantForCausalLM(config), folder, dtype).nbytes
