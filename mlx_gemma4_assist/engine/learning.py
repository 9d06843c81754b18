"""What a pair has taught about draft lengths on this machine, found again by the next run."""

import hashlib
import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from ..backend import dtype_name
from ..drafts.batch import AutoBatchDraftLength
from ..drafts.learned import AUTO_LONGEST, Learned
from ..drafts.memory import DraftKey
from ..models.gemma4_assistant import Gemma4AssistantForCausalLM
from ..models.gemma4_text import Gemma4ForCausalLM

LEAST_ROUNDS = 16  # a shorter run teaches too little to be kept

_log = logging.getLogger(__name__)


@runtime_checkable
class Memory(Protocol):
    """Where what was learned is kept: ``drafts.memory.DraftMemory`` on disk."""

    def load(self, key: DraftKey) -> tuple[Learned | None, str | None]:
        """What is known, None if nothing is; and a note for the user, if there is something to say."""

    def save(self, key: DraftKey, learned: Learned) -> str | None:
        """Keep it; a note for the user if that cannot be done."""


class DraftLengths:
    """Lends what chooses how many drafts the rounds of an engine have, and remembers what they taught.

    One instance of ``AutoBatchDraftLength`` serves request after request, alone and beside others: what rounds cost,
    and what probes have brought, holds for all of them. They are the target's, so that later engines go on with them,
    or the engine's own where a memory was handed in. Where several engines of a target run at once, each has one.

    Args:
        target: of the pair that is learned about.
        key: of its figures, for compiled rounds or others.
        memory: what earlier processes learned. A file that is no good is left aside with a warning.
    """

    def __init__(self, target: Gemma4ForCausalLM, key: Callable[[bool], DraftKey], memory: Memory | None = None):
        self._key, self._memory = key, memory
        new: Callable[[], dict[DraftKey, list[AutoBatchDraftLength]]] = dict
        self._free = target.kept.get("draft lengths", new) if memory is None else new()
        self._lent: tuple[DraftKey, AutoBatchDraftLength, int] | None = None

    def borrow(self, compiled: bool) -> AutoBatchDraftLength:
        """For as long as rows run, whose rounds are compiled or not."""
        key = self._key(compiled)
        free = self._free.setdefault(key, [])
        lent = free.pop() if free else AutoBatchDraftLength(AUTO_LONGEST, self._load(key))
        self._lent = key, lent, lent.rounds
        return lent

    def give_back(self) -> None:
        """No row runs."""
        assert self._lent is not None
        (key, lent, before), self._lent = self._lent, None
        self._free[key].append(lent)
        if self._memory is not None and lent.rounds - before >= LEAST_ROUNDS:
            _warn(self._memory.save(key, lent.learned()))

    def _load(self, key: DraftKey) -> Learned | None:
        learned, note = (None, None) if self._memory is None else self._memory.load(key)
        _warn(note)
        return learned


def _warn(note: str | None) -> None:
    if note is not None:
        _log.warning(note)


def draft_key(target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM, compiled: bool) -> DraftKey:
    """What the figures hold for. A configuration's fingerprint stands for a network, and an adapter's stands
    behind it: costs depend on little else."""
    device = mx.device_info()
    chip = str(device.get("device_name", device.get("architecture", "CPU")))
    return DraftKey(
        target=f"{_fingerprint(target.config)}{target.adapter}",
        assistant=_fingerprint(assistant.config),
        quantization=f"{_formats(target)}; {_formats(assistant)}",
        chip=f"{chip}, {'compiled' if compiled else 'eager'}",
    )


def _fingerprint(config: object) -> str:
    return hashlib.sha256(repr(config).encode()).hexdigest()[:16]


def _formats(network: nn.Module) -> str:
    """The formats of a network's layers, such as ``affine 4/64, float32``."""
    found = set()
    for module in network.modules():
        if isinstance(module, nn.QuantizedLinear | nn.QuantizedEmbedding):
            found.add(f"{module.mode} {module.bits}/{module.group_size}")
        elif isinstance(module, nn.Linear | nn.Embedding):
            found.add(dtype_name(module.weight.dtype))
    return ", ".join(sorted(found))
