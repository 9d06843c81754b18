"""How many multiplications and how much memory tokens take, counted from a target's configuration."""

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


def score_bytes(config: Gemma4TextConfig, queries: int, keys: int, width: int) -> int:
    """Of one layer's attention scores, where it is not fused; ``width`` is the bytes of a number."""
    return config.num_attention_heads * queries * keys * width


def chunk_bytes(config: Gemma4TextConfig, tokens: int, context: int, width: int) -> int:
    """The most bytes at once of what is computed while tokens of a prompt are read, ``context`` positions in all.

    One layer's scores, before and after the softmax, and its widest numbers for each token; the layers follow each
    other. An estimate from above: what is fused takes less.
    """
    return 2 * score_bytes(config, tokens, context, width) + tokens * _layer_numbers(config) * width


def round_bytes(config: Gemma4TextConfig, places: int, context: int, width: int, numbers: int) -> int:
    """The same for a round of so many places, rows times drafts + 1, and for choosing a token in each place.

    Args:
        places, context, width: as said.
        numbers: float32 of each id in a place, for that choice.
    """
    return chunk_bytes(config, places, context, width) + 4 * numbers * places * config.vocab_size


def _layer_numbers(config: Gemma4TextConfig) -> int:
    """How many numbers a token has in the widest layer and beside it: the MLP's three, attention's, hidden states."""
    wide = 2 if config.use_double_wide_mlp else 1
    experts = config.top_k_experts * config.moe_intermediate_size if config.enable_moe_block else 0
    attention = 3 * config.num_attention_heads * max(config.head_dim_of(kind) for kind in set(config.layer_types))
    per_layer = 2 * config.num_hidden_layers * config.hidden_size_per_layer_input
    return 3 * (wide * config.intermediate_size + experts) + attention + per_layer + 8 * config.hidden_size
