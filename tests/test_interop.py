"""Conversions in both directions between this package and mlx-vlm, towers and assistants included.

Skipped without mlx-vlm (0.7 is known to work); mlx-lm, which is always there, is covered by test_conversion.py.
"""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from support.conversion import (
    TOKENS,
    config_of,
    convert,
    largest_difference,
    logits,
    tensors,
)
from support.paths import FAMILIES, GOLDENS
from support.stand_ins import LetterProcessor

from mlx_gemma4_assist import Processor, load_assistant, stream_generate
from mlx_gemma4_assist.checkpoints.loading import load_model, load_towers

mlx_vlm = pytest.importorskip("mlx_vlm")

from mlx_vlm.generate.ar import generate_step  # noqa: E402
from mlx_vlm.quant_utils import quantize_model  # noqa: E402
from mlx_vlm.speculative.drafters import load_drafter  # noqa: E402
from mlx_vlm.utils import get_model_and_args, save_config, save_weights, update_module_configs  # noqa: E402
from mlx_vlm.utils import load_model as mlx_vlm_load  # noqa: E402

FORMATS = ({}, {"quantize": True}, {"quantize": True, "q_mode": "nvfp4"})
LONG = 24
CLOSE = 3e-4  # of float32 logits: both round


def multimodal(family: str, folder: Path) -> Path:
    """A golden checkpoint; the towers of e2b and 12b in the sizes that mlx-vlm takes for given."""
    shutil.copytree(GOLDENS / family / "target", folder)
    config = config_of(folder)
    if "audio_config" not in config:
        return folder
    if family == "e2b":
        config["audio_config"]["subsampling_conv_channels"] = [128, 4]
    else:
        config["audio_config"]["audio_embed_dim"] = 640
        config["vision_config"]["model_patch_size"] = 8
    config["vocab_size"] = 128
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: x for name, x in tensors(folder).items() if name.startswith("model.language_model.")}
    for name, value in tree_flatten(mlx_vlm_model(config).parameters()):
        if name.startswith("language_model."):
            continue
        value = mx.random.normal(value.shape) if mx.isfinite(value).all() and value.size > 1 else value
        if value.ndim == 4:  # PyTorch has channels before height and width
            value = value.transpose(0, 3, 1, 2)
        elif "depthwise_conv1d" in name:
            value = value.transpose(0, 2, 1)
        weights[f"model.{name}"] = mx.contiguous(value)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    return folder


def mlx_vlm_model(config: dict):
    """mlx-vlm's network for a config.json, as its loader builds it, without weights."""
    config = json.loads(json.dumps(config))
    classes, _ = get_model_and_args(config)
    found = classes.ModelConfig.from_dict(config)
    return classes.Model(update_module_configs(found, classes, config, ["text", "vision", "audio"]))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {family: multimodal(family, folder / family) for family in FAMILIES}


def ours(folder: Path, assistant: Path | None = None, prompt: list[int] = TOKENS) -> list[int]:
    """Greedy tokens of this package."""
    drafter = None if assistant is None else load_assistant(assistant)
    count = None if assistant is None else 3
    text = stream_generate(
        load_model(folder), LetterProcessor(), prompt, drafter, max_tokens=LONG, num_assistant_tokens=count
    )
    return [response.token for response in text]


def theirs(model, drafter=None, prompt: list[int] = TOKENS) -> list[int]:
    """Greedy tokens of mlx-vlm."""
    options = {"max_tokens": LONG, "temperature": 0.0}
    if drafter is not None:
        options |= {"draft_model": drafter, "draft_kind": "mtp", "draft_block_size": 4}
    return [int(token) for token, _ in generate_step(mx.array([prompt]), model, None, None, **options)]


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_our_pairs_in_mlx_vlm(tmp_path, sources, family, form):
    """It loads target and assistant, and writes the same text, with drafts that are accepted."""
    convert(sources[family], tmp_path / "out", assistant_model=GOLDENS / family / "assistant", **form)
    model = mlx_vlm_load(tmp_path / "out")
    drafter, kind = load_drafter(str(tmp_path / "out-assistant"))
    assert kind == "mtp"
    expected = ours(tmp_path / "out")
    assert theirs(model) == expected
    assert theirs(model, drafter) == expected
    assert sum(drafter.accept_lens) > 0
    assert ours(tmp_path / "out", tmp_path / "out-assistant") == expected


@pytest.mark.parametrize("form", FORMATS[1:], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_mlx_vlm_converts(tmp_path, sources, family, form):
    """Its conversion is ours, tensor for tensor, towers included; it loads here and gives the same logits."""
    convert(sources[family], tmp_path / "float")
    options = {"q_group_size": None, "q_bits": None} | form
    mlx_vlm.convert(str(tmp_path / "float"), str(tmp_path / "theirs"), **options)
    convert(sources[family], tmp_path / "ours", **form)
    one, other = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert mx.array_equal(array, other[name]), name
    found = mlx_vlm_load(tmp_path / "theirs")(mx.array([TOKENS])).logits
    assert largest_difference(logits(tmp_path / "theirs"), found) < CLOSE
    assert (load_towers(tmp_path / "theirs") is not None) == (family in ("e2b", "12b"))


@pytest.mark.parametrize("family", ["12b", "31b"])
def test_their_assistants_here(tmp_path, sources, family):
    """Quantized and saved by mlx-vlm, whose command wants a processor that assistants do not have."""
    source = GOLDENS / family / "assistant"
    drafter, _ = load_drafter(str(source))
    config = config_of(source)
    drafter, config = quantize_model(drafter, config, 64, 4)
    save_weights(tmp_path / "theirs", drafter)
    save_config(config, tmp_path / "theirs" / "config.json")
    convert(source, tmp_path / "ours", quantize=True)
    one, other = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert one.keys() == other.keys()
    assert all(mx.array_equal(array, other[name]) for name, array in one.items())
    assert ours(sources[family], tmp_path / "theirs") == ours(sources[family])


def test_mixed_recipes_in_mlx_vlm(tmp_path, sources):
    convert(sources["26b-a4b"], tmp_path / "out", quantize=True, quant_predicate="gemma4_4_8")
    assert theirs(mlx_vlm_load(tmp_path / "out")) == ours(tmp_path / "out")
    convert(sources["e2b"], tmp_path / "text", text_only=True, quantize=True, quant_predicate="mixed_3_6")
    assert theirs(mlx_vlm_load(tmp_path / "text")) == ours(tmp_path / "text")


def test_the_embedded_pair(tmp_path):
    convert("tiny", tmp_path / "out", assistant_model=None, quantize=True)
    drafter, _ = load_drafter(str(tmp_path / "out-assistant"))
    prompt = Processor.from_pretrained(tmp_path / "out").encode("It was a fine morning, and", chat=False)
    found = theirs(mlx_vlm_load(tmp_path / "out"), drafter, prompt)
    assert found == ours(tmp_path / "out", tmp_path / "out-assistant", prompt)
    assert sum(drafter.accept_lens) > LONG / 3
