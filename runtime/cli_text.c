// Text on its way out: bytes of tokens become whole UTF-8 characters. What cannot be one is written
// as U+FFFD, once for each maximal part (Unicode 3.9, as Rust's from_utf8_lossy and so Hugging
// Face's decoders do it).
#include "cli_text.h"

#include <stdlib.h>
#include <string.h>

static const Bytes replacement = {(const unsigned char *)"\xef\xbf\xbd", 3};

static bool emit(TextStream *s, Bytes bytes, Error *err) {
    if (s->out)
        fwrite(bytes.data, 1, bytes.size, s->out); // main looks at the stream's error flag
    if (s->out && !s->keep)
        return true;
    if (s->size + bytes.size + 1 > s->room) {
        size_t room = 2 * (s->size + bytes.size) + 256;
        char *bigger = realloc(s->text, room);
        if (!bigger)
            return fail(err, ERR_RESOURCE, 1017, "no memory for %zu bytes of text", room);
        s->text = bigger;
        s->room = room;
    }
    memcpy(s->text + s->size, bytes.data, bytes.size);
    s->size += bytes.size;
    s->text[s->size] = 0;
    return true;
}

// Bytes of a character that starts so; 0: none does.
static int length_of(unsigned char first) {
    return first < 0x80                    ? 1
           : first >= 0xc2 && first < 0xe0 ? 2
           : first >= 0xe0 && first < 0xf0 ? 3
           : first >= 0xf0 && first < 0xf5 ? 4
                                           : 0;
}

// May `byte` be the next one? Excludes overlong forms, surrogates and what is above U+10FFFF.
static bool continues(const TextStream *s, unsigned char byte) {
    unsigned char first = s->pending[0];
    unsigned char low = 0x80, high = 0xbf;
    if (s->pending_size == 1) {
        low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    }
    return byte >= low && byte <= high;
}

static bool byte_add(TextStream *s, unsigned char byte, Error *err) {
    if (s->pending_size && !continues(s, byte)) {
        s->pending_size = 0;
        TRY(emit(s, replacement, err));
    }
    if (!s->pending_size && !length_of(byte))
        return emit(s, replacement, err);
    s->pending[s->pending_size++] = byte;
    if (s->pending_size < length_of(s->pending[0]))
        return true;
    Bytes whole = {s->pending, (size_t)s->pending_size};
    s->pending_size = 0;
    return emit(s, whole, err);
}

bool text_add(TextStream *s, Bytes piece, Error *err) {
    for (size_t at = 0; at < piece.size; at++)
        TRY(byte_add(s, piece.data[at], err));
    return true;
}

bool text_end(TextStream *s, Error *err) {
    bool rest = s->pending_size > 0;
    s->pending_size = 0;
    return rest ? emit(s, replacement, err) : true;
}

char *text_json(const char *text, size_t size) {
    static const char short_forms[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f',
                                       ['\r'] = 'r', ['"'] = '"',  ['\\'] = '\\'};
    enum { LONGEST = 6 }; // \u0000
    char *out = malloc(LONGEST * size + 3), *to = out;
    if (!out)
        return NULL;
    *to++ = '"';
    for (size_t at = 0; at < size; at++) {
        unsigned char c = (unsigned char)text[at];
        if (c < sizeof short_forms && short_forms[c]) {
            *to++ = '\\';
            *to++ = short_forms[c];
        } else if (c < ' ') {
            to += snprintf(to, LONGEST + 1, "\\u%04x", c);
        } else {
            *to++ = (char)c;
        }
    }
    *to++ = '"';
    *to = 0;
    return out;
}
