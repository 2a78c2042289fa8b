"""Attaches to a feed, or to a recorded day, by its name; imports no more than the kind of feed needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

from kfix_md.shm.names import default_directory, segment_path
from kfix_md.shm.owners import reader_directories
from kfix_md.shm.playing import Player

if TYPE_CHECKING:
    from datetime import date as Date

    from kfix_md.shm.attach import Feed
    from kfix_md.shm.playing import Moment
    from kfix_md.shm.replay import ReplayFeed


@overload
def attach(
    name: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    reconnect: bool = False,
    allow_unverified: bool = False,
) -> Feed: ...
@overload
def attach(
    *,
    replay: str | os.PathLike[str],
    date: Date | str | None = None,
    at: Moment | None = None,
    speed: float | None = 1.0,
    allow_unverified: bool = False,
) -> ReplayFeed: ...
def attach(
    name: str | Sequence[str] | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    directory: str | os.PathLike[str] | None = None,
    reconnect: bool = False,
    allow_unverified: bool = False,
    replay: str | os.PathLike[str] | None = None,
    date: Date | str | None = None,
    at: Moment | None = None,
    speed: float | None = 1.0,
) -> Feed:
    """Attach read-only to the books of a running feed.

    Parameters
    ----------
    name : str or sequence of str, optional
        Name of the feed. Several, or one text "a,b", are feeds of the same venue (two hosts, an old and a new version):
        each book is read from the first of them that has a good copy, see kfix_md.shm.failover.FailoverFeed.
        "nats://host:4222/feed" is a feed on another machine, through the mirror of it here, which is started where none
        runs, see kfix_md.shm.mirrored.attach_mirrored.
        Default: $KFIX_FEED, else the only feed in `directory`, or "default" if there are several.
    path : path, optional
        Path of the segment, in place of a name.
    directory : path, optional
        Where feeds put their shared memory. Default: $KFIX_SHM_DIR, else /dev/shm. In one where everybody can make
        files, feeds of this user and of root are found; that of another user in the directory that he owns.
    reconnect : bool
        Move the books to the new segment when the feed is started again. Always so with several names.
    allow_unverified : bool
        Let all books be read while they are UNVERIFIED: followed without a fault, but proven by no known checksum rule.
    replay : path, optional
        Directory of captures: play a recorded session date instead, see kfix_md.shm.replay.ReplayFeed.
    date : date or str, optional
        Session date to replay. Default: that of `at`, else the last one recorded.
    at : int, str or datetime, optional
        Where the replay begins: ns since the epoch, ISO text (UTC where it has no zone) or a datetime. Default: with
        the first message.
    speed : float or None
        Speed of the replay as a multiple of real time; None: as fast as possible.

    Raises
    ------
    FeedError
        No feed of that name (the message lists those there are), no permission, another layout version, or a file
        that another user may have written.
    FeedDead
        The feed's process has ended.
    UsageError
        Nothing is recorded for `date`, or `at` is not on it.
    """
    if replay is not None:
        player = Player(Path(replay), date, speed, at)  # a process, which imports what it needs while this one does
        from kfix_md.shm.replay import ReplayFeed

        return ReplayFeed(player, allow_unverified)
    from kfix_md.shm.attach import feed_at, feeds, is_there

    if isinstance(name, str) and "://" in name:
        from kfix_md.shm.mirrored import attach_mirrored

        return attach_mirrored(name, None if directory is None else Path(directory), allow_unverified)
    if path is None:
        where = default_directory() if directory is None else Path(directory)
        if name is None:
            name = os.environ.get("KFIX_FEED") or None
        if name is None:
            there = feeds(where)
            name = there[0] if len(there) == 1 else "default"
        names = [each.strip() for each in name.split(",")] if isinstance(name, str) else list(name)
        if len(names) > 1:
            from kfix_md.shm.failover import FailoverFeed

            return FailoverFeed(names, where, allow_unverified)
        (name,) = names
        paths = [segment_path(folder, name) for folder in reader_directories(where)]
        path = next(filter(is_there, paths), paths[0])
    return feed_at(Path(path), reconnect, allow_unverified)
