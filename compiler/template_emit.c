// Syntax tree of a chat template to the code of payload_template.h: one function per kind of node.
// Each expression leaves one value on the stack, each statement none. Scopes and names:
// template_scope.c.
#include "compiler/template_emitter.h"

#include <stdlib.h>
#include <string.h>

// ---- expressions --------------------------------------------------------------------------------

static bool emit_expression(Emitter *e, const Node *node);

static bool emit_items(Emitter *e, const Node *list, uint32_t *count) {
    for (*count = 0; list; list = list->next, ++*count)
        TRY(emit_expression(e, list));
    return true;
}

// Pushes arguments; the operand of CALL, FILTER and TEST.
static bool emit_arguments(Emitter *e, const Node *list, int *positional, uint32_t *value) {
    *positional = 0;
    *value = 0;
    for (const Node *node = list; node; node = node->next) {
        if (node->kind == NODE_KEYWORD || node->kind == NODE_STAR || node->kind == NODE_STAR_STAR)
            continue;
        TRY(emit_expression(e, node));
        ++*positional;
    }
    for (const Node *node = list; node; node = node->next) {
        if (node->kind != NODE_KEYWORD)
            continue;
        emit_instr(e, node, TEMPLATE_OP_CONST, 0, const_text(e, node->text));
        TRY(emit_expression(e, node->a));
        ++*value;
    }
    for (const Node *node = list; node; node = node->next) {
        if (node->kind != NODE_STAR && node->kind != NODE_STAR_STAR)
            continue;
        TRY(emit_expression(e, node->a));
        *value |= node->kind == NODE_STAR ? TEMPLATE_CALL_LIST : TEMPLATE_CALL_DICT;
    }
    return true;
}

// Methods of Python's str, list and dict that we do not have: called on anything, they are refused
// here instead of when a conversation first comes across them. Those that change their object fail
// then, as in jinja2's sandbox.
static bool check_method(Emitter *e, const Node *attr) {
    static const char *const refused[] = {
        "casefold",  "encode",    "expandtabs",   "format_map", "isalnum",     "isalpha",
        "isascii",   "isdecimal", "isidentifier", "isnumeric",  "isprintable", "istitle",
        "maketrans", "rindex",    "swapcase",     "translate",  "copy",        "fromkeys",
    };
    for (size_t which = 0; which < sizeof refused / sizeof refused[0]; which++) {
        if (bytes_are(attr->text, refused[which]))
            return fail(e->err, ERR_UNSUPPORTED, 942,
                        "%s: line %d, column %d: the method \"%s\" is not supported in chat "
                        "templates",
                        e->name, attr->line, attr->column, refused[which]);
    }
    return true;
}

// Which case tables the template needs: by the names of filters, tests and methods.
static void note_case(Emitter *e, Bytes name) {
    static const char *const cased[] = {
        "upper",   "lower",   "title",  "capitalize", "sort",       "dictsort",
        "unique",  "min",     "max",    "map",        "islower",    "isupper",
        "isalpha", "isalnum", "select", "reject",     "selectattr", "rejectattr"};
    for (size_t which = 0; which < sizeof cased / sizeof cased[0]; which++) {
        if (bytes_are(name, cased[which]))
            e->out->cased = true;
    }
}

static bool emit_call(Emitter *e, const Node *node) {
    int positional;
    uint32_t value;
    if (node->kind == NODE_CALL && node->a->kind == NODE_ATTR) {
        TRY(check_method(e, node->a));
        note_case(e, node->a->text);
    }
    TRY(emit_expression(e, node->a));
    TRY(emit_arguments(e, node->list, &positional, &value));
    TemplateOp op = TEMPLATE_OP_CALL;
    if (node->kind != NODE_CALL) {
        op = node->kind == NODE_FILTER ? TEMPLATE_OP_FILTER : TEMPLATE_OP_TEST;
        value |= (uint32_t)node->op << TEMPLATE_CALL_ID_SHIFT;
        note_case(e, node->text);
    }
    emit_instr(e, node, op, positional, value);
    return true;
}

static bool emit_condition(Emitter *e, const Node *node) {
    TRY(emit_expression(e, node->a));
    uint32_t to_else = emit_instr(e, node, TEMPLATE_OP_JUMP_FALSE, 0, 0);
    TRY(emit_expression(e, node->b));
    uint32_t to_end = emit_instr(e, node, TEMPLATE_OP_JUMP, 0, 0);
    emit_patch(e, to_else);
    if (node->c)
        TRY(emit_expression(e, node->c));
    else // an empty name: undefined
        emit_instr(e, node, TEMPLATE_OP_RESOLVE, 1, const_text(e, (Bytes){NULL, 0}));
    emit_patch(e, to_end);
    return true;
}

static bool emit_logic(Emitter *e, const Node *node) {
    TRY(emit_expression(e, node->a));
    uint32_t to_end = emit_instr(
        e, node, node->kind == NODE_AND ? TEMPLATE_OP_JUMP_FALSE_KEEP : TEMPLATE_OP_JUMP_TRUE_KEEP,
        0, 0);
    TRY(emit_expression(e, node->b));
    emit_patch(e, to_end);
    return true;
}

static bool emit_display(Emitter *e, const Node *node) {
    uint32_t count;
    TRY(emit_items(e, node->list, &count));
    TemplateOp op = node->kind == NODE_LIST     ? TEMPLATE_OP_LIST
                    : node->kind == NODE_TUPLE  ? TEMPLATE_OP_TUPLE
                    : node->kind == NODE_CONCAT ? TEMPLATE_OP_CONCAT
                                                : TEMPLATE_OP_DICT;
    emit_instr(e, node, op, 0, node->kind == NODE_DICT ? count / 2 : count);
    return true;
}

static bool emit_access(Emitter *e, const Node *node) {
    uint32_t count;
    TRY(emit_expression(e, node->a));
    if (node->kind == NODE_ATTR) {
        emit_instr(e, node, TEMPLATE_OP_GET_ATTR, 0, const_text(e, node->text));
    } else if (node->kind == NODE_ITEM) {
        TRY(emit_expression(e, node->b));
        emit_instr(e, node, TEMPLATE_OP_GET_ITEM, 0, 0);
    } else {
        TRY(emit_items(e, node->list, &count));
        emit_instr(e, node, TEMPLATE_OP_SLICE, 0, 0);
    }
    return true;
}

static bool emit_name(Emitter *e, const Node *node) {
    emit_load(e, node, TEMPLATE_OP_LOAD, symbol_find(e->scope, node->text)->ref);
    return true;
}

static bool emit_string(Emitter *e, const Node *node) {
    emit_instr(e, node, TEMPLATE_OP_CONST, 0, const_text(e, node->text));
    return true;
}

static bool emit_plain(Emitter *e, const Node *node) {
    emit_instr(e, node, TEMPLATE_OP_CONST, 0, const_plain(e, node));
    return true;
}

static bool emit_operator(Emitter *e, const Node *node) {
    TRY(emit_expression(e, node->a));
    if (node->b)
        TRY(emit_expression(e, node->b));
    emit_instr(e, node, (TemplateOp)node->op, 0, 0);
    return true;
}

// Filters of a block stand over no subject: it is on the stack already.
static bool emit_expression(Emitter *e, const Node *node) {
    static bool (*const by_kind[])(Emitter *, const Node *) = {
        [NODE_NAME] = emit_name,           [NODE_STRING] = emit_string,
        [NODE_INTEGER] = emit_plain,       [NODE_FLOAT] = emit_plain,
        [NODE_BOOL] = emit_plain,          [NODE_NONE] = emit_plain,
        [NODE_LIST] = emit_display,        [NODE_TUPLE] = emit_display,
        [NODE_DICT] = emit_display,        [NODE_CONCAT] = emit_display,
        [NODE_UNARY] = emit_operator,      [NODE_BINARY] = emit_operator,
        [NODE_AND] = emit_logic,           [NODE_OR] = emit_logic,
        [NODE_CONDITION] = emit_condition, [NODE_ATTR] = emit_access,
        [NODE_ITEM] = emit_access,         [NODE_SLICE] = emit_access,
        [NODE_CALL] = emit_call,           [NODE_FILTER] = emit_call,
        [NODE_TEST] = emit_call,
    };
    return node ? by_kind[node->kind](e, node) : true;
}

// ---- statements ---------------------------------------------------------------------------------

static bool emit_body(Emitter *e, const Node *node);

// Pops a value into a target.
static bool emit_store(Emitter *e, const Node *target) {
    if (target->kind == NODE_TUPLE) {
        uint32_t count = 0;
        for (const Node *item = target->list; item; item = item->next)
            count++;
        emit_instr(e, target, TEMPLATE_OP_UNPACK, 0, count);
        for (const Node *item = target->list; item; item = item->next)
            TRY(emit_store(e, item));
        return true;
    }
    Ref ref = symbol_find(e->scope, target->text)->ref;
    if (target->kind == NODE_NAMESPACE_NAME) {
        emit_load(e, target, TEMPLATE_OP_LOAD, ref);
        emit_instr(e, target, TEMPLATE_OP_SET_ATTR, 0, const_text(e, target->attr));
    } else {
        emit_instr(e, target, TEMPLATE_OP_STORE, 0, ref.slot);
    }
    return true;
}

static bool emit_text(Emitter *e, const Node *node) {
    emit_instr(e, node, TEMPLATE_OP_TEXT, 0, const_text(e, node->text));
    return true;
}

static bool emit_print(Emitter *e, const Node *node) {
    TRY(emit_expression(e, node->a));
    emit_instr(e, node, TEMPLATE_OP_PRINT, 0, 0);
    return true;
}

// The elifs of an if are nested in `other`; this walks along them, so that a long chain needs no
// stack.
static bool emit_if(Emitter *e, const Node *node) {
    Grow ends = {0};
    bool done = true;
    for (;;) {
        done = done && emit_expression(e, node->a);
        uint32_t to_next = emit_instr(e, node, TEMPLATE_OP_JUMP_FALSE, 0, 0);
        done = done && emit_body(e, node->body);
        const Node *other = node->other;
        if (other)
            *(uint32_t *)grow(&ends, sizeof(uint32_t)) =
                emit_instr(e, node, TEMPLATE_OP_JUMP, 0, 0);
        emit_patch(e, to_next);
        if (!node_is_elif(other)) {
            done = done && emit_body(e, other);
            break;
        }
        node = other;
    }
    for (uint32_t at = 0; at < ends.count; at++)
        emit_patch(e, ((uint32_t *)ends.data)[at]);
    free(ends.data);
    return done;
}

static bool emit_set(Emitter *e, const Node *node) {
    TRY(emit_expression(e, node->b));
    return emit_store(e, node->a);
}

// A body whose output goes aside, in a scope of its own; leaves the text on the stack.
static bool emit_captured(Emitter *e, const Node *node) {
    Scope scope;
    Loop *loop = e->loop;
    bool crossed = loop && loop->crossed;
    scope_open(e, &scope, NULL);
    TRY(note_body(e, node->body, false));
    TRY(note_expression(e, node->b));
    emit_enter(e, node);
    if (loop)
        loop->crossed = true;
    emit_instr(e, node, TEMPLATE_OP_CAPTURE, 0, 0);
    TRY(emit_body(e, node->body));
    emit_instr(e, node, TEMPLATE_OP_CAPTURE_END, 0, 0);
    if (loop)
        loop->crossed = crossed;
    TRY(emit_expression(e, node->b));
    scope_close(e);
    return true;
}

static bool emit_set_block(Emitter *e, const Node *node) {
    TRY(emit_captured(e, node));
    return emit_store(e, node->a);
}

static bool emit_filter_block(Emitter *e, const Node *node) {
    TRY(emit_captured(e, node));
    emit_instr(e, node, TEMPLATE_OP_PRINT, 0, 0);
    return true;
}

static bool emit_with(Emitter *e, const Node *node) {
    Scope scope;
    uint32_t count = 0;
    for (const Node *param = node->list; param; param = param->next, count++)
        TRY(emit_expression(e, param->a));
    scope_open(e, &scope, NULL);
    for (const Node *param = node->list; param; param = param->next)
        TRY(symbol_define(e, param->text, LOAD_PARAMETER));
    TRY(note_body(e, node->body, false));
    emit_enter(e, node);
    // The values are on the stack, the last one on top.
    emit_instr(e, node, TEMPLATE_OP_LIST, 0, count);
    emit_instr(e, node, TEMPLATE_OP_UNPACK, 0, count);
    for (const Node *param = node->list; param; param = param->next)
        emit_instr(e, node, TEMPLATE_OP_STORE, 0, symbol_here(&scope, param->text)->ref.slot);
    TRY(emit_body(e, node->body));
    scope_close(e);
    return true;
}

// The filter of a loop, on the item that FOR_NEXT pushed. With `loop` in the body, whose length
// counts filtered items, a round of its own collects them first.
static bool emit_for_filter(Emitter *e, const Node *node, bool collect, uint32_t start) {
    Scope scope;
    scope_open(e, &scope, NULL);
    TRY(note_target(e, node->a, false, true));
    TRY(note_expression(e, node->c));
    emit_enter(e, node);
    TRY(emit_store(e, node->a));
    TRY(emit_expression(e, node->c));
    emit_instr(e, node, TEMPLATE_OP_JUMP_FALSE, 0, start);
    if (collect) {
        emit_instr(e, node, TEMPLATE_OP_FOR_KEEP, 0, 0);
        emit_instr(e, node, TEMPLATE_OP_JUMP, 0, start);
    }
    scope_close(e);
    return true;
}

static bool emit_for_body(Emitter *e, const Node *node, bool extended, Loop *loop) {
    Scope scope;
    Bytes loop_name = {(const unsigned char *)"loop", 4};
    scope_open(e, &scope, NULL);
    if (extended)
        TRY(symbol_define(e, loop_name, LOAD_PARAMETER));
    TRY(note_target(e, node->a, false, true));
    TRY(note_body(e, node->body, false));
    TRY(emit_store(e, node->a));
    if (extended) {
        emit_instr(e, node, TEMPLATE_OP_FOR_LOOP, 0, 0);
        emit_instr(e, node, TEMPLATE_OP_STORE, 0, symbol_here(&scope, loop_name)->ref.slot);
    }
    emit_enter(e, node);
    Loop *outer = e->loop;
    e->loop = loop;
    TRY(emit_body(e, node->body));
    e->loop = outer;
    if (node->other)
        emit_instr(e, node, TEMPLATE_OP_FOR_DONE, 0, 0);
    scope_close(e);
    return true;
}

static bool emit_for_else(Emitter *e, const Node *node) {
    Scope scope;
    scope_open(e, &scope, NULL);
    TRY(note_body(e, node->other, false));
    emit_enter(e, node);
    TRY(emit_body(e, node->other));
    scope_close(e);
    return true;
}

static bool emit_for_rounds(Emitter *e, const Node *node, Grow *breaks) {
    bool extended = nodes_use(node->body, "loop");
    TRY(emit_expression(e, node->b));
    emit_instr(e, node, TEMPLATE_OP_FOR_BEGIN, 0, 0);
    uint32_t start = e->code->count;
    uint32_t to_end = emit_instr(e, node, TEMPLATE_OP_FOR_NEXT, 0, 0);
    if (node->c && extended) {
        TRY(emit_for_filter(e, node, true, start));
        emit_patch(e, to_end);
        emit_instr(e, node, TEMPLATE_OP_FOR_FILTERED, 0, 0);
        start = e->code->count;
        to_end = emit_instr(e, node, TEMPLATE_OP_FOR_NEXT, 0, 0);
    } else if (node->c) {
        // FOR_LOOP with count 1 pushes the item again, for the target in the loop's own scope.
        TRY(emit_for_filter(e, node, false, start));
        emit_instr(e, node, TEMPLATE_OP_FOR_LOOP, 1, 0);
    }
    Loop loop = {.start = start, .breaks = breaks};
    TRY(emit_for_body(e, node, extended, &loop));
    emit_instr(e, node, TEMPLATE_OP_JUMP, 0, start);
    emit_patch(e, to_end);
    for (uint32_t at = 0; at < breaks->count; at++)
        emit_patch(e, ((uint32_t *)breaks->data)[at]);
    uint32_t to_behind = emit_instr(e, node, TEMPLATE_OP_FOR_END, 0, 0);
    if (node->other)
        TRY(emit_for_else(e, node));
    emit_patch(e, to_behind);
    return true;
}

static bool emit_for(Emitter *e, const Node *node) {
    Grow breaks = {0};
    bool done = emit_for_rounds(e, node, &breaks);
    free(breaks.data);
    return done;
}

static bool emit_leave_round(Emitter *e, const Node *node) {
    if (!e->loop || e->loop->crossed)
        return emit_fail(e, node,
                         "break and continue need a loop around them, in the same macro "
                         "and with no set, filter or call block between");
    uint32_t jump = emit_instr(e, node, TEMPLATE_OP_JUMP, 0, e->loop->start);
    if (node->kind == NODE_BREAK)
        *(uint32_t *)grow(e->loop->breaks, sizeof(uint32_t)) = jump;
    return true;
}

// ---- functions ----------------------------------------------------------------------------------

static bool has_param(const Node *list, const char *name) {
    for (; list; list = list->next) {
        if (bytes_are(list->text, name))
            return true;
    }
    return false;
}

// A parameter that was left out takes its default, which may use those before it.
static bool emit_defaults(Emitter *e, const Node *list) {
    for (const Node *param = list; param; param = param->next) {
        if (!param->a)
            continue;
        uint32_t slot = symbol_here(e->scope, param->text)->ref.slot;
        emit_instr(e, param, TEMPLATE_OP_LOAD_RAW, 0, slot);
        uint32_t given = emit_instr(e, param, TEMPLATE_OP_JUMP_PRESENT, 0, 0);
        TRY(emit_expression(e, param->a));
        emit_instr(e, param, TEMPLATE_OP_STORE, 0, slot);
        emit_patch(e, given);
    }
    return true;
}

// The variables that a macro gets when its body uses their names and no parameter has them.
static bool special_slot(Emitter *e, const Node *node, const char *name, uint32_t *slot) {
    Bytes bytes = {(const unsigned char *)name, strlen(name)};
    *slot = TEMPLATE_NONE;
    if (has_param(node->list, name) || !nodes_use(node->body, name))
        return true;
    TRY(symbol_define(e, bytes, LOAD_PARAMETER));
    *slot = symbol_here(e->scope, bytes)->ref.slot;
    return true;
}

// The code of all functions stands in one array, so a function writes its own aside first.
static void function_finish(Emitter *e, const Function *f, const Grow *code) {
    Grow *all = &e->out->code;
    TemplateFunction *out = &((TemplateFunction *)e->out->functions.data)[f->index];
    out->code_first = all->count;
    out->code_count = code->count;
    for (uint32_t at = 0; at < code->count; at++)
        *(TemplateInstr *)grow(all, sizeof(TemplateInstr)) = ((TemplateInstr *)code->data)[at];
    out->slot_count = (uint32_t)f->slot_count;
    out->slot_name_first = e->out->slot_names.count;
    for (int slot = 0; slot < f->slot_count; slot++) {
        uint32_t name = const_text(e, f->slot_names[slot]);
        *(uint32_t *)grow(&e->out->slot_names, sizeof(uint32_t)) = name;
    }
}

static bool emit_function_body(Emitter *e, const Node *node, uint32_t index) {
    TemplateFunction info = {
        .caller_slot = TEMPLATE_NONE, .kwargs_slot = TEMPLATE_NONE, .varargs_slot = TEMPLATE_NONE};
    for (const Node *param = node->list; param; param = param->next)
        TRY(symbol_define(e, param->text, LOAD_PARAMETER));
    info.param_first = e->out->params.count;
    for (const Node *param = node->list; param; param = param->next) {
        uint32_t name = const_text(e, param->text);
        *(TemplateParam *)grow(&e->out->params, sizeof(TemplateParam)) =
            (TemplateParam){name, symbol_here(e->scope, param->text)->ref.slot};
        info.param_count++;
    }
    TRY(special_slot(e, node, "caller", &info.caller_slot));
    TRY(special_slot(e, node, "kwargs", &info.kwargs_slot));
    TRY(special_slot(e, node, "varargs", &info.varargs_slot));
    for (const Node *param = node->list; param; param = param->next)
        TRY(note_expression(e, param->a));
    TRY(note_body(e, node->body, false));
    info.name = const_text(e, node->text);
    ((TemplateFunction *)e->out->functions.data)[index] = info;
    emit_enter(e, node);
    TRY(emit_defaults(e, node->list));
    TRY(emit_body(e, node->body));
    emit_instr(e, node, TEMPLATE_OP_RETURN, 0, 0);
    return true;
}

// A macro, a call block's body, or the template itself.
static bool emit_function(Emitter *e, const Node *node, uint32_t *index) {
    Grow code = {0}, *outer_code = e->code;
    Loop *outer_loop = e->loop;
    Function function = {.parent = e->scope ? e->scope->function : NULL,
                         .index = e->out->functions.count};
    Scope scope;
    grow(&e->out->functions, sizeof(TemplateFunction));
    *index = function.index;
    scope_open(e, &scope, &function);
    e->code = &code;
    e->loop = NULL;
    bool done = emit_function_body(e, node, *index);
    if (done)
        function_finish(e, &function, &code);
    e->code = outer_code;
    e->loop = outer_loop;
    scope_close(e);
    free(code.data);
    return done;
}

static bool emit_macro(Emitter *e, const Node *node) {
    uint32_t index;
    TRY(emit_function(e, node, &index));
    emit_instr(e, node, TEMPLATE_OP_MACRO, 0, index);
    emit_instr(e, node, TEMPLATE_OP_STORE, 0, symbol_find(e->scope, node->text)->ref.slot);
    return true;
}

// {% call(...) f(x) %}: f gets the body as the keyword argument `caller`. {% generation %}: the
// body is called at once.
static bool emit_call_block(Emitter *e, const Node *node) {
    uint32_t index, value = 0;
    int positional = 0;
    if (node->a) {
        if (node->a->a->kind == NODE_ATTR)
            TRY(check_method(e, node->a->a));
        TRY(emit_expression(e, node->a->a));
        TRY(emit_arguments(e, node->a->list, &positional, &value));
        if (value & (TEMPLATE_CALL_LIST | TEMPLATE_CALL_DICT))
            return emit_fail(e, node, "* and ** in a {% call %} are not supported");
        emit_instr(e, node, TEMPLATE_OP_CONST, 0,
                   const_text(e, (Bytes){(const unsigned char *)"caller", 6}));
        value++;
    }
    TRY(emit_function(e, node, &index));
    emit_instr(e, node, TEMPLATE_OP_MACRO, 0, index);
    emit_instr(e, node, TEMPLATE_OP_CALL, positional, value);
    emit_instr(e, node, TEMPLATE_OP_PRINT, 0, 0);
    return true;
}

static bool emit_body(Emitter *e, const Node *node) {
    static bool (*const by_kind[])(Emitter *, const Node *) = {
        [NODE_TEXT] = emit_text,
        [NODE_PRINT] = emit_print,
        [NODE_IF] = emit_if,
        [NODE_FOR] = emit_for,
        [NODE_SET] = emit_set,
        [NODE_SET_BLOCK] = emit_set_block,
        [NODE_MACRO] = emit_macro,
        [NODE_CALL_BLOCK] = emit_call_block,
        [NODE_FILTER_BLOCK] = emit_filter_block,
        [NODE_WITH] = emit_with,
        [NODE_BREAK] = emit_leave_round,
        [NODE_CONTINUE] = emit_leave_round,
    };
    for (; node; node = node->next)
        TRY(by_kind[node->kind](e, node));
    return true;
}

bool template_emit(const char *name, Node *body, Arena *a, TemplateCode *out, Error *err) {
    Emitter e = {.name = name, .arena = a, .err = err, .out = out};
    Node top = {.kind = NODE_MACRO, .line = 1, .column = 1, .body = body};
    uint32_t index;
    TRY(emit_function(&e, &top, &index));
    if (out->consts.count >= TEMPLATE_MAX_CONSTS)
        return fail(err, ERR_UNSUPPORTED, 945, "%s: more than %d different constants", name,
                    TEMPLATE_MAX_CONSTS);
    return true;
}
