"""`kfix inspect` reports of every capture what is known of it, and of a spoiled one what is wrong."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kfix_md.cli.inspect import command
from tests.conftest import ROOT
from tests.oracle import frames
from tests.streams import generate
from tests.streams.wire import body_of, example, seal

SMALL = {"symbols": 2, "messages": 80, "depth": 12}


def inspect(path: Path, *options: str) -> tuple[int, Any]:
    """Exit status and the JSON object of `kfix inspect FILE --json`."""
    done = CliRunner().invoke(command, [str(path), "--json", *options])
    return done.exit_code, json.loads(done.output) if done.output.startswith("{") else done.output


def saved(folder: Path, data: bytes, name: str = "stream.fix") -> Path:
    """The bytes as a file, compressed when its name ends with .gz."""
    path = folder / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    return path


def same(level: list[str], known: list) -> bool:
    """Price and quantity are the same numbers; a known whole-book level count is given for no quantity."""
    return [Decimal(text) for text in level] == [Decimal(text) for text in known]


@pytest.mark.parametrize("name", ["spot-l2", "derivatives-l2"])
def test_real_l2_captures_end_as_known(name, captures):
    status, report = inspect(captures / f"{name}.fix.gz")
    known = json.loads((captures / f"{name}.fix.gz.json").read_text())
    assert (status, report["protocol_errors"], report["gaps"]) == (0, 0, 0)
    assert report["messages"] == known["messages"]
    crc = report["checksum"]
    assert crc["checked"] == crc["ok"] == known.get("exchange_crc_matched", crc["checked"]) > 2000
    assert report["symbols"].keys() == known["symbols"].keys()
    for symbol, want in known["symbols"].items():
        book = report["symbols"][symbol]
        assert book["state"] == "LIVE"
        assert same(book["bid"], want["best_bid"])
        assert same(book["ask"], want["best_offer"])
        assert book["levels"] == want["levels"]
        assert book["orders"] is None


def test_real_l3_capture_ends_as_known(captures):
    status, report = inspect(captures / "derivatives-l3.fix.gz")
    known = json.loads((captures / "derivatives-l3.fix.gz.json").read_text())
    assert (status, report["protocol_errors"], report["gaps"], report["checksum"]["failed"]) == (0, 0, 0, 0)
    assert report["messages"] == known["messages"]
    assert report["checksum"]["ok"] == known["updates"]
    assert report["checksum"]["rule"] == "order"
    (book,) = report["symbols"].values()
    assert sum(book["orders"]) == known["orders_left"]
    for side, (price, levels) in zip(("bid", "ask"), known["best"].values(), strict=True):
        assert Decimal(book[side][0]) == Decimal(price)
        assert book["levels"][side == "ask"] == levels


def test_the_worked_example(tmp_path):
    status, report = inspect(saved(tmp_path, example()))
    assert status == 0
    assert report["checksum"]["checked"] == report["checksum"]["ok"] == 1
    assert report["symbols"]["BTC/USD"]["ask"] == ["28013.0", "0.00096506"]
    assert report["symbols"]["BTC/USD"]["bid"] == ["28003.0", "0.001"]
    assert report["symbols"]["BTC/USD"]["levels"] == [10, 10]


@pytest.mark.parametrize("name", ["plain.fix", "packed.fix.gz"])
@pytest.mark.parametrize("service", ["spot-l2", "spot-l3"])
def test_our_own_streams(service, name, tmp_path):
    stream = generate(service, **SMALL)
    status, report = inspect(saved(tmp_path, stream.data, name))
    assert status == 0
    assert (report["messages"], report["entries"]) == (len(stream.frames), stream.entries)
    assert report["checksum"]["ok"] == stream.checksums
    for symbol, market in stream.markets.items():
        assert report["symbols"][symbol]["levels"] == [len(prices) for prices in market.prices]
        bid = Decimal(market.prices[0][-1]).scaleb(-market.instrument.price_precision)
        assert Decimal(report["symbols"][symbol]["bid"][0]) == bid


def test_a_missing_message_is_a_gap_and_exit_1(tmp_path):
    frames = generate("spot-l2", empties=False, **SMALL).frames
    status, report = inspect(saved(tmp_path, b"".join(frames[:20] + frames[23:])))
    assert (status, report["gaps"]) == (1, 1)
    assert {book["state"] for book in report["symbols"].values()} == {"GAP"}


def test_a_wrong_checksum_of_the_book_is_exit_1(tmp_path):
    *before, last = frames(example())
    wrong = seal(body_of(last).replace(b"3341325816", b"3341325817"))
    status, report = inspect(saved(tmp_path, b"".join(before) + wrong))
    assert status == 1
    assert report["checksum"]["failed"] == 1
    assert report["symbols"]["BTC/USD"]["state"] == "CRC_FAIL"
    status, report = inspect(saved(tmp_path, example()), "--checksum", "off")
    assert (status, report["checksum"]["checked"]) == (0, 0)


@pytest.mark.parametrize(("name", "cut"), [("stream.fix", 5), ("stream.fix.gz", 300)])
def test_a_file_that_is_cut_is_told_in_one_line(name, cut, tmp_path):
    path = saved(tmp_path, generate("spot-l2", **SMALL).data, name)
    path.write_bytes(path.read_bytes()[:-cut])
    done = subprocess.run(
        [sys.executable, "-m", "kfix_md", "inspect", str(path), "--json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert "cut" in json.loads(done.stderr)["text"] and done.stderr.count("\n") == 1
    if name == "stream.fix":
        assert json.loads(done.stdout)["protocol_errors"] == 1  # what is there is reported all the same


def test_no_fix_at_all(tmp_path):
    status, report = inspect(saved(tmp_path, b"hello world\n" * 50))
    assert status == 1
    assert report["messages"] == 0
