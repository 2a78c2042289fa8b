"""The FIX 4.4 session of the initiator: what the other modules use of it.

Each name loads its module when it is first used: a Handler without a session does without them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfix_md.session.machine import Session
    from kfix_md.session.rollover import RolloverWindow
    from kfix_md.session.types import Application, Close, LocalError, SessionConfig, SessionState

_LAZY = {
    "Application": "types",
    "Close": "types",
    "LocalError": "types",
    "RolloverWindow": "rollover",
    "Session": "machine",
    "SessionConfig": "types",
    "SessionState": "types",
}

__all__ = [
    "Application",
    "Close",
    "LocalError",
    "RolloverWindow",
    "Session",
    "SessionConfig",
    "SessionState",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
