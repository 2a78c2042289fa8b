"""The collector visits little while the books are verified, everything once a session is lost, and leaks nothing."""

import gc
import weakref

import pytest

from kfix_md.feed.garbage import Garbage


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self):
        self.own = self


@pytest.fixture
def garbage():
    made = Garbage()
    yield made
    made.close()
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_it_runs_when_told_to_and_only_then(garbage):
    assert not gc.isenabled()
    gone = weakref.ref(Knot())
    assert gone() is not None
    garbage.step(verified=False)
    assert gone() is None


def test_what_lasts_is_frozen_once_the_books_stand(garbage):
    before, kept = gc.get_freeze_count(), [Knot() for _ in range(1000)]
    garbage.step(verified=False)
    assert gc.get_freeze_count() == before
    garbage.step(verified=True)
    frozen = gc.get_freeze_count()
    assert frozen >= before + len(kept)
    for _ in range(3):
        gone = weakref.ref(Knot())
        garbage.step(verified=True)  # what is new is still collected, and nothing more is frozen
        assert gone() is None and gc.get_freeze_count() <= frozen  # a frozen object may still be freed by its count


def test_what_a_lost_session_leaves_is_found(garbage):
    session = Knot()
    gone = weakref.ref(session)
    garbage.step(verified=True)
    del session
    garbage.step(verified=True)
    assert gone() is not None  # frozen with the books
    garbage.step(verified=False)
    assert gone() is None
