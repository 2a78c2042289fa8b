/* LD_PRELOAD: logs into the file $WRITE_LOG what each fsync, fdatasync and msync puts on disk: bytes of a file, or the
 * names in a directory. mark(text) logs a line of the program's own. Entries: kind, inode, size of the file, offset and
 * length of the data (uint64 each), then the data. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FILE_BYTES = 1, NAMES = 2, MARK = 3, MAPS = 64 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int out = -1;
static struct {
    char* base;
    size_t n;
    struct stat file;
} maps[MAPS];

__attribute__((constructor)) static void open_log(void) {
    const char* path = getenv("WRITE_LOG");
    if (path)
        out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static void put(const void* data, size_t n) {
    for (const char* p = data; n;) {
        ssize_t done = write(out, p, n);
        if (done <= 0)
            abort();
        p += done, n -= (size_t)done;
    }
}

static void entry(uint64_t kind, uint64_t inode, uint64_t size, uint64_t offset, const void* data, size_t n) {
    uint64_t head[] = {kind, inode, size, offset, n};
    pthread_mutex_lock(&lock);
    put(head, sizeof head);
    put(data, n);
    pthread_mutex_unlock(&lock);
}

void mark(const char* text) {
    if (out >= 0)
        entry(MARK, 0, 0, 0, text, strlen(text));
}

static void log_file(int fd, const struct stat* s) {
    char path[64], *data = malloc((size_t)s->st_size + 1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = again < 0 ? 0 : pread(again, data, (size_t)s->st_size, 0);
    if (again >= 0)
        close(again);
    entry(FILE_BYTES, s->st_ino, (uint64_t)s->st_size, 0, data, n > 0 ? (size_t)n : 0);
    free(data);
}

static void log_names(int fd, const struct stat* s) {
    char path[64], *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    FILE* lines = open_memstream(&text, &n);
    DIR* dir = opendir(path);
    for (struct dirent* e; dir && (e = readdir(dir));)
        fprintf(lines, "%llu %d %s\n", (unsigned long long)e->d_ino, e->d_type == DT_DIR, e->d_name);
    if (dir)
        closedir(dir);
    fclose(lines);
    entry(NAMES, s->st_ino, 0, 0, text, n);
    free(text);
}

static int synced(int fd) {
    struct stat s;
    if (out >= 0 && fstat(fd, &s) == 0) {
        if (S_ISDIR(s.st_mode))
            log_names(fd, &s);
        else if (S_ISREG(s.st_mode))
            log_file(fd, &s);
    }
    return 0;
}

int fsync(int fd) {
    return synced(fd);
}

int fdatasync(int fd) {
    return synced(fd);
}

void* mmap(void* at, size_t n, int prot, int flags, int fd, off_t offset) {
    char* base = (char*)syscall(SYS_mmap, at, n, prot, flags, fd, offset);
    if (base != MAP_FAILED && fd >= 0 && (flags & MAP_SHARED) && (prot & PROT_WRITE)) {
        pthread_mutex_lock(&lock);
        for (int i = 0; i < MAPS; i++)
            if (!maps[i].base) {
                maps[i].base = base, maps[i].n = n;
                fstat(fd, &maps[i].file);
                break;
            }
        pthread_mutex_unlock(&lock);
    }
    return base;
}

int munmap(void* at, size_t n) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAPS; i++)
        if (maps[i].base == at)
            maps[i].base = NULL;
    pthread_mutex_unlock(&lock);
    return (int)syscall(SYS_munmap, at, n);
}

int msync(void* at, size_t n, int flags) {
    (void)flags;
    char* from = at;
    for (int i = 0; out >= 0 && i < MAPS; i++)
        if (maps[i].base && from >= maps[i].base && from < maps[i].base + maps[i].n) {
            n = (n + 4095) & ~(size_t)4095;
            if (from + n > maps[i].base + maps[i].n)
                n = (size_t)(maps[i].base + maps[i].n - from);
            entry(FILE_BYTES, maps[i].file.st_ino, (uint64_t)maps[i].n, (uint64_t)(from - maps[i].base), from, n);
            break;
        }
    return 0;
}
