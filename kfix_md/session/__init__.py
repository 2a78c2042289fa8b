"""The FIX 4.4 session of the initiator: what the other modules use of it."""

from kfix_md.session.machine import Session
from kfix_md.session.rollover import Rollover, trading_date
from kfix_md.session.words import Application, Close, LocalError, SessionConfig, SessionState

__all__ = [
    "Application", "Close", "LocalError", "Rollover", "Session", "SessionConfig", "SessionState",
    "trading_date",
]
