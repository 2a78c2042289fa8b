"""How missing MsgSeqNums are requested, waited for and closed, and how the messages after them are applied."""

from collections import deque
from collections.abc import Callable

from kfix_md.journal.events import Discarded
from kfix_md.session import fix
from kfix_md.session.gap import GapQueue, Hole, missing_ranges
from kfix_md.session.link import Link
from kfix_md.session.losses import LossEstimate
from kfix_md.session.message import Message
from kfix_md.session.types import SECOND, ReleasedFrame, SessionState

#: a replay that stops this long while live messages go on was one chunk: request the next
_CHUNK_QUIET_NS = SECOND // 10
#: the same when nothing else comes
_CHUNK_WAIT_NS = SECOND
#: live messages inside a hole that was requested this long ago: the number above the hole was false
_FALSE_NUMBER_NS = SECOND


class GapRecovery:
    """The open gaps of one session.

    Parameters
    ----------
    link : Link
        Shared state and outputs.
    losses : Losses
        Takes the gaps that are closed by snapshots.
    apply : callable
        Handles a kept message of any type but W and X when its turn comes.
    """

    def __init__(self, link: Link, losses: LossEstimate, apply: Callable[[Message], None]) -> None:
        self._link, self._losses, self._apply = link, losses, apply
        self.queue = GapQueue(link.config.max_gap_messages, link.config.max_gap_bytes)
        self.unsettled = False  # a gap closed, and its frames are not all applied yet
        self._released: deque[tuple[int, ReleasedFrame]] = deque()  # with their MsgSeqNums
        self._replayed: list[Hole] = []
        self._lossy = False  # part of the open gap will never come: a replay of the rest heals no book
        self._requested: Hole | None = None
        self._requested_ns = self._progress_ns = self._attempts = 0
        self._progressed = False  # replayed messages came since the last request
        self._garbled_at = 0

    def __bool__(self) -> bool:
        return bool(self.queue)

    @property
    def settled(self) -> bool:
        """No gap is open and nothing waits to be applied."""
        return not self.queue and not self.unsettled

    # ------------------------------------------------------------ a gap opens

    def note_garbled(self) -> None:
        """The message that would have been next was garbled: the gap it leaves has cause checksum."""
        self._garbled_at = max(self._link.sequence.expected, self.queue.highest + 1)

    def keep(self, seq: int, message: Message | None, now_ns: int, covers: int = 0) -> None:
        """Queue a message whose number is too high; numbers never seen become a hole."""
        top = max(self.queue.highest, self._link.sequence.expected - 1)
        if seq > top + 1:
            self._open(top + 1, seq - 1, now_ns)
        if not self.queue.add(seq, message.slim() if message else None, covers):
            self._link.force_reset = True
            self._link.close("overflow", "the gap queue is full: a new session is cheaper", now_ns)

    def _open(self, first: int, last: int, now_ns: int) -> None:
        cause = "checksum" if self._garbled_at == first else "lost"
        hole = self._losses.open(first, last, cause, now_ns)
        if not self.queue:
            self._progress_ns, self._requested, self._attempts, self._progressed = now_ns, None, 0, False
        self.queue.holes.append(hole)
        self._link.on_change()
        self._link.app.on_gap(first, last, cause)

    def keep_and_request(self, m: Message, covers: int = 0) -> int:
        """Queue a message and request what is missing before it, once per hole."""
        if m.seq in self.queue.kept:
            return self._link.ignore("duplicate")
        self.keep(m.seq, m, m.recv_ns, covers)
        self.request_missing(m.recv_ns, live=not m.possdup)
        return fix.DEFER if m.is_market_data else 0

    def request_missing(self, now_ns: int, live: bool = True, silent: bool = False) -> None:
        """Send one ResendRequest per hole, or per chunk of its replay.

        16=0 requests everything to the end, so a second hole may be filled by the same replay; only a live
        message (no 43=Y) that comes after the first hole closed proves that it was not. In the same way a live
        message after replayed ones ended proves that the venue replays in chunks.
        """
        if not self.queue or self._link.state != SessionState.ON:
            return
        hole = self.queue.holes[0]
        if self._requested is not None:
            chunk_over = self._progressed and now_ns - self._progress_ns >= _CHUNK_QUIET_NS
            if not live or (self._requested is hole and not chunk_over):
                return
        self._request(hole, now_ns, silent)

    def _request(self, hole: Hole, now_ns: int, silent: bool = False) -> None:
        self._requested, self._requested_ns, self._progressed = hole, now_ns, False
        if not silent:  # with 789 in our Logon the venue fills without a request
            self._link.count("resend_requests")
            self._link.transmit("2", fix.resend_request(self._link.sequence.expected), now_ns)

    def deadline(self) -> int:
        """When check() has something to do; 0 when no gap is open."""
        if not self.queue:
            return 0
        patience = int(self._link.config.gap_timeout * SECOND)
        if self._progressed:
            patience = min(patience, _CHUNK_WAIT_NS)
        return max(self._requested_ns, self._progress_ns) + patience

    def check(self, now_ns: int) -> None:
        """Request the next chunk of a replay that stopped, or what did not come in gap_timeout.

        Without any progress a second request is the last; then the session ends and logs on with 141=Y.
        """
        if not self.queue or now_ns < self.deadline():
            return
        if self._progressed:
            self._request(self.queue.holes[0], now_ns)
            return
        self._attempts += 1
        if self._attempts == 1:
            self._request(self.queue.holes[0], now_ns)
            return
        self._link.force_reset = True
        self._link.close("gap_timeout", "the missing messages did not come", now_ns)

    # ------------------------------------------------------------ a gap closes

    def advance(self, expected: int) -> None:
        """Expect this number next."""
        self._link.sequence.expected = expected

    def pass_on(self, m: Message) -> int:
        """A W or X in its turn: to the handler now, or after those that wait to be applied."""
        if not self._released:
            return fix.DELIVER
        self._release(m)
        return fix.DEFER

    def _release(self, m: Message) -> None:
        if m.is_market_data:
            self._released.append((m.seq, ReleasedFrame(m.frame, m.recv_ns)))
        else:
            self._apply(m)

    def fill(self, m: Message, new_seq: int) -> None:
        """Apply a gap fill whose turn it is. Outside a replay its own number was never anything else."""
        first = m.seq if m.possdup or self.queue.lacks(m.seq) else m.seq + 1
        self._link.count("gap_filled", new_seq - m.seq)
        self.jump(first, new_seq, m.recv_ns)

    def jump(self, first: int, new_seq: int, now_ns: int) -> None:
        """Expect `new_seq` next; of first..new_seq-1 what is queued is applied, the rest is lost."""
        present: list[int] = []
        ready: list[Message] = []
        while item := self.queue.pop_below(new_seq):
            seq, kept = item
            if kept is not None and kept.type == "4":  # may reach further; its own number is no message
                new_seq = max(new_seq, kept.number(fix.NEW_SEQ_NO) or 0)
                continue
            present.append(seq)
            if kept is not None:
                ready.append(kept)
        for low, high in missing_ranges(first, new_seq - 1, present):
            self.lose(low, high, now_ns)
        for kept in ready:
            self._release(kept)
        self.advance(new_seq)

    def drain(self, now_ns: int, replayed: bool = True) -> None:
        """Take everything whose turn has come, and find which holes are closed by it.

        `replayed`: the message before was of a replay or a gap fill. Only that is progress: live messages that
        come in order inside a hole mean that the number above it was false.
        """
        while item := self.queue.pop_below(self._link.sequence.expected + 1):
            seq, kept = item
            if kept is not None and kept.type == "4":
                self.fill(kept, kept.number(fix.NEW_SEQ_NO) or seq + 1)
                continue
            self.advance(max(seq + 1, self._link.sequence.expected))
            if kept is not None:
                self._release(kept)
        if not self.queue:
            return
        closed = self.queue.closed(self._link.sequence.expected)
        if replayed or closed:
            self._progress_ns, self._progressed, self._attempts = now_ns, True, 0
        elif now_ns - max(self._requested_ns, self._progress_ns) >= _FALSE_NUMBER_NS:
            self._drop_false_numbers(now_ns)
        for hole in closed:
            self.unsettled = True
            if hole.lost:
                self._losses.add(hole, "snapshot")
            else:
                self._replayed.append(hole)
        self._link.on_change()

    def _drop_false_numbers(self, now_ns: int) -> None:
        """The peer goes on below the numbers that opened the gap: what has them is lost, the gap is over."""
        expected = self._link.sequence.expected
        holes = self.take_holes()
        self._link.count("false_numbers")
        self.drop_queue(now_ns)
        for hole in holes:
            self._losses.add(hole, "snapshot")
        self._link.on_change()
        self._link.app.on_lost(expected, holes[-1].last or expected, holes[0].cause)

    def take_released(self) -> list[ReleasedFrame]:
        """Frames to apply now, in order; empty when none wait."""
        taken = [released for _, released in self._released]
        self._released.clear()
        return taken

    def settle(self, now_ns: int) -> None:
        """Every released frame is applied: the closed gaps are over."""
        self.unsettled = False
        now_ns = now_ns or self._progress_ns
        replayed, self._replayed = self._replayed, []
        for hole in replayed:
            self._losses.close(hole, "replay", now_ns)
        self._link.on_change()
        if not self.queue:
            if replayed and not self._lossy:
                self._link.app.on_gap_closed()
            self._lossy = False

    # ------------------------------------------------------------ loss

    def lose(self, first: int, last: int, now_ns: int) -> None:
        """Numbers first..last will never come: the application subscribes again."""
        hole = self.queue.mark_lost(first, last)
        if hole is None:
            hole = self._losses.open(first, last, "lost", now_ns)
            self._losses.add(hole, "snapshot")
        self._lossy = bool(self.queue)
        self._link.count("messages_lost", last - first + 1)
        self._link.app.on_lost(first, last, hole.cause)

    def take_holes(self) -> list[Hole]:
        """Give up every gap: its holes, which the caller reports as lost."""
        holes = [*self.queue.holes, *self._replayed]
        self.queue.holes.clear()
        self._replayed.clear()
        return holes

    def drop_queue(self, now_ns: int) -> None:
        """Drop the queued messages: their numbers mean nothing any more. Holes stay open."""
        numbers = [span for span in (self.queue.span(),) if span]
        numbers += [(seq, seq) for seq, _ in self._released]
        if numbers:
            first, last = min(low for low, _ in numbers), max(high for _, high in numbers)
            self._link.event(now_ns, Discarded(first, last))
        self._released.clear()
        self.queue.drop_messages()
        self.unsettled = False
        self._requested = None
        self._garbled_at = 0
        self._lossy = False
