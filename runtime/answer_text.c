// What ends an answer is the stop string that is complete first, when its bytes come one by one; of
// those that are complete together the longest. So the result does not depend on where tokens end.
#include "answer_text.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 1024 };

bool answer_text_open(AnswerText *a, const Tokenizer *t, const char *const *stops,
                      int32_t stop_count, bool include_stop, Error *err) {
    *a = (AnswerText){.stops = stops, .stop_count = stop_count, .include_stop = include_stop};
    a->text = malloc(FIRST_ROOM);
    a->room = FIRST_ROOM;
    if (!a->text)
        return fail(err, ERR_RESOURCE, 1100, "no memory for the text of an answer");
    return tokenizer_stream_open(&a->stream, t, TOKENIZER_SKIP_SPECIAL, err);
}

void answer_text_close(AnswerText *a) {
    tokenizer_stream_close(a->stream);
    free(a->text);
    *a = (AnswerText){.stream = NULL};
}

static void given_drop(AnswerText *a) {
    memmove(a->text, a->text + a->given, a->size - a->given);
    a->size -= a->given;
    a->given = 0;
}

static bool append(AnswerText *a, Bytes part, Error *err) {
    if (a->size + part.size > a->room) {
        size_t room = 2 * (a->size + part.size);
        char *bigger = realloc(a->text, room);
        if (!bigger)
            return fail(err, ERR_RESOURCE, 1103, "no memory for %zu bytes of an answer", room);
        a->text = bigger;
        a->room = room;
    }
    memcpy(a->text + a->size, part.data, part.size);
    a->size += part.size;
    return true;
}

// The longest stop string that ends at `end` of the text.
static const char *stop_ending(const AnswerText *a, size_t end) {
    const char *found = NULL;
    for (int32_t at = 0; at < a->stop_count; at++) {
        size_t size = strlen(a->stops[at]);
        bool longer = !found || size > strlen(found);
        if (longer && size <= end && memcmp(a->text + end - size, a->stops[at], size) == 0)
            found = a->stops[at];
    }
    return found;
}

// Looks at the text from `from` on.
static void stop_find(AnswerText *a, size_t from) {
    for (size_t end = from + 1; !a->stop && end <= a->size; end++) {
        a->stop = stop_ending(a, end);
        if (a->stop)
            a->size = end - (a->include_stop ? 0 : strlen(a->stop));
    }
}

bool answer_text_add(AnswerText *a, int32_t id, bool stops, Error *err) {
    Bytes part;
    given_drop(a);
    size_t before = a->size;
    TRY(tokenizer_stream_add(a->stream, id, &part, err));
    TRY(append(a, part, err));
    if (stops)
        stop_find(a, before);
    return true;
}

bool answer_text_end(AnswerText *a, Error *err) {
    Bytes part;
    given_drop(a);
    size_t before = a->size;
    TRY(tokenizer_stream_end(a->stream, &part, err));
    if (!a->stop) {
        TRY(append(a, part, err));
        stop_find(a, before);
    }
    a->stop_count = 0; // nothing is held back
    return true;
}

// Bytes at the end of the text that are the beginning of a stop string.
static size_t held_back(const AnswerText *a) {
    size_t held = 0;
    for (int32_t at = 0; at < a->stop_count; at++) {
        size_t most = strlen(a->stops[at]) - 1;
        for (size_t size = most < a->size ? most : a->size; size > held; size--)
            if (memcmp(a->text + a->size - size, a->stops[at], size) == 0)
                held = size;
    }
    return held;
}

Bytes answer_text_take(AnswerText *a) {
    given_drop(a);
    a->given = a->size - (a->stop ? 0 : held_back(a));
    return (Bytes){(const unsigned char *)a->text, a->given};
}
