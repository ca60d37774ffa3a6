// Methods of strings, lists, tuples and dicts that chat templates call, as Python has them.
#include <string.h>

#include "template_value.h"

typedef bool MethodCall(Run *r, Value self, const Args *args, Value *out);

// ---- what several methods and filters share -----------------------------------------------------

static bool is_in(const Text *chars, uint32_t code) {
    for (size_t at = 0; at < chars->size;) {
        if (text_code(chars, &at) == code)
            return true;
    }
    return false;
}

// The place of the code point before `at`.
static size_t step_back(const Text *text, size_t at) {
    do
        at--;
    while (at > 0 && ((unsigned char)text->data[at] & 0xc0) == 0x80);
    return at;
}

bool text_strip(Run *r, const Text *text, Value chars, int sides, Value *out) {
    size_t from = 0, to = text->size;
    if (chars.kind != VALUE_NONE && chars.kind != VALUE_TEXT)
        return chars.kind == VALUE_UNDEFINED
                   ? undefined_fail(r, chars)
                   : type_fail(r, "strip takes a string, found %s", value_type(chars));
    while ((sides & 1) && from < to) {
        size_t next = from;
        uint32_t code = text_code(text, &next);
        if (chars.kind == VALUE_NONE ? !is_space(code) : !is_in(chars.text, code))
            break;
        from = next;
    }
    while ((sides & 2) && from < to) {
        size_t start = step_back(text, to), end = start;
        uint32_t code = text_code(text, &end);
        if (chars.kind == VALUE_NONE ? !is_space(code) : !is_in(chars.text, code))
            break;
        to = start;
    }
    return text_part(r, text, from, to, out);
}

bool text_pad(Run *r, const Text *text, int64_t width, const Text *fill, int side, Value *out) {
    int64_t missing = width - (int64_t)text_length(text);
    missing = missing < 0 ? 0 : missing;
    // Python's str.center puts the odd one to the left if the width is odd, too.
    int64_t left = side == 0 ? missing / 2 + (missing & width & 1) : side == 1 ? missing : 0;
    Builder b = {.r = r};
    if (missing == 0)
        return text_part(r, text, 0, text->size, out);
    for (int64_t at = 0; at < left; at++) {
        TRY(run_step(r, 1));
        TRY(builder_text(&b, fill));
    }
    TRY(builder_text(&b, text));
    for (int64_t at = left; at < missing; at++) {
        TRY(run_step(r, 1));
        TRY(builder_text(&b, fill));
    }
    return builder_done(&b, out);
}

// old, new, count; the count may be missing.
bool text_replace(Run *r, const Text *text, const Value args[3], Value *out) {
    int64_t count = -1;
    if (args[0].kind != VALUE_TEXT || args[1].kind != VALUE_TEXT)
        return type_fail(r, "replace takes two strings");
    if (args[2].kind != VALUE_MISSING)
        TRY(arg_int(r, args[2], &count));
    const Text *old = args[0].text, *new = args[1].text;
    Builder b = {.r = r};
    size_t from = 0, at;
    if (old->size == 0) { // in front of every character, and at the end
        for (; count != 0 && from < text->size; count--) {
            size_t start = from;
            text_code(text, &from);
            TRY(run_step(r, 1));
            TRY(builder_text(&b, new));
            TRY(builder_part(&b, text, start, from));
        }
        if (count != 0)
            TRY(builder_text(&b, new));
    }
    while (old->size && count-- != 0 && text_find(text, old, from, &at)) {
        TRY(run_step(r, 1));
        TRY(builder_part(&b, text, from, at));
        TRY(builder_text(&b, new));
        from = at + old->size;
    }
    TRY(builder_part(&b, text, from, text->size));
    TRY(builder_done(&b, out));
    ((Text *)out->text)->safe = text->safe;
    return true;
}

// Values that a method collects.
typedef struct Items {
    Run *r;
    Value *values;
    size_t count, capacity;
} Items;

static bool items_add(Items *items, Value v) {
    if (items->count == items->capacity) {
        size_t capacity = items->capacity ? items->capacity * 2 : 8;
        Value *values = run_alloc(items->r, capacity, sizeof *values);
        if (!values)
            return false;
        if (items->count)
            memcpy(values, items->values, items->count * sizeof *values);
        items->values = values;
        items->capacity = capacity;
    }
    items->values[items->count++] = v;
    return run_step(items->r, 1);
}

static bool items_part(Items *items, const Text *text, size_t from, size_t to) {
    Value part;
    TRY(text_part(items->r, text, from, to, &part));
    return items_add(items, part);
}

static bool items_reverse(Items *items) {
    for (size_t at = 0; at < items->count / 2; at++) {
        Value kept = items->values[at];
        items->values[at] = items->values[items->count - 1 - at];
        items->values[items->count - 1 - at] = kept;
    }
    return true;
}

static bool items_list(Items *items, Value *out) {
    return list_make(items->r, LIST_LIST, items->values, items->count, out);
}

static bool is_line_end(uint32_t code) {
    return (code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
           code == 0x2028 || code == 0x2029;
}

bool text_splitlines(Run *r, const Text *text, bool keep_ends, Value *out) {
    Items items = {.r = r};
    size_t from = 0;
    for (size_t at = 0; at < text->size;) {
        size_t end = at;
        uint32_t code = text_code(text, &at);
        if (!is_line_end(code))
            continue;
        if (code == '\r' && at < text->size && text->data[at] == '\n')
            at++;
        TRY(items_part(&items, text, from, keep_ends ? at : end));
        from = at;
    }
    if (from < text->size)
        TRY(items_part(&items, text, from, text->size));
    TRY(run_step(r, text->size / 16));
    return items_list(&items, out);
}

static bool text_arg(Run *r, Value v, const Text **out) {
    *out = NULL;
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (v.kind != VALUE_TEXT)
        return type_fail(r, "expected a string, found %s", value_type(v));
    *out = v.text;
    return true;
}

// ---- case and tests of strings ------------------------------------------------------------------

static bool cased(Run *r, Value self, const Args *args, CaseKind kind, Value *out) {
    TRY(args_none(r, "this method", args));
    return text_case(r, self.text, kind, out);
}

static bool method_upper(Run *r, Value self, const Args *args, Value *out) {
    return cased(r, self, args, CASE_UPPER, out);
}

static bool method_lower(Run *r, Value self, const Args *args, Value *out) {
    return cased(r, self, args, CASE_LOWER, out);
}

static bool method_title(Run *r, Value self, const Args *args, Value *out) {
    return cased(r, self, args, CASE_TITLE, out);
}

static bool method_capitalize(Run *r, Value self, const Args *args, Value *out) {
    return cased(r, self, args, CASE_CAPITALIZE, out);
}

static bool case_test(Run *r, Value self, const Args *args, const char *name, Value *out) {
    bool passes;
    Text test = {.data = name, .size = (uint32_t)strlen(name)};
    TRY(test_call(r, test_id(&test), self, args, &passes));
    *out = value_bool(passes);
    return true;
}

static bool method_isupper(Run *r, Value self, const Args *args, Value *out) {
    return case_test(r, self, args, "upper", out);
}

static bool method_islower(Run *r, Value self, const Args *args, Value *out) {
    return case_test(r, self, args, "lower", out);
}

static bool method_isdigit(Run *r, Value self, const Args *args, Value *out) {
    bool all = self.text->size > 0;
    for (uint32_t at = 0; at < self.text->size; at++)
        all = all && self.text->data[at] >= '0' && self.text->data[at] <= '9';
    *out = value_bool(all);
    return args_none(r, "isdigit", args);
}

static bool method_isspace(Run *r, Value self, const Args *args, Value *out) {
    bool all = self.text->size > 0;
    for (size_t at = 0; at < self.text->size;)
        all = is_space(text_code(self.text, &at)) && all;
    *out = value_bool(all);
    return args_none(r, "isspace", args);
}

// ---- ends, places -------------------------------------------------------------------------------

static bool strip(Run *r, Value self, const Args *args, int sides, Value *out) {
    Value chars;
    TRY(args_bind(r, "strip", args, "chars", 0, &chars));
    return text_strip(r, self.text, chars.kind == VALUE_MISSING ? value_none() : chars, sides, out);
}

static bool method_strip(Run *r, Value self, const Args *args, Value *out) {
    return strip(r, self, args, 3, out);
}

static bool method_lstrip(Run *r, Value self, const Args *args, Value *out) {
    return strip(r, self, args, 1, out);
}

static bool method_rstrip(Run *r, Value self, const Args *args, Value *out) {
    return strip(r, self, args, 2, out);
}

// The part of a string that start and stop choose, by code point; *offset: its place in it.
static bool window(Run *r, Value self, const Value bounds[2], Value *part, int64_t *offset) {
    Value whole[3] = {bounds[0].kind == VALUE_MISSING ? value_none() : bounds[0],
                      bounds[1].kind == VALUE_MISSING ? value_none() : bounds[1], value_none()};
    int64_t length = (int64_t)text_length(self.text);
    *offset = 0;
    if (is_integral(whole[0]))
        *offset = whole[0].integer < 0 ? whole[0].integer + length : whole[0].integer;
    *offset = *offset < 0 ? 0 : *offset;
    if (*offset > length) {
        part->kind = VALUE_MISSING;
        return true;
    }
    return value_slice(r, self, whole, part);
}

static bool has_edge(const Text *text, const Text *edge, bool end) {
    return edge->size <= text->size &&
           memcmp(text->data + (end ? text->size - edge->size : 0), edge->data, edge->size) == 0;
}

static bool edge_test(Run *r, Value self, const Args *args, bool end, Value *out) {
    Value given[3], part;
    int64_t offset;
    bool found = false;
    TRY(args_bind(r, end ? "endswith" : "startswith", args, "fix start end", 1, given));
    TRY(window(r, self, given + 1, &part, &offset));
    const Value *edges = &given[0];
    uint32_t count = 1;
    if (is_list(given[0], LIST_TUPLE))
        TRY(value_items(r, given[0], &edges, &count));
    for (uint32_t at = 0; at < count; at++) {
        const Text *edge;
        TRY(text_arg(r, edges[at], &edge));
        found = found || (part.kind == VALUE_TEXT && has_edge(part.text, edge, end));
    }
    *out = value_bool(found);
    return true;
}

static bool method_startswith(Run *r, Value self, const Args *args, Value *out) {
    return edge_test(r, self, args, false, out);
}

static bool method_endswith(Run *r, Value self, const Args *args, Value *out) {
    return edge_test(r, self, args, true, out);
}

static bool remove_edge(Run *r, Value self, const Args *args, bool end, Value *out) {
    Value given;
    const Text *edge;
    TRY(args_bind(r, "removeprefix and removesuffix", args, "fix", 1, &given));
    TRY(text_arg(r, given, &edge));
    size_t cut = has_edge(self.text, edge, end) ? edge->size : 0;
    return text_part(r, self.text, end ? 0 : cut, self.text->size - (end ? cut : 0), out);
}

static bool method_removeprefix(Run *r, Value self, const Args *args, Value *out) {
    return remove_edge(r, self, args, false, out);
}

static bool method_removesuffix(Run *r, Value self, const Args *args, Value *out) {
    return remove_edge(r, self, args, true, out);
}

// The last place at or before `from` bytes where `what` stands.
static bool find_last(const Text *text, const Text *what, size_t end, size_t *at) {
    if (what->size > end)
        return false;
    for (*at = end - what->size;; --*at) {
        if (memcmp(text->data + *at, what->data, what->size) == 0)
            return true;
        if (*at == 0)
            return false;
    }
}

static bool find(Run *r, Value self, const Args *args, bool last, Value *out) {
    Value given[3], part;
    const Text *what;
    int64_t offset, place = -1;
    size_t at;
    TRY(args_bind(r, "find", args, "sub start end", 1, given));
    TRY(text_arg(r, given[0], &what));
    TRY(window(r, self, given + 1, &part, &offset));
    if (part.kind == VALUE_TEXT) {
        TRY(run_step(r, (last ? (uint64_t)part.text->size * (what->size / 64 + 1) : 0) / 8));
        bool found = last ? find_last(part.text, what, part.text->size, &at)
                          : text_find(part.text, what, 0, &at);
        Text before = *part.text;
        before.size = found ? (uint32_t)at : 0;
        place = found ? offset + (int64_t)text_length(&before) : -1;
    }
    *out = value_int(place);
    return true;
}

static bool method_find_first(Run *r, Value self, const Args *args, Value *out) {
    return find(r, self, args, false, out);
}

static bool method_rfind(Run *r, Value self, const Args *args, Value *out) {
    return find(r, self, args, true, out);
}

static bool list_index(Run *r, Value self, const Args *args, Value *out) {
    Value what;
    TRY(args_bind(r, "index", args, "value", 1, &what));
    for (uint32_t at = 0; at < self.list->count; at++) {
        bool same;
        TRY(value_equal(r, self.list->items[at], what, &same));
        if (same) {
            *out = value_int(at);
            return true;
        }
    }
    return value_fail(r, "index: the value is not in the list");
}

static bool method_index(Run *r, Value self, const Args *args, Value *out) {
    if (self.kind == VALUE_LIST)
        return list_index(r, self, args, out);
    TRY(find(r, self, args, false, out));
    return out->integer >= 0 ? true : value_fail(r, "index: the string is not there");
}

static bool method_count(Run *r, Value self, const Args *args, Value *out) {
    Value given[3], part;
    int64_t offset, count = 0;
    TRY(args_bind(r, "count", args, "sub start end", 1, given));
    if (self.kind == VALUE_LIST) {
        for (uint32_t at = 0; at < self.list->count; at++) {
            bool same;
            TRY(value_equal(r, self.list->items[at], given[0], &same));
            count += same;
        }
        *out = value_int(count);
        return true;
    }
    const Text *what;
    TRY(text_arg(r, given[0], &what));
    TRY(window(r, self, given + 1, &part, &offset));
    if (part.kind == VALUE_TEXT && what->size == 0)
        count = (int64_t)text_length(part.text) + 1;
    size_t at = 0;
    while (part.kind == VALUE_TEXT && what->size && text_find(part.text, what, at, &at)) {
        at += what->size;
        count++;
    }
    TRY(run_step(r, (uint64_t)count));
    *out = value_int(count);
    return true;
}

// ---- splitting and joining ----------------------------------------------------------------------

// Splits at white space, `limit` times at most (negative: always); from the right if `last`. The
// rest keeps the white space at its far end.
static bool split_space(Items *items, const Text *text, int64_t limit, bool last) {
    size_t from = 0, to = text->size;
    while (from < to) {
        size_t at = last ? step_back(text, to) : from, next = at;
        uint32_t code = text_code(text, &next);
        if (is_space(code)) {
            from = last ? from : next;
            to = last ? at : to;
            continue;
        }
        size_t word = last ? to : from;
        bool rest = limit-- == 0;
        // The end of this word, or of the text if this is the last part.
        while (last ? word > from : word < to) {
            at = last ? step_back(text, word) : word;
            next = at;
            if (is_space(text_code(text, &next)) && !rest)
                break;
            word = last ? at : next;
        }
        size_t first = last ? word : from, end = last ? to : word;
        TRY(items_part(items, text, first, end));
        if (rest)
            return true;
        from = last ? from : word;
        to = last ? word : to;
    }
    return true;
}

static bool split_at(Items *items, const Text *text, const Text *separator, int64_t limit,
                     bool last) {
    size_t from = 0, to = text->size, at;
    while (limit-- != 0 &&
           (last ? find_last(text, separator, to, &at) : text_find(text, separator, from, &at))) {
        TRY(last ? items_part(items, text, at + separator->size, to)
                 : items_part(items, text, from, at));
        from = last ? from : at + separator->size;
        to = last ? at : to;
    }
    return items_part(items, text, from, to);
}

static bool split(Run *r, Value self, const Args *args, bool last, Value *out) {
    Value given[2];
    int64_t limit = -1;
    Items items = {.r = r};
    TRY(args_bind(r, "split", args, "sep maxsplit", 0, given));
    if (given[1].kind != VALUE_MISSING)
        TRY(arg_int(r, given[1], &limit));
    TRY(run_step(r, self.text->size / 8));
    if (given[0].kind == VALUE_MISSING || given[0].kind == VALUE_NONE) {
        TRY(split_space(&items, self.text, limit, last));
    } else {
        const Text *separator;
        TRY(text_arg(r, given[0], &separator));
        if (separator->size == 0)
            return value_fail(r, "split: an empty separator");
        TRY(split_at(&items, self.text, separator, limit, last));
    }
    if (last)
        items_reverse(&items);
    return items_list(&items, out);
}

static bool method_split(Run *r, Value self, const Args *args, Value *out) {
    return split(r, self, args, false, out);
}

static bool method_rsplit(Run *r, Value self, const Args *args, Value *out) {
    return split(r, self, args, true, out);
}

static bool method_splitlines(Run *r, Value self, const Args *args, Value *out) {
    Value keep;
    TRY(args_bind(r, "splitlines", args, "keepends", 0, &keep));
    return text_splitlines(r, self.text, keep.kind != VALUE_MISSING && value_truth(keep), out);
}

static bool partition(Run *r, Value self, const Args *args, bool last, Value *out) {
    Value given;
    const Text *separator, *text = self.text;
    size_t at;
    TRY(args_bind(r, "partition", args, "sep", 1, &given));
    TRY(text_arg(r, given, &separator));
    if (separator->size == 0)
        return value_fail(r, "partition: an empty separator");
    bool found =
        last ? find_last(text, separator, text->size, &at) : text_find(text, separator, 0, &at);
    Items items = {.r = r};
    size_t end = found ? at : last ? 0 : text->size;
    size_t behind = found ? at + separator->size : end;
    TRY(items_part(&items, text, 0, end));
    TRY(items_part(&items, text, end, behind));
    TRY(items_part(&items, text, behind, text->size));
    return list_make(r, LIST_TUPLE, items.values, items.count, out);
}

static bool method_partition(Run *r, Value self, const Args *args, Value *out) {
    return partition(r, self, args, false, out);
}

static bool method_rpartition(Run *r, Value self, const Args *args, Value *out) {
    return partition(r, self, args, true, out);
}

static bool method_join(Run *r, Value self, const Args *args, Value *out) {
    Value given;
    const Value *items;
    uint32_t count;
    TRY(args_bind(r, "join", args, "iterable", 1, &given));
    TRY(value_items(r, given, &items, &count));
    Builder b = {.r = r};
    for (uint32_t at = 0; at < count; at++) {
        const Text *text;
        TRY(text_arg(r, items[at], &text));
        if (at)
            TRY(builder_text(&b, self.text));
        TRY(builder_text(&b, text));
    }
    return builder_done(&b, out);
}

static bool method_replace(Run *r, Value self, const Args *args, Value *out) {
    Value given[3];
    TRY(args_bind(r, "replace", args, "old new count", 2, given));
    return text_replace(r, self.text, given, out);
}

// ---- width --------------------------------------------------------------------------------------

static bool pad(Run *r, Value self, const Args *args, int side, Value *out) {
    static const Text space = {.data = " ", .size = 1};
    Value given[2];
    const Text *fill = &space;
    int64_t width;
    TRY(args_bind(r, "this method", args, "width fillchar", 1, given));
    TRY(arg_int(r, given[0], &width));
    if (given[1].kind != VALUE_MISSING)
        TRY(text_arg(r, given[1], &fill));
    if (text_length(fill) != 1)
        return type_fail(r, "the fill character must be one character");
    return text_pad(r, self.text, width, fill, side, out);
}

static bool method_center(Run *r, Value self, const Args *args, Value *out) {
    return pad(r, self, args, 0, out);
}

static bool method_rjust(Run *r, Value self, const Args *args, Value *out) {
    return pad(r, self, args, 1, out);
}

static bool method_ljust(Run *r, Value self, const Args *args, Value *out) {
    return pad(r, self, args, 2, out);
}

static bool method_zfill(Run *r, Value self, const Args *args, Value *out) {
    static const Text zero = {.data = "0", .size = 1};
    Value given, rest;
    int64_t width;
    TRY(args_bind(r, "zfill", args, "width", 1, &given));
    TRY(arg_int(r, given, &width));
    const Text *text = self.text;
    bool sign = text->size && (text->data[0] == '-' || text->data[0] == '+');
    TRY(text_part(r, text, sign, text->size, &rest));
    TRY(text_pad(r, rest.text, width - sign, &zero, 1, &rest));
    Builder b = {.r = r};
    TRY(builder_part(&b, text, 0, sign));
    TRY(builder_text(&b, rest.text));
    return builder_done(&b, out);
}

static bool method_format(Run *r, Value self, const Args *args, Value *out) {
    return format_braces(r, self.text, args, out);
}

// ---- dicts --------------------------------------------------------------------------------------

static bool method_get(Run *r, Value self, const Args *args, Value *out) {
    Value given[2];
    bool found;
    TRY(args_bind(r, "get", args, "key default", 1, given));
    TRY(dict_get(r, self.dict, given[0], out, &found));
    if (!found)
        *out = given[1].kind == VALUE_MISSING ? value_none() : given[1];
    return true;
}

static bool method_keys(Run *r, Value self, const Args *args, Value *out) {
    TRY(args_none(r, "keys", args));
    return dict_list(r, self.dict, LIST_KEYS, out);
}

static bool method_values(Run *r, Value self, const Args *args, Value *out) {
    TRY(args_none(r, "values", args));
    return dict_list(r, self.dict, LIST_VALUES, out);
}

static bool method_items(Run *r, Value self, const Args *args, Value *out) {
    TRY(args_none(r, "items", args));
    return dict_list(r, self.dict, LIST_ITEMS, out);
}

// ---- loops --------------------------------------------------------------------------------------

static bool method_cycle(Run *r, Value self, const Args *args, Value *out) {
    if (args->count == 0 || self.loop->next == 0)
        return type_fail(r, "loop.cycle needs values");
    *out = args->values[(self.loop->next - 1) % (uint32_t)args->count];
    return true;
}

static bool method_changed(Run *r, Value self, const Args *args, Value *out) {
    Value now;
    bool same = false;
    TRY(list_make(r, LIST_TUPLE, args->values, (size_t)args->count, &now));
    if (self.loop->changed.kind != VALUE_MISSING)
        TRY(value_equal(r, now, self.loop->changed, &same));
    self.loop->changed = now;
    *out = value_bool(!same);
    return true;
}

// ---- the table ----------------------------------------------------------------------------------

static const struct {
    const char *name;
    MethodCall *call;
} methods[] = {
#define METHOD_ROW(name, c_name) {name, method_##c_name},
    TEMPLATE_METHODS(METHOD_ROW)
#undef METHOD_ROW
        {"cycle", method_cycle},
    {"changed", method_changed},
};

// All names of the table are methods of strings, but for these.
static bool has_method(Value object, MethodId id) {
    bool of_dict =
        id == METHOD_get || id == METHOD_items || id == METHOD_keys || id == METHOD_values;
    if (object.kind == VALUE_DICT)
        return of_dict;
    if (object.kind == VALUE_LIST)
        return object.list->kind <= LIST_RANGE && (id == METHOD_count || id == METHOD_index);
    return object.kind == VALUE_TEXT && !of_dict && id < METHOD_LOOP_CYCLE;
}

bool method_find(Value object, const Text *name, MethodId *out) {
    for (size_t id = 0; id < METHOD_COUNT; id++) {
        *out = (MethodId)id;
        if (has_method(object, *out) && text_is(name, methods[id].name))
            return true;
    }
    return false;
}

bool method_call(Run *r, const Method *m, const Args *args, Value *out) {
    TRY(run_step(r, 1));
    return methods[m->id].call(r, m->self, args, out);
}
