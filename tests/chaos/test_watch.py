"""The judge of live books: spans of trust, sessions that ended, and which time counts as too long."""

from kfix_md import State
from tests.chaos.variations import VARIATIONS, chosen
from tests.chaos.watch import FOREVER, audit, silences, spans

S = 1_000_000_000
STATES = {state.name: int(state) for state in State}


def event(name, session, seconds):
    return {"event": name, "session": session, "at_ns": int(seconds * S)}


EVENTS = [
    event("logged on", "spot-l2/1.0", 1),
    event("resend", "spot-l2/1.0", 2),
    event("logout sent", "spot-l2/1.1", 10),
    event("disconnected", "spot-l2/1.1", 12),
    event("logged on", "spot-l2/2.0", 15),
    event("disconnected", "spot-l2/2.0", 20),
]


def test_a_book_is_trusted_from_live_or_empty_to_any_other_state():
    samples = [[1, [["A", 2, STATES["LIVE"]]]], [5, [["A", 2, STATES["EMPTY"]]]], [7, [["A", 2, STATES["STALE"]]]]]
    samples += [[8, [["A", 3, STATES["LIVE"]]]]]
    assert spans(samples) == {("A", 2): [(1, 7)], ("A", 3): [(8, FOREVER)]}


def test_a_session_ends_with_its_logout_and_the_next_logon_counts():
    assert silences(EVENTS) == {
        "spot-l2": [((10 * S, 15 * S), "logout sent"), ((20 * S, FOREVER), "disconnected")],
    }


def test_a_connection_that_was_replaced_before_it_ended_is_no_silence():
    events = [
        event("logged on", "spot-l2/1.0", 1),
        event("logged on", "spot-l2/2.0", 10),
        event("disconnected", "spot-l2/1.0", 12),
        event("logout received", "spot-l2/2.3", 20),
    ]
    assert silences(events) == {"spot-l2": [((20 * S, FOREVER), "logout received")]}


def test_a_book_that_stays_live_too_long_is_named():
    trusted = {("A/USD", 2): [(2 * S, 12 * S)], ("PF_A", 2): [(0, FOREVER)], ("A/USD", 3): [(0, FOREVER)]}
    complaints, longest = audit(trusted, EVENTS, 21 * S, 1.0)
    assert complaints == ["spot-l2 A/USD: live for 2.00 s while no session delivers (logout sent)"] and longest == 2
    assert audit(trusted, EVENTS, 21 * S, 3.0) == ([], 2)
    assert audit(trusted, EVENTS, 21 * S, 1.0, [(9 * S, 11 * S)]) == ([], 1)
    assert audit({("A/USD", 2): [(2 * S, 10 * S), (15 * S, 20 * S)]}, EVENTS, 21 * S, 0.0) == ([], 0)
    assert audit({("A/USD", 2): [(11 * S, 12 * S)]}, EVENTS, 21 * S, 1.0)[0], "live again without a session"


def test_variations_are_chosen_by_name():
    assert list(chosen("ids,huge")) == ["ids", "huge"] and list(chosen("all")) == list(VARIATIONS)
    assert chosen("none") == {} and set(chosen("default")) <= set(VARIATIONS)
