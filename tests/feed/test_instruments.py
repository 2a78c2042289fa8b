"""35=y in fragments, updates, broken rows: what is known of the instruments afterwards."""

import random

from kfix_md import Handler
from kfix_md.instruments import InstrumentList, Status, parse_list

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


def test_broken_rows_are_told_and_the_others_used():
    found = parse_list(
        fields("35=y|320=R|560=0|146=4|55=A/B|5010=x|2349=1|55=C/D|5010=8|2349=99|55=E/F|5010=8|2349=1|")
    )
    assert [row.symbol for row in found.instruments] == ["E/F"]
    assert len(found.errors) == 3
    assert "A/B" in found.errors[0] and "C/D" in found.errors[1] and "146=4" in found.errors[2]
    assert parse_list(fields("35=y|560=9x|")).result == 1
    assert parse_list([]).instruments == []


def test_status():
    assert not Status.HIDDEN.listed and not Status.DELISTED.listed and Status.POST_ONLY.listed
    assert Status.MAINTENANCE.halted and not Status.ONLINE.halted


def defined(pairs):
    """What a handler's own short reading of a list makes of it: symbols with precisions, rows that cannot be used."""
    handler = Handler()
    bad = handler.define_listed(pairs)
    return {symbol: handler.precisions(symbol) for symbol in handler.symbols}, bad


def read_whole(pairs):
    """The same from parse_list; a symbol that no book can have is a row that cannot be used."""
    part = parse_list(pairs)
    rows = [row for row in part.instruments if 0 < len(row.symbol.encode()) < 40]
    return (
        {row.symbol: (row.price_precision, row.qty_precision) for row in rows},
        len(part.errors) + len(part.instruments) - len(rows),
    )


def test_a_handler_reads_of_a_list_what_parse_list_reads():
    odd = [b"", b"0", b"8", b"18", b"19", b"007", b"00000008", b"123456789", b"-1", b"+1", b" 1", b"x", b"1x", b"\xb2"]
    names = [b"BTC/USD", b"A/B", b"", b"X" * 39, b"X" * 40, b"\xff\xfe", b"55"]
    tags = [55, 55, 2349, 2349, 5010, 5010, 562, 146, 5032, 320, 58]
    rng = random.Random(35)
    agreed = 0
    for _ in range(2000):
        pairs = []
        for _ in range(rng.randrange(14)):
            tag = rng.choice(tags)
            usual = rng.random() < 0.6
            pairs.append((tag, rng.choice(names) if tag == 55 else rng.choice([b"1", b"2", b"8"] if usual else odd)))
        assert defined(pairs) == read_whole(pairs), pairs
        agreed += bool(defined(pairs)[0])
    assert agreed > 100
