// The map of the compiler: every noun, then every function under the name of its file, in the
// order of the pipeline. Read main.c after this.
//
//   checkpoint dir -> Checkpoint, Config -> Graph -> fused Graph -> Plan per target
//     -> cubins (cubins.c) + host object (llvm.c) -> packed weights (pack.c) -> executable (link.c,
//     emit.c)
//
// A stage never writes into the nouns of an earlier one. Everything lives in one Arena per run.
// Functions that can fail return bool (true = done) and take Error *err last.
#ifndef COMPILE_H
#define COMPILE_H

#include <stdio.h>

#include "../runtime/base.h"
#include "../runtime/payload.h"
#include "../runtime/payload_selftest.h"

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
    TENSOR_BOOL,
    TENSOR_U8,
    TENSOR_I8,
    TENSOR_F8_E5M2,
    TENSOR_F8_E4M3,
    TENSOR_I16,
    TENSOR_U16,
    TENSOR_F16,
    TENSOR_BF16,
    TENSOR_I32,
    TENSOR_U32,
    TENSOR_F32,
    TENSOR_I64,
    TENSOR_U64,
    TENSOR_F64,
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
    bool mapped; // data lies in the mapping of a file
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

// Maps all shards and validates every header (rules: safetensors.c). Mappings live until exit.
bool checkpoint_open(Checkpoint *out, const char *dir, Arena *a, Error *err);
const Tensor *checkpoint_find(const Checkpoint *c, const char *name); // NULL: absent
const char *tensor_type_name(TensorType type);
// Prints "[512, 4096]".
const char *shape_text(char *out, size_t size, const int64_t *shape, int rank);
// Reads elements [first, first + count) of an F16, BF16 or F32 tensor as float.
void tensor_read_f32(const Tensor *t, int64_t first, int64_t count, float *out);
// The tensor's pages need not stay in memory: whoever reads it again reads the file.
void tensor_release(const Tensor *t);

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
// A copy in the arena of an object with its members and their elements (deeper ones are left out),
// for keys that are read when the file is closed.
const struct cJSON *json_keep(const struct cJSON *object, Arena *a);
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
    ROPE_DEFAULT,
    ROPE_LINEAR,
    ROPE_DYNAMIC,
    ROPE_LLAMA3,
    ROPE_YARN,
    ROPE_LONGROPE,
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
    QUANT_GPTQ,
    QUANT_GPTQ_V2,
    QUANT_GPTQ_P,
    QUANT_FORMAT_COUNT,
} QuantFormat;

// One rule of `dynamic`, in the order in which GPTQModel tries them (negative rules first).
typedef struct QuantRule {
    const char *pattern; // without the "+:" or "-:" prefix
    bool negative;       // the module is not quantized
    int bits;            // 0: inherit
    int64_t group_size;  // 0: inherit
    int sym, desc_act;   // -1: inherit
    int place;           // in the file
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
    RopeConfig local_rope;    // of layers with a window, if rope_theta > 0; else they use `rope`
    const struct cJSON *json; // the language model's object, for keys of one family; lives on
    const char *file;         // "DIR/config.json"
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
int64_t rope_frequencies(const Config *c, const RopeConfig *r, int64_t max_seq_len, float *inv_freq,
                         float *factor);
// The longest sequence for which transformers would use the same frequencies as for short ones; the
// default of --max-seq-len. Beyond it longrope has other factors.
int64_t rope_short_limit(const Config *c);

// ================================================================================================
// gptq.c: one linear module of the checkpoint, quantized or plain, behind one small interface
// ================================================================================================

// How the code of weight 0 is found.
typedef enum ZeroRule {
    ZERO_MIDDLE,         // 2^(bits - 1): symmetric
    ZERO_STORED,         // what qzeros holds
    ZERO_FIELD_LESS_ONE, // one more, modulo 2^bits
    ZERO_WORD_LESS_ONE,  // a 1 was subtracted from every field at once, with borrows
} ZeroRule;

// W[n][k] = scale[group(k)][n] * (code[k][n] - zero[group(k)][n]);  bits == 16: plain weights.
typedef struct Weight {
    const char *module;                // "model.layers.0.self_attn.q_proj"
    int64_t in_features, out_features; // K, N
    // A slice of a tensor that holds more outputs (Phi-3's qkv_proj): N counts from first_column of
    // `columns`. A whole tensor: 0 and N.
    int64_t first_column, columns;
    int bits;           // 2 .. 8, 16 = plain
    int64_t group_size; // > 0; in_features for one group
    int64_t groups;     // ceil(K / group_size); act_order: rows of scales
    bool sym;
    QuantFormat format;
    const Tensor *qweight, *qzeros, *scales, *g_idx; // qzeros, g_idx may be NULL
    const Tensor *weight;                            // plain
    const Tensor *bias;                              // NULL: none
    const Tensor *spurious_bias; // all zero, of a module that has none: not used
    bool act_order;              // g_idx is not k / group_size
    bool scales_half;            // every scale is exactly an fp16 number
    ZeroRule zero_rule;
    bool zeros_default; // every zero point is 2^(bits - 1)
    const char *zeros;  // what qzeros holds: "v1", "v2", "v1 (old)", "asymmetric", "-": none read
    Notes notes;
} Weight;

// Finds and validates the tensors of `module` (gptq.c draws them). `wants_bias`: the architecture
// has one. Errors name file, tensor, found and expected.
bool weight_open(Weight *out, const Checkpoint *c, const QuantConfig *q, const char *module,
                 int64_t in_features, int64_t out_features, bool wants_bias, Arena *a, Error *err);
// Outputs [first, first + count) of w as a weight of its own, under another module name.
Weight weight_slice(const Weight *w, const char *module, int64_t first, int64_t count);
// What the configuration says about one module, its `dynamic` rule applied.
typedef struct QuantEffective {
    int bits;
    int64_t group_size; // -1: one group
    bool sym, desc_act;
    QuantFormat format;
    bool negative; // a "-:" rule: the module is not quantized
    bool by_rule;  // a rule matched
} QuantEffective;
// quant_rules.c: the first rule of `dynamic` that matches counts.
bool quant_effective(QuantEffective *out, const QuantConfig *q, const char *module, Error *err);
// What vLLM makes of the same rules: in the order of the file, under its own name of the module,
// *name, where q, k and v, gate and up, and all experts of a layer are one.
bool quant_effective_vllm(QuantEffective *out, const QuantConfig *q, const char *module,
                          const char **name, Arena *a, Error *err);
bool quant_rule_matches(const QuantConfig *q, const QuantRule *rule, const char *module,
                        bool *matches, Error *err);
// Refuses a checkpoint without any quantized module.
bool quant_require(const Checkpoint *c, const QuantConfig *q, Error *err);
// Codes of output row n, inputs [k0, k0 + count), as stored (0 .. 2^bits - 1).
void weight_codes(const Weight *w, int64_t n, int64_t k0, int64_t count, uint8_t *codes);
// The group of input k.
int64_t weight_group(const Weight *w, int64_t k);
// The code that means 0: 0 .. 2^bits - 1.
int weight_zero(const Weight *w, int64_t group, int64_t n);
float weight_scale(const Weight *w, int64_t group, int64_t n);
float weight_bias(const Weight *w, int64_t n); // 0 without one
// Dequantized row n, all K inputs, exact in float.
void weight_row(const Weight *w, int64_t n, float *row);
// The fast way for packing: codes[column * count + k] of output rows [n0, n0 + columns) and inputs
// [k0, k0 + count), all inside the tensor. Fastest when k0 and count are multiples of 32 / bits and
// columns is a multiple of 16 (one cache line of qweight).
void weight_code_block(const Weight *w, int64_t n0, int64_t columns, int64_t k0, int64_t count,
                       uint8_t *codes);
// The same for outputs n[0 .. columns) in any order; codes[column * stride + k - k0].
void weight_code_columns(const Weight *w, const int64_t *n, int columns, int64_t k0, int64_t count,
                         uint8_t *codes, int64_t stride);
// bits == 16: inputs [k0, k0 + count) of output row n as fp16 or bf16 bits, rounded to nearest.
void weight_halves(const Weight *w, int64_t n, int64_t k0, int64_t count, bool bf16, uint16_t *out);

#include "graph.h" // graph.c, recode.c, fuse.c, interp.c

// ================================================================================================
// arch_*.c: one file per model family
// ================================================================================================

// One linear module of a model, as the architecture wants it.
typedef struct LinearSpec {
    const char *module;
    int64_t in_features, out_features;
    bool wants_bias;
} LinearSpec;

// Values of keys that config.json leaves out, where the family's class says other than Llama's.
typedef struct ConfigDefault {
    const char *key; // NULL ends a list
    int64_t value;
} ConfigDefault;

struct Decoder;
typedef struct Arch {
    const char *architecture;      // "LlamaForCausalLM"
    const ConfigDefault *defaults; // NULL: none
    // Fills the description (decoder.h) from the configuration and what the checkpoint holds.
    bool (*describe)(struct Decoder *d, const Config *c, const Checkpoint *checkpoint, Arena *a,
                     Error *err);
} Arch;

// decoder.c: all linear modules of a model, the embedding first.
bool arch_linears(const Arch *arch, const Config *c, const Checkpoint *checkpoint, Arena *a,
                  LinearSpec **out, int *count, Error *err);
// The unfused graph; g->dtype is set. `max_seq_len` fixes rope.
bool arch_build(const Arch *arch, Graph *g, const Config *c, const Checkpoint *checkpoint,
                int64_t max_seq_len, Arena *a, Error *err);

extern const Arch arch_llama, arch_mistral, arch_qwen2, arch_qwen3, arch_qwen3_moe, arch_phi3,
    arch_gemma2, arch_gemma3, arch_gemma3_multimodal, arch_mixtral, arch_granite, arch_smollm3;
const Arch *arch_find(const char *architecture); // NULL: unsupported (arch.c: the table)
const char *arch_names(Arena *a);                // "LlamaForCausalLM, ..."

// ================================================================================================
// check.c: `gptq-compile check DIR`
// ================================================================================================

int check_command(int argc, char **argv);

#include "plan.h" // target.c, plan.c, memory.c, explain.c, kernel_*.c

// ================================================================================================
// cache.c, kernel_source.c, nvrtc.c, cubins.c: CUDA source to cubin
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
    int compiled, cached;
    int slow;            // kernels that are right, but slow (cubins.c)
    char slow_note[320]; // about the first of them
    double seconds;
} CubinStats;

// `--emit source|ptx|sass`: prints that form of one kernel.
bool kernel_emit(const Step *kernel, const Target *t, const char *stage, FILE *out, Arena *a,
                 Error *err);

// Compiles all kernels of a plan (cubins[plan->kernel_count]) with `threads` threads. NVRTC is
// opened only if an entry is missing in the cache.
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
    double cpu_seconds; // of all threads: what is left of `seconds` is the disk's
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
// link.c, output.c, emit.c: the executable
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
    const char *name;    // of the model; NULL: its model_type
    int64_t split_bytes; // weights lie in files of that size beside the executable; 0: in it
    Bytes elf;
    const Plan *const *plans;
    int plan_count;
    Cubin *const *cubins;          // [plan_count][kernel_count]; NULL for CPU plans
    Bytes segments[SEGMENT_COUNT]; // tokenizer, template, explain, license, receipt are given
} Contents;

// explain_targets.c: what each target adds to the file, in bytes.
void targets_explain(const Contents *c, FILE *out);

// Where the weights start behind an ELF image of that size.
int64_t payload_weights_offset(size_t elf_bytes);
// Writes ELF image, segments, table and footer around weights that are already packed at
// payload_weights_offset() with the given page checks.
bool payload_write(Output *out, const Contents *c, int64_t weights_bytes, const uint64_t *checks,
                   Arena *a, Error *err);

// ================================================================================================
// progress.c: numbered phases on stderr
// ================================================================================================

typedef enum ProgressMode {
    PROGRESS_AUTO,
    PROGRESS_PLAIN,
    PROGRESS_JSON,
    PROGRESS_NONE
} ProgressMode;
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
double cpu_seconds(void); // of all threads of the process

#endif
