"""Text the target generates: what an assistant drafts for is the target's language, not the novelist's."""

import time

import torch
from torch import Tensor
from transformers import Gemma4ForCausalLM

from batches import Batches

ROWS = 96
PROMPTS = (12, 24, 48)  # tokens of a novel or chat that a generated row starts with
TEMPERATURES = (0.0, 0.7, 0.0, 1.0)


@torch.no_grad()
def generated_rows(target: Gemma4ForCausalLM, batches: Batches, minutes: float, length: int) -> Tensor:
    """(rows, length) int64: prompts with the target's own continuations, half greedy and half sampled."""
    target.generation_config.eos_token_id = None  # rows are filled: after a turn's end the next one follows
    pool, start, turn = [], time.time(), 0
    while time.time() - start < 60 * minutes:
        prompt = batches.batch(ROWS, PROMPTS[turn % len(PROMPTS)], chat_share=0.5)
        temperature = TEMPERATURES[turn % len(TEMPERATURES)]
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        room = length - prompt.shape[1]
        pool.append(target.generate(prompt, max_new_tokens=room, **sampling))
        turn += 1
    return torch.cat(pool)
