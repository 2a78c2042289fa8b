/* Segment files of the journal: the layout on disk, the inline functions of the hot path, and the interface of
 * segment.c, whose thread keeps the next segment ready and puts on disk what was written. */
#ifndef KFIX_JOURNAL_SEGMENT_H
#define KFIX_JOURNAL_SEGMENT_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define JSEG_MAGIC   "KFIXJRN1"
#define JSEG_VERSION 2u /* 1: without checksums of the header */
#define JSEG_HEADER  ((uint32_t)sizeof(jseg_header))
#define JREC_HEADER  ((uint32_t)sizeof(jrec_header))
#define JSEG_TAIL    64u /* kept free at the end: decoders may load that far past a frame */

/* why a segment was sealed */
enum { JSEAL_OPEN = 0, JSEAL_SIZE = 1, JSEAL_DATE = 2, JSEAL_CLOSED = 3, JSEAL_RECOVERED = 4, JSEAL_FAULT = 5 };

/* ---- layout: little endian, see docs/journal.md ---- */

typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint64_t number;
    uint64_t size;
    int32_t date;        /* trading session date, days since 1970-01-01; 0 while the segment is a spare */
    uint32_t reason;     /* why it was sealed */
    uint64_t sealed_end; /* 0 while open; stored last */
    int64_t created_ns;
    int64_t pid;
    uint32_t crc;      /* of what never changes: offsets 0 to 31 and 48 to 63; the three are CRC32C, since layout 2 */
    uint32_t date_crc; /* of number and date; stored before the date */
    uint32_t seal_crc; /* of number, reason and sealed_end; stored before sealed_end */
    char spare[52];
} jseg_header;

typedef struct {
    uint32_t length; /* header and body; 0 until committed, stored last */
    uint32_t crc;    /* CRC32C of the rest of the header and the body */
    uint16_t kind;
    uint16_t session;
    uint16_t flags;
    uint16_t spare;
    int64_t recv_ns;
    uint64_t position; /* of this record: segment number << 32 | offset */
} jrec_header;

_Static_assert(sizeof(jseg_header) == 128 && sizeof(jrec_header) == 32, "the layout on disk is fixed");

/* CRC32C, see c/crc32c.h */
typedef uint32_t (*jcrc_fn)(uint32_t, const void*, size_t);

static inline uint32_t jseg_crc_of(jcrc_fn run, const void* a, size_t n, const void* b, size_t m) {
    return ~run(run(0xFFFFFFFFu, a, n), b, m);
}
static inline uint32_t jseg_crc(jcrc_fn run, const jseg_header* h) {
    return jseg_crc_of(run, h, offsetof(jseg_header, date), &h->created_ns, 16);
}
static inline uint32_t jseg_date_crc(jcrc_fn run, uint64_t number, int32_t date) {
    return jseg_crc_of(run, &number, sizeof number, &date, sizeof date);
}
static inline uint32_t jseg_seal_crc(jcrc_fn run, uint64_t number, uint32_t reason, uint64_t sealed_end) {
    struct {
        uint64_t reason, sealed_end;
    } seal = {reason, sealed_end};
    return jseg_crc_of(run, &number, sizeof number, &seal, sizeof seal);
}

static inline uint32_t jload32(const void* p) {
    return __atomic_load_n((const uint32_t*)p, __ATOMIC_ACQUIRE);
}
static inline uint64_t jload64(const void* p) {
    return __atomic_load_n((const uint64_t*)p, __ATOMIC_ACQUIRE);
}
static inline void jstore32(void* p, uint32_t v) {
    __atomic_store_n((uint32_t*)p, v, __ATOMIC_RELEASE);
}
static inline void jstore64(void* p, uint64_t v) {
    __atomic_store_n((uint64_t*)p, v, __ATOMIC_RELEASE);
}

/* Prefetches the cache lines of the segment that the next record or two will be written to: another core wrote them
 * last. A prefetch of an unmapped line is no fault, and where x86-64 has no PREFETCHW it is a no-op. */
static inline void jprefetch(const void* p) {
    for (int i = 0; i < 8; i++) {
        const char* line = (const char*)((uintptr_t)p + 768 + 64u * (unsigned)i);
#if defined(__x86_64__)
        __asm__ __volatile__("prefetchw %0" : : "m"(*line));
#else
        __builtin_prefetch(line, 1);
#endif
    }
}

static inline int64_t jclock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- open segments and the thread that keeps them (segment.c) ---- */

typedef struct jseg {
    char* base;
    uint64_t size;
    uint64_t used;   /* set when retired */
    uint64_t synced; /* bytes known to be on disk */
    uint32_t number;
    int fd;
    int dated;        /* carries its session date in its name, */
    int named;        /* and the directory is on disk with that name */
    uint32_t reason;  /* why it was sealed, set when retired */
    jseg_header head; /* as it was when the segment became the active one */
    /* after a failed sync the kernel may drop the pages: what is not on disk is kept here as well */
    char* copy;
    uint64_t copy_from, copy_to, copy_room;
    int failed; /* errno of the sync that failed, or 0: no later sync of this file is to be believed */
    struct jseg* next;
} jseg;

typedef struct {
    int dirfd;
    jcrc_fn crc;
    int sync_ms;
    uint64_t segment_bytes;
    pthread_t thread;
    pthread_mutex_t lock; /* one maker of segments at a time */
    pthread_cond_t wake;
    int running;
    int stop;
    int error;      /* errno of the latest failure to make a segment, or 0 */
    int sync_error; /* errno of the latest failure to sync, or 0 */
    uint32_t next_number;
    uint64_t made, made_inline, syncs, sync_failed;
    int64_t synced_ns;  /* everything written before this time of day is on disk, */
    int64_t synced_run; /* and the same by CLOCK_MONOTONIC, which measures all that lasts; 0: nothing yet */
    uint64_t synced;    /* position up to which everything is on disk */
    int64_t sync_max_ns;
    int64_t exposed_max_ns; /* longest a record may have waited to be on disk: from one sync's start to the next one's
                               end */
    jseg* spare;
    jseg* active;
    uint64_t written;                  /* committed bytes of the active segment */
    int leave;                         /* the active segment could not be synced, and the next one is ready */
    jseg* retired;                     /* stack, pushed by the writer */
    jseg* kept;                        /* retired, and not on disk yet: tried again and again */
    uint64_t rescued;                  /* segments written again in another file */
    uint64_t rescue_lost;              /* bytes of these that were gone */
    uint64_t risk_records, risk_bytes; /* what a power failure would cost now because of failed syncs */
} jio;

/* Starts the thread. NULL when there is no memory; `error` and `running` report a directory that cannot hold a segment
 * and a thread that cannot be started. Takes over `dirfd`. */
jio* jio_open(int dirfd, uint64_t segment_bytes, uint32_t next_number, int sync_ms, jcrc_fn crc);

/* Stops the thread, puts everything on disk and frees `io`. Returns how many bytes the disk did not take. */
uint64_t jio_close(jio* io);

/* Returns the next segment with room for `need` bytes. Normally the spare, without a system call; made here when the
 * thread was outrun or the record is larger than a segment. NULL when the disk has no room for it. */
jseg* jio_take(jio* io, uint64_t need);

/* Seals the active segment at `used` and makes `s` the active one. */
void jio_switch(jio* io, jseg* s, uint64_t used, int32_t date, uint32_t reason);

#endif
