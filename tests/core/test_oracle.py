"""The oracle is compared with what is known from outside: the documentation and the exchange's own CRCs."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from tests.oracle import FixError, Follower, frames
from tests.streams.wire import example, frame

TEXT = frame("0", [(34, "5"), (49, "A"), (56, "B"), (52, "20240101-00:00:00.000")])


def test_the_worked_example_of_the_documentation():
    seen = Follower().feed(example())
    book = seen.books["BTC/USD"]
    assert book.checksum("level") == 3341325816
    assert (seen.checked, seen.ok) == (1, 1)
    assert book.depth("1", 1) == [(Decimal("28013.0"), Decimal("0.00096506"), 0)]


@pytest.mark.parametrize("name", ["spot-l2", "derivatives-l2"])
def test_real_l2_streams(name, capture, captures):
    known = json.loads((captures / f"{name}.fix.gz.json").read_text())
    seen = Follower().feed(capture(name))
    assert (seen.messages, seen.gaps, seen.protocol_errors) == (known["messages"], 0, 0)
    assert seen.checked == seen.ok == known.get("exchange_crc_matched", seen.checked)
    for symbol, want in known["symbols"].items():
        book = seen.books[symbol]
        for side, key in (("0", "best_bid"), ("1", "best_offer")):
            assert book.depth(side, 1)[0][:2] == tuple(Decimal(text) for text in want[key])
        assert [len(book.prices(side)) for side in "01"] == want["levels"]


def test_real_l3_stream(l3_oracle, captures):
    known = json.loads((captures / "derivatives-l3.fix.gz.json").read_text())
    seen, book = l3_oracle.follower, l3_oracle.book
    assert (seen.messages, seen.gaps, seen.protocol_errors) == (known["messages"], 0, 0)
    assert seen.with_crc == known["updates"]
    assert seen.checked == seen.ok == known["updates"] // 10
    assert seen.rules == {"order"}
    assert len(book.orders) == known["orders_left"]
    for side, key in (("0", "b"), ("1", "a")):
        price, levels = known["best"][key]
        assert (book.best(side, 1)[0], len(book.prices(side))) == (Decimal(price), levels)


@pytest.mark.parametrize(
    "wrong",
    [
        TEXT.replace(b"9=", b"9=0", 1)[:-4] + b"000\x01",
        TEXT[:-4] + b"999\x01",
        TEXT[1:],
        b"x" + TEXT,
    ],
)
def test_damaged_frames_are_rejected(wrong):
    assert list(frames(TEXT)) == [TEXT]
    with pytest.raises((FixError, ValueError)):
        list(frames(wrong))
