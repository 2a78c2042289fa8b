"""Log lines of session events, for the operator."""

from __future__ import annotations

import logging
import time
from typing import Any

from kfix_md.feed.listing import Log
from kfix_md.feed.pacing import SECOND
from kfix_md.session.refusals import explain


def log_event(log: Log, event: dict[str, Any], leaving: bool = False) -> None:
    """Log one session event; at most at level INFO while we are `leaving`."""
    kind = event["type"]
    if leaving and kind in ("disconnected", "gap_open"):
        if kind == "disconnected":
            log.info("disconnected: %s", event["reason"])
        return
    if kind == "logged_on":
        log.info("logged on (session %s)", event["session_id"])
    elif kind == "disconnected":
        what = "planned, rollover" if event["planned"] else event["cause"]
        level = logging.INFO if event["planned"] else logging.WARNING
        log.log(level, "disconnected: %s (%s)", event["reason"], what)
    elif kind == "gap_open":
        last = "?" if event["last"] is None else event["last"]
        level = logging.INFO if event["cause"] in ("rollover", "restart") else logging.WARNING
        log.log(level, "gap: MsgSeqNum %s to %s missing (%s)", event["first"], last, event["cause"])
    elif kind == "rollover":
        log.info("rollover %s", _rollover_text(event))
    elif kind == "rejected":
        why = event["text"] or event["reason"]
        log.warning("the venue rejected our message %s: %s", event["ref_seq"], why)
    elif kind == "clock_warning":
        log.warning("this machine's clock is %d ms ahead of SendingTime: check its synchronisation", event["lag_ms"])
    elif kind == "logout" and event["by"] == "peer":
        advice = explain(event["text"])
        if advice:
            log.warning("the venue logged us out: %s (%s)", event["text"], advice)
        else:
            log.info("the venue logged us out: %s", event["text"] or "no text")
    elif kind == "reset":
        log.info("the venue restarted its message numbers (%s)", event["form"])


def _rollover_text(event: dict[str, Any]) -> str:
    phase = event["phase"]
    if phase == "armed":
        return f"expected at {time.strftime('%H:%M:%S', time.gmtime(event['at'] // SECOND))} UTC"
    if phase == "began":
        return f"began ({event['form']}, {event['seconds_after']:+.1f} s from the expected time)"
    if phase == "date":
        return f"passed: session date {event['date']}"
    what = "logged on" if phase == "logged_on" else "over, every book verified"
    return f"{what} after {event['seconds']:.2f} s"
