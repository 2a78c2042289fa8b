"""kfix-md: Kraken's FIX 4.4 market data as verified books in shared memory.

What is imported here is light; each name loads its module when it is first used.
"""

from typing import TYPE_CHECKING, Any

from kfix_md.errors import FeedDead, FeedError, KfixError, NoSuchSymbol, NotLive, ProtocolError, UsageError

if TYPE_CHECKING:
    from kfix_md._entry import Cause, State
    from kfix_md._handler import Handler
    from kfix_md.shm.attach import Book, Feed, feeds
    from kfix_md.shm.attaching import attach

__version__ = "0.1.0"

_LAZY = {
    "Book": "kfix_md.shm.attach",
    "Feed": "kfix_md.shm.attach",
    "Handler": "kfix_md._handler",
    "State": "kfix_md._entry",
    "Cause": "kfix_md._entry",
    "attach": "kfix_md.shm.attaching",
    "feeds": "kfix_md.shm.attach",
}

__all__ = [
    "Book",
    "Cause",
    "Feed",
    "FeedDead",
    "FeedError",
    "Handler",
    "KfixError",
    "NoSuchSymbol",
    "NotLive",
    "ProtocolError",
    "State",
    "UsageError",
    "attach",
    "feeds",
    "get_include",
]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})  # what TAB offers


def get_include() -> str:
    """Directory of kfix_shm.h, for C and C++ programs that read the shared memory."""
    from pathlib import Path

    return str(Path(__file__).parent / "shm")
