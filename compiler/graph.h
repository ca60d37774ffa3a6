// The middle of the compiler: the graph, its passes and its oracle. Part of the map, compile.h,
// which includes it.
#ifndef GRAPH_H
#define GRAPH_H

// ================================================================================================
// graph.c: typed ops on values
// ================================================================================================

// All values are [tokens, width]; tokens is known when a step runs.
typedef enum ValueType {
    VALUE_ACT,
    VALUE_F32
} ValueType; // ACT: the activation dtype of the target

typedef struct Value {
    const char *name;
    ValueType type;
    int64_t width; // elements per token
    int producer;  // index of the op; set by graph_fuse, -1 before
} Value;

// X(kind, name). ORDER OPS (graph.c prints and verifies, interp.c runs, plan.c lowers).
//   EMBED        out[t] = scale * table[token_ids[t]]                           -> F32
//   NORM         of every `width` elements: x * rsqrt(mean(x^2) + eps) * w   any -> any
//   LINEAR       out = epilogue(prologue(x) W^T + bias)                        any -> any
//   ROPE         rotates q or k heads at positions[t], half-split pairs      ACT -> ACT
//   KV_APPEND    writes k and v of the tokens into the cache of `layer`      ACT, ACT -> none
//   ATTENTION    softmax(cap(q K^T * scale)) V, causal, over the cache       ACT -> ACT
//   ACT_MUL      out = act(gate) * up                                        ACT, ACT -> ACT
//   ADD          out = a + scale * b (residual, fp32)                        F32, any -> F32
//   PERMUTE      out[k] = x[order[k]], 0 where order[k] is -1                ACT -> ACT
//   ROUTE        logits of the experts to a token's experts and weights      F32 -> F32
//   EXPERTS_UP   out[j] = act(gate_e x) * up_e x for the j-th expert e       ACT, F32 -> ACT
//   EXPERTS_DOWN out = sum over j of weight_j * down_e x[j]                  ACT, F32 -> F32
//   GATHER       out[r] = x[head_rows[r]]                                    F32 -> F32
#define OP_LIST(X)                  \
    X(EMBED, "embed")               \
    X(NORM, "norm")                 \
    X(LINEAR, "linear")             \
    X(ROPE, "rope")                 \
    X(KV_APPEND, "kv_append")       \
    X(ATTENTION, "attention")       \
    X(ACT_MUL, "act_mul")           \
    X(ADD, "add")                   \
    X(PERMUTE, "permute")           \
    X(ROUTE, "route")               \
    X(EXPERTS_UP, "experts_up")     \
    X(EXPERTS_DOWN, "experts_down") \
    X(GATHER, "gather")

typedef enum OpKind {
#define OP_ENUM(kind, name) OP_##kind,
    OP_LIST(OP_ENUM)
#undef OP_ENUM
        OP_COUNT,
} OpKind;

typedef enum Activation { // ORDER ACTIVATIONS (epilogue.cuh, templates/cpu_linear.c)
    ACT_SILU,
    ACT_GELU_TANH,
    ACT_GELU, // with erf
} Activation;

// Which output feature stands in which packed row. Pairs that an epilogue needs together are rows
// r and r + 8 of one tile of 16, so that one lane of an mma holds both.
typedef enum RowOrder { // ORDER ROWS
    ROWS_PLAIN,         // row = feature of the concatenated parts
    ROWS_ROPE,    // parts q, k, v. In each head of q and k, tile t: row r < 8 is feature 8t + r,
                  // row r + 8 is feature 8t + r + head_dim / 2. v: plain.
    ROWS_GATE_UP, // parts gate, up: tile t: row r < 8 is gate feature 8t + r, row r + 8 is up
                  // feature 8t + r.
} RowOrder;

typedef enum PackedKind {
    PACKED_LINEAR,
    PACKED_VECTOR, // fp32
    PACKED_INDEX,  // int32
} PackedKind;

enum { LINEAR_MAX_PARTS = 4 };

// One tensor of SEGMENT_WEIGHTS.
typedef struct PackedTensor {
    PackedKind kind;
    const char *name;
    // PACKED_LINEAR: layout tile16, drawn in pack.c and docs/kernels.md. What is stored may be
    // another coding of the same numbers than the checkpoint's (recode.c decides):
    //   W[n][k] = scale * (code - zero), zero = 2^(bits - 1) unless `zeros`.
    const Weight **parts; // [experts][part_count], concatenated along N
    int part_count;
    int experts; // that many linears of one shape, one behind the other; 1: an ordinary linear
    RowOrder order;
    // Output f of a gate/up pair is feature row_order[f] of the checkpoint, -1: a zero. NULL: f.
    // [experts][out_features / 2]
    const int32_t *row_order;
    int64_t head_dim;     // ROWS_ROPE
    int64_t in_features;  // K: the width of the linear's input
    int64_t out_features; // N = sum of the parts (with row_order: of its places)
    // Input k is input input_order[k] of the checkpoint, -1: a zero. NULL: k. [experts][K]
    const int32_t *input_order;
    int bits;             // stored: 4, 8, 16
    int group;            // k elements per stored scale: 16, 32, 64 or 128; 0 for 16 bits
    bool zeros;           // a zero point per stored scale, fp16
    bool scale_f32;       // scales are fp32, not fp16
    bool bf16;            // 16 bits: bf16, not fp16
    int64_t rows;         // N rounded up to 16
    int64_t k_padded;     // K rounded up to the record
    int64_t expert_bytes; // from one expert to the next; set by weights_layout
    // PACKED_VECTOR: fp32 [count]
    const float *values; // in the order in which it is stored
    // PACKED_INDEX: int32 [count]
    const int32_t *indices;
    int64_t count;
    // set by weights_layout
    int64_t offset; // bytes in REGION_WEIGHTS, multiple of 256
    int64_t bytes;
} PackedTensor;

typedef enum LinearPrologue { PROLOGUE_NONE, PROLOGUE_NORM } LinearPrologue;
typedef enum LinearEpilogue { // ORDER EPILOGUES
    EPILOGUE_STORE,           // out = y
    EPILOGUE_ADD,             // out = residual + y, fp32, in place of the residual
    EPILOGUE_ACT_MUL,         // out[f] = act(gate[f]) * up[f]; rows in ROWS_GATE_UP
    EPILOGUE_ROPE_KV, // q: rotated, stored; k: rotated, into the cache; v: into the cache; ROWS_ROPE
} LinearEpilogue;

// In all of them -1 stands for "none" where a packed tensor or value is named.
typedef struct Op {
    OpKind kind;
    int layer;     // -1 outside the layers
    int inputs[3]; // values; -1: none. LINEAR with EPILOGUE_ADD: {x, residual}
    int output;    // value; -1: none
    union {
        struct {
            int table; // packed
            float scale;
        } embed;
        struct {
            int weight;    // packed vector [width], in the order of the output
            int64_t width; // elements that are normed together; divides the input's width
            int order;     // packed index [output width]: out[k] = normed[order[k]], -1: 0
            float eps;
        } norm;
        struct {
            int weight; // packed
            int bias;   // packed vector in packed row order [rows]; -1: none
            LinearPrologue prologue;
            int norm_weight; // PROLOGUE_NORM: packed vector [K], in the order of W's inputs
            int norm_order;  // PROLOGUE_NORM: packed index [K], as in norm.order
            float eps;
            float scale;   // y = scale * (x W^T + bias)
            float softcap; // EPILOGUE_STORE, > 0: out = softcap * tanh(y / softcap)
            LinearEpilogue epilogue;
            Activation act;          // EPILOGUE_ACT_MUL
            int64_t heads, kv_heads; // EPILOGUE_ROPE_KV
            int64_t head_dim;
            int inv_freq; // packed vector [head_dim / 2]
            float rope_factor;
        } linear;
        struct {
            int64_t heads, head_dim;
            int inv_freq; // packed vector [r / 2]: the first r elements of a head rotate
            float factor;
        } rope;
        struct {
            int64_t kv_heads, head_dim;
        } kv_append;
        struct {
            int64_t heads, kv_heads, head_dim;
            float scale;
            float softcap;  // > 0: scores are softcap * tanh(score / softcap)
            int64_t window; // > 0: keys at positions > position - window only
            int places;     // packed index [heads * head_dim]: where element e of a row goes
        } attention;
        struct {
            Activation act;
        } act_mul;
        struct {
            float scale;
        } add;
        struct {
            int order; // packed index [output width]
        } permute;
        // Output [2 * top_k]: the experts' numbers by falling weight, then their weights: the
        // softmax over all experts, divided by their sum over the chosen ones if `normalize`.
        struct {
            int64_t experts, top_k;
            bool normalize;
        } route;
        // inputs {x, routes}. Rows in ROWS_GATE_UP for EXPERTS_UP. slots: packed index
        // [routed experts]: which linear of the stack an expert is, -1: another stack has it, this
        // one gives zeros. -1: expert e is linear e.
        struct {
            int weight, slots;
            int order; // packed index [experts of the stack][K], EXPERTS_UP: x[order[k]], -1: 0
            int64_t top_k;
            Activation act;
        } experts;
    };
} Op;

typedef struct Graph {
    Op *ops;
    int op_count, op_capacity;
    Value *values;
    int value_count, value_capacity;
    PackedTensor *packed;
    int packed_count, packed_capacity;
    int hidden;       // value [tokens, hidden_size]: the residual stream after the last layer
    int logits;       // value [rows, vocab_size]
    int head_first;   // index of the op (GATHER) where the head starts: ops before it make hidden
    ModelDType dtype; // of activations on a GPU, 16-bit weights and the KV cache: fp16 or bf16
    Arena *arena;
} Graph;

// Room for one more element of a growing array of an arena: returns the array, moved if needed.
void *array_grow(Arena *a, void *items, int count, int *capacity, size_t elem_bytes);
Graph graph_new(Arena *a);
int graph_value(Graph *g, const char *name, ValueType type, int64_t width); // returns its index
Op *graph_op(Graph *g, OpKind kind, int layer); // appended; inputs and output are -1
// The parts as one packed tensor; -1: they cannot be one (recode.c). With an input_order the caller
// permutes the input.
int graph_linear_weight(Graph *g, const char *name, const Weight *const *parts, int part_count);
// parts: [experts][part_count]
int graph_experts_weight(Graph *g, const char *name, const Weight *const *parts, int part_count,
                         int experts);
int graph_vector(Graph *g, const char *name, const float *values, int64_t count);
int graph_index(Graph *g, const char *name, const int32_t *indices, int64_t count);
// Every op has the operands, types, widths and packed tensors of its kind; values are defined
// before use and once. ERR_INTERNAL names op and rule.
bool graph_verify(const Graph *g, Error *err);
void graph_print(const Graph *g, FILE *out);
// The packed tensors that an op reads; -1 where there is none.
enum { OP_MAX_PACKED = 5 };
void op_packed(const Op *op, int out[OP_MAX_PACKED]);
// Where the op holds them; returns how many there are.
int op_packed_names(Op *op, int *names[OP_MAX_PACKED]);
const char *op_name(OpKind kind);

// ================================================================================================
// recode.c: how weights are stored: which coding of the same numbers the kernels read
// ================================================================================================

// Chooses bits, group, zeros, scale_f32, bf16, input_order, in_features, rows and k_padded of a
// tensor whose parts, part_count, experts and order are set. Every choice is exact, but for plain
// weights that are rounded to the 16-bit `dtype` (noted). Rules:
//   2, 3 bits          -> 4 bits without zero points; 5, 6, 7 -> 8 bits without zero points
//   4, 8 bits          -> themselves, with zero points if any is not 2^(bits - 1)
//   group              -> the largest of 128, 64, 32, 16 that divides it (one group: 128)
//   other groups, act-order -> input_order: sorted by group, each filled up with zeros
//   scales             -> fp16 if all are exactly that, else fp32
// false: the parts cannot be one tensor (other inputs, another order of inputs, other bits).
bool packed_choose(PackedTensor *t, ModelDType dtype, Arena *a);
// Bytes of the tensor in the checkpoint's own coding, for --explain.
int64_t packed_source_bytes(const PackedTensor *t);

// ================================================================================================
// fuse.c: passes over the graph, each with a line saying what it requires, provides, breaks
// ================================================================================================

// In order: orders of inputs into norms, q/k/v with rope and cache, gate/up with activation, orders
// into gate/up and attention, residuals, norms into linears.
// The result computes the same function; packed tensors get their RowOrder here.
bool graph_fuse(Graph *out, const Graph *in, Arena *a, Error *err);

// ================================================================================================
// interp.c: the oracle. Plain loops and doubles; tested against transformers' references
// ================================================================================================

typedef struct Interp Interp;
Interp *interp_new(const Graph *g, const Config *c, int64_t max_seq_len, Arena *a);
// Weights are not kept dequantized, which takes four bytes for each: rows are made when they are
// needed, by so many threads. The results are the same.
void interp_stream(Interp *in, int threads);
// Appends `count` tokens to the one sequence and runs them; logits of every token, double
// [count, vocab_size], owned by the caller.
bool interp_run(Interp *in, const int32_t *ids, int count, double *logits, Error *err);
// The value of the last run, double [count, width]; NULL if it was not kept.
const double *interp_value(const Interp *in, int value);
// Of an OP_ROUTE that has run: by how much the last chosen expert's logit won over the best of the
// others. HUGE_VAL: there are no others.
double interp_route_margin(const Interp *in, const Op *op, int64_t token);
// Runs one op on given inputs; tests of single kernels use this.
// inputs[i]: double [tokens, width]; out: double [tokens, width].
void interp_linear(const Graph *g, const Op *op, const double *x, int64_t tokens, double *y);

#endif
