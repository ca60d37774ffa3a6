// Expressions of chat templates: jinja2/parser.py from parse_expression down, with its precedences.
//
// Not taken: tuples in [ ], chains of comparisons of long expressions.
#include "compiler/template_parser.h"

#include <stdio.h>
#include <string.h>

#include "runtime/payload_template.h"

enum { MAX_SHARED_DEPTH = 8 }; // of an expression that stands in the tree twice

static bool parse_unary(Parser *p, bool filters, Node **out);

// ---- expressions --------------------------------------------------------------------------------

static bool binary(Parser *p, NodeKind kind, int op, Node **left, Node *right) {
    Node *node = node_new(p, kind, p->token);
    node->line = (*left)->line;
    node->column = (*left)->column;
    node->op = op;
    node->a = *left;
    node->b = right;
    TRY(node_hold(p, node, (*left)->depth));
    TRY(node_hold(p, node, right->depth));
    *left = node;
    return true;
}

static bool tuple_ends(const Parser *p) {
    TokenKind kind = p->token->kind;
    return kind == TOKEN_PRINT_END || kind == TOKEN_BLOCK_END || kind == TOKEN_RPAREN ||
           token_is(p, "recursive");
}

bool parse_tuple(Parser *p, TupleKind kind, Node **out) {
    const Token *start = p->token;
    NodeList list = {0};
    bool comma = false;
    while (!tuple_ends(p)) {
        Node *item;
        TRY(parse_expression(p, kind != TUPLE_NO_CONDITION, &item));
        node_append(&list, item);
        if (!token_skip(p, TOKEN_COMMA))
            break;
        comma = true;
    }
    if (!comma && list.count) {
        *out = list.first;
        return true;
    }
    if (!comma && kind != TUPLE_PARENTHESES)
        return parse_fail(p, p->token, "expected an expression");
    *out = node_new(p, NODE_TUPLE, start);
    (*out)->list = list.first;
    return node_hold(p, *out, list.depth);
}

// [a, b] or {k: v}
static bool parse_display(Parser *p, Node **out) {
    const Token *start = token_next(p);
    bool dict = start->kind == TOKEN_LBRACE;
    TokenKind end = dict ? TOKEN_RBRACE : TOKEN_RBRACKET;
    NodeList list = {0};
    TRY(parse_enter(p));
    while (p->token->kind != end) {
        Node *item;
        if (list.count) {
            TRY(token_expect(p, TOKEN_COMMA));
            if (p->token->kind == end)
                break;
        }
        TRY(parse_expression(p, true, &item));
        node_append(&list, item);
        if (dict) {
            TRY(token_expect(p, TOKEN_COLON));
            TRY(parse_expression(p, true, &item));
            node_append(&list, item);
        }
    }
    parse_leave(p);
    TRY(token_expect(p, end));
    *out = node_new(p, dict ? NODE_DICT : NODE_LIST, start);
    (*out)->list = list.first;
    return node_hold(p, *out, list.depth);
}

Node *parse_name_node(Parser *p, const Token *token) {
    static const struct {
        char name[6];
        NodeKind kind;
        int64_t value;
    } constants[] = {{"true", NODE_BOOL, 1},  {"True", NODE_BOOL, 1}, {"false", NODE_BOOL, 0},
                     {"False", NODE_BOOL, 0}, {"none", NODE_NONE, 0}, {"None", NODE_NONE, 0}};
    Node *node = node_new(p, NODE_NAME, token);
    node->text = token->text;
    for (size_t which = 0; which < sizeof constants / sizeof constants[0]; which++) {
        if (bytes_are(token->text, constants[which].name)) {
            node->kind = constants[which].kind;
            node->integer = constants[which].value;
        }
    }
    return node;
}

// Strings side by side are one.
static Node *parse_string(Parser *p) {
    Node *node = node_new(p, NODE_STRING, p->token);
    size_t size = 0;
    const Token *end = p->token;
    for (; end->kind == TOKEN_STRING; end++)
        size += end->text.size;
    unsigned char *text = arena_alloc(p->arena, size + 1);
    node->text = (Bytes){text, size};
    for (; p->token < end; p->token++) {
        memcpy(text, p->token->text.data, p->token->text.size);
        text += p->token->text.size;
    }
    return node;
}

static bool parse_primary(Parser *p, Node **out) {
    const Token *token = p->token;
    if (token->kind == TOKEN_NAME) {
        *out = parse_name_node(p, token_next(p));
    } else if (token->kind == TOKEN_STRING) {
        *out = parse_string(p);
    } else if (token->kind == TOKEN_INTEGER || token->kind == TOKEN_FLOAT) {
        *out = node_new(p, token->kind == TOKEN_INTEGER ? NODE_INTEGER : NODE_FLOAT, token_next(p));
        (*out)->integer = token->integer;
        (*out)->number = token->number;
    } else if (token->kind == TOKEN_LPAREN) {
        token_next(p);
        TRY(parse_enter(p));
        TRY(parse_tuple(p, TUPLE_PARENTHESES, out));
        parse_leave(p);
        return token_expect(p, TOKEN_RPAREN);
    } else if (token->kind == TOKEN_LBRACKET || token->kind == TOKEN_LBRACE) {
        return parse_display(p, out);
    } else {
        return parse_fail(p, token, "expected an expression");
    }
    return true;
}

static bool parse_argument(Parser *p, Node **out) {
    const Token *token = p->token;
    if (token_skip(p, TOKEN_MUL))
        *out = node_new(p, NODE_STAR, token);
    else if (token_skip(p, TOKEN_POW))
        *out = node_new(p, NODE_STAR_STAR, token);
    else if (token->kind == TOKEN_NAME && token[1].kind == TOKEN_ASSIGN) {
        *out = node_new(p, NODE_KEYWORD, token);
        (*out)->text = token->text;
        p->token += 2;
    } else {
        return parse_expression(p, true, out);
    }
    TRY(parse_expression(p, true, &(*out)->a));
    return node_hold(p, *out, (*out)->a->depth);
}

// 0: positional, then in the order in which arguments must stand.
static int argument_rank(const Node *node) {
    return node->kind == NODE_STAR_STAR ? 3
           : node->kind == NODE_STAR    ? 2
           : node->kind == NODE_KEYWORD ? 1
                                        : 0;
}

// (arguments). A keyword may also follow a *list.
static bool parse_arguments(Parser *p, Node *call) {
    NodeList list = {0};
    const Token *start = p->token;
    bool star = false, star_star = false, keyword = false;
    TRY(token_expect(p, TOKEN_LPAREN));
    TRY(parse_enter(p));
    while (p->token->kind != TOKEN_RPAREN) {
        Node *argument;
        if (list.count) {
            TRY(token_expect(p, TOKEN_COMMA));
            if (p->token->kind == TOKEN_RPAREN)
                break;
        }
        TRY(parse_argument(p, &argument));
        int rank = argument_rank(argument);
        if (star_star || (star && rank % 2 == 0) || (keyword && rank == 0))
            return parse_fail(p, start, "arguments are in no order that jinja2 takes");
        star = star || rank == 2;
        star_star = rank == 3;
        keyword = keyword || rank == 1;
        node_append(&list, argument);
    }
    parse_leave(p);
    if (list.count > TEMPLATE_MAX_ARGS)
        return parse_unsupported(p, start, "more than 255 arguments are");
    call->list = list.first;
    TRY(node_hold(p, call, list.depth));
    return token_expect(p, TOKEN_RPAREN);
}

static bool parse_call(Parser *p, Node **node) {
    Node *call = node_new(p, NODE_CALL, p->token);
    call->a = *node;
    TRY(node_hold(p, call, (*node)->depth));
    *node = call;
    return parse_arguments(p, call);
}

// What stands in [ ]: an expression or a slice.
static bool parse_subscribed(Parser *p, Node **node, const Token *start) {
    NodeList list = {0};
    bool slice = false;
    for (int part = 0; part < 3; part++) {
        Node *item = node_new(p, NODE_NONE, p->token);
        TokenKind kind = p->token->kind;
        if (kind == TOKEN_COMMA)
            return parse_unsupported(p, p->token, "a tuple in [ ] is");
        if (kind != TOKEN_COLON && kind != TOKEN_RBRACKET)
            TRY(parse_expression(p, true, &item));
        else if (part == 0 && kind == TOKEN_RBRACKET)
            return parse_fail(p, p->token, "expected an expression");
        node_append(&list, item);
        if (part < 2 && token_skip(p, TOKEN_COLON))
            slice = true;
        else if (part == 0)
            break;
    }
    Node *result = node_new(p, slice ? NODE_SLICE : NODE_ITEM, start);
    result->a = *node;
    if (slice)
        result->list = list.first;
    else
        result->b = list.first;
    TRY(node_hold(p, result, (*node)->depth));
    *node = result;
    return node_hold(p, result, list.depth);
}

static bool parse_subscript(Parser *p, Node **node) {
    const Token *start = token_next(p);
    if (start->kind == TOKEN_LBRACKET) {
        TRY(parse_enter(p));
        TRY(parse_subscribed(p, node, start));
        parse_leave(p);
        if (p->token->kind == TOKEN_COMMA)
            return parse_unsupported(p, p->token, "a tuple in [ ] is");
        return token_expect(p, TOKEN_RBRACKET);
    }
    const Token *token = token_next(p);
    Node *result = node_new(p, token->kind == TOKEN_NAME ? NODE_ATTR : NODE_ITEM, token);
    result->a = *node;
    result->text = token->text;
    if (token->kind == TOKEN_INTEGER) {
        result->b = node_new(p, NODE_INTEGER, token);
        result->b->integer = token->integer;
    } else if (token->kind != TOKEN_NAME) {
        return parse_fail(p, token, "expected a name or a number behind '.'");
    }
    TRY(node_hold(p, result, (*node)->depth));
    *node = result;
    return true;
}

static bool parse_postfix(Parser *p, Node **node) {
    for (;;) {
        TokenKind kind = p->token->kind;
        if (kind == TOKEN_DOT || kind == TOKEN_LBRACKET)
            TRY(parse_subscript(p, node));
        else if (kind == TOKEN_LPAREN)
            TRY(parse_call(p, node));
        else
            return true;
    }
}

static int name_id(const char *const *names, size_t count, Bytes name) {
    for (size_t id = 0; id < count; id++) {
        if (bytes_are(name, names[id]))
            return (int)id;
    }
    return -1;
}

#define TABLE_NAME(text, c_name) text,
static const char *const filter_names[] = {TEMPLATE_FILTERS(TABLE_NAME)};
static const char *const test_names[] = {TEMPLATE_TESTS(TABLE_NAME)};
#undef TABLE_NAME

// NAME or NAME(arguments), behind | or at the start of a filter block, over *node.
bool parse_filter(Parser *p, Node **node) {
    const Token *token = p->token;
    Node *filter = node_new(p, NODE_FILTER, token);
    TRY(token_expect_name(p, &filter->text));
    filter->op = name_id(filter_names, sizeof filter_names / sizeof filter_names[0], filter->text);
    if (filter->op < 0)
        return fail(p->err, ERR_UNSUPPORTED, 936,
                    "%s: line %d, column %d: the filter \"%.*s\" is not supported", p->name,
                    token->line, token->column, (int)(filter->text.size & 63), filter->text.data);
    filter->a = *node;
    if (*node)
        TRY(node_hold(p, filter, (*node)->depth));
    *node = filter;
    return p->token->kind == TOKEN_LPAREN ? parse_arguments(p, filter) : true;
}

// A test's one argument may stand without parentheses.
static bool parse_test_argument(Parser *p, Node *test) {
    TokenKind kind = p->token->kind;
    if (kind == TOKEN_LPAREN)
        return parse_arguments(p, test);
    bool starts = kind == TOKEN_NAME || kind == TOKEN_STRING || kind == TOKEN_INTEGER ||
                  kind == TOKEN_FLOAT || kind == TOKEN_LBRACKET || kind == TOKEN_LBRACE;
    if (!starts || token_is(p, "else") || token_is(p, "or") || token_is(p, "and"))
        return true;
    if (token_is(p, "is"))
        return parse_fail(p, p->token, "tests cannot be chained with is");
    TRY(parse_primary(p, &test->list));
    TRY(parse_postfix(p, &test->list));
    return node_hold(p, test, test->list->depth);
}

static bool parse_test(Parser *p, Node **node) {
    const Token *start = token_next(p);
    bool negated = token_skip_name(p, "not");
    const Token *token = p->token;
    Node *test = node_new(p, NODE_TEST, token);
    TRY(token_expect_name(p, &test->text));
    test->op = name_id(test_names, sizeof test_names / sizeof test_names[0], test->text);
    if (test->op < 0)
        return fail(p->err, ERR_UNSUPPORTED, 937,
                    "%s: line %d, column %d: the test \"%.*s\" is not supported", p->name,
                    token->line, token->column, (int)(test->text.size & 63), test->text.data);
    test->a = *node;
    TRY(node_hold(p, test, (*node)->depth));
    TRY(parse_test_argument(p, test));
    *node = test;
    if (negated) {
        *node = node_new(p, NODE_UNARY, start);
        (*node)->op = TEMPLATE_OP_NOT;
        (*node)->a = test;
        TRY(node_hold(p, *node, test->depth));
    }
    return true;
}

static bool parse_filters(Parser *p, Node **node) {
    for (;;) {
        if (token_skip(p, TOKEN_PIPE))
            TRY(parse_filter(p, node));
        else if (token_is(p, "is"))
            TRY(parse_test(p, node));
        else if (p->token->kind == TOKEN_LPAREN)
            TRY(parse_call(p, node));
        else
            return true;
    }
}

static bool parse_unary(Parser *p, bool filters, Node **out) {
    const Token *token = p->token;
    if (token->kind == TOKEN_SUB || token->kind == TOKEN_ADD) {
        Node *inner;
        token_next(p);
        TRY(parse_enter(p));
        TRY(parse_unary(p, false, &inner));
        parse_leave(p);
        *out = node_new(p, NODE_UNARY, token);
        (*out)->op = token->kind == TOKEN_SUB ? TEMPLATE_OP_NEG : TEMPLATE_OP_POS;
        (*out)->a = inner;
        TRY(node_hold(p, *out, inner->depth));
    } else {
        TRY(parse_primary(p, out));
    }
    TRY(parse_postfix(p, out));
    return filters ? parse_filters(p, out) : true;
}

// Binary operators from the strongest to the weakest, below comparisons.
typedef struct Operator {
    TokenKind token;
    int op;
    int level;
} Operator;

static const Operator operators[] = {
    {TOKEN_POW, TEMPLATE_OP_POW, 0}, {TOKEN_MUL, TEMPLATE_OP_MUL, 1},
    {TOKEN_DIV, TEMPLATE_OP_DIV, 1}, {TOKEN_FLOORDIV, TEMPLATE_OP_FLOORDIV, 1},
    {TOKEN_MOD, TEMPLATE_OP_MOD, 1}, {TOKEN_ADD, TEMPLATE_OP_ADD, 3},
    {TOKEN_SUB, TEMPLATE_OP_SUB, 3}, {TOKEN_EQ, TEMPLATE_OP_EQ, 4},
    {TOKEN_NE, TEMPLATE_OP_NE, 4},   {TOKEN_LT, TEMPLATE_OP_LT, 4},
    {TOKEN_LE, TEMPLATE_OP_LE, 4},   {TOKEN_GT, TEMPLATE_OP_GT, 4},
    {TOKEN_GE, TEMPLATE_OP_GE, 4},
};

static const Operator *operator_at(const Parser *p, int level) {
    for (size_t which = 0; which < sizeof operators / sizeof operators[0]; which++) {
        if (operators[which].level == level && operators[which].token == p->token->kind)
            return &operators[which];
    }
    return NULL;
}

static bool parse_power(Parser *p, Node **out) {
    TRY(parse_unary(p, true, out));
    while (token_skip(p, TOKEN_POW)) {
        Node *right;
        TRY(parse_unary(p, true, &right));
        TRY(binary(p, NODE_BINARY, TEMPLATE_OP_POW, out, right));
    }
    return true;
}

static bool parse_product(Parser *p, Node **out) {
    const Operator *found;
    TRY(parse_power(p, out));
    while ((found = operator_at(p, 1))) {
        Node *right;
        token_next(p);
        TRY(parse_power(p, &right));
        TRY(binary(p, NODE_BINARY, found->op, out, right));
    }
    return true;
}

static bool parse_concat(Parser *p, Node **out) {
    const Token *start = p->token;
    NodeList list = {0};
    do {
        Node *item;
        TRY(parse_product(p, &item));
        node_append(&list, item);
    } while (token_skip(p, TOKEN_TILDE));
    *out = list.first;
    if (list.count == 1)
        return true;
    *out = node_new(p, NODE_CONCAT, start);
    (*out)->list = list.first;
    return node_hold(p, *out, list.depth);
}

static bool parse_sum(Parser *p, Node **out) {
    const Operator *found;
    TRY(parse_concat(p, out));
    while ((found = operator_at(p, 3))) {
        Node *right;
        token_next(p);
        TRY(parse_concat(p, &right));
        TRY(binary(p, NODE_BINARY, found->op, out, right));
    }
    return true;
}

// The comparison that stands here, or -1.
static int comparison_at(const Parser *p) {
    const Operator *found = operator_at(p, 4);
    if (found)
        return found->op;
    if (token_is(p, "in"))
        return TEMPLATE_OP_IN;
    bool not_in =
        token_is(p, "not") && p->token[1].kind == TOKEN_NAME && bytes_are(p->token[1].text, "in");
    return not_in ? TEMPLATE_OP_NOT_IN : -1;
}

// a < b < c is a < b and b < c, with b twice in the tree. So that it does not double at every level,
// b must be short.
static bool parse_comparison(Parser *p, Node **out) {
    Node *left, *right, *pair;
    int op;
    TRY(parse_sum(p, out));
    left = *out;
    for (int count = 0; (op = comparison_at(p)) >= 0; count++) {
        if (left->depth > MAX_SHARED_DEPTH && count)
            return parse_unsupported(p, p->token, "a chain of comparisons of long expressions is");
        p->token += op == TEMPLATE_OP_NOT_IN ? 2 : 1;
        TRY(parse_sum(p, &right));
        pair = left;
        TRY(binary(p, NODE_BINARY, op, &pair, right));
        if (count)
            TRY(binary(p, NODE_AND, 0, out, pair));
        else
            *out = pair;
        left = right;
    }
    return true;
}

static bool parse_not(Parser *p, Node **out) {
    const Token *start = p->token;
    int count = 0;
    while (token_skip_name(p, "not"))
        count++;
    TRY(parse_comparison(p, out));
    for (; count > 0; count--) {
        Node *node = node_new(p, NODE_UNARY, start);
        node->op = TEMPLATE_OP_NOT;
        node->a = *out;
        TRY(node_hold(p, node, (*out)->depth));
        *out = node;
    }
    return true;
}

static bool parse_and(Parser *p, Node **out) {
    TRY(parse_not(p, out));
    while (token_skip_name(p, "and")) {
        Node *right;
        TRY(parse_not(p, &right));
        TRY(binary(p, NODE_AND, 0, out, right));
    }
    return true;
}

static bool parse_or(Parser *p, Node **out) {
    TRY(parse_and(p, out));
    while (token_skip_name(p, "or")) {
        Node *right;
        TRY(parse_and(p, &right));
        TRY(binary(p, NODE_OR, 0, out, right));
    }
    return true;
}

// a if b else c; `condition` false: only what binds more tightly.
bool parse_expression(Parser *p, bool condition, Node **out) {
    TRY(parse_enter(p));
    TRY(parse_or(p, out));
    while (condition && token_is(p, "if")) {
        Node *node = node_new(p, NODE_CONDITION, token_next(p));
        node->b = *out;
        TRY(parse_or(p, &node->a));
        if (token_skip_name(p, "else")) {
            TRY(parse_expression(p, true, &node->c));
            TRY(node_hold(p, node, node->c->depth));
        }
        TRY(node_hold(p, node, node->a->depth));
        TRY(node_hold(p, node, node->b->depth));
        *out = node;
    }
    parse_leave(p);
    return true;
}
