"""Random weights that matter, and a few hundred training steps.

A random network is a poor reference: its greedy text is one token repeated, its best two logits nearly tie, and its
assistant never agrees with it. So the target learns a small language, and the assistant learns the target's choices
until it accepts about half of its drafts.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from language import Language

TRAINING_LENGTH = 96
BATCH_ROWS = 8
MANTISSA_BITS = 12


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and persistent buffer of `model` a random value of a sensible size.

    transformers starts norms, scales and layer scalars at one, where a port that ignores them goes unnoticed.
    """
    clip_bounds = {"input_min": -6.0, "input_max": 5.0, "output_min": -7.0, "output_max": 8.0}
    for name, tensor in model.state_dict(keep_vars=True).items():
        kind = name.rsplit(".", 1)[-1]
        noise = torch.randn(tensor.shape, generator=generator)
        if kind == "token_ordering":
            value = torch.randperm(tensor.numel(), generator=generator)
        elif kind in clip_bounds:
            value = clip_bounds[kind] + 0.1 * noise
        elif name.endswith(("q_norm.weight", "k_norm.weight")):
            value = 0.5 * (0.2 * noise).exp()  # attention scores have no other scale than these
        elif kind == "layer_scalar":
            value = 0.8 + 0.4 * torch.rand(tensor.shape, generator=generator)
        elif tensor.dim() < 2:
            value = (0.2 * noise).exp()
        else:
            value = noise * tensor.shape[-1] ** -0.5
        tensor.data.copy_(value)


def shorten_mantissas(model: nn.Module) -> None:
    """Keep `MANTISSA_BITS` of the 23 mantissa bits of every float weight, in place.

    The files then compress well, and yet neither bfloat16 (7 bits) nor float16 (10 bits) holds the weights: a port that
    casts them on the way is still found out.
    """
    dropped = 23 - MANTISSA_BITS
    for tensor in model.state_dict().values():
        if tensor.dtype == torch.float32:
            tensor.view(torch.int32).add_(1 << (dropped - 1)).bitwise_and_(-(1 << dropped))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 20 steps, then a cosine to a tenth of the peak."""
    return peak * min((step + 1) / 20, 0.55 + 0.45 * math.cos(math.pi * step / steps))


def optimize(model: nn.Module, losses: Iterator[Tensor], steps: int, peak: float) -> Iterator[tuple[int, float]]:
    """Adam over `steps` losses; yields the step and its loss, so that the caller may stop early."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.98))
    for step, loss in zip(range(steps), losses, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield step, loss.item()


def train_target(target: nn.Module, language: Language, generator: torch.Generator, steps: int) -> float:
    """Train `target` to continue text of `language`; returns the mean loss of the last steps."""
    target.train()

    def losses() -> Iterator[Tensor]:
        while True:
            tokens = language.batch(BATCH_ROWS, TRAINING_LENGTH, generator)
            logits = target(input_ids=tokens[:, :-1], use_cache=False).logits
            yield functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    history = [loss for _, loss in optimize(target, losses(), steps, peak=4e-3)]
    target.eval()
    return sum(history[-20:]) / len(history[-20:])


def draft_masks(length: int, queries: int, window: int) -> dict[str, Tensor]:
    """Who sees what when query i drafts at position i + 1: masks (1, 1, queries, length), true where visible.

    Only keys before the position are visible, the last `window` of them in sliding layers.
    """
    position, key = torch.arange(1, queries + 1)[:, None], torch.arange(length)[None]
    full = key < position
    return {"full_attention": full[None, None], "sliding_attention": (full & (key >= position - window))[None, None]}


def draft_everywhere(
    assistant: nn.Module, target: nn.Module, tokens: Tensor, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draft `steps` tokens from every position of `tokens` (B, L) at once, always fed with the true tokens.

    Yields the assistant's state after its final norm (B, Q, hidden) and the target's choice (B, Q) for each step.
    """
    with torch.no_grad():
        seen = target(input_ids=tokens, output_hidden_states=True, return_shared_kv_states=True, use_cache=False)
        embeddings = target.get_input_embeddings()(tokens)
        choices = seen.logits.argmax(-1)
    queries = tokens.shape[1] - steps
    window = assistant.config.get_text_config().sliding_window
    masks = draft_masks(tokens.shape[1], queries, window)
    positions = torch.arange(1, queries + 1)[None]
    hidden = seen.hidden_states[-1][:, :queries]
    for step in range(steps):
        now = slice(step + 1, step + 1 + queries)
        state = assistant.model(
            inputs_embeds=assistant.pre_projection(torch.cat([embeddings[:, now], hidden], -1)),
            attention_mask=masks,
            position_ids=positions,
            shared_kv_states=seen.shared_kv_states,
            use_cache=False,
        ).last_hidden_state
        hidden = assistant.post_projection(state)
        yield state, choices[:, now]


def head_logits(assistant: nn.Module, state: Tensor) -> Tensor:
    """The logits that the assistant drafts with, through its centroid head if it has one."""
    if assistant.masked_embedding is None:
        return assistant.lm_head(state)
    return assistant.masked_embedding(state, assistant.lm_head.weight)


def draft_loss(assistant: nn.Module, state: Tensor, choice: Tensor) -> Tensor:
    """Cross entropy with the target's choice, of the vocabulary and, if there are any, of the centroids."""
    loss = functional.cross_entropy(assistant.lm_head(state).flatten(0, 1), choice.flatten())
    head = assistant.masked_embedding
    if head is None:
        return loss
    owner = torch.empty_like(head.token_ordering)
    owner[head.token_ordering] = torch.arange(len(owner)) // head.vocab_size_per_centroid
    return loss + functional.cross_entropy(head.centroids(state).flatten(0, 1), owner[choice].flatten())


@torch.no_grad()
def acceptance(assistant: nn.Module, target: nn.Module, tokens: Tensor, steps: int) -> float:
    """Mean share of `steps` drafts that the target would accept, over all positions of `tokens`."""
    agrees = [
        head_logits(assistant, state).argmax(-1) == choice
        for state, choice in draft_everywhere(assistant, target, tokens, steps)
    ]
    return float(torch.stack(agrees).int().cumprod(0).float().mean())


def train_assistant(
    assistant: nn.Module, target: nn.Module, language: Language, generator: torch.Generator, goal: float
) -> float:
    """Distil `target` into `assistant` until it accepts `goal` of three drafts; returns what it reached."""
    unroll, limit = 3, 400
    held_out = language.batch(BATCH_ROWS, TRAINING_LENGTH, generator)

    def losses() -> Iterator[Tensor]:
        while True:
            tokens = language.batch(BATCH_ROWS, TRAINING_LENGTH, generator)
            steps = draft_everywhere(assistant, target, tokens, unroll)
            yield sum(draft_loss(assistant, state, choice) for state, choice in steps) / unroll

    for step, _ in optimize(assistant, losses(), limit, peak=2e-3):
        if step % 10 == 9 and acceptance(assistant, target, held_out, unroll) >= goal:
            break
    return acceptance(assistant, target, held_out, unroll)
