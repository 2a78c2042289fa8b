"""Our own messages that the peer may refer to: requests by MsgSeqNum, and how many Rejects may still be sent."""

from kfix_md._fields import Fault
from kfix_md.session import fix
from kfix_md.session.link import Link
from kfix_md.session.types import LOGGED_ON, SECOND, Request

_MAX_REQUESTS = 8_192
_ID_TAG = {"V": 262, "x": 320, "g": 335}
#: fault of the decoder to 373, 371, 58; any other fault is an incorrect format
_MALFORMED: dict[int, tuple[int, int | None, str]] = {
    Fault.NOT_NUMERIC: (fix.INVALID_TAG, None, "Invalid tag number"),
    Fault.EMPTY_VALUE: (fix.NO_VALUE, None, "Tag specified without a value"),
    Fault.MISSING_TAG: (fix.TAG_MISSING, None, "Required tag missing"),
    Fault.COUNT: (fix.GROUP_COUNT, 268, "Incorrect NumInGroup count for repeating group"),
    Fault.OUT_OF_RANGE: (fix.INCORRECT_VALUE, None, "Value is incorrect (out of range) for this tag"),
    Fault.MIXED: (fix.TAG_REPEATED, None, "Tag appears more than once"),
}


class SentRequests:
    """Application messages sent in this connection, by MsgSeqNum; the oldest are dropped."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._by_seq: dict[int, Request] = {}

    def clear(self) -> None:
        """A new connection."""
        self._by_seq.clear()

    def add(self, seq: int, msg_type: str, body: fix.Body) -> None:
        """A request goes out as `seq`."""
        id_tag = _ID_TAG.get(msg_type)
        request_id = ""
        for tag, value in body:
            if tag == id_tag:
                request_id = str(value)
                break
        self._by_seq[seq] = Request(msg_type, request_id)
        if len(self._by_seq) > _MAX_REQUESTS:
            del self._by_seq[next(iter(self._by_seq))]

    def get(self, seq: int) -> Request | None:
        """The request sent as `seq`."""
        return self._by_seq.get(seq)

    def gap_fill(self, first: int, last: int, now_ns: int) -> list[Request]:
        """Answer for our first..last that nothing is sent again; returns and drops the requests among them."""
        self._link.transmit("4", fix.sequence_reset(last + 1, self._link.wall_ns(now_ns)), now_ns, seq=first)
        self._link.count("gap_fills_sent")
        numbers = [seq for seq in self._by_seq if first <= seq <= last]
        return [self._by_seq.pop(seq) for seq in numbers]


class Rejects:
    """Sends 35=3, when logged on, and no more of them per second than a gateway accepts."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._second = self._sent = 0

    def send(self, ref_seq: int, ref_type: str, reason: int, tag: int | None, text: str, now_ns: int) -> None:
        """Reject the peer's message `ref_seq`, or count it as withheld."""
        link, second = self._link, now_ns // SECOND
        if second != self._second:
            self._second, self._sent = second, 0
        self._sent += 1
        if link.state not in LOGGED_ON or self._sent > link.config.max_rejects_per_s:
            link.count("rejects_withheld")
            return
        ref_type = ref_type if ref_type.isascii() and ref_type.isalnum() else ""
        link.transmit("3", fix.reject(ref_seq, ref_type, reason, tag, text), now_ns)
        link.count("rejects")

    def malformed(self, ref_seq: int, ref_type: str, error: int, now_ns: int) -> None:
        """Reject a message whose body cannot be; `error` is a MD_* code of the decoder."""
        reason, tag, text = _MALFORMED.get(error, (fix.INCORRECT_FORMAT, None, "Incorrect data format for value"))
        self.send(ref_seq, ref_type, reason, tag, text, now_ns)
