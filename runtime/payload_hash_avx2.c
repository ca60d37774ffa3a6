// XXH3 once more, for AVX2: weights are checked at every start, and SSE2 would be slower than memory.
#include "payload_hash.h"

#if defined(__x86_64__)

// Functions from here on may use AVX2, whatever the rest of the program is made for.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#include <immintrin.h>

#define XXH_INLINE_ALL
#define XXH_VECTOR 2 // XXH_AVX2
// From memory one core of a Zen 4 checks 24 GB/s with it, as much as it can read, and 17 GB/s with the
// library's own 384.
#define XXH_PREFETCH_DIST 4096
#include <xxhash.h>

uint64_t payload_hash64_avx2(const void *data, size_t size) {
    return XXH3_64bits(data, size);
}

void payload_hash128_avx2(const void *data, size_t size, uint64_t out[2]) {
    XXH128_hash_t hash = XXH3_128bits(data, size);
    out[0] = hash.low64;
    out[1] = hash.high64;
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
