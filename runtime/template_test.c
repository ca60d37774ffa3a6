// Tests of chat templates ("x is NAME"): jinja2/tests.py.
#include <string.h>

#include "template_value.h"

typedef bool Test(Run *r, Value v, const Args *args, bool *out);

static bool test_defined(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind != VALUE_UNDEFINED;
    return args_none(r, "defined", args);
}

static bool test_undefined(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_UNDEFINED;
    return args_none(r, "undefined", args);
}

static bool test_none(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_NONE;
    return args_none(r, "none", args);
}

static bool test_boolean(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_BOOL;
    return args_none(r, "boolean", args);
}

static bool test_true(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_BOOL && v.integer;
    return args_none(r, "true", args);
}

static bool test_false(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_BOOL && !v.integer;
    return args_none(r, "false", args);
}

static bool test_integer(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_INT || v.kind == VALUE_BIG;
    return args_none(r, "integer", args);
}

static bool test_float(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_FLOAT;
    return args_none(r, "float", args);
}

static bool test_number(Run *r, Value v, const Args *args, bool *out) {
    *out = is_number(v) || v.kind == VALUE_BIG;
    return args_none(r, "number", args);
}

static bool test_string(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_TEXT;
    return args_none(r, "string", args);
}

static bool test_mapping(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_DICT;
    return args_none(r, "mapping", args);
}

static bool test_sequence(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_TEXT || v.kind == VALUE_DICT || v.kind == VALUE_UNDEFINED ||
           (v.kind == VALUE_LIST && v.list->kind <= LIST_RANGE);
    return args_none(r, "sequence", args);
}

static bool test_iterable(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_TEXT || v.kind == VALUE_DICT || v.kind == VALUE_UNDEFINED ||
           v.kind == VALUE_LIST || v.kind == VALUE_LOOP;
    return args_none(r, "iterable", args);
}

static bool test_callable(Run *r, Value v, const Args *args, bool *out) {
    // Undefined has a __call__, which fails.
    *out = v.kind == VALUE_MACRO || v.kind == VALUE_METHOD || v.kind == VALUE_FUNCTION ||
           v.kind == VALUE_UNDEFINED || v.kind == VALUE_LOOP;
    return args_none(r, "callable", args);
}

static bool test_escaped(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_TEXT && v.text->safe;
    return args_none(r, "escaped", args);
}

static bool remainder_is(Run *r, Value v, Value divisor, int64_t wanted, bool *out) {
    Value rest;
    TRY(value_binary(r, TEMPLATE_OP_MOD, v, divisor, &rest));
    return value_equal(r, rest, value_int(wanted), out);
}

static bool test_odd(Run *r, Value v, const Args *args, bool *out) {
    TRY(args_none(r, "odd", args));
    return remainder_is(r, v, value_int(2), 1, out);
}

static bool test_even(Run *r, Value v, const Args *args, bool *out) {
    TRY(args_none(r, "even", args));
    return remainder_is(r, v, value_int(2), 0, out);
}

static bool test_divisibleby(Run *r, Value v, const Args *args, bool *out) {
    Value divisor;
    TRY(args_bind(r, "divisibleby", args, "num", 1, &divisor));
    return remainder_is(r, v, divisor, 0, out);
}

static bool test_eq(Run *r, Value v, const Args *args, bool *out) {
    Value other;
    TRY(args_bind(r, "eq", args, "other", 1, &other));
    return value_equal(r, v, other, out);
}

static bool test_ne(Run *r, Value v, const Args *args, bool *out) {
    TRY(test_eq(r, v, args, out));
    *out = !*out;
    return true;
}

static bool test_lt(Run *r, Value v, const Args *args, bool *out) {
    Value other;
    TRY(args_bind(r, "lt", args, "other", 1, &other));
    return value_less(r, v, other, out);
}

static bool test_gt(Run *r, Value v, const Args *args, bool *out) {
    Value other;
    TRY(args_bind(r, "gt", args, "other", 1, &other));
    return value_less(r, other, v, out);
}

static bool test_le(Run *r, Value v, const Args *args, bool *out) {
    TRY(test_lt(r, v, args, out));
    return *out ? true : test_eq(r, v, args, out);
}

static bool test_ge(Run *r, Value v, const Args *args, bool *out) {
    TRY(test_gt(r, v, args, out));
    return *out ? true : test_eq(r, v, args, out);
}

static bool test_in(Run *r, Value v, const Args *args, bool *out) {
    Value seq;
    TRY(args_bind(r, "in", args, "seq", 1, &seq));
    return value_contains(r, v, seq, out);
}

static bool test_sameas(Run *r, Value v, const Args *args, bool *out) {
    Value other;
    TRY(args_bind(r, "sameas", args, "other", 1, &other));
    *out = value_same(v, other);
    return true;
}

// At least one letter has a case, and all that have one have this one.
static bool has_case(Run *r, Value v, bool upper, bool *out) {
    TRY(value_string(r, v, &v));
    bool any = false;
    *out = true;
    for (size_t at = 0; at < v.text->size;) {
        uint32_t code = text_code(v.text, &at);
        bool is_lower = code_upper(r->t, code) != code || code == 0xdf;
        bool is_upper = code_lower(r->t, code) != code;
        any = any || (upper ? is_upper : is_lower);
        *out = *out && !(upper ? is_lower && !is_upper : is_upper);
    }
    *out = *out && any;
    return run_step(r, v.text->size / 8);
}

static bool test_upper(Run *r, Value v, const Args *args, bool *out) {
    TRY(args_none(r, "upper", args));
    return has_case(r, v, true, out);
}

static bool test_lower(Run *r, Value v, const Args *args, bool *out) {
    TRY(args_none(r, "lower", args));
    return has_case(r, v, false, out);
}

static bool test_filter(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_TEXT && filter_id(v.text) >= 0;
    return args_none(r, "filter", args);
}

static bool test_test(Run *r, Value v, const Args *args, bool *out) {
    *out = v.kind == VALUE_TEXT && test_id(v.text) >= 0;
    return args_none(r, "test", args);
}

static const struct {
    const char *name;
    Test *call;
} tests[] = {
#define TEST_ROW(name, c_name) {name, test_##c_name},
    TEMPLATE_TESTS(TEST_ROW)
#undef TEST_ROW
};

int test_id(const Text *name) {
    for (size_t id = 0; id < sizeof tests / sizeof tests[0]; id++) {
        if (text_is(name, tests[id].name))
            return (int)id;
    }
    return -1;
}

bool test_call(Run *r, int id, Value subject, const Args *args, bool *out) {
    TRY(run_step(r, 1));
    return tests[id].call(r, subject, args, out);
}
