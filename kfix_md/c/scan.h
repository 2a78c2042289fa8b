/* What is read eight or more bytes at a time: sums, digits, decimals.
 *
 * Every function may load up to 32 bytes past the value it reads, so that frames stand in padded buffers, and the
 * readers of numbers 16 bytes before it, where the standard header of the frame is.
 * Lengths and digits differ from message to message, and a branch on them is mispredicted: what is usual is read
 * without one, by masks, and whatever is not usual is left to a plain reader.
 */
#ifndef KFIX_SCAN_H
#define KFIX_SCAN_H
#include <stdint.h>
#include <string.h>
#include "powers.h"
#include "simd.h"
#if defined(__SSE4_1__)
#include <smmintrin.h>
#define KFIX_WIDE 1
#else
#define KFIX_WIDE 0
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kfix-md reads numbers eight bytes at a time, in little endian order"
#endif

/* Whether numbers, times and ids are read without SSE4.1, as on a machine that has none. Every module that includes
 * this header reads the environment (KFIX_SIMD=scalar) when it is loaded. */
static int kfix_scalar __attribute__((unused));

__attribute__((constructor)) static void kfix_read_environment(void) {
    kfix_scalar = !KFIX_WIDE || kfix_simd_is_scalar();
}

static inline uint64_t kfix_load8(const char* p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
static inline uint32_t kfix_load4(const char* p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* the same n bytes (n > 0) at a and b; up to 15 bytes past both may be loaded */
static inline int kfix_equal(const char* a, const char* b, int64_t n) {
#if KFIX_WIDE
#define KFIX_SAME(i) \
    _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i*)(a + (i))), _mm_loadu_si128((const __m128i*)(b + (i))))
    __m128i same = KFIX_SAME(0);
    if (n < 16)
        return ((unsigned)_mm_movemask_epi8(same) | 0xFFFFu << n) == (0xFFFFu | 0xFFFFu << n);
    for (int64_t i = 16; i < n - 16; i += 16)
        same = _mm_and_si128(same, KFIX_SAME(i));
    return _mm_movemask_epi8(_mm_and_si128(same, KFIX_SAME(n - 16))) == 0xFFFF;
#undef KFIX_SAME
#else
    return memcmp(a, b, (size_t)n) == 0;
#endif
}

/* where the next SOH is at or after p, when there is one */
static inline const char* kfix_next_soh(const char* p) {
#if KFIX_WIDE
    for (;; p += 16) {
        int found = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i*)p), _mm_set1_epi8(1)));
        if (__builtin_expect(found != 0, 1))
            return p + __builtin_ctz((unsigned)found);
    }
#else
    while (*p != 1)
        p++;
    return p;
#endif
}

/* "279=?|269=?|278=" at p; of a snapshot, whose entries have no 279, from its 269 on, which is 6 bytes after p */
static inline int kfix_entry_begins(const char* p, int snapshot) {
#if KFIX_WIDE
    const __m128i tags = _mm_setr_epi8('2', '7', '9', '=', 0, 1, '2', '6', '9', '=', 0, 1, '2', '7', '8', '=');
    int same = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_loadu_si128((const __m128i*)p), tags));
    return (same | 1 << 4 | 1 << 10 | (snapshot ? 0x3F : 0)) == 0xFFFF;
#else
    return (snapshot || (memcmp(p, "279=", 4) == 0 && p[5] == 1)) && memcmp(p + 6, "269=", 4) == 0 &&
           memcmp(p + 11,
                  "\x01"
                  "278=",
                  5) == 0;
#endif
}

/* ---- byte sum modulo 256 (tag 10), for three instruction sets ---- */

#define KFIX_SUM_BODY               \
    uint8_t sum = 0;                \
    for (int64_t i = 0; i < n; i++) \
        sum += (uint8_t)p[i];       \
    return sum;

static uint8_t kfix_sum_scalar(const char* p, int64_t n) {
    KFIX_SUM_BODY
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint8_t kfix_sum_avx2(const char* p, int64_t n) {
    KFIX_SUM_BODY
}

/* the n lowest of 64 bytes, whatever n */
__attribute__((target("avx512f,avx512bw"))) static inline __m512i kfix_load64(const char* p, int64_t n) {
    n = n < 0 ? 0 : n > 64 ? 64 : n;
    return _mm512_maskz_loadu_epi8(n ? ~0ull >> (64 - n) : 0, p);
}
__attribute__((target("avx512f,avx512bw"))) static uint8_t kfix_sum_avx512(const char* p, int64_t n) {
    /* the last 256 bytes by masks: nearly every message without a branch on its length */
    __m512i a = _mm512_setzero_si512(), b = a;
    for (; n > 256; p += 128, n -= 128) {
        a = _mm512_add_epi8(a, _mm512_loadu_si512(p));
        b = _mm512_add_epi8(b, _mm512_loadu_si512(p + 64));
    }
    a = _mm512_add_epi8(a, kfix_load64(p, n));
    b = _mm512_add_epi8(b, kfix_load64(p + 64, n - 64));
    a = _mm512_add_epi8(a, kfix_load64(p + 128, n - 128));
    b = _mm512_add_epi8(b, kfix_load64(p + 192, n - 192));
    a = _mm512_sad_epu8(_mm512_add_epi8(a, b), _mm512_setzero_si512());
    return (uint8_t)_mm512_reduce_add_epi64(a);
}
#endif

static uint8_t (*kfix_sum)(const char*, int64_t) = kfix_sum_scalar;

/* name: "scalar", "avx2", "avx512", or NULL for the best there is; returns the one chosen, NULL if it is missing */
__attribute__((unused)) static const char* kfix_scan_init(const char* name) {
#if defined(__x86_64__)
    int has512 = __builtin_cpu_supports("avx512bw"), has2 = __builtin_cpu_supports("avx2");
    if (has512 && (name == NULL || !strcmp(name, "avx512"))) {
        kfix_sum = kfix_sum_avx512;
        return "avx512";
    }
    if (has2 && (name == NULL || !strcmp(name, "avx2"))) {
        kfix_sum = kfix_sum_avx2;
        return "avx2";
    }
#endif
    if (name == NULL || !strcmp(name, "scalar")) {
        kfix_sum = kfix_sum_scalar;
        return "scalar";
    }
    return NULL;
}

/* ---- decimal digits ---- */

/* up to 8 digits at p: their number goes to *n, their value is returned */
static inline uint64_t kfix_digits8(const char* p, int* n) {
    uint64_t t = kfix_load8(p) ^ 0x3030303030303030ull;
    uint64_t other = (t | (t + 0x0606060606060606ull)) & 0xF0F0F0F0F0F0F0F0ull;
    int count = other ? __builtin_ctzll(other) >> 3 : 8;
    *n = count;
    if (count == 0)
        return 0;
    t <<= 64 - 8 * count;
    t = t * 10 + (t >> 8);
    return (((t & 0x000000FF000000FFull) * 0x000F424000000064ull) +
            (((t >> 16) & 0x000000FF000000FFull) * 0x0000271000000001ull)) >>
           32;
}

/* the value of eight digits; *wrong gets bits when one is none */
static inline uint64_t kfix_eight(uint64_t t, uint64_t* wrong) {
    t ^= 0x3030303030303030ull;
    *wrong |= (t | (t + 0x0606060606060606ull)) & 0xF0F0F0F0F0F0F0F0ull;
    t = t * 10 + (t >> 8);
    return (((t & 0x000000FF000000FFull) * 0x000F424000000064ull) +
            (((t >> 16) & 0x000000FF000000FFull) * 0x0000271000000001ull)) >>
           32;
}

/* all digits at *p, at most 19; *p moves past them; returns their number, or -1 when there are more */
static inline int kfix_digits(const char** p, uint64_t* value) {
    int n, more;
    uint64_t v = kfix_digits8(*p, &n);
    int total = n;
    while (__builtin_expect(n == 8, 0)) {
        uint64_t w = kfix_digits8(*p + total, &more);
        if (total + more > 18)
            return -1;
        v = v * kfix_pow10[more] + w;
        total += more;
        n = more;
    }
    *value = v;
    *p += total;
    return total;
}

/* the tag at *p, up to '=', and *p after it; 0 when there is none, or one of more than nine digits */
static inline uint32_t kfix_tag(const char** p) {
    const char* q = *p;
    uint32_t a = (uint32_t)(uint8_t)q[0] - '0', b = (uint32_t)(uint8_t)q[1] - '0', c = (uint32_t)(uint8_t)q[2] - '0';
    if (q[2] == '=' && ((a <= 9) & (b <= 9))) {
        *p = q + 3;
        return a * 10 + b;
    }
    if (q[3] == '=' && ((a <= 9) & (b <= 9) & (c <= 9))) {
        *p = q + 4;
        return a * 100 + b * 10 + c;
    }
    uint64_t tag;
    int n = kfix_digits(&q, &tag);
    if (n < 1 || n > 9 || *q != '=')
        return 0;
    *p = q + 1;
    return (uint32_t)tag;
}

enum {
    KFIX_NO_NUMBER = -1, /* not of the form of a number */
    KFIX_TOO_LARGE = -2, /* a number that no int64 holds */
    KFIX_TOO_FINE = -3,  /* a digit would be lost */
};

/* Read a decimal number of any length, exactly.
 *
 * The form is [+-] digits [. digits] [e [+-] digits], with a digit before or after the point. The value is
 * *mantissa * 10^*exponent, *decimals the number of digits after the point that the text states (at most 255), and *p
 * moves to the byte after the number. Zeros in front and at the end cost no digit of the mantissa, and an exponent
 * beyond what any precision holds is cut to KFIX_MAX_EXPONENT.
 *
 *     "28013.0"                  28013, 0     1 decimal
 *     "0.00096506"               96506, -8    8 decimals
 *     "9.65e-05"                 965, -7      7 decimals
 *     "+1.0E8"                   1, 8         0 decimals
 *     "00012000000000000000000"  12, 18       0 decimals
 *     "12345678901234567890"     KFIX_TOO_LARGE
 *     "1e", ".", "1.2.3"         KFIX_NO_NUMBER, or *p before the second point
 */
#define KFIX_MAX_EXPONENT 100
static int kfix_number_any(const char** p, int64_t* mantissa, int* exponent, int* decimals) {
    const char* q = *p;
    int negative = *q == '-', too_large = 0, power = 0;
    int64_t digits = 0, fraction = 0, zeros = 0; /* zeros: since the last other digit */
    uint64_t v = 0;
    q += negative || *q == '+';
    for (int point = 0;; q++) {
        unsigned digit = (unsigned)(uint8_t)*q - '0';
        if (*q == '.' && !point) {
            point = 1;
            continue;
        }
        if (digit > 9)
            break;
        digits++;
        fraction += point;
        zeros++;
        if (digit == 0)
            continue;
        if (v && (zeros > 18 || __builtin_mul_overflow(v, kfix_pow10[zeros], &v)))
            too_large = 1;
        v += digit;
        too_large |= v > (uint64_t)INT64_MAX + (uint64_t)negative;
        zeros = 0;
    }
    if (digits == 0)
        return KFIX_NO_NUMBER;
    if (*q == 'e' || *q == 'E') {
        int below = q[1] == '-';
        const char* first = q + 1 + (q[1] == '-' || q[1] == '+');
        for (q = first; (uint8_t)(*q - '0') < 10; q++)
            power = power < 10000 ? power * 10 + (*q - '0') : power;
        if (q == first)
            return KFIX_NO_NUMBER;
        power = below ? -power : power;
    }
    *p = q;
    if (too_large)
        return KFIX_TOO_LARGE;
    zeros += power - fraction;
    fraction -= power;
    *mantissa = (int64_t)(negative ? 0 - v : v);
    *exponent = v == 0 ? 0
                       : (int)(zeros > KFIX_MAX_EXPONENT    ? KFIX_MAX_EXPONENT
                               : zeros < -KFIX_MAX_EXPONENT ? -KFIX_MAX_EXPONENT
                                                            : zeros);
    *decimals = (int)(fraction < 0 ? 0 : fraction > 255 ? 255 : fraction);
    return 0;
}

#if KFIX_WIDE
/* the first n of 16 bytes set, n up to 32: loaded at kfix_first + 32 - n */
static const uint8_t kfix_first[48]
    __attribute__((aligned(64))) = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
static inline __m128i kfix_first_bytes(int n) {
    return _mm_loadu_si128((const __m128i*)(kfix_first + 32 - n));
}

/* bit i: byte i of the text is c */
static inline unsigned kfix_where(__m128i text, char c) {
    return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8(c)));
}

/* 16 digits, as bytes 0 to 9, as a number */
static inline uint64_t kfix_sixteen(__m128i digits) {
    __m128i pairs = _mm_maddubs_epi16(digits, _mm_set1_epi16(0x010A)); /* 10, 1 */
    __m128i fours = _mm_madd_epi16(pairs, _mm_set1_epi32(0x00010064)); /* 100, 1 */
    fours = _mm_packus_epi32(fours, fours);
    uint64_t eights = (uint64_t)_mm_cvtsi128_si64(_mm_madd_epi16(fours, _mm_set1_epi32(0x00012710))); /* 10000, 1 */
    return (eights & 0xFFFFFFFFu) * 100000000u + (eights >> 32);
}

/* the `end` characters of a decimal text, its point at `dot` (or its end, without one), as an integer with `places`
 * decimals, where dot + places <= 16. *wrong gets bits when a character is no digit, or a digit is lost. */
static inline uint64_t kfix_join_digits(__m128i text, int end, int dot, int places, __m128i* wrong) {
    /* byte k of a load at `+ ones + 1` is k - 15 + ones: where the digit of place 15 - k is after the point */
    static const int8_t slide[33]
        __attribute__((aligned(64))) = {-16, -15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1,  0,
                                        1,   2,   3,   4,   5,   6,   7,   8,  9,  10, 11, 12, 13, 14, 15, -128};
    int ones = dot + places;
    __m128i digits = _mm_and_si128(_mm_sub_epi8(text, _mm_set1_epi8('0')), kfix_first_bytes(end));
    __m128i from = _mm_loadu_si128((const __m128i*)(slide + ones + 1));
    from = _mm_add_epi8(from, kfix_first_bytes(16 - places)); /* before it one byte less: there is the point */
    __m128i placed = _mm_shuffle_epi8(digits, from);          /* negative: no digit there */
    *wrong =
        _mm_or_si128(_mm_subs_epu8(placed, _mm_set1_epi8(9)), _mm_andnot_si128(kfix_first_bytes(ones + 1), digits));
    return kfix_sixteen(placed);
}
#endif

/* digits at *p up to SOH as a number: 0 and *p after the SOH, or -1 when there are none, more than 15, or others */
static inline int kfix_whole(const char** p, uint64_t* value) {
    const char* q = *p;
#if KFIX_WIDE
    if (__builtin_expect(!kfix_scalar, 1)) {
        int n = __builtin_ctz(kfix_where(_mm_loadu_si128((const __m128i*)q), 1) | 0x10000);
        if (__builtin_expect((unsigned)(n - 1) >= 15, 0))
            return -1;
        __m128i text = _mm_loadu_si128((const __m128i*)(q + n - 16));
        __m128i digits = _mm_andnot_si128(kfix_first_bytes(16 - n), _mm_sub_epi8(text, _mm_set1_epi8('0')));
        __m128i wrong = _mm_subs_epu8(digits, _mm_set1_epi8(9));
        if (__builtin_expect(!_mm_testz_si128(wrong, wrong), 0))
            return -1;
        *value = kfix_sixteen(digits);
        *p = q + n + 1;
        return 0;
    }
#endif
    int n = kfix_digits(&q, value);
    if (n < 1 || n > 15 || *q != 1)
        return -1;
    *p = q + 1;
    return 0;
}

/* The same as kfix_number_any, fast where the text has at most 15 characters and is followed by SOH: nearly every price
 * and quantity. The mantissa may end with zeros. */
static inline int kfix_number(const char** p, int64_t* mantissa, int* exponent, int* decimals) {
#if KFIX_WIDE
    const char* q = *p;
    __m128i text = _mm_loadu_si128((const __m128i*)q), wrong;
    unsigned ends = kfix_where(text, 1) | 0x10000;
    int end = __builtin_ctz(ends), dot = __builtin_ctz(ends | kfix_where(text, '.'));
    if (__builtin_expect(end < 16 && dot > 0 && dot + 1 != end && !kfix_scalar, 1)) {
        int fraction = end - dot - (end != dot);
        uint64_t v = kfix_join_digits(text, end, dot, fraction, &wrong);
        if (__builtin_expect(_mm_testz_si128(wrong, wrong), 1)) {
            *mantissa = (int64_t)v;
            *exponent = -fraction;
            *decimals = fraction;
            *p = q + end;
            return 0;
        }
    }
#endif
    return kfix_number_any(p, mantissa, exponent, decimals);
}

static int kfix_fixed_plain(const char** p, int precision, int64_t* value, int* decimals) {
    const char* q = *p;
    uint64_t whole, fraction = 0;
    int digits = kfix_digits(&q, &whole), sent = 0;
    if (digits < 1 || digits + precision > 16)
        return -1;
    if (*q == '.') {
        q++;
        sent = kfix_digits(&q, &fraction);
        if (sent < 1)
            return -1;
    }
    if (*q != 1 || q - *p > 15)
        return -1;
    *decimals = sent;
    if (sent > precision) {
        if (fraction % kfix_pow10[sent - precision])
            return -1;
        fraction /= kfix_pow10[sent - precision];
        sent = precision;
    }
    *value = (int64_t)(whole * kfix_pow10[precision] + fraction * kfix_pow10[precision - sent]);
    *p = q + 1;
    return 0;
}

/* Read the price or quantity at *p, up to its SOH, in units of 10^-precision, and count the digits after its point.
 *
 * Returns 0 with *p after the SOH, or -1 for whatever is not usual: signs, exponents, more than 15 characters, digits
 * other than zero beyond the precision, and what is no number. With precision 1:
 *
 *     "28013.0|"  280130, 1 decimal
 *     "28013|"    280130, 0 decimals
 *     "5.25|"     -1
 */
static inline int kfix_fixed(const char** p, int precision, int64_t* value, int* decimals) {
#if KFIX_WIDE
    const char* q = *p;
    __m128i text = _mm_loadu_si128((const __m128i*)q), wrong;
    unsigned ends = kfix_where(text, 1) | 0x10000;
    int end = __builtin_ctz(ends), dot = __builtin_ctz(ends | kfix_where(text, '.'));
    if (__builtin_expect(kfix_scalar, 0)) {
        int wrong_form = kfix_fixed_plain(&q, precision, value, decimals); /* p stays in a register */
        *p = q;
        return wrong_form;
    }
    /* some character, less than 16, a digit before the point, and what it makes has no more than 16 */
    if (__builtin_expect((unsigned)((dot - 1) | end | (dot + precision - 1)) >= 16, 0))
        return -1;
    uint64_t v = kfix_join_digits(text, end, dot, precision, &wrong);
    if (__builtin_expect(!_mm_testz_si128(wrong, wrong), 0))
        return -1;
    *value = (int64_t)v;
    *decimals = end - dot - (end != dot);
    *p = q + end + 1;
    return 0;
#else
    return kfix_fixed_plain(p, precision, value, decimals);
#endif
}

/* Multiply *value by 10^shift: 0, KFIX_TOO_FINE when a digit other than zero would be lost, or KFIX_TOO_LARGE. */
static inline int kfix_rescale(int64_t* value, int shift) {
    if (shift == 0 || *value == 0)
        return 0;
    if (shift > 0)
        return shift > 18 || __builtin_mul_overflow(*value, (int64_t)kfix_pow10[shift], value) ? KFIX_TOO_LARGE : 0;
    if (shift < -18 || *value % (int64_t)kfix_pow10[-shift] != 0)
        return KFIX_TOO_FINE;
    *value /= (int64_t)kfix_pow10[-shift];
    return 0;
}
#endif
