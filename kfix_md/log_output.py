"""Writes the log to a descriptor without waiting for it: a bounded queue, a thread, and a limit for repetitions."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque

from kfix_md.log_events import event_of, values_of
from kfix_md.symbol_text import one_line

QUEUE_LINES = 10_000
#: lines of one kind (text before its values, service and level) that are written in a window; the rest is counted
KIND_LINES = 200
WINDOW_S = 10.0
#: how long the end of the process waits for a reader of the log
CLOSE_S = 1.0
_KINDS = 1000
_MARK = {logging.WARNING: "! ", logging.ERROR: "!! ", logging.CRITICAL: "!! "}


class Human(logging.Formatter):
    """Lines for people: date and time in UTC, service, mark, text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback where there is one."""
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        service = getattr(record, "service", "")
        mark = _MARK.get(record.levelno, "")
        text = f"{clock}.{int(record.msecs):03d} {service:<15}{mark}{one_line(record.getMessage())}"
        return "\n".join([text, *self._traceback(record)])

    def _traceback(self, record: logging.LogRecord) -> list[str]:
        """Lines of the traceback; the text of an exception may be the venue's."""
        return [*map(one_line, self.formatException(record.exc_info).split("\n"))] if record.exc_info else []


class Json(logging.Formatter):
    """A JSON object a line, with the same fields from every process; see docs/log.md."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        values = values_of(record)
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.created % 1 * 1e6):06d}Z",
            "level": record.levelname.lower(),
            "process": record.name.removeprefix("kfix.").removeprefix("kfix_md."),
            "event": event_of(record),
            "service": getattr(record, "service", None) or values.pop("service", None),
            "symbol": values.pop("symbol", None),
            "cause": values.pop("cause", None),
            "text": record.getMessage(),
            "values": values,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class Repetitions:
    """Counts log lines by kind; `admit` decides whether one more may be written."""

    def __init__(self, lines: int = KIND_LINES, window_s: float = WINDOW_S) -> None:
        self._lines, self._window_s = lines, window_s
        self._lock = threading.Lock()  # not that of the handler: logging.shutdown() has it while it closes one
        self._seen: dict[tuple[object, ...], tuple[float, int, logging.LogRecord]] = {}  # since, lines, the last one

    def admit(self, record: logging.LogRecord, now_s: float) -> bool:
        """Whether to write this record."""
        kind: tuple[object, ...] = (record.name, record.levelno, getattr(record, "service", ""), str(record.msg))
        with self._lock:
            if kind not in self._seen and len(self._seen) >= _KINDS:
                kind = ()  # all others together
            since, count, _ = self._seen.get(kind, (now_s, 0, record))
            self._seen[kind] = (since, count + 1, record)
        return count < self._lines

    def over(self, now_s: float, at_the_end: bool = False) -> list[logging.LogRecord]:
        """Records that summarise what was left out in the windows that are over."""
        with self._lock:
            ended = {k: seen for k, seen in self._seen.items() if at_the_end or now_s - seen[0] >= self._window_s}
            for kind in ended:
                del self._seen[kind]
        found = []
        for since, count, last in ended.values():
            if count > self._lines:
                text = f"{count - self._lines} more like this in {now_s - since:.0f} s: {_message(last)}"
                summary = logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, text, None, None)
                summary.__dict__ |= {"service": getattr(last, "service", ""), "event": event_of(last)}
                found.append(summary)
        return found


def _message(record: logging.LogRecord) -> str:
    """Text of a record, of one whose values do not fit it without them."""
    try:
        return record.getMessage()
    except Exception:
        return repr(record.msg)


class LogOutput(logging.Handler):
    """A logging handler whose `emit` never blocks.

    A thread writes to the descriptor. While that has no reader (a full pipe, a terminal stopped by Ctrl-S), lines
    wait in a bounded queue; what finds no room is counted, and the count is a line of its own as soon as one gets
    through. A descriptor that is closed loses its lines and disturbs nothing.

    Parameters
    ----------
    fd : int
        Descriptor to write to.
    formatter : logging.Formatter
    lines : int
        Lines that may wait.
    """

    def __init__(self, fd: int, formatter: logging.Formatter, lines: int = QUEUE_LINES) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lost = 0  # in all
        self._fd, self._room = fd, lines
        self._unreported = 0
        self._queue: deque[str] = deque()
        self._repetitions = Repetitions()
        self._wake, self._closing = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="kfix-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one record."""
        if self._repetitions.admit(record, time.monotonic()):
            self._put(self._text(record))

    def _text(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception:  # as logging does: an error in a log line is no error of the feed, nor of the thread
            return f"a log line could not be formatted: {record.msg!r}"

    def _put(self, line: str) -> None:
        if len(self._queue) >= self._room:
            self.lost += 1
            self._unreported += 1
            return
        self._queue.append(line)
        self._wake.set()

    def close(self) -> None:
        """Write what waits, for no longer than CLOSE_S."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        super().close()

    # ---- the thread ----

    def _run(self) -> None:
        while not (self._closing and not self._queue):
            self._wake.wait(WINDOW_S / 10)
            self._wake.clear()
            for record in self._repetitions.over(time.monotonic(), self._closing):
                self._put(self._text(record))
            while self._queue:
                self._write(self._queue.popleft())
            if self._unreported:
                lost, self._unreported = self._unreported, 0
                self._write(self.format(_lost(lost)))

    def _write(self, line: str) -> None:
        data = (line + "\n").encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self.lost += 1


def _lost(lines: int) -> logging.LogRecord:
    text = "%d log lines were lost: the reader of this log did not keep up"
    return logging.LogRecord("kfix.log", logging.ERROR, __file__, 0, text, (lines,), None)


def set_up_logging(as_json: bool = False, level: int = logging.INFO) -> LogOutput:
    """Log to stderr, as text or as JSON objects; times in UTC."""
    handler = LogOutput(2, Json() if as_json else Human())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    return handler


def lines_lost() -> int:
    """Log lines of this process that could not be written, so far."""
    return sum(handler.lost for handler in logging.getLogger().handlers if isinstance(handler, LogOutput))
