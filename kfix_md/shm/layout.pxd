# Declarations of kfix_shm.h and of the C helpers of the segment's writer and readers.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "shm/kfix_shm.h" nogil:
    const uint64_t KFIX_MAGIC
    const uint32_t KFIX_LAYOUT, KFIX_BEST, KFIX_LINE, KFIX_MAX_ROWS
    const uint32_t KFIX_OPEN, KFIX_CLOSED, KFIX_REPLACED
    const uint8_t KFIX_HAS_BID, KFIX_HAS_ASK
    const uint32_t KFIX_LEVELS_CUT, KFIX_ORDERS_CUT
    const uint32_t KFIX_WAKE_FEED, KFIX_WAKE_BOOK, KFIX_SERVE_UNVERIFIED
    const int KFIX_WAIT_FEED, KFIX_WAIT_BOOK, KFIX_WRITER

    struct kfix_header:
        uint64_t magic
        uint32_t layout, header_bytes
        uint64_t file_bytes, instance
        int64_t start_ns
        uint32_t pid, flags
        uint64_t pid_start
        int64_t heartbeat_interval_ns, heartbeat_ns
        uint32_t closed, n_symbols, wakes, change
        int64_t clock_step_ns
        uint64_t lagging
        uint64_t counters_offset
        uint32_t counter_bytes, counters_capacity
        uint64_t sessions_offset
        uint32_t session_bytes, sessions_capacity
        uint64_t symbols_offset
        uint32_t symbol_bytes, symbols_capacity
        uint64_t arena_offset
        int64_t clock_base_ns
        char name[64]
        char software[32]
        char boot_id[40]

    struct kfix_counter:
        char name[24]
        uint64_t value

    struct kfix_session:
        uint64_t version
        char service[24]
        char state[16]
        char host[64]
        char sender[32]
        char target[32]
        uint16_t port
        uint8_t level
        int64_t since_ns, last_recv_ns, rollover_ns
        uint64_t messages, bytes, gaps, reconnects
        int64_t lag_ns, clock_offset_ns

    struct kfix_symbol:
        uint64_t version
        char symbol[48]
        uint8_t level
        int8_t price_precision, qty_precision
        uint8_t session
        uint32_t generation
        uint64_t top_offset, best_offset, trades_offset, depth_offset, orders_offset
        uint32_t trades_capacity, depth_capacity, orders_capacity
        uint64_t region_offset, region_bytes

    struct kfix_top:
        uint64_t version
        int64_t bid, bid_qty, ask, ask_qty, recv_ns
        uint64_t seq
        uint8_t state, cause, has, crc_rule
        int8_t price_precision, qty_precision
        uint16_t generation
        int64_t event_ns
        uint64_t updates
        uint32_t crc_checked, crc_failed, n_bids, n_asks, bid_orders, ask_orders
        int64_t state_ns, gap_ns
        uint32_t gaps
        uint8_t gap_state, gap_cause

    struct kfix_level:
        int64_t price, qty
        uint32_t orders
        int32_t head

    struct kfix_best:
        uint64_t version
        uint32_t n_bids, n_asks
        uint8_t state, cause
        int8_t price_precision, qty_precision
        uint32_t spare0
        uint64_t seq
        int64_t recv_ns
        uint64_t spare1[3]
        kfix_level bids[10]
        kfix_level asks[10]

    struct kfix_depth:
        uint64_t version
        uint32_t n_bids, n_asks
        uint8_t state, cause
        int8_t price_precision, qty_precision
        uint32_t flags
        uint64_t seq
        int64_t recv_ns
        uint32_t orders_used, orders_ready, n_orders, spare0
        uint64_t spare1

    struct kfix_order:
        int64_t price, qty
        uint64_t id_hi, id_lo
        int64_t queue_ns, event_ns
        int32_t prev, next
        uint8_t side, id_kind

    struct kfix_trades:
        uint64_t head

    struct kfix_trade:
        uint64_t stamp
        int64_t price, qty, recv_ns, event_ns
        uint64_t seq
        uint8_t aggressor, ord_type
        int8_t price_precision, qty_precision

    uint64_t kfix_load(const void* p)
    uint64_t kfix_load_acquire(const void* p)
    uint32_t kfix_load32(const void* p)
    void kfix_store(void* p, uint64_t v)
    void kfix_store_release(void* p, uint64_t v)
    void kfix_store32(void* p, uint32_t v)
    int kfix_is_lagging(const kfix_header* header, unsigned int session)
    int kfix_is_beating(const kfix_header* header, int64_t monotonic_ns, int64_t patience_ns)
    int64_t kfix_silence(const kfix_header* header, int64_t monotonic_ns)
    int64_t kfix_age(const kfix_header* header, int64_t ns, int64_t monotonic_ns)
    int64_t kfix_wall(const kfix_header* header, int64_t ns)
    void kfix_pause()
    void kfix_get(void* to, const void* source, size_t n)
    void kfix_get_many(void* to, const void* source, size_t n)
    void kfix_put(void* to, const void* source, size_t n)
    void kfix_write_begin(uint64_t* version)
    void kfix_write_end(uint64_t* version)
    uint64_t kfix_read_begin(const uint64_t* version)
    int kfix_read_end(const uint64_t* version, uint64_t begun)
    int kfix_read_block(const void* block, void* to, size_t n, unsigned int tries)


cdef extern from "shm/write_levels.h" nogil:
    struct kfix_side:
        const int64_t* price
        const int64_t* qty
        const uint32_t* orders
        const int32_t* head

    int kfix_lowest_bit(uint64_t bits)
    void kfix_put_levels(kfix_level* to, const kfix_side* side, int32_t lo, int32_t hi)
    void kfix_put_levels_back(kfix_level* to, const kfix_side* side, int32_t lo, int32_t hi)


cdef extern from "shm/platform.h" nogil:
    enum: KFIX_MAX_WORDS
    int64_t kfix_monotonic()
    int64_t kfix_monotonic_coarse()
    int kfix_move_mapping(void* origin, void* to, size_t n)
    void kfix_populate(void* p, size_t n)
    void kfix_futex_wake(const void* word)
    int kfix_futex_wait(const void* word, uint32_t seen, int64_t ns)
    int kfix_futex_wait_any(const void** words, const uint32_t* seen, int n, int64_t ns)
    int kfix_waiter_announce(int fd, int64_t at)
    int kfix_waiter_present(int fd, int64_t at)
    int kfix_writer_lock(int fd, int64_t at)
    int kfix_writer_present(int fd, int64_t at)
