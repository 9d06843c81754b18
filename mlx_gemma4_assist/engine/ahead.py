"""Reading ahead: what a later prompt is going to begin with is read while nobody asks for anything.

After an answer with thoughts, the next prompt of the conversation departs from the text where the answer begins: the
thoughts are left out, and what follows has other keys. It can be read before somebody has written that prompt.
"""

from collections import deque
from collections.abc import Callable, Iterator

from ..cache.quantization import KVQuantization
from ..cache.rows import KVCache
from ..cache.soft_tokens import MediaPrompt
from ..rounds.state import Target
from .prefill import chunks
from .prefix import PrefixCache
from .reading import Reading, Text

STEP = 512  # tokens, after which a request that has come is seen


class ReadAhead:
    """What is to be read when there is time.

    Args:
        target: the network.
        store: of restore points; what is read leaves one at its end.
        new_cache: makes a cache of one row, dense or quantized.
    """

    def __init__(self, target: Target, store: PrefixCache, new_cache: Callable[[KVQuantization | None], KVCache]):
        self._target, self._store, self._new_cache = target, store, new_cache
        self._prompts: deque[tuple[MediaPrompt, KVQuantization | None]] = deque()
        self._reading: tuple[Reading, Iterator[None]] | None = None

    def add(self, prompt: MediaPrompt, quantization: KVQuantization | None) -> None:
        """A later prompt begins with this one, of which the last token is not read; its keys are quantized so."""
        if self._store.budget:
            self._prompts.append((prompt, quantization))

    def step(self) -> bool:
        """Read one chunk; False if there is nothing to read."""
        if self._reading is None:
            if not self._prompts:
                return False
            self._reading = self._begin(*self._prompts.popleft())
        reading, read = self._reading
        done = True
        try:
            for _ in read:
                done = False
                break
        finally:
            if done:  # or failed
                self._reading = None
        reading.passed()
        return True

    def drop(self) -> None:
        """Give up what is not read yet; where it has come to is kept as a point."""
        self._prompts.clear()
        if self._reading is not None:
            reading, self._reading = self._reading[0], None
            reading.keep()

    def _begin(self, prompt: MediaPrompt, quantization: KVQuantization | None) -> tuple[Reading, Iterator[None]]:
        cache, keys = self._new_cache(quantization), prompt.keys
        reading = Reading(self._store, cache, Text(keys, prompt.media))
        rest = keys[reading.begin : -1]
        if len(rest) < self._store.least:
            rest = []
        return reading, chunks(self._target, cache, rest, lambda: reading.step(STEP), media=prompt.media)
