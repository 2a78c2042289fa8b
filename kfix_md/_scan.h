/* What is read eight or more bytes at a time: sums, digits, clock times, hexadecimal ids.
 *
 * Every function may load up to 16 bytes past the value it reads, so that frames stand in padded buffers.
 */
#ifndef KFIX_SCAN_H
#define KFIX_SCAN_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "kfix-md reads numbers eight bytes at a time, in little endian order"
#endif

static inline uint64_t kfix_load8(const char *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}
static inline uint32_t kfix_load4(const char *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

/* ---- byte sum modulo 256 (tag 10), one body compiled for three instruction sets ---- */

#define KFIX_SUM_BODY                                        \
    uint8_t sum = 0;                                         \
    for (int64_t i = 0; i < n; i++) sum += (uint8_t)p[i];    \
    return sum;

static uint8_t kfix_sum_scalar(const char *p, int64_t n) { KFIX_SUM_BODY }
#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint8_t kfix_sum_avx2(const char *p, int64_t n) { KFIX_SUM_BODY }
__attribute__((target("avx512f,avx512bw,prefer-vector-width=512"))) static uint8_t kfix_sum_avx512(
    const char *p, int64_t n) {
    KFIX_SUM_BODY
}
#endif

static uint8_t (*kfix_sum)(const char *, int64_t) = kfix_sum_scalar;

/* name: "scalar", "avx2", "avx512", or NULL for the best there is; returns the one chosen, NULL if it is missing */
__attribute__((unused)) static const char *kfix_scan_init(const char *name) {
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

static const uint64_t kfix_pow10[20] = {1ull, 10ull, 100ull, 1000ull, 10000ull, 100000ull, 1000000ull, 10000000ull,
    100000000ull, 1000000000ull, 10000000000ull, 100000000000ull, 1000000000000ull, 10000000000000ull,
    100000000000000ull, 1000000000000000ull, 10000000000000000ull, 100000000000000000ull, 1000000000000000000ull,
    10000000000000000000ull};

/* up to 8 digits at p: their number goes to *n, their value is returned */
static inline uint64_t kfix_digits8(const char *p, int *n) {
    uint64_t t = kfix_load8(p) ^ 0x3030303030303030ull;
    uint64_t other = (t | (t + 0x0606060606060606ull)) & 0xF0F0F0F0F0F0F0F0ull;
    int count = other ? __builtin_ctzll(other) >> 3 : 8;
    *n = count;
    if (count == 0) return 0;
    t <<= 64 - 8 * count;
    t = t * 10 + (t >> 8);
    return (((t & 0x000000FF000000FFull) * 0x000F424000000064ull) +
            (((t >> 16) & 0x000000FF000000FFull) * 0x0000271000000001ull)) >> 32;
}

/* all digits at *p, at most 19; *p moves past them; returns their number, or -1 when there are more */
static inline int kfix_digits(const char **p, uint64_t *value) {
    int n, more;
    uint64_t v = kfix_digits8(*p, &n);
    int total = n;
    while (__builtin_expect(n == 8, 0)) {
        uint64_t w = kfix_digits8(*p + total, &more);
        if (total + more > 18) return -1;
        v = v * kfix_pow10[more] + w;
        total += more;
        n = more;
    }
    *value = v;
    *p += total;
    return total;
}

/* decimal number at *p as mantissa and number of decimals; *p moves to the byte after it (SOH when it is sound);
 * returns 0, or -1 when it is no number or has more than 18 digits. A fraction of zeros counts as none. */
static int kfix_number_any(const char **p, int64_t *mantissa, int *decimals) {
    const char *q = *p;
    int negative = *q == '-', whole, fraction = 0;
    uint64_t a, b;
    q += negative;
    whole = kfix_digits(&q, &a);
    if (whole < 0) return -1;
    if (*q == '.') {
        q++;
        fraction = kfix_digits(&q, &b);
        if (fraction < 0 || whole + fraction > 18) return -1;
        if (whole + fraction == 0) return -1;
        if (b == 0) fraction = 0;
        else a = a * kfix_pow10[fraction] + b;
    } else if (whole == 0) {
        return -1;
    }
    *mantissa = negative ? -(int64_t)a : (int64_t)a;
    *decimals = fraction;
    *p = q;
    return 0;
}

static inline int kfix_number(const char **p, int64_t *mantissa, int *decimals) {
    /* 1 to 7 digits, a point, 1 to 8 digits, SOH: nearly every price and quantity */
    int whole, fraction;
    const char *q = *p;
    uint64_t a = kfix_digits8(q, &whole), b;
    if (__builtin_expect(q[whole] == '.' && whole > 0, 1)) {
        q += whole + 1;
        b = kfix_digits8(q, &fraction);
        if (__builtin_expect(fraction > 0 && q[fraction] == 1, 1)) {
            fraction = b ? fraction : (q += fraction, 0);
            q += fraction;
            *mantissa = (int64_t)(a * kfix_pow10[fraction] + b);
            *decimals = fraction;
            *p = q;
            return 0;
        }
    }
    return kfix_number_any(p, mantissa, decimals);
}

/* value in units of 10^-decimals to units of 10^-precision: 0, or -1 when a digit would be lost or 18 do not hold it */
static inline int kfix_rescale(int64_t *value, int shift) {
    if (shift == 0 || *value == 0) return 0;
    if (shift > 0) {
        int64_t scaled;
        if (shift > 18 || __builtin_mul_overflow(*value, (int64_t)kfix_pow10[shift], &scaled) ||
            scaled > 999999999999999999ll || scaled < -999999999999999999ll)
            return -1;
        *value = scaled;
        return 0;
    }
    if (*value % (int64_t)kfix_pow10[-shift] != 0) return -1;
    *value /= (int64_t)kfix_pow10[-shift];
    return 0;
}

/* ---- clock times ---- */

/* "HH:MM:SS" as seconds of the day, or -1 (60 is allowed as a leap second) */
static inline int64_t kfix_time_of_day(const char *p) {
    uint64_t t = kfix_load8(p) ^ 0x30303A30303A3030ull;
    uint64_t wrong = (t | (t + 0x0606060606060606ull)) & 0xF0F0F0F0F0F0F0F0ull;
    if (wrong | (t & 0x0000FF0000FF0000ull)) return -1;
    t = t * 10 + (t >> 8);
    unsigned h = t & 255, m = (t >> 24) & 255, s = (t >> 48) & 255;
    if (h > 23 || m > 59 || s > 60) return -1;
    return (int64_t)(h * 3600 + m * 60 + s);
}

/* fraction of a second, ".123" to ".123456789", or nothing: ns, or -1; *p moves past it */
static inline int64_t kfix_fraction(const char **p) {
    const char *q = *p;
    uint64_t value;
    int n;
    if (*q != '.') return 0;
    value = kfix_digits8(++q, &n);
    q += n;
    if (n == 8 && (unsigned char)(*q - '0') < 10) {
        value = value * 10 + (uint64_t)(*q++ - '0');
        n = 9;
    }
    if (n < 1 || (unsigned char)(*q - '0') < 10) return -1;
    *p = q;
    return (int64_t)(value * kfix_pow10[9 - n]);
}

/* days since 1970-01-01 of a Gregorian date, or -1 */
static inline int64_t kfix_days(int64_t y, int64_t m, int64_t d) {
    static const int lengths[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    if (y < 1970 || y > 2261 || m < 1 || m > 12 || d < 1 || d > lengths[m] + (m == 2 && leap)) return -1;
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
static inline int64_t kfix_date8(const char *p, kfix_date *cache) {
    uint64_t text = kfix_load8(p);
    if (__builtin_expect(text == cache->text, 1)) return cache->ns;
    int n;
    uint64_t v = kfix_digits8(p, &n);
    int64_t days = n == 8 ? kfix_days(v / 10000, v / 100 % 100, v % 100) : -1;
    if (days < 0) return -1;
    cache->text = text;
    cache->ns = days * KFIX_DAY_NS;
    return cache->ns;
}

/* "YYYYMMDD-HH:MM:SS[.fraction]" (52, 122): ns since the epoch, or -1; *p moves past it */
static inline int64_t kfix_timestamp(const char **p, kfix_date *cache) {
    int64_t day = kfix_date8(*p, cache), clock, fraction;
    if (day < 0 || (*p)[8] != '-') return -1;
    clock = kfix_time_of_day(*p + 9);
    *p += 17;
    fraction = kfix_fraction(p);
    if (clock < 0 || fraction < 0) return -1;
    return day + clock * 1000000000ll + fraction;
}

/* "YYYY-MM-DDTHH:MM:SS[.fraction]Z" (5060, 5273): ns since the epoch, or -1; *p moves past it */
static inline int64_t kfix_iso_any(const char **p, kfix_date *cache) {
    const char *q = *p;
    int64_t days, clock, fraction;
    int n;
    uint64_t y = kfix_digits8(q, &n), m, d;
    if (n != 4 || q[4] != '-') return -1;
    m = kfix_digits8(q + 5, &n);
    if (n != 2 || q[7] != '-') return -1;
    d = kfix_digits8(q + 8, &n);
    if (n != 2 || q[10] != 'T') return -1;
    days = kfix_days((int64_t)y, (int64_t)m, (int64_t)d);
    clock = kfix_time_of_day(q + 11);
    *p += 19;
    fraction = kfix_fraction(p);
    if (days < 0 || clock < 0 || fraction < 0 || **p != 'Z') return -1;
    *p += 1;
    cache->text = kfix_load8(q + 3); /* "Y-MM-DDT": with the century checked below, the whole date */
    cache->head = kfix_load4(q);
    cache->ns = days * KFIX_DAY_NS;
    return cache->ns + clock * 1000000000ll + fraction;
}

static inline int64_t kfix_iso(const char **p, kfix_date *cache) {
    /* the date of the last one, and nine decimals: nearly every time */
    const char *q = *p;
    int n;
    if (__builtin_expect(kfix_load8(q + 3) == cache->text && kfix_load4(q) == cache->head && q[19] == '.' &&
                         q[29] == 'Z' && (unsigned char)(q[28] - '0') < 10, 1)) {
        int64_t clock = kfix_time_of_day(q + 11);
        uint64_t fraction = kfix_digits8(q + 20, &n);
        if (clock >= 0 && n == 8) {
            *p += 30;
            return cache->ns + clock * 1000000000ll + (int64_t)(fraction * 10 + (uint64_t)(q[28] - '0'));
        }
    }
    return kfix_iso_any(p, cache);
}

/* ---- order ids ---- */

/* eight lower case hexadecimal digits held in x, first digit in the lowest byte; *bad gets bits when one is not */
static inline uint32_t kfix_hex8(uint64_t x, uint64_t *bad) {
    uint64_t letter = (x >> 6) & 0x0101010101010101ull;
    uint64_t v = (x & 0x0F0F0F0F0F0F0F0Full) + letter * 9;
    *bad |= (x ^ (v + 0x3030303030303030ull + letter * 0x27)) | (v & 0xF0F0F0F0F0F0F0F0ull) |
            ((((v + 0x0606060606060606ull) >> 4) & 0x0101010101010101ull) ^ letter);
    v = (v * 16 + (v >> 8)) & 0x00FF00FF00FF00FFull;
    v = (v | (v >> 8)) & 0x0000FFFF0000FFFFull;
    return __builtin_bswap32((uint32_t)(v | (v >> 16)));
}

/* 36 bytes 8-4-4-4-12: 0, or -1 when they are no lower case UUID */
static inline int kfix_uuid(const char *p, uint64_t *hi, uint64_t *lo) {
    uint64_t bad = (uint64_t)((p[8] ^ '-') | (p[13] ^ '-') | (p[18] ^ '-') | (p[23] ^ '-'));
    uint64_t a = kfix_hex8(kfix_load8(p), &bad);
    uint64_t b = kfix_hex8(kfix_load4(p + 9) | (uint64_t)kfix_load4(p + 14) << 32, &bad);
    uint64_t c = kfix_hex8(kfix_load4(p + 19) | (uint64_t)kfix_load4(p + 24) << 32, &bad);
    uint64_t d = kfix_hex8(kfix_load8(p + 28), &bad);
    *hi = a << 32 | b;
    *lo = c << 32 | d;
    return bad ? -1 : 0;
}

static inline int kfix_base36(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'Z' ? c - 'A' + 10 : -1;
}

/* 19 bytes OXXXXX-XXXXX-XXXXXX, X in 0-9 A-Z: 0, or -1 */
static inline int kfix_kraken_id(const char *p, uint64_t *hi, uint64_t *lo) {
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

/* at most 16 bytes of text, zero padded, big endian */
static inline void kfix_text_id(const char *p, int n, uint64_t *hi, uint64_t *lo) {
    char text[16] = {0};
    memcpy(text, p, (size_t)n);
    *hi = __builtin_bswap64(kfix_load8(text));
    *lo = __builtin_bswap64(kfix_load8(text + 8));
}
#endif
