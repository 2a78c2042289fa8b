"""Rows 78 to 90 of the session table: logout, lost connections, the rollover, restarts, request ids."""

import pytest

from kfix_md.session.store import SequenceStore
from kfix_md.session.types import SessionState
from tests.session.peer import NOON, SECOND, SENDER, TARGET, TEN_PM, Rig


def at_rollover(seconds=0.0, **settings):
    """Logged on an hour before, ticked into the window, now `seconds` after 22:00 UTC."""
    rig = Rig(now=TEN_PM - 300 * SECOND, **settings).logon()
    for _ in range(20):
        rig.data()
    while rig.now < TEN_PM + int(seconds * SECOND):
        rig.now = min(rig.now + 10 * SECOND, TEN_PM + int(seconds * SECOND))
        rig.peer("0")
        rig.session.tick(rig.now)
    rig.take()
    return rig


def test_row_78_logout_is_answered_and_the_peer_may_close():
    rig = Rig().logon()
    rig.peer("5", (58, "maintenance"))
    (answer,) = rig.take()
    assert (answer["type"], answer[34]) == ("5", "2")
    assert rig.session.state == SessionState.LOGGED_OUT and rig.closed is None
    rig.session.disconnected(rig.now, "fin")
    assert rig.events("disconnected")[0]["reason"] == "maintenance"
    assert rig.session.retry == "backoff"


def test_row_78_we_close_when_the_peer_does_not():
    rig = Rig(peer_close_timeout=2).logon()
    rig.peer("5", (58, "bye"))
    assert rig.data() == 4
    rig.wait(1.9, 0.1)
    assert rig.closed is None
    rig.wait(0.1)
    assert rig.closed.kind == "logout_received" and "bye" in str(rig.closed)


def test_row_79_after_our_logout_resends_are_answered_until_it_is_confirmed():
    rig = Rig().logon()
    rig.session.logout(rig.now, "end of work")
    (logout,) = rig.take()
    assert (logout["type"], logout[58]) == ("5", "end of work")
    assert rig.data() == 4 and not rig.session.fast and rig.expected == 3
    rig.peer("2", (7, 1), (16, 0))
    assert [m["type"] for m in rig.take()] == ["4"]
    rig.peer("5")
    assert rig.closed.retry == "never"
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "never"
    assert rig.events("gap_open")[-1]["cause"] == "restart"


def test_row_79_unanswered_logout_closes_after_the_timeout():
    rig = Rig(logout_timeout=3).logon()
    rig.session.logout(rig.now)
    rig.wait(2.9, 0.1)
    assert rig.closed is None
    rig.wait(0.2, 0.1)
    assert rig.closed.kind == "logout"


def test_row_80_logout_ahead_of_a_gap_still_logs_out():
    rig = Rig().logon()
    rig.peer("5", seq=9)
    assert [m["type"] for m in rig.take()] == ["5"]
    assert rig.session.state == SessionState.LOGGED_OUT


def test_row_81_no_second_logout():
    rig = Rig().logon()
    rig.session.logout(rig.now)
    rig.take()
    rig.peer("5")
    assert rig.take() == []
    rig.session.logout(rig.now)
    assert rig.take() == []


@pytest.mark.parametrize("reason", ["fin", "rst", "tls", "half a message"])
def test_row_82_lost_connection_voids_everything(reason):
    rig = Rig().logon()
    rig.data()
    rig.data(seq=9)
    rig.session.disconnected(rig.now, reason)
    session = rig.session
    assert session.state == SessionState.OFF and not session.fast and session.outbox == []
    assert session.retry == "backoff" and len(session.gaps.queue.kept) == 0
    assert rig.events("discarded") == [{"type": "discarded", "first": 9, "last": 9}]
    lost = rig.events("gap_open")[-1]
    assert (lost["first"], lost["last"], lost["cause"]) == (3, None, "disconnect")
    rig.seq = 1
    rig.logon()
    assert rig.app.calls[-1] == ("ready",)
    session.books_verified(rig.now + SECOND)
    assert [e["healed"] for e in rig.events("gap_close")] == ["reconnect", "reconnect"]


FORMS = {
    "logout": lambda rig: (rig.peer("5", (58, "rollover")), rig.session.disconnected(rig.now, "fin")),
    "fin": lambda rig: rig.session.disconnected(rig.now, "fin"),
    "rst": lambda rig: rig.session.disconnected(rig.now, "rst"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seconds", [-20, 0, 30])
def test_row_83_rollover_is_expected_around_22_utc(form, seconds):
    rig = at_rollover(seconds)
    assert rig.events("rollover")[0]["phase"] == "armed"
    FORMS[form](rig)
    assert rig.session.retry == "rollover"
    gone = rig.events("disconnected")[-1]
    assert gone["planned"] and gone["cause"] == "rollover"
    assert rig.events("gap_open")[-1]["cause"] == "rollover"
    began = [e for e in rig.events("rollover") if e["phase"] == "began"]
    assert [e["form"] for e in began] == [form]
    rig.seq, rig.now = 1, rig.now + 34 * SECOND
    rig.logon()
    assert rig.session.ready
    rig.now += SECOND
    rig.session.books_verified(rig.now)
    phases = {e["phase"]: e for e in rig.events("rollover")}
    assert phases["logged_on"]["seconds"] == 34.0
    assert phases["verified"]["seconds"] == 35.0
    assert rig.events("gap_close")[-1]["healed"] == "reconnect"


def test_row_83_the_trading_date_turns_at_22_utc():
    rig = at_rollover(5)
    assert [e for e in rig.events("rollover") if e["phase"] == "date"] == [
        {"type": "rollover", "phase": "date", "date": "2026-03-11"}
    ]


def test_row_83_the_same_close_at_noon_is_no_rollover():
    rig = Rig().logon()
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "backoff" and not rig.events("disconnected")[0]["planned"]


def test_row_83_mute_connection_is_found_within_half_a_minute_of_the_rollover():
    rig = at_rollover(0)
    rig.wait(30)
    assert rig.closed.kind == "silent" and rig.closed.retry == "rollover"


def restart_by_logon(rig, first):
    rig.peer("A", (98, 0), (108, 60), (141, "Y"), seq=first)


def restart_by_reset(rig, first):
    rig.peer("4", (123, "N"), (36, first + 1), seq=999)


@pytest.mark.parametrize("first", [0, 1])
def test_row_84_in_session_logon_at_the_rollover(first):
    rig = at_rollover(1)
    restart_by_logon(rig, first)
    assert [m["type"] for m in rig.take()] == ["A"]
    assert rig.app.calls[-1] == ("reset", "rollover")
    assert rig.data(seq=first + 1) == 1
    assert rig.events("gap_open")[-1]["cause"] == "rollover"
    rig.session.books_verified(rig.now)
    assert rig.events("gap_close")[-1]["healed"] == "snapshot"


def test_row_84_sequence_reset_to_one_at_the_rollover():
    rig = at_rollover(1)
    rig.peer("4", (123, "N"), (36, 1), seq=999)
    assert rig.take() == [] and rig.closed is None
    assert rig.app.calls[-1] == ("reset", "rollover")
    assert rig.expected == 1
    assert rig.data(seq=1) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_row_84_numbers_that_simply_restart_lead_to_a_planned_reconnect(first):
    rig = at_rollover(1)
    assert rig.data(seq=first) == 4
    assert [m["type"] for m in rig.take()] == ["5"]
    assert rig.closed.retry == "rollover"
    rig.session.disconnected(rig.now, "closed")
    assert rig.events("disconnected")[-1]["planned"]
    assert [e["form"] for e in rig.events("rollover") if e["phase"] == "began"] == ["restart"]
    rig.connect()
    assert rig.take()[-1][141] == "Y"


def test_row_84_restart_at_noon_is_the_fatal_kind():
    rig = Rig().logon()
    for _ in range(5):
        rig.data()
    rig.data(seq=1)
    assert (rig.closed.kind, rig.closed.retry) == ("too_low", "backoff")


@pytest.mark.parametrize("minutes", [0.5, 5])
@pytest.mark.parametrize("text", ["Logon refused", "Authentication not possible during rollover"])
def test_row_85_refused_logons_in_the_window_do_not_escalate(minutes, text):
    rig = at_rollover(0)
    rig.session.disconnected(rig.now, "fin")
    while rig.now < TEN_PM + minutes * 60 * SECOND:
        rig.now += 2 * SECOND
        rig.seq = 1
        rig.connect().peer("5", (58, text))
        rig.session.disconnected(rig.now, "fin")
        assert rig.session.retry == "rollover"
        rig.session.disconnected(rig.now, "refused")  # and a port that does not even answer
        assert rig.session.retry == "rollover"
    assert len(rig.events("gap_open")) == 1, "one planned gap, as long as it takes"
    rig.seq = 1
    rig.logon()
    assert rig.session.ready


def test_row_85_after_the_window_a_refusal_counts_again():
    rig = at_rollover(0)
    rig.session.disconnected(rig.now, "fin")
    rig.now, rig.seq = TEN_PM + 3600 * SECOND, 1
    rig.connect().peer("5", (58, "Authentication failed"))
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "long"


@pytest.mark.parametrize("reset", [True, False])
def test_row_86_restart_continues_or_resets_with_the_same_end(tmp_path, reset):
    store = SequenceStore(tmp_path, SENDER, TARGET)
    rig = Rig(store=store, reset_on_logon=reset).logon(reset=reset)
    rig.data()
    rig.session.send("V", [(262, "1")], rig.now)
    rig.session.tick(rig.now)
    rig.save()
    store.close()  # killed: nothing else is saved

    later = SequenceStore(tmp_path, SENDER, TARGET)
    again = Rig(now=NOON + 60 * SECOND, store=later, reset_on_logon=reset).connect()
    (logon,) = again.take()
    assert (logon[34], logon[141]) == (("1", "Y") if reset else ("3", "N"))
    again.peer("A", (98, 0), (108, 60), *([(141, "Y")] if reset else []), seq=1 if reset else 3)
    assert again.app.calls[-1] == ("ready",), "both subscribe afresh"
    opened = again.events("gap_open")[0]
    assert (opened["first"], opened["cause"]) == (3, "restart")
    assert opened["id"] == NOON, "the gap began when the last process was last heard of"
    again.session.books_verified(again.now)
    assert again.events("gap_close")[0]["healed"] == "reconnect"
    later.close()


def test_row_86_numbers_from_before_the_rollover_are_void(tmp_path):
    store = SequenceStore(tmp_path, SENDER, TARGET)
    store.save(500, 60, TEN_PM - SECOND)
    rig = Rig(now=TEN_PM + 3600 * SECOND, store=store, reset_on_logon=False).connect()
    assert [(m[34], m[141]) for m in rig.take()] == [("1", "Y")]
    store.close()


def test_row_88_duplicate_without_possdup_is_fatal_and_not_applied_twice():
    rig = Rig().logon()
    rig.data()
    assert rig.data(seq=2) == 4
    assert rig.applied == [2] and rig.closed.kind == "too_low"


def test_row_90_request_ids_are_the_applications_and_each_is_remembered_by_its_number():
    rig = Rig().logon()
    ids = [f"id{n}" for n in range(5)]
    seqs = [rig.session.send("V", [(262, one), (263, 1)], rig.now) for one in ids]
    assert [rig.session.request_of(seq) for seq in seqs] == [("V", one) for one in ids]
    rig.peer("Y", (262, "id3"), (281, 1))
    assert rig.app.calls[-1] == ("message", "Y", 2)
