// Ids to text, token by token. A token runs through the decoder's steps like a message through a
// pipe; a step may keep something back until it knows what follows:
//
//   tokens -> steps -> bytes (<0xNN>: a run of them is one text, or U+FFFD for each)
//          -> steps -> fuse -> whole characters -> steps on the text -> out
//
// What comes out, put together, is what Hugging Face's decode() makes of the whole list.
// Source: Hugging Face tokenizers, decoders/*.
#include "tokenizer_tables.h"
#include "utf8_stream.h"

#include <stdlib.h>

struct TokenizerStream {
    const Tokenizer *t;
    unsigned flags;
    int64_t tokens[TOKENIZER_MAX_STEPS]; // that a step has seen
    uint32_t cut[TOKENIZER_MAX_STEPS];   // STRIP of the whole text: characters cut in front
    uint32_t held[TOKENIZER_MAX_STEPS];  // ... kept back at the end
    bool inside[TOKENIZER_MAX_STEPS];    // ... the text has begun
    Utf8Stream utf8;
    TextBuffer run;          // bytes of tokens <0xNN>
    TextBuffer token, spare; // the one that runs through the steps
    TextBuffer out;
};

static const Bytes replacement = {(const unsigned char *)UTF8_REPLACEMENT, 3};
static const Bytes blank = {(const unsigned char *)" ", 1};

static bool put(TextBuffer *b, Bytes text, Error *err) {
    return text_buffer_add(b, text.data, text.size, err);
}

static void token_swap(TokenizerStream *s) {
    TextBuffer done = s->token;
    s->token = s->spare;
    s->spare = done;
}

static Bytes step_from(const TokenizerStream *s, const DecodeStep *step) {
    return (Bytes){s->t->base + step->from, (size_t)step->from_size};
}

static bool has_at(const TextBuffer *b, size_t at, Bytes what) {
    return what.size && b->size - at >= what.size &&
           memcmp(b->data + at, what.data, what.size) == 0;
}

// ---- steps on one token: s->token is changed ----------------------------------------------------

static bool replace_all(TokenizerStream *s, Bytes from, Bytes to, Error *err) {
    s->spare.size = 0;
    for (size_t at = 0; at < s->token.size;) {
        bool match = has_at(&s->token, at, from);
        TRY(match ? put(&s->spare, to, err)
                  : text_buffer_add(&s->spare, s->token.data + at, 1, err));
        at += match ? from.size : 1;
    }
    token_swap(s);
    return true;
}

static bool token_strip(TokenizerStream *s, const DecodeStep *step, Error *err) {
    Bytes from = step_from(s, step);
    size_t start = 0, end = s->token.size;
    for (uint32_t n = 0; n < step->start && has_at(&s->token, start, from); n++)
        start += from.size;
    for (uint32_t n = 0; n < step->stop && end >= start + from.size; n++) {
        if (!has_at(&s->token, end - from.size, from))
            break;
        end -= from.size;
    }
    s->spare.size = 0;
    TRY(text_buffer_add(&s->spare, s->token.data + start, end - start, err));
    token_swap(s);
    return true;
}

static bool token_step(TokenizerStream *s, uint32_t at, Error *err) {
    const DecodeStep *step = &s->t->h->decodes[at];
    Bytes from = step_from(s, step), to = {s->t->base + step->to, (size_t)step->to_size};
    bool first = s->tokens[at]++ == 0;
    switch ((DecodeKind)step->kind) {
    case DECODE_REPLACE:
        return replace_all(s, from, to, err);
    case DECODE_STRIP:
        return token_strip(s, step, err);
    case DECODE_METASPACE:
        return replace_all(s, from, first && step->start ? (Bytes){blank.data, 0} : blank, err);
    case DECODE_JOIN:
        if (first)
            return true;
        s->spare.size = 0;
        TRY(put(&s->spare, blank, err));
        TRY(text_buffer_add(&s->spare, s->token.data, s->token.size, err));
        token_swap(s);
        return true;
    case DECODE_BYTES:
    case DECODE_FUSE:
    case DECODE_KIND_COUNT:
        break;
    }
    return true;
}

// ---- whole characters ---------------------------------------------------------------------------

// s->token becomes the characters that are complete; what is none becomes U+FFFD.
static bool characters_take(TokenizerStream *s, bool last, Error *err) {
    s->spare.size = 0;
    unsigned char out[UTF8_TAKE_BYTES];
    for (size_t at = 0; at < s->token.size; at++)
        TRY(text_buffer_add(&s->spare, out, utf8_take(&s->utf8, s->token.data[at], out), err));
    if (last && utf8_end(&s->utf8))
        TRY(put(&s->spare, replacement, err));
    token_swap(s);
    return true;
}

// ---- steps on the whole text: s->token is its next part, whole characters -----------------------

static bool text_strip(TokenizerStream *s, uint32_t at, bool last, Error *err) {
    const DecodeStep *step = &s->t->h->decodes[at];
    Bytes from = step_from(s, step);
    s->spare.size = 0;
    for (size_t place = 0, size; place < s->token.size; place += size) {
        bool match = has_at(&s->token, place, from);
        size = match ? from.size : utf8_length(s->token.data[place]);
        if (match && !s->inside[at] && s->cut[at] < step->start) {
            s->cut[at]++;
            continue;
        }
        s->inside[at] = true;
        if (match && s->held[at] < step->stop) {
            s->held[at]++;
            continue;
        }
        for (; !match && s->held[at]; s->held[at]--)
            TRY(put(&s->spare, from, err));
        TRY(text_buffer_add(&s->spare, s->token.data + place, size, err));
    }
    if (last)
        s->held[at] = 0;
    token_swap(s);
    return true;
}

static bool text_step(TokenizerStream *s, uint32_t at, bool last, Error *err) {
    const DecodeStep *step = &s->t->h->decodes[at];
    if (step->kind == DECODE_STRIP)
        return text_strip(s, at, last, err);
    if (step->kind == DECODE_REPLACE) // of one character
        return replace_all(s, step_from(s, step),
                           (Bytes){s->t->base + step->to, (size_t)step->to_size}, err);
    return true;
}

// ---- the pipe -----------------------------------------------------------------------------------

// Where a kind of step stands; decode_count: nowhere.
static uint32_t step_find(const Tokenizer *t, DecodeKind kind) {
    uint32_t at = 0;
    while (at < t->h->decode_count && t->h->decodes[at].kind != kind)
        at++;
    return at;
}

// s->token through the steps from `at` on. last: nothing follows.
static bool pipe_tail(TokenizerStream *s, uint32_t at, bool last, Error *err) {
    uint32_t count = s->t->h->decode_count, fuse = step_find(s->t, DECODE_FUSE);
    for (; at < fuse && !last; at++) // the end of the text is no token
        TRY(token_step(s, at, err));
    TRY(characters_take(s, last, err));
    for (at = fuse + 1; at < count; at++)
        TRY(text_step(s, at, last, err));
    return text_buffer_add(&s->out, s->token.data, s->token.size, err);
}

static int hex_value(unsigned char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

// The byte of a token <0xNN>, -1: it is none.
static int byte_of(const TextBuffer *b) {
    if (b->size != 6 || memcmp(b->data, "<0x", 3) != 0 || b->data[5] != '>')
        return -1;
    int high = hex_value(b->data[3]), low = hex_value(b->data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// The run of bytes, if there is one, ends: it is one token if it is text, else a U+FFFD token for
// each byte.
static bool run_end(TokenizerStream *s, uint32_t at, Error *err) {
    size_t size = s->run.size;
    bool text = size && utf8_valid(s->run.data, size);
    for (size_t i = 0; i < (text ? 1 : size); i++) {
        s->token.size = 0;
        TRY(text ? text_buffer_add(&s->token, s->run.data, size, err)
                 : put(&s->token, replacement, err));
        TRY(pipe_tail(s, at + 1, false, err));
    }
    s->run.size = 0;
    return true;
}

static bool token_run(TokenizerStream *s, Bytes piece, Error *err) {
    const TokenizerHeader *h = s->t->h;
    uint32_t bytes = step_find(s->t, DECODE_BYTES), at = 0;
    s->token.size = 0;
    TRY(put(&s->token, piece, err));
    if (bytes == h->decode_count)
        return pipe_tail(s, 0, false, err);
    for (; at < bytes; at++)
        TRY(token_step(s, at, err));
    int byte = byte_of(&s->token);
    if (byte >= 0)
        return text_buffer_add(&s->run, &(unsigned char){(unsigned char)byte}, 1, err);
    if (s->run.size) {
        TextBuffer kept = s->token;
        s->token = (TextBuffer){0};
        bool done = run_end(s, bytes, err);
        free(s->token.data);
        s->token = kept;
        TRY(done);
    }
    return pipe_tail(s, bytes + 1, false, err);
}

// ---- public -------------------------------------------------------------------------------------

bool tokenizer_stream_open(TokenizerStream **out, const Tokenizer *t, unsigned flags, Error *err) {
    TokenizerStream *s = calloc(1, sizeof *s);
    if (!s)
        return fail(err, ERR_RESOURCE, 961, "no memory for a stream of text");
    s->t = t;
    s->flags = flags;
    *out = s;
    return true;
}

void tokenizer_stream_close(TokenizerStream *s) {
    if (!s)
        return;
    free(s->run.data);
    free(s->token.data);
    free(s->spare.data);
    free(s->out.data);
    free(s);
}

bool tokenizer_stream_add(TokenizerStream *s, int32_t id, Bytes *text, Error *err) {
    s->out.size = 0;
    *text = (Bytes){replacement.data, 0};
    bool exists = id >= 0 && id < s->t->h->vocab_size && s->t->flags[id] & TOKEN_EXISTS;
    if (!exists || (s->flags & TOKENIZER_SKIP_SPECIAL && id_is_special(s->t, id)))
        return true;
    TRY(token_run(s, tokenizer_piece(s->t, id), err));
    if (s->out.size)
        *text = (Bytes){s->out.data, s->out.size};
    return true;
}

bool tokenizer_stream_end(TokenizerStream *s, Bytes *text, Error *err) {
    uint32_t bytes = step_find(s->t, DECODE_BYTES);
    s->out.size = 0;
    TRY(run_end(s, bytes, err));
    s->token.size = 0;
    TRY(pipe_tail(s, 0, true, err));
    memset(s->tokens, 0, sizeof s->tokens);
    memset(s->cut, 0, sizeof s->cut);
    memset(s->held, 0, sizeof s->held);
    memset(s->inside, 0, sizeof s->inside);
    *text = s->out.size ? (Bytes){s->out.data, s->out.size} : (Bytes){replacement.data, 0};
    return true;
}

// One step on what a token adds to a text. Behind FUSE, steps see the text: only its start is known.
static bool added_step(TokenizerStream *s, uint32_t at, bool inside, bool first, Error *err) {
    const DecodeStep *step = &s->t->h->decodes[at];
    int byte = step->kind == DECODE_BYTES ? byte_of(&s->token) : -1;
    s->tokens[at] = first ? 0 : 1;
    if (byte >= 0) {
        s->token.size = 0;
        return text_buffer_add(&s->token, &(unsigned char){(unsigned char)byte}, 1, err);
    }
    if (!inside || step->kind != DECODE_STRIP)
        return token_step(s, at, err);
    DecodeStep start = *step;
    start.stop = 0;
    return !first || token_strip(s, &start, err);
}

bool tokenizer_stream_token(TokenizerStream *s, int32_t id, bool first, Bytes *bytes, Error *err) {
    uint32_t count = s->t->h->decode_count, fuse = step_find(s->t, DECODE_FUSE);
    bool exists = id >= 0 && id < s->t->h->vocab_size && s->t->flags[id] & TOKEN_EXISTS;
    *bytes = (Bytes){replacement.data, 0};
    if (!exists)
        return true;
    s->token.size = 0;
    TRY(put(&s->token, tokenizer_piece(s->t, id), err));
    for (uint32_t at = 0; at < count; at++)
        TRY(added_step(s, at, at > fuse, first, err));
    memset(s->tokens, 0, sizeof s->tokens);
    if (s->token.size)
        *bytes = (Bytes){s->token.data, s->token.size};
    return true;
}

static bool stream_all(TokenizerStream *s, const int32_t *ids, int64_t count, TextBuffer *out,
                       Error *err) {
    Bytes part;
    for (int64_t at = 0; at < count; at++) {
        TRY(tokenizer_stream_add(s, ids[at], &part, err));
        TRY(put(out, part, err));
    }
    TRY(tokenizer_stream_end(s, &part, err));
    return put(out, part, err) && text_buffer_add(out, "", 1, err);
}

bool tokenizer_decode(const Tokenizer *t, const int32_t *ids, int64_t count, unsigned flags,
                      char **text, size_t *size, Error *err) {
    TokenizerStream *s = NULL;
    TextBuffer out = {0};
    TRY(tokenizer_stream_open(&s, t, flags, err));
    bool done = stream_all(s, ids, count, &out, err);
    tokenizer_stream_close(s);
    if (!done) {
        free(out.data);
        return false;
    }
    *text = (char *)out.data;
    *size = out.size - 1;
    return true;
}

bool decodes_valid(const Tokenizer *t) {
    const TokenizerHeader *h = t->h;
    for (uint32_t at = 0; at < h->decode_count; at++) {
        const DecodeStep *step = &h->decodes[at];
        if (step->kind >= DECODE_KIND_COUNT || step->from > h->size || step->to > h->size ||
            step->from_size > h->size - step->from || step->to_size > h->size - step->to)
            return false;
    }
    return true;
}
