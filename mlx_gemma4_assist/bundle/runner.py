"""A text by a bundle's programs, as any runner makes it: prompt pieces, rounds, buffers that grow."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple, cast

import mlx.core as mx

from ..cache.layout import round_up
from ..models.config import FULL
from ..rounds.sampling import row_keys
from .interpreter import run
from .loading import Bundle, fitting
from .operations import TYPES
from .program import Program


class Made(NamedTuple):
    """A round: the tokens that it emits, how many of them were drafts, and the logits (1, K + 1, V)."""

    tokens: list[int]
    accepted: int
    logits: mx.array


class Runner:
    """One text.

    Args:
        bundle: its programs.
        weights: its weights, perhaps as somebody else holds them.
        seed: of sampled rounds.
    """

    def __init__(self, bundle: Bundle, weights: Sequence[mx.array], seed: int = 0):
        self._bundle, self._fixed = bundle, [*weights, *bundle.constants]
        layout, hidden = bundle.manifest["layout"], bundle.manifest["hidden"]
        self._layout = layout
        self._linear = [each["kind"] == FULL for each in layout["layers"]]
        self._state = {
            "length": mx.zeros((1,), mx.int32),
            "token": mx.zeros((1, 1), mx.int32),
            "hidden": mx.zeros((1, 1, hidden["size"]), TYPES[hidden["dtype"]]),
            "noise": row_keys(seed, 1),
        }
        self._buffers: dict[str, mx.array] = {}
        self.length = 0
        self._reserve(layout["least_end"])

    def read(self, tokens: Sequence[int], pieces: Sequence[int]) -> None:
        """A prompt, all but its last token, in pieces of these lengths, again and again, as far as programs read so
        many tokens at once; the last token is the first round's."""
        rest = list(tokens[:-1])
        for length in cycle(pieces):
            if not rest:
                break
            length = min(length, self._bundle.reads[-1].most)
            self._read(rest[:length])
            del rest[:length]
        self._state["token"] = mx.array([[tokens[-1]]], mx.int32)

    def _read(self, ids: Sequence[int]) -> None:
        reading = fitting(self._bundle.reads, len(ids))
        end = self.length + len(ids)
        self._reserve(end)
        given = {"length": self._state["length"], "ids": mx.array([list(ids)], mx.int32), **self._buffers}
        sizes = {"begin": self.length, "count": len(ids)}
        self._buffers = run(
            reading.program, self._fixed, given, {name: sizes[name] for name in reading.program.variables}
        )
        mx.eval(self._buffers)
        self.length = end
        self._state["length"] = mx.array([end], mx.int32)

    def round(self, way: str, drafts: int, settings: Mapping[str, mx.array] | None = None) -> Made:
        """A round, waited for.

        Args:
            way: how tokens are drawn.
            drafts: how many.
            settings: of sampled rounds.
        """
        program: Program = self._bundle.rounds[way][drafts]
        step = self._layout["end_step"]
        end = max(round_up(self.length + drafts + 1, step), self._layout["least_end"])
        self._reserve(end)
        given = {**self._state, **self._buffers, **(settings or {})}
        made = run(program, self._fixed, given, {"end": end})
        mx.eval(made)
        for name in ("length", "token", "hidden"):
            self._state[name] = made[name]
        self._buffers = {name: made[name] for name in self._buffers}
        accepted = cast(list[int], made["accepted"].tolist())[0]
        self.length += accepted + 1
        tokens = cast(list[list[int]], made["tokens"].tolist())[0]
        return Made(tokens[: accepted + 1], accepted, made["logits"])

    def _reserve(self, slots: int) -> None:
        """Make room for so many positions in linear buffers."""
        size = round_up(slots, self._layout["growth"])
        for layer, each in enumerate(self._layout["layers"]):
            wanted = size if self._linear[layer] else self._layout["ring"]
            for name in (f"keys.{layer}", f"values.{layer}"):
                now = self._buffers.get(name)
                there = 0 if now is None else now.shape[2]
                if there < wanted:
                    shape = (1, each["heads"], wanted - there, each["width"])
                    more = mx.zeros(shape, TYPES[self._layout["dtype"]])
                    self._buffers[name] = more if now is None else mx.concatenate([now, more], axis=2)

    def __copy__(self) -> "Runner":
        """The same text so far, which goes on by itself."""
        other = Runner.__new__(Runner)
        vars(other).update(vars(self) | {"_state": dict(self._state), "_buffers": dict(self._buffers)})
        return other
