"""An engine stays as it is, whoever comes and goes: the tool that shows it over 1,000 requests, over a few."""

import measure_many_requests as tool
from measure_many_requests import Load
from support.decoding import random_pair

from mlx_gemma4_assist import Pair


def test_nothing_grows_over_many_requests_of_many_settings(monkeypatch):
    """Slots are free after each wave; files, threads and memory are what they were after the first."""
    monkeypatch.setattr(tool, "WAVE", 12)
    pair = Pair(*random_pair(2))
    first, *others = tool.sights(pair, list(range(64)) * 4, Load(requests=48, settings=40, cancelled=8))
    assert max(each.most for each in (first, *others)) > 2
    assert [each.requests for each in others] == [24, 36, 48]
    for each in others:
        assert each.files <= first.files
        assert each.threads <= first.threads
        assert each.active <= first.active + 20_000
    assert first.traced > 0
    assert others[-1].traced - others[0].traced < 12, "settings of the same kind share what is traced"
