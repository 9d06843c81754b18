"""What a checkpoint's tokenizer files say, whichever of them are there: ids that begin and end, templates, damage."""

import json
import random
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from support import checkpoints as helpers
from support.paths import ROOT

from mlx_gemma4_assist import generate, load
from mlx_gemma4_assist.errors import InputError
from mlx_gemma4_assist.models.config import read_target_config
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.text.processor import Processor

BOS, EOS, TURN, END_OF_TURN = 2, 1, 4, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return helpers.save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_pretrained(folder)


def test_ends_and_suppressed(tmp_path):
    helpers.save_tokenizer(tmp_path)

    def ends(file, content):
        (tmp_path / file).write_text(json.dumps(content))
        return Processor.from_pretrained(tmp_path).eos_token_ids

    always = {END_OF_TURN}
    assert Processor.from_pretrained(tmp_path).eos_token_ids == {EOS} | always
    assert ends("config.json", {"text_config": {"eos_token_id": 7}}) == {7} | always
    assert ends("config.json", {"eos_token_id": [8], "text_config": {"eos_token_id": 7}}) == {8} | always
    assert ends("generation_config.json", {"eos_token_id": 9}) == {9} | always
    named = {"eos_token_id": [1, 106, 50], "suppress_tokens": [3, 4]}
    assert ends("generation_config.json", named) == {1, 106, 50} | always
    assert Processor.from_pretrained(tmp_path).suppress_tokens == (3, 4)
    with pytest.raises(InputError, match="eos_token_id is 'x', expected a token id or a list"):
        ends("generation_config.json", {"eos_token_id": "x"})
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config.json is not valid JSON"):
        Processor.from_pretrained(tmp_path)


@pytest.fixture
def unnamed(tmp_path):
    """A folder whose tokenizer names none of its special tokens."""
    helpers.save_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    return tmp_path


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("files", "bos"),
    [
        ({"generation_config": {"bos_token_id": BOS}}, BOS),
        ({"config": {"bos_token_id": BOS}}, BOS),
        ({"config": {"text_config": {"bos_token_id": BOS}}}, BOS),
        ({"config": {"bos_token_id": TURN, "text_config": {"bos_token_id": BOS}}}, TURN),
        ({"generation_config": {"bos_token_id": BOS}, "config": {"bos_token_id": TURN}}, BOS),
        ({"generation_config": {"bos_token_id": None}, "config": {"bos_token_id": BOS}}, BOS),
    ],
)
def test_bos_of_a_tokenizer_without_its_own(unnamed, processor, files, bos):
    write(unnamed, **files)
    found = Processor.from_pretrained(unnamed)
    assert found.bos_token_id == bos
    for options in ({}, {"chat": False}):  # by the template, and without
        expected = processor.encode("hello", **options)
        assert found.encode("hello", **options) == [bos, *expected[1:]]
    assert found.eos_token_ids == {END_OF_TURN}  # no file names another end, and none is made up


def test_a_tokenizers_own_bos_goes_first(tmp_path):
    write(helpers.save_tokenizer(tmp_path), generation_config={"bos_token_id": 7}, config={"bos_token_id": 8})
    assert Processor.from_pretrained(tmp_path).bos_token_id == BOS


def test_ends_and_padding_of_a_tokenizer_without_its_own(unnamed, processor):
    write(unnamed, config={"bos_token_id": BOS, "eos_token_id": [EOS, 0], "pad_token_id": 0})
    found = Processor.from_pretrained(unnamed)
    assert found.eos_token_ids == {EOS, 0, END_OF_TURN}
    ids = found.encode("hello")
    assert ids == processor.encode("hello")
    assert found.decode(ids) == processor.decode(ids)  # no special token among the letters


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("<bos>", "bos_token_id is '<bos>', expected a token id$"),
        ([2], r"bos_token_id is \[2\], expected a token id$"),
        (True, "bos_token_id is True, expected a token id$"),
        (2.0, "bos_token_id is 2.0, expected a token id$"),
        (-1, "bos_token_id is -1, an id that the tokenizer does not know"),
        (100_000, "bos_token_id is 100000, an id that the tokenizer does not know"),
        (2**70, "an id that the tokenizer does not know"),
        (None, "neither tokenizer nor config names a BOS token"),
    ],
)
def test_a_bos_that_is_none(unnamed, value, message):
    write(unnamed, generation_config={"bos_token_id": value})
    with pytest.raises(InputError, match=message):
        Processor.from_pretrained(unnamed)


@pytest.mark.parametrize("name", ["eos_token_id", "suppress_tokens"])
@pytest.mark.parametrize("value", ["x", True, [True], 2.0, [[1]], {"a": 1}])
def test_ids_that_are_none(tmp_path, name, value):
    write(helpers.save_tokenizer(tmp_path), generation_config={name: value})
    with pytest.raises(InputError, match=f"{name} is .*, expected a token id or a list of them"):
        Processor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (helpers.TEMPLATE, {EOS, END_OF_TURN}),
        (None, {EOS}),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", {EOS}),  # has no end of turn
        ("{% for m in messages %}{{ m.content }}<eos>{% endfor %}", {EOS}),
        ("{{ messages[0].content }}<turn|>", {EOS}),  # does not show answers
        ("{{ raise_exception('no') }}<turn|>", {EOS}),
        ("{{ 1 / 0 }}<turn|>", {EOS}),
    ],
)
def test_the_end_of_turn_is_an_end(tmp_path, template, ends):
    helpers.save_tokenizer(tmp_path, template=template)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    assert Processor.from_pretrained(tmp_path).eos_token_ids == ends


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json"])
def test_other_places_for_the_template(tmp_path, processor, place):
    helpers.save_tokenizer(tmp_path, template=None)
    file = tmp_path / place
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | {"chat_template": helpers.TEMPLATE}))
    assert Processor.from_pretrained(tmp_path).encode("hello") == processor.encode("hello")


def test_templates_with_names_and_none_by_default(tmp_path):
    file = helpers.save_tokenizer(tmp_path, template=None) / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": helpers.TEMPLATE}]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": named}))
    with pytest.raises(InputError, match="multiple chat templates with no default") as refused:
        Processor.from_pretrained(tmp_path).encode("hello")
    assert "\n" not in str(refused.value)


def test_damaged_files(tmp_path):
    with pytest.raises(InputError, match=r"has no tokenizer.json"):
        Processor.from_pretrained(tmp_path)
    file = helpers.save_tokenizer(tmp_path) / "tokenizer.json"
    whole = json.loads(file.read_text())
    for content in ("", "{", '{"a": 1}', json.dumps(whole | {"model": {"type": "Riddle"}})):
        file.write_text(content)
        with pytest.raises(InputError, match=r"the tokenizer files of .* are damaged"):
            Processor.from_pretrained(tmp_path)
    helpers.save_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="neither tokenizer nor config names a BOS token"):
        Processor.from_pretrained(tmp_path)


@pytest.fixture
def only_sentencepiece(tmp_path):
    """A folder with a tokenizer.model, and no tokenizer.json."""
    pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    return helpers.save_sentencepiece(tmp_path)


def test_a_checkpoint_with_a_tokenizer_model_alone(only_sentencepiece):
    import sentencepiece

    reference = sentencepiece.SentencePieceProcessor(model_file=str(only_sentencepiece / "tokenizer.model"))
    processor = Processor.from_pretrained(only_sentencepiece)
    for text in ("hello to the  llama", " é<turn|>\nwall"):
        assert processor.encode(text, chat=False) == [BOS, *reference.encode(text)]
        assert processor.decode(processor.encode(text, chat=False), skip_special_tokens=False) == f"<bos>{text}"
    end_of_turn = reference.piece_to_id("<turn|>")
    assert processor.eos_token_ids == {EOS, end_of_turn}
    assert processor.encode("<turn|>hello").count(end_of_turn) == 1


def test_it_loads_as_with_the_tokenizer_json_that_is_made_of_it(only_sentencepiece, tmp_path_factory):
    """The whole checkpoint, for real: the same ids for any text, and the same answer."""
    config = helpers.text_config("31B") | {"vocab_size": 320, "bos_token_id": BOS, "eos_token_id": EOS}
    target = Gemma4ForCausalLM(read_target_config(config))
    helpers.save(only_sentencepiece, config, helpers.randomize(target))
    twin = tmp_path_factory.mktemp("twin")
    shutil.copytree(only_sentencepiece, twin, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tokenizer.model"))
    Processor.from_pretrained(only_sentencepiece).tokenizer.backend_tokenizer.save(str(twin / "tokenizer.json"))
    (one, by_model), (_, by_json) = load(only_sentencepiece), load(twin)
    rng = random.Random(0)
    parts = ["the", " llama", "  ", "\n", "é", "漢", "<turn|>", "<bos>", "▁", "\t", "wall", "0", "\u200b", "<"]
    texts = ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 12))) for _ in range(300)]
    for text in texts:
        assert by_model.encode(text, chat=False) == by_json.encode(text, chat=False)
        if text.strip():
            assert by_model.encode(text) == by_json.encode(text)
    assert generate(one, by_model, "hello", max_tokens=4) == generate(one, by_json, "hello", max_tokens=4)


@pytest.mark.parametrize("library", ["sentencepiece", "google.protobuf"])
def test_what_a_tokenizer_model_takes(only_sentencepiece, monkeypatch, library):
    """Both are in the extra that the error names."""
    monkeypatch.setitem(sys.modules, library, None)
    message = rf'and reading its tokenizer.model needs {library}: pip install "\.\[sentencepiece\]" in the folder'
    with pytest.raises(InputError, match=message):
        Processor.from_pretrained(only_sentencepiece)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {Requirement(each).name for each in extras["sentencepiece"]} == {"sentencepiece", "protobuf"}
    assert any("sentencepiece" in Requirement(each).extras for each in extras["test"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:3000],
        lambda content: content.replace(b"<0x00>", b"<0x\xff0>"),  # an error that quotes it, which no text can
    ],
)
def test_a_damaged_tokenizer_model(only_sentencepiece, damage):
    file = only_sentencepiece / "tokenizer.model"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"are damaged: tokenizer.model is not SentencePiece's"):
        Processor.from_pretrained(only_sentencepiece)


def test_no_torch_and_no_advice(folder):
    code = (
        "import sys; from mlx_gemma4_assist.text.processor import Processor\n"
        f"Processor.from_pretrained({str(folder)!r}).encode('hello')\n"
        "assert 'torch' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
