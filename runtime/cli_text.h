// Bytes of tokens to text that is valid UTF-8.
#ifndef CLI_TEXT_H
#define CLI_TEXT_H

#include <stdio.h>

#include "base.h"
#include "utf8_stream.h"

typedef struct TextStream {
    FILE *out; // where text goes; NULL: it is kept in `text`
    bool keep; // there too
    Utf8Stream utf8;
    char *text; // zero-terminated, NULL while empty; the owner of the stream frees it
    size_t size, room;
} TextStream;

// Writes what is complete; the rest waits for the next piece.
bool text_add(TextStream *s, Bytes piece, Error *err);
// The text ends here: half a character is written as U+FFFD.
bool text_end(TextStream *s, Error *err);
// Valid UTF-8 as a JSON string with its quotes, zero bytes included, which cJSON's strings cannot
// hold. The caller frees it; NULL: no memory.
char *text_json(const char *text, size_t size);

#endif
