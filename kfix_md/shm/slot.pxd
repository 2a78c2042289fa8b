# The writer's view of one symbol's blocks, and how a publication writes them: only what changed, no Python,
# no system call unless the order block grows.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.fcntl cimport posix_fallocate

from kfix_md._entry cimport FAR_BITS, BookSide, Order, OrderSlab
from kfix_md._state cimport trusted
from kfix_md.shm.layout cimport (
    KFIX_BEST, kfix_best, kfix_depth, kfix_level, kfix_lowest_bit, kfix_order, kfix_populate, kfix_put,
    kfix_put_levels, kfix_put_levels_back, kfix_side, kfix_symbol, kfix_top, kfix_trade, kfix_trades,
    kfix_write_begin, kfix_write_end,
)


cdef struct SymbolBlocks:           # the writer's pointers to the blocks of one symbol, and what it last published
    kfix_symbol* entry
    kfix_top* top
    kfix_best* best
    kfix_depth* depth
    kfix_level* bids
    kfix_level* asks
    kfix_order* orders
    kfix_trades* trades
    kfix_trade* ring
    kfix_top now                    # contents of `top`, changed here and copied out
    uint64_t n_trades
    int32_t n_bids                  # levels as of the last publication
    int32_t n_asks
    uint32_t depth_capacity
    uint32_t orders_capacity
    uint32_t orders_ready
    uint32_t trades_capacity
    uint32_t depth_flags


cdef inline kfix_side arrays(BookSide* side) noexcept nogil:
    cdef kfix_side levels
    levels.price, levels.qty, levels.orders, levels.head = side.price, side.qty, side.orders, side.head
    return levels


cdef inline void put_best(kfix_level* to, BookSide* side, int32_t was) noexcept nogil:
    """The ten best of one side, best first; `was` is the number of levels at the last publication."""
    cdef int32_t n = side.n, lo = side.dirty_lo, hi = side.dirty_hi
    cdef kfix_side levels = arrays(side)
    if n != was or side.dirty_far:
        lo, hi = 0, n
    lo = max(lo, n - <int32_t> KFIX_BEST, 0)
    hi = min(hi, n)
    if lo < hi:
        kfix_put_levels_back(&to[n - hi], &levels, lo, hi)


cdef inline void put_far(kfix_level* to, uint64_t far, kfix_side* levels, int32_t lo, int32_t hi,
                         int32_t n) noexcept nogil:
    """Blocks of levels with an isolated change; [lo, hi) has been written already."""
    cdef int32_t at
    while far:
        at = kfix_lowest_bit(far) << FAR_BITS
        far &= far - 1
        while at < n:
            if at < lo or at + (1 << FAR_BITS) > hi:
                kfix_put_levels(&to[at], levels, at, min(at + (1 << FAR_BITS), n))
            at += 64 << FAR_BITS


cdef inline void put_side(kfix_level* to, BookSide* side, int32_t was, int32_t capacity) noexcept nogil:
    """All levels of one side, best last; a side longer than its block is written whole, its best levels only."""
    cdef int32_t n = side.n, cut = max(n - capacity, 0), lo = side.dirty_lo, hi = min(side.dirty_hi, n)
    cdef kfix_side levels = arrays(side)
    if cut > 0 or was > capacity:
        lo, hi = cut, n
    lo = max(lo, 0)
    if lo < hi:
        kfix_put_levels(&to[lo - cut], &levels, lo, hi)
    if side.dirty_far and not (cut > 0 or was > capacity):
        put_far(to, side.dirty_far, &levels, lo, hi, n)


cdef inline bint touched(BookSide* side, int32_t was) noexcept nogil:
    return side.n != was or side.dirty_lo < side.dirty_hi or side.dirty_far != 0


cdef inline void clean(BookSide* side) noexcept nogil:
    side.dirty_lo = 0x7fffffff
    side.dirty_hi = 0
    side.dirty_far = 0


cdef inline void put_orders(SymbolBlocks* s, OrderSlab* slab) noexcept nogil:
    cdef int32_t i, row
    cdef int32_t limit = min(slab.used, <int32_t> s.orders_ready)
    if slab.n_dirty < 0:
        memcpy(s.orders, slab.rows, limit * sizeof(Order))
    else:
        for i in range(slab.n_dirty):
            row = slab.dirty[i]
            if 0 <= row < limit:
                memcpy(&s.orders[row], &slab.rows[row], sizeof(Order))
    slab.n_dirty = 0


cdef inline void grow_orders(SymbolBlocks* s, int fd, char* base, int32_t used) noexcept nogil:
    """Allocate pages for more order rows (doubling) before they are written: a full tmpfs must not be a SIGBUS."""
    cdef uint32_t had = s.orders_ready, want = s.orders_ready
    cdef int64_t at = <char*> &s.orders[had] - base
    while want < <uint32_t> used and want < s.orders_capacity:
        want = min(2 * want, s.orders_capacity)
    if want > had and posix_fallocate(fd, at, (want - had) * sizeof(kfix_order)) == 0:
        s.orders_ready = want
        kfix_populate(&s.orders[had], (min(<uint32_t> used, want) - had) * sizeof(kfix_order))


cdef inline void change_state(SymbolBlocks* s, uint8_t state, uint8_t cause, int64_t now_ns) noexcept nogil:
    """Change the state; record when, and the state and cause of the last loss of trust."""
    if trusted(s.now.state) and not trusted(state):
        s.now.gap_ns = now_ns
        s.now.gap_state = state
        s.now.gap_cause = cause
        s.now.gaps += 1
    if s.now.state != state:
        s.now.state_ns = now_ns
    s.now.state = state
    s.now.cause = cause


cdef inline void put_top(SymbolBlocks* s) noexcept nogil:
    kfix_write_begin(&s.top.version)
    kfix_put(&s.top.bid, &s.now.bid, sizeof(kfix_top) - sizeof(s.top.version))
    kfix_write_end(&s.top.version)


cdef inline void put_best_head(SymbolBlocks* s) noexcept nogil:
    cdef kfix_best head
    head.n_bids, head.n_asks = min(s.now.n_bids, KFIX_BEST), min(s.now.n_asks, KFIX_BEST)
    head.state, head.cause = s.now.state, s.now.cause
    head.price_precision, head.qty_precision = s.now.price_precision, s.now.qty_precision
    head.seq, head.recv_ns = s.now.seq, s.now.recv_ns
    head.spare0 = 0
    kfix_put(&s.best.n_bids, &head.n_bids, <char*> &head.spare1 - <char*> &head.n_bids)


cdef inline void put_depth_head(SymbolBlocks* s, OrderSlab* slab) noexcept nogil:
    cdef kfix_depth head
    head.n_bids = min(s.now.n_bids, s.depth_capacity)
    head.n_asks = min(s.now.n_asks, s.depth_capacity)
    head.state, head.cause = s.now.state, s.now.cause
    head.price_precision, head.qty_precision = s.now.price_precision, s.now.qty_precision
    head.flags = s.depth_flags
    head.seq, head.recv_ns = s.now.seq, s.now.recv_ns
    head.orders_used = s.depth.orders_used
    head.n_orders = s.depth.n_orders
    if slab != NULL:
        head.orders_used = min(<uint32_t> slab.used, s.orders_ready)
        head.n_orders = slab.n_orders
    head.orders_ready = s.orders_ready
    head.spare0 = 0
    kfix_put(&s.depth.n_bids, &head.n_bids, <char*> &head.spare1 - <char*> &head.n_bids)


cdef inline void fill_side(int64_t* price, int64_t* qty, uint32_t* orders, uint8_t* has, uint8_t bit, bint keep,
                           BookSide* side) noexcept nogil:
    """Best of one side into the top block; with `keep` an empty side keeps its last values."""
    cdef int32_t i = side.n - 1
    if i >= 0:
        price[0] = side.price[i]
        qty[0] = side.qty[i]
        orders[0] = side.orders[i]
        has[0] |= bit
    elif not keep:
        price[0] = 0
        qty[0] = 0
        orders[0] = 0
        has[0] &= ~bit
