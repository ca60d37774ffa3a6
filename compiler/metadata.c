// The payload's texts: licences, what `explain` prints, and the build receipt.
// Nothing here depends on time, folder or user, so that two compiles give the same bytes; a time is
// named only if SOURCE_DATE_EPOCH gives it.
#include "metadata.h"

#include <cjson/cJSON.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- receipt ------------------------------------------------------------------------------------

static char *hex128(Arena *a, const uint64_t key[2]) {
    return arena_printf(a, "%016llx%016llx", (unsigned long long)key[1],
                        (unsigned long long)key[0]);
}

static cJSON *plan_receipt(const Plan *p, const Cubin *cubins, Arena *a) {
    cJSON *target = cJSON_CreateObject();
    cJSON_AddStringToObject(target, "target", p->target->name);
    if (p->target->device == DEVICE_CPU)
        cJSON_AddStringToObject(target, "level", p->target->cpu_level);
    cJSON *kernels = cJSON_AddArrayToObject(target, "kernels");
    for (int at = 0; at < p->kernel_count; at++) {
        const Step *step = p->kernels[at];
        cJSON *kernel = cJSON_CreateObject();
        cJSON_AddStringToObject(kernel, "source", step->source);
        cJSON_AddStringToObject(kernel, "entry", step->entry);
        cJSON *params = cJSON_AddObjectToObject(kernel, "params");
        for (int i = 0; i < step->params.count; i++)
            cJSON_AddNumberToObject(params, step->params.items[i].name,
                                    (double)step->params.items[i].value);
        if (cubins)
            cJSON_AddStringToObject(kernel, "key", hex128(a, cubins[at].key));
        cJSON_AddItemToArray(kernels, kernel);
    }
    return target;
}

// The one time that a receipt may name: that of the sources, by the convention of reproducible
// builds. -1: not set.
static bool source_date(int64_t *seconds, Error *err) {
    const char *text = getenv("SOURCE_DATE_EPOCH");
    char *end = NULL;
    *seconds = -1;
    if (!text || !*text)
        return true;
    errno = 0;
    *seconds = strtoll(text, &end, 10);
    if (errno || *end || *seconds < 0 || !isdigit((unsigned char)text[0])) {
        char shown[64];
        return fail(err, ERR_USAGE, 576,
                    "SOURCE_DATE_EPOCH is \"%s\", expected seconds since 1970, a whole number",
                    text_escape(shown, sizeof shown, text, strnlen(text, 12)));
    }
    return true;
}

static Bytes receipt_make(const Config *config, const Contents *c, int64_t date, Arena *a) {
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "compiler", "gptq-compile " GPTQ_COMPILE_VERSION);
    if (date >= 0)
        cJSON_AddNumberToObject(json, "source_date_epoch", (double)date);
    cJSON_AddStringToObject(json, "architecture", config->architecture);
    cJSON *quant = cJSON_AddObjectToObject(json, "quantization");
    cJSON_AddNumberToObject(quant, "bits", config->quant.bits);
    cJSON_AddNumberToObject(quant, "group_size", (double)config->quant.group_size);
    cJSON_AddStringToObject(quant, "quantizer",
                            config->quant.quantizer ? config->quant.quantizer : "");
    cJSON *targets = cJSON_AddArrayToObject(json, "targets");
    for (int at = 0; at < c->plan_count; at++)
        cJSON_AddItemToArray(targets, plan_receipt(c->plans[at], c->cubins[at], a));
    cJSON_AddItemToObject(json, "sbom", sbom_make(config, c->name));
    char *text = cJSON_PrintUnformatted(json);
    Bytes bytes = {(unsigned char *)arena_strndup(a, text, strlen(text)), strlen(text)};
    cJSON_free(text);
    cJSON_Delete(json);
    return bytes;
}

// ---- explain ------------------------------------------------------------------------------------

static Bytes explain_text(const Contents *c, Arena *a) {
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);
    plan_explain(c->plans, c->plan_count, stream);
    targets_explain(c, stream);
    fclose(stream);
    Bytes bytes = {(unsigned char *)arena_strndup(a, text, size), size};
    free(text);
    return bytes;
}

enum { LICENSE_MAX_BYTES = 16 << 20 };

bool license_make(Bytes *out, const char *path, Arena *a, Error *err) {
    const EmbeddedFile *ours = embedded_find("runtime/licenses.txt");
    if (!ours)
        return fail(err, ERR_INTERNAL, 620, "this gptq-compile carries no runtime/licenses.txt");
    Bytes model = {(const unsigned char *)"", 0};
    if (path)
        TRY(file_read(&model, path, LICENSE_MAX_BYTES, a, err));
    char *text =
        arena_printf(a, "%s%.*s%s%.*s", model.size ? "== The model ==\n\n" : "", (int)model.size,
                     (const char *)model.data, model.size ? "\n\n== The program ==\n\n" : "",
                     (int)(ours->end - ours->data), (const char *)ours->data);
    *out = (Bytes){(unsigned char *)text, strlen(text)};
    return true;
}

bool metadata_make(Contents *c, const Config *config, const char *license, Arena *a, Error *err) {
    const char *own = arena_printf(a, "%s/LICENSE", config->dir);
    if (!license && access(own, R_OK) == 0)
        license = own;
    TRY(license_make(&c->segments[SEGMENT_LICENSE], license, a, err));
    int64_t date;
    TRY(source_date(&date, err));
    c->segments[SEGMENT_RECEIPT] = receipt_make(config, c, date, a);
    c->segments[SEGMENT_EXPLAIN] = explain_text(c, a);
    return true;
}
