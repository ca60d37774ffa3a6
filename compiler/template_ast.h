// Tokens and syntax tree of a chat template: between template_lex.c, template_parse.c,
// template_emit.c and template.c.
#ifndef TEMPLATE_AST_H
#define TEMPLATE_AST_H

#include "runtime/base.h"

enum {
    TEMPLATE_MAX_NESTING = 64, // blocks and brackets inside each other
    TEMPLATE_MAX_DEPTH = 1000, // of the tree: a chain a + b + c is as deep as it is long
};

typedef enum TokenKind { // ORDER TOKENS (template_lex.c: names)
    TOKEN_EOF,
    TOKEN_DATA,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_ADD,
    TOKEN_SUB,
    TOKEN_MUL,
    TOKEN_POW,
    TOKEN_DIV,
    TOKEN_FLOORDIV,
    TOKEN_MOD,
    TOKEN_TILDE,
    TOKEN_EQ,
    TOKEN_NE,
    TOKEN_LT,
    TOKEN_LE,
    TOKEN_GT,
    TOKEN_GE,
    TOKEN_ASSIGN,
    TOKEN_DOT,
    TOKEN_COLON,
    TOKEN_COMMA,
    TOKEN_SEMICOLON,
    TOKEN_PIPE,
    TOKEN_LPAREN,
    TOKEN_RPAREN,
    TOKEN_LBRACKET,
    TOKEN_RBRACKET,
    TOKEN_LBRACE,
    TOKEN_RBRACE,
    TOKEN_KINDS,
} TokenKind;

typedef struct Token {
    TokenKind kind;
    int line, column; // from 1; the column counts bytes
    Bytes text;       // DATA and STRING: what they stand for; NAME: itself
    int64_t integer;
    double number;
} Token;

typedef struct TokenList {
    Token *tokens; // the last one is TOKEN_EOF
    int count;
} TokenList;

// `source` must be UTF-8.
bool template_lex(const char *name, Bytes source, Arena *a, TokenList *out, Error *err);

const char *token_describe(TokenKind kind);

typedef enum NodeKind {
    // statements
    NODE_TEXT,         // text
    NODE_PRINT,        // a
    NODE_IF,           // a: test, body, other; NODE_IF in `other` is an elif
    NODE_FOR,          // a: target, b: sequence, c: filter or NULL, body, other
    NODE_SET,          // a: target, b: value
    NODE_SET_BLOCK,    // a: target, b: filters over a NULL or NULL, body
    NODE_MACRO,        // text: name, list: NODE_PARAM, body
    NODE_CALL_BLOCK,   // a: call or NULL (generation), list: NODE_PARAM, body
    NODE_FILTER_BLOCK, // b: filters, body
    NODE_WITH,         // list: NODE_PARAM with a value in a, body
    NODE_BREAK,
    NODE_CONTINUE,
    NODE_PARAM, // text: name, a: default or NULL
    // expressions
    NODE_NAME,           // text
    NODE_NAMESPACE_NAME, // an assignment target ns.attr: text, attr
    NODE_STRING,         // text
    NODE_INTEGER,
    NODE_FLOAT,
    NODE_BOOL, // integer
    NODE_NONE,
    NODE_LIST,      // list
    NODE_TUPLE,     // list
    NODE_DICT,      // list: key, value, key, value...
    NODE_UNARY,     // op, a
    NODE_BINARY,    // op, a, b
    NODE_AND,       // a, b
    NODE_OR,        // a, b
    NODE_CONCAT,    // list
    NODE_CONDITION, // a: test, b: value, c: other value or NULL
    NODE_ATTR,      // a, text
    NODE_ITEM,      // a, b
    NODE_SLICE,     // a: sequence, list: start, stop, step, each NODE_NONE if left out
    NODE_CALL,      // a: callee, list: arguments
    NODE_FILTER,    // a: subject, text, list: arguments
    NODE_TEST,      // a: subject, text, list: arguments
    NODE_KEYWORD,   // an argument: text, a
    NODE_STAR,      // an argument: a
    NODE_STAR_STAR, // an argument: a
} NodeKind;

typedef struct Node {
    NodeKind kind;
    int op; // TemplateOp of UNARY and BINARY; FILTER and TEST: the id
    int line, column;
    int depth; // of the tree under this node, at least 1
    Bytes text, attr;
    int64_t integer;
    double number;
    struct Node *a, *b, *c;
    struct Node *list;  // first of the children of a kind that has many
    struct Node *body;  // first statement
    struct Node *other; // first statement of else
    struct Node *next;  // sibling in the list that this node is in
} Node;

// Whether what stands in `other` of an if is its elif, or an else with nothing but an if in it,
// which is the same. Chains of them can be long, so they are walked along and not into.
static inline bool node_is_elif(const Node *other) {
    return other && other->kind == NODE_IF && !other->next;
}

bool template_parse(const char *name, const TokenList *tokens, Arena *a, Node **out, Error *err);

// A growing array; owner: malloc.
typedef struct Grow {
    void *data;
    uint32_t count, capacity;
} Grow;

// Adds a zeroed element and returns it.
void *grow(Grow *g, size_t elem_bytes);

// The parts of the blob (payload_template.h). Zeroed by the caller, who frees them.
typedef struct TemplateCode {
    Grow consts;     // TemplateConst
    Grow functions;  // TemplateFunction
    Grow params;     // TemplateParam
    Grow slot_names; // uint32_t
    Grow code;       // TemplateInstr
    Grow text;       // bytes
    bool cased;      // the template changes or tests upper and lower case
} TemplateCode;

bool template_emit(const char *name, Node *body, Arena *a, TemplateCode *out, Error *err);

static inline bool bytes_are(Bytes bytes, const char *text) {
    return bytes.size == __builtin_strlen(text) &&
           (bytes.size == 0 || __builtin_memcmp(bytes.data, text, bytes.size) == 0);
}

#endif
