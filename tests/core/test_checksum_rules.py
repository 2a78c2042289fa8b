"""5041 by four text rules: the books against an oracle on texts, and what a handler finds out by itself."""

from __future__ import annotations

import random
import uuid
import zlib
from decimal import Decimal

import numpy as np
import pytest

from kfix_md import Handler, State
from kfix_md._book import L2Book
from kfix_md._book_l3 import L3Book
from kfix_md._entry import ENTRY_DTYPE, Cause, MessageFlags
from kfix_md.shm.attach import attach
from kfix_md.shm.writer import SegmentWriter
from tests.core.convert import decimals_of, units
from tests.core.plain_text import (
    EXAMPLE,
    EXAMPLE_BIDS,
    EXAMPLE_OFFERS,
    EXAMPLE_PRECISIONS,
    RULES,
    Side,
    crc,
)
from tests.core.test_surprises import frame

# ---- the books ----


def entry(side: int, price: str, qty: str, action: int = 0, order: int = 0, precisions=(1, 8), queue_ns: int = 0):
    row = np.zeros(1, ENTRY_DTYPE)[0]
    row["price"], row["qty"] = units(Decimal(price), precisions[0]), units(Decimal(qty), precisions[1])
    row["side"], row["action"], row["queue_ns"] = side, action, queue_ns
    row["decimals"] = decimals_of(Decimal(price)) | decimals_of(Decimal(qty)) << 8
    if order:
        row["id_lo"], row["id_kind"] = order, 1
    return row


def test_kraken_s_l3_example_by_every_rule():
    book = L3Book(*EXAMPLE_PRECISIONS)
    rows, n = [], 0
    for side, levels in enumerate((EXAMPLE_BIDS, EXAMPLE_OFFERS)):
        for price, quantities in levels.items():
            for qty in quantities:
                n += 1
                rows.append(entry(side, price, qty, order=n, queue_ns=n))
    book.apply(np.array(rows))
    for rule, value in EXAMPLE.items():
        assert crc(EXAMPLE_BIDS, EXAMPLE_OFFERS, rule, *EXAMPLE_PRECISIONS) == value
        assert book.crc(rule) == value


def written(rng: random.Random, value: int, precision: int, finer: int = 2) -> str:
    """The number value * 10**-precision with some number of decimals that holds it, trailing zeros included."""
    text = f"{Decimal(value).scaleb(-precision):.{precision}f}"
    bare = text.rstrip("0").rstrip(".") if "." in text else text
    forms = [bare, text, text + "0" * finer] if "." in text else [text]
    return rng.choice(forms)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", [2, 3])
def test_books_by_every_rule_after_every_change(level, seed):
    rng = random.Random(seed)
    book = (L3Book if level == 3 else L2Book)(1, 8)
    orders: dict[int, tuple[int, str, str]] = {}
    number = 0
    for step in range(400):
        side = rng.randrange(2)
        price = written(rng, (1000 - rng.randrange(14)) if side == 0 else (1001 + rng.randrange(14)), 1)
        qty = written(rng, rng.randrange(1, 10**10), 8)
        mine = [key for key, (where, _, _) in orders.items() if where == side]
        if level == 2:
            same = [key for key in mine if Decimal(orders[key][1]) == Decimal(price)]
            if same and rng.random() < 0.4:
                book.apply(np.array([entry(side, price, "0", 2)]))
                del orders[same[0]]
            else:
                book.apply(np.array([entry(side, price, qty, 1 if same else 0)]))
                orders[same[0] if same else (number := number + 1)] = (side, price, qty)
        elif mine and rng.random() < 0.5:
            key = rng.choice(mine)
            if rng.random() < 0.5:
                book.apply(np.array([entry(side, orders[key][1], "0", 2, order=key)]))
                del orders[key]
            else:  # the quantity alone, sometimes only its text
                old = orders[key]
                qty = old[2] + "0" if "." in old[2] and len(old[2]) < 10 and rng.random() < 0.3 else qty
                book.apply(np.array([entry(side, old[1], qty, 1, order=key)]))
                orders[key] = (side, old[1], qty)
        else:
            number += 1
            book.apply(np.array([entry(side, price, qty, order=number)]))
            orders[number] = (side, price, qty)
        sides: list[Side] = [{}, {}]
        for where, text, amount in orders.values():  # a dict keeps the order of arrival, which is the queue's
            sides[where].setdefault(text, []).append(amount)
        if step % 3:
            continue
        rules = RULES if level == 3 else ("level", "level-sent")
        for rule in rng.sample(rules, len(rules)):
            if level == 3 and rule.startswith("order") and not one_text_a_price(sides):
                continue
            assert book.crc(rule) == crc(*sides, rule, 1, 8), (step, rule)
        for text_precisions in ((0, 8), (2, 8), (1, 6), (3, 10)):
            if exact(orders, text_precisions):
                assert book.crc("level", *text_precisions) == crc(*sides, "level", *text_precisions)


def one_text_a_price(sides: list[Side]) -> bool:
    """The oracle keeps queues per price text: they are one queue only while the price has one text."""
    return all(len({Decimal(text) for text in side}) == len(side) for side in sides)


def exact(orders: dict, precisions: tuple[int, int]) -> bool:
    return all(
        Decimal(price).scaleb(precisions[0]) % 1 == 0 and Decimal(qty).scaleb(precisions[1]) % 1 == 0
        for _, price, qty in orders.values()
    )


# ---- handlers ----


class Venue:
    """Writes W and X of one book with any checksum."""

    def __init__(self, level: str, rule: str, precisions=(1, 8), symbol: str = "X/Y", wrong: int = 0) -> None:
        self.level, self.rule, self.precisions, self.symbol, self.wrong = level, rule, precisions, symbol, wrong
        self.seq = 0
        self.orders: dict[str, tuple[int, str, str]] = {}

    def id_of(self, n: int) -> str:
        return str(uuid.UUID(int=n))

    def crc(self) -> int:
        sides: list[Side] = [{}, {}]
        for where, price, qty in self.orders.values():
            sides[where].setdefault(price, []).append(qty)
        return crc(*sides, self.rule, *self.precisions) ^ self.wrong

    def group(self, key: str, action: str = "") -> str:
        side, price, qty = self.orders[key]
        order_id = key if self.level == "L3" else "BO"[side] + price
        if action == "279=2|":
            qty = "0"
        queue = f"5273=2026-03-01T09:00:00.{int(key[-9:], 16):09d}Z|" if self.level == "L3" else ""
        return f"{action}269={side}|278={order_id}|270={price}|271={qty}|273=10:00:00.000|{queue}"

    def message(self, kind: str, groups: list[str], with_crc: bool = True) -> bytes:
        self.seq += 1
        tail = f"5041={self.crc()}|" if with_crc else ""
        head = f"35={kind}|34={self.seq}|49=K|52=20260301-10:00:00.000|56=C|55={self.symbol}|262=1|268={len(groups)}|"
        body = (head + "".join(groups) + tail).replace("|", "\x01").encode()
        text = b"8=FIX.4.4\x019=" + str(len(body)).encode() + b"\x01" + body
        return text + b"10=" + f"{sum(text) % 256:03d}".encode() + b"\x01"

    def snapshot(self) -> bytes:
        ranked = sorted(self.orders, key=lambda key: (self.orders[key][0], Decimal(self.orders[key][1])))
        return self.message("W", [self.group(key) for key in ranked])

    def put(self, n: int, side: int, price: str, qty: str) -> bytes:
        key = self.id_of(n)
        action = "279=1|" if key in self.orders else "279=0|"
        self.orders[key] = (side, price, qty)
        return self.message("X", [self.group(key, action)])


def opened(level: str, rule: str, **options) -> tuple[Handler, Venue]:
    venue = Venue(level, rule, **{key: options.pop(key) for key in ("precisions", "wrong") if key in options})
    handler = Handler(level=level, collect=True, **options)
    handler.define("X/Y", 1, 8)
    for n in range(6):
        venue.orders[venue.id_of(2 * n + 1)] = (0, f"{100 - n // 2}.5", f"1.{n}500")
        venue.orders[venue.id_of(2 * n + 2)] = (1, f"{102 + n // 2}.0", f"2.{n}")
        if level == "L2":
            venue.orders[venue.id_of(2 * n + 1)] = (0, f"{100 - n}.5", f"1.{n}500")
            venue.orders[venue.id_of(2 * n + 2)] = (1, f"{102 + n}.0", f"2.{n}")
    handler.deliver(venue.snapshot())
    return handler, venue


CASES = [("L2", "level"), ("L2", "level-sent"), *(("L3", rule) for rule in RULES)]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("level", "rule"), CASES)
def test_auto_finds_every_rule(level, rule, fast):
    shown = []
    listener = type("Listener", (), {"on_book": lambda *a: None, "on_checksum_rule": lambda _, *a: shown.append(a)})()
    handler, venue = opened(level, rule, listener=listener, allow_fast=fast)
    for step in range(20):
        flags = handler.deliver(venue.put(1, 0, "100.5", f"3.{step}0"))
        assert flags & MessageFlags.CRC_OK and handler["X/Y"].state is State.LIVE, step
    assert handler.checksum_of("X/Y") == (rule, None, "proved")
    assert handler.stats["crc_failed"] == 0
    if rule != "level" or level == "L3":
        assert shown == [(rule, "X/Y", None)] and handler.checksum == rule


@pytest.mark.parametrize(("level", "rule"), CASES)
def test_a_configured_rule_is_the_only_one(level, rule):
    handler, _ = opened(level, rule, checksum=rule)
    assert handler["X/Y"].state is State.LIVE and handler.checksum == rule
    other = "level" if rule.endswith("-sent") else "level-sent"
    handler, _ = opened(level, rule, checksum=other)
    assert handler["X/Y"].state is State.CRC_FAIL


def test_a_listener_may_define_symbols_while_a_message_is_being_applied(tmp_path):
    """What the message still notes about its own symbol is not lost with the place that the symbol had."""

    class Listener:
        def on_book(self, *_):
            pass

        def on_checksum_rule(self, rule, symbol, precisions):
            for n in range(200):
                handler.define(f"MORE{n}", 1, 8)

    with SegmentWriter("defines", tmp_path, capacity=8) as segment:
        venue = Venue("L3", "order")
        handler = Handler(level="L3", listener=Listener(), publisher=segment)
        handler.define("X/Y", 1, 8)
        venue.orders |= {venue.id_of(1): (0, "100.5", "1.5"), venue.id_of(2): (1, "102.0", "1.5")}
        handler.deliver(venue.snapshot())
        book = attach("defines", directory=tmp_path)["X/Y"]
        assert book.top() == (100.5, 1.5, 102.0, 1.5) and len(handler.symbols) == 1
        assert handler.deliver(venue.put(3, 0, "100.5", "2.25")) & MessageFlags.CRC_OK
        assert len(handler.symbols) == 201
        assert book.top() == handler["X/Y"].top() == (100.5, 3.75, 102.0, 1.5)


def test_a_text_that_alone_changes_changes_the_checksum():
    handler, venue = opened("L2", "level-sent")
    assert handler.deliver(venue.put(1, 0, "100.5", "1.5")) & MessageFlags.CRC_OK
    assert handler.deliver(venue.put(1, 0, "100.5", "1.500")) & MessageFlags.CRC_OK


def test_kraken_s_l3_example_through_a_handler():
    for rule, value in EXAMPLE.items():
        venue = Venue("L3", rule)
        handler = Handler(level="L3")
        handler.define("X/Y", *EXAMPLE_PRECISIONS)
        n = 0
        for side, levels in enumerate((EXAMPLE_BIDS, EXAMPLE_OFFERS)):
            for price, quantities in levels.items():
                for qty in quantities:
                    n += 1
                    venue.orders[venue.id_of(n)] = (side, price, qty)
        assert venue.crc() == value
        assert handler.deliver(venue.snapshot()) & MessageFlags.CRC_OK, rule
        assert handler.checksum_of("X/Y")[0] == rule


@pytest.mark.parametrize("level", ["L2", "L3"])
@pytest.mark.parametrize("precisions", [(2, 8), (1, 6), (1, 10), (3, 7)])
def test_precisions_of_the_text_that_are_not_the_instrument_s_are_found(level, precisions):
    rule = "level" if level == "L2" else "order"
    shown = []
    listener = type("Listener", (), {"on_book": lambda *a: None, "on_checksum_rule": lambda _, *a: shown.append(a)})()
    handler, venue = opened(level, rule, precisions=precisions, listener=listener)
    for step in range(10):
        assert handler.deliver(venue.put(1, 0, "100.5", f"3.{step}")) & MessageFlags.CRC_OK
    assert shown == [(rule, "X/Y", precisions)]
    assert handler.checksum_of("X/Y") == (rule, precisions, "proved")
    assert handler["X/Y"].top()[:2] == (100.5, pytest.approx(3.9 if level == "L2" else 3.9 + 1.15))


@pytest.mark.parametrize(("price", "qty"), [(7, -3), (-2, -3), (0, -6)])
@pytest.mark.parametrize("level", ["L2", "L3"])
def test_a_text_in_thousands_is_found(level, price, qty):
    """A negative precision is that of the text; books are kept in whole numbers."""
    handler = Handler(level=level)
    handler.define("PEPE", price, qty)
    unit, lot = 10 ** max(0, -price), 10**-qty
    fields = [(1, 130 * unit, 5 * lot), (0, 120 * unit, 7 * lot)]
    texts = [f"{Decimal(p).scaleb(-max(price, 0)):f}" for _, p, _ in fields]
    groups = "".join(
        f"269={side}|278=O{n}|270={text}|271={q}|273=12:00:00.000|"
        for n, ((side, _, q), text) in enumerate(zip(fields, texts, strict=True))
    )
    handler.on_bytes(frame("W", 2, f"55=PEPE|262=1|268=2|{groups}"))
    want = zlib.crc32(b"1306" + b"1207")
    update = f"279=1|269=1|278=O0|270={texts[0]}|271={6 * lot}|273=12:00:00.000|"
    handler.on_bytes(frame("X", 3, f"55=PEPE|262=1|268=1|{update}5041={want}|"))
    assert handler["PEPE"].state is State.LIVE and handler.stats["crc_ok"] == 1
    assert handler.checksum_of("PEPE")[1] == (price, qty)


def test_one_odd_symbol_does_not_decide_for_the_others():
    handler, venue = opened("L3", "order")
    handler.deliver(venue.put(1, 0, "100.5", "7"))
    odd = Venue("L3", "level-sent", symbol="ODD/Y")
    odd.orders = dict(venue.orders)
    handler.define("ODD/Y", 1, 8)
    handler.deliver(odd.snapshot())
    assert handler.checksum_of("ODD/Y")[0] == "level-sent" and handler.checksum_of("X/Y")[0] == "order"
    assert handler.deliver(venue.put(1, 0, "100.5", "8")) & MessageFlags.CRC_OK
    assert handler.checksum == "order"


# ---- an unknown rule ----


def again(handler: Handler, venue: Venue) -> int:
    """A fresh snapshot, as after a new subscription."""
    handler.mark("X/Y", State.SYNCING, Cause.CRC)
    return handler.deliver(venue.snapshot())


@pytest.mark.parametrize("level", ["L2", "L3"])
def test_a_rule_nobody_knows_is_unverified_after_three_snapshots_and_followed(level):
    handler, venue = opened(level, "level", wrong=0x5555)
    book = handler["X/Y"]
    assert (book.state, book.cause) == (State.CRC_FAIL, Cause.CRC)
    again(handler, venue)
    assert book.state is State.CRC_FAIL
    flags = MessageFlags(again(handler, venue))
    assert (book.state, book.cause) == (State.UNVERIFIED, Cause.RULE)
    assert (
        flags & MessageFlags.UNVERIFIED
        and flags & MessageFlags.BAD_BOOK
        and not flags & (MessageFlags.CRC_OK | MessageFlags.IGNORED)
    )
    assert handler.checksum_of("X/Y")[2] == "unknown"
    for step in range(20):
        flags = MessageFlags(handler.deliver(venue.put(1, 0, "100.5", f"{step + 1}")))
        assert flags & MessageFlags.UNVERIFIED and book.state is State.UNVERIFIED
    assert book.top(allow_stale=True)[0] == 100.5 and handler.stats["unverified"] == 21
    assert handler.stats["crc_failed"] == 2
    venue.wrong = 0  # the rule becomes a known one
    for step in range(7):
        flags = MessageFlags(handler.deliver(venue.put(1, 0, "100.5", f"{step + 30}")))
        assert flags & MessageFlags.CRC_OK and flags & MessageFlags.UNVERIFIED and book.state is State.UNVERIFIED, step
    flags = MessageFlags(handler.deliver(venue.put(1, 0, "100.5", "50")))
    assert flags & MessageFlags.CRC_OK and not flags & (MessageFlags.UNVERIFIED | MessageFlags.BAD_BOOK)
    assert (book.state, book.cause) == (State.LIVE, Cause.NONE)


def test_the_run_starts_anew_with_a_message_that_no_rule_explains():
    handler, venue = opened("L2", "level", wrong=1)
    again(handler, venue)
    again(handler, venue)
    for round_ in range(3):
        venue.wrong = 0
        for step in range(7):
            handler.deliver(venue.put(1, 0, "100.5", f"{step + 1 + 10 * round_}"))
        venue.wrong = 1
        handler.deliver(venue.put(1, 0, "100.5", "99"))
        assert handler["X/Y"].state is State.UNVERIFIED


def test_what_is_known_of_a_rule_outlives_a_connection_but_not_new_precisions():
    handler, venue = opened("L2", "level", wrong=1)
    again(handler, venue)
    again(handler, venue)
    handler.mark("X/Y", State.DOWN, Cause.DISCONNECT)
    handler.deliver(venue.snapshot())
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.UNVERIFIED, Cause.RULE)
    handler.define("X/Y", 2, 8)
    handler.deliver(venue.snapshot())
    assert handler["X/Y"].state is State.CRC_FAIL


def test_a_real_fault_in_a_proved_book_is_still_crc_fail():
    handler, venue = opened("L2", "level")
    for _ in range(5):
        handler.deliver(venue.put(1, 0, "100.5", "2"))
        venue.wrong = 1
        handler.deliver(venue.put(1, 0, "100.5", "3"))
        assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.CRC_FAIL, Cause.CRC)
        venue.wrong = 0
        again(handler, venue)
        assert handler["X/Y"].state is State.LIVE


def crossed_by_its_snapshot() -> Handler:
    """A book whose snapshot, without 5041, has its best bid above its best offer."""
    handler = Handler(checksum="level", level="L2")
    handler.define("X/Y", 1, 0)
    groups = "".join(f"269={s}|278={'BO'[s]}{p}|270={p}|271=1|273=12:00:00.000|" for s, p in ((0, "10.5"), (1, "10.4")))
    handler.deliver(frame("W", 1, f"55=X/Y|262=1|268=2|{groups}"))
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.UNVERIFIED, Cause.CROSSED)
    return handler


def offer(seq: int, price: str, action: int = 0, crc: str = "") -> bytes:
    """An X of one offer."""
    group = f"279={action}|269=1|278=O{price}|270={price}|271=1|273=12:00:00.000|"
    return frame("X", seq, f"55=X/Y|262=1|268=1|{group}{crc}")


def test_a_snapshot_that_is_crossed_waits_for_the_next_5041():
    handler = crossed_by_its_snapshot()
    assert handler.deliver(offer(2, "10.9")) & 1024  # no 5041: still followed, and marked
    assert handler["X/Y"].state is State.UNVERIFIED
    crc = zlib.crc32(b"1041" + b"1091" + b"1111" + b"1051")
    flags = handler.deliver(offer(3, "11.1", crc=f"5041={crc}|"))
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.LIVE, Cause.NONE) and not flags & (1024 | 32)
    crc = zlib.crc32(b"1041" + b"1091" + b"1111" + b"1121" + b"1051")
    handler.deliver(offer(4, "11.2", crc=f"5041={crc}|"))
    assert handler["X/Y"].state is State.LIVE  # crossed as the venue's own book is
    handler.deliver(offer(5, "11.3"))  # and without that proof it is not to be trusted
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.CRC_FAIL, Cause.CROSSED)


def test_a_snapshot_that_is_crossed_and_wrong_is_found_by_the_next_5041():
    handler = crossed_by_its_snapshot()
    handler.deliver(offer(2, "10.9", crc="5041=1|"))
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.CRC_FAIL, Cause.CRC)


def test_a_snapshot_that_is_crossed_is_live_when_it_uncrosses():
    handler = crossed_by_its_snapshot()
    handler.deliver(offer(2, "10.9"))
    handler.deliver(offer(3, "10.4", action=2))
    assert (handler["X/Y"].state, handler["X/Y"].cause) == (State.LIVE, Cause.NONE)


def test_a_crossed_book_is_never_taken_for_an_unknown_rule():
    handler, venue = opened("L2", "level", wrong=1)
    venue.orders[venue.id_of(99)] = (0, "103.0", "1")
    for _ in range(6):
        again(handler, venue)
        assert handler["X/Y"].state is State.CRC_FAIL


def test_a_halt_and_a_gap_come_before_unverified():
    handler, venue = opened("L2", "level", wrong=1)
    again(handler, venue)
    handler.mark("X/Y", State.HALTED, Cause.STATUS)
    again(handler, venue)
    assert handler["X/Y"].state is State.HALTED
    handler.mark("X/Y", State.LIVE)
    assert handler["X/Y"].state is State.UNVERIFIED
