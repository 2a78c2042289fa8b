/* Layout of a kfix-md shared memory segment, and the atomics needed to read and write it.
 *
 * The only definition of the layout: the Cython writer and reader include it, the numpy dtypes and
 * docs/shared_memory.md are tested against it, and a C or C++ program needs nothing else.
 * Prices are int64 in units of 10**-price_precision, quantities in 10**-qty_precision,
 * times int64 nanoseconds since the Unix epoch. Little-endian machines with 64-bit atomics (x86-64, ARM64).
 *
 * Times of the feed (recv_ns, state_ns, gap_ns, since_ns, last_recv_ns, rollover_ns) are CLOCK_MONOTONIC plus
 * header.clock_base_ns, so that no step of the wall clock changes an age: kfix_age. They are the time of day unless the
 * wall clock was stepped since the feed started: kfix_wall. event_ns and queue_ns are the venue's.
 */
#ifndef KFIX_SHM_H
#define KFIX_SHM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KFIX_MAGIC    0x314d48535849464bULL /* "KFIXSHM1" in memory */
#define KFIX_LAYOUT   2u                    /* readers reject any other number */
#define KFIX_LINE     64u
#define KFIX_BEST     10u        /* levels a side in kfix_best */
#define KFIX_MAX_ROWS (1u << 28) /* upper limit of every capacity of a symbol's blocks */

#define KFIX_OPEN     0u /* header.closed */
#define KFIX_CLOSED   1u /* the writer closed the segment */
#define KFIX_REPLACED 2u /* another writer took over the name */

#define KFIX_HAS_BID 1u /* top.has */
#define KFIX_HAS_ASK 2u

#define KFIX_LEVELS_CUT 1u /* depth.flags: deeper levels exist than the block holds */
#define KFIX_ORDERS_CUT 2u /* orders exist that are not in the block */

#define KFIX_WAKE_FEED 1u /* header.wakes: FUTEX_WAKE on header.change at each publication */
#define KFIX_WAKE_BOOK 2u /* FUTEX_WAKE on the low word of top.version as well */

#define KFIX_SERVE_UNVERIFIED 1u /* header.flags: readers may use the prices of UNVERIFIED books */

/* Bytes of the file on which a sleeping reader holds a shared record lock, so that the writer sets header.wakes. */
#define KFIX_WAIT_FEED 0
#define KFIX_WAIT_BOOK 1
/* The byte on which the writer holds an exclusive record lock while it lives. Readers ask whether there is one
 * (F_OFD_GETLK) and never take a lock: none of theirs can be in the way of the next writer. */
#define KFIX_WRITER 2

/* Codes of `state` and `gap_state`: what a book is worth. */
enum kfix_state {
    KFIX_STATE_INIT = 0,       /* no snapshot yet */
    KFIX_STATE_SYNCING = 1,    /* waiting for a snapshot */
    KFIX_STATE_LIVE = 2,       /* trusted */
    KFIX_STATE_EMPTY = 3,      /* trusted; no price on either side */
    KFIX_STATE_GAP = 4,        /* messages are missing */
    KFIX_STATE_CRC_FAIL = 5,   /* 5041 differs from the book, repeatedly */
    KFIX_STATE_STALE = 6,      /* not trusted */
    KFIX_STATE_HALTED = 7,     /* the venue does not trade the instrument */
    KFIX_STATE_ROLLOVER = 8,   /* daily session reset, 22:00 UTC */
    KFIX_STATE_DOWN = 9,       /* no session */
    KFIX_STATE_UNVERIFIED = 10 /* followed without a fault, but 5041 matches no known checksum rule */
};

/* Codes of `cause` and `gap_cause`: why a book left LIVE. */
enum kfix_cause {
    KFIX_CAUSE_NONE = 0,
    KFIX_CAUSE_LOST = 1,          /* MsgSeqNum higher than expected */
    KFIX_CAUSE_CHECKSUM = 2,      /* frames dropped because of tag 9 or 10 */
    KFIX_CAUSE_CRC = 3,           /* 5041 differs from the book */
    KFIX_CAUSE_CROSSED = 4,       /* bid at or above ask without a matching 5041 */
    KFIX_CAUSE_MALFORMED = 5,     /* a message that cannot be applied as a whole */
    KFIX_CAUSE_PRECISION = 6,     /* a number finer than the instrument's precision */
    KFIX_CAUSE_DISCONNECT = 7,    /* the connection was lost */
    KFIX_CAUSE_ROLLOVER = 8,      /* daily session reset */
    KFIX_CAUSE_RESTART = 9,       /* the feed's process ended */
    KFIX_CAUSE_OVERFLOW = 10,     /* the queue of a gap is full */
    KFIX_CAUSE_REJECTED = 11,     /* the venue rejected the subscription */
    KFIX_CAUSE_STATUS = 12,       /* the instrument's status does not trade */
    KFIX_CAUSE_UNSUBSCRIBED = 13, /* the subscription was ended */
    KFIX_CAUSE_NUMBER = 14,       /* a number that does not fit int64 at the precision */
    KFIX_CAUSE_RULE = 15,         /* 5041 matches no known checksum rule */
    KFIX_CAUSE_IDS = 16,          /* the table of order ids is full */
    KFIX_CAUSE_ROOM = 17,         /* no room for this symbol */
    KFIX_CAUSE_LEAVING = 18,      /* its session is not delivering */
    KFIX_CAUSE_SUBSCRIBED = 19,   /* subscribed, its first snapshot is awaited */
    KFIX_CAUSE_LAGGING = 20,      /* sound, but messages arrive later than max_lag_s: readers show it as STALE */
    KFIX_CAUSE_LIMIT = 21         /* more levels, orders, work or memory than a book may take */
};

/* Start of the file; one page with the counters after it. */
struct kfix_header {
    uint64_t magic; /* written last when a segment is made */
    uint32_t layout;
    uint32_t header_bytes;
    uint64_t file_bytes; /* constant: a file of another size is damaged */
    uint64_t instance;   /* random, different for each writer */
    int64_t start_ns;
    uint32_t pid;
    uint32_t flags;                /* KFIX_SERVE_UNVERIFIED */
    uint64_t pid_start;            /* field 22 of /proc/PID/stat, which distinguishes a reused pid */
    int64_t heartbeat_interval_ns; /* heartbeat_ns is updated at least twice in this time */

    int64_t heartbeat_ns; /* line 1: CLOCK_MONOTONIC */
    uint32_t closed;
    uint32_t n_symbols; /* directory entries ready to be read */
    uint32_t wakes;
    uint32_t spare1;
    int64_t clock_step_ns; /* by how much the wall clock was stepped since the start */
    uint64_t lagging;      /* bit i: messages of session i arrive later than max_lag_s */
    uint64_t spare2[3];

    uint32_t change; /* line 2: +1 at every publication; the futex of feed.wait */
    uint32_t spare3[15];

    uint64_t counters_offset; /* line 3: offsets of the tables, sizes of their rows */
    uint32_t counter_bytes;
    uint32_t counters_capacity;
    uint64_t sessions_offset;
    uint32_t session_bytes;
    uint32_t sessions_capacity;
    uint64_t symbols_offset;
    uint32_t symbol_bytes;
    uint32_t symbols_capacity;
    uint64_t arena_offset;
    int64_t clock_base_ns; /* wall clock minus CLOCK_MONOTONIC at the start */
    char name[64];
    char software[32];
    char boot_id[40]; /* of the kernel whose CLOCK_MONOTONIC it is; "" unknown */
};

/* A named count; a row with an empty name is unused. */
struct kfix_counter {
    char name[24];
    uint64_t value;
};

/* One FIX session; a row with an empty service is unused. */
struct kfix_session {
    uint64_t version; /* seqlock */
    char service[24];
    char state[16]; /* "up", "down", "gap", "rollover", ... */
    char host[64];
    char sender[32];
    char target[32];
    uint16_t port;
    uint8_t level;
    uint8_t spare0;
    uint32_t spare1;
    int64_t since_ns; /* when it entered this state */
    int64_t last_recv_ns;
    int64_t rollover_ns; /* next planned rollover, 0 unknown */
    uint64_t messages;
    uint64_t bytes;
    uint64_t gaps;
    uint64_t reconnects;
    int64_t lag_ns;          /* how late its last message was: recv_ns - SendingTime - clock_offset_ns */
    int64_t clock_offset_ns; /* our clock minus the venue's, as far as it is proven */
};

/* Directory entry of one (symbol, level). */
struct kfix_symbol {
    uint64_t version; /* seqlock */
    char symbol[48];
    uint8_t level; /* 2: by price level, 3: by order */
    int8_t price_precision;
    int8_t qty_precision;
    uint8_t session;
    uint32_t generation; /* +1 at each change of the precisions */
    uint64_t top_offset; /* from the start of the file */
    uint64_t best_offset;
    uint64_t trades_offset;
    uint64_t depth_offset;
    uint64_t orders_offset; /* 0: none (L2) */
    uint32_t trades_capacity;
    uint32_t depth_capacity; /* levels a side */
    uint32_t orders_capacity;
    uint32_t spare0;
    uint64_t region_offset; /* the pages with all blocks of this symbol */
    uint64_t region_bytes;
    uint64_t spare1[15];
};

/* Top of book: two cache lines; a quote needs the first only. */
struct kfix_top {
    uint64_t version; /* seqlock: odd while being written */
    int64_t bid;
    int64_t bid_qty;
    int64_t ask;
    int64_t ask_qty;
    int64_t recv_ns; /* receive time of the last message applied */
    uint64_t seq;    /* its MsgSeqNum (34) */
    uint8_t state;
    uint8_t cause;
    uint8_t has;
    uint8_t crc_rule;
    int8_t price_precision;
    int8_t qty_precision;
    uint16_t generation;

    int64_t event_ns; /* line 1 */
    uint64_t updates; /* messages applied */
    uint32_t crc_checked;
    uint32_t crc_failed;
    uint32_t n_bids;
    uint32_t n_asks;
    uint32_t bid_orders; /* L3: orders at the best price */
    uint32_t ask_orders;
    int64_t state_ns;  /* when the state last changed */
    int64_t gap_ns;    /* when the book last left LIVE */
    uint32_t gaps;     /* how many times it did */
    uint8_t gap_state; /* the state it changed to */
    uint8_t gap_cause;
    uint16_t spare0;
};

struct kfix_level {
    int64_t price;
    int64_t qty;
    uint32_t orders; /* number of orders on L3; 0 on L2, where it is unknown */
    int32_t head;    /* L3: row of the first order of the queue, -1 none */
};

/* The best ten of each side, best first. */
struct kfix_best {
    uint64_t version;
    uint32_t n_bids;
    uint32_t n_asks;
    uint8_t state;
    uint8_t cause;
    int8_t price_precision;
    int8_t qty_precision;
    uint32_t spare0;
    uint64_t seq;
    int64_t recv_ns;
    uint64_t spare1[3];
    struct kfix_level bids[KFIX_BEST];
    struct kfix_level asks[KFIX_BEST];
    uint64_t spare2[4];
};

/* All levels: this head, then bids[depth_capacity], then asks[depth_capacity], each sorted so that the best is last.
 * The same version guards the order rows. */
struct kfix_depth {
    uint64_t version;
    uint32_t n_bids;
    uint32_t n_asks;
    uint8_t state;
    uint8_t cause;
    int8_t price_precision;
    int8_t qty_precision;
    uint32_t flags;
    uint64_t seq;
    int64_t recv_ns;
    uint32_t orders_used;  /* rows [0, orders_used) are valid */
    uint32_t orders_ready; /* rows with pages allocated */
    uint32_t n_orders;
    uint32_t spare0;
    uint64_t spare1;
};

/* A row of the order block; a free row has qty 0. */
struct kfix_order {
    int64_t price;
    int64_t qty;
    uint64_t id_hi;
    uint64_t id_lo;
    int64_t queue_ns; /* 5273 */
    int64_t event_ns;
    int32_t prev; /* rows in queue order; -1: none */
    int32_t next;
    uint32_t crc; /* private to the writer */
    uint8_t crc_len;
    uint8_t side; /* 0 bid, 1 offer */
    uint8_t id_kind;
    uint8_t spare0;
};

/* Ring of the last trades: this head, then trades[trades_capacity]; trade i is in row i % trades_capacity. */
struct kfix_trades {
    uint64_t head; /* number of trades written so far */
    uint64_t spare0[7];
};

struct kfix_trade {
    uint64_t stamp; /* 2 * i + 2 when trade i is complete, odd while being written */
    int64_t price;
    int64_t qty;
    int64_t recv_ns;
    int64_t event_ns;
    uint64_t seq;
    uint8_t aggressor; /* 2446: 1 buy, 2 sell, 0 unknown */
    uint8_t ord_type;  /* 40: 1 market, 2 limit, 0 unknown */
    int8_t price_precision;
    int8_t qty_precision;
    uint32_t spare0;
    uint64_t spare1;
};

#ifdef __cplusplus
#define KFIX_SIZE(type, n) static_assert(sizeof(struct type) == (n), #type)
#else
#define KFIX_SIZE(type, n) _Static_assert(sizeof(struct type) == (n), #type)
#endif
KFIX_SIZE(kfix_header, 392);
KFIX_SIZE(kfix_counter, 32);
KFIX_SIZE(kfix_session, 256);
KFIX_SIZE(kfix_symbol, 256);
KFIX_SIZE(kfix_top, 128);
KFIX_SIZE(kfix_level, 24);
KFIX_SIZE(kfix_best, 576);
KFIX_SIZE(kfix_depth, 64);
KFIX_SIZE(kfix_order, 64);
KFIX_SIZE(kfix_trades, 64);
KFIX_SIZE(kfix_trade, 64);

/* ---- state names, and which states are trusted ---- */

static inline const char* kfix_state_name(unsigned state) {
    static const char* const names[] = {"INIT",  "SYNCING", "LIVE",     "EMPTY", "GAP",       "CRC_FAIL",
                                        "STALE", "HALTED",  "ROLLOVER", "DOWN",  "UNVERIFIED"};
    return state < sizeof names / sizeof names[0] ? names[state] : "UNKNOWN";
}

static inline const char* kfix_cause_name(unsigned cause) {
    static const char* const names[] = {"NONE",      "LOST",         "CHECKSUM", "CRC",     "CROSSED",  "MALFORMED",
                                        "PRECISION", "DISCONNECT",   "ROLLOVER", "RESTART", "OVERFLOW", "REJECTED",
                                        "STATUS",    "UNSUBSCRIBED", "NUMBER",   "RULE",    "IDS",      "ROOM",
                                        "LEAVING",   "SUBSCRIBED",   "LAGGING",  "LIMIT"};
    return cause < sizeof names / sizeof names[0] ? names[cause] : "UNKNOWN";
}

/* The prices of a book in this state are proven, provided that its writer lives. */
static inline int kfix_is_trusted(unsigned state) {
    return state == KFIX_STATE_LIVE || state == KFIX_STATE_EMPTY;
}

/* The same, or the prices are unproven and the feed or this reader (`allow_unverified`) accepts them. */
static inline int kfix_is_usable(const struct kfix_header* header, unsigned state, int allow_unverified) {
    return kfix_is_trusted(state) ||
           (state == KFIX_STATE_UNVERIFIED && (allow_unverified || header->flags & KFIX_SERVE_UNVERIFIED));
}

/* ---- atomics: 64-bit words relaxed, ordered by fences; plain moves on x86-64 ---- */

/* Words of any of the structs above; without may_alias the compiler may assume that a copied struct was never
 * written. */
typedef uint64_t __attribute__((__may_alias__)) kfix_word;
typedef uint32_t __attribute__((__may_alias__)) kfix_half;

static inline uint64_t kfix_load(const void* p) {
    return __atomic_load_n((const kfix_word*)p, __ATOMIC_RELAXED);
}
static inline uint64_t kfix_load_acquire(const void* p) {
    return __atomic_load_n((const kfix_word*)p, __ATOMIC_ACQUIRE);
}
static inline uint32_t kfix_load32(const void* p) {
    return __atomic_load_n((const kfix_half*)p, __ATOMIC_ACQUIRE);
}
static inline void kfix_store(void* p, uint64_t v) {
    __atomic_store_n((kfix_word*)p, v, __ATOMIC_RELAXED);
}
static inline void kfix_store_release(void* p, uint64_t v) {
    __atomic_store_n((kfix_word*)p, v, __ATOMIC_RELEASE);
}
static inline void kfix_store32(void* p, uint32_t v) {
    __atomic_store_n((kfix_half*)p, v, __ATOMIC_RELEASE);
}

static inline void kfix_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Messages of this session (kfix_symbol.session) arrive later than max_lag_s: its books are sound, but of the past. */
static inline int kfix_is_lagging(const struct kfix_header* header, unsigned session) {
    return session < 64 && (kfix_load(&header->lagging) >> session & 1);
}

/* ---- elapsed time; `monotonic_ns` is CLOCK_MONOTONIC of the caller ---- */

/* Nanoseconds since the writer's last heartbeat. */
static inline int64_t kfix_silence(const struct kfix_header* header, int64_t monotonic_ns) {
    return (int64_t)((uint64_t)monotonic_ns - kfix_load(&header->heartbeat_ns));
}

/* The segment is open, and its heartbeat is `patience_ns` old at most. (A heartbeat of the future is one of another
 * boot, or of another time namespace.) */
static inline int kfix_is_beating(const struct kfix_header* header, int64_t monotonic_ns, int64_t patience_ns) {
    int64_t silence = kfix_silence(header, monotonic_ns);
    return silence <= patience_ns && silence >= -patience_ns && kfix_load32(&header->closed) == KFIX_OPEN;
}

/* Nanoseconds since a time of the feed, never negative. */
static inline int64_t kfix_age(const struct kfix_header* header, int64_t ns, int64_t monotonic_ns) {
    int64_t age = (int64_t)((uint64_t)monotonic_ns + (uint64_t)header->clock_base_ns - (uint64_t)ns);
    return age > 0 ? age : 0;
}

/* A time of the feed on the wall clock as it is set now; 0 (never) stays 0. */
static inline int64_t kfix_wall(const struct kfix_header* header, int64_t ns) {
    return ns ? (int64_t)((uint64_t)ns + kfix_load(&header->clock_step_ns)) : 0;
}

/* Copy words out of shared memory; bytes is a multiple of 8. */
static inline void kfix_get(void* to, const void* from, size_t bytes) {
    kfix_word* t = (kfix_word*)to;
    const kfix_word* f = (const kfix_word*)from;
    for (size_t i = 0; i < bytes / 8; i++)
        t[i] = kfix_load(f + i);
}

/* The same for many levels, in wide copies: the order of the words does not matter, kfix_read_end has a fence. */
static inline void kfix_get_many(void* to, const void* from, size_t bytes) {
    __asm__ __volatile__("" ::: "memory");
    memcpy(to, from, bytes);
    __asm__ __volatile__("" ::: "memory");
}

/* Writer's side of a seqlock. There is one writer, so a plain load of the version suffices. Between begin and end words
 * may be written by plain stores of any width; the compiler moves them across neither. */
static inline void kfix_write_begin(uint64_t* version) {
    kfix_store(version, *version + 1);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    __asm__ __volatile__("" ::: "memory");
}

static inline void kfix_write_end(uint64_t* version) {
    __asm__ __volatile__("" ::: "memory");
    kfix_store_release(version, *version + 1);
}

/* Copy words into shared memory one by one: a wider load of words just stored would stall on store forwarding. */
static inline void kfix_put(void* to, const void* from, size_t bytes) {
    kfix_word* t = (kfix_word*)to;
    const kfix_word* f = (const kfix_word*)from;
    for (size_t i = 0; i < bytes / 8; i++)
        kfix_store(t + i, f[i]);
}

/* Reader's side: begin, copy words with kfix_get, then end returns whether the copy is consistent. */
static inline uint64_t kfix_read_begin(const uint64_t* version) {
    return kfix_load_acquire(version);
}

static inline int kfix_read_end(const uint64_t* version, uint64_t begun) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return !(begun & 1) && kfix_load(version) == begun;
}

/* Copy a block that starts with its version. Returns 1 when the copy is consistent, 0 when none was within `tries` (the
 * writer stopped inside a write, or publishes without a pause). */
static inline int kfix_read_block(const void* block, void* to, size_t bytes, unsigned tries) {
    const uint64_t* version = (const uint64_t*)block;
    while (tries--) {
        uint64_t begun = kfix_read_begin(version);
        if (!(begun & 1)) {
            kfix_get(to, block, bytes);
            if (kfix_read_end(version, begun)) {
                memcpy(to, &begun, 8);
                return 1;
            }
        }
        kfix_pause();
    }
    return 0;
}

#endif
