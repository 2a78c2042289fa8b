"""The FIX 4.4 session of the initiator: what the other modules use of it."""

from kfix_md.session.machine import Session
from kfix_md.session.rollover import RolloverWindow
from kfix_md.session.types import Application, Close, LocalError, SessionConfig, SessionState

__all__ = [
    "Application",
    "Close",
    "LocalError",
    "RolloverWindow",
    "Session",
    "SessionConfig",
    "SessionState",
]
