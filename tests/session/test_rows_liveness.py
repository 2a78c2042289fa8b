"""Rows 47 to 52 of the session table: heartbeats, TestRequests, and a mute peer."""

import itertools

import pytest

from kfix_md.session.types import SessionState
from tests.session.peer import SECOND, Rig


def test_row_47_heartbeat_before_the_interval_is_over():
    rig = Rig().logon()
    quiet = []
    for _ in range(300):
        rig.wait(1)
        rig.session.last_recv_ns = rig.now
        quiet += [rig.now] * len(rig.take())
    gaps = [(b - a) / SECOND for a, b in itertools.pairwise(quiet)]
    assert gaps and all(30 <= gap <= 60 for gap in gaps)


def test_row_47_anything_sent_restarts_the_clock():
    rig = Rig().logon()
    rig.wait(40)
    rig.session.send("x", [(320, "1"), (559, 4)], rig.now)
    rig.peer("0")
    rig.take()
    rig.wait(40)
    assert rig.take() == []
    rig.wait(10)
    assert [m["type"] for m in rig.take()] == ["0"]


def test_row_47_next_timeout_names_the_moment():
    rig = Rig().logon()
    due = rig.session.next_timeout
    assert 30 <= (due - rig.now) / SECOND <= 60
    rig.session.tick(due - 1)
    assert rig.take() == []
    rig.session.tick(due)
    assert [m["type"] for m in rig.take()] == ["0"]
    assert rig.session.next_timeout > due


def test_row_48_test_request_is_answered_at_once():
    rig = Rig().logon()
    rig.peer("1", (112, "are you there"))
    (beat,) = rig.take()
    assert (beat["type"], beat[112]) == ("0", "are you there")


@pytest.mark.parametrize("n", [1, 257, 4096])
def test_row_48_the_answer_has_the_whole_id(n):
    rig = Rig().logon()
    rig.peer("1", (112, "x" * n))
    (answer,) = rig.take()
    assert (answer["type"], answer[112]) == ("0", "x" * n)


def test_row_48_an_id_too_long_to_be_one_is_rejected():
    rig = Rig().logon()
    rig.peer("1", (112, "x" * 4097))
    (answer,) = rig.take()
    assert (answer["type"], answer[373], answer[371]) == ("3", "5", "112")


def test_row_48_also_while_a_gap_is_open():
    rig = Rig().logon()
    rig.data(seq=5)
    rig.take()
    rig.peer("1", (112, "T"), seq=6)
    assert [(m["type"], m[112]) for m in rig.take()] == [("0", "T")]
    for seq in (2, 3, 4):
        rig.data(seq=seq, dup=True)
    assert rig.take() == [], "answered once"
    assert rig.applied == [2, 3, 4, 5] and rig.expected == 7


def test_row_48_test_request_that_opens_the_gap():
    rig = Rig().logon()
    rig.peer("1", (112, "T"), seq=4)
    assert [m["type"] for m in rig.take()] == ["0", "2"]


def test_row_48_test_request_without_id_is_rejected():
    rig = Rig().logon()
    rig.peer("1")
    assert [(m["type"], m[373], m[371]) for m in rig.take()] == [("3", "1", "112")]


def test_row_49_silence_is_tested_at_1_2_intervals():
    rig = Rig().logon()
    rig.wait(71)
    rig.take()
    rig.wait(1)
    (probe,) = rig.take()
    assert probe["type"] == "1" and probe[112]
    assert rig.closed is None


def test_row_50_silence_ends_the_session_at_2_4_intervals():
    rig = Rig().logon()
    rig.wait(143)
    assert rig.closed is None
    rig.wait(1)
    assert rig.closed.kind == "silent"
    assert rig.session.state == SessionState.CLOSED and not rig.session.fast


def test_row_50_a_clock_set_back_or_a_long_pause_is_not_silence():
    rig = Rig().logon()
    rig.session.tick(rig.now - 3600 * SECOND)
    assert rig.closed is None
    rig = Rig().logon()
    rig.now += 3600 * SECOND  # the machine slept: the peer is tested before it is given up
    rig.session.tick(rig.now)
    assert "1" in [m["type"] for m in rig.take()] and rig.closed is None


def test_row_51_anything_received_resets_the_clock():
    rig = Rig().logon()
    rig.data()
    kinds = [
        lambda: rig.peer("0"),
        lambda: rig.data(seq=2, dup=True),
        rig.data,
        lambda: rig.peer("0", (112, "unrequested")),
        lambda: rig.peer("ZZ"),
    ]
    for number in range(20):
        rig.wait(70)
        kinds[number % len(kinds)]()
        assert "1" not in [m["type"] for m in rig.take()]
    rig.wait(73)
    rig.peer("0")  # without our 112
    rig.take()
    rig.wait(72)
    assert rig.closed is None
    assert "1" in [m["type"] for m in rig.take()]


def test_row_51_what_came_by_the_fast_path_counts():
    rig = Rig().logon()
    for _ in range(10):
        rig.wait(60)
        rig.session.last_recv_ns = rig.now
    assert rig.session.stats["test_requests"] == 0


def test_row_52_heartbeat_nobody_requested_is_nothing():
    rig = Rig().logon()
    assert rig.peer("0", (112, "surprise")) == 0
    assert rig.take() == [] and rig.expected == 3
