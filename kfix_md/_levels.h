/* Where a price stands in a sorted side, and how room for a level is made and taken.
 *
 * Which level a message touches is not to be foreseen, and a branch on it is mispredicted: near the best both are
 * done without one. The arrays have KFIX_SLACK elements behind their capacity, so that eight may always be moved.
 */
#ifndef KFIX_LEVELS_H
#define KFIX_LEVELS_H
#include <stdint.h>
#include <string.h>

#define KFIX_NEAR 8
#define KFIX_SLACK 16

/* what a level has beside price, quantity and count */
typedef struct {
    uint32_t crc;    /* raw CRC of the level's text, valid while length > 0 */
    uint32_t length;
    int32_t tail;    /* L3: row of the last order of the queue */
    uint32_t spare;
} kfix_level_aux;

/* index of the first of n sorted prices (best last) that is not worse than `price` */
static inline int32_t kfix_locate(const int64_t *p, int32_t n, int64_t price, int offers) {
    const int64_t flip = -(int64_t)(offers != 0); /* offers descend: their complements ascend */
    const int64_t key = price ^ flip;
    int32_t low = 0, left = n;
    if (n >= KFIX_NEAR) {
        int32_t better = 0;
        const int64_t *near = p + n - KFIX_NEAR;
        for (int i = 0; i < KFIX_NEAR; i++) better += (near[i] ^ flip) >= key;
        if (better < KFIX_NEAR) return n - better;
        left = n - KFIX_NEAR;
    }
    while (left > 0) { /* halved without a branch on what is found */
        int32_t half = (left + 1) >> 1;
        low += (p[low + half - 1] ^ flip) < key ? half : 0;
        left = left - half;
    }
    return low;
}

/* With many symbols the book a message is about has left the caches: its lines are asked for as soon as the symbol is
 * known, and arrive while the entries are decoded. `ends`: behind the best of each array, as the last message left it. */
static inline void kfix_ask(const void *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + i, 1);
}

static inline void kfix_ask_for(const void *book, const void *const *ends, int n) {
    kfix_ask(book, 256);
    for (int i = 0; i < n; i++) { /* of a book that has seen nothing yet they are NULL, which is no fault here */
        __builtin_prefetch((const void *)((uintptr_t)ends[i] - 1), 1);
        __builtin_prefetch((const void *)((uintptr_t)ends[i] - 65), 1);
    }
}

/* make room for one element of `size` bytes at `at`, behind which `moved` stand */
static inline void kfix_open_gap(void *at, int32_t moved, size_t size) {
    if (moved <= KFIX_NEAR) {
        char held[KFIX_NEAR * 16];
        memcpy(held, at, KFIX_NEAR * size);
        memcpy((char *)at + size, held, KFIX_NEAR * size);
    } else {
        memmove((char *)at + size, at, (size_t)moved * size);
    }
}

/* take the element at `at` out, behind which `moved` stand */
static inline void kfix_close_gap(void *at, int32_t moved, size_t size) {
    if (moved <= KFIX_NEAR) {
        char held[KFIX_NEAR * 16];
        memcpy(held, (char *)at + size, KFIX_NEAR * size);
        memcpy(at, held, KFIX_NEAR * size);
    } else {
        memmove(at, (char *)at + size, (size_t)moved * size);
    }
}
#endif
