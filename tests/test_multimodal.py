"""Pictures, video and sound against what transformers computed and generated: E2B, 12B unified and 31B.

`GOLDENS_DIR` names another folder than the stored goldens, see test_goldens.py.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from support.paths import GOLDENS
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import InputError, load_assistant, stream_generate
from mlx_gemma4_assist.cache.layout import CacheLayout
from mlx_gemma4_assist.cache.rows import KVCache
from mlx_gemma4_assist.cache.soft_tokens import MediaPrompt
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers
from mlx_gemma4_assist.engine.loop import start
from mlx_gemma4_assist.engine.prefill import prefill
from mlx_gemma4_assist.huggingface.prompts import read_prompt
from mlx_gemma4_assist.media.reader import encode_media
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.chunk import Chunk, merged
from mlx_gemma4_assist.rounds.round import propose
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder

CASES = [
    (family, label)
    for family, labels in (
        ("e2b", ("pictures", "video", "sound")),
        ("12b", ("pictures", "video", "sound")),
        ("31b", ("pictures", "video")),
    )
    for label in labels
]
TOLERANCE = 1e-4


def whole_checkpoint(family: str, folder: Path) -> Path:
    """The target with its towers; of the 31B they are stored apart from the text network."""
    target = GOLDENS / family / "target"
    extra = GOLDENS / "multimodal" / family
    if not (extra / "vision.safetensors").exists():
        return target
    shutil.copytree(target, folder)
    shutil.copy(extra / "config.json", folder)
    text = mx.load(str(target / "model.safetensors"))
    renamed = {name.replace("model.", "model.language_model.", 1): value for name, value in text.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), renamed | mx.load(str(extra / "vision.safetensors")))
    return folder


class Golden:
    def __init__(self, family: str, folder: Path):
        stored = GOLDENS / "multimodal" / family
        checkpoint = whole_checkpoint(family, folder / family)
        self.target = load_model(checkpoint)
        self.towers = load_towers(checkpoint)
        self.assistant = load_assistant(GOLDENS / family / "assistant")
        self.records = json.loads((stored / "golden.json").read_text())
        self.tensors = mx.load(str(stored / "golden.safetensors"))

    def arrays(self, label: str) -> dict[str, Any]:
        """What transformers' model was given, by its names."""
        record = self.records[label]
        names = (
            "pixel_values",
            "image_position_ids",
            "pixel_values_videos",
            "video_position_ids",
            "input_features",
            "input_features_mask",
        )
        arrays = {
            name: np.array(self.tensors[f"{label}.{name}"]) for name in names if f"{label}.{name}" in self.tensors
        }
        return arrays | {"input_ids": [record["tokens"]], "mm_token_type_ids": [record["types"]]}

    def encode(self, arrays: dict[str, Any]) -> MediaPrompt:
        return encode_media(self.towers, read_prompt(arrays, {}).prepared(), self.target.config)

    def prompt(self, label: str) -> MediaPrompt:
        return self.encode(self.arrays(label))


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    made = {}

    def of(family: str) -> Golden:
        if family not in made:
            made[family] = Golden(family, tmp_path_factory.mktemp("goldens"))
        return made[family]

    return of


@pytest.mark.parametrize(("family", "label"), CASES)
def test_merged_embeddings_agree(golden, family, label):
    """Towers, projections, and where soft tokens go."""
    found = golden(family)
    prompt = found.prompt(label)
    ids = mx.array([[max(key, 0) for key in prompt.keys]])
    embeddings = merged(found.target, Chunk(ids, mx.array([0]), (), 0, prompt.media))
    expected = found.tensors[f"{label}.inputs_embeds"]
    assert embeddings.shape == expected.shape
    np.testing.assert_allclose(np.array(embeddings), np.array(expected), rtol=0, atol=TOLERANCE)


def first_logits(found: Golden, prompt: MediaPrompt, step_size: int) -> np.ndarray:
    """Logits (1, V) of the first token that would be generated."""
    cache = KVCache(CacheLayout(found.target.config, 12, mx.float32))
    prefill(found.target, cache, prompt.keys[:-1], step_size, media=prompt.media)
    decoder = Decoder(found.target, None, cache.layout, Sampling(), accept)
    state = start(decoder, cache, prompt.keys[-1:], 0)
    return np.array(propose(decoder, state, cache.buffers, 0, len(prompt.keys) - 1).logits[:, 0])


@pytest.mark.parametrize("step_size", [2048, 7])
@pytest.mark.parametrize(("family", "label"), CASES)
def test_first_logits_agree(golden, family, label, step_size):
    """What a picture's tokens see shows here even where the likeliest token stays the same."""
    found = golden(family)
    logits = first_logits(found, found.prompt(label), step_size)
    np.testing.assert_allclose(logits, np.array(found.tensors[f"{label}.logits"]), rtol=0, atol=TOLERANCE)


def generated(golden, family, label, drafts, **options):
    found = golden(family)
    record = found.records[label]
    responses = stream_generate(
        found.target,
        LetterProcessor(),
        found.prompt(label),
        found.assistant if drafts else None,
        max_tokens=len(record["generated"]),
        num_assistant_tokens=drafts or None,
        **options,
    )
    return [response.token for response in responses], record["generated"]


@pytest.mark.parametrize("drafts", [0, 1, 3, 8])
@pytest.mark.parametrize(("family", "label"), CASES)
def test_text_agrees(golden, family, label, drafts):
    """Greedy tokens, plain and assisted."""
    tokens, expected = generated(golden, family, label, drafts)
    assert tokens == expected


@pytest.mark.parametrize("step_size", [7, 20])
@pytest.mark.parametrize(("family", "label"), CASES)
def test_text_agrees_in_chunks(golden, family, label, step_size):
    tokens, expected = generated(golden, family, label, 3, prefill_step_size=step_size)
    assert tokens == expected


@pytest.mark.parametrize("family", ["e2b", "12b", "31b"])
def test_another_picture_gives_other_logits(golden, family):
    """Not another text: with some random weights the likeliest tokens stay the same."""
    found = golden(family)
    arrays = found.arrays("pictures")
    prompts = [found.encode(each) for each in (arrays, arrays | {"pixel_values": 1 - arrays["pixel_values"]})]
    ours, theirs = ({key for key in prompt.keys if key < 0} for prompt in prompts)
    assert ours
    assert not ours & theirs
    first, second = (first_logits(found, prompt, 2048) for prompt in prompts)
    assert np.abs(first - second).max() > 10 * TOLERANCE


def test_placeholders_and_sources_must_match(golden):
    found = golden("e2b")
    arrays = found.arrays("pictures")
    names = ("pixel_values", "image_position_ids")
    with pytest.raises(InputError, match="a picture has 20 placeholders in the prompt, and nothing"):
        found.encode(arrays | {name: arrays[name][:1] for name in names})
    with pytest.raises(InputError, match="more pictures than the prompt has placeholders"):
        found.encode(arrays | {name: [arrays[name][0][:9]] for name in ("input_ids", "mm_token_type_ids")})
    with pytest.raises(InputError, match="6 placeholders in the prompt, and 20 soft tokens"):
        found.encode(arrays | {name: arrays[name][::-1] for name in names})


def test_a_picture_beyond_the_position_table_is_refused(golden):
    """MLX would read what lies behind the table."""
    found = golden("e2b")
    arrays = found.arrays("pictures")
    wide = arrays["image_position_ids"] + 60 * (arrays["image_position_ids"] >= 0)
    with pytest.raises(InputError, match="more than 64 columns or rows"):
        found.encode(arrays | {"image_position_ids": wide})


def test_a_model_without_ears_says_so(golden):
    with pytest.raises(InputError, match="takes no sound"):
        golden("31b").encode(golden("e2b").arrays("sound"))


def test_a_text_network_has_no_towers():
    assert load_towers(GOLDENS / "e4b" / "target") is None
