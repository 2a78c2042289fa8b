"""Runs simulator, feed, recorder and a reader for half a minute (`make demo`) and checks the result.

The four are processes of their own. A gap, a wrong checksum and a rollover are forced; at the end every polled book is
compared with the venue's own, and the capture is proved from Parquet alone. Exit status 1 when a check fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kfix_md.child import python
from kfix_md.cli import demo_report
from kfix_md.errors import FeedError, KfixError
from kfix_md.progress import Advance, progress

SERVICES = {"spot-l2": "DEMO", "derivatives-l2": "DEMO-DRV", "derivatives-l3": "DEMO3-DRV", "spot-l3": "DEMO3"}
GAP_AT, CRC_AT, ROLLOVER_AT = 3.0, 6.0, 11.0  # seconds after all books are live
START_S, END_S = 4.0, 6.0  # about what starting, and what checking the result takes, for the progress bar
GAP_OF, CRC_OF = "spot-l2", "BTC/USD"


class DemoFailed(Exception):
    """A check of the demo failed; the message names it."""


class Demo:
    """The processes of one run, all ended by `close` whatever happened."""

    def __init__(self, folder: Path, seconds: float, symbols: int, rate: float) -> None:
        self.folder, self.seconds, self.symbols, self.rate = folder, seconds, symbols, rate
        self.name = f"demo-{folder.stat().st_ino}-{time.time_ns() % 100_000}"
        self.sockets = Path(tempfile.mkdtemp(prefix="kfix-demo-"))  # a socket's path may have 107 bytes at most
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.venue: Any = None
        self.feed: Any = None
        self.tops: list[tuple[str, str, str, str]] = []
        self.advance: Advance = lambda seconds: None

    # ---- processes --------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """A kfix command in the background; its log is NAME.log."""
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                python("-m", "kfix_md", *arguments), stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.processes[name] = process
        return process

    def stop(self, name: str) -> None:
        """Terminate a process; DemoFailed unless it exits with status 0."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise DemoFailed(f"{name} did not exit within 20 s") from None
        if process.returncode:
            raise DemoFailed(f"{name} ended with status {process.returncode}: {self.last_line(name)}")

    def last_line(self, name: str) -> str:
        """The last line of a process's log."""
        lines = (self.folder / f"{name}.log").read_text().strip().splitlines()
        return lines[-1] if lines else "its log is empty"

    def close(self) -> None:
        """Stop every process."""
        if self.venue is not None:
            self.venue.close()
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        shutil.rmtree(self.sockets, ignore_errors=True)

    # ---- the run ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything, in order; raises DemoFailed at the first check that fails."""
        with progress("demo", START_S + self.seconds + END_S, lines=False, stdout=True) as self.advance:
            run = self._run()
        self.report(run)

    def _run(self) -> demo_report.Run:
        config = self.start_venue()
        feed = self.start("feed", "feed", str(config))
        self.start("record", "record", str(config))
        self.attach(feed)
        took = self.wait_live(20)
        say(
            f"{len(self.feed.books())} books live after {took:.1f} s "
            f"({self.symbols} symbols on each venue, L2 and L3, over TLS 1.3)"
        )
        self.advance(START_S)
        self.watch()
        self.compare()
        totals = dict(self.feed.counters)
        self.stop("feed")
        self.stop("record")
        self.advance(END_S / 3)
        self.command("record", str(config), "--once")
        history = demo_report.read_history(self.folder / "journal")
        captures = self.folder / "captures"
        self.advance(END_S / 3)
        proof = json.loads(self.command("verify", str(captures), "--json"))
        self.stop("simulate")
        return demo_report.Run(history, totals, proof, len(SERVICES), self.symbols, self.tops, captures)

    def report(self, run: demo_report.Run) -> None:
        """Print the summary; DemoFailed with the first condition that is not met."""
        print("\nWhat was verified and recorded")
        for label, text in demo_report.rows(run, CRC_OF):
            print(f"  {label:<28} {text}")
        for condition in demo_report.failures(run):
            raise DemoFailed(f"not met: {condition}")

    def start_venue(self) -> Path:
        """The simulator on free ports, and a configuration for the feed."""
        from kfix_md.simulator.control import Control

        process = self.start(
            "simulate",
            "simulate",
            "--symbols",
            str(self.symbols),
            "--rate",
            str(self.rate),
            "--port-base",
            "0",
            "--tls-dir",
            str(self.folder / "tls"),
            "--control",
            str(self.sockets / "control"),
        )
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise DemoFailed(f"the simulator did not start: {self.last_line('simulate')}")
        ready = json.loads(line)
        self.venue = Control(self.sockets / "control")
        say("venue simulator: " + ", ".join(f"{name} on port {port}" for name, port in ready["ports"].items()))
        # the simulator and the feed are given the same time of day
        self.rollover_s = int(time.time()) + 4 + int(ROLLOVER_AT * self.seconds / 22)
        return self.write_config(ready)

    def write_config(self, ready: dict[str, Any]) -> Path:
        """Write the feed's configuration as an operator would."""
        at = time.strftime("%H:%M:%S", time.gmtime(self.rollover_s))
        lines = ["[feed]", f'name = "{self.name}"', f'rollover = "{at}"  # the real venue: 22:00', ""]
        for service, sender in SERVICES.items():
            lines += [
                "[[service]]",
                f'name = "{service}"',
                'host = "localhost"',
                f"port = {ready['ports'][service]}",
                f"tls_ca = {json.dumps(str(ready['ca']))}",
                f'sender_comp_id = "{sender}"',
                'symbols = ["*"]',
                "",
            ]
        lines += [
            "[journal]",
            'directory = "journal"',
            "segment_mb = 8",
            "",
            "[recorder]",
            'directory = "captures"',
            "interval_s = 2",
        ]
        path = self.folder / "feed.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def command(self, *arguments: str) -> str:
        """Run a kfix command that must succeed; returns its output."""
        full = python("-m", "kfix_md", *arguments)
        done = subprocess.run(full, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise DemoFailed(f"kfix {arguments[0]} ended with status {done.returncode}: {' '.join(last)}")
        return done.stdout

    def attach(self, feed: subprocess.Popen[str]) -> None:
        """Attach to the feed's shared memory, as a reader's script does."""
        import kfix_md

        for _ in range(500):
            if feed.poll() is not None:
                raise DemoFailed(f"the feed ended: {self.last_line('feed')}")
            try:
                self.feed = kfix_md.attach(self.name)
                return
            except FeedError:
                time.sleep(0.02)
        raise DemoFailed(f"the feed did not start within 10 s: {self.last_line('feed')}")

    def live(self) -> int:
        """How many books are LIVE or EMPTY now."""
        from kfix_md._state import is_trusted

        return sum(is_trusted(book.state) for book in self.feed.books())

    def wait_live(self, seconds: float) -> float:
        """Wait until every book is live; the seconds it took."""
        started, wanted = time.monotonic(), len(SERVICES) * self.symbols
        while self.live() < wanted:
            if time.monotonic() - started > seconds:
                raise DemoFailed(f"only {self.live()} of {wanted} books are live; see {self.folder}/feed.log")
            time.sleep(0.01)
        return time.monotonic() - started

    def watch(self) -> None:
        """Print a line a second, and force the three faults at their times."""
        scale = self.seconds / 22
        faults = self.faults(scale)
        due, act, description = next(faults)
        started, before, last = time.monotonic(), 0, time.monotonic()
        shown = 0.0
        while (passed := time.monotonic() - started) < self.seconds or due < 1e8:
            self.advance(passed - shown)
            shown = passed
            if passed >= due:
                act()
                say(description)
                due, act, description = next(faults)
            if time.monotonic() - last >= 1.0:
                messages = self.feed.counters.get("messages", 0)
                print(
                    f"  {passed:4.0f} s  {self.live():3d} live  {messages:9,d} messages "
                    f"({(messages - before) / (time.monotonic() - last):7,.0f}/s)  {self.line('BTC/USD', 'L2')}",
                    flush=True,
                )
                before, last = messages, time.monotonic()
            time.sleep(0.02)
        self.wait_live(20)

    def faults(self, scale: float) -> Iterator[tuple[float, Any, str]]:
        """(seconds, command, description) of each forced fault."""
        yield (
            GAP_AT * scale,
            lambda: self.venue("gap", service=GAP_OF, count=3),
            f"-- forced: three messages of {GAP_OF} are lost",
        )
        yield (
            CRC_AT * scale,
            lambda: self.venue("crc", symbol=CRC_OF, level="L2"),
            f"-- forced: a wrong checksum (5041) for {CRC_OF}",
        )
        left = max(0.0, self.rollover_s - time.time())
        yield (
            CRC_AT * scale + left,
            lambda: self.venue("rollover", form="logout", refuse=1.0),
            "-- forced: the rollover; every session is logged out, logons are refused for a second",
        )
        yield 1e9, None, ""

    def line(self, symbol: str, level: str) -> str:
        """The top of one book, polled, as text."""
        book = self.feed[symbol, level]
        try:
            bid, _, ask, _ = book.top()
            return f"{symbol} {bid:g} / {ask:g}"
        except KfixError as error:
            return str(error)

    # ---- checks -----------------------------------------------------------------------------------

    def compare(self) -> None:
        """Every level of every polled book against the venue's own, with the market paused."""
        self.venue("pause")
        time.sleep(0.3)
        for service in SERVICES:
            level = "L3" if service.endswith("l3") else "L2"
            for symbol in self.symbols_of(service):
                truth = self.venue.truth(symbol, level, service=service)
                bids, asks = self.feed[symbol, level].depth(None, price="int")
                for ours, theirs in ((bids, truth["ints"]["bids"]), (asks, truth["ints"]["offers"])):
                    mine = list(zip(ours["price"].tolist(), ours["qty"].tolist(), strict=True))
                    if mine != [(price, qty) for price, qty, *_ in theirs]:
                        raise DemoFailed(f"{symbol} {level}: the polled book differs from the venue's")
                self.tops.append(
                    (
                        symbol,
                        level,
                        _polled(self.feed[symbol, level].top()),
                        f"{_best(truth['bids'])} / {_best(truth['offers'])}",
                    )
                )
        if len(self.tops) != len(SERVICES) * self.symbols:
            raise DemoFailed(f"{len(self.tops)} books were compared instead of {len(SERVICES) * self.symbols}")

    def symbols_of(self, service: str) -> list[str]:
        """The symbols of a service: spot pairs have a slash."""
        spot = service.startswith("spot")
        return [symbol for symbol in self.feed.symbols if ("/" in symbol) == spot]


def _polled(top: tuple[float, float, float, float]) -> str:
    bid, bid_qty, ask, ask_qty = top
    return " / ".join(
        f"{price:.10g} x {qty:.10g}" if qty else "nothing" for price, qty in ((bid, bid_qty), (ask, ask_qty))
    )


def _best(side: list[list[Any]]) -> str:
    return f"{side[0][0]} x {side[0][1]}" if side else "nothing"


def say(text: str) -> None:
    """Print a line without buffering."""
    print(text, flush=True)


def work_folder() -> Path:
    """./demo-run, emptied, or a temporary folder where that is not writable."""
    folder = Path.cwd() / "demo-run"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="kfix-demo-run-"))


def main() -> int:
    """Run the demo; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m kfix_md.cli.demo",
        description="Run simulator, feed, recorder and reader for half a minute and check the result.",
    )
    parser.add_argument("--seconds", type=float, default=22.0, help="of market (22)")
    parser.add_argument("--symbols", type=int, default=12, help="on each venue (12)")
    parser.add_argument("--rate", type=float, default=600.0, help="book changes a second on each service (600)")
    options = parser.parse_args()
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal: to the feed SIGHUP is no reason to end
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    demo = Demo(work_folder(), options.seconds, options.symbols, options.rate)
    try:
        demo.run()
    except (DemoFailed, KfixError, OSError) as error:
        print(f"\nDEMO FAILED: {error}\nlogs: {demo.folder}/*.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    finally:
        demo.close()
    print(f"\nAll checks passed, {time.monotonic() - started:.0f} s. Files: {demo.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
