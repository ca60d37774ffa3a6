// Text on its way out: bytes of tokens become whole UTF-8 characters.
#include "cli_text.h"
#include "writer.h"

#include <stdlib.h>
#include <string.h>

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

bool text_add(TextStream *s, Bytes piece, Error *err) {
    unsigned char out[UTF8_TAKE_BYTES];
    for (size_t at = 0; at < piece.size; at++)
        TRY(emit(s, (Bytes){out, utf8_take(&s->utf8, piece.data[at], out)}, err));
    return true;
}

bool text_end(TextStream *s, Error *err) {
    static const Bytes replacement = {(const unsigned char *)UTF8_REPLACEMENT, 3};
    return !utf8_end(&s->utf8) || emit(s, replacement, err);
}

char *text_json(const char *text, size_t size) {
    Writer b = {.data = NULL};
    writer_json(&b, text, size);
    writer_add(&b, "", 1);
    if (b.failed)
        writer_free(&b);
    return b.data;
}
