// Fusion: fewer ops that compute the same function. The passes work on a copy of the graph, mark
// the ops that they replace as dead, and the last step writes the live ones into a new graph with
// only the packed tensors that are still read, so that no weight is stored twice.
//
// A pattern that does not match is left alone: layers whose q, k and v differ in bits keep their
// separate ops.
#include "compile.h"

#include <assert.h>
#include <string.h>

typedef struct Fusion {
    Graph *g;      // ops, values and packed tensors may be appended
    bool *dead;    // [op_count of the input]
    int *producer; // [value_count]: op
    int *users;    // [value_count]: how many inputs name it
    Arena *arena;
} Fusion;

// Requires: ops in order. Provides: producer, users. Called before each pass.
static void uses_count(Fusion *f) {
    f->producer = ARENA_NEW(f->arena, int, f->g->value_count);
    f->users = ARENA_NEW(f->arena, int, f->g->value_count);
    for (int at = 0; at < f->g->op_count; at++) {
        const Op *op = &f->g->ops[at];
        if (f->dead[at])
            continue;
        if (op->output >= 0)
            f->producer[op->output] = at;
        for (int i = 0; i < 3; i++)
            if (op->inputs[i] >= 0)
                f->users[op->inputs[i]]++;
    }
    f->users[f->g->hidden]++;
    f->users[f->g->logits]++;
}

// The plain linear that makes `value` for one user only; NULL: something else makes it.
static Op *lone_linear(const Fusion *f, int value) {
    Op *op = &f->g->ops[f->producer[value]];
    bool plain = op->kind == OP_LINEAR && op->linear.epilogue == EPILOGUE_STORE &&
                 op->linear.prologue == PROLOGUE_NONE;
    return plain && f->users[value] == 1 ? op : NULL;
}

static void op_kill(Fusion *f, const Op *op) {
    f->dead[op - f->g->ops] = true;
}

// Could these linears be one packed tensor, as far as the ops say?
static bool linears_agree(const Fusion *f, Op *const *ops, int count) {
    for (int at = 0; at < count; at++) {
        const PackedTensor *t = &f->g->packed[ops[at]->linear.weight];
        if (ops[at]->inputs[0] != ops[0]->inputs[0] || t->part_count != 1 ||
            ops[at]->linear.scale != ops[0]->linear.scale || ops[at]->linear.softcap > 0)
            return false;
    }
    return true;
}

// One packed tensor of all parts, named after the first ("...self_attn.q_proj+k_proj+v_proj"); -1:
// their weights are stored in ways that do not go together.
static int weights_join(Fusion *f, Op *const *ops, int count, RowOrder order, int64_t head_dim) {
    const Weight *parts[LINEAR_MAX_PARTS];
    const char *name = "";
    for (int at = 0; at < count; at++) {
        parts[at] = f->g->packed[ops[at]->linear.weight].parts[0];
        const char *dot = at ? strrchr(parts[at]->module, '.') : NULL;
        name = arena_printf(f->arena, "%s%s%s", name, at ? "+" : "",
                            dot ? dot + 1 : parts[at]->module);
    }
    int packed = graph_linear_weight(f->g, name, parts, count);
    if (packed < 0)
        return -1;
    f->g->packed[packed].order = order;
    f->g->packed[packed].head_dim = head_dim;
    return packed;
}

// The biases in packed row order; -1 if no part has one.
static int biases_join(Fusion *f, Op *const *ops, int count, int packed) {
    bool any = false;
    for (int at = 0; at < count; at++)
        any = any || ops[at]->linear.bias >= 0;
    if (!any)
        return -1;
    const PackedTensor *t = &f->g->packed[packed];
    float *values = ARENA_NEW(f->arena, float, t->rows);
    for (int64_t row = 0; row < t->rows; row++) {
        int part;
        int64_t n;
        packed_row(t, row, &part, &n);
        if (n >= 0 && ops[part]->linear.bias >= 0)
            values[row] = f->g->packed[ops[part]->linear.bias].values[n];
    }
    return graph_vector(f->g, arena_printf(f->arena, "%s.bias", t->name), values, t->rows);
}

// ---- passes -------------------------------------------------------------------------------------

// The ops that one linear with ROPE_KV replaces, besides KV_APPEND itself.
typedef struct RopeKv {
    Op *q_rope, *k_rope;
    Op *parts[3]; // q, k, v
} RopeKv;

// Do these two rotate whole heads of append's size in the same way? Pairs stand in one tile of 16
// rows, so heads must be made of whole tiles.
static bool ropes_agree(const Graph *g, const Op *q, const Op *k, const Op *append) {
    int64_t head_dim = append->kv_append.head_dim;
    return q->rope.head_dim == head_dim && k->rope.head_dim == head_dim && head_dim % 16 == 0 &&
           q->rope.inv_freq == k->rope.inv_freq && q->rope.factor == k->rope.factor &&
           g->packed[q->rope.inv_freq].count == head_dim / 2;
}

static bool used_between(const Fusion *f, int value, const Op *first, const Op *end) {
    for (const Op *op = first; op < end; op++)
        for (int at = 0; at < 3; at++)
            if (!f->dead[op - f->g->ops] && op->inputs[at] == value)
                return true;
    return false;
}

static bool rope_kv_match(const Fusion *f, const Op *append, RopeKv *out) {
    Graph *g = f->g;
    *out = (RopeKv){.k_rope = &g->ops[f->producer[append->inputs[0]]]};
    for (Op *op = g->ops; op < append; op++)
        if (op->kind == OP_ROPE && op->layer == append->layer && op != out->k_rope)
            out->q_rope = op;
    if (out->k_rope->kind != OP_ROPE || f->users[append->inputs[0]] != 1 || !out->q_rope ||
        !ropes_agree(g, out->q_rope, out->k_rope, append) ||
        used_between(f, out->q_rope->output, g->ops, append))
        return false;
    out->parts[0] = lone_linear(f, out->q_rope->inputs[0]);
    out->parts[1] = lone_linear(f, out->k_rope->inputs[0]);
    out->parts[2] = lone_linear(f, append->inputs[1]);
    return out->parts[0] && out->parts[1] && out->parts[2] && linears_agree(f, out->parts, 3);
}

// KV_APPEND(ROPE(k), v) with ROPE(q) of the same layer, all from linears of one input -> one linear
// with ROPE_KV. Requires: the whole head rotates, head_dim % 16 == 0.
// Provides: ROWS_ROPE weights. Breaks: the values k and v no longer exist.
static void fuse_rope_kv(Fusion *f, Op *append) {
    RopeKv match;
    if (!rope_kv_match(f, append, &match))
        return;
    Op *const *parts = match.parts;
    const Op *q_rope = match.q_rope;
    int64_t head_dim = append->kv_append.head_dim;
    int packed = weights_join(f, parts, 3, ROWS_ROPE, head_dim);
    if (packed < 0)
        return;
    int bias = biases_join(f, parts, 3, packed);
    Op fused = *parts[0];
    fused.layer = append->layer;
    fused.output = q_rope->output;
    fused.linear.weight = packed;
    fused.linear.bias = bias;
    fused.linear.epilogue = EPILOGUE_ROPE_KV;
    fused.linear.heads = q_rope->rope.heads;
    fused.linear.kv_heads = append->kv_append.kv_heads;
    fused.linear.head_dim = head_dim;
    fused.linear.inv_freq = q_rope->rope.inv_freq;
    fused.linear.rope_factor = q_rope->rope.factor;
    const Op *const gone[] = {parts[0], parts[1], parts[2], q_rope, match.k_rope};
    for (size_t at = 0; at < sizeof gone / sizeof *gone; at++)
        op_kill(f, gone[at]);
    *append = fused; // stands before the attention of its layer
}

// ACT_MUL(linear, linear) of one input -> one linear with ACT_MUL.
// Requires: features in eights, half a tile of rows. Provides: ROWS_GATE_UP weights.
// Breaks: the values gate and up no longer exist.
static void fuse_act_mul(Fusion *f, Op *op) {
    Op *parts[2] = {lone_linear(f, op->inputs[0]), lone_linear(f, op->inputs[1])};
    if (!parts[0] || !parts[1] || !linears_agree(f, parts, 2))
        return;
    if (f->g->packed[parts[0]->linear.weight].out_features % 8)
        return;
    int packed = weights_join(f, parts, 2, ROWS_GATE_UP, 0);
    if (packed < 0)
        return;
    Op fused = *parts[0];
    fused.layer = op->layer;
    fused.output = op->output;
    fused.linear.bias = biases_join(f, parts, 2, packed);
    fused.linear.weight = packed;
    fused.linear.epilogue = EPILOGUE_ACT_MUL;
    fused.linear.act = op->act_mul.act;
    op_kill(f, parts[0]);
    op_kill(f, parts[1]);
    *op = fused;
}

// ADD(residual, linear) -> linear with ADD, in place of the residual.
// Requires: nobody reads the residual afterwards. Breaks: the residual's value is gone.
static void fuse_residual(Fusion *f, Op *op) {
    const Graph *g = f->g;
    int residual = op->inputs[0];
    Op *linear = lone_linear(f, op->inputs[1]);
    if (!linear || linear->linear.softcap > 0 || residual == g->hidden || residual == g->logits ||
        used_between(f, residual, op + 1, g->ops + g->op_count))
        return;
    Op fused = *linear;
    fused.layer = op->layer;
    fused.inputs[1] = residual;
    fused.output = op->output;
    fused.linear.epilogue = EPILOGUE_ADD;
    fused.linear.scale *= op->add.scale;
    op_kill(f, linear);
    *op = fused;
}

// ---- orders of inputs ---------------------------------------------------------------------------

// PERMUTE(NORM(x)) -> a norm of its own that gives its result in that order.
// Requires: the norm's row is the whole value.
static void fuse_permute_norm(Fusion *f, Op *op) {
    Graph *g = f->g;
    const Op norm = g->ops[f->producer[op->inputs[0]]];
    if (norm.kind != OP_NORM || norm.norm.order >= 0 ||
        norm.norm.width != g->values[norm.inputs[0]].width)
        return;
    const PackedTensor order = g->packed[op->permute.order], w = g->packed[norm.norm.weight];
    float *values = ARENA_NEW(f->arena, float, order.count);
    for (int64_t k = 0; k < order.count; k++)
        values[k] = order.indices[k] < 0 ? 0 : w.values[order.indices[k]];
    Op fused = norm;
    fused.output = op->output;
    fused.norm.order = op->permute.order;
    fused.norm.weight = graph_vector(g, w.name, values, order.count);
    if (f->users[op->inputs[0]] == 1)
        op_kill(f, &g->ops[f->producer[op->inputs[0]]]);
    else
        f->users[op->inputs[0]]--;
    *op = fused;
}

// PERMUTE(linear with ACT_MUL) -> the rows of gate and up stand in that order.
// Requires: nobody else reads the linear's result. Provides: row_order.
static void fuse_permute_rows(Fusion *f, Op *op) {
    Graph *g = f->g;
    Op *linear = &g->ops[f->producer[op->inputs[0]]];
    if (linear->kind != OP_LINEAR || linear->linear.epilogue != EPILOGUE_ACT_MUL ||
        f->users[op->inputs[0]] != 1)
        return;
    const PackedTensor order = g->packed[op->permute.order];
    PackedTensor *t = &g->packed[linear->linear.weight]; // made by fuse_act_mul, for this op alone
    const int64_t half = t->out_features / 2;
    t->row_order = order.indices;
    t->out_features = 2 * order.count;
    t->rows = (int64_t)round_up((uint64_t)t->out_features, 16);
    if (linear->linear.bias >= 0) {
        const PackedTensor bias = g->packed[linear->linear.bias];
        float *values = ARENA_NEW(f->arena, float, t->rows);
        for (int64_t at = 0; at < 2 * order.count; at++) {
            int64_t part = at / order.count, place = at % order.count;
            int64_t from = order.indices[place];
            if (from >= 0 && from < half)
                values[place / 8 * 16 + part * 8 + place % 8] =
                    bias.values[from / 8 * 16 + part * 8 + from % 8];
        }
        linear->linear.bias = graph_vector(g, bias.name, values, t->rows);
    }
    linear->output = op->output;
    op_kill(f, op);
}

// PERMUTE(ATTENTION) -> the attention stores its result in that order.
// Requires: a permutation without zeros, and nobody else who reads it.
static void fuse_permute_attention(Fusion *f, Op *op) {
    Graph *g = f->g;
    Op *attention = &g->ops[f->producer[op->inputs[0]]];
    const PackedTensor order = g->packed[op->permute.order];
    if (attention->kind != OP_ATTENTION || f->users[op->inputs[0]] != 1 ||
        attention->attention.places >= 0 || order.count != g->values[op->inputs[0]].width)
        return;
    int32_t *places = ARENA_NEW(f->arena, int32_t, order.count);
    for (int64_t k = 0; k < order.count; k++)
        places[k] = -1;
    for (int64_t k = 0; k < order.count; k++)
        if (order.indices[k] >= 0)
            places[order.indices[k]] = (int32_t)k;
    for (int64_t k = 0; k < order.count; k++)
        if (places[k] < 0)
            return;
    attention->attention.places = graph_index(g, order.name, places, order.count);
    attention->output = op->output;
    op_kill(f, op);
}

// Does an op of [first, last] write over `value`?
static bool overwritten(const Fusion *f, int value, const Op *first, const Op *last) {
    for (const Op *op = first; op <= last; op++)
        if (!f->dead[op - f->g->ops] && op->kind == OP_LINEAR &&
            op->linear.epilogue == EPILOGUE_ADD && op->inputs[1] == value)
            return true;
    return false;
}

// NORM -> prologue of the linear that alone reads it.
// Requires: the norm's input still holds at the linear, after the additions in place.
// Breaks: the normed value no longer exists.
static void fuse_norm(Fusion *f, Op *op) {
    if (op->linear.prologue != PROLOGUE_NONE || f->users[op->inputs[0]] != 1)
        return;
    const Op *norm = &f->g->ops[f->producer[op->inputs[0]]];
    if (norm->kind != OP_NORM || f->g->values[norm->inputs[0]].type != VALUE_F32 ||
        norm->norm.width != f->g->values[norm->inputs[0]].width || overwritten(f, norm->inputs[0], norm, op))
        return;
    op->linear.prologue = PROLOGUE_NORM;
    op->linear.norm_weight = norm->norm.weight;
    op->linear.norm_order = norm->norm.order;
    op->linear.eps = norm->norm.eps;
    op->inputs[0] = norm->inputs[0];
    op_kill(f, norm);
}

typedef struct Pass {
    OpKind kind; // where the pattern ends
    void (*run)(Fusion *f, Op *op);
} Pass;

static const Pass passes[] = {
    {OP_PERMUTE, fuse_permute_norm},
    {OP_KV_APPEND, fuse_rope_kv},
    {OP_ACT_MUL, fuse_act_mul},
    {OP_PERMUTE, fuse_permute_rows},
    {OP_PERMUTE, fuse_permute_attention},
    {OP_ADD, fuse_residual},
    {OP_LINEAR, fuse_norm},
};

// ---- the new graph ------------------------------------------------------------------------------

// Index of a packed tensor in the new graph; copies it there when it is first met.
static int packed_keep(Graph *out, const Graph *in, int *moved, int index) {
    if (index < 0 || moved[index] >= 0)
        return index < 0 ? -1 : moved[index];
    out->packed = array_grow(out->arena, out->packed, out->packed_count, &out->packed_capacity,
                             sizeof *out->packed);
    out->packed[out->packed_count] = in->packed[index];
    return moved[index] = out->packed_count++;
}

static void op_packed_keep(Op *op, Graph *out, const Graph *in, int *moved) {
    int *names[OP_MAX_PACKED];
    int count = op_packed_names(op, names);
    for (int at = 0; at < count; at++)
        *names[at] = packed_keep(out, in, moved, *names[at]);
}

static int value_keep(Graph *out, const Graph *in, int *moved, int value) {
    if (value < 0 || moved[value] >= 0)
        return value < 0 ? -1 : moved[value];
    const Value *v = &in->values[value];
    return moved[value] = graph_value(out, v->name, v->type, v->width);
}

static int *unmoved(Arena *a, int count) {
    int *moved = ARENA_NEW(a, int, count);
    for (int at = 0; at < count; at++)
        moved[at] = -1;
    return moved;
}

static void live_copy(Graph *out, const Fusion *f) {
    const Graph *in = f->g;
    int *packed = unmoved(f->arena, in->packed_count);
    int *values = unmoved(f->arena, in->value_count);
    for (int at = 0; at < in->op_count; at++) {
        if (at == in->head_first)
            out->head_first = out->op_count;
        if (f->dead[at])
            continue;
        Op *op = graph_op(out, in->ops[at].kind, in->ops[at].layer);
        *op = in->ops[at];
        op_packed_keep(op, out, in, packed);
        for (int i = 0; i < 3; i++)
            op->inputs[i] = value_keep(out, in, values, op->inputs[i]);
        op->output = value_keep(out, in, values, op->output);
        if (op->output >= 0)
            out->values[op->output].producer = (int)(op - out->ops);
    }
    out->hidden = value_keep(out, in, values, in->hidden);
    out->logits = value_keep(out, in, values, in->logits);
}

// A deep enough copy: the passes change ops and append packed tensors.
static Graph graph_copy(const Graph *in, Arena *a) {
    Graph g = *in;
    g.arena = a;
    g.ops = ARENA_NEW(a, Op, in->op_count);
    memcpy(g.ops, in->ops, (size_t)in->op_count * sizeof *g.ops);
    g.op_capacity = in->op_count;
    g.packed = ARENA_NEW(a, PackedTensor, in->packed_count);
    memcpy(g.packed, in->packed, (size_t)in->packed_count * sizeof *g.packed);
    g.packed_capacity = in->packed_count;
    return g;
}

bool graph_fuse(Graph *out, const Graph *in, Arena *a, Error *err) {
    TRY(graph_verify(in, err));
    Graph work = graph_copy(in, a);
    Fusion f = {.g = &work, .dead = ARENA_NEW(a, bool, in->op_count), .arena = a};
    for (size_t pass = 0; pass < sizeof passes / sizeof *passes; pass++) {
        uses_count(&f);
        for (int at = 0; at < work.op_count; at++)
            if (!f.dead[at] && work.ops[at].kind == passes[pass].kind)
                passes[pass].run(&f, &work.ops[at]);
    }
    *out = graph_new(a);
    out->dtype = in->dtype;
    live_copy(out, &f);
    return graph_verify(out, err);
}
