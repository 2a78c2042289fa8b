/* Writes levels of a book into shared memory with vector stores, inside a block's seqlock.
 *
 * Between kfix_write_begin and kfix_write_end words may be stored in any width and order: a reader that sees the same
 * even version before and after its copy has copied nothing half written. */
#ifndef KFIX_SHM_WRITE_LEVELS_H
#define KFIX_SHM_WRITE_LEVELS_H

#include "kfix_shm.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* arrays of one side of a book; on L2 head is NULL and orders all 0 */
struct kfix_side {
    const int64_t *price, *qty;
    const uint32_t* orders;
    const int32_t* head;
};

static inline void kfix_put_level(struct kfix_level* to, const struct kfix_side* from, int32_t i) {
    to->price = from->price[i];
    to->qty = from->qty[i];
    to->orders = from->orders[i];
    to->head = from->head ? from->head[i] : -1;
}

#if defined(__SSE2__)
/* orders and head of levels i and i + 1, in the layout of kfix_level */
static inline __m128i kfix_counts(const struct kfix_side* from, int32_t i) {
    if (!from->head)
        return _mm_set_epi32(-1, 0, -1, 0);
    return _mm_unpacklo_epi32(_mm_loadl_epi64((const __m128i*)(from->orders + i)),
                              _mm_loadl_epi64((const __m128i*)(from->head + i)));
}

static inline __m128i kfix_join(__m128i low, __m128i high, const int halves) /* one word of each */
{
    return _mm_castpd_si128(halves == 1 ? _mm_shuffle_pd(_mm_castsi128_pd(low), _mm_castsi128_pd(high), 1)
                                        : _mm_shuffle_pd(_mm_castsi128_pd(low), _mm_castsi128_pd(high), 2));
}
#endif

static inline int kfix_lowest_bit(uint64_t bits) {
    return __builtin_ctzll(bits);
}

/* copy levels [lo, hi) to to[0], to[1], ... */
static inline void kfix_put_levels(struct kfix_level* to, const struct kfix_side* from, int32_t lo, int32_t hi) {
#if defined(__SSE2__)
    for (; lo + 1 < hi; lo += 2, to += 2) {
        __m128i price = _mm_loadu_si128((const __m128i*)(from->price + lo));
        __m128i qty = _mm_loadu_si128((const __m128i*)(from->qty + lo)), counts = kfix_counts(from, lo);
        _mm_storeu_si128((__m128i*)to, _mm_unpacklo_epi64(price, qty));
        _mm_storeu_si128((__m128i*)to + 1, kfix_join(counts, price, 2));
        _mm_storeu_si128((__m128i*)to + 2, _mm_unpackhi_epi64(qty, counts));
    }
#endif
    for (; lo < hi; lo++)
        kfix_put_level(to++, from, lo);
}

/* copy levels [lo, hi) in reverse: hi - 1 to to[0] */
static inline void kfix_put_levels_back(struct kfix_level* to, const struct kfix_side* from, int32_t lo, int32_t hi) {
#if defined(__SSE2__)
    for (; lo + 1 < hi; hi -= 2, to += 2) {
        __m128i price = _mm_loadu_si128((const __m128i*)(from->price + hi - 2));
        __m128i qty = _mm_loadu_si128((const __m128i*)(from->qty + hi - 2)), counts = kfix_counts(from, hi - 2);
        _mm_storeu_si128((__m128i*)to, _mm_unpackhi_epi64(price, qty));
        _mm_storeu_si128((__m128i*)to + 1, kfix_join(counts, price, 1));
        _mm_storeu_si128((__m128i*)to + 2, _mm_unpacklo_epi64(qty, counts));
    }
#endif
    while (lo < hi)
        kfix_put_level(to++, from, --hi);
}

#endif
