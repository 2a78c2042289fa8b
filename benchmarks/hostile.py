"""What eight megabytes of the worst input cost in processor time: python benchmarks/hostile.py [MEGABYTES].

Every stream is well-formed FIX that a peer might send to make the loop slow, or to fill the memory. The goal is half
a second for each (docs/performance.md); a feed that takes longer cannot answer a signal within one.
"""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from kfix_md import Handler
from kfix_md.feed.service import Service
from kfix_md.instruments import MAX_ROWS, InstrumentList, parse_list
from tests.feed.offline import Offline
from tests.fuzz.targets import framed

READ_BYTES = 262_144
GOAL_S = 0.5
CLOCK = b"52=20240301-12:00:00.000"
LISTED = framed(
    b"35=y|34=1|49=K|%s|56=ME|320=1|322=1|560=0|146=2|55=A/B|5010=2|2349=1|5032=1|55=C/D|5010=2|2349=1|5032=1|" % CLOCK
)


def message(kind: bytes, seq: int, groups: list[bytes], more: bytes = b"") -> bytes:
    """One W or X of the first symbol."""
    body = b"35=%s|34=%d|49=K|%s|56=ME|55=A/B|262=1|268=%d|" % (kind, seq, CLOCK, len(groups))
    return framed(body + b"".join(groups) + more)


def level(side: int, price: int, qty: int = 1) -> bytes:
    """A level as a group of a W."""
    return b"269=%d|278=%c%d|270=%d|271=%d|273=12:00:00.000|" % (side, b"BO"[side], price, price, qty)


def order(number: int, price: int, queue: int = 0, qty: int = 1) -> bytes:
    """An order of the bids as a group of a W; `queue`: its 5273, in ns after a second."""
    place = b"5273=2024-03-01T11:59:59.%09dZ|" % queue
    return b"269=0|278=%08x-0000-4000-8000-%012x|270=%d|271=%d|273=12:00:00.000|%s" % (
        *(number & 0xFFFFFFFF, number >> 32, price, qty),
        place,
    )


def changed(group: bytes, action: int = 0) -> bytes:
    """The same as a group of an X."""
    return b"279=%d|" % action + group


def filled(size: int, one: Callable[[int], bytes]) -> list[bytes]:
    """So many pieces that they have `size` bytes."""
    found, left, i = [], size, 0
    while left > 0:
        found.append(one(i))
        left -= len(found[-1])
        i += 1
    return found


def nested_headers(size: int) -> bytes:
    """Each header claims all that follows, up to one tag 10."""
    parts, left = [], size
    while left > 100:
        parts.append(b"8=FIX.4.4\x019=%07d\x01" % (left - 20 - 7))
        left -= len(parts[-1])
    return b"".join(parts) + b"x" * (left - 8) + b"\x0110=000\x01"


def headers_to_nothing(size: int) -> bytes:
    """Each header claims half of what there is, which leads to no tag 10."""
    return b"8=FIX.4.4\x019=%07d\x01" % (size // 2) * (size // 22)


def garbled_frames(size: int) -> bytes:
    """The shortest bytes that are a frame at fault."""
    return b"8=FIX.4.4\x019=x\x01" * (size // 14)


def falling_times(size: int) -> bytes:
    """Orders of one price, each before all others."""
    return message(b"W", 2, filled(size, lambda i: order(i, 10, 999_999_999 - i)))


def times_to_the_middle(size: int) -> bytes:
    """Orders of one price, each in the middle of all others."""
    return message(b"W", 2, filled(size, lambda i: order(i, 10, 999_999_999 - i if i % 2 else i)))


def middle_of_a_queue(size: int) -> bytes:
    """A long queue at the best price, then messages with 5041 that change its middle."""
    start = message(b"W", 2, [order(i, 10, i) for i in range(15_000)], b"5041=1|")
    return start + b"".join(
        message(b"X", 3 + i, [changed(order(7_500, 10, 7_500, 2 + i % 2), 1)], b"5041=1|")
        for i in range((size - len(start)) // 330)
    )


def same_hash(size: int) -> bytes:
    """Order ids that had one place in the table without a key."""
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)

    def one(i: int) -> bytes:
        hi = i << 8 | 1
        lo = (hi ^ 0x123456789) * inverse & (1 << 64) - 1
        text = b"%016x%016x" % (hi, lo)
        cut = b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
        return b"269=0|278=%s|270=10|271=1|273=12:00:00.000|" % cut

    return message(b"W", 2, filled(size, one))


def snapshot_backwards(size: int) -> bytes:
    """A snapshot with the worst price first."""
    return message(b"W", 2, filled(size, lambda i: level(0, 1 + i)))


def orders_backwards(size: int) -> bytes:
    """A snapshot of orders with the worst price first."""
    return message(b"W", 2, filled(size, lambda i: order(i, 1 + i, i)))


def levels_at_the_end(size: int) -> bytes:
    """Messages that add levels worse than all others."""
    return message(b"W", 2, [level(0, 1 << 30)]) + b"".join(
        message(b"X", 3 + n, [changed(level(0, (1 << 29) - 100 * n - i)) for i in range(100)])
        for n in range(size // 6_700)
    )


def orders_at_the_end(size: int) -> bytes:
    """Messages that add orders worse than all others: no depth limits an L3 book."""
    return message(b"W", 2, [order(0, 1 << 30)]) + b"".join(
        message(b"X", 3 + n, [changed(order(1 + 100 * n + i, (1 << 29) - 100 * n - i)) for i in range(100)])
        for n in range(size // 13_000)
    )


def empty_after_large(size: int) -> bytes:
    """Many orders once, then empty snapshots."""
    start = message(b"W", 2, filled(size // 2, lambda i: order(i, 10, i)))
    return start + b"".join(message(b"W", 3 + i, []) for i in range(size // 2 // 95))


def wrong_checksums(size: int) -> bytes:
    """Snapshots with a 5041 that no rule gives."""
    groups = [level(0, 10 - i) for i in range(3)] + [level(1, 11 + i) for i in range(3)]
    return b"".join(message(b"W", 2 + i, groups, b"5041=1|") for i in range(size // 480))


def long_ids(size: int) -> bytes:
    """Order ids of 60 kB."""
    return b"".join(
        message(b"X", 2 + i, [b"279=0|269=0|278=%s|270=10|271=1|273=12:00:00.000|" % (b"%08d" % i * 7_500)])
        for i in range(size // 60_200)
    )


def instruments_of_one_place(size: int) -> bytes:
    """A list of symbols that differ in their middle only."""
    rows = filled(min(size, 2_000_000), lambda i: b"55=AAAAAAAA%08dBBBBBBBB|5010=2|2349=1|5032=1|" % i)
    return framed(b"35=y|34=2|49=K|%s|56=ME|320=1|322=1|560=0|146=%d|" % (CLOCK, len(rows)) + b"".join(rows))


KINDS = (
    *(nested_headers, headers_to_nothing, garbled_frames, falling_times, times_to_the_middle, middle_of_a_queue),
    *(same_hash, snapshot_backwards, orders_backwards, levels_at_the_end, orders_at_the_end, empty_after_large),
    *(wrong_checksums, long_ids, instruments_of_one_place),
)


def fed(data: bytes) -> tuple[Handler, float]:
    """A handler that took the stream, and how many seconds that took."""
    handler = Handler()
    handler.on_bytes(LISTED, 1)
    began = time.process_time()
    for at in range(0, len(data), READ_BYTES):
        handler.on_bytes(memoryview(data)[at : at + READ_BYTES], 1)
    return handler, time.process_time() - began


def unfinished_list(size: int) -> tuple[InstrumentList, float]:
    """Fragments of an instrument list without a last one."""
    rows = filled(size // 100, lambda i: b"55=S%07d|5010=2|2349=1|5032=1|" % i)
    parts = [
        [(320, b"1"), (560, b"0"), (893, b"N")]
        + [(int(f.split(b"=")[0]), f.split(b"=")[1]) for f in b"".join(rows).split(b"|")[:-1]]
    ] * 100
    known = InstrumentList()
    known.expect("1")
    began = time.process_time()
    for part in parts:
        known.apply(parse_list(part, known.room))
    return known, time.process_time() - began


def listing(feed: Offline, rows: int, name: str, precision: int = 1) -> bytes:
    """A list of so many rows as the venue of `feed` sends it next; `precision`: 0, none is stated."""
    stated = [(5010, 2), (2349, precision), (5032, 1)] if precision else []
    request = next(body[320] for kind, body in reversed(feed.sent) if kind == "x")
    groups = [field for i in range(rows) for field in [(55, f"{name}{i:05d}"), *stated]]
    return feed.frame("y", (320, request), (322, "r"), (560, 0), (146, rows), *groups)


def lists_to_a_feed(size: int, rows: int, patterns: list[str], precisions: Sequence[int]) -> tuple[Service, float]:
    """Lists of so many rows in one moment to the service of a feed, with these precisions in turn (0: none)."""
    feed = Offline("A/USD", symbols=patterns).connect()
    feed.mute |= {"V", "x"}
    taken = 0
    work, used = feed.service.received, []

    def timed(n: int, now_ns: int) -> None:
        began = time.process_time()
        work(n, now_ns)
        used.append(time.process_time() - began)

    feed.service.received = timed  # without what the venue does
    for precision in itertools.cycle(precisions):
        data = listing(feed, rows, "S" if precision else f"N{taken}.", precision)
        feed.bytes(data)
        taken += len(data)
        if taken >= size:
            return feed.service, sum(used) * size / taken


#: what a feed is sent: rows of a list, patterns of its configuration, precisions
FEEDS = {
    "a feed: whole lists": (MAX_ROWS - 100, ["A/USD"], (1, 2, 3)),
    "a feed: precisions of subscribed books": (1_000, ["*"], (1, 2, 3)),
    "a feed: a name for each, all subscribed": (MAX_ROWS - 100, ["*"], (1,)),
    "a feed: rows that cannot be used": (MAX_ROWS // 3, ["*"], (0,)),
}


def results(size: int) -> Iterator[tuple[str, float, str]]:
    """(kind, seconds, what was counted) of each kind."""
    for kind in KINDS:
        data = kind(size)
        handler, seconds = fed(data)
        stats = handler.stats
        shown = ("messages", "entries", "malformed", "limits", "crc_failed", "summed_in_vain")
        counted = ", ".join(f"{name} {stats[name]}" for name in shown if stats.get(name))
        yield kind.__name__.replace("_", " "), seconds * size / len(data), counted
    _, seconds = unfinished_list(size)
    yield "unfinished list", seconds, ""
    for name, (rows, patterns, precisions) in FEEDS.items():
        service, seconds = lists_to_a_feed(size, rows, patterns, precisions)
        yield name, seconds, f"rows or lists left out {service.subs.listing.errors}"


def main() -> None:
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 8_000_000
    slow = 0
    for name, seconds, counted in results(size):
        slow += seconds > GOAL_S * size / 8e6
        print(f"{name:40s} {seconds:8.3f} s  {counted}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{slow} kinds above {GOAL_S} s for 8 MB; peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
