"""What the reference computes for one prompt, and whether that is steady enough to test against."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from families import STOP_TOKENS
from training import head_logits

NEW_TOKENS = 96
DRAFT_COUNTS = (1, 3, 8)
DRAFT_STEPS = 2

MIN_DISTINCT_TOKENS = 12
MIN_GAP = 2e-2
MIN_DRAFT_GAP = 1e-3
MIN_ROUTING_GAP = 2e-5
ACCEPTANCE_BOUNDS = (0.15, 0.9)


class Unsteady(Exception):
    """A prompt on which a correct port could differ, or that would not show that a port is wrong."""


@dataclass(frozen=True)
class Drafting:
    """One step of the assistant: what goes in and what comes out."""

    inputs_embeds: Tensor
    logits: Tensor
    projected: Tensor
    last_hidden_state: Tensor


@dataclass(frozen=True)
class Seen:
    """A target's view of a whole text in one forward: `tokens` (1, L) and what it returns for them."""

    tokens: Tensor
    logits: Tensor
    hidden: Tensor
    shared_kv_states: dict[str, tuple[Tensor, Tensor]]

    def verified(self, length: int, window: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of the first `length` tokens; of sliding layers the last `window` of those."""
        first = {"full_attention": 0, "sliding_attention": max(0, length - window)}
        return {
            kind: (key[:, :, first[kind] : length], value[:, :, first[kind] : length])
            for kind, (key, value) in self.shared_kv_states.items()
        }


def gap(logits: Tensor, rank: int = 1) -> float:
    """Smallest distance between the `rank`-th best score and the next, over all positions of (..., n)."""
    best = logits.topk(rank + 1, dim=-1).values
    return float((best[..., rank - 1] - best[..., rank]).min())


def require(condition: bool, reason: str) -> None:
    """Reject the prompt for `reason` unless `condition` holds."""
    if not condition:
        raise Unsteady(reason)


@torch.no_grad()
def look(target: nn.Module, tokens: list[int]) -> Seen:
    """Run `target` over `tokens` once, without a cache. Rejects texts on which the choice of experts nearly ties."""
    ids = torch.tensor([tokens])
    routings = []
    routers = [m for m in target.modules() if type(m).__name__.endswith("TextRouter")]
    hooks = [m.register_forward_hook(lambda module, args, out: routings.append(out[0])) for m in routers]
    out = target(input_ids=ids, output_hidden_states=True, return_shared_kv_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    for probabilities in routings:
        top_k = target.config.get_text_config().top_k_experts
        require(gap(probabilities, top_k) >= MIN_ROUTING_GAP, "two experts nearly tie")
    hidden = out.hidden_states[-1]
    cap = target.config.get_text_config().final_logit_softcapping
    # The reference appends the state after the final norm; were it the one before, everything here would be off.
    torch.testing.assert_close(cap * torch.tanh(target.lm_head(hidden) / cap), out.logits)
    return Seen(ids, out.logits, hidden, dict(out.shared_kv_states))


@torch.no_grad()
def drafting(
    assistant: nn.Module, target: nn.Module, seen: Seen, newest: int, visible: int | None = None
) -> Iterator[Drafting]:
    """Draft without end after token `newest`, whose key is not verified yet; all drafts share its position.

    Each step is fed with the projected state and the argmax of the step before it. Sliding layers see the last
    `visible` verified keys, by default a window of them.
    """
    shared = seen.verified(newest, visible or assistant.config.get_text_config().sliding_window)
    states = []
    hook = assistant.model.register_forward_hook(lambda module, args, out: states.append(out.last_hidden_state))
    hidden, token = seen.hidden[:, newest - 1 : newest], seen.tokens[:, newest : newest + 1]
    try:
        while True:
            inputs_embeds = torch.cat([target.get_input_embeddings()(token), hidden], -1)
            out = assistant(inputs_embeds=inputs_embeds, position_ids=torch.tensor([[newest]]), shared_kv_states=shared)
            hidden, token = out.last_hidden_state, out.logits.argmax(-1)
            yield Drafting(inputs_embeds, out.logits, out.last_hidden_state, states.pop())
    finally:
        hook.remove()


def accepted_drafts(assistant: nn.Module, target: nn.Module, seen: Seen, first: int, count: int) -> list[int]:
    """How many of `count` drafts each round of assisted decoding accepts, if the assistant sees exactly verified keys.

    `first` is the index of the first generated token in `seen`. A naive twin of assisted decoding: the text is known
    beforehand, so that no cache has to be rolled back.
    """
    newest, last, accepted = first, seen.tokens.shape[1] - 1, []
    while newest < last:
        budget = min(count, last - newest - 1)
        expected = seen.tokens[0, newest + 1 :].tolist()
        matches = 0
        for index, step in zip(range(budget), drafting(assistant, target, seen, newest), strict=False):
            require(gap(step.logits) >= MIN_DRAFT_GAP, "two drafts nearly tie")
            matches += matches == index and int(step.logits.argmax()) == expected[index]
        accepted.append(matches)
        newest += matches + 1
    return accepted


def continue_greedily(target: nn.Module, prompt: list[int], assistant: nn.Module | None = None) -> list[int]:
    """`NEW_TOKENS` tokens by transformers' own generate, assisted or not."""
    ids = torch.tensor([prompt])
    out = target.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        assistant_model=assistant,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    )
    return out[0, len(prompt) :].tolist()


def continue_assisted(target: nn.Module, assistant: nn.Module, prompt: list[int]) -> tuple[list[int], list[dict], int]:
    """Assisted decoding by transformers; returns the text, the inputs of each draft and the number of rounds."""
    drafts, forwards = [], []
    hooks = [
        assistant.register_forward_pre_hook(lambda module, args, inputs: drafts.append(inputs), with_kwargs=True),
        target.register_forward_pre_hook(lambda module, args: forwards.append(None)),
    ]
    tokens = continue_greedily(target, prompt, assistant)
    for hook in hooks:
        hook.remove()
    return tokens, drafts, len(forwards) - 1  # the first forward is the prefill, which yields one token


def check_first_drafts(assistant: nn.Module, target: nn.Module, seen: Seen, first: int, drafts: list[dict]) -> None:
    """Assert that `drafting` starts as transformers does, whose first round shows one key more than a window."""
    visible = 1 + assistant.config.get_text_config().sliding_window
    for step, actual in zip(drafting(assistant, target, seen, first, visible), drafts[:DRAFT_STEPS], strict=False):
        assert actual["position_ids"].tolist() == [[first]]
        torch.testing.assert_close(actual["inputs_embeds"], step.inputs_embeds, atol=1e-4, rtol=1e-4)


def drafting_tensors(assistant: nn.Module, target: nn.Module, seen: Seen, newest: int) -> dict[str, Tensor]:
    """Inputs and outputs of the first drafts after token `newest`."""
    tensors = {}
    for kind, (key, value) in seen.verified(newest, assistant.config.get_text_config().sliding_window).items():
        tensors |= {f"shared_kv_states.{kind}.key": key, f"shared_kv_states.{kind}.value": value}
    for index, step in zip(range(DRAFT_STEPS), drafting(assistant, target, seen, newest), strict=False):
        head = assistant.masked_embedding
        if head is not None:
            scores = head.centroids(step.last_hidden_state)
            require(gap(scores, head.centroid_intermediate_top_k) >= MIN_DRAFT_GAP, "two centroids nearly tie")
        torch.testing.assert_close(head_logits(assistant, step.last_hidden_state), step.logits)
        tensors |= {
            f"draft.{index}.inputs_embeds": step.inputs_embeds,
            f"draft.{index}.logits": step.logits,
            f"draft.{index}.projected": step.projected,
        }
    return tensors


@torch.no_grad()
def observe(target: nn.Module, assistant: nn.Module, prompt: list[int]) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Everything that is stored about `prompt`: tensors, and what fits into JSON. Raises `Unsteady`."""
    plain = continue_greedily(target, prompt)
    first = len(prompt)
    require(len(set(plain)) >= MIN_DISTINCT_TOKENS, "the text repeats itself")
    require(not set(plain) & set(STOP_TOKENS), "the text holds a stop token")
    seen = look(target, prompt + plain)
    generating = seen.logits[:, first - 1 : -1]
    require(gap(generating) >= MIN_GAP, "two tokens nearly tie")
    assert generating.argmax(-1)[0].tolist() == plain, "cached and uncached decoding differ"
    assisted, drafts, rounds = continue_assisted(target, assistant, prompt)
    assert assisted == plain, "assisted and plain decoding differ"
    check_first_drafts(assistant, target, seen, first, drafts)
    statistics = {"rounds": rounds, "drafted": len(drafts), "accepted": NEW_TOKENS - 1 - rounds}
    low, high = ACCEPTANCE_BOUNDS
    require(low <= statistics["accepted"] / statistics["drafted"] <= high, "too few or too many drafts are accepted")
    accepted = {str(n): accepted_drafts(assistant, target, seen, first, n) for n in DRAFT_COUNTS}
    tensors = {"logits": seen.logits[:, :first], "hidden": seen.hidden[:, :first]}
    tensors |= drafting_tensors(assistant, target, seen, first)
    record = {
        "prompt": prompt,
        "tokens": plain,
        "accepted": accepted,
        "transformers": statistics,
        "smallest_gap": round(gap(generating), 4),
        "distinct_tokens": len(set(plain)),
    }
    return tensors, record
