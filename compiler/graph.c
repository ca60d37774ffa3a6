// The graph: typed ops on values of [tokens, width], and the packed tensors they read.
//
// Three parts: a builder that only appends, a verifier with one message per rule, and a printer
// with one line per op. A graph is correct by its own text: nothing here knows an architecture.
// Non-goals: shape inference (whoever builds a graph states the widths; the verifier checks them)
// and control flow (a step of a language model has none).
#include "compile.h"

#include <inttypes.h>
#include <stdarg.h>
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
        op->linear.weight = -1;
        op->linear.bias = -1;
        op->linear.norm_weight = -1;
        op->linear.inv_freq = -1;
    }
    return op;
}

static PackedTensor *packed_new(Graph *g, PackedKind kind, const char *name) {
    g->packed = array_grow(g->arena, g->packed, g->packed_count, &g->packed_capacity, sizeof *g->packed);
    PackedTensor *t = &g->packed[g->packed_count++];
    *t = (PackedTensor){.kind = kind, .name = name, .offset = -1};
    return t;
}

// k elements per stored scale. A coarser group is stored as several finer ones with the scale
// repeated, which is exact; one group over all of K is stored as 128 whatever K is.
static int stored_group(const Weight *w) {
    if (w->bits == 16)
        return 0;
    if (w->groups == 1 || w->group_size % 128 == 0)
        return 128;
    return w->group_size % 64 == 0 ? 64 : 32;
}

// k elements of one record of layout tile16; 0: there is no such layout.
static int64_t record_elems(int bits, int group) {
    static const struct {
        int bits, group, elems;
    } records[] = {
        {4, 128, 128}, {4, 64, 64}, {4, 32, 64}, {8, 128, 128}, {8, 64, 64}, {8, 32, 32}, {16, 0, 64},
    };
    for (size_t at = 0; at < sizeof records / sizeof *records; at++)
        if (records[at].bits == bits && records[at].group == group)
            return records[at].elems;
    return 0;
}

int graph_linear_weight(Graph *g, const char *name, const Weight *const *parts, int part_count) {
    PackedTensor *t = packed_new(g, PACKED_LINEAR, name);
    t->part_count = part_count;
    t->order = ROWS_PLAIN;
    t->in_features = parts[0]->in_features;
    t->bits = parts[0]->bits;
    t->group = stored_group(parts[0]);
    for (int part = 0; part < part_count && part < LINEAR_MAX_PARTS; part++) {
        t->parts[part] = parts[part];
        t->out_features += parts[part]->out_features;
    }
    int64_t record = record_elems(t->bits, t->group);
    t->rows = (int64_t)round_up((uint64_t)t->out_features, 16);
    t->k_padded = record ? ceil_div(t->in_features, record) * record : 0;
    return g->packed_count - 1;
}

int graph_vector(Graph *g, const char *name, const float *values, int64_t count) {
    PackedTensor *t = packed_new(g, PACKED_VECTOR, name);
    t->values = values;
    t->count = count;
    return g->packed_count - 1;
}

// ---- verifier -----------------------------------------------------------------------------------

// What a kind of op takes and gives.
typedef struct Signature {
    int input_count;
    int input_types[3]; // ValueType, or ANY
    int output_type;    // ValueType, ANY, or NONE
} Signature;

enum { ANY = -1, NONE = -2 };

static const Signature signatures[OP_COUNT] = {
    [OP_EMBED]     = {0, {ANY, ANY, ANY}, VALUE_F32},
    [OP_NORM]      = {1, {VALUE_F32, ANY, ANY}, VALUE_ACT},
    [OP_LINEAR]    = {1, {ANY, ANY, ANY}, ANY},
    [OP_ROPE]      = {1, {VALUE_ACT, ANY, ANY}, VALUE_ACT},
    [OP_KV_APPEND] = {2, {VALUE_ACT, VALUE_ACT, ANY}, NONE},
    [OP_ATTENTION] = {1, {VALUE_ACT, ANY, ANY}, VALUE_ACT},
    [OP_ACT_MUL]   = {2, {VALUE_ACT, VALUE_ACT, ANY}, VALUE_ACT},
    [OP_ADD]       = {2, {VALUE_F32, VALUE_ACT, ANY}, VALUE_F32},
    [OP_GATHER]    = {1, {VALUE_F32, ANY, ANY}, VALUE_F32},
};

static Signature signature_of(const Op *op) {
    Signature s = signatures[op->kind];
    if (op->kind != OP_LINEAR)
        return s;
    s.input_types[0] = op->linear.prologue == PROLOGUE_NORM ? VALUE_F32 : VALUE_ACT;
    if (op->linear.epilogue == EPILOGUE_ADD) {
        s.input_count = 2;
        s.input_types[1] = VALUE_F32;
        s.output_type = VALUE_F32;
    } else if (op->linear.epilogue != EPILOGUE_STORE) {
        s.output_type = VALUE_ACT;
    }
    return s;
}

// The op that is being checked, so that a message can name it.
typedef struct Check {
    const Graph *g;
    const Op *op;
    const int *definer; // [value_count]: op that defines it, -1: none yet
    Error *err;
} Check;

__attribute__((format(printf, 3, 4))) static bool broken(const Check *c, int id, const char *format,
                                                         ...) {
    char rule[300];
    va_list args;
    va_start(args, format);
    vsnprintf(rule, sizeof rule, format, args);
    va_end(args);
    return fail(c->err, ERR_INTERNAL, id, "graph: op %d (%s, layer %d): %s",
                (int)(c->op - c->g->ops), op_name(c->op->kind), c->op->layer, rule);
}

static int64_t width_of(const Check *c, int value) {
    return c->g->values[value].width;
}

static bool type_fits(const Graph *g, int value, int type) {
    return type == ANY || g->values[value].type == (ValueType)type;
}

static bool operands_verify(const Check *c) {
    const Graph *g = c->g;
    Signature s = signature_of(c->op);
    for (int at = 0; at < 3; at++) {
        int value = c->op->inputs[at];
        if (at >= s.input_count) {
            if (value != -1)
                return broken(c, 402, "input %d is given, but the op takes %d", at, s.input_count);
            continue;
        }
        if (value < 0 || value >= g->value_count)
            return broken(c, 403, "input %d is value %d of %d", at, value, g->value_count);
        if (c->definer[value] < 0)
            return broken(c, 404, "input %s is used before it is defined", g->values[value].name);
        if (!type_fits(g, value, s.input_types[at]))
            return broken(c, 405, "input %s has the wrong type", g->values[value].name);
    }
    int output = c->op->output;
    if (s.output_type == NONE) {
        if (output != -1)
            return broken(c, 406, "it has an output, but the op gives none");
        return true;
    }
    if (output < 0 || output >= g->value_count)
        return broken(c, 407, "output is value %d of %d", output, g->value_count);
    if (c->definer[output] >= 0)
        return broken(c, 408, "%s is defined a second time", g->values[output].name);
    if (g->values[output].width <= 0)
        return broken(c, 409, "%s has width %" PRId64, g->values[output].name, width_of(c, output));
    if (!type_fits(g, output, s.output_type))
        return broken(c, 410, "output %s has the wrong type", g->values[output].name);
    return true;
}

static bool linear_tensor_verify(const Check *c, int index) {
    if (index < 0 || index >= c->g->packed_count || c->g->packed[index].kind != PACKED_LINEAR)
        return broken(c, 411, "packed tensor %d is no linear weight", index);
    return true;
}

static bool vector_verify(const Check *c, const char *role, int index, int64_t count) {
    if (index < 0 || index >= c->g->packed_count || c->g->packed[index].kind != PACKED_VECTOR)
        return broken(c, 412, "packed tensor %d is no vector for the %s", index, role);
    if (c->g->packed[index].count != count)
        return broken(c, 413, "the %s %s has %" PRId64 " elements, expected %" PRId64, role,
                      c->g->packed[index].name, c->g->packed[index].count, count);
    return true;
}

static bool width_verify(const Check *c, int value, int64_t expected) {
    if (width_of(c, value) != expected)
        return broken(c, 414, "%s has width %" PRId64 ", expected %" PRId64,
                      c->g->values[value].name, width_of(c, value), expected);
    return true;
}

static bool embed_verify(const Check *c) {
    TRY(linear_tensor_verify(c, c->op->embed.table));
    const PackedTensor *table = &c->g->packed[c->op->embed.table];
    if (table->bits != 16 || table->order != ROWS_PLAIN)
        return broken(c, 415, "table %s has %d bits, expected 16 in plain order", table->name,
                      table->bits);
    return width_verify(c, c->op->output, table->in_features);
}

static bool norm_verify(const Check *c) {
    int64_t width = width_of(c, c->op->inputs[0]);
    TRY(vector_verify(c, "norm weight", c->op->norm.weight, width));
    if (!(c->op->norm.eps > 0))
        return broken(c, 416, "eps is %g, expected a positive number", (double)c->op->norm.eps);
    return width_verify(c, c->op->output, width);
}

static bool rope_shape_verify(const Check *c, int64_t heads, int64_t head_dim, int inv_freq) {
    if (heads <= 0 || head_dim <= 0 || head_dim % 2)
        return broken(c, 417, "%" PRId64 " heads of %" PRId64 " dimensions", heads, head_dim);
    if (inv_freq < 0 || inv_freq >= c->g->packed_count ||
        c->g->packed[inv_freq].kind != PACKED_VECTOR || c->g->packed[inv_freq].count <= 0 ||
        c->g->packed[inv_freq].count > head_dim / 2)
        return broken(c, 418, "packed tensor %d is no vector of at most %" PRId64 " frequencies",
                      inv_freq, head_dim / 2);
    return true;
}

static bool rope_verify(const Check *c) {
    const Op *op = c->op;
    TRY(rope_shape_verify(c, op->rope.heads, op->rope.head_dim, op->rope.inv_freq));
    TRY(width_verify(c, op->inputs[0], op->rope.heads * op->rope.head_dim));
    return width_verify(c, op->output, op->rope.heads * op->rope.head_dim);
}

static bool kv_append_verify(const Check *c) {
    int64_t width = c->op->kv_append.kv_heads * c->op->kv_append.head_dim;
    if (c->op->layer < 0 || width <= 0)
        return broken(c, 419, "it has no layer or no heads");
    TRY(width_verify(c, c->op->inputs[0], width));
    return width_verify(c, c->op->inputs[1], width);
}

static bool attention_verify(const Check *c) {
    const Op *op = c->op;
    int64_t heads = op->attention.heads, kv_heads = op->attention.kv_heads;
    if (heads <= 0 || kv_heads <= 0 || heads % kv_heads)
        return broken(c, 420, "%" PRId64 " query heads on %" PRId64 " key heads", heads, kv_heads);
    for (const Op *before = c->g->ops; before < op; before++) {
        bool appends = before->kind == OP_KV_APPEND ||
                       (before->kind == OP_LINEAR && before->linear.epilogue == EPILOGUE_ROPE_KV);
        if (appends && before->layer == op->layer) {
            TRY(width_verify(c, op->inputs[0], heads * op->attention.head_dim));
            return width_verify(c, op->output, heads * op->attention.head_dim);
        }
    }
    return broken(c, 421, "no op before it writes keys and values of its layer");
}

static bool act_mul_verify(const Check *c) {
    int64_t width = width_of(c, c->op->output);
    TRY(width_verify(c, c->op->inputs[0], width));
    return width_verify(c, c->op->inputs[1], width);
}

static bool same_width_verify(const Check *c) { // ADD
    return act_mul_verify(c);
}

static bool gather_verify(const Check *c) {
    return width_verify(c, c->op->output, width_of(c, c->op->inputs[0]));
}

// The residual shares its memory with the output.
static bool residual_verify(const Check *c) {
    int residual = c->op->inputs[1];
    if (residual == c->op->inputs[0])
        return broken(c, 422, "it overwrites its own input %s", c->g->values[residual].name);
    if (residual == c->g->hidden || residual == c->g->logits)
        return broken(c, 437, "it overwrites %s, a result of the graph",
                      c->g->values[residual].name);
    for (const Op *later = c->op + 1; later < c->g->ops + c->g->op_count; later++)
        for (int at = 0; at < 3; at++)
            if (later->inputs[at] == residual)
                return broken(c, 423, "%s is overwritten here and used again by op %d",
                              c->g->values[residual].name, (int)(later - c->g->ops));
    TRY(width_verify(c, residual, c->g->packed[c->op->linear.weight].out_features));
    return width_verify(c, c->op->output, width_of(c, residual));
}

static bool rope_kv_verify(const Check *c, const PackedTensor *t) {
    const Op *op = c->op;
    int64_t heads = op->linear.heads, kv_heads = op->linear.kv_heads, dim = op->linear.head_dim;
    TRY(rope_shape_verify(c, heads, dim, op->linear.inv_freq));
    if (op->layer < 0 || t->order != ROWS_ROPE || t->head_dim != dim || dim % 16)
        return broken(c, 424, "%s is not in the row order of q, k, v with heads of %" PRId64,
                      t->name, dim);
    if (t->out_features != (heads + 2 * kv_heads) * dim || kv_heads <= 0)
        return broken(c, 425, "%s has %" PRId64 " rows, expected (%" PRId64 " + 2 * %" PRId64 ") * %"
                      PRId64, t->name, t->out_features, heads, kv_heads, dim);
    TRY(vector_verify(c, "frequencies", op->linear.inv_freq, dim / 2));
    return width_verify(c, op->output, heads * dim);
}

static bool act_mul_epilogue_verify(const Check *c, const PackedTensor *t) {
    if (t->order != ROWS_GATE_UP || t->part_count != 2)
        return broken(c, 426, "%s is not in the row order of gate and up", t->name);
    return width_verify(c, c->op->output, t->out_features / 2);
}

static bool linear_verify(const Check *c) {
    const Op *op = c->op;
    TRY(linear_tensor_verify(c, op->linear.weight));
    const PackedTensor *t = &c->g->packed[op->linear.weight];
    TRY(width_verify(c, op->inputs[0], t->in_features));
    if (op->linear.bias != -1)
        TRY(vector_verify(c, "bias", op->linear.bias, t->rows));
    if (op->linear.prologue == PROLOGUE_NORM)
        TRY(vector_verify(c, "norm weight", op->linear.norm_weight, t->in_features));
    switch (op->linear.epilogue) {
    case EPILOGUE_ROPE_KV:
        return rope_kv_verify(c, t);
    case EPILOGUE_ACT_MUL:
        return act_mul_epilogue_verify(c, t);
    case EPILOGUE_ADD:
    case EPILOGUE_STORE:
        break;
    }
    if (t->order != ROWS_PLAIN)
        return broken(c, 427, "%s must be in plain row order", t->name);
    if (op->linear.epilogue == EPILOGUE_ADD)
        return residual_verify(c);
    return width_verify(c, op->output, t->out_features);
}

static bool (*const op_verifiers[OP_COUNT])(const Check *) = {
    [OP_EMBED]     = embed_verify,
    [OP_NORM]      = norm_verify,
    [OP_LINEAR]    = linear_verify,
    [OP_ROPE]      = rope_verify,
    [OP_KV_APPEND] = kv_append_verify,
    [OP_ATTENTION] = attention_verify,
    [OP_ACT_MUL]   = act_mul_verify,
    [OP_ADD]       = same_width_verify,
    [OP_GATHER]    = gather_verify,
};

static bool linear_layout_verify(const PackedTensor *t, Error *err) {
    int64_t outs = 0;
    if (t->part_count < 1 || t->part_count > LINEAR_MAX_PARTS)
        return fail(err, ERR_INTERNAL, 428, "graph: packed tensor %s has %d parts, expected 1 to %d",
                    t->name, t->part_count, LINEAR_MAX_PARTS);
    for (int part = 0; part < t->part_count; part++) {
        const Weight *w = t->parts[part];
        if (w->bits != t->bits || stored_group(w) != t->group || w->in_features != t->in_features)
            return fail(err, ERR_INTERNAL, 429,
                        "graph: packed tensor %s: part %s differs in bits, group or inputs", t->name,
                        w->module);
        outs += w->out_features;
    }
    int64_t record = record_elems(t->bits, t->group);
    if (!record)
        return fail(err, ERR_INTERNAL, 430,
                    "graph: packed tensor %s: no layout for %d bits in groups of %d", t->name,
                    t->bits, t->group);
    if (outs != t->out_features || t->rows < outs || t->rows % 16 || t->k_padded % record ||
        t->k_padded < t->in_features)
        return fail(err, ERR_INTERNAL, 431,
                    "graph: packed tensor %s: %" PRId64 " x %" PRId64 " stored as %" PRId64
                    " x %" PRId64, t->name, outs, t->in_features, t->rows, t->k_padded);
    return true;
}

void op_packed(const Op *op, int out[4]) {
    for (int at = 0; at < 4; at++)
        out[at] = -1;
    if (op->kind == OP_EMBED) {
        out[0] = op->embed.table;
    } else if (op->kind == OP_NORM) {
        out[0] = op->norm.weight;
    } else if (op->kind == OP_ROPE) {
        out[0] = op->rope.inv_freq;
    } else if (op->kind == OP_LINEAR) {
        out[0] = op->linear.weight;
        out[1] = op->linear.bias;
        out[2] = op->linear.prologue == PROLOGUE_NORM ? op->linear.norm_weight : -1;
        out[3] = op->linear.epilogue == EPILOGUE_ROPE_KV ? op->linear.inv_freq : -1;
    }
}

static bool packed_verify(const Graph *g, Error *err) {
    bool *used = ARENA_NEW(g->arena, bool, g->packed_count + 1);
    for (int op = 0; op < g->op_count; op++) {
        int read[4];
        op_packed(&g->ops[op], read);
        for (int at = 0; at < 4; at++)
            if (read[at] >= 0)
                used[read[at]] = true;
    }
    for (int index = 0; index < g->packed_count; index++) {
        const PackedTensor *t = &g->packed[index];
        if (!used[index])
            return fail(err, ERR_INTERNAL, 432, "graph: packed tensor %s is used by no op", t->name);
        if (t->kind == PACKED_LINEAR)
            TRY(linear_layout_verify(t, err));
    }
    return true;
}

static bool results_verify(const Graph *g, const int *definer, Error *err) {
    if (g->hidden < 0 || g->hidden >= g->value_count || definer[g->hidden] < 0 ||
        g->values[g->hidden].type != VALUE_F32)
        return fail(err, ERR_INTERNAL, 433, "graph: hidden (value %d) is no fp32 result", g->hidden);
    if (g->logits < 0 || g->logits >= g->value_count || definer[g->logits] < 0 ||
        g->values[g->logits].type != VALUE_F32)
        return fail(err, ERR_INTERNAL, 434, "graph: logits (value %d) is no fp32 result", g->logits);
    int head = g->head_first;
    if (head < 0 || head >= g->op_count || g->ops[head].kind != OP_GATHER ||
        g->ops[head].inputs[0] != g->hidden)
        return fail(err, ERR_INTERNAL, 435, "graph: the head starts at op %d, which does not gather "
                    "rows of hidden", head);
    for (int op = 0; op < g->op_count; op++) // the steps of the head run without those before
        for (int at = 0; op > head && at < 3; at++)
            if (g->ops[op].inputs[at] >= 0 && definer[g->ops[op].inputs[at]] < head)
                return fail(err, ERR_INTERNAL, 436, "graph: op %d of the head reads %s of the layers",
                            op, g->values[g->ops[op].inputs[at]].name);
    return true;
}

bool graph_verify(const Graph *g, Error *err) {
    int *definer = ARENA_NEW(g->arena, int, g->value_count + 1);
    for (int value = 0; value < g->value_count; value++)
        definer[value] = -1;
    for (int index = 0; index < g->op_count; index++) {
        const Op *op = &g->ops[index];
        if ((unsigned)op->kind >= OP_COUNT)
            return fail(err, ERR_INTERNAL, 401, "graph: op %d is of kind %d", index, (int)op->kind);
        Check check = {.g = g, .op = op, .definer = definer, .err = err};
        TRY(operands_verify(&check));
        TRY(op_verifiers[op->kind](&check));
        if (op->output >= 0)
            definer[op->output] = index;
    }
    TRY(packed_verify(g, err));
    return results_verify(g, definer, err);
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
    static const char *const acts[] = {"silu", "gelu_tanh"};
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
        int read[4];
        op_packed(op, read);
        for (int at = 0; at < 4; at++)
            if (read[at] >= 0)
                tensor_print(g, read[at], out);
        if (op->output >= 0) {
            fputs(" ->", out);
            value_print(g, op->output, out);
        }
        fputc('\n', out);
    }
}
