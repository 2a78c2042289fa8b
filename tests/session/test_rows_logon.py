"""Rows 1 to 20 of the session table: logging on."""

import pytest

from kfix_md.session.store import SequenceStore
from kfix_md.session.types import SessionState
from tests.session.peer import NOON, SECOND, SENDER, TARGET, Rig, frame, stamp


def stored(path, expected, outgoing, at=NOON - 60 * SECOND):
    """A store that a former process left with these counters."""
    store = SequenceStore(path, SENDER, TARGET)
    store.save(expected, outgoing, at)
    return store


def continuing(tmp_path, expected=57, outgoing=12, **settings):
    """A rig that logs on with 141=N from stored numbers; its Logon is taken and returned too."""
    rig = Rig(store=stored(tmp_path, expected, outgoing), reset_on_logon=False, **settings).connect()
    return rig, rig.take()[0]


def test_row_01_logon_is_the_first_thing_sent():
    rig = Rig().connect()
    (logon,) = rig.take()
    assert logon["type"] == "A"
    assert (logon[98], logon[108], logon[141], logon[34]) == ("0", "60", "Y", "1")
    assert (logon[49], logon[56], logon[52]) == (SENDER, TARGET, "20260310-12:00:00.000")


def test_row_02_reset_sets_the_numbers_before_sending():
    rig = Rig()
    rig.session.sequence.expected, rig.session.sequence.outgoing = 900, 40
    rig.connect()
    assert rig.take()[0][34] == "1"
    assert (rig.expected, rig.session.sequence.outgoing) == (1, 2)
    rig.peer("A", (98, 0), (108, 60), (141, "Y"))
    assert rig.session.state == SessionState.ON
    assert rig.expected == 2


def test_row_03_reconnect_continues_both_counters_from_the_store(tmp_path):
    rig, logon = continuing(tmp_path)
    assert (logon[34], logon[141]) == ("12", "N")
    rig.peer("A", (98, 0), (108, 60), seq=57)
    assert (rig.expected, rig.session.sequence.outgoing) == (58, 13)
    assert rig.app.calls == [("ready",)]


def test_row_04_expected_reply_logs_on():
    rig = Rig().logon()
    assert rig.session.state == SessionState.ON
    assert rig.session.fast and rig.session.ready
    assert rig.app.calls == [("ready",)]
    assert rig.events("logged_on")[0]["session_id"] == rig.session.session_id != ""


def test_row_05_reply_ahead_logs_on_and_then_asks(tmp_path):
    rig, _ = continuing(tmp_path)
    rig.peer("A", (98, 0), (108, 60), seq=60)
    assert rig.session.state == SessionState.ON
    assert [(m["type"], m[7], m[16]) for m in rig.take()] == [("2", "57", "0")]
    assert not rig.session.ready and ("ready",) not in rig.app.calls
    for seq in (57, 58, 59):
        rig.data(seq=seq, dup=True)
    assert rig.applied == [57, 58, 59]
    assert rig.expected == 61, "the Logon itself is consumed"
    assert rig.app.calls[-1] == ("ready",)
    assert not rig.app.named("message")


def test_row_06_reply_behind_is_fatal_and_the_next_logon_resets(tmp_path):
    rig, _ = continuing(tmp_path)
    rig.peer("A", (98, 0), (108, 60), seq=1)
    (logout,) = rig.take()
    assert (logout["type"], logout[58]) == ("5", "MsgSeqNum too low, expecting 57 but received 1")
    assert rig.closed.kind == "too_low"
    rig.session.disconnected(rig.now, "closed")
    rig.connect()
    assert (rig.take()[0][141], rig.expected) == ("Y", 1)


def test_row_07_reply_with_reset_though_we_did_not_ask(tmp_path):
    rig, _ = continuing(tmp_path)
    rig.peer("A", (98, 0), (108, 60), (141, "Y"), seq=1)
    assert rig.session.state == SessionState.ON
    assert (rig.expected, rig.session.sequence.outgoing) == (2, 2)
    assert rig.app.calls == [("ready",)], "a new start: everything is subscribed again"


def test_row_08_no_reply_in_time_closes():
    rig = Rig(logon_timeout=12).connect()
    rig.wait(11.5, 0.5)
    assert rig.closed is None
    rig.wait(0.5)
    assert (rig.closed.kind, rig.closed.retry) == ("logon_timeout", "backoff")


@pytest.mark.parametrize(
    ("text", "retry"),
    [
        ("Service not available", "backoff"),
        ("Invalid SenderCompID", "long"),
        ("Authentication failed", "long"),
    ],
)
def test_row_09_logout_instead_of_logon(text, retry):
    rig = Rig().connect()
    rig.take()
    rig.peer("5", (58, text))
    assert (rig.closed.kind, rig.closed.retry) == ("refused", retry)
    assert text in str(rig.closed)
    assert rig.events("logout") == [{"type": "logout", "by": "peer", "text": text}]
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == retry


def test_row_10_silent_close_after_our_logon_backs_off():
    rig = Rig().connect()
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "backoff"
    assert rig.session.state == SessionState.OFF
    assert not rig.events("gap_open"), "no book was live, nothing is lost"


def test_row_11_heartbeat_interval_of_the_reply_counts():
    rig = Rig().connect()
    rig.take()
    rig.peer("A", (98, 0), (108, 10), (141, "Y"))
    rig.wait(9)
    assert [m["type"] for m in rig.take()] == ["0"]
    rig.wait(3)
    assert [m["type"] for m in rig.take()] == ["1"]


@pytest.mark.parametrize("msg_type", ["0", "1", "2", "4", "W", "X", "y", "3", "AE"])
def test_row_12_anything_else_before_the_reply_closes(msg_type):
    rig = Rig().connect()
    rig.take()
    rig.peer(msg_type, (36, 5))
    assert rig.closed.kind == "protocol"
    assert rig.applied == [] and rig.take() == []


def test_row_13_second_logon_without_reset_ends_the_session():
    rig = Rig().logon()
    rig.peer("A", (98, 0), (108, 60))
    assert [m["type"] for m in rig.take()] == ["5"]
    assert rig.closed.kind == "protocol"


def test_row_14_in_session_logon_with_reset_is_answered():
    rig = Rig().logon()
    for _ in range(5):
        rig.data()
    rig.session.send("V", [(262, "1")], rig.now)
    rig.take()
    rig.peer("A", (98, 0), (108, 60), (141, "Y"), seq=1)
    (answer,) = rig.take()
    assert (answer["type"], answer[34], answer[141]) == ("A", "1", "Y")
    assert (rig.expected, rig.session.sequence.outgoing) == (2, 2)
    assert rig.app.calls[-1] == ("reset", "reset")
    assert rig.session.fast
    assert rig.data(seq=2) == 1


def test_row_15_duplicate_identity_backs_off_and_the_store_keeps_a_second_connector_away(tmp_path):
    rig = Rig().connect()
    rig.session.disconnected(rig.now, "fin")  # the venue closes without a word
    assert rig.session.retry == "backoff"
    first = SequenceStore(tmp_path, SENDER, TARGET)
    with pytest.raises(Exception, match="in use by another process"):
        SequenceStore(tmp_path, SENDER, TARGET)
    first.close()
    SequenceStore(tmp_path, SENDER, TARGET).close()


@pytest.mark.parametrize("seconds", [-121, 121])
def test_row_16_logon_with_bad_sending_time_closes(seconds):
    rig = Rig().connect()
    rig.take()
    rig.peer("A", (98, 0), (108, 60), (141, "Y"), sending=stamp(rig.now + seconds * SECOND))
    assert rig.closed.kind == "sending_time"
    assert rig.session.state == SessionState.CLOSED


@pytest.mark.parametrize("changes", [{"begin": "FIX.4.2"}, {"sender": "OTHER"}, {"target": "OTHER"}])
def test_row_17_logon_with_wrong_identity_closes(changes):
    rig = Rig().connect()
    rig.take()
    rig.raw(frame("A", 1, rig.now, (98, 0), (108, 60), (141, "Y"), **changes))
    assert rig.closed.kind == "protocol"
    assert rig.take() == []


def test_row_17_logon_with_bad_length_closes():
    rig = Rig().connect()
    rig.session.garbled("length", 90, rig.now)
    assert rig.closed.kind == "protocol"


def test_row_18_next_expected_below_ours_is_filled_at_once(tmp_path):
    rig, _ = continuing(tmp_path)
    rig.peer("A", (98, 0), (108, 60), (789, 9), seq=57)
    (fill,) = rig.take()
    assert (fill["type"], fill[34], fill[43], fill[123], fill[36]) == ("4", "9", "Y", "Y", "13")
    assert rig.session.sequence.outgoing == 13


def test_row_19_next_expected_above_ours_is_fatal(tmp_path):
    rig, _ = continuing(tmp_path)
    rig.peer("A", (98, 0), (108, 60), (789, 14), seq=57)
    (logout,) = rig.take()
    assert (logout["type"], logout[58]) == ("5", "NextExpectedMsgSeqNum (789) too high")
    assert rig.closed is not None


def test_row_20_next_expected_equal_means_nothing(tmp_path):
    rig, logon = continuing(tmp_path, next_expected=True)
    assert logon[789] == "57"
    rig.peer("A", (98, 0), (108, 60), (789, 13), seq=57)
    assert rig.take() == [] and rig.session.ready


def test_row_20_with_next_expected_the_venue_fills_without_being_asked(tmp_path):
    rig, _ = continuing(tmp_path, next_expected=True)
    rig.peer("A", (98, 0), (108, 60), (789, 13), seq=59)
    assert rig.take() == [], "it knows from our 789 what we miss"
    rig.data(seq=57, dup=True)
    rig.data(seq=58, dup=True)
    assert rig.session.ready
