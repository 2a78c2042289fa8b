/* Order ids (278) as 128 bits: UUIDs, Kraken's own form, short text. */
#ifndef KFIX_ORDER_IDS_H
#define KFIX_ORDER_IDS_H
#include "scan.h"

/* eight lower case hexadecimal digits held in x, first digit in the lowest byte; *bad gets bits when one is not */
static inline uint32_t kfix_hex8(uint64_t x, uint64_t* bad) {
    uint64_t letter = (x >> 6) & 0x0101010101010101ull;
    uint64_t v = (x & 0x0F0F0F0F0F0F0F0Full) + letter * 9;
    *bad |= (x ^ (v + 0x3030303030303030ull + letter * 0x27)) | (v & 0xF0F0F0F0F0F0F0F0ull) |
            ((((v + 0x0606060606060606ull) >> 4) & 0x0101010101010101ull) ^ letter);
    v = (v * 16 + (v >> 8)) & 0x00FF00FF00FF00FFull;
    v = (v | (v >> 8)) & 0x0000FFFF0000FFFFull;
    return __builtin_bswap32((uint32_t)(v | (v >> 16)));
}

#if KFIX_WIDE
/* 16 lower case hexadecimal digits as eight bytes, each in 16 bits; *right loses bits when one is none */
static inline __m128i kfix_nibbles(__m128i text, __m128i* right) {
    const __m128i digits =
        _mm_setr_epi8('0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f');
    __m128i letter = _mm_cmpgt_epi8(text, _mm_set1_epi8('9'));
    __m128i n = _mm_add_epi8(_mm_and_si128(text, _mm_set1_epi8(15)), _mm_and_si128(letter, _mm_set1_epi8(9)));
    *right = _mm_and_si128(*right, _mm_cmpeq_epi8(_mm_shuffle_epi8(digits, n), text));
    return _mm_maddubs_epi16(n, _mm_set1_epi16(0x0110)); /* 16, 1 */
}
#endif

/* 36 bytes 8-4-4-4-12: 0, or -1 when they are no lower case UUID */
static inline int kfix_uuid_plain(const char* p, uint64_t* hi, uint64_t* lo) {
    uint64_t bad = (uint64_t)((p[8] ^ '-') | (p[13] ^ '-') | (p[18] ^ '-') | (p[23] ^ '-'));
    uint64_t a = kfix_hex8(kfix_load8(p), &bad);
    uint64_t b = kfix_hex8(kfix_load4(p + 9) | (uint64_t)kfix_load4(p + 14) << 32, &bad);
    uint64_t c = kfix_hex8(kfix_load4(p + 19) | (uint64_t)kfix_load4(p + 24) << 32, &bad);
    uint64_t d = kfix_hex8(kfix_load8(p + 28), &bad);
    *hi = a << 32 | b;
    *lo = c << 32 | d;
    return bad ? -1 : 0;
}

static inline int kfix_uuid(const char* p, uint64_t* hi, uint64_t* lo) {
#if KFIX_WIDE
    if (__builtin_expect(kfix_scalar, 0))
        return kfix_uuid_plain(p, hi, lo);
    /* the dashes stand in 8 to 23; the digits in 0 to 17 and in 19 to 35 */
    const __m128i first = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, -1, -1);
    const __m128i second = _mm_setr_epi8(-1, 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m128i right = _mm_set1_epi8(-1);
    __m128i a = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)p), first);
    __m128i b = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(p + 20)), second);
    a = kfix_nibbles(_mm_insert_epi16(a, (int)(kfix_load4(p + 16) & 0xFFFF), 7), &right);
    b = kfix_nibbles(_mm_insert_epi8(b, p[19], 0), &right);
    a = _mm_packus_epi16(a, b);
    *hi = __builtin_bswap64((uint64_t)_mm_cvtsi128_si64(a));
    *lo = __builtin_bswap64((uint64_t)_mm_extract_epi64(a, 1));
    unsigned dashes = kfix_where(_mm_loadu_si128((const __m128i*)(p + 8)), '-') & 0x8421u;
    return ((unsigned)_mm_movemask_epi8(right) == 0xFFFFu) & (dashes == 0x8421u) ? 0 : -1;
#else
    return kfix_uuid_plain(p, hi, lo);
#endif
}

static inline int kfix_base36(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'Z' ? c - 'A' + 10 : -1;
}

/* 19 bytes OXXXXX-XXXXX-XXXXXX, X in 0-9 A-Z: 0, or -1 */
static inline int kfix_kraken_id_plain(const char* p, uint64_t* hi, uint64_t* lo) {
    static const uint8_t at[16] = {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18};
    int bad = (p[0] ^ 'O') | (p[6] ^ '-') | (p[12] ^ '-');
    *hi = *lo = 0;
    for (int i = 0; i < 8; i++) {
        int a = kfix_base36(p[at[i]]), b = kfix_base36(p[at[i + 8]]);
        bad |= (a | b) < 0;
        *hi = *hi * 36 + (uint64_t)(int64_t)a;
        *lo = *lo * 36 + (uint64_t)(int64_t)b;
    }
    return bad ? -1 : 0;
}

static inline int kfix_kraken_id(const char* p, uint64_t* hi, uint64_t* lo) {
#if KFIX_WIDE
    if (__builtin_expect(kfix_scalar, 0))
        return kfix_kraken_id_plain(p, hi, lo);
    const __m128i first = _mm_setr_epi8(1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, -1, -1, -1);
    const __m128i last = _mm_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 13, 14, 15);
    __m128i text = _mm_or_si128(_mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)p), first),
                                _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)(p + 3)), last));
    __m128i letter = _mm_cmpgt_epi8(text, _mm_set1_epi8('9'));
    __m128i digit = _mm_sub_epi8(_mm_sub_epi8(text, _mm_set1_epi8('0')), _mm_and_si128(letter, _mm_set1_epi8(7)));
    __m128i right = _mm_cmpeq_epi8(_mm_min_epu8(digit, _mm_set1_epi8(35)), digit);
    /* what is between '9' and 'A' */
    right = _mm_andnot_si128(_mm_and_si128(letter, _mm_cmplt_epi8(digit, _mm_set1_epi8(10))), right);
    __m128i pairs = _mm_maddubs_epi16(digit, _mm_set1_epi16(0x0124));  /* 36, 1 */
    __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x00010510)); /* 36 * 36, 1 */
    uint64_t a = (uint64_t)_mm_cvtsi128_si64(fours), b = (uint64_t)_mm_extract_epi64(fours, 1);
    *hi = (a & 0xFFFFFFFF) * 1679616 + (a >> 32); /* 36 to the fourth */
    *lo = (b & 0xFFFFFFFF) * 1679616 + (b >> 32);
    int bad = (p[0] ^ 'O') | (p[6] ^ '-') | (p[12] ^ '-');
    return bad == 0 && (unsigned)_mm_movemask_epi8(right) == 0xFFFFu ? 0 : -1;
#else
    return kfix_kraken_id_plain(p, hi, lo);
#endif
}

/* at most 16 bytes of text, zero padded, big endian */
static inline void kfix_text_id(const char* p, int n, uint64_t* hi, uint64_t* lo) {
    char text[16] = {0};
    memcpy(text, p, (size_t)n);
    *hi = __builtin_bswap64(kfix_load8(text));
    *lo = __builtin_bswap64(kfix_load8(text + 8));
}

static inline uint64_t kfix_mix(uint64_t k) {
    k = (k ^ k >> 33) * 0xFF51AFD7ED558CCDull;
    k = (k ^ k >> 33) * 0xC4CEB9FE1A85EC53ull;
    return k ^ k >> 33;
}

/* Hash n bytes to 128 bits: MurmurHash3_x64_128 with seed 0.
 *
 *     "order-000000000000000001"  the same 128 bits in every process and on every machine
 */
static inline void kfix_hash_id(const char* p, int64_t n, uint64_t* hi, uint64_t* lo) {
    const uint64_t c1 = 0x87C37B91114253D5ull, c2 = 0x4CF5AD432745937Full;
    uint64_t a = 0, b = 0;
#define KFIX_ROTATE(x, r) ((x) << (r) | (x) >> (64 - (r)))
    for (int64_t left = n; left > 0; left -= 16, p += 16) {
        char block[16] = {0};
        memcpy(block, p, left < 16 ? (size_t)left : 16);
        uint64_t k1 = kfix_load8(block) * c1, k2 = kfix_load8(block + 8) * c2;
        a ^= KFIX_ROTATE(k1, 31) * c2;
        if (left >= 16)
            a = (KFIX_ROTATE(a, 27) + b) * 5 + 0x52DCE729;
        b ^= KFIX_ROTATE(k2, 33) * c1;
        if (left >= 16)
            b = (KFIX_ROTATE(b, 31) + a) * 5 + 0x38495AB5;
    }
#undef KFIX_ROTATE
    a ^= (uint64_t)n;
    b ^= (uint64_t)n;
    a += b;
    b += a;
    a = kfix_mix(a);
    b = kfix_mix(b);
    a += b;
    *hi = a;
    *lo = a + b;
}
#endif
