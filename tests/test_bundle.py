"""Bundles: their programs make the package's text, and what is not whole is refused."""

import hashlib
import json
import random
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import mlx.core as mx
import mlx.nn as nn
import pytest
from support.bundles import FAMILIES, FEW, FORMS, exported, pair_of
from support.chat_format import TEMPLATES, chat_processor
from support.checkpoints import TEMPLATE, WORDS, save_tokenizer
from support.commands import runner
from support.paths import ROOT
from support.plain_chats import messages_of, random_chats

from mlx_gemma4_assist import InputError, Processor
from mlx_gemma4_assist.backend import branches
from mlx_gemma4_assist.bundle import operations
from mlx_gemma4_assist.bundle.chat_form import chat_form, written
from mlx_gemma4_assist.bundle.interpreter import run
from mlx_gemma4_assist.bundle.loading import Bundle
from mlx_gemma4_assist.bundle.marks import Marks, whole
from mlx_gemma4_assist.bundle.program import read_program
from mlx_gemma4_assist.bundle.runner import Runner
from mlx_gemma4_assist.bundle.weights import Weights, named_networks
from mlx_gemma4_assist.bundle.writing import (
    ExportOptions,
    asked_top_k,
    digest_of,
    export,
    layout_of,
    no_progress,
    traced_programs,
)
from mlx_gemma4_assist.engine.pair import Checkpoint
from mlx_gemma4_assist.models.families import families
from mlx_gemma4_assist.models.gemma4_assistant import Gemma4AssistantForCausalLM
from mlx_gemma4_assist.models.gemma4_text import Gemma4ForCausalLM
from mlx_gemma4_assist.rounds.accept import accept
from mlx_gemma4_assist.rounds.sampling import Sampling
from mlx_gemma4_assist.rounds.state import Decoder
from mlx_gemma4_assist.text.renderer import Renderer

CASES = [(family, form) for family in FAMILIES for form in ("float32", "affine")]
CASES += [("e2b", "mxfp4"), ("26b-a4b", "mxfp8"), ("31b", "nvfp4")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return pair_of(tmp_path_factory.mktemp("pair"), "e2b", q_bits=4, q_group_size=32)


@pytest.mark.parametrize(("family", "form"), CASES)
def test_a_bundle_makes_the_text_of_the_package(tmp_path, family, form):
    """Likeliest tokens and drawn ones, with rings that have wrapped, where buffers grow and a bucket ends."""
    found = exported(pair_of(tmp_path, family, **FORMS[form]), tmp_path / "X.bundle")
    assert found.tokens >= 30
    assert found.ties == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tmp_path, dtype):
    """Texts may part where logits are as close as rounding goes, which these hardly ever are."""
    found = exported(pair_of(tmp_path, "12b", dtype), tmp_path / "X.bundle")
    assert found.tokens >= 20


def test_accepted_drafts(tmp_path):
    """The embedded pair is trained: many of its drafts stand, drawn or not."""
    found = exported("tiny", tmp_path / "X.bundle", replace(FEW, drafts=3), tokens=20)
    assert found.tokens >= 1.3 * found.rounds
    assert found.same == found.drafted > 20


def test_wrong_drafts_are_found_though_texts_are_right(tmp_path, monkeypatch):
    """Nothing else tells them: the text is the target's own whatever is drafted."""
    real = Runner.round

    def forgetful(self, *arguments):
        made = real(self, *arguments)
        self._state["hidden"] = mx.zeros_like(self._state["hidden"])
        return made

    monkeypatch.setattr(Runner, "round", forgetful)
    with pytest.raises(InputError, match="drafts are not the package's"):
        exported(pair_of(tmp_path, "e2b"), tmp_path / "X.bundle")


def test_all_numbers_of_drafts(model, tmp_path):
    found = exported(model, tmp_path / "X.bundle", ExportOptions(), tokens=24)
    assert found.tokens >= 120
    assert found.ties == []


# What a bundle has


@pytest.fixture(scope="module")
def bundle(model) -> Path:
    """Beside its model, unchecked."""
    out = model.with_name("X.bundle")
    export(Checkpoint.open(model), out, FEW)
    return out


def test_own_conversions_are_used_as_they_lie(model, bundle):
    opened = Bundle(bundle)
    assert not (bundle / "weights.safetensors").exists()
    assert {each["path"] for each in opened.manifest["weight_files"]} == {
        f"../{folder.name}/model.safetensors" for folder in (model, model.with_name(f"{model.name}-assistant"))
    }
    assert all("sha256" not in each for each in opened.manifest["weight_files"])  # nobody downloads these


def test_what_lies_otherwise_is_copied(tmp_path):
    """Experts that are stacked in Google's files, and nothing else."""
    found = exported(pair_of(tmp_path, "26b-a4b"), tmp_path / "X.bundle", tokens=4)
    copied = mx.load(str(tmp_path / "X.bundle" / "weights.safetensors"))
    assert {name.rpartition(".experts.")[2] for name in copied} == {
        "switch_glu.gate_proj.weight", "switch_glu.up_proj.weight"
    }  # fmt: skip
    assert found.tokens


def test_copied_weights_need_no_checkpoint(model, tmp_path):
    out = tmp_path / "X.bundle"
    exported(model, out, replace(FEW, copy_weights=True), tokens=4)
    (only,) = Bundle(out).manifest["weight_files"]
    assert only["path"] == "weights.safetensors"
    assert only["sha256"] == hashlib.sha256((out / "weights.safetensors").read_bytes()).hexdigest()


def test_weights_are_found_from_behind_links(model, tmp_path):
    """Such as /tmp on a Mac: from a folder that a link names ``..`` leads elsewhere than from the link."""
    (tmp_path / "one" / "two").mkdir(parents=True)
    (tmp_path / "link").symlink_to("one/two")
    (tmp_path / "models").symlink_to(model.parent)
    export(Checkpoint.open(tmp_path / "models" / model.name), tmp_path / "link" / "X.bundle", replace(FEW, drafts=0))
    files = Bundle(tmp_path / "link" / "X.bundle").manifest["weight_files"]
    assert len(files) == 2


def test_a_link_to_nothing_is_refused_at_once(model, tmp_path):
    (tmp_path / "X.bundle").symlink_to("nothing")
    with pytest.raises(InputError, match="exists already"):
        export(Checkpoint.open(model), tmp_path / "X.bundle", FEW)


def test_without_an_assistant_rounds_draft_nothing(model, tmp_path):
    checkpoint = Checkpoint.open(model, "none")
    export(checkpoint, tmp_path / "X.bundle", ExportOptions())
    assert Bundle(tmp_path / "X.bundle").manifest["drafts"] == 0


def test_a_checkpoint_has_as_many_of_the_likeliest_tokens_as_it_asks_for(tmp_path):
    for asked, most in ((None, 64), (40, 64), (65, 256), (5000, 1024)):
        content = {} if asked is None else {"do_sample": True, "top_k": asked}
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        assert asked_top_k(tmp_path) == most


def test_other_threads_compute_while_one_traces():
    x, found = mx.arange(8, dtype=mx.float32), []
    expected = mx.fast.rms_norm(x, None, 1e-6)
    mx.eval(x, expected)
    with whole(Marks()):
        thread = Thread(target=lambda: found.append(mx.fast.rms_norm(x, None, 1e-6).tolist()))
        thread.start()
        thread.join()
    assert found == [expected.tolist()]
    assert mx.array_equal(mx.fast.rms_norm(x, None, 1e-6), expected)


def test_the_format_is_documented():
    """Every operation, every argument of one, every entry of a manifest."""
    text = (ROOT / "docs" / "bundle.md").read_text()
    words = set(re.findall(r"[a-z_]+", text))
    assert operations.OPERATIONS.keys() <= words
    assert {argument for each in operations.OPERATIONS.values() for argument in each.arguments} <= words


def test_the_documented_program_runs():
    text = (ROOT / "docs" / "bundle.md").read_text()
    program = read_program(text.partition("```json\n")[2].partition("```")[0], "docs/bundle.md")
    fixed = [mx.zeros(1)] * (program.weights + program.constants)
    made = run(program, fixed, {"length": mx.array([2], mx.int32)}, {"end": 4})
    assert made["valid"].tolist() == [True, True, False, False]
    with pytest.raises(InputError, match="length is"):
        run(program, fixed, {"length": mx.array([2, 3], mx.int32)}, {"end": 4})
    with pytest.raises(InputError, match="depends on end"):
        run(program, fixed, {"length": mx.array([2], mx.int32)}, {})


def test_the_manifest_is_documented(bundle):
    text = (ROOT / "docs" / "bundle.md").read_text()
    manifest = Bundle(bundle).manifest
    entries = [*manifest, *manifest["layout"], *manifest["text"], *manifest["hidden"], *manifest["weight_files"][0]]
    assert [entry for entry in entries if entry not in text] == []


def test_how_a_chat_is_written(bundle):
    assert chat_form(Checkpoint.open("tiny").processor) == {
        "begin": "<bos>",
        "user": {"open": "<|turn>user\n", "close": "<turn|>\n"},
        "model": {"open": "<|turn>model\n", "close": "<turn|>\n"},
        "system": {"open": "<|turn>system\n", "close": "<turn|>\n"},
        "prompt": "<|turn>model\n",
        "trimmed": True,
        "joined": False,
        "thoughts": None,
        "control": [],
    }
    text = Bundle(bundle).manifest["text"]
    assert text["chat"]["model"]["open"] == "<|turn>assistant\n"  # so its template calls a turn that is over
    assert not text["chat"]["trimmed"]
    assert text["stops"] == [1, 5]


@pytest.mark.parametrize(("form", "prompt"), [("full", "<|channel>thought\n<channel|>"), ("compact", "")])
def test_how_a_chat_with_thoughts_is_written(tmp_path, form, prompt):
    found = chat_form(chat_processor(tmp_path, TEMPLATES[form]))
    assert found["prompt"] == f"<|turn>model\n{prompt}"
    assert found["thinking"] == {"ask": "<|think|>\n", "prompt": "<|turn>model\n"}
    assert found["thoughts"] == {"open": "<|channel>", "close": "<channel|>"}
    assert found["joined"]


@pytest.mark.parametrize("form", TEMPLATES)
def test_a_form_writes_what_the_package_does(tmp_path, form):
    processor = chat_processor(tmp_path, TEMPLATES[form])
    found, renderer, made = chat_form(processor), Renderer(processor), random_chats(300, seed=1)
    for said, thinking in made:
        rendered = renderer.render(messages_of(said), thinking=thinking).text
        assert written(found, said, thinking=thinking) == renderer.shown(rendered)
    assert any("<|turn>" in message.text for said, _ in made for message in said)


@pytest.mark.parametrize(
    ("changed", "entry"),
    [
        (
            ("{% if m.role == 'tool' %}", "{% if m.role == 'user' and loop.index > 2 %}{% elif m.role == 'tool' %}"),
            None,
        ),
        (("m.content is string %}{{ m.content }}", "m.content is string %}{{ m.content + m.content }}"), None),
        (("{{ '<|think|>\n' }}", "{{ messages | length }}"), "thinking"),
    ],
)
def test_templates_of_another_kind(tmp_path, changed, entry):
    template = TEMPLATES["compact"].replace(*changed)
    assert template != TEMPLATES["compact"]
    found = chat_form(chat_processor(tmp_path, template))
    assert found is None if entry is None else entry not in found


def test_control_tokens_that_a_tokenizer_does_not_call_special(tmp_path):
    folder = save_tokenizer(tmp_path, words=(*WORDS, "<mine>"), template=TEMPLATE + "{{ '<mine>' if false }}")
    assert chat_form(Processor.from_pretrained(folder))["control"] == ["<mine>"]


def test_programs_of_a_published_size_take_two_megabytes():
    """E2B as it is published, in 4 bits; weights are not even made to trace it."""
    family = families()["E2B"]
    target, assistant = Gemma4ForCausalLM(family.target), Gemma4AssistantForCausalLM(family.assistant)
    for network in (target, assistant):
        nn.quantize(network, group_size=64, bits=4)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    decoder = Decoder(target, assistant, layout_of(target, 8), Sampling(), accept)
    weights = Weights(named_networks(target, assistant))
    programs = traced_programs(weights, decoder, ExportOptions(), (258883, 258882), no_progress).all
    assert len(programs) == 20
    assert sum(len(program.text()) for program in programs) <= 2_000_000
    assert mx.get_peak_memory() - before < 1e6


# What is refused


def damaged(bundle: Path, folder: Path, change) -> str:
    """What a loader says of a copy that was changed."""
    copy = folder / bundle.name
    shutil.copytree(bundle, copy)
    for name in ("model.safetensors", "config.json"):
        for model in (bundle.parent / "e2b", bundle.parent / "e2b-assistant"):
            (folder / model.name).mkdir(exist_ok=True)
            shutil.copyfile(model / name, folder / model.name / name)
    change(copy)
    with pytest.raises(InputError) as error:
        Bundle(copy)
    assert "\n" not in str(error.value)
    return str(error.value)


def edited(name: str, change):
    """Changes a JSON file, and its digest where the manifest has one."""

    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))
        if name != "manifest.json":
            known(folder, name)

    return edit


def known(folder: Path, name: str) -> None:
    """Let the manifest agree with a file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": (folder / name).stat().st_size, "sha256": digest_of(folder / name)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def cut(name: str, left: int = 100):
    def change(folder: Path) -> None:
        path = folder / name
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[:left])

    return change


SHARD = "model.safetensors"
ROUND = "programs/greedy-2.json"
REFUSED = {
    "another format": (edited("manifest.json", lambda m: m.update(format="other")), "is no bundle of"),
    "another version": (edited("manifest.json", lambda m: m.update(version=2)), "is of version 2 of the format"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
    "a manifest cut off": (cut("manifest.json"), "is not valid JSON"),
    "a program cut off": (cut(ROUND), "it is cut off"),
    "a changed program": (
        lambda folder: (folder / ROUND).write_bytes((folder / ROUND).read_bytes().replace(b"end", b"End", 1)),
        "is not the file that the bundle was written with",
    ),
    "no program": (lambda folder: (folder / ROUND).unlink(), "cannot read"),
    "constants cut off": (cut("constants.safetensors"), "it is cut off"),
    "weights cut off": (cut("../e2b/model.safetensors", -1), "is cut off or damaged"),
    "no weights": (lambda folder: (folder / "../e2b/model.safetensors").unlink(), "cannot read"),
    "other weights": (
        lambda folder: shutil.copyfile(folder / f"../e2b-assistant/{SHARD}", folder / f"../e2b/{SHARD}"),
        "is not the file of weights that the bundle was made for",
    ),
    "a tensor of another shape": (
        edited("manifest.json", lambda m: m["weights"][0][4].append(1)),
        "has no language_model.model.embed_tokens.weight",
    ),
    "a tensor of another type": (
        edited("manifest.json", lambda m: m["weights"][0].__setitem__(3, "int32")), "which the bundle needs"
    ),
    "a weight that is no weight": (edited("manifest.json", lambda m: m["weights"].append(["x"])), "is no weight"),
    "a file elsewhere": (
        edited("manifest.json", lambda m: m["files"].update({"../e2b/config.json": {}})), "is not in the bundle"
    ),
    "a name with a null character": (
        edited("manifest.json", lambda m: m["files"].update({"a\0b": {}})), "can be no file's name"
    ),
    "weights with half a surrogate pair": (
        edited("manifest.json", lambda m: m["weight_files"][0].update(path="\ud800")), "can be no file's name"
    ),
    "another program's version": (edited(ROUND, lambda p: p.update(version=9)), "is of version 9"),
    "an unknown operation": (
        edited(ROUND, lambda p: p["operations"][0].update(operation="system")), "no operation that is known here"
    ),
    "an array that is not there": (edited(ROUND, lambda p: p["steps"].__setitem__(1, 10**9)), "that is not there"),
    "steps cut off": (edited(ROUND, lambda p: p["steps"].pop()), "that is not there"),
    "an output that is not there": (edited(ROUND, lambda p: p["outputs"].append(["x", 10**9])), "is no output"),
    "a variable that is not there": (edited(ROUND, lambda p: p.update(variables=[])), "is no integer"),
    "another bundle's program": (edited(ROUND, lambda p: p.update(weights=1)), "is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_whole_is_refused(bundle, tmp_path, case):
    change, said = REFUSED[case]
    assert said in damaged(bundle, tmp_path, change)


def mutated(value, luck: random.Random):
    """A JSON value with one part of it lost, or another thing in its place."""
    if isinstance(value, dict | list) and value and luck.random() < 0.9:
        place = luck.choice(list(value)) if isinstance(value, dict) else luck.randrange(len(value))
        if luck.random() < 0.1:
            value.pop(place)
        else:
            value[place] = mutated(value[place], luck)
        return value
    return luck.choice([None, True, -1, 0, 2**70, 1.5, "x", "end", [], {}, [[]], {"constant": 1}, float("nan")])


def test_mutations_are_read_or_refused(bundle, tmp_path):
    luck = random.Random(0)
    for path in (bundle / ROUND, bundle / "programs/sampled-1.json", bundle / "programs/read-33-48.json"):
        content, refused = path.read_text(), []
        for _ in range(60):
            try:
                read_program(json.dumps(mutated(json.loads(content), luck)), path.name)
            except InputError as error:
                refused.append(str(error))
        assert len(refused) > 30
        assert "\n" not in "".join(refused)
    copy = tmp_path / "pair" / "X.bundle"
    shutil.copytree(bundle, copy)
    for name in ("e2b", "e2b-assistant"):
        (copy.parent / name).symlink_to(bundle.parent / name)
    content = (bundle / "manifest.json").read_text()
    for _ in range(40):
        (copy / "manifest.json").write_text(json.dumps(mutated(json.loads(content), luck)))
        with suppress(InputError):
            assert Bundle(copy).constants


def test_programs_are_the_same_whatever_device_traces_them(model, tmp_path):
    for choice in ("cpu", "gpu"):
        with branches(choice):
            export(Checkpoint.open(model), tmp_path / f"{choice}.bundle", replace(FEW, drafts=1))
    one, other = (Bundle(tmp_path / f"{choice}.bundle").manifest["files"] for choice in ("cpu", "gpu"))
    assert one == other
    used = {use.operation for use in Bundle(tmp_path / "cpu.bundle").rounds["sampled"][1].uses}
    assert {"rms_norm", "rope", "attention", "dequantize", "quantized_matmul", "uniform", "gumbel"} <= used


def test_a_bundle_that_computes_something_else_is_not_written(model, tmp_path, monkeypatch):
    """The check sees a wrong constant, and leaves nothing behind."""
    from mlx_gemma4_assist.bundle import assembling

    real = assembling.Constants.number

    def wrong(self, array: mx.array) -> int:
        scaled = array.dtype == mx.float32 and array.ndim == 0
        return real(self, array * 1.5 if scaled else array)

    monkeypatch.setattr(assembling.Constants, "number", wrong)
    with pytest.raises(InputError, match="where the package gives|differ from the package's"):
        exported(model, tmp_path / "X.bundle")
    assert list(tmp_path.iterdir()) == []


# The command


def test_the_command(model, tmp_path, monkeypatch, capsys):
    command = runner(monkeypatch, capsys)
    out = tmp_path / "X.bundle"
    done = command("export", "--model", str(model), "--out", str(out), "--no-check")
    assert done.returncode == 0, done.stderr
    assert "of programs" in done.stdout
    again = command("export", "--model", str(model), "--out", str(out))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "exists already" in again.stderr
    nothing = command("export", "--model", str(tmp_path), "--out", str(tmp_path / "Y.bundle"))
    assert nothing.returncode == 2
