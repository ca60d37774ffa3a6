// The code of chat templates: what template_emit.c (statements and expressions) and
// template_scope.c (names, constants) share.
#ifndef TEMPLATE_EMITTER_H
#define TEMPLATE_EMITTER_H

#include "compiler/template_ast.h"
#include "runtime/payload_template.h"

typedef enum LoadKind {
    LOAD_UNDEFINED, // has no value before it is written
    LOAD_PARAMETER, // is written when the scope is entered
    LOAD_RESOLVE,   // from the context
    LOAD_ALIAS,     // a copy of the outer variable
} LoadKind;

typedef struct Function {
    struct Function *parent;
    uint32_t index; // in Emitter.functions
    Bytes *slot_names;
    int *slot_levels;
    int slot_count, slot_capacity;
} Function;

// Where a variable lives.
typedef struct Ref {
    const Function *function;
    uint32_t slot;
} Ref;

typedef struct Symbol {
    Bytes name;
    Ref ref;
    LoadKind load;
    Ref source; // ALIAS
    struct Symbol *next;
} Symbol;

typedef struct Scope {
    struct Scope *parent;
    Function *function;
    int level;
    Symbol *symbols, **symbols_end;
} Scope;

// The loop that break and continue belong to.
typedef struct Loop {
    uint32_t start;
    Grow *breaks; // uint32_t: jumps to patch
    bool crossed; // a capture stands between it and here: no way out
} Loop;

typedef struct Emitter {
    const char *name;
    Arena *arena;
    Error *err;
    TemplateCode *out;
    Grow *code; // TemplateInstr of the current function
    Scope *scope;
    Loop *loop;
} Emitter;

bool emit_fail(Emitter *e, const Node *node, const char *what);

// Index of a constant, made if it is new.
uint32_t const_text(Emitter *e, Bytes text);
uint32_t const_plain(Emitter *e, const Node *node); // INTEGER, FLOAT, BOOL, NONE

// Adds an instruction and returns its index in the function; emit_patch makes it jump to here.
uint32_t emit_instr(Emitter *e, const Node *node, TemplateOp op, int count, uint32_t value);
void emit_patch(Emitter *e, uint32_t at);
void emit_load(Emitter *e, const Node *node, TemplateOp op, Ref ref);

Symbol *symbol_here(const Scope *scope, Bytes name); // NULL: not in this scope
Symbol *symbol_find(const Scope *scope, Bytes name); // also around it
bool symbol_define(Emitter *e, Bytes name, LoadKind load);

// What a scope reads and writes, in the order of jinja2's visitor. `branch`: inside of an if.
bool note_expression(Emitter *e, const Node *node);
bool note_target(Emitter *e, const Node *target, bool branch, bool parameter);
bool note_body(Emitter *e, const Node *node, bool branch);

// Whether a name is read anywhere inside of a list of nodes.
bool nodes_use(const Node *node, const char *name);

// A scope inside of the current one; with `function`: the first one of that function.
void scope_open(Emitter *e, Scope *scope, Function *function);
void scope_close(Emitter *e);
void emit_enter(Emitter *e, const Node *node); // gives its variables their first values

#endif
