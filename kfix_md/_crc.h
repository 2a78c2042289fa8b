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
#if defined(__x86_64__)
#define KFIX_HAVE_CLMUL 1
#else
#define KFIX_HAVE_CLMUL 0
#endif

#define KFIX_POLY 0xEDB88320u
#define KFIX_POWERS 2048 /* x^(8n) for n below this by table; longer texts by one more product */

static uint32_t kfix_slice[8][256];
static uint32_t kfix_power[KFIX_POWERS];
static uint32_t kfix_power_high[KFIX_POWERS]; /* x^(8 * KFIX_POWERS * n) */
static int kfix_use_clmul;

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
    for (int shift = 28; shift >= 0; shift -= 4) product = (product << 4) ^ table[(b >> shift) & 15];
    return product;
}

/* 63-bit product, bit-reflected: the coefficient of degree i stands at bit 62 - i */
static inline uint64_t kfix_clmul(uint32_t a, uint32_t b) {
#if KFIX_HAVE_CLMUL
    if (__builtin_expect(kfix_use_clmul, 1)) {
        uint64_t product; /* asm, so that the function inlines without raising the whole file's target */
        __asm__("movd %1, %%xmm0\n\tmovd %2, %%xmm1\n\tpclmulqdq $0, %%xmm1, %%xmm0\n\tmovq %%xmm0, %0"
                : "=r"(product) : "r"(a), "r"(b) : "xmm0", "xmm1");
        return product;
    }
#endif
    return kfix_clmul_plain(a, b);
}

static inline uint32_t kfix_reduce(uint64_t product) {
    uint64_t p = product << 1;
    uint32_t high = (uint32_t)p; /* degrees 63..32, in reflected order */
    return (uint32_t)(p >> 32) ^ kfix_slice[3][high & 255] ^ kfix_slice[2][(high >> 8) & 255] ^
           kfix_slice[1][(high >> 16) & 255] ^ kfix_slice[0][high >> 24];
}

static inline uint32_t kfix_crc_multiply(uint32_t a, uint32_t b) { return kfix_reduce(kfix_clmul(a, b)); }

/* x^(8 n): what a raw CRC is multiplied with when n bytes follow it */
static inline uint32_t kfix_crc_power(uint32_t n) {
    if (__builtin_expect(n < KFIX_POWERS, 1)) return kfix_power[n];
    uint32_t high = n / KFIX_POWERS, result = kfix_power[n % KFIX_POWERS];
    for (; high >= KFIX_POWERS; high -= KFIX_POWERS - 1)
        result = kfix_crc_multiply(result, kfix_power_high[KFIX_POWERS - 1]);
    return kfix_crc_multiply(result, kfix_power_high[high]);
}

/* raw CRC of n bytes, n a multiple of 8 */
static inline uint32_t kfix_crc_words(const char *p, int n) {
    uint32_t crc = 0;
    for (int i = 0; i < n; i += 8) {
        uint64_t w;
        memcpy(&w, p + i, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        w = __builtin_bswap64(w);
#endif
        w ^= crc;
        crc = kfix_slice[7][w & 255] ^ kfix_slice[6][(w >> 8) & 255] ^ kfix_slice[5][(w >> 16) & 255] ^
              kfix_slice[4][(w >> 24) & 255] ^ kfix_slice[3][(w >> 32) & 255] ^
              kfix_slice[2][(w >> 40) & 255] ^ kfix_slice[1][(w >> 48) & 255] ^ kfix_slice[0][w >> 56];
    }
    return crc;
}

static const char kfix_two_digits[201] =
    "0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849"
    "5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";

static inline char *kfix_digits_backwards(char *end, int64_t value) {
    uint64_t v = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    while (v >= 100) {
        uint64_t q = v / 100;
        end -= 2;
        memcpy(end, kfix_two_digits + 2 * (v - q * 100), 2);
        v = q;
    }
    if (v >= 10) {
        end -= 2;
        memcpy(end, kfix_two_digits + 2 * v, 2);
    } else {
        *--end = (char)('0' + v);
    }
    if (value < 0) *--end = '-';
    return end;
}

/* raw CRC of the decimal digits of price, then of qty; *length becomes the number of characters */
static inline uint32_t kfix_crc_level(int64_t price, int64_t qty, uint8_t *length) {
    char text[48] = {0}; /* filled from its end: the zero bytes before the digits change no raw CRC */
    char *begin = kfix_digits_backwards(kfix_digits_backwards(text + 48, qty), price);
    int n = (int)(text + 48 - begin), words = (n + 7) & ~7;
    *length = (uint8_t)n;
    return kfix_crc_words(text + 48 - words, words);
}

static void kfix_crc_init(int allow_clmul) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c & 1 ? KFIX_POLY ^ (c >> 1) : c >> 1;
        kfix_slice[0][i] = c;
    }
    for (int i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            kfix_slice[k][i] = (kfix_slice[k - 1][i] >> 8) ^ kfix_slice[0][kfix_slice[k - 1][i] & 255];
    kfix_use_clmul = 0;
#if KFIX_HAVE_CLMUL
    kfix_use_clmul = allow_clmul && __builtin_cpu_supports("pclmul");
#else
    (void)allow_clmul;
#endif
    kfix_power[0] = 0x80000000u; /* the polynomial 1 */
    for (int i = 1; i < KFIX_POWERS; i++) {
        uint32_t c = kfix_power[i - 1];
        kfix_power[i] = (c >> 8) ^ kfix_slice[0][c & 255];
    }
    uint32_t step = (kfix_power[KFIX_POWERS - 1] >> 8) ^ kfix_slice[0][kfix_power[KFIX_POWERS - 1] & 255];
    kfix_power_high[0] = kfix_power[0];
    for (int i = 1; i < KFIX_POWERS; i++) kfix_power_high[i] = kfix_crc_multiply(kfix_power_high[i - 1], step);
}
#endif
