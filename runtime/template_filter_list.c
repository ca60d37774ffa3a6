// Filters of chat templates that take many items and give many: jinja2/filters.py.
#include <string.h>

#include "template_value.h"

// ---- attributes ---------------------------------------------------------------------------------

bool value_path(Run *r, Value item, Value path, Value missing, Value *out) {
    *out = item;
    if (path.kind == VALUE_MISSING || path.kind == VALUE_NONE)
        return true;
    if (path.kind != VALUE_TEXT)
        return value_item(r, item, path, out);
    const Text *text = path.text;
    for (size_t from = 0; from <= text->size;) {
        size_t to = from;
        int64_t number = 0;
        bool digits = true;
        for (; to < text->size && text->data[to] != '.'; to++) {
            digits = digits && text->data[to] >= '0' && text->data[to] <= '9' && to - from < 18;
            number = digits ? number * 10 + (text->data[to] - '0') : 0;
        }
        Value key = value_int(number);
        if (!digits || to == from)
            TRY(text_part(r, text, from, to, &key));
        TRY(value_item(r, *out, key, out));
        if (out->kind == VALUE_UNDEFINED && missing.kind != VALUE_MISSING &&
            missing.kind != VALUE_NONE)
            *out = missing;
        from = to + 1;
    }
    return true;
}

bool value_fold(Run *r, Value *v) {
    return v->kind == VALUE_TEXT ? text_case(r, v->text, CASE_LOWER, v) : true;
}

bool value_sort_key(Run *r, Value item, Value attribute, bool cased, Value *out) {
    TRY(value_path(r, item, attribute, (Value){.kind = VALUE_MISSING}, out));
    return cased ? true : value_fold(r, out);
}

// ---- many items ---------------------------------------------------------------------------------

bool filter_list(Run *r, Value v, const Args *args, Value *out) {
    const Value *items;
    uint32_t count;
    TRY(args_none(r, "list", args));
    TRY(value_items(r, v, &items, &count));
    return list_make(r, LIST_LIST, items, count, out);
}

bool filter_items(Run *r, Value v, const Args *args, Value *out) {
    TRY(args_none(r, "items", args));
    if (v.kind == VALUE_UNDEFINED)
        return list_make(r, LIST_GENERATOR, NULL, 0, out);
    if (v.kind != VALUE_DICT)
        return type_fail(r, "items takes a dict, found %s", value_type(v));
    TRY(dict_list(r, v.dict, LIST_ITEMS, out));
    out->list->kind = LIST_GENERATOR;
    return true;
}

bool filter_reverse(Run *r, Value v, const Args *args, Value *out) {
    static const Value bounds[3] = {
        {.kind = VALUE_NONE}, {.kind = VALUE_NONE}, {.kind = VALUE_INT, .integer = -1}};
    const Value *items;
    uint32_t count;
    TRY(args_none(r, "reverse", args));
    if (v.kind == VALUE_TEXT)
        return value_slice(r, v, bounds, out);
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    TRY(value_items(r, v, &items, &count));
    Value *reversed = run_alloc(r, count, sizeof *reversed);
    if (!reversed)
        return false;
    for (uint32_t at = 0; at < count; at++)
        reversed[at] = items[count - 1 - at];
    return list_make(r, is_list(v, LIST_GENERATOR) ? LIST_LIST : LIST_GENERATOR, reversed, count,
                     out);
}

static bool sort_pass(Run *r, uint32_t *order, uint32_t *scratch, const Value *keys, uint32_t count,
                      uint32_t width, bool reverse) {
    for (uint32_t from = 0; from < count; from += 2 * width) {
        uint32_t middle = count - from < width ? count : from + width;
        uint32_t end = count - middle < width ? count : middle + width;
        uint32_t left = from, right = middle;
        for (uint32_t at = from; at < end; at++) {
            bool take_right = left == middle;
            if (left < middle && right < end)
                TRY(reverse ? value_less(r, keys[order[left]], keys[order[right]], &take_right)
                            : value_less(r, keys[order[right]], keys[order[left]], &take_right));
            scratch[at] = take_right ? order[right++] : order[left++];
        }
    }
    memcpy(order, scratch, count * sizeof *order);
    return true;
}

// Merge sort: stable, also in reverse, as Python's.
bool values_sort(Run *r, Value *keys, Value *items, uint32_t count, bool reverse) {
    uint32_t *order = run_alloc(r, (size_t)count + 1, sizeof *order);
    uint32_t *scratch = run_alloc(r, (size_t)count + 1, sizeof *scratch);
    Value *sorted = run_alloc(r, count, sizeof *sorted);
    if (!order || !scratch || !sorted)
        return false;
    for (uint32_t at = 0; at < count; at++)
        order[at] = at;
    for (uint64_t width = 1; width < count; width *= 2)
        TRY(sort_pass(r, order, scratch, keys, count, (uint32_t)width, reverse));
    for (uint32_t at = 0; at < count; at++)
        sorted[at] = items[order[at]];
    if (count)
        memcpy(items, sorted, count * sizeof *items);
    return true;
}

// A comma in the attribute of sort() separates several, compared in turn. One is a list, too: equal
// items are not put in order then, which Undefined could not be.
static bool sort_keys(Run *r, Value item, Value attribute, bool cased, Value *out) {
    if (attribute.kind != VALUE_TEXT || !memchr(attribute.text->data, ',', attribute.text->size)) {
        Value *key = run_alloc(r, 1, sizeof *key);
        return key && value_sort_key(r, item, attribute, cased, key) &&
               list_make(r, LIST_LIST, key, 1, out);
    }
    const Text *text = attribute.text;
    size_t count = 1, used = 0;
    for (size_t at = 0; at < text->size; at++)
        count += text->data[at] == ',';
    Value *keys = run_alloc(r, count, sizeof *keys);
    if (!keys)
        return false;
    for (size_t from = 0; from <= text->size;) {
        size_t to = from;
        Value part;
        while (to < text->size && text->data[to] != ',')
            to++;
        TRY(text_part(r, text, from, to, &part));
        TRY(value_sort_key(r, item, part, cased, &keys[used++]));
        from = to + 1;
    }
    return list_make(r, LIST_LIST, keys, count, out);
}

bool filter_sort(Run *r, Value v, const Args *args, Value *out) {
    Value given[3];
    const Value *items;
    uint32_t count;
    TRY(args_bind(r, "sort", args, "reverse case_sensitive attribute", 0, given));
    TRY(value_items(r, v, &items, &count));
    Value *keys = run_alloc(r, count, sizeof *keys);
    Value *sorted = run_alloc(r, count, sizeof *sorted);
    if (!keys || !sorted)
        return false;
    bool cased = value_truth(value_or(given[1], value_bool(false)));
    for (uint32_t at = 0; at < count; at++) {
        sorted[at] = items[at];
        TRY(sort_keys(r, items[at], given[2], cased, &keys[at]));
    }
    TRY(values_sort(r, keys, sorted, count, value_truth(value_or(given[0], value_bool(false)))));
    return list_make(r, LIST_LIST, sorted, count, out);
}

bool filter_dictsort(Run *r, Value v, const Args *args, Value *out) {
    Value given[3];
    TRY(args_bind(r, "dictsort", args, "case_sensitive by reverse", 0, given));
    if (v.kind == VALUE_UNDEFINED)
        return undefined_fail(r, v);
    if (v.kind != VALUE_DICT)
        return type_fail(r, "dictsort takes a dict, found %s", value_type(v));
    bool by_value = given[1].kind == VALUE_TEXT && text_is(given[1].text, "value");
    if (given[1].kind != VALUE_MISSING && !by_value &&
        !(given[1].kind == VALUE_TEXT && text_is(given[1].text, "key")))
        return value_fail(r, "dictsort sorts by \"key\" or \"value\"");
    Value pairs;
    TRY(dict_list(r, v.dict, LIST_ITEMS, &pairs));
    uint32_t count = pairs.list->count;
    Value *keys = run_alloc(r, count, sizeof *keys);
    Value *items = run_alloc(r, count, sizeof *items);
    if (!keys || !items)
        return false;
    for (uint32_t at = 0; at < count; at++) {
        items[at] = pairs.list->items[at];
        keys[at] = items[at].list->items[by_value];
        if (!value_truth(value_or(given[0], value_bool(false))))
            TRY(value_fold(r, &keys[at]));
    }
    TRY(values_sort(r, keys, items, count, value_truth(value_or(given[2], value_bool(false)))));
    return list_make(r, LIST_LIST, items, count, out);
}

bool filter_unique(Run *r, Value v, const Args *args, Value *out) {
    Value given[2], seen;
    const Value *items;
    uint32_t count, kept = 0;
    TRY(args_bind(r, "unique", args, "case_sensitive attribute", 0, given));
    TRY(value_items(r, v, &items, &count));
    TRY(dict_make(r, &seen));
    Value *unique = run_alloc(r, count, sizeof *unique);
    if (!unique)
        return false;
    bool cased = value_truth(value_or(given[0], value_bool(false)));
    for (uint32_t at = 0; at < count; at++) {
        Value key, old;
        bool found;
        TRY(value_sort_key(r, items[at], given[1], cased, &key));
        TRY(dict_get(r, seen.dict, key, &old, &found));
        if (found)
            continue;
        TRY(dict_set(r, seen.dict, key, value_none()));
        unique[kept++] = items[at];
    }
    return list_make(r, LIST_GENERATOR, unique, kept, out);
}

bool filter_batch(Run *r, Value v, const Args *args, Value *out) {
    Value given[2];
    const Value *items;
    uint32_t count;
    int64_t size;
    TRY(args_bind(r, "batch", args, "linecount fill_with", 1, given));
    TRY(arg_int(r, given[0], &size));
    TRY(value_items(r, v, &items, &count));
    if (size < 1)
        return value_fail(r, "batch needs a size of 1 or more");
    size_t width = (uint64_t)size < count ? (size_t)size : count ? count : 1;
    size_t rows = ((size_t)count + width - 1) / width;
    Value *lists = run_alloc(r, rows, sizeof *lists);
    if (!lists)
        return false;
    for (size_t row = 0; row < rows; row++) {
        size_t from = row * width, length = count - from < width ? count - from : width;
        bool fill = given[1].kind > VALUE_NONE && length < (uint64_t)size;
        Value *line = run_alloc(r, fill ? (size_t)size : length, sizeof *line);
        if (!line)
            return false;
        for (size_t at = 0; at < (fill ? (size_t)size : length); at++)
            line[at] = at < length ? items[from + at] : given[1];
        TRY(list_make(r, LIST_LIST, line, fill ? (size_t)size : length, &lists[row]));
    }
    return list_make(r, LIST_GENERATOR, lists, rows, out);
}

bool filter_slice(Run *r, Value v, const Args *args, Value *out) {
    Value given[2];
    const Value *items;
    uint32_t count;
    int64_t slices;
    TRY(args_bind(r, "slice", args, "slices fill_with", 1, given));
    TRY(arg_int(r, given[0], &slices));
    TRY(value_items(r, v, &items, &count));
    if (slices < 1)
        return value_fail(r, "slice needs 1 slice or more");
    Value *lists = run_alloc(r, (size_t)slices, sizeof *lists);
    if (!lists)
        return false;
    size_t from = 0;
    for (int64_t which = 0; which < slices; which++) {
        bool longer = which < count % slices;
        size_t length = (size_t)(count / slices) + longer;
        bool fill = given[1].kind > VALUE_NONE && !longer;
        Value *line = run_alloc(r, length + fill, sizeof *line);
        if (!line)
            return false;
        for (size_t at = 0; at < length; at++)
            line[at] = items[from + at];
        if (fill)
            line[length] = given[1];
        from += length;
        TRY(list_make(r, LIST_LIST, line, length + fill, &lists[which]));
    }
    return list_make(r, LIST_GENERATOR, lists, (size_t)slices, out);
}

// ---- filters and tests over items ---------------------------------------------------------------

bool filter_map(Run *r, Value v, const Args *args, Value *out) {
    const Value *items;
    uint32_t count;
    if (!value_truth(v)) // none, too
        return list_make(r, LIST_GENERATOR, NULL, 0, out);
    TRY(value_items(r, v, &items, &count));
    Value *mapped = run_alloc(r, count, sizeof *mapped), given[2];
    if (!mapped)
        return false;
    Args rest = *args;
    int id = -1;
    if (count && args->count) {
        rest.values++;
        rest.count--;
        id = args->values[0].kind == VALUE_TEXT ? filter_id(args->values[0].text) : -1;
        if (id < 0)
            return type_fail(r, "map: no such filter");
    } else if (count) {
        TRY(args_bind(r, "map", args, "attribute default", 0, given));
        if (given[0].kind == VALUE_MISSING)
            return type_fail(r, "map needs a filter or an attribute");
    }
    for (uint32_t at = 0; at < count; at++) {
        if (id >= 0)
            TRY(filter_call(r, id, items[at], &rest, &mapped[at]));
        else
            TRY(value_path(r, items[at], given[0], given[1], &mapped[at]));
    }
    return list_make(r, LIST_GENERATOR, mapped, count, out);
}

// select, reject, selectattr and rejectattr.
static bool choose(Run *r, Value v, const Args *args, bool wanted, bool by_attr, Value *out) {
    const Value *items;
    uint32_t count, kept = 0;
    int skip = by_attr ? 1 : 0, id = -1;
    if (!value_truth(v)) // none, too
        return list_make(r, LIST_GENERATOR, NULL, 0, out);
    TRY(value_items(r, v, &items, &count));
    Value *chosen = run_alloc(r, count, sizeof *chosen);
    if (!chosen)
        return false;
    if (count && args->count < skip)
        return type_fail(r, "selectattr and rejectattr need an attribute");
    Args rest = *args;
    if (count && args->count > skip) {
        rest.values += skip + 1;
        rest.count -= skip + 1;
        id = args->values[skip].kind == VALUE_TEXT ? test_id(args->values[skip].text) : -1;
        if (id < 0)
            return type_fail(r, "select and reject: no such test");
    }
    for (uint32_t at = 0; at < count; at++) {
        Value item = items[at];
        bool passes;
        if (by_attr)
            TRY(value_path(r, item, args->values[0], (Value){.kind = VALUE_MISSING}, &item));
        passes = value_truth(item);
        if (id >= 0)
            TRY(test_call(r, id, item, &rest, &passes));
        if (passes == wanted)
            chosen[kept++] = items[at];
    }
    return list_make(r, LIST_GENERATOR, chosen, kept, out);
}

bool filter_select(Run *r, Value v, const Args *args, Value *out) {
    return choose(r, v, args, true, false, out);
}

bool filter_reject(Run *r, Value v, const Args *args, Value *out) {
    return choose(r, v, args, false, false, out);
}

bool filter_selectattr(Run *r, Value v, const Args *args, Value *out) {
    return choose(r, v, args, true, true, out);
}

bool filter_rejectattr(Run *r, Value v, const Args *args, Value *out) {
    return choose(r, v, args, false, true, out);
}
