"""Answers InstrumentListRequest (35=x) and announces changes of instruments (35=y)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from kfix_md.simulator import wire

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor
    from kfix_md.simulator.lines import Line

Row = dict[int, bytes]  # the first value of each tag of a request

#: rows of 35=y that a client has to leave out, by name
BAD_ROWS: dict[str, list[tuple[int, object]]] = {
    "no_precision": [(55, "BAD1/USD"), (562, "1.0"), (5011, "1.0"), (5022, "0.1"), (5032, 1)],
    "text_precision": [(55, "BAD2/USD"), (5010, "abc"), (2349, 1), (5022, "0.1"), (5032, 1)],
    "huge_precision": [(55, "BAD3/USD"), (5010, 99), (2349, 1), (5022, "0.1"), (5032, 1)],
    "part_precision": [(55, "BAD4/USD"), (5010, "8.5"), (2349, 1), (5022, "0.1"), (5032, 1)],
    "no_name": [(55, ""), (5010, 8), (2349, 1), (5022, "0.1"), (5032, 1)],
    "long_name": [(55, "BAD6" + "X" * 80), (5010, 8), (2349, 1), (5022, "0.1"), (5032, 1)],
    "bad_status": [(55, "BAD7/USD"), (5010, 8), (2349, 1), (5022, "0.1"), (5032, "?")],
}


class ListWatch(NamedTuple):
    """A subscription to the list (263=1): to one symbol, to one type of security, or to all (both None)."""

    symbol: str | None = None
    security: str | None = None

    def covers(self, line: "Line") -> bool:
        """Whether an instrument belongs to it. Tokenised stocks (TS) do so by their type or their name only."""
        row = line.instrument
        if self.symbol is not None:
            return self.symbol == row.symbol
        return row.security == self.security if self.security else row.security != "TS"


def request(session: "Acceptor", row: Row) -> None:
    """One symbol (559=0), a type (1) or all (4); 263=1 keeps the requester informed, 2 ends that."""
    ident, scope = wire.text(row[320]), row[559]
    if row.get(263) == b"2":
        session.instrument_watch.pop(ident, None)
        return
    watch = _watch(row)
    if watch is None:
        send(session, ident, [], 1)
        return
    if row.get(263) == b"1" and session.venue.config.list_updates == "reject":
        session.send(b"3", [(45, row.get(34, b"0")), (371, 263), (372, "x"), (373, 5), (58, "Snapshots only")])
        return
    if row.get(263) == b"1":
        session.instrument_watch[ident] = watch
    groups = [group(line) for line in session.service.lines.values() if line.listed and watch.covers(line)]
    if scope == b"4":
        groups = session.service.bad_rows + groups
    send(session, ident, groups)


def _watch(row: Row) -> ListWatch | None:
    """What a request is for; None when it is invalid."""
    scope = row[559]
    if scope == b"4":
        return ListWatch()
    if scope == b"1":
        return ListWatch(security=wire.text(row.get(167, b"-")))
    return ListWatch(symbol=wire.text(row[55])) if scope == b"0" and 55 in row else None


def send(session: "Acceptor", ident: str, groups: list[bytes], result: int = 0) -> None:
    """35=y, in fragments of at most `config.fragment` instruments.

    With `config.interleave` an update of one instrument comes between the first two fragments.
    """
    config = session.venue.config
    head: list[tuple[int, object]] = [(320, ident), (322, session.venue.next_id())]
    if not groups:
        session.send(b"y", [*head, (560, result or 2), (146, 0)])
        return
    for start in range(0, len(groups), config.fragment):
        part = groups[start : start + config.fragment]
        last = "Y" if start + config.fragment >= len(groups) else "N"
        pieces: list[tuple[int, object]] = [(393, len(groups)), (893, last)] if len(groups) > config.fragment else []
        _emit(session, [*head, (560, 0), *pieces], part)
        if config.interleave and start == 0 and last == "N":
            _emit(session, [(320, ident), (322, session.venue.next_id()), (560, 0)], groups[:1])


def _emit(session: "Acceptor", head: Iterable[tuple[int, object]], groups: list[bytes]) -> None:
    session.service.send_raw(session, b"y", wire.join([*head, (146, len(groups))]) + b"".join(groups))


def group(line: "Line", tags: Iterable[int] = ()) -> bytes:
    """One instrument of 35=y; `tags`: these only, and 55."""
    row, wanted = line.instrument, set(tags)
    if row.verbatim and not wanted:
        return row.verbatim
    qty = row.qty_precision
    fields: list[tuple[int, object]] = [
        (55, row.symbol),
        (562, wire.number(row.grain, qty)),
        (5010, precision(row.qty_text or str(qty), line.dialect.precision_form)),
        (5011, wire.number(row.minimum, qty)),
        (2349, precision(row.price_text or str(row.price_precision), line.dialect.precision_form)),
        (5022, wire.number(row.tick, row.price_precision)),
        (5032, row.status),
    ]
    return wire.join(pair for pair in fields if not wanted or pair[0] in wanted | {55})


def precision(text: str, form: str) -> str:
    """A precision as `int`, as a `float` (`8.0`) or with `zeros` in front (`08`)."""
    if form == "float":
        return f"{text}.0"
    return text.replace("-", "-0") if form == "zeros" and "-" in text else f"0{text}" if form == "zeros" else text


def announce(session: "Acceptor", line: "Line", tags: Iterable[int] = ()) -> None:
    """Send a new or changed instrument to a session that subscribed to the list (263=1)."""
    for ident, watch in list(session.instrument_watch.items()):
        if watch.covers(line):
            send(session, ident, [group(line, tags)])
