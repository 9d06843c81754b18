"""Draft lengths for batches, against simulated machines on which requests come and go.

The machines are in ``support.draft_simulation_batch``. ``pytest -s`` shows the figures.
"""

import pickle
from copy import deepcopy
from dataclasses import replace
from functools import cache
from random import Random
from statistics import fmean

import pytest
from support import draft_simulation as simulation
from support.draft_simulation import LONGEST, random_settings, round_costs, setting
from support.draft_simulation_batch import (
    FixedBatchDraftLength,
    Session,
    batch_costs,
    fixed_throughputs,
    random_sessions,
    run_batch,
)

from mlx_gemma4_assist.drafts.batch import SLOTS, AutoBatchDraftLength
from mlx_gemma4_assist.drafts.learned import AutoDraftLength, Learned
from mlx_gemma4_assist.drafts.memory import DraftKey, DraftMemory
from mlx_gemma4_assist.drafts.protocol import BatchChoice
from mlx_gemma4_assist.errors import InputError

SECONDS = 0.02


def auto(session: Session) -> AutoBatchDraftLength:
    most = max(session.demand)
    return AutoBatchDraftLength(LONGEST, slots=[slots for slots in SLOTS if slots < 2 * most])


@cache
def sessions_with_fixed(count: int, rows: int, seed: int, every: int) -> list[tuple[Session, list[float]]]:
    """Random sessions, with the throughput of each fixed length."""
    return [(session, fixed_throughputs(session)) for session in random_sessions(count, rows, seed)[::every]]


def check_throughput(sessions: list[tuple[Session, list[float]]], **disturbed) -> None:
    """Against the best fixed length in hindsight, on average, and against undrafted batching, at worst."""
    of_best, of_plain = [], []
    for session, fixed in sessions:
        made = run_batch(auto(session), session, **disturbed).throughput
        of_best.append(made / max(fixed))
        of_plain.append(made / fixed[0])
    print(
        f"\n{len(of_best)} sessions: of the best fixed length's throughput {fmean(of_best):.3f} on average,"
        f" {min(of_best):.3f} at worst; of undrafted batching's {min(of_plain):.3f} at worst"
    )
    assert fmean(of_best) >= 0.96
    assert min(of_plain) >= 0.98


def one_text(chance: float, session: Session) -> Session:
    texts = [setting("", [], [chance] * len(text.chances), text.seed) for text in session.requests]
    return replace(session, requests=texts)


def steady(machine: str, rows: int, chances: list[float], length: int = 4000) -> Session:
    """Requests of one chance each that stay to the end."""
    texts = [setting("", [], [chance] * length, seed) for seed, chance in enumerate(chances)]
    return Session(machine, batch_costs(machine, 0.05), [rows] * length, texts, 0)


@pytest.mark.parametrize(("rows", "every"), [(1, 3), (2, 2), (4, 1), (8, 1)])
def test_throughput_over_random_sessions(rows, every):
    """4,000 tokens from a cold start on seven machines, or every second or third of them: fewer rows make more rounds.
    From two rows on, one request accepts nothing, and stays."""
    check_throughput(sessions_with_fixed(7, rows, 3, every))


@pytest.mark.parametrize(("rows", "every"), [(2, 5), (8, 2)])
def test_an_assistant_that_is_always_wrong_costs_little(rows, every):
    for session in random_sessions(7, rows, seed=5)[::every]:
        wrong = one_text(0.0, session)
        plain = run_batch(FixedBatchDraftLength(0), wrong).throughput
        assert run_batch(auto(wrong), wrong).throughput >= 0.98 * plain


@pytest.mark.parametrize(
    "disturbed",
    [
        {"noise": 0.15, "overlap": 0.7},
        {"first_use": 20.0, "overlap": 1.0},
        {"disturbance": lambda rng, place: 10.0 if rng.random() < 0.02 else 1.0},
        {"disturbance": lambda rng, place: 2.0 if place > 1300 else 1.0},
    ],
    ids=["noise and overlap", "slow first use", "hiccups", "slowdown in mid-session"],
)
def test_the_bounds_hold_on_a_disturbed_machine(disturbed):
    check_throughput(sessions_with_fixed(7, 8, 3, 1)[1::2], **disturbed)


class OneRow:
    """A batch of one request, as what chooses for one row."""

    def __init__(self, batch: AutoBatchDraftLength, name: int = 0):
        self._batch, self._name = batch, name
        self.longest = batch.longest

    def choose(self) -> int:
        choice = self._batch.choose([self._name], [self.longest])
        assert choice.limits == [choice.drafts]
        return choice.drafts

    def observe(self, drafted: int, accepted: list[int], seconds: float | None = None) -> None:
        self._batch.observe([self._name], drafted, [drafted], accepted, seconds)


@pytest.mark.parametrize("remembered", [False, True])
def test_a_batch_of_one_row_is_one_row(remembered):
    """The same choices, round by round, and the same figures in the end; with what a session has left too."""
    for each in random_settings(6, 600, seed=8):
        learned = None
        if remembered:
            session = AutoDraftLength(LONGEST)
            simulation.run(session, each, 300)
            learned = session.learned()
        row, batch = AutoDraftLength(LONGEST, learned), AutoBatchDraftLength(LONGEST, learned)
        assert simulation.run(OneRow(batch), each) == simulation.run(row, each)
        assert batch.learned().costs == pytest.approx(row.learned().costs)
        assert sum(batch.learned().timed) == sum(row.learned().timed) > 30


class LookingAtEach(AutoBatchDraftLength):
    """Accounts for each round by itself."""

    def choose(self, rows, caps, reading=None):
        choice = super().choose(rows, caps, reading)
        self.together = max(getattr(self, "together", 0), self._coast.most if self._coast else 0)
        self._coast = None
        return choice


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("chance", [None, 0.0])
def test_rounds_that_are_accounted_for_together_change_nothing(rows, chance):
    """The same rounds as where each is looked at, and the same figures in the end."""
    for session in random_sessions(7, rows, seed=11)[::3]:
        texts = session if chance is None else one_text(chance, session)
        made = []
        for draft_length in (auto(texts), looking := LookingAtEach(LONGEST, slots=auto(texts)._slots)):
            run = run_batch(draft_length, texts, noise=0.1)
            made.append(([(each.rows, each.drafted, each.limits) for each in run.rounds], draft_length.learned()))
        assert made[0] == made[1]
        assert looking.together > 8 or chance is None


def spent_on_short_texts(tokens: int, chance: float, kept: bool) -> float:
    """Plain steps per token of 160 texts, one after the other, on which drafts nearly pay: with one instance, or with
    one for each text, which begins with what the one before has left."""
    luck, spent, batch = Random(tokens), 0.0, AutoBatchDraftLength(LONGEST)
    costs = [1 + 0.87 * drafts for drafts in range(LONGEST + 1)]
    for number in range(160):
        if not kept:
            batch = AutoBatchDraftLength(LONGEST, batch.learned() if number else None)
        own = min(0.98, max(0.05, luck.gauss(chance, 0.15)))
        text = setting("", costs, [own] * tokens, luck.getrandbits(32), decay=0.95)
        spent += simulation.run(OneRow(batch, number), text, noise=0.1, overlap=0.3, change=0.15).spent
        batch.left(number)
    return spent / (160 * tokens)


@pytest.mark.parametrize("tokens", [24, 64])
@pytest.mark.parametrize("chance", [0.3, 0.6, 0.75])
def test_short_texts_one_after_the_other_cost_no_more_than_plain_decoding(tokens, chance):
    kept, anew = (spent_on_short_texts(tokens, chance, each) for each in (True, False))
    print(
        f"\n{tokens} tokens, drafts stand with {chance}: {1 / kept:.3f} of plain decoding, {1 / anew:.3f} learned anew"
    )
    assert 1 / kept >= 0.98
    assert kept < anew


def drafts_per_round(made, first: int, last: int) -> float:
    return fmean(each.drafted for each in made.rounds[first:last])


def test_one_row_that_accepts_nothing_does_not_keep_others_from_drafting():
    beside = steady("tiles", 4, [0.0, 0.9, 0.9, 0.9])
    made = run_batch(AutoBatchDraftLength(), beside)
    assert drafts_per_round(made, 100, 200) > 2
    assert made.throughput > 1.3 * run_batch(FixedBatchDraftLength(0), beside).throughput


def test_a_burst_does_not_switch_drafts_off_for_good():
    """One row that drafts well; then seven more that accept nothing; then it is alone again."""
    session = steady("M3 Ultra", 1, [0.95] + [0.0] * 7, 6000)
    session.demand[1000:4000] = [8] * 3000
    made = run_batch(AutoBatchDraftLength(), session, 6000)
    crowd = [at for at, each in enumerate(made.rounds) if len(each.rows) == 8]
    assert drafts_per_round(made, crowd[0] - 50, crowd[0]) > 3
    assert drafts_per_round(made, crowd[20], crowd[-1]) < 0.3
    alone = next(at for at in range(crowd[-1] + 1, len(made.rounds)) if len(made.rounds[at].rows) == 1)
    assert drafts_per_round(made, alone + 10, alone + 60) > 3


def test_drafts_come_back_when_texts_turn_out_well():
    session = steady("tiles", 4, [0.0] * 4, 8000)
    turned = [setting("", [], [0.0] * 500 + [0.95] * 7500, seed) for seed in range(4)]
    made = run_batch(AutoBatchDraftLength(), replace(session, requests=turned), 8000)
    assert drafts_per_round(made, 50, 450) < 0.2
    assert drafts_per_round(made, 700, 900) > 2


def test_probes_become_rare_while_they_lose():
    made = run_batch(AutoBatchDraftLength(), steady("M1 Ultra", 8, [0.0] * 8, 16_000), 8000)
    lengths = [each.drafted for each in made.rounds]
    assert set(lengths) == {0, 1}
    assert 0 < sum(lengths[500:]) <= 12
    assert sum(lengths) < 30


def test_a_row_uses_what_it_may():
    """A round drafts for whoever may use most, and not for rows that may not."""
    for draft_length in (FixedBatchDraftLength(5), knowing(0.97)):
        assert draft_length.choose(["a", "b", None], [0, 0, 0]) == BatchChoice(0, [0, 0, 0])
        choice = draft_length.choose(["a", "b", "c", None], [1, 3, 0, 0])
        assert choice == BatchChoice(3, [1, 3, 0, 0])
        assert draft_length.choose([], []) == BatchChoice(0, [])
    # Three rows that may not draft make plain decoding better for the fourth too.
    draft_length = knowing(0.97, "MoE")
    assert draft_length.choose(["a", "b", "c", "d"], [8, 8, 8, 8]).drafts > 0
    choices = [draft_length.choose(["a", "b", "c", "d"], [8, 0, 0, 0]).drafts for _ in range(3)]
    assert choices[-1] == 0  # the first two may be a probe


def knowing(chance: float, machine: str = "tiles") -> AutoBatchDraftLength:
    """What has seen many rounds of four rows, a to d."""
    draft_length, costs = AutoBatchDraftLength(), batch_costs(machine, 0.05)[4]
    text = setting("", [], [chance] * 4000, 0)
    place = 0
    for _ in range(300):
        choice = draft_length.choose("abcd", [LONGEST] * 4)
        counts = [text.accepted(place + 7 * row, choice.drafts) for row in range(4)]
        draft_length.observe("abcd", choice.drafts, choice.limits, counts, SECONDS * costs[choice.drafts])
        place += 10
    return draft_length


def test_who_waits_for_a_prompt_waits_little_longer_for_drafts():
    """By a twentieth of the time from one chunk to the next, in which a round without drafts is made too."""
    costs = batch_costs("tiles", 0.05)[4]
    for chunk in (0.0, 0.1, 1.0, 3.0, 5.0, 10.0, 100.0):  # plain rounds
        draft_length = knowing(0.97)
        wanted = draft_length.choose("abcd", [LONGEST] * 4).drafts
        choices = [draft_length.choose("abcd", [LONGEST] * 4, SECONDS * chunk).drafts for _ in range(5)]
        assert max(costs[drafts] - 1 for drafts in choices) <= 1.1 * 0.05 * (chunk + 1) + 0.02, "costs are learned ones"
        assert chunk > 1 or max(choices) < wanted
        assert chunk < 100 or wanted in choices
        assert draft_length.choose("abcd", [LONGEST] * 4).drafts == wanted > 1, "as before, when nobody waits"


def test_nobody_waits_for_drafts_while_their_time_is_not_known():
    draft_length = AutoBatchDraftLength()
    assert {draft_length.choose("ab", [8, 8], 100.0).drafts for _ in range(20)} == {0}
    assert [draft_length.choose("ab", [8, 8]).drafts for _ in range(5)] == [0, 0, 0, 0, 1], "opening rounds are left"


def test_drafts_that_did_not_count_say_nothing():
    """A row whose limit is 1 accepts one draft at most: that it accepted no more is not held against the second."""
    draft_length = AutoBatchDraftLength()
    for _ in range(100):
        draft_length.choose(["a", "b"], [8, 8])
        draft_length.observe(["a", "b"], 4, [1, 4], [1, 4], None)
    learned = draft_length.learned()
    assert learned.stood == learned.reached
    assert learned.reached[0] > 1.9 * learned.reached[1] > 0


def test_requests_that_left_are_passed_over_and_forgotten():
    draft_length = knowing(0.97)
    alone, caps = ["a", None, None, None], [LONGEST, 0, 0, 0]
    assert draft_length.choose(alone, caps).drafts > 3
    draft_length.left("a")
    draft_length.left("a")
    draft_length.left("never here")
    nobody = deepcopy(draft_length)
    for each, rows in (draft_length, alone), (nobody, [None] * 4):
        each.observe(rows, 1, [1, 0, 0, 0], [1, 0, 0, 0], None)  # it was in flight
    assert draft_length.learned() == nobody.learned()
    draft_length.choose(alone, caps)  # another of this name: it begins anew
    for _ in range(8):
        draft_length.observe(alone, 1, [1, 0, 0, 0], [0, 0, 0, 0], None)
    assert draft_length.choose(alone, caps).drafts <= 1


def test_requests_leave_nothing_behind():
    draft_length, sizes = AutoBatchDraftLength(), []
    for request in range(1000, 1400):
        drafts = draft_length.choose([request], [LONGEST]).drafts
        draft_length.left(request)
        draft_length.observe([request], drafts, [drafts], [0], SECONDS)
        sizes.append(len(pickle.dumps(draft_length)))
    assert max(sizes[100:]) < 1.02 * sizes[100]


def test_empty_slots_cost_what_they_cost():
    """Rounds of one request in two slots are not timed as rounds in one."""
    draft_length = AutoBatchDraftLength()
    for rows, seconds, timed in ((["a"], 0.02, True), (["a", None], 0.1, False)):
        before = sum(draft_length.learned().timed)
        for _ in range(20):
            drafts = draft_length.choose(rows, [8, 0][: len(rows)]).drafts
            draft_length.observe(rows, drafts, [drafts, 0][: len(rows)], [0, 0][: len(rows)], seconds)
        assert (sum(draft_length.learned().timed) > before) == timed
    assert draft_length.learned().costs[0] == 1


def test_the_same_rounds_give_the_same_choices():
    for session in random_sessions(2, 8, seed=6):
        runs = [run_batch(AutoBatchDraftLength(), session, 1000) for _ in range(2)]
        assert runs[0] == runs[1]


def test_rounds_may_be_given_other_numbers_or_never_be_observed():
    draft_length = AutoBatchDraftLength()
    for number in range(600):
        rows = list(range(number // 50, number // 50 + 1 + number % 16))
        choice = draft_length.choose(rows, [LONGEST] * len(rows))
        assert 0 <= choice.drafts <= LONGEST
        if number % 7:
            given = min(choice.drafts, number % 3)
            draft_length.observe(rows, given, [given] * len(rows), [given if number % 2 else 0] * len(rows), SECONDS)


def test_rounds_may_have_more_drafts_than_are_ever_chosen():
    """Where one of the rows asks for them; they say nothing of what is chosen for the others."""
    length, other = AutoBatchDraftLength(4), AutoBatchDraftLength(4)
    for number in range(200):
        for each in (length, other):
            choice = each.choose(["a", "b"], [4, 4])
            each.observe(["a", "b"], choice.drafts, choice.limits, [min(1, choice.drafts)] * 2, 1 + choice.drafts)
        if number % 10 == 0:
            length.choose(["a", "b"], [4, 4])
            length.observe(["a", "b"], 20, [4, 20], [1, 20], 30.0)
    for slots in (1, 2):
        plain = length._plain(["a", "b"][:slots])
        assert length._costs.in_plain_steps(plain, 4) == pytest.approx(other._costs.in_plain_steps(plain, 4), rel=0.2)


def test_what_was_learned_with_one_row_is_remembered(tmp_path):
    memory, key = DraftMemory(tmp_path), DraftKey("target", "assistant", "4-bit", "chip")
    first = AutoBatchDraftLength()
    good = setting("", round_costs("M3 Ultra", 0.05), [0.95] * 600, 0)
    simulation.run(OneRow(first), good)
    assert memory.save(key, first.learned()) is None
    learned, note = memory.load(key)
    assert note is None
    assert isinstance(learned, Learned)
    assert AutoBatchDraftLength(LONGEST, learned).choose(["a"], [8]).drafts >= 3
    assert AutoBatchDraftLength(2, learned).choose(["a"], [8]).drafts <= 2
    assert AutoBatchDraftLength(LONGEST, learned).learned().costs == pytest.approx(learned.costs, rel=0.05)


def test_limits():
    with pytest.raises(InputError, match="expected 1 to 32"):
        AutoBatchDraftLength(0)
    with pytest.raises(InputError, match="num_assistant_tokens"):
        FixedBatchDraftLength(33)
    with pytest.raises(InputError, match="a batch has 17 rows, expected at most 16"):
        AutoBatchDraftLength().choose(range(17), [1] * 17)
    with pytest.raises(InputError, match="a batch has 2 rows, expected at most 1"):
        AutoBatchDraftLength(slots=(1,)).observe(["a", "b"], 0, [0, 0], [0, 0])
