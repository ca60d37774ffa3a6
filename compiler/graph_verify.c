// The rules of a graph: one message per rule. A graph is correct by its own text: nothing here knows
// an architecture.
#include "tile16.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

// What a kind of op takes and gives.
typedef struct Signature {
    int input_count;
    int input_types[3]; // ValueType, or ANY
    int output_type;    // ValueType, ANY, or NONE
} Signature;

enum { ANY = -1, NONE = -2 };

static const Signature signatures[OP_COUNT] = {
    [OP_EMBED]        = {0, {ANY, ANY, ANY}, VALUE_F32},
    [OP_NORM]         = {1, {ANY, ANY, ANY}, ANY},
    [OP_LINEAR]       = {1, {ANY, ANY, ANY}, ANY},
    [OP_ROPE]         = {1, {VALUE_ACT, ANY, ANY}, VALUE_ACT},
    [OP_KV_APPEND]    = {2, {VALUE_ACT, VALUE_ACT, ANY}, NONE},
    [OP_ATTENTION]    = {1, {VALUE_ACT, ANY, ANY}, VALUE_ACT},
    [OP_ACT_MUL]      = {2, {VALUE_ACT, VALUE_ACT, ANY}, VALUE_ACT},
    [OP_ADD]          = {2, {VALUE_F32, ANY, ANY}, VALUE_F32},
    [OP_PERMUTE]      = {1, {VALUE_ACT, ANY, ANY}, VALUE_ACT},
    [OP_ROUTE]        = {1, {VALUE_F32, ANY, ANY}, VALUE_F32},
    [OP_EXPERTS_UP]   = {2, {VALUE_ACT, VALUE_F32, ANY}, VALUE_ACT},
    [OP_EXPERTS_DOWN] = {2, {VALUE_ACT, VALUE_F32, ANY}, VALUE_F32},
    [OP_GATHER]       = {1, {VALUE_F32, ANY, ANY}, VALUE_F32},
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

// A packed index of `count` elements below `limit`, or none.
static bool index_verify(const Check *c, const char *role, int index, int64_t count,
                         int64_t limit) {
    if (index == -1)
        return true;
    if (index < 0 || index >= c->g->packed_count || c->g->packed[index].kind != PACKED_INDEX)
        return broken(c, 438, "packed tensor %d is no index for the %s", index, role);
    const PackedTensor *t = &c->g->packed[index];
    if (t->count != count)
        return broken(c, 439, "the %s %s has %" PRId64 " elements, expected %" PRId64, role,
                      t->name, t->count, count);
    for (int64_t at = 0; at < count; at++)
        if (t->indices[at] < -1 || t->indices[at] >= limit)
            return broken(c, 440, "the %s %s holds %d, expected less than %" PRId64, role, t->name,
                          t->indices[at], limit);
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
    const Op *op = c->op;
    int64_t in = width_of(c, op->inputs[0]), out = width_of(c, op->output), width = op->norm.width;
    if (width <= 0 || in % width)
        return broken(c, 441, "rows of %" PRId64 " elements in a value of %" PRId64, width, in);
    if (op->norm.order >= 0 && in != width)
        return broken(c, 442, "it norms %" PRId64 " rows together and orders them", in / width);
    TRY(index_verify(c, "order", op->norm.order, out, in));
    TRY(vector_verify(c, "norm weight", op->norm.weight, op->norm.order < 0 ? width : out));
    if (!(op->norm.eps > 0))
        return broken(c, 416, "eps is %g, expected a positive number", (double)op->norm.eps);
    return op->norm.order >= 0 || width_verify(c, op->output, in);
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
            int64_t width = heads * op->attention.head_dim;
            TRY(width_verify(c, op->inputs[0], width));
            TRY(index_verify(c, "places", op->attention.places, width, width));
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

static bool permute_verify(const Check *c) {
    if (c->op->permute.order < 0)
        return broken(c, 443, "it has no order");
    return index_verify(c, "order", c->op->permute.order, width_of(c, c->op->output),
                        width_of(c, c->op->inputs[0]));
}

static bool route_verify(const Check *c) {
    const Op *op = c->op;
    if (op->route.top_k < 1 || op->route.top_k > op->route.experts)
        return broken(c, 444, "%" PRId64 " of %" PRId64 " experts", op->route.top_k,
                      op->route.experts);
    TRY(width_verify(c, op->inputs[0], op->route.experts));
    return width_verify(c, op->output, 2 * op->route.top_k);
}

static bool experts_verify(const Check *c) {
    const Op *op = c->op;
    bool up = op->kind == OP_EXPERTS_UP;
    int64_t top_k = op->experts.top_k;
    TRY(linear_tensor_verify(c, op->experts.weight));
    const PackedTensor *t = &c->g->packed[op->experts.weight];
    const Op *route = &c->g->ops[c->definer[op->inputs[1]]];
    if (route->kind != OP_ROUTE || route->route.top_k != top_k)
        return broken(c, 445, "its second input does not route to %" PRId64 " experts", top_k);
    if (op->experts.slots < 0 && t->experts != route->route.experts)
        return broken(c, 446, "%s has %d experts of %" PRId64, t->name, t->experts,
                      route->route.experts);
    TRY(index_verify(c, "slots", op->experts.slots, route->route.experts, t->experts));
    if (t->order != (up ? ROWS_GATE_UP : ROWS_PLAIN))
        return broken(c, 447, "%s is in the wrong row order", t->name);
    TRY(index_verify(c, "order", op->experts.order, t->experts * t->in_features,
                     width_of(c, op->inputs[0])));
    if (up && op->experts.order < 0)
        TRY(width_verify(c, op->inputs[0], t->in_features));
    if (!up)
        TRY(width_verify(c, op->inputs[0], top_k * t->in_features));
    return width_verify(c, op->output, up ? top_k * t->out_features / 2 : t->out_features);
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
    if (t->experts != 1)
        return broken(c, 448, "%s holds %d experts", t->name, t->experts);
    if (op->linear.prologue == PROLOGUE_NORM)
        TRY(vector_verify(c, "norm weight", op->linear.norm_weight, t->in_features));
    if (op->linear.prologue == PROLOGUE_NORM && op->linear.norm_order >= 0)
        TRY(index_verify(c, "order", op->linear.norm_order, t->in_features,
                         width_of(c, op->inputs[0])));
    else
        TRY(width_verify(c, op->inputs[0], t->in_features));
    if (op->linear.bias != -1)
        TRY(vector_verify(c, "bias", op->linear.bias, t->rows));
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
    [OP_EMBED]        = embed_verify,
    [OP_NORM]         = norm_verify,
    [OP_LINEAR]       = linear_verify,
    [OP_ROPE]         = rope_verify,
    [OP_KV_APPEND]    = kv_append_verify,
    [OP_ATTENTION]    = attention_verify,
    [OP_ACT_MUL]      = act_mul_verify,
    [OP_ADD]          = same_width_verify,
    [OP_PERMUTE]      = permute_verify,
    [OP_ROUTE]        = route_verify,
    [OP_EXPERTS_UP]   = experts_verify,
    [OP_EXPERTS_DOWN] = experts_verify,
    [OP_GATHER]       = gather_verify,
};

static bool linear_layout_verify(const PackedTensor *t, Error *err) {
    int64_t outs = 0;
    if (t->part_count < 1 || t->part_count > LINEAR_MAX_PARTS || t->experts < 1)
        return fail(err, ERR_INTERNAL, 428, "graph: packed tensor %s has %d parts, expected 1 to %d",
                    t->name, t->part_count, LINEAR_MAX_PARTS);
    for (int part = 0; part < t->part_count; part++)
        outs += t->parts[part]->out_features;
    for (int part = 0; part < t->part_count * t->experts; part++) {
        const Weight *w = t->parts[part], *same = t->parts[part % t->part_count];
        if ((w->bits == 16) != (t->bits == 16) || w->in_features != same->in_features ||
            w->out_features != same->out_features)
            return fail(err, ERR_INTERNAL, 429,
                        "graph: packed tensor %s: part %s differs in bits or shape", t->name,
                        w->module);
    }
    bool plain = t->bits == 16;
    bool group_good = plain ? t->group == 0
                            : t->group == 16 || t->group == 32 || t->group == 64 || t->group == 128;
    if ((t->bits != 4 && t->bits != 8 && !plain) || !group_good)
        return fail(err, ERR_INTERNAL, 430,
                    "graph: packed tensor %s: no layout for %d bits in groups of %d", t->name,
                    t->bits, t->group);
    Record record = record_geometry(t);
    if ((!t->row_order && outs != t->out_features) || t->rows < t->out_features || t->rows % 16 ||
        t->k_padded % record.k || t->k_padded < t->in_features)
        return fail(err, ERR_INTERNAL, 431,
                    "graph: packed tensor %s: %" PRId64 " x %" PRId64 " stored as %" PRId64
                    " x %" PRId64, t->name, outs, t->in_features, t->rows, t->k_padded);
    return true;
}

static bool packed_verify(const Graph *g, Error *err) {
    bool *used = ARENA_NEW(g->arena, bool, g->packed_count + 1);
    for (int op = 0; op < g->op_count; op++) {
        int read[OP_MAX_PACKED];
        op_packed(&g->ops[op], read);
        for (int at = 0; at < OP_MAX_PACKED; at++)
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
