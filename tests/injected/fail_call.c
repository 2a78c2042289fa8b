/* LD_PRELOAD: lets chosen calls of the process fail from the n-th on, as the process itself arms it.
 *
 * kfix_arm(kinds, first, times, error) counts calls of these kinds from 1; those from `first` on fail, `times` of them.
 * kfix_disarm() gives the number counted. MEMORY calls answer NULL, the others -1 with errno `error`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MEMORY = 1, FILES = 2, READS = 4 };

static atomic_int kinds, failure;
static atomic_long counted, first, last;

void kfix_arm(int which, long from, long times, int error) {
    counted = 0;
    first = from;
    last = from + times;
    failure = error;
    kinds = which;
}

long kfix_disarm(void) {
    kinds = 0;
    return counted;
}

static int fails(int kind) {
    if (!(kinds & kind))
        return 0;
    long n = ++counted;
    return n >= first && n < last;
}

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);

void* malloc(size_t n) {
    return fails(MEMORY) ? (errno = ENOMEM, NULL) : __libc_malloc(n);
}

void* calloc(size_t n, size_t size) {
    return fails(MEMORY) ? (errno = ENOMEM, NULL) : __libc_calloc(n, size);
}

void* realloc(void* p, size_t n) {
    return n && fails(MEMORY) ? (errno = ENOMEM, NULL) : __libc_realloc(p, n);
}

#define REAL(name, type, ...)         \
    static type (*real)(__VA_ARGS__); \
    if (!real)                        \
    real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define FAILS_AS(kind, answer) \
    if (fails(kind))           \
    return errno = failure, (answer)

#define OPENS(name, before, ...)                                                \
    int name(__VA_ARGS__, int flags, ...) {                                     \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                           \
        REAL(#name, int, __VA_ARGS__, int, ...);                                \
        FAILS_AS(FILES, -1);                                                    \
        return real(before, flags, mode);                                       \
    }
#define ONE path
#define TWO fd, path
OPENS(open, ONE, const char* path)
OPENS(open64, ONE, const char* path)
OPENS(openat, TWO, int fd, const char* path)
OPENS(openat64, TWO, int fd, const char* path)

#define CALL_OF(kind, type, name, answer, given, ...) \
    type name(__VA_ARGS__) {                          \
        REAL(#name, type, __VA_ARGS__);               \
        FAILS_AS(kind, answer);                       \
        return real given;                            \
    }
#define CALL(...) CALL_OF(FILES, __VA_ARGS__)
CALL(ssize_t, write, -1, (fd, p, n), int fd, const void* p, size_t n)
CALL(ssize_t, writev, -1, (fd, p, n), int fd, const struct iovec* p, int n)
CALL(ssize_t, pwrite, -1, (fd, p, n, at), int fd, const void* p, size_t n, off_t at)
CALL(ssize_t, pwrite64, -1, (fd, p, n, at), int fd, const void* p, size_t n, off64_t at)
CALL_OF(READS, ssize_t, read, -1, (fd, p, n), int fd, void* p, size_t n)
CALL_OF(READS, ssize_t, pread, -1, (fd, p, n, at), int fd, void* p, size_t n, off_t at)
CALL_OF(READS, ssize_t, pread64, -1, (fd, p, n, at), int fd, void* p, size_t n, off64_t at)
CALL(int, fsync, -1, (fd), int fd)
CALL(int, fdatasync, -1, (fd), int fd)
CALL(int, msync, -1, (p, n, how), void* p, size_t n, int how)
CALL(int, ftruncate, -1, (fd, n), int fd, off_t n)
CALL(int, ftruncate64, -1, (fd, n), int fd, off64_t n)
CALL(int, fallocate, -1, (fd, how, at, n), int fd, int how, off_t at, off_t n)
CALL(int, fallocate64, -1, (fd, how, at, n), int fd, int how, off64_t at, off64_t n)
CALL(int, posix_fallocate, failure, (fd, at, n), int fd, off_t at, off_t n)
CALL(int, posix_fallocate64, failure, (fd, at, n), int fd, off64_t at, off64_t n)
CALL(void*, mmap, MAP_FAILED, (p, n, prot, how, fd, at), void* p, size_t n, int prot, int how, int fd, off_t at)
CALL(void*, mmap64, MAP_FAILED, (p, n, prot, how, fd, at), void* p, size_t n, int prot, int how, int fd, off64_t at)
CALL(int, rename, -1, (from, to), const char* from, const char* to)
CALL(int, renameat, -1, (a, from, b, to), int a, const char* from, int b, const char* to)
CALL(int, link, -1, (from, to), const char* from, const char* to)
CALL(int, unlink, -1, (path), const char* path)
CALL(int, unlinkat, -1, (fd, path, how), int fd, const char* path, int how)
CALL(int, mkdir, -1, (path, mode), const char* path, mode_t mode)
