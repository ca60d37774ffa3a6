// Regular expressions, one pass, no recursion: open groups lie on a stack, each with the
// alternatives behind it, the sequence that grows, and the last atom, which a quantifier may take.
//
// Non-goals: what is not regular (references, assertions but ^ and $ at the ends), captures, case
// folding, Unicode properties. Greedy or lazy makes no difference for the set of texts.
#include "grammar_text.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_GROUPS = 128, MAX_REGEX = 1 << 16, LAST_CODE = 0x10ffff };

typedef struct Group {
    Fragment alternatives, sequence, atom;
    bool has_alternatives, has_sequence, has_atom;
    bool quantified; // the atom
    bool starts;     // the alternative has ^
    bool ends;       // ... $
} Group;

typedef struct Regex {
    Nfa *n;
    const RegexOptions *o;
    Bytes text;
    size_t at;
    Group groups[MAX_GROUPS];
    int depth; // of the open group
} Regex;

static void bad(Regex *r, size_t at, const char *what) {
    char shown[64];
    size_t left = r->text.size - (at < r->text.size ? at : r->text.size);
    text_escape(shown, sizeof shown, (const char *)r->text.data + r->text.size - left,
                left < 12 ? left : 12);
    nfa_fail(r->n, ERR_USAGE, 1207, "%s: character %zu, at \"%s\": %s", r->o->name, at + 1, shown,
             what);
}

static int peek(const Regex *r) {
    return r->at < r->text.size ? r->text.data[r->at] : -1;
}

static bool take(Regex *r, const char *word) {
    size_t size = strlen(word);
    if (r->text.size - r->at < size || memcmp(r->text.data + r->at, word, size) != 0)
        return false;
    r->at += size;
    return true;
}

// ---- characters ---------------------------------------------------------------------------------

// The next character of the expression; invalid UTF-8 is an error.
static uint32_t character(Regex *r) {
    const unsigned char *at = r->text.data + r->at;
    size_t part, size = utf8_check(at, r->text.size - r->at, &part);
    if (!size)
        bad(r, r->at, "it is not valid UTF-8");
    r->at += size ? size : part;
    return utf8_read(at, size ? size : part, &part);
}

static uint32_t hex(Regex *r, int digits) {
    uint32_t value = 0;
    for (int at = 0; at < digits; at++) {
        int c = peek(r);
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) {
            bad(r, r->at, "a hexadecimal digit is missing");
            return 0;
        }
        value = value * 16 + (uint32_t)digit;
        r->at++;
    }
    return value;
}

// Behind \u: four digits, a pair of surrogates, or {digits}.
static uint32_t hex_unicode(Regex *r) {
    size_t start = r->at;
    uint32_t code = 0;
    if (take(r, "{")) {
        while (peek(r) != '}' && code <= LAST_CODE && !r->n->failed)
            code = code * 16 + hex(r, 1);
        r->at += peek(r) == '}';
    } else {
        code = hex(r, 4);
        if (code >= 0xd800 && code < 0xdc00 && take(r, "\\u")) {
            uint32_t low = hex(r, 4);
            code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + low - 0xdc00
                                                 : code;
        }
    }
    if (code > LAST_CODE || (code >= 0xd800 && code < 0xe000))
        bad(r, start, "it is no character");
    return code;
}

static void class_add(CharSet *s, char name) {
    static const struct CharRange spaces[] = {
        {0x09, 0x0d},     {0x20, 0x20},     {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
        {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
    CharSet *one = calloc(1, sizeof *one);
    if (!one) {
        s->full = true;
        return;
    }
    switch (name | 0x20) {
    case 'd':
        charset_add(one, '0', '9');
        break;
    case 'w':
        charset_add(one, '0', '9');
        charset_add(one, 'A', 'Z');
        charset_add(one, '_', '_');
        charset_add(one, 'a', 'z');
        break;
    default:
        for (size_t at = 0; at < sizeof spaces / sizeof *spaces; at++)
            charset_add(one, spaces[at].low, spaces[at].high);
    }
    if (!(name & 0x20))
        charset_invert(one);
    for (int at = 0; at < one->count; at++)
        charset_add(s, one->ranges[at].low, one->ranges[at].high);
    free(one);
}

// What stands behind a backslash, into *code; true: it was a class, which is in s now.
static bool escaped(Regex *r, CharSet *s, uint32_t *code) {
    static const char controls[128] = {
        ['n'] = '\n', ['r'] = '\r', ['t'] = '\t', ['f'] = '\f', ['v'] = '\v', ['a'] = '\a'};
    size_t start = r->at - 1;
    int c = peek(r);
    *code = 0;
    if (c < 0) {
        bad(r, start, "nothing follows the backslash");
        return false;
    }
    if (c >= 0x80 ||
        !((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'))) {
        *code = character(r);
        return false;
    }
    r->at++;
    if (strchr("dwsDWS", c)) {
        class_add(s, (char)c);
        return true;
    }
    if (controls[c])
        *code = (uint32_t)controls[c];
    else if (c == 'x')
        *code = hex(r, 2);
    else if (c == 'u')
        *code = hex_unicode(r);
    else if (c == '0' && !(peek(r) >= '0' && peek(r) <= '9'))
        *code = 0;
    else if (c >= '0' && c <= '9')
        bad(r, start, "references to groups are not regular; write the text out");
    else if (c == 'b' || c == 'B')
        bad(r, start, "word boundaries are not supported");
    else if (c == 'p' || c == 'P')
        bad(r, start, "Unicode properties are not supported; write ranges of characters");
    else
        bad(r, start, "this escape is not supported");
    return false;
}

// A character or class inside of brackets; true: one character, in *code.
static bool set_item(Regex *r, CharSet *s, uint32_t *code) {
    if (!take(r, "\\")) {
        *code = character(r);
        return true;
    }
    if (peek(r) == 'b') {
        r->at++;
        *code = '\b';
        return true;
    }
    return !escaped(r, s, code);
}

// Behind the opening bracket.
static void set_parse(Regex *r, CharSet *s) {
    size_t start = r->at - 1;
    bool inverted = take(r, "^"), first = true;
    for (; !r->n->failed && (peek(r) != ']' || (first && !r->o->json)); first = false) {
        uint32_t low, high;
        if (peek(r) < 0) {
            bad(r, start, "this set has no end");
            return;
        }
        if (!set_item(r, s, &low))
            continue;
        high = low;
        bool range = r->at + 1 < r->text.size && peek(r) == '-' && r->text.data[r->at + 1] != ']';
        if (range) {
            r->at++;
            if (!set_item(r, s, &high) || high < low)
                bad(r, start, "this set has a range that ends before it starts");
        }
        charset_add(s, low, high);
    }
    r->at++;
    charset_sort(s);
    if (inverted)
        charset_invert(s);
}

// ---- the parts of an expression -----------------------------------------------------------------

static void atom_end(Regex *r) {
    Group *g = &r->groups[r->depth];
    if (!g->has_atom)
        return;
    g->sequence = g->has_sequence ? nfa_then(r->n, g->sequence, g->atom) : g->atom;
    g->has_sequence = true;
    g->has_atom = g->quantified = false;
}

static void atom_set(Regex *r, Fragment f) {
    Group *g = &r->groups[r->depth];
    if (g->ends)
        bad(r, r->at,
            "$ stands before the end; it is supported at the end of the expression or of "
            "one of its outermost alternatives");
    atom_end(r);
    g->atom = f;
    g->has_atom = true;
}

static void atom_set_of(Regex *r, const CharSet *s) {
    atom_set(r, charset_fragment(r->n, s, r->o->json));
}

static Fragment anything(Regex *r, CharSet *s) {
    s->count = 0;
    charset_add(s, 0, LAST_CODE);
    return nfa_repeat(r->n, charset_fragment(r->n, s, r->o->json), 0, NFA_UNBOUNDED);
}

static void alternative_end(Regex *r, CharSet *s) {
    Group *g = &r->groups[r->depth];
    atom_end(r);
    Fragment f = g->has_sequence ? g->sequence : nfa_empty(r->n);
    if (r->depth == 0 && r->o->search && !g->starts)
        f = nfa_then(r->n, anything(r, s), f);
    if (r->depth == 0 && r->o->search && !g->ends)
        f = nfa_then(r->n, f, anything(r, s));
    g->alternatives = g->has_alternatives ? nfa_either(r->n, g->alternatives, f) : f;
    g->has_alternatives = true;
    g->has_sequence = g->starts = g->ends = false;
}

static void group_open(Regex *r) {
    static const struct {
        const char *word, *what;
    } refused[] = {{"?=", "look-ahead is not supported"},
                   {"?!", "look-ahead is not supported"},
                   {"?<=", "look-behind is not supported"},
                   {"?<!", "look-behind is not supported"},
                   {"?P=", "references to groups are not regular; write the text out"},
                   {"?>", "atomic groups are not supported"}};
    size_t start = r->at - 1;
    for (size_t at = 0; at < sizeof refused / sizeof *refused; at++)
        if (take(r, refused[at].word))
            bad(r, start, refused[at].what);
    if (r->n->failed)
        return;
    if (take(r, "?P<") || take(r, "?<")) {
        while (peek(r) >= 0 && peek(r) != '>')
            r->at++;
        r->at += peek(r) == '>';
    } else if (!take(r, "?:") && peek(r) == '?') {
        bad(r, start, "flags of groups are not supported");
    }
    if (r->depth + 1 == MAX_GROUPS) {
        nfa_fail(r->n, ERR_RESOURCE, 1208, "%s: more than %d groups inside of each other",
                 r->o->name, MAX_GROUPS - 1);
        return;
    }
    atom_end(r);
    r->groups[++r->depth] = (Group){.quantified = false};
}

static void group_close(Regex *r, CharSet *s) {
    if (r->depth == 0) {
        bad(r, r->at - 1, "this parenthesis closes nothing");
        return;
    }
    alternative_end(r, s);
    Fragment f = r->groups[r->depth--].alternatives;
    atom_set(r, f);
}

static int32_t number(Regex *r) {
    int64_t value = -1;
    for (; peek(r) >= '0' && peek(r) <= '9'; r->at++)
        value = value > NFA_MAX_REPEAT ? value : (value < 0 ? 0 : value * 10) + peek(r) - '0';
    return value > NFA_MAX_REPEAT ? NFA_MAX_REPEAT + 1 : (int32_t)value;
}

// {m}, {m,}, {,n}, {m,n}; false: the brace is a character.
static bool braces(Regex *r, int32_t *min, int32_t *max) {
    size_t start = r->at;
    r->at++;
    *min = *max = number(r);
    bool comma = take(r, ",");
    if (comma)
        *max = number(r);
    if (!take(r, "}") || (*min < 0 && *max < 0)) {
        r->at = start;
        return false;
    }
    *min = *min < 0 ? 0 : *min;
    *max = *max < 0 ? NFA_UNBOUNDED : *max;
    if (*min > NFA_MAX_REPEAT || *max > NFA_MAX_REPEAT)
        nfa_fail(r->n, ERR_RESOURCE, 1209, "%s: character %zu: more than %d repeats", r->o->name,
                 start + 1, NFA_MAX_REPEAT);
    else if (*max != NFA_UNBOUNDED && *max < *min)
        bad(r, start, "the most is less than the least");
    return true;
}

static bool quantifier(Regex *r) {
    Group *g = &r->groups[r->depth];
    size_t start = r->at;
    int32_t min = 0, max = NFA_UNBOUNDED;
    int c = peek(r);
    if (c == '{') {
        if (!braces(r, &min, &max))
            return false;
    } else if (c == '*' || c == '+' || c == '?') {
        r->at++;
        min = c == '+';
        max = c == '?' ? 1 : NFA_UNBOUNDED;
    } else {
        return false;
    }
    if (!g->has_atom || g->quantified) {
        bad(r, start,
            g->has_atom ? "possessive or doubled quantifiers are not supported"
                        : "there is nothing to repeat");
        return true;
    }
    take(r, "?"); // lazy: the same texts
    g->atom = nfa_repeat(r->n, g->atom, min, max);
    g->quantified = true;
    return true;
}

static void anchor_start(Regex *r) {
    Group *g = &r->groups[r->depth];
    if (r->depth || g->has_atom || g->has_sequence)
        bad(r, r->at - 1,
            "^ is supported at the start of the expression or of one of its "
            "outermost alternatives");
    g->starts = true;
}

static void anchor_end(Regex *r) {
    Group *g = &r->groups[r->depth];
    if (r->depth)
        bad(r, r->at - 1,
            "$ is supported at the end of the expression or of one of its outermost "
            "alternatives");
    atom_end(r);
    g->ends = true;
}

static void part(Regex *r, CharSet *s) {
    uint32_t code;
    s->count = 0;
    if (quantifier(r))
        return;
    if (take(r, "(")) {
        group_open(r);
    } else if (take(r, ")")) {
        group_close(r, s);
    } else if (take(r, "|")) {
        alternative_end(r, s);
    } else if (take(r, "^")) {
        anchor_start(r);
    } else if (take(r, "$")) {
        anchor_end(r);
    } else if (take(r, "[")) {
        set_parse(r, s);
        atom_set_of(r, s);
    } else if (take(r, ".")) {
        charset_add(s, '\n', '\n');
        charset_add(s, '\r', '\r');
        charset_add(s, 0x2028, 0x2029);
        charset_invert(s);
        atom_set_of(r, s);
    } else {
        bool class = take(r, "\\") ? escaped(r, s, &code) : (code = character(r), false);
        if (!class)
            charset_add(s, code, code);
        atom_set_of(r, s);
    }
}

static Fragment parse(Regex *r, CharSet *s) {
    if (r->text.size > MAX_REGEX)
        nfa_fail(r->n, ERR_RESOURCE, 1210, "%s: %zu bytes, at most %d are taken", r->o->name,
                 r->text.size, MAX_REGEX);
    while (r->at < r->text.size && !r->n->failed)
        part(r, s);
    if (r->depth && !r->n->failed)
        bad(r, r->text.size, "a group has no end");
    if (r->n->failed)
        return (Fragment){0};
    alternative_end(r, s);
    return r->groups[0].alternatives;
}

Fragment regex_fragment(Nfa *n, Bytes regex, const RegexOptions *o) {
    Regex *r = calloc(1, sizeof *r);
    CharSet *s = calloc(1, sizeof *s);
    Fragment f = {0};
    if (r && s) {
        r->n = n;
        r->o = o;
        r->text = regex;
        f = parse(r, s);
    } else {
        nfa_fail(n, ERR_RESOURCE, 1211, "no memory for a regular expression");
    }
    free(r);
    free(s);
    return f;
}

Fragment regex_own(Nfa *n, const char *regex, bool json) {
    RegexOptions o = {.json = json, .name = regex};
    return regex_fragment(n, (Bytes){(const unsigned char *)regex, strlen(regex)}, &o);
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error err = {0};
    Nfa n = {.nodes = NULL};
    RegexOptions o = {.json = size & 1, .search = size & 2, .name = "fuzz"};
    int32_t rule = nfa_rule(&n);
    nfa_rule_set(&n, rule, regex_fragment(&n, (Bytes){data, size}, &o));
    nfa_finish(&n, rule, &err);
    nfa_free(&n);
    return 0;
}
#endif
