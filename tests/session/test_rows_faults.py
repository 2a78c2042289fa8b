"""Rows 59 to 65 and 75 to 77 of the session table: faulty headers, and rejects in both directions."""

import pytest

from tests.session.peer import NOON, SECOND, SENDER, TARGET, Rig, frame, stamp


def test_row_59_wrong_begin_string_ends_the_session():
    rig = Rig().logon()
    rig.peer("0", begin="FIX.4.2")
    assert [(m["type"], m[58]) for m in rig.take()] == [("5", "Incorrect BeginString")]
    assert rig.closed is not None


@pytest.mark.parametrize("changes", [{"sender": "OTHER"}, {"target": "OTHER"}])
def test_row_60_wrong_comp_ids_end_the_session(changes):
    rig = Rig().logon()
    rig.data(**changes)
    reject, logout = rig.take()
    assert (reject["type"], reject[373], reject[45], logout["type"]) == ("3", "9", "2", "5")
    assert rig.applied == [] and rig.closed is not None


@pytest.mark.parametrize("seconds", [-121, 121])
def test_row_61_sending_time_off_ends_the_session(seconds):
    rig = Rig().logon()
    rig.data(sending=stamp(rig.now + seconds * SECOND))
    reject, logout = rig.take()
    assert (reject["type"], reject[373], logout["type"]) == ("3", "10", "5")
    assert rig.applied == [] and rig.closed is not None


@pytest.mark.parametrize(("limit", "seconds"), [(120.0, 119), (120.0, -119), (5.0, 4), (None, 4000)])
def test_row_61_limit_is_a_setting_and_the_lag_is_measured(limit, seconds):
    rig = Rig(sending_time_limit=limit).logon()
    assert rig.data(sending=stamp(rig.now - seconds * SECOND)) == 1
    assert rig.session.clock_lag_ns == seconds * SECOND
    assert [e["lag_ms"] for e in rig.events("clock_warning")] == [seconds * 1000]


@pytest.mark.parametrize(
    ("in_time", "seconds", "late"), [(None, 5, False), (1, 5, True), (1, -5, False), (599, 5, True), (601, 5, False)]
)
def test_row_61_late_delivery_is_no_matter_of_the_clock(in_time, seconds, late):
    """What came in time within ten minutes shows that the clocks agree; a message from the future never does."""
    rig = Rig(sending_time_limit=None, sending_time_warning=2.0).logon()
    rig.session.clock._in_time_ns = 0 if in_time is None else rig.now - in_time * SECOND
    rig.data(sending=stamp(rig.now - seconds * SECOND))
    (warning,) = rig.events("clock_warning")
    assert (warning["lag_ms"], warning.get("late", False)) == (seconds * 1000, late)


def test_row_62_missing_sending_time_is_rejected_and_advances():
    rig = Rig().logon()
    rig.raw(frame("X", 2, rig.now, (55, "BTC/USD"), header=[(49, TARGET), (56, SENDER), (34, 2)]))
    (reject,) = rig.take()
    assert (reject["type"], reject[373], reject[371]) == ("3", "1", "52")
    assert rig.expected == 3
    assert rig.app.named("lost") == [("lost", 2, 2, "lost")], "what it brought is not known"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "20261301-00:00:00",
        "20260310-25:00:00.000",
        "20260310-12:00:00.",
    ],
)
def test_row_62_unreadable_sending_time_is_rejected(text):
    rig = Rig().logon()
    rig.raw(frame("0", 2, rig.now, header=[(49, TARGET), (56, SENDER), (34, 2), (52, text)]))
    assert [(m["type"], m[371]) for m in rig.take()] == [("3", "52")]
    assert rig.expected == 3


@pytest.mark.parametrize("seq", [None, "", "abc", "-1", "9" * 40])
def test_row_63_without_a_number_the_session_ends(seq):
    rig = Rig().logon()
    header = [(49, TARGET), (56, SENDER), *([] if seq is None else [(34, seq)]), (52, stamp(NOON))]
    rig.raw(frame("X", 0, rig.now, header=header))
    (logout,) = rig.take()
    assert logout["type"] == "5" and "34" in logout[58]
    assert rig.closed is not None and rig.expected == 2


@pytest.mark.parametrize("kind", ["*", "ABC", "\xff", "?"])
def test_row_64_invalid_msg_type_is_rejected_and_advances(kind):
    rig = Rig().logon()
    rig.peer(kind)
    (reject,) = rig.take()
    assert (reject["type"], reject[373], reject[45]) == ("3", "11", "2")
    assert rig.expected == 3 and rig.data() == 1
    assert rig.app.named("lost") == [("lost", 2, 2, "lost")], "it may have been market data"


@pytest.mark.parametrize("kind", ["8", "D", "AE", "B", "U1"])
def test_row_65_unhandled_msg_type_is_counted(kind):
    rig = Rig().logon()
    rig.peer(kind, (58, "hello"))
    assert rig.take() == [] and rig.expected == 3
    assert rig.session.stats["unhandled"] == 1


def test_row_75_reject_is_kept_and_never_rejected():
    rig = Rig().logon()
    rig.peer("3", (45, 9), (371, 262), (372, "V"), (373, 1), (58, "Required tag missing"))
    rig.peer("3")  # nothing in it: still no reply
    assert rig.take() == [] and rig.expected == 4
    assert rig.events("rejected")[0] == {
        "type": "rejected",
        "ref_seq": 9,
        "ref_tag": "262",
        "ref_type": "V",
        "reason": "1",
        "text": "Required tag missing",
    }


def test_row_76_reject_of_our_request_names_the_request():
    rig = Rig().logon()
    seq = rig.session.send("V", [(262, "req-7"), (263, 1)], rig.now)
    rig.peer("3", (45, seq), (372, "V"), (373, 5), (58, "no"))
    assert rig.app.calls[-1] == ("message", "3", 2)
    assert rig.session.request_of(seq) == ("V", "req-7")
    assert rig.session.request_of(999) is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("j", [(45, 2), (372, "V"), (379, "7"), (380, 3), (58, "no")]),
        ("Y", [(262, "7"), (281, 0), (58, "unknown")]),
    ],
)
def test_row_77_business_rejects_reach_the_application_in_order(kind, body):
    rig = Rig().logon()
    rig.session.send("V", [(262, "7"), (263, 1)], rig.now)
    rig.data()
    rig.peer(kind, *body)
    assert rig.app.calls[-1] == ("message", kind, 3)
    assert rig.closed is None


def test_rejects_are_limited_per_second():
    rig = Rig(max_rejects_per_s=10).logon()
    for _ in range(500):
        rig.peer("*")
    assert len(rig.take()) == 10
    assert rig.session.stats["rejects_withheld"] == 490
    rig.now += SECOND
    rig.peer("*")
    assert len(rig.take()) == 1 and rig.closed is None
