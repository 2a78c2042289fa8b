"""Random lives of a session: after every step each book is LIVE or HALTED exactly when it is in the plain model."""

from __future__ import annotations

import random

import pytest

from tests.feed.offline import MS, Offline
from tests.feed.test_states import crossed, dup, maintenance, malformed
from tests.oracle.states import States
from tests.session.peer import frame as peer_frame
from tests.session.peer import parse, stamp

SYMBOLS = ("A/USD", "B/USD", "C/USD")
STEPS = 150
APPLICATION = "WXyhY"


class Modelled(Offline):
    """A venue that keeps what it sent, answers ResendRequests late and in several ways, and informs the model."""

    def __init__(self, rng: random.Random) -> None:
        self.model, self.rng = States(), rng
        self.history: dict[int, tuple[str, tuple, bytes]] = {}
        self.asked: int | None = None  # 7 of a ResendRequest that waits for its answer
        self.answers = {"replay": 0, "gap fill": 0}
        super().__init__(*SYMBOLS)
        self.service.subs._rng.seed(rng.random())

    def frame(self, kind, *body, **header):
        numbered = "seq" not in header
        raw = super().frame(kind, *body, **header)
        if numbered:
            if self.seq == 1:
                self.history.clear()
            self.history[self.seq] = (kind, body, raw)
        return raw

    def bytes(self, *frames):
        for raw in frames:
            fields = [(tag, value.decode()) for tag, value in parse(raw)]
            self.model.delivered(dict(reversed(fields))[35], fields)
        return super().bytes(*frames)

    def garbled(self):
        """A frame with a wrong checksum, which the model never sees."""
        raw = self.frame("X", *self.body(self.rng.choice(SYMBOLS), (1, "11.0", "7")))
        digit = b"0" if raw[-2:-1] != b"0" else b"1"
        super().bytes(raw[:-2] + digit + b"\x01")

    def _respond(self, kind, fields):
        self.model.sent(kind, fields)
        if kind == "2":
            self.asked = int(fields[7])
        super()._respond(kind, fields)

    def lose(self, reason="fin"):
        self.model.ended()
        self.asked = None
        self._due.clear()
        return super().lose(reason)

    def answer(self) -> None:
        """Answer a ResendRequest: messages again, gap fills in their place, or some of both."""
        first, self.asked = self.asked, None
        chance = self.rng.choice([0.0, 0.5, 1.0])
        last, at = self.seq, first
        while at <= last and self.seq == last:  # the numbering may begin again meanwhile
            kind, body, raw = self.history[at]
            if kind in APPLICATION and self.rng.random() < chance:
                self.answers["replay"] += 1
                head = [(49, "KRAKEN-MD"), (56, "CLIENT"), (34, at), *dup(raw)]
                self.bytes(peer_frame(kind, at, self.now, *body, header=head))
                at += 1
                continue
            self.answers["gap fill"] += kind in APPLICATION
            to = at + 1
            while to <= last and self.history[to][0] not in APPLICATION:
                to += 1
            head = [(49, "KRAKEN-MD"), (56, "CLIENT"), (34, at), (43, "Y"), (52, stamp(self.now))]
            self.bytes(peer_frame("4", at, self.now, (123, "Y"), (36, to), header=head))
            at = to


def lost(venue):
    for _ in range(venue.rng.choice([1, 1, 2, 5])):
        symbol = venue.rng.choice(SYMBOLS)
        if symbol in venue.requests:
            venue.frame("X", *venue.body(symbol, (1, "11.0", "5")))


def lost_snapshot(venue):
    symbol = venue.rng.choice(SYMBOLS)
    if symbol in venue.requests:
        venue.frame("W", *venue.body(symbol, (0, "10.0", "1"), (1, "11.0", "2"), action=None))


def again(venue):
    venue.lose().wait(venue.rng.choice([0.01, 0.3])).connect()


def leave(venue):
    venue.give("5", (58, "bye"))
    check(venue, "logged out")
    again(venue)


def renumber(venue):
    venue.seq, venue.asked = 0, None
    venue._due.clear()
    venue.give("A", (98, 0), (108, 60), (141, "Y"))


def updates(venue):
    for _ in range(3):
        venue.update(venue.rng.choice(SYMBOLS), str(venue.rng.randrange(1, 9)))


def empty_update(venue):
    venue.give("X", *venue.body(venue.rng.choice(SYMBOLS)))


def status(venue):
    maintenance(venue, venue.rng.choice(["market", "instrument"]), on=venue.rng.random() < 0.4)


def other_subscription(venue):
    symbol = venue.rng.choice(SYMBOLS)
    old, venue.requests[symbol] = venue.requests[symbol], "of-nobody"
    venue.snapshot(symbol)
    venue.requests[symbol] = old


def asked_for_ours(venue):
    venue.give("2", (7, 1), (16, 0))


def slower(venue):
    venue.latency = venue.rng.choice([0, 0, 30 * MS, 400 * MS])


ACTIONS = {
    updates: 20,
    lost: 6,
    lost_snapshot: 2,
    Modelled.garbled: 3,
    crossed: 1,
    malformed: 1,
    empty_update: 1,
    status: 4,
    other_subscription: 2,
    asked_for_ours: 1,
    slower: 3,
    again: 1,
    leave: 1,
    renumber: 1,
}


def check(venue, what) -> None:
    for symbol in SYMBOLS:
        wanted, state = venue.model.state(symbol), venue.state(symbol)
        assert state == wanted if wanted else state not in ("LIVE", "EMPTY"), (what, symbol, wanted, state)


@pytest.mark.parametrize("seed", range(40))
def test_a_book_is_live_exactly_when_the_messages_allow_it(seed):
    rng = random.Random(seed)
    venue = Modelled(rng).connect().wait(0.1)
    seen = set()
    for step in range(STEPS):
        act = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        if len(venue.requests) == len(SYMBOLS) or act in (again, leave):
            act(venue)
            check(venue, (step, act.__name__))
        venue.wait(rng.choice([0.0, 0.01, 0.05, 0.5]))
        check(venue, (step, "time passed"))
        if venue.asked is not None and rng.random() < 0.5:
            venue.answer()
            check(venue, (step, "resend answered"))
        if venue.service.close_reason is not None:
            reason = venue.service.close_reason
            assert reason.kind == "gap_timeout" or "without end" in reason.text, reason
            again(venue)
        seen |= {venue.model.state(symbol) for symbol in SYMBOLS}
    venue.trading, venue.latency = 2, 0
    venue.status = dict.fromkeys(venue.status, 1)
    again(venue)
    venue.wait(60, step=0.1)
    assert {venue.state(symbol) for symbol in SYMBOLS} == {"LIVE"} and seen >= {"", "LIVE"}
    assert sum(venue.answers.values()) > 5
