// Strings, formats and constant values. Free strings take every way to write a character that JSON
// has; keys, constants and strings with a pattern or format take one way: what must not be escaped
// is not.
#include "grammar_schema_types.h"
#include "utf8.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

// clang-format off
// A character of a JSON string: itself, an escape, or a \u with surrogates in pairs (RFC 8259, 7).
static const char string_character[] =
    "[^\"\\\\\\x00-\\x1f]|\\\\(?:[\"\\\\/bfnrt]|u(?:[0-9a-cefA-CEF][0-9a-fA-F]{3}|"
    "[dD][0-7][0-9a-fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2}))";

#define YEAR  "(?:000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})"
#define LEAP  "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE  "(?:" YEAR "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|" \
              "[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))|" LEAP "-02-29)"
#define CLOCK "(?:[01]\\d|2[0-3]):[0-5]\\d"
#define TIME  "(?:" CLOCK ":[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-]" CLOCK "))"
#define BYTE  "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4  "(?:" BYTE "(?:\\." BYTE "){3})"
#define H16   "[0-9a-fA-F]{1,4}"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define ATOM  "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define HOST  LABEL "(?:\\." LABEL "){0,3}"
#define DAYS  "(?:\\d+D(?:T(?:\\d+H(?:\\d+M(?:\\d+S)?)?|\\d+M(?:\\d+S)?|\\d+S))?)"
#define CHAR  "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"

static const struct {
    const char *name, *regex;
} formats[] = {
    {"date", DATE}, // RFC 3339; 5.6
    {"date-time", DATE "T" TIME},
    {"duration", "P(?:" DAYS "|\\d+Y(?:\\d+M(?:\\d+D)?)?|\\d+M(?:\\d+D)?|\\d+W|"
                 "T(?:\\d+H(?:\\d+M(?:\\d+S)?)?|\\d+M(?:\\d+S)?|\\d+S))"},
    {"email", ATOM "(?:\\." ATOM ")*@" LABEL "(?:\\." LABEL "){1,3}"},
    {"hostname", HOST},
    {"ipv4", IPV4},
    {"ipv6", "(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|"
             "(?:" H16 ":){1,5}(?::" H16 "){1,2}|(?:" H16 ":){1,4}(?::" H16 "){1,3}|"
             "(?:" H16 ":){1,3}(?::" H16 "){1,4}|(?:" H16 ":){1,2}(?::" H16 "){1,5}|"
             H16 ":(?::" H16 "){1,6}|:(?:(?::" H16 "){1,7}|:)"},
    {"time", TIME},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]*:(?://" CHAR "+)?(?:/" CHAR "*)*(?:\\?(?:" CHAR "|[/?])*)?"
            "(?:#(?:" CHAR "|[/?])*)?"},
    {"uuid", "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"},
};
// clang-format on

Fragment quotes_fragment(Nfa *n, Fragment f) {
    return nfa_then(n, nfa_then(n, nfa_text(n, "\"", 1), f), nfa_text(n, "\"", 1));
}

Fragment string_fragment(Nfa *n, int32_t min, int32_t max) {
    return quotes_fragment(n, nfa_repeat(n, regex_own(n, string_character, false), min, max));
}

bool format_fragment(Nfa *n, const char *name, Fragment *out) {
    for (size_t at = 0; at < sizeof formats / sizeof *formats; at++)
        if (strcmp(formats[at].name, name) == 0) {
            *out = quotes_fragment(n, regex_own(n, formats[at].regex, true));
            return true;
        }
    return false;
}

Fragment separator_fragment(Nfa *n, char c) {
    return nfa_then(n, nfa_text(n, &c, 1), nfa_repeat(n, nfa_text(n, " ", 1), 0, 1));
}

Fragment literal_fragment(Nfa *n, const cJSON *value) {
    char *text = cJSON_PrintUnformatted(value);
    Fragment all = nfa_empty(n);
    bool inside = false; // of a string
    if (!text)
        nfa_fail(n, ERR_RESOURCE, 1227, "no memory for a constant of a schema");
    for (const char *at = text; at && *at && !n->failed; at++) {
        bool separates = !inside && (*at == ',' || *at == ':');
        if (*at == '"')
            inside = !inside;
        all = nfa_then(n, all, separates ? separator_fragment(n, *at) : nfa_text(n, at, 1));
        if (inside && *at == '\\' && at[1])
            all = nfa_then(n, all, nfa_text(n, ++at, 1));
    }
    cJSON_free(text);
    return all;
}

Fragment quoted_fragment(Nfa *n, const char *text) {
    cJSON *string = cJSON_CreateString(text);
    Fragment f = {0};
    if (string)
        f = literal_fragment(n, string);
    else
        nfa_fail(n, ERR_RESOURCE, 1228, "no memory for a key of a schema");
    cJSON_Delete(string);
    return f;
}

// ---- keys that are none of those a schema names -------------------------------------------------

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Names names[low, high) share `depth` bytes, and the text is at `place` behind them.
typedef struct Branch {
    int32_t low, high, place;
    size_t depth;
} Branch;

// What may follow the shared part: the next character of a name, or any other one, after which the
// rest is free.
static int32_t branch_grow(Nfa *n, const char *const *names, Branch b, Branch *todo, int32_t free,
                           int32_t end, CharSet *others) {
    int32_t count = 0;
    others->count = 0;
    bool ends = !names[b.low][b.depth];
    if (!ends)
        nfa_edge(n, b.place, end);
    for (int32_t at = b.low + ends, next; at < b.high && !n->failed; at = next) {
        size_t size;
        uint32_t code = utf8_read((const unsigned char *)names[at] + b.depth, 4, &size); // is valid
        for (next = at + 1; next < b.high; next++)
            if (strncmp(names[next] + b.depth, names[at] + b.depth, size) != 0)
                break;
        CharSet one = {.ranges = {{code, code}}, .count = 1};
        Fragment f = charset_fragment(n, &one, true);
        nfa_edge(n, b.place, f.start);
        todo[count++] = (Branch){at, next, f.end, b.depth + size};
        charset_add(others, code, code);
    }
    charset_sort(others);
    charset_invert(others);
    Fragment f = charset_fragment(n, others, true);
    nfa_edge(n, b.place, f.start);
    nfa_edge(n, f.end, free);
    return count;
}

static Fragment except_sorted(Nfa *n, const char *const *names, int32_t count, Branch *todo,
                              CharSet *others) {
    Fragment open = nfa_text(n, "\"", 1), close = nfa_text(n, "\"", 1);
    Fragment rest = nfa_repeat(n, regex_own(n, string_character, false), 0, NFA_UNBOUNDED);
    nfa_edge(n, rest.end, close.start);
    todo[0] = (Branch){0, count, open.end, 0};
    for (int32_t left = 1; left && !n->failed;) {
        Branch b = todo[--left];
        left += branch_grow(n, names, b, todo + left, rest.start, close.start, others);
    }
    return (Fragment){open.start, close.end};
}

Fragment except_fragment(Nfa *n, const char *const *names, int32_t count) {
    size_t room = (size_t)count + 1;
    const char **sorted = calloc(room, sizeof *sorted);
    Branch *todo = calloc(room, sizeof *todo);
    CharSet *others = calloc(1, sizeof *others);
    Fragment f = {0};
    int32_t kept = 0;
    if (!sorted || !todo || !others) {
        nfa_fail(n, ERR_RESOURCE, 1229, "no memory for the keys of a schema");
    } else if (count == 0) {
        f = string_fragment(n, 0, NFA_UNBOUNDED);
    } else {
        memcpy(sorted, names, (size_t)count * sizeof *sorted);
        qsort(sorted, (size_t)count, sizeof *sorted, by_text);
        for (int32_t at = 0; at < count; at++)
            if (!kept || strcmp(sorted[kept - 1], sorted[at]) != 0)
                sorted[kept++] = sorted[at];
        f = except_sorted(n, sorted, kept, todo, others);
    }
    free(sorted);
    free(todo);
    free(others);
    return f;
}
