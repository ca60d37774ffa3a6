// The tuning file: choices that were measured on one machine, for compiles on any other. JSON:
//
//   {"format": "gptq-compile tuning 1", "choices": [{"target": "sm_90a", "sources": "5d0c...",
//    "op": "28672x4096 4-bit g128, norm, act_mul, fp16", "tokens": 16, "kernel": "linear_wgmma",
//    "variant": "BLOCK_TOKENS=16 ...", "us": 16.9, "device": "NVIDIA H200"}]}
//
// An entry counts for a linear layer of that shape, coding and fused work, with that many tokens, on
// that target. `sources` is a hash of all kernels that this gptq-compile carries: an entry measured
// with other ones is stale, and one for a target or shape that is not compiled is of no use now;
// both are passed over, with a note. The file is input from elsewhere: whatever stands in it only
// ever picks one of the candidates that the compiler has anyway.
#include "tuning.h"
#include "metadata.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TEXT_BYTES_MAX = 255, CHOICES_IN_FILE_MAX = 1 << 16 };

static const char format_text[] = "gptq-compile tuning 1";

// ---- keys ---------------------------------------------------------------------------------------

static size_t embedded_bytes(const EmbeddedFile *f) {
    return (size_t)(f->end - f->data);
}

// Hash of every kernel source, and of the version, which stands for the code that launches them.
static const char *sources_hash(Arena *a) {
    static const char folder[] = "kernels/";
    uint64_t hash[2] = {0}, file[2];
    char *text = arena_printf(a, "%s", GPTQ_COMPILE_VERSION);
    for (size_t at = 0; at < embedded_file_count; at++) {
        const EmbeddedFile *f = &embedded_files[at];
        if (strncmp(f->name, folder, strlen(folder)) != 0)
            continue;
        payload_hash128(f->data, embedded_bytes(f), file);
        text = arena_printf(a, "%s\n%s %016" PRIx64 "%016" PRIx64, text, f->name, file[0], file[1]);
    }
    payload_hash128(text, strlen(text), hash);
    return arena_printf(a, "%016" PRIx64 "%016" PRIx64, hash[0], hash[1]);
}

bool tuning_op(char out[TUNING_OP_BYTES], const Graph *g, const Op *op) {
    static const char *const acts[] = {"silu", "gelu_tanh", "gelu"}; // ORDER ACTIVATIONS
    char shape[128];
    if (op->kind != OP_LINEAR)
        return false;
    bool act = op->linear.epilogue == EPILOGUE_ACT_MUL;
    bool f32 = g->values[op->output].type == VALUE_F32;
    snprintf(out, TUNING_OP_BYTES, "%s%s%s%s%s, %s", linear_shape(shape, sizeof shape, g, op),
             act ? " " : "", act ? acts[op->linear.act] : "", op->linear.bias >= 0 ? ", bias" : "",
             f32 && op->linear.epilogue == EPILOGUE_STORE ? ", fp32 out" : "",
             g->dtype == DTYPE_BF16 ? "bf16" : "fp16");
    return true;
}

// ---- reading ------------------------------------------------------------------------------------

void tuning_open(Tuning *out, Arena *a) {
    *out = (Tuning){.arena = a, .sources = sources_hash(a)};
}

static bool text_read(const char **out, const cJSON *entry, const char *key, const char *file,
                      int number, Arena *a, Error *err) {
    const char *text = NULL;
    TRY(json_text(entry, key, &text, file, err));
    if (!text || strlen(text) > TEXT_BYTES_MAX)
        return fail(
            err, ERR_CORRUPT, 652,
            "%s: choice %d has no \"%s\", or one of more than %d bytes; delete the entry, or "
            "write the file anew with --tune measure",
            file, number, key, TEXT_BYTES_MAX);
    *out = arena_strndup(a, text, strlen(text));
    return true;
}

static bool entry_read(TuningEntry *out, const cJSON *entry, const char *file, int number, Arena *a,
                       Error *err) {
    const struct {
        const char *key, **text;
    } texts[] = {{"target", &out->target}, {"sources", &out->sources}, {"op", &out->op},
                 {"kernel", &out->kernel}, {"variant", &out->variant}, {"device", &out->device}};
    *out = (TuningEntry){.tokens = 0};
    for (size_t at = 0; at < sizeof texts / sizeof *texts; at++)
        TRY(text_read(texts[at].text, entry, texts[at].key, file, number, a, err));
    TRY(json_int(entry, "tokens", &out->tokens, file, err));
    TRY(json_number(entry, "us", &out->us, file, err));
    if (out->tokens < 1 || !(out->us > 0 && out->us < 1e9))
        return fail(err, ERR_CORRUPT, 653,
                    "%s: choice %d has tokens %" PRId64 " and us %g, expected tokens from 1 and a "
                    "time above 0; write the file anew with --tune measure",
                    file, number, out->tokens, out->us);
    return true;
}

static bool entries_read(Tuning *out, const cJSON *json, const char *file, Error *err) {
    const char *format = NULL;
    TRY(json_text(json, "format", &format, file, err));
    const cJSON *choices = json_get(json, "choices");
    if (!format || strcmp(format, format_text) != 0 || !cJSON_IsArray(choices) ||
        cJSON_GetArraySize(choices) > CHOICES_IN_FILE_MAX)
        return fail(err, ERR_CORRUPT, 654,
                    "%s is no tuning file of this version: expected \"format\": \"%s\" and "
                    "\"choices\", a list of up to %d; write it with --tune measure",
                    file, format_text, CHOICES_IN_FILE_MAX);
    int number = 0;
    for (const cJSON *entry = choices->child; entry; entry = entry->next) {
        TuningEntry read;
        TRY(entry_read(&read, entry, file, number++, out->arena, err));
        *tuning_add(out) = read;
    }
    return true;
}

bool tuning_read(Tuning *out, const char *path, bool *found, Error *err) {
    cJSON *json = NULL;
    TRY(json_read(&json, found, path, err));
    if (!*found)
        return true;
    bool done = entries_read(out, json, path, err);
    cJSON_Delete(json);
    return done;
}

TuningEntry *tuning_add(Tuning *t) {
    t->entries = array_grow(t->arena, t->entries, t->count, &t->capacity, sizeof *t->entries);
    t->entries[t->count] = (TuningEntry){.sources = t->sources};
    return &t->entries[t->count++];
}

// ---- use ----------------------------------------------------------------------------------------

TuningEntry *tuning_find(const Tuning *t, const char *target, const char *op, int64_t tokens) {
    for (int at = 0; at < t->count; at++) {
        TuningEntry *e = &t->entries[at];
        if (e->tokens == tokens && strcmp(e->sources, t->sources) == 0 &&
            strcmp(e->target, target) == 0 && strcmp(e->op, op) == 0)
            return e;
    }
    return NULL;
}

void tuning_apply(const Tuning *t, const Problem *p, KernelChoices *all) {
    char op[TUNING_OP_BYTES];
    TuningEntry *e = NULL;
    if (p->plan->target->device == DEVICE_CUDA && tuning_op(op, p->plan->graph, p->op))
        e = tuning_find(t, p->plan->target->name, op, p->max_tokens);
    for (int at = 0; e && at < all->count; at++) {
        KernelChoice *c = &all->items[at];
        if (strcmp(c->kernel->name, e->kernel) == 0 && strcmp(c->variant, e->variant) == 0) {
            c->cost.us = e->us;
            c->cost.measured = e->used = true;
        }
    }
}

void tuning_note(const Tuning *t, const char *path, FILE *out) {
    int used = 0, stale = 0;
    for (int at = 0; at < t->count; at++) {
        used += t->entries[at].used;
        stale += strcmp(t->entries[at].sources, t->sources) != 0;
    }
    int foreign = t->count - used - stale;
    fprintf(out, "note: %s: %d of %d measured choices used", path, used, t->count);
    if (stale)
        fprintf(out,
                "; %d were measured with other kernels and are ignored (--tune measure "
                "measures again)",
                stale);
    if (foreign)
        fprintf(out, "; %d are of other targets, layers or numbers of tokens", foreign);
    fputc('\n', out);
}

// ---- writing ------------------------------------------------------------------------------------

static cJSON *entry_json(const TuningEntry *e) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "target", e->target);
    cJSON_AddStringToObject(json, "sources", e->sources);
    cJSON_AddStringToObject(json, "op", e->op);
    cJSON_AddNumberToObject(json, "tokens", (double)e->tokens);
    cJSON_AddStringToObject(json, "kernel", e->kernel);
    cJSON_AddStringToObject(json, "variant", e->variant);
    cJSON_AddNumberToObject(json, "us", e->us);
    cJSON_AddStringToObject(json, "device", e->device);
    return json;
}

// Entries of other kernels are left out; those of other targets and models stay.
bool tuning_write(const Tuning *t, const char *path, Error *err) {
    Output out;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "format", format_text);
    cJSON *choices = cJSON_AddArrayToObject(json, "choices");
    for (int at = 0; at < t->count; at++)
        if (strcmp(t->entries[at].sources, t->sources) == 0)
            cJSON_AddItemToArray(choices, entry_json(&t->entries[at]));
    char *text = cJSON_Print(json);
    cJSON_Delete(json);
    if (!text)
        return fail(err, ERR_RESOURCE, 657, "%s: out of memory for %d choices", path, t->count);
    bool done = output_open(&out, path, err);
    if (done) {
        done = output_write(&out, 0, text, strlen(text), err) && output_commit(&out, err);
        output_discard(&out);
        chmod(path, 0644); // it is no program
    }
    cJSON_free(text);
    return done;
}
