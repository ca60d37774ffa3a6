// Fragments after Thompson (Regular Expression Search Algorithm, 1968), with calls and counted
// repeats beside his five forms. Nothing is ever copied, so an automaton is as large as its
// source, whatever numbers stand in it.
#include "grammar_nfa.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void nfa_free(Nfa *n) {
    free(n->nodes);
    free(n->rules);
    *n = (Nfa){.nodes = NULL};
}

void nfa_fail(Nfa *n, ErrorCode code, int id, const char *format, ...) {
    if (n->failed)
        return;
    va_list args;
    va_start(args, format);
    n->failed = true;
    n->error.code = code;
    n->error.id = id;
    vsnprintf(n->error.message, sizeof n->error.message, format, args);
    va_end(args);
}

enum { NOWHERE = -1 }; // Node.next of an open end

// ---- building -----------------------------------------------------------------------------------

// Doubles *room until it holds `count` elements.
static bool grow(void **items, int32_t *room, int32_t count, size_t elem_bytes) {
    if (count <= *room)
        return true;
    int32_t wanted = *room ? 2 * *room : 256;
    void *bigger = realloc(*items, (size_t)wanted * elem_bytes);
    if (!bigger)
        return false;
    *items = bigger;
    *room = wanted;
    return true;
}

// 0, the common RETURN, after a failure.
static int32_t add(Nfa *n, Node node) {
    void *nodes = n->nodes;
    if (!n->failed && n->count >= NFA_MAX_NODES)
        nfa_fail(n, ERR_RESOURCE, 1200,
                 "the schema or expression is too large: more than %d states; make it smaller",
                 NFA_MAX_NODES);
    if (n->failed)
        return 0;
    if (!grow(&nodes, &n->room, n->count + 2, sizeof node)) {
        nfa_fail(n, ERR_RESOURCE, 1201, "no memory for a grammar");
        return 0;
    }
    n->nodes = nodes;
    if (n->count == 0)
        n->nodes[n->count++] = (Node){.kind = NODE_RETURN};
    n->nodes[n->count] = node;
    return n->count++;
}

// Where the part `from` goes on. After a failure there is nothing to lead.
static void lead(Nfa *n, int32_t from, int32_t to) {
    if (!n->failed)
        n->nodes[from].next = to;
}

int32_t nfa_place(Nfa *n) {
    return add(n, (Node){.kind = NODE_EMPTY, .next = NOWHERE});
}

void nfa_edge(Nfa *n, int32_t place, int32_t to) {
    if (n->failed)
        return;
    Node old = n->nodes[place];
    if (old.next == NOWHERE) {
        n->nodes[place].next = to;
        return;
    }
    int32_t more = add(n, old);
    if (!n->failed)
        n->nodes[place] = (Node){.kind = NODE_SPLIT, .next = to, .other = more};
}

Fragment nfa_empty(Nfa *n) {
    int32_t node = nfa_place(n);
    return (Fragment){node, node};
}

static Fragment single(Nfa *n, Node node) {
    Fragment f = {0, nfa_place(n)};
    node.next = f.end;
    f.start = add(n, node);
    return f;
}

Fragment nfa_never(Nfa *n) {
    return single(n, (Node){.kind = NODE_NEVER});
}

Fragment nfa_bytes(Nfa *n, unsigned low, unsigned high) {
    return single(n, (Node){.kind = NODE_BYTES, .low = (uint8_t)low, .high = (uint8_t)high});
}

Fragment nfa_text(Nfa *n, const void *text, size_t size) {
    const unsigned char *bytes = text;
    Fragment all = nfa_empty(n);
    for (size_t at = 0; at < size && !n->failed; at++)
        all = nfa_then(n, all, nfa_bytes(n, bytes[at], bytes[at]));
    return all;
}

Fragment nfa_then(Nfa *n, Fragment a, Fragment b) {
    lead(n, a.end, b.start);
    return (Fragment){a.start, b.end};
}

Fragment nfa_either(Nfa *n, Fragment a, Fragment b) {
    int32_t split = add(n, (Node){.kind = NODE_SPLIT, .next = a.start, .other = b.start});
    lead(n, a.end, b.end);
    return (Fragment){split, b.end};
}

// a*, or a+ if once.
static Fragment loop(Nfa *n, Fragment a, bool once) {
    int32_t end = nfa_place(n);
    int32_t split = add(n, (Node){.kind = NODE_SPLIT, .next = a.start, .other = end});
    lead(n, a.end, split);
    return (Fragment){once ? a.start : split, end};
}

Fragment nfa_repeat(Nfa *n, Fragment a, int32_t min, int32_t max) {
    if (max == 0)
        return nfa_empty(n);
    if (min == 1 && max == 1)
        return a;
    if (min <= 1 && max == NFA_UNBOUNDED)
        return loop(n, a, min == 1);
    if (min == 0 && max == 1)
        return nfa_either(n, a, nfa_empty(n));
    lead(n, a.end, 0);
    return single(n, (Node){.kind = NODE_REPEAT, .other = a.start, .min = min, .max = max});
}

int32_t nfa_rule(Nfa *n) {
    void *rules = n->rules;
    if (n->failed)
        return 0;
    if (!grow(&rules, &n->rule_room, n->rule_count + 1, sizeof *n->rules)) {
        nfa_fail(n, ERR_RESOURCE, 1202, "no memory for a grammar's rules");
        return 0;
    }
    n->rules = rules;
    n->rules[n->rule_count] = -1;
    return n->rule_count++;
}

void nfa_rule_set(Nfa *n, int32_t rule, Fragment body) {
    lead(n, body.end, 0);
    if (!n->failed)
        n->rules[rule] = body.start;
}

Fragment nfa_call(Nfa *n, int32_t rule) {
    return single(n, (Node){.kind = NODE_CALL, .other = rule});
}

// ---- measuring ----------------------------------------------------------------------------------
//
// need(RETURN) = 0; a call needs one frame more than its rule; a split needs the smaller of both.
// Found in ascending order, each node once, along the edges backwards (Dijkstra's way, with a
// maximum for a sum).

typedef struct Measure {
    Nfa *n;
    int32_t *first, *sources; // edges backwards: those into node i are at first[i] .. first[i + 1]
    int32_t *found;           // [count] NFA_ENDLESS: not yet
    int32_t *chain, *heads;   // nodes by value: heads[value], then chain[node]; -1: the end
    bool silent;              // only what takes the empty text
} Measure;

static bool leads_next(const Node *v) {
    return v->kind != NODE_RETURN && v->kind != NODE_NEVER;
}

static bool leads_other(const Node *v) {
    return v->kind == NODE_SPLIT || v->kind == NODE_CALL || v->kind == NODE_REPEAT;
}

static int32_t other_of(const Nfa *n, const Node *v) {
    return v->kind == NODE_CALL ? n->rules[v->other] : v->other;
}

static bool edges_make(Measure *m) {
    const Nfa *n = m->n;
    size_t count = (size_t)n->count;
    m->first = calloc(count + 2, sizeof *m->first);
    m->sources = calloc(2 * count + 1, sizeof *m->sources);
    if (!m->first || !m->sources)
        return false;
    for (int pass = 0; pass < 2; pass++) { // counts, then fills
        for (int32_t at = 0; at < n->count; at++) {
            const Node *v = &n->nodes[at];
            int32_t ends[2] = {leads_next(v) ? v->next : -1, leads_other(v) ? other_of(n, v) : -1};
            for (int which = 0; which < 2; which++)
                if (ends[which] >= 0 && pass == 0)
                    m->first[ends[which] + 2]++;
                else if (ends[which] >= 0)
                    m->sources[m->first[ends[which] + 1]++] = at;
        }
        for (int32_t at = 0; pass == 0 && at < n->count; at++)
            m->first[at + 2] += m->first[at + 1];
    }
    return true;
}

// What a node needs by what is known of the nodes behind it.
static int32_t need_of(const Measure *m, const Node *v) {
    const Nfa *n = m->n;
    int32_t next = leads_next(v) ? m->found[v->next] : NFA_ENDLESS;
    int32_t other = leads_other(v) ? m->found[other_of(n, v)] : NFA_ENDLESS;
    int32_t inside = other < NFA_ENDLESS ? other + 1 : NFA_ENDLESS;
    switch ((NodeKind)v->kind) {
    case NODE_RETURN:
        return 0;
    case NODE_BYTES:
        return m->silent ? NFA_ENDLESS : next;
    case NODE_EMPTY:
        return next;
    case NODE_SPLIT:
        return next < other ? next : other;
    case NODE_CALL:
        return next > inside ? next : inside;
    case NODE_REPEAT:
        return v->min == 0 || next > inside ? next : inside;
    case NODE_NEVER:
        break;
    }
    return NFA_ENDLESS;
}

static void found_add(Measure *m, int32_t node, int32_t value) {
    if (m->found[node] != NFA_ENDLESS || value > NFA_MAX_DEPTH)
        return;
    m->found[node] = value;
    m->chain[node] = m->heads[value];
    m->heads[value] = node;
}

static void measure(Measure *m) {
    const Nfa *n = m->n;
    for (int32_t at = 0; at < n->count; at++)
        m->found[at] = NFA_ENDLESS;
    for (int32_t value = 0; value <= NFA_MAX_DEPTH; value++)
        m->heads[value] = -1;
    for (int32_t at = 0; at < n->count; at++)
        if (n->nodes[at].kind == NODE_RETURN)
            found_add(m, at, 0);
    for (int32_t value = 0; value <= NFA_MAX_DEPTH; value++)
        while (m->heads[value] >= 0) {
            int32_t node = m->heads[value];
            m->heads[value] = m->chain[node];
            for (int32_t edge = m->first[node]; edge < m->first[node + 1]; edge++)
                found_add(m, m->sources[edge], need_of(m, &n->nodes[m->sources[edge]]));
        }
}

static bool measure_all(Nfa *n) {
    size_t count = (size_t)n->count;
    Measure m = {.n = n};
    m.found = calloc(count, sizeof *m.found);
    m.chain = calloc(count, sizeof *m.chain);
    m.heads = calloc(NFA_MAX_DEPTH + 1, sizeof *m.heads);
    bool done = m.found && m.chain && m.heads && edges_make(&m);
    if (done) {
        m.silent = true;
        measure(&m);
        for (int32_t at = 0; at < n->count; at++) {
            Node *v = &n->nodes[at];
            v->nullable = v->kind == NODE_REPEAT && m.found[v->other] < NFA_ENDLESS;
            v->min = v->nullable ? 0 : v->min; // empty turns fill up what is missing
        }
        m.silent = false;
        measure(&m);
        for (int32_t at = 0; at < n->count; at++)
            n->nodes[at].need = m.found[at];
    }
    free(m.first);
    free(m.sources);
    free(m.found);
    free(m.chain);
    free(m.heads);
    return done;
}

// Leads past EMPTY nodes. Loops go through a SPLIT, so this ends.
static int32_t target(const Nfa *n, int32_t node) {
    while (node != NOWHERE && n->nodes[node].kind == NODE_EMPTY)
        node = n->nodes[node].next;
    return node == NOWHERE ? 0 : node; // what led nowhere is not reached
}

static void shorten(Nfa *n) {
    for (int32_t at = 0; at < n->count; at++) {
        Node *v = &n->nodes[at];
        v->next = target(n, v->next);
        if (v->kind == NODE_SPLIT || v->kind == NODE_REPEAT)
            v->other = target(n, v->other);
    }
    for (int32_t at = 0; at < n->rule_count; at++)
        n->rules[at] = target(n, n->rules[at]);
}

// Bytes that every node treats alike are one class.
static void classes_make(Nfa *n) {
    bool starts[257] = {true};
    for (int32_t at = 0; at < n->count; at++)
        if (n->nodes[at].kind == NODE_BYTES)
            starts[n->nodes[at].low] = starts[n->nodes[at].high + 1] = true;
    n->class_count = 0;
    for (int byte = 0; byte < 256; byte++) {
        if (starts[byte])
            n->class_byte[n->class_count++] = (uint8_t)byte;
        n->classes[byte] = (uint8_t)(n->class_count - 1);
    }
}

bool nfa_finish(Nfa *n, int32_t rule, Error *err) {
    for (int32_t at = 0; at < n->rule_count; at++)
        if (!n->failed && n->rules[at] < 0)
            nfa_fail(n, ERR_INTERNAL, 1203, "rule %d of a grammar has no body", at);
    if (!n->failed)
        shorten(n);
    if (!n->failed && !measure_all(n))
        nfa_fail(n, ERR_RESOURCE, 1204, "no memory to measure a grammar");
    if (!n->failed) {
        classes_make(n);
        n->start = n->rules[rule];
        if (n->nodes[n->start].need > NFA_MAX_DEPTH)
            nfa_fail(n, ERR_USAGE, 1205,
                     "no text is valid: the schema contradicts itself, or asks for endless or too "
                     "deep nesting");
    }
    if (n->failed)
        *err = n->error;
    return !n->failed;
}
