"""Keeps both MsgSeqNum counters of a session on disk, so that a restart with 141=N can continue them."""

import fcntl
import os
import re
import struct
import zlib
from pathlib import Path

from kfix_md.errors import UsageError, reason_of
from kfix_md.session.types import SequenceNumbers

_RECORD = struct.Struct("<4sIqqqq")  # magic, crc32 of the rest, version, expected, outgoing, saved_ns
_MAGIC = b"KSEQ"


class SequenceStore:
    """A file of two alternating records, each with its CRC32: a write cut short leaves the one before it.

    The file is locked while open, which also keeps two connectors off one CompID pair. Records are written
    without fsync: they survive the process, and a lost machine costs one logon with 141=Y.
    """

    def __init__(self, directory: str | os.PathLike[str], sender: str, target: str, port: int = 0) -> None:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{sender}-{target}-{port}") + ".seq"
        self.path = Path(directory) / name
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot keep sequence numbers in {self.path}: {reason_of(error)}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise UsageError(
                f"{sender} to {target} is in use by another process ({self.path}): stop it first, "
                "Kraken allows one connection per CompID"
            ) from error
        try:
            self._version, self._saved = self._read()
        except OSError as error:
            os.close(self._fd)  # and with it the lock: the next attempt is to find the file free
            raise UsageError(f"cannot read the sequence numbers in {self.path}: {reason_of(error)}") from error

    def load(self) -> SequenceNumbers | None:
        """The counters saved last; None when there are none or both records are damaged."""
        return self._saved

    def save(self, expected: int, outgoing: int, now_ns: int) -> None:
        """Write both counters; a few microseconds, nothing when neither changed."""
        if self._saved is not None and self._saved[:2] == (expected, outgoing):
            return
        self._version += 1
        self._saved = SequenceNumbers(expected, outgoing, now_ns)
        rest = struct.pack("<qqqq", self._version, *self._saved)
        record = _RECORD.pack(_MAGIC, zlib.crc32(rest), self._version, *self._saved)
        os.pwrite(self._fd, record, _RECORD.size * (self._version % 2))

    def close(self) -> None:
        """Close the file, which releases its lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> tuple[int, SequenceNumbers | None]:
        best: tuple[int, SequenceNumbers | None] = (0, None)
        for slot in (0, 1):
            record = os.pread(self._fd, _RECORD.size, _RECORD.size * slot)
            if len(record) != _RECORD.size:
                continue
            magic, crc, version, *counters = _RECORD.unpack(record)
            if magic == _MAGIC and crc == zlib.crc32(record[8:]) and version > best[0]:
                best = (version, SequenceNumbers(*counters))
        return best
