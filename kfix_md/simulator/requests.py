"""Answers application requests: market data (V), trading status (g), and rejects of what is wrong."""

from collections import Counter
from typing import TYPE_CHECKING

from kfix_md.simulator import listing, wire
from kfix_md.simulator.lines import VenueSubscription
from kfix_md.simulator.listing import Row

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor

DEPTHS = {0, 1, 10, 25, 100, 500, 1000}
REASONS = {
    0: "Unknown symbol",
    1: "Duplicate MDReqID",
    4: "Unsupported SubscriptionRequestType",
    5: "Unsupported MarketDepth",
    6: "Unsupported MDUpdateType",
    8: "Unsupported MDEntryType",
    "A": "Unsupported Scope",
    "B": "L3 not available",
    "C": "Trade not available",
}
CLOSED = (0, 6)  # 5032 of instruments that cannot be subscribed: hidden, delisted
REQUIRED = {b"x": (320, 559), b"V": (262, 263, 264, 267, 269), b"g": (335, 263)}


class RequestRejected(Exception):
    """A MarketDataRequest that is answered by 35=Y; args: 281."""


def handle(session: "Acceptor", kind: bytes, row: Row, fields: wire.Fields) -> None:
    """Answer one application message; anything unknown gets a BusinessMessageReject."""
    session.service.count(f"received {kind.decode(errors='replace')}")
    missing = next((tag for tag in REQUIRED.get(kind, ()) if tag not in row), None)
    refusal = session.service.take_request_fault(kind)
    if refusal == "j":
        business_reject(session, row, kind, 3, "Unsupported Message Type")
    elif refusal == "3":
        reject(session, row, kind, 0, reason=5, text="Value is incorrect (out of range) for this tag")
    elif missing is not None:
        reject(session, row, kind, missing, reason=1, text="Required tag missing")
    elif kind == b"x":
        listing.request(session, row)
    elif kind == b"V":
        market_data(session, row, fields)
    elif kind == b"g" and session.service.venue_name == "spot":
        trading_status(session, row)
    else:
        business_reject(session, row, kind, 3, "Unsupported Message Type")


def reject(session: "Acceptor", row: Row, kind: bytes, tag: int, *, reason: int, text: str) -> None:
    """35=3."""
    about = [(371, tag)] if tag else []
    session.send(b"3", [(45, row.get(34, b"0")), *about, (372, kind), (373, reason), (58, text)])


def business_reject(session: "Acceptor", row: Row, kind: bytes, reason: int, text: str) -> None:
    """35=j."""
    session.send(b"j", [(45, row.get(34, b"0")), (372, kind), (380, reason), (58, text)])


# 35=V -----------------------------------------------------------------------------------------------


def market_data(session: "Acceptor", row: Row, fields: wire.Fields) -> None:
    """Subscribe (263=1), symbol by symbol, or unsubscribe (263=2)."""
    request = wire.text(row[262])
    if row[263] == b"2":
        for subscription in session.subscriptions.pop(request, []):
            session.venue.after_unsubscribe(subscription)
        return
    try:
        if row[263] != b"1":
            raise RequestRejected(4)
        if request in session.used_ids and session.venue.config.duplicate_id != "accept":
            raise RequestRejected(1)
        wanted = _wanted(session, row, fields)
    except RequestRejected as rejected:
        if rejected.args[0] != 1 or session.venue.config.duplicate_id == "reject":
            reject_request(session, request, rejected.args[0])
        return
    session.used_ids.add(request)
    symbols = [wire.text(value) for tag, value in fields if tag == 55]
    if not symbols:
        reject(session, row, b"V", 55, reason=1, text="Required tag missing")
    if session.venue.config.several_symbols == "first":
        del symbols[1:]
    for symbol in dict.fromkeys(symbols):
        _subscribe(session, request, symbol, wanted)


def _wanted(session: "Acceptor", row: Row, fields: wire.Fields) -> tuple[int, bool, bool]:
    """(depth, book?, trades?) of a request; Rejected when it breaks a rule."""
    types = Counter(value for tag, value in fields if tag == 269)
    level = {b"Y": "L2", b"N": "L3"}.get(row.get(266, b"Y"))
    depth = row[264].decode(errors="replace")
    if not depth.isdigit() or int(depth) not in DEPTHS:
        raise RequestRejected(5)
    if row.get(265, b"1") != b"1":
        raise RequestRejected(6)
    if set(types) - {b"0", b"1", b"2"} or (b"0" in types) != (b"1" in types) or not types:
        raise RequestRejected(8)
    if level != session.service.level:
        raise RequestRejected("B" if level == "L3" else "A")
    if b"2" in types and level == "L3":
        raise RequestRejected("C")
    return int(depth), b"0" in types, b"2" in types


def _subscribe(session: "Acceptor", request: str, symbol: str, wanted: tuple[int, bool, bool]) -> None:
    line = session.service.lines.get(symbol)
    forced = session.service.take_reject(symbol)
    if forced is not None:
        reject_request(session, request, forced, symbol)
    elif line is None or not line.listed or line.instrument.status in CLOSED:
        _unknown(session, request, symbol)
    else:
        depth, book, trades = wanted
        subscription = VenueSubscription(session, request, line, depth=depth, book=book, trades=trades)
        session.subscriptions.setdefault(request, []).append(subscription)
        line.join(subscription)


def _unknown(session: "Acceptor", request: str, symbol: str) -> None:
    """Answer a subscription of an unknown symbol as `unknown_symbol` has it."""
    how = session.venue.config.unknown_symbol
    if how == "reject":
        reject_request(session, request, 0, symbol)
    elif how == "business":
        row = {34: b"%d" % (session.peer.expected - 1)}
        business_reject(session, row, b"V", 2, f"Unknown symbol: {symbol}")


def reject_request(session: "Acceptor", request: str, reason: int | str, symbol: str = "") -> None:
    """35=Y; with the symbol in 55 and 58 where the reject is about one."""
    text = REASONS.get(reason, "Refused")
    about = [(55, symbol)] if symbol else []
    session.send(b"Y", [*about, (262, request), (281, reason), (58, f"{text}: {symbol}" if symbol else text)])


# 35=g -----------------------------------------------------------------------------------------------


def trading_status(session: "Acceptor", row: Row) -> None:
    """35=h, again at every change when 263=1."""
    request = wire.text(row[335])
    if row.get(336, b"SESSION") != b"SESSION":
        session.send(b"h", [(335, request), (336, row[336]), (340, 0), (567, 1)])
        return
    if row[263] == b"1":
        session.status_watch.add(request)
    elif row[263] == b"2":
        session.status_watch.discard(request)
        return
    send_status(session, request)


def send_status(session: "Acceptor", request: str) -> None:
    """35=h with the venue's present status."""
    session.send(b"h", [(335, request), (336, "SESSION"), (340, session.venue.trading_status)])
