"""The plainest reading of a Kraken FIX stream, written only to be right: the core is compared with it."""

from tests.oracle.book import Book, L2Book, L3Book
from tests.oracle.codec import BOOK_SIDES, Entry, FixError, Message, fields, frames, message, scan
from tests.oracle.follow import Follower

__all__ = [
    "BOOK_SIDES",
    "Book",
    "Entry",
    "FixError",
    "Follower",
    "L2Book",
    "L3Book",
    "Message",
    "fields",
    "frames",
    "message",
    "scan",
]
