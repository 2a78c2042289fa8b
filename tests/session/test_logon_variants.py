"""Logons as other engines make them: confirmations, numbers other than 1, more fields, refusals in plain text."""

import pytest

from kfix_md.errors import UsageError
from kfix_md.session.fix import first_request_id
from kfix_md.session.refusals import explain, refusal_of
from kfix_md.session.types import SessionConfig
from tests.session.peer import NOON, SECOND, SENDER, TARGET, TEN_PM, Rig

RESET = [(98, 0), (108, 60), (141, "Y")]


def kinds(rig):
    return [m["type"] for m in rig.take()]


@pytest.mark.parametrize("now", [NOON, TEN_PM + SECOND])
@pytest.mark.parametrize("confirmation", [1, 2])
def test_a_logon_that_answers_ours_is_a_confirmation(now, confirmation):
    rig = Rig(now=now).logon()
    rig.peer("A", *RESET, seq=1)
    assert kinds(rig) == ["A"]
    resets = list(rig.app.named("reset"))
    rig.peer("A", *RESET, seq=confirmation)
    assert kinds(rig) == [] and rig.closed is None, "no answer to an answer"
    assert rig.app.named("reset") == resets, "books are not void a second time"
    assert rig.expected == confirmation + 1 and rig.session.fast
    assert rig.data(seq=confirmation + 1) == 1


def test_a_confirmation_without_141_in_sequence():
    rig = Rig().logon()
    rig.peer("A", *RESET, seq=1)
    rig.peer("A", (98, 0), (108, 60), seq=2)
    assert kinds(rig) == ["A"] and rig.closed is None and rig.expected == 3


def test_a_confirmation_that_counts_anew_after_data():
    rig = Rig().logon()
    rig.peer("A", *RESET, seq=1)
    rig.take()
    for seq in (2, 3, 4):
        rig.data(seq=seq)
    rig.peer("A", *RESET, seq=1)
    assert rig.take() == [] and rig.expected == 2


def test_a_venue_that_answers_every_answer_gets_no_endless_logons():
    rig = Rig().logon()
    rig.peer("A", *RESET, seq=1)
    sent = 0
    for _ in range(400):
        answers = kinds(rig)
        sent += len(answers)
        if "A" in answers:
            rig.peer("A", *RESET, seq=1)
    assert sent == 1 and rig.closed is None


def test_a_venue_that_resets_without_end_is_left():
    rig = Rig().logon()
    for _ in range(20):
        rig.peer("A", *RESET, seq=1)
    assert kinds(rig).count("A") == 5 and "without end" in str(rig.closed)


def test_a_later_reset_is_a_request_again():
    rig = Rig(logon_timeout=12).logon()
    rig.peer("A", *RESET, seq=1)
    rig.now += 13 * SECOND
    rig.take()
    rig.peer("A", *RESET, seq=1)
    assert kinds(rig) == ["A"] and len(rig.app.named("reset")) == 2


def test_an_in_session_reset_may_have_any_number():
    rig = Rig().logon()
    rig.peer("A", *RESET, seq=2)
    assert kinds(rig) == ["A"] and rig.closed is None and rig.expected == 3


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("first", [0, 2, 57])
def test_the_number_of_the_logon_reply_is_taken(first, reset):
    rig = Rig().logon(seq=first, reset=reset)
    assert rig.take() == [] and rig.app.calls == [("ready",)]
    assert not rig.events("gap_open") and rig.data(seq=first + 1) == 1


def test_more_fields_in_our_logons():
    rig = Rig(logon_fields={5051: "2"}).connect()
    (logon,) = rig.take()
    assert logon[5051] == "2" and logon[141] == "Y"
    rig.peer("A", *RESET, seq=1)
    rig.peer("A", *RESET, seq=1)
    assert rig.take()[-1][5051] == "2", "also in an answer"


@pytest.mark.parametrize("tag", [8, 9, 10, 34, 35, 49, 52, 56, 95, 96, 98, 108, 141, 553, 554, 789, 5025, 0, -1])
def test_fields_of_the_session_cannot_be_configured(tag):
    with pytest.raises(UsageError, match=str(tag)):
        SessionConfig(SENDER, TARGET, logon_fields={tag: "1"})


@pytest.mark.parametrize("value", ["", "a\x01b", "ä"])
def test_values_that_cannot_be_sent_are_refused(value):
    with pytest.raises(UsageError, match="5051"):
        SessionConfig(SENDER, TARGET, logon_fields={5051: value})


IDENTITY = {
    "IP address not whitelisted": "whitelist",
    "Your IP is not allowed": "whitelist",
    "CompID not found": "comp_id",
    "Unknown SenderCompID": "comp_id",
    "Invalid TargetCompID": "comp_id",
    "account suspended": "suspended",
    "Session disabled": "suspended",
    "You are blocked": "suspended",
    "CompID banned for 10 minutes": "suspended",
    "Rate limit exceeded": "limit",
    "Too many logon attempts": "limit",
    "Authentication failed": "credentials",
    "Invalid signature": "credentials",
    "EAPI:Invalid key": "credentials",
    "Permission denied": "credentials",
}
PASSING = ["Service not available", "maintenance", "end of day", "MsgSeqNum too low, expecting 5", "", "Logon refused"]


@pytest.mark.parametrize("text", IDENTITY)
def test_what_no_quick_retry_can_cure(text):
    assert refusal_of(text).topic == IDENTITY[text] and explain(text)


@pytest.mark.parametrize("text", PASSING)
def test_passing_states_are_no_matter_of_identity(text):
    assert refusal_of(text) is None and explain(text) == ""


@pytest.mark.parametrize("now", [NOON, TEN_PM + SECOND])
def test_a_refused_identity_waits_long_also_in_the_rollover_window(now):
    rig = Rig(now=now).connect()
    rig.peer("5", (58, "IP address not whitelisted"))
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "long"


@pytest.mark.parametrize("now", [NOON, TEN_PM + SECOND])
def test_a_logout_about_identity_while_logged_on_waits_long(now):
    for closes in (True, False):
        rig = Rig(now=now).logon()
        rig.peer("5", (58, "Rate limit exceeded"))
        if not closes:
            rig.wait(2)
            assert rig.closed.kind == "logout_received"
        rig.session.disconnected(rig.now, "fin")
        assert rig.session.retry == "long"


@pytest.mark.parametrize("text", ["MsgSeqNum too low, expecting 12 but received 3", "Bad sequence number"])
def test_a_continued_numbering_that_is_refused_is_given_up_at_once(text):
    rig = Rig(reset_on_logon=False).connect()
    assert rig.take()[0][141] == "N"
    rig.peer("5", (58, text))
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "now"
    rig.connect()
    assert rig.take()[0][141] == "Y"
    rig.peer("5", (58, text))
    rig.session.disconnected(rig.now, "fin")
    assert rig.session.retry == "backoff", "at once only when the next attempt differs"


def test_a_number_too_low_in_the_reply_is_retried_at_once():
    rig = Rig(reset_on_logon=False)
    rig.session.sequence.expected = 57
    rig.connect().take()
    rig.peer("A", (98, 0), (108, 60), seq=1)
    rig.session.disconnected(rig.now, "closed")
    assert rig.session.retry == "now"


def test_request_ids_of_a_restart_are_above_all_before():
    sent_per_second = 50_000
    for seconds in (1, 10, 3600):
        assert first_request_id(NOON) + seconds * sent_per_second < first_request_id(NOON + seconds * SECOND)
    assert first_request_id(0) == 1 and len(str(first_request_id(NOON))) == 16
