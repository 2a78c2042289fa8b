"""Edits of one frame into other forms: data fields, numbers, times, symbols and unknown values."""

from decimal import Decimal

from kfix_md.simulator import numbers, wire
from kfix_md.simulator.edits import Outgoing, edit, fields_of, inserted
from kfix_md.simulator.logons import TRAP

TIMES = (52, 273, 5060, 5273)


def _changed(out: Outgoing, change: dict[int, bytes]) -> bytes:
    """The frame with every field of these tags replaced."""
    return wire.message([(tag, change.get(tag, value)) for tag, value in fields_of(out.frame)])


def _groups(fields: wire.Fields) -> tuple[wire.Fields, list[wire.Fields], wire.Fields]:
    """(up to 268, entries, from 5041) of a W or X."""
    start = next((i for i, pair in enumerate(fields) if pair[0] == 268), len(fields) - 1) + 1
    end = next((i for i, pair in enumerate(fields) if pair[0] == 5041), len(fields))
    groups: list[wire.Fields] = []
    for pair in fields[start:end]:
        if not groups or pair[0] == groups[0][0][0]:
            groups.append([])
        groups[-1].append(pair)
    return fields[:start], groups, fields[end:]


@edit("data_field", "none")
def _data_field(out: Outgoing) -> list[bytes]:
    """A data field (`pair` of length and data tag) whose value has SOH in it, before the tag `before`."""
    length, data = out.options.get("pair", (95, 96))
    pairs = [(int(length), b"%d" % len(TRAP)), (int(data), TRAP)]
    return [inserted(out.frame, int(out.options.get("before", 268)), pairs)]


@edit("symbol_groups", "none")
def _symbol_groups(out: Outgoing) -> list[bytes]:
    """55 is in every entry and not in the header."""
    head, groups, tail = _groups(fields_of(out.frame))
    symbol = [pair for pair in head if pair[0] == 55]
    rest = [pair for pair in head if pair[0] != 55]
    return [wire.message([*rest, *(pair for group in groups for pair in group + symbol), *tail])]


@edit("symbol_twice", "content")
def _symbol_twice(out: Outgoing) -> list[bytes]:
    """A second 55, of another `symbol`, in the header."""
    return [inserted(out.frame, 262, [(55, wire.raw(str(out.options.get("symbol", "ETH/USD"))))])]


@edit("request_twice", "content")
def _request_twice(out: Outgoing) -> list[bytes]:
    """A second 262, of another `request`, in the header."""
    return [inserted(out.frame, 268, [(262, str(out.options.get("request", "OTHER")).encode())])]


@edit("number", "none")
def _number(out: Outgoing) -> list[bytes]:
    """270 and 271 in another `form` of the same value."""
    form = numbers.FORMS[out.options.get("form", "exponent")]

    def written(value: bytes) -> bytes:
        number = Decimal(value.decode())
        places = max(0, -int(number.normalize().as_tuple().exponent))
        return form(int(number.scaleb(places)), places).encode()

    fields = fields_of(out.frame)
    return [wire.message([(tag, written(value) if tag in (270, 271) else value) for tag, value in fields])]


@edit("times", "none")
def _times(out: Outgoing) -> list[bytes]:
    """52, 273, 5060 and 5273 with another number of `decimals`."""
    decimals = int(out.options.get("decimals", 12))

    def written(value: bytes) -> bytes:
        clock, _, part = value.rstrip(b"Z").partition(b".")
        point = b"." + part.ljust(decimals, b"0")[:decimals] if decimals else b""
        return clock + point + (b"Z" if value.endswith(b"Z") else b"")

    fields = fields_of(out.frame)
    return [wire.message([(tag, written(value) if tag in TIMES else value) for tag, value in fields])]


@edit("entry_kind", "none")
def _entry_kind(out: Outgoing) -> list[bytes]:
    """One entry more, of a `kind` (269) that is no part of the book."""
    head, groups, tail = _groups(fields_of(out.frame))
    if not groups:
        return [out.frame]
    kind = str(out.options.get("kind", "J")).encode()
    other = [(tag, kind if tag == 269 else b"0" if tag == 279 else value) for tag, value in groups[-1]]
    head[-1] = (268, b"%d" % (len(groups) + 1))
    return [wire.message([*head, *(pair for group in [*groups, other] for pair in group), *tail])]


@edit("trade_codes", "none")
def _trade_codes(out: Outgoing) -> list[bytes]:
    """40 and 2446 of trades are `ord_type` and `aggressor`."""
    codes = {40: out.options.get("ord_type", "R"), 2446: out.options.get("aggressor", "X")}
    return [_changed(out, {tag: str(value).encode() for tag, value in codes.items()})]


@edit("unknown_tags", "none")
def _unknown_tags(out: Outgoing) -> list[bytes]:
    """Tags that no specification names: in the header, in every entry and at the end."""
    head, groups, tail = _groups(fields_of(out.frame))
    entries = [pair for group in groups for pair in [*group, (5999, b"y=z")]]
    return [wire.message([head[0], (20001, b"x"), *head[1:], *entries, *tail, (20003, b"")])]
