// The back of the middle: targets, plans and kernel families. Part of the map, compile.h, which
// includes it.
#ifndef PLAN_H
#define PLAN_H

// ================================================================================================
// target.c: facts about machines
// ================================================================================================

typedef struct Target {
    const char *name;    // "sm_90a", "cpu"
    const char *aliases; // product names, separated by spaces: "h100 h200"
    TargetDevice device;
    int compute_major, compute_minor;
    bool exact;            // only this compute capability
    bool ptx;              // PTX, which drivers translate for this and any newer chip
    int sms;               // streaming multiprocessors of the reference chip
    int shared_bytes;      // shared memory of one block at most
    double bandwidth_gbs;  // measured read bandwidth of the reference chip, GB/s
    double tensor_tflops;  // dense fp16
    double launch_us;      // kernel to kernel in a CUDA graph
    const char *cpu_level; // cpu: "x86-64-v3", ...; "cpu" expands to all levels of a host
    const char *host;      // cpu: triple of such machines; NULL: any
} Target;

typedef struct TargetQuery {
    const char *list;   // "cpu,sm_90a,h200,native,all"
    const char *host;   // triple of the executable: which CPUs "cpu" and "all" mean
    const Target **out; // [max]
    int max, count;     // count is filled
} TargetQuery;

// Unknown: ERR_UNSUPPORTED with the list of what is known.
bool targets_find(TargetQuery *q, Error *err);
// The same for machines like this one.
bool targets_parse(const Target **out, int *count, int max, const char *list, Error *err);
const char *target_this_host(void); // "x86_64-linux-gnu"
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

enum { PARAMS_MAX = 40, STEP_MAX_OPERANDS = 16, KERNEL_MAX_CANDIDATES = 32 };

typedef struct Params {
    Param items[PARAMS_MAX];
    int count;
} Params;

void params_set(Params *p, const char *name, int64_t value);     // replaces or appends
void params_set_float(Params *p, const char *name, float value); // a float travels as its bits
int64_t params_get(const Params *p, const char *name);           // must exist
bool params_equal(const Params *a, const Params *b);

typedef struct Cost {
    double bytes; // moved through memory
    double flops;
    double us;    // time
    bool measured; // on a GPU of the target (tune.c); else predicted
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
    bool ready;     // weights: the kernel asks for them before it reads them (StepRun.ready)
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
    int map_columns, map_rows; // > 0: operand 0 goes as a tensor map, boxes of map_rows
                               // (runtime/tensor_map.h)
    int cluster_blocks;   // > 0: clusters of so many take work in turn, grid[0] blocks or as many as the
                          // chip holds at once
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
    int reordered;     // ops that sum in another order than in the decoding bucket before (select.c)
    int *value_buffer; // [graph.value_count]: buffer of a value, -1: none yet
    // why a kernel was refused or not chosen, one line each, for --explain
    char **notes;
    int note_count, note_capacity;
} PhasePlan;

typedef struct Sizes { // what the command line and the model fix
    int64_t max_seq_len, max_batch_size, max_num_tokens, max_head_rows, page_tokens;
    bool batch_invariant; // one order of sums in all batches
    const struct Tuning *tuning; // measured choices; NULL: none
} Sizes;

enum { BUCKETS_MAX = 16 };

typedef struct Plan {
    const Target *target;
    const Graph *graph; // fused
    ModelInfo info;     // dimensions; arena_bytes set by memory_plan
    BatchLayout batch;
    PhasePlan *phases;
    int phase_count;
    Step **kernels; // one step per distinct (source, entry, params): what must be compiled
    int kernel_count, kernel_capacity;
    int64_t same_rows; // see TargetInfo (payload.h)
    bool batch_invariant;
    int64_t decode_buckets[BUCKETS_MAX], prefill_buckets[BUCKETS_MAX]; // most tokens of each, ascending
    int decode_bucket_count, prefill_bucket_count;
    const struct Tuning *tuning; // NULL: nothing was measured
    struct KernelChoices *choices;     // [BUCKETS_MAX + 1] room for select.c
    const char **orders;         // [graph.op_count] order of sums of the op in the bucket before; with
                                 // batch_invariant in all that decode; NULL: open
    Arena *arena;
} Plan;

// Where a GPU kernel finds keys and values (payload.h draws the KV cache).
void params_kv(Params *params, const Plan *p);

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
    const char *sums; // parameters that set the order of its sums: "WARPS"; NULL: no parameter does
    const char *tied; // one that, if it is not 0, ties the order to the number of tokens, too; or NULL
    bool (*accepts)(const Problem *p, char reason[REASON_BYTES]);
    int (*candidates)(const Problem *p, Params out[KERNEL_MAX_CANDIDATES]);
    Cost (*cost)(const Problem *p, const Params *params);
    // Appends the step or steps of the op to the phase.
    void (*lower)(const Problem *p, const Params *params, const Cost *cost, Plan *plan,
                  PhasePlan *phase);
} Kernel;

extern const Kernel *const kernel_table[]; // kernel.c: ORDER KERNELS
extern const int kernel_table_count;
// What tells a candidate from the others of its family: the parameters on which they differ, as
// "BLOCK_TOKENS=64 ROW_GROUPS=2"; "" for the only one. Returns out.
const char *candidate_text(char *out, size_t size, const Params *all, int count, int which);

// ---- select.c: which kernel runs an op ----------------------------------------------------------

enum { CHOICES_MAX = 96, REFUSED_MAX = 8 };

typedef struct KernelChoice {
    const Kernel *kernel;
    Params params;
    Cost cost;
    char sums[96];     // sums_text: "linear_decode WARPS=8 CLUSTER=1 PROLOGUE=0"
    char variant[128]; // candidate_text
} KernelChoice;

// The order in which a kernel adds: its name and the parameters that set it (Kernel.sums). tokens: the
// problem's max_tokens. Equal texts, equal bits.
void sums_text(char *out, size_t size, const Kernel *kernel, const Params *params, int64_t tokens);

typedef struct Refused {
    const Kernel *kernel;
    char reason[REASON_BYTES];
} Refused;

typedef struct KernelChoices { // what there is for one problem, in the order of kernel_table
    KernelChoice items[CHOICES_MAX];
    int count;
    Refused refused[REFUSED_MAX];
    int refused_count;
} KernelChoices;

// What a family predicts, divided by what such kernels were seen to reach of it (efficiency.c).
Cost candidate_cost(const Kernel *kernel, const Problem *problem, const Params *params);
#define EFFICIENCY_TARGET "sm_90a" // where it was measured
// efficiency.c: the share of the predicted speed that a kernel with these parameters reaches; 1 where
// nothing was measured.
double kernel_efficiency(const char *kernel, const Params *params, int64_t tokens);
void choices_make(KernelChoices *out, const Problem *problem);
// The cheapest, of that order of sums and of that family unless they are NULL; the first among
// equals. A measured time beats a predicted one. NULL: there is none.
const KernelChoice *choices_best(const KernelChoices *all, const char *sums, const Kernel *family);
// The choice for an op in a phase, with a note on each family that did not get it. ERR_UNSUPPORTED
// if none takes it.
bool op_select(KernelChoice *out, const Plan *p, PhasePlan *phase, const Op *op, Error *err);

// buckets.c: decode_buckets and prefill_buckets of a plan.
void buckets_choose(Plan *p);

// For lower(): append a step and its operands. A buffer's live range grows as operands name it.
Step *plan_step(Plan *p, PhasePlan *phase, const Op *op, const char *source, const char *entry,
                const Params *params);
int plan_buffer(Plan *p, PhasePlan *phase, const char *name, int64_t bytes); // scratch of this phase
// GPU: zeros from the start on, at the same place in every phase; a kernel leaves them as zeros. All
// kernels share them, one after the other.
int plan_counts(Plan *p, PhasePlan *phase, int64_t bytes);
int plan_value(Plan *p, PhasePlan *phase, int value); // buffer of a graph value, made when missing
void step_address(Step *s, int region, int64_t offset);
void step_weights(Step *s, const Plan *p, int packed);           // REGION_WEIGHTS + its offset
void step_weights_ready(Step *s, const Plan *p, int packed);     // the kernel asks for them first
void step_weights_or_0(Step *s, const Plan *p, int packed);      // < 0: there is none, an int 0
void step_buffer(PhasePlan *phase, Step *s, int buffer, int64_t offset);
void step_value(Plan *p, PhasePlan *phase, Step *s, int value);  // = step_buffer(plan_value())
void step_kv(Step *s, const Plan *p, int layer);                 // REGION_KV + layer * stride
void step_tokens(Step *s);
void step_int(Step *s, int64_t value);
// Bytes of one element of a value on this target (ACT: 2 on CUDA, 4 on the CPU).
int64_t plan_value_elem(const Plan *p, int value);
int64_t value_width(const Problem *p, int value); // elements per token

// What an op is, without its layer: "gate+up 2048x384 4-bit g128, norm, act_mul".
const char *op_label(char *out, size_t size, const Graph *g, const Op *op);
// The same for linears, without the modules: "2048x384 4-bit g128, norm, act_mul".
const char *linear_shape(char *out, size_t size, const Graph *g, const Op *op);
bool plan_make(Plan *out, const Graph *g, const Config *c, const Target *t, const Sizes *sizes,
               Arena *a, Error *err);
// Index of the kernel of a step among the plan's, to which it is added unless it is there.
int plan_kernel(Plan *p, Step *s);
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
extern const Kernel kernel_linear_wgmma;                               // CUDA, wgmma
extern const Kernel kernel_embed, kernel_norm, kernel_gather;          // CUDA
extern const Kernel kernel_attention_decode, kernel_attention_prefill; // CUDA, mma.sync
extern const Kernel kernel_attention_wgmma;                            // CUDA, wgmma
extern const Kernel kernel_rope, kernel_kv_append, kernel_act_mul, kernel_add, kernel_permute,
    kernel_route; // CUDA
extern const Kernel kernel_experts_up_decode, kernel_experts_up_gemm, kernel_experts_down_decode,
    kernel_experts_down_gemm; // CUDA
extern const Kernel kernel_cpu_rope, kernel_cpu_kv_append, kernel_cpu_act_mul, kernel_cpu_add,
    kernel_cpu_permute, kernel_cpu_route;
extern const Kernel kernel_cpu_experts_up, kernel_cpu_experts_down;
extern const Kernel kernel_cpu_embed, kernel_cpu_linear, kernel_cpu_attention, kernel_cpu_norm,
    kernel_cpu_gather;
// PHASE_SAMPLE has no graph op: appends the sampling step of a CUDA plan (kernel_sample.c).
void kernel_sample_lower(Plan *plan, PhasePlan *phase);

#endif
