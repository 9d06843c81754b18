"""The convert command as a user runs it, and the function: check, cards, upload."""

import json
import os
import subprocess
import sys
from dataclasses import MISSING, fields
from inspect import Parameter, signature
from pathlib import Path

import pytest
from support.commands import runner
from support.conversion import config_of, small_assistant, small_checkpoint
from support.paths import ROOT

import mlx_gemma4_assist
from mlx_gemma4_assist import InputError, assistant_for, load, load_assistant
from mlx_gemma4_assist.commands.convert import ConversionChoice
from mlx_gemma4_assist.conversion import convert as module
from mlx_gemma4_assist.conversion.convert import run
from mlx_gemma4_assist.conversion.options import ConversionOptions
from mlx_gemma4_assist.conversion.upload import Upload
from mlx_gemma4_assist.evaluation.quality import bundled_text

SCRIPT = (sys.executable, str(ROOT / "convert.py"))


def script(*arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    return subprocess.run([*SCRIPT, *arguments], capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(bundled_text()[:150])
    return file


def test_the_embedded_pair(tmp_path, text):
    """One line makes both folders, says what it cost, and writes it down; and what it writes answers."""
    folder = tmp_path / "out"
    done = script("--hf-path", "tiny", "-q", "--mlx-path", str(folder), "--text", str(text))
    assert done.returncode == 0, done.stderr
    assert "Format: affine, 4 bits in groups of 64" in done.stderr
    assert f"{folder}: 5.6 MB -> 1.8 MB, 5.06 bits per weight" in done.stdout
    for figure in ("KL divergence", "same likeliest token", "perplexity", "draft 3 accepted"):
        assert figure in done.stdout
        for card in (folder / "README.md", tmp_path / "out-assistant" / "README.md"):
            assert figure in card.read_text()
    assert "python -m mlx_gemma4_assist convert --hf-path tiny" in (folder / "README.md").read_text()
    load(folder)
    load_assistant(assistant_for(folder))


def test_json(tmp_path, monkeypatch, capsys):
    arguments = (
        "--hf-path",
        "tiny",
        "--mlx-path",
        str(tmp_path / "out"),
        "-q",
        "--q-mode",
        "auto",
        "--no-check",
        "--json",
    )
    done = json.loads(runner(monkeypatch, capsys)("convert", *arguments).stdout)
    assert [Path(one["folder"]).name for one in done["written"]] == ["out", "out-assistant"]
    assert done["format"]["mode"] in ("affine", "nvfp4")
    assert done["quality"] is None
    assert done["written"][0]["bits_per_weight"] < 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hf-path", "nowhere"], "no folder 'nowhere'"),
        (["--hf-path", "nowhere", "--q-bits", "4"], "--q-bits says how to quantize, which takes --quantize"),
        (["--hf-path", "nowhere", "--q-bits", "0"], "--q-bits says how to quantize, which takes --quantize"),
        (
            ["--hf-path", "nowhere", "--q-group-size", "0"],
            "--q-group-size says how to quantize, which takes --quantize",
        ),
        (["--hf-path", "nowhere", "-q", "--q-bits", "9"], "--q-bits is 9, but no affine quantization has 9 bits"),
        (["--hf-path", "nowhere", "-q", "--q-bits", "0"], "--q-bits is 0, but no affine quantization has 0 bits"),
        (["--hf-path", "nowhere", "-q", "--q-group-size", "0"], "--q-group-size is 0, but no affine quantization"),
        (["--hf-path", "nowhere", "-q", "--q-group-size", "5"], "--q-group-size is 5, but no affine quantization"),
        (["--hf-path", "nowhere", "-q", "--q-mode", "int4"], "--q-mode is 'int4', expected affine, mxfp4"),
        (["--hf-path", "nowhere", "-q", "--quant-predicate", "best"], "--quant-predicate is 'best', expected one of"),
        (["--hf-path", "nowhere", "-q", "-d"], "either --quantize or --dequantize, not both"),
        (["--hf-path", "nowhere", "--dtype", "int8"], "--dtype is 'int8', expected float32"),
        (["--hf-path", "tiny", "-d"], "tiny is not quantized"),
        (["--hf-path", "nowhere", "--max-shard-size", "big"], "--max-shard-size is 'big'"),
        (["--hf-path", "nowhere", "--no-check", "--text", "a.txt"], "--text was given to compare over"),
        (["--hf-path", "nowhere", "--upload-repo", "mine"], "'mine' is not the name of a repo"),
        (["--hf-path", "nowhere", "--text", "nowhere.txt"], "cannot read nowhere.txt"),
        (["--hf-path", "tiny-assistant", "--check"], "there is no target to compare with"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    done = runner(monkeypatch, capsys)("convert", *arguments, "--mlx-path", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_function_has_mlx_lm_s_arguments(tmp_path):
    """As mlx-lm's, by position too; small models are compared unasked only if they have a tokenizer."""
    source = small_checkpoint(tmp_path / "source")
    small_assistant(tmp_path / "source-assistant")
    (source / "tokenizer.json").unlink()
    done = mlx_gemma4_assist.convert(str(source), str(tmp_path / "out"), True, 32, 4, "affine", "bfloat16")
    quantization = config_of(tmp_path / "out")["quantization"]
    assert {"group_size": 32, "bits": 4, "mode": "affine"}.items() <= quantization.items()
    assert done.quality is None
    assert "bfloat16" in config_of(tmp_path / "out")["dtype"]
    assert (tmp_path / "out-assistant" / "README.md").exists()
    with pytest.raises(InputError, match="tokenizer"):
        mlx_gemma4_assist.convert(source, tmp_path / "other", check=True)


def test_large_models_are_compared_on_request(tmp_path, text, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 1e6)
    compared = []

    def converted(name: str, **options):
        asked = ConversionOptions(hf_path="tiny", mlx_path=tmp_path / name, quantize=True, **options)
        return run(asked, comparing=lambda done, total: compared.append((done, total)))

    assert converted("unasked").quality is None
    assert not compared
    assert converted("asked", text=text).quality.kl > 0
    assert compared[-1][0] == compared[-1][1] > 1


def test_upload(tmp_path, monkeypatch):
    """Both folders, complete with their cards, under two names."""
    seen = []

    def upload(folder, repo_id):
        seen.append((folder, repo_id, (folder / "README.md").read_text()))
        return Upload(repo_id, (), None)

    monkeypatch.setattr(module, "upload_folder", upload)
    form = {"quantize": True, "check": False}
    run(ConversionOptions(hf_path="tiny", mlx_path=tmp_path / "out", upload_repo="me/small", **form))
    assert [(folder.name, repo) for folder, repo, _ in seen] == [
        ("out", "me/small"),
        ("out-assistant", "me/small-assistant"),
    ]
    assert "me/small-assistant" in seen[0][2]
    alone = {"hf_path": "tiny-assistant", "mlx_path": tmp_path / "alone", "upload_repo": "me/other-assistant"}
    run(ConversionOptions(**alone, quantize=True))
    assert seen[-1][1] == "me/other-assistant"


def test_the_function_and_the_command_have_the_same_options():
    """Each under one name and with one default, in the library and on the command line."""
    options = {each.name: each.default for each in fields(ConversionOptions)}
    assert {each.name: each.default for each in fields(ConversionChoice)} == options
    parameters = signature(mlx_gemma4_assist.convert).parameters.values()
    required = {each.name for each in parameters if each.default is Parameter.empty}
    assert required == {name for name, default in options.items() if default is MISSING} == {"hf_path"}
    assert {each.name: each.default for each in parameters if each.name not in required} == {
        name: default for name, default in options.items() if name not in required
    }


def test_the_command_in_the_card():
    options = ConversionOptions(
        hf_path="google/gemma-4-E2B-it",
        mlx_path="out folder",
        text_only=True,
        quantize=True,
        q_bits=4,
        quant_predicate="gemma4_4_6",
        check=True,
    )
    assert options.command() == (
        "python -m mlx_gemma4_assist convert --hf-path google/gemma-4-E2B-it --mlx-path 'out folder' --q-bits 4 "
        "--quant-predicate gemma4_4_6 --quantize --text-only --check"
    )
