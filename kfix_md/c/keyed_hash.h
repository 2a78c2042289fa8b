/* Hash of pairs of 64-bit words under a key that is drawn for each process.
 *
 * Who chooses the words (the venue's order ids, its symbols) cannot choose where they are put, so that no set of them
 * makes a table slow. */
#ifndef KFIX_KEYED_HASH_H
#define KFIX_KEYED_HASH_H
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static uint64_t kfix_hash_key[2] __attribute__((unused));

/* A key of zero, or one that is known, would be no worse than none: a machine without random numbers gives a clock. */
__attribute__((constructor)) static void kfix_draw_hash_key(void) {
    struct timespec now;
    if (getrandom(kfix_hash_key, sizeof kfix_hash_key, GRND_NONBLOCK) == (ssize_t)sizeof kfix_hash_key)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    kfix_hash_key[0] = (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15ull ^ (uint64_t)(uintptr_t)&now;
    kfix_hash_key[1] = (uint64_t)now.tv_sec * 0xD6E8FEB86659FD93ull ^ kfix_hash_key[0];
}

/* One wide multiplication, both halves of the product folded, and the bits of that multiplied into the high half of the
 * result, which is the one to use. Without the second multiplication the hashes of words that count up lie at even
 * distances: one key in a hundred then puts most of them next to each other, 20 steps from home. */
static inline uint64_t kfix_keyed_hash(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)(a ^ kfix_hash_key[0]) * (b ^ kfix_hash_key[1]);
    return ((uint64_t)product ^ (uint64_t)(product >> 64)) * 0x9E3779B97F4A7C15ull;
}
#endif
