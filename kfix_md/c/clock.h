/* Times of day, dates and timestamps of the wire as ns. */
#ifndef KFIX_CLOCK_H
#define KFIX_CLOCK_H
#include "scan.h"

/* "HH:MM:SS" as seconds of the day, or -1 (60 is allowed as a leap second) */
static inline int64_t kfix_time_of_day(const char* p) {
    uint64_t t = kfix_load8(p) ^ 0x30303A30303A3030ull;
    uint64_t wrong = (t | (t + 0x0606060606060606ull)) & 0xF0F0F0F0F0F0F0F0ull;
    if (wrong | (t & 0x0000FF0000FF0000ull))
        return -1;
    t = t * 10 + (t >> 8);
    unsigned h = t & 255, m = (t >> 24) & 255, s = (t >> 48) & 255;
    if (h > 23 || m > 59 || s > 60)
        return -1;
    return (int64_t)(h * 3600 + m * 60 + s);
}

#if KFIX_WIDE
/* "HH:MM:SS.ddddddd" xor its form leaves digits; as pairs: hours, ten minutes, minutes, seconds, and of the decimals
 * one hundredfold, then two each. *wrong gets bits when a character is none of the form, or an hour, minute or second
 * is none (60 is allowed as a leap second). The first `n` characters count. */
static inline __m128i kfix_clock_pairs(__m128i digits, __m128i limits, __m128i* wrong) {
    const __m128i weights = _mm_setr_epi8(10, 1, 0, 10, 1, 0, 10, 1, 0, 100, 10, 1, 10, 1, 10, 1);
    const __m128i most = _mm_setr_epi16(23, 50, 9, 60, 900, 99, 99, 99);
    __m128i pairs = _mm_maddubs_epi16(digits, weights);
    *wrong = _mm_or_si128(_mm_subs_epu8(digits, limits), _mm_cmpgt_epi16(pairs, most));
    return pairs;
}
#endif

/* "HH:MM:SS.mmm" and SOH: ns since midnight, or -1 for any other form */
static inline int64_t kfix_clock_ms(const char* p) {
#if KFIX_WIDE
    const __m128i form = _mm_setr_epi8('0', '0', ':', '0', '0', ':', '0', '0', '.', '0', '0', '0', 1, 0, 0, 0);
    const __m128i limits = _mm_setr_epi8(2, 9, 0, 5, 9, 0, 6, 9, 0, 9, 9, 9, 0, 0, 0, 0);
    if (__builtin_expect(!kfix_scalar, 1)) {
        __m128i digits = _mm_xor_si128(_mm_loadu_si128((const __m128i*)p), form), wrong;
        digits = _mm_and_si128(digits, kfix_first_bytes(13));
        __m128i pairs = kfix_clock_pairs(digits, limits, &wrong);
        if (__builtin_expect(!_mm_testz_si128(wrong, wrong), 0))
            return -1;
        __m128i parts = _mm_madd_epi16(pairs, _mm_setr_epi16(3600, 60, 60, 1, 1, 1, 0, 0));
        uint64_t halves = (uint64_t)_mm_cvtsi128_si64(parts);
        uint64_t ms = ((halves + (halves >> 32)) & 0xFFFFFFFFu) * 1000 + (uint32_t)_mm_extract_epi32(parts, 2);
        return (int64_t)(ms * 1000000);
    }
#endif
    uint32_t f = kfix_load4(p + 8) ^ 0x3030302Eu;
    int64_t seconds = kfix_time_of_day(p);
    if (__builtin_expect(seconds < 0 || (f & 255) || ((f | (f + 0x06060600u)) & 0xF0F0F000u) || p[12] != 1, 0))
        return -1;
    return seconds * 1000000000 + (int64_t)((f >> 8 & 15) * 100 + (f >> 16 & 15) * 10 + (f >> 24)) * 1000000;
}

/* Read the fraction of a second at *p, if any, and move *p past it: ns, or -1 for a point without digits.
 * What is finer than a nanosecond is cut.
 *
 *     "|"               0
 *     ".123|"           123000000
 *     ".123456789012|"  123456789
 */
static inline int64_t kfix_fraction(const char** p) {
    const char* q = *p;
    uint64_t value;
    int n;
    if (*q != '.')
        return 0;
    value = kfix_digits8(++q, &n);
    q += n;
    if (n == 8 && (unsigned char)(*q - '0') < 10) {
        value = value * 10 + (uint64_t)(*q++ - '0');
        n = 9;
        while ((unsigned char)(*q - '0') < 10)
            q++;
    }
    if (n < 1)
        return -1;
    *p = q;
    return (int64_t)(value * kfix_pow10[9 - n]);
}

/* days since 1970-01-01 of a Gregorian date, or -1 */
static inline int64_t kfix_days(int64_t y, int64_t m, int64_t d) {
    static const int lengths[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    if (y < 1970 || y > 2261 || m < 1 || m > 12 || d < 1 || d > lengths[m] + (m == 2 && leap))
        return -1;
    y -= m <= 2;
    int64_t era = y / 400, yoe = y - era * 400;
    int64_t doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

typedef struct { /* the last date read, as text and as ns since the epoch */
    uint64_t text;
    int64_t ns;
    uint32_t head;
} kfix_date;

#define KFIX_DAY_NS 86400000000000ll

/* "YYYYMMDD": ns since the epoch of its midnight, or -1 */
static inline int64_t kfix_date8(const char* p, kfix_date* cache) {
    uint64_t text = kfix_load8(p);
    if (__builtin_expect(text == cache->text, 1))
        return cache->ns;
    int n;
    uint64_t v = kfix_digits8(p, &n);
    int64_t days = n == 8 ? kfix_days(v / 10000, v / 100 % 100, v % 100) : -1;
    if (days < 0)
        return -1;
    cache->text = text;
    cache->ns = days * KFIX_DAY_NS;
    return cache->ns;
}

/* "YYYYMMDD-HH:MM:SS[.fraction]" (52, 122): ns since the epoch, or -1; *p moves past it */
static inline int64_t kfix_timestamp(const char** p, kfix_date* cache) {
    int64_t day = kfix_date8(*p, cache), clock, fraction;
    if (day < 0 || (*p)[8] != '-')
        return -1;
    clock = kfix_clock_ms(*p + 9);
    if (__builtin_expect(clock >= 0, 1)) {
        *p += 21;
        return day + clock;
    }
    clock = kfix_time_of_day(*p + 9);
    *p += 17;
    fraction = kfix_fraction(p);
    if (clock < 0 || fraction < 0)
        return -1;
    return day + clock * 1000000000ll + fraction;
}

/* "YYYY-MM-DDTHH:MM:SS[.fraction]Z" (5060, 5273): ns since the epoch, or -1; *p moves past it */
static inline int64_t kfix_iso_any(const char** p, kfix_date* cache) {
    const char* q = *p;
    int64_t days, clock, fraction;
    int n;
    uint64_t y = kfix_digits8(q, &n), m, d;
    if (n != 4 || q[4] != '-')
        return -1;
    m = kfix_digits8(q + 5, &n);
    if (n != 2 || q[7] != '-')
        return -1;
    d = kfix_digits8(q + 8, &n);
    if (n != 2 || q[10] != 'T')
        return -1;
    days = kfix_days((int64_t)y, (int64_t)m, (int64_t)d);
    clock = kfix_time_of_day(q + 11);
    *p += 19;
    fraction = kfix_fraction(p);
    if (days < 0 || clock < 0 || fraction < 0 || **p != 'Z')
        return -1;
    *p += 1;
    cache->text = kfix_load8(q + 3); /* "Y-MM-DDT": with the century checked below, the whole date */
    cache->head = kfix_load4(q);
    cache->ns = days * KFIX_DAY_NS;
    return cache->ns + clock * 1000000000ll + fraction;
}

/* orders rest for days: the dates last read, by the last digit of the day */
typedef struct {
    kfix_date of[16];
} kfix_dates;

static inline __attribute__((always_inline)) int64_t kfix_iso(const char** p, kfix_dates* dates) {
    /* a date read before, and nine decimals: nearly every time */
    const char* q = *p;
    kfix_date* cache = &dates->of[q[9] & 15];
    uint64_t last = (uint64_t)(unsigned char)(q[28] - '0'), wrong = last > 9;
    if (__builtin_expect(
            kfix_load8(q + 3) == cache->text && kfix_load4(q) == cache->head && q[19] == '.' && q[29] == 'Z', 1)) {
#if KFIX_WIDE
        const __m128i form =
            _mm_setr_epi8('0', '0', ':', '0', '0', ':', '0', '0', '.', '0', '0', '0', '0', '0', '0', '0');
        const __m128i limits = _mm_setr_epi8(2, 9, 0, 5, 9, 0, 6, 9, 0, 9, 9, 9, 9, 9, 9, 9);
        uint64_t eighth = (uint64_t)(unsigned char)(q[27] - '0');
        __m128i others;
        __m128i pairs =
            kfix_clock_pairs(_mm_xor_si128(_mm_loadu_si128((const __m128i*)(q + 11)), form), limits, &others);
        if (__builtin_expect(_mm_testz_si128(others, others) && !(wrong | (eighth > 9)) && !kfix_scalar, 1)) {
            __m128i parts = _mm_madd_epi16(pairs, _mm_setr_epi16(3600, 60, 60, 1, 1, 1, 100, 1));
            uint64_t clock = (uint64_t)_mm_cvtsi128_si64(parts), fraction = (uint64_t)_mm_extract_epi64(parts, 1);
            clock = (clock + (clock >> 32)) & 0xFFFFFFFFu;
            fraction = (fraction & 0xFFFFFFFFu) * 10000 + (fraction >> 32);
            *p += 30;
            return cache->ns + (int64_t)(clock * 1000000000u + fraction * 100 + eighth * 10 + last);
        }
#else
        int64_t clock = kfix_time_of_day(q + 11);
        uint64_t fraction = kfix_eight(kfix_load8(q + 20), &wrong);
        if (__builtin_expect(clock >= 0 && !wrong, 1)) {
            *p += 30;
            return cache->ns + clock * 1000000000ll + (int64_t)(fraction * 10 + last);
        }
#endif
    }
    int64_t t = kfix_iso_any(&q, cache);
    *p = q;
    return t;
}
#endif
