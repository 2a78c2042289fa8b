"""The handler gives the oracle's entries, books, states and counts, on every stream and in any split."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfix_md import Handler, NotLive, State
from kfix_md._codec import id_text
from kfix_md._entry import MessageFlags
from tests.core.convert import depth_units, expected_ticks
from tests.oracle import Follower, frames
from tests.streams import SERVICES, generate
from tests.streams.generate import HEADERS, START_NS, Writer
from tests.streams.wire import body_of, example, frame, seal

COMPARED = (
    "price",
    "qty",
    "id_hi",
    "id_lo",
    "event_ns",
    "queue_ns",
    "instrument",
    "side",
    "action",
    "id_kind",
    "ord_type",
    "aggressor",
    "sending_ns",
    "seq",
    "entry_no",
    "crc",
)
SMALL = {"symbols": 3, "messages": 300, "depth": 12}


def follow(data: bytes, **options) -> tuple[Handler, np.ndarray]:
    """All of a stream through a handler: the handler and its ticks."""
    handler = Handler(collect=True, **options)
    handler.on_bytes(data, 1)
    return handler, handler.ticks()


def same_ticks(ticks: np.ndarray, wanted: np.ndarray) -> None:
    """Field by field; snapshots that emptied a book are known to the handler alone."""
    ticks = ticks[~((ticks["action"] == 4) & (ticks["entry_flags"] & 2 > 0))]
    assert len(ticks) == len(wanted)
    for name in COMPARED:
        differ = np.nonzero(ticks[name] != wanted[name])[0]
        assert not len(differ), (name, ticks[differ[:3]], wanted[differ[:3]])


def same_books(handler: Handler, seen: Follower) -> None:
    """States and whole depth of every symbol."""
    for symbol, state in seen.states.items():
        assert handler[symbol].state.name == state, symbol
        if state in ("LIVE", "EMPTY"):
            plain = seen.books[symbol]
            for i, side in enumerate(handler[symbol].depth(None, price="int")):
                assert side.tolist() == depth_units(plain, str(i))
            assert handler[symbol].level == plain.level or state == "EMPTY"


def same_counts(handler: Handler, seen: Follower) -> None:
    """Counters of the handler that the oracle knows too."""
    stats = handler.stats
    assert (stats["messages"], stats["entries"]) == (seen.messages, len(seen.entries))
    assert (stats["crc_checked"], stats["crc_ok"]) == (seen.checked, seen.ok)
    assert stats["crc_failed"] == seen.checked - seen.ok
    assert (stats["gaps"], stats["lost"]) == (seen.gaps, seen.lost)


def agree(data: bytes, **options) -> Handler:
    """Handler and oracle on the same clean stream."""
    seen = Follower().feed(data)
    handler, ticks = follow(data, **options)
    same_ticks(ticks, expected_ticks(seen, handler.symbols))
    same_books(handler, seen)
    same_counts(handler, seen)
    assert handler.protocol_errors == seen.protocol_errors
    return handler


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("service", SERVICES)
def test_generated_streams_entry_by_entry(service, fast):
    handler = agree(generate(service, messages=1500, depth=25).data, allow_fast=fast)
    used = handler.stats["fast_messages" if fast else "general_messages"]
    assert used >= 0.9 * handler.stats["market_data"]


@pytest.mark.parametrize("service", ["spot-l2", "spot-l3"])
def test_many_symbols_whose_books_are_prefetched(service):
    agree(generate(service, symbols=40, depth=4, messages=400, per_level=2).data)


@pytest.mark.parametrize("service", SERVICES)
def test_header_fields_in_any_order(service):
    agree(generate(service, header=None, **SMALL).data)


@pytest.mark.parametrize("name", ["spot-l2", "derivatives-l2"])
def test_real_l2_streams_entry_by_entry(name, capture):
    handler = agree(capture(name))
    assert handler.protocol_errors == handler.stats["crc_failed"] == 0


def test_real_l3_stream_entry_by_entry(capture, l3_oracle):
    handler, ticks = follow(capture("derivatives-l3"))
    same_ticks(ticks, expected_ticks(l3_oracle.follower, handler.symbols))
    same_books(handler, l3_oracle.follower)
    stats = handler.stats
    assert stats["crc_checked"] == stats["crc_ok"] == l3_oracle.follower.with_crc
    assert handler.checksum == "order"


def test_both_paths_give_the_same_ticks(capture):
    data = capture("derivatives-l3")[:3_000_000]
    fast, general = follow(data)[1], follow(data, allow_fast=False)[1]
    assert len(fast) > 10_000
    assert fast.tobytes() == general.tobytes()


def test_the_worked_example():
    handler = agree(example())
    assert handler.stats["crc_ok"] == 1
    assert handler["BTC/USD"].top_text() == (("28003.0", "0.001"), ("28013.0", "0.00096506"))


def test_flags_say_what_was_checked():
    stream = generate("derivatives-l2", **SMALL)
    _, ticks = follow(stream.data)
    proven = MessageFlags.HAS_CRC | MessageFlags.CRC_CHECKED | MessageFlags.CRC_OK
    checked = ticks[ticks["flags"] & proven == proven]
    assert len(np.unique(checked["seq"])) == stream.checksums
    assert set(np.unique(ticks["flags"])) == {0, int(MessageFlags.SNAPSHOT), int(proven)}
    assert (ticks["entry_flags"] & 2 > 0).sum() == len(np.unique(ticks["seq"])), "one LAST a message"


@pytest.mark.parametrize("service", SERVICES)
def test_split_at_every_byte(service):
    data = generate(service, symbols=2, messages=6, depth=3, per_level=2).data
    whole, wanted = follow(data)
    for cut in range(1, len(data)):
        handler = Handler(collect=True)
        handler.on_bytes(data[:cut], 1)
        handler.on_bytes(data[cut:], 1)
        assert handler.ticks().tobytes() == wanted.tobytes(), cut
        assert handler.stats == whole.stats, cut


def test_one_byte_at_a_time():
    data = generate("spot-l3", symbols=2, messages=40, depth=5).data
    whole, wanted = follow(data)
    handler = Handler(collect=True)
    completed = sum(handler.on_bytes(data[i : i + 1], 1) for i in range(len(data)))
    assert completed == whole.stats["messages"]
    assert handler.ticks().tobytes() == wanted.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 40, 700, 30_000]), st.integers(0, 1))
def test_random_splits_by_copy_or_in_place(seed, mean, which):
    data = PREPARED[which]
    wanted = follow(data)[1].tobytes()
    rng, handler, at = random.Random(seed), Handler(collect=True), 0
    while at < len(data):
        size = 1 + int(rng.expovariate(1 / mean))
        part = data[at : at + size]
        if rng.random() < 0.5:
            handler.on_bytes(part, 1)
        else:
            handler.get_buffer(-1)[: len(part)] = part
            handler.buffer_updated(len(part), 1)
        at += size
    assert handler.ticks().tobytes() == wanted


# of the second the next message's symbol is looked at ahead: there are many
PREPARED = generate("derivatives-l3", **SMALL).data, generate("spot-l2", symbols=40, depth=3, messages=300).data


def shuffled(whole: bytes, rng: random.Random) -> bytes:
    """The same message with its fields in another order: header, body and the inside of every group."""
    pairs = [part.partition(b"=") for part in body_of(whole).rstrip(b"\x01").split(b"\x01")]
    if pairs[0][2] not in (b"W", b"X"):
        return whole
    at = next(i for i, pair in enumerate(pairs) if pair[0] == b"268")
    first = b"279" if pairs[0][2] == b"X" else b"269"
    before, groups, after = pairs[1:at], [], []
    for pair in pairs[at + 1 :]:
        if pair[0] == first:
            groups.append([])
        (after if pair[0] == b"5041" else groups[-1]).append(pair)
    rng.shuffle(before)
    if groups:
        order = list(range(len(groups[0])))
        rng.shuffle(order)
        # the first field of the first group delimits all of them
        delimiter = groups[0][order[0]][0]
        for group in groups:
            rng.shuffle(group)
            group.sort(key=lambda pair: pair[0] != delimiter)
    if after and rng.random() < 0.5:
        before, after = [*before, *after], []
    rows = [pairs[0], *before, pairs[at], *(pair for group in groups for pair in group), *after]
    return seal(b"".join(b"=".join(pair[::2]) + b"\x01" for pair in rows))


@pytest.mark.parametrize("service", SERVICES)
def test_fields_in_any_order(service):
    rng = random.Random(service)
    stream = generate(service, **SMALL)
    data = b"".join(shuffled(whole, rng) for whole in stream.frames)
    seen = Follower().feed(data)
    assert len(seen.entries) == stream.entries
    assert seen.checked == seen.ok == stream.checksums
    agree(data)


def test_unknown_fields_are_stepped_over():
    rng = random.Random(5)
    stream = generate("spot-l3", **SMALL)
    grown = []
    for whole in stream.frames:
        parts = body_of(whole).split(b"\x01")
        for _ in range(2):
            # not between 268 and the first group: that field would delimit the groups
            places = [i for i in range(5, len(parts)) if not parts[i - 1].startswith(b"268=")]
            if places and parts[0][3:] in (b"W", b"X"):
                parts.insert(rng.choice(places), rng.choice([b"5051=7", b"9999=x y", b"336=SESSION"]))
        grown.append(seal(b"\x01".join(parts)))
    agree(b"".join(grown))


def test_ids_of_every_form():
    ids = [
        "7c5dfa85-3e7d-5782-879a-dde8200da4bd",
        "O5G2XK-ABCDE-QWERTZ",
        "short",
        "a" * 16,
        "longer than sixteen bytes",
        "7C5DFA85-3E7D-5782-879A-DDE8200DA4BD",
        "O5g2xk-abcde-qwertz",
    ]
    head = [(34, "1"), (49, "A"), (52, "20240101-00:00:00.000"), (56, "B")]
    group = [(55, "X/Y"), (562, "1"), (5010, "2"), (5011, "1"), (2349, "1"), (5022, "1"), (5032, "1")]
    listed = frame("y", [*head, (320, "1"), (322, "1"), (560, "0"), (146, "1"), *group])
    pairs = [(34, "2"), *head[1:], (55, "X/Y"), (262, "1"), (268, str(len(ids)))]
    for i, text in enumerate(ids):
        pairs += [(269, "0"), (278, text), (270, f"{i + 1}.5"), (271, "1"), (273, "00:00:00.000")]
    handler, ticks = follow(listed + frame("W", pairs))
    table = handler.codec.id_table
    assert [id_text(t["id_kind"], t["id_hi"], t["id_lo"], table) for t in ticks[1:]] == ids
    assert handler.book("X/Y").order_counts == (len(ids), 0)


def test_top_raises_unless_the_book_is_to_be_trusted():
    stream = generate("spot-l2", empties=False, **SMALL)
    handler = Handler()
    symbol = next(iter(stream.markets))
    for whole in stream.frames[:5]:
        handler.on_bytes(whole)
    assert handler[symbol].state is State.LIVE
    handler.on_bytes(stream.frames[-1])  # a number far ahead
    assert handler[symbol].state is State.GAP
    with pytest.raises(NotLive, match="GAP"):
        handler[symbol].top()
    assert len(handler[symbol].top(allow_stale=True)) == 4


def test_a_snapshot_heals_a_gap():
    stream = generate("derivatives-l3", empties=False, **SMALL)
    cut = len(stream.frames) // 2
    kept = stream.frames[:cut] + stream.frames[cut + 5 :]
    seen = Follower().feed(b"".join(kept))
    assert (seen.gaps, seen.lost) == (1, 5)
    assert set(seen.states.values()) == {"GAP"}
    for at, (symbol, market) in enumerate(stream.markets.items()):
        writer = Writer(stream.service, HEADERS[0], random.Random(1), START_NS, seq=seen.expected + at - 1)
        writer.book("W", market, f"again{at}", market.snapshot(), crc=False)
        kept += writer.frames
        assert seen.states[symbol] == "GAP"
    handler = agree(b"".join(kept))
    assert {handler[symbol].state for symbol in handler.symbols} == {State.LIVE}


def test_the_streams_frames_are_the_handlers():
    stream = generate("spot-l2", **SMALL)
    handler = Handler()
    assert handler.on_bytes(stream.data) == len(list(frames(stream.data)))
    assert handler.stats["bytes"] == len(stream.data)


def test_the_face_of_a_handler_is_small_and_every_name_of_it_exists():
    face = dir(Handler())
    assert len(face) < 20 and {"on_bytes", "symbols", "stats", "checksum", "ticks", "deliver", "define"} <= set(face)
    for name in face:
        assert hasattr(Handler, name), name


def test_the_package_shows_its_lazy_names():
    import kfix_md

    assert set(kfix_md.__all__) <= set(dir(kfix_md))
