"""Exceptions of this package, by whose fault it is: the user's, the venue's, the data's or the machine's."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfix_md._entry import Cause, State


class KfixError(Exception):
    """Base class of every error that this package raises on purpose."""


class UsageError(KfixError):
    """A wrong argument or a mistake in the configuration; the message names the remedy."""


class Mistakes(UsageError):
    """Every mistake in a configuration file.

    Attributes
    ----------
    lines : list of str
        One for each, with the file, the key and the remedy.
    """

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


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


class Unreadable(CaptureError, OSError):
    """The machine does not give the bytes of a journal now; whether they are sound is not known, and may be later.

    Attributes
    ----------
    errno : int
        The machine's reason; EIO where it gave none.
    """

    def __init__(self, text: str, number: int | None = None) -> None:
        super().__init__(text)
        self.errno = number or errno.EIO


#: no space, a failing disk, no descriptors or memory, a port that is taken
PASSING = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
        *(errno.ENOBUFS, errno.EADDRINUSE, errno.EADDRNOTAVAIL),
    }
)
#: a directory that is away: a mistake of the configuration, unless it was there before
AWAY = frozenset({errno.ENOENT, errno.EROFS, errno.ENODEV, errno.ENXIO})


_ADVICE = {
    errno.EMFILE: "this process has no file descriptor left: raise `ulimit -n` (LimitNOFILE= of its unit)",
    errno.ENFILE: "this machine has no file descriptor left: raise fs.file-max",
    errno.ENOMEM: "no memory or address space: raise `ulimit -v` or the memory limit of the unit or container",
}


def reason_of(error: OSError, *, lower: bool = False) -> str:
    """Why a call of the system failed, and what to do about limits of the process; `lower`: inside of a sentence."""
    why, advice = error.strerror or str(error), _ADVICE.get(error.errno or 0)
    return f"{why.lower() if lower else why}{f' ({advice})' if advice else ''}"


def may_pass(error: BaseException, ran_before: bool = False) -> bool:
    """Whether time may cure an error, by the OSError that it is or comes from. Status 2 is for the others."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in PASSING or (ran_before and cause.errno in AWAY)
    return isinstance(error, MemoryError)
