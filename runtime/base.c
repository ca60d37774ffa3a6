// Implementation of base.h. No idea worth a comment but the half conversions, which are plain
// integer code so that results do not depend on the machine.
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

bool fail(Error *err, ErrorCode code, int id, const char *format, ...) {
    va_list args;
    va_start(args, format);
    err->code = code;
    err->id = id;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return false;
}

char *text_escape(char *out, size_t out_size, const char *text, size_t text_size) {
    size_t used = 0;
    for (size_t at = 0; at < text_size; at++) {
        unsigned char byte = (unsigned char)text[at];
        bool plain = byte >= 0x20 && byte < 0x7f && byte != '\\';
        if (used + (plain ? 1 : 4) >= out_size)
            break;
        if (plain)
            out[used++] = (char)byte;
        else
            used += (size_t)snprintf(out + used, out_size - used, "\\x%02x", byte);
    }
    if (out_size)
        out[used] = 0;
    return out;
}

// ---- memory -------------------------------------------------------------------------------------

typedef struct ArenaBlock {
    struct ArenaBlock *next;
    size_t size; // bytes after this header
    size_t used;
    size_t pad; // keeps the data aligned to 16
} ArenaBlock;

enum { ARENA_BLOCK_BYTES = 1 << 18 };

static void out_of_memory(size_t bytes) {
    fprintf(stderr, "error GQC-0001: out of memory (%zu bytes asked)\n", bytes);
    exit(ERR_RESOURCE);
}

void *arena_alloc(Arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - sizeof(ArenaBlock) - 16)
        out_of_memory(bytes);
    size_t need = (bytes + 15) & ~(size_t)15;
    if (!a->head || a->head->size - a->head->used < need) {
        size_t size = need > ARENA_BLOCK_BYTES ? need : ARENA_BLOCK_BYTES;
        ArenaBlock *block = calloc(1, sizeof(ArenaBlock) + size);
        if (!block)
            out_of_memory(size);
        block->next = a->head;
        block->size = size;
        a->head = block;
    }
    void *data = (unsigned char *)(a->head + 1) + a->head->used;
    a->head->used += need;
    return data;
}

void *arena_array(Arena *a, size_t count, size_t elem_bytes) {
    size_t bytes;
    if (!size_mul(count, elem_bytes, &bytes))
        out_of_memory(SIZE_MAX);
    return arena_alloc(a, bytes);
}

char *arena_strndup(Arena *a, const char *text, size_t size) {
    char *copy = arena_alloc(a, size + 1);
    memcpy(copy, text, size);
    return copy;
}

char *arena_printf(Arena *a, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    char *text = arena_alloc(a, (size_t)size + 1);
    vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

void arena_free(Arena *a) {
    while (a->head) {
        ArenaBlock *next = a->head->next;
        free(a->head);
        a->head = next;
    }
}

bool size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

bool size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

// ---- 16-bit floats ------------------------------------------------------------------------------

static float float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = (half >> 10) & 0x1f;
    uint32_t mantissa = half & 0x3ff;
    if (exponent == 0x1f)
        return float_from_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent)
        return float_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float magnitude = (float)mantissa * 0x1p-24f; // subnormal: exact
    return sign ? -magnitude : magnitude;
}

uint16_t half_from_float(float value) {
    uint32_t bits = bits_from_float(value);
    uint32_t sign = (bits >> 16) & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) // rounds to 65536 or more
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { // subnormal: let the adder round to a multiple of 2^-24
        uint32_t shifted = bits_from_float(float_from_bits(magnitude) + 0.5f);
        return (uint16_t)(sign | (shifted - 0x3f000000));
    }
    uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return (uint16_t)(sign | (rounded - 0x38000000) >> 13);
}

float bfloat_to_float(uint16_t bfloat) {
    return float_from_bits((uint32_t)bfloat << 16);
}

uint16_t bfloat_from_float(float value) {
    uint32_t bits = bits_from_float(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
