"""Caches on disk: what is loaded equals what was saved, and nothing else loads."""

import errno
import fcntl
import json
import os
import random
import stat
import struct
from hashlib import sha256

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open
from support.decoding import random_pair
from support.paths import GOLDENS
from support.stand_ins import LetterProcessor

import mlx_gemma4_assist
from mlx_gemma4_assist import (
    InputError,
    MediaPrompt,
    Pair,
    load_assistant,
    load_prompt_cache,
    make_prompt_cache,
    save_prompt_cache,
    stream_generate,
)
from mlx_gemma4_assist.cache import file as file_module
from mlx_gemma4_assist.cache.file import read_contents
from mlx_gemma4_assist.cache.rows import KVCache, join
from mlx_gemma4_assist.cache.soft_tokens import SoftTokens
from mlx_gemma4_assist.checkpoints.loading import load_model
from mlx_gemma4_assist.models.config import FULL

FAMILIES = ("e2b", "e4b", "12b", "26b-a4b", "31b")
PROMPT = [(5 * i * i + 3 * i) % 64 for i in range(45)]
MORE = [(7 * i * i + i) % 64 for i in range(7)]


@pytest.fixture(scope="module")
def pair():
    return random_pair(1)


@pytest.fixture(scope="module")
def families():
    """The small pairs of all five families."""
    return {
        name: (load_model(GOLDENS / name / "target"), load_assistant(GOLDENS / name / "assistant")) for name in FAMILIES
    }


@pytest.fixture(scope="module")
def saved_once(pair, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "cache.safetensors"
    cache = make_prompt_cache(*pair, 3)
    answer(pair, PROMPT, cache)
    save_prompt_cache(path, cache)
    return path.read_bytes()


@pytest.fixture
def saved(saved_once, tmp_path):
    """A file of one row, longer than a ring."""
    path = tmp_path / "cache.safetensors"
    path.write_bytes(saved_once)
    return path


def answer(pair, prompt, cache=None, *, drafts=3, max_tokens=8):
    """Greedy tokens, and how many of the prompt's were computed."""
    seen = []
    assistant = pair[1] if drafts else None
    made = stream_generate(
        pair[0],
        LetterProcessor(),
        prompt,
        assistant,
        prompt_cache=cache,
        prompt_progress_callback=lambda done, total: seen.append(total + 1),
        num_assistant_tokens=drafts,
        max_tokens=max_tokens,
        prefill_step_size=20,
    )
    return [response.token for response in made], seen[-1]


def check_equal(one, other):
    """Two caches of one layout hold the same, in all that may still be seen."""
    assert other.layout == one.layout
    assert (other.fingerprint, other.tokens, other.written) == (one.fingerprint, one.tokens, one.written)
    ring = one.layout.ring
    for kind, layer, other_layer in zip(one.layout.kinds, one.buffers, other.buffers, strict=True):
        for array, other_array in zip(layer, other_layer, strict=True):
            assert array.dtype == other_array.dtype == one.layout.dtype
            for row, (length, written) in enumerate(zip(one.lengths, one.written, strict=True)):
                positions = np.arange(0 if kind == FULL else max(0, written - ring), length)
                slots = mx.array(positions if kind == FULL else positions % ring)
                assert mx.array_equal(array[row, :, slots], other_array[row, :, slots])


# What is saved is loaded


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_of_any_lengths_go_on_as_if_there_had_been_no_file(families, tmp_path, name):
    """One to three rows, shorter and longer than rings, some of them rewound or emptied."""
    pair = families[name]
    chosen, path = random.Random(name), tmp_path / "rows.safetensors"
    longest = 0
    for least in (150, 1, 1, 1):
        rows = []
        for _ in range(chosen.randint(1, 3)):
            cache = make_prompt_cache(*pair, 3)
            length = max(least, chosen.choice((1, 9, 30, 70, 130))) + chosen.randrange(8)
            prompt = [chosen.randrange(100) for _ in range(length)]
            answer(pair, prompt, cache, max_tokens=chosen.randint(1, 5))
            if chosen.random() < 0.4:
                cache.rewind(0, chosen.choice([n for n in range(1, cache.lengths[0] + 1) if cache.can_rewind(0, n)]))
            rows.append(cache)
        whole = join(rows) if len(rows) > 1 else rows[0]
        if len(rows) > 1 and chosen.random() < 0.3:
            whole.forget(0)
        save_prompt_cache(path, whole)
        found = load_prompt_cache(path, pair[0])
        check_equal(whole, found)
        for row, tokens in enumerate(found.tokens):
            longest = max(longest, len(tokens))
            prompt = [*tokens, 1, 2, 3]
            assert answer(pair, prompt, found.take(row), max_tokens=5) == (answer(pair, prompt, max_tokens=5)[0], 3)
    assert longest > 2 * (pair[0].config.sliding_window + whole.layout.slack)


def test_bfloat16_is_kept_to_the_bit(tmp_path):
    target, assistant = random_pair(1)
    target.set_dtype(mx.bfloat16)
    assistant.set_dtype(mx.bfloat16)
    cache = make_prompt_cache(target, assistant, 3)
    answer((target, assistant), PROMPT, cache)
    save_prompt_cache(tmp_path / "cache", cache)
    assert cache.layout.dtype == mx.bfloat16
    check_equal(cache, load_prompt_cache(tmp_path / "cache", target))


@pytest.mark.parametrize(("before", "after"), [(3, 16), (16, 3), (0, 16)])
@pytest.mark.parametrize("length", [5, 45, 100])
def test_other_numbers_of_drafts_after_loading(pair, tmp_path, before, after, length):
    """Rings get the slack that more drafts take; a row can be gone back in no further than before."""
    path, prompt = tmp_path / "cache", [(11 * i * i + i) % 64 for i in range(length)]
    cache = make_prompt_cache(pair[0], pair[1] if before else None, before)
    answer(pair, prompt, cache, drafts=before, max_tokens=4)
    save_prompt_cache(path, cache)
    options = {"assistant_model": pair[1], "num_assistant_tokens": after}
    found = load_prompt_cache(path, pair[0], **options)
    assert found.layout.slack == 64
    assert cache.layout.slack == (64 if before == 16 else 32)
    every = range(cache.lengths[0] + 1)
    reach = [n for n in every if cache.can_rewind(0, n)]
    assert [n for n in every if found.can_rewind(0, n)] == reach
    for kept in (reach[0], reach[-1]):
        again = load_prompt_cache(path, pair[0], **options)
        prompt = [*cache.tokens[0][:kept], *MORE]
        expected, _ = answer(pair, prompt, drafts=0, max_tokens=18)
        made, computed = answer(pair, prompt, again, drafts=after, max_tokens=18)
        assert made == expected
        assert computed <= len(MORE)


def test_a_row_without_its_window_stays_one(pair, tmp_path):
    """Where an interrupted prefill has overwritten what the row remembers, a larger ring brings nothing back."""
    cache = make_prompt_cache(*pair, 3)
    answer(pair, PROMPT, cache)
    cache.store(cache.buffers, [200])
    save_prompt_cache(tmp_path / "cache", cache)
    found = load_prompt_cache(tmp_path / "cache", pair[0], assistant_model=pair[1], num_assistant_tokens=32)
    assert found.layout.slack > cache.layout.slack
    assert not any(found.can_rewind(0, n) for n in range(found.lengths[0] + 1))
    assert answer(pair, PROMPT, found) == answer(pair, PROMPT)


def test_too_many_drafts_for_what_was_loaded_are_refused_as_ever(pair, saved):
    with pytest.raises(InputError, match="fewer num_assistant_tokens"):
        answer(pair, PROMPT, load_prompt_cache(saved, pair[0]), drafts=32)


def test_soft_tokens_are_recognized(pair, tmp_path):
    """By their content's key, which is negative; another picture in the same place is read again."""

    def shown(key, more=()):
        embeddings = mx.random.normal((6, 64), key=mx.random.key(-key % 2**32))
        return MediaPrompt([*PROMPT[:30], *[0] * 6, 4, 5, *more], [SoftTokens(30, embeddings, key)])

    one, other = -(2**63), -2
    cache = make_prompt_cache(*pair, 3)
    made, _ = answer(pair, shown(one), cache)
    assert cache.tokens[0].count(one) == 6
    save_prompt_cache(tmp_path / "cache", cache)
    for key, same in ((one, len(PROMPT[:30]) + 8 + len(made) - 1), (other, 30)):
        prompt = shown(key, [*made, *MORE])
        expected, everything = answer(pair, prompt)
        found = load_prompt_cache(tmp_path / "cache", pair[0])
        assert answer(pair, prompt, found) == (expected, everything - same)


def test_a_cache_is_saved_while_its_text_is_made(pair, tmp_path):
    """Rounds in flight are not counted, and the text goes on."""
    cache = make_prompt_cache(*pair, 3)
    options = {"prompt_cache": cache, "num_assistant_tokens": 3, "max_tokens": 16}
    made = []
    for response in stream_generate(pair[0], LetterProcessor(), PROMPT, pair[1], **options):
        made.append(response.token)
        if len(made) == 9:
            save_prompt_cache(tmp_path / "cache", cache)
    expected, _ = answer(pair, PROMPT, max_tokens=16)
    assert made == expected
    found = load_prompt_cache(tmp_path / "cache", pair[0])
    assert 0 <= found.lengths[0] - len(PROMPT) - 8 <= 3
    prompt = [*found.tokens[0], *MORE]
    assert answer(pair, prompt, found) == (answer(pair, prompt)[0], len(MORE))


# The file


def test_it_is_a_safetensors_file_for_its_owner(pair, saved):
    cache = make_prompt_cache(*pair, 3)
    answer(pair, PROMPT, cache)
    save_prompt_cache(saved, cache)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    with safe_open(saved, framework="numpy") as file:
        about, names = file.metadata(), set(file.keys())
    assert about["format_version"] == "2"
    assert about["version"] == mlx_gemma4_assist.__version__
    assert about["fingerprint"] == Pair(*pair).fingerprint
    assert (about["dtype"], json.loads(about["slack"])) == ("float32", cache.layout.slack)
    assert json.loads(about["tokens"]) == cache.tokens
    assert json.loads(about["written"]) == cache.written
    assert names == {f"layers.{layer}.{kind}" for layer in range(3) for kind in ("keys", "values")}
    arrays = mx.load(str(saved), format="safetensors")
    (length,) = cache.lengths
    assert mx.array_equal(arrays["layers.2.keys"], cache.buffers[2][0][:, :, :length])
    assert mx.array_equal(arrays["layers.0.values"], cache.buffers[0][1][:, :, : cache.written[0]])


def test_nothing_is_stored_that_was_never_written(pair, tmp_path):
    cache = make_prompt_cache(*pair, 32)
    answer(pair, PROMPT[:3], cache, max_tokens=2)
    save_prompt_cache(tmp_path / "cache", cache)
    assert (tmp_path / "cache").stat().st_size < cache.nbytes / 8


def test_metadata_are_kept(pair, tmp_path):
    cache = make_prompt_cache(*pair, 3)
    answer(pair, PROMPT, cache)
    metadata = {"title": 'of "mornings" \u2603', "sha256": '{"__metadata__":{"sha256":"'}
    save_prompt_cache(str(tmp_path / "cache"), cache, metadata)
    found, kept = load_prompt_cache(str(tmp_path / "cache"), pair[0], return_metadata=True)
    assert kept == metadata
    check_equal(cache, found)
    save_prompt_cache(tmp_path / "cache", cache)
    assert load_prompt_cache(tmp_path / "cache", pair[0], True)[1] == {}


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}])
def test_metadata_that_are_no_text_are_refused(pair, tmp_path, metadata):
    cache = make_prompt_cache(*pair, 3)
    answer(pair, PROMPT, cache)
    with pytest.raises(InputError, match="strings by strings"):
        save_prompt_cache(tmp_path / "cache", cache, metadata)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_cache_or_a_nameless_one_is_not_saved(pair, tmp_path):
    with pytest.raises(InputError, match="is empty"):
        save_prompt_cache(tmp_path / "cache", make_prompt_cache(*pair))
    nameless = KVCache(make_prompt_cache(*pair).layout)
    nameless.append(0, [1])
    with pytest.raises(InputError, match="names no model"):
        save_prompt_cache(tmp_path / "cache", nameless)
    assert list(tmp_path.iterdir()) == []


# Writing that fails


class Stopped(BaseException):
    """As KeyboardInterrupt, which would end the tests if it got away."""


def test_an_interrupted_write_leaves_what_was_there(pair, saved, monkeypatch):
    """At any array, and at the very end."""
    before = saved.read_bytes()
    cache = load_prompt_cache(saved, pair[0])
    answer(pair, MORE, cache)
    stored, places = file_module._stored, 2 * len(cache.layout.kinds) + 1

    def stopping_at(at):
        def stopping(buffers, tensors):
            for place, array in enumerate(stored(buffers, tensors)):
                if place == at:
                    raise Stopped
                yield array
            raise Stopped

        return stopping

    for at in range(places):
        monkeypatch.setattr(file_module, "_stored", stopping_at(at))
        with pytest.raises(Stopped):
            save_prompt_cache(saved, cache)
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]
    monkeypatch.undo()
    save_prompt_cache(saved, cache)
    assert load_prompt_cache(saved, pair[0]).tokens == cache.tokens


def test_a_full_disk(pair, saved, monkeypatch):
    before = saved.read_bytes()
    cache = load_prompt_cache(saved, pair[0])

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*cache\.safetensors: the disk is full"):
        save_prompt_cache(saved, cache)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_where_nothing_can_be_written(pair, saved):
    cache = load_prompt_cache(saved, pair[0])
    for path in (saved.parent, saved.parent / "none" / "cache", saved / "below"):
        with pytest.raises(InputError, match="cannot write"):
            save_prompt_cache(path, cache)
    assert list(saved.parent.iterdir()) == [saved]


def test_what_killed_processes_have_left_is_removed(pair, saved):
    """But nothing that another process is writing still, and no other file's."""
    cache = load_prompt_cache(saved, pair[0])
    names = (".cache.safetensors-dead.unfinished", ".cache.safetensors-live.unfinished", ".other-dead.unfinished")
    dead, live, other = (saved.parent / name for name in names)
    for path in (dead, live, other):
        path.write_bytes(b"begun")
    with live.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        save_prompt_cache(saved, cache)
    assert set(saved.parent.iterdir()) == {saved, live, other}


def test_a_link_stays_a_link(pair, saved):
    (saved.parent / "folder").mkdir()
    link = saved.parent / "folder" / "link"
    link.symlink_to(saved)
    cache = load_prompt_cache(link, pair[0])
    answer(pair, MORE, cache)
    save_prompt_cache(link, cache)
    assert link.is_symlink()
    assert read_contents(saved).tokens == cache.tokens


# What does not load


def refusal(path, target):
    """The line that a file is refused with."""
    with pytest.raises(InputError) as refused:
        load_prompt_cache(path, target)
    line = str(refused.value)
    assert "\n" not in line
    assert str(path) in line
    assert len(line) < 400 + len(str(path))
    return line


def test_files_of_others(pair, saved):
    twin = random_pair(2)
    assert twin[0].config == pair[0].config
    assert "with another model" in refusal(saved, twin[0])
    smaller, _ = random_pair(1)
    smaller.set_dtype(mx.bfloat16)
    assert "is in float32, but the model is in bfloat16" in refusal(saved, smaller)


def test_what_is_no_file(pair, saved, monkeypatch):
    folder = saved.parent
    assert "No such file" in refusal(folder / "none", pair[0])
    assert "no file" in refusal(folder, pair[0])
    os.mkfifo(folder / "pipe")
    assert "no file" in refusal(folder / "pipe", pair[0])
    for name, content in (("empty", b""), ("text", b"Once upon a time there was a file, and it was a text.")):
        (folder / name).write_bytes(content)
        assert "is no prompt cache" in refusal(folder / name, pair[0])
    mx.save_safetensors(str(folder / "other.safetensors"), {"a": mx.zeros(3)}, {"0.a": "b"})
    assert "is no prompt cache" in refusal(folder / "other.safetensors", pair[0])

    def denied(*args):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(saved), "open", denied)
    assert "Permission denied" in refusal(saved, pair[0])


def test_any_flipped_bit_is_found(pair, saved):
    """100 of them: each place of the header's beginning, some of the rest, some of keys and values."""
    content, chosen = saved.read_bytes(), random.Random(0)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = [*range(48), *chosen.sample(range(48, header), 32), *chosen.sample(range(header, len(content)), 20)]
    assert len(places) == 100
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chosen.randrange(8)
        saved.write_bytes(damaged)
        refusal(saved, pair[0])
    saved.write_bytes(content)
    load_prompt_cache(saved, pair[0])


def test_any_cut_is_found(pair, saved):
    content, chosen = saved.read_bytes(), random.Random(1)
    for length in [*range(0, 40, 2), *chosen.sample(range(len(content)), 30), len(content) - 1]:
        saved.write_bytes(content[:length])
        refusal(saved, pair[0])
    saved.write_bytes(content + b"\0")
    assert "is damaged" in refusal(saved, pair[0])


def rewritten(path, change):
    """The file with another header, whose hash is right again; ``change`` gets its metadata and its arrays."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    change(header["__metadata__"], header)
    raw = json.dumps(header, separators=(",", ":")).encode()
    begin = raw.index(b'"sha256":"') + len(b'"sha256":"')
    length = struct.pack("<Q", len(raw))
    digest = sha256(length + raw[:begin] + raw[begin + 64 :] + content[end:]).hexdigest().encode()
    path.write_bytes(length + raw[:begin] + digest + raw[begin + 64 :] + content[end:])


def test_a_header_that_is_written_anew_is_right(pair, saved):
    before = saved.read_bytes()
    rewritten(saved, lambda about, arrays: about.update(metadata='{"a":"b"}'))
    assert saved.read_bytes() != before
    assert load_prompt_cache(saved, pair[0], True)[1] == {"a": "b"}


LONG = json.dumps([[1] * 500])
BAD = [
    ("format", "other", "it must be made anew"),
    ("format_version", "1", "in format 1, and this is"),
    ("version", "9.9", "by version 9.9 of this package"),
    ("version", 1, "does not say what wrote it"),
    ("format_version", None, "does not say what wrote it"),
    ("fingerprint", "0" * 32, "with another model"),
    ("fingerprint", None, "its header is not made of"),
    ("fingerprint", 3, "its header is not made of"),
    ("more", "x", "its header is not made of"),
    ("dtype", "bfloat16", "is in bfloat16, but"),
    ("dtype", "int8", "its dtype is none of"),
    ("slack", "-1", "its slack"),
    ("slack", "1000000000000", "its slack"),
    ("slack", "true", "its slack"),
    ("slack", "32.0", "its slack"),
    ("slack", "64", "do not fit its tokens"),
    ("slack", "x", "slack is not valid JSON"),
    ("slack", "9" * 5000, "slack is not valid JSON"),
    ("slack", "[" * 3000, "slack is nested too deep"),
    ("quantization", "4", "quantized in no way that is known"),
    ("quantization", '{"bits":4,"group_size":32}', "quantized in no way that is known"),
    ("quantization", '{"bits":3,"group_size":32,"start":0}', "quantized in no way that is known"),
    ("quantization", '{"bits":4,"group_size":32,"start":-1}', "quantized in no way that is known"),
    ("quantization", '{"bits":4,"group_size":32,"start":9999999999}', "quantized in no way that is known"),
    ("quantization", '{"bits":4,"group_size":true,"start":0}', "quantized in no way that is known"),
    ("quantization", '{"bits":4,"group_size":64,"start":0}', "does not divide the head dimension 32"),
    ("quantization", '{"bits":4,"group_size":32,"start":0}', "do not fit its tokens"),
    ("quantization", None, "its header is not made of"),
    ("tokens", "[]", "its tokens"),
    ("tokens", "[[]]", "its tokens"),
    ("tokens", "[3]", "its tokens"),
    ("tokens", '{"a":[1]}', "its tokens"),
    ("tokens", '["ab"]', "its tokens"),
    ("tokens", "[[1,2.0]]", "its tokens"),
    ("tokens", "[[1,true]]", "its tokens"),
    ("tokens", "[[1,null]]", "its tokens"),
    ("tokens", "[[1,64]]", "64 is beyond the vocabulary"),
    ("tokens", "[[1,2]]", "do not fit its tokens"),
    ("tokens", "[[1,2],[1,2]]", "what was written"),
    ("tokens", LONG, "a row has 500 tokens"),
    ("written", "52", "what was written"),
    ("written", "[]", "what was written"),
    ("written", '["52"]', "what was written"),
    ("written", "[true]", "what was written"),
    ("written", "[3]", "a row has 52 tokens and 3 written positions"),
    ("written", "[1000000000000]", "written positions in a context of 512"),
    ("metadata", "[]", "its metadata"),
    ("metadata", '{"a":1}', "its metadata"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD, ids=range(len(BAD)))
def test_what_a_header_must_not_say(pair, saved, monkeypatch, name, value, words):
    """It is refused before any array is allocated, also where its hash is right."""

    def change(about, arrays):
        about[name] = value
        if value is None:
            del about[name]

    rewritten(saved, change)
    monkeypatch.setattr(file_module, "_read_arrays", None)
    assert words in refusal(saved, pair[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda about, arrays: arrays.pop("layers.0.keys"),
        lambda about, arrays: arrays.update({"layers.9.keys": arrays["layers.0.keys"]}),
        lambda about, arrays: arrays["layers.0.keys"].update(dtype="F16"),
        lambda about, arrays: arrays["layers.0.keys"].update(shape=[1, 1, 2**40, 16]),
        lambda about, arrays: arrays["layers.2.keys"].update(data_offsets=[0, 2**50]),
        lambda about, arrays: arrays.update({"layers.0.keys": None}),
        lambda about, arrays: (
            about.update(tokens=json.dumps([json.loads(about["tokens"])[0]] * 2)),
            about.update(written="[52,52]"),
        ),
    ],
)
def test_arrays_that_do_not_fit(pair, saved, monkeypatch, change):
    rewritten(saved, change)
    monkeypatch.setattr(file_module, "_read_arrays", None)
    assert "its arrays do not fit its tokens" in refusal(saved, pair[0])


@pytest.mark.parametrize("length", [0, 5, 27, 10**8 + 1, 2**63])
def test_a_header_of_no_possible_length(pair, saved, length):
    content = saved.read_bytes()
    saved.write_bytes(struct.pack("<Q", length) + content[8:])
    assert "is damaged: it ends within its header" in refusal(saved, pair[0])


def test_a_file_that_shrinks_while_it_is_read(pair, saved, monkeypatch):
    check = file_module.check_tensors

    def shrinking(*args):
        check(*args)
        os.truncate(saved, saved.stat().st_size - 100)

    monkeypatch.setattr(file_module, "check_tensors", shrinking)
    assert "it has become shorter" in refusal(saved, pair[0])
