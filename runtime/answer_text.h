// The text of one answer as its tokens come: whole UTF-8 characters, and stop strings, which are
// found wherever token boundaries lie. Text that may be the beginning of one is held back.
#ifndef ANSWER_TEXT_H
#define ANSWER_TEXT_H

#include "tokenizer.h"

typedef struct AnswerText {
    TokenizerStream *stream;  // owner: answer_text_close
    const char *const *stops; // [stop_count], not empty; the caller's
    int32_t stop_count;
    bool include_stop; // the stop string is text too
    char *text;        // not yet given out, [size]; owner: answer_text_close
    size_t size, room;
    size_t given;     // of text, by the last call: gone at the next one
    const char *stop; // the stop string that was found, or NULL
} AnswerText;

bool answer_text_open(AnswerText *a, const Tokenizer *t, const char *const *stops,
                      int32_t stop_count, bool include_stop, Error *err);
void answer_text_close(AnswerText *a);
// Takes one token. stops: its text may complete a stop string.
bool answer_text_add(AnswerText *a, int32_t id, bool stops, Error *err);
// The answer ends: nothing is held back any more.
bool answer_text_end(AnswerText *a, Error *err);
// The text that no stop string can take back; valid until the next call. Each part is given once.
Bytes answer_text_take(AnswerText *a);

#endif
