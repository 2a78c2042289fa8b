"""The books of one stream by symbol: which are known and subscribed, what state each is in, what is published.

Symbols are found through an open-addressing table of rows; a row is a Slot, and has a book once there is data.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap

from kfix_md._book cimport (
    CRC_DEPTH, NO_LIMIT, RULE_AUTO, RULE_CODE, RULE_LEVEL, RULE_OFF, RULE_ORDER, RULE_SENT, WORK_BANK,
    L2Book, OrderBook,
    Room, crossed, price_shift, qty_shift, settled,
)
from kfix_md._book_l3 cimport L3Book
from kfix_md._checksum cimport CHECK_FAILED, CHECK_OK, CHECK_RUN, CHECK_UNKNOWN, MISSES, RUN, find_rule, told_apart
from kfix_md._entry cimport *
from kfix_md._frame cimport PADDING
from kfix_md._list_rows cimport Row
from kfix_md._state cimport *
from kfix_md.shm.writer cimport SegmentWriter

from kfix_md._book import RULES
from kfix_md._entry import Cause, State
from kfix_md._state import Event
from kfix_md.errors import NoSuchSymbol, ProtocolError
from kfix_md.instruments import parse_list
from kfix_md.symbol_text import symbol_bytes

cdef extern from "<sys/mman.h>" nogil:      # posix.mman has them without these conditions
    int mprotect(void* at, size_t n, int protection)
    enum:
        MAP_NORESERVE

cdef extern from "c/scan.h" nogil:
    int kfix_equal(const char* a, const char* b, int64_t n)

cdef extern from "c/keyed_hash.h" nogil:
    uint64_t kfix_keyed_hash(uint64_t a, uint64_t b)

cdef extern from "c/levels.h" nogil:
    size_t KFIX_BOOK_BYTES
    void kfix_prefetch(const void* p, size_t bytes)

cdef enum:
    MAX_SYMBOLS = 65536
    SEARCHED = 64               # messages without a rule after which only each sixteenth is searched by all of them
    FULL_L2 = 1000

assert sizeof(Slot) == 3 * LINE

# of the levels and orders of all books of a stream: 4,700 books of 5,000 orders
_ROOM_BYTES = 2 << 30

# what mark() means by a state
_STATES, _CAUSES = tuple(State), tuple(Cause)     # by their numbers, which begin at 0: a call of the enum is slow
_MARKS = {
    State.INIT: EVENT_UNSUBSCRIBE, State.SYNCING: EVENT_LOST, State.LIVE: EVENT_RESUME, State.EMPTY: EVENT_RESUME,
    State.GAP: EVENT_GAP_OPENED, State.CRC_FAIL: EVENT_CRC_FAILED, State.STALE: EVENT_DOUBTED,
    State.HALTED: EVENT_HALT, State.ROLLOVER: EVENT_ROLLOVER, State.DOWN: EVENT_DISCONNECT,
    State.UNVERIFIED: EVENT_RULE_UNKNOWN,
}


cdef struct Key:        # a symbol's first and last eight bytes: all of one that has at most sixteen
    uint64_t head
    uint64_t tail


cdef inline Key key_of(const char* p, int32_t n) noexcept nogil:
    # `p` is followed by padding; of less than eight bytes the rest counts as zero, as it is in a Slot. No branch:
    # lengths change from message to message
    cdef Key key
    cdef int spare = 8 * max(8 - n, 0) & 63
    memcpy(&key.head, p, 8)
    memcpy(&key.tail, p + max(n - 8, 0), 8)
    key.head = key.head << spare >> spare
    key.tail = key.tail << spare >> spare
    return key


cdef inline uint32_t hash_symbol(const Key* key, const char* p, int32_t n) noexcept nogil:
    cdef uint64_t hashed = kfix_keyed_hash(key.head, key.tail), word
    cdef int32_t at
    for at in range(8, n - 8, 8):       # what a longer symbol has between the two
        memcpy(&word, p + at, 8)
        hashed = kfix_keyed_hash(hashed, word)
    return <uint32_t>(hashed >> 32)


cdef inline bint nameable(bytes symbol, int price_precision, int qty_precision) noexcept:
    # whether a book can be kept
    return 0 < len(symbol) < SYMBOL_BYTES and abs(price_precision) <= 18 and abs(qty_precision) <= 18


cdef class Symbols:
    """Slots and books of one stream; MarketData brings them the messages.

    Parameters
    ----------
    rule : int
        RULE_ code of 5041.
    level : int
        2, 3, or 0: by what the entries show.
    session_number, standby_for : int
        See Handler.
    publisher : SegmentWriter or None
    listener : object or None
        See Handler.
    """

    def __cinit__(self, *, int rule=RULE_AUTO, int level=0, int session_number=0, int standby_for=-1,
                  SegmentWriter publisher=None, listener=None):
        self.rule = rule
        self.level = level
        self.session_number = session_number
        self.standby_for = standby_for
        self.publisher = publisher
        self.listener = listener
        self.by_row = []
        self.depths = {}
        self.replaced = []
        self.first_rule = RULE_ORDER
        self.names = []
        self.room = Room(_ROOM_BYTES)
        # Slots never move: a listener may define symbols while a message of one is being applied. No memory is taken
        # for those that are not used.
        cdef void* slots = mmap(
            NULL, MAX_SYMBOLS * sizeof(Slot), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if slots == MAP_FAILED:
            raise MemoryError("no memory for a handler")
        self.slots = <Slot*>slots
        self.mask = 255
        self.table = <int32_t*>malloc(256 * sizeof(int32_t))
        if self.table == NULL:
            raise MemoryError("no memory for a handler")
        memset(self.table, 0xFF, 256 * sizeof(int32_t))

    def __dealloc__(self):
        free(self.table)
        if self.slots != NULL:
            munmap(self.slots, MAX_SYMBOLS * sizeof(Slot))

    # ---- the table ----

    cdef int32_t find_slot(self, const char* symbol, int32_t n) noexcept:
        cdef Key key = key_of(symbol, n)
        cdef Key held
        cdef int32_t tail = max(n - 8, 0)
        cdef uint32_t at = hash_symbol(&key, symbol, n) & self.mask
        cdef int32_t row = self.table[at]
        while row >= 0:
            self.probes += 1
            kfix_prefetch(&self.slots[row], sizeof(Slot))
            if self.slots[row].symbol_n == n:
                memcpy(&held.head, self.slots[row].symbol, 8)
                memcpy(&held.tail, self.slots[row].symbol + tail, 8)
                if held.head == key.head and held.tail == key.tail and (
                        n <= 16 or kfix_equal(self.slots[row].symbol, symbol, n)):
                    return row
            at = (at + 1) & self.mask
            row = self.table[at]
        return -1

    cdef void prefetch_next(self, const char* symbol, const char* first, const char* last) noexcept:
        # with many symbols slot and book of the next message have left the caches: they are prefetched one message
        # ahead. Its symbol should be at `symbol`, and all of it in [first, last): if not, nothing happens.
        cdef const char* end
        cdef int32_t row
        cdef Key key
        if symbol - 4 < first or symbol + SYMBOL_BYTES > last or memcmp(symbol - 4, b"\x0155=", 4) != 0:
            return
        end = <const char*>memchr(symbol, 1, SYMBOL_BYTES)
        if end == NULL or end == symbol:
            return
        key = key_of(symbol, end - symbol)
        row = self.table[hash_symbol(&key, symbol, end - symbol) & self.mask]
        if row >= 0:
            kfix_prefetch(&self.slots[row], sizeof(Slot))
            kfix_prefetch(kfix_list_item(self.by_row, row), KFIX_BOOK_BYTES)

    cdef int32_t find_symbol(self, symbol) except -2:
        # row of a symbol given as text, -1 where it is not known
        return self.find_text(symbol_bytes(symbol))

    cdef int32_t find_text(self, bytes text) except -2:
        # nearly every use of a book begins with it
        settled(self.room)
        cdef char padded[SYMBOL_BYTES + PADDING]
        cdef Py_ssize_t n = len(text)
        if n >= SYMBOL_BYTES:       # no slot has one
            return -1
        memcpy(padded, <const char*>text, n)
        memset(padded + n, 0, PADDING)
        return self.find_slot(padded, n)

    cdef int32_t row_of(self, symbol) except -1:
        # raises NoSuchSymbol
        cdef int32_t row = self.find_symbol(symbol)
        if row < 0:
            raise NoSuchSymbol(f"no such symbol here: {symbol}")
        return row

    def define(self, symbol, int price_precision, int qty_precision):
        """Make an instrument of 35=y known; returns its row.

        A precision that differs from before empties the book: SYNCING with cause PRECISION until a new snapshot. With
        a negative precision (the venue prints thousands) prices and quantities are kept as whole numbers.
        Raises ProtocolError when the symbol or a precision cannot be one.
        """
        cdef bytes text = symbol_bytes(symbol)
        if not nameable(text, price_precision, qty_precision):
            raise ProtocolError(f"no book can be kept for {symbol!r}, precisions {price_precision}, {qty_precision}")
        return self.define_row(self.find_text(text), symbol, text, price_precision, qty_precision)

    cdef int32_t define_row(
            self, int32_t row, symbol, bytes text, int price_precision, int qty_precision) except -1:
        # `row`: of the symbol, -1 where it is new
        cdef Slot* s
        price_precision, qty_precision = max(price_precision, 0), max(qty_precision, 0)
        if row < 0:
            return self.new_slot(symbol, text, price_precision, qty_precision)
        s = &self.slots[row]
        if s.price_precision != price_precision or s.qty_precision != qty_precision:
            if self.applying:       # where there is no memory for that, nothing has changed
                self.replaced.append(self.by_row[row])
            self.by_row[row] = None
            s.price_precision = price_precision
            s.qty_precision = qty_precision
            self.definitions += 1
            s.synced = 0
            s.unproven = s.misses = s.run = 0
            if s.shm_slot >= 0:
                self.make_book(row, s.level)
            self.happen(row, EVENT_REDEFINE, CAUSE_PRECISION)
        return row

    def define_listed(self, parsed):
        """Define the instruments of a 35=y, given as fields(); returns how many of its rows cannot be used.

        A row may leave out a precision that is known from before.
        """
        cdef Row listed
        cdef int bad
        part = parse_list(parsed)
        bad = bool(part.count_error)
        for listed in part.rows:
            bad += not self._usable(listed)
        return bad

    cdef bint _usable(self, Row listed) except -1:
        # defines what a row of 35=y states; no exception for each of the rows at fault, which may be thousands
        cdef bytes text
        cdef int32_t row
        if listed.error:
            return False
        text = symbol_bytes(listed.symbol)
        row = self.find_text(text)
        price, qty = listed.stated.get("price_precision"), listed.stated.get("qty_precision")
        if price is None or qty is None:    # as known from before
            if row < 0:
                return False
            price = self.slots[row].price_precision if price is None else price
            qty = self.slots[row].qty_precision if qty is None else qty
        if not nameable(text, price, qty) or (row < 0 and self.n_slots == MAX_SYMBOLS):
            return False
        self.define_row(row, listed.symbol, text, price, qty)
        return True

    cdef int32_t new_slot(self, symbol, bytes text, int price_precision, int qty_precision) except -1:
        cdef int32_t row = self.n_slots
        cdef Slot* s = &self.slots[row]
        if row == MAX_SYMBOLS:
            raise ProtocolError(f"more than {MAX_SYMBOLS} instruments")
        try:    # all that takes memory, before anything counts
            if row == self.slot_capacity:
                self._more_slots(min(max(2 * row, 64), MAX_SYMBOLS))
            self.by_row.append(None)
            self.names.append(symbol)
            if 2 * (row + 1) > <int32_t>self.mask:
                self._larger_table()
        except MemoryError:
            del self.by_row[row:], self.names[row:]
            raise
        memset(s, 0, sizeof(Slot))
        memcpy(s.symbol, <const char*>text, len(text))
        s.symbol_n = len(text)
        s.req_n = NO_REQ_ID if self.subscribed_ids else ANY_REQ_ID
        s.shm_slot = -1
        s.price_precision = price_precision
        s.qty_precision = qty_precision
        s.verifiable = 1
        s.silent = self.standby_for >= 0
        s.level = self.level
        self.n_slots += 1
        self.definitions += 1
        self.enter(row)
        return row

    cdef int _more_slots(self, int32_t capacity) except -1:
        if mprotect(self.slots, capacity * sizeof(Slot), PROT_READ | PROT_WRITE) != 0:
            raise MemoryError("no memory for symbols")
        self.slot_capacity = capacity
        return 0

    cdef int _larger_table(self) except -1:
        cdef int32_t* table = <int32_t*>realloc(self.table, 4 * (self.mask + 1) * sizeof(int32_t))
        cdef int32_t row
        if table == NULL:
            raise MemoryError("no memory for symbols")
        self.table = table
        self.mask = 4 * (self.mask + 1) - 1
        memset(table, 0xFF, (self.mask + 1) * sizeof(int32_t))
        for row in range(self.n_slots):
            self.enter(row)
        return 0

    cdef void enter(self, int32_t row) noexcept:
        cdef Key key = key_of(self.slots[row].symbol, self.slots[row].symbol_n)
        cdef uint32_t at = hash_symbol(&key, self.slots[row].symbol, self.slots[row].symbol_n) & self.mask
        while self.table[at] >= 0:
            self.probes += 1
            at = (at + 1) & self.mask
        self.table[at] = row

    # ---- subscriptions and states ----

    def subscribe(self, symbol, md_req_id, int depth=0, bint halted=False):
        """Apply only entries with this 262 to the symbol's book from now on; it is SYNCING until its snapshot.

        Parameters
        ----------
        symbol, md_req_id : str
            55 and 262.
        depth : int
            264, 0 for the full book (1000 levels on L2). The book keeps no more levels a side; below ten 5041 cannot
            be checked.
        halted : bool
            The venue does not trade the instrument: its snapshot makes the book HALTED. An earlier halt is over.

        Raises
        ------
        NoSuchSymbol
            It was never defined.
        KfixError, OSError, MemoryError
            There is no room for its book: it is DOWN with cause ROOM, and the others are not disturbed.
        """
        cdef bytes text = md_req_id.encode()
        cdef int32_t row = self.row_of(symbol)
        cdef Slot* s = &self.slots[row]
        cdef int32_t i
        if not 0 < len(text) < REQ_ID_BYTES:
            raise ValueError(f"262 must have 1 to {REQ_ID_BYTES - 1} bytes: {md_req_id!r}")
        if not self.subscribed_ids:
            self.subscribed_ids = True
            for i in range(self.n_slots):
                self.slots[i].req_n = NO_REQ_ID
        memcpy(s.req_id, <const char*>text, len(text))
        s.req_n = len(text)
        s.synced = 0
        s.halted = halted
        self.set_depth(symbol, depth)
        if self.by_row[row] is None and self.level:
            self.make_book(row, 0)
        self.happen(row, EVENT_SUBSCRIBE, s.top.cause or CAUSE_SUBSCRIBED)

    def set_depth(self, symbol, int depth):
        """The depth (264) of a symbol's subscription: its book keeps no more levels a side; see subscribe."""
        cdef int32_t row = self.row_of(symbol)
        self.depths[row] = depth
        self.slots[row].verifiable = depth == 0 or depth >= CRC_DEPTH
        if self.by_row[row] is not None:
            (<OrderBook>self.by_row[row]).limit = self.limit_of(row, (<OrderBook>self.by_row[row]).level)

    def end_request(self, symbol):
        """Ignore messages that still arrive under the symbol's 262, as late; its book keeps its state."""
        self.slots[self.row_of(symbol)].req_n = NO_REQ_ID

    def unsubscribe(self, symbol, cause=Cause.UNSUBSCRIBED):
        """Apply nothing more to the symbol's book: whatever still comes is late."""
        cdef int32_t row = self.row_of(symbol)
        cdef int why = Cause(cause)
        self.slots[row].req_n = NO_REQ_ID
        self.slots[row].synced = 0
        self.happen(row, EVENT_UNSUBSCRIBE, why)

    def mark(self, symbol, state, cause=Cause.NONE):
        """Set the state of one book (of all with symbol None) from outside.

        GAP, STALE and HALTED keep the book, and LIVE gives one that was kept its own state back; any other state
        voids it until the next snapshot.
        """
        cdef int32_t row
        cdef int event = _MARKS[State(state)], why = Cause(cause)
        settled(self.room)
        rows = range(self.n_slots) if symbol is None else [self.row_of(symbol)]
        for row in rows:
            self.mark_row(row, event, why)

    cdef int mark_row(self, int32_t row, int event, int cause) except -1:
        cdef Slot* s = &self.slots[row]
        if event == EVENT_HALT:
            s.halted = 1
        elif event == EVENT_RESUME:
            s.halted = 0
        elif event == EVENT_RULE_UNKNOWN:
            s.unproven = 1
        if s.synced or event not in (EVENT_RESUME, EVENT_GAP_OPENED, EVENT_RULE_UNKNOWN):
            if s.top.state != STATE_INIT or next_state(event, STATE_INIT) != STATE_INIT:
                self.happen(row, event, cause)
        elif event == EVENT_RESUME and s.top.state == STATE_HALTED:
            self.happen(row, EVENT_LOST, CAUSE_STATUS)      # traded again, and without a snapshot
        return 0

    cdef int close_gap(self) except -1:
        # no message of the session is missing any more: books that were kept in GAP are whole again
        cdef int32_t row
        settled(self.room)
        self.gap_open = False
        for row in range(self.n_slots):
            if self.slots[row].top.state == STATE_GAP and self.slots[row].synced:
                self.happen(row, EVENT_GAP_CLOSED, CAUSE_NONE)
        return 0

    def void_books(self, event, cause):
        """Trust no book that holds a snapshot until its next one. ValueError for what is no Event or no Cause."""
        cdef int32_t row
        cdef int known = Event(event), why = Cause(cause)
        settled(self.room)
        for row in range(self.n_slots):
            if self.slots[row].synced:
                self.slots[row].synced = 0
                self.happen(row, known, why)

    cdef int own_state(self, Slot* s, OrderBook book) noexcept nogil:
        # of a book that holds its snapshot and every message since
        if self.gap_open:
            return STATE_GAP
        if s.halted:
            return STATE_HALTED
        if s.unproven or s.evidence & EVIDENCE_CROSSED:
            return STATE_UNVERIFIED
        return STATE_EMPTY if book.sides[0].n == 0 and book.sides[1].n == 0 else STATE_LIVE

    cdef int happen(self, int32_t row, int event, int cause) except -1:
        # an event from outside the market data: the new state is published and reported, also when it is the same
        cdef Slot* s = &self.slots[row]
        cdef bint named
        if voids_book(event):
            s.synced = 0
        self.turn(s, <OrderBook>self.by_row[row], event)
        named = s.top.state == STATE_HALTED or s.top.state == STATE_UNVERIFIED
        s.top.cause = own_cause(s) if named and cause == CAUSE_NONE else cause
        return self.changed(row)

    cdef void turn(self, Slot* s, OrderBook book, int event) noexcept nogil:
        cdef int state = next_state(event, s.top.state)
        s.top.state = self.own_state(s, book) if state == STATE_SOUND else state

    cdef int changed(self, int32_t row) except -1 with gil:
        cdef Slot* s = &self.slots[row]
        if self.by_row[row] is not None:
            self.publish_slot(s, <OrderBook>self.by_row[row])
        if self.listener is not None:
            self.report(self.listener.on_book, (self.names[row], _STATES[s.top.state], _CAUSES[s.top.cause], s.top.seq,
                                                s.top.recv_ns))
        return 0

    cdef int report(self, method, tuple what) except -1:
        # Python of somebody else while a message is applied: it may use the books, and so may other threads
        cdef unsigned long owner = self.room.leave()
        try:
            method(*what)
        finally:
            self.room.resume(owner)
        return 0

    # ---- checksum rules ----

    cdef int weigh(self, Slot* s, OrderBook book, uint32_t crc, bint agrees) noexcept nogil:
        # A 5041 where one comparison is not enough: the first after a snapshot, one that does not agree, and those of
        # a book whose rule is open or unknown. `agrees`: by the book's own rule. Returns CHECK_
        cdef bint fresh = s.evidence & EVIDENCE_FRESH
        cdef int found = 0
        s.evidence &= ~EVIDENCE_FRESH
        if not agrees and s.unproven:
            # no rule held for long: a search tries dozens, so that it is made for some of the messages only
            s.misses = s.misses + 1 if s.misses < 2 * SEARCHED else SEARCHED + 1
            if s.misses > SEARCHED and s.misses & 15:
                s.run = 0
                return CHECK_UNKNOWN
        if not agrees:
            found = find_rule(book, crc, self.rule, self.first_rule)
            if not found:
                return self.doubt(s, book, fresh)
            book.set_rule(found)
        s.misses = 0
        if s.unproven:
            s.run = 1 if found else s.run + 1
            if s.run < RUN:
                return CHECK_RUN
            s.unproven = s.run = 0
            if not self.gap_open:
                s.top.cause = CAUSE_NONE
            self.turn(s, book, EVENT_RULE_FOUND)
        elif not found and not (s.evidence & EVIDENCE_OPEN and told_apart(book, crc)):
            return CHECK_OK
        s.evidence &= ~EVIDENCE_OPEN
        self.show_rule(s, book)
        return CHECK_OK

    cdef int doubt(self, Slot* s, OrderBook book, bint fresh) noexcept nogil:
        # no rule holds: the book is wrong, or, when its first 5041 after each of several snapshots fails though
        # nothing else is wrong, the venue follows a rule that is not known
        if s.unproven:
            s.run = 0
            return CHECK_UNKNOWN
        if not fresh or self.gap_open or crossed(book) or book.unknown + book.repeated != book.odd:
            s.misses = 0
            return CHECK_FAILED
        s.misses += 1
        if s.misses < MISSES:
            return CHECK_FAILED
        s.unproven = 1
        s.run = 0
        s.top.cause = CAUSE_RULE
        self.turn(s, book, EVENT_RULE_UNKNOWN)
        return CHECK_UNKNOWN

    cdef int show_rule(self, Slot* s, OrderBook book) except -1 with gil:
        # a symbol has shown its rule: counted, reported, and what further books are tried with first
        cdef int code
        self.proved[book.rule & RULE_CODE] += 1
        for code in range(8):
            if self.proved[code] > self.proved[self.first_rule]:
                self.first_rule = code
        report = getattr(self.listener, "on_checksum_rule", None)
        if report is not None:
            symbol = self.names[s - self.slots]
            rule, precisions, _ = self.checksum_of(symbol)
            self.report(report, (rule, symbol, precisions))
        return 0

    # ---- books and their publication ----

    cdef int make_book(self, int32_t row, int seen) except -1:
        # Make the book of a row. On level="auto" `seen` is the level that its market data have shown, 0 none yet.
        # Where there is no room for it in shared memory the error is raised, and the row has no book: DOWN, ROOM
        cdef Slot* s = &self.slots[row]
        cdef int level = self.level
        cdef OrderBook book
        if level == 0:
            level = 3 if seen == 3 or s.level == 3 else 2
        try:
            if self.publisher is not None:
                s.shm_slot = self.publisher.add_symbol(
                    self.names[row], f"L{level}", s.price_precision, s.qty_precision,
                    self.session_number if self.standby_for < 0 else self.standby_for)
            book = (L3Book if level == 3 else L2Book)(s.price_precision, s.qty_precision)
        except Exception:
            s.req_n = NO_REQ_ID
            self.happen(row, EVENT_REJECT, CAUSE_ROOM)
            raise
        book.work_limit = WORK_BANK
        book.room = self.room
        book.set_rule(self.starting_rule(level))
        book.limit = self.limit_of(row, level)
        s.evidence = EVIDENCE_OPEN if level == 3 and self.rule == RULE_AUTO else 0
        self.by_row[row] = book
        # without an entry that shows it, the next message decides
        s.level = level if level == 3 or seen or self.level else 0
        return 0

    cdef int starting_rule(self, int level) noexcept:
        # of a new book
        cdef int rule = self.first_rule if self.rule in (RULE_AUTO, RULE_OFF) else self.rule
        return rule if level == 3 else RULE_LEVEL | (rule & RULE_SENT)

    cdef int32_t limit_of(self, int32_t row, int level) except -1:
        cdef int32_t depth = self.depths.get(row, NO_LIMIT)
        if depth > 0:
            return depth
        return FULL_L2 if level == 2 else NO_LIMIT      # 264=0 means 1000 levels on L2

    def serve(self, symbol, bint on):
        """Whether our copy of a book is the published one, for handlers that share slots (see standby_for).

        When it becomes so, the whole of it goes out at once. Raises NoSuchSymbol.
        """
        cdef int32_t row = self.row_of(symbol), side
        cdef Slot* s = &self.slots[row]
        cdef OrderBook book = self.by_row[row]
        s.silent = not on
        if not on or book is None:
            return
        for side in range(2):
            book.sides[side].dirty_lo = 0
            book.sides[side].dirty_hi = book.sides[side].n
        if book.slab_or_null() != NULL:
            book.slab_or_null().n_dirty = -1
        self.publish_slot(s, book)

    cdef int publish_pending(self) except -1 nogil:
        # what the messages of one read have touched goes out once, with all that they changed
        cdef int32_t i, row
        self.burst = 0
        for i in range(self.n_pending):
            row = self.pending[i]
            if self.slots[row].pending:
                self.publish_slot(&self.slots[row], <OrderBook>kfix_list_item(self.by_row, row))
        self.n_pending = 0
        return 0

    cdef void publish_slot(self, Slot* s, OrderBook book) noexcept nogil:
        s.pending = 0
        s.top.crc_rule = book.rule & RULE_CODE if self.rule != RULE_OFF else RULE_OFF
        if s.shm_slot >= 0 and not s.silent:
            self.publisher.publish(s.shm_slot, &book.sides[0], &book.sides[1], book.slab_or_null(), &s.top)

    # ---- what Python sees ----

    def book(self, symbol):
        """The L2Book or L3Book of a symbol, None before its first snapshot."""
        return self.by_row[self.row_of(symbol)]

    def book_state(self, symbol):
        """(State, Cause, MsgSeqNum of the last message, its receive time in ns, CRCs checked, CRCs failed)."""
        cdef Slot* s = &self.slots[<int32_t>self.row_of(symbol)]
        return (_STATES[s.top.state], _CAUSES[s.top.cause], s.top.seq, s.top.recv_ns, s.top.crc_checked,
                s.top.crc_failed)

    def checksum_of(self, symbol):
        """What is known of a symbol's 5041.

        Returns
        -------
        rule : str
            Name of the rule that its messages are checked by: "level", "order", "level-sent", "order-sent".
        precisions : tuple of int or None
            Decimals of price and quantity in the text where they are not those of the instrument.
        state : str
            "open" while level and order rule have not been distinguished, "proved", or "unknown" while no known rule
            holds (UNVERIFIED).
        """
        cdef int32_t row = self.row_of(symbol)
        cdef Slot* s = &self.slots[row]
        cdef OrderBook book = self.by_row[row]
        cdef int rule = RULE_LEVEL if book is None else book.rule
        name = next(name for name, code in RULES.items() if code == rule & RULE_CODE)
        shifts = price_shift(rule), qty_shift(rule)
        precisions = (s.price_precision + shifts[0], s.qty_precision + shifts[1]) if any(shifts) else None
        state = "unknown" if s.unproven else "open" if s.evidence & EVIDENCE_OPEN or not s.top.crc_checked else "proved"
        return name, precisions, state

    @property
    def symbols(self):
        """Symbols by row."""
        return tuple(self.names)

    def precisions(self, symbol):
        """(2349 price precision, 5010 quantity precision) of a symbol."""
        cdef Slot* s = &self.slots[<int32_t>self.row_of(symbol)]
        return s.price_precision, s.qty_precision
