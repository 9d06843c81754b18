"""What a pair accepts of its drafts as it continues many prompts in one batch: for tables of it, and for tests."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_gemma4_assist import Gemma4AssistantForCausalLM, Gemma4ForCausalLM, KVCache, Processor
from mlx_gemma4_assist.cache.layout import CacheLayout, round_up
from mlx_gemma4_assist.cache.rows import join
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.loop import Plan, rounds
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder

GREEDY = Sampling()
CHUNK = 2048  # tokens of a prompt at once
Networks = tuple[Gemma4ForCausalLM, Gemma4AssistantForCausalLM]


class Accepted(NamedTuple):
    """What a batch of texts has accepted.

    Attributes:
        tokens: of each row; a row may have more than its budget while another still had less.
        drafted: rounds that made a draft at each place, over all rows.
        accepted: those of them whose draft at that place, and all before it, stood.
    """

    tokens: list[list[int]]
    drafted: list[int]
    accepted: list[int]

    @property
    def share(self) -> float:
        """Of all drafts, those that were accepted."""
        return sum(self.accepted) / sum(self.drafted)

    @property
    def per_round(self) -> float:
        """Drafts accepted in a round."""
        return sum(self.accepted) / self.drafted[0]


def prompts_of(processor: Processor, passages: Sequence[str]) -> list[list[int]]:
    """The first 34 to 40 tokens of each passage, with BOS: rows of a batch differ in length."""
    return [processor.encode(text, chat=False)[: 40 - i % 7] for i, text in enumerate(passages)]


def accepted_by(
    networks: Networks, prompts: Sequence[list[int]], budget: int, drafts: int, sampling: Sampling, seed: int = 0
) -> Accepted:
    """Lets the prompts be continued in one batch by ``budget`` tokens each, with so many drafts in every round."""
    target, assistant = networks
    layout = CacheLayout(target.config, round_up(2 * (drafts + 1), 8), mx.float32)
    caches = [KVCache(layout) for _ in prompts]
    for cache, prompt in zip(caches, prompts, strict=True):
        prefill(target, cache, prompt[:-1], CHUNK)
    decoder = Decoder(target, assistant, layout, sampling, accept)
    plan = Plan(budget, FixedDraftLength(drafts), 1, seed)
    found = Accepted([[] for _ in prompts], [0] * drafts, [0] * drafts)
    for emitted in rounds(decoder, join(caches), [prompt[-1] for prompt in prompts], plan):
        for row, new in zip(found.tokens, emitted.tokens, strict=True):
            row += new
        for accepted in emitted.accepted:
            for place in range(emitted.drafted):
                found.drafted[place] += 1
                found.accepted[place] += place < accepted
    return found
