// Text that grows: what replies are written into.
#ifndef WRITER_H
#define WRITER_H

#include "base.h"

typedef struct Writer {
    char *data; // not terminated; owner: writer_free
    size_t size, room;
    bool failed; // memory ran out: the text has a hole
} Writer;

void writer_add(Writer *b, const void *data, size_t size);
void writer_print(Writer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
// A JSON string of UTF-8 text, with its quotes.
void writer_json(Writer *b, const char *text, size_t size);
void writer_free(Writer *b);

static inline Bytes writer_bytes(const Writer *b) {
    return (Bytes){(const unsigned char *)b->data, b->size};
}

#endif
