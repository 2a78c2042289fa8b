/* Steps from home of words that count up, in a table of half its places, with many keys: the most of any key, and the
 * mean. */
#include <stdio.h>
#include <string.h>

#include "keyed_hash.h"

enum { PLACES = 1 << 14, WORDS = PLACES / 2, KEYS = 2000 };

static uint64_t next_key(uint64_t* state) { /* splitmix64 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15ull);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

static double steps(int shift, int first) {
    static char taken[PLACES];
    long passed = 0;
    memset(taken, 0, sizeof taken);
    for (uint64_t i = 0; i < WORDS; i++) {
        uint64_t word = 0x800000004000ull ^ i << shift, other = 0x8000ull << 48;
        uint32_t at = kfix_keyed_hash(first ? word : other, first ? other : word) >> 33 & (PLACES - 1);
        for (; taken[at]; at = (at + 1) & (PLACES - 1))
            passed++;
        taken[at] = 1;
    }
    return (double)passed / WORDS;
}

int main(void) {
    static const int shifts[] = {0, 8, 16, 32, 48};
    uint64_t state = 1;
    double most = 0, sum = 0;
    for (int key = 0; key < KEYS; key++) {
        kfix_hash_key[0] = next_key(&state);
        kfix_hash_key[1] = next_key(&state);
        double found = steps(shifts[key / 2 % 5], key % 2);
        most = found > most ? found : most;
        sum += found;
    }
    printf("%.3f %.3f\n", most, sum / KEYS);
    return 0;
}
