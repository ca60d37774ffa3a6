// The values that chat templates work on, as Python would show them: between template.c (the
// machine), template_value.c, template_text.c, template_json.c, template_filter.c, template_test.c,
// template_method.c and template_format.c.
//
// Values never change once they are made (jinja2's immutable sandbox), but for namespaces and the
// state of loops. Everything lives in the arena of one rendering. A function that can fail returns
// false with the error set.
#ifndef TEMPLATE_VALUE_H
#define TEMPLATE_VALUE_H

#include <stdarg.h>

#include "payload_template.h"
#include "template.h"

enum {
    TEMPLATE_MAX_VALUE_DEPTH = 200, // of lists and dicts inside each other
    TEMPLATE_MAX_RANGE = 100000,    // items of range(), jinja2's limit
};

typedef enum ValueKind { // ORDER VALUES (template_value.c: names)
    VALUE_MISSING,       // a variable without a value; never on a user's way
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_BIG, // an integer beyond 64 bits, as it stands in the context: can be shown, no more
    VALUE_FLOAT,
    VALUE_TEXT,
    VALUE_LIST, // all sequences, see ListKind
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_LOOP,
    VALUE_MACRO,
    VALUE_METHOD,
    VALUE_FUNCTION,
    VALUE_KINDS,
} ValueKind;

typedef struct Text {
    const char *data;     // UTF-8
    const uint8_t *marks; // [size], or NULL: every byte has `mark`
    uint32_t size;        // bytes
    uint8_t mark;         // 1: written by a user
    bool safe;            // markupsafe.Markup: + escapes what is added
} Text;

typedef struct Value Value;
typedef struct Dict Dict;
typedef struct List List;
typedef struct LoopState LoopState;
typedef struct Macro Macro;
typedef struct Method Method;

struct Value {
    ValueKind kind;
    uint8_t owner; // UNDEFINED: the kind of the object that lacks the name, or VALUE_MISSING
    union {
        int64_t integer; // BOOL, INT, FUNCTION (GlobalFunction)
        double number;
        const Text *text; // TEXT, BIG; UNDEFINED: what was looked for, or NULL
        List *list;
        Dict *dict; // DICT, NAMESPACE
        LoopState *loop;
        const Macro *macro;
        const Method *method;
    };
};

typedef enum ListKind { // ORDER LISTS (template_value.c: names)
    LIST_LIST,
    LIST_TUPLE,
    LIST_RANGE,
    LIST_GENERATOR, // can be gone through once
    LIST_KEYS,
    LIST_VALUES,
    LIST_ITEMS,
    LIST_KINDS,
} ListKind;

struct List {
    ListKind kind;
    uint32_t count;
    uint32_t taken; // GENERATOR: items that are gone
    const Value *items;
};

typedef struct Entry {
    Value key, value;
} Entry;

// In the order of insertion.
struct Dict {
    Entry *entries;
    uint32_t count, capacity;
    uint32_t *index;     // hash table of entry + 1, or NULL while the dict is small
    uint32_t index_size; // a power of two
};

struct LoopState {
    const Value *items;
    uint32_t count;
    uint32_t next; // item that FOR_NEXT gives next
    Value *kept;   // FOR_KEEP: items that passed the filter, [count]
    uint32_t kept_count;
    bool completed; // FOR_DONE was reached
    Value changed;  // the last arguments of loop.changed(), a tuple
};

// Variables of one call of a function. Macros keep those of the call that they were made in.
typedef struct Slots {
    struct Slots *parent;
    uint32_t count;
    Value values[];
} Slots;

struct Macro {
    uint32_t function; // index
    Slots *closure;
};

typedef enum MethodId {
#define METHOD_ENUM(name, c_name) METHOD_##c_name,
    TEMPLATE_METHODS(METHOD_ENUM) METHOD_LOOP_CYCLE,
#undef METHOD_ENUM
    METHOD_LOOP_CHANGED,
    METHOD_COUNT,
} MethodId;

struct Method {
    MethodId id;
    Value self;
};

typedef enum GlobalFunction { // ORDER GLOBALS (template_call.c)
    GLOBAL_RANGE,
    GLOBAL_DICT,
    GLOBAL_NAMESPACE,
    GLOBAL_RAISE_EXCEPTION,
    GLOBAL_STRFTIME_NOW,
    GLOBAL_COUNT,
} GlobalFunction;

// Unicode tables of the blob.
typedef struct CaseTables {
    const TemplateRange *printable, *upper, *lower;
    uint32_t printable_count, upper_count, lower_count;
} CaseTables;

// An open template.
struct Template {
    const TemplateHeader *header;
    const TemplateFunction *functions;
    const TemplateParam *params;
    const uint32_t *slot_names;
    const TemplateInstr *code;
    CaseTables tables;
    uint32_t const_count;
    Value *consts; // owner: template_close
    Text *texts;   // of the constants; owner: template_close
};

// One rendering.
typedef struct Run {
    const Template *t;
    TemplateOptions limits; // defaults filled in
    Arena arena;
    size_t memory; // bytes taken from the arena
    uint64_t steps;
    int line; // of the instruction that runs
    Error *err;
} Run;

typedef struct Args {
    const Value *values; // positional
    int count;
    const Entry *keywords; // keys are texts
    int keyword_count;
} Args;

// ---- errors and limits (template_value.c) -------------------------------------------------------

bool run_fail(Run *r, ErrorCode code, int id, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool type_fail(Run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool value_fail(Run *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool undefined_fail(Run *r, Value undefined);
bool run_step(Run *r, uint64_t count);
void *run_alloc(Run *r, size_t count, size_t elem_bytes); // zeroed; NULL: the limit, error is set

// ---- values (template_value.c) ------------------------------------------------------------------

static inline Value value_none(void) {
    return (Value){.kind = VALUE_NONE};
}
static inline Value value_bool(bool truth) {
    return (Value){.kind = VALUE_BOOL, .integer = truth};
}
static inline Value value_int(int64_t integer) {
    return (Value){.kind = VALUE_INT, .integer = integer};
}
static inline Value value_float(double number) {
    return (Value){.kind = VALUE_FLOAT, .number = number};
}
static inline Value value_text(const Text *text) {
    return (Value){.kind = VALUE_TEXT, .text = text};
}
static inline Value value_undefined(const Text *name) {
    return (Value){.kind = VALUE_UNDEFINED, .text = name};
}
static inline bool is_integral(Value v) {
    return v.kind == VALUE_INT || v.kind == VALUE_BOOL;
}
static inline bool is_number(Value v) {
    return is_integral(v) || v.kind == VALUE_FLOAT;
}
static inline bool is_list(Value v, ListKind kind) {
    return v.kind == VALUE_LIST && v.list->kind == kind;
}

const char *value_type(Value v); // Python's name of the type
bool value_truth(Value v);
bool value_equal(Run *r, Value a, Value b, bool *out);
bool value_less(Run *r, Value a, Value b, bool *out); // a < b; fails as Python does
bool value_contains(Run *r, Value item, Value in, bool *out);
bool value_same(Value a, Value b); // Python's `is`

// Makes a list that keeps `items`.
bool list_make(Run *r, ListKind kind, const Value *items, size_t count, Value *out);
bool pair_make(Run *r, Value first, Value second, Value *out); // a tuple

// Items of anything that can be gone through. Exhausts generators.
bool value_items(Run *r, Value v, const Value **items, uint32_t *count);
bool value_length(Run *r, Value v, int64_t *out);

bool dict_make(Run *r, Value *out);
bool dict_set(Run *r, Dict *d, Value key, Value value);
bool dict_get(Run *r, const Dict *d, Value key, Value *out, bool *found);
const Value *dict_find(const Dict *d, const char *key); // NULL: not there
bool dict_list(Run *r, const Dict *d, ListKind kind, Value *out);

bool value_attr(Run *r, Value object, const Text *name, Value *out);
bool value_item(Run *r, Value object, Value key, Value *out);
bool value_slice(Run *r, Value object, const Value bounds[3], Value *out);

bool value_binary(Run *r, TemplateOp op, Value a, Value b, Value *out);
bool value_unary(Run *r, TemplateOp op, Value a, Value *out);

// ---- texts (template_text.c) --------------------------------------------------------------------

// Joins pieces with their marks.
typedef struct Builder {
    Run *r;
    char *data;
    uint8_t *marks; // NULL while all bytes have `mark`
    size_t size, capacity;
    size_t limit; // bytes, 0: as much as memory allows
    uint8_t mark;
} Builder;

bool builder_add(Builder *b, const char *data, size_t size, const uint8_t *marks, uint8_t mark);
bool builder_text(Builder *b, const Text *text);
bool builder_part(Builder *b, const Text *text, size_t from, size_t to); // bytes
bool builder_plain(Builder *b, const char *text);                        // unmarked
bool builder_code(Builder *b, uint32_t code, uint8_t mark);              // a code point
bool builder_done(Builder *b, Value *out);

bool text_make(Run *r, const char *data, size_t size, Value *out); // unmarked, data is kept
bool text_copy(Run *r, const char *data, size_t size, Value *out); // unmarked
bool text_part(Run *r, const Text *text, size_t from, size_t to, Value *out); // bytes
bool text_is(const Text *text, const char *plain);
bool text_same(const Text *a, const Text *b);
int text_order(const Text *a, const Text *b); // by code point
uint8_t text_mark(const Text *text, size_t at);

// Decodes the code point at `at`, which moves behind it.
uint32_t text_code(const Text *text, size_t *at);
size_t text_length(const Text *text);                  // code points
bool is_space(uint32_t code);                          // Python's str.isspace
uint32_t code_lower(const Template *t, uint32_t code); // one code point only
uint32_t code_upper(const Template *t, uint32_t code);

typedef enum CaseKind { CASE_UPPER, CASE_LOWER, CASE_CAPITALIZE, CASE_TITLE, CASE_WORDS } CaseKind;
bool text_case(Run *r, const Text *text, CaseKind kind, Value *out);
bool text_escape_html(Run *r, const Text *text, Value *out);
bool text_find(const Text *text, const Text *what, size_t from, size_t *at); // bytes

// str() and repr().
bool value_write(Builder *b, Value v);
bool value_string(Run *r, Value v, Value *out);
bool value_repr(Builder *b, Value v, int depth);
void float_repr(double number, char out[40]);

// ---- JSON (template_json.c) ---------------------------------------------------------------------

bool context_read(Run *r, const char *text, Value *out);

typedef struct JsonStyle {
    bool ascii, sort_keys;
    const Text *indent;   // NULL: one line
    const Text *item_end; // between items
    const Text *key_end;  // between key and value
} JsonStyle;

bool json_dump(Builder *b, Value v, const JsonStyle *style, int depth);

// ---- functions of templates ---------------------------------------------------------------------

// Puts arguments into out[0..count) by position and name; what is not given is VALUE_MISSING. The
// names are separated by spaces; the first `required` must be given.
bool args_bind(Run *r, const char *what, const Args *args, const char *names, int required,
               Value *out);
bool args_none(Run *r, const char *what, const Args *args);
bool arg_int(Run *r, Value v, int64_t *out);
static inline Value value_or(Value v, Value otherwise) {
    return v.kind == VALUE_MISSING ? otherwise : v;
}

// item.a.b.0 by a path "a.b.0" or an integer; `missing` is for what is undefined on the way.
bool value_path(Run *r, Value item, Value path, Value missing, Value *out);
bool value_fold(Run *r, Value *v); // strings: lower case
// What items are compared by: attribute, then lower case.
bool value_sort_key(Run *r, Value item, Value attribute, bool cased, Value *out);

#define FILTER_DECLARE(name, c_name) \
    bool filter_##c_name(Run *r, Value v, const Args *args, Value *out);
TEMPLATE_FILTERS(FILTER_DECLARE)
#undef FILTER_DECLARE

bool filter_call(Run *r, int id, Value subject, const Args *args, Value *out);
bool test_call(Run *r, int id, Value subject, const Args *args, bool *out);
int filter_id(const Text *name); // -1: unknown
int test_id(const Text *name);
bool method_find(Value object, const Text *name, MethodId *out);
bool method_call(Run *r, const Method *m, const Args *args, Value *out);

bool text_replace(Run *r, const Text *text, const Value args[3], Value *out);
bool text_strip(Run *r, const Text *text, Value chars, int sides, Value *out); // 1 left, 2 right
bool text_pad(Run *r, const Text *text, int64_t width, const Text *fill, int side, Value *out);
bool text_splitlines(Run *r, const Text *text, bool keep_ends, Value *out);
bool format_percent(Run *r, const Text *format, Value arguments, Value *out);
bool format_braces(Run *r, const Text *format, const Args *args, Value *out);

bool global_find(const Text *name, Value *out);
bool global_call(Run *r, int64_t id, const Args *args, Value *out);

// "damaged": only a blob that no compiler wrote comes to this.
bool template_damaged(Error *err, const char *what);

// sorted(); `keys` are compared, `items` are moved, both [count].
bool values_sort(Run *r, Value *keys, Value *items, uint32_t count, bool reverse);

#endif
