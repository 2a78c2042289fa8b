/* CRC32 of order book texts by pieces: raw CRCs of level texts, joined by carry-less multiplication.
 *
 * "Raw" means initial value 0 and no final xor; raw CRCs are linear, so that for texts A and B
 *     raw(A B) = raw(A) * x^(8 len(B))  xor  raw(B)          (polynomials modulo zlib's, bit-reflected)
 * and leading zero bytes change nothing. The zlib value of a text of n bytes is
 *     raw(text)  xor  0xFFFFFFFF * x^(8 n)  xor  0xFFFFFFFF.
 * Products are summed unreduced (63 bits) and reduced once.
 */
#ifndef KFIX_CRC_H
#define KFIX_CRC_H
#include <stdint.h>
#include <string.h>
#include "levels.h"
#include "powers.h"
#include "simd.h"
#if defined(__x86_64__)
#include <immintrin.h>
#define KFIX_HAVE_CLMUL 1
#else
#define KFIX_HAVE_CLMUL 0
#endif

#define KFIX_POLY   0xEDB88320u
#define KFIX_POWERS 2048 /* x^(8n) for n below this by table; longer texts by one more product */

static uint32_t kfix_slice[8][256];
static uint32_t kfix_power[KFIX_POWERS];
static uint32_t kfix_power_high[KFIX_POWERS]; /* x^(8 * KFIX_POWERS * n) */
static uint32_t kfix_power_inverse[64];       /* x^(-8n): takes back the move by n bytes */
static int kfix_use_clmul;                    /* on ARM: PMULL, and the instructions for this CRC */

/* 63-bit carry-less product of two 32-bit polynomials, by shifts: the oracle of the instruction */
static inline uint64_t kfix_clmul_plain(uint32_t a, uint32_t b) {
    /* four bits of b at a time: 8 steps of a 16-entry table */
    uint64_t table[16], product = 0;
    table[0] = 0;
    table[1] = a;
    for (int i = 2; i < 16; i += 2) {
        table[i] = table[i / 2] << 1;
        table[i + 1] = table[i] ^ a;
    }
    for (int shift = 28; shift >= 0; shift -= 4)
        product = (product << 4) ^ table[(b >> shift) & 15];
    return product;
}

/* 63-bit product, bit-reflected: the coefficient of degree i is at bit 62 - i */
static inline uint64_t kfix_clmul(uint32_t a, uint32_t b) {
#if KFIX_HAVE_CLMUL
    if (__builtin_expect(kfix_use_clmul, 1)) {
        uint64_t product; /* asm, so that the function inlines without raising the whole file's target */
        __asm__("movd %1, %%xmm0\n\tmovd %2, %%xmm1\n\tpclmulqdq $0, %%xmm1, %%xmm0\n\tmovq %%xmm0, %0"
                : "=r"(product)
                : "r"(a), "r"(b)
                : "xmm0", "xmm1");
        return product;
    }
#elif defined(__aarch64__)
    if (__builtin_expect(kfix_use_clmul, 1))
        return kfix_pmull(a, b);
#endif
    return kfix_clmul_plain(a, b);
}

static inline uint32_t kfix_reduce(uint64_t product) {
    uint64_t p = product << 1;
    uint32_t high = (uint32_t)p; /* degrees 63..32, in reflected order */
#if defined(__aarch64__)
    if (__builtin_expect(kfix_use_clmul, 1))
        return (uint32_t)(p >> 32) ^ kfix_crc32w(0, high);
#endif
    return (uint32_t)(p >> 32) ^ kfix_slice[3][high & 255] ^ kfix_slice[2][(high >> 8) & 255] ^
           kfix_slice[1][(high >> 16) & 255] ^ kfix_slice[0][high >> 24];
}

static inline uint32_t kfix_crc_multiply(uint32_t a, uint32_t b) {
    return kfix_reduce(kfix_clmul(a, b));
}

/* x^(8 n): what a raw CRC is multiplied with when n bytes follow it */
static inline uint32_t kfix_crc_power(uint32_t n) {
    if (__builtin_expect(n < KFIX_POWERS, 1))
        return kfix_power[n];
    uint32_t high = n / KFIX_POWERS, result = kfix_power[n % KFIX_POWERS];
    for (; high >= KFIX_POWERS; high -= KFIX_POWERS - 1)
        result = kfix_crc_multiply(result, kfix_power_high[KFIX_POWERS - 1]);
    return kfix_crc_multiply(result, kfix_power_high[high]);
}

/* raw CRC after eight more bytes, given as a little endian word; init is the raw CRC of what stood before */
static inline uint32_t kfix_crc_word(uint32_t init, uint64_t w) {
#if defined(__aarch64__)
    if (__builtin_expect(kfix_use_clmul, 1))
        return kfix_crc32x(init, w);
#endif
    w ^= init;
    return kfix_slice[7][w & 255] ^ kfix_slice[6][(w >> 8) & 255] ^ kfix_slice[5][(w >> 16) & 255] ^
           kfix_slice[4][(w >> 24) & 255] ^ kfix_slice[3][(w >> 32) & 255] ^ kfix_slice[2][(w >> 40) & 255] ^
           kfix_slice[1][(w >> 48) & 255] ^ kfix_slice[0][w >> 56];
}

/* the eight decimal digits of v < 10^8 as bytes 0 to 9, the first in the lowest byte */
static inline uint64_t kfix_eight_digits(uint32_t v) {
    uint64_t pairs = v / 10000 | (uint64_t)(v % 10000) << 32;
    uint64_t hundreds = ((pairs * 10486) >> 20) & 0x0000007F0000007Full; /* each half divided by 100 */
    uint64_t twos = ((pairs - 100 * hundreds) << 16) | hundreds;
    uint64_t tens = ((twos * 103) >> 10) & 0x000F000F000F000Full;
    return ((twos - 10 * tens) << 8) | tens;
}

/* raw CRC of the decimal digits of v < 10^18; *length becomes their number. Zero bytes in place of leading
 * zeros change no raw CRC, so that whole words are taken. */
static inline uint32_t kfix_crc_digits(uint64_t v, int* length) {
    uint32_t crc = 0;
    uint64_t digits, zeros;
    int n = 8;
    if (v >= 100000000) {
        uint64_t high = v / 100000000;
        crc = kfix_crc_digits(high, &n);
        digits = kfix_eight_digits((uint32_t)(v - high * 100000000));
        *length = n + 8;
        return kfix_crc_word(crc, digits | 0x3030303030303030ull);
    }
    digits = kfix_eight_digits((uint32_t)v);
    zeros = digits ? (uint64_t)__builtin_ctzll(digits) & ~7ull : 56;
    *length = n - (int)(zeros >> 3);
    return kfix_crc_word(0, (digits | 0x3030303030303030ull) & (~0ull << zeros));
}

/* raw CRC of the decimal digits of price, then of qty; *length becomes the number of characters.
 * A negative price keeps its sign, as str() would print it. */
static uint32_t kfix_crc_level_plain(int64_t price, int64_t qty, uint8_t* length) {
    int p, q;
    uint32_t head, tail = kfix_crc_digits(qty < 0 ? 0 - (uint64_t)qty : (uint64_t)qty, &q);
    if (__builtin_expect(price < 0, 0)) {
        head = kfix_crc_digits(0 - (uint64_t)price, &p);
        head ^= kfix_crc_multiply(kfix_slice[0]['-'], kfix_crc_power((uint32_t)p));
        p += 1;
    } else {
        head = kfix_crc_digits((uint64_t)price, &p);
    }
    *length = (uint8_t)(p + q);
    return kfix_crc_multiply(head, kfix_crc_power((uint32_t)q)) ^ tail;
}

#if KFIX_HAVE_CLMUL
static uint64_t kfix_fold[17][2]; /* x^(8 n + 32) and x^(8 n - 32): what moves the two halves of 128 bits by n bytes */

/* characters of sixteen digits, the first in the lowest byte, zero bytes for leading zeros; *length is their number */
static inline __m128i kfix_shown(__m128i digits, int* length) {
    static const uint8_t shown[32] = {0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,
                                      '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0', '0'};
    int zeros = _mm_movemask_epi8(_mm_cmpeq_epi8(digits, _mm_setzero_si128()));
    int leading = __builtin_ctz(((unsigned)zeros ^ 0xFFFFu) | 0x8000u);
    *length = 16 - leading;
    return _mm_or_si128(digits, _mm_loadu_si128((const __m128i*)(shown + 16 - leading)));
}

/* The same for 0 <= price, qty < 10^16. The digits of both are taken apart together: eight, four, two and one at a
 * time. The text of price, moved by the length of that of qty, and that of qty are summed and folded to 32 bits. */
__attribute__((target("pclmul"))) static uint32_t kfix_crc_level_clmul(uint64_t price, uint64_t qty, uint8_t* length) {
    uint64_t price_high = price / 100000000, qty_high = qty / 100000000;
    uint64_t price_both = price_high | (price - price_high * 100000000) << 32;
    uint64_t qty_both = qty_high | (qty - qty_high * 100000000) << 32;
    const __m128i by_10000 = _mm_set1_epi32((int)0xD1B71759u), zero = _mm_setzero_si128();
    __m128i x = _mm_set_epi64x((long long)qty_both, (long long)price_both);
    __m128i q = _mm_or_si128(_mm_srli_epi64(_mm_mul_epu32(x, by_10000), 45),
                             _mm_slli_epi64(_mm_srli_epi64(_mm_mul_epu32(_mm_srli_epi64(x, 32), by_10000), 45), 32));
    __m128i r = _mm_sub_epi32(x, _mm_madd_epi16(q, _mm_set1_epi32(10000)));
    x = _mm_or_si128(q, _mm_slli_epi32(r, 16));
    q = _mm_srli_epi16(_mm_mulhi_epu16(x, _mm_set1_epi16(5243)), 3);                            /* by 100 */
    x = _mm_sub_epi16(_mm_slli_epi16(x, 8), _mm_mullo_epi16(q, _mm_set1_epi16(100 * 256 - 1))); /* q, remainder */
    __m128i price_twos = _mm_unpacklo_epi8(x, zero), qty_twos = _mm_unpackhi_epi8(x, zero);
    const __m128i by_10 = _mm_set1_epi16(6554), back = _mm_set1_epi16(10 * 256 - 1);
    int price_n, qty_n;
    __m128i text = kfix_shown(
        _mm_sub_epi16(_mm_slli_epi16(price_twos, 8), _mm_mullo_epi16(_mm_mulhi_epu16(price_twos, by_10), back)),
        &price_n);
    __m128i last = kfix_shown(
        _mm_sub_epi16(_mm_slli_epi16(qty_twos, 8), _mm_mullo_epi16(_mm_mulhi_epu16(qty_twos, by_10), back)), &qty_n);
    *length = (uint8_t)(price_n + qty_n);
    __m128i move = _mm_loadu_si128((const __m128i*)kfix_fold[qty_n]);
    const __m128i by_64 = _mm_set_epi64x(0x0CCAA009E, 0x163CD6124); /* x^96, x^64 modulo the polynomial, reflected */
    const __m128i barrett = _mm_set_epi64x(0x1F7011641, 0x1DB710641), low = _mm_setr_epi32(-1, 0, -1, 0);
    x = _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(text, move, 0x00), _mm_clmulepi64_si128(text, move, 0x11)),
                      last);
    x = _mm_xor_si128(_mm_srli_si128(x, 8), _mm_clmulepi64_si128(x, by_64, 0x10));
    x = _mm_xor_si128(_mm_srli_si128(x, 4), _mm_clmulepi64_si128(_mm_and_si128(x, low), by_64, 0x00));
    __m128i y = _mm_and_si128(_mm_clmulepi64_si128(_mm_and_si128(x, low), barrett, 0x10), low);
    x = _mm_xor_si128(x, _mm_clmulepi64_si128(y, barrett, 0x00));
    return (uint32_t)((uint64_t)_mm_cvtsi128_si64(x) >> 32);
}
#endif

static inline uint32_t kfix_crc_level(int64_t price, int64_t qty, uint8_t* length) {
#if KFIX_HAVE_CLMUL
    if (__builtin_expect(
            kfix_use_clmul && (uint64_t)price < 10000000000000000ull && (uint64_t)qty < 10000000000000000ull, 1))
        return kfix_crc_level_clmul((uint64_t)price, (uint64_t)qty, length);
#endif
    return kfix_crc_level_plain(price, qty, length);
}

/* v in units of 10^-n as the digits of 10^-(n + shift), as a venue prints them that writes `shift` decimals more (or
 * less). Digits are lost only where another precision is tried; what 64 bits do not hold gives some other number. */
static inline uint64_t kfix_reprinted(int64_t v, int shift) {
    uint64_t magnitude = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    if (shift >= 0)
        magnitude *= kfix_pow10[shift > 19 ? 19 : shift];
    else
        magnitude /= kfix_pow10[shift < -19 ? 19 : -shift];
    return v < 0 ? 0 - magnitude : magnitude;
}

/* raw CRC of a level's text with so many decimals more (or less) than price and qty have */
static uint32_t kfix_crc_shifted(int64_t price, int64_t qty, int price_shift, int qty_shift, uint8_t* length) {
    return kfix_crc_level_plain((int64_t)kfix_reprinted(price, price_shift), (int64_t)kfix_reprinted(qty, qty_shift),
                                length);
}

#define KFIX_CRC_LEVELS \
    10 /* 5041 covers ten levels a side, and most sides have them: loops of that many are unrolled */

/* bit i is set for each of n <= 10 levels whose CRC is not valid; `mask`: the bits of `length` that are a length */
static inline uint32_t kfix_crc_stale(const kfix_level_aux* level, int n, uint32_t mask) {
    uint32_t stale = 0;
    if (__builtin_expect(n == KFIX_CRC_LEVELS, 1)) {
#pragma GCC unroll 10
        for (int i = 0; i < KFIX_CRC_LEVELS; i++)
            stale |= (uint32_t)((level[i].length & mask) == 0) << i;
        return stale;
    }
    for (int i = 0; i < n; i++)
        stale |= (uint32_t)((level[i].length & mask) == 0) << i;
    return stale;
}

/* raw CRC of the texts of n <= 10 levels, the last one first; their length goes to *length */
static uint32_t kfix_crc_join_plain(const kfix_level_aux* level, int n, uint32_t mask, int32_t* length) {
    uint64_t product = 0;
    uint32_t follows = 0;
    for (int i = 0; i < n; i++) {
        product ^= kfix_clmul(level[i].crc, kfix_crc_power(follows));
        follows += level[i].length & mask;
    }
    *length = (int32_t)follows;
    return kfix_reduce(product);
}

#if KFIX_HAVE_CLMUL
#define KFIX_TIMES(crc, power) _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)(crc)), _mm_cvtsi32_si128((int)(power)), 0)

__attribute__((target("pclmul"))) static uint32_t kfix_crc_join_ten(const kfix_level_aux* level, uint32_t mask,
                                                                    int32_t* length) {
    __m128i product = _mm_setzero_si128();
    uint32_t follows = 0;
    /* four bytes at a time, as they are written: wider loads would wait for the level just changed */
#pragma GCC unroll 10
    for (int i = 0; i < KFIX_CRC_LEVELS; i++) {
        product = _mm_xor_si128(product, KFIX_TIMES(level[i].crc, kfix_power[follows & (KFIX_POWERS - 1)]));
        follows += level[i].length & mask;
    }
    *length = (int32_t)follows;
    if (__builtin_expect(follows >= KFIX_POWERS, 0))
        return kfix_crc_join_plain(level, KFIX_CRC_LEVELS, mask, length);
    return kfix_reduce((uint64_t)_mm_cvtsi128_si64(product));
}

/* zlib's CRC32 of two texts, the one and then the other, by their raw CRCs */
__attribute__((target("pclmul"))) static uint32_t kfix_crc_both_clmul(uint32_t head, uint32_t tail_power,
                                                                      uint32_t all_power, uint32_t tail) {
    __m128i product = _mm_xor_si128(KFIX_TIMES(head, tail_power), KFIX_TIMES(0xFFFFFFFFu, all_power));
    return kfix_reduce((uint64_t)_mm_cvtsi128_si64(product)) ^ tail ^ 0xFFFFFFFFu;
}
#endif

static inline uint32_t kfix_crc_join(const kfix_level_aux* level, int n, uint32_t mask, int32_t* length) {
#if KFIX_HAVE_CLMUL
    if (__builtin_expect(kfix_use_clmul && n == KFIX_CRC_LEVELS, 1))
        return kfix_crc_join_ten(level, mask, length);
#endif
    return kfix_crc_join_plain(level, n, mask, length);
}

/* zlib's CRC32 of a text of head_n bytes and one of tail_n bytes after it, from their raw CRCs */
static inline uint32_t kfix_crc_both(uint32_t head, uint32_t head_n, uint32_t tail, uint32_t tail_n) {
    uint32_t tail_power = kfix_crc_power(tail_n), all_power = kfix_crc_power(head_n + tail_n);
#if KFIX_HAVE_CLMUL
    if (__builtin_expect(kfix_use_clmul, 1))
        return kfix_crc_both_clmul(head, tail_power, all_power, tail);
#endif
    return kfix_reduce(kfix_clmul(head, tail_power) ^ kfix_clmul(0xFFFFFFFFu, all_power)) ^ tail ^ 0xFFFFFFFFu;
}

/* CRC of a text A o B from that of A n B, where n is replaced by o: B's CRC and length are known */
static inline uint32_t kfix_crc_power_ratio(int32_t n) {
    return n >= 0 ? kfix_crc_power((uint32_t)n) : kfix_power_inverse[-n];
}

static inline uint32_t kfix_crc_replace_before(uint32_t whole, uint32_t old, int32_t old_n, uint32_t fresh,
                                               int32_t fresh_n, uint32_t after, uint32_t after_n) {
    if (after_n == 0)
        return kfix_crc_multiply(whole ^ old, kfix_crc_power_ratio(fresh_n - old_n)) ^ fresh;
    uint32_t power = kfix_crc_power(after_n);
    uint32_t before = whole ^ kfix_crc_multiply(old, power) ^ after; /* A, moved by what follows it */
    return kfix_crc_multiply(before, kfix_crc_power_ratio(fresh_n - old_n)) ^ kfix_crc_multiply(fresh, power) ^ after;
}

/* the same where A's CRC is known, and B's length */
static inline uint32_t kfix_crc_replace_after(uint32_t whole, uint32_t old, int32_t old_n, uint32_t fresh,
                                              int32_t fresh_n, uint32_t before, uint32_t after_n) {
    uint32_t change = kfix_crc_multiply(old ^ fresh, kfix_crc_power(after_n));
    if (fresh_n == old_n || before == 0)
        return whole ^ change;
    return whole ^ change ^
           kfix_crc_multiply(before,
                             kfix_crc_power(after_n + (uint32_t)old_n) ^ kfix_crc_power(after_n + (uint32_t)fresh_n));
}

/* every module that includes this header has its tables when it is loaded */
__attribute__((constructor)) static void kfix_crc_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? KFIX_POLY ^ (c >> 1) : c >> 1;
        kfix_slice[0][i] = c;
    }
    for (int i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            kfix_slice[k][i] = (kfix_slice[k - 1][i] >> 8) ^ kfix_slice[0][kfix_slice[k - 1][i] & 255];
#if KFIX_HAVE_CLMUL
    __builtin_cpu_init();
    kfix_use_clmul = __builtin_cpu_supports("pclmul") && !kfix_simd_is_scalar();
#elif defined(__aarch64__)
    kfix_use_clmul = kfix_has_pmull() && kfix_has_crc32() && !kfix_simd_is_scalar();
#endif
    kfix_power[0] = 0x80000000u; /* the polynomial 1 */
    for (int i = 1; i < KFIX_POWERS; i++) {
        uint32_t c = kfix_power[i - 1];
        kfix_power[i] = (c >> 8) ^ kfix_slice[0][c & 255];
    }
    uint32_t step = (kfix_power[KFIX_POWERS - 1] >> 8) ^ kfix_slice[0][kfix_power[KFIX_POWERS - 1] & 255];
    kfix_power_high[0] = kfix_power[0];
    for (int i = 1; i < KFIX_POWERS; i++)
        kfix_power_high[i] = kfix_crc_multiply(kfix_power_high[i - 1], step);
    /* the order of x is 2^32 - 1, so that x^-8 = x^(2^32 - 9), by squaring */
    uint32_t inverse = kfix_power[0], base = 0x40000000u; /* the polynomial x */
    for (uint32_t e = 0xFFFFFFFFu - 8; e; e >>= 1, base = kfix_crc_multiply(base, base))
        if (e & 1)
            inverse = kfix_crc_multiply(inverse, base);
    kfix_power_inverse[0] = kfix_power[0];
    for (int i = 1; i < 64; i++)
        kfix_power_inverse[i] = kfix_crc_multiply(kfix_power_inverse[i - 1], inverse);
#if KFIX_HAVE_CLMUL
    for (int n = 0; n <= 16; n++) {
        kfix_fold[n][0] = (uint64_t)kfix_power[n + 4] << 1;
        kfix_fold[n][1] = (uint64_t)(n >= 4 ? kfix_power[n - 4] : kfix_power_inverse[4 - n]) << 1;
    }
#endif
}
#endif
