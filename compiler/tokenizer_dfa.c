// A program to an automaton that finds the same match as a backtracking engine: its states are
// lists of places of the program, the preferred one first; a match cuts off the places behind it
// (as in RE2's leftmost-first automata). Places that look ahead wait for the next character, so a
// match is noticed one character late, which PATTERN_MATCH in the transition says.
//
// Characters that no set of the program tells apart are one class, a column of the table.
#include "tokenizer_regex.h"

#include <string.h>

enum { MAX_COLUMNS = 256, STATE_SLOTS = 4 * PATTERN_MAX_STATES, MAX_STEPS = 1 << 27 };

typedef struct State {
    uint16_t *places;
    int32_t count;
} State;

typedef struct Dfa {
    const Program *program;
    const char *where;
    Arena *arena;
    Error *err;
    uint64_t sets_of[MAX_COLUMNS]; // bit s: the class belongs to set s
    uint32_t columns;              // the last one is the end
    uint16_t index[TOKENIZER_CODE_POINTS / 256];
    uint8_t (*pages)[256];
    uint32_t page_count;
    State states[PATTERN_MAX_STATES];
    uint32_t state_count;
    uint16_t slots[STATE_SLOTS]; // of states by their places, 0: empty
    uint16_t *next;              // [PATTERN_MAX_STATES][columns]
    int64_t steps;               // taken so far
    uint32_t stamp, seen[PROGRAM_MAX + 1];
    uint16_t stack[2 * PROGRAM_MAX + 2], places[PROGRAM_MAX + 1];
} Dfa;

// ---- classes ------------------------------------------------------------------------------------

static bool class_find(Dfa *d, uint64_t sets, uint8_t *class) {
    uint32_t at = 0;
    while (at < d->columns && d->sets_of[at] != sets)
        at++;
    if (at == MAX_COLUMNS - 1)
        return fail(d->err, ERR_UNSUPPORTED, 982,
                    "%s: the expression tells more than %d classes of "
                    "characters apart",
                    d->where, MAX_COLUMNS - 1);
    if (at == d->columns)
        d->sets_of[d->columns++] = sets;
    *class = (uint8_t)at;
    return true;
}

// Classes of the 64 code points of a word of the sets.
static bool word_classes(Dfa *d, uint32_t word, uint8_t *classes) {
    const Program *g = d->program;
    uint64_t last = 0;
    for (uint32_t bit = 0; bit < 64; bit++) {
        uint64_t sets = 0;
        for (int32_t s = 0; s < g->set_count; s++)
            sets |= (g->sets[s]->words[word] >> bit & 1) << s;
        if (bit && sets == last)
            classes[bit] = classes[bit - 1];
        else
            TRY(class_find(d, sets, &classes[bit]));
        last = sets;
    }
    return true;
}

// Is each set all or nothing of the 256 code points of the page?
static bool page_is_plain(const Program *g, uint32_t page) {
    for (int32_t s = 0; s < g->set_count; s++) {
        const uint64_t *words = g->sets[s]->words + page * 4;
        if ((words[0] && ~words[0]) || words[1] != words[0] || words[2] != words[0] ||
            words[3] != words[0])
            return false;
    }
    return true;
}

static bool classes_make(Dfa *d) {
    uint8_t classes[256];
    d->pages = arena_array(d->arena, TOKENIZER_CODE_POINTS / 256, 256);
    for (uint32_t page = 0; page < TOKENIZER_CODE_POINTS / 256; page++) {
        bool plain = page_is_plain(d->program, page);
        for (uint32_t word = 0; word < (plain ? 1 : 4); word++)
            TRY(word_classes(d, page * 4 + word, classes + 64 * word));
        if (plain)
            memset(classes, classes[0], sizeof classes);
        uint32_t same = 0;
        while (same < d->page_count && memcmp(d->pages[same], classes, 256) != 0)
            same++;
        if (same == d->page_count)
            memcpy(d->pages[d->page_count++], classes, 256);
        d->index[page] = (uint16_t)same;
    }
    uint64_t end = 0;
    for (int32_t s = 0; s < d->program->set_count; s++)
        end |= (uint64_t)d->program->sets[s]->end << s;
    d->sets_of[d->columns++] = end;
    return true;
}

// ---- states -------------------------------------------------------------------------------------

static uint32_t places_hash(const uint16_t *places, int32_t count) {
    return piece_hash((const unsigned char *)places, (uint64_t)count * sizeof *places);
}

// The state of these places; an empty list is state 0.
static bool state_of(Dfa *d, const uint16_t *places, int32_t count, uint16_t *state) {
    uint32_t slot = places_hash(places, count) % STATE_SLOTS;
    for (; d->slots[slot]; slot = (slot + 1) % STATE_SLOTS) {
        const State *s = &d->states[d->slots[slot]];
        if (s->count == count && memcmp(s->places, places, (size_t)count * sizeof *places) == 0)
            break;
    }
    *state = d->slots[slot];
    if (*state || !count)
        return true;
    if (d->state_count == PATTERN_MAX_STATES)
        return fail(d->err, ERR_UNSUPPORTED, 983, "%s: the expression needs more than %d states",
                    d->where, PATTERN_MAX_STATES);
    *state = d->slots[slot] = (uint16_t)d->state_count;
    State *s = &d->states[d->state_count++];
    s->places = ARENA_NEW(d->arena, uint16_t, count);
    memcpy(s->places, places, (size_t)count * sizeof *places);
    s->count = count;
    return true;
}

// Follows the program from one place without reading, the preferred way first. Places that read a
// character of the class go to d->places. Returns whether it is a match: then nothing else counts.
static bool place_follow(Dfa *d, uint16_t place, uint64_t sets, int32_t *count) {
    int32_t depth = 0;
    d->stack[depth++] = place;
    while (depth) {
        int32_t at = d->stack[--depth];
        const Operation *op = &d->program->code[at];
        if (d->seen[at] == d->stamp)
            continue;
        d->seen[at] = d->stamp;
        d->steps++;
        bool member = op->op <= OP_AHEAD && sets >> op->x & 1;
        if (op->op == OP_MATCH)
            return true;
        if (op->op == OP_SET && member)
            d->places[(*count)++] = (uint16_t)(at + 1);
        if (op->op == OP_AHEAD && member)
            d->stack[depth++] = (uint16_t)(at + 1);
        if (op->op == OP_SPLIT)
            d->stack[depth++] = (uint16_t)(at + op->y);
        if (op->op == OP_SPLIT || op->op == OP_JUMP)
            d->stack[depth++] = (uint16_t)(at + op->x);
    }
    return false;
}

static bool transition_make(Dfa *d, const State *from, uint32_t column, uint16_t *to) {
    bool match = false;
    int32_t count = 0;
    d->stamp++;
    for (int32_t at = 0; at < from->count && !match; at++)
        match = place_follow(d, from->places[at], d->sets_of[column], &count);
    if (d->steps > MAX_STEPS)
        return fail(d->err, ERR_UNSUPPORTED, 984,
                    "%s: the expression is too large for an automaton", d->where);
    if (column == d->columns - 1)
        count = 0; // nothing can be read behind the end
    TRY(state_of(d, d->places, count, to));
    *to |= match ? PATTERN_MATCH : 0;
    return true;
}

static bool states_make(Dfa *d) {
    uint16_t start = 0, state;
    d->next = ARENA_NEW(d->arena, uint16_t, (size_t)PATTERN_MAX_STATES * d->columns);
    d->state_count = PATTERN_START;
    TRY(state_of(d, &start, 1, &state));
    for (uint32_t at = PATTERN_START; at < d->state_count; at++)
        for (uint32_t column = 0; column < d->columns; column++)
            TRY(transition_make(d, &d->states[at], column, &d->next[at * d->columns + column]));
    return true;
}

static Bytes tables_make(const Dfa *d) {
    PatternHeader h = {.states = d->state_count, .columns = d->columns, .pages = d->page_count};
    size_t next_bytes = 2 * (size_t)d->state_count * d->columns;
    size_t size = sizeof h + next_bytes + sizeof d->index + 256 * (size_t)d->page_count;
    unsigned char *tables = arena_alloc(d->arena, size), *at = tables;
    for (uint32_t code = 0; code < 128; code++)
        h.ascii[code] = d->pages[d->index[0]][code];
    memcpy(at, &h, sizeof h);
    memcpy(at += sizeof h, d->next, next_bytes);
    memcpy(at += next_bytes, d->index, sizeof d->index);
    memcpy(at + sizeof d->index, d->pages, 256 * (size_t)d->page_count);
    return (Bytes){tables, size};
}

bool pattern_compile(Bytes *tables, const char *regex, const char *where, Arena *a, Error *err) {
    Program *program = ARENA_NEW(a, Program, 1);
    Dfa *d = ARENA_NEW(a, Dfa, 1);
    TRY(regex_parse(program, regex, where, a, err));
    d->program = program;
    d->where = where;
    d->arena = a;
    d->err = err;
    TRY(classes_make(d));
    TRY(states_make(d));
    *tables = tables_make(d);
    return true;
}

bool pattern_matches_nothing(Bytes tables) {
    PatternHeader h;
    memcpy(&h, tables.data, sizeof h);
    const unsigned char *row = tables.data + sizeof h + 2 * (size_t)PATTERN_START * h.columns;
    for (uint32_t column = 0; column < h.columns; column++) {
        uint16_t next;
        memcpy(&next, row + 2 * (size_t)column, sizeof next);
        if (next & PATTERN_MATCH)
            return true;
    }
    return false;
}
