"""Tag names and the text of every message we send: the only place that writes FIX.

Times are int nanoseconds since the epoch. Values of a body may be str, int or bytes. Facts of the dialect:
Kraken's FIX API guide (header 8, 9, 35, 34, 49, 52, 56; 52 in milliseconds) and FIX 4.4, volume 2.
"""

import base64
import binascii
import calendar
import functools
import hashlib
import hmac
import time
from collections.abc import Iterable

from kfix_md.errors import UsageError
from kfix_md.symbol_text import symbol_bytes

Value = str | int | bytes
Body = list[tuple[int, Value]]

BEGIN_STRING = b"FIX.4.4"

# What the handler is to do with a frame (bits of what Session.receive returns).
DELIVER = 1  # a W or X whose turn it is: apply it now
DEFER = 2  # a W or X kept in the gap queue; it comes back by take_released()
IGNORE = 4  # a duplicate, or a frame of a session that is closing: never applied

# tags of the session layer
BEGIN_SEQ_NO, BODY_LENGTH, CHECK_SUM = 7, 9, 10
END_SEQ_NO = 16
MSG_SEQ_NUM, MSG_TYPE, NEW_SEQ_NO = 34, 35, 36
POSS_DUP, REF_SEQ_NUM, SENDER, SENDING_TIME, TARGET, TEXT = 43, 45, 49, 52, 56, 58
POSS_RESEND, ENCRYPT_METHOD = 97, 98
HEART_BT_INT, TEST_REQ_ID, ORIG_SENDING_TIME, GAP_FILL, RESET_SEQ_NUM = 108, 112, 122, 123, 141
REF_TAG, REF_MSG_TYPE, REJECT_REASON = 371, 372, 373
USERNAME, PASSWORD, NEXT_EXPECTED, NONCE = 553, 554, 789, 5025

# 373 SessionRejectReason
INVALID_TAG, TAG_MISSING, NO_VALUE, INCORRECT_VALUE, INCORRECT_FORMAT = 0, 1, 4, 5, 6
COMP_ID_PROBLEM, SENDING_TIME_PROBLEM, INVALID_MSG_TYPE = 9, 10, 11
TAG_REPEATED, TAG_OUT_OF_ORDER, GROUP_COUNT = 13, 14, 16

#: text of 281 MDReqRejReason (Kraken FIX guide)
MD_REJECT_REASONS = {
    "0": "unknown symbol",
    "1": "duplicate MDReqID",
    "4": "unsupported SubscriptionRequestType",
    "5": "unsupported MarketDepth",
    "6": "unsupported MDUpdateType",
    "8": "unsupported MDEntryType",
    "A": "unsupported Scope",
    "B": "L3 not available",
    "C": "trades not available",
}


@functools.lru_cache(maxsize=4)  # the requests of a batch have one time
def time_text(ns: int) -> str:
    """UTCTimestamp `YYYYMMDD-HH:MM:SS.mmm` of int ns since the epoch (the rest is cut, never rounded up)."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{rest // 1_000_000:03d}"


@functools.lru_cache(maxsize=4)  # thousands of requests go out in one second
def _second_text(seconds: int) -> str:
    return time.strftime("%Y%m%d-%H:%M:%S", time.gmtime(seconds))


@functools.lru_cache(maxsize=64)
def _midnight(date: bytes) -> int:
    year, month, day = int(date[:4]), int(date[4:6]), int(date[6:8])
    if not (1970 <= year <= 2261 and 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]):
        raise ValueError(date)
    return calendar.timegm((year, month, day, 0, 0, 0))


def parse_time(text: bytes | None) -> int | None:
    """Return the ns of a UTCTimestamp, None when it is not one.

    Digits finer than a nanosecond are cut. A leap second (`:60`) is read as the second after `:59`.
    """
    if text is None or len(text) < 17 or text[8:9] != b"-" or text[11:12] + text[14:15] != b"::":
        return None
    parts = (text[:8], text[9:11], text[12:14], text[15:17])
    fraction = text[18:]
    if not all(part.isdigit() for part in parts) or (len(text) > 17 and text[17:18] != b"."):
        return None
    if len(text) > 17 and not fraction.isdigit():
        return None
    hour, minute, second = int(parts[1]), int(parts[2]), int(parts[3])
    if hour > 23 or minute > 59 or second > 60:
        return None
    try:
        seconds = _midnight(parts[0]) + hour * 3600 + minute * 60 + second
    except ValueError:
        return None
    return seconds * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")


def value_bytes(tag: int, value: Value) -> bytes:
    """The bytes of one value; UsageError when it cannot be part of a FIX message."""
    if type(value) is int and tag != 55:
        return b"%d" % value
    text = str(value)
    data = value if isinstance(value, bytes) else symbol_bytes(text) if tag == 55 else text.encode()
    if not data or b"\x01" in data:
        raise UsageError(f"the value of tag {tag} is empty or holds a SOH: {value!r}")
    return data


def render(body: Iterable[tuple[int, Value]]) -> bytes:
    """The fields of a body as they are sent; UsageError when a value cannot be part of a FIX message."""
    return b"".join(
        [
            # most values are numbers: no call for them
            b"%d=%d\x01" % (tag, value)
            if type(value) is int and tag != 55
            else b"%d=%b\x01" % (tag, value_bytes(tag, value))
            for tag, value in body
        ]
    )


def encode(
    msg_type: str, seq: int, sender: str, target: str, sending_ns: int, body: Iterable[tuple[int, Value]] | bytes
) -> bytes:
    """One whole frame, `8=` to the SOH after tag 10, with body length and checksum; bytes are a body of `render`."""
    head = f"35={msg_type}\x0134={seq}\x0149={sender}\x0152={time_text(sending_ns)}\x0156={target}\x01"
    content = head.encode() + (body if isinstance(body, bytes) else render(body))
    frame = b"8=%b\x019=%d\x01%b" % (BEGIN_STRING, len(content), content)
    return b"%b10=%03d\x01" % (frame, sum(frame) % 256)


def decode_secret(secret: str) -> bytes:
    """The bytes of an API secret; UsageError when it is not base64."""
    try:
        return base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("api_secret is not base64: copy it again from Kraken's API key page") from error


def logon_signature(secret: str, key: str, seq: int, sender: str, target: str, nonce: int) -> str:
    """554 Password: base64(HMAC-SHA512(base64-decoded secret, SHA256(header text with SOH + nonce))).

    UsageError when the secret is not base64. Source: Kraken FIX guide, Logon.
    """
    raw = decode_secret(secret)
    text = f"35=A\x0134={seq}\x0149={sender}\x0156={target}\x01553={key}\x01{nonce}"
    digest = hashlib.sha256(text.encode()).digest()
    return base64.b64encode(hmac.new(raw, digest, hashlib.sha512).digest()).decode()


def first_request_id(start_ns: int) -> int:
    """Where a process that started at `start_ns` begins to count its request ids (262, 320, 335).

    Microseconds since the epoch: higher than every id of an earlier process, which sent fewer than a million
    requests per second.
    """
    return max(1, start_ns // 1_000)


def logon(heartbeat: int, reset: bool, next_expected: int | None = None) -> Body:
    """35=A Logon without credentials (see `credentials`)."""
    body: Body = [(ENCRYPT_METHOD, 0), (HEART_BT_INT, heartbeat), (RESET_SEQ_NUM, "Y" if reset else "N")]
    if next_expected is not None:
        body.append((NEXT_EXPECTED, next_expected))
    return body


def credentials(key: str, secret: str, seq: int, sender: str, target: str, now_ns: int) -> Body:
    """553, 554 and 5025 of a signed Logon; 5025 is epoch milliseconds."""
    nonce = now_ns // 1_000_000
    signature = logon_signature(secret, key, seq, sender, target, nonce)
    return [(USERNAME, key), (PASSWORD, signature), (NONCE, nonce)]


def heartbeat(test_req_id: bytes | None = None) -> Body:
    """35=0 Heartbeat, with 112 when it answers a TestRequest."""
    return [(TEST_REQ_ID, test_req_id)] if test_req_id else []


def test_request(test_req_id: str) -> Body:
    """35=1 TestRequest."""
    return [(TEST_REQ_ID, test_req_id)]


def resend_request(first: int, last: int = 0) -> Body:
    """35=2 ResendRequest; `last` 0 is "to the end"."""
    return [(BEGIN_SEQ_NO, first), (END_SEQ_NO, last)]


def sequence_reset(new_seq: int, orig_sending_ns: int | None = None, gap_fill: bool = True) -> Body:
    """35=4 SequenceReset; a gap fill that answers a ResendRequest carries 43=Y and 122."""
    dup: Body = []
    if orig_sending_ns is not None:
        dup = [(POSS_DUP, "Y"), (ORIG_SENDING_TIME, time_text(orig_sending_ns))]
    return [*dup, (GAP_FILL, "Y" if gap_fill else "N"), (NEW_SEQ_NO, new_seq)]


def logout(text: str | None = None) -> Body:
    """35=5 Logout."""
    return [(TEXT, text)] if text else []


def reject(ref_seq: int, ref_type: str, reason: int, tag: int | None = None, text: str | None = None) -> Body:
    """35=3 Reject of the peer's message `ref_seq`."""
    body: Body = [(REF_SEQ_NUM, ref_seq)]
    if tag is not None:
        body.append((REF_TAG, tag))
    if ref_type:
        body.append((REF_MSG_TYPE, ref_type))
    body.append((REJECT_REASON, reason))
    return body + ([(TEXT, text)] if text else [])


def instrument_list_request(
    request_id: str, symbol: str | None = None, security_type: str | None = None, updates: int | None = None
) -> Body:
    """35=x InstrumentListRequest: one symbol, one type (CASH, FUT, OPT, TS) or, with neither, all.

    `updates` is 263: 0 a snapshot, 1 snapshot and updates, 2 end the updates; None leaves it out.
    """
    if symbol and security_type:
        raise UsageError("an instrument list request names one symbol or one type, not both")
    body: Body = [(55, symbol)] if symbol else []
    body.append((320, request_id))
    body.append((559, 0 if symbol else 1 if security_type else 4))
    if security_type:
        body.append((167, security_type))
    return body if updates is None else [*body, (263, updates)]


def market_data_request(
    request_id: str,
    symbols: list[str],
    *,
    depth: int = 0,
    trades: bool = True,
    level3: bool = False,
    unsubscribe: bool = False,
) -> Body:
    """35=V MarketDataRequest for bids and offers (Kraken refuses one side alone), incremental only.

    `depth` 0 is the full book (at most 1000 levels on L2). L3 requests never include trades.
    """
    if not symbols:
        raise UsageError("a MarketDataRequest needs at least one symbol")
    entries = (0, 1, 2) if trades and not level3 else (0, 1)
    body: Body = [(146, len(symbols)), *((55, symbol) for symbol in symbols), (262, request_id)]
    body += [(263, 2 if unsubscribe else 1), (264, depth), (265, 1)]
    if level3:
        body.append((266, "N"))
    return [*body, (267, len(entries)), *((269, entry) for entry in entries)]


def trading_session_status_request(request_id: str, updates: int = 1) -> Body:
    """35=g TradingSessionStatusRequest (spot only); `updates` is 263: 0 a snapshot, 1 with updates."""
    return [(335, request_id), (336, "SESSION"), (263, updates)]
