// Regular expressions of the numbers between two bounds.
//
// Idea: 25 to 1199 is 2[5-9], [3-9]\d, [1-9]\d\d, 1[01]\d\d: ranges whose first and last number
// differ in trailing digits that run from 0 to 9 and one digit before them. Fractions are the same
// on numbers scaled by a power of ten, with a point set into each range.
#include "grammar_schema_types.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STOPS = 48, MAX_DIGITS = 20, MAX_DECIMALS = 6, TEXT_BYTES = 1 << 14 };

// Bounds of larger size are refused: scaled they would not be exact.
static const double MAX_BOUND = 1e9, MAX_INTEGER_BOUND = 0x1p53;

typedef struct Text {
    char data[TEXT_BYTES];
    size_t size;
    bool any; // an alternative is there
} Text;

static void put(Text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(Text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int size = vsnprintf(t->data + t->size, TEXT_BYTES - t->size, format, args);
    va_end(args);
    if (size > 0 && t->size + (size_t)size < TEXT_BYTES)
        t->size += (size_t)size;
}

static void alternative(Text *t, const char *sign) {
    put(t, "%s%s", t->any ? "|" : "", sign);
    t->any = true;
}

static uint64_t power(int exponent) {
    uint64_t value = 1;
    while (exponent-- > 0)
        value *= 10;
    return value;
}

static int by_value(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

// The last numbers of the ranges that [low, high] falls into; ascending, the last one is high.
static int stops_make(uint64_t low, uint64_t high, uint64_t *stops) {
    int count = 0, kept = 0;
    for (int n = 1; n < 19; n++) {
        uint64_t stop = low / power(n) * power(n) + power(n) - 1;
        if (stop >= high)
            break;
        stops[count++] = stop;
    }
    for (int n = 1; n < 19; n++) {
        uint64_t begin = (high + 1) / power(n) * power(n);
        if (begin <= low)
            break;
        if (begin - 1 < high)
            stops[count++] = begin - 1;
    }
    stops[count++] = high;
    qsort(stops, (size_t)count, sizeof *stops, by_value);
    for (int at = 0; at < count; at++)
        if (!kept || stops[kept - 1] != stops[at])
            stops[kept++] = stops[at];
    return kept;
}

// One digit of a range.
static void digit(Text *t, char low, char high) {
    if (low == high)
        put(t, "%c", low);
    else
        put(t, "[%c-%c]", low, high);
}

// One range; its last `decimals` digits stand behind a point and may be left out as far as zeros
// would do. tail: what may follow them.
static void range(Text *t, const char *sign, uint64_t low, uint64_t high, int decimals,
                  const char *tail) {
    char first[MAX_DIGITS + 2], last[MAX_DIGITS + 2];
    int size = snprintf(last, sizeof last, "%0*" PRIu64, decimals + 1, high), open = 0;
    snprintf(first, sizeof first, "%0*" PRIu64, size, low);
    alternative(t, sign);
    for (int at = 0; at < size; at++) {
        bool zeros = true; // nothing but zeros may follow
        for (int later = at; later < size; later++)
            zeros = zeros && first[later] == '0';
        if (at >= size - decimals && zeros) {
            put(t, "(?:");
            open++;
        }
        if (at == size - decimals)
            put(t, "\\.");
        digit(t, first[at], last[at]);
    }
    if (decimals == 0 && *tail)
        put(t, "(?:\\.%s%s)?", strcmp(tail, "0*") == 0 ? "0" : "\\d", tail);
    else
        put(t, "%s", tail);
    while (open--)
        put(t, ")?");
}

static void ranges(Text *t, const char *sign, uint64_t low, uint64_t high, int decimals,
                   const char *tail) {
    uint64_t stops[MAX_STOPS];
    for (int count = stops_make(low, high, stops), at = 0; at < count; at++) {
        range(t, sign, low, stops[at], decimals, tail);
        low = stops[at] + 1;
    }
}

static int digits_of(uint64_t value, int least) {
    char text[MAX_DIGITS + 2];
    return snprintf(text, sizeof text, "%0*" PRIu64, least, value);
}

// ---- one sign -----------------------------------------------------------------------------------

// Absolute values of one sign, scaled by 10^decimals.
typedef struct Span {
    uint64_t low, high;
    bool has_high, low_excluded, high_excluded;
} Span;

static void integers(Text *t, const char *sign, const Span *s) {
    if (s->has_high && s->low > s->high)
        return;
    if (s->has_high) {
        ranges(t, sign, s->low, s->high, 0, "");
        return;
    }
    int size = digits_of(s->low, 1);
    ranges(t, sign, s->low, power(size) - 1, 0, "");
    alternative(t, sign);
    put(t, "[1-9]\\d{%d,}", size);
}

static void reals(Text *t, const char *sign, const Span *s, int decimals) {
    uint64_t low = s->low;
    if (s->has_high && s->low > s->high)
        return;
    if (s->low_excluded && !(s->has_high && low == s->high)) { // low itself, but not its value
        char digits[MAX_DIGITS + 2];
        int size = snprintf(digits, sizeof digits, "%0*" PRIu64, decimals + 1, low);
        alternative(t, sign);
        put(t, "%.*s\\.%s\\d*[1-9]\\d*", size - decimals, digits, digits + size - decimals);
        low++;
    }
    if (!s->has_high) {
        int size = digits_of(low, decimals + 1);
        ranges(t, sign, low, power(size) - 1, decimals, "\\d*");
        alternative(t, sign);
        put(t, "[1-9]\\d{%d,}(?:\\.\\d+)?", size - decimals);
        return;
    }
    if (low < s->high)
        ranges(t, sign, low, s->high - 1, decimals, "\\d*");
    if (!s->high_excluded && !(s->low_excluded && s->low == s->high))
        range(t, sign, s->high, s->high, decimals, "0*");
}

// ---- bounds -------------------------------------------------------------------------------------

// The fewest decimals that hold a bound; -1: too many.
static int decimals_of(double bound) {
    for (int decimals = 0; decimals <= MAX_DECIMALS; decimals++) {
        double scaled = bound * (double)power(decimals);
        if (fabs(scaled - nearbyint(scaled)) <= 1e-9 * fmax(1, fabs(scaled)) &&
            nearbyint(scaled) / (double)power(decimals) == bound)
            return decimals;
    }
    return -1;
}

// The half of the numbers with one sign. low, high: of absolute values; low_excluded of low = 0.
static Span half(double low, bool low_open, double high, bool high_open, double scale) {
    Span s = {.low = low > 0 ? (uint64_t)nearbyint(low * scale) : 0,
              .low_excluded = low_open && low >= 0,
              .has_high = isfinite(high),
              .high_excluded = high_open};
    s.high = s.has_high ? (uint64_t)nearbyint(high * scale) : 0;
    return s;
}

static void signs(Text *t, const NumberBounds *b, bool integer, int decimals) {
    double scale = (double)power(decimals);
    if (b->high >= 0) {
        Span s = half(b->low, b->low_open, b->high, b->high_open, scale);
        integer ? integers(t, "", &s) : reals(t, "", &s, decimals);
    }
    if (b->low < 0 || (!integer && b->low <= 0 && b->high >= 0 && !b->low_open)) {
        Span s = half(-b->high, b->high_open, -b->low, b->low_open, scale);
        if (integer && s.low == 0)
            s.low = 1; // no -0
        integer ? integers(t, "-", &s) : reals(t, "-", &s, decimals);
    }
}

// Integers strictly between open bounds.
static void integer_bounds(NumberBounds *b) {
    double low = ceil(b->low), high = floor(b->high);
    b->low = b->low_open && low == b->low ? low + 1 : low;
    b->high = b->high_open && high == b->high ? high - 1 : high;
    b->low_open = b->high_open = false;
}

Fragment number_fragment(Nfa *n, NumberBounds b, bool integer, const char *path) {
    if (isinf(b.low) && isinf(b.high))
        return regex_own(
            n, integer ? "0|-?[1-9]\\d*" : "-?(?:0|[1-9]\\d*)(?:\\.\\d+)?(?:[eE][+-]?\\d+)?",
            false);
    if (integer)
        integer_bounds(&b);
    double limit = integer ? MAX_INTEGER_BOUND : MAX_BOUND;
    int low = isinf(b.low) || fabs(b.low) > limit ? 0 : decimals_of(b.low);
    int high = isinf(b.high) || fabs(b.high) > limit ? 0 : decimals_of(b.high);
    bool wide =
        (isfinite(b.low) && fabs(b.low) > limit) || (isfinite(b.high) && fabs(b.high) > limit);
    if (wide || low < 0 || high < 0) {
        nfa_fail(n, ERR_USAGE, 1225,
                 "%s: bounds of numbers are supported up to %g with at most %d decimals", path,
                 limit, MAX_DECIMALS);
        return (Fragment){0};
    }
    Text *t = calloc(1, sizeof *t);
    if (!t) {
        nfa_fail(n, ERR_RESOURCE, 1226, "no memory for the bounds of a number");
        return (Fragment){0};
    }
    signs(t, &b, integer, low > high ? low : high);
    Fragment f = t->any ? regex_own(n, t->data, false) : nfa_never(n);
    free(t);
    return f;
}
