"""The rows of a cache: what each remembers, and how far it can be taken back.

The only owner of buffers, token ids, lengths and of how far each row was ever written. Its methods keep three promises
at any moment, an interrupt between any two of their steps included:

* the keys and values of a row's tokens are valid, as far as ``can_rewind`` says so;
* ``written`` is never less than what the device may have written, since it is raised before buffers are replaced;
* a token is counted only after the round that computed its keys was read.
"""

from collections.abc import Sequence

import mlx.core as mx

from ..models.config import FULL, SLIDING
from .layout import GROWTH, Bound, CacheLayout, grown_size
from .shelves import Places
from .store import Buffers, empty, joined, lengthened, size_of, taken, with_wider_rings


class KVCache:
    """The keys and values of a conversation, or of several as the rows of a batch, kept between calls.

    Evaluated when made, so that it can be used in another thread.

    Args:
        layout: fixed for the cache's life, but for the slack of its rings.
        rows: how many sequences it holds.
        fingerprint: of the target whose keys and values these are; None where nobody asks.

    Attributes:
        layout, fingerprint: as given.
    """

    def __init__(self, layout: CacheLayout, rows: int = 1, fingerprint: str | None = None):
        self.layout = layout
        self.fingerprint = fingerprint
        self._holder: object | None = None
        self._tokens: list[list[int]] = [[] for _ in range(rows)]
        self._written = [0] * rows
        self._buffers: Buffers = ()
        self._allocate()

    def _allocate(self) -> None:
        buffers = empty(self.layout, len(self._tokens), GROWTH)
        mx.eval(buffers)  # no host read: lazy zeros could be used in this thread only
        self._buffers = buffers

    @property
    def tokens(self) -> Sequence[Sequence[int]]:
        """For each row, the ids whose keys and values are valid; negative keys in the place of soft tokens.

        The last token that was emitted is not among them: its keys are computed by the forward that follows it.
        """
        return self._tokens

    @property
    def lengths(self) -> list[int]:
        """For each row, its committed length: how many entries are valid."""
        return [len(row) for row in self._tokens]

    @property
    def written(self) -> list[int]:
        """For each row, an upper bound of the positions ever written, which decides how far it can be rewound."""
        return list(self._written)

    @property
    def buffers(self) -> Buffers:
        """The arrays of each owning layer, ``CacheLayout.parts``, possibly not yet evaluated."""
        return self._buffers

    @property
    def size(self) -> int:
        """For how many positions linear buffers have room; 0 without any."""
        return size_of(self.layout, self._buffers)

    def capacity(self, row: int) -> int:
        """For how many positions a row has room in linear buffers."""
        return self.size

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(array.nbytes for layer in self._buffers for array in layer)

    @property
    def places(self) -> Places | None:
        """On which shelves rows lie in full layers; None where one buffer has them all, in order."""
        return None

    def reserve(self, positions: int) -> None:
        """Make room for so many entries per row."""
        if not self._buffers:
            self._allocate()
        if positions > self.size and FULL in self.layout.kinds:
            self._buffers = lengthened(self.layout, self._buffers, grown_size(positions))

    def reserve_each(self, needs: Sequence[int]) -> None:
        """Make room for so many entries in each row; 0 where nobody has the row."""
        self.reserve(max(needs))

    def bound(self, lengths: Sequence[int]) -> Bound:
        """What a round is told of upper bounds of the rows' lengths, after :meth:`reserve_each`."""
        return max(lengths)

    def claim(self) -> object:
        """Take the cache over from whoever held it; what is returned stands for the new holder."""
        self._holder = object()
        return self._holder

    def is_held_by(self, holder: object) -> bool:
        """Whether nobody has claimed the cache since."""
        return self._holder is holder

    def store(self, buffers: Buffers, ends: Sequence[int]) -> None:
        """Take the buffers that a forward returned, evaluated or not.

        Args:
            buffers: made from this cache's own.
            ends: for each row, an upper bound of the positions that the forward may have written.
        """
        self._written = [max(pair) for pair in zip(self._written, ends, strict=True)]
        self._buffers = buffers

    def append(self, row: int, tokens: Sequence[int]) -> None:
        """The keys and values of these ids, which follow a row's others, are known to be valid."""
        self._tokens[row] += tokens

    def can_rewind(self, row: int, length: int) -> bool:
        """Whether a row can go on from its first ``length`` entries: the window before is still whole in every ring."""
        if length > len(self._tokens[row]):
            return False
        if SLIDING not in self.layout.kinds:
            return True
        return max(0, length - self.layout.window) >= self._written[row] - self.layout.ring

    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` entries of a row; the others become invisible.

        Raises:
            ValueError: where :meth:`can_rewind` says no.
        """
        if not self.can_rewind(row, length):
            raise ValueError(f"row {row} holds {len(self._tokens[row])} entries and cannot go back to {length}")
        del self._tokens[row][length:]

    def reuse(self, row: int, tokens: Sequence[int]) -> int:
        """Rewind a row to what it has in common with the beginning of a text; return how much that is.

        At least the last of ``tokens`` is never in common: it is left for the first round. Where the row cannot go
        back so far, it forgets everything.
        """
        same = 0
        for held, asked in zip(self._tokens[row], tokens[:-1], strict=False):
            if held != asked:
                break
            same += 1
        if not self.can_rewind(row, same):
            self.forget(row)
            return 0
        self.rewind(row, same)
        return same

    def forget(self, row: int) -> None:
        """Let a row begin anew; its buffers stay."""
        self._tokens[row] = []
        self._written[row] = 0

    def reset(self) -> None:
        """Let all rows begin anew, with buffers that owe nothing to what was computed before.

        Where there is no memory for these, the error is MLX's, and the cache is empty all the same.
        """
        self.empty()
        self._allocate()

    def empty(self) -> None:
        """Let all rows begin anew, and keep no buffers; new ones are made when something is stored."""
        self._tokens = [[] for _ in self._tokens]
        self._written = [0] * len(self._tokens)
        self._buffers = ()

    def adopt(self, other: "KVCache") -> None:
        """Become what another cache of this layout is, perhaps with more slack; the two share no later writes."""
        self.layout = other.layout
        self._tokens = [[] for _ in other.tokens]
        self._written = other.written
        self._buffers = other.buffers
        self._tokens = [list(row) for row in other.tokens]

    def widen(self, layout: CacheLayout) -> None:
        """Give the rings the slack of a layout that has more; what the device may still write is lost."""
        before, lengths = self.layout.ring, self.lengths
        buffers = with_wider_rings(self.layout, self._buffers, lengths, layout.ring)
        self._written = [end + layout.ring - before if end > before else end for end in self._written]
        self.layout, self._buffers = layout, buffers

    def take(self, row: int) -> "KVCache":
        """A row as a cache of its own; the two share no later writes."""
        taken_buffers = taken(self._buffers, row)
        return KVCache.of(self.layout, self.fingerprint, taken_buffers, [self._tokens[row]], [self._written[row]])

    @classmethod
    def of(
        cls,
        layout: CacheLayout,
        fingerprint: str | None,
        buffers: Buffers,
        tokens: Sequence[Sequence[int]],
        written: Sequence[int],
    ) -> "KVCache":
        """A cache of buffers that are there already, and what its attributes are to be for each row."""
        made = cls.__new__(cls)
        made.layout, made.fingerprint, made._holder = layout, fingerprint, None
        made._buffers, made._tokens, made._written = buffers, [list(row) for row in tokens], list(written)
        return made


def join(caches: Sequence[KVCache]) -> KVCache:
    """The rows of several caches of one layout as those of a new one, each with its own length."""
    first = caches[0]
    size = max(cache.size for cache in caches)
    parts = [cache.buffers if cache.size == size else lengthened(cache.layout, cache.buffers, size) for cache in caches]
    tokens = [row for cache in caches for row in cache.tokens]
    written = [end for cache in caches for end in cache.written]
    return KVCache.of(first.layout, first.fingerprint, joined(parts), tokens, written)
