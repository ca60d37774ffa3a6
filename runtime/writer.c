// Text that grows. A failure is remembered, so that writers need not look at each step.
#include "writer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(Writer *b, size_t more) {
    if (b->room - b->size >= more)
        return true;
    size_t room = 2 * (b->size + more) + 128;
    char *bigger = b->failed ? NULL : realloc(b->data, room);
    if (!bigger) {
        b->failed = true;
        return false;
    }
    b->data = bigger;
    b->room = room;
    return true;
}

void writer_add(Writer *b, const void *data, size_t size) {
    if (!size || !reserve(b, size))
        return;
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void writer_print(Writer *b, const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    size_t room = b->room - b->size;
    int size = vsnprintf(room ? b->data + b->size : NULL, room, format, arguments);
    if (size >= 0 && (size_t)size >= room && reserve(b, (size_t)size + 1))
        vsnprintf(b->data + b->size, (size_t)size + 1, format, again);
    if (size > 0 && !b->failed)
        b->size += (size_t)size;
    va_end(again);
    va_end(arguments);
}

void writer_json(Writer *b, const char *text, size_t size) {
    static const char escapes[] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f',
                                   ['\r'] = 'r', ['"'] = '"',  ['\\'] = '\\'};
    enum { LONGEST = 6 }; // \u0000
    if (!reserve(b, LONGEST * size + 3))
        return;
    char *to = b->data + b->size;
    *to++ = '"';
    for (size_t at = 0; at < size; at++) {
        unsigned char c = (unsigned char)text[at];
        if (c < sizeof escapes && escapes[c]) {
            *to++ = '\\';
            *to++ = escapes[c];
        } else if (c < ' ') {
            to += snprintf(to, LONGEST + 1, "\\u%04x", c);
        } else {
            *to++ = (char)c;
        }
    }
    *to++ = '"';
    b->size = (size_t)(to - b->data);
}

void writer_free(Writer *b) {
    free(b->data);
    *b = (Writer){.data = NULL};
}
