"""What a pair has taught about draft lengths on this machine, found again by the next run."""

import hashlib
import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn

from ..backend import dtype_name
from ..drafts.batch import AutoBatchDraftLength
from ..drafts.learned import AUTO_LONGEST, AutoDraftLength, Learned
from ..drafts.memory import DraftKey
from ..drafts.protocol import BatchDraftLength
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


class ProcessMemory:
    """Keeps what was learned for as long as it lives itself; nothing is written anywhere."""

    def __init__(self) -> None:
        self._learned: dict[DraftKey, Learned] = {}

    def load(self, key: DraftKey) -> tuple[Learned | None, str | None]:
        return self._learned.get(key), None

    def save(self, key: DraftKey, learned: Learned) -> str | None:
        self._learned[key] = learned
        return None


class Learning:
    """The learned draft length of one run.

    Args:
        target: of the pair that is learned about.
        key: of its figures.
        memory: what earlier runs learned; None is the target's own, which lives as long as it.

    Attributes:
        draft_length: chooses, and learns. It begins with what is known; a file that is no good is left aside with a
            warning.
    """

    def __init__(
        self,
        target: Gemma4ForCausalLM,
        key: DraftKey,
        memory: Memory | None = None,
    ):
        self._memory: Memory = target.kept.get("draft lengths", ProcessMemory) if memory is None else memory
        self._key = key
        learned, note = self._memory.load(self._key)
        if note is not None:
            _log.warning(note)
        self.draft_length = AutoDraftLength(AUTO_LONGEST, learned)

    def keep(self, rounds: int) -> None:
        """Remember what a run of so many rounds has taught."""
        if rounds < LEAST_ROUNDS:
            return
        note = self._memory.save(self._key, self.draft_length.learned())
        if note is not None:
            _log.warning(note)


class BatchLengths:
    """What chooses how many drafts a round has that several rows share. It is the target's, for all engines with this
    assistant one after the other; where several run at once, in threads of their own, each has one.

    Args:
        target, assistant: the pair that is learned about; None drafts nothing but what a grammar forces.
        known: what is known of rounds with one row, to begin with.
    """

    def __init__(
        self,
        target: Gemma4ForCausalLM,
        assistant: Gemma4AssistantForCausalLM | None,
        known: Callable[[], Learned | None],
    ):
        self._known = known
        new: Callable[[], list[BatchDraftLength]] = list
        self._free = target.kept.get(("drafts of batches", id(assistant)), new)

    def borrow(self) -> BatchDraftLength:
        """For as long as rows run."""
        try:
            return self._free.pop()
        except IndexError:
            return AutoBatchDraftLength(AUTO_LONGEST, self._known())

    def give_back(self, lent: BatchDraftLength) -> None:
        """No row runs."""
        self._free.append(lent)


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
