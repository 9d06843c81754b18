"""Made-up texts of all scripts, and of what tokenizers stumble over."""

import random
from collections.abc import Sequence

# fmt: off
_SCRIPTS = (  # first and last code points
    (0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x2AF), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58F), (0x591, 0x5F4),
    (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7BF), (0x900, 0x97F), (0x980, 0x9FF), (0xB80, 0xBFF), (0xE01, 0xE5B),
    (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x13A0, 0x13FF),
    (0x1680, 0x169C), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1FFE), (0x2000, 0x206F), (0x20A0, 0x20C0),
    (0x2100, 0x2BFF), (0x2D30, 0x2D7F), (0x3000, 0x30FF), (0x3400, 0x3500), (0x4E00, 0x4FFF), (0xA000, 0xA0FF),
    (0xAC00, 0xAEFF), (0xE000, 0xE0FF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFE0F), (0xFF00, 0xFFFF),
    (0x10000, 0x1007F), (0x10330, 0x1034A), (0x12000, 0x120FF), (0x1D400, 0x1D7FF), (0x1F100, 0x1FAFF),
    (0x20000, 0x200FF), (0x30000, 0x300FF), (0xE0001, 0xE007F), (0xF0000, 0xF00FF), (0x10FF00, 0x10FFFF),
)
_MARKS = ((0x300, 0x36F), (0x483, 0x489), (0x64B, 0x65F), (0x900, 0x903), (0x20D0, 0x20F0), (0xFE00, 0xFE0F))
_EMOJI = (
    "👩\u200d👩\u200d👧\u200d👦", "🏳\ufe0f\u200d🌈", "👍🏽", "🇩🇪", "🇩", "🐈\u200d⬛", "☕\ufe0f", "1\ufe0f\u20e3",
    "❤\ufe0f\u200d🔥", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
)
_SPACES = (
    " ", "  ", "▁", "▁▁", " ▁", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\x0b",
)
_ODD = (
    "\0", "\x01", "\x1f", "\x7f", "\x80", "\x85", "\xad", "\u061c", "\u200d", "\u200e", "\u202e", "\u2060", "\ufdd0",
    "\ufeff", "\ufff9", "\ufffd", "\ufffe", "\uffff", "\ud7ff", "\ue000", "\U0001fffe", "\U0010ffff", "\U000e0001",
    "\u0344", "\u1100", "\u1161", "\u11a8", "\u212b", "\u2126", "\ufb01", "\uff76\uff9e",
)
# fmt: on


class RandomTexts:
    """Makes texts up.

    Args:
        seed: of what is made up.
        words: some of what texts have.
    """

    def __init__(self, seed: int, words: Sequence[str]):
        self._rng, self._words = random.Random(seed), words
        kinds = (self._script, self._marked, self._word, self._cut, self._spaces, self._emoji, self._odd, self._any)
        self._kinds = kinds

    def text(self) -> str:
        """A text of up to about 60 characters."""
        return "".join(self._rng.choice(self._kinds)() for _ in range(self._rng.randrange(1, 9)))

    def _letter(self, ranges: Sequence[tuple[int, int]]) -> str:
        first, last = self._rng.choice(ranges)
        return chr(self._rng.randint(first, last))

    def _script(self) -> str:
        script = [self._rng.choice(_SCRIPTS)]
        return "".join(self._letter(script) for _ in range(self._rng.randrange(1, 9)))

    def _marked(self) -> str:
        return self._rng.choice("aeioux▁ 가") + "".join(self._letter(_MARKS) for _ in range(self._rng.randrange(1, 5)))

    def _word(self) -> str:
        return self._rng.choice(("", " ", " ", "▁")) + self._rng.choice(self._words)

    def _cut(self) -> str:
        """A part of a word, perhaps with more behind it."""
        word = self._rng.choice(self._words)
        place = self._rng.randint(0, len(word))
        return word[:place] + self._rng.choice(("", word, word[place:], "\u0301", "<", ">"))

    def _spaces(self) -> str:
        return self._rng.choice(_SPACES) * self._rng.choice((1, 1, 2, 3, 5, 17, 33))

    def _emoji(self) -> str:
        return self._rng.choice(_EMOJI)

    def _odd(self) -> str:
        return self._rng.choice(_ODD)

    def _any(self) -> str:
        code = self._rng.randrange(0x110000 - 0x800)
        return chr(code if code < 0xD800 else code + 0x800)
