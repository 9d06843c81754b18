"""How many multiplications a token takes, counted from a target's configuration."""

from .config import FULL, Gemma4TextConfig


def weight_multiplications(config: Gemma4TextConfig) -> int:
    """With weights, for one token: all linear layers, the head, and of the experts those that are chosen."""
    hidden, inner = config.hidden_size, config.hidden_size_per_layer_input
    total = hidden * config.vocab_size + hidden * config.num_hidden_layers * inner
    for layer, kind in enumerate(config.layer_types):
        head, owns = config.head_dim_of(kind), layer < config.num_kv_layers
        values = not (config.attention_k_eq_v and kind == FULL)
        total += 2 * hidden * config.num_attention_heads * head
        total += hidden * config.kv_heads(kind) * head * (1 + values) * owns
        wide = config.use_double_wide_mlp and not owns
        total += 3 * hidden * config.intermediate_size * (2 if wide else 1)
        total += 2 * hidden * inner
        if config.enable_moe_block:
            chosen = config.top_k_experts * config.moe_intermediate_size
            total += hidden * (3 * chosen + config.num_experts)
    return total


def attention_multiplications(config: Gemma4TextConfig) -> int:
    """With keys and values, for one token and one more position of a text longer than the sliding window."""
    full = config.layer_types.count(FULL)
    return full * 2 * config.num_attention_heads * config.head_dim_of(FULL)
