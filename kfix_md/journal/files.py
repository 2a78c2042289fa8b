"""Finds, locks, seals and compresses the segment files of a journal directory."""

import contextlib
import fcntl
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from kfix_md.errors import CaptureError, UsageError
from kfix_md.journal import layout
from kfix_md.journal.layout import HEADER_BYTES, TAIL_BYTES

_NAME = re.compile(r"(spare|\d{4}-\d\d-\d\d)\.(\d{10})\.kfj(\.zst)?$")
_EPOCH_2020 = 1_577_836_800
_LIST_AGAIN = 3


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
        path.mkdir(parents=True, exist_ok=True)
        return take_lock(path / "lock", f"journal {path} is in use by process {{pid}}: one writer a directory")
    except OSError as error:
        raise UsageError(f"journal {path} cannot be written: {error.strerror}") from None


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
    """Segment files by number, spares included; of a plain and a compressed one the plain."""
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
    """Header of a segment. `date` is in days since 1970, 0 for a spare, -1 when the header is damaged;
    `sealed_end` 0: open."""

    path: Path
    number: int
    size: int
    date: int
    reason: str
    sealed_end: int
    created_ns: int
    pid: int

    @property
    def compressed(self) -> bool:
        return self.path.suffix == ".zst"


def _parse(path: Path, head: bytes) -> Info:
    if len(head) < HEADER_BYTES and path.name.startswith("spare."):
        head = bytes(HEADER_BYTES)  # its maker was killed at once
    if len(head) < HEADER_BYTES:
        raise CaptureError(f"journal segment {path} is cut off inside its header")
    magic, version, number, size, date, reason, end, created, pid = layout.parse_header(head)
    if magic == bytes(8) and path.name.startswith("spare."):
        date = number = 0  # being made
    elif (magic, version) != (layout.MAGIC, layout.VERSION):
        raise CaptureError(f"{path} is not a journal segment of layout {layout.VERSION}")
    return Info(path, number, size, date, layout.REASONS.get(reason, str(reason)), end, created, pid)


def info(path: Path) -> Info:
    """Header of one segment file, plain or compressed."""
    if path.suffix == ".zst":
        import zstandard

        with open(path, "rb") as file:
            head = zstandard.ZstdDecompressor().stream_reader(file).read(HEADER_BYTES)
    else:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
    return _parse(path, head)


def heads(directory: str | os.PathLike[str]) -> dict[int, Info]:
    """Headers of all segments by number, in order. A file that is renamed, compressed or deleted between listing and
    reading is looked for again."""
    found = {}
    for number, listed in sorted(segments(directory).items()):
        path: Path | None = listed
        while path is not None:
            try:
                found[number] = info(path)
                break
            except FileNotFoundError:
                path = find(directory, number)
            except CaptureError:
                found[number] = Info(path, number, 0, -1, "damaged header", 0, 0, 0)
                break
    return found


class SegmentFile:
    """One segment in memory: mapped read-only, or decompressed."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as file:
            if path.suffix == ".zst":
                import zstandard

                reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
                self.buffer = memoryview(reader.read() + bytes(TAIL_BYTES))
            elif os.fstat(file.fileno()).st_size < HEADER_BYTES:
                self.buffer = memoryview(file.read())
            else:
                self.buffer = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        head = _parse(path, bytes(self.buffer[:HEADER_BYTES]))
        self.number, self.date, self.sealed_end = head.number, head.date, head.sealed_end


def open_segment(directory: str | os.PathLike[str], number: int) -> SegmentFile | None:
    """Segment `number` (0: the first there is), None when there is none; a file renamed meanwhile is found again."""
    for _ in range(_LIST_AGAIN):
        path = find(directory, number)
        if path is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            return SegmentFile(path)
    return None


def bytes_after(directory: str | os.PathLike[str], number: int, offset: int) -> int:
    """Bytes of records from a position on; the open segment counts with all that is allocated."""
    ends = {n: head.sealed_end for n, head in heads(directory).items() if n >= number and head.date}
    return sum(max(0, end - (offset if n == number else HEADER_BYTES)) for n, end in ends.items())


def seal(path: Path, end: int) -> None:
    """Mark a segment a dead writer left open as ending at `end`."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
        offset, seal_bytes = layout.recovered_seal(end)
        file.seek(offset)
        file.write(seal_bytes)
        file.flush()
        os.fsync(file.fileno())


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
    if bytes(SegmentFile(target).buffer[:-TAIL_BYTES]) != data:
        target.unlink()
        raise CaptureError(f"{target} did not read back as written; {path} is kept")
    path.unlink()
    return target
