"""The oracle follows the project's own streams to the books that they were generated from."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.oracle import Follower, frames
from tests.streams import SERVICES, generate


def scaled(value: int, precision: int) -> Decimal:
    return Decimal(value).scaleb(-precision)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("header", [(34, 49, 52, 56), None])
def test_the_oracle_agrees_with_the_generator(service, header):
    stream = generate(service, messages=600, depth=25, header=header)
    assert list(frames(stream.data)) == stream.frames
    seen = Follower().feed(stream.data)
    assert (seen.messages, seen.gaps, seen.protocol_errors) == (len(stream.frames), 0, 0)
    assert len(seen.entries) == stream.entries
    assert seen.checked == seen.ok == stream.checksums > 500
    for symbol, market in stream.markets.items():
        book, listed = seen.books[symbol], market.instrument
        for side in (0, 1):
            best_first = market.prices[side][:: 1 if side else -1]
            assert book.depth(str(side), 10**6) == [
                (
                    scaled(price, listed.price_precision),
                    scaled(sum(market.quantities(side, price)), listed.qty_precision),
                    len(market.quantities(side, price)) if book.level == "L3" else 0,
                )
                for price in best_first
            ]
        assert not book.crossed()


def test_the_same_seed_gives_the_same_bytes():
    assert generate(seed=5, messages=50).data == generate(seed=5, messages=50).data
    assert generate(seed=5, messages=50).data != generate(seed=6, messages=50).data


def test_what_makes_a_stream_worth_testing_is_in_it():
    stream = generate("derivatives-l2", messages=3000, depth=12)
    seen = Follower().feed(stream.data)
    actions = {(entry.action, entry.qty > 0) for _, _, entry in seen.entries}
    assert {("2", True), ("2", False), ("0", True), ("1", True)} <= actions
    assert {entry.side for _, _, entry in seen.entries} == {"0", "1", "2"}
    days = {
        message.sending_ns // 86_400_000_000_000 - entry.event_ns // 86_400_000_000_000
        for message, _, entry in seen.entries
    }
    assert {0, 1} <= days, "no entry of 23:59 after midnight"
    per_message: dict[int, list] = {}
    for message, _, entry in seen.entries:
        per_message.setdefault(message.seq, []).append((entry.action, entry.side, entry.price))
    assert any(("0", *row[1:]) in rows and row[0] == "2" for rows in per_message.values() for row in rows)
    assert b"268=0\x01" in stream.data
