"""What one run learns, the next one begins with."""

import json
import logging

from support.decoding import random_pair
from support.generation import sampled

from mlx_gemma4_assist.drafts.memory import DraftMemory
from mlx_gemma4_assist.engine.learning import Learning, draft_key


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
    before = Learning(pair[0], draft_key(*pair, compiled=False)).draft_length.learned()
    sampled(pair, pair[1], num_assistant_tokens=None)
    assert list(tmp_path.rglob("*")) == []
    assert sum(before.timed) == 0
    assert sum(Learning(pair[0], draft_key(*pair, compiled=False)).draft_length.learned().timed) > 0
    assert sum(Learning(other[0], draft_key(*other, compiled=False)).draft_length.learned().timed) == 0


def test_keys_tell_networks_and_compilation_apart():
    pair = random_pair(1)
    keys = {draft_key(*pair, compiled=compiled) for compiled in (False, True)}
    assert len(keys) == 2
    assert draft_key(*random_pair(2), compiled=False) in keys  # other weights, the same figures
