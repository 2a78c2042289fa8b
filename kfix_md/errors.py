"""Error classes by who is at fault: the user's words, the peer, the data, or the machine."""


class KfixError(Exception):
    """Root of every error this package raises on purpose."""


class UsageError(KfixError):
    """The caller's or the configuration's words are wrong; the message says what to do."""


class ProtocolError(KfixError):
    """The peer sent something FIX 4.4 or Kraken's dialect does not allow."""


class FeedError(KfixError):
    """A shared memory feed cannot be used: none of that name, dead, foreign layout, no permission."""


class FeedDead(FeedError):
    """The process that wrote this segment has ended or stopped."""


class NotLive(KfixError):
    """The book is not to be trusted; `state` and `cause` say why."""

    def __init__(self, symbol, state, cause=None):
        self.symbol, self.state, self.cause = symbol, state, cause
        why = f" ({cause.name})" if cause else ""
        super().__init__(f"{symbol} is {state.name}{why}")


class NoSuchSymbol(KfixError, KeyError):
    """No such symbol here; the message names near matches."""

    def __str__(self):
        return str(self.args[0]) if self.args else ""


class CaptureError(KfixError):
    """A journal or Parquet file is damaged or cannot be written; the message says where it is sound."""
