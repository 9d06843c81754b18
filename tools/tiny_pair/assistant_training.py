"""Distil the assistant from the target, over the recurrence that drafting runs."""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4ForCausalLM, Gemma4TextConfig

from batches import Batches
from clusters import balanced_clusters
from data import load
from drafting import agreement, read, unroll
from export import save_assistant
from target_text import generated_rows
from target_training import WINDOW, initialise
from training import train

STEPS = 4
STEP_WEIGHTS = (1.0, 0.8, 0.6, 0.5)  # a later draft counts only if all earlier ones were accepted
OWN_ROWS, REAL_ROWS, LENGTH = 3, 2, 257  # of a batch: 60 % text that the target generated
CENTROIDS, BEST = 64, 16  # 16 of 64 clusters of 16 tokens: 256 of 1,024 tokens get a logit


def assistant_config(target: Gemma4TextConfig) -> Gemma4AssistantConfig:
    """Four layers that own no keys; heads as wide as the target's, whose keys they read."""
    text = Gemma4TextConfig(
        vocab_size=target.vocab_size,
        vocab_size_per_layer_input=0,
        hidden_size=128,
        hidden_size_per_layer_input=0,
        intermediate_size=256,
        num_hidden_layers=4,
        num_kv_shared_layers=4,
        layer_types=["sliding_attention"] * 3 + ["full_attention"],
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=48,
        global_head_dim=96,
        sliding_window=WINDOW,
        max_position_embeddings=target.max_position_embeddings,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        tie_word_embeddings=True,
    )
    return Gemma4AssistantConfig(
        text_config=text,
        backbone_hidden_size=target.hidden_size,
        use_ordered_embeddings=True,
        num_centroids=CENTROIDS,
        centroid_intermediate_top_k=BEST,
        tie_word_embeddings=True,
    )


def loss(assistant: Gemma4AssistantForCausalLM, target: Gemma4ForCausalLM, tokens: Tensor) -> Tensor:
    """Cross-entropy against the target's distribution, over tokens and over clusters, and against its choice.

    Every token gets a logit here. Which clusters are looked at when drafting is the centroids' own lesson, taught by
    the probability that the target puts on each cluster.
    """
    read_out = read(target, tokens)
    ordering = assistant.masked_embedding.token_ordering
    wanted = read_out[1].softmax(-1)
    wanted_clusters = wanted[..., ordering].unflatten(-1, (CENTROIDS, -1)).sum(-1)
    choices = wanted.argmax(-1)
    total = 0.0
    for index, last in enumerate(unroll(assistant, target, tokens, read_out, STEPS)):
        logits = F.log_softmax(assistant.lm_head(last), dim=-1)
        clusters = F.log_softmax(assistant.masked_embedding.centroids(last), dim=-1)
        by_token = -(wanted[:, 1 + index :] * logits).sum(-1).mean()
        by_choice = F.nll_loss(logits.flatten(0, 1), choices[:, 1 + index :].flatten())
        by_cluster = -(wanted_clusters[:, 1 + index :] * clusters).sum(-1).mean()
        total = total + STEP_WEIGHTS[index] * (by_token + 0.5 * by_choice + 0.3 * by_cluster)
    return total / sum(STEP_WEIGHTS)


def train_assistant(arguments: argparse.Namespace) -> None:
    """All of it: until the time is up, with files as the package ships them."""
    novels, held_out = load(arguments.work)
    tokenizer = Tokenizer.from_file(str(arguments.target / "tokenizer.json"))
    batches = Batches(novels, tokenizer, seed=2)
    target = Gemma4ForCausalLM.from_pretrained(arguments.target).requires_grad_(False)
    assistant = Gemma4AssistantForCausalLM(assistant_config(target.config))
    initialise(assistant)
    assistant.masked_embedding.token_ordering.copy_(balanced_clusters(target.lm_head.weight, CENTROIDS))
    print(f"{sum(weight.numel() for weight in assistant.parameters())} parameters", flush=True)
    judged = Batches(held_out, tokenizer, seed=3).batch(16, LENGTH, chat_share=0.0)

    start = time.time()
    generated = generated_rows(target, batches, arguments.text_minutes, LENGTH)
    print(f"{generated.numel()} tokens generated in {time.time() - start:.0f} s", flush=True)

    def next_loss(_: int) -> Tensor:
        own = generated[torch.randint(len(generated), (OWN_ROWS,))]
        return loss(assistant, target, torch.cat([own, batches.batch(REAL_ROWS, LENGTH)]))

    def checkpoint() -> None:
        save_assistant(assistant, arguments.out)
        print("agreement", agreement(assistant, target, judged), flush=True)

    minutes = arguments.minutes - (time.time() - start) / 60
    steps, smooth = train(assistant, next_loss, checkpoint, minutes=minutes, share=0.2, memory=0.97)
    save_assistant(assistant, arguments.out)
    record = {"steps": steps, "minutes": arguments.minutes, "generated_tokens": generated.numel(), "train_loss": smooth}
    record["agreement"] = agreement(Gemma4AssistantForCausalLM.from_pretrained(arguments.out), target, judged)
    print(record)
    (arguments.work / "assistant.json").write_text(json.dumps(record, indent=2))
