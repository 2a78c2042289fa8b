"""A push that ends at any of its steps loses nothing and doubles nothing: the next one completes it."""

from __future__ import annotations

import os
import uuid

import pytest

from tests.lake import crashes, server


@pytest.fixture(scope="module")
def swap(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crashes")
    return crashes.swap(made["alpha"] / "captures", folder, crashes.Store(str(folder)), moments=2)


def test_a_first_push_that_ends_at_a_step_is_completed_by_the_next(made, tmp_path):
    """A few of the steps; `make lake-crash` has all of them."""
    case = crashes.first_push(made["alpha"] / "captures", tmp_path, crashes.Store(str(tmp_path)), moments=2)
    steps = case.steps()
    assert set(steps) == {"create", "upload", "commit"}
    case.end_at(steps.index("create"), after=True)
    case.end_at(len(steps) // 2, after=False)


def test_a_swap_that_ends_at_a_step_is_completed_by_the_next(swap):
    steps = swap.steps()
    assert set(steps) == {"extend", "upload", "commit"}
    swap.end_at(steps.index("extend"), after=True)
    last = len(steps) - 1
    assert steps[last] == "commit"
    swap.end_at(last, after=False)


def test_a_push_that_is_killed_by_a_signal_is_completed_by_the_next(swap):
    swap.kill_at(len(swap.steps()) - 2, after=True)


@pytest.mark.skipif("KFIX_LAKE_S3" not in os.environ, reason="20 s: set KFIX_LAKE_S3; make lake-crash has all steps")
def test_a_swap_on_a_server_that_ends_is_completed_by_the_next(s3, made, tmp_path, monkeypatch):
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    store = crashes.Store(f"s3://{server.BUCKET}/{uuid.uuid4().hex}")
    case = crashes.swap(made["alpha"] / "captures", tmp_path, store, moments=0)
    case.end_at(len(case.steps()) - 1, after=False)
