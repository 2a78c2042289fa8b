"""Streams under each checksum rule, through the live handler and the recorder, proven from Parquet alone."""

from __future__ import annotations

import zlib

import pytest

import recorder
from kfix_md import Handler
from kfix_md.journal.writer import JournalWriter
from recorder import compact
from recorder.verify import verify
from tests.oracle import frames as split
from tests.recorder import build
from tests.streams import generate, rules
from tests.streams.wire import example


def padded(tag: str, value: str) -> str:
    """A quantity with up to two zeros more than it needs, as venues write them; the price as it is."""
    _, _, part = value.partition(".")
    zeros = min(zlib.crc32(value.encode()) % 3, 8 - len(part))
    return value + "0" * zeros if tag == "271" and part else value


def captured(tmp_path, service: str, frames: list[bytes], **options):
    """The frames through a live handler into a journal and from there into Parquet; the handler's statistics too."""
    with JournalWriter(tmp_path / "journal") as journal:
        build.write_session(journal, 0, service, frames, build.START_NS)
    live = Handler(level=service[-2:].upper())
    for one in frames:
        live.on_bytes(one)
    build.record(tmp_path, **options)
    return recorder.open(tmp_path / "captures"), live


@pytest.mark.parametrize(
    ("service", "rule"),
    [
        ("spot-l2", "level"),
        ("spot-l2", "level-sent"),
        ("derivatives-l3", "level"),
        ("derivatives-l3", "order"),
        ("derivatives-l3", "level-sent"),
        ("derivatives-l3", "order-sent"),
    ],
)
def test_each_rule_is_proven_and_named(tmp_path, service, rule):
    stream = generate(service, symbols=2, messages=200, seed=12)
    frames = list(rules.with_rule(stream.frames, service[-2:].upper(), rule, padded))
    cap, live = captured(tmp_path, service, frames, flush_rows=200, checkpoint_rows=100)
    assert live.stats["crc_ok"] == live.stats["crc_checked"] == stream.checksums > 150
    for compacted in (False, True):
        if compacted:
            compact.compact_day(cap.tree, cap.dates()[0])
            cap = recorder.open(cap.tree.root)
        proof = verify(cap)
        summary = proof.summary()
        assert proof.holds and summary["ok"] == summary["checked"] == stream.checksums
        assert (summary["unproven"], summary["unverified"], summary["failed_live"]) == (0, 0, 0)
        assert {row["rule"] for row in summary["symbols"]} == {rule}
        assert {row["precision_mismatch"] for row in summary["symbols"]} == {""}


@pytest.mark.parametrize(("service", "rule"), [("spot-l2", "level-sent"), ("spot-l3", "order-sent")])
def test_books_from_checkpoints_keep_the_decimals_as_sent(tmp_path, service, rule):
    stream = generate(service, symbols=1, messages=300, seed=13)
    frames = list(rules.with_rule(stream.frames, service[-2:].upper(), rule, padded))
    cap, _ = captured(tmp_path, service, frames, flush_rows=150, checkpoint_rows=60)
    points = cap._table("checkpoints", None, None, ["seq"])
    assert len(set(points["seq"].to_pylist())) > 1
    [symbol] = stream.markets
    rows = cap.ticks(symbol).to_pylist()
    for row in [row for row in rows if row["crc"] is not None][5::23]:
        at = cap.book(symbol, row["recv_ns"])
        assert at.seq == row["seq"] and at.book.crc(rule) == row["crc"]


def test_the_published_examples(tmp_path):
    for name, service, data, rule in (
        ("l2", "spot-l2", example(), "level"),
        ("l3", "spot-l3", rules.l3_example(), "order-sent"),
    ):
        cap, live = captured(tmp_path / name, service, list(split(data)))
        assert live.stats["crc_ok"] == 1 and live.stats["crc_failed"] == 0
        summary = verify(cap).summary()
        assert summary["holds"] and (summary["checked"], summary["ok"]) == (1, 1)
        assert [row["rule"] for row in summary["symbols"]] == [rule]
