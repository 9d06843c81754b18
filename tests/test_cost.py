"""Multiplications counted from configurations, against the networks themselves."""

import pytest
from mlx.utils import tree_flatten

from mlx_gemma4_assist.models.cost import attention_multiplications, weight_multiplications
from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM


@pytest.mark.parametrize("name", families())
def test_every_weight_of_a_linear_layer_is_one_multiplication(name):
    """Of the networks in their published sizes, never evaluated; of experts, eight in 128 are chosen."""
    config = families()[name].target
    count = 0.0
    for path, array in tree_flatten(Gemma4ForCausalLM(config).parameters()):
        if array.ndim < 2 or "embed_tokens_per_layer" in path:
            continue
        chosen = config.top_k_experts / config.num_experts if ".switch_glu." in path else 1
        count += array.size * chosen
    assert weight_multiplications(config) == count


def test_attention_is_queries_with_keys_and_weights_with_values():
    e2b, dense = families()["E2B"].target, families()["31B"].target
    assert attention_multiplications(e2b) == 7 * 2 * 8 * 512
    assert attention_multiplications(dense) == 10 * 2 * 32 * 512
