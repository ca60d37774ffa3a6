// Text to token ids and back, from the tables of SEGMENT_TOKENIZER. Equal to Hugging Face's
// `tokenizers` for the models that compiler/tokenizer.c accepts.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "base.h"

typedef struct Tokenizer Tokenizer;

enum {
    TOKENIZER_ADD_SPECIAL = 1, // what the post-processor adds (BOS)
    TOKENIZER_PLAIN_TEXT  = 2, // the text of special tokens is text like any other
};

// Checks the tables' bounds; the tables stay where they are. ERR_CORRUPT.
bool tokenizer_open(Tokenizer **out, Bytes tables, Error *err);
void tokenizer_close(Tokenizer *t);
// ids: the caller frees. Invalid UTF-8 is read as U+FFFD, as Python's errors="replace" does.
bool tokenizer_encode(const Tokenizer *t, Bytes text, unsigned flags, int32_t **ids, int64_t *count,
                      Error *err);
// The same for text that was put together from a template and what a user wrote. user_marks: one
// per byte of text, 1: written by a user, 0: not; NULL: none is. Bytes of which any is marked never
// become a special token; added tokens that are not special are found as usual.
bool tokenizer_encode_marked(const Tokenizer *t, Bytes text, const uint8_t *user_marks,
                             unsigned flags, int32_t **ids, int64_t *count, Error *err);
// The bytes of one token; empty for ids without one. 0 <= id < 2^31.
Bytes tokenizer_piece(const Tokenizer *t, int32_t id);
bool tokenizer_is_special(const Tokenizer *t, int32_t id);

#endif
