/* LD_PRELOAD: msync, fsync of a file, fsync of a directory after a rename in it, and realloc in other threads than the
 * first fail as often as the four int32 in the file $FAILING_SYNC count, which are counted down. A failed msync drops
 * its pages, as Linux may: they are what the disk has, zeros from the end of the last sync on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MSYNC, FSYNC, DIRECTORY, REALLOC, CALLS };

static int32_t* left; /* failures of each call */
static char* synced_to;
static int renamed;

__attribute__((constructor)) static void open_file(void) {
    const char* path = getenv("FAILING_SYNC");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void* at = fd < 0 ? MAP_FAILED : mmap(NULL, CALLS * sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        left = at;
}

static int fails(int which) {
    if (!left || __atomic_load_n(&left[which], __ATOMIC_SEQ_CST) <= 0)
        return 0;
    __atomic_fetch_sub(&left[which], 1, __ATOMIC_SEQ_CST);
    return 1;
}

int msync(void* start, size_t n, int flags) {
    char *from = start, *to = from + n;
    int (*real)(void*, size_t, int) = (int (*)(void*, size_t, int))dlsym(RTLD_NEXT, "msync");
    if (fails(MSYNC)) {
        if (synced_to >= from && synced_to <= to)
            from = synced_to;
        memset(from, 0, (size_t)(to - from));
        return errno = EIO, -1;
    }
    int result = real(start, n, flags);
    if (!result && n != 4096) /* not the header page alone */
        synced_to = to;
    return result;
}

int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    struct stat found;
    if (fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && fails(FSYNC))
        return errno = EIO, -1;
    if (fstat(fd, &found) == 0 && S_ISDIR(found.st_mode) && renamed-- > 0 && fails(DIRECTORY))
        return errno = EIO, -1;
    return real(fd);
}

int renameat(int from_fd, const char* from, int to_fd, const char* to) {
    int (*real)(int, const char*, int, const char*) =
        (int (*)(int, const char*, int, const char*))dlsym(RTLD_NEXT, "renameat");
    renamed = 1;
    return real(from_fd, from, to_fd, to);
}

void* realloc(void* p, size_t n) {
    static void* (*real)(void*, size_t);
    if (!real)
        real = (void* (*)(void*, size_t))dlsym(RTLD_NEXT, "realloc");
    if (syscall(SYS_gettid) != getpid() && fails(REALLOC))
        return errno = ENOMEM, NULL;
    return real(p, n);
}
