"""One inbound message: its header values, read in any order, and its body on demand."""

import re
from dataclasses import dataclass

from kfix_md.session import fix
from kfix_md.session.types import Fields

_HEADER = {8, 9, 34, 35, 43, 49, 52, 56, 97, 122}
_VALID_TYPE = re.compile(r"[A-Za-z0-9]{1,2}\Z")
_MARKET_DATA = {268, 279}  # NoMDEntries, MDUpdateAction
#: a snapshot has 100,000 fields and its header is in the first few
_HEADER_SPAN = 32
_MAX_SEQ_DIGITS = 18  # numbers are int64 in the hot loop
NO_SEQ = -1  # 34 is missing or is no number


def parse_seq(value: bytes | None) -> int | None:
    """A SeqNum (0 to 10^18 - 1), None when it is not one."""
    if value is None or not value.isdigit() or len(value) > _MAX_SEQ_DIGITS:
        return None
    return int(value)


@dataclass(slots=True)
class Message:
    """A checked frame (checksum and body length hold) with the header values the session judges."""

    frame: bytes
    fields: Fields
    recv_ns: int
    type: str
    seq: int  # NO_SEQ when there is none
    begin: bytes
    sender: bytes
    target: bytes
    sending_text: bytes | None
    sending_ns: int | None
    possdup: bool
    orig_text: bytes | None
    repeated: bool  # a header tag came twice (tolerated and counted)

    @classmethod
    def parse(cls, frame: bytes, fields: Fields, recv_ns: int) -> "Message":
        """Read the header; never raises, whatever the fields hold."""
        header: dict[int, bytes] = {}
        repeated = False
        for index, (tag, value) in enumerate(fields):
            if tag in _HEADER:
                repeated = repeated or tag in header
                header.setdefault(tag, value)
            elif index >= _HEADER_SPAN and {34, 49, 52, 56} <= header.keys():
                break
        sending = header.get(fix.SENDING_TIME)
        seq = parse_seq(header.get(fix.MSG_SEQ_NUM))
        return cls(
            frame,
            fields,
            recv_ns,
            type=header.get(35, b"").decode("latin-1"),
            seq=NO_SEQ if seq is None else seq,
            begin=header.get(8, b""),
            sender=header.get(fix.SENDER, b""),
            target=header.get(fix.TARGET, b""),
            sending_text=sending,
            sending_ns=fix.parse_time(sending),
            possdup=header.get(fix.POSS_DUP) == b"Y",
            orig_text=header.get(fix.ORIG_SENDING_TIME),
            repeated=repeated,
        )

    @property
    def is_market_data(self) -> bool:
        """W or X: applied by the handler, never by the session."""
        return self.type in ("W", "X")

    @property
    def looks_like_market_data(self) -> bool:
        """The body is of a W or X (it has 268 or 279) whatever 35 is."""
        return any(tag in _MARKET_DATA for tag, _ in self.fields[:_HEADER_SPAN])

    @property
    def weight(self) -> int:
        """About how many bytes keeping this message costs."""
        return len(self.frame) + 100 * len(self.fields) + 500

    def slim(self) -> "Message":
        """Without the fields of a W or X, which its frame repeats; for keeping."""
        if self.is_market_data:
            self.fields = []
        return self

    @property
    def valid_type(self) -> bool:
        """Whether 35 could be a MsgType at all."""
        return _VALID_TYPE.match(self.type) is not None

    @property
    def is_gap_fill(self) -> bool:
        """35=4 with 123=Y."""
        return self.type == "4" and self.get(fix.GAP_FILL) == b"Y"

    @property
    def orig_ns(self) -> int | None:
        """122 OrigSendingTime, None when absent or unreadable."""
        return fix.parse_time(self.orig_text)

    def get(self, wanted: int) -> bytes | None:
        """First value of a tag, None when absent."""
        return next((value for tag, value in self.fields if tag == wanted), None)

    def number(self, wanted: int) -> int | None:
        """First value of a tag as a SeqNum, None when absent or not one."""
        return parse_seq(self.get(wanted))

    def text(self, wanted: int = fix.TEXT) -> str:
        """First value of a tag as text ("" when absent), whatever its bytes are; at most 512 characters."""
        return (self.get(wanted) or b"").decode("utf-8", "replace")[:512]
