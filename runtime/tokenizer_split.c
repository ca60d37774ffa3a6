// The pre-tokenizer: a list of steps, each of which cuts the parts that the step before left, or
// changes the text. A word never spans two of these parts.
//
// Source: Hugging Face tokenizers, pre_tokenizers/*, NormalizedString::split and its behaviors.
#include "tokenizer_pattern.h"
#include "tokenizer_tables.h"

#include <stdlib.h>

// ---- what becomes of matches --------------------------------------------------------------------

// Cuts one part into matches and what lies between, and puts the pieces into e->next.
typedef struct Cutter {
    Encoder *e;
    Behavior behavior;
    bool invert;
    bool previous;          // the piece before was a match
    size_t first;           // of e->next: the part's first piece
    size_t held, held_size; // MERGED_WITH_NEXT: a match that waits for what follows
    bool holds;
} Cutter;

static bool piece_put(Cutter *c, size_t start, size_t size) {
    return !size || span_add(&c->e->next, start, size, c->e->err);
}

// Adds to the piece before, or makes a new one if the part has none yet.
static bool piece_extend(Cutter *c, size_t start, size_t size) {
    Spans *out = &c->e->next;
    if (out->count == c->first)
        return piece_put(c, start, size);
    out->items[out->count - 1].size += size;
    return true;
}

static bool cut_merge_next(Cutter *c, size_t start, size_t size, bool match) {
    if (match || !c->holds) {
        TRY(!c->holds || piece_put(c, c->held, c->held_size));
        c->holds = match;
        c->held = start;
        c->held_size = size;
        return match || piece_put(c, start, size);
    }
    c->holds = false;
    return piece_put(c, c->held, c->held_size + size);
}

// The next piece of the part, a match or not.
static bool cut_put(Cutter *c, size_t start, size_t size, bool match) {
    bool previous = c->previous;
    match ^= c->invert;
    c->previous = match;
    switch (c->behavior) {
    case BEHAVIOR_REMOVED:
        return match || piece_put(c, start, size);
    case BEHAVIOR_CONTIGUOUS:
        return match == previous ? piece_extend(c, start, size) : piece_put(c, start, size);
    case BEHAVIOR_MERGED_WITH_PREVIOUS:
        return match && !previous ? piece_extend(c, start, size) : piece_put(c, start, size);
    case BEHAVIOR_MERGED_WITH_NEXT:
        return cut_merge_next(c, start, size, match);
    case BEHAVIOR_ISOLATED:
    case BEHAVIOR_COUNT:
        break;
    }
    return piece_put(c, start, size);
}

static bool cut_end(Cutter *c) {
    bool holds = c->holds;
    c->holds = false;
    return !holds || piece_put(c, c->held, c->held_size);
}

// ---- steps that cut -----------------------------------------------------------------------------

typedef struct Match {
    size_t start, end; // end == SIZE_MAX: none is left
} Match;

// The next match at or behind `at` inside of the part.
typedef Match (*MatchNext)(const Tokenizer *t, const SplitStep *step, Bytes part, size_t at);

static const Match no_match = {SIZE_MAX, SIZE_MAX};

static Match match_pattern(const Tokenizer *t, const SplitStep *step, Bytes part, size_t at) {
    PatternMatch m;
    Bytes tables = {t->base + step->data, (size_t)step->size};
    if (!pattern_find(tables, part, at, &m))
        return no_match;
    return (Match){m.start, m.end};
}

static Match match_text(const Tokenizer *t, const SplitStep *step, Bytes part, size_t at) {
    const unsigned char *found =
        memmem(part.data + at, part.size - at, t->base + step->data, (size_t)step->size);
    if (!found || !step->size)
        return no_match;
    size_t start = (size_t)(found - part.data);
    return (Match){start, start + (size_t)step->size};
}

static Match match_class(const Tokenizer *t, const SplitStep *step, Bytes part, size_t at) {
    while (at < part.size) {
        Character c = character_at(t, part.data + at, part.data + part.size);
        if (c.class & step->option)
            return (Match){at, at + c.length};
        at += c.length;
    }
    return no_match;
}

// \w+|[^\w\s]+
static Match match_words(const Tokenizer *t, const SplitStep *step, Bytes part, size_t at) {
    (void)step;
    size_t start = SIZE_MAX;
    bool word = false;
    while (at < part.size) {
        Character c = character_at(t, part.data + at, part.data + part.size);
        bool in_word = c.class & CLASS_WORD, space = !in_word && c.class & CLASS_SPACE;
        if (start != SIZE_MAX && (space || in_word != word))
            return (Match){start, at};
        if (start == SIZE_MAX && !space) {
            start = at;
            word = in_word;
        }
        at += c.length;
    }
    return start == SIZE_MAX ? no_match : (Match){start, at};
}

// An empty match cuts, but not where the match before ended; then the search goes on one character
// further (oniguruma's iterator).
static bool part_cut(Cutter *c, const SplitStep *step, MatchNext next, Span part) {
    const Tokenizer *t = c->e->t;
    Bytes text = {c->e->text.data + part.start, part.size};
    size_t at = 0, previous = 0, last_end = SIZE_MAX;
    c->first = c->e->next.count;
    c->previous = false;
    while (at <= text.size) {
        Match m = next(t, step, text, at);
        if (m.end == SIZE_MAX || m.end > text.size || m.start > m.end)
            break;
        bool empty = m.start == m.end;
        at = m.end;
        if (empty)
            at += m.end < text.size ? utf8_length(text.data[m.end]) : 1;
        if (empty && m.end == last_end)
            continue;
        last_end = m.end;
        TRY(m.start == previous || cut_put(c, part.start + previous, m.start - previous, false));
        TRY(cut_put(c, part.start + m.start, m.end - m.start, true));
        previous = m.end;
    }
    TRY(previous == text.size || cut_put(c, part.start + previous, text.size - previous, false));
    return cut_end(c);
}

static bool step_cut(Encoder *e, const SplitStep *step, MatchNext next) {
    Cutter c = {.e = e, .behavior = (Behavior)step->behavior, .invert = step->invert};
    for (size_t at = 0; at < e->spans.count; at++)
        TRY(part_cut(&c, step, next, e->spans.items[at]));
    return true;
}

// ---- steps that change the text -----------------------------------------------------------------

static bool starts_with(Bytes text, Bytes prefix) {
    return text.size >= prefix.size && memcmp(text.data, prefix.data, prefix.size) == 0;
}

static bool step_prefix_space(Encoder *e) {
    e->spare.size = 0;
    for (size_t at = 0; at < e->spans.count; at++) {
        Span part = e->spans.items[at];
        size_t start = e->spare.size;
        TRY(e->text.data[part.start] == ' ' || text_buffer_add(&e->spare, " ", 1, e->err));
        TRY(text_buffer_add(&e->spare, e->text.data + part.start, part.size, e->err));
        TRY(span_add(&e->next, start, e->spare.size - start, e->err));
    }
    return true;
}

// Blanks of a part become the replacement; one is put in front if `prepend` and none is there.
static bool blanks_replace(Encoder *e, Bytes part, Bytes replacement, bool prepend) {
    size_t start = e->spare.size;
    if (prepend && !starts_with(part, (Bytes){(const unsigned char *)" ", 1}) &&
        !starts_with(part, replacement))
        TRY(text_buffer_add(&e->spare, replacement.data, replacement.size, e->err));
    for (size_t at = 0; at < part.size;) {
        const unsigned char *blank = memchr(part.data + at, ' ', part.size - at);
        size_t end = blank ? (size_t)(blank - part.data) : part.size;
        TRY(text_buffer_add(&e->spare, part.data + at, end - at, e->err));
        TRY(!blank || text_buffer_add(&e->spare, replacement.data, replacement.size, e->err));
        at = end + 1;
    }
    return span_add(&e->next, start, e->spare.size - start, e->err);
}

static bool step_metaspace(Encoder *e, const SplitStep *step, bool first) {
    Bytes replacement = {e->t->base + step->data, (size_t)step->size};
    e->spare.size = 0;
    for (size_t at = 0; at < e->spans.count; at++) {
        Span part = e->spans.items[at];
        bool prepend = step->option == PREPEND_ALWAYS ||
                       (step->option == PREPEND_FIRST && first && part.start == 0);
        TRY(blanks_replace(e, (Bytes){e->text.data + part.start, part.size}, replacement, prepend));
    }
    return true;
}

// ---- the list -----------------------------------------------------------------------------------

static void spans_swap(Encoder *e) {
    Spans done = e->spans;
    e->spans = e->next;
    e->next = done;
    e->next.count = 0;
}

static void text_swap(Encoder *e) {
    TextBuffer done = e->text;
    e->text = e->spare;
    e->spare = done;
}

static const MatchNext cutters[STEP_KIND_COUNT] = {
    // ORDER STEPS
    [STEP_PATTERN] = match_pattern,
    [STEP_TEXT] = match_text,
    [STEP_CLASS] = match_class,
    [STEP_WORDS] = match_words,
};

static bool step_run(Encoder *e, const SplitStep *step, bool first) {
    if (cutters[step->kind])
        return step_cut(e, step, cutters[step->kind]);
    TRY(step->kind == STEP_METASPACE ? step_metaspace(e, step, first) : step_prefix_space(e));
    text_swap(e);
    return true;
}

bool text_split(Encoder *e, bool first) {
    e->spans.count = e->next.count = 0;
    TRY(span_add(&e->spans, 0, e->text.size, e->err));
    for (uint32_t at = 0; at < e->t->h->step_count; at++) {
        TRY(step_run(e, &e->t->h->steps[at], first));
        spans_swap(e);
    }
    return true;
}

bool steps_valid(const Tokenizer *t) {
    for (uint32_t at = 0; at < t->h->step_count; at++) {
        const SplitStep *step = &t->h->steps[at];
        bool inside = step->data <= t->h->size && step->size <= t->h->size - step->data;
        if (step->kind >= STEP_KIND_COUNT || step->behavior >= BEHAVIOR_COUNT || !inside ||
            step->data % 8)
            return false;
        Bytes data = {t->base + step->data, (size_t)step->size};
        if (step->kind == STEP_PATTERN && !pattern_valid(data))
            return false;
    }
    return true;
}
