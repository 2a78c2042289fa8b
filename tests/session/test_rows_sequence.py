"""Rows 21 to 46 of the session table: MsgSeqNum, gaps, replays, gap fills, resets, the peer's own gaps."""

import pytest

from kfix_md.session.types import SessionState
from tests.session.peer import SECOND, Rig, stamp


def gapped(**settings):
    """Logged on, 2 and 3 applied, 4 and 5 lost, 6 and 7 kept; the ResendRequest is still in the outbox."""
    rig = Rig(**settings).logon()
    rig.data()
    rig.data()
    rig.data(seq=6)
    rig.data(seq=7)
    return rig


def fill(rig, new_seq, seq=None, dup=True):
    """A gap fill of the peer."""
    return rig.peer("4", (123, "Y"), (36, new_seq), seq=seq, dup=dup)


def test_row_21_in_order_is_delivered_once():
    rig = Rig().logon()
    assert rig.data() == 1
    for kind, body in [("0", []), ("3", [(45, 2), (58, "no")]), ("j", [(45, 2)]), ("h", [(336, "SESSION")])]:
        assert rig.peer(kind, *body) == 0
    assert rig.data() == 1
    assert rig.applied == [2, 7]
    assert rig.app.named("message") == [("message", "3", 4), ("message", "j", 5), ("message", "h", 6)]
    assert rig.expected == 8


def test_row_22_one_resend_request_for_one_gap():
    rig = gapped()
    assert [(m["type"], m[7], m[16]) for m in rig.take()] == [("2", "4", "0")]
    for _ in range(10):
        assert rig.data() == 2
    rig.wait(3)
    assert rig.take() == []
    assert rig.applied == [2, 3]
    assert rig.app.named("gap") == [("gap", 4, 5, "lost")]
    assert (rig.events("gap_open")[0]["first"], rig.events("gap_open")[0]["last"]) == (4, 5)


@pytest.mark.parametrize("bounds", [{"max_gap_messages": 5}, {"max_gap_bytes": 5_000}])
def test_row_23_queue_overflow_starts_a_new_session(bounds):
    rig = gapped(reset_on_logon=False, **bounds)
    for _ in range(40):
        rig.data()
    assert rig.closed.kind == "overflow"
    assert rig.session.gaps.queue.bytes < 10_000
    rig.session.disconnected(rig.now, "closed")
    assert len(rig.session.gaps.queue.kept) == 0
    assert rig.events("discarded")[0]["first"] == 6
    assert rig.events("gap_open")[-1]["cause"] == "overflow"
    rig.session.connected(rig.now)
    assert rig.take()[-1][141] == "Y"


def test_row_24_replay_is_applied_and_the_queue_drained():
    rig = gapped()
    rig.take()
    rig.data(seq=4, dup=True)
    assert not rig.session.fast
    rig.data(seq=5, dup=True)
    assert rig.applied == [2, 3, 4, 5, 6, 7]
    assert rig.data(seq=6, dup=True) == 4, "the replay's copy of a queued message is dropped"
    assert rig.data(seq=7, dup=True) == 4
    assert rig.data(seq=8) == 1
    assert rig.session.fast and rig.session.ready
    assert rig.app.calls[-1] == ("gap_closed",)
    opened, closed = rig.events("gap_open")[0], rig.events("gap_close")[0]
    assert closed == {"type": "gap_close", "id": opened["id"], "healed": "replay"}


def test_row_24_frames_after_the_replay_in_one_read_wait_after_the_queue():
    rig = gapped()
    receive, session = rig.session.receive, rig.session
    rig.drain = lambda: None  # the released frames are not taken until the read is through
    rig.data(seq=4, dup=True)
    rig.data(seq=5, dup=True)
    assert rig.data(seq=8) == 2
    assert receive is not None and not session.fast
    del rig.drain
    rig.drain()
    assert rig.applied == [2, 3, 4, 5, 6, 7, 8]
    assert session.fast


def test_row_24_a_second_hole_is_asked_for_when_the_replay_did_not_fill_it():
    rig = gapped()
    rig.data(seq=9)
    rig.take()
    for seq in (4, 5, 6, 7):
        rig.data(seq=seq, dup=True)
    assert rig.take() == []
    rig.data(seq=10)
    assert [(m["type"], m[7]) for m in rig.take()] == [("2", "8")]
    rig.data(seq=8, dup=True)
    assert rig.applied == list(range(2, 11))
    assert [e["healed"] for e in rig.events("gap_close")] == ["replay", "replay"]


def test_row_25_unclosed_gap_asks_once_more_and_then_reconnects_with_reset():
    rig = gapped(gap_timeout=10, reset_on_logon=False)
    rig.take()
    rig.wait(10)
    assert [(m["type"], m[7]) for m in rig.take()] == [("2", "4")]
    assert rig.closed is None and not rig.session.ready
    rig.wait(10)
    assert rig.closed.kind == "gap_timeout"
    rig.session.disconnected(rig.now, "closed")
    rig.connect()
    assert rig.take()[-1][141] == "Y"


def test_row_25_progress_keeps_the_gap_alive():
    rig = gapped(gap_timeout=10)
    rig.wait(9)
    rig.data(seq=4, dup=True)
    rig.wait(9)
    assert rig.closed is None
    rig.data(seq=5, dup=True)
    assert rig.session.ready


def test_row_26_too_low_without_possdup_is_fatal():
    rig = Rig().logon()
    rig.data()
    rig.take()
    assert rig.data(seq=2) == 4
    (logout,) = rig.take()
    assert (logout["type"], logout[58]) == ("5", "MsgSeqNum too low, expecting 3 but received 2")
    assert rig.closed.kind == "too_low"


def test_row_27_low_possdup_is_ignored():
    rig = Rig().logon()
    rig.data()
    rig.take()
    assert rig.data(seq=2, dup=True) == 4
    assert rig.peer("y", (320, "1"), seq=2, dup=True) == 4
    assert (rig.expected, rig.take(), rig.closed) == (3, [], None)
    assert not rig.app.named("message")


def test_row_28_possdup_without_original_time_is_rejected_and_not_counted_as_received():
    rig = Rig().logon()
    rig.peer("X", (43, "Y"), (55, "BTC/USD"), seq=2)
    (reject,) = rig.take()
    assert (reject["type"], reject[45], reject[373], reject[371]) == ("3", "2", "1", "122")
    assert rig.expected == 2 and rig.applied == []


def test_row_28_gap_fill_may_come_without_original_time():
    rig = gapped()
    rig.take()
    rig.peer("4", (43, "Y"), (123, "Y"), (36, 6), seq=4)
    assert rig.take() == [] and rig.expected == 8


def test_row_29_original_time_after_sending_time_is_fatal():
    rig = Rig().logon()
    rig.peer("X", (43, "Y"), (122, stamp(rig.now + SECOND)), seq=2)
    reject, logout = rig.take()
    assert (reject["type"], reject[373], logout["type"]) == ("3", "10", "5")
    assert rig.closed is not None


def test_row_30_possdup_with_the_expected_number_is_new():
    rig = Rig().logon()
    assert rig.data(seq=2, dup=True) == 1
    assert rig.expected == 3


def test_row_31_possresend_is_judged_by_its_content():
    rig = Rig().logon()
    assert rig.peer("X", (97, "Y"), (55, "BTC/USD"), (262, "1")) == 1
    assert rig.peer("y", (97, "Y"), (320, "1")) == 0
    assert rig.app.named("message") == [("message", "y", 3)]


def test_row_32_gap_fill_in_its_turn_advances_and_drains():
    rig = gapped()
    fill(rig, 6, seq=4)
    assert rig.expected == 8
    assert rig.applied == [2, 3, 6, 7]


def test_row_32_gap_fill_without_a_gap():
    rig = Rig().logon()
    fill(rig, 9, seq=2, dup=False)
    assert rig.expected == 9
    assert rig.app.named("lost") == [("lost", 3, 8, "lost")], "its own number was never anything else"
    assert rig.data(seq=9) == 1


def test_row_33_gap_fill_ahead_is_itself_a_gap():
    rig = Rig().logon()
    fill(rig, 20, seq=5, dup=False)
    assert rig.expected == 2
    assert [(m["type"], m[7]) for m in rig.take()] == [("2", "2")]
    for seq in (2, 3, 4):
        rig.data(seq=seq, dup=True)
    assert rig.expected == 20, "kept, and done when its turn came"
    assert rig.applied == [2, 3, 4]


def test_row_34_low_gap_fill_with_possdup_is_ignored():
    rig = gapped()
    assert fill(rig, 30, seq=2) == 4
    assert rig.expected == 4 and rig.closed is None


def test_row_35_low_gap_fill_without_possdup_is_fatal():
    rig = gapped()
    rig.take()
    fill(rig, 30, seq=2, dup=False)
    assert rig.take()[0][58].startswith("MsgSeqNum too low")
    assert rig.closed.kind == "too_low"


@pytest.mark.parametrize("flag", [[(123, "N")], []])
@pytest.mark.parametrize("seq", [1, 2, 77])
def test_row_36_reset_mode_jumps_whatever_its_own_number(flag, seq):
    rig = Rig().logon()
    rig.peer("4", *flag, (36, 40), seq=seq)
    assert rig.expected == 40
    assert rig.app.named("lost") == [("lost", 2, 39, "lost")]
    assert rig.data(seq=40) == 1
    assert rig.closed is None


def test_row_36_reset_mode_over_an_open_gap_applies_what_is_queued():
    rig = gapped()
    rig.peer("4", (36, 12), seq=9)
    assert rig.applied == [2, 3, 6, 7]
    assert rig.app.named("lost") == [("lost", 4, 5, "lost"), ("lost", 8, 11, "lost")]
    assert rig.session.ready and rig.expected == 12


def test_row_37_reset_to_the_expected_number_changes_nothing():
    rig = Rig().logon()
    rig.peer("4", (36, 2), seq=9)
    assert rig.expected == 2 and rig.take() == []
    assert rig.session.stats["reset_to_expected"] == 1
    assert not rig.app.named("lost")


@pytest.mark.parametrize("flag", [(123, "N"), (123, "Y")])
def test_row_38_reset_to_a_lower_number_is_rejected(flag):
    rig = Rig().logon()
    for _ in range(8):
        rig.data()
    rig.take()
    rig.peer("4", flag, (36, 5), seq=10)
    (reject,) = rig.take()
    assert (reject["type"], reject[45], reject[373]) == ("3", "10", "5")
    assert rig.expected == 10 and rig.closed is None


@pytest.mark.parametrize("value", ["", "x", "-3", "9" * 19])
def test_row_38_reset_to_no_number_at_all_is_rejected(value):
    rig = Rig().logon()
    rig.peer("4", (36, value), seq=2)
    assert rig.take()[0]["type"] == "3" and rig.expected == 2


def test_row_39_gap_fill_over_market_data_loses_it_aloud():
    rig = gapped()
    fill(rig, 6, seq=4)
    assert rig.app.named("lost") == [("lost", 4, 5, "lost")]
    assert not rig.app.named("gap_closed"), "the books are not whole"
    assert not rig.events("gap_close")
    rig.session.books_verified(rig.now)
    assert rig.events("gap_close")[0]["healed"] == "snapshot"


def test_row_39_gap_fill_over_queued_messages_applies_them():
    rig = gapped()
    fill(rig, 8, seq=4)
    assert rig.applied == [2, 3, 6, 7], "never dropped silently"
    assert rig.app.named("lost") == [("lost", 4, 5, "lost")]
    assert rig.data(seq=8) == 1


def test_row_39_gap_fill_from_the_peers_application_messages():
    rig = gapped()
    rig.peer("y", (320, "1"), seq=8)
    fill(rig, 12, seq=4)
    assert rig.app.named("message") == [("message", "y", 8)]
    assert rig.app.named("lost") == [("lost", 4, 5, "lost"), ("lost", 9, 11, "lost")]


def test_row_40_replay_mixed_with_gap_fills():
    rig = Rig().logon()
    rig.data(seq=10)
    rig.data(seq=2, dup=True)
    fill(rig, 5, seq=3)
    rig.data(seq=5, dup=True)
    fill(rig, 8, seq=6)
    rig.data(seq=8, dup=True)
    fill(rig, 10, seq=9)
    assert rig.applied == [2, 5, 8, 10]
    assert rig.app.named("lost") == [("lost", 3, 4, "lost"), ("lost", 6, 7, "lost"), ("lost", 9, 9, "lost")]
    assert rig.expected == 11 and rig.session.ready


def sent_three():
    """Logged on, with an instrument list, a subscription and a heartbeat sent as 2, 3 and 4."""
    rig = Rig().logon()
    rig.session.send("x", [(320, "L1"), (559, 4)], rig.now)
    rig.session.send("V", [(262, "7"), (263, 1)], rig.now)
    rig.wait(50)
    assert [m["type"] for m in rig.take()] == ["x", "V", "0"]
    return rig


@pytest.mark.parametrize(("end", "new_seq"), [(0, 5), (999, 5), (2, 3), (3, 4)])
def test_row_41_resend_request_is_answered_by_a_gap_fill(end, new_seq):
    rig = sent_three()
    rig.peer("2", (7, 1), (16, end))
    (answer,) = rig.take()
    assert (answer["type"], answer[34], answer[43], answer[123]) == ("4", "1", "Y", "Y")
    assert answer[36] == str(new_seq) and answer[122] <= answer[52]
    assert rig.session.sequence.outgoing == 5, "no number of ours is used"


def test_row_42_requests_are_not_replayed_but_made_known():
    rig = sent_three()
    rig.peer("2", (7, 2), (16, 0))
    assert [m["type"] for m in rig.take()] == ["4"]
    assert rig.app.calls[-1] == ("requests_lost", [("x", "L1"), ("V", "7")])


@pytest.mark.parametrize("body", [[(7, 5), (16, 0)], [(7, 900), (16, 950)], [(7, 4), (16, 3)]])
def test_row_43_resend_request_for_nothing(body):
    rig = sent_three()
    rig.peer("2", *body)
    assert rig.take() == [] and rig.closed is None and rig.session.ready


@pytest.mark.parametrize("body", [[], [(7, 1)], [(7, "x"), (16, 0)]])
def test_row_43_resend_request_without_a_range_is_rejected(body):
    rig = sent_three()
    rig.peer("2", *body)
    assert [(m["type"], m[373]) for m in rig.take()] == [("3", "1")]


def test_row_44_resend_request_ahead_is_answered_before_we_ask():
    rig = sent_three()
    rig.peer("2", (7, 1), (16, 0), seq=6)
    answer, ours = rig.take()
    assert (answer["type"], answer[36]) == ("4", "5")
    assert (ours["type"], ours[7]) == ("2", "2")
    fill(rig, 6, seq=2)
    assert rig.expected == 7 and rig.session.ready


def test_row_45_asked_again_is_answered_again():
    rig = sent_three()
    for _ in range(3):
        rig.peer("2", (7, 1), (16, 0))
    assert [(m["type"], m[36]) for m in rig.take()] == [("4", "5")] * 3
    assert len(rig.app.named("requests_lost")) == 1, "fresh requests are made once"


def test_row_46_not_ready_while_a_gap_is_open():
    rig = gapped()
    assert not rig.session.ready and not rig.session.fast
    assert rig.session.state == SessionState.ON
    rig.data(seq=4, dup=True)
    assert not rig.session.ready
    rig.data(seq=5, dup=True)
    assert rig.session.ready and rig.session.fast


def test_row_46_gap_at_logon_delays_ready():
    rig = Rig(reset_on_logon=False).logon(seq=3, reset=False)
    assert rig.app.named("ready") == []
    fill(rig, 3, seq=1)
    assert rig.app.named("ready") == [("ready",)]
