"""Small pieces that tests of decoding share: runs, and a random pair."""

from collections.abc import Sequence

import mlx.core as mx

from mlx_gemma4_assist.cache.layout import CacheLayout, round_up
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.engine.loop import Emitted, Plan, rounds
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.models.config import FULL, SLIDING, Gemma4AssistantConfig, Gemma4TextConfig
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Accept, Assistant, Decoder, Target
from mlx_gemma4_assist.rounds.steps import EAGER, Steps

GREEDY = Sampling()


def layout_for(target: Gemma4ForCausalLM, drafts: int) -> CacheLayout:
    return CacheLayout(target.config, round_up(2 * (drafts + 1), 8), mx.float32)


def filled(target: Target, layout: CacheLayout, prompt: Sequence[int], step_size: int = 2048) -> KVCache:
    """A cache that holds all of a prompt but its last token."""
    cache = KVCache(layout)
    prefill(target, cache, prompt[:-1], step_size)
    return cache


def run(
    target: Gemma4ForCausalLM,
    assistant: Assistant | None,
    prompt: Sequence[int],
    budget: int,
    drafts: int = 0,
    *,
    sampling: Sampling = GREEDY,
    ahead: int = 1,
    seed: int = 0,
    acceptor: Accept = accept,
    step_size: int = 2048,
    steps: Steps = EAGER,
) -> tuple[list[int], list[Emitted]]:
    """``budget`` tokens after a prompt, and the rounds that gave them."""
    layout = layout_for(target, drafts)
    cache = filled(target, layout, prompt, step_size)
    decoder = Decoder(target, assistant if drafts else None, layout, sampling, acceptor)
    made = list(rounds(decoder, cache, [prompt[-1]], Plan(budget, FixedDraftLength(drafts), ahead, seed, steps)))
    return [token for emitted in made for token in emitted.tokens[0]][:budget], made


_SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 16,
    "max_position_embeddings": 512,
}


def random_pair(seed: int = 0) -> tuple[Gemma4ForCausalLM, Gemma4AssistantForCausalLM]:
    """An untrained pair with E2B's switches; sampled at temperature 1 its text varies."""
    mx.random.seed(seed)
    target = Gemma4TextConfig.from_dict(
        _SMALL
        | {
            "num_hidden_layers": 5,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL],
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 32,
            "vocab_size_per_layer_input": 64,
            "use_double_wide_mlp": True,
            "final_logit_softcapping": 30.0,
        }
    )
    text = _SMALL | {"num_hidden_layers": 2, "layer_types": [SLIDING, FULL]}
    assistant = Gemma4AssistantConfig.from_dict(
        {
            "backbone_hidden_size": 64,
            "use_ordered_embeddings": True,
            "num_centroids": 16,
            "centroid_intermediate_top_k": 4,
            "text_config": text,
        }
    )
    pair = Gemma4ForCausalLM(target), Gemma4AssistantForCausalLM(assistant)
    pair[1].masked_embedding.token_ordering = mx.random.permutation(64).astype(mx.int32)
    for model in pair:
        mx.eval(model.parameters())
    return pair
