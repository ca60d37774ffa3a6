// The graph: typed ops on values of [tokens, width], and the packed tensors they read. A builder
// that only appends, and a printer with one line per op; graph_verify.c holds the rules.
// Non-goals: shape inference (whoever builds a graph states the widths; the verifier checks them)
// and control flow (a step of a language model has none).
#include "compile.h"

#include <inttypes.h>
#include <string.h>

static const char *const op_names[OP_COUNT] = {
#define OP_NAME(kind, name) [OP_##kind] = name,
    OP_LIST(OP_NAME)
#undef OP_NAME
};

const char *op_name(OpKind kind) {
    return (unsigned)kind < OP_COUNT ? op_names[kind] : "?";
}

// ---- builder ------------------------------------------------------------------------------------

// Arena blocks are never freed, so growth copies.
void *array_grow(Arena *a, void *items, int count, int *capacity, size_t elem_bytes) {
    if (count < *capacity)
        return items;
    int wanted = *capacity ? *capacity * 2 : 64;
    void *bigger = arena_array(a, (size_t)wanted, elem_bytes);
    if (count)
        memcpy(bigger, items, (size_t)count * elem_bytes);
    *capacity = wanted;
    return bigger;
}

Graph graph_new(Arena *a) {
    return (Graph){.hidden = -1, .logits = -1, .head_first = -1, .arena = a};
}

int graph_value(Graph *g, const char *name, ValueType type, int64_t width) {
    g->values = array_grow(g->arena, g->values, g->value_count, &g->value_capacity, sizeof *g->values);
    g->values[g->value_count] = (Value){.name = name, .type = type, .width = width, .producer = -1};
    return g->value_count++;
}

Op *graph_op(Graph *g, OpKind kind, int layer) {
    g->ops = array_grow(g->arena, g->ops, g->op_count, &g->op_capacity, sizeof *g->ops);
    Op *op = &g->ops[g->op_count++];
    *op = (Op){.kind = kind, .layer = layer, .inputs = {-1, -1, -1}, .output = -1};
    if (kind == OP_LINEAR) {
        op->linear.weight = op->linear.bias = op->linear.inv_freq = -1;
        op->linear.norm_weight = op->linear.norm_order = -1;
        op->linear.scale = 1;
    } else if (kind == OP_NORM) {
        op->norm.order = -1;
    } else if (kind == OP_ATTENTION) {
        op->attention.places = -1;
    } else if (kind == OP_EXPERTS_UP || kind == OP_EXPERTS_DOWN) {
        op->experts.slots = op->experts.order = -1;
    } else if (kind == OP_EMBED) {
        op->embed.scale = 1;
    } else if (kind == OP_ADD) {
        op->add.scale = 1;
    }
    return op;
}

static PackedTensor *packed_new(Graph *g, PackedKind kind, const char *name) {
    g->packed = array_grow(g->arena, g->packed, g->packed_count, &g->packed_capacity, sizeof *g->packed);
    PackedTensor *t = &g->packed[g->packed_count++];
    *t = (PackedTensor){.kind = kind, .name = name, .offset = -1};
    return t;
}

int graph_experts_weight(Graph *g, const char *name, const Weight *const *parts, int part_count,
                         int experts) {
    PackedTensor *t = packed_new(g, PACKED_LINEAR, name);
    t->part_count = part_count;
    t->experts = experts;
    t->order = ROWS_PLAIN;
    t->parts = ARENA_NEW(g->arena, const Weight *, part_count * experts);
    memcpy(t->parts, parts, (size_t)(part_count * experts) * sizeof *parts);
    for (int part = 0; part < part_count; part++)
        t->out_features += parts[part]->out_features;
    if (!packed_choose(t, g->dtype, g->arena)) {
        g->packed_count--;
        return -1;
    }
    return g->packed_count - 1;
}

int graph_linear_weight(Graph *g, const char *name, const Weight *const *parts, int part_count) {
    return graph_experts_weight(g, name, parts, part_count, 1);
}

int graph_vector(Graph *g, const char *name, const float *values, int64_t count) {
    PackedTensor *t = packed_new(g, PACKED_VECTOR, name);
    t->values = values;
    t->count = count;
    return g->packed_count - 1;
}

int graph_index(Graph *g, const char *name, const int32_t *indices, int64_t count) {
    PackedTensor *t = packed_new(g, PACKED_INDEX, name);
    t->indices = indices;
    t->count = count;
    return g->packed_count - 1;
}

int op_packed_names(Op *op, int *names[OP_MAX_PACKED]) {
    int count = 0;
    switch (op->kind) {
    case OP_EMBED:
        names[count++] = &op->embed.table;
        break;
    case OP_NORM:
        names[count++] = &op->norm.weight;
        names[count++] = &op->norm.order;
        break;
    case OP_LINEAR:
        names[count++] = &op->linear.weight;
        names[count++] = &op->linear.bias;
        names[count++] = &op->linear.norm_weight;
        names[count++] = &op->linear.norm_order;
        names[count++] = &op->linear.inv_freq;
        break;
    case OP_ROPE:
        names[count++] = &op->rope.inv_freq;
        break;
    case OP_ATTENTION:
        names[count++] = &op->attention.places;
        break;
    case OP_PERMUTE:
        names[count++] = &op->permute.order;
        break;
    case OP_EXPERTS_UP:
    case OP_EXPERTS_DOWN:
        names[count++] = &op->experts.weight;
        names[count++] = &op->experts.slots;
        names[count++] = &op->experts.order;
        break;
    case OP_KV_APPEND:
    case OP_ACT_MUL:
    case OP_ADD:
    case OP_ROUTE:
    case OP_GATHER:
    case OP_COUNT:
        break;
    }
    return count;
}

void op_packed(const Op *op, int out[OP_MAX_PACKED]) {
    Op copy = *op;
    int *names[OP_MAX_PACKED];
    int count = op_packed_names(&copy, names);
    for (int at = 0; at < OP_MAX_PACKED; at++)
        out[at] = at < count ? *names[at] : -1;
}

// ---- printer ------------------------------------------------------------------------------------

static void tensor_print(const Graph *g, int index, FILE *out) {
    const PackedTensor *t = &g->packed[index];
    if (t->kind == PACKED_VECTOR)
        fprintf(out, " %s[%" PRId64 "]", t->name, t->count);
    else if (t->bits == 16)
        fprintf(out, " %s[%" PRId64 "x%" PRId64 " 16-bit]", t->name, t->out_features,
                t->in_features);
    else
        fprintf(out, " %s[%" PRId64 "x%" PRId64 " %d-bit g%d]", t->name, t->out_features,
                t->in_features, t->bits, t->group);
}

static void attributes_print(const Op *op, FILE *out) {
    static const char *const epilogues[] = {"", " + add", " + act_mul", " + rope_kv"};
    static const char *const acts[] = {"silu", "gelu_tanh", "gelu"}; // ORDER ACTIVATIONS
    if (op->kind == OP_LINEAR) {
        fprintf(out, "%s%s", op->linear.prologue == PROLOGUE_NORM ? " norm" : "",
                epilogues[op->linear.epilogue]);
        if (op->linear.epilogue == EPILOGUE_ACT_MUL)
            fprintf(out, " %s", acts[op->linear.act]);
    } else if (op->kind == OP_ATTENTION) {
        fprintf(out, " heads %" PRId64 "/%" PRId64 " x %" PRId64, op->attention.heads,
                op->attention.kv_heads, op->attention.head_dim);
    } else if (op->kind == OP_ACT_MUL) {
        fprintf(out, " %s", acts[op->act_mul.act]);
    }
}

static void value_print(const Graph *g, int value, FILE *out) {
    const Value *v = &g->values[value];
    fprintf(out, " %s:%s[%" PRId64 "]", v->name, v->type == VALUE_F32 ? "f32" : "act", v->width);
}

void graph_print(const Graph *g, FILE *out) {
    for (int index = 0; index < g->op_count; index++) {
        const Op *op = &g->ops[index];
        fprintf(out, "%4d", index);
        if (op->layer >= 0)
            fprintf(out, " L%-3d", op->layer);
        else
            fputs("     ", out);
        fprintf(out, " %-9s", op_name(op->kind));
        attributes_print(op, out);
        for (int at = 0; at < 3; at++)
            if (op->inputs[at] >= 0)
                value_print(g, op->inputs[at], out);
        int read[OP_MAX_PACKED];
        op_packed(op, read);
        for (int at = 0; at < OP_MAX_PACKED; at++)
            if (read[at] >= 0)
                tensor_print(g, read[at], out);
        if (op->output >= 0) {
            fputs(" ->", out);
            value_print(g, op->output, out);
        }
        fputc('\n', out);
    }
}
