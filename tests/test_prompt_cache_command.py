"""``generate --prompt-cache-file``: the next call goes on, with the text that it would have made anyway."""

import errno
import json
import os
from itertools import takewhile

import pytest

from mlx_gemma4_assist import InputError, Pair, load_prompt_cache, save_prompt_cache
from mlx_gemma4_assist.cache.file import read_contents
from mlx_gemma4_assist.cache.rows import join
from mlx_gemma4_assist.commands import generate as command
from mlx_gemma4_assist.commands import prompt_cache

OPTIONS = {"ignore_chat_template": True, "learned": False, "max_tokens": 8, "num_assistant_tokens": 3}
BEGINNING = "It was a fine morning, and"


@pytest.fixture(scope="module", autouse=True)
def pair():
    """The embedded pair, loaded once for the commands of all these tests."""
    loaded = Pair.load("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_pair", lambda *_: loaded)
        yield loaded


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cache.safetensors"


@pytest.fixture
def ask(capsys):
    """What the command answers to a prompt, as its JSON says it."""

    def run(prompt, file=None, **options):
        code = command.generate(**(OPTIONS | {"as_json": True, "prompt": prompt, "prompt_cache_file": file} | options))
        assert code == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_next_call_goes_on(file, ask):
    """With a longer text, more drafts and fewer, another end, and from the beginning; the file changes no text."""
    first = ask(BEGINNING, file, max_tokens=90)
    assert first["cached_tokens"] == 0
    assert "cached_tokens" not in ask(BEGINNING)
    cached = []
    for drafts, prompt in (
        (32, BEGINNING + first["text"]),
        (0, BEGINNING + first["text"]),
        (3, BEGINNING + first["text"][:150] + " Xerxes"),
        (None, BEGINNING + first["text"][:150] + " Xerxes"),
        (3, BEGINNING),
    ):
        held = read_contents(file).tokens[0]
        told = ask(prompt, file, num_assistant_tokens=drafts)
        assert told["tokens"] == ask(prompt)["tokens"]
        read = read_contents(file).tokens[0]
        assert read[told["prompt_tokens"] :] == told["tokens"][:-1]
        both = zip(held, read[: told["prompt_tokens"] - 1], strict=False)
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], both)))
        assert told["cached_tokens"] == common
        cached.append(common - told["prompt_tokens"])
    assert cached[1] == cached[3] == cached[4] == -1
    assert min(cached) > -10


def test_a_text_is_gone_back_in_as_far_as_said(file, ask, pair, monkeypatch):
    """At least; and where that is too far, all is read again. The text is longer than window and slack together."""
    monkeypatch.setattr(prompt_cache, "REWIND", 100)
    prompt = "One of them, and another. " * 40
    length = ask(prompt, file)["prompt_tokens"]
    (held,) = read_contents(file).tokens
    file.chmod(0o400)
    for back, reused in ((100, True), (length - 100, False)):
        shorter = pair.text().decode(held[1 : len(held) - back]) + " Xerxes"
        told = ask(shorter, file)
        assert told["tokens"] == ask(shorter)["tokens"]
        assert (told["cached_tokens"] > len(held) - back - 5) is reused
        assert (told["cached_tokens"] == 0) is not reused


def test_what_was_reused_is_told(file, capsys):
    for cached in (0, 10):
        assert command.generate(**OPTIONS, prompt=BEGINNING, prompt_cache_file=file) == 0
        held = len(read_contents(file).tokens[0])
        line = f"Prompt cache: {cached} of the prompt's tokens were in {file}, which holds {held} now"
        assert line in capsys.readouterr().err.splitlines()
    assert command.generate(**OPTIONS, prompt=BEGINNING) == 0
    assert "Prompt cache" not in capsys.readouterr().err


def test_a_file_that_nobody_may_write_to_is_only_read(file, ask):
    ask(BEGINNING, file)
    file.chmod(0o400)
    before = file.read_bytes()
    for prompt in (BEGINNING + " then", BEGINNING + " there"):
        assert ask(prompt, file)["cached_tokens"] >= 10
    assert file.read_bytes() == before


def test_metadata_outlive_the_command(file, ask, pair):
    ask(BEGINNING, file)
    save_prompt_cache(file, load_prompt_cache(file, pair.target), {"title": "mornings"})
    ask(BEGINNING + " then", file)
    assert read_contents(file).metadata == {"title": "mornings"}


def test_what_cannot_be_kept_is_refused_before_anything_is_loaded(file, ask, pair, tmp_path, monkeypatch):
    ask(BEGINNING, file)
    one = load_prompt_cache(file, pair.target)
    save_prompt_cache(tmp_path / "two", join([one, one]))
    (tmp_path / "damaged").write_bytes(file.read_bytes()[:-1000])
    (tmp_path / "text").write_text("no cache")
    monkeypatch.setattr(command, "load_pair", None)
    for path, words in (
        (tmp_path, "it is no file"),
        (tmp_path / "none" / "cache", "none is no folder"),
        (tmp_path / "text" / "cache", "text is no folder"),
        (tmp_path / "text", "is no prompt cache"),
        (tmp_path / "two", "holds 2 texts"),
    ):
        with pytest.raises(InputError, match=words):
            ask(BEGINNING, path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="nothing may be written to"):
        ask(BEGINNING, tmp_path / "new")


def test_an_interrupted_answer_is_kept(file, ask, capsys, monkeypatch):
    shown = []

    def show(screen, response):
        shown.append(response.token)
        if len(shown) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.Screen, "show", show)
    arguments = OPTIONS | {"prompt": BEGINNING, "prompt_cache_file": file, "max_tokens": 40}
    assert command.generate(**arguments) == command.INTERRUPTED
    capsys.readouterr()
    assert read_contents(file).tokens[0][-4:] == shown[:4]
    told = ask(BEGINNING, file, max_tokens=40)
    assert (told["tokens"], told["cached_tokens"]) == (ask(BEGINNING, max_tokens=40)["tokens"], 10)


def test_a_prompt_that_was_interrupted_early_takes_no_longer_ones_place(file, ask, capsys, monkeypatch):
    """But what was read of a longer one is not read again."""
    ask(BEGINNING, file)
    held, real = file.read_bytes(), command._progress
    before = len(read_contents(file).tokens[0])

    def stopping_at(at):
        def progress(done, total):
            if done >= at:
                raise KeyboardInterrupt

        return progress

    long = "Another text begins otherwise, and has some more words to be read. " * 4
    for at, same in ((0, True), (32, False)):
        monkeypatch.setattr(command, "_progress", stopping_at(at))
        arguments = OPTIONS | {"prompt": long, "prompt_cache_file": file, "prefill_step_size": 32}
        assert command.generate(**arguments) == command.INTERRUPTED
        assert (file.read_bytes() == held) is same
        assert f"Prompt cache: {file} holds {before if same else 33} tokens now" in capsys.readouterr().err
    monkeypatch.setattr(command, "_progress", real)
    told = ask(long, file)
    assert (told["tokens"], told["cached_tokens"]) == (ask(long)["tokens"], 33)


def test_a_full_disk_costs_no_answer(file, ask, capsys, monkeypatch):
    ask(BEGINNING, file)
    before = file.read_bytes()

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        command.generate(**OPTIONS, prompt=BEGINNING + " then", prompt_cache_file=file)
    assert len(capsys.readouterr().out) > 10
    assert file.read_bytes() == before


QUANTIZED = {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 10}


def test_quantized_keys_are_kept_and_change_no_text(file, ask):
    first = ask(BEGINNING, file, **QUANTIZED)
    told = ask(BEGINNING + first["text"], file, **QUANTIZED)
    assert told["cached_tokens"] > 5
    assert told["tokens"] == ask(BEGINNING + first["text"], **QUANTIZED)["tokens"]
    for options, why in (
        ({}, "has 4 bits in groups of 32 from position 10 on, and there is no kv_bits"),
        (QUANTIZED | {"kv_bits": 8}, "has 4 bits in groups of 32 from position 10 on, and kv_bits asks for 8 bits in"),
    ):
        before = file.read_bytes()
        with pytest.raises(InputError, match=why):
            ask(BEGINNING, file, **options)
        assert file.read_bytes() == before
    file.unlink()
    ask(BEGINNING, file)
    with pytest.raises(InputError, match="is dense, and kv_bits asks for 4 bits in groups of 32"):
        ask(BEGINNING, file, **QUANTIZED)
