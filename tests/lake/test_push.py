"""What is pushed is what was recorded: each row once, whoever reads it, and by one writer a feed."""

from __future__ import annotations

import shutil
import threading
import uuid

import duckdb
import polars
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from kfix_md.errors import CaptureError, UsageError
from recorder import compact, files, lake_push, layout
from recorder.lake import TABLES, Lake, name_of, position_app
from recorder.lake_push import Push
from tests.lake import server
from tests.lake.rows import lake_rows, local_rows, ordered, push, same


def versions(url: str) -> dict[str, int]:
    return {table: DeltaTable(f"{url}/{table}").version() for table in TABLES}


def test_rows_equal_the_captures_and_a_second_push_changes_nothing(captures, url):
    done = push(captures, url)
    assert done.files == sum(1 for _ in captures.glob("*/session_date=*/*.parquet")) and done.commits == len(TABLES)
    same(captures, url)
    before = versions(url)
    again = push(captures, url)
    assert (again.files, again.commits) == (0, 0) and versions(url) == before
    table = DeltaTable(f"{url}/ticks")
    assert table.transaction_version(position_app("alpha", "ticks")) == done.position > 0
    assert table.metadata().partition_columns == ["feed", "session_date"]


def test_polars_duckdb_and_pyarrow_read_the_same_rows(captures, url, monkeypatch):
    push(captures, url)
    n = local_rows(captures, "ticks").num_rows
    table = DeltaTable(f"{url}/ticks")
    dataset = table.to_pyarrow_dataset()
    scanned = polars.scan_pyarrow_dataset(dataset).filter(polars.col("feed") == "alpha")
    assert scanned.select(polars.len()).collect().item() == n
    assert duckdb.sql("SELECT count(*), sum(price), min(feed) FROM dataset").fetchone() == (
        n,
        pa.compute.sum(local_rows(captures, "ticks")["price"]).as_py(),
        "alpha",
    )
    whole = polars.scan_delta(f"{url}/ticks").select("recv_ns", "symbol", "price", "feed", "session_date").collect()
    expected = local_rows(captures, "ticks")
    assert sorted(whole["recv_ns"]) == sorted(expected["recv_ns"].to_pylist()) and set(whole["feed"]) == {"alpha"}
    assert sorted(whole["price"]) == sorted(expected["price"].to_pylist())


def test_statistics_of_footers_are_in_the_log(captures, url):
    push(captures, url)
    rows = pa.table(DeltaTable(f"{url}/ticks").get_add_actions(flatten=True)).to_pylist()
    for row in rows:
        if row["num_records"]:
            day = row["partition.session_date"]
            name = layout.Tree(captures).partition("ticks", day) / name_of(row["path"])
            read = files.table("ticks", [name], ["recv_ns", "symbol"])
            limits = pa.compute.min_max(read["recv_ns"]).as_py()
            assert (row["min.recv_ns"], row["max.recv_ns"]) == (limits["min"], limits["max"])
            names = sorted(set(read["symbol"].to_pylist()))
            assert (row["min.symbol"], row["max.symbol"]) == (names[0], names[-1])


def test_live_files_are_added_and_a_compaction_replaces_them_in_one_commit(captures, url, tmp_path):
    tree = layout.Tree(captures)
    first, second = tree.dates()
    aside = tmp_path / "aside"
    late = {}
    for table in TABLES:  # the last files come later
        for path in tree.files(table, second)[1:]:
            late[path] = aside / f"{table}-{path.name}"
            late[path].parent.mkdir(exist_ok=True)
            path.rename(late[path])
    push(captures, url)
    same(captures, url)
    for path, kept in late.items():
        kept.rename(path)
    more = push(captures, url)
    assert more.files == len(late) and more.removed == 0
    same(captures, url)
    before = versions(url)
    old = DeltaTable(f"{url}/ticks")
    rows = old.to_pyarrow_table()
    compact.compact_day(tree, first)
    swapped = push(captures, url)
    assert swapped.removed > swapped.files > 0
    same(captures, url)
    assert all(after - before[table] == 1 for table, after in versions(url).items())  # each swap is one commit
    assert ordered(old.to_pyarrow_table()).equals(ordered(rows))  # a reader of the old version reads on
    assert push(captures, url).commits == 0


def test_a_second_writer_of_a_feed_is_rejected_until_it_takes_over(captures, others, url):
    push(captures, url)
    before = versions(url)
    with pytest.raises(CaptureError, match=r"other captures \(writer [0-9a-f]+\) write feed alpha"):
        push(others, url, feed="alpha")
    assert versions(url) == before
    (captures / "state" / "lake.json").unlink()  # the same captures, of which state/ was lost
    with pytest.raises(CaptureError, match="--take-over"):
        push(captures, url)
    push(captures, url, take_over=True)
    same(captures, url)


@pytest.fixture
def job(captures, url):
    """A push that is run again and again, after its first run."""
    made = Push(captures, Lake(url))
    made.run()
    yield made
    made.close()


def test_a_push_of_nothing_new_asks_once_for_each_table(captures, s3, monkeypatch):
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    tree = layout.Tree(captures)
    shutil.rmtree(tree.partition("ticks", tree.dates()[1]))
    job = Push(captures, Lake(f"s3://{server.BUCKET}/{uuid.uuid4().hex}"))
    for commits in (len(TABLES), 0, 0):
        before = len(s3.requests())
        assert job.run().commits == commits
    job.close()
    made = s3.requests()[before:]
    assert len(made) == len(TABLES) and all("list-type=2" in one for one in made)


def test_a_push_that_goes_on_reads_what_others_have_committed_meanwhile(captures, others, url, job):
    push(others, url)
    compact.compact_day(layout.Tree(captures), layout.Tree(captures).dates()[0])
    assert job.run().removed > 0 and job.run().commits == 0
    same(captures, url)
    same(others, url, "beta")
    shutil.copytree(captures, copy := captures.parent / "copy")
    (copy / "state" / "lake.json").unlink()
    push(copy, url, take_over=True)
    with pytest.raises(CaptureError, match="other captures"):
        job.run()


@pytest.mark.parametrize("tables", [("gaps",), TABLES])
def test_tables_that_were_removed_meanwhile_are_pushed_again(captures, url, job, tables):
    for table in tables:
        shutil.rmtree(f"{url}/{table}")
    assert job.run().files
    same(captures, url)


def test_a_lake_that_others_made_again_meanwhile_is_theirs(captures, url, job):
    shutil.rmtree(url)
    shutil.copytree(captures, copy := captures.parent / "copy")
    (copy / "state" / "lake.json").unlink()
    push(copy, url)
    with pytest.raises(CaptureError, match="other captures"):
        job.run()
    same(copy, url)


def test_a_writer_that_was_replaced_while_it_pushed_is_rejected(captures, others, url, monkeypatch):
    """Between its look at the table and its commit another one takes over: Delta rejects what it did not know of."""
    push(captures, url)
    shutil.copytree(captures, copy := captures.parent / "copy")
    (copy / "state" / "lake.json").unlink()
    compact.compact_day(layout.Tree(captures), layout.Tree(captures).dates()[0])
    real = lake_push.commit
    once = []

    def commit(table, actions, kind, properties):
        if not once:
            once.append(1)
            push(copy, url, take_over=True)
        real(table, actions, kind, properties)

    monkeypatch.setattr(lake_push, "commit", commit)
    with pytest.raises(CaptureError, match="other captures"):
        push(captures, url)
    same(copy, url)


def test_two_feeds_at_once_both_succeed(captures, others, url):
    errors = []

    def one(path):
        try:
            push(path, url)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(path,)) for path in (captures, others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    same(captures, url)
    same(others, url, "beta")


def test_a_flush_that_is_not_whole_in_the_tree_waits(captures, url):
    """A recorder was killed while it renamed the files of a flush in: ticks without their gaps are not pushed."""
    import json

    tree = layout.Tree(captures)
    last = tree.files("status", tree.dates("status")[-1])[-1]
    start = layout.file_range(last.name)[0]
    work = tree.work / f"status-{last.parent.name}-{last.name}"
    state = json.loads((tree.state / "commit.json").read_bytes())
    state["entering"] = [[work.name, str(last.relative_to(tree.root))]]
    (tree.state / "commit.json").write_text(json.dumps(state))
    last.rename(work)
    push(captures, url)
    ends = [one.range[0] for t in TABLES for one in Lake(url).held(DeltaTable(f"{url}/{t}"))["alpha"]]
    assert max(ends) < start
    work.rename(last)
    push(captures, url)
    same(captures, url)


def test_captures_from_a_backup_do_not_double_what_is_there(captures, url):
    shutil.copytree(captures, backup := captures.parent / "backup")
    push(captures, url)
    shutil.copy(captures / "state" / "lake.json", backup / "state" / "lake.json")
    first = layout.Tree(captures).dates()[0]
    compact.compact_day(layout.Tree(captures), first)
    push(captures, url)
    assert push(backup, url).files == 0  # its live files are covered by the compacted ones
    same(captures, url)
    path = layout.Tree(backup).files("ticks", layout.Tree(backup).dates()[1])[0]
    start, end = layout.file_range(path.name)
    path.rename(path.with_name(layout.file_name(start, end + 1, 1)))
    with pytest.raises(CaptureError, match="were recorded again"):
        push(backup, url)


def test_captures_from_a_backup_do_not_lower_the_position(captures, url):
    """Readers ignore gaps and status from after it, and would have ticks without them."""
    shutil.copytree(captures, backup := captures.parent / "backup")
    end = push(captures, url).position
    tree = layout.Tree(backup)
    shutil.copy(captures / "state" / "lake.json", tree.state / "lake.json")
    for table in TABLES:
        shutil.rmtree(tree.partition(table, tree.dates()[-1]), ignore_errors=True)
    push(backup, url)
    assert DeltaTable(f"{url}/ticks").transaction_version(position_app("alpha", "ticks")) == end


def test_dates_that_were_removed_locally_stay_in_the_lake(captures, url):
    push(captures, url)
    before = lake_rows(url, "ticks")
    first = layout.Tree(captures).dates()[0]
    for table in TABLES:
        shutil.rmtree(layout.Tree(captures).partition(table, first), ignore_errors=True)
    assert push(captures, url).commits == 0
    assert lake_rows(url, "ticks").equals(before)


def test_wrong_names_and_places_are_usage_errors(captures, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no captures"):
        push(tmp_path, str(tmp_path / "lake"))
    with pytest.raises(UsageError, match="letters, digits"):
        push(captures, str(tmp_path / "lake"), feed="a/b")
    one = Push(captures, Lake(tmp_path / "lake"))
    with pytest.raises(CaptureError, match="already have a push"):
        Push(captures, Lake(tmp_path / "lake"))
    one.close()
