"""Converts symbols between the bytes of tag 55 and the text that is shown, each exactly the other's inverse."""

from __future__ import annotations

import re

_PLAIN = re.compile(rb"[ -\[\]-~]*")  # printable ASCII but the backslash
#: also what ends a line or turns the direction of writing, so that text is read as another one
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def symbol_text(symbol: bytes) -> str:
    r"""Return the text of a symbol's bytes.

    UTF-8 is shown as it is. Every byte that is not UTF-8, control characters (those of the direction of writing, too)
    and the backslash become ``\xNN``, so that the text is valid Unicode on one line whatever the bytes are, and no two
    symbols have the same text.

    >>> symbol_text(b"BTC/USD"), symbol_text(b"\xff/USD")
    ('BTC/USD', '\\xff/USD')
    """
    if _PLAIN.fullmatch(symbol):
        return symbol.decode()
    return one_line(symbol.replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace"))


def one_line(text: str) -> str:
    r"""Return a text of the venue for people: control characters become ``\xNN``, so that it is one line, whatever it
    is shown on, and cannot change a terminal.

    >>> one_line("no\x1b[2Jsuch\nsymbol")
    'no\\x1b[2Jsuch\\x0asymbol'
    """
    return _CONTROL.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"\\x{byte:02x}" for byte in found[0].encode())


def symbol_bytes(text: str) -> bytes:
    """Return the bytes of a symbol given as `symbol_text` shows it: what tag 55 carries."""
    if "\\" not in text:
        return text.encode("utf-8", "surrogatepass")
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text.encode("utf-8", "surrogatepass"))
