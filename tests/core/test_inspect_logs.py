"""`kfix inspect` reads FIX logs whatever they print for SOH and around messages, and names files that are none."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kfix_md.cli import logs
from kfix_md.cli.inspect import command
from kfix_md.errors import UsageError
from tests.streams import generate
from tests.streams.wire import body_of, frame, seal

STREAM = generate("spot-l2", symbols=2, messages=60, depth=12, seed=5)
STAMP = "20240229-10:00:00.000"


def inspected(path: Path) -> tuple[int, dict]:
    """Exit status and report of `kfix inspect PATH --json`."""
    done = CliRunner().invoke(command, [str(path), "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, json.loads(done.stdout)


def text_of(path: Path) -> list[str]:
    """Lines of `kfix inspect PATH`."""
    return CliRunner().invoke(command, [str(path)]).stdout.splitlines()


def saved(tmp_path: Path, data: bytes, name: str = "session.log") -> Path:
    """The bytes as a file."""
    path = tmp_path / name
    path.write_bytes(data)
    return path


def client_frames() -> list[bytes]:
    """What a client sends in the session of STREAM."""
    head = [(49, "MYCOMPID"), (52, STAMP), (56, "KRAKEN-MD")]
    return [
        frame("A", [(34, "1"), *head, (98, "0"), (108, "60"), (141, "Y")]),
        frame("x", [(34, "2"), *head, (320, "i1"), (559, "4")]),
        frame("V", [(34, "3"), *head, (262, "m1"), (263, "1"), (264, "0"), (265, "1")]),
        frame("0", [(34, "4"), *head]),
    ]


def both_ways() -> list[tuple[bool, bytes]]:
    """(sent by the gateway, frame): the client logs on first, and sends heartbeats in between."""
    sent = client_frames()
    whole = [(False, sent[0]), (True, STREAM.frames[0]), (False, sent[1]), (False, sent[2])]
    whole += [(True, one) for one in STREAM.frames[1:30]]
    return [*whole, (False, sent[3]), *((True, one) for one in STREAM.frames[30:])]


def sound(report: dict, status: int) -> None:
    """The report is that of STREAM with nothing wrong."""
    assert status == 0
    assert (report["protocol_errors"], report["gaps"], report["checksum"]["failed"]) == (0, 0, 0)
    assert report["messages"] == len(STREAM.frames)
    assert report["entries"] == STREAM.entries
    assert report["checksum"]["ok"] == report["checksum"]["checked"] == STREAM.checksums > 30
    assert report["symbols"].keys() == STREAM.markets.keys()
    for symbol, market in STREAM.markets.items():
        assert report["symbols"][symbol]["levels"] == [len(prices) for prices in market.prices]


SEPARATORS = ["|", "^A", ";", "<SOH>", " | ", "␁", "\\x01", "\\u0001", "\\001", "[SOH]", "&#1;", "\t", "~", " ", "!@"]


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_whatever_is_printed_for_soh(tmp_path, separator, end):
    data = b"".join(one.replace(b"\x01", separator.encode()) + end.encode() for one in STREAM.frames)
    status, report = inspected(saved(tmp_path, data))
    sound(report, status)
    assert report["form"] == f"FIX messages with {logs.separator_name(separator.encode())} for SOH"
    assert report["recomputed"] == 0


def iso_arrow(inbound: bool, one: bytes, i: int) -> bytes:
    return b"2024-02-29T10:00:%02d.000Z [io-2] %s %s" % (
        i % 60,
        b"<<" if inbound else b">>",
        one.replace(b"\x01", b"^A"),
    )


def quickfix(inbound: bool, one: bytes, i: int) -> bytes:
    return b"20240229-10:00:%02d.000000 : %s" % (i % 60, one)


def quickfix_j(inbound: bool, one: bytes, i: int) -> bytes:
    way = b"incoming" if inbound else b"outgoing"
    return b"<20240229-10:00:%02d, FIX.4.4:ME->KRAKEN-MD, %s> (%s)" % (i % 60, way, one.replace(b"\x01", b"|"))


def log4j(inbound: bool, one: bytes, i: int) -> bytes:
    text = one.replace(b"\x01", b";")
    return b"10:00:%02d,123 INFO  [pool-1] c.a.Gateway - %s: %s" % (i % 60, b"RX" if inbound else b"TX", text)


def json_lines(inbound: bool, one: bytes, i: int) -> bytes:
    return json.dumps({"t": i, "dir": "in" if inbound else "out", "msg": one.decode()}).encode()


def table(inbound: bool, one: bytes, i: int) -> bytes:
    return b'%d,%s,"%s"' % (i, b"I" if inbound else b"O", one.replace(b"\x01", b"<SOH>"))


def bare(inbound: bool, one: bytes, i: int) -> bytes:
    return one


@pytest.mark.parametrize("style", [iso_arrow, quickfix, quickfix_j, log4j, json_lines, table, bare])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n-- rotated --\n"])
def test_both_directions_with_text_around(tmp_path, style: Callable, end):
    data = b"# started\n" + b"".join(style(inbound, one, i) + end for i, (inbound, one) in enumerate(both_ways()))
    status, report = inspected(saved(tmp_path, data))
    sound(report, status)
    assert "two directions" in report["form"]
    assert report["directions"] == [
        {"sender": "MYCOMPID", "target": "KRAKEN-MD", "messages": 4, "read": False},
        {"sender": "KRAKEN-MD", "target": "MYCOMPID", "messages": len(STREAM.frames), "read": True},
    ]


def test_both_directions_back_to_back(tmp_path):
    status, report = inspected(saved(tmp_path, b"".join(one for _, one in both_ways()), "session.fix"))
    sound(report, status)
    assert report["form"] == "FIX messages, two directions"


def renamed(one: bytes, old: str, new: str) -> bytes:
    return seal(body_of(one).replace(f"={old}\x01".encode(), f"={new}\x01".encode()))


def test_directions_without_a_known_name(tmp_path):
    """What only a gateway sends decides; before that, messages wait."""
    frames = [renamed(one, "KRAKEN-MD", "VENUE") for _, one in both_ways()]
    status, report = inspected(saved(tmp_path, b"\n".join(frames)))
    sound(report, status)
    assert {d["sender"]: d["read"] for d in report["directions"]}["VENUE"]
    # with no more than Logons and heartbeats, who logs on first is the client
    few = [renamed(one, "KRAKEN-MD", "VENUE") for _, one in both_ways()[:2]]
    status, report = inspected(saved(tmp_path, b"\n".join(few)))
    assert (status, report["messages"], report["protocol_errors"]) == (0, 1, 0)
    assert [d["read"] for d in report["directions"]] == [False, True]


def test_sessions_of_several_gateways_are_read_apart(tmp_path):
    other = generate("derivatives-l3", symbols=1, messages=40, seed=6)
    both = [one for pair in zip(STREAM.frames, other.frames, strict=False) for one in pair]
    both += STREAM.frames[len(other.frames) :] + other.frames[len(STREAM.frames) :]
    status, report = inspected(saved(tmp_path, b"\n".join(both)))
    assert (status, report["gaps"], report["protocol_errors"]) == (0, 0, 0)
    assert report["checksum"]["ok"] == STREAM.checksums + other.checksums
    assert report["symbols"].keys() == STREAM.markets.keys() | other.markets.keys()
    assert report["form"] == "FIX messages, 2 sessions"


@pytest.mark.parametrize("separator", ["|", ";", "^A", "<SOH>"])
def test_separators_inside_values(tmp_path, separator):
    """58 of every snapshot holds the separator; what follows it is no tag."""
    note = f"58=a{separator}b {separator}{separator} c{separator}\x01".encode()
    frames = [
        seal(body_of(one).replace(b"268=", note + b"268=", 1)) if b"35=W" in one else one for one in STREAM.frames
    ]
    assert frames != STREAM.frames
    data = b"".join(one.replace(b"\x01", separator.encode()) + b"\n" for one in frames)
    status, report = inspected(saved(tmp_path, data))
    sound(report, status)


def test_a_message_quoted_in_a_text_field(tmp_path):
    reject = frame("3", [(34, str(len(STREAM.frames) + 1)), (49, "KRAKEN-MD"), (52, STAMP), (56, "MYCOMPID"), (45, "3"),
                         (58, "bad: 8=FIX.4.4|9=5|35=0|10=163|"), (373, "5")])  # fmt: skip
    data = b"\n".join(one.replace(b"\x01", b"^A") for one in [*STREAM.frames, reject])
    status, report = inspected(saved(tmp_path, data))
    assert (status, report["protocol_errors"], report["messages"]) == (0, 0, len(STREAM.frames) + 1)


def test_data_fields_with_soh_inside(tmp_path):
    logon = frame("A", [(34, "1"), (49, "KRAKEN-MD"), (52, STAMP), (56, "MYCOMPID"), (98, "0"), (108, "60"), (141, "Y"),
                        (95, "9"), (96, "ab\x01c\x01d=e")])  # fmt: skip
    frames = [logon, *STREAM.frames[1:]]
    for separator in (b"\x01", b"|", b"^A"):
        data = b"\r\n".join(one.replace(b"\x01", separator) for one in frames)
        found = list(read(data))
        assert [message.frame for message in found] == frames


def read(data: bytes, sizes: list[int] | None = None, reader: logs.LogReader | None = None) -> list[logs.LoggedMessage]:
    """Messages of a log that comes in pieces."""
    reader = reader or logs.LogReader()
    found, at = [], 0
    for size in sizes or [len(data)]:
        found += reader.feed(data[at : at + size])
        at += size
    return [*found, *reader.feed(data[at:]), *reader.finish()]


@pytest.mark.parametrize("separator", [b"^A", b"<SOH>", b" | "])
def test_lengths_and_checksums_counted_over_the_text_are_computed_again(tmp_path, separator):
    data = b""
    for one in STREAM.frames:
        body = body_of(one).replace(b"\x01", separator)
        head = b"8=FIX.4.4" + separator + b"9=%d" % len(body) + separator
        data += head + body + b"10=%03d" % (sum(head + body) % 256) + separator + b"\n"
    status, report = inspected(saved(tmp_path, data))
    sound(report, status)
    assert report["recomputed"] == len(STREAM.frames)


def test_checksums_counted_over_the_text_alone(tmp_path):
    data = b""
    for one in STREAM.frames:
        text = one[:-7].replace(b"\x01", b"|")
        data += text + b"10=%03d|\n" % (sum(text) % 256)
    status, report = inspected(saved(tmp_path, data))
    sound(report, status)
    assert report["recomputed"] == len(STREAM.frames)


@pytest.mark.parametrize("field", [b"9=", b"10="])
def test_what_is_wrong_for_another_reason_stays_wrong(tmp_path, field):
    frames = [one.replace(b"\x01", b"|") for one in STREAM.frames]
    at = frames[-1].index(b"|" + field) + 1 + len(field)
    digit = frames[-1][at : at + 1]
    frames[-1] = frames[-1][:at] + (b"1" if digit != b"1" else b"2") + frames[-1][at + 1 :]
    status, report = inspected(saved(tmp_path, b"\n".join(frames) + b"\n"))
    assert status == 1 and report["protocol_errors"] == 1 and report["recomputed"] == 0


def test_a_line_that_was_cut_is_an_error_and_the_rest_is_read(tmp_path):
    lines = [one.replace(b"\x01", b"|") for one in STREAM.frames]
    lines[20] = lines[20][:40]
    status, report = inspected(saved(tmp_path, b"\n".join(lines)))
    assert (status, report["protocol_errors"], report["gaps"]) == (1, 1, 1)
    assert report["messages"] == len(STREAM.frames) - 1


def test_a_log_that_ends_inside_a_message_is_cut(tmp_path):
    data = b"\n".join(one.replace(b"\x01", b"|") for one in STREAM.frames)[:-30]
    done = CliRunner().invoke(command, [str(saved(tmp_path, data)), "--json"])
    assert isinstance(done.exception, UsageError) and "is cut: its last message has no end" in str(done.exception)
    report = json.loads(done.stdout)
    assert report["unfinished_bytes"] > 0 and report["messages"] == len(STREAM.frames) - 1


def test_a_log_in_any_pieces_gives_the_same_frames():
    rng = random.Random(7)
    for separator in (b"^A", b"|", b"\x01"):
        data = b"".join(b"in : " + one.replace(b"\x01", separator) + b"\n" for one in STREAM.frames[:40])
        for _ in range(20):
            reader = logs.LogReader()
            sizes = [rng.randrange(1, 400) for _ in range(200)]
            assert [m.frame for m in read(data, sizes, reader)] == STREAM.frames[:40]
            assert (reader.broken, reader.unfinished, reader.prefixed) == (0, 0, 40)


def test_compressed_logs_whatever_their_name(tmp_path):
    data = b"\n".join(one.replace(b"\x01", b"|") for one in STREAM.frames)
    for name in ("a.log.gz", "a.log"):
        status, report = inspected(saved(tmp_path, gzip.compress(data), name))
        sound(report, status)


def test_a_raw_stream_is_read_as_before(tmp_path):
    status, report = inspected(saved(tmp_path, STREAM.data, "stream.fix"))
    sound(report, status)
    assert report["form"] == "a raw FIX stream" and report["directions"] == []
    # damage in it is counted, not taken for the text of a log
    spoiled = STREAM.frames[0] + b"garbage" + b"".join(STREAM.frames[1:])
    status, report = inspected(saved(tmp_path, spoiled[:300] + b"\x00\x07" + spoiled[302:], "stream.fix"))
    assert status == 1 and report["protocol_errors"] > 0


def tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("a.fix")
        member.size = len(STREAM.data)
        archive.addfile(member, io.BytesIO(STREAM.data))
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.fix", STREAM.data)
    return out.getvalue()


FOREIGN = {
    "gzip": gzip.compress(gzip.compress(STREAM.data)),
    "zip archive": zipped(),
    "tar archive": gzip.compress(tar()),
    r"packet capture \(pcap\).*Follow TCP Stream": bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"),
    "pcapng": bytes.fromhex("0a0d0d0a1c0000004d3c2b1a01000000"),
    "Parquet.*kfix verify": b"PAR1" + bytes(100),
    "journal.*kfix journal export": b"KFIXJRN1" + bytes(100),
    "bzip2": b"BZh91AY",
    "zstandard": b"\x28\xb5\x2f\xfd" + bytes(10),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_files_of_another_kind_are_named_in_one_line(tmp_path, what):
    done = CliRunner().invoke(command, [str(saved(tmp_path, FOREIGN[what])), "--json"])
    assert isinstance(done.exception, UsageError) and done.stdout == ""
    with pytest.raises(UsageError, match=what):
        raise done.exception
    assert "\n" not in str(done.exception)


WITHOUT = {
    "empty": b"",
    "blank": b"\n\n \n",
    "JSON": b'{"a": 1}\n',
    "XML": b"<?xml version='1.0'?>",
    "UTF-16": "8=FIX.4.4|9=5|35=0|10=163|\n".encode("utf-16"),
    "binary data": bytes(range(256)) * 4,
    "text with '8=FIX'": b"8=FIX.4.4|35=0|no length\n",
    "text of another kind": b"dear diary\n" * 30,
}


@pytest.mark.parametrize("what", WITHOUT)
def test_a_file_without_messages_is_described_in_one_line(tmp_path, what):
    path = saved(tmp_path, WITHOUT[what])
    status, report = inspected(path)
    assert status == 1 and report["messages"] == 0
    assert report["form"].startswith("no FIX message in this file: it is ") and what in report["form"]
    assert text_of(path) == [report["form"]]


def test_any_bytes_give_json_or_one_line(tmp_path):
    """Mutations of logs and plain noise: an object of JSON, or a UsageError of one line."""
    rng = random.Random(11)
    pieces = b"8=FIX.4.4 9= 10= 10=000 35=W | ^A <SOH> \x01 = \xff 999999999 0 49=KRAKEN-MD 56=CLIENT |10=123|".split(
        b" "
    )
    pieces += [b"\n", b"\r", b" ", b"8=FIX.4.4|9=5|", b"8=FIX.4.4|9=999999999|"]
    lines = b"\n".join(b"in: " + one.replace(b"\x01", b"|") for one in STREAM.frames[:12])
    for i in range(300):
        if i % 3 == 0:
            data = b"".join(rng.choices(pieces, k=rng.randrange(60)))
        elif i % 3 == 1:
            data = rng.randbytes(rng.randrange(200))
        else:
            data = bytearray(lines)
            for _ in range(rng.randrange(1, 12)):
                at = rng.randrange(len(data))
                data[at : at + rng.randrange(4)] = rng.choice(pieces)
        done = CliRunner().invoke(command, [str(saved(tmp_path, bytes(data))), "--json"])
        if isinstance(done.exception, UsageError):
            assert "\n" not in str(done.exception)
        else:
            assert done.exception is None or isinstance(done.exception, SystemExit), (data, done.exception)
            assert "messages" in json.loads(done.stdout)


@pytest.mark.parametrize(
    "data",
    [
        b"8=FIX.4.4|9=99999999|" * 20_000,
        b"8=FIX.4.4|9=5|" * 20_000 + b"|10=000|" * 20_000,
        b"8=FIX.4.4^A9=90000^A" * 20_000 + b"^A10=000^A" * 20_000,
        b"8=FIX.4.4^A9=400000^A" + b"^A10=000^A" * 50_000,
    ],
)
def test_work_is_bounded(data):
    """Input that makes a naive search quadratic: the number of texts that are built stays below a few per beginning."""
    reader = logs.LogReader()
    built = [0]
    real = logs._restored

    def counted(*arguments):
        built[0] += len(arguments[0])
        return real(*arguments)

    logs._restored = counted
    try:
        read(data, None, reader)
    finally:
        logs._restored = real
    assert built[0] < 40 * len(data)
