"""Whatever the peer sends ends in order or in a clean close, in bounded memory, and never in an exception."""

import random

import pytest

from kfix_md.session.types import SessionState
from tests.session.peer import NOON, SECOND, SENDER, TARGET, TEN_PM, Rig, frame, stamp

KINDS = ["0", "1", "2", "3", "4", "5", "A", "W", "X", "y", "j", "h", "Y", "*", "", "ZZ", "AE", "V"]
TAGS = [7, 16, 34, 36, 43, 45, 49, 52, 56, 58, 97, 98, 108, 112, 122, 123, 141, 262, 268, 371, 373, 789]
VALUES = ["Y", "N", "", "0", "1", "2", "-1", "abc", "999999999999999999", "9" * 30, "\xff\xfe", "60", "-"]


def number(rng, around):
    """A SeqNum near the interesting ones."""
    pick = rng.random()
    if pick < 0.5:
        return around
    if pick < 0.9:
        return max(0, around + rng.randrange(-4, 8))
    return rng.choice([0, 1, 2, around * 2, 10**9, 10**17, "x", ""])


def any_message(rng, rig):
    """A random frame, more often plausible than not."""
    kind = rng.choice(KINDS)
    body = []
    for _ in range(rng.randrange(4)):
        tag = rng.choice(TAGS)
        value = number(rng, rig.expected) if tag in (7, 16, 36) else rng.choice(VALUES)
        if tag in (52, 122) and rng.random() < 0.8:
            value = stamp(rig.now + rng.randrange(-3, 2) * SECOND)
        body.append((tag, value))
    if kind == "4":
        body += [(123, rng.choice("YN")), (36, number(rng, rig.expected + 1))]
    if kind == "2":
        body += [(7, number(rng, rig.session.sequence.outgoing)), (16, 0)]
    if kind == "1":
        body += [(112, "T")]
    if rng.random() < 0.3:
        body[:0] = [(43, "Y"), (122, stamp(rig.now - SECOND))]
    changes = {"begin": "FIX.4.2"} if rng.random() < 0.005 else {}
    if rng.random() < 0.01:
        changes["sender"] = rng.choice(["", "OTHER", SENDER])
    if rng.random() < 0.02:
        return frame(kind, 0, rig.now, header=[(34, number(rng, rig.expected)), (49, TARGET)][: rng.randrange(3)])
    return frame(kind, number(rng, rig.expected), rig.now, *body, **changes)


def sound(frames, last):
    """Our frames: numbers rise by one, but for gap fills, which use none; returns the last number."""
    for m in frames:
        if m["type"] == "4":
            assert m[43] == "Y" and int(m[34]) <= last < int(m[36]) + 10**6
        elif m["type"] == "A" and m[34] == "1":
            last = 1
        else:
            assert int(m[34]) == last + 1, m
            last += 1
    return last


@pytest.mark.parametrize("seed", range(40))
def test_random_messages_end_in_order_or_in_a_clean_close(seed):
    rng = random.Random(seed)
    start = TEN_PM - 30 * SECOND if seed % 4 == 0 else NOON
    rig = Rig(now=start, max_gap_messages=50, gap_timeout=5, reset_on_logon=seed % 3 != 0)
    session, logons, last = rig.session, 0, 0
    for _ in range(1500):
        if session.state == SessionState.OFF:
            rig.seq, rig.applied = 1, []
            rig.connect()
            rig.peer("A", (98, 0), (108, 60), (141, "Y"), seq=1)
            assert session.state == SessionState.ON, session.close_reason
            rig.take()
            last = session.sequence.outgoing - 1
            logons += 1
        rig.raw(any_message(rng, rig))
        if rng.random() < 0.1:
            rig.wait(rng.choice([0.1, 1, 3]), step=1)
        assert len(session.outbox) < 5_000
        last = sound(rig.take(), last)
        assert len(session.gaps.queue.kept) <= 51 and len(session.gaps.queue.holes) <= 51
        assert session.fast == (session.state == SessionState.ON and not session.gaps)
        assert isinstance(session.next_timeout, int)
        if session.state in (SessionState.CLOSED, SessionState.LOGGED_OUT):
            assert session.close_reason is not None or session.state == SessionState.LOGGED_OUT
            session.disconnected(rig.now, "closed")
            assert session.retry in ("rollover", "backoff", "long")
    assert logons > 3
    assert len(session.losses.unhealed) <= 1_001 and len(session.events) <= 5_000


class Venue:
    """An acceptor that loses messages on the way and answers ResendRequests by replay, gap fill, or both."""

    def __init__(self, rng, rig):
        self.rng, self.rig = rng, rig
        self.kinds = {}  # our numbers and what each was
        self.seq = 2

    def emit(self, loss):
        kind = self.rng.choice("XXXXX01yh")
        seq, self.seq = self.seq, self.seq + 1
        self.kinds[seq] = kind
        if self.rng.random() >= loss:
            self.deliver(seq, kind)

    def deliver(self, seq, kind, dup=False):
        body = {"1": [(112, "T")], "y": [(320, "1")]}.get(kind, [(55, "BTC/USD")])
        self.rig.peer(kind, *body, seq=seq, dup=dup)

    def answer(self, loss):
        for m in self.rig.take():
            if m["type"] == "2":
                self.replay(int(m[7]), loss)

    def replay(self, first, loss):
        last, seq = self.seq - 1, first
        while seq <= last:
            run = seq
            while run <= last and (self.kinds[run] in "01" or self.rng.random() < 0.3):
                run += 1
            if run > seq:
                if self.rng.random() >= loss:
                    self.rig.peer("4", (123, "Y"), (36, run), seq=seq, dup=True)
                seq = run
            else:
                if self.rng.random() >= loss:
                    self.deliver(seq, self.kinds[seq], dup=True)
                seq += 1


@pytest.mark.parametrize("seed", range(60))
def test_every_number_is_applied_once_or_reported_as_lost(seed):
    rng = random.Random(seed)
    rig = Rig(gap_timeout=2).logon()
    venue = Venue(rng, rig)
    for _ in range(400):
        venue.emit(loss=0.08)
        if rng.random() < 0.5:
            venue.answer(loss=0.03)
        if rng.random() < 0.05:
            rig.wait(1)
        if rig.closed:  # the gap could not be closed in time: clean, and everything after it would be a new session
            assert rig.closed.kind == "gap_timeout"
            break
    else:
        for _ in range(20):
            venue.emit(loss=0)
            venue.answer(loss=0)
            rig.wait(2.1)
            venue.answer(loss=0)
            if rig.closed:
                return
        assert rig.expected == venue.seq and rig.session.ready
    lost = {n for _, first, last, _ in rig.app.named("lost") for n in range(first, last + 1)}
    data = {seq for seq, kind in venue.kinds.items() if kind == "X" and seq < rig.expected}
    assert rig.applied == sorted(set(rig.applied)), "in order, once"
    assert set(rig.applied) | (lost & data) == data
    assert not set(rig.applied) & lost
    delivered = {call[2] for call in rig.app.named("message")}
    assert delivered | lost >= {seq for seq, kind in venue.kinds.items() if kind in "yh" and seq < rig.expected}


def test_traps_in_the_queue_cost_no_time_that_grows_with_its_square():
    rig = Rig(max_gap_messages=40_000).logon()
    for n in range(15_000):  # gap fills that each reach far, and holes between them
        rig.session.receive(*framed(rig, "4", 10 + 3 * n, (123, "Y"), (36, 12 + 3 * n)))
    assert len(rig.session.gaps.queue.holes) == 15_000
    rig.peer("4", (123, "N"), (36, 60_000), seq=1)
    assert rig.expected == 60_000 and rig.session.ready


def framed(rig, kind, seq, *body):
    data = frame(kind, seq, rig.now, *body)
    return data, [tuple(pair) for pair in parse_fast(data)], rig.now


def parse_fast(data):
    for part in data[:-1].split(b"\x01"):
        tag, _, value = part.partition(b"=")
        yield int(tag), value
