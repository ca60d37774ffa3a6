// Tokens of a chat template to a syntax tree: jinja2/parser.py, statement by statement;
// expressions are in template_expr.c. The nesting of blocks and brackets and the depth of the tree
// are bounded, so that the recursion here and in template_emit.c is.
//
// Not taken, each with its message: include, import, extends, block, autoescape, do, trans, print,
// recursive loops.
#include "compiler/template_parser.h"

#include <stdio.h>

#include "runtime/payload_template.h"

bool parse_fail(Parser *p, const Token *at, const char *what) {
    return fail(p->err, ERR_CORRUPT, 932, "%s: line %d, column %d: %s, found %s", p->name, at->line,
                at->column, what, token_describe(at->kind));
}

bool parse_unsupported(Parser *p, const Token *at, const char *what) {
    return fail(p->err, ERR_UNSUPPORTED, 933,
                "%s: line %d, column %d: %s not supported in chat templates", p->name, at->line,
                at->column, what);
}

Node *node_new(Parser *p, NodeKind kind, const Token *at) {
    Node *node = ARENA_NEW(p->arena, Node, 1);
    node->kind = kind;
    node->line = at->line;
    node->column = at->column;
    node->depth = 1;
    return node;
}

bool node_hold(Parser *p, Node *node, int child_depth) {
    if (child_depth >= TEMPLATE_MAX_DEPTH)
        return fail(p->err, ERR_UNSUPPORTED, 934,
                    "%s: line %d, column %d: an expression with more than %d operators in a chain",
                    p->name, node->line, node->column, TEMPLATE_MAX_DEPTH);
    if (child_depth + 1 > node->depth)
        node->depth = child_depth + 1;
    return true;
}

void node_append(NodeList *list, Node *node) {
    if (!list->end)
        list->end = &list->first;
    *list->end = node;
    list->end = &node->next;
    list->count++;
    if (node->depth > list->depth)
        list->depth = node->depth;
}

bool parse_enter(Parser *p) {
    if (++p->nesting > TEMPLATE_MAX_NESTING)
        return fail(p->err, ERR_UNSUPPORTED, 935,
                    "%s: line %d, column %d: more than %d blocks and brackets inside each other",
                    p->name, p->token->line, p->token->column, TEMPLATE_MAX_NESTING);
    return true;
}

void parse_leave(Parser *p) {
    p->nesting--;
}

// ---- tokens -------------------------------------------------------------------------------------

const Token *token_next(Parser *p) {
    const Token *token = p->token;
    if (token->kind != TOKEN_EOF)
        p->token++;
    return token;
}

bool token_is(const Parser *p, const char *name) {
    return p->token->kind == TOKEN_NAME && bytes_are(p->token->text, name);
}

bool token_skip(Parser *p, TokenKind kind) {
    if (p->token->kind != kind)
        return false;
    token_next(p);
    return true;
}

bool token_skip_name(Parser *p, const char *name) {
    if (!token_is(p, name))
        return false;
    token_next(p);
    return true;
}

bool token_expect(Parser *p, TokenKind kind) {
    if (p->token->kind == kind) {
        token_next(p);
        return true;
    }
    char what[64];
    snprintf(what, sizeof what, "expected %s", token_describe(kind));
    return parse_fail(p, p->token, what);
}

bool token_expect_name(Parser *p, Bytes *out) {
    *out = p->token->text;
    return token_expect(p, TOKEN_NAME);
}

// ---- statements ---------------------------------------------------------------------------------

static bool parse_body(Parser *p, const char *const *ends, Node **out);

// One name, or several with commas between them, possibly in parentheses; ns.attr if `attributes`.
static bool parse_target(Parser *p, bool attributes, Node **out) {
    const Token *start = p->token;
    NodeList list = {0};
    bool comma = false;
    TRY(parse_enter(p));
    do {
        Node *item;
        if (list.count && (token_is(p, "in") || p->token->kind == TOKEN_ASSIGN ||
                           p->token->kind == TOKEN_RPAREN || p->token->kind == TOKEN_BLOCK_END))
            break;
        if (token_skip(p, TOKEN_LPAREN)) {
            TRY(parse_target(p, attributes, &item));
            TRY(token_expect(p, TOKEN_RPAREN));
        } else {
            const Token *token = p->token;
            TRY(token_expect(p, TOKEN_NAME));
            item = parse_name_node(p, token);
            if (item->kind != NODE_NAME || bytes_are(item->text, "loop"))
                return parse_fail(p, token, "expected a name that can be assigned to");
            if (attributes && token_skip(p, TOKEN_DOT)) {
                item->kind = NODE_NAMESPACE_NAME;
                TRY(token_expect_name(p, &item->attr));
            }
        }
        node_append(&list, item);
        comma = p->token->kind == TOKEN_COMMA || comma;
    } while (token_skip(p, TOKEN_COMMA));
    parse_leave(p);
    *out = list.first;
    if (!comma)
        return true;
    *out = node_new(p, NODE_TUPLE, start);
    (*out)->list = list.first;
    return node_hold(p, *out, list.depth);
}

static bool parse_if(Parser *p, Node **out) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    static const char *const else_ends[] = {"endif", NULL};
    Node **place = out;
    const Token *start = p->token;
    do {
        Node *node = *place = node_new(p, NODE_IF, start);
        TRY(parse_tuple(p, TUPLE_NO_CONDITION, &node->a));
        TRY(parse_body(p, ends, &node->body));
        place = &node->other;
        start = p->token;
    } while (token_skip_name(p, "elif"));
    if (token_skip_name(p, "else"))
        TRY(parse_body(p, else_ends, place));
    token_next(p);
    return true;
}

static bool parse_for(Parser *p, Node **out) {
    static const char *const ends[] = {"endfor", "else", NULL};
    Node *node = *out = node_new(p, NODE_FOR, p->token);
    TRY(parse_target(p, false, &node->a));
    if (!token_skip_name(p, "in"))
        return parse_fail(p, p->token, "expected 'in'");
    TRY(parse_tuple(p, TUPLE_NO_CONDITION, &node->b));
    if (token_skip_name(p, "if"))
        TRY(parse_expression(p, true, &node->c));
    if (token_is(p, "recursive"))
        return parse_unsupported(p, p->token, "a recursive loop is");
    TRY(parse_body(p, ends, &node->body));
    if (token_skip_name(p, "else"))
        TRY(parse_body(p, ends, &node->other));
    return token_skip_name(p, "endfor") ? true : parse_fail(p, p->token, "expected endfor");
}

static bool parse_set(Parser *p, Node **out) {
    static const char *const ends[] = {"endset", NULL};
    Node *node = *out = node_new(p, NODE_SET, p->token);
    TRY(parse_target(p, true, &node->a));
    if (token_skip(p, TOKEN_ASSIGN))
        return parse_tuple(p, TUPLE_PLAIN, &node->b);
    node->kind = NODE_SET_BLOCK;
    while (token_skip(p, TOKEN_PIPE))
        TRY(parse_filter(p, &node->b));
    TRY(parse_body(p, ends, &node->body));
    token_next(p);
    return true;
}

// (name, name=default)
static bool parse_signature(Parser *p, Node *node) {
    NodeList list = {0};
    bool defaults = false;
    TRY(token_expect(p, TOKEN_LPAREN));
    while (p->token->kind != TOKEN_RPAREN) {
        if (list.count)
            TRY(token_expect(p, TOKEN_COMMA));
        Node *param = node_new(p, NODE_PARAM, p->token);
        TRY(token_expect_name(p, &param->text));
        if (token_skip(p, TOKEN_ASSIGN))
            TRY(parse_expression(p, true, &param->a));
        else if (defaults)
            return parse_fail(p, p->token, "a parameter without a default follows one with it");
        defaults = defaults || param->a;
        node_append(&list, param);
    }
    if (list.count > TEMPLATE_MAX_ARGS)
        return parse_unsupported(p, p->token, "more than 255 parameters are");
    node->list = list.first;
    return token_expect(p, TOKEN_RPAREN);
}

static bool parse_macro(Parser *p, Node **out) {
    static const char *const ends[] = {"endmacro", NULL};
    Node *node = *out = node_new(p, NODE_MACRO, p->token);
    TRY(token_expect_name(p, &node->text));
    TRY(parse_signature(p, node));
    TRY(parse_body(p, ends, &node->body));
    token_next(p);
    return true;
}

static bool parse_call_block(Parser *p, Node **out) {
    static const char *const ends[] = {"endcall", NULL};
    Node *node = *out = node_new(p, NODE_CALL_BLOCK, p->token);
    if (p->token->kind == TOKEN_LPAREN)
        TRY(parse_signature(p, node));
    TRY(parse_expression(p, true, &node->a));
    if (node->a->kind != NODE_CALL)
        return parse_fail(p, p->token, "expected a call");
    TRY(parse_body(p, ends, &node->body));
    token_next(p);
    return true;
}

// transformers' mark of what the assistant says: a call block that is called at once.
static bool parse_generation(Parser *p, Node **out) {
    static const char *const ends[] = {"endgeneration", NULL};
    *out = node_new(p, NODE_CALL_BLOCK, p->token);
    TRY(parse_body(p, ends, &(*out)->body));
    token_next(p);
    return true;
}

static bool parse_filter_block(Parser *p, Node **out) {
    static const char *const ends[] = {"endfilter", NULL};
    Node *node = *out = node_new(p, NODE_FILTER_BLOCK, p->token);
    do {
        TRY(parse_filter(p, &node->b));
    } while (token_skip(p, TOKEN_PIPE));
    TRY(parse_body(p, ends, &node->body));
    token_next(p);
    return true;
}

static bool parse_with(Parser *p, Node **out) {
    static const char *const ends[] = {"endwith", NULL};
    Node *node = *out = node_new(p, NODE_WITH, p->token);
    NodeList list = {0};
    while (p->token->kind != TOKEN_BLOCK_END) {
        if (list.count)
            TRY(token_expect(p, TOKEN_COMMA));
        Node *param = node_new(p, NODE_PARAM, p->token);
        TRY(token_expect_name(p, &param->text));
        TRY(token_expect(p, TOKEN_ASSIGN));
        TRY(parse_expression(p, true, &param->a));
        node_append(&list, param);
    }
    node->list = list.first;
    TRY(parse_body(p, ends, &node->body));
    token_next(p);
    return true;
}

static bool parse_break(Parser *p, Node **out) {
    *out = node_new(p, NODE_BREAK, p->token);
    return true;
}

static bool parse_continue(Parser *p, Node **out) {
    *out = node_new(p, NODE_CONTINUE, p->token);
    return true;
}

static const struct {
    const char *name;
    bool (*parse)(Parser *p, Node **out); // behind the name; NULL: not supported
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"generation", parse_generation},
    {"break", parse_break},
    {"continue", parse_continue},
    {"print", NULL},
    {"include", NULL},
    {"import", NULL},
    {"from", NULL},
    {"extends", NULL},
    {"block", NULL},
    {"autoescape", NULL},
};

static bool parse_statement(Parser *p, Node **out) {
    const Token *token = p->token;
    if (token->kind != TOKEN_NAME)
        return parse_fail(p, token, "expected the name of a statement");
    for (size_t which = 0; which < sizeof statements / sizeof statements[0]; which++) {
        if (!bytes_are(token->text, statements[which].name))
            continue;
        if (!statements[which].parse)
            return parse_unsupported(p, token, "this statement is");
        token_next(p);
        return statements[which].parse(p, out);
    }
    return fail(p->err, ERR_UNSUPPORTED, 938,
                "%s: line %d, column %d: the statement \"%.*s\" is unknown, or ends nothing",
                p->name, token->line, token->column, (int)(token->text.size & 63),
                token->text.data);
}

static bool is_end(const Parser *p, const char *const *ends) {
    for (; ends && *ends; ends++) {
        if (token_is(p, *ends))
            return true;
    }
    return false;
}

// Statements up to {% END; stands at END then. With `ends` NULL: up to the end of the template.
// Called behind the expression of the opening tag, so its %} comes first.
static bool parse_body(Parser *p, const char *const *ends, Node **out) {
    NodeList list = {0};
    if (ends) {
        token_skip(p, TOKEN_COLON);
        TRY(token_expect(p, TOKEN_BLOCK_END));
    }
    TRY(parse_enter(p));
    for (;;) {
        const Token *token = p->token;
        Node *node = NULL;
        if (token->kind == TOKEN_EOF && !ends)
            break;
        if (token->kind == TOKEN_EOF)
            return fail(p->err, ERR_CORRUPT, 939, "%s: the template ends where %s is expected",
                        p->name, ends[0]);
        token_next(p);
        if (token->kind == TOKEN_DATA) {
            node = node_new(p, NODE_TEXT, token);
            node->text = token->text;
        } else if (token->kind == TOKEN_PRINT_BEGIN) {
            node = node_new(p, NODE_PRINT, token);
            TRY(parse_tuple(p, TUPLE_PLAIN, &node->a));
            TRY(token_expect(p, TOKEN_PRINT_END));
        } else {
            if (is_end(p, ends))
                break;
            TRY(parse_statement(p, &node));
            TRY(token_expect(p, TOKEN_BLOCK_END));
        }
        node_append(&list, node);
    }
    parse_leave(p);
    *out = list.first;
    return true;
}

bool template_parse(const char *name, const TokenList *tokens, Arena *a, Node **out, Error *err) {
    Parser p = {.name = name, .token = tokens->tokens, .arena = a, .err = err};
    return parse_body(&p, NULL, out);
}
