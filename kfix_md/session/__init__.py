"""The FIX 4.4 session of the initiator: what the other modules use of it."""

from kfix_md.session.machine import Session
from kfix_md.session.rollover import Rollover
from kfix_md.session.types import Application, Close, LocalError, SessionConfig, SessionState

__all__ = [
    "Application",
    "Close",
    "LocalError",
    "Rollover",
    "Session",
    "SessionConfig",
    "SessionState",
]
