/* LD_PRELOAD: system calls that fail with an errno, one in so many, while the file $FAILING_CALLS says so. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* mapped from the file: errno to fail with, 0 for none; one call in `one_in` does; how many have failed */
static volatile struct control {
    int32_t error;
    uint32_t one_in;
    uint64_t failed;
}* control;
static __thread uint64_t state;

__attribute__((constructor)) static void open_control(void) {
    const char* path = getenv("FAILING_CALLS");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    void* at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        control = at;
    if (fd >= 0)
        syscall(SYS_close, fd);
}

static int fails(void) {
    if (!control || !control->error)
        return 0;
    if (!state)
        state = (uint64_t)getpid() << 32 ^ (uintptr_t)&state ^ 0x9e3779b97f4a7c15u;
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    if (state % control->one_in)
        return 0;
    __atomic_fetch_add(&control->failed, 1, __ATOMIC_RELAXED);
    errno = control->error;
    return 1;
}

static int opened(int directory, const char* path, int flags, mode_t mode) {
    return fails() ? -1 : (int)syscall(SYS_openat, directory, path, flags, mode);
}

#define MODE_OF(flags)                     \
    mode_t mode = 0;                       \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest;                      \
        va_start(rest, flags);             \
        mode = va_arg(rest, mode_t);       \
        va_end(rest);                      \
    }

int open(const char* path, int flags, ...) {
    MODE_OF(flags)
    return opened(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
    MODE_OF(flags)
    return opened(AT_FDCWD, path, flags, mode);
}
int openat(int directory, const char* path, int flags, ...) {
    MODE_OF(flags)
    return opened(directory, path, flags, mode);
}
int openat64(int directory, const char* path, int flags, ...) {
    MODE_OF(flags)
    return opened(directory, path, flags, mode);
}
int mkdir(const char* path, mode_t mode) {
    return fails() ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
int rename(const char* from, const char* to) {
    return fails() ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int ftruncate(int fd, off_t size) {
    return fails() ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}
int ftruncate64(int fd, off_t size) {
    return fails() ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}
int posix_fallocate(int fd, off_t at, off_t n) {
    return fails() ? errno : syscall(SYS_fallocate, fd, 0, at, n) ? errno : 0;
}
int posix_fallocate64(int fd, off_t at, off_t n) {
    return fails() ? errno : syscall(SYS_fallocate, fd, 0, at, n) ? errno : 0;
}
int fsync(int fd) {
    return fails() ? -1 : (int)syscall(SYS_fsync, fd);
}
int fdatasync(int fd) {
    return fails() ? -1 : (int)syscall(SYS_fdatasync, fd);
}
int msync(void* at, size_t n, int flags) {
    return fails() ? -1 : (int)syscall(SYS_msync, at, n, flags);
}
int socket(int family, int type, int protocol) {
    return fails() ? -1 : (int)syscall(SYS_socket, family, type, protocol);
}
ssize_t pwrite(int fd, const void* data, size_t n, off_t at) {
    return fails() ? -1 : syscall(SYS_pwrite64, fd, data, n, at);
}
ssize_t pwrite64(int fd, const void* data, size_t n, off_t at) {
    return fails() ? -1 : syscall(SYS_pwrite64, fd, data, n, at);
}
