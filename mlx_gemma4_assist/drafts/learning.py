"""What a pair has taught about draft lengths on this machine, found again by the next run."""

import hashlib
import logging

import mlx.core as mx
import mlx.nn as nn

from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM
from .draft_length import AutoDraftLength
from .memory import DraftKey, DraftMemory

LEAST_ROUNDS = 16  # a shorter run teaches too little to be written down

_log = logging.getLogger(__name__)


def draft_key(target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM, compiled: bool) -> DraftKey:
    """What the figures hold for. A configuration's fingerprint stands for a network: costs depend on little else."""
    device = mx.device_info()
    chip = str(device.get("device_name", device.get("architecture", "CPU")))
    return DraftKey(
        target=_fingerprint(target.config),
        assistant=_fingerprint(assistant.config),
        quantization=f"{_formats(target)}; {_formats(assistant)}",
        chip=f"{chip}, {'compiled' if compiled else 'eager'}",
    )


def start_learning(key: DraftKey, longest: int) -> AutoDraftLength:
    """A controller that begins with what earlier runs learned; a file that is no good is left aside with a warning."""
    learned, note = DraftMemory().load(key)
    if note is not None:
        _log.warning(note)
    return AutoDraftLength(longest, learned)


def keep_learned(key: DraftKey, draft_length: AutoDraftLength, rounds: int) -> None:
    """Write down what a run of so many rounds has taught."""
    if rounds < LEAST_ROUNDS:
        return
    note = DraftMemory().save(key, draft_length.learned())
    if note is not None:
        _log.warning(note)


def _fingerprint(config: object) -> str:
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def _formats(network: nn.Module) -> str:
    """The formats of a network's layers, such as ``affine 4/64, float32``."""
    found = set()
    for module in network.modules():
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            found.add(f"{module.mode} {module.bits}/{module.group_size}")
        elif isinstance(module, nn.Linear | nn.Embedding):
            found.add(str(module.weight.dtype).removeprefix("mlx.core."))
    return ", ".join(sorted(found))
