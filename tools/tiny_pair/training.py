"""What both trainings share: steps until the time is up, with a checkpoint now and then."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from muon import optimizers, schedule


def train(
    model: torch.nn.Module,
    loss: Callable[[int], Tensor],
    checkpoint: Callable[[], None],
    *,
    minutes: float,
    share: float,
    memory: float,
) -> tuple[int, float]:
    """Train until the time is up; return the number of steps, and the smoothed loss.

    Args:
        model: is changed.
        loss: of a fresh batch; called with the number of steps done.
        checkpoint: called whenever another share of the time is over.
        minutes: in all.
        share: of the time, between two checkpoints.
        memory: how much of the smoothed loss a step leaves, from 0 to 1.
    """
    optims = optimizers(model, matrix_rate=0.02, other_rate=4e-3)
    groups = [group for optim in optims for group in optim.param_groups]
    rates = [group["lr"] for group in groups]
    start, steps, saved, smooth = time.time(), 0, 0.0, None
    while (elapsed := (time.time() - start) / (60 * minutes)) < 1:
        value = loss(steps)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * schedule(elapsed)
        for optim in optims:
            optim.step()
            optim.zero_grad()
        smooth = value.item() if smooth is None else memory * smooth + (1 - memory) * value.item()
        steps += 1
        if steps % 50 == 0:
            print(f"{steps} {60 * minutes * elapsed:.0f} s loss {smooth:.3f}", flush=True)
        if elapsed - saved > share:
            saved = elapsed
            checkpoint()
    return steps, smooth
