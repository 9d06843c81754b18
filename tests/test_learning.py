"""What one run learns, the next one begins with."""

import json
import logging

from support.decoding import random_pair
from support.generation import sampled

from mlx_gemma4_assist import GenerationOptions, MediaPrompt, Pair
from mlx_gemma4_assist.drafts.batch import AutoBatchDraftLength
from mlx_gemma4_assist.drafts.memory import DraftMemory
from mlx_gemma4_assist.drafts.protocol import BatchChoice
from mlx_gemma4_assist.engine.engine import Engine
from mlx_gemma4_assist.engine.learning import LEAST_ROUNDS, DraftLengths, draft_key
from mlx_gemma4_assist.engine.request import Request


def test_a_run_is_remembered(tmp_path, caplog):
    pair = random_pair(1)
    memory = DraftMemory(tmp_path)
    sampled(pair, pair[1], num_assistant_tokens=None, draft_memory=memory)
    (path,) = tmp_path.glob("*.json")
    learned, note = memory.load(draft_key(*pair, compiled=False))
    assert note is None
    assert sum(learned.timed) > 0
    path.write_text("{")  # damaged: left aside with a warning, and written anew
    with caplog.at_level(logging.WARNING):
        sampled(pair, pair[1], num_assistant_tokens=None, draft_memory=memory)
    assert "ignored" in caplog.text
    assert json.loads(path.read_text())["version"] == 1


def test_fixed_numbers_and_short_runs_leave_nothing(tmp_path):
    pair = random_pair(1)
    memory = DraftMemory(tmp_path)
    sampled(pair, pair[1], num_assistant_tokens=3, draft_memory=memory)
    sampled(pair, None, draft_memory=memory)
    sampled(pair, pair[1], num_assistant_tokens=None, max_tokens=5, draft_memory=memory)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_unless_a_memory_is_handed_in(tmp_path, monkeypatch):
    """Not to the user's folder either; what was learned lives as long as the target."""
    for name in ("HOME", "XDG_CACHE_HOME", "MLX_GEMMA4_ASSIST_CACHE"):
        monkeypatch.setenv(name, str(tmp_path))
    pair, other = random_pair(1), random_pair(1)
    assert rounds_learned_from(pair) == 0
    sampled(pair, pair[1], num_assistant_tokens=None)
    assert list(tmp_path.rglob("*")) == []
    assert rounds_learned_from(pair) >= LEAST_ROUNDS
    assert rounds_learned_from(other) == 0


def rounds_learned_from(pair) -> int:
    lengths = DraftLengths(pair[0], lambda compiled: draft_key(*pair, compiled=compiled))
    lent = lengths.borrow(compiled=False)
    lengths.give_back()
    return lent.rounds


def test_what_chooses_serves_one_request_after_the_other():
    """Alone and beside others, of one engine and of the next: what rounds cost is learned once."""
    pair = random_pair(1)
    for requests in (1, 1, 3, 1):
        before = rounds_learned_from(pair)
        engine = Engine(Pair(*pair))
        runs = [engine.run(Request(MediaPrompt([2, 5, 9]), GenerationOptions(max_tokens=40))) for _ in range(requests)]
        for run in runs:
            run.begin()
        assert [sum(len(event.tokens) for event in run) for run in runs] == [40] * requests
        assert rounds_learned_from(pair) >= before + 4
    (lent,) = pair[0].kept.get("draft lengths", dict).values()
    assert len(lent) == 1


def test_only_the_time_of_a_round_with_another_behind_it_counts(monkeypatch):
    """Where look-ahead begins, two rounds are submitted between two reads, and behind a text's last rounds none is."""
    times, observe = [], AutoBatchDraftLength.observe

    def observed(self, rows, drafted, limits, accepted, seconds=None) -> None:
        times.append(seconds)
        observe(self, rows, drafted, limits, accepted, seconds)

    monkeypatch.setattr(AutoBatchDraftLength, "observe", observed)
    monkeypatch.setattr(AutoBatchDraftLength, "choose", lambda self, rows, caps, reading: BatchChoice(0, [0]))
    pair = random_pair(1)
    for _ in range(2):
        times.clear()
        run = Engine(Pair(*pair)).run(Request(MediaPrompt([2, 5, 9]), GenerationOptions(max_tokens=12)))
        assert sum(len(event.tokens) for event in run) == 12
        assert [place for place, seconds in enumerate(times) if seconds is None] == [0, 1, 11]


def test_engines_at_work_at_once_learn_by_themselves():
    pair = random_pair(1)
    key = draft_key(*pair, compiled=False)
    one, other = (DraftLengths(pair[0], lambda compiled: key) for _ in range(2))
    assert one.borrow(False) is not other.borrow(False)


def test_keys_tell_networks_and_compilation_apart():
    pair = random_pair(1)
    keys = {draft_key(*pair, compiled=compiled) for compiled in (False, True)}
    assert len(keys) == 2
    assert draft_key(*random_pair(2), compiled=False) in keys  # other weights, the same figures
