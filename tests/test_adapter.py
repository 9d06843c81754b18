"""Adapters of mlx-lm's: the merged network is the one that mlx-lm makes of them; what does not fit is refused."""

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_unflatten
from mlx_lm.tuner.lora import LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model as mlx_lm_load
from support.commands import runner
from support.conversion import TOKENS, convert, largest_difference, logits_of, small_checkpoint

from mlx_gemma4_assist import InputError, Pair, generate, load
from mlx_gemma4_assist.bundle.writing import ExportOptions, export
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.engine.learning import draft_key
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.models.network import named_parameters

RANK, SCALE = 4, 1.5
PROMPT = "It was a fine morning, and"
OF_LINEAR = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
LAYERS = (LoRALinear, LoRASwitchLinear)
CLOSE = 3e-4  # of float32 logits: both round


def lora_config(**changes) -> dict:
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    return {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": parameters} | changes


def save(folder: Path, tensors: dict[str, mx.array], config: dict | None = None) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(lora_config() if config is None else config))
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    return folder


def factors(path: str, shape: tuple[int, ...]) -> dict[str, mx.array]:
    """Random ones of a layer whose dense weight has this shape."""
    mx.random.seed(len(path))
    *experts, out, into = shape
    shapes = ((*experts, RANK, into), (*experts, out, RANK)) if experts else ((into, RANK), (RANK, out))
    names = (f"{path}.lora_a", f"{path}.lora_b")
    return {name: 0.1 * mx.random.normal(each) for name, each in zip(names, shapes, strict=True)}


def lora(folder: Path, checkpoint: Path | str, *keys: str, prefix: str = "language_model.") -> Path:
    """An adapter of layers whose names end so, as mlx-lm writes it."""
    tensors: dict[str, mx.array] = {}
    for name, weight in named_parameters(load_model(checkpoint)).items():
        path = name.removesuffix(".weight")
        if path.endswith(keys) and path != name:
            tensors |= factors(prefix + path, weight.shape)
    inner = {name.rpartition(".")[0].partition(".layers.")[2].partition(".")[2] for name in tensors}
    parameters = {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": sorted(inner)}
    return save(folder, tensors, lora_config(lora_parameters=parameters))


def mlx_lms(checkpoint: Path, adapter: Path) -> nn.Module:
    """mlx-lm's network with its own layers for the adapter."""
    model = load_adapters(mlx_lm_load(checkpoint)[0], str(adapter))
    model.eval()
    return model


def theirs(checkpoint: Path, adapter: Path) -> mx.array:
    """Its logits."""
    return mlx_lms(checkpoint, adapter)(mx.array([TOKENS])).astype(mx.float32)


def fused(checkpoint: Path, adapter: Path) -> dict[str, mx.array]:
    """The parameters of what mlx-lm's ``fuse`` writes, under this package's names."""
    model = mlx_lms(checkpoint, adapter)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)]
    model.update_modules(tree_unflatten([(name, module.fuse()) for name, module in layers]))
    return {name.removeprefix("language_model."): value for name, value in named_parameters(model).items()}


def ours(checkpoint: Path, adapter: Path | None) -> mx.array:
    return logits_of(load_model(checkpoint, adapter_path=adapter))


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    for family in ("E2B", "26B-A4B"):
        convert(small_checkpoint(folder / "published" / family, family), folder / family)  # which mlx-lm loads
    return {family: folder / family for family in ("E2B", "26B-A4B")}


@pytest.fixture(scope="module")
def of_tiny(tmp_path_factory) -> Path:
    """An adapter of the embedded target."""
    return lora(tmp_path_factory.mktemp("tiny") / "adapter", "tiny", *OF_LINEAR)


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("E2B", ("per_layer_input_gate", "self_attn.k_proj")),
        ("26B-A4B", ("switch_glu.gate_proj", "switch_glu.down_proj")),
    ],
)
def test_as_mlx_lm_computes_it(tmp_path, sources, family, more):
    adapter = lora(tmp_path / "adapter", sources[family], *OF_LINEAR, *more)
    found = ours(sources[family], adapter)
    assert largest_difference(found, theirs(sources[family], adapter)) < CLOSE
    assert largest_difference(found, ours(sources[family], None)) > 100 * CLOSE


def test_names_of_text_models_and_embeddings(tmp_path, sources):
    """Without the prefix of multimodal models; an embedding's factors are (ids, rank) and (rank, width)."""
    bare = lora(tmp_path / "bare", sources["E2B"], *OF_LINEAR, prefix="")
    prefixed = lora(tmp_path / "prefixed", sources["E2B"], *OF_LINEAR)
    before = named_parameters(load_model(sources["E2B"]))
    assert named_parameters(load_model(sources["E2B"], adapter_path=bare)).keys() == before.keys()
    assert largest_difference(ours(sources["E2B"], bare), ours(sources["E2B"], prefixed)) > 0  # seeded by their names
    a, b = mx.random.normal((96, RANK)), mx.random.normal((RANK, 128))
    path = "model.embed_tokens"
    adapter = save(tmp_path / "embedding", {f"{path}.lora_a": a, f"{path}.lora_b": b})
    merged = named_parameters(load_model(sources["E2B"], adapter_path=adapter))[f"{path}.weight"]
    assert mx.allclose(merged, before[f"{path}.weight"] + SCALE * (a @ b), atol=1e-5)


@pytest.mark.parametrize("form", [{"q_bits": 8}, {"q_bits": 4}, {"q_mode": "mxfp8"}], ids=str)
def test_over_quantized_layers(tmp_path, sources, form):
    """As mlx-lm's ``fuse`` does it, in the layer's own format; sums that lie between two codes may go either way."""
    convert(sources["26B-A4B"], tmp_path / "base", quantize=True, q_group_size=None, **form)
    adapter = lora(tmp_path / "adapter", sources["26B-A4B"], "self_attn.q_proj", "switch_glu.up_proj")
    plain, merged = load_model(tmp_path / "base"), load_model(tmp_path / "base", adapter_path=adapter)
    before, after = named_parameters(plain), named_parameters(merged)
    assert {name: (x.shape, x.dtype) for name, x in before.items()} == {
        name: (x.shape, x.dtype) for name, x in after.items()
    }
    changed = {name for name, x in before.items() if not mx.array_equal(x, after[name])}
    assert changed
    assert all(".q_proj." in name or ".up_proj." in name for name in changed)
    expected = fused(tmp_path / "base", adapter)
    assert expected.keys() == after.keys()
    packed = [name for name in changed if name.endswith(".weight")]
    parted = 0.15 if "q_mode" in form else 0.01  # mlx-lm adds in bfloat16, which is what mxfp8 is dequantized to
    assert all((after[name] != expected[name]).astype(mx.float32).mean() < parted for name in packed)
    if form == {"q_bits": 8}:
        added = theirs(tmp_path / "base", adapter)
        assert largest_difference(added, logits_of(merged)) < 0.1 * largest_difference(added, logits_of(plain))


def test_whole_weights(tmp_path, sources):
    """As mlx-lm's full fine-tuning saves them: they are the network's, in its own type."""
    before = named_parameters(load_model(sources["E2B"]))
    names = (
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.3.input_layernorm.weight",
        "model.layers.3.layer_scalar",
    )
    new = {f"language_model.{name}": (before[name] * 1.25).astype(mx.bfloat16) for name in names}
    adapter = save(tmp_path / "adapter", new, {"fine_tune_type": "full", "num_layers": 1})
    after = named_parameters(load_model(sources["E2B"], adapter_path=adapter))
    for name, value in before.items():
        expected = new.get(f"language_model.{name}", value).astype(mx.float32)
        assert after[name].dtype == mx.float32
        assert mx.array_equal(after[name], expected), name
    assert largest_difference(ours(sources["E2B"], adapter), theirs(sources["E2B"], adapter)) < CLOSE


def test_drafts_change_no_text(of_tiny):
    pair = Pair.load("tiny", adapter_path=of_tiny)
    plain, processor = load("tiny", adapter_path=of_tiny)
    expected = generate(plain, processor, PROMPT, max_tokens=32)
    options = {"max_tokens": 32, "num_assistant_tokens": 3}
    assert generate(pair.target, processor, PROMPT, assistant_model=pair.assistant, **options) == expected
    assert generate(*load("tiny"), PROMPT, max_tokens=32) != expected


def test_what_belongs_to_an_adapter_is_not_mixed_up(tmp_path):
    """Keys, values and draft lengths: also where no number is changed, for nothing is looked at that closely."""
    path = "model.layers.0.self_attn.q_proj"
    shape = named_parameters(load_model("tiny"))[f"{path}.weight"].shape
    nothing = {name: 0 * value for name, value in factors(path, shape).items()}
    pairs = [Pair.load("tiny")]
    for i, scale in enumerate((1.0, 1.0, 2.0)):
        parameters = {"rank": RANK, "scale": scale}
        adapter = save(tmp_path / str(i), nothing, lora_config(lora_parameters=parameters))
        pairs.append(Pair.load("tiny", adapter_path=adapter))
    fingerprints = [pair.fingerprint for pair in pairs]
    assert fingerprints[1] == fingerprints[2]
    assert len(set(fingerprints)) == 3
    assert len({draft_key(pair.target, pair.assistant, False) for pair in pairs}) == 3
    assert fingerprints[0] == Pair.load("tiny").fingerprint


Q = "model.layers.0.self_attn.q_proj"
GOOD = factors(Q, (64, 128))


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (GOOD, lora_config(fine_tune_type="dora"), "fine_tune_type is 'dora', which is not supported"),
        (GOOD, lora_config(fine_tune_type=[]), r"fine_tune_type is \[\], which"),
        (GOOD, {"peft_type": "LORA", "r": 4}, "lora_parameters say rank None, scale None"),
        (GOOD, lora_config(lora_parameters=5), "lora_parameters is 5, expected an object"),
        (GOOD, lora_config(lora_parameters={"rank": 4, "scale": float("nan")}), "rank 4, scale nan"),
        (GOOD, lora_config(lora_parameters={"rank": 4, "scale": 10**400}), "expected two numbers"),
        (GOOD, lora_config(lora_parameters={"rank": 0, "scale": 1}), "rank 0, scale 1"),
        (GOOD, lora_config(lora_parameters={"rank": 8, "scale": 1}), r"expected \(128, 8\) with rank 8"),
        ({}, None, "has no tensors"),
        (dict(list(GOOD.items())[:1]), None, "has no model.layers.0.self_attn.q_proj.lora_b, but the other"),
        (factors(Q, (64, 96)), None, r"q_proj.lora_a is \(96, 4\), expected \(128, 4\)"),
        (factors("model.layers.9.self_attn.q_proj", (64, 128)), None, "layers.9.*of no layer"),
        (factors("model.layers.3.self_attn.k_proj", (64, 128)), None, "k_proj.*of no layer"),
        (factors("vision_tower.layers.0.q_proj", (64, 128)), None, "vision_tower.*of no layer"),
        (factors("model.layers.0.input_layernorm", (64, 128)), None, "input_layernorm.*of no layer"),
        (GOOD | {f"{Q}.m": mx.zeros((64,))}, None, "q_proj.m, which is of no layer"),
        (GOOD | factors(f"language_model.{Q}", (64, 128)), None, "under two names"),
        ({f"{Q}.weight": mx.zeros((2, 2))}, {"fine_tune_type": "full"}, r"is \(2, 2\), expected \(64, 128\)"),
        ({f"{Q}.wait": mx.zeros((2, 2))}, {"fine_tune_type": "full"}, "of no layer"),
        ({"model.layers.0.layer_scalar": mx.zeros((2,))}, {"fine_tune_type": "full"}, r"is \(2,\), expected"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, sources, tensors, config, message):
    """Before weights are read."""
    adapter = save(tmp_path / "adapter", tensors, config)
    with pytest.raises(InputError, match=message) as refused:
        Checkpoint.open(sources["E2B"], "none", adapter_path=adapter)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=message):
        load_model(sources["E2B"], adapter_path=adapter)


def test_files_that_are_no_adapter(tmp_path):
    adapter = save(tmp_path / "adapter", GOOD)
    large, small = adapter / "adapters.safetensors", adapter / "adapter_config.json"
    large.write_bytes(large.read_bytes()[:-8])
    with pytest.raises(InputError, match="adapters.safetensors is damaged"):
        Checkpoint.open("tiny", adapter_path=adapter)
    large.unlink()
    with pytest.raises(InputError, match=r"adapter has no adapters\.safetensors"):
        Checkpoint.open("tiny", adapter_path=adapter)
    small.write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json is not valid JSON"):
        Checkpoint.open("tiny", adapter_path=adapter)
    small.unlink()
    with pytest.raises(InputError, match=r"adapter has no adapter_config\.json"):
        Checkpoint.open("tiny", adapter_path=adapter)
    for path in (small, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="there is no folder '.*' to read an adapter from"):
            Checkpoint.open("tiny", adapter_path=path)


def test_a_bundle_has_none(tmp_path, of_tiny):
    with pytest.raises(InputError, match="fuse it first"):
        export(Checkpoint.open("tiny", adapter_path=of_tiny), tmp_path / "out", ExportOptions())


@pytest.mark.parametrize("name", ["generate", "chat"])
def test_commands_heed_it(monkeypatch, capsys, of_tiny, name):
    run = runner(monkeypatch, capsys)
    arguments = (name, "--prompt", PROMPT, "--max-tokens", "16", "--temp", "0", "--no-learned")
    plain, tuned = run(*arguments), run(*arguments, "--adapter-path", str(of_tiny))
    assert plain.returncode == tuned.returncode == 0, tuned.stderr
    assert tuned.stdout != plain.stdout
    assert run(*arguments, "--adapter-path", str(of_tiny), "--assistant-model", "none").stdout == tuned.stdout
    refused = run(*arguments, "--adapter-path", "nowhere")
    assert refused.returncode == 2
    assert "there is no folder 'nowhere' to read an adapter from" in refused.stderr.splitlines()[-1]
