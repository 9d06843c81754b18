"""The networks and greedy decoding against what transformers computed, for each of the five families.

The stored goldens are read by default. `GOLDENS_DIR` names another folder, such as one that
`tests/reference/make_goldens.py --out DIR --seed N` has just written.
"""

import json
from dataclasses import dataclass

import mlx.core as mx
import pytest
from support.goldens import assert_close
from support.paths import FAMILIES, GOLDENS

from mlx_gemma4_assist import Processor, load, load_assistant, stream_generate
from mlx_gemma4_assist.cache.block import Block
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM

PROMPTS = ("short", "window", "long")
SLACK = 12


@dataclass(frozen=True)
class Golden:
    """One family: both networks, and the reference's record of each prompt (JSON) and tensors (named by prompt)."""

    target: Gemma4ForCausalLM
    processor: Processor
    assistant: Gemma4AssistantForCausalLM
    prompts: dict[str, dict]
    tensors: dict[str, mx.array]


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDENS / request.param
    target, processor = load(folder / "target")
    return Golden(
        target=target,
        processor=processor,
        assistant=load_assistant(folder / "assistant"),
        prompts=json.loads((folder / "golden.json").read_text())["prompts"],
        tensors=mx.load(str(folder / "golden.safetensors")),
    )


def prefill(target: Gemma4ForCausalLM, prompt: list[int], chunk: int) -> mx.array:
    """Hidden states (1, L, H) of `prompt`, read in pieces of `chunk` tokens."""
    layout = CacheLayout(target.config, SLACK, mx.float32)
    cache = KVCache(layout)
    pieces = []
    for start in range(0, len(prompt), chunk):
        piece = prompt[start : start + chunk]
        block = Block(layout, cache.buffers, mx.array([start], mx.int32), len(piece), start, exact=True)
        pieces.append(target(mx.array([piece]), block))
        cache.store(block.buffers, [start + len(piece)])
    return mx.concatenate(pieces, axis=1)


@pytest.mark.parametrize("chunk", [1000, 20, 7, 1])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_target_agrees(golden: Golden, prompt: str, chunk: int):
    """Hidden states and logits of a prompt, in one forward and in pieces longer and shorter than the cache's slack."""
    hidden = prefill(golden.target, golden.prompts[prompt]["prompt"], chunk)
    assert_close(hidden, golden.tensors[f"{prompt}.hidden"])
    assert_close(golden.target.logits(hidden), golden.tensors[f"{prompt}.logits"])


def assert_same_drafts(found: mx.array, expected: mx.array, centroid_head: bool) -> None:
    """Logits agree; ids that a centroid head leaves out are impossible here and the minimum - 1 in transformers."""
    if centroid_head:
        left_out = mx.isinf(found)
        floor = expected.min()
        assert mx.array_equal(left_out, expected == floor)
        found = mx.where(left_out, floor, found)
    assert_close(found, expected)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_assistant_agrees(golden: Golden, prompt: str):
    """Logits and projected state of two drafts, the second fed with what the first one made."""
    stored = {name.removeprefix(f"{prompt}."): x for name, x in golden.tensors.items() if name.startswith(f"{prompt}.")}
    kinds = ("sliding_attention", "full_attention")
    shared = {kind: tuple(stored[f"shared_kv_states.{kind}.{part}"] for part in ("key", "value")) for kind in kinds}
    position = mx.array([len(golden.prompts[prompt]["prompt"])], mx.int32)
    centroid_head = golden.assistant.config.use_ordered_embeddings
    inputs_embeds = stored["draft.0.inputs_embeds"]
    for step in range(2):
        assert_close(inputs_embeds, stored[f"draft.{step}.inputs_embeds"])
        hidden, projected = golden.assistant(inputs_embeds, position, shared, dict.fromkeys(kinds))
        logits, expected = golden.assistant.logits(hidden), stored[f"draft.{step}.logits"]
        assert_same_drafts(logits, expected, centroid_head)
        assert_close(projected, stored[f"draft.{step}.projected"])
        token = golden.assistant.argmax(hidden)
        assert token.item() == expected.argmax().item()
        inputs_embeds = mx.concatenate([golden.target.embed(token), projected], axis=-1)


def generated(
    golden: Golden,
    prompt: str,
    assistant: Gemma4AssistantForCausalLM | None,
    count: int | None,
    tokens: int | None = None,
):
    """Greedy responses, as many as the reference has tokens unless told."""
    record = golden.prompts[prompt]
    responses = stream_generate(
        golden.target,
        golden.processor,
        record["prompt"],
        assistant,
        max_tokens=tokens or len(record["tokens"]),
        num_assistant_tokens=count,
    )
    return list(responses)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_plain_text_agrees(golden: Golden, prompt: str):
    responses = generated(golden, prompt, None, None)
    assert [response.token for response in responses] == golden.prompts[prompt]["tokens"]


@pytest.mark.parametrize(
    ("prompt", "count"), [("long", 0), *((prompt, count) for prompt in PROMPTS for count in (1, 3, 8))]
)
def test_assisted_text_agrees(golden: Golden, prompt: str, count: int):
    """The same tokens, and the same ones of them drafted as by the reference's networks on exactly verified keys."""
    responses = generated(golden, prompt, golden.assistant, count)
    assert [response.token for response in responses] == golden.prompts[prompt]["tokens"]
    accepted = golden.prompts[prompt]["accepted"].get(str(count), [])
    drafted = [False] + [place < n for n in accepted for place in range(n + 1)]
    # How many drafts the last rounds make depends on how far they were submitted ahead.
    steady = len(responses) - count - 2 if count else 0
    assert [response.from_draft for response in responses][:steady] == drafted[:steady]


@pytest.mark.parametrize("count", [2, 4, 5, 6, 7])
def test_every_other_number_of_drafts_gives_the_same_text(golden: Golden, count: int):
    """On the prompt whose text lies beyond the sliding window from its first token on: it goes around every ring."""
    responses = generated(golden, "long", golden.assistant, count, tokens=48)
    assert [response.token for response in responses] == golden.prompts["long"]["tokens"][:48]
