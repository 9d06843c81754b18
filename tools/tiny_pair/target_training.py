"""Train the target: Gemma 4's E2B architecture in miniature, on novels and chats made from them."""

import argparse
import json
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from batches import Batches
from data import load
from export import save_target
from training import train

WINDOW = 64
# Mostly short rows for many of them, some long ones so that text beyond the short length is no surprise.
SHAPES = ((8, 256), (8, 256), (4, 512), (8, 256), (8, 256), (8, 256), (4, 512), (2, 1024))


def target_config() -> Gemma4TextConfig:
    """Every width is a multiple of 64, the group size of MLX's quantization. Layers 3 to 5 reuse keys of 1 and 2."""
    return Gemma4TextConfig(
        vocab_size=1024,
        vocab_size_per_layer_input=1024,
        hidden_size=192,
        hidden_size_per_layer_input=64,
        intermediate_size=256,
        use_double_wide_mlp=True,
        num_hidden_layers=6,
        num_kv_shared_layers=3,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=48,
        global_head_dim=96,
        sliding_window=WINDOW,
        final_logit_softcapping=30.0,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=True,
    )


def initialise(model: torch.nn.Module) -> None:
    """Attention is not scaled, so the learned norm of the queries starts at what scaling would have done."""
    for layer in model.model.layers:
        layer.self_attn.q_norm.weight.data.fill_(layer.self_attn.head_dim**-0.5)


def masks(length: int) -> dict[str, Tensor | None]:
    """The target's masks by layer type; None is plainly causal."""
    position = torch.arange(length)
    distance = position[:, None] - position[None, :]
    return {"full_attention": None, "sliding_attention": ((distance >= 0) & (distance < WINDOW))[None, None]}


def forward(model: Gemma4ForCausalLM, tokens: Tensor, shared: dict | None = None) -> tuple[Tensor, Tensor]:
    """Final hidden states after the norm (B, L, hidden), and logits with the soft cap (B, L, vocab).

    `shared`, if given, is filled with the keys and values by layer type that the KV-shared layers read.
    """
    shared = {} if shared is None else shared
    hidden = model.model(
        input_ids=tokens, attention_mask=masks(tokens.shape[1]), shared_kv_states=shared, use_cache=False
    ).last_hidden_state
    cap = model.config.final_logit_softcapping
    return hidden, cap * torch.tanh(model.lm_head(hidden) / cap)


def loss(model: Gemma4ForCausalLM, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats of every token but a row's first."""
    _, logits = forward(model, tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: Gemma4ForCausalLM, novels: list[list[str]], tokenizer: Tokenizer) -> dict[str, float]:
    batches = Batches(novels, tokenizer, seed=1)
    return {
        "plain": sum(loss(model, batches.batch(8, 513, chat_share=0.0)).item() for _ in range(4)) / 4,
        "chat": sum(loss(model, batches.batch(8, 513, chat_share=1.0)).item() for _ in range(4)) / 4,
    }


def train_target(arguments: argparse.Namespace) -> None:
    """All of it: until the time is up, with files as the package ships them."""
    novels, held_out = load(arguments.work)
    tokenizer = Tokenizer.from_file(str(arguments.out / "tokenizer.json"))
    batches = Batches(novels, tokenizer, seed=0)
    model = Gemma4ForCausalLM(target_config())
    initialise(model)
    print(f"{sum(weight.numel() for weight in model.parameters())} parameters", flush=True)

    def next_loss(step: int) -> Tensor:
        rows, length = SHAPES[step % len(SHAPES)]
        return loss(model, batches.batch(rows, length + 1))

    def checkpoint() -> None:
        save_target(model, arguments.out)
        print("held out", held_out_loss(model, held_out, tokenizer), flush=True)

    steps, smooth = train(model, next_loss, checkpoint, minutes=arguments.minutes, share=0.1, memory=0.98)
    save_target(model, arguments.out)
    seen = sum(rows * length for rows, length in islice(cycle(SHAPES), steps))
    record = {"steps": steps, "tokens": seen, "minutes": arguments.minutes, "train_loss": smooth}
    record["held_out_loss"] = held_out_loss(Gemma4ForCausalLM.from_pretrained(arguments.out), held_out, tokenizer)
    print(record)
    (arguments.work / "target.json").write_text(json.dumps(record, indent=2))
