"""UNVERIFIED books, and books of a session that is not delivering, on every surface that reads shared memory."""

from __future__ import annotations

import json
import math
import re
import subprocess

import numpy as np
import pytest

import kfix_md
from kfix_md import Cause, NotLive, State
from kfix_md.shm.layout import dtype
from kfix_md.view import BookView
from tests.shm.conftest import ASKS, BIDS, Desk
from tests.shm.test_layout import COMPILER

TOP = (28003.0, 0.001, 28013.0, 0.00096506)


@pytest.fixture
def unverified(desk):
    """The feed of `desk`, its L2 book and an L3 book UNVERIFIED."""
    eth = desk.book("PF_ETHUSD", 3, orders=8)
    eth.order(0, "bid", 20448, 2000, 1, 2, id_kind=1)
    eth.fill([(20448, 2000, 1, 0)], [(20450, 1, 1)])
    for book in (desk.btc, eth):
        book.publish(State.UNVERIFIED, Cause.RULE)
    return desk


def readings(book, **how):
    """Every reading that returns prices."""
    found = [
        lambda: book.top(**how),
        lambda: book.top(price="int", **how),
        lambda: book.read(**how),
        lambda: book.depth(3, **how),
        lambda: book.depth(None, **how),
    ]
    if book.level == "L3":
        found += [lambda: book.orders(2044.8, **how), lambda: book.queue_position(ID, **how)]
    return found


ID = "00000000-0000-0001-0000-000000000002"
PROPERTIES = ("bid", "bid_qty", "ask", "ask_qty", "mid", "spread")


@pytest.mark.parametrize("symbol", ["BTC/USD", "PF_ETHUSD"])
def test_an_unverified_book_is_not_live_unless_the_reader_accepts_it(unverified, symbol):
    book = unverified.attach()[symbol]
    for read in [*readings(book), *(lambda name=name: getattr(book, name) for name in PROPERTIES)]:
        with pytest.raises(NotLive) as error:
            read()
        assert (error.value.state, error.value.cause) == (State.UNVERIFIED, Cause.RULE)
    assert (book.state, book.cause) == (State.UNVERIFIED, Cause.RULE)
    for read in readings(book, allow_unverified=True):
        assert read() is not None


def test_attach_with_allow_unverified_accepts_it_in_every_reading(unverified):
    feed = unverified.attach(allow_unverified=True)
    btc, eth = feed["BTC/USD"], feed["PF_ETHUSD"]
    assert btc.top() == TOP and btc.allow_unverified
    assert (btc.bid, btc.bid_qty, btc.ask, btc.ask_qty) == TOP
    assert btc.read().state is State.UNVERIFIED
    assert btc.depth(1)[0]["price"].tolist() == btc.depth(None)[0]["price"][:1].tolist() == [28003.0]
    assert eth.orders(2044.8)["qty"].tolist() == [2.0] and eth.queue_position(ID).orders == 1
    assert feed.snapshot()["bid"].tolist() == [28003.0, 2044.8]
    assert (btc.state, btc.cause) == (State.UNVERIFIED, Cause.RULE), "still visible as what it is"


def test_snapshot_has_no_prices_of_unverified_books_unless_accepted(unverified):
    feed = unverified.attach()
    assert np.isnan(feed.snapshot()["bid"]).all()
    assert feed.snapshot(allow_unverified=True)["bid"].tolist() == [28003.0, 2044.8]
    assert feed.snapshot()["state"].tolist() == [State.UNVERIFIED] * 2


@pytest.mark.parametrize(
    "state", [state for state in State if state not in (State.LIVE, State.EMPTY, State.UNVERIFIED)]
)
def test_allow_unverified_accepts_no_other_state(desk, state):
    desk.btc.publish(state, Cause.LOST)
    for feed in (desk.attach(), desk.attach(allow_unverified=True)):
        for read in readings(feed["BTC/USD"], allow_unverified=True):
            with pytest.raises(NotLive) as error:
                read()
            assert error.value.state is state
        assert math.isnan(feed.snapshot(allow_unverified=True)["bid"][0])


def test_allow_unverified_does_not_accept_a_dead_feed(unverified):
    book = unverified.attach(allow_unverified=True)["BTC/USD"]
    unverified.writer.close()
    for read in readings(book, allow_unverified=True):
        with pytest.raises(kfix_md.FeedDead):
            read()


def test_a_feed_that_serves_them_needs_nothing_of_its_readers(tmp_path):
    desk = Desk(tmp_path, serve_unverified=True)
    desk.btc.publish(State.UNVERIFIED, Cause.RULE)
    feed = desk.attach()
    book = feed["BTC/USD"]
    assert feed.info["serve_unverified"] is True
    assert book.top() == TOP and book.mid == 28008.0 and book.state is State.UNVERIFIED
    for read in readings(book):
        assert read() is not None
    assert feed.snapshot()["bid"][0] == 28003.0
    desk.btc.publish(State.STALE, Cause.MALFORMED)
    with pytest.raises(NotLive):
        book.top()
    desk.writer.close()


def test_the_flag_is_in_the_header(desk, tmp_path):
    at = dtype("header").fields["flags"][1]
    assert (at, desk.attach().info["serve_unverified"]) == (44, False)
    served = Desk(tmp_path, "served", serve_unverified=True)
    with open(served.writer.path, "rb") as file:
        assert file.read(48)[at:] == (1).to_bytes(4, "little")
    served.writer.close()


def test_an_emptied_side_of_an_unverified_book_is_empty(desk):
    desk.btc.publish(State.UNVERIFIED, Cause.RULE)
    desk.btc.fill([], ASKS)
    desk.btc.publish(State.UNVERIFIED, Cause.RULE)
    bid, bid_qty, ask, _ = desk.attach()["BTC/USD"].top(allow_unverified=True)
    assert math.isnan(bid) and bid_qty == 0 and ask == 28013.0


def test_becoming_unverified_leaves_live_and_counts(desk):
    book = desk.attach()["BTC/USD"]
    desk.btc.publish(State.UNVERIFIED, Cause.RULE, recv_ns=50)
    info = book.info()
    assert (info["gaps"], info["gap_state"], info["gap_cause"], info["gap_ns"]) == (1, State.UNVERIFIED, Cause.RULE, 50)
    desk.btc.publish()
    assert book.top() == TOP and book.info()["gaps"] == 1


@pytest.mark.parametrize(
    ("state", "cause"),
    [(State.DOWN, Cause.LEAVING), (State.DOWN, Cause.DISCONNECT), (State.ROLLOVER, Cause.LEAVING)],
)
def test_a_session_that_is_not_delivering_is_seen_at_once(desk, state, cause):
    """Published without a message, by set_state: the next reading of any kind raises, and a sleeper wakes."""
    feed = desk.attach(allow_unverified=True)
    book = feed["BTC/USD"]
    book.top()
    assert not book.changed()
    desk.writer.set_state(0, state, cause)
    assert book.changed() and book.wait(0)
    for read in [*readings(book), *(lambda name=name: getattr(book, name) for name in PROPERTIES)]:
        with pytest.raises(NotLive) as error:
            read()
        assert (error.value.state, error.value.cause) == (state, cause)
    assert math.isnan(feed.snapshot()["bid"][0])
    assert book.top(allow_stale=True) == TOP


def test_mid_and_spread(desk):
    book = desk.attach()["BTC/USD"]
    assert (book.mid, book.spread) == (28008.0, 10.0)
    desk.btc.set("ask", 1, 280031, 5)
    desk.btc.publish()
    assert (book.mid, book.spread) == (28003.05, 0.1), "the nearest floats of the exact decimals"
    desk.btc.fill(BIDS, [])
    desk.btc.publish()
    assert math.isnan(book.mid) and math.isnan(book.spread)
    desk.btc.publish(State.GAP, Cause.LOST)
    for name in ("mid", "spread"):
        with pytest.raises(NotLive):
            getattr(book, name)


# ---- consoles ----


def run(capsys, *arguments) -> tuple[int, str]:
    pytest.importorskip("rich")
    pytest.importorskip("click")
    from kfix_md.cli import main

    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code, capsys.readouterr().out


def test_top_shows_how_many_and_why(unverified, capsys, tmp_path):
    unverified.book("XRP/USD").publish()
    status, out = run(capsys, "top", "--sample", 0, "--directory", tmp_path)
    assert status == 0 and "1 LIVE" in out and "2 UNVERIFIED (RULE)" in out.splitlines()[0]
    (row,) = [line for line in out.splitlines() if line.startswith("BTC/USD")]
    assert re.search(r"UNVERIFIED \(RULE\) .*28003\.0", row)
    status, out = run(capsys, "top", "--json", "--sample", 0, "--directory", tmp_path)
    reading = json.loads(out)
    assert reading["unverified"] == {"RULE": 2} and reading["serve_unverified"] is False
    assert [(row["state"], row["cause"]) for row in reading["symbols"]][:2] == [("UNVERIFIED", "RULE")] * 2


def test_ladder_shows_it_with_its_cause(unverified, capsys, tmp_path):
    status, out = run(capsys, "ladder", "BTC/USD", "--directory", tmp_path)
    assert status == 1 and "UNVERIFIED (RULE)" in out and "28003.0" in out
    status, out = run(capsys, "ladder", "BTC/USD", "--json", "--directory", tmp_path)
    assert status == 1 and json.loads(out)["state"] == "UNVERIFIED" and json.loads(out)["cause"] == "RULE"


def test_ladder_of_a_feed_that_serves_them_succeeds(tmp_path, capsys):
    desk = Desk(tmp_path, serve_unverified=True)
    desk.btc.publish(State.UNVERIFIED, Cause.RULE)
    assert run(capsys, "ladder", "BTC/USD", "--directory", tmp_path)[0] == 0
    desk.writer.close()


# ---- C ----


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_c_programs_decide_as_python_does(tmp_path):
    source, program = tmp_path / "usable.c", tmp_path / "usable"
    source.write_text(
        '#include <stdio.h>\n#include "kfix_shm.h"\n'
        "int main(void) {\nstruct kfix_header h = {0};\n"
        "for (unsigned serve = 0; serve < 2; serve++)\nfor (int allow = 0; allow < 2; allow++)\n"
        f"for (unsigned state = 0; state <= {len(State)}; state++) {{\n"
        "h.flags = serve ? KFIX_SERVE_UNVERIFIED : 0;\n"
        'printf("%d", kfix_is_usable(&h, state, allow));\n}\n'
        "return 0;\n}\n"
    )
    subprocess.run([COMPILER, "-Wall", "-Werror", "-I", kfix_md.get_include(), source, "-o", program], check=True)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    want = [
        int(state in (State.LIVE, State.EMPTY) or (state == State.UNVERIFIED and (serve or allow)))
        for serve in (False, True)
        for allow in (False, True)
        for state in range(len(State) + 1)
    ]
    assert printed == "".join(map(str, want))


# ---- a book of an in-process Handler ----


class FakeHandler:
    """What BookView reads of a Handler, with one book in any state."""

    def __init__(self, state: State) -> None:
        self.state = state

    def book_state(self, symbol):
        return self.state, Cause.RULE, 5, 6, 0, 0

    def book(self, symbol):
        return self

    def precisions(self, symbol):
        return 1, 0

    def top(self):
        return 100, 2, 101, 3

    def depth(self, n, price):
        return "bids", "asks"


@pytest.mark.parametrize("state", list(State))
def test_a_book_of_a_handler_follows_the_same_rule(state):
    view = BookView(FakeHandler(state), "A/B")
    trusted = state in (State.LIVE, State.EMPTY)
    for how, accepted in (
        ({}, trusted),
        ({"allow_unverified": True}, trusted or state is State.UNVERIFIED),
        ({"allow_stale": True}, True),
    ):
        if accepted:
            assert view.top(**how) == (10.0, 2.0, 10.1, 3.0) and view.depth(**how) == ("bids", "asks")
            continue
        for read in (view.top, view.depth):
            with pytest.raises(NotLive) as error:
                read(**how)
            assert (error.value.state, error.value.cause) == (state, Cause.RULE)
