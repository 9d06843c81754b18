"""The C++ engine: the package's text, its refusals, its end."""

import json
import random
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from support import commands
from support.bundles import FAMILIES, FORMS, exported, pair_of
from support.native import Text, build, edit, has_compiler, make, refusal
from support.paths import ASSETS

from mlx_gemma4_assist import InputError, load, load_assistant, stream_generate
from mlx_gemma4_assist.bundle import native
from mlx_gemma4_assist.bundle.checking import check_native
from mlx_gemma4_assist.bundle.writing import ExportOptions, export
from mlx_gemma4_assist.drafts.learned import AutoDraftLength
from mlx_gemma4_assist.engine.pair import Checkpoint

pytestmark = pytest.mark.skipif(not has_compiler(), reason="the C++ engine is built with g++, and there is none here")

TOKENS = 1500
FEW_TOKENS = 300
LEAVES = 40  # processes; 200 were tried once
FUZZED = 800
DRAWN = ("--temperature", "0.3", "--top-k", "40", "--top-p", "0.95", "--min-p", "0.02", "--seed", "7")
SAMPLING = {"temperature": 0.3, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "seed": 7}
BLOCKS = {"draft_temperature": 1.0}
WAYS = {"likeliest": (), "drawn": DRAWN, "drawn, drafts too": (*DRAWN, "--draft-temperature", "1")}
MIXED = "0,3,1,8,0,2,1,5"
CASES = [(way, drafts) for way in ("likeliest", "drawn") for drafts in ("0", "3", MIXED, "learned")]
CASES += [("drawn, drafts too", "3")]
COMPILED = [("likeliest", "0"), ("likeliest", "3"), ("drawn", "3"), ("drawn, drafts too", "3")]


@pytest.fixture(scope="session")
def runner(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("native"), extra=["tests/drafts", "tests/fuzz"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Of the embedded pair."""
    return export(Checkpoint.open("tiny"), tmp_path_factory.mktemp("bundle") / "tiny.bundle", ExportOptions())


@pytest.fixture(scope="module")
def tiny():
    return (*load("tiny"), load_assistant("tiny-assistant"))


@pytest.fixture(scope="module")
def prompt(tiny) -> list[int]:
    """Longer than two pieces."""
    text = (ASSETS / "tiny" / "heldout.txt").read_text(encoding="utf-8")
    return tiny[1].encode(text, chat=False)[:150]


@pytest.fixture(scope="module")
def texts(engines_texts, tiny, prompt):
    """The package's, by the way of drawing."""
    model, processor, assistant = tiny

    def text(tokens: int, drafts: int, options) -> list[int]:
        made = stream_generate(
            model, processor, prompt, assistant, max_tokens=tokens, num_assistant_tokens=drafts, **options
        )
        return [each.token for each in made]

    found = {
        "likeliest": text(TOKENS, 3, {}),
        "drawn": text(TOKENS, 0, SAMPLING),  # a seed's text, whatever is drafted
        "drawn, drafts too": text(FEW_TOKENS, 3, SAMPLING | BLOCKS),
    }
    assert [len(each) for each in found.values()] == [TOKENS, TOKENS, FEW_TOKENS]
    return found


@pytest.fixture(scope="module")
def engines_texts(runner, bundle, prompt):
    """The engine's, of all cases, two at a time while the package makes its own."""

    def text(way: str, drafts: str) -> Text:
        tokens, compiled = FEW_TOKENS if way == "drawn, drafts too" else TOKENS, int((way, drafts) in COMPILED)
        options = ("--drafts", drafts, "--max-tokens", str(tokens), "--compile", str(compiled), *WAYS[way])
        return make(runner, bundle, [prompt], *options)[0]

    with ThreadPoolExecutor(2) as threads:
        yield {case: threads.submit(text, *case) for case in CASES}


@pytest.mark.parametrize(("way", "drafts"), CASES)
def test_the_text_is_the_packages(engines_texts, texts, way, drafts):
    """Through many buckets, buffers that grow, and rings that wrap; compiled, too."""
    assert engines_texts[way, drafts].result().tokens == texts[way]


def test_later_turns_keep_the_keys_of_earlier_ones(runner, bundle, prompt):
    """A turn that goes on, one that takes back a little, one that takes back more than rings allow, another text."""
    options = ("--drafts", "3", "--max-tokens", "8", "--compile", "0")
    (first,) = make(runner, bundle, [prompt], *options)
    later = prompt + first.tokens + prompt[7:30]
    turns = [prompt, later, later[:-2], later[:60], prompt[50:]]
    alone = [make(runner, bundle, [each], *options)[0] for each in turns]
    together = make(runner, bundle, turns, *options)
    assert [each.tokens for each in together] == [each.tokens for each in alone]
    assert [each.said["kept"] for each in together] == [0, len(prompt) + 7, len(later) - 3, 0, 0]


def test_a_text_ends_at_a_stop_token(runner, bundle, prompt, texts, tmp_path):
    """In the middle of a round, too; the next turn goes on from there."""
    copy = shutil.copytree(bundle, tmp_path / "stops.bundle")
    made = texts["likeliest"]
    stop = next(token for token in made[10:] if token not in made[:10])
    edit(copy, "manifest.json", lambda manifest: manifest["text"].update(stops=[stop]))
    until = made[: made.index(stop) + 1]
    longer = [*prompt, *until, *prompt[:5]]
    first, second = make(runner, copy, [prompt, longer], "--drafts", "8", "--max-tokens", "400", "--compile", "0")
    assert first.tokens == until
    assert second.said["kept"] == len(prompt) + len(until) - 1
    assert (
        second.tokens
        == make(runner, copy, [longer], "--drafts", "0", "--max-tokens", "400", "--compile", "0")[0].tokens
    )


def test_a_context_ends_a_text(runner, bundle, prompt, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "short.bundle")
    edit(copy, "manifest.json", lambda manifest: manifest.update(context=len(prompt) + 10))
    (text,) = make(runner, copy, [prompt], "--drafts", "8", "--compile", "0")
    assert len(text.tokens) == 10
    asked = " ".join(map(str, [*prompt, *prompt]))
    assert "longer than the model's context" in refusal(runner, copy, prompt=asked)


@pytest.mark.parametrize(("family", "form"), [*zip(FAMILIES, FORMS, strict=True)])
def test_families_and_formats(runner, tmp_path, family, form):
    """Tokens, drafts and logits, likeliest and drawn; all families in all formats: tools/check_bundles.py."""
    out = tmp_path / "X.bundle"
    found = exported(pair_of(tmp_path, family, **FORMS[form]), out, tokens=4)
    again = check_native(out, runner, found.texts)
    assert again.tokens == found.tokens >= 20
    assert again.ties == []


def test_the_engines_logits_and_drafts_are_compared(runner, tmp_path):
    """Though the text is right, wrong drafts are found, and so are wrong logits."""
    out = tmp_path / "X.bundle"
    (_, text, *_) = exported(pair_of(tmp_path, "e2b"), out, tokens=4).texts
    number, made = next((i, made) for i, made in enumerate(text.rounds) if made.accepted + 1 < made.logits.shape[1])
    places = mx.arange(made.logits.shape[1])[:, None]
    for wrong, message in ((places == 0, "logits differ"), (places > made.accepted, "drafts are not the package's")):
        rounds = [*text.rounds]
        rounds[number] = made._replace(logits=made.logits + mx.where(wrong, 50.0, 0.0))
        with pytest.raises(InputError, match=message):
            check_native(out, runner, [replace(text, rounds=rounds)])
    with pytest.raises(InputError, match="C\\+\\+ engine fails: the prompt is empty"):
        check_native(out, runner, [replace(text, prompt=[])])


def test_export_checks_by_the_engine_where_it_can(tmp_path, monkeypatch, capsys, runner):
    """One plain line tells if it cannot."""
    command = commands.runner(monkeypatch, capsys)
    model = pair_of(tmp_path, "e2b")
    monkeypatch.setattr(native, "build", lambda folder: runner)
    asked = ("export", "--model", str(model), "--assistant-model", "none", "--out")
    done = command(*asked, str(tmp_path / "X.bundle"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tokens of") == 2
    assert "Checked by the C++ engine: " in done.stderr
    monkeypatch.setattr(native, "compiler", lambda: None)
    again = command(*asked, str(tmp_path / "Y.bundle"))
    assert again.stderr.splitlines()[-1] == "Not checked by the C++ engine: there is no C++ compiler."


# How it ends


def test_leaving_with_a_round_in_flight(runner, bundle, prompt):
    """Nothing is closed; what is under way is waited for. Each process ends at another round."""
    line = " ".join(map(str, prompt[:20])) + "\n"

    def leave(number: int) -> int:
        command = [str(runner), str(bundle), "--drafts", "3", "--exit-after", str(1 + number % 7)]
        return subprocess.run(command, input=line, text=True, stdout=subprocess.DEVNULL, timeout=60).returncode

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(leave, range(LEAVES))) == {0}


def test_cancelling_while_a_prompt_is_read_and_while_rounds_are_made(runner, bundle, prompt):
    """After the piece or round that is under way; the next turn is as if nothing had been."""
    (whole,) = make(runner, bundle, [prompt], "--max-tokens", "60", "--drafts", "3")
    for pieces in (1, 2, 4, 7):
        texts = make(
            runner, bundle, [prompt, prompt], "--max-tokens", "60", "--drafts", "3", "--cancel-after", str(pieces)
        )
        assert texts[0].said["pieces"] == pieces + 1
        assert len(texts[0].tokens) < 60
        assert texts[0].tokens == whole.tokens[: len(texts[0].tokens)]
        assert texts[1].tokens == whole.tokens


# Drafts


def cases(count: int = 40) -> dict:
    """Rounds of random texts and machines, and what the package's rule chooses before each."""
    found = []
    for seed in range(count):
        luck = random.Random(seed)
        rule = AutoDraftLength(luck.choice([1, 3, 8, 8]))
        stands, step, slope = luck.random(), luck.uniform(1e-3, 0.1), luck.uniform(0.01, 0.7)
        rounds = []
        for number in range(120):
            chosen = rule.choose()
            drafted = chosen if luck.random() < 0.9 else luck.randint(0, rule.longest)
            accepted = next((i for i in range(drafted) if luck.random() > stands), drafted)
            seconds = None if luck.random() < 0.05 else step * (1 + slope * drafted) * luck.uniform(0.8, 1.3)
            if number == 60:
                stands, step = luck.random(), step * luck.uniform(0.5, 2)
            rounds.append([chosen, drafted, accepted, seconds])
            rule.observe(drafted, [accepted], seconds)
        found.append({"longest": rule.longest, "rounds": rounds})
    return {"cases": found}


def test_draft_lengths_follow_the_packages_rule(runner, tmp_path):
    table = tmp_path / "cases.json"
    table.write_text(json.dumps(cases()))
    done = subprocess.run([str(runner.with_name("drafts")), str(table)], capture_output=True, text=True)
    assert done.stdout == "40 cases, 4800 rounds\n"
    assert done.returncode == 0


# What is refused


def changed(change, name="manifest.json"):
    return lambda folder: edit(folder, name, change)


def cut(name: str, left: int):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:left])


ROUND = "programs/greedy-2.json"
REFUSED = {
    "another format": (changed(lambda m: m.update(format="x")), "no bundle of mlx_gemma4_assist"),
    "another version": (changed(lambda m: m.update(version=2)), "version (export it anew) is 2"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "cannot read"),
    "a manifest cut off": (cut("manifest.json", 900), "it is no JSON at byte"),
    "a program cut off": (cut(ROUND, 100), "is not of the length"),
    "another program": (
        lambda folder: (folder / ROUND).write_bytes((folder / ROUND).read_bytes().replace(b"end", b"End", 1)),
        "is not the file that the bundle was written with",
    ),
    "a file elsewhere": (
        changed(lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}})),
        "is not in the bundle",
    ),
    "an unknown operation": (changed(lambda p: p["operations"][3].update(operation="x"), ROUND), "is not known here"),
    "an array to come": (changed(lambda p: p["steps"].__setitem__(1, 99999), ROUND), "a step is 99999"),
    "steps cut off": (changed(lambda p: p["steps"].pop(), ROUND), "its last step is cut off"),
    "an output to come": (changed(lambda p: p["outputs"][0].__setitem__(1, 99999), ROUND), "an output is 99999"),
    "a program of a later version": (changed(lambda p: p.update(version=2), ROUND), "version is 2"),
    "weights cut off": (cut("weights.safetensors", 99_999), "is not the file of weights"),
    "a tensor of another shape": (changed(lambda m: m["weights"][0][4].append(1)), "as the bundle needs it"),
    "constants cut off": (cut("constants.safetensors", 900), "is not of the length"),
    "a layout that does not fit": (changed(lambda m: m["layout"].update(ring=7)), "does not fit together"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_whole_is_refused(runner, bundle, tmp_path, case):
    copy = shutil.copytree(bundle, tmp_path / "X.bundle")
    change, expected = REFUSED[case]
    change(copy)
    assert expected in refusal(runner, copy)


def test_names_in_a_manifest_may_be_spelled_by_escapes(runner, bundle, prompt, tmp_path):
    """As ``json.dumps`` does, with two of them for what is beyond 65,536; a half of one is no text."""
    copy = shutil.copytree(bundle, tmp_path / "X.bundle")
    name = 'Gewichte "ü" \U0001f600.safetensors'
    (copy / "weights.safetensors").rename(copy / name)
    edit(copy, "manifest.json", lambda manifest: manifest["weight_files"][-1].update(path=name))
    assert '\\u00fc\\" \\ud83d\\ude00' in (copy / "manifest.json").read_text()
    options = ("--max-tokens", "3", "--compile", "0")
    assert make(runner, copy, [prompt], *options)[0].tokens == make(runner, bundle, [prompt], *options)[0].tokens
    edit(copy, "manifest.json", lambda manifest: manifest["weight_files"][-1].update(path="\ud83d"))
    assert "manifest.json is damaged" in refusal(runner, copy)


@pytest.mark.parametrize(
    ("operation", "argument", "value", "expected"),
    [
        ("slice", "step", 0, "an integer is 0"),
        ("slice", "step", 2**31 - 1, "an integer is 2147483647"),
        ("reshape", "shape", 0, "an operation makes an empty array"),
        ("reshape", "shape", -2, "an integer is -2"),
    ],
)
def test_an_argument_that_is_out_of_bounds_is_refused_where_it_is_used(
    runner, bundle, tmp_path, operation, argument, value, expected
):
    """Rather than divided by."""

    def damage(program) -> None:
        found = next(each for each in program["operations"] if each["operation"] == operation)
        found[argument] = [value for _ in found[argument]]

    copy = shutil.copytree(bundle, tmp_path / "X.bundle")
    edit(copy, "programs/greedy-0.json", damage)
    assert refusal(runner, copy).endswith(f"the program greedy-0 cannot be run: {expected}")


@pytest.mark.parametrize("name", ["quantized_matmul", "gather_qmm", "dequantize", "slice_update", "uniform", "gumbel"])
def test_an_array_with_too_few_axes_is_refused(runner, bundle, tmp_path, name):
    """MLX does not ask how many there are where it leaves out the last two, and slices take no more than they have."""
    weights = json.loads((bundle / "manifest.json").read_text())["weights"]
    vector, matrix = (next(place for place, (*_, s) in enumerate(weights) if len(s) == axes) for axes in (1, 2))
    packed = {"group_size": 64, "bits": 4, "mode": "affine", "transpose": True, "sorted": False}

    def damage(program) -> None:
        def add(operation: str, *inputs: int, **arguments) -> None:
            program["steps"] += [len(program["operations"]), *inputs]
            program["operations"].append({"operation": operation, "inputs": len(inputs), "outputs": 1, **arguments})

        taken = {"quantized_matmul": 3, "gather_qmm": 4, "dequantize": 2}
        if name in taken:
            add(name, *[vector] * taken[name], **packed)
        elif name == "slice_update":
            add(name, vector, matrix, vector, axes=[0])
        else:
            known = json.loads((bundle / "manifest.json").read_text())
            inputs = len(known["weights"]) + known["constants"] + len(program["inputs"])
            made = inputs + sum(each["outputs"] for each in used(program))
            add("scalar", value=1, dtype="uint32")
            add(name, made, count=3)

    copy = shutil.copytree(bundle, tmp_path / "X.bundle")
    edit(copy, "programs/greedy-0.json", damage)
    assert refusal(runner, copy).endswith(
        "the program greedy-0 cannot be run: an operation takes an array of so many axes"
    )


def used(program) -> list[dict]:
    """The operation of each step."""
    found, at, steps = [], 0, program["steps"]
    while at < len(steps):
        found.append(program["operations"][steps[at]])
        at += 1 + found[-1]["inputs"]
    return found


def test_requests_out_of_bounds_are_refused(runner, bundle):
    for options, expected in (
        (("--drafts", "9"), "no rounds of so many drafts"),
        (("--temperature", "1", "--top-k", "999"), "out of bounds"),
        (("--temperature", "-1.5"), "out of bounds"),
        (("--max-tokens", "0"), "out of bounds"),
    ):
        assert expected in refusal(runner, bundle, *options)
    assert "the id 1024" in refusal(runner, bundle, prompt="2 1024")
    assert "the prompt is empty" in refusal(runner, bundle, prompt="")


def test_changed_bundles_are_opened_or_refused(runner, tmp_path):
    """Damaged and forged ones, of a small pair; native/tests/fuzz.cpp says how, native/README.md how to run more."""
    model = pair_of(tmp_path, "e2b", q_bits=4, q_group_size=32)
    out = export(Checkpoint.open(model), tmp_path / "X.bundle", ExportOptions(copy_weights=True, drafts=2))
    command = [str(runner.with_name("fuzz")), str(out), str(tmp_path), str(FUZZED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done
    assert done.stdout.startswith(f"{FUZZED} bundles: ")
