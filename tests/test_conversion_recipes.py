"""Which layer gets which format, and which format suits which chip; nothing is converted."""

import pytest
from support import checkpoints as helpers
from support.conversion import FORMATS, config_of, convert, small_checkpoint, tensors
from support.paths import GOLDENS

from mlx_gemma4_assist import InputError
from mlx_gemma4_assist.checkpoints.quantized import Quantization
from mlx_gemma4_assist.conversion.formats import GEMMA4, MIXED, RECIPES, Recipe, advice
from mlx_gemma4_assist.conversion.options import ConversionOptions, parse_size
from mlx_gemma4_assist.errors import OptionError
from mlx_gemma4_assist.machine.chip import FormatChoice, chip_generation

FOUR = Quantization(64, 4)
CHIPS = {"Apple M1": 13, "Apple M2 Ultra": 14, "Apple M3 Max": 15, "Apple M4 Pro": 16, "Apple M5": 17}


# Chips


def chosen(generation: int | None, **options) -> FormatChoice:
    return ConversionOptions(hf_path="nowhere", quantize=True, **options).choose_format(generation)


@pytest.mark.parametrize(("chip", "generation"), CHIPS.items())
def test_auto_by_chip(chip, generation):
    """Before M3 a format that has the small-batch kernel there; from M3 on, and on a CPU, the most common one."""
    assert chip_generation(chip) == generation
    choice = chosen(generation, q_mode="auto")
    assert (choice.mode, choice.bits, choice.group_size) == (("nvfp4", 4, 16) if generation < 15 else ("affine", 4, 64))
    eight = chosen(generation, q_mode="auto", q_bits=8)
    assert (eight.mode, eight.bits, eight.group_size) == (("mxfp8", 8, 32) if generation < 15 else ("affine", 8, 64))
    five = chosen(generation, q_mode="auto", q_bits=5)
    assert (five.mode, five.bits, five.group_size, five.reason) == (
        "affine",
        5,
        64,
        "no other format has these sizes",
    )
    assert (advice("affine", generation) is None) == (generation >= 15)
    assert advice("nvfp4", generation) is None


def test_auto_on_a_cpu():
    for bits in (None, 4, 8):
        assert chosen(None, q_mode="auto", q_bits=bits).mode == "affine"
    assert advice("affine", None) is None


def test_auto_with_a_group_size():
    assert chosen(13, q_mode="auto", q_group_size=32)[:3] == ("mxfp4", 4, 32)
    assert chosen(13, q_mode="auto", q_bits=8, q_group_size=32)[:3] == ("mxfp8", 8, 32)
    assert chosen(13, q_mode="auto", q_group_size=128)[:3] == ("affine", 4, 128)
    assert chosen(16, q_mode="auto", q_group_size=32)[:3] == ("affine", 4, 32)
    assert chosen(13, q_mode="auto", q_group_size=16)[:3] == ("nvfp4", 4, 16)
    with pytest.raises(OptionError, match="q_group_size is 16, but no affine quantization"):
        chosen(16, q_mode="auto", q_group_size=16)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_formats_asked_for(form):
    choice = chosen(None, **form)
    assert choice.quantization.exists()
    assert choice.reason == "as asked for"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"q_bits": 7},
            "q_bits is 7, but no affine quantization has 7 bits in groups of 64: affine has 2, 3, 4, 5, 6 or 8 bits",
        ),
        ({"q_bits": 0}, "q_bits is 0, but no affine quantization has 0 bits"),
        ({"q_group_size": 0}, "q_group_size is 0, but no affine quantization has 4 bits in groups of 0"),
        ({"q_group_size": 16}, "q_group_size is 16, but no affine quantization has 4 bits in groups of 16"),
        (
            {"q_mode": "mxfp4", "q_bits": 8},
            "q_mode is mxfp4, q_bits is 8, but no mxfp4 quantization has 8 bits in groups of 32: mxfp4 has 4 bits",
        ),
        ({"q_mode": "auto", "q_bits": 7}, "q_bits is 7, but no affine quantization has 7 bits"),
        ({"q_mode": "auto", "q_bits": 0}, "q_bits is 0, but no affine quantization has 0 bits"),
        ({"q_mode": "int4"}, "q_mode is 'int4', expected affine, mxfp4, mxfp8, nvfp4, auto"),
        ({"quant_predicate": "mixed"}, "quant_predicate is 'mixed', expected one of mixed_2_6"),
        ({"quant_predicate": "mixed_4_6", "q_bits": 3}, "quant_predicate mixed_4_6 does not go with q_bits 3"),
        ({"quant_predicate": "mixed_4_6", "q_mode": "mxfp4"}, "mixed_4_6 exists in affine formats only"),
        ({"quant_predicate": "gemma4_3_6", "q_group_size": 16}, "^q_group_size is 16, but no affine quantization"),
        ({"quantize": False, "q_bits": 3}, "q_bits says how to quantize, which takes quantize"),
        ({"quantize": False, "q_bits": 0}, "q_bits says how to quantize, which takes quantize"),
        ({"quantize": False, "q_mode": "nvfp4"}, "q_mode says how to quantize"),
        ({"dequantize": True}, "either quantize or dequantize"),
        ({"dtype": "int8"}, "dtype is 'int8', expected float32, bfloat16, float16"),
        ({"max_shard_size": "5"}, "max_shard_size is '5', expected a number and a unit, such as 5GB"),
        ({"check": False, "text": "text.txt"}, "text was given to compare over, but no comparison is wanted"),
        ({"upload_repo": "mine"}, "'mine' is not the name of a repo"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_when_they_are_made(options, message):
    with pytest.raises(InputError, match=message):
        ConversionOptions(**{"hf_path": "nowhere", "quantize": True} | options)


def test_recipes_and_modes():
    for recipe, (low, high) in RECIPES.items():
        assert chosen(13, quant_predicate=recipe)[:3] == ("affine", low, 64)
        auto = chosen(13, quant_predicate=recipe, q_mode="auto")
        assert auto.mode == ("nvfp4" if recipe in GEMMA4 and high == 8 else "affine")
        assert auto.bits == low
        if recipe in MIXED or high != 8:
            with pytest.raises(InputError, match="exists in affine formats only|does not go with"):
                Recipe(Quantization(32, 4, "mxfp4"), recipe)


@pytest.mark.parametrize(("size", "expected"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2KiB", 2048)])
def test_sizes(size, expected):
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["5", "GB", "-1GB", "0MB", "five GB", ""])
def test_no_sizes(size):
    with pytest.raises(InputError, match="expected a number and a unit"):
        parse_size(size)


# Layers


def formats(recipe: Recipe, family: str) -> dict[str, Quantization | None]:
    """Of all layers of a network that could be quantized, by path."""
    config = helpers.full_config(family)
    model = helpers.target(family)
    found = {path: recipe.format_of(path, layer, config) for path, layer in model.named_modules()}
    return {path: form for path, form in found.items() if form is not None}


def test_all_alike_but_the_router():
    found = formats(Recipe(Quantization(32, 4, "mxfp4")), "26B-A4B")
    routers = {path for path in found if path.endswith("router.proj")}
    assert len(routers) == 4
    for path, form in found.items():
        assert form == (Quantization(64, 8) if path in routers else Quantization(32, 4, "mxfp4"))
    assert "model.layers.0.experts.switch_glu.gate_proj" in found
    assert "model.embed_tokens" in found


def test_gemma4_recipe():
    six = Quantization(64, 6)
    found = formats(Recipe(FOUR, "gemma4_4_6"), "E2B")
    high = {path.rpartition(".")[2] for path, form in found.items() if form == six}
    sensitive = {"k_proj", "v_proj", "embed_tokens", "per_layer_input_gate", "per_layer_projection"}
    assert high == sensitive | {"down_proj"}
    for path, form in found.items():
        assert form == six or path.rpartition(".")[2] not in sensitive
    found = formats(Recipe(FOUR, "gemma4_4_6"), "26B-A4B")
    assert found["model.layers.2.self_attn.v_proj"] == six
    # Of four layers mlx-lm's recipes choose the last two.
    assert found["model.layers.2.mlp.down_proj"] == six
    assert found["model.layers.1.mlp.down_proj"] == FOUR
    assert found["model.layers.2.experts.switch_glu.down_proj"] == FOUR


def test_gemma4_recipe_in_floating_formats():
    found = formats(Recipe(Quantization(16, 4, "nvfp4"), "gemma4_4_8"), "31B")
    assert found["model.layers.0.self_attn.v_proj"] == Quantization(32, 8, "mxfp8")
    assert found["model.layers.0.mlp.up_proj"] == Quantization(16, 4, "nvfp4")


def test_predicates(tmp_path):
    asked = {}

    def predicate(path, layer, config):
        asked[path] = layer.weight.shape
        if "q_proj" in path:
            return False
        if "o_proj" in path:
            return {"bits": 8}
        if "up_proj" in path:
            return {"mode": "mxfp8"}
        return True

    source = small_checkpoint(tmp_path / "source", "26B-A4B")
    convert(source, tmp_path / "out", quantize=True, quant_predicate=predicate)
    quantization = config_of(tmp_path / "out")["quantization"]
    layer = "language_model.model.layers.0"
    assert asked[f"{layer}.experts.switch_glu.gate_proj"] == (4, 64, 128)
    assert quantization[f"{layer}.self_attn.o_proj"] == {"group_size": 64, "bits": 8, "mode": "affine"}
    assert quantization[f"{layer}.mlp.up_proj"] == {"group_size": 32, "bits": 8, "mode": "mxfp8"}
    assert quantization[f"{layer}.router.proj"] == {"group_size": 64, "bits": 8, "mode": "affine"}
    assert f"{layer}.self_attn.q_proj.scales" not in tensors(tmp_path / "out")
    with pytest.raises(InputError, match="the predicate wants {'bits': 7} for language_model.model.embed_tokens"):
        convert(source, tmp_path / "no", quantize=True, quant_predicate=lambda path, layer, config: {"bits": 7})


def test_layers_that_no_group_divides_are_noted(tmp_path):
    source = small_checkpoint(tmp_path / "source", "E2B")  # down projections of 192 columns
    done = convert(source, tmp_path / "out", quantize=True, q_group_size=128)
    assert any("no multiple of the group size" in note and "down_proj" in note for note in done.notes)
    assert not convert(source, tmp_path / "other", quantize=True, q_group_size=32, text_only=True).notes


@pytest.mark.parametrize("family", ["e2b", "12b"])
def test_assistants(tmp_path, family):
    """The table of a centroid head stays as it is; a dense head is quantized."""
    convert(GOLDENS / family / "assistant", tmp_path / "out", quantize=True)
    found = tensors(tmp_path / "out")
    assert ("model.embed_tokens.scales" in found) == (family == "12b")
    assert ("masked_embedding.centroids.scales" in found) == (family == "e2b")
    assert "pre_projection.scales" in found


def test_an_assistant_has_four_bits(tmp_path):
    """At least, whatever its target has, unless a predicate says so."""
    two = {"quantize": True, "q_bits": 2}
    done = convert(GOLDENS / "31b" / "target", tmp_path / "a", assistant_model=GOLDENS / "31b" / "assistant", **two)
    assert any("the assistant has 4 bits" in note for note in done.notes)
    assert config_of(tmp_path / "a")["quantization"]["bits"] == 2
    assert config_of(tmp_path / "a-assistant")["quantization"]["bits"] == 4
    convert(GOLDENS / "31b" / "assistant", tmp_path / "b", quant_predicate=lambda *_: {"bits": 2}, **two)
    assert config_of(tmp_path / "b")["quantization"]["model.layers.0.self_attn.q_proj"]["bits"] == 2
    recipe = {"quantize": True, "quant_predicate": "mixed_3_6"}
    convert(GOLDENS / "31b" / "assistant", tmp_path / "c", **recipe)
    assert config_of(tmp_path / "c")["quantization"]["bits"] == 4
