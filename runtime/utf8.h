// Characters of UTF-8: is it one, which one, how is it written. What is none of them is Unicode's
// table 3-7: overlong forms, surrogates, and what lies above U+10FFFF.
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_REPLACEMENT "\xef\xbf\xbd" // U+FFFD, 3 bytes

// Bytes of a character that starts so; 0: none does.
static inline size_t utf8_starts(unsigned char first) {
    return first < 0x80   ? 1
           : first < 0xc2 ? 0
           : first < 0xe0 ? 2
           : first < 0xf0 ? 3
           : first < 0xf5 ? 4
                          : 0;
}

// May `byte` be number `at`, 1 to 3, of a character that starts with `first`?
static inline bool utf8_continues(unsigned char first, size_t at, unsigned char byte) {
    unsigned char low = 0x80, high = 0xbf;
    if (at == 1) {
        low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    }
    return byte >= low && byte <= high;
}

// Bytes of the character at `text` (size is at least 1); 0: there is none. *part: of the longest
// start of one, at least 1, which one U+FFFD stands for (Unicode 3.9, as Rust's from_utf8_lossy).
static inline size_t utf8_check(const void *text, size_t size, size_t *part) {
    const unsigned char *bytes = text;
    size_t wants = utf8_starts(bytes[0]);
    for (*part = 1; *part < wants; ++*part)
        if (*part == size || !utf8_continues(bytes[0], *part, bytes[*part]))
            return 0;
    return wants;
}

static inline bool utf8_valid(const void *text, size_t size) {
    size_t part, length = 1;
    for (size_t at = 0; at < size && length; at += length)
        length = utf8_check((const char *)text + at, size - at, &part);
    return length;
}

// ---- text that is valid -------------------------------------------------------------------------

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
