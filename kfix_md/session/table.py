"""The table of the session: what each message of the peer does in each state, one function per message type."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from kfix_md.journal import events
from kfix_md.session import fix
from kfix_md.session.message import NO_SEQ, Message
from kfix_md.session.refusals import refusal_of
from kfix_md.session.types import Retry, SessionState

if TYPE_CHECKING:
    from kfix_md.session.machine import Session

#: bytes of a 112 that is answered
_MAX_TEST_ID = 4096
#: a refused Logon whose 58 is about MsgSeqNum
_ABOUT_NUMBERS = re.compile(r"too (low|high)|seq|expect", re.IGNORECASE)
Action = Callable[["Session", Message], int]


# ---------------------------------------------------------------- faults of the header, before any action


def header_fault(session: "Session", m: Message) -> bool:
    """Judge 8, 34, 49, 56, 52, 122; True when the message ends here (rejected, logged out or closed)."""
    if m.begin != fix.BEGIN_STRING:
        session.link.fatal("protocol", "Incorrect BeginString", m.recv_ns)
    elif m.seq == NO_SEQ:
        session.link.fatal("protocol", "Required tag missing or invalid: MsgSeqNum (34)", m.recv_ns)
    elif (m.sender, m.target) != session.inbound_ids:
        session.rejects.send(m.seq, m.type, fix.COMP_ID_PROBLEM, None, "CompID problem", m.recv_ns)
        session.link.fatal("protocol", "Incorrect SenderCompID (49) or TargetCompID (56)", m.recv_ns)
    elif m.sending_ns is None:
        _bad_sending_time(session, m)
    elif session.clock.is_off(m, m.sending_ns):
        text = "SendingTime accuracy problem: too far from the receiver's clock"
        session.rejects.send(m.seq, m.type, fix.SENDING_TIME_PROBLEM, None, text, m.recv_ns)
        session.link.fatal("sending_time", text, m.recv_ns)
    elif m.possdup:
        return _possdup_fault(session, m, m.sending_ns)
    else:
        return False
    return True


def _bad_sending_time(session: "Session", m: Message) -> None:
    if session.state == SessionState.LOGON_SENT:
        session.link.fatal("protocol", "Logon without a SendingTime (52)", m.recv_ns)
        return
    reason = fix.TAG_MISSING if m.sending_text is None else fix.INCORRECT_FORMAT
    session.rejects.send(m.seq, m.type, reason, fix.SENDING_TIME, "SendingTime (52)", m.recv_ns)
    if m.seq == session.sequence.expected:
        session.gaps.advance(m.seq + 1)
        if m.is_market_data:
            session.gaps.lose(m.seq, m.seq, m.recv_ns)
        session.gaps.drain(m.recv_ns, replayed=m.possdup)


def _possdup_fault(session: "Session", m: Message, sending_ns: int) -> bool:
    if m.orig_ns is None:
        if m.type == "4" and m.orig_text is None:  # SequenceReset may come without 122
            return False
        tag = fix.ORIG_SENDING_TIME
        session.rejects.send(m.seq, m.type, fix.TAG_MISSING, tag, "OrigSendingTime (122)", m.recv_ns)
        return True
    if m.orig_ns > sending_ns:
        text = "OrigSendingTime (122) is after SendingTime (52)"
        session.rejects.send(m.seq, m.type, fix.SENDING_TIME_PROBLEM, None, text, m.recv_ns)
        session.link.fatal("protocol", text, m.recv_ns)
        return True
    return False


# ---------------------------------------------------------------- before the Logon reply


def logon_reply(session: "Session", m: Message) -> int:
    """35=A while we wait for it."""
    sequence = session.sequence
    reset = m.get(fix.RESET_SEQ_NUM) == b"Y"
    if session.logon.requested_reset or reset:
        sequence.expected = m.seq  # whatever number it begins with: 1, 0 or any other
    if reset and not session.logon.requested_reset:
        # our Logon counts as number 1; a venue that counts otherwise requests it and gets a gap fill
        sequence.outgoing = 2
    if m.seq < sequence.expected:
        return session.too_low(m, "now")
    next_expected = m.number(fix.NEXT_EXPECTED)
    if next_expected is not None and next_expected > sequence.outgoing:
        return session.link.fatal("next_expected", "NextExpectedMsgSeqNum (789) too high", m.recv_ns)
    ahead = m.seq > sequence.expected
    if not ahead:
        session.gaps.advance(m.seq + 1)
    session.logged_on(m)
    if next_expected is not None and next_expected < sequence.outgoing:
        session.gap_fill(next_expected, sequence.outgoing - 1, m.recv_ns)
    if ahead:
        session.gaps.keep(m.seq, None, m.recv_ns)
        session.gaps.request_missing(m.recv_ns, silent=next_expected is not None and session.config.next_expected)
    session.announce_ready()
    return 0


def logout_instead(session: "Session", m: Message) -> int:
    """35=5 in answer to our Logon: refused. A continued numbering (141=N) is given up for the next attempt."""
    text = m.text() or "no reason given"
    retry: Retry = "backoff"
    if refusal_of(text, session.rollover.armed(m.recv_ns)):
        retry = "long"
    elif not session.logon.requested_reset:
        session.link.force_reset = True
        retry = "now" if _ABOUT_NUMBERS.search(text) else "backoff"
    session.link.event(m.recv_ns, events.Logout("peer", text))
    return session.link.close("refused", f"Logon refused: {text}", m.recv_ns, retry)


def not_logged_on(session: "Session", m: Message) -> int:
    """Anything else before the Logon reply."""
    return session.link.close("protocol", f"35={m.type} came before the Logon reply", m.recv_ns)


# ---------------------------------------------------------------- logged on: messages outside the order


def logon_again(session: "Session", m: Message) -> int:
    """35=A in session: with 141=Y a new numbering of both directions, unless it confirms our own."""
    if m.possdup and m.seq < session.sequence.expected:
        return session.link.ignore("duplicate")
    if session.logon.confirms(m):
        return _logon_confirmed(session, m)
    if m.get(fix.RESET_SEQ_NUM) != b"Y":
        return session.link.fatal("protocol", "Logon in session without ResetSeqNumFlag (141=Y)", m.recv_ns)
    if session.logon.resets_without_end(m.recv_ns):
        return session.link.fatal("protocol", "the venue resets the numbering (141=Y) without end", m.recv_ns)
    session.restart_numbering(m.seq + 1, "logon", m.recv_ns, both=True)
    session.logon.answer_reset(session.timers.heartbeat_s, m.recv_ns)
    session.announce_reset(m.recv_ns)
    return 0


def _logon_confirmed(session: "Session", m: Message) -> int:
    """The answer to our in-session Logon, with the number 1 once more or the next one."""
    session.link.count("logon_confirmed")
    if session.gaps:  # what is missing was sent before this numbering
        session.restart_numbering(m.seq + 1, "logon", m.recv_ns, both=False)
        session.announce_reset(m.recv_ns)
    else:
        session.gaps.advance(m.seq + 1)
    return 0


def logout_received(session: "Session", m: Message) -> int:
    """35=5 while on: answer with our next number, even when its own number is too high."""
    if m.possdup and m.seq < session.sequence.expected:
        return session.link.ignore("duplicate")
    if m.seq == session.sequence.expected:
        session.gaps.advance(m.seq + 1)
    text = m.text()
    session.link.event(m.recv_ns, events.Logout("peer", text))
    session.link.transmit("5", fix.logout(), m.recv_ns)
    session.peer_left(text, m.recv_ns)
    return 0


def logout_confirmed(session: "Session", m: Message) -> int:
    """35=5 in reply to ours: no second one."""
    session.link.event(m.recv_ns, events.Logout("us", m.text()))
    return session.link.close("logout", m.text() or "logged out", m.recv_ns, "never")


def sequence_reset(session: "Session", m: Message) -> int:
    """35=4: gap fill or reset."""
    new_seq = m.number(fix.NEW_SEQ_NO)
    if new_seq is None:
        return session.reject_unused(
            m, fix.TAG_MISSING if m.get(fix.NEW_SEQ_NO) is None else fix.INCORRECT_VALUE, fix.NEW_SEQ_NO
        )
    if m.get(fix.GAP_FILL) == b"Y":
        return _gap_fill(session, m, new_seq)
    expected = session.sequence.expected
    if new_seq < expected:
        if new_seq <= 1 and session.rollover.armed(m.recv_ns):
            session.restart_numbering(max(new_seq, 1), "sequence_reset", m.recv_ns, both=False)
            session.announce_reset(m.recv_ns)
            return 0
        return session.reject_unused(m, fix.INCORRECT_VALUE, fix.NEW_SEQ_NO)
    if new_seq == expected:
        session.link.count("reset_to_expected")
        return 0
    session.gaps.jump(expected, new_seq, m.recv_ns)
    session.gaps.drain(m.recv_ns)
    return 0


def logout_sent(action: Action | None = None) -> Action:
    """Wrap an action for messages that come after our Logout: numbers go on, market data is ignored."""

    def run(session: "Session", m: Message) -> int:
        if m.seq == session.sequence.expected:
            session.gaps.advance(m.seq + 1)
        if action is not None:
            return action(session, m)
        session.link.count("after_logout")
        return fix.IGNORE if m.is_market_data else 0

    return run


def gap_fill_after_logout(session: "Session", m: Message) -> int:
    """35=4 after our Logout: only its number matters, for a session that continues later."""
    new_seq = m.number(fix.NEW_SEQ_NO) or 0
    in_turn = m.get(fix.GAP_FILL) != b"Y" or m.seq <= session.sequence.expected
    if in_turn and new_seq > session.sequence.expected:
        session.gaps.advance(new_seq)
    return 0


def _gap_fill(session: "Session", m: Message, new_seq: int) -> int:
    verdict = m.seq - session.sequence.expected
    if verdict < 0:
        return session.link.ignore("duplicate") if m.possdup else session.too_low(m)
    if new_seq <= m.seq:
        return session.reject_unused(m, fix.INCORRECT_VALUE, fix.NEW_SEQ_NO)
    if verdict > 0:
        return session.gaps.keep_and_request(m, covers=new_seq - 1)
    session.gaps.fill(m, new_seq)
    session.gaps.drain(m.recv_ns)
    return 0


# ---------------------------------------------------------------- logged on: messages in their order


def heartbeat(session: "Session", m: Message) -> int:
    """35=0; an unknown 112 means nothing."""
    return 0


def test_request(session: "Session", m: Message) -> int:
    """35=1: a Heartbeat with the same 112, at once. One longer than an id can be is rejected, never cut."""
    test_id = m.get(fix.TEST_REQ_ID)
    if not test_id:
        session.rejects.send(m.seq, m.type, fix.TAG_MISSING, fix.TEST_REQ_ID, "TestReqID (112)", m.recv_ns)
    elif len(test_id) > _MAX_TEST_ID:
        text = f"TestReqID (112) has more than {_MAX_TEST_ID} bytes"
        session.rejects.send(m.seq, m.type, fix.INCORRECT_VALUE, fix.TEST_REQ_ID, text, m.recv_ns)
    else:
        session.link.transmit("0", fix.heartbeat(test_id), m.recv_ns)
    return 0


def resend_request(session: "Session", m: Message) -> int:
    """35=2: everything we ever send is administrative or stale by now, so one gap fill answers it all."""
    first, last = m.number(fix.BEGIN_SEQ_NO), m.number(fix.END_SEQ_NO)
    if first is None or last is None:
        tag = fix.BEGIN_SEQ_NO if first is None else fix.END_SEQ_NO
        session.rejects.send(m.seq, m.type, fix.TAG_MISSING, tag, f"tag {tag}", m.recv_ns)
        return 0
    sent = session.sequence.outgoing - 1
    last = sent if last == 0 else min(last, sent)
    first = max(first, 1)
    if first > last:
        session.link.count("resend_of_nothing")
        return 0
    session.gap_fill(first, last, m.recv_ns)
    return 0


def application(session: "Session", m: Message) -> int:
    """35=y, Y, j, 3, h: to the application, in order (a Reject is never rejected)."""
    if m.type == "3":
        rejected = events.Rejected(
            m.number(fix.REF_SEQ_NUM),
            ref_tag=m.text(fix.REF_TAG),
            ref_type=m.text(fix.REF_MSG_TYPE),
            reason=m.text(fix.REJECT_REASON),
            text=m.text(),
        )
        session.link.event(m.recv_ns, rejected)
    session.app.on_message(m.type, m.fields, m.recv_ns)
    return 0


def market_data(session: "Session", m: Message) -> int:
    """35=W, X in their turn: the handler applies them."""
    return session.gaps.pass_on(m)


def unhandled(session: "Session", m: Message) -> int:
    """A MsgType that we do not use, or none at all."""
    if not m.valid_type:
        session.rejects.send(m.seq, "", fix.INVALID_MSG_TYPE, None, "Invalid MsgType", m.recv_ns)
        session.gaps.lose(m.seq, m.seq, m.recv_ns)  # it may have been a W or X
    session.link.count("unhandled")
    return 0


def in_order(action: Action) -> Action:
    """Wrap an action so that it runs when its MsgSeqNum is expected, once."""

    def run(session: "Session", m: Message) -> int:
        verdict = m.seq - session.sequence.expected
        if verdict > 0:
            return session.gaps.keep_and_request(m)
        if verdict < 0:
            return session.link.ignore("duplicate") if m.possdup else session.too_low(m)
        session.gaps.advance(m.seq + 1)
        answer = run_due(session, m, action)
        session.gaps.drain(m.recv_ns, replayed=m.possdup)
        return answer

    return run


def run_due(session: "Session", m: Message, action: Action) -> int:
    """Run the action of a message whose turn has come; market data under another 35 is a loss."""
    if m.is_market_data or not m.looks_like_market_data:
        return action(session, m)
    session.link.count("disguised")
    session.gaps.lose(m.seq, m.seq, m.recv_ns)
    return 0


def at_once(action: Action) -> Action:
    """Wrap an action that is due also when its number is too high: done first, then our gap is requested."""
    ordered = in_order(action)

    def run(session: "Session", m: Message) -> int:
        if m.seq <= session.sequence.expected:
            return ordered(session, m)
        if m.seq not in session.gaps.queue.kept:
            action(session, m)
            session.gaps.keep(m.seq, None, m.recv_ns)
        session.gaps.request_missing(m.recv_ns, live=not m.possdup)
        return 0

    return run


#: actions by MsgType once a message's turn has come
ORDERED: dict[str, Action] = {
    "0": heartbeat,
    "1": test_request,
    "2": resend_request,
    "3": application,
    "h": application,
    "j": application,
    "y": application,
    "Y": application,
    "W": market_data,
    "X": market_data,
}

_LOGGED_ON: dict[str, Action] = {
    **{kind: in_order(action) for kind, action in ORDERED.items()},
    "1": at_once(test_request),
    "2": at_once(resend_request),
    "4": sequence_reset,
    "5": logout_received,
    "A": logon_again,
}

#: (state, 35) to action; see `action_for`
TABLE: dict[tuple[SessionState, str], Action] = {
    (SessionState.LOGON_SENT, "A"): logon_reply,
    (SessionState.LOGON_SENT, "5"): logout_instead,
    **{(SessionState.ON, kind): action for kind, action in _LOGGED_ON.items()},
    (SessionState.LOGOUT_SENT, "1"): logout_sent(test_request),
    (SessionState.LOGOUT_SENT, "2"): logout_sent(resend_request),
    (SessionState.LOGOUT_SENT, "4"): gap_fill_after_logout,
    (SessionState.LOGOUT_SENT, "5"): logout_confirmed,
}


_OTHERWISE: dict[SessionState, Action] = {
    SessionState.LOGON_SENT: not_logged_on,
    SessionState.ON: in_order(unhandled),
    SessionState.LOGOUT_SENT: logout_sent(),
}


def action_for(state: SessionState, msg_type: str) -> Action:
    """The action of a message type in a state (LOGON_SENT, ON or LOGOUT_SENT)."""
    return TABLE.get((state, msg_type)) or _OTHERWISE[state]


def when_due(m: Message) -> Action:
    """The action of a kept message once its turn has come (the caller keeps the numbers)."""
    return ORDERED.get(m.type, unhandled)
