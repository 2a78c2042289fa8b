"""A symbol that is taken out of the configuration for some seconds, with real processes of venue, feed and recorder."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time

from kfix_md import attach
from kfix_md.errors import FeedError
from kfix_md.feed.pacing import SECOND
from recorder.verify import verify
from tests.chaos import watch
from tests.feed.rig import ROOT, Venue

OUT_S = 2.0


def test_a_symbol_that_was_unsubscribed_by_sighup_is_not_trusted_then(tmp_path):
    venue = Venue(tmp_path / "venue", "--symbols", "2", "--rate", "200")
    command = [sys.executable, "-m", "kfix_md"]
    try:
        config = tmp_path / "feed.toml"

        def configure(symbols: str) -> None:
            more = {"service": f"symbols = {symbols}", "journal": '[recorder]\ndirectory = "captures"'}
            config.write_text(venue.toml(tmp_path, "hangup", ("spot-l2",), **more))

        configure('["*"]')
        feed = subprocess.Popen([*command, "feed", str(config)], cwd=ROOT)
        try:
            segment = live(tmp_path, 2)
            watcher = watch.Watcher(segment, tmp_path / "samples")
            while not (tmp_path / "samples").exists():  # it is attached
                time.sleep(0.02)
            time.sleep(0.2)
            configure('["BTC/USD"]')
            feed.send_signal(signal.SIGHUP)
            time.sleep(OUT_S)
            configure('["*"]')
            feed.send_signal(signal.SIGHUP)
            live(tmp_path, 2)
            time.sleep(0.5)
            samples = watcher.stop()
        finally:
            feed.terminate()
            feed.wait(timeout=20)
        subprocess.run([*command, "record", str(config), "--once"], check=True, cwd=ROOT, timeout=60)
    finally:
        venue.close()
    import recorder

    cap = recorder.open(tmp_path / "captures")
    names = cap.symbols()
    [out] = [name for name in names if name != "BTC/USD"]
    trusted = {book[0]: spans for book, spans in watch.spans(samples).items()}
    [(_, gone), (back, _)] = trusted[out]
    assert back - gone > OUT_S * 0.9 * SECOND
    dark = [r for r in cap.coverage(symbol=out).to_pylist() if not r["trusted"] and r["from_ns"] > trusted[out][0][0]]
    assert dark[0]["state"] == "INIT" and abs(dark[0]["from_ns"] - gone) < watch.TOLERANCE_NS
    for at in range(gone + watch.TOLERANCE_NS, back - watch.TOLERANCE_NS, SECOND // 10):
        assert not cap.book(out, at).trusted and cap.book("BTC/USD", at).trusted
    best = cap.bbo(out).to_pylist()
    inside = [row for row in best if gone + watch.TOLERANCE_NS < row["recv_ns"] < back - watch.TOLERANCE_NS]
    last = next(row for row in reversed(best) if row["recv_ns"] <= gone + watch.TOLERANCE_NS)
    assert (last["trusted"], last["bid"], last["cause"]) == (False, None, "INIT UNSUBSCRIBED")
    assert not any(row["trusted"] for row in inside)
    assert cap.book(out, back + watch.TOLERANCE_NS).trusted
    uncovered = verify(cap).uncovered
    assert abs(uncovered[out] - uncovered["BTC/USD"] - (back - gone) / SECOND) < 0.5


def live(folder, books: int):
    """Wait until so many books are live; the segment's path."""
    for _ in range(2000):
        with contextlib.suppress(FeedError):
            feed = attach("hangup", directory=folder)
            if sum(state == "LIVE" for state in (book.state.name for book in feed.books())) >= books:
                return feed.path
        time.sleep(0.02)
    raise AssertionError("the books are not live")
