// --explain: which kernel runs what, with which parameters, at what predicted cost, and why the
// others do not. Equal steps of several layers share a line. Requires plans with memory planned.
#include "../runtime/step.h"
#include "compile.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <string.h>

enum { PARAM_NAME_BYTES = 48 };

static const char *const phase_names[] = {"prefill", "head", "sample", "decode"}; // ORDER PHASES

// ---- labels -------------------------------------------------------------------------------------

// "4-bit g128", "4-bit g64 + zero points, 3-bit in the checkpoint".
static const char *format_text(char *out, size_t size, const PackedTensor *t) {
    const Weight *w = t->parts[0];
    char group[16] = "", source[48] = "";
    if (t->group)
        snprintf(group, sizeof group, " g%d", t->group);
    if (w->bits != t->bits)
        snprintf(source, sizeof source, " (%d-bit in the checkpoint)", w->bits);
    snprintf(out, size, "%d-bit%s%s%s%s%s", t->bits, group, t->zeros ? " zeros" : "",
             t->scale_f32 ? " fp32 scales" : "", t->bf16 ? " bf16" : "", source);
    return out;
}

const char *linear_shape(char *out, size_t size, const Graph *g, const Op *op) {
    static const char *const epilogues[] = {"", ", add", ", act_mul",
                                            ", rope_kv"}; // ORDER EPILOGUES
    const PackedTensor *t = &g->packed[op->linear.weight];
    char format[96];
    snprintf(out, size, "%" PRId64 "x%" PRId64 " %s%s%s%s", t->out_features, t->in_features,
             format_text(format, sizeof format, t),
             op->linear.prologue == PROLOGUE_NORM ? ", norm" : "", epilogues[op->linear.epilogue],
             t->input_order ? ", ordered inputs" : "");
    return out;
}

static void linear_label(char *out, size_t size, const Graph *g, const Op *op) {
    const PackedTensor *t = &g->packed[op->linear.weight];
    char name[96] = "", shape[128];
    for (int part = 0; part < t->part_count; part++) {
        const char *module = t->parts[part]->module, *dot = strrchr(module, '.');
        size_t used = strlen(name);
        snprintf(name + used, sizeof name - used, "%s%s", part ? "+" : "", dot ? dot + 1 : module);
    }
    snprintf(out, size, "%s %s", name, linear_shape(shape, sizeof shape, g, op));
}

static void attention_label(char *out, size_t size, const Op *op) {
    char window[40] = "";
    if (op->attention.window > 0)
        snprintf(window, sizeof window, ", window %" PRId64, op->attention.window);
    snprintf(out, size, "attention %" PRId64 "/%" PRId64 " heads of %" PRId64 "%s%s%s",
             op->attention.heads, op->attention.kv_heads, op->attention.head_dim, window,
             op->attention.softcap > 0 ? ", softcap" : "",
             op->attention.places >= 0 ? ", ordered outputs" : "");
}

static void experts_label(char *out, size_t size, const Graph *g, const Op *op) {
    const PackedTensor *t = &g->packed[op->experts.weight];
    char format[96];
    snprintf(out, size, "%s %d x %" PRId64 "x%" PRId64 " %s", op_name(op->kind), t->experts,
             t->out_features, t->in_features, format_text(format, sizeof format, t));
}

const char *op_label(char *out, size_t size, const Graph *g, const Op *op) {
    if (op->kind == OP_LINEAR)
        linear_label(out, size, g, op);
    else if (op->kind == OP_ATTENTION)
        attention_label(out, size, op);
    else if (op->kind == OP_EXPERTS_UP || op->kind == OP_EXPERTS_DOWN)
        experts_label(out, size, g, op);
    else
        snprintf(out, size, "%s", op_name(op->kind));
    return out;
}

// ---- rows: equal steps of all layers ------------------------------------------------------------

typedef struct Row {
    const Step *step; // the first of them
    char label[160];
    int first_layer, last_layer; // the last run of layers, -1: outside the layers
    char layers[64];             // the runs before it: "0-3,5-7,"
    int count;
} Row;

static bool same_row(const Row *row, const Step *s, const char *label) {
    return strcmp(row->label, label) == 0 && strcmp(row->step->source, s->source) == 0 &&
           strcmp(row->step->entry, s->entry) == 0 && params_equal(&row->step->params, &s->params);
}

// Writes "4" or "4-7" of the row's last run of layers behind those before it.
static void run_text(const Row *row, char *out, size_t size) {
    if (row->first_layer < 0)
        snprintf(out, size, "%s", row->layers);
    else if (row->first_layer == row->last_layer)
        snprintf(out, size, "%s%d", row->layers, row->first_layer);
    else
        snprintf(out, size, "%s%d-%d", row->layers, row->first_layer, row->last_layer);
}

static void row_layer(Row *row, int layer) {
    if (layer > row->last_layer + 1) { // a layer in between differs
        char runs[sizeof row->layers - 1];
        run_text(row, runs, sizeof runs);
        snprintf(row->layers, sizeof row->layers, "%s,", runs);
        row->first_layer = layer;
    }
    row->last_layer = layer;
}

// rows: [step_count]. Returns how many were made.
static int rows_make(const Plan *p, const PhasePlan *phase, Row *rows) {
    int count = 0;
    for (int at = 0; at < phase->step_count; at++) {
        const Step *s = &phase->steps[at];
        char label[160] = "sampling";
        if (s->op)
            op_label(label, sizeof label, p->graph, s->op);
        int layer = s->op ? s->op->layer : -1, row = 0;
        while (row < count && !same_row(&rows[row], s, label))
            row++;
        if (row == count) {
            rows[count++] = (Row){.step = s, .first_layer = layer, .last_layer = layer};
            snprintf(rows[row].label, sizeof rows[row].label, "%s", label);
        }
        row_layer(&rows[row], layer);
        rows[row].count++;
    }
    return count;
}

static const char *source_name(const Step *s) {
    const char *slash = strrchr(s->source, '/');
    return slash ? slash + 1 : s->source;
}

// A float is handed to kernels as its bits, under a name that ends in _BITS; people read a number.
// name: room for the name that it has here.
static double param_number(char name[PARAM_NAME_BYTES], const Param *p) {
    static const char suffix[] = "_BITS";
    size_t length = strlen(p->name);
    snprintf(name, PARAM_NAME_BYTES, "%s", p->name);
    if (length < sizeof suffix || strcmp(p->name + length - strlen(suffix), suffix) != 0)
        return (double)p->value;
    uint32_t bits = (uint32_t)p->value;
    float value;
    memcpy(&value, &bits, sizeof value);
    name[length - strlen(suffix)] = 0;
    return (double)value;
}

static void params_text(char *out, size_t size, const Params *p) {
    size_t used = 0;
    char name[PARAM_NAME_BYTES];
    out[0] = 0;
    for (int at = 0; at < p->count && used < size; at++) {
        double value = param_number(name, &p->items[at]);
        int digits = p->items[at].name[strlen(name)] ? 7 : 15; // of a float, of an integer
        used += (size_t)snprintf(out + used, size - used, "%s%s=%.*g", at ? " " : "", name, digits,
                                 value);
    }
}

// ---- text ---------------------------------------------------------------------------------------

static void row_print(const Row *row, FILE *out) {
    char params[1024], runs[80], layers[96] = "";
    params_text(params, sizeof params, &row->step->params);
    run_text(row, runs, sizeof runs);
    if (runs[0])
        snprintf(layers, sizeof layers, "layers %s", runs);
    fprintf(out, "  %-12s %-52s %s:%s  x%d  %.3f MB  %.1f us%s\n", layers, row->label,
            source_name(row->step), row->step->entry, row->count, row->step->cost.bytes * 1e-6,
            row->step->cost.us, row->step->cost.measured ? " measured" : "");
    fprintf(out, "  %-12s   %s\n", "", params);
}

static double phase_us(const PhasePlan *phase) {
    double us = 0;
    for (int at = 0; at < phase->step_count; at++)
        us += phase->steps[at].cost.us;
    return us;
}

static void phase_print(const Plan *p, const PhasePlan *phase, FILE *out) {
    Row *rows = ARENA_NEW(p->arena, Row, phase->step_count + 1);
    int count = rows_make(p, phase, rows);
    fprintf(out, "\n %s, up to %" PRId64 " tokens: %d steps, %.1f us predicted\n",
            phase_names[phase->phase], phase->max_tokens, phase->step_count, phase_us(phase));
    for (int at = 0; at < count; at++)
        row_print(&rows[at], out);
    for (int at = 0; at < phase->note_count; at++)
        fprintf(out, "  - %s\n", phase->notes[at]);
}

static void plan_title(const Plan *p, char *out, size_t size) {
    if (p->target->device == DEVICE_CPU)
        snprintf(out, size, "cpu:%s", p->target->cpu_level);
    else
        snprintf(out, size, "%s", p->target->name);
}

// What one decode step costs in the smallest bucket, which batch 1 uses, and what reading the
// weights alone would cost.
typedef struct DecodeTimes {
    int64_t max_tokens;
    double us, limit_us;
} DecodeTimes;

static DecodeTimes decode_times(const Plan *p) {
    DecodeTimes t = {.limit_us = (double)p->info.streamed_bytes / (p->target->bandwidth_gbs * 1e3)};
    for (int at = p->phase_count - 1; at >= 0; at--) {
        if (p->phases[at].phase == PHASE_DECODE) {
            t.max_tokens = p->phases[at].max_tokens;
            t.us = phase_us(&p->phases[at]);
        }
    }
    return t;
}

// What storing the weights in another coding than the checkpoint's costs.
static void recoding_print(const Graph *g, FILE *out) {
    int64_t stored = 0, source = 0;
    for (int at = 0; at < g->packed_count; at++) {
        const PackedTensor *t = &g->packed[at];
        if (t->kind != PACKED_LINEAR || t->parts[0]->bits == t->bits)
            continue;
        stored += t->bytes;
        source += packed_source_bytes(t);
    }
    if (stored)
        fprintf(out, " recoded without loss: %.2f MB, in the checkpoint %.2f MB (x%.2f)\n",
                (double)stored * 1e-6, (double)source * 1e-6, (double)stored / (double)source);
}

// In which batches a sequence gets the same bits.
static void orders_print(const Plan *p, FILE *out) {
    char others[200] = "";
    size_t used = 0;
    int64_t most = 0;
    for (int at = 0; at < p->phase_count; at++) {
        const PhasePlan *phase = &p->phases[at];
        if (phase->phase != PHASE_HEAD && phase->phase != PHASE_DECODE)
            continue;
        if (phase->reordered && used < sizeof others)
            used += (size_t)snprintf(others + used, sizeof others - used, "%s %" PRId64,
                                     used ? "," : "", phase->max_tokens);
        most = phase->max_tokens;
    }
    if (used)
        fprintf(out,
                " order of sums: changes with the batch, at buckets of up to%s sequences;"
                " --batch-invariant keeps one\n",
                others);
    else
        fprintf(out, " order of sums: one for all batches of 1 to %" PRId64 " sequences\n", most);
}

// Where predicted times come from.
static void predictions_print(const Plan *p, FILE *out) {
    if (p->target->device == DEVICE_CUDA)
        fprintf(out, " predicted times: %s\n",
                strcmp(p->target->name, EFFICIENCY_TARGET) == 0
                    ? "fitted to measurements on an H200"
                    : "rates of this target; what kernels reach of them as measured on an H200");
}

static void totals_print(const Plan *p, FILE *out) {
    const ModelInfo *m = &p->info;
    DecodeTimes t = decode_times(p);
    fprintf(out,
            " weights %.2f MB, read per decode step %.2f MB; KV cache %" PRId64
            " bytes a token; arena %.2f MB; %d distinct kernels\n",
            (double)m->weights_bytes * 1e-6, (double)m->streamed_bytes * 1e-6,
            m->kv_page_bytes / m->page_tokens, (double)m->arena_bytes * 1e-6, p->kernel_count);
    recoding_print(p->graph, out);
    orders_print(p, out);
    predictions_print(p, out);
    fprintf(out,
            " decode, up to %" PRId64 " sequences: %.1f us a step predicted, %.0f steps/s;"
            " reading the weights at %.0f GB/s: %.1f us, %.0f steps/s (%.0f %%)\n",
            t.max_tokens, t.us, 1e6 / t.us, p->target->bandwidth_gbs, t.limit_us, 1e6 / t.limit_us,
            100 * t.limit_us / t.us);
}

void plan_explain(const Plan *const *plans, int count, FILE *out) {
    for (int at = 0; at < count; at++) {
        char title[64];
        plan_title(plans[at], title, sizeof title);
        fprintf(out, "%starget %s\n", at ? "\n" : "", title);
        totals_print(plans[at], out);
        for (int phase = 0; phase < plans[at]->phase_count; phase++)
            phase_print(plans[at], &plans[at]->phases[phase], out);
    }
}

// ---- JSON ---------------------------------------------------------------------------------------

static cJSON *row_json(const Row *row) {
    char layers[80];
    run_text(row, layers, sizeof layers);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "op", row->label);
    cJSON_AddStringToObject(json, "layers", layers);
    cJSON_AddNumberToObject(json, "count", row->count);
    cJSON_AddStringToObject(json, "source", row->step->source);
    cJSON_AddStringToObject(json, "kernel", row->step->entry);
    cJSON *params = cJSON_AddObjectToObject(json, "params");
    for (int at = 0; at < row->step->params.count; at++) {
        char name[PARAM_NAME_BYTES];
        double value = param_number(name, &row->step->params.items[at]);
        cJSON_AddNumberToObject(params, name, value);
    }
    cJSON_AddNumberToObject(json, "bytes", row->step->cost.bytes);
    cJSON_AddNumberToObject(json, "flops", row->step->cost.flops);
    cJSON_AddNumberToObject(json, "predicted_us", row->step->cost.us);
    cJSON_AddBoolToObject(json, "measured", row->step->cost.measured);
    return json;
}

static cJSON *phase_json(const Plan *p, const PhasePlan *phase) {
    Row *rows = ARENA_NEW(p->arena, Row, phase->step_count + 1);
    int count = rows_make(p, phase, rows);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "phase", phase_names[phase->phase]);
    cJSON_AddNumberToObject(json, "max_tokens", (double)phase->max_tokens);
    cJSON_AddNumberToObject(json, "predicted_us", phase_us(phase));
    cJSON_AddNumberToObject(json, "reordered_ops", phase->reordered);
    cJSON *steps = cJSON_AddArrayToObject(json, "steps");
    for (int at = 0; at < count; at++)
        cJSON_AddItemToArray(steps, row_json(&rows[at]));
    cJSON *notes = cJSON_AddArrayToObject(json, "notes");
    for (int at = 0; at < phase->note_count; at++)
        cJSON_AddItemToArray(notes, cJSON_CreateString(phase->notes[at]));
    return json;
}

static cJSON *plan_json(const Plan *p) {
    char title[64];
    DecodeTimes t = decode_times(p);
    plan_title(p, title, sizeof title);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "target", title);
    cJSON_AddNumberToObject(json, "weights_bytes", (double)p->info.weights_bytes);
    cJSON_AddNumberToObject(json, "streamed_bytes", (double)p->info.streamed_bytes);
    cJSON_AddNumberToObject(json, "arena_bytes", (double)p->info.arena_bytes);
    cJSON_AddNumberToObject(json, "kv_bytes_per_token",
                            (double)(p->info.kv_page_bytes / p->info.page_tokens));
    cJSON_AddNumberToObject(json, "decode_predicted_us", t.us);
    cJSON_AddNumberToObject(json, "decode_limit_us", t.limit_us);
    cJSON *phases = cJSON_AddArrayToObject(json, "phases");
    for (int at = 0; at < p->phase_count; at++)
        cJSON_AddItemToArray(phases, phase_json(p, &p->phases[at]));
    return json;
}

void plan_explain_json(const Plan *const *plans, int count, FILE *out) {
    cJSON *json = cJSON_CreateArray();
    for (int at = 0; at < count; at++)
        cJSON_AddItemToArray(json, plan_json(plans[at]));
    char *text = cJSON_Print(json);
    fprintf(out, "%s\n", text);
    cJSON_free(text);
    cJSON_Delete(json);
}
