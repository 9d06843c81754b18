"""Nothing is lost, and nothing half done is left: destinations, interruptions, full disks, damaged sources."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.conversion import config_of, convert, copied, small_assistant, small_checkpoint, tensors
from support.paths import FAMILIES, GOLDENS, TESTS

from mlx_gemma4_assist import InputError, assistant_for, load, load_assistant
from mlx_gemma4_assist.conversion import pair as pairs
from mlx_gemma4_assist.conversion import staging, writing
from mlx_gemma4_assist.conversion.options import ConversionOptions
from mlx_gemma4_assist.conversion.pair import plan_pair
from mlx_gemma4_assist.models.config import read_assistant_config, read_target_config


@pytest.fixture
def pair(tmp_path):
    small_assistant(tmp_path / "source-assistant")
    return small_checkpoint(tmp_path / "source")


def remains(folder: Path) -> set[str]:
    """What is beside the source and its assistant."""
    return {path.name for path in folder.iterdir()} - {"source", "source-assistant"}


def test_a_pair_appears_together(tmp_path, pair):
    convert(pair, tmp_path / "out", assistant_model=None, quantize=True)
    assert remains(tmp_path) == {"out", "out-assistant"}
    assert assistant_for(tmp_path / "out") == str(tmp_path / "out-assistant")
    load(tmp_path / "out")
    load_assistant(tmp_path / "out-assistant")


def test_existing_destinations(tmp_path, pair):
    convert(pair, tmp_path / "out", assistant_model=None)
    before = tensors(tmp_path / "out")
    with pytest.raises(InputError, match="out exists already.*--force"):
        convert(pair, tmp_path / "out", assistant_model=None, quantize=True)
    (tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(InputError, match="out-assistant exists already.*--force"):
        convert(pair, tmp_path / "out", assistant_model=None)
    (tmp_path / "moved").rename(tmp_path / "out")
    convert(pair, tmp_path / "out", assistant_model=None, quantize=True, force=True)
    assert tensors(tmp_path / "out").keys() > before.keys()
    assert remains(tmp_path) == {"out", "out-assistant"}


def test_only_checkpoints_are_replaced(tmp_path, pair):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("Dear Cassandra,")
    with pytest.raises(InputError, match="letters holds no checkpoint"):
        convert(pair, tmp_path / "letters", force=True)
    with pytest.raises(InputError, match="letter.txt is a file"):
        convert(pair, tmp_path / "letters" / "letter.txt", force=True)
    assert (tmp_path / "letters" / "letter.txt").read_text() == "Dear Cassandra,"
    (tmp_path / "empty").mkdir()
    convert(pair, tmp_path / "empty", force=True)


def test_a_source_is_not_overwritten(tmp_path, pair):
    for destination in (pair, tmp_path):
        with pytest.raises(InputError, match="holds what is to be converted|holds no checkpoint"):
            convert(pair, destination, force=True)
    with pytest.raises(InputError, match="would both be written"):
        convert(pair, tmp_path / "out", assistant_model=None, assistant_path=tmp_path / "out")
    assert remains(tmp_path) == set()


def test_a_folder_for_an_assistant_that_is_not_converted(tmp_path, pair, monkeypatch):
    """Refused in the words of whoever asked, and where no assistant is known before anything is downloaded."""
    where = {"assistant_path": tmp_path / "drafter"}
    with pytest.raises(InputError, match="assistant_path was given .* assistant_model is none"):
        convert(pair, tmp_path / "out", **where)
    itself = f"{pair}-assistant"
    for named in (None, itself):
        with pytest.raises(InputError):
            convert(itself, tmp_path / "out", assistant_model=named, **where)
    monkeypatch.setattr(pairs, "assistant_for", lambda _: itself)
    with pytest.raises(InputError, match="mlx_path is where it goes, not assistant_path") as caught:
        convert(itself, tmp_path / "out", assistant_model=None, **where)
    assert "--mlx-path is where it goes" in caught.value.spelled({"mlx_path": "--mlx-path"})
    monkeypatch.setattr(pairs, "assistant_for", lambda _: None)
    monkeypatch.setattr(pairs, "resolve", lambda *_, **__: pytest.fail("downloads"))
    with pytest.raises(InputError, match="assistant_path was given, but no assistant is known for ") as caught:
        convert(pair, tmp_path / "out", assistant_model=None, **where)
    typed = caught.value.spelled(
        {name: f"--{name.replace('_', '-')}" for name in ("assistant_path", "assistant_model")}
    )
    assert typed == f"--assistant-path was given, but no assistant is known for {pair}: --assistant-model names one"
    assert remains(tmp_path) == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_an_error_leaves_all_as_it_was(tmp_path, pair, monkeypatch, error):
    convert(pair, tmp_path / "out", assistant_model=None)
    before = tensors(tmp_path / "out")

    def fails(*_):
        raise error

    monkeypatch.setattr(writing, "_write_config", fails)  # the very last step
    with pytest.raises((InputError, KeyboardInterrupt)):
        convert(pair, tmp_path / "out", assistant_model=None, quantize=True, force=True)
    assert tensors(tmp_path / "out").keys() == before.keys()
    with pytest.raises((InputError, KeyboardInterrupt)):
        convert(pair, tmp_path / "new", assistant_model=None, quantize=True)
    assert remains(tmp_path) == {"out", "out-assistant"}


def test_a_full_disk(tmp_path, pair, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(InputError, match="cannot write .*out: the disk is full"):
        convert(pair, tmp_path / "out", quantize=True)
    assert remains(tmp_path) == set()


def test_too_little_space_is_seen_before_writing(tmp_path, pair, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(InputError, match="has 0.0 GB left"):
        convert(pair, tmp_path / "out")
    assert remains(tmp_path) == set()


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from support.conversion import convert
from mlx_gemma4_assist.conversion import writing
write = writing.write_shards
def slow(folder, *rest):
    write(folder, *rest)
    print("written", flush=True)
    time.sleep(60)
writing.write_shards = slow
convert({source!r}, {folder!r}, assistant_model=None, quantize=True)
"""


def test_a_killed_run(tmp_path, pair):
    """Nothing that loads is left; the next run starts over, and leaves nothing else behind either."""
    code = KILLED.format(tests=str(TESTS), source=str(pair), folder=str(tmp_path / "out"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    with pytest.raises(InputError, match="another process is writing"):
        convert(pair, tmp_path / "out")
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = remains(tmp_path)
    assert left == {".out.unfinished", ".out-assistant.unfinished"}
    for name in left:
        for loads in (load, load_assistant):
            with pytest.raises(InputError):
                loads(tmp_path / name)
    convert(pair, tmp_path / "out", assistant_model=None, quantize=True)
    assert remains(tmp_path) == {"out", "out-assistant"}
    load(tmp_path / "out")


def test_killed_while_replacing(tmp_path, pair):
    """Between two renames the old checkpoint has another name; the next run puts it back first."""
    convert(pair, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    with pytest.raises(InputError, match="out exists already"):
        convert(pair, tmp_path / "out")
    assert ".out.replaced" not in remains(tmp_path)
    load(tmp_path / "out")


def test_folders_that_were_made_for_nothing_go(tmp_path, pair):
    """And none that were there, or that another has put something into."""
    there = tmp_path / "there"
    there.mkdir()
    out, other = there / "a" / "b" / "out", there / "a" / "other"

    def fails(destinations, needed=0, beside=lambda: None):
        with staging.staged(destinations, needed):
            beside()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails([out])
    assert list(there.iterdir()) == []
    with pytest.raises(InputError, match="are to be written"):
        fails([out, other], 1 << 60)
    assert list(there.iterdir()) == []
    with pytest.raises(KeyboardInterrupt):
        fails([out], beside=other.mkdir)
    assert [path.name for path in (there / "a").iterdir()] == ["other"]
    with staging.staged([out], 0) as (folder,):
        (folder / "file").write_text("")
    assert remains(out) == {"file"}


def test_one_process_at_a_time(tmp_path, pair):
    (tmp_path / ".out.unfinished").mkdir()
    with (tmp_path / ".out.unfinished" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is writing"):
            convert(pair, tmp_path / "out")


def test_damaged_sources(tmp_path, pair):
    whole = (pair / "model.safetensors").read_bytes()
    (pair / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(InputError, match="model.safetensors is damaged"):
        convert(pair, tmp_path / "out")
    (pair / "model.safetensors").unlink()
    with pytest.raises(InputError, match="has no safetensors"):
        convert(pair, tmp_path / "out")
    (pair / "config.json").unlink()
    with pytest.raises(InputError, match="has no config.json"):
        convert(pair, tmp_path / "out")
    assert remains(tmp_path) == set()


def test_a_shard_that_becomes_unreadable(tmp_path, pair):
    options = ConversionOptions(hf_path=pair, mlx_path=tmp_path / "out", assistant_model="none")
    conversion = plan_pair(options, None)
    os.truncate(pair / "model.safetensors", 50_000)
    with pytest.raises(InputError, match="model.safetensors ended early"):
        writing.write_pair(conversion)
    (pair / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot read .*model.safetensors: No such file"):
        writing.write_pair(conversion)
    assert remains(tmp_path) == set()


def test_another_target_s_assistant(tmp_path, pair):
    with pytest.raises(InputError, match="does not belong to this target"):
        convert(pair, tmp_path / "out", assistant_model=GOLDENS / "e2b" / "assistant")
    assert remains(tmp_path) == set()


def test_files_are_carried_over(tmp_path):
    source = copied(GOLDENS / "e2b" / "target", tmp_path / "source")
    (source / "chat_template.jinja").write_text("{{ messages }}\r\n")
    (source / "processor_config.json").write_text('{"a":   1}')
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (source / "model.gguf").write_text("no weights of ours")
    convert(source, tmp_path / "out")
    names = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
    for name in (*names, "processor_config.json", "additional_chat_templates/tools.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes(), name
    assert not (tmp_path / "out" / "model.gguf").exists()
    convert(source, tmp_path / "text", text_only=True)
    assert not (tmp_path / "text" / "processor_config.json").exists()
    assert (tmp_path / "text" / "chat_template.jinja").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_config_fields_are_carried_over(tmp_path, family):
    """Nothing is lost, unknown fields included; what is new is what other programs would assume wrongly."""
    source = copied(GOLDENS / family / "target", tmp_path / "source")
    config = config_of(source) | {"unknown": {"a": [1, None]}, "dtype": "float32"}
    (source / "config.json").write_text(json.dumps(config))
    convert(source, tmp_path / "out", assistant_model=GOLDENS / family / "assistant", quantize=True)
    found = config_of(tmp_path / "out")
    text = found["text_config"]
    if "text_config" in config:
        changed = {name for name, value in config.items() if found[name] != value}
        assert changed <= {"text_config", "vision_config"}
        assert {name: text[name] for name in config["text_config"]} == config["text_config"]
    else:
        moved = {name: value for name, value in config.items() if name not in ("architectures", "transformers_version")}
        assert {name: text[name] for name in moved} == moved
        assert found["model_type"] == "gemma4"
    assert found["quantization"] == found["quantization_config"]
    assert {"group_size": 64, "bits": 4, "mode": "affine"}.items() <= found["quantization"].items()
    assert read_target_config(found) == read_target_config(config)
    assistant = read_assistant_config(config_of(tmp_path / "out-assistant"))
    assert assistant == read_assistant_config(config_of(GOLDENS / family / "assistant"))
    assert {"global_head_dim", "hidden_size_per_layer_input", "num_global_key_value_heads"} <= text.keys()


def test_progress_ends_at_the_total(tmp_path, pair):
    seen = []
    conversion = plan_pair(ConversionOptions(hf_path=pair, mlx_path=tmp_path / "out", quantize=True), None)
    writing.write_pair(conversion, lambda done, total: seen.append((done, total)))
    total = sum((tmp_path / name / "model.safetensors").stat().st_size for name in ("source", "source-assistant"))
    assert 0.9 * total < conversion.source_bytes < total  # all but the files' headers
    assert seen[-1] == (conversion.source_bytes, conversion.source_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
