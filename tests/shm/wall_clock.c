/* LD_PRELOAD: a wall clock that is ahead by the int64 nanoseconds in the file $WALL_CLOCK_AHEAD, at any moment. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t* ahead;

__attribute__((constructor)) static void open_file(void) {
    const char* path = getenv("WALL_CLOCK_AHEAD");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void* at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED)
        ahead = at;
}

int clock_gettime(clockid_t id, struct timespec* t) {
    if (syscall(SYS_clock_gettime, id, t))
        return -1;
    if (ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        int64_t ns = t->tv_sec * INT64_C(1000000000) + t->tv_nsec + *ahead;
        t->tv_sec = ns / 1000000000;
        t->tv_nsec = ns % 1000000000;
    }
    return 0;
}

int gettimeofday(struct timeval* t, void* zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t* t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t)
        *t = now.tv_sec;
    return now.tv_sec;
}
