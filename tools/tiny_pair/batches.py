"""Token batches: plain stretches of a novel, and chats."""

import random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from data import SENTENCE_END
from dialogues import conversation

BOS = 2
CHARACTERS_PER_TOKEN = 6  # generous: a row is cut to its length in tokens
CHAT_SHARE = 0.4


class Batches:
    """Rows of exact length; each starts with <bos> and holds one novel's text or several chats, nothing padded."""

    def __init__(self, novels: list[list[str]], tokenizer: Tokenizer, seed: int):
        self.novels, self.tokenizer, self.rng = novels, tokenizer, random.Random(seed)
        self.texts = ["\n\n".join(blocks) for blocks in novels]
        self.starts = [
            (text, start)
            for text in self.texts
            for start in [0, *(match.end() for match in SENTENCE_END.finditer(text))]
            if start + 2000 < len(text)
        ]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def plain(self, length: int) -> list[int]:
        text, start = self.rng.choice(self.starts)
        row = [BOS, *self.ids(text[start : start + length * CHARACTERS_PER_TOKEN])]
        return row[:length] if len(row) >= length else self.plain(length)

    def chat(self, length: int) -> list[int]:
        """One chat after another until the row is full: later ones see earlier ones, as in any packed batch."""
        row = []
        while len(row) < length:
            (novel,) = self.rng.choices(self.novels, weights=[len(text) for text in self.texts])
            row += self.ids(conversation(self.rng, novel))
        return row[:length]

    def batch(self, rows: int, length: int, chat_share: float = CHAT_SHARE) -> Tensor:
        """(rows, length) int64."""
        made = [(self.chat if self.rng.random() < chat_share else self.plain)(length) for _ in range(rows)]
        return torch.tensor(made)
