"""Draft lengths by expected value, against simulated machines; what is remembered of them.

The machines are in ``support.draft_simulation``. ``pytest -s`` shows the figures.
"""

import json
import math
from itertools import pairwise
from statistics import fmean, median

import pytest
from support import draft_simulation as simulation
from support.draft_simulation import (
    FORWARD,
    best_fixed_cost,
    random_settings,
    round_costs,
    run,
    setting,
    spent_on_first,
)

from mlx_gemma4_assist.drafts.curve import DriftingCurve
from mlx_gemma4_assist.drafts.fixed import FixedDraftLength
from mlx_gemma4_assist.drafts.learned import AutoDraftLength, Learned
from mlx_gemma4_assist.drafts.memory import FOLDER_VARIABLE, DraftKey, DraftMemory, cache_folder
from mlx_gemma4_assist.errors import InputError

LONG, SHORT = 2000, 500
KEY = DraftKey("gemma-4-12B", "gemma-4-12B-assistant", "4-bit affine, 4-bit affine", "Apple M3 Ultra")


def auto() -> AutoDraftLength:
    return AutoDraftLength(simulation.LONGEST)


def throughput(settings, runs, tokens=LONG) -> tuple[list[float], list[float]]:
    """Over the first tokens of each run, relative to the best fixed length's in hindsight, and to plain decoding's."""
    spent = [spent_on_first(tokens, made, each) for made, each in zip(runs, settings, strict=True)]
    best = [best_fixed_cost(each, tokens) / time for each, time in zip(settings, spent, strict=True)]
    return best, [tokens / time for time in spent]


def report(tokens, of_best, of_plain):
    print(
        f"\n{len(of_best)} settings, {tokens} tokens from a cold start:"
        f" of the best fixed length's throughput {fmean(of_best):.3f} on average, {min(of_best):.3f} at worst;"
        f" of plain decoding's {min(of_plain):.3f} at worst"
    )


def test_throughput_over_200_random_settings():
    """Against the best fixed length: over 2,000 tokens, learning included. Against plain decoding: over the first 500
    too; the best fixed length of so few tokens is mostly luck, its figures are only shown."""
    settings = random_settings(200, LONG)
    runs = [run(auto(), each) for each in settings]
    best, plain = throughput(settings, runs)
    best_early, plain_early = throughput(settings, runs, SHORT)
    report(LONG, best, plain)
    report(SHORT, best_early, plain_early)
    assert fmean(best) >= 0.97
    assert min(best) >= 0.93
    assert min(plain_early) >= 0.98
    assert min(plain) >= 0.98


def test_an_assistant_that_is_always_wrong_costs_little():
    for machine in FORWARD:
        for seed in range(4):
            wrong = setting(machine, round_costs(machine, 0.08), [0.0] * SHORT, seed)
            assert SHORT / run(auto(), wrong).spent >= 0.98
            # A machine that does other things besides, and compiles each length at its first use.
            noisy = run(auto(), wrong, noise=0.15, disturbance=hiccups(0.02), first_use=20, overlap=1)
            assert SHORT / noisy.spent >= 0.97


def hiccups(chance):
    return lambda rng, place: 10.0 if rng.random() < chance else 1.0


@pytest.mark.parametrize(
    "disturbed",
    [
        {"disturbance": hiccups(0.02)},
        {"first_use": 20.0},
        {"disturbance": lambda rng, place: 2.0 if place > LONG / 3 else 1.0},
        {"noise": 0.15, "overlap": 0.7},
    ],
    ids=["hiccups", "slow first use", "slowdown in mid-run", "noise and overlap"],
)
def test_the_bounds_hold_on_a_disturbed_machine(disturbed):
    settings = random_settings(20, LONG, seed=1)
    best, plain = throughput(settings, [run(auto(), each, **disturbed) for each in settings])
    report(LONG, best, plain)
    assert fmean(best) >= 0.97
    assert min(best) >= 0.93
    assert min(plain) >= 0.98


def test_costs_of_lengths_that_are_not_tried_slow_down_along():
    costs = round_costs("M3 Ultra", 0.05)
    good = setting("", costs, [0.95] * 3000, 0)
    draft_length = auto()
    made = run(draft_length, good, disturbance=lambda rng, place: 2.0 if place > 1500 else 1.0)
    late = {drafted for place, drafted, _ in made.rounds if place > 1500 and drafted > 0}
    assert 1 not in late
    assert draft_length.learned().costs[1] == pytest.approx(costs[1], rel=0.1)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_costs_are_right_wherever_the_host_waits(overlap):
    """A probe's rounds are few: their cost must not be put down to the rounds beside them. What is believed is off by
    the noise of these few, not to one side."""
    costs = round_costs("M1 Ultra", 0.05)
    believed = []
    for seed in range(16):
        draft_length = auto()
        run(draft_length, setting("", costs, [0.0] * 2000, seed), overlap=overlap)
        believed.append(draft_length.learned().costs[1])
    assert fmean(believed) == pytest.approx(costs[1], rel=0.02)
    assert believed == pytest.approx([costs[1]] * 16, rel=0.08)


@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_the_first_time_of_a_run_says_nothing(overlap):
    """It may hold the end of the prompt, or compiling. Taken for a plain step's it would make drafts seem cheap."""
    draft_length = auto()
    near_tie = setting("", [1 + 1.1 * k for k in range(simulation.LONGEST + 1)], [0.95] * 200, 0)
    made = run(draft_length, near_tie, first_use=5.0, overlap=overlap)
    assert draft_length.learned().costs[1] == pytest.approx(2.1, rel=0.06)
    assert draft_length.choose() == 0
    assert 200 / made.spent >= 0.95


def test_changing_the_length_is_charged_to_probes():
    """Where a draft is worth what it costs, probes look free; a change of length is not."""
    tie = setting("", [1 + 0.95 * k for k in range(simulation.LONGEST + 1)], [0.93] * LONG, 0)
    made = run(auto(), tie, overlap=1.0, change=0.3)
    lengths = [drafted for _, drafted, _ in made.rounds]
    assert sum(before != after for before, after in pairwise(lengths)) < 0.1 * len(lengths)
    assert LONG / made.spent >= 0.97


def test_costs_of_lengths_never_tried_follow_the_neighbours():
    costs = round_costs("M1 Ultra", 0.05)
    draft_length = auto()
    made = run(draft_length, setting("", costs, [0.75] * 1000, 0, decay=0.9))
    tried = {drafted for _, drafted, _ in made.rounds}
    assert 8 not in tried
    assert draft_length.learned().costs[8] == pytest.approx(costs[8], rel=0.15)


@pytest.mark.parametrize(("before", "after"), [(0.9, 0.05), (0.9, 0.3), (0.05, 0.9)])
@pytest.mark.parametrize("machine", ["M3 Ultra", "M4 Pro"])
def test_a_switch_is_followed(machine, before, after):
    """Rounds until eight of ten in a row have a length within 5 % of the best one."""
    costs = round_costs(machine, 0.05)
    values = [sum(after**i for i in range(drafts + 1)) / cost for drafts, cost in enumerate(costs)]
    needed, switch = [], 600
    for seed in range(5):
        made = run(auto(), setting("", costs, [before] * switch + [after] * 900, seed))
        good = [values[drafted] >= 0.95 * max(values) for place, drafted, _ in made.rounds if place >= switch]
        needed.append(next(n for n in range(len(good)) if sum(good[n : n + 10]) >= 8))
    print(f"\n{machine}, {before} to {after}: {sorted(needed)} rounds")
    assert median(needed) <= 75


def test_probes_become_rare_while_they_lose_and_return_when_they_win():
    costs = round_costs("M1 Ultra", 0.05)
    draft_length = auto()
    made = run(draft_length, setting("", costs, [0.0] * 4000, 0))
    tries = [at for at, (_, drafted, _) in enumerate(made.rounds) if drafted]
    assert {made.rounds[at][1] for at in tries} == {1}  # the cheapest is enough to see whether anything stands
    gaps = [after - before for before, after in pairwise(tries) if after - before > 1]
    print(f"\nrounds from probe to probe: {gaps}")
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[4] >= 2 * gaps[0]
    assert min(gaps[4:]) >= 2 * gaps[0]
    assert len(tries) < 50
    assert 4000 / made.spent >= 0.99

    better = run(draft_length, setting("", costs, [0.97] * 1000, 1))
    drafting = [drafted for place, drafted, _ in better.rounds if place > 500]
    assert fmean(drafting) > 2


def test_a_useless_probe_of_plain_decoding_is_rare_too():
    good = setting("", round_costs("M5 Max", 0.04), [0.97] * 4000, 0)
    lengths = [drafted for _, drafted, _ in run(auto(), good).rounds[20:]]
    assert sum(drafted < 4 for drafted in lengths) < 0.03 * len(lengths)


def test_the_same_rounds_give_the_same_choices():
    for each in random_settings(6, SHORT, seed=2):
        assert run(auto(), each) == run(auto(), each)


def test_times_may_never_be_known():
    draft_length = auto()
    for _ in range(200):
        drafted = draft_length.choose()
        draft_length.observe(drafted, [drafted], None)
    assert draft_length.choose() > simulation.LONGEST / 2
    for _ in range(200):
        draft_length.observe(draft_length.choose(), [0], None)
    assert draft_length.choose() == 0


def test_rounds_may_be_given_other_numbers_or_never_be_observed():
    draft_length = auto()
    for number in range(3000):
        drafted = draft_length.choose()
        assert 0 <= drafted <= simulation.LONGEST
        if number % 7:
            given = min(drafted, number % 3)
            draft_length.observe(given, [given] if number % 2 else [0], 0.02 * (1 + given))


def test_rows_of_a_batch_count_each():
    """With four rows a round, half of which always stand, half never, it is like acceptance of one half."""
    costs = round_costs("M5 Max", 0.05)
    draft_length = auto()
    for _ in range(100):
        drafted = draft_length.choose()
        draft_length.observe(drafted, [drafted, 0, drafted, 0], 0.02 * costs[drafted])
    learned = draft_length.learned()
    assert learned.stood[0] * 2 == learned.reached[0]
    assert learned.stood[1] == learned.reached[1] > 0
    assert draft_length.choose() > 2


def test_length_limits():
    assert AutoDraftLength(1).longest == 1
    for longest in (0, 33):
        with pytest.raises(InputError, match="expected 1 to 32"):
            AutoDraftLength(longest)
    assert FixedDraftLength(5).choose() == 5
    for drafts in (-1, 33):
        with pytest.raises(InputError, match="num_assistant_tokens"):
            FixedDraftLength(drafts)


def test_a_drifting_curve_of_independent_points_is_a_moving_average():
    """Against the scalar recursion, written out."""
    curve = DriftingCurve([0.0, 5.0], [[1.0, 0.0], [0.0, 1.0]], 0.1)
    mean, variance = 0.0, 1.0
    for value in (1.0, 3.0, 2.0, -1.0):
        curve.observe(0, value - curve.mean[0], 0.5)
        curve.forget()
        gain = variance / (variance + 0.5)
        mean, variance = mean + gain * (value - mean), (1 - gain) * variance * 0.9 + 0.1
        assert curve.mean == pytest.approx([mean, 5.0])
        assert curve.variance(0) == pytest.approx(variance)
    assert curve.deviation_between(0, 1) == pytest.approx(math.sqrt(variance + 1.0))


# What is remembered.


def a_session(chance: float = 0.9) -> Learned:
    draft_length = auto()
    run(draft_length, setting("", round_costs("M3 Ultra", 0.05), [chance] * SHORT, 3))
    return draft_length.learned()


def test_what_was_learned_is_the_starting_point():
    learned = a_session()
    draft_length = AutoDraftLength(simulation.LONGEST, learned)
    assert draft_length.choose() >= 3  # at once, where a cold start begins with plain rounds
    costs = draft_length.learned().costs
    for drafts, timed in enumerate(learned.timed):
        if timed > 3:
            assert costs[drafts] == pytest.approx(learned.costs[drafts], rel=0.05)
    assert AutoDraftLength(2, learned).choose() <= 2
    assert AutoDraftLength(16, learned).longest == 16


def test_what_was_learned_of_another_text_does_no_harm():
    """The bound against plain decoding holds with any memory of the same machine."""
    costs = round_costs("M1 Ultra", 0.05)
    for remembered in (0.1, 0.97):
        first = auto()
        run(first, setting("", costs, [remembered] * SHORT, 1))
        for chance in (0.0, 0.4, 0.6):
            spent = run(
                AutoDraftLength(simulation.LONGEST, first.learned()), setting("", costs, [chance] * SHORT, 2)
            ).spent
            assert SHORT / spent >= 0.98


def test_memory_round_trip(tmp_path):
    memory, learned = DraftMemory(tmp_path / "new" / "folder"), a_session()
    assert memory.load(KEY) == (None, None)
    assert memory.save(KEY, learned) is None
    assert memory.load(KEY) == (learned, None)
    assert memory.load(KEY._replace(chip="Apple M5 Max")) == (None, None)
    assert memory.save(KEY, a_session(0.2)) is None
    assert memory.load(KEY) == (a_session(0.2), None)
    assert memory.path(KEY).stat().st_size < 2048
    assert list(memory.path(KEY).parent.iterdir()) == [memory.path(KEY)]  # nothing half written is left


def _changed(content: str, **changes: object) -> str:
    found = json.loads(content)
    found["learned"].update(changes)
    return json.dumps(found)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "",
        lambda content: content[: len(content) // 2],
        lambda content: "\x00\xff" * 40,
        lambda content: "[" * 60_000,
        lambda content: "{}",
        lambda content: "[1, 2]",
        lambda content: content + " " * 100_000,
        lambda content: content.replace('"version": 1', '"version": 99'),
        lambda content: content.replace("M3 Ultra", "M4"),
        lambda content: _changed(content, costs=[1.0, 2.0]),
        lambda content: _changed(content, costs=[1.0, math.nan, *[2.0] * 7]),
        lambda content: _changed(content, costs=[1.0, math.inf, *[2.0] * 7]),
        lambda content: _changed(content, costs=[1.0, -1.0, *[2.0] * 7]),
        lambda content: _changed(content, costs=[1.0, "2", *[2.0] * 7]),
        lambda content: _changed(content, costs="123456789"),
        lambda content: _changed(content, reached=[0] * 8, stood=[1] * 8),
        lambda content: _changed(content, timed=[True] * 9),
        lambda content: _changed(content, timed=[10**30] * 9),
        lambda content: _changed(content, more=1),
    ],
)
def test_a_corrupt_or_foreign_file_is_ignored_with_a_note(tmp_path, damage):
    memory = DraftMemory(tmp_path)
    memory.save(KEY, a_session())
    path = memory.path(KEY)
    path.write_text(damage(path.read_text()), encoding="latin-1")
    learned, note = memory.load(KEY)
    assert learned is None
    assert str(path) in note
    assert "ignored" in note
    assert memory.save(KEY, a_session()) is None  # and replaced
    assert memory.load(KEY)[1] is None


def test_a_folder_that_cannot_be_used_is_noted(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    memory = DraftMemory(blocked / "below")
    assert "cannot be kept" in memory.save(KEY, a_session())
    learned, note = memory.load(KEY)
    assert learned is None
    assert "cannot be read" in note
    # A folder of the file's name.
    memory = DraftMemory(tmp_path)
    memory.path(KEY).mkdir()
    assert "cannot be read" in memory.load(KEY)[1]
    assert "cannot be kept" in memory.save(KEY, a_session())
    assert {path.name for path in tmp_path.iterdir()} == {"file", memory.path(KEY).name}


def test_the_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "mlx_gemma4_assist"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache" / "mlx_gemma4_assist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mlx_gemma4_assist"
    monkeypatch.setenv(FOLDER_VARIABLE, "~/own")
    assert cache_folder() == tmp_path / "own"
    assert DraftMemory().save(KEY, a_session()) is None
    assert DraftMemory().load(KEY)[0] == DraftMemory(tmp_path / "own").load(KEY)[0] == a_session()
