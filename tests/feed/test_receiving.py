"""Where reads end changes nothing: whole messages, single bytes and odd pieces lead to the same books and records."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from kfix_md.feed.receiving import is_due
from tests.feed.offline import SECOND, Offline
from tests.session.peer import stamp

HEAD = [(49, "KRAKEN-MD"), (56, "CLIENT")]


class Pieces(Offline):
    """A venue whose bytes arrive in pieces: `cut` returns the size of the next of so many that are left."""

    def __init__(self, cut: Callable[[int], int]) -> None:
        self.cut = cut
        super().__init__()

    def bytes(self, *frames: bytes) -> Offline:
        data = b"".join(frames)
        while data:
            piece = data[: self.cut(len(data))]
            data = data[len(piece) :]
            self.service.handler.get_buffer(len(piece))[: len(piece)] = piece
            self.service.received(len(piece), self.now)
        self._answer()
        return self

    def again(self, seq: int, *body: Any) -> bytes:
        """The X of a number that was lost, as a replay has it."""
        sent = stamp(self.now)
        return self.frame("X", *body, seq=seq, header=[*HEAD, (34, seq), (43, "Y"), (122, sent), (52, sent)])


def odd_day(rig: Pieces) -> None:
    """What a venue and a machine may do within one connection."""
    rig.connect().wait(1).update("A/USD")
    lost = rig.seq + 1
    rig.seq += 2
    rig.update("A/USD", "4").wait(0.1)  # a gap: what is missing is requested
    rig.bytes(
        rig.again(lost, *rig.body("A/USD", (1, "11.0", "3"))),
        rig.frame("A", (98, 0), (108, 60)),  # a Logon inside the replay
        rig.again(lost + 1, *rig.body("B/USD", (1, "11.0", "5"))),
    )
    rig.wait(0.5)
    rig.service.clock_stepped(3600 * SECOND)
    rig.update("B/USD", "6", sending=stamp(rig.now - 100 * SECOND)).update("B/USD", "7", sending=stamp(rig.now))
    bad = rig.frame("X", *rig.body("A/USD", (1, "11.0", "8")))
    rig.bytes(b"\x01garbage8=FIX.4.", bad[:-4] + b"000\x01", rig.frame("0")).wait(0.5)
    rig.give("j", (372, "V"), (380, 0), (58, "x" * 5_000))
    rig.give("X", *rig.body("B/USD", *((0, f"{9 - n / 10:.1f}", "1") for n in range(90)))).wait(1)


def outcome(rig: Pieces) -> dict[str, Any]:
    service = rig.service
    return {
        "states": dict(rig.states),
        "events": rig.journal.events,
        "sent": rig.sent,
        "session": (service.session.state, service.session.sequence.expected),
        "stats": service.handler.stats,
        "lag": (service.lag.lag_ns, service.lag.offset_ns, service.lag.over, service.lag.times),
        "books": {symbol: service.handler[symbol].top(allow_stale=True) for symbol in rig.symbols},
    }


@pytest.fixture(scope="module")
def whole():
    rig = Pieces(lambda left: left)
    odd_day(rig)
    return outcome(rig)


def test_the_odd_day_is_odd(whole):
    stats = whole["stats"]
    assert whole["lag"][3] == 1 and stats["bad_checksum"] == 1 and stats["garbage"] == 1
    assert {"GAP", "LIVE"} <= {state.name for _, state in whole["states"]["A/USD"]}


@pytest.mark.parametrize("seed", range(3))
def test_messages_in_odd_pieces(whole, seed):
    rng = random.Random(seed)
    rig = Pieces(lambda left: rng.choice((1, 2, 7, 8, 9, 63, 200, left)))
    odd_day(rig)
    assert outcome(rig) == whole


def test_messages_byte_by_byte(whole):
    rig = Pieces(lambda left: 1)
    odd_day(rig)
    assert outcome(rig) == whole


def test_a_request_is_due_from_its_time_on():
    assert not is_due([], 5) and not is_due([(6, "V")], 5) and is_due([(5, "V"), (9, "V")], 5)
    for wrong, error in (([(None,)], TypeError), ([(1 << 70,)], OverflowError), ([()], IndexError)):
        with pytest.raises(error):
            is_due(wrong, 5)
