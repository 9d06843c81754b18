"""What one run learns, the next one begins with."""

import json
import logging

import pytest
from support.decoding import random_pair
from support.generation import sampled

from mlx_gemma4_assist.drafts.learning import draft_key, start_learning
from mlx_gemma4_assist.drafts.memory import FOLDER_VARIABLE, DraftMemory


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def test_a_run_is_remembered(folder, caplog):
    pair = random_pair(1)
    sampled(pair, pair[1], num_assistant_tokens=None)
    (path,) = folder.glob("*.json")
    learned, note = DraftMemory().load(draft_key(*pair, compiled=False))
    assert note is None
    assert sum(learned.timed) > 0
    path.write_text("{")  # damaged: left aside with a warning, and written anew
    with caplog.at_level(logging.WARNING):
        sampled(pair, pair[1], num_assistant_tokens=None)
    assert "ignored" in caplog.text
    assert json.loads(path.read_text())["version"] == 1


def test_fixed_numbers_and_short_runs_leave_nothing(folder):
    pair = random_pair(1)
    sampled(pair, pair[1], num_assistant_tokens=3)
    sampled(pair, None)
    sampled(pair, pair[1], num_assistant_tokens=None, max_tokens=5)
    assert list(folder.iterdir()) == []


def test_keys_tell_networks_and_compilation_apart(folder):
    pair = random_pair(1)
    keys = {draft_key(*pair, compiled=compiled) for compiled in (False, True)}
    assert len(keys) == 2
    assert draft_key(*random_pair(2), compiled=False) in keys  # other weights, the same figures
    assert start_learning(keys.pop(), 5).longest == 5
