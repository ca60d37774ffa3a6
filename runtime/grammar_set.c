// Sets of characters to UTF-8: each range of code points becomes sequences of byte ranges, split
// where the length changes and where trailing bytes do not run through all their values.
// Source: R. Cox, RE2, re2/compile.cc, Add_80_10ffff and AddRuneRangeUTF8, for the idea.
#include "grammar_text.h"

#include <stdio.h>
#include <stdlib.h>

enum { LAST = 0x10ffff, SURROGATE = 0xd800, BEHIND_SURROGATES = 0xe000 };

void charset_add(CharSet *s, uint32_t low, uint32_t high) {
    if (s->count == SET_MAX_RANGES)
        s->full = true;
    else
        s->ranges[s->count++] = (struct CharRange){low, high};
}

static int by_low(const void *a, const void *b) {
    const struct CharRange *left = a, *right = b;
    return left->low < right->low ? -1 : left->low > right->low;
}

void charset_sort(CharSet *s) {
    int kept = 0;
    qsort(s->ranges, (size_t)s->count, sizeof s->ranges[0], by_low);
    for (int at = 0; at < s->count; at++) {
        struct CharRange r = s->ranges[at];
        if (kept && r.low <= s->ranges[kept - 1].high + 1) {
            if (r.high > s->ranges[kept - 1].high)
                s->ranges[kept - 1].high = r.high;
        } else {
            s->ranges[kept++] = r;
        }
    }
    s->count = kept;
}

void charset_invert(CharSet *s) {
    CharSet out = {.full = s->full};
    uint32_t from = 0;
    for (int at = 0; at < s->count; at++) {
        if (s->ranges[at].low > from)
            charset_add(&out, from, s->ranges[at].low - 1);
        from = s->ranges[at].high + 1;
    }
    if (from <= LAST)
        charset_add(&out, from, LAST);
    *s = out;
}

static int encode(uint32_t code, unsigned char *out) {
    static const unsigned char marks[] = {0, 0, 0xc0, 0xe0, 0xf0};
    int size = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int at = size - 1; at > 0; at--, code >>= 6)
        out[at] = (unsigned char)(0x80 | (code & 0x3f));
    out[0] = (unsigned char)(code | marks[size]);
    return size;
}

// The largest `high` so that low .. high is one sequence of byte ranges.
static uint32_t sequence_end(uint32_t low, uint32_t high) {
    static const uint32_t lengths[] = {0x7f, 0x7ff, 0xffff};
    for (size_t at = 0; at < sizeof lengths / sizeof *lengths; at++)
        if (low <= lengths[at] && high > lengths[at])
            high = lengths[at];
    for (int bits = 6; bits <= 18 && high > 0x7f; bits += 6) {
        uint32_t tail = (1u << bits) - 1;
        if ((low & ~tail) == (high & ~tail))
            break;
        if (low & tail)
            return low | tail;
        if ((high & tail) != tail)
            high = (high & ~tail) - 1;
    }
    return high;
}

static void either(Nfa *n, Fragment *all, bool *any, Fragment one) {
    *all = *any ? nfa_either(n, one, *all) : one;
    *any = true;
}

static void range_add(Nfa *n, Fragment *all, bool *any, uint32_t low, uint32_t high) {
    while (low <= high && !n->failed) {
        unsigned char first[4], last[4];
        uint32_t end = sequence_end(low, high);
        int size = encode(low, first);
        encode(end, last);
        Fragment one = nfa_bytes(n, first[0], last[0]);
        for (int at = 1; at < size; at++)
            one = nfa_then(n, one, nfa_bytes(n, first[at], last[at]));
        either(n, all, any, one);
        low = end + 1;
    }
}

// A character that a JSON string must escape.
static Fragment escape(Nfa *n, uint32_t code) {
    static const char short_forms[128] = {['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f',
                                          ['\r'] = 'r', ['"'] = '"',  ['\\'] = '\\'};
    char text[8];
    int size = short_forms[code] ? snprintf(text, sizeof text, "\\%c", short_forms[code])
                                 : snprintf(text, sizeof text, "\\u%04x", (unsigned)(code & 0x7f));
    return nfa_text(n, text, (size_t)size);
}

static bool escaped(uint32_t code) {
    return code < ' ' || code == '"' || code == '\\';
}

Fragment charset_fragment(Nfa *n, const CharSet *s, bool json) {
    Fragment all = {0};
    bool any = false;
    if (s->full)
        nfa_fail(n, ERR_RESOURCE, 1206, "a set of characters has more than %d ranges",
                 SET_MAX_RANGES);
    for (int at = 0; at < s->count && !n->failed; at++) {
        uint32_t low = s->ranges[at].low, high = s->ranges[at].high;
        while (low <= high && low < 128 && !n->failed) { // runs of ASCII that needs no escape
            uint32_t end = low;
            while (!(json && escaped(end)) && end < high && end + 1 < 128 &&
                   !(json && escaped(end + 1)))
                end++;
            either(n, &all, &any, json && escaped(low) ? escape(n, low) : nfa_bytes(n, low, end));
            low = end + 1;
        }
        if (low < SURROGATE)
            range_add(n, &all, &any, low, high < SURROGATE ? high : SURROGATE - 1);
        if (high >= BEHIND_SURROGATES)
            range_add(n, &all, &any, low > BEHIND_SURROGATES ? low : BEHIND_SURROGATES, high);
    }
    return any ? all : nfa_never(n);
}
