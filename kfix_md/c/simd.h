/* Whether the plain forms are asked for by the environment (KFIX_SIMD=scalar). */
#ifndef KFIX_SIMD_H
#define KFIX_SIMD_H
#include <stdlib.h>
#include <string.h>

static inline int kfix_simd_is_scalar(void) {
    const char* name = getenv("KFIX_SIMD");
    return name != NULL && strcmp(name, "scalar") == 0;
}

#endif
