/* Segment files of the journal: creation and prefaulting, and the thread that keeps a spare segment ready and what was
 * written on disk. Nothing here runs in the hot path but the atomics and jprefetch. */
#ifndef KFIX_JOURNAL_SEGMENT_H
#define KFIX_JOURNAL_SEGMENT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define JSEG_MAGIC  "KFIXJRN1"
#define JSEG_HEADER 128u
#define JREC_HEADER 32u
#define JSEG_TAIL   64u        /* kept free at the end: decoders may load that far past a frame */
#define JSEG_AHEAD  (1u << 20) /* bytes kept writable in front of the writer */

/* The segment's next bytes were last written by another core: ask for their cache lines, to write to, a record or two
 * before they are written. A line that does not exist is no fault, and where x86-64 has no PREFETCHW it does nothing.
 */
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
    char spare[64];
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

static inline int64_t jclock(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- segments and their keeper ---- */

typedef struct jseg {
    char* base;
    uint64_t size;
    uint64_t used;   /* set when retired */
    uint64_t synced; /* bytes known to be on disk */
    uint32_t number;
    int fd;
    int named; /* carries its session date in its name */
    struct jseg* next;
} jseg;

typedef struct {
    int dirfd;
    int sync_ms;
    uint64_t segment_bytes;
    pthread_t thread;
    pthread_mutex_t lock; /* one maker of segments at a time */
    pthread_cond_t wake;
    int running;
    int stop;
    int error;      /* errno of the latest failure to make a segment; 0: well */
    int sync_error; /* errno of the latest failure to sync; 0: well */
    uint32_t next_number;
    uint64_t made, made_inline, syncs, sync_failed;
    int64_t synced_ns; /* everything written before this time is on disk */
    uint64_t synced;   /* position up to which everything is on disk */
    int64_t sync_max_ns;
    int64_t exposed_max_ns; /* longest a record may have waited to be on disk: from one sync's start to the next one's
                               end */
    jseg* spare;
    jseg* active;
    uint64_t written; /* committed bytes of the active segment */
    jseg* retired;    /* stack, pushed by the writer */
} jio;

static void jio_name(char* out, size_t n, uint32_t number, int32_t date) {
    if (date == 0) {
        snprintf(out, n, "spare.%010u.kfj", number);
        return;
    }
    time_t t = (time_t)date * 86400;
    struct tm d;
    gmtime_r(&t, &d);
    snprintf(out, n, "%04d-%02d-%02d.%010u.kfj", (d.tm_year + 1900) % 10000, d.tm_mon + 1, d.tm_mday, number);
}

static void jio_prefault(char* base, uint64_t n) {
#ifdef MADV_POPULATE_WRITE
    if (madvise(base, n, MADV_POPULATE_WRITE) == 0)
        return;
#endif
    for (uint64_t i = 0; i < n; i += 4096) /* adds nothing: keeps what the writer may have put there */
        __atomic_fetch_or((uint8_t*)(base + i), 0, __ATOMIC_RELAXED);
}

/* Make the next segment: blocks reserved (so that a full disk is an error here, not SIGBUS later), mapped,
 * every page present. NULL with errno on failure, and nothing left behind. */
static jseg* jio_make(jio* io, uint64_t size) {
    char name[64];
    uint32_t number = io->next_number;
    jio_name(name, sizeof name, number, 0);
    jseg* s = (jseg*)calloc(1, sizeof *s);
    if (!s)
        return errno = ENOMEM, (jseg*)NULL;
    s->number = number, s->size = size, s->synced = 0;
    s->fd = openat(io->dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int failed = s->fd < 0 ? errno : posix_fallocate(s->fd, 0, (off_t)size);
    if (!failed) {
        s->base = (char*)mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
        if (s->base == (char*)MAP_FAILED)
            failed = errno;
    }
    if (failed) {
        if (s->fd >= 0)
            close(s->fd), unlinkat(io->dirfd, name, 0);
        free(s);
        return errno = failed, (jseg*)NULL;
    }
    jio_prefault(s->base, size);
    jseg_header* h = (jseg_header*)s->base;
    h->version = 1, h->header_bytes = JSEG_HEADER, h->number = number, h->size = size;
    h->created_ns = jclock(), h->pid = getpid();
    memcpy(h->magic, JSEG_MAGIC, 8);
    fsync(io->dirfd);
    io->next_number = number + 1;
    io->made++;
    return s;
}

/* Put [synced, to) on disk, header page included. */
static int jio_sync_to(jseg* s, uint64_t to) {
    uint64_t from = s->synced & ~(uint64_t)4095;
    if (to > s->synced && msync(s->base + from, to - from, MS_SYNC) != 0)
        return errno;
    if (from && msync(s->base, 4096, MS_SYNC) != 0)
        return errno;
    s->synced = to;
    return 0;
}

static void jio_date_name(jio* io, jseg* s) {
    char from[64], to[64];
    int32_t date = ((jseg_header*)s->base)->date;
    if (s->named || !date)
        return;
    jio_name(from, sizeof from, s->number, 0);
    jio_name(to, sizeof to, s->number, date);
    if (renameat(io->dirfd, from, io->dirfd, to) == 0)
        fsync(io->dirfd);
    s->named = 1;
}

static void jio_sync_failed(jio* io, int error) {
    io->sync_failed++;
    __atomic_store_n(&io->sync_error, error, __ATOMIC_RELAXED);
}

static void jio_release(jio* io, jseg* s) {
    int e = jio_sync_to(s, s->used);
    if (e)
        jio_sync_failed(io, e);
    jio_date_name(io, s);
    uint64_t from = (s->used + 4095) & ~(uint64_t)4095;
#ifdef FALLOC_FL_PUNCH_HOLE
    /* give the unused blocks back; the size stays, for readers have all of it mapped */
    if (from < s->size && fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                                    (off_t)(s->size - from)) != 0) { /* not every file system can */
    }
#else
    (void)from;
#endif
    munmap(s->base, s->size);
    close(s->fd);
    free(s);
}

static int jio_discard_spare(jio* io) {
    jseg* s = __atomic_exchange_n(&io->spare, NULL, __ATOMIC_ACQ_REL);
    if (!s)
        return 0;
    char name[64];
    jio_name(name, sizeof name, s->number, 0);
    unlinkat(io->dirfd, name, 0);
    munmap(s->base, s->size);
    close(s->fd);
    free(s);
    return 1;
}

static void jio_release_retired(jio* io) {
    jseg* s = __atomic_exchange_n(&io->retired, NULL, __ATOMIC_ACQ_REL);
    while (s) {
        jseg* next = s->next;
        jio_release(io, s);
        s = next;
    }
}

/* Caller holds the lock. */
static void jio_keep_spare(jio* io) {
    if (__atomic_load_n(&io->spare, __ATOMIC_ACQUIRE))
        return;
    jseg* s = jio_make(io, io->segment_bytes);
    __atomic_store_n(&io->error, s ? 0 : errno, __ATOMIC_RELAXED);
    if (s)
        __atomic_store_n(&io->spare, s, __ATOMIC_RELEASE);
}

/* How long it took; -1 when it has to be tried again in a moment: the writer went on to another segment meanwhile. */
static int64_t jio_sync_active(jio* io) {
    int64_t start = jclock();
    jseg* s = __atomic_load_n(&io->active, __ATOMIC_ACQUIRE);
    uint64_t to = __atomic_load_n(&io->written, __ATOMIC_ACQUIRE);
    /* the pair may be torn by a roll in between: then the old one is in the retired list and synced there */
    if (!s || s != __atomic_load_n(&io->active, __ATOMIC_ACQUIRE) || to > s->size)
        return s ? -1 : 0;
    /* what was retired meanwhile is synced first, at the next turn, else `synced` would say too much */
    if (__atomic_load_n(&io->retired, __ATOMIC_ACQUIRE))
        return -1;
    jio_date_name(io, s);
    int e = jio_sync_to(s, to);
    if (e)
        return jio_sync_failed(io, e), 0;
    __atomic_store_n(&io->sync_error, 0, __ATOMIC_RELAXED);
    /* writeback made the pages read-only again: fault them in here rather than under the writer */
    uint64_t from = to & ~(uint64_t)4095, n = s->size - from < JSEG_AHEAD ? s->size - from : JSEG_AHEAD;
    jio_prefault(s->base + from, n);
    int64_t end = jclock();
    io->syncs++;
    if (end - start > io->sync_max_ns)
        io->sync_max_ns = end - start;
    if (io->synced_ns && end - io->synced_ns > io->exposed_max_ns)
        io->exposed_max_ns = end - io->synced_ns;
    __atomic_store_n(&io->synced, (uint64_t)s->number << 32 | to, __ATOMIC_RELEASE);
    __atomic_store_n(&io->synced_ns, start, __ATOMIC_RELEASE);
    return end - start;
}

static void* jio_run(void* arg) {
    jio* io = (jio*)arg;
    int64_t last_sync = 0, last_try = 0;
    pthread_mutex_lock(&io->lock);
    while (!io->stop) {
        int64_t now = jclock();
        if (!__atomic_load_n(&io->error, __ATOMIC_RELAXED) || now - last_try > 200000000 || now < last_try) {
            jio_keep_spare(io);
            last_try = now;
        }
        pthread_mutex_unlock(&io->lock);
        jio_release_retired(io);
        if (now - last_sync >= (int64_t)io->sync_ms * 1000000 || now < last_sync) {
            /* the next one so early that it ends sync_ms after this one began; a turn of 1 ms when this one could not
             * be */
            int64_t every = (int64_t)io->sync_ms * 1000000, took = jio_sync_active(io);
            last_sync = now - (took < 0 ? every - 1000000 : took < every / 2 ? took : every / 2);
        }
        pthread_mutex_lock(&io->lock);
        int64_t due = last_sync + (int64_t)io->sync_ms * 1000000, at = jclock() + 10000000;
        if (due < at)
            at = due;
        struct timespec until = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
        if (!io->stop)
            pthread_cond_timedwait(&io->wake, &io->lock, &until);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

static jio* jio_open(int dirfd, uint64_t segment_bytes, uint32_t next_number, int sync_ms) {
    jio* io = (jio*)calloc(1, sizeof *io);
    if (!io)
        return NULL;
    io->dirfd = dirfd, io->segment_bytes = segment_bytes, io->next_number = next_number, io->sync_ms = sync_ms;
    pthread_mutex_init(&io->lock, NULL);
    pthread_cond_init(&io->wake, NULL);
    jio_keep_spare(io); /* says at once when the directory cannot hold a segment */
    io->running = pthread_create(&io->thread, NULL, jio_run, io) == 0;
    return io;
}

static void jio_close(jio* io) {
    if (io->running) {
        pthread_mutex_lock(&io->lock);
        io->stop = 1;
        pthread_cond_signal(&io->wake);
        pthread_mutex_unlock(&io->lock);
        pthread_join(io->thread, NULL);
    }
    jio_release_retired(io);
    jio_discard_spare(io);
    fsync(io->dirfd);
    close(io->dirfd);
    pthread_mutex_destroy(&io->lock);
    pthread_cond_destroy(&io->wake);
    free(io);
}

/* The next segment with room for `need` bytes. Normally the spare, without a system call; made here when the
 * thread was outrun or the record is larger than a segment. NULL when the disk does not give it. */
static jseg* jio_take(jio* io, uint64_t need) {
    jseg* s = NULL;
    if (need + JSEG_HEADER + JSEG_TAIL <= io->segment_bytes)
        s = __atomic_exchange_n(&io->spare, NULL, __ATOMIC_ACQ_REL);
    if (s || __atomic_load_n(&io->error, __ATOMIC_RELAXED))
        return s;
    pthread_mutex_lock(&io->lock);
    uint64_t size = (need + JSEG_HEADER + JSEG_TAIL + 4095) & ~(uint64_t)4095;
    if (size <= io->segment_bytes) {
        size = io->segment_bytes;
        s = __atomic_exchange_n(&io->spare, NULL, __ATOMIC_ACQ_REL); /* made while we waited */
    } else {
        io->next_number -= (uint32_t)jio_discard_spare(io); /* numbers must follow the order of writing */
    }
    if (!s) {
        s = jio_make(io, size);
        __atomic_store_n(&io->error, s ? 0 : errno, __ATOMIC_RELAXED);
        io->made_inline += s != NULL;
    }
    pthread_mutex_unlock(&io->lock);
    return s;
}

/* Seal the active segment at `used` and make `s` the active one. The sealed one is with the retired before the next
 * one is active, so that the thread cannot take the next one for all there is. */
static void jio_switch(jio* io, jseg* s, uint64_t used, int32_t date, uint32_t reason) {
    jseg* old = io->active;
    if (s)
        ((jseg_header*)s->base)->date = date;
    __atomic_store_n(&io->active, (jseg*)NULL, __ATOMIC_SEQ_CST);
    __atomic_store_n(&io->written, JSEG_HEADER, __ATOMIC_RELEASE);
    if (old) {
        jseg_header* h = (jseg_header*)old->base;
        h->reason = reason;
        jstore64(&h->sealed_end, used);
        old->used = used;
        old->next = __atomic_load_n(&io->retired, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&io->retired, &old->next, old, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
        }
    }
    __atomic_store_n(&io->active, s, __ATOMIC_RELEASE);
}

#endif
