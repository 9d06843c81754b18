"""doctor: sizes against the networks themselves, machines that are not here, checkpoints in every state."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from support.decoding import random_pair
from support.paths import GOLDENS

from mlx_gemma4_assist import InputError, make_prompt_cache
from mlx_gemma4_assist.cache.store import empty
from mlx_gemma4_assist.checkpoints import hub
from mlx_gemma4_assist.checkpoints.quantized import Quantization
from mlx_gemma4_assist.commands import doctor as command
from mlx_gemma4_assist.machine import doctor as findings
from mlx_gemma4_assist.machine.doctor import describe_machine, examine, is_older, package_problems
from mlx_gemma4_assist.machine.memory import Fit, context_bytes, fit, pair_bytes, weight_bytes
from mlx_gemma4_assist.models.config import check_pair
from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM

M1_INFO = {
    "device_name": "Apple M1 Pro",
    "architecture": "applegpu_g13s",
    "memory_size": 16 * 2**30,
    "max_recommended_working_set_size": 11_453_251_584,
}
M1 = describe_machine(M1_INFO, True)
M3 = describe_machine(M1_INFO | {"device_name": "Apple M3 Max", "architecture": "applegpu_g15s"}, True)
CPU = describe_machine({"device_name": "AMD EPYC", "architecture": "x86_64"}, False)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_download", lambda *_: pytest.fail("the doctor went to the network"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


# Sizes


@pytest.mark.parametrize(
    ("name", "billions"), [("E2B", 4.6), ("E4B", 7.5), ("12B", 11.9), ("26B-A4B", 25.2), ("31B", 30.7)]
)
def test_parameters_of_the_five_sizes(name, billions):
    """The text networks: E2B and E4B are published as 5.1 and 8 billion with towers and per-layer embeddings."""
    family = families()[name]
    check_pair(family.target, family.assistant)
    assert weight_bytes(Gemma4ForCausalLM(family.target)) / 2e9 == pytest.approx(billions, abs=0.1)


def test_quantized_bytes_are_those_of_a_quantized_network():
    network = random_pair()[0]
    for _, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight = module.weight.astype(mx.bfloat16)
    packed = weight_bytes(network, Quantization(32, 4))
    layers = [m for _, m in network.named_modules() if isinstance(m, nn.QuantizedLinear | nn.QuantizedEmbedding)]
    in_layers = sum(a.nbytes for layer in layers for _, a in tree_flatten(layer.parameters()))
    others = sum(a.size for name, a in tree_flatten(network.parameters()) if "norm" in name or "scalar" in name)
    assert len(layers) > 30
    assert packed == in_layers + 2 * others


def test_formats_shrink():
    family = families()["E2B"]
    sizes = [pair_bytes(family, quantization) for quantization in findings.FORMATS.values()]
    assert [size / sizes[0] for size in sizes] == pytest.approx([1, 8.5 / 16, 4.5 / 16], abs=0.01)


@pytest.mark.parametrize("context", [256, 4096])
def test_context_bytes_are_those_of_the_cache(context):
    target, assistant = random_pair()
    layout = make_prompt_cache(target, assistant).layout
    held = empty(layout, 1, context)  # without the room that a cache grows by
    nbytes = sum(keys.nbytes + values.nbytes for keys, values in held)
    assert context_bytes(target.config, context).keys_values == nbytes // 2  # half precision


def test_known_costs_of_contexts():
    costs = {name: context_bytes(family.target, 32_768) for name, family in families().items()}
    assert costs["E2B"].per_token == 3 * 1 * 512 * 2 * 2  # 15 of 35 layers own keys, every fifth is full
    assert costs["E4B"].per_token == 4 * 2 * 512 * 2 * 2
    assert costs["26B-A4B"].per_token == 5 * 2 * 512 * 2 * 2
    assert costs["31B"].per_token == 10 * 4 * 512 * 2 * 2
    assert costs["31B"].scores == 32 * 2048 * 32_768 * 2
    assert context_bytes(families()["31B"].target, 10).scores == 32 * 10 * 10 * 2


def test_fit():
    assert [fit(needed, 100) for needed in (90, 91, 100, 101)] == [Fit.FITS, Fit.TIGHT, Fit.TIGHT, Fit.NO]


# Machines


def test_machines():
    assert (M1.generation, M1.usable) == (13, 11_453_251_584)
    assert M3.generation == 15
    assert (CPU.metal, CPU.generation) == (False, None)
    assert CPU.usable == CPU.memory > 2**30
    unknown = describe_machine({}, False)
    assert unknown.name == "unknown"


def test_this_machine_and_its_packages():
    machine = findings.this_machine()
    assert machine.metal == mx.metal.is_available()
    assert machine.memory >= machine.usable > 0
    assert package_problems(findings.versions()) == []
    assert "0.31.9 is older than 0.32.2" in package_problems({"mlx": "0.31.9"})[0]


def test_versions_in_order():
    assert is_older("0.31.10", "0.32.2")
    assert is_older("0.32.1", "0.32.2")
    assert not is_older("0.32.2", "0.32.2")
    assert not is_older("1.0", "0.32.2")
    assert not is_older("0.33.0.dev20261101+abc", "0.32.2")


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    """An E2B in miniature with its assistant beside it."""
    folder = tmp_path / "pair"
    shutil.copytree(GOLDENS / "e2b" / "target", folder)
    shutil.copytree(GOLDENS / "e2b" / "assistant", tmp_path / "pair-assistant")
    return folder


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_pair_that_matches(checkpoint):
    found = examine(CPU, str(checkpoint))
    assert found.problems == found.advice == ()
    assert found.fit is Fit.FITS
    assert found.assistant == f"{checkpoint}-assistant, matches"
    assert found.format == "not quantized, float32"
    assert found.small_batch_kernel is None
    assert found.tokens == 4096  # all that it has
    files = (checkpoint / "model.safetensors", Path(f"{checkpoint}-assistant") / "model.safetensors")
    assert found.weights == sum(file.stat().st_size for file in files)


def test_an_assistant_of_another_target(checkpoint):
    found = examine(CPU, str(checkpoint), str(GOLDENS / "31b" / "assistant"))
    (problem,) = found.problems
    assert "the assistant does not belong to this target" in problem


def test_an_assistant_that_is_not_here(checkpoint):
    shutil.rmtree(f"{checkpoint}-assistant")
    assert examine(CPU, str(checkpoint)).assistant == "none is known for this target"
    assert examine(CPU, str(checkpoint), "none").assistant == "none"
    away = examine(CPU, str(checkpoint), "google/gemma-4-E2B-it-assistant")
    assert "not in the Hub's cache" in away.assistant
    assert away.problems == ()
    with pytest.raises(InputError, match="no folder 'nowhere'"):
        examine(CPU, str(checkpoint), "nowhere")


def test_quantized_weights_on_two_chips(checkpoint):
    change_config(checkpoint, quantization={"group_size": 64, "bits": 4, "lm_head": {"bits": 8, "group_size": 64}})
    old, new = (examine(machine, str(checkpoint)) for machine in (M1, M3))
    assert old.format == new.format == "affine, 4 bits in groups of 64; some layers otherwise"
    assert (old.small_batch_kernel, new.small_batch_kernel) == (False, True)
    assert "nvfp4, 4 bits in groups of 16" in old.advice[0]
    assert new.advice == ()
    change_config(checkpoint, quantization={"group_size": 16, "bits": 4, "mode": "nvfp4"})
    assert examine(M1, str(checkpoint)).small_batch_kernel is True


def test_files_that_are_missing(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    found = examine(CPU, str(checkpoint))
    assert found.fit is None
    assert "has no safetensors files" in found.problems[0]


@pytest.mark.parametrize("of", ["pair", "pair-assistant"])
def test_weights_that_are_cut_off(checkpoint, of):
    file = checkpoint.with_name(of) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (problem,) = examine(CPU, str(checkpoint)).problems
    assert f"{file} is damaged, perhaps by an incomplete download" in problem


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_an_assistant_of_nan(checkpoint, dtype):
    file = checkpoint.with_name("pair-assistant") / "model.safetensors"
    weights = {name: x.astype(dtype) if "norm" in name else x for name, x in mx.load(str(file)).items()}
    mx.save_safetensors(str(file), weights)
    assert examine(CPU, str(checkpoint)).problems == ()
    weights["model.norm.weight"][3] = float("nan")
    mx.save_safetensors(str(file), weights)
    (problem,) = examine(CPU, str(checkpoint)).problems
    assert problem == f"{file.parent} drafts nothing that is accepted: there is NaN in model.norm.weight"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_a_tokenizer_that_is_missing_or_damaged(checkpoint, content):
    file = checkpoint / "tokenizer.json"
    file.unlink() if content is None else file.write_text(content)
    (problem,) = examine(CPU, str(checkpoint)).problems
    assert "no tokenizer.json" in problem or "the tokenizer files of" in problem


def test_too_long_and_too_large(checkpoint):
    small = describe_machine(M1_INFO | {"max_recommended_working_set_size": 10**8}, True)
    found = examine(small, str(checkpoint), context=100_000)
    assert found.fit is Fit.NO
    assert "iogpu.wired_limit_mb" in found.problems[0]
    assert "the context asked for is 100,000 tokens, the model's 4,096" in found.problems[1]


def test_what_cannot_be_a_target(checkpoint, tmp_path):
    with pytest.raises(InputError, match="this is an assistant"):
        examine(CPU, f"{checkpoint}-assistant")
    change_config(checkpoint, quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(InputError, match="quantized by awq"):
        examine(CPU, str(checkpoint))
    with pytest.raises(InputError, match="has no config.json"):
        examine(CPU, str(tmp_path))


def test_repos_in_the_cache_and_not(checkpoint, tmp_path):
    assert examine(CPU, "google/gemma-4-E2B-it").folder is None
    repo = tmp_path / "cache" / "models--someone--gemma-4-E2B-it"
    shutil.copytree(checkpoint, repo / "snapshots" / "c0ffee")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("c0ffee")
    found = examine(CPU, "someone/gemma-4-E2B-it")
    assert found.folder == repo / "snapshots" / "c0ffee"
    assert found.assistant.startswith("google/gemma-4-E2B-it-assistant, not in the Hub's cache")


# The command


def test_command_on_this_machine(capsys):
    assert command.doctor() == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("E2B", "E4B", "12B", "26B-A4B", "31B", mx.__version__))
    if not mx.metal.is_available():
        assert "CPU backend: correctness only" in out


def test_command_on_a_mac(checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(findings, "this_machine", lambda: M1)
    change_config(checkpoint, quantization={"group_size": 64, "bits": 4})
    assert command.doctor(model=str(checkpoint), context=1000) == 0
    out = capsys.readouterr().out
    assert "Apple M1 Pro, Metal (applegpu_g13s, GPU generation 13)" in out
    assert "affine per token, mxfp4 once" in out
    assert "Recommended: nvfp4" in out
    assert "affine, 4 bits in groups of 64 (read once per token of a block)" in out
    assert "Advice: " in out
    assert "Problem" not in out


def test_command_json_and_problems(checkpoint, capsys):
    (checkpoint / "model.safetensors").unlink()
    assert command.doctor(model=str(checkpoint), context=5000, as_json=True) == 1
    content = json.loads(capsys.readouterr().out)
    assert len(content["sizes"]) == 5
    assert content["sizes"][0]["context"]["per_token"] == 6144
    assert content["checkpoint"]["folder"] == str(checkpoint)
    assert len(content["problems"]) == 2


@pytest.mark.parametrize(
    ("options", "message"), [({"context": 0}, "--context is 0"), ({"assistant_model": "x"}, "belongs to a --model")]
)
def test_command_refuses_nonsense(options, message):
    with pytest.raises(InputError, match=message):
        command.doctor(**options)
