/* CRC32C (Castagnoli, reflected 0x82F63B78) of what a journal record holds: by table, by the CPU's own instruction, or
 * by carry-less multiplication of four times 128 bits at once, whichever of them this machine does fastest. */
#ifndef KFIX_CRC32C_H
#define KFIX_CRC32C_H

#include <stdint.h>
#include <string.h>
#include "simd.h"

typedef uint32_t (*crc32c_fn)(uint32_t, const void*, size_t);

static uint32_t crc32c_table[8][256];

__attribute__((constructor)) static void crc32c_tables(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = (c >> 1) ^ (0x82F63B78u & (0u - (c & 1)));
        crc32c_table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (uint32_t i = 0; i < 256; i++)
            crc32c_table[t][i] = (crc32c_table[t - 1][i] >> 8) ^ crc32c_table[0][crc32c_table[t - 1][i] & 255];
}

static uint32_t crc32c_portable(uint32_t crc, const void* data, size_t n) {
    const uint8_t* p = (const uint8_t*)data;
    while (n >= 8) {
        crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = crc32c_table[7][crc & 255] ^ crc32c_table[6][(crc >> 8) & 255] ^ crc32c_table[5][(crc >> 16) & 255] ^
              crc32c_table[4][crc >> 24] ^ crc32c_table[3][p[4]] ^ crc32c_table[2][p[5]] ^ crc32c_table[1][p[6]] ^
              crc32c_table[0][p[7]];
        p += 8, n -= 8;
    }
    while (n--)
        crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *p++) & 255];
    return crc;
}

#if defined(__x86_64__)
#include <immintrin.h>
/* state times x^(8 * 8 * words): what words of zero bytes would make of it */
static uint32_t crc32c_over[64];

/* x^n modulo the polynomial, bit-reflected */
static uint32_t crc32c_power(int n) {
    uint32_t power = 0x80000000u;
    while (n--)
        power = (power >> 1) ^ (0x82F63B78u & (0u - (power & 1)));
    return power;
}

/* the last n < 64 bytes; the word that ends with them is there */
__attribute__((target("sse4.2"))) static inline uint32_t crc32c_rest(uint64_t crc, const uint8_t* p, size_t n) {
    uint64_t word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    if (n == 0)
        return (uint32_t)crc;
    memcpy(&word, p + n - 8, 8);
    word >>= 64 - 8 * n;
    return (uint32_t)(__builtin_ia32_crc32di(0, (word ^ crc) << (64 - 8 * n)) ^ crc >> 8 * n);
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_short(uint64_t crc, const uint8_t* p, size_t n) {
    uint64_t word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    while (n--)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *p++);
    return (uint32_t)crc;
}

/* three words of a record at once, since the instruction takes three cycles and starts one in each */
__attribute__((target("sse4.2,pclmul"))) static uint32_t crc32c_sse42(uint32_t crc, const void* data, size_t n) {
    const uint8_t* p = (const uint8_t*)data;
    uint64_t a = crc;
    if (n < 96)
        return crc32c_short(crc, p, n);
    while (n >= 96) {
        size_t third = n / 24 < 63 ? n / 24 : 63;
        uint64_t b = 0, c = 0, w[3];
        for (size_t i = 0; i < third; i++, p += 8) {
            memcpy(&w[0], p, 8), memcpy(&w[1], p + 8 * third, 8), memcpy(&w[2], p + 16 * third, 8);
            a = __builtin_ia32_crc32di(a, w[0]);
            b = __builtin_ia32_crc32di(b, w[1]);
            c = __builtin_ia32_crc32di(c, w[2]);
        }
        __m128i over = _mm_cvtsi32_si128((int)crc32c_over[third]);
        uint64_t product = (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), over, 0));
        b ^= __builtin_ia32_crc32di(0, product);
        product = (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)b), over, 0));
        a = c ^ __builtin_ia32_crc32di(0, product);
        p += 16 * third;
        n -= 24 * third;
    }
    return crc32c_rest(a, p, n);
}

/* what a lane of 128 bits is multiplied with, first and second half, to stand 512 bits further on; and each of the four
 * lanes, to stand where the last one is */
static uint64_t crc32c_by_512[2], crc32c_by_lane[8];

__attribute__((target("sse4.2,avx512f,vpclmulqdq"))) static uint32_t crc32c_avx512(uint32_t crc, const void* data,
                                                                                   size_t n) {
    const uint8_t* p = (const uint8_t*)data;
    if (n < 128)
        return crc32c_short(crc, p, n);
    const __m512i by = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)crc32c_by_512));
    const __m512i to_last = _mm512_loadu_si512(crc32c_by_lane);
    __m512i x = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)crc)));
    for (p += 64, n -= 64; n >= 64; p += 64, n -= 64)
        x = _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, by, 0x00), _mm512_clmulepi64_epi128(x, by, 0x11),
                                      _mm512_loadu_si512(p), 0x96);
    __m512i y =
        _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, to_last, 0x00),
                                  _mm512_clmulepi64_epi128(x, to_last, 0x11), _mm512_maskz_mov_epi64(0xC0, x), 0x96);
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(y), _mm512_extracti64x4_epi64(y, 1));
    __m128i lane = _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    uint64_t a = __builtin_ia32_crc32di(0, (uint64_t)_mm_cvtsi128_si64(lane));
    return crc32c_rest(__builtin_ia32_crc32di(a, (uint64_t)_mm_extract_epi64(lane, 1)), p, n);
}

/* bit-reflected, product and reduction bring x^33 of their own */
__attribute__((constructor)) static void crc32c_powers(void) {
    for (int words = 1; words < 64; words++)
        crc32c_over[words] = crc32c_power(64 * words - 33);
    crc32c_by_512[0] = crc32c_power(512 + 31), crc32c_by_512[1] = crc32c_power(512 - 33);
    for (int lane = 0; lane < 3; lane++) {
        crc32c_by_lane[2 * lane] = crc32c_power(128 * (3 - lane) + 31);
        crc32c_by_lane[2 * lane + 1] = crc32c_power(128 * (3 - lane) - 33);
    }
}
#endif

#if defined(__aarch64__)
static uint32_t crc32c_arm(uint32_t crc, const void* data, size_t n) {
    const uint8_t* p = (const uint8_t*)data;
    uint64_t word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        crc = kfix_crc32cx(crc, word);
    }
    while (n--)
        crc = kfix_crc32cb(crc, *p++);
    return crc;
}
#endif

/* By name: "portable", "sse4.2", "avx512", "armv8"; NULL where this machine has no such thing. */
static crc32c_fn crc32c_by_name(const char* name) {
    if (strcmp(name, "portable") == 0)
        return crc32c_portable;
#if defined(__x86_64__)
    int words = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
    if (strcmp(name, "sse4.2") == 0 && words)
        return crc32c_sse42;
    if (strcmp(name, "avx512") == 0 && words && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("vpclmulqdq"))
        return crc32c_avx512;
#elif defined(__aarch64__)
    if (strcmp(name, "armv8") == 0 && kfix_has_crc32())
        return crc32c_arm;
#endif
    return NULL;
}

static crc32c_fn crc32c_choose(void) {
    crc32c_fn best = crc32c_by_name("avx512");
    if (!best)
        best = crc32c_by_name("sse4.2");
    if (!best)
        best = crc32c_by_name("armv8");
    return best ? best : crc32c_portable;
}

#endif
