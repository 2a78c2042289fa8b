"""Verification from Parquet alone: the rule of each stream's checksums, streams under no rule, proofs over nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from decimal import Decimal

import pyarrow as pa
import pytest

import recorder
from kfix_md.journal.writer import JournalWriter
from recorder import cli, compact, rebuild
from recorder.rebuild import Rebuilder
from recorder.schema import Flags
from recorder.verify import verify
from tests.recorder import build
from tests.recorder.test_tools import run
from tests.streams import generate, rules
from tests.streams.wire import body_of, seal

OK = Flags.HAS_CRC | Flags.CRC_CHECKED | Flags.CRC_OK
ISO = "2024-02-29T10:00:00.000000000Z"
UNVERIFIED = Flags.HAS_CRC | Flags.CRC_CHECKED | Flags.MAYBE_BAD_BOOK | Flags.UNVERIFIED


def journal_with(path, number: int, service: str, frames: Iterable[bytes], verdict: Callable[[bytes], int]) -> None:
    """A session in a journal with the verdicts a feed would have given, whether or not the handler knows the rule."""
    now = build.START_NS + number
    with JournalWriter(path / "journal") as journal:
        build.announce(journal, number, service, now)
        journal.event(number, now, {"type": "logged_on", "session_id": f"session-{number}"})
        for one in frames:
            now += build.STEP_NS
            journal.frame(number, now, one, verdict(one) if b"5041=" in one else Flags.SNAPSHOT * (b"35=W" in one))
        journal.event(number, now, {"type": "disconnected", "reason": "logout", "cause": "disconnect"})


def recorded(tmp_path):
    build.record(tmp_path)
    return recorder.open(tmp_path / "captures")


@pytest.mark.parametrize(("service", "rule"), [("spot-l2", "level"), ("spot-l3", "level"), ("spot-l3", "order")])
def test_the_rule_is_found_for_each_stream(tmp_path, service, rule):
    stream = generate(service, symbols=2, messages=150, seed=4)
    level = service[-2:].upper()
    journal_with(tmp_path, 0, service, rules.with_rule(stream.frames, level, rule), lambda one: OK)
    proof = verify(recorded(tmp_path))
    assert proof.holds and {s.rule for s in proof.streams} == {rule}
    summary = proof.summary()
    assert summary["ok"] == summary["checked"] == stream.checksums > 100
    assert [row["rule"] for row in summary["symbols"]] == [rule, rule]


@pytest.mark.parametrize(
    ("shift", "text"),
    [
        ((1, 0), "price with 2 decimals instead of 1"),
        ((0, -1), "quantity with 7 decimals instead of 8"),
        ((2, 1), "price with 3 decimals instead of 1, quantity with 9 decimals instead of 8"),
    ],
)
def test_checksums_at_other_precisions_than_the_instrument_list(tmp_path, shift, text):
    stream = generate("spot-l2", symbols=1, messages=80, seed=4)
    [symbol] = stream.markets
    assert (stream.markets[symbol].instrument.price_precision, stream.markets[symbol].instrument.qty_precision) == (
        1,
        8,
    )
    whole = lambda tag, value: value if tag == "270" else f"{Decimal(value):.6f}"  # noqa: E731
    frames = rules.with_rule(stream.frames, "L2", "level", whole, shift)
    journal_with(tmp_path, 0, "spot-l2", frames, lambda one: OK)
    proof = verify(recorded(tmp_path))
    [row] = proof.summary()["symbols"]
    assert proof.holds and row["ok"] == stream.checksums > 50
    assert (row["rule"], row["precision_mismatch"]) == ("level", text)
    assert f"{symbol} L2: its checksums have {text} (instrument list)" in run(cli.verify, tmp_path / "captures")


def test_symbols_of_one_session_may_follow_different_rules(tmp_path):
    stream = generate("derivatives-l3", symbols=3, messages=200, seed=4)
    first = min(stream.markets)
    by_symbol = lambda symbol: "level" if symbol == first else "order"  # noqa: E731
    journal_with(tmp_path, 0, "derivatives-l3", rules.with_rule(stream.frames, "L3", by_symbol), lambda one: OK)
    proof = verify(recorded(tmp_path))
    assert proof.holds
    assert {s.symbol: s.rule for s in proof.streams} == {symbol: by_symbol(symbol) for symbol in stream.markets}
    assert proof.summary()["rule_L3"] == "order"


def test_a_stream_under_no_rule_is_unverified_not_failed(tmp_path):
    """One symbol of two: the other is proven, and the proof holds."""
    stream = generate("spot-l2", symbols=2, messages=150, seed=6)
    odd = max(stream.markets)
    frames = rules.with_rule(stream.frames, "L2", lambda symbol: "reversed" if symbol == odd else "level")
    journal_with(tmp_path, 0, "spot-l2", frames, lambda one: UNVERIFIED if f"55={odd}\x01".encode() in one else OK)
    cap = recorded(tmp_path)
    summary = verify(cap).summary()
    rows = {row["symbol"]: row for row in summary["symbols"]}
    assert summary["holds"] and summary["failed"] == summary["failed_live"] == 0
    assert rows[odd]["unverified"] > 30 and rows[odd]["checked"] == 0 and rows[odd]["rule"] == ""
    assert rows[min(stream.markets)]["rule"] == "level" and rows[min(stream.markets)]["unverified"] == 0
    assert cap.ticks(odd).num_rows > 100
    assert f"{rows[odd]['unverified']:,} messages are UNVERIFIED" in run(cli.verify, tmp_path / "captures")
    book = cap.book(odd, build.START_NS + 10**12)
    assert not book.trusted
    best = cap.bbo(odd)
    assert True not in best["trusted"].to_pylist()[-20:]


def test_books_of_an_unverified_symbol_are_sound_and_say_why(tmp_path):
    stream = generate("spot-l2", symbols=1, messages=100, seed=6)
    frames = list(rules.with_rule(stream.frames, "L2", "reversed"))
    journal_with(tmp_path, 0, "spot-l2", frames, lambda one: UNVERIFIED)
    cap = recorded(tmp_path)
    [symbol] = stream.markets
    last = cap.ticks(symbol)["recv_ns"][-1].as_py()
    book = cap.book(symbol, last - build.STEP_NS)
    assert (book.trusted, book.reason) == (False, "its checksums (5041) follow no known rule (UNVERIFIED)")
    proof = verify(cap)
    assert not proof.holds
    assert proof.why_not() == [
        f"nothing was proven: none of {proof.streams[0].messages:,} recorded messages has a checksum that was checked"
    ]


@pytest.mark.parametrize("wrong", [1, 7])
def test_a_wrong_checksum_that_was_right_live_fails(tmp_path, wrong):
    """Also after the rule was decided, when the others are no longer tried at every message."""
    stream = generate("spot-l3", symbols=1, messages=300, seed=4)
    frames = list(stream.frames)
    for i in [i for i, one in enumerate(frames) if b"5041=" in one][-wrong:]:
        body = body_of(frames[i])
        start = body.index(b"5041=") + 5
        frames[i] = seal(body[:start] + b"%d\x01" % (int(body[start:-1]) ^ 1))
    journal_with(tmp_path, 0, "spot-l3", frames, lambda one: OK)
    proof = verify(recorded(tmp_path))
    assert not proof.holds and proof.summary()["failed"] == wrong
    assert proof.summary()["ok"] == stream.checksums - wrong > 200
    assert proof.streams[0].first_failure["seq"] > 0
    assert proof.why_not() == [f"{wrong} checksums (5041) that matched live do not match the rebuilt books"]


def test_a_proof_over_nothing_does_not_hold(tmp_path):
    with JournalWriter(tmp_path / "journal") as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        journal.event(0, build.START_NS, {"type": "logged_on", "session_id": "x"})
    recorded(tmp_path)
    reported = json.loads(run(cli.verify, tmp_path / "captures", "--json", status=1))
    assert not reported["holds"] and reported["messages"] == 0 and reported["faults"] == []
    assert reported["why_not"][0].startswith("nothing was proven: none of 0 recorded messages")
    text = run(cli.verify, tmp_path / "captures", status=1)
    assert "FAULT: nothing was proven" in text and "THE PROOF DOES NOT HOLD" in text


def implicit_stream(level: str, depth: int, messages: int) -> list[bytes]:
    """A venue that sends no delete for what a better level pushes out of the subscribed depth."""
    rng = random.Random(depth)
    head = "34={seq}\x0149=KRAKEN-MD\x0152=20240229-10:00:00.000\x0156=ME\x01"
    listed = "320=1\x01322=r\x01560=0\x01146=1\x0155=BTC/USD\x01562=0.1\x015010=1\x015011=0.1\x012349=1\x015022=0.1\x01"
    market = {("0", 1000 - i): "1.5" for i in range(400)} | {("1", 1001 + i): "2.5" for i in range(400)}
    book = rules.SentBook(level, 1, 1)
    bodies = ["35=y\x01" + head.format(seq=1) + listed + "5032=1\x01"]

    def visible() -> dict[tuple[str, int], str]:
        sides = ((side, sorted((p for s, p in market if s == side), reverse=side == "0")) for side in "01")
        return {(side, price): market[side, price] for side, prices in sides for price in prices[:depth]}

    def group(side: str, price: int, qty: str) -> str:
        uuid = f"00000000-0000-4000-8000-{int(side) << 32 | price:012x}"
        order = uuid if level == "L3" else f"{'BO'[int(side)]}{price}.0"
        queued = f"5060={ISO}\x015273={ISO}\x01" if level == "L3" else ""
        return f"269={side}\x01278={order}\x01270={price}.0\x01271={qty}\x01273=10:00:00.000\x01{queued}"

    seen = visible()
    text = "".join(group(*key, qty) for key, qty in seen.items())
    bodies.append("35=W\x01" + head.format(seq=2) + f"55=BTC/USD\x01262=m\x01268={len(seen)}\x01" + text)
    for _ in range(messages):
        side = rng.choice("01")
        best, facing = (sorted((p for s, p in market if s == of), reverse=of == "0") for of in (side, "10"[int(side)]))
        better = best[0] + (1 if side == "0" else -1)
        gone = better == facing[0] or rng.random() < 0.5
        price = rng.choice(best[:3]) if gone else better
        if gone:
            del market[side, price]
        else:
            market[side, price] = f"{rng.randrange(1, 99)}.5"
        hidden = sorted((p for s, p in market if s == side), reverse=side == "0")[depth]
        if rng.random() < 0.3:  # what is not visible may go
            del market[side, hidden]
        now = visible()
        changes = [f"279=2\x01{group(side, price, '0.0')}"] if gone else []
        changes += [f"279=0\x01{group(*key, qty)}" for key, qty in now.items() if key not in seen]
        seen = now
        book.entries = {(s, str(p)): ("", f"{p}.0", qty, 0) for (s, p), qty in now.items()}
        crc = book.checksum("order" if level == "L3" else "level")
        body = f"55=BTC/USD\x01262=m\x01268={len(changes)}\x01{''.join(changes)}5041={crc}\x01"
        bodies.append("35=X\x01" + head.format(seq=len(bodies) + 1) + body)
    return [seal(body.encode()) for body in bodies]


@pytest.mark.parametrize("level", ["L2", "L3"])
@pytest.mark.parametrize("depth", [10, 25])
def test_what_is_beyond_the_depth_leaves_the_book(tmp_path, monkeypatch, level, depth):
    frames = implicit_stream(level, depth, 400)
    journal_with(tmp_path, 0, f"spot-{level.lower()}", frames, lambda one: OK)
    cap = recorded(tmp_path)
    without = verify(cap)
    monkeypatch.setattr(Rebuilder, "limit", lambda self, session, level, at: depth)
    proof = verify(cap)
    assert proof.holds and proof.summary()["ok"] == len(frames) - 2 > 200
    assert depth == 25 or not without.holds  # a stale eleventh level comes back into the ten
    times = cap.ticks("BTC/USD")["recv_ns"].to_pylist()
    quotes = cap.bbo("BTC/USD", price="int").to_pylist()
    for at in (times[len(times) // 2], times[-1] - 1):
        book = cap.book("BTC/USD", at)
        assert book.trusted and max(book.book.counts) <= depth
        best = [quote for quote in quotes if quote["recv_ns"] <= at][-1]
        assert (best["bid"], best["bid_qty"], best["ask"], best["ask_qty"]) == book.top()


@pytest.mark.parametrize("compacted", [False, True])
def test_several_processes_find_what_one_finds(tmp_path, monkeypatch, compacted):
    build.journal_of(tmp_path / "journal", messages=60)
    build.record(tmp_path, flush_rows=200)
    cap = recorder.open(tmp_path / "captures")
    [day] = cap.dates()
    if compacted:
        compact.compact_day(cap.tree, day)
    alone = verify(cap, day)
    monkeypatch.setattr(recorder.verify, "_ALONE_ROWS", 0)
    seen: list[int] = []
    together = verify(cap, day, seen.append, processes=2)
    assert together.summary() == alone.summary() and alone.holds
    assert sum(seen) == cap.rows(day)
    by_key = [{(s.session, s.symbol, s.level): s for s in proof.streams} for proof in (alone, together)]
    assert by_key[0] == by_key[1] and len(by_key[0]) > 4


def test_the_verdict_comes_first_and_books_without_a_fault_only_on_request(tmp_path):
    build.journal_of(tmp_path / "journal", ("spot-l2",), messages=60)
    build.record(tmp_path)
    short, whole = (run(cli.verify, tmp_path / "captures", *more).splitlines() for more in ((), ("--all",)))
    assert short[0].startswith("the proof holds") and len(short) == 2
    assert short[1].endswith("books without a fault; --all lists them")
    symbols = recorder.open(tmp_path / "captures").symbols()
    assert whole[0].startswith("the proof holds") and [line.split()[0] for line in whole[2:]] == symbols


def test_a_message_that_is_not_whole_is_a_fault_of_its_symbol():
    rows = pa.table({"flags": pa.array([0, Flags.LAST, Flags.LAST, 0], pa.int32()), "seq": [1, 1, 2, 3]})
    messages = rebuild.WholeMessages()
    assert messages.add(rows.slice(0, 1)) is None and messages.pending is not None
    assert messages.add(rows.slice(1, 3))["seq"].to_pylist() == [1, 1, 2]
    assert messages.pending["seq"].to_pylist() == [3] and messages.add(rows.slice(0, 0)) is None
