"""A push that ends at any of its steps loses nothing and doubles nothing: the next one completes it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from recorder import compact, lake_push, layout
from tests.lake.test_push import push, same
from tests.recorder.build import Killed

STEPS = ("create", "upload", "commit")  # all that changes a lake


def count(monkeypatch, stop_at: int | None = None, after: bool = False) -> list[str]:
    """Note each step, and end the push before or after one of them."""
    seen: list[str] = []

    def wrapped(name, real):
        def step(*args):
            number = len(seen)
            seen.append(name)
            if number == stop_at and not after:
                raise Killed
            real(*args)
            if number == stop_at:
                raise Killed

        return step

    for name in STEPS:
        monkeypatch.setattr(lake_push, name, wrapped(name, getattr(lake_push, name)))
    return seen


@pytest.mark.parametrize("compacted", [False, True])
def test_a_push_that_ends_at_any_step_is_completed_by_the_next(captures, tmp_path, compacted):
    with pytest.MonkeyPatch.context() as patch:
        if compacted:
            push(captures, str(tmp_path / "counted"))
            compact.compact_day(layout.Tree(captures), layout.Tree(captures).dates()[0])
        steps = count(patch)
        push(captures, str(tmp_path / ("counted" if compacted else "new")))
    every = os.environ.get("KFIX_LAKE_CRASHES")
    chosen = range(len(steps)) if every else range(0, len(steps), max(1, len(steps) // 4))
    for number in chosen:
        for after in (False, True) if every else (bool(number % 2),):
            lake = str(tmp_path / f"lake-{number}-{after}")
            with pytest.MonkeyPatch.context() as patch:
                count(patch, number, after)
                with pytest.raises(Killed):
                    push(captures, lake)
            push(captures, lake)
            same(captures, lake)


def test_a_push_that_is_killed_by_a_signal_is_completed_by_the_next(captures, tmp_path):
    lake = tmp_path / "lake"
    code = f"""
        import os, signal
        from recorder import lake_push
        from recorder.lake import Lake
        real, seen = lake_push.upload, []
        def upload(*args):
            real(*args)
            seen.append(1)
            if len(seen) == 9:
                os.kill(os.getpid(), signal.SIGKILL)
        lake_push.upload = upload
        lake_push.Push({str(captures)!r}, Lake({str(lake)!r})).run()
    """
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert ended.returncode == -9
    push(captures, str(lake))
    same(captures, str(lake))
