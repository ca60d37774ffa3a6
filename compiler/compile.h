// The map of the compiler: every noun, then every function under the name of its file, in the
// order of the pipeline. Read main.c after this.
//
//   checkpoint dir -> Checkpoint, Config -> Graph -> fused Graph -> Plan per target
//     -> cubins (nvrtc.c) + host object (llvm.c) -> packed weights (pack.c) -> executable (link.c,
//     emit.c)
//
// A stage never writes into the nouns of an earlier one. Everything lives in one Arena per run.
// Functions that can fail return bool (true = done) and take Error *err last.
#ifndef COMPILE_H
#define COMPILE_H

#include <stdio.h>

#include "../runtime/base.h"
#include "../runtime/payload.h"

// ================================================================================================
// embed.S: files carried inside gptq-compile
// ================================================================================================

typedef struct EmbeddedFile {
    const char *name; // "kernels/ptx.cuh", "bitcode/cpu_linear.x86-64-v3.bc", "crt/x86_64/crti.o"
    const unsigned char *data, *end;
} EmbeddedFile;

extern const EmbeddedFile embedded_files[];
extern const size_t embedded_file_count;

// NULL when there is none of that name (embedded.c).
const EmbeddedFile *embedded_find(const char *name);

// ================================================================================================
// notes.c: remarks about the input that do not stop a compile; `check` and `-v` print them
// ================================================================================================

typedef struct Notes {
    const char **items; // [count], one line each, without newline
    int count, capacity;
} Notes;

void note(Notes *notes, Arena *a, const char *format, ...) __attribute__((format(printf, 3, 4)));

// ================================================================================================
// checkpoint.c: safetensors, single or sharded, mapped read-only
// ================================================================================================

typedef enum TensorType { // ORDER TENSOR_TYPES (safetensors.c: names, bits)
    TENSOR_BOOL, TENSOR_U8, TENSOR_I8, TENSOR_F8_E5M2, TENSOR_F8_E4M3, TENSOR_I16, TENSOR_U16,
    TENSOR_F16, TENSOR_BF16, TENSOR_I32, TENSOR_U32, TENSOR_F32, TENSOR_I64, TENSOR_U64, TENSOR_F64,
    TENSOR_OTHER, // legal in the container, of no use here
    TENSOR_TYPE_COUNT,
} TensorType;

enum { TENSOR_MAX_RANK = 8 };

// A view into a mapped file. `data` has no alignment: read through memcpy only.
typedef struct Tensor {
    const char *name;
    const char *file; // file name without folder, for messages
    TensorType type;
    int rank;
    int64_t shape[TENSOR_MAX_RANK];
    const unsigned char *data;
    size_t bytes;
} Tensor;

typedef struct Checkpoint {
    const char *dir;
    Tensor *tensors; // [count], sorted by name
    int count;
    int shards;
    size_t bytes; // of all files
    Notes notes;
} Checkpoint;

// safetensors.c: the tensors of one file, sorted by name; ERR_CORRUPT names the file and the rule
// that it breaks. Tensors point into `file`.
bool safetensors_parse(Tensor **out, int *count, Bytes file, const char *name, Arena *a,
                       Error *err);

// Maps all shards and validates every header (rules: docs/overview.md). Mappings live until exit.
bool checkpoint_open(Checkpoint *out, const char *dir, Arena *a, Error *err);
const Tensor *checkpoint_find(const Checkpoint *c, const char *name); // NULL: absent
const char *tensor_type_name(TensorType type);
// Prints "[512, 4096]".
const char *shape_text(char *out, size_t size, const int64_t *shape, int rank);
// Reads elements [first, first + count) of an F16, BF16 or F32 tensor as float.
void tensor_read_f32(const Tensor *t, int64_t first, int64_t count, float *out);

// ================================================================================================
// json.c: cJSON with our errors; tolerant of trailing commas and of numbers written as strings
// ================================================================================================

struct cJSON;
// The whole file as text; `limit` bytes at most. ERR_CORRUPT names file, line and column.
bool file_read(Bytes *out, const char *path, size_t limit, Arena *a, Error *err);
// *found tells whether the file exists; a file that does not exist is no error.
bool json_read(struct cJSON **out, bool *found, const char *path, Error *err);
// The same for text in memory; `file` names it in messages. Refuses bad UTF-8, zero bytes, deep
// nesting and millions of values before cJSON sees them. Released by cJSON_Delete.
bool json_parse(struct cJSON **out, Bytes text, const char *file, Error *err);
// The member `key` of an object, the last one of several; NULL: absent or null.
const struct cJSON *json_get(const struct cJSON *object, const char *key);
// Typed members. An absent or null one leaves *value alone; one of another type fails.
bool json_int(const struct cJSON *object, const char *key, int64_t *value, const char *file,
              Error *err);
bool json_number(const struct cJSON *object, const char *key, double *value, const char *file,
                 Error *err);
bool json_bool(const struct cJSON *object, const char *key, bool *value, const char *file,
               Error *err);
bool json_text(const struct cJSON *object, const char *key, const char **value, const char *file,
               Error *err); // points into the JSON

// ================================================================================================
// config.c: config.json, quantize_config.json, generation_config.json as typed structs
// ================================================================================================

typedef enum RopeType { // ORDER ROPE_TYPES (config.c: names)
    ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN, ROPE_LONGROPE,
    ROPE_TYPE_COUNT,
} RopeType;

typedef struct RopeConfig {
    RopeType type;
    double rope_theta;
    double factor;
    double low_freq_factor, high_freq_factor; // llama3
    double beta_fast, beta_slow;              // yarn
    double attention_factor;                  // 0: derive
    double partial_rotary_factor;             // 1: all of head_dim rotates
    int64_t original_max_position_embeddings;
    const double *short_factor, *long_factor; // longrope: [head_dim / 2]
    bool truncate;                            // yarn: round the ends of the ramp
} RopeConfig;

typedef enum QuantFormat { // ORDER QUANT_FORMATS (config.c: names)
    QUANT_GPTQ, QUANT_GPTQ_V2, QUANT_GPTQ_P, QUANT_FORMAT_COUNT,
} QuantFormat;

// One rule of `dynamic`, in the order in which GPTQModel tries them (negative rules first).
typedef struct QuantRule {
    const char *pattern; // without the "+:" or "-:" prefix
    bool negative;       // the module is not quantized
    int bits;            // 0: inherit
    int64_t group_size;  // 0: inherit
    int sym, desc_act;   // -1: inherit
} QuantRule;

typedef struct QuantConfig {
    bool present;
    int bits;
    int64_t group_size; // -1: one group
    bool sym, desc_act;
    QuantFormat format;
    const char *quantizer; // meta.quantizer, "" if absent
    QuantRule *rules;
    int rule_count;
    const char *source; // the file that it came from, for messages
    // A second file that contradicts this one; tried for modules whose tensors refute this one.
    const struct QuantConfig *other;
} QuantConfig;

typedef struct Config {
    const char *dir;
    const char *name;         // last folder of dir
    const char *architecture; // architectures[0]
    const char *model_type;
    const char *hidden_act;
    int64_t vocab_size, hidden_size, intermediate_size;
    int64_t num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim;
    int64_t max_position_embeddings;
    double rms_norm_eps;
    bool tie_word_embeddings, tie_present; // tie_present: the key is in the file
    bool attention_bias, mlp_bias;
    ModelDType dtype; // torch_dtype / dtype
    RopeConfig rope;
    QuantConfig quant;
    int32_t bos_token_id; // -1: none
    int32_t stop_ids[PAYLOAD_MAX_STOP_IDS];
    int stop_count;
    bool do_sample;
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k;
    Notes notes;
} Config;

bool config_read(Config *out, const char *dir, Arena *a, Error *err);
// quant_config.c: the quantization configuration from `config_json` (the root of config.json, NULL:
// none) and quantize_config.json and its other names. out->present = false: there is none.
bool quant_config_read(QuantConfig *out, const struct cJSON *config_json, const char *dir,
                       Notes *notes, Arena *a, Error *err);
// rope.c: the rope settings of config.json, old and new spelling. Needs out's head_dim and
// max_position_embeddings.
bool rope_read(Config *out, const struct cJSON *json, const char *file, Arena *a, Error *err);
// inv_freq[r / 2] and the factor on cos and sin for sequences of up to max_seq_len tokens.
// r = rotary dimensions = head_dim * partial_rotary_factor.
int64_t rope_frequencies(const Config *c, int64_t max_seq_len, float *inv_freq, float *factor);

// ================================================================================================
// gptq.c: one linear module of the checkpoint, quantized or plain, behind one small interface
// ================================================================================================

// W[n][k] = scale[group(k)][n] * (code[k][n] - zero[group(k)][n]);  bits == 16: plain weights.
typedef struct Weight {
    const char *module; // "model.layers.0.self_attn.q_proj"
    int64_t in_features, out_features; // K, N
    int bits;           // 4, 8 (later 2, 3, 5, 6, 7), 16 = plain
    int64_t group_size; // > 0; in_features for one group
    int64_t groups;     // ceil(K / group_size)
    bool sym;
    QuantFormat format;
    const Tensor *qweight, *qzeros, *scales, *g_idx; // qzeros, g_idx may be NULL
    const Tensor *weight;                            // plain
    const Tensor *bias;                              // NULL: none
    const Tensor *spurious_bias; // all zero, of a module that has none: not used
    bool act_order;              // g_idx is not k / group_size
    const char *zeros; // what qzeros holds: "v1", "v2", "v1 (old)", "asymmetric", "-": none read
    Notes notes;
} Weight;

// Finds and validates the tensors of `module` (rules R1 to R6). `wants_bias`: the architecture has
// one. Errors name file, tensor, found and expected.
bool weight_open(Weight *out, const Checkpoint *c, const QuantConfig *q, const char *module,
                 int64_t in_features, int64_t out_features, bool wants_bias, Arena *a, Error *err);
// The two halves of weight_open: weight_read takes whatever the format allows, weight_supported
// says what the rest of this compiler cannot take (`check` calls them one by one).
bool weight_read(Weight *out, const Checkpoint *c, const QuantConfig *q, const char *module,
                 int64_t in_features, int64_t out_features, bool wants_bias, Arena *a, Error *err);
bool weight_supported(const Weight *w, Error *err);
// What the configuration says about one module, its `dynamic` rule applied.
typedef struct QuantEffective {
    int bits;
    int64_t group_size; // -1: one group
    bool sym, desc_act;
    QuantFormat format;
} QuantEffective;
bool quant_effective(QuantEffective *out, const QuantConfig *q, const char *module, Error *err);
// Refuses a checkpoint without any quantized module.
bool quant_require(const Checkpoint *c, const QuantConfig *q, Error *err);
// Codes of output row n, inputs [k0, k0 + count), as stored (0 .. 2^bits - 1).
void weight_codes(const Weight *w, int64_t n, int64_t k0, int64_t count, uint8_t *codes);
// The code that means 0.
int weight_zero(const Weight *w, int64_t group, int64_t n);
// Scale as fp16 bits (exact: the checkpoint's own dtype is fp16, else ERR_UNSUPPORTED earlier).
uint16_t weight_scale_half(const Weight *w, int64_t group, int64_t n);
// Dequantized row n, all K inputs, exact in float.
void weight_row(const Weight *w, int64_t n, float *row);
// The fast way for packing: codes[column * count + k] of output rows [n0, n0 + columns) and inputs
// [k0, k0 + count), all inside the tensor. Fastest when k0 and count are multiples of 32 / bits and
// columns is a multiple of 16 (one cache line of qweight).
void weight_code_block(const Weight *w, int64_t n0, int64_t columns, int64_t k0, int64_t count,
                       uint8_t *codes);
// bits == 16: inputs [k0, k0 + count) of output row n as fp16 bits (exact).
void weight_halves(const Weight *w, int64_t n, int64_t k0, int64_t count, uint16_t *out);

// ================================================================================================
// graph.c: typed ops on values
// ================================================================================================

// All values are [tokens, width]; tokens is known when a step runs.
typedef enum ValueType { VALUE_ACT, VALUE_F32 } ValueType; // ACT: the activation dtype of the target

typedef struct Value {
    const char *name;
    ValueType type;
    int64_t width; // elements per token
    int producer;  // index of the op; set by graph_fuse, -1 before
} Value;

// X(kind, name). ORDER OPS (graph.c prints and verifies, interp.c runs, plan.c lowers).
//   EMBED      out[t] = table[token_ids[t]]                                  -> F32
//   NORM       out = x * rsqrt(mean(x^2) + eps) * w                          F32 -> ACT
//   LINEAR     out = epilogue(prologue(x) W^T + bias)                        ACT or F32 -> ACT or F32
//   ROPE       rotates q or k heads at positions[t], half-split pairs         ACT -> ACT
//   KV_APPEND  writes k and v of the tokens into the cache of `layer`         ACT, ACT -> none
//   ATTENTION  softmax(q K^T * scale) V, causal, over the cache of `layer`    ACT -> ACT
//   ACT_MUL    out = act(gate) * up                                          ACT, ACT -> ACT
//   ADD        out = a + b (residual, fp32)                                  F32, ACT -> F32
//   GATHER     out[r] = x[head_rows[r]]                                      F32 -> F32
#define OP_LIST(X)                                                                                 \
    X(EMBED, "embed")                                                                              \
    X(NORM, "norm")                                                                                \
    X(LINEAR, "linear")                                                                            \
    X(ROPE, "rope")                                                                                \
    X(KV_APPEND, "kv_append")                                                                      \
    X(ATTENTION, "attention")                                                                      \
    X(ACT_MUL, "act_mul")                                                                          \
    X(ADD, "add")                                                                                  \
    X(GATHER, "gather")

typedef enum OpKind {
#define OP_ENUM(kind, name) OP_##kind,
    OP_LIST(OP_ENUM)
#undef OP_ENUM
        OP_COUNT,
} OpKind;

typedef enum Activation { ACT_SILU, ACT_GELU_TANH } Activation;

// Which output feature stands in which packed row. Pairs that an epilogue needs together are rows
// r and r + 8 of one tile of 16, so that one lane of an mma holds both.
typedef enum RowOrder { // ORDER ROWS
    ROWS_PLAIN,   // row = feature of the concatenated parts
    ROWS_ROPE,    // parts q, k, v. In each head of q and k, tile t: row r < 8 is feature 8t + r,
                  // row r + 8 is feature 8t + r + head_dim / 2. v: plain.
    ROWS_GATE_UP, // parts gate, up: tile t: row r < 8 is gate feature 8t + r, row r + 8 is up
                  // feature 8t + r.
} RowOrder;

typedef enum PackedKind { PACKED_LINEAR, PACKED_VECTOR } PackedKind;

enum { LINEAR_MAX_PARTS = 4 };

// One tensor of SEGMENT_WEIGHTS.
typedef struct PackedTensor {
    PackedKind kind;
    const char *name;
    // PACKED_LINEAR: layout tile16, drawn in pack.c and docs/kernels.md
    const Weight *parts[LINEAR_MAX_PARTS]; // concatenated along N; same bits and group_size
    int part_count;
    RowOrder order;
    int64_t head_dim;     // ROWS_ROPE
    int64_t in_features;  // K
    int64_t out_features; // N = sum of the parts
    int bits;             // 4, 8, 16
    int group;            // k elements per stored scale: 32, 64 or 128; 0 for 16 bits
    int64_t rows;         // N rounded up to 16
    int64_t k_padded;     // K rounded up to the record
    // PACKED_VECTOR: fp32 [count]
    const float *values; // in the order in which it is stored
    int64_t count;
    // set by weights_layout
    int64_t offset; // bytes in REGION_WEIGHTS, multiple of 256
    int64_t bytes;
} PackedTensor;

typedef enum LinearPrologue { PROLOGUE_NONE, PROLOGUE_NORM } LinearPrologue;
typedef enum LinearEpilogue { // ORDER EPILOGUES
    EPILOGUE_STORE,   // out = y
    EPILOGUE_ADD,     // out = residual + y, fp32, in place of the residual
    EPILOGUE_ACT_MUL, // out[f] = act(gate[f]) * up[f]; rows in ROWS_GATE_UP
    EPILOGUE_ROPE_KV, // q: rotated, stored; k: rotated, into the cache; v: into the cache; ROWS_ROPE
} LinearEpilogue;

typedef struct Op {
    OpKind kind;
    int layer;     // -1 outside the layers
    int inputs[3]; // values; -1: none. LINEAR with EPILOGUE_ADD: {x, residual}
    int output;    // value; -1: none
    union {
        struct {
            int table; // packed
        } embed;
        struct {
            int weight; // packed vector [width]
            float eps;
        } norm;
        struct {
            int weight; // packed
            int bias;   // packed vector in packed row order [rows]; -1: none
            LinearPrologue prologue;
            int norm_weight; // PROLOGUE_NORM: packed vector [K]
            float eps;
            LinearEpilogue epilogue;
            Activation act;          // EPILOGUE_ACT_MUL
            int64_t heads, kv_heads; // EPILOGUE_ROPE_KV
            int64_t head_dim;
            int inv_freq; // packed vector [head_dim / 2]
            float rope_factor;
        } linear;
        struct {
            int64_t heads, head_dim;
            int inv_freq;
            float factor;
        } rope;
        struct {
            int64_t kv_heads, head_dim;
        } kv_append;
        struct {
            int64_t heads, kv_heads, head_dim;
            float scale;
        } attention;
        struct {
            Activation act;
        } act_mul;
    };
} Op;

typedef struct Graph {
    Op *ops;
    int op_count, op_capacity;
    Value *values;
    int value_count, value_capacity;
    PackedTensor *packed;
    int packed_count, packed_capacity;
    int hidden; // value [tokens, hidden_size]: the residual stream after the last layer
    int logits; // value [rows, vocab_size]
    int head_first; // index of the op (GATHER) where the head starts: ops before it make hidden
    Arena *arena;
} Graph;

// Room for one more element of a growing array of an arena: returns the array, moved if needed.
void *array_grow(Arena *a, void *items, int count, int *capacity, size_t elem_bytes);
Graph graph_new(Arena *a);
int graph_value(Graph *g, const char *name, ValueType type, int64_t width); // returns its index
Op *graph_op(Graph *g, OpKind kind, int layer); // appended; inputs and output are -1
int graph_linear_weight(Graph *g, const char *name, const Weight *const *parts, int part_count);
int graph_vector(Graph *g, const char *name, const float *values, int64_t count);
// Every op has the operands, types, widths and packed tensors of its kind; values are defined
// before use and once. ERR_INTERNAL names op and rule.
bool graph_verify(const Graph *g, Error *err);
void graph_print(const Graph *g, FILE *out);
// The packed tensors that an op reads, at most four; -1 where there is none.
void op_packed(const Op *op, int out[4]);
const char *op_name(OpKind kind);

// ================================================================================================
// arch_*.c: one file per model family
// ================================================================================================

// One linear module of a model, as the architecture wants it.
typedef struct LinearSpec {
    const char *module;
    int64_t in_features, out_features;
    bool wants_bias;
} LinearSpec;

typedef struct Arch {
    const char *architecture; // "LlamaForCausalLM"
    // All linear modules, the embedding first; *count of them.
    LinearSpec *(*linears)(const Config *config, const Checkpoint *c, Arena *a, int *count);
    // Builds the unfused graph. Requires: config read, checkpoint open. `max_seq_len` fixes rope.
    bool (*build)(Graph *g, const Config *config, const Checkpoint *c, int64_t max_seq_len,
                  Arena *a, Error *err);
} Arch;

extern const Arch arch_llama;
const Arch *arch_find(const char *architecture); // NULL: unsupported (arch.c: the table)
const char *arch_names(Arena *a); // "LlamaForCausalLM, ..."

// check.c: `gptq-compile check DIR`, a table of all modules and what is wrong with each
int check_command(int argc, char **argv);

// ================================================================================================
// check.c: `gptq-compile check DIR`
// ================================================================================================

int check_command(int argc, char **argv);

// ================================================================================================
// fuse.c: passes over the graph, each with a line saying what it requires, provides, breaks
// ================================================================================================

// In order: fuse_linears, fuse_rope_kv, fuse_act_mul, fuse_residual, fuse_norm.
// The result computes the same function; packed tensors get their RowOrder here.
bool graph_fuse(Graph *out, const Graph *in, Arena *a, Error *err);

// ================================================================================================
// interp.c: the oracle. Plain loops and doubles; tested against transformers' references
// ================================================================================================

typedef struct Interp Interp;
Interp *interp_new(const Graph *g, const Config *c, int64_t max_seq_len, Arena *a);
// Appends `count` tokens to the one sequence and runs them; logits of every token, double
// [count, vocab_size], owned by the caller.
bool interp_run(Interp *in, const int32_t *ids, int count, double *logits, Error *err);
// The value of the last run, double [count, width]; NULL if it was not kept.
const double *interp_value(const Interp *in, int value);
// Runs one op on given inputs; tests of single kernels use this.
// inputs[i]: double [tokens, width]; out: double [tokens, width].
void interp_linear(const Graph *g, const Op *op, const double *x, int64_t tokens, double *y);

// ================================================================================================
// target.c: facts about machines
// ================================================================================================

typedef struct Target {
    const char *name;    // "sm_90a", "cpu"
    const char *aliases; // product names, separated by spaces: "h100 h200"
    TargetDevice device;
    int compute_major, compute_minor;
    bool exact;            // only this compute capability
    int sms;               // streaming multiprocessors of the reference chip
    int shared_bytes;      // shared memory of one block at most
    double bandwidth_gbs;  // measured read bandwidth of the reference chip, GB/s
    double tensor_tflops;  // dense fp16
    double launch_us;      // kernel to kernel in a CUDA graph
    const char *cpu_level; // cpu: "x86-64-v3", ...; one "cpu" target expands to all levels
} Target;

// Parses "cpu,sm_90a,h200,native,all" into at most max entries. Unknown: ERR_UNSUPPORTED with the
// list of what is known.
bool targets_parse(const Target **out, int *count, int max, const char *list, Error *err);
void targets_print(FILE *out);
// The target of the first GPU of this machine, by its driver; *found = false: there is none.
bool target_native(const Target **out, bool *found, Error *err);
extern const Target target_table[];
extern const int target_count;

// ================================================================================================
// plan.c, memory.c: which kernel runs each op, with which parameters, where everything lies
// ================================================================================================

// A named compile-time parameter: `#define NAME value` for NVRTC, a hole of the same name for LLVM.
typedef struct Param {
    const char *name;
    int64_t value;
} Param;

enum { PARAMS_MAX = 40, STEP_MAX_OPERANDS = 16, KERNEL_MAX_CANDIDATES = 16 };

typedef struct Params {
    Param items[PARAMS_MAX];
    int count;
} Params;

void params_set(Params *p, const char *name, int64_t value); // replaces or appends
int64_t params_get(const Params *p, const char *name);       // must exist
bool params_equal(const Params *a, const Params *b);

typedef struct Cost {
    double bytes; // moved through memory
    double flops;
    double us;    // predicted time
} Cost;

typedef enum OperandKind { // ORDER OPERANDS (llvm.c)
    OPERAND_ADDRESS, // region + offset
    OPERAND_BUFFER,  // REGION_ARENA + the buffer's offset, known after memory_plan
    OPERAND_TOKENS,  // run->tokens
    OPERAND_INT,     // a constant
} OperandKind;

typedef struct Operand {
    OperandKind kind;
    int region;     // StepRegion of step.h: 0 weights, 1 arena, 2 KV, 3 batch
    int64_t offset; // bytes; OPERAND_INT: the value; OPERAND_BUFFER: added to the buffer's offset
    int buffer;     // OPERAND_BUFFER
} Operand;

// One call of a kernel.
typedef struct Step {
    const Op *op;       // NULL: sampling and the like
    const char *source; // CUDA: "kernels/linear_decode.cu"; CPU: template "cpu_linear"
    const char *entry;  // function in it
    Params params;
    Operand operands[STEP_MAX_OPERANDS]; // in the order of the function's parameters
    int operand_count;
    // CUDA only
    int grid[3];
    int tokens_per_block; // > 0: grid[1] = ceil(tokens / tokens_per_block)
    int block;            // threads
    int shared_bytes;     // dynamic
    Cost cost;            // at the phase's max_tokens
    int kernel_index;     // among the distinct kernels of the plan, set by plan_make
} Step;

// An area of REGION_ARENA.
typedef struct Buffer {
    const char *name;
    int64_t bytes;
    int first_step, last_step; // of the phase; set while operands are added
    bool persistent;           // lives across phases (hidden, logits)
    int64_t offset;            // set by memory_plan
} Buffer;

// Steps of one (phase, max_tokens) of one target.
typedef struct PhasePlan {
    int phase;         // StepPhase of step.h
    int64_t max_tokens;
    Step *steps;
    int step_count, step_capacity;
    Buffer *buffers; // persistent ones first, the same in every phase
    int buffer_count, buffer_capacity;
    int *value_buffer; // [graph.value_count]: buffer of a value, -1: none yet
    // why a kernel was refused or not chosen, one line each, for --explain
    char **notes;
    int note_count, note_capacity;
} PhasePlan;

typedef struct Sizes { // what the command line and the model fix
    int64_t max_seq_len, max_batch_size, max_num_tokens, max_head_rows, page_tokens;
} Sizes;

typedef struct Plan {
    const Target *target;
    const Graph *graph; // fused
    ModelInfo info;     // dimensions; arena_bytes set by memory_plan
    BatchLayout batch;
    PhasePlan *phases;
    int phase_count;
    Step **kernels; // one step per distinct (source, entry, params): what must be compiled
    int kernel_count;
    Arena *arena;
} Plan;

// What a kernel family is asked about.
typedef struct Problem {
    const Plan *plan;
    const Op *op;
    int phase;          // StepPhase
    int64_t max_tokens; // of this phase
} Problem;

enum { REASON_BYTES = 160 };

// A kernel family: one file kernel_*.c. plan.c asks all families of the op and device, keeps the
// cheapest candidate, and writes refusals with their reason into the notes.
typedef struct Kernel {
    const char *name;
    TargetDevice device;
    OpKind op;
    bool (*accepts)(const Problem *p, char reason[REASON_BYTES]);
    int (*candidates)(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]);
    Cost (*cost)(const Problem *p, const Params *params);
    // Appends the step or steps of the op to the phase.
    void (*lower)(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                  PhasePlan *phase);
} Kernel;

extern const Kernel *const kernel_table[]; // kernel.c: ORDER KERNELS
extern const int kernel_table_count;

// For lower(): append a step and its operands. A buffer's live range grows as operands name it.
Step *plan_step(Plan *p, PhasePlan *phase, const Op *op, const char *source, const char *entry,
                const Params *params);
int plan_buffer(Plan *p, PhasePlan *phase, const char *name, int64_t bytes); // scratch of this phase
int plan_value(Plan *p, PhasePlan *phase, int value); // buffer of a graph value, made when missing
void step_address(Step *s, int region, int64_t offset);
void step_weights(Step *s, const Plan *p, int packed);           // REGION_WEIGHTS + its offset
void step_buffer(PhasePlan *phase, Step *s, int buffer, int64_t offset);
void step_value(Plan *p, PhasePlan *phase, Step *s, int value);  // = step_buffer(plan_value())
void step_kv(Step *s, const Plan *p, int layer);                 // REGION_KV + layer * stride
void step_tokens(Step *s);
void step_int(Step *s, int64_t value);
// Bytes of one element of a value on this target (ACT: 2 on CUDA, 4 on the CPU).
int64_t plan_value_elem(const Plan *p, int value);

// What an op is, without its layer: "gate+up 2048x384 4-bit g128, norm, act_mul".
const char *op_label(char *out, size_t size, const Graph *g, const Op *op);
bool plan_make(Plan *out, const Graph *g, const Config *c, const Target *t, const Sizes *sizes,
               Arena *a, Error *err);
// Gives every buffer an offset (first fit by live range); sets info.arena_bytes.
void memory_plan(Plan *p);
// explain.c: the table of --explain, and its JSON form
void plan_explain(const Plan *const *plans, int count, FILE *out);
void plan_explain_json(const Plan *const *plans, int count, FILE *out);
// `--emit plan`: every step with operands and buffers
void plan_print(const Plan *p, FILE *out);
// The oracle of a plan's fused ops is interp.c on the same graph.

// ================================================================================================
// kernel_*.c: the families
// ================================================================================================

extern const Kernel kernel_linear_decode, kernel_linear_gemm;          // CUDA, mma.sync
extern const Kernel kernel_embed, kernel_norm, kernel_gather;          // CUDA
extern const Kernel kernel_attention_decode, kernel_attention_prefill; // CUDA
extern const Kernel kernel_cpu_embed, kernel_cpu_linear, kernel_cpu_attention, kernel_cpu_norm,
    kernel_cpu_gather;
// PHASE_SAMPLE has no graph op: appends the sampling step of a CUDA plan (kernel_sample.c).
void kernel_sample_lower(Plan *plan, PhasePlan *phase);

// ================================================================================================
// nvrtc.c, cache.c: CUDA source to cubin
// ================================================================================================

typedef struct Cubin {
    uint64_t key[2];
    Bytes image;
    bool is_ptx;
    bool cached; // no NVRTC call was made for it
} Cubin;

typedef enum CacheMode { CACHE_ON, CACHE_OFF, CACHE_READ_ONLY, CACHE_REDO } CacheMode;

typedef struct Cache Cache;
// dir NULL: $GPTQ_COMPILE_CACHE, $XDG_CACHE_HOME/gptq-compile, ~/.cache/gptq-compile. Creates it
// 0700; refuses one that belongs to someone else or that others may write.
bool cache_open(Cache **out, const char *dir, CacheMode mode, Arena *a, Error *err);
// Entries hold their whole key text, which is compared, and a checksum. *found = false: none, or
// a damaged one (which is removed unless read-only).
bool cache_get(Cache *c, const char *key_text, size_t key_size, Bytes *image, bool *found, Arena *a,
               Error *err);
// Temporary name, fsync, rename. A full disk or read-only folder is a warning, not a failure.
void cache_put(Cache *c, const char *key_text, size_t key_size, Bytes image);
int cache_command(int argc, char **argv); // gptq-compile cache ls|stat|prune|export|import

typedef struct Nvrtc Nvrtc;
// dlopen of libnvrtc: next to gptq-compile, then the loader, then the usual folders.
// ERR_TOOLCHAIN says what was tried and how to get it.
bool nvrtc_open(Nvrtc **out, Arena *a, Error *err);
// Text handed to NVRTC: prologue of params, then `#line 1 "source"`, then the source.
char *kernel_source_text(const Step *kernel, const Target *t, Arena *a, Error *err);

typedef struct CubinStats {
    int compiled, cached, spilled;
    double seconds;
} CubinStats;

// `--emit source|ptx|sass`: prints that form of one kernel.
bool kernel_emit(const Step *kernel, const Target *t, const char *stage, FILE *out, Arena *a,
                 Error *err);

// Compiles all kernels of a plan (cubins[plan->kernel_count]) with `threads` threads. NVRTC is
// opened only if an entry is missing in the cache. A kernel that spills is ERR_INTERNAL.
bool cubins_make(Cubin *cubins, const Plan *p, Cache *cache, int threads, CubinStats *stats,
                 Arena *a, Error *err);

// ================================================================================================
// llvm.c: templates to one object file
// ================================================================================================

// Emits the host object: for every plan a step function per phase (and per CPU level), the
// specialized CPU kernels, and the table model_steps (runtime/step.h).
// Deterministic: same plans, same bytes. `triple`: "x86_64-linux-gnu" or "aarch64-linux-gnu".
// cache may be NULL.
bool host_object_make(Bytes *object, const Plan *const *plans, int count, const char *triple,
                      Cache *cache, Arena *a, Error *err);

// ================================================================================================
// pack.c: weights in the layout of the kernels (tile16)
// ================================================================================================

// Assigns offset and bytes of every packed tensor; returns the size of SEGMENT_WEIGHTS.
bool weights_layout(Graph *g, int64_t *bytes, Error *err);
// (row, k) of a packed linear -> (part, n); n = -1: padding row.
void packed_row(const PackedTensor *t, int64_t row, int *part, int64_t *n);

typedef struct PackStats {
    double seconds;
    int64_t bytes;
} PackStats;

// Writes all packed tensors at base + offset of the file descriptor with `threads` threads, layer
// by layer, with bounded host memory. progress may be NULL. checks: uint64_t per page of
// PAYLOAD_PAGE_BYTES, room for ceil(bytes / PAYLOAD_PAGE_BYTES), filled here.
bool weights_pack(const Graph *g, int fd, int64_t base, int64_t bytes, int threads,
                  void (*progress)(void *user, int64_t done, int64_t total), void *user,
                  uint64_t *checks, PackStats *stats, Error *err);
// Packs one tensor into memory (tests, and weights_pack itself). out: t->bytes.
void tensor_pack(const PackedTensor *t, unsigned char *out);

// ================================================================================================
// tokenizer.c: tokenizer.json to the tables that runtime/tokenizer.c uses in place
// ================================================================================================

bool tokenizer_compile(const char *dir, int64_t vocab_size, Arena *a, Bytes *blob, Error *err);

// ================================================================================================
// link.c, emit.c: the executable
// ================================================================================================

// Links object and the embedded runtime of `triple` into an ELF image by ld or ld.lld, without any
// file on disk. ERR_TOOLCHAIN if there is no linker.
bool link_executable(Bytes *image, Bytes object, const char *triple, Arena *a, Error *err);

// The output while it is written: a file without a name in the folder of `path` (or, where the file
// system cannot do that, a temporary name), so that an interrupted compile leaves nothing behind
// and an old output stays until the new one is whole.
typedef struct Output {
    const char *path;
    char temporary[4096]; // "" while the file has no name
    int fd;
    int64_t size;
} Output;

bool output_open(Output *out, const char *path, Error *err);
// Reserves `bytes` on the disk, so that a full one is found before the work.
bool output_reserve(Output *out, int64_t bytes, Error *err);
bool output_write(Output *out, int64_t at, const void *data, size_t size, Error *err);
// Syncs, gives the file its name (replacing an older one) and mode 0755.
bool output_commit(Output *out, Error *err);
void output_discard(Output *out);

// What goes into the payload besides the weights.
typedef struct Contents {
    Bytes elf;
    const Plan *const *plans;
    int plan_count;
    Cubin *const *cubins; // [plan_count][kernel_count]; NULL for CPU plans
    Bytes segments[SEGMENT_COUNT]; // tokenizer, template, explain, license, receipt are given
} Contents;

// Where the weights start behind an ELF image of that size.
int64_t payload_weights_offset(size_t elf_bytes);
// Writes ELF image, segments, table and footer around weights that are already packed at
// payload_weights_offset() with the given page checks.
bool payload_write(Output *out, const Contents *c, int64_t weights_bytes, const uint64_t *checks,
                   Arena *a, Error *err);

// ================================================================================================
// progress.c: numbered phases on stderr
// ================================================================================================

typedef enum ProgressMode { PROGRESS_AUTO, PROGRESS_PLAIN, PROGRESS_JSON, PROGRESS_NONE } ProgressMode;
typedef struct Progress {
    ProgressMode mode;
    int phase, phases; // phase counts from 1
    const char *title;
    double phase_started_s, drawn_s;
    char plain[200], json[300]; // facts of this phase in both forms
} Progress;

void progress_begin(Progress *p, const char *title);
void progress_at(Progress *p, int64_t done, int64_t total, const char *unit);
// A number about this phase, printed when it ends: "compiled 12" or "compiled":12.
void progress_fact(Progress *p, const char *name, double value);
void progress_end(Progress *p);
double clock_seconds(void); // monotonic

#endif
