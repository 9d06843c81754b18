"""What a prefix cache keeps, and what it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from ..cache.chain import link
from ..cache.points import Part, part_bytes


class State(NamedTuple):
    """What a point holds besides chunks.

    Attributes:
        tail: of full layers, from the last whole chunk to the point; of no layers where there is none.
        window: of sliding layers.
        hidden: (1, 1, H), the target's hidden state at the position before the point; None where nobody has kept it.
    """

    tail: Part
    window: Part
    hidden: mx.array | None

    @property
    def nbytes(self) -> int:
        return part_bytes(self.tail) + part_bytes(self.window) + (0 if self.hidden is None else self.hidden.nbytes)

    @property
    def arrays(self) -> list[mx.array]:
        found = [array for part in (self.tail, self.window) for layer in part for array in layer]
        return found if self.hidden is None else [*found, self.hidden]


@dataclass(eq=False)
class Point:
    """A position where a text can be gone on with.

    Attributes:
        parent: the name of the last whole chunk before it.
        tail: the tokens between that and the position.
        position: how many tokens precede.
        chain: the names of all chunks before it, the root first; known while it is in memory.
        state: what it holds; None while it is on disk only.
        saved: whether it is on disk.
        priority: the lower, the sooner it is given up.
    """

    parent: str
    tail: tuple[int, ...]
    position: int
    chain: Sequence[str] = ()
    state: State | None = None
    saved: bool = False
    priority: float = 0.0

    @property
    def name(self) -> str:
        return link(self.parent, self.tail)


@dataclass(eq=False)
class Chunk:
    """What full layers hold for 256 tokens, and how many points in memory need it."""

    tokens: tuple[int, ...]
    part: Part
    nbytes: int
    users: int = 0


@dataclass
class PrefixStats:
    """What a prefix cache has been good for.

    Attributes:
        prompts: how many were read.
        hits: how many of them began at a restore point.
        prompt_tokens: of all of them.
        cached_tokens: of these, how many were restored.
        taken: points.
        given_up: points that were in memory.
        from_disk: points that were read from the folder.
    """

    prompts: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    taken: int = 0
    given_up: int = 0
    from_disk: int = 0


class Found(NamedTuple):
    """Where a cache goes on after a restore, and the hidden state at the position before, if it is known."""

    position: int
    hidden: mx.array | None
