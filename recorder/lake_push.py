"""Puts finished files of captures into a lake: uploads them unchanged and commits them to its Delta tables.

The log of each table is all that is known of what was pushed: a push compares it with the captures, uploads what it
lacks under names that have a digest of the content, and commits. A Push that is run again reads the logs on from where
they were. Killed anywhere, it leaves files that no version names; the next push finds or replaces them. Two
transactions go with each commit: the journal position, and the number of the captures that write this feed. Delta
rejects a commit that overlaps with another one of the same application, and a push stops where the number is not its
own: a feed has one writer.
"""

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq

from kfix_md.errors import CaptureError, UsageError
from recorder import files, layout, schema
from recorder.lake import (
    GOES_WITH,
    PARTITIONS,
    SCHEMAS,
    TABLES,
    Held,
    Lake,
    Mark,
    first_line,
    key_of,
    position_app,
    range_of,
    writer_app,
)
from recorder.layout import Tree

if TYPE_CHECKING:
    from deltalake import DeltaTable

log = logging.getLogger("kfix.lake")
_ATTEMPTS = 10  # commits that meet one of another feed are made again; captures that change meanwhile listed again
_CLEANUP = 100  # versions after which commits and checkpoints of the log are removed that have expired (30 days)
_FEED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass
class Pushed:
    """What one push did."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    removed: int = 0  # live files that compaction has replaced
    commits: int = 0
    position: int = 0

    def __str__(self) -> str:
        return (
            f"{self.files} files, {self.rows} rows, {self.bytes} bytes in {self.commits} commits; "
            f"{self.removed} live files replaced; journal position {self.position:#x}"
        )


@dataclass
class Plan:
    """What a table lacks: new files, and compacted ones that replace others."""

    new: list[Path] = field(default_factory=list)
    compacted: list[Path] = field(default_factory=list)
    replaced: list[Held] = field(default_factory=list)


@dataclass
class Seen:
    """A table at the newest version that was read, and what it has of the feed; kept from one run to the next."""

    table: "DeltaTable"
    mark: Mark | None  # of the object of this version in the log
    held: list[Held]
    position: int | None
    writer: int | None


class Listing(NamedTuple):
    """Finished files of captures by table, all of the flushes before a journal position."""

    files: dict[str, list[Path]]
    position: int


class Push:
    """Pushes one captures directory into one lake.

    Parameters
    ----------
    captures
        A captures directory whose state/ can be written.
    feed
        Name of the feed in the lake; None for the one its rows name.
    take_over
        Become the writer of this feed although other captures have been.

    Raises
    ------
    UsageError
        No captures directory, or no name for its feed.
    CaptureError
        Another push of these captures is at work.
    """

    def __init__(self, captures: "str | Path", lake: Lake, *, feed: str | None = None, take_over: bool = False) -> None:
        self.tree, self.lake = Tree(captures), lake
        self.tree.check()
        if feed is not None and not _FEED.match(feed):
            raise UsageError(f"feed is {feed!r}: use letters, digits, dots, - and _")
        self.named = feed
        self.feed = feed or ""
        self._take_over = take_over
        self._added: dict[tuple[str, str], Any] = {}  # add actions of files that were uploaded, by table and path
        self._seen: dict[str, Seen] = {}
        self._lock = self.tree.lock("lake", who="push")
        try:
            self.writer = _writer(self.tree)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let another process push these captures."""
        self._lock.close()

    def run(self) -> Pushed:
        """Bring the lake to what the captures are now.

        Raises
        ------
        CaptureError
            Other captures write this feed, the captures are of an older schema or do not belong to what was pushed, or
            the lake cannot be written. What was committed stays; the next push continues.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._run()
            except (FileNotFoundError, files.Vanished):
                continue  # compaction replaced files that were listed
        return self._run()

    def _run(self) -> Pushed:
        listed = listing(self.tree)
        if not any(listed.files.values()):
            return Pushed()
        if self.named is None and (feed := _feed_of(self.tree, listed)) != self.feed:
            self.feed = feed
            self._seen.clear()
        done = Pushed(position=listed.position)
        for table in TABLES:
            self._table(table, listed, done)
        self._added.clear()
        self._take_over = False  # from now on another one that takes over ends this push
        return done

    def _table(self, table: str, listed: Listing, done: Pushed) -> None:
        """Commit what a table lacks: the files that replace nothing, then compacted ones for live ones at once."""
        from deltalake.exceptions import CommitFailedError, DeltaError

        conflicts = 0
        while True:
            seen = self._look(table)
            self._check_writer(table, seen)
            wanted = plan(listed.files[table], seen.held)
            try:
                if self._new(table, seen, wanted, listed.position, done) and wanted.replaced:
                    continue  # on top of these
                if wanted.replaced:
                    self._commit(table, seen, wanted.compacted, wanted.replaced, listed.position, done)
                return
            except CommitFailedError as error:  # another commit came first
                conflicts += 1
                if conflicts == _ATTEMPTS:
                    raise CaptureError(
                        f"{self.lake.table_url(table)}: {_ATTEMPTS} commits met others: {first_line(error)}"
                    ) from error
            except DeltaError as error:
                raise CaptureError(f"{self.lake.table_url(table)} cannot be written: {first_line(error)}") from error

    def _new(self, table: str, seen: Seen, wanted: Plan, position: int, done: Pushed) -> bool:
        """Commit the files that replace nothing, if any; ticks without any too where the position changes."""
        taken_over = self._take_over and seen.writer != self.writer
        more = table == "ticks" and (seen.position is None or seen.position < position) and not wanted.replaced
        if not (wanted.new or more or taken_over):
            return False
        last = position if not wanted.replaced else 0  # a reader may rely on it when all is there
        self._commit(table, seen, wanted.new, [], last, done)
        return True

    def _commit(
        self, table: str, seen: Seen, paths: list[Path], replaced: list[Held], position: int, done: Pushed
    ) -> None:
        from deltalake import CommitProperties, Transaction
        from deltalake.transaction import RemoveAction

        # never lower than it was: captures from a backup end earlier than what is there
        position = max(position, seen.position or 0)
        now = time.time_ns() // 1_000_000
        added = [self._add(table, path) for path in paths]
        rows = sum(json.loads(one.stats)["numRecords"] for one in added)
        if rows < (before := sum(one.rows for one in replaced)):
            raise CaptureError(
                f"{self.lake.table_url(table)}: {len(paths)} compacted files of {self.tree.root} have {rows} rows, the "
                f"{len(replaced)} they replace {before}: nothing was changed"
            )
        removed = [
            RemoveAction(one.key, True, now, one.size, {"feed": self.feed, "session_date": one.day.isoformat()})
            for one in replaced
        ]
        noted: dict[str, Any] = {"kfix_md.schema": schema.VERSION, "kfix_md.feed": self.feed}
        if table == "ticks":
            noted[GOES_WITH] = self._others()
        commit(
            seen.table,
            [*added, *removed],
            SCHEMAS[table],
            CommitProperties(
                custom_metadata=noted,
                # deltalake's own retries would put it after ticks of other feeds, of whose tables it knows nothing
                max_commit_retries=0 if table == "ticks" else None,
                app_transactions=[
                    Transaction(position_app(self.feed, table), position),
                    Transaction(writer_app(self.feed, table), self.writer),
                ],
            ),
        )
        done.commits += 1
        done.files += len(added)
        done.rows += rows
        done.bytes += sum(one.size for one in added)
        done.removed += len(replaced)

    def _others(self) -> dict[str, int]:
        """Versions of the other tables, looked up after ticks: with what goes with those of each feed."""
        return {table: self._look(table).table.version() for table in TABLES if table != "ticks"}

    def _look(self, table: str) -> Seen:
        """The table as it is now: read on from what the last look has seen, if that is still in its log."""
        last = self._seen.pop(table, None)
        seen = last and self._newer(table, last)
        if seen is None:
            found = self._open(table)
            version = found.version()
            seen = Seen(
                found,
                self.lake.commits(table, version).get(version),
                self.lake.held(found, self.feed).get(self.feed, []),
                found.transaction_version(position_app(self.feed, table)),
                found.transaction_version(writer_app(self.feed, table)),
            )
        self._seen[table] = seen
        return seen

    def _newer(self, table: str, last: Seen) -> Seen | None:
        """The table of a former look as it is now; None: it has to be opened (it was removed, or made again)."""
        from deltalake.exceptions import DeltaError

        version = last.table.version()
        marks = self.lake.commits(table, version)
        if last.mark is None or marks.get(version) != last.mark:
            return None
        if len(marks) == 1:
            return last
        try:
            last.table.update_incremental()
        except (DeltaError, OSError) as error:
            raise CaptureError(f"{self.lake.table_url(table)} cannot be read: {first_line(error)}") from error
        seen = Seen(last.table, None, [], last.position, last.writer)
        for number in range(version + 1, seen.table.version() + 1):  # deltalake would read all since a checkpoint
            commit = self.lake.commit(table, number)
            if commit is None:
                return None
            seen.mark = commit.mark
            seen.position = commit.transactions.get(position_app(self.feed, table), seen.position)
            seen.writer = commit.transactions.get(writer_app(self.feed, table), seen.writer)
        seen.held = self.lake.held(seen.table, self.feed).get(self.feed, [])
        return seen

    def _open(self, table: str) -> "DeltaTable":
        """The table as it is now: created where it is missing, with all columns of this version."""
        from deltalake.exceptions import DeltaError

        for attempt in range(_ATTEMPTS):
            found = self.lake.open(table)
            try:
                if found is None:
                    create(self.lake, table)
                    continue
                missing = _missing_columns(found, table)
                if not missing:
                    return found
                extend(found, missing)
            except DeltaError as error:  # another feed did the same at this moment
                if attempt + 1 == _ATTEMPTS:
                    raise CaptureError(
                        f"{self.lake.table_url(table)} cannot be written: {first_line(error)}"
                    ) from error
            except OSError as error:
                raise CaptureError(f"{self.lake.table_url(table)} cannot be written: {first_line(error)}") from error
        raise CaptureError(f"{self.lake.table_url(table)} was created and is not there")

    def _check_writer(self, table: str, seen: Seen) -> None:
        """CaptureError when other captures write this feed."""
        if seen.writer is not None and seen.writer != self.writer and not self._take_over:
            raise CaptureError(
                f"{self.lake.table_url(table)}: other captures (writer {seen.writer:x}) write feed {self.feed}, these "
                f"are writer {self.writer:x}: push with --feed NAME under another name, or with --take-over if the "
                "others are gone"
            )

    def _add(self, table: str, path: Path) -> Any:
        """Upload a file that is not there yet; the action that adds it to its table."""
        known = self._added.get((table, str(path)))
        if known is not None:
            return known
        from deltalake.transaction import AddAction

        seen = files.footer(path)
        if seen.outdated and not set(schema.SOURCE) <= set(seen.meta.schema.names):
            raise CaptureError(
                f"{path} is of a schema without feed and service: rewrite finished dates with "
                f"`kfix compact {self.tree.root}`, and push again"
            )
        stats, feeds = statistics(seen.meta)
        if self.named is None and feeds - {self.feed}:
            raise CaptureError(
                f"{path} has rows of feed {', '.join(sorted(feeds - {self.feed}))}, others of feed {self.feed}: "
                "push with --feed NAME to have all of them under one name"
            )
        day = layout.date_of(path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
        key = key_of(self.feed, day, path.name, digest)
        stat = path.stat()
        upload(self.lake.store(table), key, path)
        partition = {"feed": self.feed, "session_date": day.isoformat()}
        made = AddAction(key, stat.st_size, partition, stat.st_mtime_ns // 1_000_000, True, json.dumps(stats))
        self._added[table, str(path)] = made
        return made


# ---- what changes the lake: each is one step, after which a push may have been killed ----


def create(lake: Lake, table: str) -> None:
    """Create a table; none of several that do so at once fails for it."""
    from deltalake import DeltaTable

    if lake.local:
        Path(lake.table_url(table)).mkdir(parents=True, exist_ok=True)
    DeltaTable.create(
        lake.table_url(table),
        SCHEMAS[table],
        mode="ignore",
        partition_by=PARTITIONS,
        name=table,
        description=f"{table} of Kraken's market data, recorded by kfix-md",
        storage_options=lake.storage or None,
    )


def extend(table: "DeltaTable", columns: list[Any]) -> None:
    """Add columns to a table; they are null in the files that are there."""
    table.alter.add_columns(columns)


def upload(store: Any, key: str, path: Path) -> None:
    """Put a file under a name that has a digest of its content, unless it is there."""
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        obstore.put(store, key, path, mode="create", use_multipart=False)
    except AlreadyExistsError:
        pass  # by a push that was killed before it committed
    except FileNotFoundError:
        if path.exists():
            raise CaptureError(f"{key} cannot be put into the lake: there is no such bucket or directory") from None
        raise
    except (BaseError, OSError) as error:
        raise CaptureError(f"{key} cannot be put into the lake: {first_line(error)}") from error


def commit(table: "DeltaTable", actions: list[Any], kind: Any, properties: Any) -> None:
    """Write one version of a table, the next after the one that was read or, of other feeds' commits, after theirs."""
    from deltalake import PostCommitHookProperties

    # else deltalake lists the whole log after each commit, to find what has expired
    after = PostCommitHookProperties(cleanup_expired_logs=(table.version() + 1) % _CLEANUP == 0)
    table.create_write_transaction(
        actions, "append", kind, PARTITIONS, commit_properties=properties, post_commithook_properties=after
    )


# ---- what there is ----


def listing(tree: Tree) -> Listing:
    """Finished files by table: of each flush those of all tables or of none."""
    with tree.changing():
        limit = _entering(tree)
        found: dict[str, list[Path]] = {}
        for table in TABLES:
            paths = (path for day in tree.dates(table) for path in tree.files(table, day))
            found[table] = [path for path in paths if limit is None or range_of(path.name)[0] < limit]
    position = max((range_of(path.name)[1] for paths in found.values() for path in paths), default=0)
    return Listing(found, position)


def _entering(tree: Tree) -> int | None:
    """Start of a committed flush with files that are not in the tree yet, since its recorder was killed; else None."""
    try:
        saved = json.loads((tree.state / "commit.json").read_bytes())
    except (OSError, ValueError):
        return None
    waiting = [Path(target).name for work, target in saved.get("entering", ()) if (tree.work / work).exists()]
    return min((range_of(name)[0] for name in waiting), default=None)


def plan(local: list[Path], held: list[Held]) -> Plan:
    """What a table lacks of some captures.

    A file of the lake is replaced when a compacted file has its journal positions. One that the captures no longer
    have (old dates were removed) stays.

    Raises
    ------
    CaptureError
        Files overlap otherwise: these captures do not belong to what was pushed.
    """
    found = Plan()
    days: dict[date, tuple[list[Path], list[Held]]] = {}
    for path in local:
        days.setdefault(layout.date_of(path), ([], []))[0].append(path)
    for one in held:
        if one.day in days:
            days[one.day][1].append(one)
    for day, (paths, there) in days.items():
        _plan_day(found, day, paths, there)
    return found


def _plan_day(found: Plan, day: date, paths: list[Path], there: list[Held]) -> None:
    names = {one.name: one for one in there}
    new = [path for path in paths if path.name not in names or names[path.name].size != path.stat().st_size]
    mine = {path.name for path in paths}
    rewritten = {path.name for path in new} & names.keys()
    kept = [one for one in there if one.name not in mine]
    covering = [range_of(path.name) for path in new if layout.is_compacted(path.name)]
    gone = [one for one in kept if any(_covers(whole, one.range) for whole in covering)]
    compacted = [one.range for one in kept if layout.is_compacted(one.name)]
    for path in new:
        part = range_of(path.name)
        if path.name not in rewritten and any(_covers(whole, part) for whole in compacted):
            continue  # captures from a backup: the lake has its rows in a compacted file
        for one in kept:
            if one not in gone and one.range[0] < part[1] and part[0] < one.range[1]:
                raise CaptureError(
                    f"{path} overlaps with {one.key} of the lake, which these captures do not have: they were recorded "
                    "again in other files; push them under another name with --feed NAME"
                )
        replaces = path.name in rewritten or any(_covers(part, one.range) for one in gone)
        (found.compacted if replaces else found.new).append(path)
    found.replaced += [*gone, *(names[name] for name in sorted(rewritten))]


def _covers(whole: tuple[int, int], part: tuple[int, int]) -> bool:
    return whole[0] <= part[0] and part[1] <= whole[1]


def statistics(meta: pq.FileMetaData) -> tuple[dict[str, Any], set[str]]:
    """Statistics of an add action from the footer of a file, and the feeds its rows name."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for i, name in enumerate(meta.schema.names):
        groups = [meta.row_group(g) for g in range(meta.num_row_groups)]
        parts = [group.column(i).statistics for group in groups]
        if not parts or any(one is None or one.null_count is None for one in parts):
            continue
        nulls[name] = sum(one.null_count for one in parts)
        filled = [one for one, group in zip(parts, groups, strict=True) if one.null_count < group.num_rows]
        if filled and all(one.has_min_max for one in filled):
            low[name], high[name] = min(one.min for one in filled), max(one.max for one in filled)
    feeds = {value for bound in (low, high) if (value := bound.get("feed")) is not None}
    for one in (low, high, nulls):
        one.pop("feed", None)  # the partition has it
    return {"numRecords": meta.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}, feeds


def _feed_of(tree: Tree, listed: Listing) -> str:
    """The feed that the rows of captures name, from the newest file that names one."""
    for table in ("sessions", "status", "ticks"):
        for path in reversed(listed.files[table]):
            _, feeds = statistics(files.footer(path).meta)
            if len(feeds) == 1:
                return feeds.pop()
    raise UsageError(f"no row of {tree.root} names its feed: push with --feed NAME")


def _missing_columns(found: "DeltaTable", table: str) -> list[Any]:
    """Columns of this version that a table does not have yet."""
    from deltalake import Schema

    there = {one.name for one in found.schema().fields}
    return [one for one in Schema.from_arrow(SCHEMAS[table]).fields if one.name not in there]


def _writer(tree: Tree) -> int:
    """Number of these captures, the same as long as their state/ is there."""
    path = tree.state / "lake.json"
    try:
        number: int = json.loads(path.read_bytes())["writer"]
        return number
    except FileNotFoundError:
        number = secrets.randbits(62)
        layout.write_atomically(path, json.dumps({"writer": number}).encode(), tree.state)
        return number
    except (ValueError, KeyError, TypeError) as error:
        raise CaptureError(f"{path} is damaged ({error}): remove it, and push with --take-over") from None


def rounds(push: Push, every_s: float, wait: Callable[[float], bool]) -> Iterator[Pushed]:
    """A push every so many seconds until `wait` returns True; one that fails is logged, and made again in the next."""
    failed = ""
    while True:
        start = time.monotonic()
        try:
            done = push.run()
            if done.commits:
                log.info("pushed %s to %s: %s", push.tree.root, push.lake.url, done)
            if failed:
                log.info("pushing to %s works again", push.lake.url)
            failed = ""
            yield done
        except UsageError:
            raise
        except CaptureError as error:
            if str(error) != failed:
                log.error("not pushed, the next attempt is in %.0f s: %s", every_s, error)
            failed = str(error)
        if wait(max(0.0, every_s - (time.monotonic() - start))):
            return
