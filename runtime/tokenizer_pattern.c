// Regular expressions as automata over classes of characters: one table look-up for each character
// of a match, whatever the expression is. compiler/tokenizer_dfa.c makes the tables.
//
// A transition says two things: whether a match ends before this character (so that an expression
// can look at the character behind it), and the next state. The last such place is the end of the
// match that a backtracking engine would find.
#include "tokenizer_pattern.h"

#include "payload_tokenizer.h"

#include <string.h>

// The parts of the tables.
typedef struct Pattern {
    const PatternHeader *h;
    const uint16_t *next;  // [states][columns]
    const uint16_t *index; // [TOKENIZER_CODE_POINTS / 256]
    const uint8_t *pages;  // [h->pages][256]
} Pattern;

static Pattern pattern_of(Bytes tables) {
    const PatternHeader *h = (const PatternHeader *)(const void *)tables.data;
    const uint16_t *next = (const uint16_t *)(const void *)(tables.data + sizeof *h);
    const uint16_t *index = next + (size_t)h->states * h->columns;
    return (Pattern){h, next, index, (const uint8_t *)(index + TOKENIZER_CODE_POINTS / 256)};
}

bool pattern_valid(Bytes tables) {
    PatternHeader h;
    uint16_t most_next = 0, most_index = 0;
    uint8_t most_class = 0;
    if (tables.size < sizeof h || (uintptr_t)tables.data % 4)
        return false;
    memcpy(&h, tables.data, sizeof h);
    if (h.states < 2 || h.states > PATTERN_MAX_STATES || h.columns < 1 || h.columns > 256 ||
        h.pages > TOKENIZER_CODE_POINTS / 256)
        return false;
    size_t nexts = (size_t)h.states * h.columns, indexes = TOKENIZER_CODE_POINTS / 256;
    if (tables.size != sizeof h + 2 * (nexts + indexes) + 256 * (size_t)h.pages)
        return false;
    Pattern p = pattern_of(tables);
    for (size_t at = 0; at < nexts; at++) {
        uint16_t state = p.next[at] & (uint16_t)~PATTERN_MATCH;
        most_next = state > most_next ? state : most_next;
    }
    for (size_t at = 0; at < indexes; at++)
        most_index = p.index[at] > most_index ? p.index[at] : most_index;
    for (size_t at = 0; at < 256 * (size_t)h.pages; at++)
        most_class = p.pages[at] > most_class ? p.pages[at] : most_class;
    for (size_t at = 0; at < sizeof h.ascii; at++)
        most_class = h.ascii[at] > most_class ? h.ascii[at] : most_class;
    return most_next < h.states && most_index < h.pages && most_class < h.columns;
}

// The class of the character at `at`; *length: its bytes.
static inline unsigned class_at(const Pattern *p, const unsigned char *at, size_t left,
                                size_t *length) {
    unsigned first = at[0];
    if (first < 0x80) {
        *length = 1;
        return p->h->ascii[first];
    }
    size_t size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t code = first & (0x7fu >> size);
    size = size < left ? size : left;
    for (size_t i = 1; i < size; i++)
        code = code << 6 | (at[i] & 0x3fu);
    *length = size;
    code = code < TOKENIZER_CODE_POINTS ? code : 0;
    return p->pages[(size_t)p->index[code / 256] * 256 + code % 256];
}

enum { NO_MATCH = -1, FAR = 64 };

// Attempts that fail late, one after the other, would make a search quadratic (\s+$ in a long run
// of blanks). An attempt that meets the state that a failed one had at the same place fails like
// that one; it is enough to know the longest stretch where the failed one stayed in one state.
typedef struct Stretch {
    size_t first, last; // places; empty: nothing is known
    uint32_t state;
} Stretch;

// The end of the match that starts at `start`, or NO_MATCH; *seen: how far it looked.
static int64_t match_at(const Pattern *p, Bytes text, size_t start, const Stretch *failed,
                        size_t *seen) {
    const size_t columns = p->h->columns;
    uint32_t state = PATTERN_START;
    int64_t end = NO_MATCH;
    size_t at = start, length;
    for (; at < text.size; at += length) {
        if (state == failed->state && at >= failed->first && at < failed->last && end == NO_MATCH)
            break;
        uint16_t to =
            p->next[state * columns + class_at(p, text.data + at, text.size - at, &length)];
        if (to & PATTERN_MATCH)
            end = (int64_t)at;
        state = to & (PATTERN_MATCH - 1u);
        if (!state)
            break;
    }
    *seen = at;
    bool over = at >= text.size && p->next[(state + 1) * columns - 1] & PATTERN_MATCH;
    return over ? (int64_t)text.size : end;
}

// The longest stretch of the failed attempt from `start`.
static Stretch stretch_of(const Pattern *p, Bytes text, size_t start, size_t seen) {
    Stretch longest = {0, 0, 0}, now = {start, start, PATTERN_START};
    for (size_t at = start, length; at < seen && now.state; at += length) {
        unsigned class = class_at(p, text.data + at, text.size - at, &length);
        uint32_t to = p->next[now.state * p->h->columns + class] & (PATTERN_MATCH - 1u);
        now.last = at + length;
        if (now.last - now.first > longest.last - longest.first)
            longest = now;
        if (to != now.state)
            now = (Stretch){at + length, at + length, to};
    }
    return longest;
}

bool pattern_find(Bytes tables, Bytes text, size_t at, PatternMatch *match) {
    Pattern p = pattern_of(tables);
    Stretch failed = {0, 0, 0};
    for (size_t length; at <= text.size; at += length) {
        size_t seen;
        int64_t end = match_at(&p, text, at, &failed, &seen);
        if (end != NO_MATCH) {
            *match = (PatternMatch){at, (size_t)end};
            return true;
        }
        if (seen - at > FAR)
            failed = stretch_of(&p, text, at, seen);
        length = 1;
        if (at < text.size)
            class_at(&p, text.data + at, text.size - at, &length);
    }
    return false;
}
