"""Shared memory of another user is not believed, and what another user made stops no feed without being named."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kfix_md
from kfix_md import FeedError, State, UsageError, attach
from kfix_md.config_fields import _mode
from kfix_md.shm.writer import SegmentWriter

NOBODY, USERS = 65534, 65533

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory as /dev/shm is."""
    folder = Path(tempfile.mkdtemp(prefix="kfix-shared-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def as_user(uid: int, what: Callable[[], object], gid: int = NOBODY) -> str:
    """str(what()), called by another user, or the error as "Type: text"."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir("/")
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            os.umask(0o022)
            answer = str(what())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
            if not isinstance(error, kfix_md.KfixError | OSError):
                answer += traceback.format_exc()
        os.write(writing, answer.encode()[:60000])
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        answer = file.read()
    os.waitpid(pid, 0)
    return answer


def feed(directory: Path, name: str = "default", **how) -> SegmentWriter:
    writer = SegmentWriter(name, directory, capacity=4, **how)
    writer.add_symbol("A")
    return writer


def leave_feed(directory: Path, name: str = "default", mode: int = 0o644) -> None:
    """A segment that stays behind."""
    writer = feed(directory, name, mode=mode)
    os.link(writer.path, writer.path + ".kept")
    writer.close()
    os.rename(writer.path + ".kept", writer.path)
    with open(writer.path, "r+b") as file:
        file.seek(64 + 8)
        file.write(bytes(4))  # header.closed


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_in_a_shared_directory_a_feed_has_one_of_its_own(shared):
    own = shared / f"kfix-md-{os.geteuid()}"
    with feed(shared) as writer:
        assert Path(writer.path) == own / "kfix-md.default" and mode_of(own) == 0o700
        assert kfix_md.feeds(shared) == ["default"]
        assert attach(directory=shared)["A"].state is State.INIT
        assert attach("default", directory=shared).alive and attach(path=writer.path).alive
        assert attach("default", directory=own).alive
        with feed(shared, "group", mode=0o640):
            assert mode_of(own) == 0o750
    with feed(shared, "private"):
        assert mode_of(own) == 0o750, "the segments decide, the directory was opened for one"
    with pytest.raises(FeedError, match="there is none in"):
        attach("default", directory=shared)


def test_a_private_directory_is_used_as_it_is(tmp_path):
    with feed(tmp_path) as writer:
        assert Path(writer.path) == tmp_path / "kfix-md.default"


def test_a_segment_that_others_can_write_is_neither_made_nor_believed(tmp_path):
    with pytest.raises(UsageError, match="other users could write"):
        feed(tmp_path, mode=0o660)
    with pytest.raises(ValueError, match="others could write"):
        _mode("0666")
    with feed(tmp_path) as writer:
        os.chmod(writer.path, 0o602)
        with pytest.raises(FeedError, match="not trusted: other users can write to it"):
            attach("default", directory=tmp_path)


def test_a_symbolic_link_is_no_segment(tmp_path):
    with feed(tmp_path, "real") as writer:
        (tmp_path / "kfix-md.link").symlink_to(writer.path)
        with pytest.raises(FeedError, match="cannot read"):
            attach("link", directory=tmp_path)


def test_a_link_in_place_of_the_file_being_made_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda n: "0" * 2 * n)
    target = tmp_path / "target"
    target.write_text("of somebody else")
    (tmp_path / f".kfix-md.default.{os.getpid()}.00000000").symlink_to(target)
    with pytest.raises(UsageError, match="File exists"):
        feed(tmp_path)
    assert target.read_text() == "of somebody else"


def test_the_own_directory_does_not_stay_open_for_others(shared):
    own = shared / f"kfix-md-{os.geteuid()}"
    own.mkdir()
    own.chmod(0o777)
    with feed(shared):
        assert mode_of(own) == 0o755


@needs_root
@pytest.mark.parametrize(
    ("mode", "why"), [(0o755, "its directory belongs to"), (0o1777, "in a directory where others can make files")]
)
def test_a_directory_of_another_user_is_trusted_for_their_own_segments_if_no_other_can_write_there(shared, mode, why):
    where, of = shared / "theirs", 0 if mode == 0o755 else NOBODY
    where.mkdir()
    leave_feed(where)
    os.chown(where, NOBODY, NOBODY)
    where.chmod(mode)
    os.chown(where / "kfix-md.default", of, of)
    with pytest.raises(FeedError, match=f"not trusted: .*{why}"):
        attach(path=where / "kfix-md.default", reconnect=True)


@needs_root
def test_a_link_to_a_directory_of_our_own_is_not_followed(shared, tmp_path):
    target = tmp_path / "ours"
    target.mkdir(mode=0o750)
    assert as_user(NOBODY, lambda: (shared / "kfix-md-0").symlink_to(target)) == "None"
    with pytest.raises(UsageError, match="is in the way"):
        feed(shared)
    assert list(target.iterdir()) == []


@needs_root
def test_prices_of_another_user_are_not_believed_by_name(shared):
    assert as_user(NOBODY, lambda: leave_feed(shared)) == "None"
    his = shared / f"kfix-md-{NOBODY}"
    with pytest.raises(FeedError, match=f"no feed named 'default'.*if you trust its user.*{his}"):
        attach("default", directory=shared)
    assert attach("default", directory=his, reconnect=True).symbols == ["A"], "his directory was named"
    os.rename(his / "kfix-md.default", shared / "kfix-md.default")
    with pytest.raises(FeedError, match=r"not trusted: it belongs to .*65534.*others can make files"):
        attach(path=shared / "kfix-md.default")


@needs_root
@pytest.mark.parametrize("squat", ["directory", "link", "file"])
def test_a_squatter_is_named_to_the_feed_and_not_believed(shared, squat):
    own = shared / "kfix-md-0"
    elsewhere = shared / "elsewhere"

    def take() -> None:
        if squat == "file":
            own.write_text("")
            return
        elsewhere.mkdir()
        leave_feed(elsewhere)
        elsewhere.rename(own) if squat == "directory" else own.symlink_to(elsewhere)

    assert as_user(NOBODY, take) == "None"
    with pytest.raises(UsageError, match=r"kfix-md-0 is in the way: it belongs to .*65534.*feed.directory"):
        feed(shared)
    with pytest.raises(FeedError, match=r"not trusted: its directory belongs to|no feed named|cannot read"):
        attach("default", directory=shared)


@needs_root
def test_a_group_reads_the_feed_of_a_service_user(shared):
    """As documented for several users: a directory of the service user, 0750, its group reads."""
    where = shared / "run"
    where.mkdir()
    os.chown(where, USERS, USERS)
    where.chmod(0o750)
    assert as_user(USERS, lambda: leave_feed(where, mode=0o640), gid=USERS) == "None"

    def read() -> list[str]:
        return attach("default", directory=where, reconnect=True).symbols

    assert as_user(NOBODY, read, gid=USERS) == "['A']"
    assert as_user(NOBODY, read, gid=NOBODY).startswith("FeedError: no permission to read")
    assert read() == ["A"]
