"""Replays in chunks, numbers that are false, garbled frames in a quiet market, market data under another 35."""

import pytest

from tests.session.peer import SECOND, Rig


def requests(rig):
    return [int(m[7]) for m in rig.take() if m["type"] == "2"]


def chunk(rig, first, n, end):
    """The replay of at most `n` messages from `first`."""
    for seq in range(first, min(first + n, end)):
        rig.data(seq=seq, dup=True)


@pytest.mark.parametrize("n", [1, 20, 99, 1000])
def test_a_replay_in_chunks_is_waited_for_in_a_quiet_market(n):
    rig = Rig(gap_timeout=10).logon()
    rig.data(seq=102)
    started = rig.now
    requested = 0
    while not rig.session.ready:
        for first in requests(rig):
            requested += 1
            chunk(rig, first, n, 102)
        rig.wait(0.1, 0.1)
        assert rig.closed is None
    assert rig.applied == list(range(2, 103))
    assert requested == -(-100 // n) and rig.now - started <= requested * 1.2 * SECOND
    assert rig.app.calls[-1] == ("gap_closed",)


def test_live_messages_after_a_chunk_ask_for_the_next_at_once():
    rig = Rig(gap_timeout=10).logon()
    rig.data(seq=102)
    started = rig.now
    while not rig.session.ready:
        for first in requests(rig):
            chunk(rig, first, 20, 102)
        rig.now += SECOND // 20
        rig.data()
        assert rig.now - started < SECOND
    assert rig.applied == list(range(2, rig.seq))


def test_a_long_replay_between_live_messages_is_requested_once():
    rig = Rig(gap_timeout=10).logon()
    rig.data(seq=1002)
    for seq in range(2, 1002):
        rig.now += SECOND // 500
        rig.data(seq=seq, dup=True)
        if seq % 3 == 0:
            rig.data()
        rig.session.tick(rig.now)
    assert requests(rig) == [2] and rig.session.ready


def test_a_venue_that_replays_the_same_message_for_ever_is_left():
    rig = Rig(gap_timeout=2).logon()
    rig.data(seq=50)
    chunk(rig, 2, 1, 50)
    for _ in range(100):
        if requests(rig):
            rig.data(seq=2, dup=True)
        rig.wait(0.1, 0.1)
    assert rig.closed.kind == "gap_timeout"


def test_live_messages_in_a_gap_are_no_progress():
    rig = Rig(gap_timeout=5).logon()
    rig.data(seq=50)
    for _ in range(30):
        rig.wait(0.5, 0.1)
        if rig.closed:
            break
        rig.data()
    assert rig.closed.kind == "gap_timeout"


def test_one_number_far_too_high_costs_a_second_and_not_the_session():
    rig = Rig(gap_timeout=10).logon()
    rig.data()
    rig.data(seq=1_000_000)
    rig.seq = 3
    for _ in range(12):
        rig.wait(0.1, 0.1)
        rig.data()
    assert rig.session.ready and rig.closed is None and rig.session.stats["false_numbers"] == 1
    assert len(rig.app.named("lost")) == 1, "every book takes a new snapshot"
    assert rig.events("discarded") == [{"type": "discarded", "first": 1_000_000, "last": 1_000_000}]
    assert rig.applied == list(range(2, rig.seq)), "nothing that was in order is dropped"
    assert rig.session.fast
    rig.session.books_verified(rig.now)
    assert rig.events("gap_close")[-1]["healed"] == "snapshot"


@pytest.mark.parametrize("kind", ["checksum", "length", "field"])
def test_a_garbled_frame_in_a_quiet_market_is_found_at_once(kind):
    rig = Rig().logon()
    rig.session.garbled(kind, 120, rig.now)
    (test,) = rig.take()
    assert test["type"] == "1"
    rig.peer("0", (112, test[112]), seq=3)
    assert requests(rig) == [2]


def test_garbled_bytes_without_end_bring_one_test_request_per_second():
    rig = Rig().logon()
    for _ in range(200):
        rig.session.garbled("garbage", 10, rig.now)
        rig.peer("0")
        rig.wait(0.05, 0.05)
    assert 9 <= len(rig.take()) <= 11


def test_the_second_garbled_frame_within_a_second_is_tested_later():
    rig = Rig().logon()
    rig.session.garbled("checksum", 10, rig.now)
    rig.peer("0")
    rig.now += SECOND // 2
    rig.session.garbled("checksum", 10, rig.now)
    assert len(rig.take()) == 1 and rig.session.next_timeout <= rig.now + SECOND
    rig.wait(0.6, 0.1)
    assert [m["type"] for m in rig.take()] == ["1"]


BODY = [(55, "BTC/USD"), (262, "1"), (268, 1), (279, 0), (269, 0), (270, 1), (271, 1)]


@pytest.mark.parametrize("kind", ["0", "1", "2", "3", "8", "h", "j", "y", "Y", "ZZ"])
def test_market_data_under_another_type_is_reported_as_lost(kind):
    rig = Rig().logon()
    rig.peer(kind, *BODY)
    assert rig.app.named("lost") == [("lost", 2, 2, "lost")]
    assert not rig.app.named("message") and rig.session.stats["disguised"] == 1
    assert rig.data() == 1


@pytest.mark.parametrize("kind", ["y", "ZZ"])
def test_market_data_under_another_type_in_a_gap(kind):
    rig = Rig().logon()
    rig.peer(kind, *BODY, seq=4)
    rig.data(seq=2, dup=True)
    rig.data(seq=3, dup=True)
    assert rig.app.named("lost") == [("lost", 4, 4, "lost")] and rig.session.ready
