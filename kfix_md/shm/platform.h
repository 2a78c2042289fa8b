/* Linux system calls of the segment's writer and readers: futex, clocks, record locks of waiters, prefaulting. */
#ifndef KFIX_SHM_PLATFORM_H
#define KFIX_SHM_PLATFORM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static inline int64_t kfix_clock(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t kfix_monotonic(void) {
    return kfix_clock(CLOCK_MONOTONIC);
}
/* resolution of a few milliseconds, a quarter of the cost */
static inline int64_t kfix_monotonic_coarse(void) {
    return kfix_clock(CLOCK_MONOTONIC_COARSE);
}

/* Map the pages of [p, p + n) with one call instead of one page fault each; does nothing before Linux 5.14. */
static inline void kfix_populate(void* p, size_t n) {
#ifdef MADV_POPULATE_WRITE
    uintptr_t from = (uintptr_t)p & ~(uintptr_t)4095, end = ((uintptr_t)p + n + 4095) & ~(uintptr_t)4095;
    if (n)
        (void)madvise((void*)from, end - from, MADV_POPULATE_WRITE);
#else
    (void)p, (void)n;
#endif
}

/* Move the mapping of n bytes at `from` to `to`, in place of what is mapped there; 0 on success. */
static inline int kfix_move_mapping(void* from, void* to, size_t n) {
    return mremap(from, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED ? -1 : 0;
}

static inline void kfix_futex_wake(const void* word) {
    syscall(SYS_futex, word, FUTEX_WAKE, 1 << 30, NULL, NULL, 0);
}

/* Returns 0 when woken or when the word differs from `seen` already, else errno. Works on a read-only mapping. */
static inline int kfix_futex_wait(const void* word, uint32_t seen, int64_t ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    if (syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0) == 0 || errno == EAGAIN)
        return 0;
    return errno;
}

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif
#define KFIX_MAX_WORDS 16
struct kfix_waitv {
    uint64_t seen, word;
    uint32_t flags, reserved;
};

/* The same for any of n <= KFIX_MAX_WORDS words; ENOSYS before Linux 5.16. */
static inline int kfix_futex_wait_any(const void* const* words, const uint32_t* seen, int n, int64_t ns) {
    struct kfix_waitv any[KFIX_MAX_WORDS];
    int64_t end = kfix_clock(CLOCK_MONOTONIC) + ns;
    struct timespec t = {end / 1000000000, end % 1000000000};
    for (int i = 0; i < n; i++)
        any[i] = (struct kfix_waitv){seen[i], (uint64_t)(uintptr_t)words[i], 2 /* 32 bits, shared */, 0};
    if (syscall(SYS_futex_waitv, any, n, 0, &t, CLOCK_MONOTONIC) >= 0 || errno == EAGAIN)
        return 0;
    return errno;
}

/* Record locks on byte `at` of the segment, released by the kernel when the file is closed or its process ends: `type`
 * F_RDLCK or F_WRLCK is taken (-1: another one is in the way), or asked about without taking it (1: one is). */
static inline int kfix_lock_byte(int fd, int64_t at, short type) {
    struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(fd, F_OFD_SETLK, &f);
}

static inline int kfix_byte_is_locked(int fd, int64_t at, short type) {
    struct flock f = {.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &f) == 0 && f.l_type != F_UNLCK;
}

/* A sleeping reader holds a shared one, */
static inline int kfix_waiter_announce(int fd, int64_t at) {
    return kfix_lock_byte(fd, at, F_RDLCK);
}

static inline int kfix_waiter_present(int fd, int64_t at) {
    return kfix_byte_is_locked(fd, at, F_WRLCK);
}

/* the writer an exclusive one while its file is open. */
static inline int kfix_writer_lock(int fd, int64_t at) {
    return kfix_lock_byte(fd, at, F_WRLCK);
}

static inline int kfix_writer_present(int fd, int64_t at) {
    return kfix_byte_is_locked(fd, at, F_RDLCK);
}

#endif
