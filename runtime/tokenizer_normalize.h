// A text as the normalizer makes it, and where its bytes come from. The compiler runs it too, on
// the texts of added tokens.
#ifndef TOKENIZER_NORMALIZE_H
#define TOKENIZER_NORMALIZE_H

#include "base.h"
#include "payload_tokenizer.h"

typedef struct TextBuffer {
    unsigned char *data; // owner: who declares the buffer
    size_t size, room;
} TextBuffer;

bool text_buffer_add(TextBuffer *b, const void *data, size_t size, Error *err);

// A text and a mark for each of its bytes.
typedef struct MarkedText {
    TextBuffer bytes;
    TextBuffer marks; // as long as `bytes`, or empty: none is marked
} MarkedText;

// base: of the segment, where the offsets of the steps start. text: valid UTF-8; marks: one for
// each byte, NULL: none. A byte of *out is marked if a byte that it comes from is. *out may hold
// buffers, which are used; the caller frees them, after a failure too.
bool normalize_run(const unsigned char *base, const NormalStep *steps, uint32_t count, Bytes text,
                   const uint8_t *marks, MarkedText *out, Error *err);
// The tables of a step lie in the segment and lead nowhere else.
bool normal_valid(const unsigned char *base, uint64_t size, const NormalStep *step);

#endif
