"""Recorded streams are served as they were recorded, with this session's own header."""

import gzip

import pytest

from kfix_md.errors import UsageError
from kfix_md.simulator.capture import read
from tests.simulator.plain import PlainBook, groups
from tests.simulator.venue import Client, running_venue, value

SERVICES = {"spot-l2": "spot-l2", "derivatives-l2": "derivatives-l2", "derivatives-l3": "derivatives-l3"}


def recorded(path):
    """Bodies from 55 on of all W and X, without 262."""
    frames = gzip.decompress(path.read_bytes()).split(b"8=FIX.4.4")[1:]
    return [body(frame) for frame in frames if b"\x0135=W" in frame or b"\x0135=X" in frame]


def body(frame):
    symbol = frame[frame.index(b"\x0155=") + 1 :].split(b"\x01")[0]
    return symbol, frame[frame.index(b"\x01268=") : frame.rindex(b"\x0110=")]


@pytest.mark.parametrize("name", SERVICES)
def test_served_as_recorded(tmp_path, captures, name):
    path = captures / f"{name}.fix.gz"
    expected = recorded(path)
    with running_venue(tmp_path, "--capture", str(path), "--speed", "max") as venue:
        client = Client(venue, name, "ME")
        client.logon()
        client.send("x", [(320, "R"), (559, 4)])
        listing = client.message()
        rows = {row[55]: (int(row[2349]), int(row[5010])) for row in groups(listing, 55)}
        client.subscribe(
            "MINE", *rows, types=(0, 1, 2) if name.endswith("l2") else (0, 1), level="Y" if name.endswith("l2") else "N"
        )
        received = []
        while len(received) < len(expected):
            frame = client.frame()
            assert frame is not None, f"{len(received)} of {len(expected)}"
            assert b"\x01262=MINE\x01" in frame and b"\x0134=%d\x01" % (len(received) + 3) in frame
            received.append(body(frame))
        snapshots = len(rows)
        assert sorted(received[:snapshots]) == sorted(expected[:snapshots])
        assert received[snapshots:] == expected[snapshots:]
        assert venue.control("stats")["captures"][0]["done"]


def test_late_subscriber_gets_the_present_book(tmp_path, captures):
    with running_venue(tmp_path, "--capture", str(captures / "spot-l2.fix.gz"), "--speed", "max", tls=False) as venue:
        first, second = Client(venue, "spot-l2", "ONE"), Client(venue, "spot-l2", "TWO")
        symbols = list(venue.control("symbols")["symbols"]["spot-l2"])
        first.logon()
        first.subscribe("A", *symbols)
        first.until("X", count=2242)
        second.logon()
        second.subscribe("B", "XMR/USD", depth=10)
        message = second.message()
        book = PlainBook("L2", 8, 8)
        book.apply(message)
        assert value(message, 268) == "20"
        assert book.same_as(venue.control.truth("XMR/USD"), 10)
        assert book.crc() == venue.control.truth("XMR/USD")["crc"]


def test_bad_captures_are_one_clear_error(tmp_path):
    whole = b"8=FIX.4.4\x019=5\x0135=0\x0110=163\x01"
    for name, data, word in [
        ("absent.fix", None, "cannot be read"),
        ("empty.fix", b"", "no instrument list"),
        ("cut.fix.gz", gzip.compress(whole * 99)[:-12], "cannot be read"),
        ("plain.fix.gz", whole, "cannot be read"),
        ("other.fix", whole, "no instrument list"),
    ]:
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UsageError, match=word):
            read(path)
