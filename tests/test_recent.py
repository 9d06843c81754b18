"""What counts as asked for of late."""

import random

import pytest

from mlx_gemma4_assist.rounds.recent import Shares


def test_shares_are_of_all_that_was_asked_for_at_first():
    shares = Shares(16, 128)
    assert [shares.add(kind) for kind in "aab"] == pytest.approx([1, 1, 1 / 3])
    assert (shares.of("a"), shares.of("c")) == (pytest.approx(2 / 3), 0)


def test_what_was_before_counts_against_what_comes_first():
    shares = Shares(16, 512, before=16)
    assert [round(shares.add("a"), 3) for _ in range(4)] == [0.062, 0.121, 0.176, 0.228]


@pytest.mark.parametrize("before", [20, 100, 400, 1_000, 10_000])
def test_what_becomes_frequent_is_noticed_within_an_eighth(before):
    """Of what there was before, and no later than after a quarter of the longest time that is looked back on."""
    shares, asked = Shares(16, 512), 0
    for _ in range(before):
        shares.add("a")
    while shares.add("b") < 0.2:
        asked += 1
    assert asked < max(4, min(before / 8, 128))


def test_what_is_rare_does_not_come_to_look_frequent():
    """Ten kinds at random, a tenth each: runs of one kind do not matter once it has gone on for a while."""
    for seed in range(5):
        rng, shares = random.Random(seed), Shares(16, 512)
        seen = [shares.add(rng.randrange(10)) for _ in range(20_000)]
        assert max(seen[:100]) > 0.2
        assert max(seen[1_000:]) < 0.2


def test_kinds_that_never_come_again_are_forgotten():
    shares = Shares(16, 128)
    for number in range(5_000):
        shares.add(number)
    assert shares.of(0) == 0
    assert len(shares._shares) < 1_000
