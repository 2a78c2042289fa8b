/* Whether the plain forms are asked for by the environment (KFIX_SIMD=scalar), and ARMv8's instructions for CRCs. */
#ifndef KFIX_SIMD_H
#define KFIX_SIMD_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline int kfix_simd_is_scalar(void) {
    const char* name = getenv("KFIX_SIMD");
    return name != NULL && strcmp(name, "scalar") == 0;
}

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

static inline int kfix_has_crc32(void) {
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}
static inline int kfix_has_pmull(void) {
    return (getauxval(AT_HWCAP) & HWCAP_PMULL) != 0;
}

/* asm, so that they inline without raising the whole file's target; x is a word of eight bytes, w one of four, b a byte
 */
#define KFIX_CRC_INSTRUCTION(name, type, operand)                                                         \
    static inline uint32_t kfix_##name(uint32_t crc, type word) {                                         \
        __asm__(".arch_extension crc\n\t" #name " %w0, %w1, " operand : "=r"(crc) : "r"(crc), "r"(word)); \
        return crc;                                                                                       \
    }
KFIX_CRC_INSTRUCTION(crc32w, uint32_t, "%w2")
KFIX_CRC_INSTRUCTION(crc32x, uint64_t, "%x2")
KFIX_CRC_INSTRUCTION(crc32cb, uint8_t, "%w2")
KFIX_CRC_INSTRUCTION(crc32cx, uint64_t, "%x2")
#undef KFIX_CRC_INSTRUCTION

/* lower half of the carry-less product of two words */
static inline uint64_t kfix_pmull(uint64_t a, uint64_t b) {
    uint64_t product;
    __asm__(
        ".arch_extension crypto\n\t"
        "fmov d0, %1\n\tfmov d1, %2\n\tpmull v0.1q, v0.1d, v1.1d\n\tfmov %0, d0"
        : "=r"(product)
        : "r"(a), "r"(b)
        : "v0", "v1");
    return product;
}
#endif

#endif
