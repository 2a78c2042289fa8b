from cython cimport final
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t, uint64_t, uintptr_t

from kfix_md._entry cimport FAR_BITS, BookSide, MDEntry, OrderSlab

cdef enum:
    # which text 5041 is the CRC of, see rule_text
    RULE_OFF = 0
    RULE_LEVEL = 1          # ten best levels, each price then quantity, printed at the instrument's precisions
    RULE_ORDER = 2          # orders of the ten best levels in queue order, each price then quantity, printed likewise
    RULE_AUTO = 3
    RULE_LEVEL_SENT = 5     # the same two with the decimals that the venue wrote
    RULE_ORDER_SENT = 6
    RULE_SENT = 4           # bit of both
    RULE_CODE = 7

    BOOK_OK = 0
    BOOK_FULL = -1      # more levels or orders than the book may hold
    BOOK_TOTAL = -2     # the quantities of a level's orders together do not fit int64
    BOOK_WORK = -3      # its messages cost more work than they may, see WORK_ENTRY
    BOOK_ROOM = -4      # the books of its stream together have no memory left

    # Work is counted in steps of a few nanoseconds: one order of a queue or place of a table passed, or eight levels
    # moved. Nearly every entry costs none. One may cost WORK_ENTRY on average, and WORK_BANK at once.
    WORK_ENTRY = 512
    WORK_BANK = 2097152
    MOVED = 3           # shift: levels moved that are a step

    NO_LIMIT = 0x7FFFFFFF
    NO_WORK_LIMIT = 0x7FFFFFFFFFFFFFFF

    MAX_LEVELS = 1048576
    MAX_ORDERS = 2097152
    CRC_DEPTH = 10      # 5041 covers ten levels a side, whatever the subscribed depth


cdef extern from "c/levels.h" nogil:
    ctypedef struct LevelAux "kfix_level_aux":  # what a level has in addition to price, quantity and count
        uint32_t crc        # raw CRC of the level's text, valid while its length > 0
        uint32_t length     # L3: of that text; L2: its low byte is, and the two above are `decimals` of MDEntry
    int32_t kfix_locate(const int64_t* p, int32_t n, int64_t price, int offers)


cdef struct SideCrc:    # the ten best levels of a side together
    uint32_t crc
    int32_t length      # or ALL_TOUCHED, or ONE_TOUCHED less the number of levels that are better than that one

cdef enum:
    ALL_TOUCHED = -1    # any of the ten may have changed
    ONE_TOUCHED = -2    # the CRC of one level is to be computed again

    LENGTH_L2 = 0xFF    # of LevelAux.length


cdef struct Place:      # of an entry, to be sorted
    int64_t key         # rises towards the best price
    int32_t side
    int32_t at          # index of the entry


cdef class Room:        # what the books of a stream share: memory, and who may use them
    cdef readonly int64_t left      # bytes
    cdef unsigned long owner        # thread that uses the books without the GIL, 0: none
    cdef int32_t waiting            # threads that wait until it has ended
    cdef int enter(self) except -1
    cdef unsigned long leave(self) noexcept
    cdef int resume(self, unsigned long owner) except -1
    cdef int wait(self) except -1
    cdef unsigned long hold(self) except? 0
    cdef void release(self, unsigned long owner) noexcept


cdef class OrderBook:
    cdef BookSide sides[2]
    cdef LevelAux* aux[2]
    cdef int32_t* tail[2]           # L3: row of the last order of a level's queue
    cdef SideCrc side_crc[2]
    cdef list memory                # numpy owner, int64, of what the pointers of each side point into
    cdef readonly int level         # 2 or 3
    cdef readonly int price_precision, qty_precision
    cdef readonly uint64_t unknown  # updates and deletes of what the book does not hold
    cdef readonly uint64_t repeated  # 279=0 for what the book already holds
    cdef uint64_t odd               # `unknown` and `repeated` together at the last snapshot
    cdef int rule                   # which text the cached CRCs are of: rule_text()
    cdef uint32_t length_mask       # of LevelAux.length
    cdef public int32_t limit       # most levels a side after a message (264), NO_LIMIT
    cdef bint crc_known             # `both_crc` is of the book as it is
    cdef uint32_t both_crc
    cdef readonly int64_t work      # steps so far
    cdef int64_t work_limit         # from which on entries are not applied
    cdef Room room                  # None: no limit but the machine's
    cdef int64_t taken              # bytes of it
    cdef int apply_entries(self, MDEntry* entries, Py_ssize_t n) noexcept nogil
    cdef int open_levels(self, MDEntry* entries, Py_ssize_t n) noexcept nogil
    cdef void clear_book(self) noexcept nogil
    cdef void set_rule(self, int rule) noexcept nogil
    cdef void trim(self) noexcept nogil
    cdef void remove_worst(self, int side, int32_t n) noexcept nogil
    cdef void drop_levels(self, int side, int32_t n) noexcept nogil
    cdef int take_room(self, int64_t bytes) noexcept nogil
    cdef int open_book(self, MDEntry* entries, Py_ssize_t n) noexcept nogil
    cdef int apply_places(self, MDEntry* entries, Py_ssize_t n, const Place* places, int32_t found) noexcept nogil
    cdef int apply_unsorted(self, MDEntry* entries, Py_ssize_t n) noexcept nogil
    cdef int apply_each(self, MDEntry* e, MDEntry* end) noexcept nogil
    cdef uint32_t crc_by(self, int rule) noexcept nogil
    cdef OrderSlab* slab_or_null(self) noexcept nogil
    cdef int reserve_levels(self, int side, int32_t capacity) noexcept with gil
    cdef int more_levels(self, int side, int32_t capacity) noexcept
    cdef int insert_level(self, int side, int32_t i, int64_t price, int64_t qty, uint32_t decimals) noexcept nogil
    cdef void remove_level(self, int side, int32_t i) noexcept nogil
    cdef uint32_t level_crc(self, int side, int32_t i, uint32_t* length, int rule) noexcept nogil


@final
cdef class L2Book(OrderBook):
    pass


cdef inline int rule_text(int code, int price_shift, int qty_shift) noexcept nogil:
    # a rule and how many decimals more than the precisions (or fewer) its text has, as one number
    return code | (price_shift & 0xFF) << 8 | (qty_shift & 0xFF) << 16


cdef inline int price_shift(int rule) noexcept nogil:
    return <int8_t>(rule >> 8 & 0xFF)


cdef inline int qty_shift(int rule) noexcept nogil:
    return <int8_t>(rule >> 16 & 0xFF)


cdef inline int apply_message(OrderBook book, MDEntry* entries, Py_ssize_t n) noexcept nogil:
    # the entries of one message; after it no side has more levels than were subscribed to, whether or not the venue
    # sends the deletes
    cdef int result
    # an allowance grows with each entry; the bank is what may be spent at once
    if book.work_limit != NO_WORK_LIMIT:
        book.work_limit = min(book.work_limit + WORK_ENTRY * (n + 1), book.work + WORK_BANK + WORK_ENTRY * n)
    result = book.apply_entries(entries, n)
    if book.sides[0].n > book.limit or book.sides[1].n > book.limit:
        book.trim()
    return result


cdef inline int crossed(OrderBook book) noexcept nogil:
    cdef BookSide* bids = &book.sides[0]
    cdef BookSide* offers = &book.sides[1]
    return bids.n > 0 and offers.n > 0 and bids.price[bids.n - 1] >= offers.price[offers.n - 1]


cdef inline int settled(Room room) except -1:
    # Before a book of a stream is used with the GIL: another thread may be using it without
    if room is not None and room.owner:
        room.wait()
    return 0


cdef inline unsigned long held(Room room) except? 0:
    # settled(), and no other thread uses the books until released() with what this returns: for a use in which the GIL
    # may be given up, by numpy or by a finalizer where memory is taken
    return room.hold() if room is not None else 0


cdef inline void released(Room room, unsigned long owner) noexcept:
    if room is not None:
        room.release(owner)


cdef inline void* address(object array) except NULL:
    # of a numpy array's memory, which stays where it is: array.ctypes would take microseconds
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    PyBuffer_Release(&view)
    return view.buf


cdef inline int32_t locate(BookSide* side, int which, int64_t price) noexcept nogil:
    # index of the first element, counted from the worst, that is not worse than price
    return kfix_locate(side.price, side.n, price, which)


cdef inline void mark_range(BookSide* s, int32_t low, int32_t high, int32_t better) noexcept nogil:
    # a single level after the ten best would stretch the range over all that is between
    if better >= CRC_DEPTH and high - low == 1:
        s.dirty_far |= <uint64_t>1 << (low >> FAR_BITS & 63)
    else:
        s.dirty_lo = min(s.dirty_lo, low)
        s.dirty_hi = max(s.dirty_hi, high)


cdef inline void mark_dirty(OrderBook book, int side, int32_t low, int32_t high, int32_t better) noexcept nogil:
    # elements [low, high) of the side differ from what was published; `better` levels are better than the one touched
    mark_range(&book.sides[side], low, high, better)
    if better < CRC_DEPTH:
        book.side_crc[side].length = ALL_TOUCHED
        book.crc_known = False


cdef inline void mark_level(OrderBook book, int side, int32_t low, int32_t high, int32_t better,
                            int32_t stale) noexcept nogil:
    # the same, where the level with `stale` better ones alone needs a new CRC
    mark_range(&book.sides[side], low, high, better)
    if better < CRC_DEPTH:
        book.side_crc[side].length = ONE_TOUCHED - stale if book.side_crc[side].length >= 0 else ALL_TOUCHED
        book.crc_known = False
