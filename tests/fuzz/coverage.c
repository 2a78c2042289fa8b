/*
 * Coverage for libFuzzer from gcc, linked into each module of an instrumented build.
 *
 * libFuzzer reads tables of 8-bit counters, which only clang makes. gcc calls a function in each basic block
 * (-fsanitize-coverage=trace-pc): it counts in a table of the module, at a hash of the block's address. Without
 * libFuzzer the functions of libasan take their place, which do nothing.
 */
#include <stdint.h>

#define BITS 14

void __sanitizer_cov_8bit_counters_init(uint8_t* begin, uint8_t* end);

static uint8_t counters[1 << BITS];

__attribute__((visibility("hidden"), no_sanitize_coverage, no_sanitize("address", "undefined"))) void
__sanitizer_cov_trace_pc(void) {
    const uint64_t offset = (uint64_t)__builtin_return_address(0) - (uint64_t)counters;
    uint8_t* counter = &counters[offset * 0x9E3779B97F4A7C15 >> (64 - BITS)];
    *counter += *counter < 255; /* a loop that ran 256 times did run */
}

__attribute__((constructor, no_sanitize_coverage)) static void add_counters(void) {
    __sanitizer_cov_8bit_counters_init(counters, counters + sizeof counters);
}

/* gcc's own, which libFuzzer does not know */
__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_cmpf(float left, float right) {
    (void)left, (void)right;
}
__attribute__((visibility("hidden"))) void __sanitizer_cov_trace_cmpd(double left, double right) {
    (void)left, (void)right;
}
