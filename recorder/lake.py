"""Names the Delta tables of a lake and opens them: one a table of captures, partitioned by feed and session date.

    <lake>/<table>/_delta_log/                                               what belongs to the table, by version
    <lake>/<table>/feed=<feed>/session_date=YYYY-MM-DD/<name>.<digest>.parquet     files of captures, unchanged

A file has the name it has in the captures and a digest of its content: an object of that name has that content, so
that an upload may be repeated at any time.
"""

import json
import os
import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from kfix_md.errors import CaptureError, UsageError
from recorder import schema
from recorder.layout import FileName

if TYPE_CHECKING:
    from deltalake import DeltaTable

#: ticks last: a reader that loads them first never sees ticks without what is known of them
TABLES = ("gaps", "sessions", "instruments", "status", "checkpoints", "ticks")
PARTITIONS = ["feed", "session_date"]
#: key of a commit of ticks: versions of the other tables, which have all that is known of its rows
GOES_WITH = "kfix_md.tables"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_LOG = "_delta_log"
_COMMIT = re.compile(rf"{_LOG}/(\d{{20}})\.json$")
_KEY = re.compile(r"(?P<folder>.*/)?(?P<stem>[^/]+)\.(?P<digest>[0-9a-f]{16})\.parquet$")
#: Delta and arrow types of the columns; all may be null, for a column that is added later is null in files before it
SCHEMAS = {
    name: pa.schema([field.with_nullable(True) for field in schema.plain(columns)]).append(
        pa.field("session_date", pa.date32(), True, {"description": "trading session, ends at 22:00 UTC"})
    )
    for name, columns in schema.SCHEMAS.items()
}
Version = int | str | datetime


class Held(NamedTuple):
    """A file of a table, as an add action of the log names it; times and symbols None: no statistics."""

    key: str
    name: str
    day: date
    size: int
    rows: int
    first_ns: int | None
    last_ns: int | None
    symbols: tuple[str, str] | None

    @property
    def range(self) -> tuple[int, int]:
        """Journal positions whose records it has."""
        return range_of(self.name)


def range_of(name: str) -> tuple[int, int]:
    """Journal positions whose records a file of this name has."""
    found = FileName.parse(name)
    if found is None:
        raise CaptureError(f"{name} is no name of a file of captures")
    return found.start, found.end


def key_of(feed: str, day: date, name: str, digest: str) -> str:
    """Path of a file below its table."""
    return f"feed={feed}/session_date={day.isoformat()}/{name.removesuffix('.parquet')}.{digest}.parquet"


def name_of(key: str) -> str:
    """Name in the captures of a file of the lake."""
    match = _KEY.match(key)
    if match is None:
        raise CaptureError(f"{key} was not put into this lake by `kfix lake push`")
    return f"{match['stem']}.parquet"


Mark = tuple[str | None, int]  # ETag and size of an object: another one under its name has others


class Commit(NamedTuple):
    """A commit of a table: actions of its object in the log, the time of that object by the store's clock, its mark."""

    actions: list[dict[str, Any]]
    at: datetime
    mark: Mark

    @property
    def info(self) -> dict[str, Any]:
        """What its writer noted about it."""
        found: dict[str, Any] = next((one["commitInfo"] for one in self.actions if "commitInfo" in one), {})
        return found

    @property
    def transactions(self) -> dict[str, int]:
        """Versions of the applications that it was made with."""
        return {one["txn"]["appId"]: one["txn"]["version"] for one in self.actions if "txn" in one}


def position_app(feed: str, table: str) -> str:
    """Application whose transactions carry the journal position up to which a table has the rows of a feed."""
    return f"kfix/{feed}/{table}"


def writer_app(feed: str, table: str) -> str:
    """Application whose transactions carry the number of the captures that write a feed."""
    return f"kfix/{feed}/{table}/writer"


class Lake:
    """The Delta tables under one URL, or local path.

    Parameters
    ----------
    url
        s3://bucket/path, another URL that deltalake and obstore know, or a local directory.
    storage
        Options of the object store, such as aws_endpoint; the AWS_* variables hold where an option is not given.

    Raises
    ------
    UsageError
        deltalake and obstore are not installed.
    """

    def __init__(self, url: str | os.PathLike[str], storage: Mapping[str, str] | None = None) -> None:
        text = os.fspath(url)
        self.local = not is_url(text)
        self.url = os.path.abspath(text) if self.local else text.rstrip("/")
        self.storage = dict(storage or {})
        try:
            import deltalake
            import obstore  # noqa: F401
        except ImportError as error:
            raise UsageError(f"a lake needs {error.name}: pip install 'kfix-md[lake]'") from None
        self._delta = deltalake
        self._stores: dict[str, Any] = {}

    def table_url(self, table: str) -> str:
        """Where a table is."""
        return f"{self.url}/{table}"

    def store(self, table: str) -> Any:
        """The object store below a table."""
        if table not in self._stores:
            from obstore.store import LocalStore, from_url

            self._stores[table] = (
                LocalStore(self.table_url(table), mkdir=True)
                if self.local
                else from_url(self.table_url(table), config=self.storage)  # type: ignore[call-overload]
            )
        return self._stores[table]

    def open(self, table: str, version: Version | None = None) -> "DeltaTable | None":
        """A table at a version, or at the newest one; None when there is none.

        Raises
        ------
        CaptureError
            It cannot be reached or read, or has no such version.
        """
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            if self.local and not (Path(self.table_url(table)) / _LOG).is_dir():
                return None
            number = version if isinstance(version, int) else None
            found = self._delta.DeltaTable(self.table_url(table), number, storage_options=self.storage or None)
            if version is not None and number is None:
                found.load_as_version(version)
            return found
        except TableNotFoundError:
            return None
        except (DeltaError, OSError, ValueError) as error:
            raise CaptureError(f"{self.table_url(table)} cannot be read: {first_line(error)}") from error

    def commit(self, table: str, version: int) -> Commit | None:
        """One commit of a table, by one request; None when the log has it only as a part of a checkpoint.

        Raises
        ------
        CaptureError
            It cannot be read.
        """
        import obstore
        from obstore.exceptions import BaseError

        key = f"{_LOG}/{version:020}.json"
        try:
            found = obstore.get(self.store(table), key)
            actions = [json.loads(line) for line in bytes(found.bytes()).splitlines() if line.strip()]
        except FileNotFoundError:
            return None
        except (BaseError, OSError, ValueError) as error:
            raise CaptureError(f"{self.table_url(table)}/{key} cannot be read: {first_line(error)}") from error
        return Commit(actions, found.meta["last_modified"], (found.meta["e_tag"], found.meta["size"]))

    def commits(self, table: str, version: int) -> dict[int, Mark]:
        """Marks of the commits of a table from a version on, by one listing of the end of its log.

        Raises
        ------
        CaptureError
            It cannot be listed.
        """
        import obstore
        from obstore.exceptions import BaseError

        try:
            found = obstore.list(self.store(table), _LOG, offset=f"{_LOG}/{version:020}").collect()
        except FileNotFoundError:
            return {}
        except (BaseError, OSError) as error:
            raise CaptureError(f"{self.table_url(table)}/{_LOG} cannot be listed: {first_line(error)}") from error
        named = ((_COMMIT.match(one["path"]), one) for one in found)
        return {int(match[1]): (one["e_tag"], one["size"]) for match, one in named if match}

    def held(self, table: "DeltaTable", feed: str | None = None) -> dict[str, list[Held]]:
        """Files of a table at its version by feed, from its log: nothing is listed and no file is opened."""
        rows = pa.table(table.get_add_actions(flatten=True))
        columns = {name: rows[name].to_pylist() for name in rows.column_names}
        empty = [None] * rows.num_rows

        def column(name: str) -> list[Any]:
            found: list[Any] = columns.get(name, empty)
            return found

        found: dict[str, list[Held]] = {}
        for i, key in enumerate(columns["path"]):
            of = column("partition.feed")[i]
            if feed is not None and of != feed:
                continue
            low, high = column("min.symbol")[i], column("max.symbol")[i]
            one = Held(
                key,
                name_of(key),
                column("partition.session_date")[i],
                columns["size_bytes"][i],
                column("num_records")[i],
                column("min.recv_ns")[i],
                column("max.recv_ns")[i],
                None if low is None or high is None else (low, high),
            )
            found.setdefault(of, []).append(one)
        return found


def is_url(text: str) -> bool:
    """Whether a place is a URL rather than a local path."""
    return _URL.match(text) is not None


def first_line(error: BaseException) -> str:
    """The text of an error, in one line."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
