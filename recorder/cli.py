"""The commands over captures and journal: record, verify, report, compact, journal."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kfix_md.errors import CaptureError, KfixError, UsageError, may_pass
from kfix_md.journal import files as journal_files
from kfix_md.log_output import set_up_logging
from kfix_md.progress import Advance, busy, progress

if TYPE_CHECKING:
    from kfix_md.feed.notify import Notifier
    from recorder.catalog import Captures
    from recorder.process import Recorder, Settings


DISK_PAUSE_S = 2.0  # between two attempts to start on a disk that is full, fails or is away


class _Place(click.Path):
    """A directory, or the configuration file that names it, as `kfix record` takes it."""

    def __init__(self, what: str) -> None:
        super().__init__(path_type=Path)
        self.what = what  # "journal" or "captures"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        return _placed(path, self.what) if path.is_file() else path


def _placed(config: Path, what: str) -> Path:
    from kfix_md.config import load, service_names
    from recorder.process import Settings

    whole = load(str(config))
    parts: list[str | None] = [None] if whole.feed.processes == "one" else list(service_names(whole))
    found: list[Path] = [getattr(Settings.load(str(config), part), what) for part in parts]
    if len(found) > 1:
        raise UsageError(f"{config} has one {what} a service, name its directory: {', '.join(map(str, found))}")
    return found[0]


CAPTURES = click.argument("captures", type=_Place("captures"), metavar="CAPTURES|CONFIG")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Record what is there and end.")
@click.option("--service", help="Only this one, where every service has a process and a journal of its own.")
@click.option("--json", "as_json", is_flag=True, help="Log lines as JSON objects, and totals at the end.")
def record(config: Path, once: bool, service: str | None, as_json: bool) -> int:
    """Turn the journal into Parquet, from where the last recorder stopped.

    Exit status: 0 recorded, 1 messages that the feed applied could not be decoded, 2 wrong usage.
    """
    from kfix_md.config import load, service_names
    from kfix_md.feed.processes import supervise
    from kfix_md.journal.files import close_to_others

    close_to_others()
    set_up_logging(as_json)
    whole = load(config)
    if not once and service is None and whole.feed.processes != "one":
        return supervise(config, whole, "record", ["--json"] if as_json else [])
    parts = service_names(whole) if service is None and whole.feed.processes != "one" else [service]
    status = max([_record(config, part, once, as_json) for part in parts])
    if status:
        raise SystemExit(status)
    return 0


def _record(config: Path, service: str | None, once: bool, as_json: bool) -> int:
    """Run one recorder; 1 when it could not decode what the feed had applied."""
    from kfix_md.feed.notify import Notifier
    from recorder.metrics import serve
    from recorder.process import Settings

    settings = replace(Settings.load(str(config), service), json_logs=as_json)
    stopping: list[int] = []
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stopping.append(number))

    def stop() -> bool:  # asked in every round
        notifier.alive()
        return bool(stopping)

    start = time.monotonic()
    notifier = Notifier()
    if not once:  # waiting for the feed, or for room on a disk, is what a recorder does: it has started all the same
        notifier.send("READY=1", f"STATUS=waiting for a journal in {settings.journal}")
    follow = _Progress()
    recorder = _open(settings, once, stopping, follow, notifier)
    if recorder is None:
        return 0
    server = None
    try:
        if settings.metrics_port and not once:
            server = serve(recorder, settings.metrics_host, settings.metrics_port, settings.stores)
        if once:
            backlog = recorder.tail.reader.tail["bytes_behind"]
            bar = nullcontext() if as_json else progress("recording", backlog, lines=False)
            with _writing(settings.captures), bar as advance:
                follow.advance, follow.backlog = advance, backlog
                recorder.once()
        else:
            logging.getLogger("kfix.record").info(
                "recording %s into %s", recorder.settings.journal, recorder.settings.captures
            )
            notifier.send(f"STATUS=recording {settings.journal} into {settings.captures}")
            recorder.run(stop)
            notifier.send("STOPPING=1")
    finally:
        if server is not None:
            server.close()
        recorder.close()
    totals = {
        "rows": recorder.rows,
        "flushes": recorder.flushes,
        "position": recorder.committed,
        "seconds": round(time.monotonic() - start, 3),
    }
    text = f"{totals['rows']} rows in {totals['flushes']} flushes, {totals['seconds']} s"
    click.echo(json.dumps(totals) if as_json else text)
    missing = list(_undecoded(recorder))
    for line in missing:
        click.echo(line, err=True)
    return 1 if missing else 0


def _undecoded(recorder: "Recorder") -> Iterator[str]:
    """Sessions whose market data no decoder can read."""
    for number, count in sorted(recorder.tail.undecoded.items()):
        first = min(journal_files.segments(recorder.settings.journal).items())
        yield (
            f"session {number}: {count:,} messages that the feed applied are not recorded: the instrument list before "
            f"them is missing or damaged. The journal begins with {first[1].name}: restore what is missing before them "
            "and record into an empty directory"
        )


def _open(
    settings: "Settings", once: bool, stopping: list[int], follow: "_Progress", notifier: "Notifier"
) -> "Recorder | None":
    """The recorder, when there is a journal and the disk of the captures lets it start; None when a signal ends the
    waiting for that."""
    from recorder.process import Recorder

    ran_before = (settings.captures / "state").is_dir()
    while not stopping:
        if once:
            with _writing(settings.captures):
                return Recorder(settings, progress=follow)
        if not _wait_for_journal(settings.journal, stopping, notifier):
            return None
        try:
            return Recorder(settings, progress=follow)
        except (KfixError, OSError) as error:
            if isinstance(error.__cause__, FileNotFoundError) and error.__cause__.filename == settings.journal:
                continue  # it has just been moved away
            if not may_pass(error, ran_before):
                raise
            notifier.send(f"STATUS=cannot write the captures yet: {error}")
            _wait_for_disk(settings.captures, error, stopping, notifier)
    return None


def _wait_for_disk(captures: Path, error: Exception, stopping: list[int], notifier: "Notifier") -> None:
    """Wait after an error that may pass, or for a signal: the journal has everything meanwhile."""
    logging.getLogger("kfix.record").error("%s cannot be written yet: %s; trying again", captures, error)
    end = time.monotonic() + DISK_PAUSE_S
    while time.monotonic() < end and not stopping:
        notifier.alive()
        time.sleep(0.05)


def _wait_for_journal(journal: Path, stopping: list[int], notifier: "Notifier") -> bool:
    """Wait for the feed's first segment, since both may be started at once. False when a signal stops it first."""
    logged = False
    while not (journal.is_dir() and journal_files.segments(journal)):
        if stopping:
            return False
        if not logged:
            logging.getLogger("kfix.record").info("no journal at %s yet: waiting for `kfix feed`", journal)
            logged = True
        notifier.alive()
        time.sleep(0.1)
    return True


@contextmanager
def _writing(captures: Path) -> Iterator[None]:
    """Turns an OSError of a full or faulty disk into a CaptureError of one line."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise CaptureError(
            f"captures {captures} cannot be written: {why}; nothing is lost, run it again when there is room"
        ) from error


class _Progress:
    """Logs a line each second while the recorder catches up with the journal, and moves the bar of `record --once`."""

    def __init__(self) -> None:
        self.last, self.since, self.rows = 0.0, time.monotonic(), 0
        self.advance: Advance | None = None
        self.backlog = 0

    def __call__(self, progress: dict[str, Any]) -> None:
        now = time.monotonic()
        backlog = progress["bytes_behind"]
        if self.advance is not None:
            self.advance(self.backlog - backlog)
            self.backlog = backlog
            if sys.stderr.isatty():
                return
        if backlog < 1 << 20 or now - self.last < 1:
            return
        rate = (progress["rows"] - self.rows) / max(now - self.since, 1e-9)
        self.last, self.since, self.rows = now, now, progress["rows"]
        logging.getLogger("kfix.record").info(
            "catching up: %s rows, %.0f a second, %.0f MB of journal in %s segments to go",
            progress["rows"],
            rate,
            backlog / 1e6,
            progress["segments_behind"],
        )


@click.command()
@CAPTURES
@click.option("--date", "day", default=None, help="Session date (YYYY-MM-DD); all without it.")
@click.option("--all", "every", is_flag=True, help="A line for every symbol, not only where something is wrong.")
@click.option("--processes", type=click.IntRange(1), default=None, help="How many work at it; one for each core.")
@click.option("--json", "as_json", is_flag=True)
def verify(captures: Path, day: str | None, every: bool, processes: int | None, as_json: bool) -> None:
    """Rebuild every book from Parquet alone and check every checksum that was checked live.

    Exit status: 0 the proof holds, 1 it does not or nothing was checked, 2 wrong usage.
    """
    from recorder.catalog import Captures
    from recorder.moments import to_date
    from recorder.verify import verify as prove

    start = time.monotonic()
    cap = Captures(captures)
    wanted = to_date(day) if day else None
    if wanted is not None and wanted not in cap.dates():
        raise UsageError(f"{captures} has no session date {day}; there are {_dates(cap)}")
    with progress("verifying", cap.rows(wanted), lines=False) as advance:
        proof = prove(cap, wanted, advance, processes or len(os.sched_getaffinity(0)))
    summary = proof.summary() | {"seconds": round(time.monotonic() - start, 3)}
    if as_json:
        click.echo(json.dumps(summary, indent=1))
    else:
        _print_proof(summary, every)
    if not summary["holds"]:
        raise SystemExit(1)


def _dates(captures: "Captures") -> str:
    return ", ".join(map(str, captures.dates())) or "none"


def _print_proof(summary: dict[str, Any], every: bool) -> None:
    """The verdict, what is wrong, and a line for each symbol that is concerned."""
    verdict = "the proof holds" if summary["holds"] else "THE PROOF DOES NOT HOLD"
    click.echo(
        f"{verdict}: {summary['messages']:,} messages, {summary['rows']:,} rows, {summary['ok']:,} of "
        f"{summary['checked']:,} CRCs match, {summary['failed_live']:,} failed live, {summary['gaps']} gaps, "
        f"{summary['seconds']} s"
    )
    for reason in summary["why_not"]:
        click.echo(f"FAULT: {reason}")
    if summary["unverified"]:
        click.echo(
            f"{summary['unverified']:,} messages are UNVERIFIED: recorded, but their checksums follow no rule that the "
            "feed knew"
        )
    if summary["unproven"]:
        click.echo(
            f"{summary['unproven']:,} messages are unproven: before the first snapshot, or between a checksum that "
            "failed live or a loss of rows (see gaps) and the next one"
        )
    for row in summary["symbols"]:
        if row["precision_mismatch"]:
            click.echo(
                f"{row['symbol']} {row['level']}: its checksums have {row['precision_mismatch']} (instrument list)"
            )
    shown = [row for row in summary["symbols"] if every or _remarkable(row)]
    if shown:
        _print_symbols(shown)
    if left_out := len(summary["symbols"]) - len(shown):
        click.echo(f"{left_out:,} {'more ' if shown else ''}books without a fault; --all lists them")


def _remarkable(row: dict[str, Any]) -> bool:
    """Whether there is something to know about a book."""
    return not row["ok"] or any(
        row[n] for n in ("failed", "failed_live", "unverified", "unproven", "seconds_not_covered")
    )


def _print_symbols(rows: list[dict[str, Any]]) -> None:
    click.echo(
        f"{'symbol':24} {'level':5} {'rule':10} {'messages':>10} {'rows':>11} {'CRC ok':>10} {'failed':>7} "
        f"{'unproven':>9} {'s not covered':>14}"
    )
    for row in rows:
        click.echo(
            f"{row['symbol']:24} {row['level']:5} {row['rule'] or '-':10} {row['messages']:>10,} {row['rows']:>11,} "
            f"{row['ok']:>10,} {row['failed']:>7,} {row['unproven']:>9,} {row['seconds_not_covered']:>14,.3f}"
        )


@click.command()
@CAPTURES
@click.argument("day", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File to write; report-DAY.html.")
def report(captures: Path, day: str | None, output: Path | None) -> None:
    """Write one self-contained HTML page about a session date (the last one)."""
    from recorder.catalog import Captures
    from recorder.moments import to_date
    from recorder.report import page

    cap = Captures(captures)
    dates = cap.dates()
    wanted: date | None = to_date(day) if day else dates[-1] if dates else None
    if wanted is None or wanted not in dates:
        raise UsageError(f"{captures} has no session date {day or ''}; there are {_dates(cap)}")
    output = output or Path(f"report-{wanted}.html")
    if not os.access(output if output.exists() else output.parent, os.W_OK):  # before all of the work
        raise UsageError(f"{output} cannot be written: no such directory, or no permission")
    try:
        with busy(f"report of {wanted}"):
            text = page(cap, wanted)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(str(output))


@click.command()
@CAPTURES
@click.option("--date", "day", default=None, help="Session date (YYYY-MM-DD); every finished one without it.")
@click.option("--json", "as_json", is_flag=True, help="An object for each date, and errors as JSON log lines.")
def compact(captures: Path, day: str | None, as_json: bool) -> None:
    """Cluster finished session dates by symbol: read back, compared row by row, then swapped in."""
    from recorder.compact import candidates, compact_day, rows_to_read
    from recorder.layout import Tree
    from recorder.moments import to_date

    tree = Tree(captures)
    tree.check()
    dates = [to_date(day)] if day else candidates(tree, None, outdated=True)
    if day and dates[0] not in tree.dates():
        raise UsageError(f"{captures} has no session date {day}")
    for one in dates:
        bar = progress(f"compacting {one}", rows_to_read(tree, one), lines=not as_json)
        with _writing(tree.root), bar as advance:
            done = compact_day(tree, one, progress=advance)
        if as_json:
            click.echo(json.dumps({"date": str(one), **done}))
            continue
        click.echo(
            f"{one}: {done['rows']:,} rows, {done['files_before']} files -> {done['files_after']}, "
            f"{done['bytes_before']:,} bytes -> {done['bytes_after']:,}"
        )
    if not dates and not as_json:
        click.echo("nothing to compact")


@click.group()
def journal() -> None:
    """Look into the raw journal: ls, cat, grep, export.

    Damage is stepped over and reported on stderr; the exit status of cat, grep and export is 1 then.
    """


def _report_damage(damaged: list[str]) -> None:
    """SystemExit with status 1 after a line about each damaged place, when there are any."""
    for each in damaged:
        click.echo(f"damaged: {each}", err=True)
    if damaged:
        raise SystemExit(1)


DIRECTORY = click.argument("directory", type=_Place("journal"), metavar="JOURNAL|CONFIG")
SESSION = click.option("--session", type=int, default=None, help="Feed session number only.")


@journal.command("ls")
@DIRECTORY
@click.option("--json", "as_json", is_flag=True)
def ls(directory: Path, as_json: bool) -> None:
    """Segments: session date, position, bytes, state."""
    from recorder.journal_tools import listing

    rows = listing(directory)
    if as_json:
        return click.echo(json.dumps(rows, indent=1))
    for row in rows:
        click.echo(
            f"{row['file']:36} {row['date'] or '-':10} {row['position']:#18x} {row['bytes']:>13,} {row['state']}"
        )
    return None


@journal.command("cat")
@DIRECTORY
@SESSION
@click.option("--start", default=None, help="Time or 0x position to begin at.")
@click.option("--end", default=None, help="Time to end at.")
@click.option("--raw", is_flag=True, help="Frames as they came, nothing else: what `kfix inspect` and `simulate` read.")
@click.option("-f", "--follow", is_flag=True, help="Wait for more.")
def cat(directory: Path, session: int | None, start: str | None, end: str | None, raw: bool, follow: bool) -> None:
    """Frames and events as text, one a line, | for SOH."""
    from recorder.journal_tools import lines

    damaged: list[str] = []
    for line in lines(directory, session=session, start=start, end=end, raw=raw, follow=follow, damaged=damaged):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    _report_damage(damaged)


@journal.command("grep")
@DIRECTORY
@click.argument("pattern")
@SESSION
@click.option("--start", default=None)
@click.option("--end", default=None)
def grep(directory: Path, pattern: str, session: int | None, start: str | None, end: str | None) -> None:
    """Records whose text (| for SOH) matches a regular expression, such as '35=y'; exit 1 when none does."""
    from recorder.journal_tools import lines

    found, damaged = False, list[str]()
    for line in lines(directory, session=session, start=start, end=end, pattern=pattern, damaged=damaged):
        sys.stdout.buffer.write(line)
        found = True
    sys.stdout.buffer.flush()
    _report_damage(damaged)
    if not found:
        raise SystemExit(1)


@journal.command("export")
@DIRECTORY
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["fix", "log", "pcap"]), default=None, help="Else by the name.")
@SESSION
@click.option("--start", default=None)
@click.option("--end", default=None)
def export(
    directory: Path, output: Path, kind: str | None, session: int | None, start: str | None, end: str | None
) -> None:
    """Write frames to a file: .fix (raw stream), .log (FIX log), .pcap (for Wireshark)."""
    from recorder.journal_tools import export as write

    damaged: list[str] = []
    n = write(directory, output, kind, session=session, start=start, end=end, damaged=damaged)
    click.echo(f"{n} frames in {output}")
    _report_damage(damaged)
