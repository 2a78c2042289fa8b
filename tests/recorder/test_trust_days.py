"""Samples of what readers of a feed saw equal what its captures say, over random days (in full: `make trust`)."""

from __future__ import annotations

import pytest

from tests.recorder import trust_days


@pytest.mark.parametrize("seed", [4, 2, 3, 5], ids=["noon", "rollover", "pair", "pair at a rollover"])
def test_no_sample_of_a_random_day_differs(seed, tmp_path):
    counts, wrong = trust_days.run(tmp_path, seed, 3000, 40)
    assert not wrong, wrong[:10]
    assert counts["samples"] > 2500 and 0.2 < counts["trusted"] / counts["samples"] < 1
    assert counts["book()"] > 20 and sum(n for name, n in counts.items() if name.startswith("done ")) > 3
