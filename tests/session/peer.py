"""A scripted acceptor for session tests: writes FIX without the code under test, time is an argument."""

import datetime

from kfix_md.journal.event_json import as_dict
from kfix_md.session.machine import Session
from kfix_md.session.types import Application, SessionConfig

SECOND = 1_000_000_000
SENDER, TARGET = "CLIENT", "KRAKEN-MD"
#: 2026-03-10 12:00:00 UTC, far from any rollover
NOON = 1_773_144_000 * SECOND
TEN_PM = NOON + 10 * 3600 * SECOND


def stamp(ns):
    """UTCTimestamp written apart from the code under test."""
    moment = datetime.datetime.fromtimestamp(ns // SECOND, datetime.UTC)
    return moment.strftime("%Y%m%d-%H:%M:%S") + f".{ns % SECOND // 10**6:03d}"


def frame(msg_type, seq, now, *body, sender=TARGET, target=SENDER, begin="FIX.4.4", sending=None, header=None):
    """Bytes of one inbound frame; `header` replaces the fields after 35 altogether."""
    if header is None:
        header = [(49, sender), (56, target), (34, seq), (52, sending or stamp(now))]
    fields = [(35, msg_type), *header, *body]
    content = "".join(f"{tag}={value}\x01" for tag, value in fields).encode("latin-1")
    head = f"8={begin}\x019={len(content)}\x01".encode() + content
    return head + f"10={sum(head) % 256:03d}\x01".encode()


def parse(raw):
    """(tag, value) pairs of a frame: the plainest reading."""
    pairs = [part.split(b"=", 1) for part in raw.split(b"\x01")[:-1]]
    return [(int(tag), value) for tag, value in pairs]


def number_of(raw):
    """The first 34 of a frame."""
    return next(int(value) for tag, value in parse(raw) if tag == 34)


class Recorder(Application):
    """Keeps every call the session makes."""

    def __init__(self):
        self.calls = []
        self.left = []  # `planned` of each on_leaving

    def on_leaving(self, planned):
        self.left.append(planned)

    def on_ready(self):
        self.calls.append(("ready",))

    def on_message(self, msg_type, fields, recv_ns):
        self.calls.append(("message", msg_type, next(int(value) for tag, value in fields if tag == 34)))

    def on_lost(self, first, last, cause):
        self.calls.append(("lost", first, last, cause))

    def on_reset(self, cause):
        self.calls.append(("reset", cause))

    def on_gap(self, first, last, cause):
        self.calls.append(("gap", first, last, cause))

    def on_gap_closed(self):
        self.calls.append(("gap_closed",))

    def on_requests_lost(self, requests):
        self.calls.append(("requests_lost", requests))

    def named(self, kind):
        return [call for call in self.calls if call[0] == kind]


class Rig:
    """A session, the peer's outgoing number, a clock that is a number, and what was applied when."""

    def __init__(self, now=NOON, store=None, **settings):
        self.app = Recorder()
        self.now = now
        self.config = SessionConfig(SENDER, TARGET, **settings)
        self.store = store
        self.session = Session(self.config, self.app, numbers=store.load() if store else None)
        self.seq = 1
        self.applied = []

    # ---- inputs
    def connect(self):
        self.session.connected(self.now)
        self.save()
        return self

    def save(self):
        """Store the numbers, as the service does before it writes."""
        if self.store and (numbers := self.session.take_save(self.now)):
            self.store.save(*numbers)

    def logon(self, *extra, seq=None, reset=True):
        """Connect and accept the Logon; our Logon is taken out of the outbox."""
        self.connect()
        self.take()
        body = [(98, 0), (108, 60), *([(141, "Y")] if reset else []), *extra]
        self.peer("A", *body, seq=seq)
        return self

    def raw(self, data):
        """One whole frame as bytes."""
        answer = self.session.receive(data, parse(data), self.now)
        if answer == 1:
            self.applied.append(number_of(data))
        self.drain()
        self.save()
        return answer

    def drain(self):
        while released := self.session.take_released(self.now):
            self.applied += [number_of(data) for data, _ in released]

    def peer(self, msg_type, *body, seq=None, dup=False, **changes):
        """A frame of the peer with its next number (or `seq`); `dup` adds 43=Y and 122."""
        if seq is None:
            seq, self.seq = self.seq, self.seq + 1
        else:
            self.seq = max(self.seq, seq + 1)
        if dup:
            body = [(43, "Y"), (122, stamp(self.now - SECOND)), *body]
        return self.raw(frame(msg_type, seq, self.now, *body, **changes))

    def data(self, seq=None, dup=False, **changes):
        """A market data increment."""
        body = [(55, "BTC/USD"), (262, "1"), (268, 1), (279, 0), (269, 0), (270, 1), (271, 1)]
        return self.peer("X", *body, seq=seq, dup=dup, **changes)

    def wait(self, seconds, step=1.0):
        """Let time pass, ticking."""
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now = min(end, self.now + int(step * SECOND))
            self.session.tick(self.now)
            self.save()

    # ---- outputs
    def take(self):
        """Frames written since the last call, as dicts with int tags and str values; 35 under 'type'."""
        frames, self.session.outbox[:] = list(self.session.outbox), []
        out = []
        for raw in frames:
            fields = parse(raw)
            assert raw == frame_again(fields), "our own frame has a wrong length or checksum"
            out.append({tag: value.decode("latin-1") for tag, value in fields} | {"type": dict(fields)[35].decode()})
        return out

    def events(self, kind=None):
        """Events of a type (default all) as they are journaled."""
        return [as_dict(event) for _, event in self.session.events if kind in (None, event.type)]

    @property
    def closed(self):
        return self.session.close_reason

    @property
    def expected(self):
        return self.session.sequence.expected


def frame_again(fields):
    """The frame these pairs make, length and checksum computed afresh."""
    content = b"".join(b"%d=%s\x01" % pair for pair in fields[2:-1])
    head = b"8=%s\x019=%d\x01" % (fields[0][1], len(content)) + content
    return head + b"10=%03d\x01" % (sum(head) % 256)
