"""Some of the calls that `make injected` lets fail one after another: nothing crashes, nothing is lost or wrong."""

from __future__ import annotations

import pytest

from tests import preload
from tests.injected import run

# calls that fail, and how many of them in a row; each of these runs takes some hundredths of a second
PLACES = {
    "books_l2": range(1, 12, 2),
    "books_l3": range(1, 30, 4),
    "journal": range(1, 22, 2),
    "segment": range(1, 14),
    "sequence": range(1, 44, 7),
    "recorder": (40, 170, 900),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if preload.COMPILER is None:
        pytest.skip("no C compiler")
    return preload.library(run.SOURCE, tmp_path_factory.mktemp("injected"))


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("name", PLACES)
def test_calls_that_fail(name, times, library, tmp_path):
    places = [str(place) for place in PLACES[name]]
    done = run.child(library, tmp_path, [name, "--times", str(times), "--at", *places])
    assert run.passed(done), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"{name}: {len(places)} runs"
