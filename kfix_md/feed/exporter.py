"""Exports the metrics of a feed from a process of its own: no scrape runs Python in the process of the loop.

Another thread that runs Python holds the loop up: for the interpreter lock, and for as long as that thread has no CPU.
The exporter (`python -m kfix_md.feed.exporter`, started by the feed) has the socket of /metrics. For each scrape and
probe it asks the feed, whose loop answers with its counters as they are. A loop that does not run does not answer: then
the last counters are served, with the age that the heartbeat has by now, and `/healthz` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import fcntl
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Sequence

from kfix_md.child import end_with_parent, ending, python
from kfix_md.disk import Store
from kfix_md.errors import UsageError, reason_of
from kfix_md.feed.metrics import READ_BUCKETS, STALL_BUCKETS, FeedCounters, Histogram, serve
from kfix_md.metrics_server import listen

ANSWER_S = 1.0  # for which a scrape waits for the loop,
STUCK_S = 0.1  # and for one that has shown no sign of life for so long: scrapes have a time limit
END_S = 0.2  # for the exporter to be gone once it is killed: a call to a dead disk may hold it
STOPPED_S = 30.0  # after which one that reads nothing of what it is sent is replaced
COMMAND = python("-m", "kfix_md.feed.exporter")
_BEAT, _ASK = b"b", b"a"
_LONGEST = 1 << 20  # bytes of a message
#: of a message that is not sent: the exporter was stopped or has not begun yet, or memory is short
_PASSING = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}


class Exporter:
    """The feed's side: starts the process, and answers it from the loop. UsageError when it cannot listen.

    Parameters
    ----------
    read
        Returns the counters as they are now.
    cpus : set of int
        On which the process may run.
    name
        The feed's, for the list of processes.

    Attributes
    ----------
    gone : bool
        The process has closed its end of the socket.
    stalls, reads : Histogram
        How late the loop's heartbeats ran; from the return of a read to its last book published, by session; in s.
    """

    def __init__(
        self,
        host: str,
        port: int,
        read: Callable[[], FeedCounters],
        stores: Sequence[Store],
        cpus: set[int],
        name: str,
    ) -> None:
        self._read, self.gone = read, False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unread, self._stopped_s = 0, 0.0  # bytes that it has not read; since when it reads nothing, or 0
        self._replaced = False
        self.stalls = Histogram("kfix_loop_stall_seconds", "how late the loop's heartbeats ran", STALL_BUCKETS)
        self.stalls.row()
        self.reads = Histogram(
            "kfix_read_to_publish_seconds",
            "from the return of a read to its last book published, sampled",
            READ_BUCKETS,
            ("service", "sender"),
        )
        listener = listen(host, port)
        self.port = listener.getsockname()[1]
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with listener, theirs:
            fds = listener.fileno(), theirs.fileno()
            command = [*COMMAND, *map(str, fds), name]
            try:
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=fds)
            except OSError as error:  # EAGAIN is a limit here, which passes as a lack of memory does
                self._socket.close()
                fault = f"metrics.port = {port}: no process to serve it: {reason_of(error, lower=True)}"
                raise UsageError(fault) from OSError(errno.ENOMEM, str(error))
        self._send(pickle.dumps((os.getpid(), list(stores), cpus)))
        self._answer()

    def answer_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from this loop, from now on."""
        self._loop = loop
        loop.add_reader(self._socket, self._asked)

    def beat(self) -> None:
        """Report that the loop runs: its age is known also when it answers no more."""
        self._send(_BEAT)

    def ended(self) -> str:
        """How the process ended; empty while it runs. One that is stopped is ended, when this is called each second."""
        if self.gone or self._stopped():
            self._process.kill()
        status = self._process.poll()
        if status is None:
            return ""
        return f"read nothing for {STOPPED_S:.0f} s" if self._replaced else ending(status)

    def close(self) -> None:
        """End the process, which has nothing to lose and may be stopped: the feed's end and its loop cannot wait."""
        self._lost()
        self._socket.close()
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)

    def _stopped(self) -> bool:
        """Whether it has read nothing for STOPPED_S of what it was sent."""
        before, now_s = self._unread, time.monotonic()
        (self._unread,) = struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))
        if not self._unread or self._unread < before:
            self._stopped_s = 0.0
            return False
        self._stopped_s = self._stopped_s or now_s
        self._replaced = now_s - self._stopped_s >= STOPPED_S
        return self._replaced

    def _asked(self) -> None:
        asked = False
        try:
            while self._socket.recv(len(_ASK)):  # one answer for all that were asked while the loop stood still
                asked = True
            self._lost()
        except BlockingIOError:
            if asked:
                self._answer()
        except OSError:
            self._lost()

    def _answer(self) -> None:
        reading = self._read()
        reading.histograms = [self.stalls, self.reads]
        self._send(pickle.dumps(reading))

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in _PASSING:
                self._lost()

    def _lost(self) -> None:
        self.gone = True
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop = None


class Readings:
    """The exporter's side: the counters of the feed at the other end of `feed`, a socket.

    The process ends when the feed's does, also when that is killed.
    """

    def __init__(self, feed: socket.socket) -> None:
        self._feed, self._changed = feed, threading.Condition()
        self._count, self._beat_s = 0, time.monotonic()
        self.last = FeedCounters()
        threading.Thread(target=self._receive, name="kfix-readings", daemon=True).start()

    def read(self) -> FeedCounters:
        """The counters now; where the loop does not answer, its last ones and the age of its heartbeat."""
        with self._changed:
            before = self._count
            with contextlib.suppress(OSError):
                self._feed.send(_ASK, socket.MSG_DONTWAIT)  # a loop that stands still takes a few hundred
            if self._changed.wait_for(lambda: self._count > before, self.patience_s):
                return self.last
            return dataclasses.replace(self.last, beat_age_s=self._age_s)

    @property
    def patience_s(self) -> float:
        """How long to wait for an answer."""
        return ANSWER_S if self._age_s < ANSWER_S else STUCK_S

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._beat_s

    def _receive(self) -> None:
        try:
            while data := _message(self._feed):
                self._received(None if data == _BEAT else pickle.loads(data))
        finally:  # also after an error, such as a lack of memory: without this thread it would outlive the feed
            os._exit(0)

    def _received(self, reading: FeedCounters | None) -> None:
        with self._changed:
            self._beat_s = time.monotonic()
            if reading is not None:
                self._beat_s -= reading.beat_age_s
                self.last, self._count = reading, self._count + 1
                self._changed.notify_all()


def _message(feed: socket.socket) -> bytes:
    """The next message; empty when there will be none."""
    try:
        return feed.recv(_LONGEST)
    except OSError:
        return b""


def main(listener: int, feed: int) -> None:
    """Serve on a socket what the feed at the other one counts, until that ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):  # of the whole group: the feed's
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)  # also while this process is stopped: it has the port
    answers = socket.socket(fileno=feed)
    setup = _message(answers)
    if not setup:
        return
    pid, stores, cpus = pickle.loads(setup)
    with contextlib.suppress(OSError):  # the loop's thread may have been pinned when it started this
        os.sched_setaffinity(0, cpus)
    readings = Readings(answers)
    serve(socket.socket(fileno=listener), readings.read, stores, pid, lambda: readings.last.lines_lost)
    threading.Event().wait()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
