"""A made-up language that a network of a few layers learns in a few hundred steps.

Text is a chain of words. Each word is a fixed run of three to six tokens followed by a counter token, which goes round
ten values. The likeliest successors of all words form one cycle, so that greedy text walks through the whole vocabulary
instead of falling into a loop, and the three successors of a word have well separated chances, so that near ties are
rare.
"""

import torch

from families import BOS, EOS, PAD, SPECIAL_TOKENS, STOP_TOKENS, UNKNOWN, VOCAB_SIZE

COUNTERS = 10
WORDS = 24
SUCCESSOR_CHANCES = torch.tensor([0.8, 0.12, 0.08])


class Language:
    """Words and their successors, drawn from `seed`."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        reserved = {PAD, EOS, BOS, UNKNOWN, *STOP_TOKENS, *SPECIAL_TOKENS.values()}
        usable = [t for t in range(VOCAB_SIZE) if t not in reserved]
        shuffled = [usable[i] for i in torch.randperm(len(usable), generator=generator)]
        self.counters, letters = shuffled[:COUNTERS], torch.tensor(shuffled[COUNTERS:])
        lengths = torch.randint(3, 7, (WORDS,), generator=generator).tolist()
        self.words = [letters[torch.randint(len(letters), (n,), generator=generator)].tolist() for n in lengths]
        self.successors = self._successors(generator)

    @staticmethod
    def _successors(generator: torch.Generator) -> torch.Tensor:
        """Three successors of each word, likeliest first: (WORDS, 3). The first column is one cycle over all words."""
        cycle = torch.randperm(WORDS, generator=generator)
        likeliest = torch.empty_like(cycle)
        likeliest[cycle] = cycle.roll(-1)
        return torch.cat([likeliest[:, None], torch.randint(WORDS, (WORDS, 2), generator=generator)], 1)

    def sample(self, length: int, generator: torch.Generator) -> list[int]:
        """`length` tokens of text that open with BOS and then start at some word and counter."""
        word = int(torch.randint(WORDS, (1,), generator=generator))
        count = int(torch.randint(COUNTERS, (1,), generator=generator))
        tokens = [BOS]
        while len(tokens) < length:
            tokens += [*self.words[word], self.counters[count]]
            count = (count + 1) % COUNTERS
            word = int(self.successors[word, torch.multinomial(SUCCESSOR_CHANCES, 1, generator=generator)])
        return tokens[:length]

    def batch(self, rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
        """Tokens (rows, length) int64."""
        return torch.tensor([self.sample(length, generator) for _ in range(rows)])
