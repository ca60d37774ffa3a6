// `extract DIR`: the model back as a GPTQ checkpoint: config, tokenizer, and model.safetensors with
// qweight, qzeros, scales and g_idx of every linear module, read out of tile16 again
// (extract_module.c). The numbers are those that the kernels compute with: codes of 2 and 3 bits
// come back as 4 bits, 5 to 7 as 8. Non-goal: the original file, bit by bit.
#include "extract.h"

#include "cli.h"
#include "payload_source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---- the index ----------------------------------------------------------------------------------

typedef struct Field {
    const char *name;
    size_t offset;
} Field;

#define FIELD(name) {#name, offsetof(Linear, name)}
static const Field fields[] = {
    FIELD(at),        FIELD(bits),    FIELD(group),        FIELD(zeros),    FIELD(scale_f32),
    FIELD(bf16),      FIELD(order),   FIELD(head_dim),     FIELD(part),     FIELD(rows),
    FIELD(pairs),     FIELD(k),       FIELD(k_padded),     FIELD(record_k), FIELD(record_bytes),
    FIELD(inputs),    FIELD(outputs), FIELD(first_column), FIELD(columns),  FIELD(input_order),
    FIELD(row_order),
};
#undef FIELD

static bool order_find(const Extract *x, int64_t at, int64_t count, const int32_t **out) {
    *out = NULL;
    if (at < 0)
        return true;
    if ((size_t)at > x->data_bytes || (size_t)count > (x->data_bytes - (size_t)at) / 4)
        return false;
    *out = (const int32_t *)(const void *)(x->data + at);
    return true;
}

static bool linear_read(const Extract *x, const cJSON *item, Linear *l, Error *err) {
    const cJSON *module = cJSON_GetObjectItemCaseSensitive(item, "module");
    *l = (Linear){.module = cJSON_IsString(module) ? module->valuestring : "",
                  .features = cJSON_GetObjectItemCaseSensitive(item, "features")};
    for (size_t at = 0; at < sizeof fields / sizeof *fields; at++) {
        const cJSON *number = cJSON_GetObjectItemCaseSensitive(item, fields[at].name);
        int64_t value = cJSON_IsNumber(number) ? (int64_t)number->valuedouble : -1;
        memcpy((unsigned char *)l + fields[at].offset, &value, sizeof value);
    }
    bool sane = l->module[0] && strlen(l->module) < EXTRACT_NAME_BYTES && l->record_k > 0 &&
                l->rows > 0 && l->k_padded >= l->k && l->at >= 0 && l->inputs > 0 &&
                l->outputs > 0 && (l->bits == 4 || l->bits == 8 || l->bits == 16) &&
                (l->bits == 16 || l->group > 0) &&
                order_find(x, l->input_order, l->k, &l->inputs_at) &&
                order_find(x, l->row_order, l->pairs, &l->rows_at);
    return sane || fail(err, ERR_CORRUPT, 1277, "the file's index of modules is damaged (%.80s)",
                        l->module);
}

static bool index_read(Extract *x, Error *err) {
    Bytes source = executable_segment(x->e, SEGMENT_SOURCE);
    SourceHeader h = {0};
    if (!source.size)
        return fail(err, ERR_UNSUPPORTED, 1278,
                    "this file cannot give its checkpoint back: it was compiled without it");
    TRY(payload_segment_check(x->e->whole, x->e->path, &x->e->segments[SEGMENT_SOURCE], err));
    if (source.size >= sizeof h)
        memcpy(&h, source.data, sizeof h);
    if (h.index_bytes > source.size || source.size != sizeof h + h.index_bytes + h.data_bytes)
        return fail(err, ERR_CORRUPT, 1279, "the file's index of the checkpoint is damaged");
    x->index = cJSON_ParseWithLength((const char *)source.data + sizeof h, (size_t)h.index_bytes);
    x->data = source.data + sizeof h + h.index_bytes;
    x->data_bytes = (size_t)h.data_bytes;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(x->index, "linears"), *item;
    x->linears = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *x->linears);
    if (!x->linears)
        return fail(err, ERR_RESOURCE, 1281, "no memory for the index of modules");
    cJSON_ArrayForEach(item, list) {
        Linear *l = &x->linears[x->count];
        TRY(linear_read(x, item, l, err));
        l->first = x->count == 0 || strcmp(l->module, l[-1].module) != 0;
        x->count++;
    }
    return true;
}

// ---- the other files ----------------------------------------------------------------------------

static bool file_write(const Extract *x, const char *name, const void *data, size_t size,
                       Error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", x->dir, name);
    FILE *file = fopen(path, "wb");
    bool done = file && fwrite(data, 1, size, file) == size;
    if (!file || fclose(file) != 0 || !done)
        return fail(err, ERR_RESOURCE, 1287, "%s: %s", path, strerror(errno));
    return true;
}

static bool same_coding(const Linear *a, const Linear *b) {
    return a->bits == b->bits && a->group == b->group;
}

// The coding of most modules; NULL: none is quantized.
static const Linear *usual_coding(const Extract *x) {
    const Linear *best = NULL;
    int most = 0;
    for (int i = 0; i < x->count; i++) {
        int same = 0;
        for (int j = 0; x->linears[i].bits != 16 && j < x->count; j++)
            same += same_coding(&x->linears[i], &x->linears[j]);
        if (same > most) {
            most = same;
            best = &x->linears[i];
        }
    }
    return best;
}

// "+:^model\\.layers\\.0\\.mlp\\.down_proj$"
static void rule_name(const Linear *l, char out[2 * EXTRACT_NAME_BYTES + 8]) {
    memcpy(out, l->bits == 16 ? "-:^" : "+:^", 3);
    char *to = out + 3;
    for (const char *from = l->module; *from; from++) {
        if (*from == '.')
            *to++ = '\\';
        *to++ = *from;
    }
    *to++ = '$';
    *to = 0;
}

static cJSON *quantization_make(const Extract *x, bool v2) {
    const Linear *usual = usual_coding(x);
    cJSON *json = cJSON_CreateObject(), *rules = cJSON_CreateObject();
    bool ordered = false, head = false;
    for (int i = 0; usual && i < x->count; i++) {
        const Linear *l = &x->linears[i];
        bool layer = strstr(l->module, ".layers.") != NULL;
        char name[2 * EXTRACT_NAME_BYTES + 8];
        ordered = ordered || l->inputs_at;
        head = head || (strcmp(l->module, "lm_head") == 0 && l->bits != 16);
        if (!l->first || same_coding(l, usual) || (l->bits == 16 && !layer))
            continue;
        rule_name(l, name);
        cJSON *rule = cJSON_AddObjectToObject(rules, name);
        if (l->bits != 16) {
            cJSON_AddNumberToObject(rule, "bits", (double)l->bits);
            cJSON_AddNumberToObject(rule, "group_size", (double)l->group);
        }
    }
    cJSON_AddStringToObject(json, "quant_method", "gptq");
    cJSON_AddStringToObject(json, "checkpoint_format", v2 ? "gptq_v2" : "gptq");
    cJSON_AddNumberToObject(json, "bits", usual ? (double)usual->bits : 16);
    cJSON_AddNumberToObject(json, "group_size", usual ? (double)usual->group : -1);
    cJSON_AddBoolToObject(json, "sym", !v2);
    cJSON_AddBoolToObject(json, "desc_act", ordered);
    cJSON_AddBoolToObject(json, "lm_head", head);
    if (rules->child)
        cJSON_AddItemToObject(json, "dynamic", rules);
    else
        cJSON_Delete(rules);
    return json;
}

static bool config_write(const Extract *x, const unsigned char *text, size_t size, bool v2,
                         Error *err) {
    cJSON *config = cJSON_ParseWithLength((const char *)text, size);
    cJSON *quant = quantization_make(x, v2);
    char *alone = cJSON_Print(quant);
    cJSON_DeleteItemFromObjectCaseSensitive(config, "quantization_config");
    cJSON_AddItemToObject(config, "quantization_config", quant);
    char *whole = config ? cJSON_Print(config) : NULL;
    bool done = whole && alone
                    ? file_write(x, "config.json", whole, strlen(whole), err) &&
                          file_write(x, "quantize_config.json", alone, strlen(alone), err)
                    : fail(err, ERR_CORRUPT, 1288, "the file's config.json is damaged");
    cJSON_free(whole);
    cJSON_free(alone);
    cJSON_Delete(config ? config : quant);
    return done;
}

static bool files_write(const Extract *x, bool v2, Error *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(x->index, "files")) {
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItem(item, "name"));
        size_t size = (size_t)cJSON_GetNumberValue(cJSON_GetObjectItem(item, "bytes"));
        size_t at = (size_t)cJSON_GetNumberValue(cJSON_GetObjectItem(item, "at"));
        if (!name || strchr(name, '/') || at > x->data_bytes || size > x->data_bytes - at)
            return fail(err, ERR_CORRUPT, 1289, "the file's list of files is damaged");
        if (strcmp(name, "config.json") == 0)
            TRY(config_write(x, x->data + at, size, v2, err));
        else
            TRY(file_write(x, name, x->data + at, size, err));
    }
    return true;
}

static bool pages_check(const Executable *e, Error *err) {
    Bytes weights = executable_segment(e, SEGMENT_WEIGHTS);
    for (size_t at = 0; at < weights.size; at += PAYLOAD_PAGE_BYTES) {
        size_t left = weights.size - at;
        TRY(executable_page_check(e, (int64_t)(at / PAYLOAD_PAGE_BYTES), weights.data + at,
                                  left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES, err));
    }
    return true;
}

static bool extract(Extract *x, Error *err) {
    bool v2 = false;
    TRY(index_read(x, err));
    for (int i = 0; i < x->count; i++)
        v2 = v2 || x->linears[i].zeros;
    if (mkdir(x->dir, 0777) != 0 && errno != EEXIST)
        return fail(err, ERR_RESOURCE, 1290, "%s: %s", x->dir, strerror(errno));
    return pages_check(x->e, err) && files_write(x, v2, err) && weights_write(x, v2, err);
}

bool command_extract(Cli *cli, Error *err) {
    Extract x = {.e = &cli->executable, .dir = cli->options.output};
    if (!x.dir)
        return fail(err, ERR_USAGE, 1291, "-o DIR is missing: where the checkpoint goes");
    bool done = extract(&x, err);
    if (done)
        printf("%s: %d modules, %.1f MB\n", x.dir, x.count, (double)x.file_bytes * 1e-6);
    cJSON_Delete(x.index);
    free(x.linears);
    return done;
}
