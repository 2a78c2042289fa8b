/* Position of a price in a sorted side, and how room for a level is made and taken.
 *
 * Which level a message touches is not to be foreseen, and a branch on it is mispredicted: near the best both are
 * done without one. The arrays have KFIX_SLACK elements after their capacity, so that eight may always be moved.
 */
#ifndef KFIX_LEVELS_H
#define KFIX_LEVELS_H
#include <stdint.h>
#include <string.h>

#define KFIX_NEAR  8
#define KFIX_SLACK 16 /* elements after the capacity that may be read, and written with what is not counted */
#define KFIX_GUARD 48 /* prices in front of the first: worse than any, and as far as a search for such a one goes */

/* a level's checksum */
typedef struct {
    uint32_t crc;    /* raw CRC of the level's text, valid while its length > 0 */
    uint32_t length; /* L3: of that text. L2: bits 0 to 7 are; 8 to 15 are the decimals of the price as the venue wrote
                      * it, 16 to 23 those of the quantity */
} kfix_level_aux;

static inline int32_t kfix_bisect(const int64_t* p, int32_t left, uint64_t key, uint64_t flip) {
    int32_t low = 0;
    while (left > 0) { /* halved without a branch on what is found */
        int32_t half = (left + 1) >> 1;
        low += ((uint64_t)p[low + half - 1] ^ flip) < key ? half : 0;
        left = left - half;
    }
    return low;
}

/* index of the first of n sorted prices (best last) that is not worse than `price`; KFIX_GUARD stand in front.
 * The best eight are all looked at, the best 64 in three steps of three comparisons each. */
static inline int32_t kfix_locate(const int64_t* p, int32_t n, int64_t price, int offers) {
    /* bids ascend, the complements of offers do; with the sign turned they are compared as unsigned, which adds up
     * without a detour */
    const uint64_t flip = offers ? INT64_MAX : 1ull << 63, key = (uint64_t)price ^ flip;
    const int64_t* q = p + n;
#define KFIX_NOT_WORSE(at) (((uint64_t)q[at] ^ flip) >= key)
    int32_t better = 0;
    for (int k = 1; k <= KFIX_NEAR; k++)
        better += KFIX_NOT_WORSE(-k);
    q -= better;
    if (better == KFIX_NEAR) {
        q = p + n;
        if (n >= 64 && KFIX_NOT_WORSE(-64))
            return kfix_bisect(p, n - 64, key, flip);
        if (n >= 16)
            q -= 16 * (KFIX_NOT_WORSE(-16) + KFIX_NOT_WORSE(-32) + KFIX_NOT_WORSE(-48));
        q -= 4 * (KFIX_NOT_WORSE(-4) + KFIX_NOT_WORSE(-8) + KFIX_NOT_WORSE(-12));
        q -= KFIX_NOT_WORSE(-1) + KFIX_NOT_WORSE(-2) + KFIX_NOT_WORSE(-3);
    }
#undef KFIX_NOT_WORSE
    return q < p ? 0 : (int32_t)(q - p); /* a price as bad as the guard */
}

/* what is in front of the prices of a side, so that no search needs to know where they begin */
static inline void kfix_guard(int64_t* p, int offers) {
    for (int i = 1; i <= KFIX_GUARD; i++)
        p[-i] = offers ? INT64_MAX : INT64_MIN;
}

/* With many symbols the book a message is about has left the caches: its lines are prefetched as soon as the symbol is
 * known, and arrive while the entries are decoded. `ends`: after the best of each array, as the last message left it.
 */
#define KFIX_BOOK_BYTES 384 /* of a book's object that messages touch */

static inline void kfix_prefetch(const void* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char*)p + i, 1);
}

static inline void kfix_prefetch_book(const void* book, const void* const* ends, int n) {
    kfix_prefetch(book, KFIX_BOOK_BYTES);
    for (int i = 0; i < n; i++) { /* of a book that has seen nothing yet they are NULL, which is no fault here */
        __builtin_prefetch((const void*)((uintptr_t)ends[i] - 1), 1);
        __builtin_prefetch((const void*)((uintptr_t)ends[i] - 65), 1);
    }
}

/* make room for one element of `size` bytes at `at`, followed by `moved` others */
static inline void kfix_open_gap(void* at, int32_t moved, size_t size) {
    if (moved <= KFIX_NEAR) {
        char held[KFIX_NEAR * 16];
        memcpy(held, at, KFIX_NEAR * size);
        memcpy((char*)at + size, held, KFIX_NEAR * size);
    } else {
        memmove((char*)at + size, at, (size_t)moved * size);
    }
}

/* take the element at `at` out, followed by `moved` others */
static inline void kfix_close_gap(void* at, int32_t moved, size_t size) {
    if (moved <= KFIX_NEAR) {
        char held[KFIX_NEAR * 16];
        memcpy(held, (char*)at + size, KFIX_NEAR * size);
        memcpy(at, held, KFIX_NEAR * size);
    } else {
        memmove(at, (char*)at + size, (size_t)moved * size);
    }
}
#endif
