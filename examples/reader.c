/* Prints the top of one book: reader /dev/shm/kfix-md-1000/kfix-md.default BTC/USD
 * Exit status: 0 it may be used, 1 it may not, 2 no such feed or symbol.
 * cc -O2 -I "$(python -c 'import kfix_md; print(kfix_md.get_include())')" -o reader reader.c */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "kfix_shm.h"

int main(int argc, char** argv) {
    struct stat st;
    struct timespec now;
    struct kfix_top top;
    int fd = argc == 3 ? open(argv[1], O_RDONLY | O_NOFOLLOW) : -1;
    if (fd < 0 || fstat(fd, &st) || st.st_size < 4096)
        return fprintf(stderr, "usage: reader FEED-FILE SYMBOL\n"), 2;
    /* the feed of a service user: its uid as well */
    if (st.st_mode & (S_IWGRP | S_IWOTH) || (st.st_uid != 0 && st.st_uid != getuid()))
        return fprintf(stderr, "%s: another user may have written it\n", argv[1]), 2;
    const char* base = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    const struct kfix_header* head = (const struct kfix_header*)base;
    if (base == MAP_FAILED || head->magic != KFIX_MAGIC || head->layout != KFIX_LAYOUT ||
        head->file_bytes != (uint64_t)st.st_size)
        return fprintf(stderr, "%s is no feed of layout %u\n", argv[1], KFIX_LAYOUT), 2;
    for (uint32_t i = 0; i < kfix_load32(&head->n_symbols); i++) {
        const struct kfix_symbol* symbol =
            (const struct kfix_symbol*)(base + head->symbols_offset + i * head->symbol_bytes);
        if (strcmp(symbol->symbol, argv[2]))
            continue;
        if (!kfix_read_block(base + symbol->top_offset, &top, sizeof top, 100000))
            return 1; /* died inside a write */
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t now_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
        int alive = kfix_is_beating(head, now_ns, 3 * head->heartbeat_interval_ns);
        double p = pow(10, top.price_precision), q = pow(10, top.qty_precision);
        printf("%s: %.*f x %g | %.*f x %g  %s (%s) %s\n", argv[2], top.price_precision, top.bid / p, top.bid_qty / q,
               top.price_precision, top.ask / p, top.ask_qty / q, kfix_state_name(top.state),
               kfix_cause_name(top.cause), alive ? "alive" : "DEAD");
        /* 1 instead of 0 accepts UNVERIFIED books */
        return !(alive && kfix_is_usable(head, top.state, 0) && !kfix_is_lagging(head, symbol->session));
    }
    return fprintf(stderr, "no symbol %s in this feed\n", argv[2]), 2;
}
