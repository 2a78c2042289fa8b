"""Journal and captures after a power loss: a few of the cuts that `make power-loss` makes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.preload import needs_compiler
from tests.recorder.power_loss import FAST, check


@needs_compiler
def test_journal_and_captures_are_sound_wherever_the_power_was_cut():
    with tempfile.TemporaryDirectory(prefix="kfix-power-", dir=FAST) as folder:
        assert check(Path(folder), every=30) > 4
