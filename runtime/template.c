// The machine that runs a chat template (payload_template.h): a stack of values, a stack of loops
// and one of macro calls, all of fixed size and on the heap, so that a template cannot touch more
// than it is given. The blob was checked when it was opened (template_open.c).
//
// Not here: what values do (template_value.c and the files that its header names).
#include "template.h"

#include <stdlib.h>
#include <string.h>

#include "template_value.h"

enum {
    MAX_STACK = 4096,
    MAX_LOOPS = 512,
    MAX_CALLS = 200,
    MAX_CAPTURES = 512,
};

// ---- the machine --------------------------------------------------------------------------------

// A call of a macro: where to go on, and what to have there.
typedef struct Call {
    const TemplateFunction *function;
    Slots *slots;
    uint32_t pc;
    int loop_base;
} Call;

typedef struct Machine {
    Run run;
    const Template *t;
    Dict *context;
    const TemplateFunction *function;
    Slots *slots;
    uint32_t pc; // the next instruction of the function
    int height, loop_count, loop_base, call_count, capture_count;
    bool ended;
    Builder output;
    Value stack[MAX_STACK];
    LoopState *loops[MAX_LOOPS];
    Call calls[MAX_CALLS];
    Builder captures[MAX_CAPTURES]; // outputs that wait for a capture to end
} Machine;

static bool machine_fail(Machine *m, const char *what) {
    return run_fail(&m->run, ERR_RESOURCE, 1076, "too many %s inside each other", what);
}

static bool push(Machine *m, Value v) {
    if (m->height == MAX_STACK)
        return machine_fail(m, "values");
    m->stack[m->height++] = v;
    return true;
}

// The top `count` values, taken off the stack; they stay readable until the next push.
static bool pop(Machine *m, uint32_t count, Value **out) {
    *out = m->stack;
    if (count > (uint32_t)m->height)
        return template_damaged(m->run.err, "its stack is empty");
    m->height -= (int)count;
    *out = &m->stack[m->height];
    return true;
}

static bool pop_kept(Machine *m, uint32_t count, Value **out) {
    Value *top;
    TRY(pop(m, count, &top));
    *out = run_alloc(&m->run, count, sizeof **out);
    if (!*out)
        return false;
    if (count)
        memcpy(*out, top, count * sizeof *top);
    return true;
}

// The slots of the function `up` levels out, with room for `slot`.
static bool slots_at(Machine *m, TemplateInstr instr, Slots **out) {
    *out = m->slots;
    for (int up = instr.count; up > 0 && *out; up--)
        *out = (*out)->parent;
    if (!*out || instr.value >= (*out)->count)
        return template_damaged(m->run.err, "a variable");
    return true;
}

static bool slots_new(Machine *m, const TemplateFunction *f, Slots *parent, Slots **out) {
    *out = run_alloc(&m->run, 1, sizeof(Slots) + f->slot_count * sizeof(Value));
    if (!*out)
        return false;
    (*out)->parent = parent; // the values are VALUE_MISSING, which is 0
    (*out)->count = f->slot_count;
    return true;
}

static bool op_text(Machine *m, TemplateInstr instr) {
    return builder_text(&m->output, m->t->consts[instr.value].text);
}

static bool op_print(Machine *m, TemplateInstr instr) {
    (void)instr;
    Value *v;
    TRY(pop(m, 1, &v));
    return value_write(&m->output, *v);
}

static bool op_const(Machine *m, TemplateInstr instr) {
    return push(m, m->t->consts[instr.value]);
}

static bool op_load(Machine *m, TemplateInstr instr) {
    Slots *slots;
    TRY(slots_at(m, instr, &slots));
    Value v = slots->values[instr.value];
    if (v.kind == VALUE_MISSING && instr.op == TEMPLATE_OP_LOAD) {
        v = value_undefined(NULL);
        if (instr.count == 0)
            v.text =
                m->t->consts[m->t->slot_names[m->function->slot_name_first + instr.value]].text;
    }
    return push(m, v);
}

static bool op_resolve(Machine *m, TemplateInstr instr) {
    Value name = m->t->consts[instr.value], v = {.kind = VALUE_MISSING};
    bool found = false;
    if (instr.count == 0)
        TRY(dict_get(&m->run, m->context, name, &v, &found));
    if (!found)
        global_find(name.text, &v);
    return push(m, instr.count ? value_undefined(NULL) : v);
}

static bool op_store(Machine *m, TemplateInstr instr) {
    Value *v;
    TRY(pop(m, 1, &v));
    m->slots->values[instr.value] = *v;
    return true;
}

static bool op_clear(Machine *m, TemplateInstr instr) {
    m->slots->values[instr.value] = (Value){.kind = VALUE_MISSING};
    return true;
}

static bool op_set_attr(Machine *m, TemplateInstr instr) {
    Value *v;
    TRY(pop(m, 2, &v));
    if (v[1].kind != VALUE_NAMESPACE)
        return type_fail(&m->run, "cannot assign an attribute of %s: it is no namespace",
                         value_type(v[1]));
    return dict_set(&m->run, v[1].dict, m->t->consts[instr.value], v[0]);
}

static bool op_get_attr(Machine *m, TemplateInstr instr) {
    Value *v, out;
    TRY(pop(m, 1, &v));
    TRY(value_attr(&m->run, *v, m->t->consts[instr.value].text, &out));
    return push(m, out);
}

static bool op_get_item(Machine *m, TemplateInstr instr) {
    (void)instr;
    Value *v, out;
    TRY(pop(m, 2, &v));
    TRY(value_item(&m->run, v[0], v[1], &out));
    return push(m, out);
}

static bool op_slice(Machine *m, TemplateInstr instr) {
    (void)instr;
    Value *v, out;
    TRY(pop(m, 4, &v));
    TRY(value_slice(&m->run, v[0], v + 1, &out));
    return push(m, out);
}

// ---- operators ----------------------------------------------------------------------------------

static bool op_not(Machine *m, TemplateInstr instr) {
    (void)instr;
    Value *v;
    TRY(pop(m, 1, &v));
    return push(m, value_bool(!value_truth(*v)));
}

static bool op_unary(Machine *m, TemplateInstr instr) {
    Value *v, out;
    TRY(pop(m, 1, &v));
    TRY(value_unary(&m->run, (TemplateOp)instr.op, *v, &out));
    return push(m, out);
}

static bool op_binary(Machine *m, TemplateInstr instr) {
    Value *v, out;
    TRY(pop(m, 2, &v));
    TRY(value_binary(&m->run, (TemplateOp)instr.op, v[0], v[1], &out));
    return push(m, out);
}

static bool op_equal(Machine *m, TemplateInstr instr) {
    Value *v;
    bool same;
    TRY(pop(m, 2, &v));
    TRY(value_equal(&m->run, v[0], v[1], &same));
    return push(m, value_bool(same == (instr.op == TEMPLATE_OP_EQ)));
}

// a <= b is "a < b or a == b": true for all that Python orders here, NaN included.
static bool op_order(Machine *m, TemplateInstr instr) {
    Value *v;
    bool result, same = false, swap = instr.op == TEMPLATE_OP_GT || instr.op == TEMPLATE_OP_GE;
    TRY(pop(m, 2, &v));
    TRY(value_less(&m->run, v[swap], v[!swap], &result));
    if (!result && (instr.op == TEMPLATE_OP_LE || instr.op == TEMPLATE_OP_GE))
        TRY(value_equal(&m->run, v[0], v[1], &same));
    return push(m, value_bool(result || same));
}

static bool op_in(Machine *m, TemplateInstr instr) {
    Value *v;
    bool found;
    TRY(pop(m, 2, &v));
    TRY(value_contains(&m->run, v[0], v[1], &found));
    return push(m, value_bool(found == (instr.op == TEMPLATE_OP_IN)));
}

static bool op_concat(Machine *m, TemplateInstr instr) {
    Value *v, out;
    Builder b = {.r = &m->run};
    TRY(pop(m, instr.value, &v));
    for (uint32_t at = 0; at < instr.value; at++)
        TRY(value_write(&b, v[at]));
    TRY(builder_done(&b, &out));
    return push(m, out);
}

static bool op_list(Machine *m, TemplateInstr instr) {
    Value *v, out;
    TRY(pop_kept(m, instr.value, &v));
    TRY(list_make(&m->run, instr.op == TEMPLATE_OP_LIST ? LIST_LIST : LIST_TUPLE, v, instr.value,
                  &out));
    return push(m, out);
}

static bool op_dict(Machine *m, TemplateInstr instr) {
    Value *v, out;
    if (instr.value > MAX_STACK)
        return template_damaged(m->run.err, "a dict");
    TRY(pop(m, instr.value * 2, &v));
    TRY(dict_make(&m->run, &out));
    for (uint32_t at = 0; at < instr.value; at++)
        TRY(dict_set(&m->run, out.dict, v[at * 2], v[at * 2 + 1]));
    return push(m, out);
}

static bool op_unpack(Machine *m, TemplateInstr instr) {
    Value *v;
    const Value *items;
    uint32_t count;
    TRY(pop(m, 1, &v));
    if (v->kind == VALUE_UNDEFINED && instr.value)
        return undefined_fail(&m->run, *v);
    TRY(value_items(&m->run, *v, &items, &count));
    if (count != instr.value)
        return value_fail(&m->run, "%u values to unpack, expected %u", count, instr.value);
    while (count-- > 0)
        TRY(push(m, items[count]));
    return true;
}

// ---- jumps and loops ----------------------------------------------------------------------------

static bool op_jump(Machine *m, TemplateInstr instr) {
    m->pc = instr.value;
    return true;
}

static bool op_jump_false(Machine *m, TemplateInstr instr) {
    Value *v;
    TRY(pop(m, 1, &v));
    if (!value_truth(*v))
        m->pc = instr.value;
    return true;
}

static bool op_jump_keep(Machine *m, TemplateInstr instr) {
    Value *v;
    TRY(pop(m, 1, &v));
    if (value_truth(*v) == (instr.op == TEMPLATE_OP_JUMP_TRUE_KEEP)) {
        m->height++;
        m->pc = instr.value;
    }
    return true;
}

static bool op_jump_present(Machine *m, TemplateInstr instr) {
    Value *v;
    TRY(pop(m, 1, &v));
    if (v->kind != VALUE_MISSING)
        m->pc = instr.value;
    return true;
}

static bool loop_top(Machine *m, LoopState **out) {
    if (m->loop_count <= m->loop_base)
        return template_damaged(m->run.err, "a loop");
    *out = m->loops[m->loop_count - 1];
    return true;
}

static bool op_for_begin(Machine *m, TemplateInstr instr) {
    (void)instr;
    Value *v;
    if (m->loop_count == MAX_LOOPS)
        return machine_fail(m, "loops");
    TRY(pop(m, 1, &v));
    LoopState *loop = run_alloc(&m->run, 1, sizeof *loop);
    if (!loop)
        return false;
    TRY(value_items(&m->run, *v, &loop->items, &loop->count));
    m->loops[m->loop_count++] = loop;
    return true;
}

static bool op_for_next(Machine *m, TemplateInstr instr) {
    LoopState *loop = NULL;
    TRY(loop_top(m, &loop));
    if (loop->next == loop->count) {
        m->pc = instr.value;
        return true;
    }
    return push(m, loop->items[loop->next++]);
}

static bool op_for_keep(Machine *m, TemplateInstr instr) {
    (void)instr;
    LoopState *loop = NULL;
    TRY(loop_top(m, &loop));
    if (!loop->kept) {
        loop->kept = run_alloc(&m->run, loop->count, sizeof *loop->kept);
        if (!loop->kept)
            return false;
    }
    if (loop->next == 0 || loop->kept_count == loop->count)
        return template_damaged(m->run.err, "the filter of a loop");
    loop->kept[loop->kept_count++] = loop->items[loop->next - 1];
    return true;
}

static bool op_for_filtered(Machine *m, TemplateInstr instr) {
    (void)instr;
    LoopState *loop = NULL;
    TRY(loop_top(m, &loop));
    *loop = (LoopState){.items = loop->kept, .count = loop->kept_count};
    return true;
}

// With count 1: the current item instead.
static bool op_for_loop(Machine *m, TemplateInstr instr) {
    LoopState *loop = NULL;
    TRY(loop_top(m, &loop));
    if (instr.count && loop->next == 0)
        return template_damaged(m->run.err, "the item of a loop");
    return push(m, instr.count ? loop->items[loop->next - 1]
                               : (Value){.kind = VALUE_LOOP, .loop = loop});
}

static bool op_for_done(Machine *m, TemplateInstr instr) {
    (void)instr;
    LoopState *loop = NULL;
    TRY(loop_top(m, &loop));
    loop->completed = true;
    return true;
}

static bool op_for_end(Machine *m, TemplateInstr instr) {
    LoopState *loop = NULL;
    TRY(loop_top(m, &loop));
    m->loop_count--;
    if (loop->completed)
        m->pc = instr.value;
    return true;
}

// ---- output aside, macros -----------------------------------------------------------------------

static bool op_capture(Machine *m, TemplateInstr instr) {
    (void)instr;
    if (m->capture_count == MAX_CAPTURES)
        return machine_fail(m, "blocks");
    m->captures[m->capture_count++] = m->output;
    m->output = (Builder){.r = &m->run};
    return true;
}

static bool op_capture_end(Machine *m, TemplateInstr instr) {
    (void)instr;
    Value v;
    if (!m->capture_count)
        return template_damaged(m->run.err, "the end of a block");
    TRY(builder_done(&m->output, &v));
    m->output = m->captures[--m->capture_count];
    return push(m, v);
}

static bool op_macro(Machine *m, TemplateInstr instr) {
    Macro *macro = run_alloc(&m->run, 1, sizeof *macro);
    if (!macro)
        return false;
    *macro = (Macro){.function = instr.value, .closure = m->slots};
    return push(m, (Value){.kind = VALUE_MACRO, .macro = macro});
}

// The parameters that no positional argument reached, from keyword arguments; the rest of those.
static bool macro_keywords(Machine *m, const TemplateFunction *f, const Args *args, Slots *slots,
                           Value *rest, Value *caller) {
    TRY(dict_make(&m->run, rest));
    for (int at = 0; at < args->keyword_count; at++) {
        const Text *name = args->keywords[at].key.text;
        uint32_t param = (uint32_t)args->count;
        while (param < f->param_count &&
               !text_same(name, m->t->consts[m->t->params[f->param_first + param].name].text))
            param++;
        if (param < f->param_count)
            slots->values[m->t->params[f->param_first + param].slot] = args->keywords[at].value;
        else if (f->caller_slot != TEMPLATE_NONE && text_is(name, "caller"))
            *caller = args->keywords[at].value;
        else if (f->kwargs_slot != TEMPLATE_NONE)
            TRY(dict_set(&m->run, rest->dict, args->keywords[at].key, args->keywords[at].value));
        else
            return run_fail(&m->run, ERR_USAGE, 1070, "a macro takes no keyword argument \"%.*s\"",
                            (int)(name->size & 63), name->data);
    }
    return true;
}

static bool macro_arguments(Machine *m, const TemplateFunction *f, const Args *args, Slots *slots) {
    int params = (int)f->param_count, given = args->count < params ? args->count : params;
    Value rest, caller = value_undefined(NULL);
    for (int at = 0; at < given; at++)
        slots->values[m->t->params[f->param_first + (uint32_t)at].slot] = args->values[at];
    TRY(macro_keywords(m, f, args, slots, &rest, &caller));
    if (f->caller_slot != TEMPLATE_NONE)
        slots->values[f->caller_slot] = caller;
    if (f->kwargs_slot != TEMPLATE_NONE)
        slots->values[f->kwargs_slot] = rest;
    if (args->count > params && f->varargs_slot == TEMPLATE_NONE)
        return type_fail(&m->run, "a macro takes %d arguments, %d given", params, args->count);
    if (f->varargs_slot == TEMPLATE_NONE)
        return true;
    Value *more = run_alloc(&m->run, (size_t)(args->count - given), sizeof *more);
    if (!more)
        return false;
    for (int at = given; at < args->count; at++)
        more[at - given] = args->values[at];
    return list_make(&m->run, LIST_TUPLE, more, (size_t)(args->count - given),
                     &slots->values[f->varargs_slot]);
}

static bool macro_enter(Machine *m, const Macro *macro, const Args *args) {
    const TemplateFunction *f = &m->t->functions[macro->function];
    Slots *slots;
    if (m->call_count == MAX_CALLS)
        return machine_fail(m, "macro calls");
    TRY(slots_new(m, f, macro->closure, &slots));
    TRY(macro_arguments(m, f, args, slots));
    m->calls[m->call_count++] = (Call){m->function, m->slots, m->pc, m->loop_base};
    m->function = f;
    m->slots = slots;
    m->pc = 0;
    m->loop_base = m->loop_count;
    return op_capture(m, (TemplateInstr){0});
}

static bool op_return(Machine *m, TemplateInstr instr) {
    if (m->call_count == 0) {
        m->ended = true;
        return true;
    }
    const Call *call = &m->calls[--m->call_count];
    m->loop_count = m->loop_base;
    m->function = call->function;
    m->slots = call->slots;
    m->pc = call->pc;
    m->loop_base = call->loop_base;
    return op_capture_end(m, instr);
}

// ---- calls --------------------------------------------------------------------------------------

// Adds the items of *list and **dict to the arguments.
static bool spread(Machine *m, TemplateInstr instr, const Value *extra, Args *args) {
    const Value *items = NULL;
    uint32_t count = 0;
    const Dict *dict = NULL;
    if (instr.value & TEMPLATE_CALL_LIST)
        TRY(value_items(&m->run, *extra++, &items, &count));
    if (instr.value & TEMPLATE_CALL_DICT) {
        if (extra->kind != VALUE_DICT)
            return type_fail(&m->run, "what follows ** must be a dict, found %s",
                             value_type(*extra));
        dict = extra->dict;
    }
    uint32_t more = dict ? dict->count : 0;
    if (count > MAX_STACK || more > MAX_STACK)
        return machine_fail(m, "arguments");
    Value *values = run_alloc(&m->run, (size_t)args->count + count, sizeof *values);
    Entry *keywords = run_alloc(&m->run, (size_t)args->keyword_count + more, sizeof *keywords);
    if (!values || !keywords)
        return false;
    for (int at = 0; at < args->count; at++)
        values[at] = args->values[at];
    for (uint32_t at = 0; at < count; at++)
        values[args->count++] = items[at];
    for (int at = 0; at < args->keyword_count; at++)
        keywords[at] = args->keywords[at];
    for (uint32_t at = 0; at < more; at++) {
        if (dict->entries[at].key.kind != VALUE_TEXT)
            return type_fail(&m->run, "keywords must be strings");
        keywords[args->keyword_count++] = dict->entries[at];
    }
    args->values = values;
    args->keywords = keywords;
    return true;
}

// Pops what CALL, FILTER and TEST work on.
static bool pop_call(Machine *m, TemplateInstr instr, Value *subject, Args *args) {
    Value *v;
    uint32_t keywords = instr.value & TEMPLATE_CALL_KEYWORDS;
    uint32_t spreads =
        (instr.value & TEMPLATE_CALL_LIST ? 1u : 0u) + (instr.value & TEMPLATE_CALL_DICT ? 1u : 0u);
    TRY(pop_kept(m, 1u + instr.count + keywords * 2 + spreads, &v));
    Entry *entries = run_alloc(&m->run, keywords, sizeof *entries);
    if (!entries)
        return false;
    *subject = v[0];
    for (uint32_t at = 0; at < keywords; at++) {
        entries[at] = (Entry){v[1 + instr.count + at * 2], v[2 + instr.count + at * 2]};
        if (entries[at].key.kind != VALUE_TEXT)
            return template_damaged(m->run.err, "the name of an argument");
    }
    *args = (Args){v + 1, instr.count, entries, (int)keywords};
    return spreads ? spread(m, instr, v + 1 + instr.count + keywords * 2, args) : true;
}

static bool op_call(Machine *m, TemplateInstr instr) {
    Value callee, out;
    Args args;
    TRY(pop_call(m, instr, &callee, &args));
    if (callee.kind == VALUE_UNDEFINED)
        return undefined_fail(&m->run, callee);
    if (callee.kind == VALUE_MACRO)
        return macro_enter(m, callee.macro, &args);
    if (callee.kind == VALUE_FUNCTION)
        TRY(global_call(&m->run, callee.integer, &args, &out));
    else if (callee.kind == VALUE_METHOD)
        TRY(method_call(&m->run, callee.method, &args, &out));
    else
        return type_fail(&m->run, "'%s' object is not callable", value_type(callee));
    return push(m, out);
}

static bool op_filter(Machine *m, TemplateInstr instr) {
    Value subject, out;
    Args args;
    TRY(pop_call(m, instr, &subject, &args));
    TRY(filter_call(&m->run, (int)(instr.value >> TEMPLATE_CALL_ID_SHIFT), subject, &args, &out));
    return push(m, out);
}

static bool op_test(Machine *m, TemplateInstr instr) {
    Value subject;
    Args args;
    bool passes;
    TRY(pop_call(m, instr, &subject, &args));
    TRY(test_call(&m->run, (int)(instr.value >> TEMPLATE_CALL_ID_SHIFT), subject, &args, &passes));
    return push(m, value_bool(passes));
}

// ---- running ------------------------------------------------------------------------------------

static bool (*const operations[TEMPLATE_OP_COUNT])(Machine *, TemplateInstr) = {
    [TEMPLATE_OP_TEXT] = op_text,
    [TEMPLATE_OP_PRINT] = op_print,
    [TEMPLATE_OP_CONST] = op_const,
    [TEMPLATE_OP_LOAD] = op_load,
    [TEMPLATE_OP_LOAD_RAW] = op_load,
    [TEMPLATE_OP_RESOLVE] = op_resolve,
    [TEMPLATE_OP_STORE] = op_store,
    [TEMPLATE_OP_CLEAR] = op_clear,
    [TEMPLATE_OP_SET_ATTR] = op_set_attr,
    [TEMPLATE_OP_GET_ATTR] = op_get_attr,
    [TEMPLATE_OP_GET_ITEM] = op_get_item,
    [TEMPLATE_OP_SLICE] = op_slice,
    [TEMPLATE_OP_CALL] = op_call,
    [TEMPLATE_OP_FILTER] = op_filter,
    [TEMPLATE_OP_TEST] = op_test,
    [TEMPLATE_OP_NOT] = op_not,
    [TEMPLATE_OP_NEG] = op_unary,
    [TEMPLATE_OP_POS] = op_unary,
    [TEMPLATE_OP_ADD] = op_binary,
    [TEMPLATE_OP_SUB] = op_binary,
    [TEMPLATE_OP_MUL] = op_binary,
    [TEMPLATE_OP_DIV] = op_binary,
    [TEMPLATE_OP_FLOORDIV] = op_binary,
    [TEMPLATE_OP_MOD] = op_binary,
    [TEMPLATE_OP_POW] = op_binary,
    [TEMPLATE_OP_EQ] = op_equal,
    [TEMPLATE_OP_NE] = op_equal,
    [TEMPLATE_OP_LT] = op_order,
    [TEMPLATE_OP_LE] = op_order,
    [TEMPLATE_OP_GT] = op_order,
    [TEMPLATE_OP_GE] = op_order,
    [TEMPLATE_OP_IN] = op_in,
    [TEMPLATE_OP_NOT_IN] = op_in,
    [TEMPLATE_OP_CONCAT] = op_concat,
    [TEMPLATE_OP_LIST] = op_list,
    [TEMPLATE_OP_TUPLE] = op_list,
    [TEMPLATE_OP_DICT] = op_dict,
    [TEMPLATE_OP_UNPACK] = op_unpack,
    [TEMPLATE_OP_JUMP] = op_jump,
    [TEMPLATE_OP_JUMP_FALSE] = op_jump_false,
    [TEMPLATE_OP_JUMP_FALSE_KEEP] = op_jump_keep,
    [TEMPLATE_OP_JUMP_TRUE_KEEP] = op_jump_keep,
    [TEMPLATE_OP_JUMP_PRESENT] = op_jump_present,
    [TEMPLATE_OP_FOR_BEGIN] = op_for_begin,
    [TEMPLATE_OP_FOR_NEXT] = op_for_next,
    [TEMPLATE_OP_FOR_KEEP] = op_for_keep,
    [TEMPLATE_OP_FOR_FILTERED] = op_for_filtered,
    [TEMPLATE_OP_FOR_LOOP] = op_for_loop,
    [TEMPLATE_OP_FOR_DONE] = op_for_done,
    [TEMPLATE_OP_FOR_END] = op_for_end,
    [TEMPLATE_OP_MACRO] = op_macro,
    [TEMPLATE_OP_CAPTURE] = op_capture,
    [TEMPLATE_OP_CAPTURE_END] = op_capture_end,
    [TEMPLATE_OP_RETURN] = op_return,
};

static bool machine_run(Machine *m) {
    m->function = &m->t->functions[0];
    TRY(slots_new(m, m->function, NULL, &m->slots));
    while (!m->ended) {
        // Every way through a function's code ends in its RETURN, which stands at its end.
        TemplateInstr instr = m->t->code[m->function->code_first + m->pc++];
        m->run.line = instr.line;
        TRY(run_step(&m->run, 1));
        TRY(operations[instr.op](m, instr));
    }
    return true;
}

static bool text_give(const Builder *b, TemplateText *out, Error *err) {
    out->size = b->size;
    out->text = malloc(b->size + 1);
    out->user_marks = malloc(b->size + 1);
    if (!out->text || !out->user_marks) {
        free(out->text);
        free(out->user_marks);
        return fail(err, ERR_RESOURCE, 1077, "no memory for %zu bytes of text", b->size);
    }
    if (b->size)
        memcpy(out->text, b->data, b->size);
    out->text[b->size] = 0;
    if (b->marks)
        memcpy(out->user_marks, b->marks, b->size);
    else
        memset(out->user_marks, b->mark, b->size);
    return true;
}

// Room for every conversation that a server takes, and an end for every template.
static TemplateOptions with_defaults(const TemplateOptions *o, size_t context_bytes) {
    TemplateOptions limits = *o;
    if (!limits.max_steps)
        limits.max_steps = 50000000 + (uint64_t)context_bytes * 8;
    if (!limits.max_memory)
        limits.max_memory = ((size_t)256 << 20) + context_bytes * 32;
    if (!limits.max_text_bytes)
        limits.max_text_bytes = ((size_t)16 << 20) + context_bytes * 8;
    return limits;
}

bool template_render(const Template *t, const char *json_context, const TemplateOptions *o,
                     TemplateText *out, Error *err) {
    Machine *m = calloc(1, sizeof *m);
    if (!m)
        return fail(err, ERR_RESOURCE, 1078, "no memory to run the chat template");
    Value context;
    m->t = t;
    m->run = (Run){.t = t, .limits = with_defaults(o, strlen(json_context)), .err = err};
    m->run.steps = m->run.limits.max_steps;
    m->output = (Builder){.r = &m->run, .limit = m->run.limits.max_text_bytes};
    bool done = context_read(&m->run, json_context, &context);
    if (done) {
        m->context = context.dict;
        done = machine_run(m) && text_give(&m->output, out, err);
    }
    arena_free(&m->run.arena);
    free(m);
    return done;
}
