"""The judge of live books: spans of trust, sessions that ended, and which time counts as too long."""

import random
from types import SimpleNamespace

import pyarrow as pa

from kfix_md import State
from tests.chaos.variations import VARIATIONS, chosen
from tests.chaos.watch import FOREVER, at_samples, audit, differences, disagreements, pauses, silences, spans

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
    changes = [(1, "A", 2, "LIVE"), (5, "A", 2, "EMPTY"), (7, "A", 2, "STALE"), (8, "A", 3, "LIVE")]
    samples = [[now, [[symbol, level, STATES[state]]], now - 1] for now, symbol, level, state in changes]
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


def test_time_in_one_of_two_lists():
    assert differences([(1, 5), (8, 9)], [(2, 5), (8, 12)]) == [(1, 2), (9, 12)]
    assert differences([(1, 3), (3, 5)], [(1, 5)]) == [], "LIVE, then EMPTY"
    assert differences([], [(4, 6)]) == [(4, 6)] and differences([(4, 6)], [(4, 6)]) == []


def test_captures_that_disagree_with_readers_are_named():
    live, captured = {("A", 2): [(S, 5 * S)]}, {("A", 2): [(S, 6 * S)], ("B", 2): [(0, FOREVER)]}
    found = disagreements(live, captured, (S, 8 * S), [])
    assert found == [
        f"('A', 2): trusted by captures only for 1.000 s from {5 * S}",
        f"('B', 2): trusted by captures only for 7.000 s from {S}",
    ]
    assert disagreements(live, {}, (S, 8 * S), []) == [f"('A', 2): trusted by readers only for 4.000 s from {S}"]
    near = {("A", 2): [(S, 5 * S + S // 25)]}
    assert disagreements(live, near, (S, 8 * S), []) == [], "0.04 s"
    assert disagreements(live, {("A", 2): [(S, 6 * S)]}, (S, 8 * S), [(5 * S, 7 * S)]) == [], "no sample then"


def test_the_watcher_names_when_it_did_not_look():
    assert pauses([[S, [], S - S // 100], [2 * S, [], S]]) == [(S, 2 * S)]


def test_a_gap_that_is_healed_between_two_looks_is_no_difference_and_a_longer_one_is():
    class Past:
        def __init__(self, healed_s: float) -> None:
            self.gap = (5 * S, int(healed_s * S))

        def bbo(self, symbol: str, level: str) -> pa.Table:
            return pa.table({"recv_ns": [0, *self.gap], "trusted": [True, False, True]})

        def book(self, symbol: str, at: int, level: str) -> SimpleNamespace:
            trusted = not self.gap[0] <= at < self.gap[1]
            return SimpleNamespace(trusted=trusted, reason="" if trusted else "GAP")

    live = {("A", 2): [(S, FOREVER)]}
    for healed_s, differ in ((5.01, False), (7.0, True)):
        past = Past(healed_s)
        captured = {("A", 2): [(S, past.gap[0]), (past.gap[1], FOREVER)]}
        counts, complaints = at_samples(live, captured, past, (S, 9 * S), [], random.Random(1), 5000)
        assert bool(complaints) is differ and counts["trusted by all"] > 3000
