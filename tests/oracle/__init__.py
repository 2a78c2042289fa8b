"""The plainest reading of a Kraken FIX stream, written only to be right: the core is compared with it."""

from .book import Book, L2Book, L3Book
from .codec import BOOK_SIDES, Entry, FixError, Message, fields, frames, message, scan
from .follow import Follower

__all__ = [
    "BOOK_SIDES", "Book", "Entry", "FixError", "Follower", "L2Book", "L3Book", "Message",
    "fields", "frames", "message", "scan",
]
