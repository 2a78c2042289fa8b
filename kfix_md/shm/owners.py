"""Decides whose shared memory is trusted: files and directories that only the user of the feed can have written."""

from __future__ import annotations

import os
import pwd
import re
import stat
from pathlib import Path

from kfix_md.errors import FeedError, UsageError, reason_of

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: a directory of this name belongs to the user with that number
_OWN_NAME = re.compile(r"kfix-md-(\d+)")


def user_name(uid: int) -> str:
    """A user for messages: "kfix (uid 998)"."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def is_shared(directory: str | os.PathLike[str]) -> bool:
    """Whether other users than its owner can make files in a directory, as in /dev/shm; OSError when there is none."""
    return bool(os.stat(directory).st_mode & _OTHERS_WRITE)


def own_directory(directory: str | os.PathLike[str], uid: int | None = None) -> Path:
    """Where segments of a user (default: of this process) are: `directory`, in a shared one its kfix-md-UID."""
    folder = Path(directory)
    return folder / f"kfix-md-{os.geteuid() if uid is None else uid}" if is_shared(folder) else folder


def make_own_directory(directory: str | os.PathLike[str], mode: int = 0o600, group: int | None = None) -> Path:
    """The own directory, made if needed, and open to those whom `mode` of a segment lets read.

    Raises
    ------
    UsageError
        Something of another user is in its place, or `directory` cannot be used.
    """
    try:
        folder = own_directory(directory)
        if folder == Path(directory):
            return folder
        if not folder.exists():
            folder.mkdir(0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _in_the_way(folder, os.lstat(folder).st_uid, "no directory") from None
    except PermissionError:
        if os.path.lexists(folder) and (owner := os.lstat(folder).st_uid) != os.geteuid():
            raise _in_the_way(folder, owner) from None
        raise UsageError(f"shared memory directory {directory}: permission denied") from None
    except OSError as error:
        raise UsageError(f"shared memory directory {directory}: {reason_of(error)}") from error
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid():
            raise _in_the_way(folder, status.st_uid)
        if group is not None and status.st_gid != group:
            os.fchown(fd, -1, group)
        now = stat.S_IMODE(status.st_mode)
        wanted = (now | _search_bits(mode)) & ~_OTHERS_WRITE
        if now != wanted:
            os.fchmod(fd, wanted)
    finally:
        os.close(fd)
    return folder


def _search_bits(mode: int) -> int:
    """Mode of a directory that everybody can enter who may read a file of `mode`."""
    return 0o700 | (0o050 if mode & 0o040 else 0) | (0o005 if mode & 0o004 else 0)


def _in_the_way(folder: Path, uid: int, what: str = "") -> UsageError:
    what = f" and is {what}" if what else ""
    return UsageError(
        f"{folder} is in the way: it belongs to {user_name(uid)}{what}; have it removed, "
        "or give feed.directory a directory that only you can write to"
    )


def reader_directories(directory: str | os.PathLike[str]) -> list[Path]:
    """Where a reader looks for feeds by name: in a shared directory those of its own user and of root."""
    try:
        return list(dict.fromkeys(own_directory(directory, uid) for uid in (os.geteuid(), 0)))
    except OSError as error:
        raise FeedError(f"shared memory directory {os.fspath(directory)}: {reason_of(error)}") from error


def directories_of_others(directory: Path) -> list[Path]:
    """Directories of other users in the same shared one as the own directory `directory`."""
    if not _OWN_NAME.fullmatch(directory.name):
        return []
    try:
        siblings = sorted(directory.parent.iterdir())
    except OSError:
        return []
    return [folder for folder in siblings if _OWN_NAME.fullmatch(folder.name) and folder != directory]


def open_trusted(path: str) -> int:
    """Open a segment for reading, if only root, this user, or the owner of its directory can have written it.

    Raises
    ------
    FeedError
        Somebody else may have written it; the message says who.
    OSError
        It cannot be opened. A symbolic link is none.
    """
    folder, name = os.path.split(path)
    named = _OWN_NAME.fullmatch(os.path.basename(folder))
    follow = os.O_NOFOLLOW if named else 0
    directory = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | follow)
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
        try:
            fault = _distrust(os.fstat(directory), os.fstat(fd), int(named[1]) if named else None)
            if fault:
                raise FeedError(f"{path} is not trusted: {fault}")
        except BaseException:
            os.close(fd)
            raise
        return fd
    finally:
        os.close(directory)


def _distrust(directory: os.stat_result, file: os.stat_result, named: int | None) -> str:
    """Why a segment may be somebody else's, "" when it cannot be."""
    if named is not None and directory.st_uid != named:
        return f"its directory belongs to {user_name(directory.st_uid)}, by its name to {user_name(named)}"
    if file.st_mode & _OTHERS_WRITE:
        return f"other users can write to it (mode {stat.S_IMODE(file.st_mode):04o})"
    trusted = {os.geteuid(), 0}
    if not directory.st_mode & _OTHERS_WRITE:
        trusted.add(directory.st_uid)
    if file.st_uid not in trusted:
        return f"it belongs to {user_name(file.st_uid)}, in a directory where others can make files"
    if directory.st_uid not in {os.geteuid(), 0, file.st_uid}:
        return f"its directory belongs to {user_name(directory.st_uid)}, and it to {user_name(file.st_uid)}"
    return ""
