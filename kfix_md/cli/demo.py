"""`make demo`: half a minute of the whole path, told so that a person can judge it; exit 1 when anything fails.

Venue simulator, feed, recorder and this reader are four processes. A gap, a wrong checksum and a rollover are
forced; at the end every polled book is held against the venue's own, and the capture is proved from Parquet alone.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfix_md.errors import FeedError, KfixError

SERVICES = {"spot-l2": "DEMO", "derivatives-l2": "DEMO-DRV", "derivatives-l3": "DEMO3-DRV", "spot-l3": "DEMO3"}
GAP_AT, CRC_AT, ROLLOVER_AT = 3.0, 6.0, 11.0  # seconds after all books are live
GAP_OF, CRC_OF = "spot-l2", "BTC/USD"


class Broken(Exception):
    """Something did not hold; the message says what."""


@dataclass
class Gap:
    """A gap as the journal tells it."""

    service: str
    cause: str
    first: int
    last: int | None
    opened_ns: int
    healed: str = ""
    closed_ns: int = 0

    @property
    def seconds(self) -> float:
        return (self.closed_ns - self.opened_ns) / 1e9


@dataclass
class Story:
    """What the journal says happened."""

    gaps: list[Gap] = field(default_factory=list)
    rollovers: dict[str, dict[str, Any]] = field(default_factory=dict)  # service -> last "verified" event
    frames: int = 0
    bytes: int = 0


class Demo:
    """The processes of one run, all ended by `close` whatever happened."""

    def __init__(self, folder: Path, seconds: float, symbols: int, rate: float) -> None:
        self.folder, self.seconds, self.symbols, self.rate = folder, seconds, symbols, rate
        self.name = f"demo-{folder.stat().st_ino}-{time.time_ns() % 100_000}"
        self.sockets = Path(tempfile.mkdtemp(prefix="kfix-demo-"))  # a socket's path may have 107 bytes at most
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.venue: Any = None
        self.feed: Any = None
        self.totals: dict[str, int] = {}
        self.tops: list[tuple[str, str, str, str]] = []

    # ---- processes --------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """A kfix command in the background; its log is NAME.log."""
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "kfix_md", *arguments], stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.processes[name] = process
        return process

    def stop(self, name: str) -> None:
        """Ask a process to end, and see that it ends well."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Broken(f"{name} did not end") from None
        if process.returncode:
            raise Broken(f"{name} ended with status {process.returncode}: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The last line of a process's log."""
        lines = (self.folder / f"{name}.log").read_text().strip().splitlines()
        return lines[-1] if lines else "no word"

    def close(self) -> None:
        """Leave nothing running."""
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
        """Everything, in order; raises Broken at the first thing that does not hold."""
        config = self.start_venue()
        feed = self.start("feed", "feed", str(config))
        self.start("record", "record", str(config))
        self.attach(feed)
        took = self.wait_live(20)
        say(
            f"{len(self.feed.books())} books live {took:.1f} s after the feed started "
            f"({self.symbols} symbols a venue, L2 and L3, over TLS 1.3)"
        )
        self.watch()
        self.compare()
        self.totals = dict(self.feed.counters)
        self.stop("feed")
        self.stop("record")
        self.command("record", str(config), "--once")
        story = read_story(self.folder / "journal")
        proof = json.loads(self.command("verify", str(self.folder / "captures"), "--json"))
        self.stop("simulate")
        self.summary(story, proof)

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
            raise Broken(f"the simulator does not start: {self.last_words('simulate')}")
        ready = json.loads(line)
        self.venue = Control(self.sockets / "control")
        say("venue simulator: " + ", ".join(f"{name} on port {port}" for name, port in ready["ports"].items()))
        # the rollover is a time of day that both sides know
        self.rollover_s = int(time.time()) + 4 + int(ROLLOVER_AT * self.seconds / 22)
        return self.write_config(ready)

    def write_config(self, ready: dict[str, Any]) -> Path:
        """What an operator would write, in TOML."""
        at = time.strftime("%H:%M:%S", time.gmtime(self.rollover_s))
        lines = ["[feed]", f'name = "{self.name}"', f'rollover = "{at}"  # 22:00 in real life', ""]
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
        """A kfix command that has to succeed; what it prints."""
        full = [sys.executable, "-m", "kfix_md", *arguments]
        done = subprocess.run(full, capture_output=True, text=True, check=False)
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise Broken(f"kfix {arguments[0]} ended with status {done.returncode}: {' '.join(words)}")
        return done.stdout

    def attach(self, feed: subprocess.Popen[str]) -> None:
        """Do what a quant script does: attach to the feed's shared memory."""
        import kfix_md

        for _ in range(500):
            if feed.poll() is not None:
                raise Broken(f"the feed ended: {self.last_words('feed')}")
            try:
                self.feed = kfix_md.attach(self.name)
                return
            except FeedError:
                time.sleep(0.02)
        raise Broken(f"the feed does not come up: {self.last_words('feed')}")

    def live(self) -> int:
        """How many books may be trusted now."""
        from kfix_md import State

        return sum(book.state in (State.LIVE, State.EMPTY) for book in self.feed.books())

    def wait_live(self, seconds: float) -> float:
        """Wait until every book is live; the seconds it took."""
        started, wanted = time.monotonic(), len(SERVICES) * self.symbols
        while self.live() < wanted:
            if time.monotonic() - started > seconds:
                raise Broken(f"only {self.live()} of {wanted} books are live; see {self.folder}/feed.log")
            time.sleep(0.01)
        return time.monotonic() - started

    def watch(self) -> None:
        """The console, and the three faults at their times."""
        scale = self.seconds / 22
        faults = self.faults(scale)
        due, act, told = next(faults)
        started, before, last = time.monotonic(), 0, time.monotonic()
        while (passed := time.monotonic() - started) < self.seconds or due < 1e8:
            if passed >= due:
                act()
                say(told)
                due, act, told = next(faults)
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
        """(when, what, words) of each forced fault."""
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

    # ---- what must hold ---------------------------------------------------------------------------

    def compare(self) -> None:
        """Every level of every polled book against the venue's own, with the market standing still."""
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
                        raise Broken(f"{symbol} {level}: the polled book is not the venue's")
                self.tops.append(
                    (
                        symbol,
                        level,
                        _polled(self.feed[symbol, level].top()),
                        f"{_best(truth['bids'])} / {_best(truth['offers'])}",
                    )
                )
        if len(self.tops) != len(SERVICES) * self.symbols:
            raise Broken(f"{len(self.tops)} books were compared, {len(SERVICES) * self.symbols} are there")

    def symbols_of(self, service: str) -> list[str]:
        """The symbols of a service, told by their spelling: spot pairs have a slash."""
        spot = service.startswith("spot")
        return [symbol for symbol in self.feed.symbols if ("/" in symbol) == spot]

    def summary(self, story: Story, proof: dict[str, Any]) -> None:
        """What happened, in words, and what had to hold."""
        totals = self.totals
        lost = [gap for gap in story.gaps if gap.cause == "lost"]
        crc = [gap for gap in story.gaps if gap.cause == "crc"]
        planned = [gap for gap in story.gaps if gap.cause == "rollover"]
        parquet = list((self.folder / "captures").rglob("*.parquet"))
        size = sum(path.stat().st_size for path in parquet)
        symbol, level, polled, truth = next(top for top in self.tops if top[0] == CRC_OF)
        print("\nWhat was verified and recorded")
        table = [
            ("books", f"{len(self.tops)} ({self.symbols} spot and {self.symbols} derivatives, L2 and L3)"),
            (
                "messages",
                f"{totals['messages']:,} received, {story.frames:,} frames ({story.bytes / 1e6:.1f} MB) in the journal",
            ),
            ("checksums", f"{totals['crc_checked']:,} checked, {totals['crc_failed']} failed (1 was forced)"),
            *(
                (
                    f"forced gap ({gap.service})",
                    f"MsgSeqNum {gap.first} to {gap.last} lost, healed by {gap.healed} in {gap.seconds * 1000:.1f} ms",
                )
                for gap in lost
            ),
            *(
                (
                    f"forced checksum ({CRC_OF})",
                    f"healed by {gap.healed} in {gap.seconds * 1000:.1f} ms, no other book touched",
                )
                for gap in crc
            ),
            (
                "rollover",
                ", ".join(f"{service} {event['seconds']:.2f} s" for service, event in story.rollovers.items())
                + " until all books were good again",
            ),
            (
                "Parquet",
                f"{proof['rows']:,} rows, {size / 1e6:.2f} MB in {len(parquet)} files; proved from Parquet "
                f"alone: {proof['ok']:,} of {proof['checked']:,} checksums",
            ),
            (f"polled {symbol} {level}", polled),
            ("the venue's own", truth),
            ("whole books", f"all {len(self.tops)} polled books equal the venue's, level by level"),
        ]
        for what, words in table:
            print(f"  {what:<28} {words}")
        self.judge(story, proof, lost, crc, planned)

    def judge(self, story: Story, proof: dict[str, Any], lost: list[Gap], crc: list[Gap], planned: list[Gap]) -> None:
        """The exit status: each condition by name."""
        conditions = {
            "exactly one checksum failed, the forced one": self.totals["crc_failed"] == 1,
            "checksums were checked": self.totals["crc_checked"] > 100,
            "the forced gap was seen once, with its three messages": (
                len(lost) == 1 and lost[0].last is not None and lost[0].last - lost[0].first == 2
            ),
            "the forced checksum was seen once": len(crc) == 1,
            "every service went through the rollover": set(story.rollovers) == set(SERVICES) and len(planned) == 4,
            "every gap was healed": all(gap.healed for gap in lost + crc + planned),
            "nothing else was lost": len(lost) + len(crc) + len(planned) == len(story.gaps),
            "every message is in the journal": story.frames >= self.totals["messages"],
            "the proof from Parquet holds": proof["holds"],
        }
        for condition, holds in conditions.items():
            if not holds:
                raise Broken(f"this does not hold: {condition}")


def read_story(journal: Path) -> Story:
    """Gaps, rollovers and frames, as the journal recorded them."""
    from kfix_md.journal.reader import JournalReader

    story, names, gaps = Story(), {}, {}
    for _, kind, session, recv_ns, _, body in JournalReader(journal):
        if kind == 1:
            story.frames += 1
            story.bytes += len(body)
            continue
        event = json.loads(bytes(body))
        what = event.get("type")
        if what == "session":
            names[session] = event["service"]
        elif what == "gap_open":
            gap = Gap(names[session], event["cause"], event["first"], event["last"], recv_ns)
            gaps[session, event["id"]] = gap
            story.gaps.append(gap)
        elif what == "gap_close" and (session, event["id"]) in gaps:
            gap = gaps[session, event["id"]]
            gap.healed, gap.closed_ns = event["healed"], recv_ns
        elif what == "rollover" and event.get("phase") == "verified":
            story.rollovers[names[session]] = event
    story.gaps = [gap for gap in story.gaps if not _goodbye(gap, story)]
    return story


def _goodbye(gap: Gap, story: Story) -> bool:
    """The last, open end of a session that logged out by itself: the end of the run."""
    mine = [other for other in story.gaps if other.service == gap.service]
    return gap is mine[-1] and gap.last is None and not gap.healed


def _polled(top: tuple[float, float, float, float]) -> str:
    bid, bid_qty, ask, ask_qty = top
    return " / ".join(
        f"{price:.10g} x {qty:.10g}" if qty else "nothing" for price, qty in ((bid, bid_qty), (ask, ask_qty))
    )


def _best(side: list[list[Any]]) -> str:
    return f"{side[0][0]} x {side[0][1]}" if side else "nothing"


def say(text: str) -> None:
    """A line that is seen at once."""
    print(text, flush=True)


def work_folder() -> Path:
    """./demo-run, emptied, or a temporary folder where that cannot be."""
    folder = Path.cwd() / "demo-run"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="kfix-demo-run-"))


def main() -> int:
    """Run the demonstration; 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m kfix_md.cli.demo", description="Half a minute of the whole path.")
    parser.add_argument("--seconds", type=float, default=22.0, help="of market (22)")
    parser.add_argument("--symbols", type=int, default=12, help="on each venue (12)")
    parser.add_argument("--rate", type=float, default=600.0, help="book changes a second on each service (600)")
    options = parser.parse_args()
    started = time.monotonic()
    demo = Demo(work_folder(), options.seconds, options.symbols, options.rate)
    try:
        demo.run()
    except (Broken, KfixError, OSError) as error:
        print(f"\nDEMO FAILED: {error}\nlogs: {demo.folder}/*.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    finally:
        demo.close()
    print(f"\nEverything held, {time.monotonic() - started:.0f} s. Files: {demo.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
