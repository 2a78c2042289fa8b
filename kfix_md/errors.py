"""Exceptions of this package, by whose fault it is: the user's, the venue's, the data's or the machine's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfix_md._entry import Cause, State


class KfixError(Exception):
    """Base class of every error that this package raises on purpose."""


class UsageError(KfixError):
    """A wrong argument or a mistake in the configuration; the message names the remedy."""


class ProtocolError(KfixError):
    """The venue sent something that FIX 4.4 or Kraken's dialect does not allow."""


class FeedError(KfixError):
    """A shared memory feed cannot be used: no such feed, dead, unknown layout, no permission."""


class FeedDead(FeedError):
    """The process that wrote this segment has ended or stopped."""


class NotLive(KfixError):
    """The book cannot be trusted; `symbol`, `state` and `cause` hold the reason."""

    def __init__(self, symbol: str, state: State, cause: Cause | None = None) -> None:
        self.symbol, self.state, self.cause = symbol, state, cause
        why = f" ({cause.name})" if cause else ""
        super().__init__(f"{symbol} is {state.name}{why}")


class NoSuchSymbol(KfixError, KeyError):
    """No book of that symbol; the message names similar ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CaptureError(KfixError):
    """A journal or Parquet file is damaged or cannot be written; the message names the sound part."""
