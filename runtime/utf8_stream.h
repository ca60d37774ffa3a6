// UTF-8 that comes byte by byte: characters when they are whole, and U+FFFD for what can be none,
// once for each longest start of one.
#ifndef UTF8_STREAM_H
#define UTF8_STREAM_H

#include "utf8.h"

#include <string.h>

typedef struct Utf8Stream {
    unsigned char pending[4]; // the start of a character
    size_t size;
} Utf8Stream;

enum { UTF8_TAKE_BYTES = 6 }; // two U+FFFD; or one and a byte; or a character

// Returns how many bytes of `out` the byte completes.
static inline size_t utf8_take(Utf8Stream *s, unsigned char byte,
                               unsigned char out[UTF8_TAKE_BYTES]) {
    size_t done = 0;
    if (s->size && !utf8_continues(s->pending[0], s->size, byte)) {
        memcpy(out, UTF8_REPLACEMENT, 3);
        done = 3;
        s->size = 0;
    }
    s->pending[s->size++] = byte;
    size_t wants = utf8_starts(s->pending[0]);
    if (s->size < wants)
        return done;
    memcpy(out + done, wants ? (const char *)s->pending : UTF8_REPLACEMENT, wants ? wants : 3);
    s->size = 0;
    return done + (wants ? wants : 3);
}

// The text ends: was it inside of a character?
static inline bool utf8_end(Utf8Stream *s) {
    bool inside = s->size > 0;
    s->size = 0;
    return inside;
}

#endif
