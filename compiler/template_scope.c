// Names and constants of chat templates.
//
// Idea: names become slots, by the rules of jinja2/idtracking.py and compiler.py. Every block
// that has a scope of its own (loop, macro, call, with, set block, filter block) collects the names
// that it reads and writes before its code is written. A name that it only reads is that of the
// scope around it; one that it writes is its own and starts as a copy; one that nobody wrote comes
// from the context when the outermost scope that reads it is entered. So `set` in a loop does not
// reach out of it, and a macro sees the latest value of the variables around it.
#include "compiler/template_emitter.h"

#include <string.h>

bool emit_fail(Emitter *e, const Node *node, const char *what) {
    return fail(e->err, ERR_UNSUPPORTED, 940, "%s: line %d, column %d: %s", e->name, node->line,
                node->column, what);
}

// ---- constants and instructions -----------------------------------------------------------------

static uint32_t add_const(Emitter *e, TemplateConst wanted) {
    if (e->out->consts.count >= TEMPLATE_MAX_CONSTS)
        return 0; // template_emit refuses the template
    TemplateConst *consts = e->out->consts.data;
    for (uint32_t at = 0; at < e->out->consts.count; at++) {
        if (memcmp(&consts[at], &wanted, sizeof wanted) == 0)
            return at;
    }
    *(TemplateConst *)grow(&e->out->consts, sizeof wanted) = wanted;
    return e->out->consts.count - 1;
}

uint32_t const_text(Emitter *e, Bytes text) {
    if (e->out->consts.count >= TEMPLATE_MAX_CONSTS)
        return 0; // template_emit refuses the template
    const TemplateConst *consts = e->out->consts.data;
    for (uint32_t at = 0; at < e->out->consts.count; at++) {
        if (consts[at].kind == TEMPLATE_CONST_TEXT && consts[at].size == text.size &&
            (text.size == 0 ||
             memcmp((char *)e->out->text.data + consts[at].value, text.data, text.size) == 0))
            return at;
    }
    TemplateConst wanted = {
        .kind = TEMPLATE_CONST_TEXT, .size = (uint32_t)text.size, .value = e->out->text.count};
    for (size_t at = 0; at < text.size; at++)
        *(unsigned char *)grow(&e->out->text, 1) = text.data[at];
    *(TemplateConst *)grow(&e->out->consts, sizeof wanted) = wanted;
    return e->out->consts.count - 1;
}

uint32_t const_plain(Emitter *e, const Node *node) {
    TemplateConst wanted = {.kind = TEMPLATE_CONST_NONE};
    if (node->kind == NODE_BOOL || node->kind == NODE_INTEGER) {
        wanted.kind = node->kind == NODE_BOOL ? TEMPLATE_CONST_BOOL : TEMPLATE_CONST_INT;
        memcpy(&wanted.value, &node->integer, sizeof wanted.value);
    } else if (node->kind == NODE_FLOAT) {
        wanted.kind = TEMPLATE_CONST_FLOAT;
        memcpy(&wanted.value, &node->number, sizeof wanted.value);
    }
    return add_const(e, wanted);
}

// Returns the index of the instruction in its function.
uint32_t emit_instr(Emitter *e, const Node *node, TemplateOp op, int count, uint32_t value) {
    TemplateInstr *instr = grow(e->code, sizeof *instr);
    instr->op = (uint8_t)op;
    instr->count = (uint8_t)count;
    instr->line = (uint16_t)(node->line < UINT16_MAX ? node->line : UINT16_MAX);
    instr->value = value;
    return e->code->count - 1;
}

void emit_patch(Emitter *e, uint32_t at) {
    ((TemplateInstr *)e->code->data)[at].value = e->code->count;
}

// ---- scopes -------------------------------------------------------------------------------------

static bool bytes_same(Bytes a, Bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static bool new_slot(Emitter *e, Function *f, int level, Bytes name, uint32_t *slot) {
    for (int at = 0; at < f->slot_count; at++) {
        if (f->slot_levels[at] == level && bytes_same(f->slot_names[at], name)) {
            *slot = (uint32_t)at;
            return true;
        }
    }
    if (f->slot_count == TEMPLATE_MAX_SLOTS)
        return fail(e->err, ERR_UNSUPPORTED, 941, "%s: more than %d variables", e->name,
                    TEMPLATE_MAX_SLOTS);
    if (f->slot_count == f->slot_capacity) {
        int capacity = f->slot_capacity ? f->slot_capacity * 2 : 32;
        Bytes *names = ARENA_NEW(e->arena, Bytes, capacity);
        int *levels = ARENA_NEW(e->arena, int, capacity);
        if (f->slot_count) {
            memcpy(names, f->slot_names, (size_t)f->slot_count * sizeof *names);
            memcpy(levels, f->slot_levels, (size_t)f->slot_count * sizeof *levels);
        }
        f->slot_names = names;
        f->slot_levels = levels;
        f->slot_capacity = capacity;
    }
    f->slot_names[f->slot_count] = name;
    f->slot_levels[f->slot_count] = level;
    *slot = (uint32_t)f->slot_count++;
    return true;
}

Symbol *symbol_here(const Scope *scope, Bytes name) {
    for (Symbol *symbol = scope->symbols; symbol; symbol = symbol->next) {
        if (bytes_same(symbol->name, name))
            return symbol;
    }
    return NULL;
}

Symbol *symbol_find(const Scope *scope, Bytes name) {
    for (; scope; scope = scope->parent) {
        Symbol *symbol = symbol_here(scope, name);
        if (symbol)
            return symbol;
    }
    return NULL;
}

bool symbol_define(Emitter *e, Bytes name, LoadKind load) {
    Scope *scope = e->scope;
    Symbol *symbol = symbol_here(scope, name);
    if (!symbol) {
        symbol = ARENA_NEW(e->arena, Symbol, 1);
        symbol->name = name;
        symbol->ref.function = scope->function;
        TRY(new_slot(e, scope->function, scope->level, name, &symbol->ref.slot));
        *scope->symbols_end = symbol;
        scope->symbols_end = &symbol->next;
    }
    symbol->load = load;
    return true;
}

// A name is written. In the branch of an `if` it may stay unwritten, so it takes what the context
// has (jinja2: Symbols.branch_update).
static bool symbol_store(Emitter *e, Bytes name, bool branch) {
    if (symbol_here(e->scope, name))
        return true;
    const Symbol *outer = e->scope->parent ? symbol_find(e->scope->parent, name) : NULL;
    TRY(symbol_define(e, name, outer ? LOAD_ALIAS : branch ? LOAD_RESOLVE : LOAD_UNDEFINED));
    if (outer)
        symbol_here(e->scope, name)->source = outer->ref;
    return true;
}

static bool symbol_load(Emitter *e, Bytes name) {
    return symbol_find(e->scope, name) ? true : symbol_define(e, name, LOAD_RESOLVE);
}

// ---- which names a scope reads and writes -------------------------------------------------------

static bool note_list(Emitter *e, const Node *list) {
    for (; list; list = list->next)
        TRY(note_expression(e, list));
    return true;
}

// All expressions keep their operands in a, b, c and list.
bool note_expression(Emitter *e, const Node *node) {
    if (!node)
        return true;
    if (node->kind == NODE_NAME || node->kind == NODE_NAMESPACE_NAME) {
        static const char *const missing[] = {"lipsum", "cycler", "joiner", "self"};
        for (size_t which = 0; which < sizeof missing / sizeof missing[0]; which++) {
            if (bytes_are(node->text, missing[which]) && !symbol_find(e->scope, node->text))
                return emit_fail(e, node,
                                 "lipsum, cycler, joiner and self are not supported "
                                 "in chat templates");
        }
        return symbol_load(e, node->text);
    }
    TRY(note_expression(e, node->a));
    TRY(note_expression(e, node->b));
    TRY(note_expression(e, node->c));
    return note_list(e, node->list);
}

bool note_target(Emitter *e, const Node *target, bool branch, bool parameter) {
    if (target->kind == NODE_NAME)
        return parameter ? symbol_define(e, target->text, LOAD_PARAMETER)
                         : symbol_store(e, target->text, branch);
    if (target->kind == NODE_NAMESPACE_NAME)
        return symbol_load(e, target->text);
    for (const Node *item = target->list; item; item = item->next)
        TRY(note_target(e, item, branch, parameter));
    return true;
}

static bool note_if(Emitter *e, const Node *node) {
    for (;;) {
        TRY(note_expression(e, node->a));
        TRY(note_body(e, node->body, true));
        if (!node_is_elif(node->other))
            return note_body(e, node->other, true);
        node = node->other;
    }
}

// Statements in order, without the insides of those that have a scope of their own.
bool note_body(Emitter *e, const Node *node, bool branch) {
    for (; node; node = node->next) {
        if (node->kind == NODE_SET) {
            TRY(note_expression(e, node->b));
            TRY(note_target(e, node->a, branch, false));
        } else if (node->kind == NODE_SET_BLOCK) {
            TRY(note_target(e, node->a, branch, false));
        } else if (node->kind == NODE_IF) {
            TRY(note_if(e, node));
        } else if (node->kind == NODE_MACRO) {
            TRY(symbol_store(e, node->text, branch));
        } else if (node->kind == NODE_WITH) {
            for (const Node *param = node->list; param; param = param->next)
                TRY(note_expression(e, param->a));
        } else if (node->kind == NODE_FOR || node->kind == NODE_FILTER_BLOCK) {
            TRY(note_expression(e, node->b));
        } else {
            TRY(note_expression(e, node->a)); // PRINT, CALL_BLOCK
        }
    }
    return true;
}

static bool node_uses(const Node *node, const char *name) {
    for (; node; node = node->other) {
        if (node->kind == NODE_NAME && bytes_are(node->text, name))
            return true;
        if (node_uses(node->a, name) || node_uses(node->b, name) || node_uses(node->c, name) ||
            nodes_use(node->list, name) || nodes_use(node->body, name))
            return true;
        if (!node_is_elif(node->other))
            return nodes_use(node->other, name);
    }
    return false;
}

bool nodes_use(const Node *node, const char *name) {
    for (; node; node = node->next) {
        if (node_uses(node, name))
            return true;
    }
    return false;
}

// ---- scopes in code -----------------------------------------------------------------------------

void scope_open(Emitter *e, Scope *scope, Function *function) {
    *scope = (Scope){.parent = e->scope,
                     .function = function ? function : e->scope->function,
                     .level = e->scope ? e->scope->level + 1 : 0};
    scope->symbols_end = &scope->symbols;
    e->scope = scope;
}

void scope_close(Emitter *e) {
    e->scope = e->scope->parent;
}

void emit_load(Emitter *e, const Node *node, TemplateOp op, Ref ref) {
    int up = 0;
    for (const Function *f = e->scope->function; f != ref.function; f = f->parent)
        up++;
    emit_instr(e, node, op, up, ref.slot);
}

// Gives the variables of a scope their first values.
void emit_enter(Emitter *e, const Node *node) {
    for (const Symbol *symbol = e->scope->symbols; symbol; symbol = symbol->next) {
        if (symbol->load == LOAD_RESOLVE)
            emit_instr(e, node, TEMPLATE_OP_RESOLVE, 0, const_text(e, symbol->name));
        else if (symbol->load == LOAD_ALIAS)
            emit_load(e, node, TEMPLATE_OP_LOAD_RAW, symbol->source);
        else if (symbol->load == LOAD_UNDEFINED)
            emit_instr(e, node, TEMPLATE_OP_CLEAR, 0, symbol->ref.slot);
        if (symbol->load == LOAD_RESOLVE || symbol->load == LOAD_ALIAS)
            emit_instr(e, node, TEMPLATE_OP_STORE, 0, symbol->ref.slot);
    }
}
