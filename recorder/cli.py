"""The commands over captures and journal: record, verify, report, journal, compact."""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from kfix_md.errors import CaptureError, UsageError
from kfix_md.journal import files as journal_files


class _Place(click.Path):
    """A directory, or the configuration file that says where it is, as `kfix record` takes it."""

    def __init__(self, what: str):
        super().__init__(path_type=Path)
        self.what = what  # "journal" or "captures"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        return _placed(path, self.what) if path.is_file() else path


def _placed(config: Path, what: str) -> Path:
    from kfix_md.config import load, service_names
    from recorder.process import Settings

    whole = load(str(config))
    parts: list[str | None] = [None] if whole.feed.processes == "one" else list(service_names(whole))
    found = [getattr(Settings.load(str(config), part), what) for part in parts]
    if len(found) > 1:
        raise UsageError(f"{config} has one {what} a service, name its directory: {', '.join(map(str, found))}")
    return found[0]


CAPTURES = click.argument("captures", type=_Place("captures"), metavar="CAPTURES|CONFIG")


def _say(text: str) -> None:
    click.echo(text)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--once", is_flag=True, help="Record what is there and end.")
@click.option("--service", help="Only this one, where every service has a process and a journal of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print totals as JSON at the end.")
def record(config: Path, once: bool, service: str | None, as_json: bool) -> int:
    """Turn the journal into Parquet, from where the last recorder stopped."""
    from kfix_md.config import load, service_names
    from kfix_md.feed.processes import supervise

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    whole = load(config)
    if service is not None or whole.feed.processes == "one":
        _record(config, service, once, as_json)
    elif once:
        for name in service_names(whole):
            _record(config, name, once, as_json)
    else:
        return supervise(config, whole, "record", ["--json"] if as_json else [])
    return 0


def _record(config: Path, service: str | None, once: bool, as_json: bool) -> None:
    from recorder.process import Recorder, Settings

    settings, stopping = Settings.load(str(config), service), []  # type: ignore[var-annotated]
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda number, frame: stopping.append(number))
    start = time.monotonic()
    if not once and not _journal_comes(settings.journal, stopping):
        return
    recorder = Recorder(settings, progress=_Progress())
    try:
        if once:
            with _writing(settings.captures):
                recorder.once()
        else:
            logging.getLogger("kfix.record").info(
                "recording %s into %s", recorder.settings.journal, recorder.settings.captures
            )
            recorder.run(lambda: bool(stopping))
    finally:
        recorder.close()
    told = {
        "rows": recorder.rows,
        "flushes": recorder.flushes,
        "position": recorder.committed,
        "seconds": round(time.monotonic() - start, 3),
    }
    _say(json.dumps(told) if as_json else f"{told['rows']} rows in {told['flushes']} flushes, {told['seconds']} s")


def _journal_comes(journal: Path, stopping: list[int]) -> bool:
    """Wait for the feed's first segment: both may be started at once. False when told to stop first."""
    told = False
    while not (journal.is_dir() and journal_files.segments(journal)):
        if stopping:
            return False
        if not told:
            logging.getLogger("kfix.record").info("no journal at %s yet: waiting for `kfix feed`", journal)
            told = True
        time.sleep(0.1)
    return True


@contextmanager
def _writing(captures: Path) -> Iterator[None]:
    """A disk that is full or faulty, in one line."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise CaptureError(
            f"captures {captures} cannot be written: {why}; nothing is lost, run it again when there is room"
        ) from None


class _Progress:
    """A line now and then while a backlog is worked off."""

    def __init__(self) -> None:
        self.last, self.since, self.rows = 0.0, time.monotonic(), 0

    def __call__(self, told: dict[str, Any]) -> None:
        now = time.monotonic()
        behind = told["bytes_behind"]
        if behind < 1 << 20 or now - self.last < 1:
            return
        rate = (told["rows"] - self.rows) / max(now - self.since, 1e-9)
        self.last, self.since, self.rows = now, now, told["rows"]
        click.echo(
            f"catching up: {told['rows']:,} rows, {rate:,.0f} a second, {behind / 1e6:,.0f} MB of journal "
            f"in {told['segments_behind']} segments to go",
            err=True,
        )


@click.command()
@CAPTURES
@click.option("--date", "day", default=None, help="Session date (YYYY-MM-DD); all without it.")
@click.option("--json", "as_json", is_flag=True)
def verify(captures: Path, day: str | None, as_json: bool) -> None:
    """Rebuild every book from Parquet alone and check every message's CRC; exit 1 when the proof does not hold."""
    import recorder
    from recorder.layout import to_date
    from recorder.verify import verify as prove

    start = time.monotonic()
    cap = recorder.open(captures)
    wanted = to_date(day) if day else None
    if wanted is not None and wanted not in cap.dates():
        raise UsageError(f"{captures} has no session date {day}; there are {_dates(cap)}")
    proof = prove(cap, wanted)
    told = proof.summary() | {"seconds": round(time.monotonic() - start, 3)}
    if as_json:
        _say(json.dumps(told, indent=1))
    else:
        _print_proof(told)
    if not told["holds"]:
        raise SystemExit(1)


def _dates(captures: Any) -> str:
    return ", ".join(map(str, captures.dates())) or "none"


def _print_proof(told: dict[str, Any]) -> None:
    _say(
        f"{'symbol':24} {'level':5} {'messages':>10} {'rows':>11} {'CRC ok':>10} {'failed':>7} {'unproven':>9} "
        f"{'s not covered':>14}"
    )
    for row in told["symbols"]:
        _say(
            f"{row['symbol']:24} {row['level']:5} {row['messages']:>10,} {row['rows']:>11,} {row['ok']:>10,} "
            f"{row['failed']:>7,} {row['unproven']:>9,} {row['seconds_not_covered']:>14,.3f}"
        )
    for fault in told["faults"]:
        _say(f"FAULT: {fault}")
    if told["unproven"]:
        _say(f"{told['unproven']:,} messages are unproven: before a snapshot, behind a wrong checksum or a loss (gaps)")
    verdict = "the proof holds" if told["holds"] else "THE PROOF DOES NOT HOLD"
    _say(
        f"{verdict}: {told['messages']:,} messages, {told['rows']:,} rows, {told['ok']:,} of {told['checked']:,} CRCs "
        f"match, {told['failed_live']:,} failed live, {told['gaps']} gaps, {told['seconds']} s"
    )


@click.command()
@CAPTURES
@click.argument("day", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File to write; report-DAY.html.")
def report(captures: Path, day: str | None, output: Path | None) -> None:
    """Write one self-contained HTML page about a session date (the last one)."""
    import recorder
    from recorder.layout import to_date
    from recorder.report import page

    cap = recorder.open(captures)
    dates = cap.dates()
    wanted = to_date(day) if day else (dates or [None])[-1]
    if wanted is None or wanted not in dates:
        raise UsageError(f"{captures} has no session date {day or ''}; there are {_dates(cap)}")
    output = output or Path(f"report-{wanted}.html")
    try:
        output.write_text(page(cap, wanted), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    _say(str(output))


@click.command()
@CAPTURES
@click.option("--date", "day", default=None, help="Session date (YYYY-MM-DD); every finished one without it.")
def compact(captures: Path, day: str | None) -> None:
    """Cluster finished session dates by symbol: read back, compared row by row, then swapped in."""
    import recorder
    from recorder.compact import candidates, compact_day
    from recorder.layout import to_date

    tree = recorder.open(captures).tree
    dates = [to_date(day)] if day else candidates(tree, None)
    if day and dates[0] not in tree.dates():
        raise UsageError(f"{captures} has no session date {day}")
    for one in dates:
        with _writing(tree.root):
            told = compact_day(tree, one)
        _say(
            f"{one}: {told['rows']:,} rows, {told['files_before']} files -> {told['files_after']}, "
            f"{told['bytes_before']:,} bytes -> {told['bytes_after']:,}"
        )
    if not dates:
        _say("nothing to compact")


@click.group()
def journal() -> None:
    """Look into the raw journal: ls, cat, grep, export."""


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
        return _say(json.dumps(rows, indent=1))
    for row in rows:
        _say(f"{row['file']:36} {row['date'] or '-':10} {row['position']:#18x} {row['bytes']:>13,} {row['state']}")
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

    for line in lines(directory, session=session, start=start, end=end, raw=raw, follow=follow):
        sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


@journal.command("grep")
@DIRECTORY
@click.argument("pattern")
@SESSION
@click.option("--start", default=None)
@click.option("--end", default=None)
def grep(directory: Path, pattern: str, session: int | None, start: str | None, end: str | None) -> None:
    """Records whose text (| for SOH) matches a regular expression, such as '35=y'; exit 1 when none does."""
    from recorder.journal_tools import lines

    found = False
    for line in lines(directory, session=session, start=start, end=end, pattern=pattern):
        sys.stdout.buffer.write(line)
        found = True
    sys.stdout.buffer.flush()
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

    n = write(directory, output, kind, session=session, start=start, end=end)
    _say(f"{n} frames in {output}")
