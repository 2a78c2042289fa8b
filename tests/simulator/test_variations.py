"""Every switch of the market does on the wire what its name promises, and the book stays the venue's own."""

import re
from decimal import Decimal

import pytest

from kfix_md.simulator.control import ControlError
from kfix_md.simulator.dialect import CHECKSUMS, Dialect
from tests.simulator.plain import PlainBook, groups, places
from tests.simulator.venue import Client, running_venue, value

RULES = [rule for rule in CHECKSUMS if rule != "off"]
PRECISIONS = {"spot": (1, 8), "derivatives": (0, 4)}
SYMBOLS = {"spot": "BTC/USD", "derivatives": "PF_XBTUSD"}


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """One venue for all tests here: its market moves only by `step`."""
    with running_venue(tmp_path_factory.mktemp("venue"), "--symbols", "3", "--rate", "0", tls=False) as venue:
        yield venue


class Stream:
    """One subscription to one varied symbol, and the book it makes."""

    def __init__(self, venue, service, depth=0, types=(0, 1), **switches):
        self.venue, self.service = venue, service
        market, level = service.split("-")
        self.symbol, self.level = SYMBOLS[market], level.upper()
        defaults = {name: getattr(Dialect(), name) for name in switches}
        if "checksum" in switches:
            defaults["checksum"] = "level" if self.level == "L2" else "order"
        self._undo = {"symbol": self.symbol, "service": service, **defaults}
        venue.control("vary", symbol=self.symbol, service=service, **switches)
        self.client = Client(venue, service, f"V{id(self)}")
        self.client.logon()
        self.client.subscribe("M", self.symbol, depth=depth, types=types, level="Y" if self.level == "L2" else "N")
        self.book = PlainBook(self.level, *PRECISIONS[market])
        self.snapshot = self.client.message()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.client.close()
        self.venue.control("vary", **self._undo)

    def step(self, count):
        """All messages that `count` orders bring."""
        self.venue.control("step", symbol=self.symbol, count=count)
        self.client.send("1", [(112, "END")])
        return self.client.until("0")[:-1]

    def is_true(self, depth=None):
        """Whether the book equals the venue's own now."""
        return self.book.same_as(self.venue.control.truth(self.symbol, self.level, service=self.service), depth)


def entries(messages):
    """Entries of all messages."""
    return [entry for message in messages for entry in groups(message, 279 if value(message, 35) == "X" else 269)]


# checksums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("service", ["spot-l2", "spot-l3"])
def test_checksum_rules(quiet, service, rule):
    """5041 follows the rule, with numbers of any number of zeros; the other rules fail at least once."""
    with Stream(quiet, service, checksum=rule, price_form="mixed", qty_form="mixed") as stream:
        stream.book.apply(stream.snapshot)
        fits = dict.fromkeys(RULES, 0)
        for message in stream.step(60):
            stream.book.apply(message, rule=rule)
            for other in RULES:
                fits[other] += value(message, 5041) == str(stream.book.crc(other))
        assert stream.book.checked == fits[rule] > 20
        same = {rule}
        if service == "spot-l2":  # an order is a level there
            same |= {rule.replace("order", "level"), rule.replace("level", "order")}
        assert all(fits[other] < fits[rule] for other in RULES if other not in same), fits
        assert stream.is_true()
        assert quiet.control.truth(stream.symbol, stream.level, service=service)["crc"] == stream.book.crc(rule)


def test_no_checksum_at_all(quiet):
    with Stream(quiet, "spot-l2", checksum="off") as stream:
        assert not any(value(message, 5041) for message in stream.step(20))


def test_a_snapshot_with_a_checksum(quiet):
    with Stream(quiet, "spot-l3", snapshot_crc=True) as stream:
        stream.book.apply(stream.snapshot)
        assert stream.book.checked == 1


@pytest.mark.parametrize(("price", "qty"), [(2, 8), (1, 7), (0, 8), (1, -1), (3, 9)])
def test_precisions_of_the_checksum_that_are_not_listed(quiet, price, qty):
    with Stream(quiet, "spot-l2", crc_price_precision=price, crc_qty_precision=qty) as stream:
        stream.book.price_precision, stream.book.qty_precision = price, qty
        stream.book.apply(stream.snapshot)
        for message in stream.step(30):
            stream.book.apply(message)
        assert stream.book.checked > 10


# numbers, ids, times ---------------------------------------------------------------------------------

FORMS = {
    "short": r"\d+\.(0|\d*[1-9])",
    "plain": r"\d+(\.\d*[1-9])?",
    "padded": r"\d+\.\d{8}",
    "trailing": r"\d+\.\d{8}000",
    "zeros": r"000\d+\.\d+",
    "plus": r"\+\d+\.\d+",
    "exponent": r"\d(\.\d*[1-9])?e[+-]\d\d|0",
    "mixed": r"\d+(\.\d{1,8})?",
}


@pytest.mark.parametrize("form", FORMS)
def test_number_forms(quiet, form):
    with Stream(quiet, "spot-l2", qty_form=form) as stream:
        stream.book.apply(stream.snapshot)
        messages = stream.step(40)
        for message in messages:
            stream.book.apply(message)
        texts = {entry[271] for entry in entries([stream.snapshot, *messages])}
        assert all(re.fullmatch(FORMS[form], text) for text in texts), texts
        assert stream.is_true() and stream.book.checked > 10
        if form == "mixed":
            assert len({places(Decimal(text)) for text in texts}) > 3


def test_prices_have_forms_too(quiet):
    with Stream(quiet, "spot-l3", price_form="exponent") as stream:
        assert all("e+05" in entry[270] for entry in entries([stream.snapshot])) or all(
            "e+04" in entry[270] for entry in entries([stream.snapshot])
        )
        stream.book.apply(stream.snapshot)
        assert stream.is_true()


@pytest.mark.parametrize(
    ("form", "pattern"),
    [("long", r".{70,}"), ("opaque", r"#[0-9a-f]{16}/\d+"), ("short", r"[0-9a-f]{10}"), ("uuid", r"[0-9a-f-]{36}")],
)
@pytest.mark.parametrize("service", ["spot-l2", "derivatives-l3"])
def test_id_forms(quiet, service, form, pattern):
    with Stream(quiet, service, ids=form) as stream:
        stream.book.apply(stream.snapshot)
        messages = stream.step(40)
        for message in messages:
            stream.book.apply(message)
        ids = [entry[278] for entry in entries([stream.snapshot, *messages])]
        assert all(re.fullmatch(pattern, ident) for ident in ids)
        assert stream.is_true()
        if service == "spot-l2":
            at = {(entry[269], entry[270]): entry[278] for entry in entries([stream.snapshot])}
            assert len(set(at.values())) == len(at)
            assert form == "long" or not any(price in ident for (_, price), ident in at.items())


@pytest.mark.parametrize("decimals", [0, 3, 6, 9, 12])
def test_times_of_any_length(quiet, decimals):
    point = rf"\.\d{{{decimals}}}" if decimals else ""
    with Stream(quiet, "derivatives-l3", times=decimals, iso_times=decimals) as stream:
        for entry in entries(stream.step(20)):
            assert re.fullmatch(r"\d\d:\d\d:\d\d" + point, entry[273])
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d" + point + "Z", entry[5273])


# what is no part of the book -------------------------------------------------------------------------


def test_values_nobody_knows(quiet):
    with Stream(quiet, "spot-l2", types=(0, 1, 2), ord_type="R", aggressor="X", entry_kind="J") as stream:
        stream.book.apply(stream.snapshot)
        for message in stream.step(80):
            stream.book.apply(message)
        assert stream.book.trades and {trade[2:] for trade in stream.book.trades} == {("R", "X")}
        assert len(stream.book.others) > 20 and set(stream.book.others) == {"J"}
        assert stream.is_true() and stream.book.checked > 20


def test_tags_nobody_knows(quiet):
    with Stream(quiet, "spot-l3", unknown_tags=True) as stream:
        assert value(stream.snapshot, 20001) == "x"
        for entry in entries(stream.step(10)):
            assert entry[5999] == "y" and entry[20002] == "z=1"


@pytest.mark.parametrize(("where", "head", "group"), [("header", 1, 0), ("group", 0, 1), ("both", 1, 1)])
def test_where_the_symbol_is(quiet, where, head, group):
    with Stream(quiet, "spot-l2", symbols=where) as stream:
        for message in [stream.snapshot, *stream.step(10)]:
            found = [number for number, (tag, text) in enumerate(message) if (tag, text) == (55, stream.symbol)]
            start = next(number for number, (tag, _) in enumerate(message) if tag == 268)
            assert sum(number < start for number in found) == head
            assert sum(number > start for number in found) == group * int(value(message, 268))


# depth -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["spot-l2", "spot-l3"])
@pytest.mark.parametrize("depth", [1, 10])
def test_deletes_that_only_the_depth_implies(quiet, service, depth):
    """Without them the client has to trim; with them every book is the venue's own."""
    with Stream(quiet, service, depth=depth, implicit_deletes=True) as stream:
        stream.book.apply(stream.snapshot)
        beyond = 0
        for message in stream.step(400):
            stream.book.apply(message, check_crc=False)
            beyond += max(len(stream.book.side(side)) for side in "01") > depth
            stream.book.trim(depth)
            assert depth < 10 or stream.book.crc() == int(value(message, 5041))
        assert beyond > 5
        assert stream.is_true(depth)


# two symbols -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["spot-l2", "spot-l3"])
@pytest.mark.parametrize("requests", [("M", "M"), ("M", "N")])
def test_two_symbols_in_one_message(quiet, service, requests):
    """Each entry names its symbol (and request, where they differ); both books are true after it."""
    level = service[-2:].upper()
    client = Client(quiet, service, f"T{requests[1]}")
    client.logon()
    symbols = ("BTC/USD", "ETH/USD")
    books = {"BTC/USD": PlainBook(level, 1, 8), "ETH/USD": PlainBook(level, 2, 8)}
    if len(set(requests)) == 1:
        client.subscribe("M", *symbols, level="Y" if level == "L2" else "N")
    else:
        for request, symbol in zip(requests, symbols, strict=True):
            client.subscribe(request, symbol, level="Y" if level == "L2" else "N")
    for _ in symbols:
        message = client.message()
        books[value(message, 55)].apply(message)
    assert quiet.control("together", symbols=symbols, level=level)["messages"] == 1
    message = client.until("X")[-1]
    start = next(number for number, (tag, _) in enumerate(message) if tag == 268)
    assert value(message[:start], 55) is None and value(message, 5041) is None
    found = groups(message, 279)
    assert {entry[55] for entry in found} == set(symbols) and len(found) == int(value(message, 268))
    if len(set(requests)) == 2:
        assert value(message[:start], 262) is None
        assert all(entry[262] == requests[symbols.index(entry[55])] for entry in found)
    for entry in found:
        books[entry[55]].take(entry)
    for symbol, book in books.items():
        seq = int(value(message, 34))
        assert book.same_as(quiet.control.truth(symbol, level, service=service, sender=client.sender, seq=seq))
    client.close()


def test_an_older_subscription_is_no_part_of_a_message_of_two_symbols(quiet):
    client = Client(quiet, "spot-l2", "OLD")
    client.logon()
    for request, symbols in (("M", ("BTC/USD", "ETH/USD")), ("N", ("BTC/USD",))):
        client.subscribe(request, *symbols)
        for _ in symbols:
            client.message()
    assert quiet.control("together", symbols=["BTC/USD", "ETH/USD"])["messages"] == 1
    first, second = client.until("X")[-1], client.until("X")[-1]
    assert {(entry[55], entry[262]) for entry in groups(first, 279)} == {("BTC/USD", "N"), ("ETH/USD", "M")}
    assert (value(second, 55), value(second, 262)) == ("BTC/USD", "M") and value(second, 5041)
    client.close()


def test_two_symbols_go_to_each_session_as_it_subscribed(quiet):
    client = Client(quiet, "spot-l2", "ONE")
    client.logon()
    client.subscribe("M", "BTC/USD")
    client.message()
    assert quiet.control("together", symbols=["BTC/USD", "ETH/USD"])["messages"] == 0
    message = client.until("X")[-1]
    assert value(message, 55) == "BTC/USD" and value(message, 5041)
    client.close()


# mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"checksums": "level"}, "no such switch: checksums"),
        ({"checksum": "best"}, "checksum is one of level, order"),
        ({"times": 13}, "0 to 12"),
        ({"unknown_tags": "perhaps"}, "true or false"),
    ],
)
def test_wrong_switches_are_named(quiet, switches, message):
    with pytest.raises(ControlError, match=message):
        quiet.control("vary", symbol="ETH/USD", **switches)


def test_switches_of_the_command_line(tmp_path):
    options = ("--symbols", "1", "--rate", "0", "--vary", "qty_form=padded", "--vary", "ids=opaque")
    with running_venue(tmp_path, *options, "--rendered", "40", tls=False) as venue:
        client = Client(venue, "spot-l2")
        client.logon()
        client.subscribe("M", "BTC/USD")
        for entry in entries([client.message()]):
            assert entry[278].startswith("#") and places(Decimal(entry[271])) == 8
        with pytest.raises(ControlError, match="written in advance"):
            venue.control("vary", symbol="BTC/USD", ids="kraken")
