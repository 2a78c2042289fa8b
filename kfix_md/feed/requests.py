"""Which of our requests an answer or a reject belongs to: ids given out, MsgSeqNums used, reasons in words."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from kfix_md.feed.pacing import Subscription
from kfix_md.session import fix

Fields = Sequence[tuple[int, bytes]]
REMEMBERED = 4096  # MsgSeqNums beside those of live subscriptions


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reject that was read: what it is about (None: nothing we know), and why."""

    what: Subscription | str | None
    why: str
    duplicate: bool = False  # 281=1: only the id was wrong


class Requests:
    """Requests of one connection by 262 and by MsgSeqNum; ids are never given out twice."""

    def __init__(self, first_id: int) -> None:
        self._ids = itertools.count(first_id)
        self._by_id: dict[str, Subscription] = {}
        self._by_seq: OrderedDict[int, Subscription | str] = OrderedDict()

    def new_id(self) -> str:
        """A request id never used before."""
        return str(next(self._ids))

    def clear(self) -> None:
        """The connection is gone."""
        self._by_id.clear()
        self._by_seq.clear()

    def opened(self, sub: Subscription) -> None:
        """`sub.md_req_id` is asked for from now on."""
        self._by_id[sub.md_req_id] = sub

    def closed(self, sub: Subscription) -> None:
        """`sub.md_req_id` means nothing any more."""
        self._by_id.pop(sub.md_req_id, None)

    def sent(self, seq: int, what: Subscription | str) -> None:
        """A request went out under this MsgSeqNum."""
        self._by_seq[seq] = what
        while len(self._by_seq) > REMEMBERED + len(self._by_id):
            self._by_seq.popitem(last=False)

    def of_id(self, request_id: str) -> Subscription | None:
        """The subscription open under a 262."""
        return self._by_id.get(request_id)

    def refusal(self, msg_type: str, fields: Fields) -> Refusal:
        """Read a 35=Y (by 262), or a 35=3 or 35=j (by 45 RefSeqNum, else by the 262 in 379)."""
        found = dict(fields)
        free_text = text_of(found.get(58))
        if msg_type == "Y":
            code = text_of(found.get(281))
            reason = fix.MD_REJECT_REASONS.get(code, f"281={code}")
            what = self.of_id(text_of(found.get(262)))
            return Refusal(what, ", ".join(filter(None, [reason, free_text])), code == "1")
        seq = found.get(45, b"")
        known = self._by_seq.get(int(seq)) if seq.isdigit() and len(seq) < 19 else None
        codes = [f"{tag}={text_of(found[tag])}" for tag in (371, 372, 373, 379, 380) if tag in found]
        return Refusal(known or self.of_id(text_of(found.get(379))), ", ".join(filter(None, [*codes, free_text])))


def text_of(value: bytes | None) -> str:
    """A value as text, whatever its bytes are; at most 200 characters."""
    return value[:200].decode("ascii", "replace") if value else ""
