// The plan: for one target, which kernel runs each op, with which parameters, on which buffers.
//
// A phase (step.h) is lowered op by op: the kernel family that was selected (select.c) appends its
// steps through the builder functions below.
// Buffers: logits and hidden are persistent, at the same place in every phase of every target, and on
// a GPU the counts, which kernels find and leave as zeros. An op with EPILOGUE_ADD writes over its
// residual, so the whole residual stream is one buffer, hidden.
// Non-goals: offsets (memory.c), order of ops (the graph's), anything measured on the machine.
#include "compile.h"
#include "../runtime/step.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

enum {
    BUFFER_LOGITS, // ORDER PERSISTENT: index in PhasePlan.buffers
    BUFFER_HIDDEN,
    PERSISTENT_COUNT, // and the counts behind them
    KV_ELEM_BYTES   = 2,
    VALUE_ROW_ALIGN = 16, // kernels read whole tiles of tokens
};

// ---- params -------------------------------------------------------------------------------------

void params_set(Params *p, const char *name, int64_t value) {
    for (int at = 0; at < p->count; at++) {
        if (strcmp(p->items[at].name, name) == 0) {
            p->items[at].value = value;
            return;
        }
    }
    assert(p->count < PARAMS_MAX);
    p->items[p->count++] = (Param){.name = name, .value = value};
}

void params_set_float(Params *p, const char *name, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    params_set(p, name, bits);
}

void params_kv(Params *params, const Plan *p) {
    params_set(params, "PAGE_TOKENS", p->info.page_tokens);
    params_set(params, "PAGES_PER_SEQ", p->batch.pages_per_seq);
    params_set(params, "KV_PAGE_BYTES", p->info.kv_page_bytes);
    params_set(params, "KV_VALUES_AT", p->info.kv_layer_stride / 2);
}

int64_t params_get(const Params *p, const char *name) {
    for (int at = 0; at < p->count; at++)
        if (strcmp(p->items[at].name, name) == 0)
            return p->items[at].value;
    assert(false && "params_get of a parameter that was never set");
    return 0;
}

bool params_equal(const Params *a, const Params *b) {
    if (a->count != b->count)
        return false;
    for (int at = 0; at < a->count; at++)
        if (strcmp(a->items[at].name, b->items[at].name) != 0 ||
            a->items[at].value != b->items[at].value)
            return false;
    return true;
}

// ---- builder, for lower() of the kernel families ------------------------------------------------

Step *plan_step(Plan *p, PhasePlan *phase, const Op *op, const char *source, const char *entry,
                const Params *params) {
    phase->steps = array_grow(p->arena, phase->steps, phase->step_count, &phase->step_capacity,
                              sizeof *phase->steps);
    Step *s = &phase->steps[phase->step_count++];
    *s = (Step){.op = op, .source = source, .entry = entry, .params = *params, .grid = {1, 1, 1}};
    if (p->target->device == DEVICE_CUDA)
        params_set(&s->params, "ACT_BF16", p->graph->dtype == DTYPE_BF16);
    return s;
}

int plan_buffer(Plan *p, PhasePlan *phase, const char *name, int64_t bytes) {
    phase->buffers = array_grow(p->arena, phase->buffers, phase->buffer_count,
                                &phase->buffer_capacity, sizeof *phase->buffers);
    phase->buffers[phase->buffer_count] =
        (Buffer){.name = name, .bytes = bytes, .first_step = INT_MAX, .last_step = -1};
    return phase->buffer_count++;
}

int plan_counts(Plan *p, PhasePlan *phase, int64_t bytes) {
    static const char name[] = "counts";
    for (int at = 0; at < phase->buffer_count; at++)
        if (phase->buffers[at].name == name) {
            assert(bytes <= phase->buffers[at].bytes);
            return at;
        }
    int counts = plan_buffer(p, phase, name, bytes);
    phase->buffers[counts].persistent = true;
    return counts;
}

static const Op *value_producer(const Graph *g, int value) {
    for (int at = 0; at < g->op_count; at++)
        if (g->ops[at].output == value)
            return &g->ops[at];
    assert(false && "a verified graph has no value without producer");
    return NULL;
}

int64_t plan_value_elem(const Plan *p, int value) {
    bool half = p->graph->values[value].type == VALUE_ACT && p->target->device == DEVICE_CUDA;
    return half ? 2 : 4;
}

int64_t value_width(const Problem *p, int value) {
    return p->plan->graph->values[value].width;
}

// Does an op behind `op` read the value?
static bool read_later(const Graph *g, const Op *op, int value) {
    for (const Op *later = op + 1; later < g->ops + g->op_count; later++)
        for (int at = 0; at < 3; at++)
            if (later->inputs[at] == value)
                return true;
    return value == g->hidden || value == g->logits;
}

// The value whose memory `value` shares: the residual that an addition writes over, and in decode,
// where row r of the head is row r of the step, what GATHER would copy. -1: none.
static int value_alias(const Plan *p, const PhasePlan *phase, int value) {
    const Op *op = value_producer(p->graph, value);
    if (op->kind == OP_LINEAR && op->linear.epilogue == EPILOGUE_ADD)
        return op->inputs[1];
    if (op->kind == OP_ADD && !read_later(p->graph, op, op->inputs[0]))
        return op->inputs[0];
    if (op->kind == OP_GATHER && phase->phase == PHASE_DECODE)
        return op->inputs[0];
    return -1;
}

int plan_value(Plan *p, PhasePlan *phase, int value) {
    int root = value;
    while (phase->value_buffer[root] < 0 && value_alias(p, phase, root) >= 0)
        root = value_alias(p, phase, root);
    if (phase->value_buffer[root] < 0) {
        int64_t rows = (int64_t)round_up((uint64_t)phase->max_tokens, VALUE_ROW_ALIGN);
        const Value *v = &p->graph->values[root];
        phase->value_buffer[root] =
            plan_buffer(p, phase, v->name, rows * v->width * plan_value_elem(p, root));
    }
    phase->value_buffer[value] = phase->value_buffer[root];
    return phase->value_buffer[root];
}

static Operand *operand_new(Step *s, OperandKind kind) {
    assert(s->operand_count < STEP_MAX_OPERANDS);
    Operand *o = &s->operands[s->operand_count++];
    *o = (Operand){.kind = kind, .buffer = -1};
    return o;
}

void step_address(Step *s, int region, int64_t offset) {
    Operand *o = operand_new(s, OPERAND_ADDRESS);
    o->region = region;
    o->offset = offset;
}

void step_weights(Step *s, const Plan *p, int packed) {
    step_address(s, REGION_WEIGHTS, p->graph->packed[packed].offset);
}

void step_weights_ready(Step *s, const Plan *p, int packed) {
    step_weights(s, p, packed);
    s->operands[s->operand_count - 1].ready = true;
}

void step_buffer(PhasePlan *phase, Step *s, int buffer, int64_t offset) {
    Operand *o = operand_new(s, OPERAND_BUFFER);
    o->region = REGION_ARENA;
    o->buffer = buffer;
    o->offset = offset;
    Buffer *b = &phase->buffers[buffer];
    int index = (int)(s - phase->steps);
    b->first_step = index < b->first_step ? index : b->first_step;
    b->last_step = index > b->last_step ? index : b->last_step;
}

void step_value(Plan *p, PhasePlan *phase, Step *s, int value) {
    step_buffer(phase, s, plan_value(p, phase, value), 0);
}

void step_kv(Step *s, const Plan *p, int layer) {
    step_address(s, REGION_KV, layer * p->info.kv_layer_stride);
}

void step_tokens(Step *s) {
    operand_new(s, OPERAND_TOKENS);
}

void step_int(Step *s, int64_t value) {
    operand_new(s, OPERAND_INT)->offset = value;
}

void step_weights_or_0(Step *s, const Plan *p, int packed) {
    if (packed >= 0)
        step_weights(s, p, packed);
    else
        step_int(s, 0);
}

// ---- phases -------------------------------------------------------------------------------------

// A count for every row and query head, or for every multiprocessor.
static int64_t counts_bytes(const Plan *p) {
    const ModelInfo *info = &p->info;
    int64_t heads = 1, rows = info->max_batch_size;
    for (int at = 0; at < p->graph->op_count; at++)
        if (p->graph->ops[at].kind == OP_ATTENTION && p->graph->ops[at].attention.heads > heads)
            heads = p->graph->ops[at].attention.heads;
    int64_t counts = heads * (rows > info->max_num_tokens ? rows : info->max_num_tokens);
    return (counts > p->target->sms ? counts : p->target->sms) * 4;
}

static PhasePlan *phase_new(Plan *p, int kind, int64_t max_tokens) {
    const ModelInfo *info = &p->info;
    PhasePlan *phase = &p->phases[p->phase_count++];
    *phase = (PhasePlan){.phase = kind, .max_tokens = max_tokens};
    phase->value_buffer = ARENA_NEW(p->arena, int, p->graph->value_count + 1);
    for (int value = 0; value < p->graph->value_count; value++)
        phase->value_buffer[value] = -1;
    int logits = plan_buffer(p, phase, "logits", info->max_head_rows * info->vocab_size * 4);
    int hidden = plan_buffer(p, phase, "hidden", info->max_num_tokens * info->hidden_size * 4);
    assert(logits == BUFFER_LOGITS && hidden == BUFFER_HIDDEN);
    for (int at = 0; at < PERSISTENT_COUNT; at++)
        phase->buffers[at].persistent = true;
    if (p->target->device == DEVICE_CUDA)
        plan_counts(p, phase, counts_bytes(p));
    phase->value_buffer[p->graph->logits] = BUFFER_LOGITS;
    for (int value = p->graph->hidden; value >= 0; value = value_alias(p, phase, value))
        phase->value_buffer[value] = BUFFER_HIDDEN;
    return phase;
}

static bool phase_lower(Plan *p, int kind, int64_t max_tokens, Error *err) {
    PhasePlan *phase = phase_new(p, kind, max_tokens);
    const Graph *g = p->graph;
    if (kind == PHASE_SAMPLE) {
        kernel_sample_lower(p, phase);
        return true;
    }
    int first = kind == PHASE_HEAD ? g->head_first : 0;
    int end = kind == PHASE_PREFILL ? g->head_first : g->op_count;
    for (int at = first; at < end; at++) {
        if (kind == PHASE_DECODE && g->ops[at].kind == OP_GATHER)
            continue;
        const Problem problem = {
            .plan = p, .op = &g->ops[at], .phase = kind, .max_tokens = max_tokens};
        KernelChoice choice;
        TRY(op_select(&choice, p, phase, &g->ops[at], err));
        choice.kernel->lower(&problem, &choice.params, &choice.cost, p, phase);
    }
    return true;
}

static bool phases_lower(Plan *p, Error *err) {
    const ModelInfo *info = &p->info;
    p->phases = ARENA_NEW(p->arena, PhasePlan, 2 + p->decode_bucket_count + p->prefill_bucket_count);
    for (int at = 0; at < p->prefill_bucket_count; at++)
        TRY(phase_lower(p, PHASE_PREFILL, p->prefill_buckets[at], err));
    TRY(phase_lower(p, PHASE_HEAD, info->max_head_rows, err));
    if (p->target->device == DEVICE_CUDA)
        TRY(phase_lower(p, PHASE_SAMPLE, info->max_head_rows, err));
    for (int at = 0; at < p->decode_bucket_count; at++)
        TRY(phase_lower(p, PHASE_DECODE, p->decode_buckets[at], err));
    return true;
}

// The largest bucket up to which no op changes its order of sums. CPU kernels have one for all phases.
static int64_t same_rows(const Plan *p) {
    const ModelInfo *info = &p->info;
    int64_t rows = 0;
    if (p->target->device == DEVICE_CPU)
        return info->max_head_rows < info->max_num_tokens ? info->max_head_rows
                                                          : info->max_num_tokens;
    for (int at = 0; at < p->phase_count; at++) {
        const PhasePlan *phase = &p->phases[at];
        if (phase->phase != PHASE_DECODE)
            continue;
        if (rows && phase->reordered)
            break;
        rows = phase->max_tokens;
    }
    return rows;
}

// ---- the plan as a whole ------------------------------------------------------------------------

static void generation_info(ModelInfo *info, const Config *c) {
    info->bos_id = c->bos_token_id;
    info->stop_count = c->stop_count;
    memcpy(info->stop_ids, c->stop_ids, sizeof info->stop_ids);
    info->default_sample = c->do_sample;
    info->default_top_k = (int32_t)c->top_k;
    info->default_temperature = (float)c->temperature;
    info->default_top_p = (float)c->top_p;
    info->default_min_p = (float)c->min_p;
    info->default_repetition_penalty = (float)c->repetition_penalty;
}

// Weights that one token reads of a tensor of experts.
static int64_t chosen(const Op *op, const PackedTensor *t, int64_t all) {
    int64_t top_k = op->experts.top_k < t->experts ? op->experts.top_k : t->experts;
    return all / t->experts * top_k;
}

static const PackedTensor *op_matrix(const Graph *g, const Op *op) {
    if (op->kind == OP_LINEAR)
        return &g->packed[op->linear.weight];
    bool experts = op->kind == OP_EXPERTS_UP || op->kind == OP_EXPERTS_DOWN;
    return experts ? &g->packed[op->experts.weight] : NULL;
}

// Sizes of all weights, and of those that one decode step of one sequence reads: of an embedding
// table only a row, unless it is the head as well; of experts those that a token goes to.
static void weights_info(ModelInfo *info, const Graph *g, Arena *a) {
    int64_t *streamed = ARENA_NEW(a, int64_t, g->packed_count + 1);
    for (int at = 0; at < g->op_count; at++) {
        const Op *op = &g->ops[at];
        const PackedTensor *matrix = op_matrix(g, op);
        int read[OP_MAX_PACKED];
        op_packed(op, read);
        for (int i = 0; i < OP_MAX_PACKED && op->kind != OP_EMBED; i++)
            if (read[i] >= 0)
                streamed[read[i]] = g->packed[read[i]].bytes;
        if (!matrix)
            continue;
        int64_t params = matrix->experts * matrix->in_features * matrix->out_features;
        bool experts = op->kind != OP_LINEAR;
        info->linear_params += experts ? chosen(op, matrix, params) : params;
        if (experts)
            streamed[matrix - g->packed] = chosen(op, matrix, matrix->bytes);
    }
    for (int at = 0; at < g->packed_count; at++) {
        const PackedTensor *t = &g->packed[at];
        if (t->offset + t->bytes > info->weights_bytes)
            info->weights_bytes = t->offset + t->bytes;
        info->streamed_bytes += streamed[at];
    }
}

static void model_info(ModelInfo *info, const Graph *g, const Config *c, const Sizes *sizes) {
    *info = (ModelInfo){
        .vocab_size          = c->vocab_size,
        .hidden_size         = c->hidden_size,
        .num_hidden_layers   = c->num_hidden_layers,
        .num_attention_heads = c->num_attention_heads,
        .num_key_value_heads = c->num_key_value_heads,
        .head_dim            = c->head_dim,
        .max_seq_len         = sizes->max_seq_len,
        .max_batch_size      = sizes->max_batch_size,
        // one block of rows serves prefill and decode
        .max_num_tokens = sizes->max_num_tokens > sizes->max_batch_size ? sizes->max_num_tokens
                                                                        : sizes->max_batch_size,
        .max_head_rows = sizes->max_head_rows > sizes->max_batch_size ? sizes->max_head_rows
                                                                      : sizes->max_batch_size,
        .page_tokens      = sizes->page_tokens,
        .kv_dtype         = (int32_t)g->dtype,
        .activation_dtype = (int32_t)g->dtype,
    };
    // Not the folder: the same checkpoint gives the same bytes wherever it lies.
    snprintf(info->name, sizeof info->name, "%s", c->model_type ? c->model_type : "");
    snprintf(info->architecture, sizeof info->architecture, "%s",
             c->architecture ? c->architecture : "");
    info->kv_layer_stride =
        2 * c->num_key_value_heads * sizes->page_tokens * c->head_dim * KV_ELEM_BYTES;
    info->kv_page_bytes = c->num_hidden_layers * info->kv_layer_stride;
    generation_info(info, c);
}

static bool same_kernel(const Step *a, const Step *b) {
    return strcmp(a->source, b->source) == 0 && strcmp(a->entry, b->entry) == 0 &&
           a->block == b->block && a->shared_bytes == b->shared_bytes &&
           a->operand_count == b->operand_count && params_equal(&a->params, &b->params);
}

int plan_kernel(Plan *p, Step *s) {
    for (int at = 0; at < p->kernel_count; at++)
        if (same_kernel(p->kernels[at], s))
            return at;
    p->kernels = array_grow(p->arena, (void *)p->kernels, p->kernel_count, &p->kernel_capacity,
                            sizeof *p->kernels);
    p->kernels[p->kernel_count] = s;
    return p->kernel_count++;
}

static void kernels_collect(Plan *p) {
    for (int at = 0; at < p->phase_count; at++) {
        for (int i = 0; i < p->phases[at].step_count; i++) {
            Step *s = &p->phases[at].steps[i];
            s->kernel_index = plan_kernel(p, s);
        }
    }
}

bool plan_make(Plan *out, const Graph *g, const Config *c, const Target *t, const Sizes *sizes,
               Arena *a, Error *err) {
    if (sizes->max_seq_len <= 0 || sizes->max_batch_size <= 0 || sizes->max_num_tokens <= 0 ||
        sizes->page_tokens <= 0)
        return fail(err, ERR_UNSUPPORTED, 451,
                    "--max-seq-len %" PRId64 ", --max-batch-size %" PRId64 " and --max-num-tokens %"
                    PRId64 " must be positive", sizes->max_seq_len, sizes->max_batch_size,
                    sizes->max_num_tokens);
    *out = (Plan){.target = t, .graph = g, .batch_invariant = sizes->batch_invariant, .arena = a};
    out->choices = ARENA_NEW(a, KernelChoices, BUCKETS_MAX + 1);
    out->orders = ARENA_NEW(a, const char *, g->op_count + 1);
    model_info(&out->info, g, c, sizes);
    weights_info(&out->info, g, a);
    out->batch = batch_layout(&out->info);
    buckets_choose(out); // by predictions, so that what was measured does not change what to measure
    out->tuning = sizes->tuning;
    TRY(phases_lower(out, err));
    out->same_rows = same_rows(out);
    kernels_collect(out);
    return true;
}

// ---- printer ------------------------------------------------------------------------------------

static void operand_print(const PhasePlan *phase, const Operand *o, FILE *out) {
    static const char *const regions[REGION_COUNT] = {"weights", "arena", "kv", "batch"};
    switch (o->kind) {
    case OPERAND_ADDRESS:
        fprintf(out, " %s+%" PRId64, regions[o->region], o->offset);
        break;
    case OPERAND_BUFFER:
        fprintf(out, " %s@%" PRId64, phase->buffers[o->buffer].name,
                phase->buffers[o->buffer].offset + o->offset);
        break;
    case OPERAND_TOKENS:
        fputs(" tokens", out);
        break;
    case OPERAND_INT:
        fprintf(out, " %" PRId64, o->offset);
        break;
    }
}

static void phase_print(const PhasePlan *phase, FILE *out) {
    static const char *const names[PHASE_COUNT] = {"prefill", "head", "sample", "decode"};
    fprintf(out, "phase %s, up to %" PRId64 " tokens\n", names[phase->phase], phase->max_tokens);
    for (int at = 0; at < phase->buffer_count; at++) {
        const Buffer *b = &phase->buffers[at];
        if (b->last_step >= 0)
            fprintf(out, "  buffer %s: %" PRId64 " bytes at %" PRId64 ", steps %d to %d\n", b->name,
                    b->bytes, b->offset, b->first_step, b->last_step);
    }
    for (int at = 0; at < phase->step_count; at++) {
        const Step *s = &phase->steps[at];
        fprintf(out, "  %4d kernel %d %s:%s", at, s->kernel_index, s->source, s->entry);
        if (s->block)
            fprintf(out, " grid %dx%dx%d (tokens per block %d) block %d shared %d", s->grid[0],
                    s->grid[1], s->grid[2], s->tokens_per_block, s->block, s->shared_bytes);
        fputs(" (", out);
        for (int i = 0; i < s->operand_count; i++)
            operand_print(phase, &s->operands[i], out);
        fputs(" )\n", out);
    }
}

void plan_print(const Plan *p, FILE *out) {
    fprintf(out, "target %s: arena %" PRId64 " bytes, KV page %" PRId64 " bytes\n", p->target->name,
            p->info.arena_bytes, p->info.kv_page_bytes);
    for (int at = 0; at < p->kernel_count; at++) {
        const Step *s = p->kernels[at];
        fprintf(out, "kernel %d %s:%s", at, s->source, s->entry);
        for (int i = 0; i < s->params.count; i++)
            fprintf(out, " %s=%" PRId64, s->params.items[i].name, s->params.items[i].value);
        fputc('\n', out);
    }
    for (int at = 0; at < p->phase_count; at++)
        phase_print(&p->phases[at], out);
}
