// Arithmetic of chat templates: + - * / // % ** and the signs, on what Python takes them for.
#include <math.h>
#include <string.h>

#include "template_value.h"

static bool operands_fail(Run *r, TemplateOp op, Value a, Value b) {
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (a.kind == VALUE_UNDEFINED || b.kind == VALUE_UNDEFINED)
        return undefined_fail(r, a.kind == VALUE_UNDEFINED ? a : b);
    return type_fail(r, "%s is not supported between %s and %s", signs[op - TEMPLATE_OP_ADD],
                     value_type(a), value_type(b));
}

static bool too_big(Run *r) {
    return value_fail(r, "a number beyond 64 bits is not supported");
}

// Rounds to minus infinity, as Python's // does.
static int64_t floor_div(int64_t a, int64_t b) {
    int64_t quotient = a / b;
    return quotient - (a % b != 0 && (a < 0) != (b < 0));
}

static bool integer_power(Run *r, int64_t base, int64_t exponent, Value *out) {
    if (exponent < 0) {
        if (base == 0)
            return value_fail(r, "0 cannot be raised to a negative power");
        *out = value_float(pow((double)base, (double)exponent));
        return true;
    }
    int64_t result = 1;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result))
            return too_big(r);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base))
            return too_big(r);
    }
    *out = value_int(result);
    return true;
}

static bool integers(Run *r, TemplateOp op, int64_t a, int64_t b, Value *out) {
    int64_t result = 0;
    bool over = false,
         divides = op == TEMPLATE_OP_DIV || op == TEMPLATE_OP_FLOORDIV || op == TEMPLATE_OP_MOD;
    if (divides && b == 0)
        return value_fail(r, "division by zero");
    if (op == TEMPLATE_OP_POW)
        return integer_power(r, a, b, out);
    if (op == TEMPLATE_OP_DIV) {
        *out = value_float((double)a / (double)b);
        return true;
    }
    if (op == TEMPLATE_OP_ADD)
        over = __builtin_add_overflow(a, b, &result);
    else if (op == TEMPLATE_OP_SUB)
        over = __builtin_sub_overflow(a, b, &result);
    else if (op == TEMPLATE_OP_MUL)
        over = __builtin_mul_overflow(a, b, &result);
    else if (a == INT64_MIN && b == -1)
        over = op == TEMPLATE_OP_FLOORDIV; // the remainder is 0
    else
        result = op == TEMPLATE_OP_FLOORDIV ? floor_div(a, b) : a - floor_div(a, b) * b;
    *out = value_int(result);
    return over ? too_big(r) : true;
}

// Python's float % has the sign of the divisor.
static double float_mod(double a, double b) {
    double rest = fmod(a, b);
    if (rest < 0 || rest > 0)
        return (b < 0) != (rest < 0) ? rest + b : rest;
    return copysign(0.0, b);
}

static bool floats(Run *r, TemplateOp op, double a, double b, Value *out) {
    bool zero = !(b < 0 || b > 0 || isnan(b));
    if (zero && (op == TEMPLATE_OP_DIV || op == TEMPLATE_OP_FLOORDIV || op == TEMPLATE_OP_MOD))
        return value_fail(r, "division by zero");
    if (op == TEMPLATE_OP_POW && ((a < 0 && b < floor(b) + 0.0) || (a < 0 && b > floor(b))))
        return value_fail(r, "complex numbers are not supported");
    double result = op == TEMPLATE_OP_ADD        ? a + b
                    : op == TEMPLATE_OP_SUB      ? a - b
                    : op == TEMPLATE_OP_MUL      ? a * b
                    : op == TEMPLATE_OP_DIV      ? a / b
                    : op == TEMPLATE_OP_FLOORDIV ? floor((a - float_mod(a, b)) / b + 0.5)
                    : op == TEMPLATE_OP_MOD      ? float_mod(a, b)
                                                 : pow(a, b);
    *out = value_float(result);
    return true;
}

static double number_of(Value v) {
    return v.kind == VALUE_FLOAT ? v.number : (double)v.integer;
}

// ---- texts and lists ----------------------------------------------------------------------------

static bool join_texts(Run *r, Value a, Value b, Value *out) {
    bool safe = a.text->safe || b.text->safe;
    if (safe && !a.text->safe)
        TRY(text_escape_html(r, a.text, &a));
    if (safe && !b.text->safe)
        TRY(text_escape_html(r, b.text, &b));
    Builder builder = {.r = r};
    TRY(builder_text(&builder, a.text));
    TRY(builder_text(&builder, b.text));
    TRY(builder_done(&builder, out));
    ((Text *)out->text)->safe = safe;
    return true;
}

static bool join_lists(Run *r, const List *a, const List *b, Value *out) {
    size_t count = (size_t)a->count + b->count;
    Value *items = run_alloc(r, count, sizeof *items);
    if (!items)
        return false;
    TRY(run_step(r, count));
    if (a->count)
        memcpy(items, a->items, a->count * sizeof *items);
    if (b->count)
        memcpy(items + a->count, b->items, b->count * sizeof *items);
    return list_make(r, a->kind, items, count, out);
}

static bool repeat(Run *r, Value what, int64_t times, Value *out) {
    times = times < 0 ? 0 : times;
    if (what.kind == VALUE_TEXT) {
        Builder b = {.r = r};
        for (int64_t at = 0; at < times && what.text->size; at++) {
            TRY(run_step(r, 1));
            TRY(builder_text(&b, what.text));
        }
        TRY(builder_done(&b, out));
        ((Text *)out->text)->safe = what.text->safe;
        return true;
    }
    size_t count = what.list->count, total;
    if (!size_mul(count, (size_t)times, &total))
        total = SIZE_MAX;
    Value *items = run_alloc(r, total, sizeof *items);
    if (!items)
        return false;
    TRY(run_step(r, total));
    for (size_t at = 0; at < total; at++)
        items[at] = what.list->items[at % count];
    return list_make(r, what.list->kind, items, total, out);
}

static bool is_repeatable(Value v) {
    return v.kind == VALUE_TEXT || is_list(v, LIST_LIST) || is_list(v, LIST_TUPLE);
}

bool value_binary(Run *r, TemplateOp op, Value a, Value b, Value *out) {
    if (is_integral(a) && is_integral(b))
        return integers(r, op, a.integer, b.integer, out);
    if (is_number(a) && is_number(b))
        return floats(r, op, number_of(a), number_of(b), out);
    if (op == TEMPLATE_OP_ADD && a.kind == VALUE_TEXT && b.kind == VALUE_TEXT)
        return join_texts(r, a, b, out);
    if (op == TEMPLATE_OP_ADD && a.kind == VALUE_LIST && b.kind == VALUE_LIST &&
        a.list->kind == b.list->kind && a.list->kind <= LIST_TUPLE)
        return join_lists(r, a.list, b.list, out);
    if (op == TEMPLATE_OP_MUL && is_repeatable(a) && is_integral(b))
        return repeat(r, a, b.integer, out);
    if (op == TEMPLATE_OP_MUL && is_integral(a) && is_repeatable(b))
        return repeat(r, b, a.integer, out);
    if (op == TEMPLATE_OP_MOD && a.kind == VALUE_TEXT)
        return format_percent(r, a.text, b, out);
    return operands_fail(r, op, a, b);
}

bool value_unary(Run *r, TemplateOp op, Value a, Value *out) {
    if (a.kind == VALUE_UNDEFINED)
        return undefined_fail(r, a);
    if (!is_number(a))
        return type_fail(r, "%s has no sign", value_type(a));
    bool minus = op == TEMPLATE_OP_NEG;
    if (a.kind == VALUE_FLOAT)
        *out = value_float(minus ? -a.number : a.number);
    else if (minus && a.integer == INT64_MIN)
        return too_big(r);
    else
        *out = value_int(minus ? -a.integer : a.integer);
    return true;
}
