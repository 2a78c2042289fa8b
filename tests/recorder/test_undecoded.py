"""What the feed applied and the recorder cannot decode is an alarm, a gap row, and keeps its journal segment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import recorder
from kfix_md import Handler
from kfix_md.instruments import Status
from kfix_md.journal import files as journal_files
from kfix_md.journal.event_json import decode
from kfix_md.journal.events import Carried, SessionDescribed
from kfix_md.journal.reader import EVENT, FRAME, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import retention
from recorder.cli import record
from recorder.process import Recorder
from recorder.verify import verify
from tests.recorder import build
from tests.streams import generate

SMALL = 1 << 16
_APPLIED = re.compile(rb"\x0135=[WX]\x01")


def journal_of(path: Path) -> None:
    with JournalWriter(path / "journal", segment_bytes=SMALL, first_number=1) as journal:
        frames = generate("spot-l2", messages=900, seed=5).frames
        build.write_session(journal, 0, "spot-l2", frames, build.START_NS, end=False)
    assert len(journal_files.segments(path / "journal")) > 3


def as_before(path: Path) -> None:
    """Write the journal of `path` again as it was when segments did not begin with the instruments."""
    records = list(JournalReader(path / "journal"))
    for old in journal_files.segments(path / "journal").values():
        old.unlink()
    with JournalWriter(path / "journal", segment_bytes=SMALL, first_number=1) as journal:
        for _, kind, session, recv_ns, flags, body in records:
            if kind == FRAME:
                journal.frame(session, recv_ns, body, flags)
            elif not isinstance(decode(body).event, Carried):
                journal.event(session, recv_ns, decode(body).raw)


def damage_lists(path: Path) -> None:
    """One wrong byte in the body of every instrument list of the first segment."""
    for position, kind, *_, body in JournalReader(path / "journal"):
        if kind == FRAME and b"\x0135=y\x01" in body:
            with open(journal_files.segments(path / "journal")[position >> 32], "r+b") as file:
                file.seek((position & 0xFFFFFFFF) + 32 + 20)
                file.write(b"\xff")


def applied(path: Path, number: int) -> int:
    """W and X of one segment."""
    records = [r for r in JournalReader(path / "journal", number << 32) if r[0] >> 32 == number]
    return sum(bool(kind == FRAME and _APPLIED.search(body)) for _, kind, *_, body in records)


def test_a_damaged_list_costs_its_segment_and_none_after_it(tmp_path, caplog):
    journal_of(tmp_path)
    lost = applied(tmp_path, 1)
    damage_lists(tmp_path)
    one = Recorder(build.settings(tmp_path, flush_rows=300, retention="delete"))
    one.once()
    assert one.tail.undecoded == {0: lost} and one.counts["undecoded"] == lost
    assert any("cannot be decoded" in record.message and record.levelname == "ERROR" for record in caplog.records)
    cap = recorder.open(tmp_path / "captures")
    gaps = [row for row in cap.gaps().to_pylist() if row["cause"] == "UNDECODED"]
    assert sum(row["lost"] for row in gaps) == lost > 0 and all(row["closed_ns"] for row in gaps)
    later = [body for _, kind, *_, body in JournalReader(tmp_path / "journal", 2 << 32) if kind == FRAME]
    seqs = {int(re.search(rb"\x0134=(\d+)\x01", body)[1]) for body in later if _APPLIED.search(body)}
    assert seqs and seqs <= {seq for symbol in cap.symbols() for seq in cap.ticks(symbol)["seq"].to_pylist()}
    assert set(cap.instruments()["status"].to_pylist()) == {Status.UNKNOWN.name.lower()}
    done = retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "delete", one._kept)
    present = journal_files.segments(tmp_path / "journal")
    assert one._kept == {1: 1} and done == [] and list(present) == list(range(1, max(present) + 1)), "no hole"
    assert len(retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "zstd", one._kept)) > 1
    one.close()
    proof = verify(cap).summary()
    assert proof["unproven"] > 0 and proof["failed"] == 0


@pytest.mark.parametrize(
    ("fault", "why"),
    [("undecoded", "cannot be decoded"), ("damaged", "is damaged at"), ("empty", "has no market data"), ("none", "")],
)
def test_each_of_these_alone_keeps_a_segment(tmp_path, caplog, fault, why):
    now = build.START_NS
    with JournalWriter(tmp_path / "journal", first_number=1) as journal:
        if fault != "empty":
            now = build.write_session(journal, 0, "spot-l2", generate("spot-l2", messages=60, seed=5).frames, now)
        if fault == "undecoded":  # its instrument list is missing
            build.announce(journal, 1, "derivatives-l2", now)
            for frame in generate("derivatives-l2", messages=60, seed=5).frames:
                if _APPLIED.search(frame):
                    journal.frame(1, now, frame)
        last = journal.position & 0xFFFFFFFF
        journal.out(0, now, b"a frame of ours")
    with JournalWriter(tmp_path / "journal") as journal:
        journal.event(0, now, {"type": "started"})
    if fault == "damaged":
        with open(journal_files.segments(tmp_path / "journal")[1], "r+b") as file:
            file.seek(last + 32)
            file.write(b"\xff")
    one = Recorder(build.settings(tmp_path, retention="delete"))
    one.once()
    caplog.clear()
    done = retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "delete", one._kept)
    one.close()
    assert len(done) == (fault == "none") and one._kept == ({1: 1} if why else {})
    assert why in caplog.text and caplog.text.count("the segment is kept") == (fault != "none")


def test_the_oldest_segment_is_gone(tmp_path, caplog):
    journal_of(tmp_path)
    journal_files.segments(tmp_path / "journal")[1].unlink()
    wanted = sum(applied(tmp_path, n) for n in journal_files.segments(tmp_path / "journal"))
    one = Recorder(build.settings(tmp_path))
    one.once()
    assert one.tail.begins_inside and "segments before 2 are missing" in caplog.text
    assert not one.tail.undecoded and one.tail.decoders[0].messages == wanted
    one.close()
    cap = recorder.open(tmp_path / "captures")
    assert cap.sessions()["service"].to_pylist() == ["spot-l2"] and cap.symbols()


def config_of(path: Path) -> Path:
    file = path / "feed.toml"
    file.write_text(
        f'[journal]\ndirectory = "{path}/journal"\n[recorder]\ndirectory = "{path}/captures"\n'
        '[[service]]\nname = "spot-l2"\nsender_comp_id = "A"\nsymbols = ["BTC/USD"]\n'
    )
    return file


def test_where_nothing_can_be_recorded_the_exit_status_says_so(tmp_path):
    journal_of(tmp_path)
    as_before(tmp_path)
    journal_files.segments(tmp_path / "journal")[1].unlink()
    done = CliRunner().invoke(record, [str(config_of(tmp_path)), "--once"])
    assert done.exit_code == 1, done.output
    assert "are not recorded" in done.output and "0000000002.kfj" in done.output
    assert not verify(recorder.open(tmp_path / "captures")).holds
    one = Recorder(build.settings(tmp_path, retention="delete"))
    before = journal_files.segments(tmp_path / "journal")
    retention.retire(tmp_path / "journal", one.writer.tree, one.committed_safe(), "delete")
    assert journal_files.segments(tmp_path / "journal") == before, "nothing that was never recorded is deleted"
    one.close()


def test_every_segment_can_be_decoded_alone(tmp_path):
    with JournalWriter(tmp_path / "journal", segment_bytes=SMALL, first_number=1) as journal:
        now = build.START_NS
        for number, service in enumerate(build.SERVICES):
            now = build.write_session(journal, number, service, generate(service, messages=120, seed=2).frames, now)
    numbers = sorted(journal_files.segments(tmp_path / "journal"))
    assert len(numbers) > 4
    for number in numbers[1:]:
        known: dict[int, Carried] = {}
        described = set()
        for _, kind, session, *_, body in JournalReader(tmp_path / "journal", number << 32):
            event = decode(body).event if kind == EVENT else None
            if isinstance(event, SessionDescribed):
                described.add(session)
            elif isinstance(event, Carried):
                known[session] = event
            elif kind == FRAME and _APPLIED.search(body):
                symbol = re.search(rb"\x0155=([^\x01]*)", body)[1].decode()
                assert session in described and symbol in known[session].instruments
                break


def test_what_segments_begin_with_is_bounded(tmp_path):
    """A journal of small segments is not filled with its instruments."""
    with JournalWriter(tmp_path, segment_bytes=SMALL, first_number=1) as journal:
        handler = Handler(journal=journal)
        for i in range(1000):
            handler.define(f"LONG-NAME-OF-AN-INSTRUMENT-{i}/USD", 2, 8)
        for i in range(200):
            assert journal.frame(0, build.START_NS + i, b"x" * 900)
    records = list(JournalReader(tmp_path))
    assert [r[1] for r in records] == [FRAME] * 200
    assert len(journal_files.segments(tmp_path)) < 5


@pytest.mark.parametrize("size", [SMALL - 300, SMALL, 3 * SMALL])
def test_a_large_record_that_begins_a_segment_still_fits(tmp_path, size):
    with JournalWriter(tmp_path, segment_bytes=SMALL, first_number=1) as journal:
        build.announce(journal, 0, "spot-l2", build.START_NS)
        handler = Handler(journal=journal)
        handler.define("BTC/USD", 1, 8)
        for body in (b"a" * 40_000, b"b" * size, b"c"):
            assert journal.frame(0, build.START_NS, body)
    frames = [r[5] for r in JournalReader(tmp_path) if r[1] == FRAME]
    assert [len(body) for body in frames] == [40_000, size, 1]
