"""Finds, locks, seals and compresses the segment files of a journal directory."""

import contextlib
import datetime
import fcntl
import os
import re
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from kfix_md import trading_day
from kfix_md.errors import CaptureError, Unreadable, UsageError, reason_of
from kfix_md.journal import layout
from kfix_md.journal.layout import HEADER_BYTES

T = TypeVar("T")
_NAME = re.compile(r"(spare|\d{4}-\d\d-\d\d)\.(\d{10})\.kfj(\.zst)?$")
_EPOCH_2020 = 1_577_836_800
_LIST_AGAIN = 3
_HEAD_BYTES = 4096  # read of a segment to see whether anything was written into it
_SKIPPED = 1 << 20  # decompressed at once on the way to an offset
_RECORD_BYTES = 32
_LARGEST = 1 << 32  # positions have 32 bits for the offset


def first_number(now_s: float) -> int:
    """Number of the first segment of an empty directory: positions keep growing even when one starts from scratch."""
    return max(1, int(now_s) - _EPOCH_2020)


def close_to_others() -> None:
    """Let no other user read the files and directories that this process and its children make (umask 027).

    Journal and captures have the CompID, which is all that market data sessions are known by.
    """
    os.umask(os.umask(0o077) | 0o027)


def lock(directory: str | os.PathLike[str]) -> TextIO:
    """Make the directory if needed and take its writer's lock, which lasts as long as the returned file."""
    path = Path(directory)
    try:
        make_directory(path)
        return take_lock(path / "lock", f"journal {path} is in use by process {{pid}}: one writer a directory")
    except OSError as error:
        raise UsageError(f"journal {path} cannot be written: {reason_of(error)}") from error


def take_lock(path: Path, in_use: str, *, wait: bool = False) -> TextIO:
    """Lock a file, made if needed, and write our process id into it; the lock lasts as long as the returned file.

    Raises
    ------
    CaptureError
        With the text `in_use`, its {pid} filled in, when another process has the lock (unless `wait`).
    OSError
        The disk.
    """
    file = open(path, "a+", encoding="ascii")  # noqa: SIM115 - the caller keeps it open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BlockingIOError:
        file.seek(0)
        pid = file.read().strip() or "unknown"
        file.close()
        raise CaptureError(in_use.format(pid=pid)) from None
    except OSError:
        with contextlib.suppress(OSError):  # closing writes what could not be written once more
            file.close()
        raise
    return file


def writer_alive(directory: str | os.PathLike[str]) -> bool:
    """Whether a writer has the directory locked now."""
    try:
        with open(Path(directory) / "lock", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def segments(directory: str | os.PathLike[str]) -> dict[int, Path]:
    """SegmentFile files by number, spares included; of a plain and a compressed one the plain."""
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(directory)):
        match = _NAME.match(name)
        if match:
            number = int(match[2])
            if number not in found or not match[3]:
                found[number] = Path(directory) / name
    return found


def find(directory: str | os.PathLike[str], number: int) -> Path | None:
    """The file of segment `number`; of 0, the first there is. A rename may hide a file from one listing."""
    for attempt in range(_LIST_AGAIN):
        present = segments(directory)
        wanted = number or min(present, default=0)
        if wanted in present:
            return present[wanted]
        if attempt and not any(n > number for n in present):
            break
    return None


def following(directory: str | os.PathLike[str], number: int) -> int:
    """Number of the next segment; when that one is missing, of the first one after the hole; else 0."""
    if find(directory, number + 1):
        return number + 1
    return min((n for n in segments(directory) if n > number), default=0)


@dataclass(slots=True)
class Info:
    """Header of a segment. `date` is in days since 1970, 0 for a spare; `sealed_end` 0: open. Where the header is
    damaged (`fault` has the words), the name and the records have what it lost."""

    path: Path
    number: int
    size: int
    date: int
    reason: str
    sealed_end: int
    created_ns: int
    pid: int
    fault: str

    @property
    def compressed(self) -> bool:
        return self.path.suffix == ".zst"


def _parse(path: Path, head: bytes) -> Info:
    """Header of the file at `path`, which begins with the bytes `head` (_HEAD_BYTES unless it is shorter)."""
    match = _NAME.match(path.name)
    if match is None:
        raise CaptureError(f"{path} does not have the name of a journal segment")
    number, named = int(match[2]), match[1]
    written = any(head[HEADER_BYTES:])
    if named == "spare" and not written and not any(head[:8]):
        return Info(path, number, 0, 0, "open", 0, 0, 0, "")  # its maker has not come further
    size, date, reason, end, created, pid, fault = layout.parse_header(
        head[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0"), number
    )
    if len(head) < HEADER_BYTES:
        fault = "is cut off inside its header"
    if not date and named != "spare":
        date = (datetime.date.fromisoformat(named) - datetime.date(1970, 1, 1)).days
    elif not date and written:
        date, fault = _date_of_records(head), fault or "has lost its session date"
    return Info(path, number, size, date, layout.REASONS.get(reason, str(reason)), end, created, pid, fault)


def _date_of_records(head: bytes) -> int:
    """Session date of the first record in days since 1970; 1 when that cannot be."""
    recv_ns: int
    (recv_ns,) = struct.unpack_from("<q", head.ljust(HEADER_BYTES + 32, b"\0"), HEADER_BYTES + 16)
    return max(1, (recv_ns + trading_day.SHIFT_NS) // trading_day.DAY_NS)


def _head(path: Path) -> bytes:
    if path.suffix == ".zst":
        with contextlib.suppress(CaptureError):
            return _Compressed(path).read(0, _HEAD_BYTES)
        return b""
    with open(path, "rb") as file:
        return file.read(_HEAD_BYTES)


def info(path: Path) -> Info:
    """Header of one segment file, plain or compressed."""
    return _parse(path, _head(path))


def header(path: Path) -> bytes:
    """The header of one segment file as it is stored, plain or compressed; zeros where it is cut off."""
    return _head(path)[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")


def heads(directory: str | os.PathLike[str]) -> dict[int, Info]:
    """Headers of all segments by number, in order."""
    looked = ((number, look(directory, number, info, path)) for number, path in sorted(segments(directory).items()))
    return {number: head for number, head in looked if head is not None}


def look(
    directory: str | os.PathLike[str], number: int, at: Callable[[Path], T], listed: Path | None = None
) -> T | None:
    """What `at` returns of the file of a segment; None when there is none.

    A file that is renamed, compressed or deleted between listing and reading is looked for again.
    """
    path = listed or find(directory, number)
    while path is not None:
        try:
            return at(path)
        except FileNotFoundError:
            path = find(directory, number)
    return None


class _Compressed:
    """Reads a compressed segment from its start on; going back begins again."""

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115 - closed with the object
        weakref.finalize(self, self._file.close)
        self._begin()

    def _begin(self) -> None:
        import zstandard

        self._file.seek(0)
        self._stream = zstandard.ZstdDecompressor().stream_reader(self._file, read_across_frames=True)
        self._at = 0

    def read(self, offset: int, n: int) -> bytes:
        """At most `n` bytes from `offset` on; CaptureError when they cannot be decompressed, or Unreadable."""
        import zstandard

        if offset < self._at:
            self._begin()
        try:
            while self._at < offset:
                skipped = len(self._stream.read(min(offset - self._at, _SKIPPED)))
                if not skipped:
                    return b""
                self._at += skipped
            data = self._stream.read(n)
        except zstandard.ZstdError as error:
            raise CaptureError(f"it cannot be decompressed from offset {self._at} on ({error})") from None
        except OSError as error:
            self._at = _LARGEST  # the next one begins again
            raise Unreadable(f"it cannot be read: {reason_of(error)}", error.errno) from None
        self._at += len(data)
        return data

    def replaced(self) -> bool:
        return False


class _Plain:
    """Reads a segment by copying: a mapped file that is truncated or whose disk fails would kill the process."""

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the object
        weakref.finalize(self, self._file.close)

    def read(self, offset: int, n: int) -> bytes:
        """At most `n` bytes from `offset` on; Unreadable when the disk does not give them."""
        try:
            return os.pread(self._file.fileno(), n, offset)
        except OSError as error:
            raise Unreadable(f"it cannot be read at offset {offset}: {reason_of(error)}", error.errno) from None

    def replaced(self) -> bool:
        """Whether another file has the name now."""
        try:
            there, ours = os.stat(self.path), os.fstat(self._file.fileno())
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)


class SegmentFile:
    """One segment that is read: plain or compressed.

    Attributes
    ----------
    limit : int
        No byte of it lies beyond: the size of the file, of a compressed one the end of its records.
    fault : str
        What is wrong with the header, "" for nothing.
    unread : bool
        The header could not be read: `fault` is the reason.
    """

    def __init__(self, path: Path):
        self.path = path
        self._source = _Compressed(path) if path.suffix == ".zst" else _Plain(path)
        self.unread = False
        try:
            head = self._header()
        except Unreadable as error:
            head, self.unread = _parse(path, b""), True
            head.fault = str(error)
        self.number, self.date, self.sealed_end, self.fault = head.number, head.date, head.sealed_end, head.fault
        self.compressed = head.compressed
        self.limit = (self.sealed_end or _LARGEST) if self.compressed else path.stat().st_size

    def _header(self) -> Info:
        try:
            head = self._source.read(0, _HEAD_BYTES)
        except Unreadable:
            raise
        except CaptureError:
            head = b""
        return _parse(self.path, head)

    def end_now(self) -> int:
        """Where the records end, 0 while that is open; Unreadable when the disk does not say."""
        self.sealed_end = self.sealed_end or self._header().sealed_end
        return self.sealed_end

    def read(self, offset: int, n: int) -> bytes:
        """At most `n` bytes from `offset` on; fewer at the end. CaptureError when they cannot be had, or Unreadable."""
        return self._source.read(offset, n)

    def replaced(self) -> bool:
        """Whether its name belongs to another file now: what could not be synced is written again in one."""
        return self._source.replaced()


def open_segment(directory: str | os.PathLike[str], number: int) -> SegmentFile | None:
    """SegmentFile `number` (0: the first there is), None when there is none."""
    return look(directory, number, SegmentFile)


def begun_after(directory: str | os.PathLike[str], number: int) -> bool:
    """Whether a segment after `number` has begun."""
    later = (look(directory, n, info) for n in sorted(segments(directory)) if n > number)
    return any(head is not None and head.date for head in later)


def after(directory: str | os.PathLike[str], number: int, offset: int) -> tuple[int, int]:
    """How many segments have begun after one, and bytes of records from an offset of that one on; an open segment
    counts with all that is allocated."""
    ends = {n: head.sealed_end for n, head in heads(directory).items() if n >= number and head.date}
    bytes_left = sum(max(0, end - (offset if n == number else HEADER_BYTES)) for n, end in ends.items())
    return sum(n > number for n in ends), bytes_left


def seal(head: Info, end: int) -> None:
    """Mark a segment a dead writer left open as ending at `end`."""
    with open(head.path, "r+b") as file:
        os.fsync(file.fileno())
        for offset, piece in layout.recovered_seal(head.number, end):
            file.seek(offset)
            file.write(piece)
            file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Put a file's (or directory's) content on disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, each of which is on disk then."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
    sync(path.parent)


def never_begun(head: Info) -> bool:
    """Whether a segment is a spare that a dead writer left; a dated one that is cut off is damage, to be reported."""
    return head.path.name.startswith("spare")


def begin(head: Info, date: int) -> Info:
    """Give a segment that was never begun a header, a session date (its own or `date`), and its name."""
    date = head.date or date
    named = (datetime.date(1970, 1, 1) + datetime.timedelta(days=date)).isoformat()
    size = head.path.stat().st_size
    with open(head.path, "r+b") as file:
        if not head.date or size < HEADER_BYTES:
            file.write(layout.new_header(head.number, size, date))
            file.flush()
        os.fsync(file.fileno())
    path = head.path.with_name(f"{named}.{head.number:010d}.kfj")
    head.path.rename(path)
    sync(path.parent)
    return info(path)


def settle_rescues(directory: str | os.PathLike[str], crc32c: Callable[[bytes], int]) -> None:
    """What a dead writer left of writing a segment again: a whole copy takes the segment's name, a part is removed."""
    present = segments(directory)
    for path in sorted(Path(directory).glob("rescue.*.kfj")):
        number = int(path.name.split(".")[1])
        if number in present and _is_whole(path.read_bytes(), number, crc32c):
            path.rename(present[number])
        else:
            path.unlink()
        sync(Path(directory))


def _is_whole(data: bytes, number: int, crc32c: Callable[[bytes], int]) -> bool:
    """Whether a segment is sealed and every record of it is sound."""
    if len(data) < HEADER_BYTES:
        return False
    *_, end, _, _, fault = layout.parse_header(data[:HEADER_BYTES], number)
    at = HEADER_BYTES
    while not fault and at < end:
        length, crc = struct.unpack_from("<II", data.ljust(at + 8, b"\0"), at)
        if length < _RECORD_BYTES or at + length > len(data) or crc32c(data[at + 8 : at + length]) != crc:
            return False
        at += length + -length % 8
    return not fault and 0 < end == at


def compress(path: Path, level: int = 1, block: int = 256 << 10) -> Path:
    """Replace a sealed segment by its zstd form (frames of `block` bytes each), after reading that back."""
    import zstandard

    head = info(path)
    if not head.sealed_end or head.compressed:
        raise UsageError(f"{path} is {'compressed already' if head.compressed else 'not sealed'}")
    with open(path, "rb") as file:
        data = file.read(head.sealed_end)
    if len(data) != head.sealed_end:
        raise CaptureError(f"{path} is cut off: {len(data)} bytes of {head.sealed_end}")
    packer = zstandard.ZstdCompressor(level=level, write_checksum=True)
    target, part = path.with_name(path.name + ".zst"), path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        for i in range(0, len(data), block):
            file.write(packer.compress(data[i : i + block]))
        file.flush()
        os.fsync(file.fileno())
    part.rename(target)
    sync(target.parent)
    if _Compressed(target).read(0, len(data) + 1) != data:
        target.unlink()
        raise CaptureError(f"{target} did not read back as written; {path} is kept")
    path.unlink()
    return target
