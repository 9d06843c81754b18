"""The drafting recurrence, from every position of a text at once, as it is trained and judged.

A round that starts at position p knows the newest token t[p], whose key is not in the cache yet, and the target's
hidden state at p - 1. The assistant sees keys before p only, keeps position p for all its steps, and from the second
step on gets its own projected state back. Step j (from 0) is asked for token t[p + j + 1]. Masks turn the positions
p = 1 .. L - 1 into the rows of one forward pass, where transformers' class drafts from a single one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import Gemma4AssistantForCausalLM, Gemma4ForCausalLM

from target_training import WINDOW, forward


@torch.no_grad()
def read(target: Gemma4ForCausalLM, tokens: Tensor) -> tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """What drafting over `tokens` (B, L) needs: hidden (B, L, hidden), logits (B, L, vocab) and the shared keys."""
    shared = {}
    hidden, logits = forward(target, tokens, shared)
    return hidden, logits, shared


def masks(length: int) -> dict[str, Tensor]:
    """Row p - 1 of (L - 1, L) says which keys a round that starts at p may see."""
    distance = torch.arange(1, length)[:, None] - torch.arange(length)[None, :]
    return {
        "full_attention": (distance > 0)[None, None],
        "sliding_attention": ((distance > 0) & (distance <= WINDOW))[None, None],
    }


def step(
    assistant: Gemma4AssistantForCausalLM, embeddings: Tensor, state: Tensor, shared: dict
) -> tuple[Tensor, Tensor]:
    """One draft from every start: the assistant's last hidden state, and the state it feeds back, (B, L - 1, ...)."""
    length = embeddings.shape[1] + 1
    last = assistant.model(
        inputs_embeds=assistant.pre_projection(torch.cat([embeddings, state], dim=-1)),
        attention_mask=masks(length),
        position_ids=torch.arange(1, length)[None],
        shared_kv_states=dict(shared),
        use_cache=False,
    ).last_hidden_state
    return last, assistant.post_projection(last)


def unroll(
    assistant: Gemma4AssistantForCausalLM, target: Gemma4ForCausalLM, tokens: Tensor, read_out: tuple, steps: int
) -> Iterator[Tensor]:
    """Yield for each step the assistant's last hidden state of the starts that have an answer, (B, L - 1 - j, width).

    The tokens fed are those of the text: a draft that differs from it ends its round, so what a step would make of
    a wrong one is never used. Row i of step j starts at p = i + 1, and the target's logits at i + 1 + j answer it.
    """
    hidden, _, shared = read_out
    with torch.no_grad():
        embeddings = target.model.embed_tokens(tokens)
    state = hidden[:, :-1]
    for index in range(steps):
        fed = torch.nn.functional.pad(embeddings[:, 1 + index :], (0, 0, 0, index))
        last, state = step(assistant, fed, state, shared)
        yield last[:, : last.shape[1] - index]


@torch.no_grad()
def drafts(
    assistant: Gemma4AssistantForCausalLM, target: Gemma4ForCausalLM, tokens: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Greedy drafts from every start of `tokens` (B, L), through the centroid head, and the target's own choices.

    Returns (B, steps, L - steps) drafts and answers; start p = i + 1 is column i.
    """
    read_out = read(target, tokens)
    choices = read_out[1].argmax(-1)
    columns = tokens.shape[1] - steps
    made, answers = [], []
    for index, last in enumerate(unroll(assistant, target, tokens, read_out, steps)):
        rows = last[:, :columns].split(1)  # the head gathers embeddings for every position: one row at a time
        logits = torch.cat([assistant.masked_embedding(row, assistant.lm_head.weight) for row in rows])
        made.append(logits.argmax(-1))
        answers.append(choices[:, 1 + index : 1 + index + columns])
    return torch.stack(made, 1), torch.stack(answers, 1)


def agreement(assistant, target, tokens: Tensor, steps: int = 4) -> list[float]:
    """Per step, how often the draft is the target's choice, of the starts whose earlier drafts are the text's own."""
    made, answers = drafts(assistant, target, tokens, steps)
    columns = made.shape[2]
    text = torch.stack([tokens[:, 2 + index : 2 + index + columns] for index in range(steps - 1)], 1)
    alive = torch.ones_like(made[:, 0], dtype=torch.bool)
    made, answers = made[:, :, : text.shape[2]], answers[:, :, : text.shape[2]]
    alive, shares = alive[:, : text.shape[2]], []
    for index in range(steps):
        shares.append((made[:, index] == answers[:, index])[alive].float().mean().item())
        if index < steps - 1:
            alive = alive & (made[:, index] == text[:, index])
    return shares
