// Values of chat templates: what Python's None, bool, int, float, str, list, tuple and dict do when
// jinja2 asks them for truth, equality, order, items and attributes. Not here: arithmetic
// (template_math.c) and texts (template_text.c).
#include "template_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- errors and limits --------------------------------------------------------------------------

static bool fail_at_line(Run *r, ErrorCode code, int id, const char *format, va_list args) {
    char what[400];
    vsnprintf(what, sizeof what, format, args);
    return fail(r->err, code, id, "chat template, line %d: %s", r->line, what);
}

bool run_fail(Run *r, ErrorCode code, int id, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail_at_line(r, code, id, format, args);
    va_end(args);
    return false;
}

bool type_fail(Run *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail_at_line(r, ERR_USAGE, 1068, format, args);
    va_end(args);
    return false;
}

bool value_fail(Run *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fail_at_line(r, ERR_USAGE, 1069, format, args);
    va_end(args);
    return false;
}

bool undefined_fail(Run *r, Value undefined) {
    char name[80] = "the value";
    if (undefined.text)
        text_escape(name, sizeof name, undefined.text->data, undefined.text->size);
    if (undefined.owner == VALUE_MISSING)
        return run_fail(r, ERR_USAGE, 1067, "'%s' is undefined", name);
    Value owner = {.kind = (ValueKind)undefined.owner};
    return run_fail(r, ERR_USAGE, 1071, "the %s has no '%s'",
                    owner.kind == VALUE_LIST ? "list" : value_type(owner), name);
}

bool run_step(Run *r, uint64_t count) {
    if (r->steps < count)
        return run_fail(r, ERR_RESOURCE, 1063, "the template does not end within %llu steps",
                        (unsigned long long)r->limits.max_steps);
    r->steps -= count;
    return true;
}

void *run_alloc(Run *r, size_t count, size_t elem_bytes) {
    size_t bytes;
    if (!size_mul(count, elem_bytes, &bytes) || bytes > r->limits.max_memory - r->memory) {
        run_fail(r, ERR_RESOURCE, 1064, "the template needs more than %zu bytes of memory",
                 r->limits.max_memory);
        return NULL;
    }
    r->memory += (bytes + 15) & ~(size_t)15;
    if (r->memory > r->limits.max_memory)
        r->memory = r->limits.max_memory;
    return arena_alloc(&r->arena, bytes ? bytes : 1);
}

// ---- kinds --------------------------------------------------------------------------------------

const char *value_type(Value v) {
    static const char *const kinds[VALUE_KINDS] = {
        // ORDER VALUES
        "Undefined", "Undefined", "NoneType",  "bool",        "int",   "int",    "float",   "str",
        NULL,        "dict",      "Namespace", "LoopContext", "Macro", "method", "function"};
    static const char *const lists[LIST_KINDS] = {
        // ORDER LISTS
        "list", "tuple", "range", "generator", "dict_keys", "dict_values", "dict_items"};
    return v.kind == VALUE_LIST ? v.list ? lists[v.list->kind] : "list" : kinds[v.kind];
}

bool value_truth(Value v) {
    if (v.kind == VALUE_BOOL || v.kind == VALUE_INT)
        return v.integer != 0;
    if (v.kind == VALUE_FLOAT)
        return v.number != 0; // NaN is true
    if (v.kind == VALUE_TEXT)
        return v.text->size != 0;
    if (v.kind == VALUE_LIST)
        return v.list->kind == LIST_GENERATOR || v.list->count != 0;
    if (v.kind == VALUE_DICT)
        return v.dict->count != 0;
    return v.kind > VALUE_NONE;
}

bool value_same(Value a, Value b) {
    if (a.kind != b.kind)
        return false;
    if (a.kind == VALUE_NONE)
        return true;
    if (a.kind == VALUE_TEXT)
        return text_same(a.text, b.text);
    if (a.kind == VALUE_FLOAT)
        return false;
    return a.integer == b.integer; // for the others: the same object
}

// ---- equality and order -------------------------------------------------------------------------

static bool equal(Run *r, Value a, Value b, int depth, bool *out);

static bool dicts_equal(Run *r, const Dict *a, const Dict *b, int depth, bool *out) {
    *out = a->count == b->count;
    for (uint32_t at = 0; *out && at < a->count; at++) {
        Value other;
        TRY(dict_get(r, b, a->entries[at].key, &other, out));
        if (*out)
            TRY(equal(r, a->entries[at].value, other, depth + 1, out));
    }
    return true;
}

// Keys and items of dicts are compared as sets.
static bool views_equal(Run *r, const List *a, const List *b, int depth, bool *out) {
    for (uint32_t at = 0; *out && at < a->count; at++) {
        bool found = false;
        for (uint32_t other = 0; !found && other < b->count; other++)
            TRY(equal(r, a->items[at], b->items[other], depth + 1, &found));
        *out = found;
    }
    return true;
}

static bool lists_equal(Run *r, const List *a, const List *b, int depth, bool *out) {
    *out = a == b || (a->kind == b->kind && a->count == b->count && a->kind != LIST_GENERATOR &&
                      a->kind != LIST_VALUES);
    if (a == b)
        return true;
    if (a->kind == LIST_KEYS || a->kind == LIST_ITEMS)
        return views_equal(r, a, b, depth, out);
    for (uint32_t at = 0; *out && at < a->count; at++)
        TRY(equal(r, a->items[at], b->items[at], depth + 1, out));
    return true;
}

static double as_double(Value v) {
    return v.kind == VALUE_FLOAT ? v.number
           : v.kind == VALUE_BIG ? strtod(v.text->data, NULL)
                                 : (double)v.integer;
}

static bool has_order(Value v) {
    return is_number(v) || v.kind == VALUE_BIG;
}

static bool equal(Run *r, Value a, Value b, int depth, bool *out) {
    TRY(run_step(r, 1));
    if (depth > TEMPLATE_MAX_VALUE_DEPTH)
        return run_fail(r, ERR_RESOURCE, 1066, "values are nested too deeply to be compared");
    if (is_number(a) && is_number(b)) {
        if (is_integral(a) && is_integral(b))
            *out = a.integer == b.integer;
        else
            *out = as_double(a) >= as_double(b) && as_double(a) <= as_double(b);
        return true;
    }
    *out = a.kind == b.kind;
    if (!*out || a.kind == VALUE_NONE || a.kind == VALUE_UNDEFINED)
        return true;
    if (a.kind == VALUE_TEXT || a.kind == VALUE_BIG)
        *out = text_same(a.text, b.text);
    else if (a.kind == VALUE_LIST)
        return lists_equal(r, a.list, b.list, depth, out);
    else if (a.kind == VALUE_DICT)
        return dicts_equal(r, a.dict, b.dict, depth, out);
    else
        *out = a.integer == b.integer;
    return true;
}

bool value_equal(Run *r, Value a, Value b, bool *out) {
    return equal(r, a, b, 0, out);
}

static bool less(Run *r, Value a, Value b, int depth, bool *out) {
    TRY(run_step(r, 1));
    if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
        return undefined_fail(r, a.kind == VALUE_UNDEFINED ? a : b);
    if (is_integral(a) && is_integral(b)) {
        *out = a.integer < b.integer;
        return true;
    }
    if (has_order(a) && has_order(b)) {
        *out = as_double(a) < as_double(b);
        return true;
    }
    if (a.kind == VALUE_TEXT && b.kind == VALUE_TEXT) {
        *out = text_order(a.text, b.text) < 0;
        return true;
    }
    bool lists = a.kind == VALUE_LIST && b.kind == VALUE_LIST && a.list->kind == b.list->kind &&
                 a.list->kind <= LIST_TUPLE && depth < TEMPLATE_MAX_VALUE_DEPTH;
    if (!lists)
        return type_fail(r, "'<' is not supported between %s and %s", value_type(a), value_type(b));
    uint32_t shorter = a.list->count < b.list->count ? a.list->count : b.list->count;
    for (uint32_t at = 0; at < shorter; at++) {
        bool same;
        TRY(equal(r, a.list->items[at], b.list->items[at], depth + 1, &same));
        if (!same)
            return less(r, a.list->items[at], b.list->items[at], depth + 1, out);
    }
    *out = a.list->count < b.list->count;
    return true;
}

bool value_less(Run *r, Value a, Value b, bool *out) {
    return less(r, a, b, 0, out);
}

bool value_contains(Run *r, Value item, Value in, bool *out) {
    *out = false;
    if (in.kind == VALUE_TEXT) {
        size_t at;
        if (item.kind == VALUE_UNDEFINED || item.kind != VALUE_TEXT)
            return type_fail(r, "'in' needs a string on its left side, found %s", value_type(item));
        TRY(run_step(r, in.text->size / 64));
        *out = text_find(in.text, item.text, 0, &at);
        return true;
    }
    if (in.kind == VALUE_DICT) {
        Value value;
        return dict_get(r, in.dict, item, &value, out);
    }
    const Value *items;
    uint32_t count;
    TRY(value_items(r, in, &items, &count));
    for (uint32_t at = 0; at < count && !*out; at++)
        TRY(value_equal(r, items[at], item, out));
    return true;
}

// ---- lists --------------------------------------------------------------------------------------

bool list_make(Run *r, ListKind kind, const Value *items, size_t count, Value *out) {
    List *list = run_alloc(r, 1, sizeof *list);
    if (!list)
        return false;
    static const Value nothing;
    *list = (List){.kind = kind, .items = items ? items : &nothing, .count = (uint32_t)count};
    *out = (Value){.kind = VALUE_LIST, .list = list};
    return true;
}

bool pair_make(Run *r, Value first, Value second, Value *out) {
    Value *items = run_alloc(r, 2, sizeof *items);
    if (!items)
        return false;
    items[0] = first;
    items[1] = second;
    return list_make(r, LIST_TUPLE, items, 2, out);
}

static bool text_items(Run *r, const Text *text, const Value **items, uint32_t *count) {
    size_t length = text_length(text);
    TRY(run_step(r, length));
    Value *out = run_alloc(r, length, sizeof *out);
    Text *texts = run_alloc(r, length, sizeof *texts);
    if (!out || !texts)
        return false;
    size_t at = 0;
    for (size_t which = 0; which < length; which++) {
        size_t from = at;
        text_code(text, &at);
        texts[which] = *text;
        texts[which].data += from;
        texts[which].size = (uint32_t)(at - from);
        texts[which].marks = text->marks ? text->marks + from : NULL;
        out[which] = value_text(&texts[which]);
    }
    *items = out;
    *count = (uint32_t)length;
    return true;
}

static bool dict_items(Run *r, const Dict *d, ListKind kind, const Value **items) {
    Value *out = run_alloc(r, d->count, sizeof *out);
    if (!out)
        return false;
    TRY(run_step(r, d->count));
    for (uint32_t at = 0; at < d->count; at++) {
        out[at] = kind == LIST_VALUES ? d->entries[at].value : d->entries[at].key;
        if (kind == LIST_ITEMS)
            TRY(pair_make(r, d->entries[at].key, d->entries[at].value, &out[at]));
    }
    *items = out;
    return true;
}

bool dict_list(Run *r, const Dict *d, ListKind kind, Value *out) {
    const Value *items;
    TRY(dict_items(r, d, kind, &items));
    return list_make(r, kind, items, d->count, out);
}

bool value_items(Run *r, Value v, const Value **items, uint32_t *count) {
    *items = NULL;
    *count = 0;
    if (v.kind == VALUE_UNDEFINED)
        return true;
    if (v.kind == VALUE_TEXT)
        return text_items(r, v.text, items, count);
    if (v.kind == VALUE_DICT) {
        *count = v.dict->count;
        return dict_items(r, v.dict, LIST_KEYS, items);
    }
    if (v.kind != VALUE_LIST)
        return type_fail(r, "'%s' object is not iterable", value_type(v));
    TRY(run_step(r, v.list->count - v.list->taken));
    *items = v.list->items + v.list->taken;
    *count = v.list->count - v.list->taken;
    if (v.list->kind == LIST_GENERATOR)
        v.list->taken = v.list->count;
    return true;
}

bool value_length(Run *r, Value v, int64_t *out) {
    *out = 0;
    if (v.kind == VALUE_TEXT)
        *out = (int64_t)text_length(v.text);
    else if (v.kind == VALUE_DICT)
        *out = v.dict->count;
    else if (v.kind == VALUE_LIST && v.list->kind != LIST_GENERATOR)
        *out = v.list->count;
    else if (v.kind == VALUE_LOOP)
        *out = v.loop->count;
    else if (v.kind != VALUE_UNDEFINED)
        return type_fail(r, "object of type '%s' has no length", value_type(v));
    return true;
}

// ---- dicts --------------------------------------------------------------------------------------

enum { DICT_SMALL = 8 };

static bool hash(Run *r, Value key, int depth, uint64_t *out) {
    uint64_t h = 0xcbf29ce484222325u;
    if (key.kind == VALUE_TEXT) {
        for (uint32_t at = 0; at < key.text->size; at++)
            h = (h ^ (unsigned char)key.text->data[at]) * 0x100000001b3u;
    } else if (is_number(key)) { // equal numbers of all kinds hash alike
        double number = as_double(key);
        number = number < 0 || number > 0 ? number : 0;
        memcpy(&h, &number, sizeof h);
        h *= 0x9e3779b97f4a7c15u;
    } else if (is_list(key, LIST_TUPLE) && depth < TEMPLATE_MAX_VALUE_DEPTH) {
        for (uint32_t at = 0; at < key.list->count; at++) {
            uint64_t item = 0;
            TRY(hash(r, key.list->items[at], depth + 1, &item));
            h = (h ^ item) * 0x100000001b3u;
        }
    } else if (key.kind == VALUE_LIST || key.kind == VALUE_DICT) {
        return type_fail(r, "unhashable type: '%s'", value_type(key));
    } else {
        h = (uint64_t)key.kind;
    }
    *out = h ^ h >> 29;
    return true;
}

// The entry of a key, or DICT's count if it has none. `place`: where the index has or wants it.
static bool dict_locate(Run *r, const Dict *d, Value key, uint32_t *entry, uint32_t *place) {
    uint64_t h;
    bool same;
    TRY(hash(r, key, 0, &h));
    *entry = d->count;
    if (!d->index) {
        for (uint32_t at = 0; at < d->count; at++) {
            TRY(value_equal(r, d->entries[at].key, key, &same));
            if (same) {
                *entry = at;
                return true;
            }
        }
        return true;
    }
    for (*place = (uint32_t)h & (d->index_size - 1); d->index[*place];
         *place = (*place + 1) & (d->index_size - 1)) {
        uint32_t at = d->index[*place] - 1;
        TRY(value_equal(r, d->entries[at].key, key, &same));
        if (same) {
            *entry = at;
            return true;
        }
    }
    return true;
}

static bool dict_grow(Run *r, Dict *d) {
    uint32_t capacity = d->capacity ? d->capacity * 2 : DICT_SMALL;
    Entry *entries = run_alloc(r, capacity, sizeof *entries);
    if (!entries)
        return false;
    if (d->count)
        memcpy(entries, d->entries, d->count * sizeof *entries);
    d->entries = entries;
    d->capacity = capacity;
    if (capacity == DICT_SMALL)
        return true;
    d->index_size = capacity * 2;
    d->index = run_alloc(r, d->index_size, sizeof *d->index);
    if (!d->index)
        return false;
    for (uint32_t at = 0; at < d->count; at++) {
        uint64_t h = 0;
        TRY(hash(r, entries[at].key, 0, &h));
        uint32_t place = (uint32_t)h & (d->index_size - 1);
        while (d->index[place])
            place = (place + 1) & (d->index_size - 1);
        d->index[place] = at + 1;
    }
    return true;
}

bool dict_make(Run *r, Value *out) {
    Dict *d = run_alloc(r, 1, sizeof *d);
    if (!d)
        return false;
    *out = (Value){.kind = VALUE_DICT, .dict = d};
    return true;
}

bool dict_set(Run *r, Dict *d, Value key, Value value) {
    uint32_t entry, place = 0;
    TRY(run_step(r, 1));
    TRY(dict_locate(r, d, key, &entry, &place));
    if (entry < d->count) {
        d->entries[entry].value = value;
        return true;
    }
    if (d->count == d->capacity) {
        TRY(dict_grow(r, d));
        TRY(dict_locate(r, d, key, &entry, &place));
    }
    d->entries[d->count] = (Entry){key, value};
    d->count++;
    if (d->index)
        d->index[place] = d->count;
    return true;
}

bool dict_get(Run *r, const Dict *d, Value key, Value *out, bool *found) {
    uint32_t entry, place;
    TRY(dict_locate(r, d, key, &entry, &place));
    *found = entry < d->count;
    if (*found)
        *out = d->entries[entry].value;
    return true;
}

const Value *dict_find(const Dict *d, const char *key) {
    for (uint32_t at = 0; at < d->count; at++) {
        if (d->entries[at].key.kind == VALUE_TEXT && text_is(d->entries[at].key.text, key))
            return &d->entries[at].value;
    }
    return NULL;
}

// ---- attributes and items -----------------------------------------------------------------------

static Value lacks(Value object, const Text *name) {
    Value v = value_undefined(name);
    v.owner = (uint8_t)object.kind;
    return v;
}

static bool method_bind(Run *r, MethodId id, Value self, Value *out) {
    Method *method = run_alloc(r, 1, sizeof *method);
    if (!method)
        return false;
    *method = (Method){.id = id, .self = self};
    *out = (Value){.kind = VALUE_METHOD, .method = method};
    return true;
}

static Value loop_neighbour(const LoopState *loop, int64_t at) {
    return at >= 0 && at < loop->count ? loop->items[at] : value_undefined(NULL);
}

static bool loop_attr(Run *r, Value v, const Text *name, Value *out) {
    const LoopState *loop = v.loop;
    int64_t index0 = (int64_t)loop->next - 1, count = loop->count;
    const struct {
        const char *name;
        Value value;
    } attrs[] = {
        {"index", value_int(index0 + 1)},
        {"index0", value_int(index0)},
        {"first", value_bool(index0 == 0)},
        {"last", value_bool(index0 + 1 == count)},
        {"length", value_int(count)},
        {"revindex", value_int(count - index0)},
        {"revindex0", value_int(count - index0 - 1)},
        {"depth", value_int(1)},
        {"depth0", value_int(0)},
        {"previtem", loop_neighbour(loop, index0 - 1)},
        {"nextitem", loop_neighbour(loop, index0 + 1)},
    };
    for (size_t which = 0; which < sizeof attrs / sizeof attrs[0]; which++) {
        if (text_is(name, attrs[which].name)) {
            *out = attrs[which].value;
            return true;
        }
    }
    if (text_is(name, "cycle"))
        return method_bind(r, METHOD_LOOP_CYCLE, v, out);
    if (text_is(name, "changed"))
        return method_bind(r, METHOD_LOOP_CHANGED, v, out);
    *out = lacks(v, name);
    return true;
}

// Python attributes of a value; *found false if it has none of this name.
static bool python_attr(Run *r, Value object, const Text *name, Value *out, bool *found) {
    MethodId id;
    *found = true;
    if (object.kind == VALUE_LOOP)
        return loop_attr(r, object, name, out);
    if (object.kind == VALUE_NAMESPACE) {
        TRY(dict_get(r, object.dict, value_text(name), out, found));
        return true;
    }
    if (object.kind == VALUE_MACRO && text_is(name, "name")) {
        *out = r->t->consts[r->t->functions[object.macro->function].name];
        return true;
    }
    if (method_find(object, name, &id))
        return method_bind(r, id, object, out);
    *found = false;
    return true;
}

// Methods of lists and dicts that would change them are undefined in the sandbox, not looked up as
// keys.
static bool is_refused(Value object, const Text *name) {
    static const char *const list[] = {"append", "clear",   "extend", "insert", "pop",
                                       "remove", "reverse", "sort",   "copy"};
    static const char *const dict[] = {"clear",  "pop",  "popitem", "setdefault",
                                       "update", "copy", "fromkeys"};
    bool is_dict = object.kind == VALUE_DICT;
    if (!is_dict && !is_list(object, LIST_LIST))
        return false;
    size_t count = is_dict ? sizeof dict / sizeof dict[0] : sizeof list / sizeof list[0];
    for (size_t which = 0; which < count; which++) {
        if (text_is(name, is_dict ? dict[which] : list[which]))
            return true;
    }
    return false;
}

// Subscription as Python does it; *found false for what raises a TypeError or LookupError there.
static bool subscript(Run *r, Value object, Value key, Value *out, bool *found) {
    *found = false;
    if (object.kind == VALUE_DICT)
        return dict_get(r, object.dict, key, out, found);
    if (!is_integral(key))
        return true;
    int64_t length = 0, at = key.integer;
    bool list = object.kind == VALUE_LIST && object.list->kind <= LIST_RANGE;
    if (!list && object.kind != VALUE_TEXT)
        return true;
    TRY(value_length(r, object, &length));
    at += at < 0 ? length : 0;
    if (at < 0 || at >= length)
        return true;
    *found = true;
    if (list) {
        *out = object.list->items[at];
        return true;
    }
    TRY(run_step(r, (uint64_t)at / 16));
    size_t from = 0, to;
    for (; at > 0; at--)
        text_code(object.text, &from);
    to = from;
    text_code(object.text, &to);
    return text_part(r, object.text, from, to, out);
}

bool value_attr(Run *r, Value object, const Text *name, Value *out) {
    bool found;
    if (object.kind == VALUE_UNDEFINED)
        return undefined_fail(r, object);
    TRY(python_attr(r, object, name, out, &found));
    if (!found && !is_refused(object, name))
        TRY(subscript(r, object, value_text(name), out, &found));
    if (!found)
        *out = lacks(object, name);
    return true;
}

bool value_item(Run *r, Value object, Value key, Value *out) {
    bool found;
    if (object.kind == VALUE_UNDEFINED)
        return undefined_fail(r, object);
    if (object.kind == VALUE_DICT && (key.kind == VALUE_DICT || is_list(key, LIST_LIST)))
        found = false; // unhashable
    else
        TRY(subscript(r, object, key, out, &found));
    if (!found && key.kind == VALUE_TEXT)
        TRY(python_attr(r, object, key.text, out, &found));
    if (!found)
        *out = lacks(object, key.kind == VALUE_TEXT ? key.text : NULL);
    return true;
}

// ---- slices -------------------------------------------------------------------------------------

static bool slice_bound(Run *r, Value v, int64_t length, int64_t step, int64_t missing,
                        int64_t *out) {
    *out = missing;
    if (v.kind == VALUE_NONE)
        return true;
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (!is_integral(v))
        return type_fail(r, "slice indices must be integers or None");
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? length - 1 : length;
    int64_t at = v.integer < 0 ? v.integer + length : v.integer;
    *out = at < low ? low : at > high ? high : at;
    return true;
}

static bool slice_text(Run *r, const Text *text, int64_t start, int64_t step, int64_t count,
                       Value *out) {
    size_t from = 0;
    if (step == 1) {
        for (int64_t at = 0; at < start; at++)
            text_code(text, &from);
        size_t to = from;
        for (int64_t at = 0; at < count; at++)
            text_code(text, &to);
        return text_part(r, text, from, to, out);
    }
    const Value *items;
    uint32_t length;
    TRY(text_items(r, text, &items, &length));
    Builder b = {.r = r};
    for (int64_t at = 0; at < count; at++)
        TRY(builder_text(&b, items[start + at * step].text));
    return builder_done(&b, out);
}

bool value_slice(Run *r, Value object, const Value bounds[3], Value *out) {
    if (object.kind == VALUE_UNDEFINED)
        return undefined_fail(r, object);
    bool list = object.kind == VALUE_LIST && object.list->kind <= LIST_RANGE;
    if (!list && object.kind != VALUE_TEXT)
        return type_fail(r, "'%s' object cannot be sliced", value_type(object));
    int64_t length = 0, step = 1, start, stop;
    TRY(value_length(r, object, &length));
    if (bounds[2].kind != VALUE_NONE) {
        if (!is_integral(bounds[2]))
            return type_fail(r, "slice indices must be integers or None");
        step = bounds[2].integer;
    }
    if (step == 0)
        return value_fail(r, "slice step cannot be zero");
    step = step > length + 1 ? length + 1 : step < -length - 1 ? -length - 1 : step;
    TRY(slice_bound(r, bounds[0], length, step, step < 0 ? length - 1 : 0, &start));
    TRY(slice_bound(r, bounds[1], length, step, step < 0 ? -1 : length, &stop));
    int64_t count = step > 0 ? (stop - start + step - 1) / step : (start - stop - step - 1) / -step;
    count = count < 0 ? 0 : count;
    TRY(run_step(r, (uint64_t)(list ? count : length / 8)));
    if (!list)
        return slice_text(r, object.text, start, step, count, out);
    if (step == 1)
        return list_make(r, object.list->kind, object.list->items + start, (size_t)count, out);
    Value *items = run_alloc(r, (size_t)count, sizeof *items);
    if (!items)
        return false;
    for (int64_t at = 0; at < count; at++)
        items[at] = object.list->items[start + at * step];
    return list_make(r, object.list->kind, items, (size_t)count, out);
}
