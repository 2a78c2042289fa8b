"""The trading session status of the spot market (35=h): its text, and whether the whole market is in maintenance."""

from __future__ import annotations

from kfix_md.feed.requests import Fields, text_of

#: 340 TradSesStatus as text
TEXTS = {b"0": "unknown", b"1": "maintenance", b"2": "online", b"101": "cancel only", b"102": "post only"}


class MarketStatus:
    """Status of the market as last reported; `text` is "" before the first report."""

    def __init__(self) -> None:
        self.text = ""

    @property
    def maintenance(self) -> bool:
        """True while the whole market is in maintenance."""
        return self.text == TEXTS[b"1"]

    def on_message(self, fields: Fields) -> str:
        """Take in one 35=h; returns the reason when it is a reject (567), else ""."""
        found = dict(fields)
        if 567 in found:
            return f"567={text_of(found[567])}"
        code = found.get(340, b"0")
        self.text = TEXTS.get(code, f"340={text_of(code)}")
        return ""
