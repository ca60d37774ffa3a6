// The text of a regular expression to a program of sets, splits and jumps (Thompson 1968, in Pike's
// form). The dialect is Oniguruma's, which Hugging Face's tokenizers uses, without what no finite
// automaton can do: back references, looking behind, looking ahead further than one character. An
// atomic loop over one set is exact: it may end only where no member follows.
//
// No recursion: open groups lie on a stack, and a group's code is contiguous, so that a quantifier
// behind it can put jumps around it or repeat it.
#include "tokenizer_regex.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_GROUPS = 32, MAX_CLASSES = 8, MAX_REPEAT = 1000, UNLIMITED = -1 };

typedef enum GroupKind { GROUP_PLAIN, GROUP_AHEAD, GROUP_NOT_AHEAD } GroupKind;

typedef struct Group {
    GroupKind kind;
    int32_t start;       // of its code
    int32_t alternative; // start of the code of the alternative being read
    int32_t pending;     // the last jump to the group's end, -1; each holds the one before in x
    bool fold, dot_all;
} Group;

typedef struct Parser {
    const char *regex, *at, *where;
    Program *program;
    Arena *arena;
    Error *err;
    CodeSet *scratch;
    uint32_t *folds; // made when needed
    Group groups[MAX_GROUPS];
    int depth;    // of groups; groups[depth - 1] is being read
    int32_t atom; // start of the code that a quantifier would repeat, -1: none
} Parser;

static bool unsupported(const Parser *p, const char *what) {
    char text[160];
    text_escape(text, sizeof text, p->regex, strlen(p->regex));
    return fail(p->err, ERR_UNSUPPORTED, 980, "%s: %s at character %d of the expression \"%s\"",
                p->where, what, (int)(p->at - p->regex), text);
}

static bool malformed(const Parser *p, const char *what) {
    char text[160];
    text_escape(text, sizeof text, p->regex, strlen(p->regex));
    return fail(p->err, ERR_CORRUPT, 981, "%s: %s at character %d of the expression \"%s\"",
                p->where, what, (int)(p->at - p->regex), text);
}

static Group *group(Parser *p) {
    return &p->groups[p->depth - 1];
}

// ---- code ---------------------------------------------------------------------------------------

// Moves the code from `at` on up by one, for an operation there.
static bool operation_put(Parser *p, int32_t at, Operation op) {
    Program *g = p->program;
    if (g->size == PROGRAM_MAX)
        return unsupported(p, "more than 4096 operations");
    memmove(g->code + at + 1, g->code + at, (size_t)(g->size - at) * sizeof *g->code);
    g->code[at] = op;
    g->size++;
    return true;
}

static bool operation_add(Parser *p, ProgramOp op, int32_t x, int32_t y) {
    return operation_put(p, p->program->size, (Operation){op, x, y});
}

// The number of a set equal to the scratch one.
static bool set_number(Parser *p, int32_t *number) {
    Program *g = p->program;
    for (*number = 0; *number < g->set_count; ++*number)
        if (g->sets[*number]->end == p->scratch->end &&
            memcmp(g->sets[*number]->words, p->scratch->words, sizeof p->scratch->words) == 0)
            return true;
    if (g->set_count == PROGRAM_SETS)
        return unsupported(p, "more than 64 different sets of characters");
    g->sets[g->set_count] = ARENA_NEW(p->arena, CodeSet, 1);
    *g->sets[g->set_count++] = *p->scratch;
    return true;
}

// An atom: one character of the scratch set.
static bool set_emit(Parser *p) {
    int32_t number;
    TRY(set_number(p, &number));
    p->atom = p->program->size;
    return operation_add(p, OP_SET, number, 0);
}

static bool ahead_emit(Parser *p) {
    int32_t number;
    TRY(set_number(p, &number));
    p->atom = -1;
    return operation_add(p, OP_AHEAD, number, 0);
}

static void fold(Parser *p, CodeSet *s) {
    if (!p->folds)
        p->folds = folds_make(p->arena);
    set_fold(s, p->folds);
}

static void scratch_clear(Parser *p) {
    memset(p->scratch, 0, sizeof *p->scratch);
}

// ---- characters ---------------------------------------------------------------------------------

// One character of the expression, which is UTF-8 from a JSON parser that checked it.
static uint32_t code_read(Parser *p) {
    const unsigned char *at = (const unsigned char *)p->at;
    int size = *at < 0x80 ? 1 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : 4;
    uint32_t code = size == 1 ? *at : *at & (0x7fu >> size);
    p->at++;
    for (int i = 1; i < size && *p->at; i++)
        code = code << 6 | (*(const unsigned char *)p->at++ & 0x3fu);
    return code < TOKENIZER_CODE_POINTS ? code : 0xfffd;
}

static bool hex_read(Parser *p, int least, int most, uint32_t *code) {
    int count = 0;
    *code = 0;
    for (; count < most && isxdigit((unsigned char)*p->at); count++, p->at++) {
        char c = (char)tolower((unsigned char)*p->at);
        *code = *code * 16 + (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (count < least || *code >= TOKENIZER_CODE_POINTS)
        return malformed(p, "no character code");
    return true;
}

// \xHH, \x{H...}, \uHHHH; p->at is behind the letter.
static bool numeric_escape(Parser *p, char letter, uint32_t *code) {
    if (letter == 'u')
        return hex_read(p, 4, 4, code);
    if (*p->at != '{')
        return hex_read(p, 1, 2, code);
    p->at++;
    TRY(hex_read(p, 1, 8, code));
    return *p->at++ == '}' || malformed(p, "\\x{ without }");
}

static bool property_read(Parser *p, CodeSet *set, bool negative) {
    char name[64];
    size_t size = strcspn(p->at, "}");
    if (*p->at != '{' || !p->at[size] || size >= sizeof name)
        return malformed(p, "\\p without {name}");
    memcpy(name, p->at + 1, size - 1);
    name[size - 1] = 0;
    bool inverse = name[0] == '^';
    if (!set_property(set, name + inverse))
        return unsupported(p, "a property of characters that is not known");
    if (negative != inverse)
        set_invert(set);
    p->at += size + 1;
    return true;
}

static void set_hex(CodeSet *s) {
    set_add_range(s, '0', '9');
    set_add_range(s, 'A', 'F');
    set_add_range(s, 'a', 'f');
}

typedef struct SetEscape {
    char letter; // the capital is the complement
    void (*fill)(CodeSet *s);
} SetEscape;

static const SetEscape set_escapes[] = {
    {'s', set_space}, {'d', set_digit}, {'w', set_word}, {'h', set_hex}};

typedef struct CharEscape {
    char letter;
    uint8_t code;
} CharEscape;

static const CharEscape char_escapes[] = {{'n', '\n'}, {'r', '\r'}, {'t', '\t'}, {'f', '\f'},
                                          {'v', '\v'}, {'a', '\a'}, {'e', 27}};

// Behind a backslash. *is_set: into *set, which is empty before; else one character into *code.
static bool escape_read(Parser *p, CodeSet *set, bool *is_set, uint32_t *code) {
    char letter = *p->at;
    *is_set = false;
    if (!letter)
        return malformed(p, "a backslash at the end");
    if (!isalnum((unsigned char)letter)) {
        *code = code_read(p);
        return true;
    }
    p->at++;
    for (size_t at = 0; at < sizeof set_escapes / sizeof *set_escapes; at++) {
        if (tolower((unsigned char)letter) != set_escapes[at].letter)
            continue;
        *is_set = true;
        set_escapes[at].fill(set);
        if (isupper((unsigned char)letter))
            set_invert(set);
        return true;
    }
    if (letter == 'p' || letter == 'P') {
        *is_set = true;
        return property_read(p, set, letter == 'P');
    }
    if (letter == 'x' || letter == 'u')
        return numeric_escape(p, letter, code);
    for (size_t at = 0; at < sizeof char_escapes / sizeof *char_escapes; at++)
        if (char_escapes[at].letter == letter) {
            *code = char_escapes[at].code;
            return true;
        }
    p->at--;
    return unsupported(p, "an escape that is not known");
}

// ---- [...] --------------------------------------------------------------------------------------

typedef struct ClassFrame {
    CodeSet *now;  // what stands behind the last &&
    CodeSet *left; // what stands before it; NULL: there is no &&
    bool negative;
} ClassFrame;

typedef struct ClassParser {
    ClassFrame frames[MAX_CLASSES];
    int depth;
    CodeSet *item;
} ClassParser;

static bool class_open(Parser *p, ClassParser *c) {
    if (c->depth == MAX_CLASSES)
        return unsupported(p, "sets of characters nested more than 8 deep");
    ClassFrame *frame = &c->frames[c->depth++];
    *frame = (ClassFrame){.now = ARENA_NEW(p->arena, CodeSet, 1), .negative = *p->at == '^'};
    p->at += frame->negative;
    if (*p->at == ']') { // the first one is a character
        set_add(frame->now, ']');
        p->at++;
    }
    return true;
}

static void class_and(Parser *p, ClassFrame *frame) {
    if (frame->left)
        set_meet(frame->left, frame->now);
    else
        frame->left = frame->now;
    frame->now = ARENA_NEW(p->arena, CodeSet, 1);
}

// Ends the innermost class: it becomes a part of the one around it, or c->item.
static void class_close(Parser *p, ClassParser *c) {
    ClassFrame *frame = &c->frames[--c->depth];
    if (frame->left) {
        set_meet(frame->left, frame->now);
        frame->now = frame->left;
    }
    if (group(p)->fold)
        fold(p, frame->now);
    if (frame->negative)
        set_invert(frame->now);
    if (c->depth)
        set_join(c->frames[c->depth - 1].now, frame->now);
    else
        *c->item = *frame->now;
}

// A character or an escape that is one.
static bool class_code(Parser *p, ClassParser *c, bool *is_set, uint32_t *code) {
    *is_set = false;
    if (*p->at != '\\') {
        *code = code_read(p);
        return true;
    }
    p->at++;
    memset(c->item, 0, sizeof *c->item);
    return escape_read(p, c->item, is_set, code);
}

static bool class_item(Parser *p, ClassParser *c) {
    CodeSet *now = c->frames[c->depth - 1].now;
    bool is_set;
    uint32_t first, last;
    TRY(class_code(p, c, &is_set, &first));
    if (is_set) {
        set_join(now, c->item);
        return true;
    }
    last = first;
    if (*p->at == '-' && p->at[1] && p->at[1] != ']' && p->at[1] != '[') {
        p->at++;
        TRY(class_code(p, c, &is_set, &last));
        if (is_set || last < first)
            return malformed(p, "a range of characters without an end");
    }
    set_add_range(now, first, last);
    return true;
}

// [:name:], [:^name:]
static bool class_posix(Parser *p, ClassParser *c) {
    char name[32];
    bool negative = p->at[2] == '^';
    const char *start = p->at + 2 + negative, *end = strstr(start, ":]");
    if (!end || (size_t)(end - start) >= sizeof name)
        return malformed(p, "[: without :]");
    memcpy(name, start, (size_t)(end - start));
    name[end - start] = 0;
    memset(c->item, 0, sizeof *c->item);
    if (strcmp(name, "alpha") == 0 || strcmp(name, "punct") == 0 || !set_property(c->item, name))
        return unsupported(p, "a class of characters that is not known");
    if (negative)
        set_invert(c->item);
    set_join(c->frames[c->depth - 1].now, c->item);
    p->at = end + 2;
    return true;
}

// p->at is behind the first bracket. The set goes to the scratch one.
static bool class_read(Parser *p) {
    ClassParser c = {.item = p->scratch};
    TRY(class_open(p, &c));
    while (c.depth) {
        if (!*p->at)
            return malformed(p, "a set of characters without ]");
        if (*p->at == ']') {
            p->at++;
            class_close(p, &c);
        } else if (strncmp(p->at, "[:", 2) == 0) {
            TRY(class_posix(p, &c));
        } else if (*p->at == '[') {
            p->at++;
            TRY(class_open(p, &c));
        } else if (strncmp(p->at, "&&", 2) == 0) {
            p->at += 2;
            class_and(p, &c.frames[c.depth - 1]);
        } else {
            TRY(class_item(p, &c));
        }
    }
    return true;
}

// ---- quantifiers --------------------------------------------------------------------------------

typedef enum Manner { MANNER_GREEDY, MANNER_LAZY, MANNER_ATOMIC } Manner;

static bool split_put(Parser *p, int32_t at, int32_t into, int32_t past, Manner manner) {
    Operation op = {OP_SPLIT, into, past};
    if (manner == MANNER_LAZY)
        op = (Operation){OP_SPLIT, past, into};
    return operation_put(p, at, op);
}

// A copy of the code [start, start + size) at the end.
static bool code_copy(Parser *p, int32_t start, int32_t size) {
    for (int32_t at = 0; at < size; at++)
        TRY(operation_put(p, p->program->size, p->program->code[start + at]));
    return true;
}

// An atomic loop over a set ends only where no member of it follows.
static bool atomic_end(Parser *p, int32_t set) {
    *p->scratch = *p->program->sets[set];
    set_invert(p->scratch);
    p->scratch->end = true;
    int32_t atom = p->atom;
    TRY(ahead_emit(p));
    p->atom = atom;
    return true;
}

// The atom becomes atom{least,most}.
static bool atom_repeat(Parser *p, int32_t least, int32_t most, Manner manner) {
    int32_t start = p->atom, size = p->program->size - start;
    Operation only = p->program->code[start];
    if (manner == MANNER_ATOMIC && (size != 1 || only.op != OP_SET))
        return unsupported(p, "an atomic loop over more than one set of characters");
    for (int32_t copy = 1; copy < least; copy++)
        TRY(code_copy(p, start, size));
    if (most == UNLIMITED && least > 0) { // ... atom+
        TRY(split_put(p, p->program->size, -size, 1, manner));
    } else if (most == UNLIMITED) { // atom*
        TRY(split_put(p, start, 1, size + 2, manner));
        TRY(operation_add(p, OP_JUMP, -(size + 1), 0));
    } else if (least == 0) { // (atom(atom...)?)?
        int32_t all = most * (size + 1);
        if (most == 0) {
            p->program->size = start;
            return true;
        }
        TRY(split_put(p, start, 1, all, manner));
        for (int32_t copy = 1; copy < most; copy++) {
            TRY(split_put(p, p->program->size, 1, all - copy * (size + 1), manner));
            TRY(code_copy(p, start + 1, size));
        }
    } else {
        for (int32_t copy = least; copy < most; copy++) {
            TRY(split_put(p, p->program->size, 1, (most - copy) * (size + 1), manner));
            TRY(code_copy(p, start, size));
        }
    }
    if (manner != MANNER_ATOMIC)
        return true;
    if (most != UNLIMITED) { // atom?+: one member, or none follows
        TRY(operation_add(p, OP_JUMP, 2, 0));
        p->program->code[start].y++;
    }
    return atomic_end(p, only.x);
}

// {n}, {n,}, {n,m}, {,m}; false in *found: it is no quantifier but text.
static bool braces_read(Parser *p, int32_t *least, int32_t *most, bool *found) {
    const char *at = p->at + 1;
    char *end;
    bool first = isdigit((unsigned char)*at), comma, second;
    long low = 0, high;
    *found = false;
    if (first) {
        low = strtol(at, &end, 10);
        at = end;
    }
    high = low;
    comma = *at == ',';
    at += comma;
    second = comma && isdigit((unsigned char)*at);
    if (second) {
        high = strtol(at, &end, 10);
        at = end;
    }
    if (*at != '}' || (!first && !second))
        return true;
    if (low > MAX_REPEAT || high > MAX_REPEAT || high < low)
        return unsupported(p, "a repetition that is not 0 to 1000, ascending");
    *found = true;
    *least = (int32_t)low;
    *most = comma && !second ? UNLIMITED : (int32_t)high;
    p->at = at + 1;
    return true;
}

// A quantifier, if there is one.
static bool quantifier_read(Parser *p, bool *found) {
    int32_t least = *p->at == '+', most = *p->at == '?' ? 1 : UNLIMITED;
    bool braces = *p->at == '{';
    *found = *p->at && strchr("*+?", *p->at);
    if (braces)
        TRY(braces_read(p, &least, &most, found));
    if (!*found)
        return true;
    if (p->atom < 0)
        return unsupported(p, "a quantifier behind nothing that can be repeated");
    p->at += !braces;
    Manner manner = MANNER_GREEDY;
    bool exact = braces && least == most; // {n}? is not lazy but optional
    if (*p->at == '?' && !exact)
        manner = MANNER_LAZY;
    else if (*p->at == '+' && !braces) // {n,m}+ is a loop over a loop
        manner = MANNER_ATOMIC;
    p->at += manner != MANNER_GREEDY;
    return atom_repeat(p, least, most, manner);
}

// ---- groups -------------------------------------------------------------------------------------

static bool group_open(Parser *p, GroupKind kind, bool fold, bool dot_all) {
    if (p->depth == MAX_GROUPS)
        return unsupported(p, "groups nested more than 32 deep");
    int32_t size = p->program->size;
    p->groups[p->depth++] = (Group){kind, size, size, -1, fold, dot_all};
    p->atom = -1;
    return true;
}

static bool group_alternative(Parser *p) {
    Group *g = group(p);
    TRY(operation_put(p, g->alternative, (Operation){OP_SPLIT, 1, 0}));
    p->program->code[g->alternative].y = p->program->size - g->alternative + 1;
    int32_t jump = p->program->size;
    TRY(operation_add(p, OP_JUMP, g->pending, 0));
    g->pending = jump;
    g->alternative = p->program->size;
    p->atom = -1;
    return true;
}

static bool group_close(Parser *p) {
    Group *g = group(p);
    Program *code = p->program;
    while (g->pending >= 0) {
        int32_t before = code->code[g->pending].x;
        code->code[g->pending].x = code->size - g->pending;
        g->pending = before;
    }
    p->atom = g->start;
    p->depth--;
    if (g->kind == GROUP_PLAIN)
        return true;
    if (code->size != g->start + 1 || code->code[g->start].op != OP_SET)
        return unsupported(p, "looking ahead at more than one character");
    *p->scratch = *code->sets[code->code[g->start].x];
    if (g->kind == GROUP_NOT_AHEAD)
        set_invert(p->scratch);
    p->scratch->end = g->kind == GROUP_NOT_AHEAD;
    code->size = g->start;
    return ahead_emit(p);
}

// Behind "(?": flags, then ':' or ')'.
static bool flags_read(Parser *p) {
    bool fold = group(p)->fold, dot_all = group(p)->dot_all, on = true;
    for (;; p->at++) {
        if (*p->at == '-')
            on = false;
        else if (*p->at == 'i')
            fold = on;
        else if (*p->at == 'm')
            dot_all = on;
        else
            break;
    }
    if (*p->at == ':') {
        p->at++;
        return group_open(p, GROUP_PLAIN, fold, dot_all);
    }
    if (*p->at != ')' || p->program->size != group(p)->start)
        return unsupported(p, "a group that is neither (...), (?:...), (?i:...), (?=.) nor (?!.)");
    p->at++;
    group(p)->fold = fold;
    group(p)->dot_all = dot_all;
    return true;
}

static bool group_read(Parser *p) {
    const Group *g = group(p);
    p->at++;
    if (*p->at != '?')
        return group_open(p, GROUP_PLAIN, g->fold, g->dot_all);
    p->at++;
    if (*p->at == '=' || *p->at == '!') {
        GroupKind kind = *p->at++ == '=' ? GROUP_AHEAD : GROUP_NOT_AHEAD;
        return group_open(p, kind, g->fold, g->dot_all);
    }
    return flags_read(p);
}

// ---- the whole ----------------------------------------------------------------------------------

static bool anchor_read(Parser *p) {
    if (*p->at != '$')
        return unsupported(p, "an anchor other than $");
    p->at++;
    scratch_clear(p);
    set_add(p->scratch, '\n');
    p->scratch->end = true;
    return ahead_emit(p);
}

static bool escape_atom(Parser *p) {
    bool is_set;
    uint32_t code = 0;
    p->at++;
    if (*p->at == 'z') { // the end of the text
        p->at++;
        p->scratch->end = true;
        return ahead_emit(p);
    }
    TRY(escape_read(p, p->scratch, &is_set, &code));
    if (!is_set)
        set_add(p->scratch, code);
    if (!is_set && group(p)->fold)
        fold(p, p->scratch);
    return set_emit(p);
}

static bool atom_read(Parser *p) {
    scratch_clear(p);
    if (*p->at == '\\')
        return escape_atom(p);
    if (*p->at == '[') {
        p->at++;
        TRY(class_read(p));
        return set_emit(p);
    }
    if (*p->at == '.') {
        p->at++;
        if (!group(p)->dot_all)
            set_add(p->scratch, '\n');
        set_invert(p->scratch);
        return set_emit(p);
    }
    set_add(p->scratch, code_read(p));
    if (group(p)->fold)
        fold(p, p->scratch);
    return set_emit(p);
}

static bool part_read(Parser *p) {
    if (*p->at == '(')
        return group_read(p);
    if (*p->at == '|') {
        p->at++;
        return group_alternative(p);
    }
    if (*p->at == ')') {
        if (p->depth == 1)
            return malformed(p, "a ) without (");
        p->at++;
        return group_close(p);
    }
    if (*p->at == '^' || *p->at == '$')
        return anchor_read(p);
    return atom_read(p);
}

bool regex_parse(Program *out, const char *regex, const char *where, Arena *a, Error *err) {
    Parser p = {
        .regex = regex, .at = regex, .where = where, .program = out, .arena = a, .err = err};
    out->size = out->set_count = 0;
    p.scratch = ARENA_NEW(a, CodeSet, 1);
    TRY(group_open(&p, GROUP_PLAIN, false, false));
    while (*p.at) {
        bool quantifier;
        TRY(quantifier_read(&p, &quantifier));
        if (!quantifier)
            TRY(part_read(&p));
    }
    if (p.depth > 1)
        return malformed(&p, "a ( without )");
    TRY(group_close(&p));
    out->code[out->size++] = (Operation){OP_MATCH, 0, 0};
    return true;
}
