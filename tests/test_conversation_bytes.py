"""How large a prefix cache is that holds a whole conversation."""

import mlx.core as mx
import pytest

from mlx_gemma4_assist.cache.quantization import KVQuantization
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.engine.prefix_options import conversation_bytes
from mlx_gemma4_assist.models.config import Gemma4TextConfig
from mlx_gemma4_assist.models.families import families

HUGE = 2**50
GB = 1e9


def by_name(name: str) -> Gemma4TextConfig:
    return next(family.target for key, family in families().items() if name in key)


@pytest.mark.parametrize(("name", "least", "most"), [("E2B", 0.7, 1.2), ("12B", 5, 25), ("31B", 20, 40)])
def test_published_models(name, least, most):
    """A token takes 6 kB to 82 kB in full layers, a restore point 6 MB to 839 MB."""
    assert least < conversation_bytes(by_name(name), HUGE) / GB < most


def test_it_takes_a_quarter_of_the_memory_at_most():
    config = by_name("31B")
    assert conversation_bytes(config, 16 * 2**30) == 4 * 2**30
    assert 0 < conversation_bytes(config) <= conversation_bytes(config, HUGE)


def test_quantized_keys_take_less():
    config = by_name("31B")
    assert conversation_bytes(config, HUGE, quantization=KVQuantization(4, 64, 0)) < conversation_bytes(config, HUGE)
    assert conversation_bytes(config, HUGE, dtype=mx.float32) > 1.9 * conversation_bytes(config, HUGE)


def test_a_whole_conversation_fits():
    """Read in many turns, up to the context: no point of it is given up."""
    pair = Checkpoint.open("tiny").load()
    config = pair.target.config
    engine = Engine(pair, prefix_cache_bytes=conversation_bytes(config, HUGE, dtype=pair.dtype))
    context = config.max_position_embeddings
    for length in range(context // 8, context, context // 8):
        engine.read_ahead([5 + i % 100 for i in range(length)])
        while engine.idle():
            pass
    assert engine.prefix.stats.given_up == 0
    assert engine.prefix.nbytes > 0
