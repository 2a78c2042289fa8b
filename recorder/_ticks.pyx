"""Decodes the W and X of a journal to ticks, in the order in which the feed applied them."""

import numpy as np

from kfix_md._entry import ENTRY_DTYPE
from libc.stdint cimport int32_t, int64_t, uint16_t, uintptr_t
from libc.string cimport memchr

from kfix_md._book cimport BOOK_OK, NO_LIMIT, OrderBook, L2Book, apply_message, settled
from kfix_md._book_l3 cimport L3Book, decimals_of
from kfix_md._codec cimport Codec
from kfix_md._decode cimport decode
from kfix_md._fields cimport MD_OK, MD_SPLIT, Header, MDMessage
from kfix_md._symbols cimport Slot, Symbols
from kfix_md._tick_buffer cimport TickBuffer
from kfix_md._entry cimport (ACTION_NEW, BookSide, MDEntry,
                             MSG_BAD_BOOK, MSG_CRC_CHECKED, MSG_CRC_OK, MSG_DEFERRED, MSG_HAS_CRC, MSG_IGNORED,
                             MSG_POSSDUP, MSG_SNAPSHOT, MSG_UNVERIFIED, Order, OrderSlab)
from kfix_md.journal.reader cimport JournalReader
from kfix_md.journal.records cimport REC_FRAME, Record, is_frame, is_market_data, type_at

cdef enum:
    MAX_DEFERRED_BYTES = 268435456      # of one session's open gap
    NOTHING = 0
    CONTROL = 1
    FULL = 2
    DAMAGED = -1

# what the journal knows of a message and the frame itself does not
cdef uint16_t VERDICT = MSG_CRC_CHECKED | MSG_CRC_OK | MSG_BAD_BOOK | MSG_DEFERRED | MSG_UNVERIFIED

cdef struct RowInfo:
    int64_t since           # rows decoded since the last checkpoint
    int64_t recv_ns         # of the last message
    int64_t seq
    int64_t checkpoint_ns   # receive time of the last checkpoint, or of the first tick
    int64_t total           # rows of all books that were decoded then
    int64_t files           # flushes it had rows in since the last checkpoint
    int64_t flushed         # of `since`, rows that are in these

_ROW_DTYPE = np.dtype([("since", "i8"), ("recv_ns", "i8"), ("seq", "i8"), ("checkpoint_ns", "i8"),
                       ("total", "i8"), ("files", "i8"), ("flushed", "i8")])
assert _ROW_DTYPE.itemsize == sizeof(RowInfo)


def message_type(const unsigned char[::1] frame) -> str:
    """35 of one frame, "" where there is none."""
    cdef const char* p = <const char*>&frame[0]
    cdef Py_ssize_t n = frame.shape[0]
    cdef Py_ssize_t at = type_at(p, n)
    cdef const char* end
    if at < 0:
        return ""
    end = <const char*>memchr(p + at, 1, n - at)
    return p[at:end - p].decode("latin-1") if end != NULL else ""


cdef class SessionTicks:
    """Decoder of one feed session: instruments, frames of an open gap, collected ticks and, when wanted, books.

    `level` is "L2", "L3" or None to detect it from the stream. The books follow the frames, so that whole books can be
    written as checkpoints; nothing is verified here: the verdict is in the journal.
    """

    def __cinit__(self, level=None, bint books=False):
        self.codec = Codec(keep_ids=True)
        self.buffer = TickBuffer()
        self.level = {"L2": 2, "L3": 3}.get(level, 0)
        self.books_wanted = books
        self.symbols = Symbols()
        self.books, self.deferred = [], []

    def define(self, symbol, int price_precision, int qty_precision):
        """Make an instrument known, or its precision changed; returns its row. Take the ticks before."""
        cdef int32_t row = self.symbols.find_symbol(symbol)
        before = self.instrument(row) if row >= 0 else None
        row = self.symbols.define(symbol, price_precision, qty_precision)
        if row == len(self.books):
            self.books.append(None)
            self._room_for(row)
        elif self.instrument(row) != before:
            self.books[row] = None
        return row

    def _room_for(self, row):
        # in the array of RowInfo
        if self.row_array is None or row == len(self.row_array):
            grown = np.zeros(max(64, 2 * row), _ROW_DTYPE)
            if row:
                grown[:row] = self.row_array
            self.row_array = grown
            self.info = <void*><uintptr_t>grown.ctypes.data

    def knows(self, symbol, int price_precision, int qty_precision) -> bool:
        """Whether the instrument is defined with these precisions."""
        cdef int32_t row = self.symbols.find_symbol(symbol)
        return row >= 0 and self.instrument(row)[1:] == (max(price_precision, 0), max(qty_precision, 0))

    cdef int known(self, int32_t row) except -1:
        if not 0 <= row < self.symbols.n_slots:
            raise IndexError(f"no row {row}: there are {self.symbols.n_slots}")
        return 0

    def instrument(self, int32_t row) -> tuple:
        """(symbol, price precision, quantity precision) of a row. IndexError where there is none, here and below."""
        self.known(row)
        cdef Slot* s = &self.symbols.slots[row]
        return self.symbols.names[row], s.price_precision, s.qty_precision

    @property
    def instruments(self) -> list:
        """(symbol, price precision, quantity precision) by row."""
        return [self.instrument(row) for row in range(self.symbols.n_slots)]

    def texts(self, rows) -> list:
        """Text of the order ids of ticks whose ids are text."""
        from kfix_md._codec import id_text
        return [id_text(kind, hi, lo, self.codec.id_table)
                for kind, hi, lo in zip(rows["id_kind"].tolist(), rows["id_hi"].tolist(), rows["id_lo"].tolist())]

    # ---- frames ----

    cdef int add(self, Record* r) except -1:
        """Take one W or X of the journal."""
        self.messages += 1
        self.last_recv_ns = r.recv_ns
        self.position = r.position
        if r.flags & MSG_IGNORED:
            self.ignored += 1
        elif not is_frame(r.data, r.length):
            self.malformed += 1
            self.not_decoded(-1, r.recv_ns, 0)
        elif r.flags & MSG_DEFERRED:
            self.hold(r.position, r.recv_ns, r.flags, r.data[:r.length])
        else:
            self.read(r.data, r.length, r.recv_ns, r.flags)
        return 0

    def add_record(self, position, int64_t recv_ns, uint16_t flags, bytes frame):
        """Take one W or X that is not in a mapped segment."""
        cdef Record r
        cdef bytes padded = frame + b"\0" * 64
        r.position, r.recv_ns, r.flags, r.kind = position, recv_ns, flags, REC_FRAME
        r.data, r.length = <const char*>padded, len(frame)
        self.add(&r)

    def hold(self, position, recv_ns, flags, bytes frame):
        """Keep a frame that arrived in an open gap, until it is released or discarded.

        Beyond MAX_DEFERRED_BYTES it is lost, and counted as not decoded.
        """
        cdef Header h
        cdef bytes padded = frame + b"\0" * 64
        cdef const char* p = padded
        cdef Py_ssize_t at = type_at(p, len(frame))
        if not is_frame(p, len(frame)) or self.deferred_bytes + len(frame) > MAX_DEFERRED_BYTES:
            self.not_decoded(-1, recv_ns, 0)
            return
        self.codec.read_header(p + at - 3, p + len(frame) - 7, &h)
        self.deferred.append((h.seq, position, recv_ns, flags, frame))
        self.deferred_bytes += len(frame)

    def release(self, first, last) -> int:
        """Decode the deferred frames with these MsgSeqNum, in their order: they were applied now. How many."""
        taken = self._take(first, last)
        for _, _, recv_ns, flags, frame in sorted(taken, key=lambda frame: frame[0]):
            padded = frame + b"\0" * 64
            self.read(padded, len(frame), recv_ns, flags)
        return len(taken)

    def discard(self, first=0, last=None) -> int:
        """Forget the deferred frames with these MsgSeqNum (all): they were never applied. How many."""
        n = len(self._take(first, last))
        self.ignored += n
        return n

    def _take(self, first, last):
        taken = [h for h in self.deferred if h[0] >= first and (last is None or h[0] <= last)]
        if taken:
            self.deferred = [h for h in self.deferred if h[0] < first or (last is not None and h[0] > last)]
            self.deferred_bytes = sum(len(h[4]) for h in self.deferred)
        return taken

    cdef int read(self, const char* frame, Py_ssize_t n, int64_t recv_ns, uint16_t flags) except -1:
        # 35=W MarketDataSnapshotFullRefresh, 35=X MarketDataIncrementalRefresh
        cdef Header h
        cdef MDMessage m
        cdef int32_t row
        cdef int error
        cdef const char* end = frame + n - 7
        self.codec.read_header(frame + type_at(frame, n) - 3, end, &h)
        error = decode(self.codec, self.symbols, &h, end, &m, &row)
        if error == MD_SPLIT:
            return self.read_parts(&h, end, &m, recv_ns, flags)
        if error == MD_OK and row >= 0:
            return self.take_entries(row, &h, &m, recv_ns, flags)
        self.malformed += 1
        return self.not_decoded(row, recv_ns, flags)

    cdef int not_decoded(self, int32_t row, int64_t recv_ns, uint16_t flags) except -1:
        # The feed has applied it: with an instrument, or a precision, that is not known here. Of a frame that waited in
        # a gap the journal does not have what the feed made of it.
        if flags & MSG_DEFERRED:
            return 0
        if self.undecoded == 0:
            self.undecoded_at, self.undecoded_first_ns = self.position, recv_ns
        self.undecoded += 1
        self.undecoded_last_ns = recv_ns
        if row >= 0:
            self.books[row] = None
        else:
            self.books = [None] * len(self.books)
        return 0

    def take_undecoded(self) -> tuple:
        """Messages since the last call that the feed applied and that could not be decoded: how many, the position of
        the first, receive times of the first and the last."""
        found = self.undecoded, self.undecoded_at, self.undecoded_first_ns, self.undecoded_last_ns
        self.undecoded = 0
        return found

    cdef int read_parts(self, Header* h, const char* end, MDMessage* m, int64_t recv_ns, uint16_t flags) except -1:
        # each entry of the message names its symbol; the feed may have applied some of its parts only
        cdef int32_t row = -1
        cdef Slot* s
        cdef int taken = 0
        while self.codec.next_part(h, end, m):
            row = self.symbols.find_slot(m.symbol.p, m.symbol.n)
            s = &self.symbols.slots[max(row, 0)]
            if row < 0 or self.codec.scale(m, s.price_precision, s.qty_precision) != MD_OK:
                self.malformed += 1
            else:
                self.take_entries(row, h, m, recv_ns, flags)
                taken += 1
        return 0 if taken else self.not_decoded(row, recv_ns, flags)

    cdef int take_entries(self, int32_t row, Header* h, MDMessage* m, int64_t recv_ns, uint16_t flags) except -1:
        # the entries in the codec, of one symbol
        flags &= VERDICT
        if h.msg_type == c'W':
            flags |= MSG_SNAPSHOT
        if h.poss_dup:
            flags |= MSG_POSSDUP
        if m.has_crc:
            flags |= MSG_HAS_CRC
        self.buffer.keep(self.codec.entries, row, h, m, recv_ns, flags, 0)
        self.count(row, h, m, recv_ns, flags)
        if self.books_wanted:
            self.follow(row, m.n, flags)
        self.last_seq = max(self.last_seq, h.seq)
        self.rows_total += m.n
        return 0

    cdef void count(self, int32_t row, Header* h, MDMessage* m, int64_t recv_ns, uint16_t flags) noexcept:
        # for the next checkpoint of a row
        cdef RowInfo* info = &(<RowInfo*>self.info)[row]
        if info.checkpoint_ns == 0:
            info.checkpoint_ns = recv_ns
        info.since += m.n + (1 if flags & MSG_SNAPSHOT else 0)
        info.recv_ns = recv_ns
        info.seq = h.seq

    def take(self):
        """The ticks since the last call (TICK_DTYPE); `instrument` is the row in `instruments`."""
        if self.buffer.n:
            self.codec.take_ids()
        return self.buffer.take(False)

    def __len__(self):
        return self.buffer.n

    # ---- books ----

    cdef int follow(self, int32_t row, int32_t n, uint16_t flags) except -1:
        cdef OrderBook book = self.books[row]
        cdef Slot* s = &self.symbols.slots[row]
        if flags & MSG_SNAPSHOT:
            if self.level == 0:
                self.level = self.codec.level_seen(n)
            if book is None:
                kind = L3Book if self.level == 3 else L2Book
                book = self.books[row] = kind(s.price_precision, s.qty_precision, limit=self.limit)
            book.clear_book()
        elif book is None:
            return 0
        if (apply_message(book, self.codec.entries, n) != BOOK_OK
                or flags & (MSG_CRC_CHECKED | MSG_CRC_OK | MSG_UNVERIFIED) == MSG_CRC_CHECKED):
            self.books[row] = None      # known to be wrong: no checkpoint
        return 0

    def flushed(self):
        """All rows decoded until now go into one file, with others it may be."""
        if self.row_array is not None:
            used = self.row_array[:len(self.books)]
            used["files"] += used["since"] > used["flushed"]
            used["flushed"] = used["since"]

    def due(self, rows, span_ns=None, total=0, enough=0, files=1 << 62) -> list:
        """Rows whose book, or whose missing book, had `rows` ticks since its checkpoint (and four times its size, or
        three times `rows`: what is read back for a book is bounded). With `span_ns` also those that are so far from
        their checkpoint and had as many ticks as their size since, or one after `enough` of the `total` rows of all
        books decoded by now; and those that had rows in `files` files since, which take time to open."""
        if self.row_array is None:
            return []
        used = self.row_array[:len(self.books)]
        since = used["since"]
        late = np.zeros(len(used), bool)
        if span_ns is not None:
            late = (since > 0) & (used["recv_ns"] - used["checkpoint_ns"] >= span_ns)
        far = total - used["total"] >= enough
        many = used["files"] >= files
        found = []
        for row in np.flatnonzero((since >= rows) | late | many).tolist():
            size = self.size(row)
            enough_own = max(rows, min(4 * size, 3 * rows))
            if many[row] or since[row] >= enough_own or (late[row] and (far[row] or since[row] >= size)):
                found.append(row)
        return found

    def size(self, int32_t row) -> int:
        """Levels (L3: orders) in the book of a row."""
        self.known(row)
        book = self.books[row]
        if book is None:
            return 0
        orders = book.order_counts
        return sum(orders if orders is not None else book.counts)

    def last(self, int32_t row) -> tuple:
        """(receive time, MsgSeqNum) of the last message of a row."""
        self.known(row)
        return (<RowInfo*>self.info)[row].recv_ns, (<RowInfo*>self.info)[row].seq

    def checkpointed(self, int32_t row, int64_t total=0):
        """Restart the count here, where `total` rows of all books are decoded."""
        self.known(row)
        (<RowInfo*>self.info)[row].since = 0
        (<RowInfo*>self.info)[row].files = 0
        (<RowInfo*>self.info)[row].flushed = 0
        (<RowInfo*>self.info)[row].total = total
        (<RowInfo*>self.info)[row].checkpoint_ns = (<RowInfo*>self.info)[row].recv_ns

    def forget_books(self):
        """A new session: its books start with snapshots, and its MsgSeqNum may be lower."""
        self.books = [None] * len(self.books)
        self.last_seq = 0
        if self.row_array is not None:
            for name in ("since", "checkpoint_ns", "files", "flushed"):
                self.row_array[name] = 0

    def book(self, int32_t row):
        """Book of a row or None."""
        self.known(row)
        return self.books[row]

    def restore(self, int32_t row, OrderBook book):
        """Set the book of a row to what everything decoded so far makes (after a restart)."""
        self.known(row)
        book.limit = self.limit or NO_LIMIT
        self.books[row] = book


def book_rows(OrderBook book):
    """The whole book as ENTRY_DTYPE rows: bids then offers, best first, orders of a price in queue order.

    Applied to an empty book they give the same book.
    """
    settled(book.room)
    cdef OrderSlab* slab = book.slab_or_null()
    cdef Py_ssize_t n = book.sides[0].n + book.sides[1].n if slab == NULL else slab.n_orders
    out = np.zeros(n, ENTRY_DTYPE)
    cdef MDEntry* e = <MDEntry*><uintptr_t>out.ctypes.data
    cdef BookSide* s
    cdef Order* o
    cdef int side
    cdef int32_t i, row
    for side in range(2):
        s = &book.sides[side]
        for i in range(s.n - 1, -1, -1):
            if slab == NULL:
                e.price, e.qty, e.side, e.action = s.price[i], s.qty[i], side, ACTION_NEW
                e.decimals = book.aux[side][i].length >> 8
                e += 1
                continue
            row = s.head[i]
            while row >= 0:
                o = &slab.rows[row]
                e.price, e.qty, e.side, e.action = o.price, o.qty, side, ACTION_NEW
                e.id_hi, e.id_lo, e.id_kind = o.id_hi, o.id_lo, o.id_kind
                e.queue_ns, e.event_ns = o.queue_ns, o.event_ns
                e.decimals = decimals_of(o)
                e += 1
                row = o.next
    return out


def route(JournalReader reader, list sessions, Py_ssize_t max_rows, Py_ssize_t max_records=1 << 62):
    """Read on until something needs attention; returns (what, record or None).

    W and X go to `sessions[session number]` (SessionTicks; a list, None where there is none yet). what is
    "nothing" (end of the journal for now), "control" (an event, another frame, or one of an unknown session: the
    record is a tuple as of JournalReader), "full" (some `max_rows` rows are collected), "damaged" (see reader.damage).
    """
    cdef Record r
    cdef SessionTicks s
    cdef int got
    cdef Py_ssize_t rows = 0, records = 0
    while rows < max_rows and records < max_records:
        got = reader.next(&r)
        if got <= 0:
            return ("damaged" if got < 0 else "nothing"), None
        records += 1
        if r.kind == REC_FRAME and r.session < len(sessions) and sessions[r.session] is not None:
            if is_market_data(r.data, r.length):
                s = sessions[r.session]
                rows -= s.buffer.n
                s.add(&r)
                rows += s.buffer.n
                continue
        return "control", (r.position, r.kind, r.session, r.recv_ns, r.flags, r.data[:r.length])
    return "full", None
