// Characters of UTF-8 text that is known to be valid.
#ifndef TOKENIZER_UTF8_H
#define TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline size_t utf8_length(unsigned char first) {
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

// The character at `at`, *length: its bytes, at most `left` (which is at least 1).
static inline uint32_t utf8_read(const unsigned char *at, size_t left, size_t *length) {
    size_t size = utf8_length(at[0]);
    uint32_t code = at[0];
    size = size < left ? size : left;
    if (code >= 0x80)
        code &= 0x7fu >> utf8_length(at[0]);
    for (size_t i = 1; i < size; i++)
        code = code << 6 | (at[i] & 0x3fu);
    *length = size;
    return code;
}

// Returns how many of the four bytes the character takes.
static inline size_t utf8_write(unsigned char out[4], uint32_t code) {
    if (code < 0x80) {
        out[0] = (unsigned char)code;
        return 1;
    }
    size_t size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t at = size; at-- > 1; code >>= 6)
        out[at] = (unsigned char)(0x80 | (code & 0x3f));
    out[0] = (unsigned char)(code | (0xf00u >> size & 0xff));
    return size;
}

// The property White_Space, which is none of the general categories.
static inline bool utf8_is_space(uint32_t code) {
    return (code >= 9 && code <= 13) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

#endif
