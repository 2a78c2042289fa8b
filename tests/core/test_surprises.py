"""What the venue may send beyond the documentation costs the field, entry or message it is in, and nothing else."""

from __future__ import annotations

import re

import pytest

from kfix_md import Handler
from kfix_md._codec import Codec, fields, id_key, id_text
from kfix_md._entry import IdKind
from tests.oracle import fields as plain_fields
from tests.streams.wire import seal

HEAD = "35=%s|34=%d|49=KRAKEN-MD|52=%s|56=ME|"
CLOCK = "20240301-12:00:00.000"
SYMBOLS = ("BTC/USD", "ETH/USD", "SOL/USD")


def frame(kind: str, seq: int, body: str, sent: str = CLOCK) -> bytes:
    """A sound frame of fields written with | for SOH."""
    return seal((HEAD % (kind, seq, sent) + body).encode("latin-1").replace(b"|", b"\x01"))


def listed(*symbols: str) -> bytes:
    """A 35=y of instruments with one price decimal and two quantity decimals."""
    groups = "".join(f"55={symbol}|5010=2|2349=1|5032=1|" for symbol in symbols)
    return frame("y", 1, f"320=1|322=1|560=0|146={len(symbols)}|{groups}")


def entry(side: str, price: str, qty: str = "1", more: str = "", action: str = "0") -> str:
    """One group of an X."""
    return f"279={action}|269={side}|278={'BO'[side == '1']}{price}|270={price}|271={qty}|273=12:00:00.000|{more}"


def started(*, fast: bool = True, symbols: tuple[str, ...] = SYMBOLS, **options) -> Handler:
    """A handler whose books have one bid at 10.0 and one offer at 11.0 each; the next MsgSeqNum is 10."""
    handler = Handler(allow_fast=fast, **options)
    handler.on_bytes(listed(*symbols))
    for seq, symbol in enumerate(symbols, 2):
        groups = (entry("0", "10.0") + entry("1", "11.0")).replace("279=0|", "")
        handler.on_bytes(frame("W", seq, f"55={symbol}|262=1|268=2|{groups}"))
    handler.sequence.expected = 10
    return handler


def subscribed(fast: bool) -> Handler:
    """The same with a subscription of each symbol of its own: b, e and n; the next MsgSeqNum is 5."""
    handler = Handler(allow_fast=fast)
    handler.on_bytes(listed("BTC/USD", "ETH/USD", "NEW/USD"))
    for seq, (name, own) in enumerate([("BTC/USD", "b"), ("ETH/USD", "e"), ("NEW/USD", "n")], 2):
        handler.subscribe(name, own)
        groups = (entry("0", "10.0") + entry("1", "11.0")).replace("279=0|", "")
        handler.on_bytes(frame("W", seq, f"55={name}|262={own}|268=2|{groups}"))
    return handler


def states(handler: Handler) -> list[str]:
    """Names of the states of all books."""
    return [handler[symbol].state.name for symbol in handler.symbols]


both_paths = pytest.mark.parametrize("fast", [True, False])


# ---- what is no part of a book ----


@both_paths
@pytest.mark.parametrize(
    "extra",
    [
        "279=0|269=4|270=9.0|271=1|273=12:00:00.000|",  # OpeningPrice
        "279=0|269=B|271=1|",  # TradeVolume: no price, no id, no time
        "279=0|269=J|",  # EmptyBook
        "279=7|269=XY|270=abc|271=-1|273=now|",
        "279=0|269=12|278=x|270=1e9999|",
    ],
)
def test_an_entry_of_another_kind_is_left_out(fast, extra):
    handler = started(fast=fast, collect=True)
    handler.ticks()
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=2|{extra}{entry('0', '10.5')}"))
    handler.on_bytes(frame("X", 11, f"55=BTC/USD|262=1|268=2|{entry('1', '10.8')}{extra}"))
    handler.on_bytes(frame("X", 12, f"55=BTC/USD|262=1|268=1|{extra}"))
    assert states(handler) == ["LIVE"] * 3
    assert handler["BTC/USD"].top()[:4] == (10.5, 1.0, 10.8, 1.0)
    stats = handler.stats
    assert (stats["left_out"], stats["malformed"], stats["entries"]) == (3, 0, 8)
    assert [tick["entry_flags"] & 2 for tick in handler.ticks()] == [2, 2]  # each is the last of its message


@both_paths
@pytest.mark.parametrize(
    ("text", "ord_type", "aggressor"),
    [
        ("40=1|2446=2|", 1, 2),
        ("40=R|2446=X|", 0, 0),
        ("40=12|2446=21|", 0, 0),
        ("40=3|2446=9|", 3, 9),
        ("2446=1|", 0, 1),
        ("9999=new|40=2|", 2, 0),
    ],
)
def test_codes_that_nobody_knows_are_kept_as_unknown(fast, text, ord_type, aggressor):
    handler = started(fast=fast, collect=True)
    handler.ticks()
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=1|{entry('2', '10.5', more=text)}"))
    handler.on_bytes(frame("X", 11, f"55=BTC/USD|262=1|268=1|{entry('0', '10.2', more=text)}"))
    trade, bid = handler.ticks()
    assert (trade["ord_type"], trade["aggressor"]) == (ord_type, aggressor)
    assert states(handler) == ["LIVE"] * 3 and bid["price"] == 102
    assert handler.stats["malformed"] == 0


@both_paths
@pytest.mark.parametrize(
    "trade",
    [
        entry("2", "10.55"),  # finer than the precision
        entry("2", "10.5", "92233720368547758070"),
        entry("2", "10.5", "0"),
        entry("2", "10.5", action="5"),
        entry("2", "ten"),
        "279=0|269=2|270=10.5|278=x|273=12:00:00.000|",
        "279=0|269=2|270=10.5|271=|",
    ],
)
def test_a_trade_that_cannot_be_read_costs_no_book(fast, trade):
    handler = started(fast=fast)
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=3|{entry('2', '10.5')}{trade}{entry('0', '10.1')}"))
    assert states(handler) == ["LIVE"] * 3
    assert handler["BTC/USD"].top()[0] == 10.1
    assert (handler.stats["trades"], handler.stats["left_out"], handler.stats["malformed"]) == (1, 1, 0)


@both_paths
@pytest.mark.parametrize(
    ("more", "bad_times"),
    [
        ("", 0),
        ("273=|", 0),
        ("273=noon|", 1),
        ("273=25:00:00.000|5060=yesterday|", 2),
        ("5060=|", 0),
    ],
)
def test_an_entry_without_a_readable_time_has_that_of_its_message(fast, more, bad_times):
    handler = started(fast=fast, collect=True)
    handler.ticks()
    plain, sent = "279=0|269=0|278=B10.5|270=10.5|271=1|", "20240301-12:00:00.250"
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=2|{plain}{more}{entry('1', '10.8')}", sent))
    bid, offer = handler.ticks()
    assert states(handler) == ["LIVE"] * 3 and handler["BTC/USD"].top()[:4] == (10.5, 1.0, 10.8, 1.0)
    assert bid["event_ns"] == bid["sending_ns"] > 0 and offer["event_ns"] != offer["sending_ns"]
    assert (handler.stats["bad_times"], handler.stats["malformed"]) == (bad_times, 0)


@both_paths
@pytest.mark.parametrize("field", ["40=|", "2446=|", "58=|", "9999=|"])
def test_an_empty_field_that_is_no_part_of_a_book_costs_nothing(fast, field):
    handler = started(fast=fast)
    handler.on_bytes(
        frame(
            "X",
            10,
            f"55=BTC/USD|262=1|{field if '40' not in field else ''}268=2|"
            f"{entry('0', '10.5', more=field)}{entry('2', '10.6', more=field)}{field}",
        )
    )
    assert states(handler) == ["LIVE"] * 3 and handler["BTC/USD"].top()[0] == 10.5
    assert (handler.stats["trades"], handler.stats["malformed"]) == (1, 0)


@both_paths
@pytest.mark.parametrize("field", ["270", "271", "278", "279"])
def test_an_empty_field_of_an_entry_costs_its_book(fast, field):
    handler = started(fast=fast)
    text = re.sub(rf"\b{field}=[^|]*", f"{field}=", entry("0", "10.5"))
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=2|{entry('1', '10.8')}{text}"))
    assert sorted(states(handler)) == ["LIVE", "LIVE", "STALE"] and handler["BTC/USD"].cause.name == "MALFORMED"
    handler.on_bytes(frame("X", 11, f"55=ETH/USD|262=1|268=2|{entry('1', '10.8')}{text.replace('269=0', '269=7')}"))
    assert states(handler).count("LIVE") == (2 if field != "279" else 1)


@both_paths
def test_a_level_needs_no_id_and_an_order_does(fast):
    handler = started(fast=fast)
    level = "279=0|269=0|270=10.5|271=1|273=12:00:00.000|"
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=1|{level}"))
    assert states(handler) == ["LIVE"] * 3 and handler["BTC/USD"].top()[0] == 10.5
    orders = Handler(allow_fast=fast, level="L3")
    orders.on_bytes(listed("BTC/USD", "ETH/USD"))
    for seq, symbol in enumerate(("BTC/USD", "ETH/USD"), 2):
        both = (entry("0", "10.0") + entry("1", "11.0")).replace("279=0|", "")
        orders.on_bytes(frame("W", seq, f"55={symbol}|262=1|268=2|{re.sub('278=.', '278=x', both)}"))
    assert states(orders) == ["LIVE"] * 2
    orders.on_bytes(frame("X", 4, f"55=BTC/USD|262=1|268=1|{level}"))
    assert (orders["BTC/USD"].state.name, orders["BTC/USD"].cause.name) == ("STALE", "MALFORMED")
    assert orders["ETH/USD"].state.name == "LIVE" and orders.stats["malformed"] == 1


@both_paths
def test_an_unknown_action_on_a_level_costs_its_book(fast):
    handler = started(fast=fast)
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=1|{entry('0', '10.5', action='5')}"))
    assert states(handler) == ["STALE", "LIVE", "LIVE"]


# ---- two symbols, or two requests, in one message ----


@both_paths
def test_each_entry_goes_to_its_own_symbol(fast):
    handler = started(fast=fast, collect=True)
    handler.ticks()
    groups = [
        entry("0", "10.1", more="55=BTC/USD|"),
        entry("1", "10.9", more="55=ETH/USD|"),
        entry("1", "10.8", more="55=BTC/USD|"),
    ]
    handler.on_bytes(frame("X", 10, f"262=1|268=3|{''.join(groups)}5041=1|"))
    assert states(handler) == ["LIVE"] * 3  # 5041 is of no book that it names
    assert [handler[symbol].top()[:3:2] for symbol in handler.symbols] == [(10.1, 10.8), (10.0, 10.9), (10.0, 11.0)]
    ticks = handler.ticks()
    assert ticks["instrument"].tolist() == [0, 0, 1] and ticks["entry_no"].tolist() == [0, 1, 2]
    assert [bool(flag & 2) for flag in ticks["entry_flags"].tolist()] == [False, True, True]


@both_paths
@pytest.mark.parametrize("request_id", ["b", "e"])
def test_the_one_262_of_a_message_of_two_symbols_is_that_of_either(fast, request_id):
    """With subscriptions of their own no entry may be taken for late: the book would be LIVE without it."""
    handler = Handler(allow_fast=fast)
    handler.on_bytes(listed("BTC/USD", "ETH/USD", "NEW/USD"))
    for seq, (symbol, own) in enumerate([("BTC/USD", "b"), ("ETH/USD", "e")], 2):
        handler.subscribe(symbol, own)
        groups = (entry("0", "10.0") + entry("1", "11.0")).replace("279=0|", "")
        handler.on_bytes(frame("W", seq, f"55={symbol}|262={own}|268=2|{groups}"))
    groups = [
        entry("0", f"10.{i}", more=f"55={symbol}|") for i, symbol in enumerate(("BTC/USD", "ETH/USD", "NEW/USD"), 1)
    ]
    handler.on_bytes(frame("X", 4, f"55=BTC/USD|262={request_id}|268=3|{''.join(groups)}"))
    assert [handler[symbol].top()[0] for symbol in ("BTC/USD", "ETH/USD")] == [10.1, 10.2]
    assert handler["NEW/USD"].state.name == "INIT"  # not subscribed
    handler.on_bytes(frame("X", 5, f"262=old|268=3|{''.join(groups).replace('270=10', '270=9')}"))
    assert [handler[symbol].top()[0] for symbol in ("BTC/USD", "ETH/USD")] == [10.1, 10.2]
    assert handler.stats["late"] == 4


@both_paths
def test_each_entry_may_have_its_own_symbol_and_request(fast):
    handler = subscribed(fast)

    def group(price: str, symbol: str, request_id: str) -> str:
        return entry("0", price, more=f"55={symbol}|262={request_id}|")

    groups = [group("10.1", "BTC/USD", "b"), group("10.3", "ETH/USD", "e"), group("10.4", "BTC/USD", "b")]
    handler.on_bytes(frame("X", 5, f"268=3|{''.join(groups)}"))
    assert [handler[symbol].top()[0] for symbol in ("BTC/USD", "ETH/USD")] == [10.4, 10.3]
    late = [group("10.6", "BTC/USD", "x"), group("10.6", "ETH/USD", "y")]  # of earlier subscriptions
    handler.on_bytes(frame("X", 6, f"268=2|{''.join(late)}"))
    assert handler.stats["late"] == 2 and handler.stats["malformed"] == 0 and states(handler) == ["LIVE"] * 3
    # one of each: a recorder has one verdict for the message, so that its current entries are not applied either
    flags = handler.deliver(frame("X", 7, f"268=2|{groups[0]}{late[1]}"))
    assert flags & (128 | 32) == 128 | 32 and states(handler) == ["STALE", "LIVE", "LIVE"]
    assert handler["BTC/USD"].top(allow_stale=True)[0] == 10.4


@both_paths
@pytest.mark.parametrize(
    "body",
    [
        entry("0", "10.5", more="55=BTC/USD|262=b|") + entry("0", "10.5", more="55=ETH/USD|"),
        entry("0", "10.5", more="55=BTC/USD|262=b|262=e|") + entry("0", "10.5", more="55=ETH/USD|262=e|"),
        "262=b|" + entry("0", "10.5", more="55=BTC/USD|262=b|") + entry("0", "10.5", more="55=ETH/USD|262=e|"),
    ],
    ids=["one-without", "two-in-one", "outside-too"],
)
def test_requests_that_are_not_one_for_each_entry_cost_both_books(fast, body):
    handler = subscribed(fast)
    head, groups = ("262=b|", body[6:]) if body.startswith("262") else ("", body)
    handler.on_bytes(frame("X", 5, f"{head}268=2|{groups}"))
    applied = [len(handler[symbol].depth(9, allow_stale=True)[0]) == 2 for symbol in ("BTC/USD", "ETH/USD")]
    stale = [state == "STALE" for state in states(handler)]
    assert stale == [not applied[0], not applied[1], False]  # never LIVE without its entries


@both_paths
@pytest.mark.parametrize("symbol", ["", "55=|"])
def test_a_message_without_a_symbol_costs_the_book_of_its_request(fast, symbol):
    handler = subscribed(fast)
    handler.on_bytes(frame("X", 5, f"{symbol}262=e|268=1|{entry('0', '10.5')}"))
    assert states(handler) == ["LIVE", "STALE", "LIVE"]
    handler.on_bytes(frame("X", 6, f"{symbol}262=?|268=1|{entry('0', '10.5')}"))  # of any book
    assert states(handler) == ["STALE"] * 3


@both_paths
def test_the_groups_may_begin_with_their_symbol(fast):
    handler = started(fast=fast)
    body = f"55=ETH/USD|{entry('0', '10.1')}55=BTC/USD|{entry('0', '10.2')}55=NEW/USD|{entry('0', '10.3')}"
    handler.on_bytes(frame("X", 10, f"262=1|268=3|{body}"))
    assert [handler[symbol].top()[0] for symbol in handler.symbols] == [10.2, 10.1, 10.0]
    assert handler.stats["unknown_symbol"] == 1 and states(handler) == ["LIVE"] * 3


@both_paths
def test_a_fault_in_one_symbols_entry_costs_that_symbol(fast):
    handler = started(fast=fast)
    body = entry("0", "10.1", more="55=BTC/USD|") + entry("0", "10.25", more="55=ETH/USD|")
    handler.on_bytes(frame("X", 10, f"262=1|268=2|{body}"))
    assert states(handler) == ["LIVE", "STALE", "LIVE"]
    assert handler["BTC/USD"].top()[0] == 10.1


@both_paths
@pytest.mark.parametrize(
    "body",
    [
        f"55=BTC/USD|55=ETH/USD|262=1|268=1|{entry('0', '10.5')}",
        f"55=BTC/USD|262=1|268=1|{entry('0', '10.5')}55=ETH/USD|",
        f"55=BTC/USD|262=1|268=2|{entry('0', '10.5', more='55=ETH/USD|')}{entry('0', '10.6')}",
        f"262=1|268=2|{entry('0', '10.5', more='55=ETH/USD|55=BTC/USD|')}{entry('0', '10.6', more='55=ETH/USD|')}",
        f"55=BTC/USD|262=1|268=2|{entry('0', '10.5', more='55=ETH/USD|')}{entry('0', '10.6', more='55=NEW/USD|')}",
    ],
)
def test_a_message_of_two_symbols_is_rejected_for_both(fast, body):
    handler = started(fast=fast)
    handler.on_bytes(frame("X", 10, body))
    assert states(handler) == ["STALE", "STALE", "LIVE"]
    assert handler["ETH/USD"].top(allow_stale=True)[0] == 10.0  # nothing was applied
    assert handler["BTC/USD"].top(allow_stale=True)[0] == 10.0


@both_paths
def test_a_message_of_two_requests_is_rejected(fast):
    handler = started(fast=fast)
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|262=2|268=1|{entry('0', '10.5')}"))
    assert states(handler) == ["STALE", "LIVE", "LIVE"]


@both_paths
def test_the_same_symbol_twice_is_one_symbol(fast):
    handler = started(fast=fast)
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=1|{entry('0', '10.5', more='55=BTC/USD|')}"))
    assert states(handler) == ["LIVE"] * 3
    assert handler["BTC/USD"].top()[0] == 10.5


# ---- numbers and times ----


@both_paths
def test_a_number_that_does_not_fit_is_reported_once_with_its_text(fast):
    class Listener:
        def __init__(self):
            self.reported = []

        def on_book(self, *_):
            pass

        def on_number(self, *values):
            self.reported.append(values)

    listener = Listener()
    handler = started(fast=fast, listener=listener)
    large = "92233720368547758.08"
    for seq in (10, 11):
        body = entry("0", "10.5") + entry("1", "10.9", large)
        handler.on_bytes(frame("X", seq, f"55=BTC/USD|262=1|268=2|{body}"))
    assert states(handler) == ["STALE", "LIVE", "LIVE"]
    assert handler["BTC/USD"].cause.name == "NUMBER"
    assert listener.reported == [("BTC/USD", 271, large)]


@both_paths
@pytest.mark.parametrize("fraction", ["", ".5", ".123456789", ".1234567891", ".123456789012", "." + "1" * 40])
def test_times_with_any_number_of_decimals(fast, fraction):
    handler = started(fast=fast, collect=True)
    handler.ticks()
    body = (
        f"279=0|269=0|278=x|270=10.5|271=1|273=12:00:00{fraction}|5060=2024-03-01T12:00:00{fraction}Z|"
        f"5273=2024-03-01T12:00:00{fraction}Z|"
    )
    handler.on_bytes(frame("X", 10, f"55=BTC/USD|262=1|268=1|{body}", f"20240301-12:00:00{fraction}"))
    assert states(handler) == ["LIVE"] * 3
    (tick,) = handler.ticks()
    ns = int(fraction[1:10].ljust(9, "0") or 0)
    assert {int(tick[name]) % 10**9 for name in ("event_ns", "queue_ns", "sending_ns")} == {ns}


# ---- data fields ----


LOOKALIKES = [
    "354=11|355=x|271=9.0|y|",
    "95=8|96=|34=99|z|",
    "93=6|89=55=A|b|",
    "621=5|622=268=9|",
]


@pytest.mark.parametrize("data", LOOKALIKES)
def test_a_data_field_is_read_by_its_length(data):
    whole = frame("X", 10, f"55=BTC/USD|262=1|{data}268=1|{entry('0', '10.5', '0.5')}")
    (length, tag) = data.split("=")[0], data.split("|")[1].split("=")[0]
    value = data[data.index(f"|{tag}=") + len(tag) + 2 : -1].replace("|", "\x01").encode()
    assert dict(fields(whole))[int(tag)] == value and len(value) == int(dict(fields(whole))[int(length)])
    assert fields(whole) == plain_fields(whole)
    for fast in (True, False):
        handler = started(fast=fast)
        handler.on_bytes(whole)
        assert states(handler) == ["LIVE"] * 3
        assert handler["BTC/USD"].top()[:2] == (10.5, 0.5)


def test_a_data_field_in_the_header():
    handler = started()
    body = f"213=|34=77|x|55=BTC/USD|262=1|268=1|{entry('0', '10.5')}".encode().replace(b"|", b"\x01")
    head = b"35=X\x0149=KRAKEN-MD\x0156=ME\x01212=8\x01"
    tail = b"34=10\x0152=20240301-12:00:00.000\x01"
    handler.on_bytes(seal(head + body[:13] + tail + body[13:]))
    assert states(handler) == ["LIVE"] * 3 and handler["BTC/USD"].top()[0] == 10.5
    assert handler.sequence.expected == 11


@pytest.mark.parametrize("data", ["354=999999|355=x|", "354=2|355=xyz|", "354=x|355=y|", "354=1|58=a|355=b|"])
def test_a_wrong_length_is_ignored(data):
    whole = frame("X", 10, f"55=BTC/USD|262=1|{data}268=1|{entry('0', '10.5')}")
    assert fields(whole) == plain_fields(whole)
    assert [tag for tag, _ in fields(whole)].count(355) == 1
    handler = started()
    handler.on_bytes(whole)
    assert states(handler) == ["LIVE"] * 3 and handler["BTC/USD"].top()[0] == 10.5


def test_a_data_field_that_runs_to_the_end():
    assert fields(b"354=3\x01355=a\x01b\x01") == [(354, b"3"), (355, b"a\x01b")]
    assert fields(b"354=3\x01355=a\x01b") == [(354, b"3"), (355, b"a\x01b")]


# ---- ids ----


def murmur(data: bytes) -> tuple[int, int]:
    """MurmurHash3_x64_128 with seed 0, from its public description."""
    mask = (1 << 64) - 1

    def rotate(x: int, r: int) -> int:
        return (x << r | x >> (64 - r)) & mask

    def mix(k: int) -> int:
        k = (k ^ k >> 33) * 0xFF51AFD7ED558CCD & mask
        k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return k ^ k >> 33

    c1, c2, a, b = 0x87C37B91114253D5, 0x4CF5AD432745937F, 0, 0
    for at in range(0, len(data), 16):
        block = data[at : at + 16]
        k1 = int.from_bytes(block[:8], "little") * c1 & mask
        k2 = int.from_bytes(block[8:], "little") * c2 & mask
        a ^= rotate(k1, 31) * c2 & mask
        if len(block) == 16:
            a = ((rotate(a, 27) + b) * 5 + 0x52DCE729) & mask
        b ^= rotate(k2, 33) * c1 & mask
        if len(block) == 16:
            b = ((rotate(b, 31) + a) * 5 + 0x38495AB5) & mask
    a, b = a ^ len(data), b ^ len(data)
    a = (a + b) & mask
    b = (b + a) & mask
    a, b = mix(a), mix(b)
    a = (a + b) & mask
    return a, (a + b) & mask


def test_long_ids_are_hashed():
    assert murmur(b"The quick brown fox jumps over the lazy dog") == (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)
    for n in (17, 20, 31, 32, 33, 100):
        text = "".join(chr(33 + i % 90) for i in range(n))
        assert id_key(text) == (IdKind.TABLE, *murmur(text.encode()))
    assert id_key("short") == (IdKind.TEXT, int.from_bytes(b"short\0\0\0"), 0)
    assert id_text(IdKind.TABLE, 1, 2) == "#" + f"{1:016x}{2:016x}"


def test_every_byte_of_an_id_of_the_venues_form_counts():
    """Sixteen digits to the base of 36, read at once: each digit at each place, and each byte that is none."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    places = [*range(1, 6), *range(7, 12), *range(13, 19)]
    for place in range(19):
        for byte in range(1, 256):
            text = "OQCLML-BW3P3-BUCMWZ"
            text = text[:place] + chr(byte) + text[place + 1 :]
            sound = chr(byte) in digits if place in places else byte == ord("OQCLML-BW3P3-BUCMWZ"[place])
            kind, hi, lo = id_key(text)
            assert kind == (IdKind.KRAKEN if sound else IdKind.TABLE), text
            if sound:
                number = "".join(text[at] for at in places)
                assert (hi, lo) == (int(number[:8], 36), int(number[8:], 36)), text


def test_more_long_ids_than_any_table_holds():
    """Ids that came and went cost nothing: the orders of a book stay distinct whatever came before."""
    handler = Handler(level="L3")
    handler.on_bytes(listed("BTC/USD"))

    def order(side: int, price: str, number: int, action: str = "0", qty: str = "1") -> str:
        return f"279={action}|269={side}|278=order-{number:018d}|270={price}|271={qty}|273=12:00:00.000|"

    opening = (order(0, "10.0", 0) + order(1, "20.0", 1)).replace("279=0|", "")
    handler.on_bytes(frame("W", 2, f"55=BTC/USD|262=1|268=2|{opening}"))
    number, seq = 2, 3
    for _ in range(40):
        groups = ""
        for _ in range(250):
            groups += order(0, "9.0", number) + order(0, "9.0", number, "2", "0")
            number += 1
        handler.on_bytes(frame("X", seq, f"55=BTC/USD|262=1|268=500|{groups}"))
        seq += 1
    last = order(0, "10.1", number) + order(0, "10.2", number + 1) + order(1, "19.9", number + 2)
    handler.on_bytes(frame("X", seq, f"55=BTC/USD|262=1|268=3|{last}"))
    assert handler.book("BTC/USD").counts == (3, 2) and handler.book("BTC/USD").order_counts == (3, 2)
    assert states(handler) == ["LIVE"] and not handler.codec.id_table


def test_texts_of_long_ids_are_kept_for_one_batch():
    handler = Handler(level="L3", collect=True)
    handler.on_bytes(listed("BTC/USD"))
    for seq in (2, 3):
        text = f"an-order-id-of-more-than-16-{seq}"
        group = f"269=0|278={text}|270=10.0|271=1|273=12:00:00.000|"
        handler.on_bytes(frame("W", seq, f"55=BTC/USD|262=1|268=1|{group}"))
        tick = handler.ticks()[1]
        assert id_text(tick["id_kind"], tick["id_hi"], tick["id_lo"], handler.codec.id_table) == text
        assert len(handler.codec.id_table) == 1


@both_paths
@pytest.mark.parametrize("ids", [("28003", "28013"), ("B28003.00", "A28013.0"), ("same", "same"), ("X" * 30, "Y" * 30)])
def test_a_level_may_have_any_id(fast, ids):
    handler = Handler(allow_fast=fast)
    handler.on_bytes(listed("BTC/USD"))
    sides = zip("01", ids, ("28003.0", "28013.0"), strict=True)
    groups = "".join(f"269={side}|278={name}|270={price}|271=1|273=12:00:00.000|" for side, name, price in sides)
    handler.on_bytes(frame("W", 2, f"55=BTC/USD|262=1|268=2|{groups}"))
    assert handler["BTC/USD"].level == "L2" and states(handler) == ["LIVE"]
    assert handler.book("BTC/USD").counts == (1, 1)


def test_a_queue_or_two_orders_of_one_price_mean_orders():
    for more, second in (("5273=2024-03-01T12:00:00.000000000Z|", "27.0"), ("", "28.0")):
        handler = Handler()
        handler.on_bytes(listed("BTC/USD"))
        groups = "".join(
            f"269=0|278={name}|270={price}|271=1|273=12:00:00.000|{more}"
            for name, price in (("a", "28.0"), ("b", second))
        )
        handler.on_bytes(frame("W", 2, f"55=BTC/USD|262=1|268=2|{groups}"))
        assert handler["BTC/USD"].level == "L3"


def test_ids_are_not_kept_unless_wanted():
    codec = Codec()
    codec.take_ids()
    assert codec.id_table == {}
