"""Matches rejects to the requests they answer, by request id and MsgSeqNum, and reads their reasons."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from kfix_md.feed.pacing import Subscription
from kfix_md.session import fix

Fields = Sequence[tuple[int, bytes]]
REMEMBERED = 4096  # MsgSeqNums remembered in addition to one for each open subscription


@dataclass(frozen=True, slots=True)
class Reject:
    """A reject: the request it is about (None: none of ours) and its reason."""

    what: Subscription | str | None
    why: str
    duplicate: bool = False  # 281=1: only the id was wrong


class Requests:
    """Requests of one connection by id and by MsgSeqNum; no id is used twice."""

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
        """The subscription is open under `sub.md_req_id`."""
        self._by_id[sub.md_req_id] = sub

    def closed(self, sub: Subscription) -> None:
        """`sub.md_req_id` is no longer open."""
        self._by_id.pop(sub.md_req_id, None)

    def sent(self, seq: int, what: Subscription | str) -> None:
        """A request went out under this MsgSeqNum."""
        self._by_seq[seq] = what
        while len(self._by_seq) > REMEMBERED + len(self._by_id):
            self._by_seq.popitem(last=False)

    def of_id(self, request_id: str) -> Subscription | None:
        """The subscription open under a 262."""
        return self._by_id.get(request_id)

    def reject(self, msg_type: str, fields: Fields) -> Reject:
        """Read a 35=Y (by 262), or a 35=3 or 35=j (by 45 RefSeqNum, else by the 262 in 379)."""
        found = dict(fields)
        free_text = text_of(found.get(58))
        if msg_type == "Y":
            code = text_of(found.get(281))
            reason = fix.MD_REJECT_REASONS.get(code, f"281={code}")
            what = self.of_id(text_of(found.get(262)))
            return Reject(what, ", ".join(filter(None, [reason, free_text])), code == "1")
        seq = found.get(45, b"")
        known = self._by_seq.get(int(seq)) if seq.isdigit() and len(seq) < 19 else None
        codes = [f"{tag}={text_of(found[tag])}" for tag in (371, 372, 373, 379, 380) if tag in found]
        return Reject(known or self.of_id(text_of(found.get(379))), ", ".join(filter(None, [*codes, free_text])))


def text_of(value: bytes | None) -> str:
    """A value as text, at most 200 characters; bytes that are not ASCII become U+FFFD."""
    return value[:200].decode("ascii", "replace") if value else ""
