"""Log lines of session events, for the operator."""

from __future__ import annotations

import logging
import time

from kfix_md.feed.listing import Log
from kfix_md.feed.pacing import SECOND
from kfix_md.journal import events
from kfix_md.session.refusals import explain


def log_event(log: Log, event: events.JournalEvent, leaving: bool = False) -> None:
    """Log one session event; at most at level INFO while we are `leaving`."""
    match event:
        case events.Disconnected() if leaving:
            log.info("disconnected: %s", event.reason)
        case events.GapOpened() if leaving:
            pass
        case events.Disconnected():
            what = "planned, rollover" if event.planned else event.cause
            level = logging.INFO if event.planned else logging.WARNING
            log.log(level, "disconnected: %s (%s)", event.reason, what)
        case events.GapOpened():
            last = "?" if event.last is None else event.last
            level = logging.INFO if event.cause in ("rollover", "restart") else logging.WARNING
            log.log(level, "gap: MsgSeqNum %s to %s missing (%s)", event.first, last, event.cause)
        case events.LoggedOn():
            log.info("logged on (session %s)", event.session_id)
        case events.Rollover():
            log.info("rollover %s", _rollover_text(event))
        case events.Rejected():
            log.warning("the venue rejected our message %s: %s", event.ref_seq, event.text or event.reason)
        case events.ClockWarning():
            log.warning(_clock_text(event.lag_ms or 0, event.late), extra={"event": "clock_off"})
        case events.Logout(by="peer"):
            _log_logout(log, event.text or "")
        case events.NumberingReset():
            log.info("the venue restarted its message numbers (%s)", event.form)


def _log_logout(log: Log, text: str) -> None:
    advice = explain(text)
    if advice:
        log.warning("the venue logged us out: %s (%s)", text, advice)
    else:
        log.info("the venue logged us out: %s", text or "no text")


def _clock_text(lag_ms: int, late: bool) -> str:
    if late:
        return f"a message arrived {lag_ms} ms after its SendingTime, others in time: the venue or the network is late"
    if lag_ms < 0:
        return f"this machine's clock is {-lag_ms} ms behind the venue's SendingTime: check its synchronisation"
    return (
        f"messages arrive {lag_ms} ms after their SendingTime: this machine's clock is ahead (check its "
        "synchronisation), or the venue or the network is late"
    )


def _rollover_text(event: events.Rollover) -> str:
    if event.phase == "armed":
        return f"expected at {time.strftime('%H:%M:%S', time.gmtime((event.at or 0) // SECOND))} UTC"
    if event.phase == "began":
        return f"began ({event.form}, {event.seconds_after or 0.0:+.1f} s from the expected time)"
    if event.phase == "date":
        return f"passed: session date {event.date}"
    what = "logged on" if event.phase == "logged_on" else "over, every book verified"
    return f"{what} after {event.seconds or 0.0:.2f} s"
