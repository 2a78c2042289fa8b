"""The table of book states: every pair of event and state, and what the docs show of it."""

from __future__ import annotations

import pytest

from kfix_md import Handler, State
from kfix_md._entry import Cause
from kfix_md._state import SOUND, TRUSTED, Event, is_trusted, keeps, next_of, voids
from tests.core import states_page

N, Y, L, E, G, C, T, H, R, D, U = State
S = SOUND

TABLE = {
    Event.SUBSCRIBE: (Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y),
    Event.UNSUBSCRIBE: (N, N, N, N, N, N, N, N, N, N, N),
    Event.REDEFINE: (Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y),
    Event.SNAPSHOT: (S, S, S, S, S, S, S, S, S, S, S),
    Event.APPLIED: (N, Y, S, S, G, C, T, H, R, D, S),
    Event.CRC_FAILED: (C, C, C, C, C, C, C, C, C, C, C),
    Event.CROSSED: (C, C, C, C, C, C, C, C, C, C, C),
    Event.MALFORMED: (T, T, T, T, T, T, T, T, T, T, T),
    Event.DOUBTED: (N, T, T, T, T, T, T, T, T, T, T),
    Event.GAP_OPENED: (N, Y, G, G, G, C, G, G, R, D, G),
    Event.GAP_CLOSED: (N, Y, L, E, S, C, T, H, R, D, U),
    Event.LOST: (Y, Y, Y, Y, Y, Y, Y, Y, Y, Y, Y),
    Event.HALT: (H, H, H, H, H, H, H, H, H, H, H),
    Event.RESUME: (N, Y, S, S, S, C, S, S, R, D, S),
    Event.REJECT: (D, D, D, D, D, D, D, D, D, D, D),
    Event.DISCONNECT: (D, D, D, D, D, D, D, D, D, D, D),
    Event.ROLLOVER: (N, R, R, R, R, R, R, R, R, R, R),
    Event.RULE_UNKNOWN: (N, Y, S, S, G, C, T, H, R, D, S),
    Event.RULE_FOUND: (N, Y, L, E, G, C, T, H, R, D, S),
}
VOIDING = {
    *(Event.SUBSCRIBE, Event.UNSUBSCRIBE, Event.REDEFINE, Event.CRC_FAILED, Event.CROSSED, Event.MALFORMED),
    *(Event.LOST, Event.REJECT, Event.DISCONNECT, Event.ROLLOVER),
}


@pytest.mark.parametrize("event", Event)
def test_every_pair_of_event_and_state(event):
    assert tuple(next_of(event, state) for state in State) == TABLE[event]


def test_trusted_and_kept_states_and_events_that_void():
    assert TRUSTED == (State.LIVE, State.EMPTY)
    assert {state for state in State if is_trusted(state)} == {State.LIVE, State.EMPTY}
    assert not any(is_trusted(code) for code in range(len(State), 256))
    assert {state for state in State if keeps(state)} == {L, E, G, T, H, U}
    assert {event for event in Event if voids(event)} == VOIDING
    for event in VOIDING:  # a void book is never in a state that is trusted
        assert not any(is_trusted(next_of(event, state)) for state in State)


def test_the_page_shows_the_table():
    assert states_page.PAGE.read_text() == states_page.page()


# ---- the same by a handler ----


class Session:
    """A session that lets everything through; its `fast` switch is the test's."""

    sequence = None

    def __init__(self):
        self.counts = {}

    def receive(self, frame, fields, recv_ns):
        return 1

    def take_released(self, recv_ns):
        return []


def frame(text: str) -> bytes:
    body = text.replace("|", "\x01").encode()
    head = b"8=FIX.4.4\x019=" + str(len(body)).encode() + b"\x01" + body
    return head + b"10=" + f"{sum(head) % 256:03d}".encode() + b"\x01"


HEAD = "35={}|34={}|49=K|52=20260301-10:00:00.000|56=C|55=X/Y|262=1|268={}|"
GROUP = "{}269={}|278={}{}|270={}|271={}|273=10:00:00.000|"


def snapshot(seq: int, bid: str = "1.0", ask: str = "2.0") -> bytes:
    groups = GROUP.format("", 0, "B", bid, bid, "1") + GROUP.format("", 1, "O", ask, ask, "1")
    return frame(HEAD.format("W", seq, 2) + groups)


def update(seq: int, qty: str = "2") -> bytes:
    return frame(HEAD.format("X", seq, 1) + GROUP.format("279=1|", 0, "B", "1.0", "1.0", qty))


@pytest.fixture
def handler():
    handler = Handler(level="L2", session=Session(), collect=True)
    handler.define("X/Y", 1, 0)
    handler.fast = True
    handler.deliver(snapshot(1))
    assert handler["X/Y"].state is State.LIVE
    return handler


def test_a_gap_that_closes_during_a_halt_leaves_the_book_halted(handler):
    handler.mark("X/Y", State.HALTED, Cause.STATUS)
    handler.fast = False
    handler.mark("X/Y", State.GAP, Cause.LOST)
    assert handler["X/Y"].state is State.GAP
    handler.deliver(update(3))
    handler.fast = True
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.HALTED, Cause.STATUS)
    handler.deliver(snapshot(9))
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.HALTED, Cause.STATUS)
    handler.mark("X/Y", State.LIVE)
    assert handler["X/Y"].state is State.LIVE


def test_a_halt_that_ends_inside_a_gap_leaves_the_book_in_gap(handler):
    handler.fast = False
    handler.mark("X/Y", State.GAP, Cause.LOST)
    handler.mark("X/Y", State.HALTED, Cause.STATUS)
    handler.mark("X/Y", State.LIVE)
    assert handler["X/Y"].state is State.GAP
    handler.fast = True
    assert handler["X/Y"].state is State.LIVE


@pytest.mark.parametrize("before", [State.GAP, State.SYNCING, State.DOWN])
def test_a_snapshot_inside_an_open_gap_stays_gap_until_it_is_closed(handler, before):
    handler.fast = False
    handler.mark("X/Y", before, Cause.LOST)
    flags = handler.deliver(snapshot(5))
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.GAP, Cause.LOST)
    assert flags & 32  # BAD_BOOK
    handler.deliver(update(6))
    assert handler["X/Y"].state is State.GAP
    handler.fast = True
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.LIVE, Cause.NONE)
    assert handler["X/Y"].top()[:2] == (1.0, 2.0)


def test_a_book_that_lost_messages_for_good_is_not_made_live_by_the_end_of_the_gap(handler):
    handler.fast = False
    handler.mark("X/Y", State.GAP, Cause.LOST)
    handler.mark("X/Y", State.SYNCING, Cause.LOST)
    handler.fast = True
    assert handler["X/Y"].state is State.SYNCING


def test_a_halt_without_a_snapshot_ends_in_syncing(handler):
    handler.mark("X/Y", State.DOWN, Cause.DISCONNECT)
    handler.mark("X/Y", State.HALTED, Cause.STATUS)
    handler.mark("X/Y", State.LIVE)
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.SYNCING, Cause.STATUS)


def test_numbers_of_states_and_causes_are_their_places():
    assert [int(state) for state in State] == list(range(len(State)))
    assert [int(cause) for cause in Cause] == list(range(len(Cause)))
