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


def message(kind, seq, fields, dup=False):
    """A W, X or y of a recorded stream, fields with | for SOH."""
    sent = "52=20240301-12:00:00.000|" + ("43=Y|122=20240301-11:59:59.000|" if dup else "")
    body = f"35={kind}|34={seq}|49=KRAKEN-MD|{sent}56=ME|{fields}".replace("|", "\x01").encode()
    whole = b"8=FIX.4.4\x019=%d\x01%b" % (len(body), body)
    return b"%b10=%03d\x01" % (whole, sum(whole) % 256)


def test_of_several_subscriptions_of_a_symbol_the_longest_is_served(tmp_path):
    """As `kfix probe` leaves it: other depths before, a replay in between, an update of a status, precisions as 1.0."""
    snapshot = "268=1|269=0|278=B{0}|270={0}|271=1|273=12:00:00.000|"
    change = "268=1|279=0|269=1|278=O{0}|270={0}|271=1|273=12:00:00.000|5041=1|"
    stream = [
        message("y", 1, "320=1|560=0|146=1|55=A/USD|5010=2.0|2349=1.0|5022=0.1|5011=1|5032=1|"),
        message("W", 2, "55=A/USD|262=one|" + snapshot.format("9.0")),
        message("X", 3, "55=A/USD|262=one|" + change.format("10.0")),
        message("W", 4, "55=A/USD|262=two|" + snapshot.format("9.1")),
        message("X", 5, "55=A/USD|262=two|" + change.format("10.1")),
        message("y", 6, "320=1|560=0|146=1|55=A/USD|5032=2|"),
        message("X", 7, "55=A/USD|262=two|" + change.format("10.2")),
        message("X", 5, "55=A/USD|262=two|" + change.format("10.1"), dup=True),
    ]
    path = tmp_path / "probe.fix"
    path.write_bytes(b"".join(stream))
    capture = read(path)
    assert [entry.price for entry in capture.snapshots["A/USD"][1]] == [91]
    assert [[entry.price for entry in event.entries] for event in capture.events] == [[101], [102]]
    assert capture.instruments["A/USD"].price_precision == 1
