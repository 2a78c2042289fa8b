"""35=y in fragments, updates, partial and broken rows: what is known of the instruments afterwards."""

import random
import re

import pytest

from kfix_md import Handler
from kfix_md.instruments import Instrument, InstrumentList, ListChange, Status, merged, parse_list, precision_of
from kfix_md.session.fix import encode, instrument_list_request, market_data_request
from kfix_md.symbol_text import symbol_bytes, symbol_text

DOCUMENTED = (
    "8=FIX.4.4|9=177|35=y|49=KRAKEN-MD|56=CLIENT|34=3|52=20231012-09:54:15.317|320=R1|"
    "322=1697104455317568799|560=0|146=1|55=BTC/USD|562=0.00000001|5010=8|5011=0.0001|2349=1|5022=0.1|5032=1|10=068|"
)


def fields(text):
    pairs = (part.split("=", 1) for part in text.rstrip("|").split("|"))
    return [(int(tag), value.encode()) for tag, value in pairs]


def part(rows, request="R1", last=None, body="560=0|"):
    groups = "".join(f"55={name}|5010={qty}|2349={price}|5032={status}|" for name, price, qty, status in rows)
    more = "" if last is None else f"393=9|893={last}|"
    return parse_list(fields(f"35=y|320={request}|{body}{more}146={len(rows)}|{groups}"))


def test_the_documented_message():
    found = parse_list(fields(DOCUMENTED))
    assert (found.request_id, found.result, found.last, found.errors) == ("R1", 0, True, [])
    row = found.instruments[0]
    assert (row.symbol, row.price_precision, row.qty_precision) == ("BTC/USD", 1, 8)
    assert row.status is Status.ONLINE
    assert (row.tick_size, row.min_increment, row.min_qty) == ("0.1", "0.00000001", "0.0001")


def test_fragments_make_one_list():
    known = InstrumentList()
    known.expect("R1")
    assert known.apply(part([("A/B", 1, 8, 1)], last="N")) is None
    change = known.apply(part([("C/D", 2, 3, 1), ("E/F", 1, 1, 6)], last="Y"))
    assert change.complete and [row.symbol for row in change.added] == ["A/B", "C/D"]
    assert known.listed() == ["A/B", "C/D"] and known.complete


def test_updates_and_a_new_list():
    known = InstrumentList()
    known.expect("R1")
    known.apply(part([("A/B", 1, 8, 1), ("C/D", 2, 3, 1)]))
    update = known.apply(part([("C/D", 3, 3, 1), ("N/W", 1, 1, 1)]))
    assert not update.complete and not update.removed
    assert [row.price_precision for row in update.changed] == [3]
    assert [row.symbol for row in update.added] == ["N/W"]
    assert known.apply(part([("A/B", 1, 8, 6)])).removed == ["A/B"]
    known.expect("R2")
    assert known.apply(part([("C/D", 9, 9, 1)], request="R1")) is None  # an answer to the old request
    again = known.apply(part([("C/D", 3, 3, 1)], request="R2"))
    assert again.removed == ["N/W"] and not again.changed
    assert known.listed() == ["C/D"]


def test_broken_rows_are_named_and_the_others_used():
    found = parse_list(
        fields("35=y|320=R|560=0|146=4|55=A/B|5010=x|2349=1|55=C/D|5010=8|2349=99|55=E/F|5010=8|2349=1|")
    )
    assert [row.symbol for row in found.instruments] == ["E/F"]
    assert len(found.errors) == 3
    assert "A/B" in found.errors[0] and "C/D" in found.errors[1] and "146=4" in found.errors[2]
    assert parse_list(fields("35=y|560=9x|")).result == 1
    assert parse_list([]).instruments == []


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("8", 8),
        ("8.0", 8),
        ("8.", 8),
        ("008", 8),
        ("0000000000000000000000018.000", 18),
        ("-3", -3),
        ("-03.0", -3),
        ("+2", 2),
        ("0", 0),
        ("-0", 0),
        ("19", None),
        ("-19", None),
        ("8.5", None),
        ("", None),
        ("x", None),
        ("1e1", None),
        ("--1", None),
        (" 1", None),
    ],
)
def test_forms_of_a_precision(text, precision):
    assert precision_of(text.encode()) == precision
    (row,) = parse_list([(55, b"A/B"), (2349, text.encode()), (5010, b"1")]).rows
    found = merged(row, None)
    assert (found if precision is None else found.price_precision) == (
        f"A/B: no usable price_precision (2349={text})" if precision is None else precision
    )


def rows(text, request="R1"):
    return parse_list(fields(f"35=y|320={request}|560=0|{text}"))


def test_what_an_update_leaves_out_stays_as_known():
    known = InstrumentList()
    known.expect("R1")
    known.apply(rows("146=1|55=A/B|5010=8|2349=1|5022=0.1|5032=2|"))
    change = known.apply(rows("146=1|55=A/B|5022=0.5|"))
    assert [row.tick_size for row in change.changed] == ["0.5"]
    assert known.known["A/B"] == Instrument("A/B", 1, 8, Status.MAINTENANCE, tick_size="0.5")
    assert known.apply(rows("146=1|55=A/B|")) == ListChange([], [], [], False)  # nothing new: no change
    assert known.apply(rows("146=1|55=A/B|5032=1|")).changed == [Instrument("A/B", 1, 8, tick_size="0.5")]
    assert known.apply(rows("146=1|55=A/B|5032=6|")).removed == ["A/B"]


def test_a_new_row_without_precisions_is_left_out_by_name():
    known = InstrumentList()
    known.expect("R1")
    change = known.apply(rows("146=3|55=A/B|5010=8|2349=1|55=C/D|5032=1|55=E/F|5010=8|2349=1.5|"))
    assert [row.symbol for row in change.added] == ["A/B"]
    assert change.unusable.keys() == known.unusable.keys() == {"C/D", "E/F"}
    assert "2349 missing" in change.unusable["C/D"] and "2349=1.5" in change.unusable["E/F"]
    assert known.apply(rows("146=1|55=E/F|5010=8|2349=2.5|")).unusable.keys() == {"E/F"}
    assert not known.apply(rows("146=1|55=C/D|5032=1|")).unusable  # known already
    assert known.apply(rows("146=1|55=C/D|5010=1|2349=2|")).added == [Instrument("C/D", 2, 1)]
    assert known.unusable.keys() == {"E/F"}


def test_a_bad_row_does_not_remove_what_is_known():
    known = InstrumentList()
    for request in ("R1", "R2"):
        known.expect(request)
        price = "1" if request == "R1" else "one"
        change = known.apply(rows(f"146=2|55=A/B|5010=8|2349={price}|55=C/D|5010=8|2349=1|", request))
    assert change.complete and not change.removed and change.unusable.keys() == {"A/B"}
    assert known.known["A/B"] == Instrument("A/B", 1, 8)


def test_an_update_between_fragments_does_not_end_the_list():
    known = InstrumentList()
    known.expect("R1")
    assert known.apply(part([("A/B", 1, 8, 1)], last="N")) is None
    assert known.apply(part([("A/B", 1, 8, 2)])) is None  # an update: no 393, no 893
    assert known.apply(part([("C/D", 1, 8, 1)], last="N")) is None
    change = known.apply(part([("E/F", 1, 8, 1)], last="Y"))
    assert change.complete and known.listed() == ["A/B", "C/D", "E/F"]
    assert known.known["A/B"].status is Status.MAINTENANCE


def test_fragments_are_counted_by_393():
    known = InstrumentList()
    known.expect("R1")
    assert known.apply(rows("393=3|146=2|55=A/B|5010=8|2349=1|55=C/D|5010=8|2349=1|")) is None
    assert known.apply(rows("146=1|55=A/B|5032=2|")) is None
    assert known.apply(rows("393=3|146=1|55=E/F|5010=8|2349=1|")).complete
    known.expect("R2")
    assert known.apply(rows("393=2|893=N|146=1|55=A/B|5010=8|2349=1|", "R2")) is None
    change = known.apply(rows("393=2|893=N|146=1|55=C/D|5010=8|2349=1|", "R2"))  # never marked as the last
    assert change.complete and change.removed == ["E/F"]


def test_an_update_under_another_request_counts():
    known = InstrumentList()
    known.expect("R1")
    known.apply(rows("146=1|55=A/B|5010=8|2349=1|"))
    assert known.apply(rows("146=1|55=A/B|5032=2|", "other")).changed == [Instrument("A/B", 1, 8, Status(2))]


def test_a_list_requested_in_parts_is_complete_when_each_part_is():
    known = InstrumentList()
    known.expect("R1")
    known.expect("T1", question="TS")
    assert known.apply(rows("146=1|55=A/B|5010=8|2349=1|")) is None and not known.complete
    assert known.apply(rows("146=1|55=A/B|5032=2|")) is None  # an update of the part that is whole
    change = known.apply(rows("146=1|55=AAPLx/USD|5010=8|2349=2|", "T1"))
    assert change.complete and known.listed() == ["A/B", "AAPLx/USD"]
    assert known.known["A/B"].status is Status.MAINTENANCE
    known.expect("R2")
    known.expect("T2", question="TS")
    assert known.apply(rows("146=1|55=A/B|5010=8|2349=1|", "R2")) is None
    change = known.dismiss("TS")
    assert change.complete and change.removed == ["AAPLx/USD"] and known.complete


def test_2500_instruments():
    text = "".join(f"55=C{i}/USD|5010=8|2349=1|5032=1|" for i in range(2500))
    known = InstrumentList()
    known.expect("R1")
    assert len(known.apply(rows(f"146=2500|{text}")).added) == 2500
    handler = Handler()
    assert handler.books.define_listed(fields(f"146=2500|{text}")) == 0
    assert len(handler.symbols) == 2500


def test_a_status_that_nobody_knows():
    known = InstrumentList()
    known.expect("R1")
    known.apply(rows("146=2|55=A/B|5010=8|2349=1|5032=9|55=C/D|5010=8|2349=1|5032=x|"))
    assert {row.status for row in known.known.values()} == {Status.UNKNOWN}
    assert known.listed() == ["A/B", "C/D"] and not Status.UNKNOWN.halted


def test_status():
    assert not Status.HIDDEN.listed and not Status.DELISTED.listed and Status.POST_ONLY.listed
    assert Status.MAINTENANCE.halted and not Status.ONLINE.halted


def defined(pairs):
    """What a handler's own short reading of a list makes of it: symbols with precisions, rows that cannot be used."""
    handler = Handler()
    bad = handler.books.define_listed(pairs)
    return {symbol: handler.precisions(symbol) for symbol in handler.symbols}, bad


def read_plainly(pairs):
    """The same, row by row as the protocol has it."""
    groups, stated = [], None
    for tag, value in pairs:
        if tag == 55:
            groups.append({55: value})
        elif tag == 146 and stated is None:
            stated = value
        elif groups:
            groups[-1].setdefault(tag, value)
    found, bad = {}, 0
    for group in groups:
        texts = [group.get(tag) for tag in (2349, 5010)]
        before = found.get(group[55], (None, None))
        numbers = [old if text is None else plain_precision(text) for text, old in zip(texts, before, strict=True)]
        if None in numbers or not 0 < len(group[55]) < 40:
            bad += 1
        else:
            found[group[55]] = tuple(max(0, number) for number in numbers)
    counted = stated is not None and stated.isdigit() and stated.isascii() and int(stated) != len(groups)
    return {symbol_text(symbol): precisions for symbol, precisions in found.items()}, bad + counted


def plain_precision(text):
    """-18 to 18, or None."""
    if not re.fullmatch(rb"[+-]?[0-9]+", text) or abs(int(text)) > 18:
        return None
    return int(text)


def test_a_handler_reads_the_precisions_of_a_list():
    odd = [b"", b"0", b"8", b"18", b"19", b"007", b"00000008", b"123456789", b"-1", b"+1", b" 1", b"x", b"1x", b"\xb2"]
    names = [b"BTC/USD", b"A/B", b"", b"X" * 39, b"X" * 40, b"\xff\xfe", b"55"]
    declared = [b"0", b"1", b"2", b"007", b"x", b""]
    tags = [55, 55, 2349, 2349, 5010, 5010, 562, 146, 5032, 320, 58]
    rng = random.Random(35)
    agreed = 0
    for _ in range(2000):
        pairs = []
        for _ in range(rng.randrange(14)):
            tag = rng.choice(tags)
            usual = rng.random() < 0.6
            values = names if tag == 55 else declared if tag == 146 else [b"1", b"2", b"8"] if usual else odd
            pairs.append((tag, rng.choice(values)))
        assert defined(pairs) == read_plainly(pairs), pairs
        agreed += bool(defined(pairs)[0])
    assert agreed > 100


@pytest.mark.parametrize(
    ("symbol", "text"),
    [
        (b"BTC/USD", "BTC/USD"),
        ("\u5e01\u5b89/USD".encode(), "\u5e01\u5b89/USD"),
        (b"\xff\xfe/USD", r"\xff\xfe/USD"),
        (b"caf\xe9", r"caf\xe9"),
        (b"a\\xff", r"a\x5cxff"),
        (b"a\nb\x7f\xc2\x9b", r"a\x0ab\x7f\xc2\x9b"),
        ("BTC\u202e/DSU\u2028".encode(), r"BTC\xe2\x80\xae/DSU\xe2\x80\xa8"),  # turned; ends a line
        (b"", ""),
    ],
)
def test_a_symbol_is_its_bytes(symbol, text):
    assert symbol_text(symbol) == text
    assert symbol_bytes(text) == symbol
    if symbol:
        for body in (market_data_request("1", [text]), instrument_list_request("1", text)):
            assert b"\x0155=%b\x01" % symbol in encode("V", 1, "A", "B", 0, body)
        handler = Handler()
        assert handler.books.define_listed([(55, symbol), (2349, b"1"), (5010, b"8")]) == 0
        assert list(handler.symbols) == [text] and handler.precisions(text) == (1, 8)


def test_every_symbol_has_a_text_of_its_own():
    rng, seen = random.Random(55), {}
    for _ in range(20_000):
        symbol = bytes(rng.choice(b"\\x5cff\xc3\xa9\x80\x1b/") for _ in range(rng.randrange(8)))
        text = symbol_text(symbol)
        assert symbol_bytes(text) == symbol and seen.setdefault(text, symbol) == symbol
        assert text.encode("utf-8") and "\x1b" not in text if symbol else not text
