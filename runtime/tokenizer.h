// Text to token ids and back, from the tables of SEGMENT_TOKENIZER. Equal to Hugging Face's
// `tokenizers` for the models that compiler/tokenizer.c accepts.
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "base.h"

typedef struct Tokenizer Tokenizer;

enum {
    TOKENIZER_ADD_SPECIAL = 1,  // what the post-processor adds (BOS)
    TOKENIZER_PLAIN_TEXT = 2,   // the text of special tokens is text like any other
    TOKENIZER_SKIP_SPECIAL = 4, // decoding: special tokens are left out
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
// The text of one token as the vocabulary has it, before the decoder's work (so a U+2581 may stand
// for a blank; a byte-level token may be a part of a character); empty for ids without one.
// 0 <= id < 2^31. Text for people comes from a TokenizerStream.
Bytes tokenizer_piece(const Tokenizer *t, int32_t id);
bool tokenizer_is_special(const Tokenizer *t, int32_t id);
// One more than the largest id that has a token; vocabularies are filled up behind it.
int32_t tokenizer_token_count(const Tokenizer *t);
int32_t tokenizer_vocab_size(const Tokenizer *t);
// The tokens that end a text, for grammars; before any grammar is made.
void tokenizer_set_stops(Tokenizer *t, const int32_t *ids, int32_t count);

// ---- ids to text, as they come ------------------------------------------------------------------

// Everything that comes out of a stream, put together, is what Hugging Face's decode() gives for
// all of its ids; each part is whole UTF-8 characters.
typedef struct TokenizerStream TokenizerStream;

// flags: 0 or TOKENIZER_SKIP_SPECIAL.
bool tokenizer_stream_open(TokenizerStream **out, const Tokenizer *t, unsigned flags, Error *err);
void tokenizer_stream_close(TokenizerStream *s);
// *text: what is complete now, maybe nothing; valid until the next call.
bool tokenizer_stream_add(TokenizerStream *s, int32_t id, Bytes *text, Error *err);
// The text ends here: the rest. The stream then starts anew.
bool tokenizer_stream_end(TokenizerStream *s, Bytes *text, Error *err);
// The bytes that a token adds to a text, maybe a part of a character; first: the text begins with
// it. The stream is not in a text, and stays so. *bytes: valid until the next call.
bool tokenizer_stream_token(TokenizerStream *s, int32_t id, bool first, Bytes *bytes, Error *err);
// All ids at once. *text: zero-terminated, the caller frees.
bool tokenizer_decode(const Tokenizer *t, const int32_t *ids, int64_t count, unsigned flags,
                      char **text, size_t *size, Error *err);

#endif
