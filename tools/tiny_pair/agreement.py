"""Agreement of an assistant with its target on real text, computed by this package alone."""

import mlx.core as mx

from mlx_gemma4_assist import Gemma4AssistantForCausalLM, Gemma4ForCausalLM
from mlx_gemma4_assist.cache.block import Block
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.store import empty
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.round import draft
from mlx_gemma4_assist.rounds.sampling import Sampling, row_keys
from mlx_gemma4_assist.rounds.state import Decoder, RoundState


def agreement(
    target: Gemma4ForCausalLM, assistant: Gemma4AssistantForCausalLM, tokens: list[int], drafts: int
) -> tuple[list[int], list[int]]:
    """One round from every position of a text, each starting from the text and not from what was drafted before.

    The round at position p knows the text up to p, and the target's keys and hidden state up to p - 1. A draft agrees
    if it is what the target would choose at its place after the same text. Step j is counted only where the earlier
    drafts are the text's own tokens, since otherwise the two have not read the same.

    Returns, per step, how many drafts were counted and how many of them agree.
    """
    length = len(tokens)
    # With a ring this long, the keys of the whole text stay, and the length alone decides what a round sees.
    layout = CacheLayout(target.config, slack=length, dtype=mx.float32)
    block = Block(layout, empty(layout, 1, length), mx.array([0], mx.int32), length, 0, exact=True)
    hidden = target(mx.array([tokens], mx.int32), block)
    choices = mx.argmax(target.logits(hidden), axis=-1)[0].tolist()

    starts = range(1, length - drafts)  # rows of a batch: they share the buffers and differ in length
    rows = len(starts)
    state = RoundState(
        length=mx.arange(1, 1 + rows, dtype=mx.int32),
        token=mx.array(tokens, mx.int32)[1 : 1 + rows, None],
        hidden=hidden[0, :rows, None],
        keys=row_keys(0, rows),
    )
    buffers = tuple(
        (mx.broadcast_to(keys, (rows, *keys.shape[1:])), mx.broadcast_to(values, (rows, *values.shape[1:])))
        for keys, values in block.buffers
    )
    decoder = Decoder(target, assistant, layout, Sampling(), accept)
    made = draft(decoder, state, buffers, drafts, length).tokens.tolist()

    counted, agreed = [0] * drafts, [0] * drafts
    for start, row in zip(starts, made, strict=True):
        for step, drafted in enumerate(row):
            counted[step] += 1
            agreed[step] += drafted == choices[start + step]
            if drafted != tokens[start + step + 1]:
                break
    return counted, agreed
