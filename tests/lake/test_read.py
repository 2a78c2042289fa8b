"""recorder.open of a lake answers as it does of the captures that were pushed."""

from __future__ import annotations

import os
import pickle
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

import recorder
from kfix_md.errors import CaptureError, UsageError
from recorder import compact, lake_push, lake_tree, layout, schema
from recorder.lake import TABLES
from recorder.verify import verify
from tests.lake.rows import push
from tests.recorder.build import Killed


def plain(rows: pa.Table) -> pa.Table:
    return rows.cast(schema.plain(rows.schema)).replace_schema_metadata()


def answers(cap, every: int = 5) -> dict:
    """One of each kind of question, the ones about a symbol for each so many of them."""
    found = {}
    for day in cap.dates():
        found[day] = (cap.symbols(day), cap.rows(day))
        for name in ("gaps", "coverage", "sessions", "instruments", "status"):
            found[day, name] = plain(getattr(cap, name)(day))
        for symbol in cap.symbols(day)[::every]:
            found[day, symbol] = plain(cap.ticks(symbol, level="both"))
            start = cap.ticks(symbol)["recv_ns"].to_pylist()[50]
            found[day, symbol, "part"] = plain(cap.ticks(symbol, start, start + 10**7, price="decimal"))
            book = cap.book(symbol, start)
            found[day, symbol, "book"] = (book.trusted, book.reason, book.seq, book.bids.tolist(), book.asks.tolist())
            found[day, symbol, "bbo"] = plain(cap.bbo(symbol))
            found[day, symbol, "bars"] = plain(cap.bars(symbol))
            found[day, symbol, "depth"] = plain(cap.depth(symbol, start, start + 10**9, every="10ms", levels=3))
        found[day, "replay"] = sum(1 for _ in cap.replay(day))
    return found


def test_the_lake_answers_as_the_captures_do(captures, url):
    push(captures, url)
    cap = recorder.open(url)
    if url.startswith("s3://"):  # the same code over another store: a range request costs the server's time
        symbol = cap.symbols()[0]
        assert plain(cap.ticks(symbol)).equals(plain(recorder.open(captures).ticks(symbol)))
        assert cap.rows() == recorder.open(captures).rows() and push(captures, url).commits == 0
        return
    assert answers(cap) == answers(recorder.open(captures))
    assert verify(cap).summary() == verify(recorder.open(captures)).summary() and cap.missing() == []
    assert pickle.loads(pickle.dumps(cap)).rows() == cap.rows()
    compact.compact_day(layout.Tree(captures), cap.dates()[0])
    push(captures, url)
    assert answers(recorder.open(url)) == answers(cap)


def test_only_files_that_may_hold_the_rows_are_opened(captures, url, monkeypatch):
    compact.compact_day(layout.Tree(captures), layout.Tree(captures).dates()[0])
    push(captures, url)
    cap = recorder.open(url)
    day = cap.dates()[1]
    symbol = cap.symbols(day)[0]
    opened = []
    real = lake_tree.RemoteFile.read_bytes
    monkeypatch.setattr(lake_tree.RemoteFile, "read_bytes", lambda self: opened.append(str(self)) or real(self))
    rows = cap.ticks(symbol, level="both", columns=["recv_ns"])["recv_ns"].to_pylist()
    opened.clear()
    last = max(rows)
    assert cap.ticks(symbol, last, last + 1, level="both").num_rows
    ticks = {one for one in opened if "/ticks/" in one}
    assert all(f"session_date={day}" in one for one in ticks)
    assert 0 < len(ticks) < len(cap.tree.files("ticks", day))


def without_second_date(captures):
    """Take the files of the second date away; what puts them back."""
    tree, later = layout.Tree(captures), {}
    for table in TABLES:
        for path in tree.files(table, tree.dates()[1]):
            later[path] = captures / "work" / f"later-{table}-{path.name}"
            path.rename(later[path])

    def back():
        for path, kept in later.items():
            kept.rename(path)

    return back


def two_pushes(captures, url):
    """Each date in a push of its own; what readers found after the first one."""
    back = without_second_date(captures)
    push(captures, url)
    first = recorder.open(url).tree
    back()
    push(captures, url)
    return first


def names(tree):
    return {table: {day: tree.names(table, day) for day in tree.dates(table)} for table in TABLES}


def set_times(url, of):
    """Times of the objects of the logs, as a store with another clock has them, by version."""
    for table in TABLES:
        for commit in Path(url, table, "_delta_log").glob("*.json"):
            moment = time.time() + of(int(commit.stem))
            os.utime(commit, (moment, moment))


@pytest.mark.parametrize(
    "of",
    [lambda version: 3600 + version, lambda version: 3600, lambda version: -3600],
    ids=["ahead", "one_second", "late"],
)
def test_a_version_of_ticks_has_the_other_tables_it_was_committed_with(captures, url, of):
    """Neither the clock of the store nor that of the writer has a part in it."""
    first = two_pushes(captures, url)
    last = recorder.open(url).tree
    set_times(url, of)
    for tree in (first, last):
        assert names(recorder.open(url, version=tree.version).tree) == names(tree)
    assert recorder.open(url, version=first.version).rows() < recorder.open(url).rows()


def test_a_version_that_names_no_other_tables_has_them_by_the_times_of_the_store(captures, url, monkeypatch):
    """Lakes that a release before pushed to; the store's clock is an hour ahead of the writer's."""
    monkeypatch.setattr(lake_push, "GOES_WITH", "kfix_md.unknown")
    first = two_pushes(captures, url)
    set_times(url, lambda version: 3600 + version)
    assert names(recorder.open(url, version=first.version).tree) == names(first)


def test_a_version_whose_commit_is_left_in_a_checkpoint_alone_has_the_newest_tables(captures, url):
    push(captures, url)
    table = DeltaTable(f"{url}/ticks")
    table.create_checkpoint()
    for commit in Path(url, "ticks", "_delta_log").glob("*.json"):
        commit.unlink()
    cap = recorder.open(url, version=table.version())
    assert names(cap.tree) == names(recorder.open(url).tree) and cap.status().num_rows


def test_a_version_has_the_tables_of_a_feed_that_pushed_in_between(captures, others, url, monkeypatch):
    """The commit is made again after that of the other feed, of whose tables it knew nothing."""
    real, once = lake_push.commit, []

    def commit(table, actions, kind, properties):
        if table.metadata().name == "ticks" and not once:
            once.append(1)
            push(others, url)
        real(table, actions, kind, properties)

    monkeypatch.setattr(lake_push, "commit", commit)
    push(captures, url)
    version = DeltaTable(f"{url}/ticks").version()
    assert once and recorder.open(url, version=version).tree.feed == "alpha"
    for feed in ("alpha", "beta"):
        tree = recorder.open(url, feed=feed, version=version).tree
        assert names(tree) == names(recorder.open(url, feed=feed).tree) and tree.dates("gaps")


def test_no_book_is_trusted_after_the_last_tick_of_a_push_that_ended_before_ticks(captures, url, monkeypatch):
    """The compacted files of status have rows of the whole date, of which ticks were not pushed to the end."""
    tree = layout.Tree(captures)
    first = tree.dates()[0]
    later = {}
    for table in layout.TABLES:
        for path in [*tree.files(table, first)[1:], *tree.files(table, tree.dates()[1])]:
            later[path] = captures / "work" / f"later-{table}-{path.name}"
            path.rename(later[path])
    push(captures, url)
    until = recorder.open(url)._files.recorded_until()
    for path, kept in later.items():
        kept.rename(path)
    compact.compact_day(tree, first)
    real = lake_push.commit

    def commit(table, actions, kind, properties):
        if table.metadata().name == "ticks":
            raise Killed
        real(table, actions, kind, properties)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(lake_push, "commit", commit)
        push(captures, url)
    cap = recorder.open(url)
    assert cap.status()["recv_ns"].to_pylist()[-1] > until
    assert cap._files.recorded_until() == until
    for symbol in cap.symbols(first):
        assert not cap.book(symbol, until + 1).trusted
    push(captures, url)
    cap = recorder.open(url)
    assert cap._files.recorded_until() == recorder.open(captures)._files.recorded_until()


def test_versions_by_number_and_time_and_after_a_vacuum(captures, url):
    tree = layout.Tree(captures)
    first = tree.dates()[0]
    push(captures, url)
    before = recorder.open(url)
    symbol = before.symbols(first)[0]
    rows = plain(before.ticks(symbol))
    moment = datetime.now(UTC)
    time.sleep(1.1)  # versions are found by the times of their objects, which S3 has in whole seconds
    compact.compact_day(tree, first)
    push(captures, url)
    live = before.tree.files("ticks", first)
    for version in (before.tree.version, moment, moment.isoformat()):
        old = recorder.open(url, version=version)
        assert old.tree.files("ticks", first) == live and plain(old.ticks(symbol)).equals(rows)
    for table in TABLES:
        DeltaTable(f"{url}/{table}").vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert plain(recorder.open(url).ticks(symbol)).equals(rows)
    with pytest.raises(CaptureError, match="no longer in the lake"):
        recorder.open(url, version=before.tree.version).ticks(symbol)


def test_a_column_of_a_later_release_is_null_in_files_from_before(captures, url, monkeypatch):
    tree = layout.Tree(captures)
    later = {}
    for table in TABLES:
        for path in tree.files(table, tree.dates()[1]):
            later[path] = captures / "work" / f"later-{table}-{path.name}"
            path.rename(later[path])
    push(captures, url)
    old = DeltaTable(f"{url}/ticks")
    n = old.to_pyarrow_table().num_rows
    for path, kept in later.items():
        kept.rename(path)
    more = lake_push.SCHEMAS["ticks"].append(pa.field("venue_ns", pa.int64()))
    with monkeypatch.context() as patch:
        patch.setattr(lake_push, "SCHEMAS", {**lake_push.SCHEMAS, "ticks": more})
        push(captures, url)
    table = DeltaTable(f"{url}/ticks")
    assert "venue_ns" not in old.to_pyarrow_table().column_names
    found = table.to_pyarrow_table()
    assert found.num_rows > n and found["venue_ns"].null_count == found.num_rows
    assert recorder.open(url).rows() == recorder.open(captures).rows()  # a release without the column
    assert push(captures, url).commits == 0


def test_feeds_of_a_lake_are_read_as_several_captures(captures, others, url):
    push(captures, url)
    push(others, url)
    both, local = recorder.open(url), recorder.open([captures, others])
    assert plain(both.gaps()).equals(plain(local.gaps())) and both.rows() == local.rows()
    assert recorder.open(url, feed="beta").rows() == recorder.open(others).rows()
    with pytest.raises(UsageError, match="has no feed gamma; there is alpha, beta"):
        recorder.open(url, feed="gamma")


def test_a_feed_that_rows_do_not_name_is_that_of_the_partition(captures, url):
    push(captures, url, feed="tokyo")
    assert set(recorder.open(url).ticks()["feed"].to_pylist()) == {"tokyo"}


def test_what_is_no_lake_is_a_usage_error(captures, tmp_path):
    with pytest.raises(UsageError, match="are of lakes"):
        recorder.open(captures, version=1)
    with pytest.raises(UsageError, match="is no lake"):
        recorder.open(f"file://{tmp_path}/none")
