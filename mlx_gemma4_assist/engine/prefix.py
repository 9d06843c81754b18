"""The prefix cache of an engine: what texts begin with is read once, whoever asks for it next.

A ring cannot go back further than its slack, so a text can only be gone on with at *restore points*: positions where
the windows of the rings were copied. What full layers hold lies in chunks of 256 positions, each under the name of all
that precedes it, so that it is shared by all points and texts behind it. Both are kept under a budget of bytes; which
points go first is decided as by GreedyDual-Size (Cao and Irani 1997): by the tokens that would be read again over the
bytes that are won, among what was not used for as long.

``reading.py`` says where points are taken. With a folder, points outlive the process: see ``prefix_folder.py``.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx

from ..cache.chain import CHUNK, chain, root
from ..cache.points import Part, form, full_bytes, full_part, part_bytes, restored, window_bytes, window_part
from ..cache.rows import KVCache
from .prefix_folder import PrefixFolder
from .prefix_records import Chunk, Found, Point, PrefixStats, State

LEAST = 32  # tokens
MANY = 1000  # points, of which some may have lost their files


class PrefixCache:
    """Restore points of all texts that an engine reads, and the chunks before them.

    Args:
        budget: bytes of keys and values that it keeps at most; 0 keeps nothing.
        folder: where points are kept for later processes; None writes nothing.

    Attributes:
        budget: as given.
        least: tokens: what is not worth a point, or being restored.
        nbytes: of what it keeps now.
        stats: since it was made.
    """

    def __init__(self, budget: int, folder: PrefixFolder | None = None):
        self.budget, self.least = budget, LEAST
        self.nbytes = 0
        self.stats = PrefixStats()
        self._folder = folder
        self._points: dict[str, list[Point]] = {}  # by the name of the last whole chunk before them
        self._chunks: dict[str, Chunk] = {}
        self._resident: set[Point] = set()
        self._unsaved: list[Point] = []
        self._many = MANY
        self._clock = 0.0  # the priority of the point that was given up last
        self._awaited: dict[object, Sequence[int]] = {}
        for known in folder.scan() if folder is not None else ():
            self._add(Point(known.parent, known.tokens, known.position, saved=True))

    # Texts that wait to be read

    def expect(self, who: object, tokens: Sequence[int]) -> None:
        """A text is going to be read; others that begin alike leave a point where it parts from them."""
        if self.budget:
            self._awaited[who] = tokens

    def expect_no_longer(self, who: object) -> None:
        self._awaited.pop(who, None)

    @property
    def awaited(self) -> Iterable[Sequence[int]]:
        return self._awaited.values()

    def count(self, tokens: int, cached: int) -> None:
        """A prompt is going to be read, of which so many tokens were restored."""
        self.stats.prompts += 1
        self.stats.hits += cached > 0
        self.stats.prompt_tokens += tokens
        self.stats.cached_tokens += cached

    # Restoring

    def restore(self, cache: KVCache, tokens: Sequence[int], held: int) -> Found | None:
        """Let a cache of one row go on from the last known point in a text, if that spares enough.

        Args:
            cache: of any content, which is lost if something is restored.
            tokens: the text; at least its last is left to be read.
            held: how many of these the cache has by itself.
        """
        with self._whole():
            return self._restore(cache, tokens, held)

    def known(self, cache: KVCache, tokens: Sequence[int]) -> int:
        """How far the chunks in memory reach into a text, whether or not there is a point."""
        names = self._names(cache, tokens)
        return CHUNK * next((i for i, name in enumerate(names[1:]) if name not in self._chunks), len(names) - 1)

    def _restore(self, cache: KVCache, tokens: Sequence[int], held: int) -> Found | None:
        names = self._names(cache, tokens)
        while (point := self._last(names, tokens, len(tokens) - 1)) and point.position >= held + self.least:
            pieces = self._pieces(point, names)
            if pieces is not None:
                return self._put(cache, point, tokens, *pieces)
            self._remove(point)
        return None

    def _put(self, cache: KVCache, point: Point, tokens: Sequence[int], parts: Sequence[Part], state: State) -> Found:
        beginning = tokens[: point.position]
        cache.adopt(restored(cache.layout, cache.fingerprint, beginning, parts, state.window))
        mx.async_eval(cache.buffers)
        if point.state is None:
            self.stats.from_disk += 1
            self._take(cache, point.position, state.hidden)
        else:
            self._rank(point, tokens)
        return Found(point.position, state.hidden)

    def _pieces(self, point: Point, names: Sequence[str]) -> tuple[list[Part], State] | None:
        """What full layers hold before a point, and the point itself; None if some of it is no longer there."""
        state = point.state
        if state is None and self._folder is not None:
            loaded = self._folder.load_point(point.name)
            state = None if loaded is None else State(*loaded)
        if state is None:
            return None
        parts = []
        for name in names[1 : names.index(point.parent) + 1]:
            part = self._part(name)
            if part is None:
                return None
            parts.append(part)
        return ([*parts, state.tail] if state.tail else parts), state

    def _part(self, name: str) -> Part | None:
        """What a chunk holds, if it is there."""
        if name in self._chunks:
            return self._chunks[name].part
        return None if self._folder is None else self._folder.load_chunk(name)

    # Taking

    def take(self, cache: KVCache, position: int, hidden: mx.array | None = None) -> bool:
        """Keep a point in the text of a cache of one row, which could be gone back to it: whether it is kept.

        It is not where there is one shortly before, or where it is larger than the budget.

        Args:
            cache: holds the text; nothing of it is changed.
            position: how many of its tokens precede the point.
            hidden: (1, 1, H), the target's hidden state at the position before.
        """
        if position < self.least or not self.budget:
            return False
        with self._whole():
            return self._take(cache, position, hidden)

    def _take(self, cache: KVCache, position: int, hidden: mx.array | None) -> bool:
        tokens = cache.tokens[0][:position]
        names = self._names(cache, tokens)
        near = self._last(names, tokens, position)
        if near is not None and near.state is not None and near.position > position - self.least:
            self._rank(near, tokens)
            return False
        if not self._make_room(cache, names, position, hidden):
            return False
        begin = CHUNK * (len(names) - 1)
        tail = full_part(cache, begin, position) if begin < position else ()
        state = State(tail, window_part(cache, position), hidden)
        self._keep(names, tuple(tokens[begin:]), position, state, cache)
        self.stats.taken += 1
        return True

    def _keep(self, names: list[str], tail: tuple[int, ...], position: int, state: State, cache: KVCache) -> None:
        new = self._new_chunks(names, cache)
        mx.async_eval(state.arrays, [chunk.part for chunk in new.values()])
        self._chunks |= new
        for name in names[1:]:
            self._chunks[name].users += 1
        point = next((one for one in self._points.get(names[-1], ()) if one.tail == tail), None)
        if point is None:
            point = Point(names[-1], tail, position)
            self._add(point)
        point.chain, point.state = names, state
        self._resident.add(point)
        self.nbytes += state.nbytes + sum(chunk.nbytes for chunk in new.values())
        self._rank(point, cache.tokens[0][:position])
        if self._folder is not None and not point.saved:
            self._unsaved.append(point)

    def _new_chunks(self, names: Sequence[str], cache: KVCache) -> dict[str, Chunk]:
        """Those of a text that are not there yet."""
        found = {}
        for i, name in enumerate(names[1:]):
            if name not in self._chunks:
                begin, end = CHUNK * i, CHUNK * (i + 1)
                part = full_part(cache, begin, end)
                found[name] = Chunk(tuple(cache.tokens[0][begin:end]), part, part_bytes(part))
        return found

    # Room

    def release(self, nbytes: int) -> int:
        """Give up points, the least worth first, until so many bytes are free; how many are, which may be fewer."""
        with self._whole():
            return self._release(nbytes)

    def _release(self, nbytes: int) -> int:
        before = self.nbytes
        while self._resident and before - self.nbytes < nbytes:
            self._give_up(min(self._resident, key=lambda point: point.priority))
        return before - self.nbytes

    def clear(self) -> None:
        """Give up all points in memory; those on disk stay known."""
        known = [point for points in self._points.values() for point in points if point.saved]
        self.nbytes, self._points, self._chunks = 0, {}, {}
        self._resident, self._unsaved = set(), []
        for point in known:
            point.state, point.chain = None, ()
            self._add(point)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """What is begun is finished, or nothing is left of what was there."""
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self.clear()

    def _make_room(self, cache: KVCache, names: Sequence[str], position: int, hidden: mx.array | None) -> bool:
        """Give up points until a new one fits; False if it never does."""
        while (needed := self._needed(cache, names, position, hidden)) + self.nbytes > self.budget:
            if needed > self.budget or not self._release(1):
                return False
        return True

    def _needed(self, cache: KVCache, names: Sequence[str], position: int, hidden: mx.array | None) -> int:
        layout, missing = cache.layout, [place for place, name in enumerate(names[1:]) if name not in self._chunks]
        chunks = sum(full_bytes(layout, CHUNK * place, CHUNK * (place + 1)) for place in missing)
        tail = full_bytes(layout, CHUNK * (len(names) - 1), position)
        window = window_bytes(layout, min(position, layout.window))
        return chunks + tail + window + (0 if hidden is None else hidden.nbytes)

    def _rank(self, point: Point, tokens: Sequence[int]) -> None:
        """A point was used: what it spares over what it takes, from now on."""
        assert point.state is not None
        before = self._last(point.chain, tokens, point.position - 1)
        spared = point.position - (0 if before is None else before.position)
        own = sum(chunk.nbytes for name in point.chain[1:] if (chunk := self._chunks[name]).users == 1)
        point.priority = self._clock + spared / (point.state.nbytes + own + 1)

    def _give_up(self, point: Point) -> None:
        """Let a point go from memory, and the chunks that only it needs. What is to be on disk is written before."""
        assert point.state is not None
        self._save(point)
        self._clock = max(self._clock, point.priority)
        self._resident.discard(point)
        self.nbytes -= point.state.nbytes
        for name in point.chain[1:]:
            chunk = self._chunks[name]
            chunk.users -= 1
            if not chunk.users:
                self.nbytes -= chunk.nbytes
                del self._chunks[name]
        point.state, point.chain = None, ()
        self.stats.given_up += 1
        if not point.saved:
            self._remove(point)

    # Disk

    def save(self) -> bool:
        """Write one point that is not on disk yet; False if there is none."""
        if not self._unsaved:
            return False
        with self._whole():
            self._save(self._unsaved[0])
        return True

    def _save(self, point: Point) -> None:
        if point not in self._unsaved or self._folder is None or point.state is None:
            return
        self._unsaved.remove(point)
        chunks = [self._chunks[name] for name in point.chain[1:]]
        tokens = [token for chunk in chunks for token in chunk.tokens] + list(point.tail)
        point.saved = self._folder.save(point.chain, [chunk.part for chunk in chunks], tokens, point.state)
        self._forget_removed(self._folder)

    def _forget_removed(self, folder: PrefixFolder) -> None:
        """Now and then, the points whose files had to make room for others."""
        known = [point for points in self._points.values() for point in points]
        if len(known) < self._many:
            return
        for point in known:
            if point.state is None and not folder.has_point(point.name):
                self._remove(point)
        self._many = max(MANY, 2 * sum(map(len, self._points.values())))

    # Names

    def _names(self, cache: KVCache, tokens: Sequence[int]) -> list[str]:
        return chain(root(cache.fingerprint or "", form(cache.layout)), tokens)

    def _last(self, names: Sequence[str], tokens: Sequence[int], end: int) -> Point | None:
        """The last point in a text that is at ``end`` or before."""
        for whole in range(len(names) - 1, -1, -1):
            begin = CHUNK * whole
            fitting = [
                point
                for point in self._points.get(names[whole], ())
                if point.position <= end and point.tail == tuple(tokens[begin : point.position])
            ]
            if fitting:
                return max(fitting, key=lambda point: point.position)
        return None

    def _add(self, point: Point) -> None:
        self._points.setdefault(point.parent, []).append(point)

    def _remove(self, point: Point) -> None:
        others = self._points[point.parent]
        others.remove(point)
        if not others:
            del self._points[point.parent]
