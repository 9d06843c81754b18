"""Batches beside other programs': the oracle of many rows, what is counted, what is judged, and one run of it all."""

import json
from importlib.util import find_spec
from pathlib import Path

import batch_figures
import compare_batches
import oracle
import pytest
import synthetic
from batch_figures import COLUMNS, EQUAL, FIXED, LARGE, LEARNED, POISSON, UNDRAFTED, Figures, Scenario, Turn
from batch_peers import ENGINES, OurBatches, Question
from peers import MLX_LM, MLX_VLM, Settings
from workers import Failed

MISSING = [] if find_spec("mlx_vlm") else [MLX_VLM]
BOS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return synthetic.write_pair(tmp_path_factory.mktemp("pairs") / "e2b-0.02-10-layers", "e2b", 0.02, layers=10)[0]


def walked(walk: list[int], begin: int, count: int) -> list[int]:
    """What a target writes after the walk's token at ``begin``."""
    return [walk[(begin + 1 + step) % len(walk)] for step in range(count)]


@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
def test_an_oracle_of_many_rows_is_right_where_it_is_told_to_be(folder, acceptance):
    """Two rows at different places of the walk accept different numbers of drafts."""
    walk, count, begins = synthetic.walk_of(folder), 24, (3, 30)
    engine = OurBatches(Settings(str(folder), "bfloat16", acceptance, 4), walk)
    prompts = [[BOS, 40 + begin, 90, walk[begin]] for begin in begins]
    answer = engine.answer(Question(prompts, [0.0, 0.0], count, 3))
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    drafts = oracle.followers(walk, vocabulary, acceptance, 4).tolist()
    for begin, tokens, seconds in zip(begins, answer["tokens"], answer["seconds"], strict=True):
        assert tokens == walked(walk, begin, count)
        right = [drafts[last] == token for last, token in zip([walk[begin], *tokens], tokens, strict=False)]
        assert groups(seconds) == blocks(right, groups(seconds)[0])


def groups(seconds: list[float]) -> list[int]:
    """How many tokens came together each time."""
    return [seconds.count(second) for second in dict.fromkeys(seconds)]


def blocks(right: list[bool], first: int) -> list[int]:
    """How many tokens rounds of at most three drafts give, after the first round's; ``right`` says which drafts are."""
    sizes, at = [first], first
    while at < len(right):
        accepted = [*right[at : min(at + 3, len(right) - 1)], False].index(False)
        sizes.append(accepted + 1)
        at += accepted + 1
    return sizes


def test_all_programs_continue_a_batch_alike(folder):
    """Prompts of different lengths, the last of which arrives later."""
    walk = synthetic.walk_of(folder)
    settings = Settings(str(folder), "bfloat16", 0.8, 0)
    prompts = [[BOS, *range(30, 30 + 3 * row), walk[7 * row]] for row in range(1, 4)]
    for name, make in ENGINES.items():
        if name in MISSING:
            continue
        engine = make(settings, walk)
        for column in (column for column in COLUMNS if column.engine == name):
            answer = engine.answer(Question(prompts, [0.0, 0.0, 0.05], 12, column.drafts))
            assert answer["tokens"] == [walked(walk, 7 * row, 12) for row in range(1, 4)], column.label
            assert answer["seconds"][2][0] >= 0.05


def test_figures_are_of_all_rows():
    answer = {"tokens": [], "seconds": [[1.0, 1.5, 1.5, 2.0], [2.5, 3.0, 3.5, 4.0]], "peak_memory": 7}
    found = Figures.of(answer, [0.0, 2.0])
    assert found == Figures(total=2.0, row=(3 + 2) / 2, first=0.75, slowest=1.0, gap=0.5, memory=7)


def turns_of(**totals: float) -> list[Turn]:
    """One turn, with tokens per second by column."""
    names = {"undrafted": UNDRAFTED, "fixed": FIXED, "learned": LEARNED}
    names |= {"mlx_lm": batch_figures.Column(MLX_LM, 0), "mlx_vlm": batch_figures.Column(MLX_VLM, 3)}
    figures = {names[name]: Figures(total, 1, 1, 1, 1, 1) for name, total in totals.items()}
    return [Turn(figures, {column: [[1, 2]] for column in figures}, 0.0)]


def complaints(scenario: Scenario, turns: list[Turn]) -> list[str]:
    return [complaint for _, complaint in compare_batches.show(scenario, turns, 0.8) if complaint is not None]


@pytest.mark.parametrize(
    ("totals", "rows", "missed"),
    [
        ({"undrafted": 131, "mlx_lm": 100}, 4, None),
        ({"undrafted": 129, "mlx_lm": 100}, 4, "mlx-lm, undrafted is 1.290, wanted 1.3"),
        ({"undrafted": 90, "mlx_lm": 100}, 2, None),
        ({"learned": 199, "mlx_vlm": 100}, 8, "mlx-vlm, 3 drafts is 1.990, wanted 2.0"),
        ({"learned": 99, "undrafted": 100}, 1, None),
        ({"learned": 97, "undrafted": 100}, 1, "ours, undrafted is 0.970, wanted 0.98"),
    ],
)
def test_what_is_wanted_is_judged(totals, rows, missed):
    found = complaints(Scenario("embedded", rows, EQUAL), turns_of(**totals))
    assert [missed in complaint for complaint in found] == ([] if missed is None else [True])
    assert not complaints(Scenario("embedded", rows, POISSON), turns_of(**totals))


def test_an_oracle_that_is_right_has_to_be_worth_its_time():
    assert len(complaints(Scenario(LARGE, 1, EQUAL), turns_of(learned=99, undrafted=100))) == 1
    assert not complaints(Scenario(LARGE, 1, EQUAL), turns_of(learned=101, undrafted=100))


def test_drafts_must_not_change_a_text():
    turns = turns_of(learned=100, undrafted=100, mlx_lm=50)
    turns[0].tokens[batch_figures.Column(MLX_LM, 0)] = [[1, 3]]
    assert not complaints(Scenario("embedded", 4, EQUAL), turns)
    turns[0].tokens[LEARNED] = [[1, 3]]
    assert "ours, auto drafts writes another text" in complaints(Scenario("embedded", 4, EQUAL), turns)[0]


class InProcess:
    """Stands in for a worker: no process to start."""

    def __init__(self, command: list[str], verbose: bool):
        name, settings, chain = command[2:]
        if name in MISSING:
            raise Failed(f"there is no {name}")
        self.started = {"versions": {name: "1"}}
        self._engine = ENGINES[name](Settings(**json.loads(settings)), json.loads(chain))

    def ask(self, question: dict) -> dict:
        return json.loads(json.dumps(self._engine.answer(Question(**question))))

    def close(self) -> None:
        pass


def test_a_whole_comparison(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_batches, "Worker", InProcess)
    file = tmp_path / "out.json"
    options = "--rows 2 --scenarios poisson --turns 1 --tokens 4 --large-tokens 4 --prompt-tokens 8 --scale 0.02"
    options += f" --layers 10 --work {folder.parent} --json {file}"
    code = compare_batches.compare(compare_batches.arguments().parse_args(options.split()))
    found, said = json.loads(file.read_text()), capsys.readouterr().out
    assert code == 0
    assert found["wrong"] == []
    labels = [f"{pair} pair, 2 rows, mixed lengths, Poisson" for pair in ("embedded", "large")]
    assert [each["label"] for each in found["scenarios"]] == labels
    present = [column.label for column in COLUMNS if column.engine not in MISSING]
    for each in found["scenarios"]:
        assert [label for label, turns in each["columns"].items() if turns] == present
        assert each["another_text"] == []
    assert list(found["left_out"].values()) == [f"there is no {name}" for name in MISSING for _ in labels]
    assert said.count("ours, undrafted : mlx-lm, undrafted") == 2
