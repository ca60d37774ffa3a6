// Templates compiled right into a test: their holes as variables, and numbers to fill them with.
#ifndef HOLES_H
#define HOLES_H

#include <stdint.h>

// The definition of a hole under a C name that may be assigned to.
#define HOLE(name) int64_t hole_##name __asm__("HOLE_" #name)

static inline uint32_t random_mix(uint32_t a, uint32_t b) {
    uint32_t x = a * 0x9e3779b1u ^ b * 0x85ebca77u;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    return x ^ x >> 12;
}

// In [-1, 1).
static inline float random_float(uint32_t a, uint32_t b) {
    return (float)(int32_t)random_mix(a, b) / 2147483648.0f;
}

#endif
