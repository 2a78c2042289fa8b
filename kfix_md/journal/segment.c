/* Creates and prefaults segment files of the journal, and runs the thread that keeps the next one ready and syncs. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "journal/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define JSEG_AHEAD  (1u << 20)   /* bytes kept writable in front of the writer */
#define JSEG_COPIES (256u << 20) /* bytes of memory for segments that cannot be put on disk */
#define JIO_AGAIN   200000000    /* ns after which what failed is tried again */
#define JIO_QUIET   1000000000   /* ns after which a journal to which nothing was added is looked after again */
#define JIO_SOON    10000000     /* ns after which the next look is while something is added */

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

/* The thread may have the loop's core, and a kernel without preemption does not leave a call for a loop that wakes up:
 * it waited for up to 19 ms at each change of segments. So calls are short, and no page brings others with it by
 * readahead, which on a new file zeroes megabytes at once. */
#define JIO_PIECE (256u << 10)

static uint64_t jio_piece(uint64_t from, uint64_t n) {
    return n - from < JIO_PIECE ? n - from : JIO_PIECE;
}

static void jio_prefault(char* base, uint64_t n) {
    uint64_t i = 0;
#ifdef MADV_POPULATE_WRITE
    while (i < n && madvise(base + i, jio_piece(i, n), MADV_POPULATE_WRITE) == 0)
        i += jio_piece(i, n);
#endif
    for (; i < n; i += 4096) /* adding 0 keeps what the writer may have written there */
        __atomic_fetch_or((uint8_t*)(base + i), 0, __ATOMIC_RELAXED);
}

/* Makes the next segment: blocks reserved (so that a full disk is an error here, not SIGBUS later), mapped, every page
 * present. NULL with errno on failure, and no file remains. */
static jseg* jio_make(jio* io, uint64_t size) {
    char name[64];
    uint32_t number = io->next_number;
    jio_name(name, sizeof name, number, 0);
    jseg* s = (jseg*)calloc(1, sizeof *s);
    if (!s)
        return errno = ENOMEM, (jseg*)NULL;
    s->number = number, s->size = size, s->synced = 0;
    s->fd = openat(io->dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
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
    madvise(s->base, size, MADV_RANDOM);
    jio_prefault(s->base, size);
    jseg_header* h = (jseg_header*)s->base;
    h->version = JSEG_VERSION, h->header_bytes = JSEG_HEADER, h->number = number, h->size = size;
    h->created_ns = jclock(CLOCK_REALTIME), h->pid = getpid();
    memcpy(h->magic, JSEG_MAGIC, 8);
    h->crc = jseg_crc(io->crc, h);
    fsync(io->dirfd);
    io->next_number = number + 1;
    io->made++;
    return s;
}

/* Keeps what is about to be synced, up to `to`. Without memory for it a failed sync may cost records. */
static void jio_keep_copy(jseg* s, uint64_t to) {
    if (s->copy_to < s->synced || s->copy_from > s->synced)
        s->copy_from = s->copy_to = s->synced;
    uint64_t need = to - s->copy_from;
    if (need > s->copy_room) {
        char* grown = (char*)realloc(s->copy, need);
        if (!grown)
            return;
        s->copy = grown, s->copy_room = need;
    }
    if (to > s->copy_to)
        memcpy(s->copy + (s->copy_to - s->copy_from), s->base + s->copy_to, to - s->copy_to);
    s->copy_to = to;
}

static int jio_write_all(int fd, const char* data, uint64_t n, uint64_t at) {
    while (n) {
        ssize_t done = pwrite(fd, data, n, (off_t)at);
        if (done < 0 && errno != EINTR)
            return errno;
        if (done > 0)
            data += done, at += (uint64_t)done, n -= (uint64_t)done;
    }
    return 0;
}

/* Writes what a failed sync may have dropped into the page cache again: for readers, and for what the writer still adds
 * on the last page. By calls, since touching a page that the disk does not give back would be SIGBUS. */
static void jio_restore(const jseg* s) {
    char magic[8];
    if (pread(s->fd, magic, sizeof magic, 0) != sizeof magic || memcmp(magic, JSEG_MAGIC, sizeof magic) != 0)
        jio_write_all(s->fd, (const char*)&s->head, sizeof s->head, 0);
    if (s->copy_to > s->copy_from)
        jio_write_all(s->fd, s->copy, s->copy_to - s->copy_from, s->copy_from);
}

/* Linux reports a failed writeback once, takes the pages for clean and may drop them, so that the next sync succeeds:
 * after an error this file is never synced again. Returns errno. */
static int jio_sync_failed(jio* io, jseg* s) {
    s->failed = errno;
    io->sync_failed++;
    jio_restore(s);
    return s->failed;
}

/* Puts [synced, to) on disk, header page included. Returns 0 or errno. */
static int jio_sync_to(jio* io, jseg* s, uint64_t to) {
    uint64_t from = s->synced & ~(uint64_t)4095;
    jio_keep_copy(s, to);
    if (s->failed)
        return s->failed;
    if ((to > s->synced && msync(s->base + from, to - from, MS_SYNC) != 0) ||
        (from && msync(s->base, 4096, MS_SYNC) != 0))
        return jio_sync_failed(io, s);
    s->synced = s->copy_from = s->copy_to = to;
    return 0;
}

/* Gives a segment its session date in its name. Returns 0 or errno. */
static int jio_date_name(jio* io, jseg* s) {
    char from[64], to[64];
    if (s->named || !s->head.date)
        return 0;
    jio_name(from, sizeof from, s->number, 0);
    jio_name(to, sizeof to, s->number, s->head.date);
    if (!s->dated && renameat(io->dirfd, from, io->dirfd, to) != 0 && errno != ENOENT) /* ENOENT: somebody deleted it */
        return errno;
    s->dated = 1;
    if (fsync(io->dirfd) != 0)
        return errno;
    s->named = 1;
    return 0;
}

/* The byte range [from, to) of a segment into the file `fd`: from the copy where there is one. */
static int jio_write_again(int fd, const jseg* s, uint64_t from, uint64_t to) {
    char piece[65536];
    while (from < to) {
        if (from >= s->copy_from && from < s->copy_to) {
            uint64_t n = (to < s->copy_to ? to : s->copy_to) - from;
            int e = jio_write_all(fd, s->copy + (from - s->copy_from), n, from);
            if (e)
                return e;
            from += n;
            continue;
        }
        uint64_t limit = from < s->copy_from && s->copy_from < to ? s->copy_from : to, n = limit - from;
        ssize_t got = pread(s->fd, piece, n < sizeof piece ? n : sizeof piece, (off_t)from);
        if (got <= 0)
            return got < 0 ? errno : EIO;
        int e = jio_write_all(fd, piece, (uint64_t)got, from);
        if (e)
            return e;
        from += (uint64_t)got;
    }
    return 0;
}

/* How many sound records the copy has. */
static uint64_t jio_records_kept(const jio* io, const jseg* s) {
    uint64_t at = s->copy_from < JSEG_HEADER ? JSEG_HEADER : s->copy_from; /* never synced: with its header */
    uint64_t records = 0;
    while (at + JREC_HEADER <= s->copy_to) {
        const char* p = s->copy + (at - s->copy_from);
        jrec_header h;
        memcpy(&h, p, sizeof h);
        if (h.length < JREC_HEADER || at + h.length > s->copy_to || h.position != ((uint64_t)s->number << 32 | at) ||
            h.crc != ~io->crc(0xFFFFFFFFu, p + 8, h.length - 8))
            break;
        at += (h.length + 7u) & ~(uint64_t)7;
        records++;
    }
    return records;
}

/* How many bytes of a segment that was written again, in the file `fd`, follow its last sound record: of what had not
 * been synced, where there was no memory for a copy the page cache may have lost some. */
static uint64_t jio_lost(const jio* io, const jseg* s, int fd) {
    char piece[65536];
    uint64_t at = s->synced < JSEG_HEADER ? JSEG_HEADER : s->synced;
    jrec_header h;
    while (at + JREC_HEADER <= s->used && pread(fd, &h, sizeof h, (off_t)at) == (ssize_t)sizeof h) {
        uint64_t from = at + 8, end = at + h.length;
        uint32_t crc = 0xFFFFFFFFu;
        ssize_t got = 1;
        if (h.length < JREC_HEADER || end > s->used || h.position != ((uint64_t)s->number << 32 | at))
            break;
        for (; from < end && got > 0; from += (uint64_t)got) {
            uint64_t n = end - from < sizeof piece ? end - from : sizeof piece;
            got = pread(fd, piece, n, (off_t)from);
            if (got > 0)
                crc = io->crc(crc, piece, (size_t)got);
        }
        if (got <= 0 || h.crc != ~crc)
            break;
        at += (h.length + 7u) & ~(uint64_t)7;
    }
    return s->used > at ? s->used - at : 0;
}

/* Writes a sealed segment that could not be synced again, whole, into another file, which then takes its name. Returns
 * 0 or errno. */
static int jio_rescue(jio* io, jseg* s) {
    char part[64], name[64];
    jseg_header h = s->head;
    uint64_t lost;
    h.reason = s->reason, h.sealed_end = s->used;
    h.seal_crc = jseg_seal_crc(io->crc, s->number, h.reason, h.sealed_end);
    snprintf(part, sizeof part, "rescue.%010u.kfj", s->number);
    jio_name(name, sizeof name, s->number, s->dated ? h.date : 0);
    if (faccessat(io->dirfd, name, F_OK, 0) != 0) /* recorded and retired in the meantime */
        return errno == ENOENT ? 0 : errno;
    int fd = openat(io->dirfd, part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd < 0)
        return errno;
    int e = jio_write_all(fd, (const char*)&h, sizeof h, 0);
    if (!e)
        e = jio_write_again(fd, s, JSEG_HEADER, s->used);
    if (!e && (ftruncate(fd, (off_t)(s->used + JSEG_TAIL)) != 0 || fsync(fd) != 0))
        e = errno;
    lost = e ? 0 : jio_lost(io, s, fd);
    close(fd);
    if (!e && (renameat(io->dirfd, part, io->dirfd, name) != 0 || fsync(io->dirfd) != 0))
        e = errno;
    if (e)
        return unlinkat(io->dirfd, part, 0), e;
    io->rescued++;
    io->rescue_lost += lost;
    return 0;
}

static void jio_free(jseg* s) {
    for (uint64_t i = 0; i < s->size; i += JIO_PIECE)
        munmap(s->base + i, jio_piece(i, s->size));
    close(s->fd);
    free(s->copy);
    free(s);
}

/* Puts a sealed segment on disk and lets go of it. Returns 0, or errno and keeps it. */
static int jio_release(jio* io, jseg* s) {
    int e = jio_date_name(io, s);
    if (jio_sync_to(io, s, s->used) != 0)
        e = jio_rescue(io, s);
    else if (!e && s->used > JSEG_HEADER && msync(s->base, 4096, MS_SYNC) != 0) /* its end */
        e = jio_sync_failed(io, s);
    if (!e)
        e = jio_date_name(io, s);
    if (e)
        return e;
    uint64_t from = (s->used + 4095) & ~(uint64_t)4095;
#ifdef FALLOC_FL_PUNCH_HOLE
    /* frees the unused blocks; the size stays, because readers have all of it mapped */
    if (from < s->size && fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                                    (off_t)(s->size - from)) != 0) { /* not every file system can */
    }
#else
    (void)from;
#endif
    jio_free(s);
    return 0;
}

static int jio_discard_spare(jio* io) {
    jseg* s = __atomic_exchange_n(&io->spare, NULL, __ATOMIC_ACQ_REL);
    if (!s)
        return 0;
    char name[64];
    jio_name(name, sizeof name, s->number, 0);
    unlinkat(io->dirfd, name, 0);
    jio_free(s);
    return 1;
}

/* Releases a list of segments; those that the disk does not take are kept. */
static void jio_release_list(jio* io, jseg* s) {
    while (s) {
        jseg* next = s->next;
        int e = jio_release(io, s);
        if (e) {
            __atomic_store_n(&io->sync_error, e, __ATOMIC_RELAXED);
            s->next = io->kept, io->kept = s;
        }
        s = next;
    }
}

static void jio_release_retired(jio* io) {
    jio_release_list(io, __atomic_exchange_n(&io->retired, NULL, __ATOMIC_ACQ_REL));
}

static void jio_release_kept(jio* io) {
    jseg* s = io->kept;
    io->kept = NULL;
    jio_release_list(io, s);
}

/* Counts what only memory has because of failed syncs, and bounds the memory for it: without its copy a segment is
 * written again from what the page cache still has. */
static void jio_weigh_risk(jio* io, const jseg* active) {
    uint64_t records = 0, bytes = 0, copies = 0;
    for (jseg* s = io->kept; s; s = s->next) {
        records += jio_records_kept(io, s);
        bytes += s->used - s->synced;
        copies += s->copy_room;
        if (copies > JSEG_COPIES)
            copies -= s->copy_room, free(s->copy), s->copy = NULL, s->copy_room = s->copy_from = s->copy_to = 0;
    }
    if (active && active->failed) {
        records += jio_records_kept(io, active);
        bytes += active->copy_to - active->synced;
    }
    __atomic_store_n(&io->risk_records, records, __ATOMIC_RELAXED);
    __atomic_store_n(&io->risk_bytes, bytes, __ATOMIC_RELAXED);
}

/* The caller holds the lock. */
static void jio_keep_spare(jio* io) {
    if (__atomic_load_n(&io->spare, __ATOMIC_ACQUIRE))
        return;
    jseg* s = jio_make(io, io->segment_bytes);
    __atomic_store_n(&io->error, s ? 0 : errno, __ATOMIC_RELAXED);
    if (s)
        __atomic_store_n(&io->spare, s, __ATOMIC_RELEASE);
}

static void jio_note_synced(jio* io, int64_t run, int64_t now_ns) {
    io->synced_run = run;
    __atomic_store_n(&io->synced_ns, now_ns, __ATOMIC_RELEASE);
}

/* Returns how long it took in ns; -1 when it must be tried again soon because the writer changed segments meanwhile.
 * `last`: when all of it was done, here or at the last call that did so. */
static int64_t jio_sync_active(jio* io, int64_t* last) {
    int64_t start = jclock(CLOCK_MONOTONIC), start_ns = jclock(CLOCK_REALTIME);
    jseg* s = __atomic_load_n(&io->active, __ATOMIC_ACQUIRE);
    uint64_t to = __atomic_load_n(&io->written, __ATOMIC_ACQUIRE);
    /* the pair may be torn by a roll in between: then the old one is in the retired list and synced there */
    if (!s || s != __atomic_load_n(&io->active, __ATOMIC_ACQUIRE) || to > s->size)
        return s ? -1 : 0;
    /* segments retired meanwhile are synced first, at the next turn: `synced` covers all earlier segments */
    if (__atomic_load_n(&io->retired, __ATOMIC_ACQUIRE))
        return -1;
    /* all of it is on disk, and its pages ready for the writer for as long as the kernel does not write them back */
    if (io->synced == ((uint64_t)s->number << 32 | to) && start - *last < JIO_QUIET) {
        jio_note_synced(io, start, start_ns);
        return 0;
    }
    int e = jio_date_name(io, s), e_sync = jio_sync_to(io, s, to);
    jio_weigh_risk(io, s);
    if (e || e_sync) {
        __atomic_store_n(&io->sync_error, e_sync ? e_sync : e, __ATOMIC_RELAXED);
        /* the writer goes on in the next segment, and this one is written again when it is sealed */
        if (e_sync && __atomic_load_n(&io->spare, __ATOMIC_ACQUIRE))
            __atomic_store_n(&io->leave, 1, __ATOMIC_RELEASE);
        return 0;
    }
    if (io->kept) /* `synced` covers all earlier segments */
        return 0;
    __atomic_store_n(&io->sync_error, 0, __ATOMIC_RELAXED);
    /* writeback made the pages read-only again: fault them in here rather than under the writer */
    uint64_t from = to & ~(uint64_t)4095, n = s->size - from < JSEG_AHEAD ? s->size - from : JSEG_AHEAD;
    jio_prefault(s->base + from, n);
    int64_t end = jclock(CLOCK_MONOTONIC);
    io->syncs++;
    if (end - start > io->sync_max_ns)
        io->sync_max_ns = end - start;
    if (io->synced_run && end - io->synced_run > io->exposed_max_ns)
        io->exposed_max_ns = end - io->synced_run;
    __atomic_store_n(&io->synced, (uint64_t)s->number << 32 | to, __ATOMIC_RELEASE);
    jio_note_synced(io, start, start_ns);
    *last = start;
    return end - start;
}

static void* jio_run(void* arg) {
    jio* io = (jio*)arg;
    id_t own = (id_t)syscall(SYS_gettid);
    setpriority(PRIO_PROCESS, own, getpriority(PRIO_PROCESS, own) + 10); /* the loop goes first */
    int64_t last_sync = 0, last_try = 0, last_kept = 0, last_whole = 0;
    uint64_t seen = 0;
    pthread_mutex_lock(&io->lock);
    while (!io->stop) {
        int64_t now = jclock(CLOCK_MONOTONIC);
        if (!__atomic_load_n(&io->error, __ATOMIC_RELAXED) || now - last_try > JIO_AGAIN) {
            jio_keep_spare(io);
            last_try = now;
        }
        pthread_mutex_unlock(&io->lock);
        jio_release_retired(io);
        if (io->kept && now - last_kept > JIO_AGAIN) {
            jio_release_kept(io);
            last_kept = now;
        }
        if (now - last_sync >= (int64_t)io->sync_ms * 1000000) {
            /* the next sync starts so early that it ends sync_ms after this one began; in 1 ms when this one has to be
             * tried again */
            int64_t every = (int64_t)io->sync_ms * 1000000, took = jio_sync_active(io, &last_whole);
            last_sync = now - (took < 0 ? every - 1000000 : took < every / 2 ? took : every / 2);
        }
        pthread_mutex_lock(&io->lock);
        int64_t at = last_sync + (int64_t)io->sync_ms * 1000000, soon = jclock(CLOCK_MONOTONIC) + JIO_SOON;
        uint64_t written = __atomic_load_n(&io->written, __ATOMIC_RELAXED);
        if (soon < at && (written != seen || !__atomic_load_n(&io->spare, __ATOMIC_RELAXED)))
            at = soon;
        seen = written;
        struct timespec until = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
        if (!io->stop)
            pthread_cond_timedwait(&io->wake, &io->lock, &until);
    }
    pthread_mutex_unlock(&io->lock);
    return NULL;
}

jio* jio_open(int dirfd, uint64_t segment_bytes, uint32_t next_number, int sync_ms, jcrc_fn crc) {
    jio* io = (jio*)calloc(1, sizeof *io);
    if (!io)
        return NULL;
    io->dirfd = dirfd, io->segment_bytes = segment_bytes, io->next_number = next_number, io->sync_ms = sync_ms;
    io->crc = crc;
    pthread_mutex_init(&io->lock, NULL);
    pthread_condattr_t elapsed; /* by the wall clock, one that is set back by an hour would have it sleep for an hour */
    pthread_condattr_init(&elapsed);
    pthread_condattr_setclock(&elapsed, CLOCK_MONOTONIC);
    pthread_cond_init(&io->wake, &elapsed);
    pthread_condattr_destroy(&elapsed);
    jio_keep_spare(io); /* reports at once that the directory cannot hold a segment */
    io->running = pthread_create(&io->thread, NULL, jio_run, io) == 0;
    return io;
}

uint64_t jio_close(jio* io) {
    uint64_t bytes = 0;
    if (io->running) {
        pthread_mutex_lock(&io->lock);
        io->stop = 1;
        pthread_cond_signal(&io->wake);
        pthread_mutex_unlock(&io->lock);
        pthread_join(io->thread, NULL);
    }
    jio_release_retired(io);
    for (int i = 0; io->kept && i < 2; i++)
        jio_release_kept(io);
    for (jseg *s = io->kept, *next; s; s = next) {
        next = s->next, bytes += s->used - s->synced;
        jio_free(s);
    }
    jio_discard_spare(io);
    fsync(io->dirfd);
    close(io->dirfd);
    pthread_mutex_destroy(&io->lock);
    pthread_cond_destroy(&io->wake);
    free(io);
    return bytes;
}

jseg* jio_take(jio* io, uint64_t need) {
    jseg* s = NULL;
    if (need + JSEG_HEADER + JSEG_TAIL <= io->segment_bytes)
        s = __atomic_exchange_n(&io->spare, NULL, __ATOMIC_ACQ_REL);
    if (s)
        pthread_cond_signal(&io->wake); /* for the next one; without the lock it may be missed until the next sync */
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

/* The sealed segment is on the retired list before the next one becomes active, so that the thread never counts records
 * of the sealed one as on disk because the next one is. */
void jio_switch(jio* io, jseg* s, uint64_t used, int32_t date, uint32_t reason) {
    jseg* old = io->active;
    if (s) {
        jseg_header* h = (jseg_header*)s->base;
        h->date_crc = jseg_date_crc(io->crc, s->number, date);
        jstore32(&h->date, (uint32_t)date);
        s->head = *h;
    }
    __atomic_store_n(&io->active, (jseg*)NULL, __ATOMIC_SEQ_CST);
    __atomic_store_n(&io->written, JSEG_HEADER, __ATOMIC_RELEASE);
    __atomic_store_n(&io->leave, 0, __ATOMIC_RELAXED);
    if (old) {
        jseg_header* h = (jseg_header*)old->base;
        h->reason = reason;
        h->seal_crc = jseg_seal_crc(io->crc, old->number, reason, used);
        jstore64(&h->sealed_end, used);
        old->used = used, old->reason = reason;
        old->next = __atomic_load_n(&io->retired, __ATOMIC_RELAXED);
        while (!__atomic_compare_exchange_n(&io->retired, &old->next, old, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
        }
    }
    __atomic_store_n(&io->active, s, __ATOMIC_RELEASE);
}
