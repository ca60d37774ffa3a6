// The parser of chat templates: what template_parse.c (statements) and template_expr.c
// (expressions) share.
#ifndef TEMPLATE_PARSER_H
#define TEMPLATE_PARSER_H

#include "compiler/template_ast.h"

typedef struct Parser {
    const char *name;
    const Token *token; // the current one
    Arena *arena;
    int nesting;
    Error *err;
} Parser;

// Collects siblings.
typedef struct NodeList {
    Node *first;
    Node **end;
    int count;
    int depth; // of the deepest one
} NodeList;

// Errors; each returns false.
bool parse_fail(Parser *p, const Token *at, const char *what);
bool parse_unsupported(Parser *p, const Token *at, const char *what);

Node *node_new(Parser *p, NodeKind kind, const Token *at);
bool node_hold(Parser *p, Node *node, int child_depth); // a child of this depth; bounds the tree
void node_append(NodeList *list, Node *node);

// Around everything that can stand in itself: bounds the recursion.
bool parse_enter(Parser *p);
void parse_leave(Parser *p);

const Token *token_next(Parser *p);               // returns the one that it leaves
bool token_is(const Parser *p, const char *name); // this name
bool token_skip(Parser *p, TokenKind kind);       // false: another one is there
bool token_skip_name(Parser *p, const char *name);
bool token_expect(Parser *p, TokenKind kind);
bool token_expect_name(Parser *p, Bytes *out);

// How a list of expressions ends up: as one expression or, with commas, as a tuple. Only in
// parentheses may it be empty.
typedef enum TupleKind { TUPLE_PLAIN, TUPLE_NO_CONDITION, TUPLE_PARENTHESES } TupleKind;

bool parse_tuple(Parser *p, TupleKind kind, Node **out);

// `condition` false: without "a if b else c" at the top.
bool parse_expression(Parser *p, bool condition, Node **out);

// NAME or NAME(arguments), behind | or at the start of a filter block, over *node.
bool parse_filter(Parser *p, Node **node);

Node *parse_name_node(Parser *p, const Token *token); // a variable, true, false or none

#endif
