// `extract DIR`: the model back as a GPTQ checkpoint: config, tokenizer, and model.safetensors with
// qweight, qzeros, scales and g_idx of every linear module, read out of tile16 again
// (docs/kernels.md draws it; compiler/source.c wrote the entries). The numbers are those that the
// kernels compute with: codes of 2 and 3 bits come back as 4 bits, 5 to 7 as 8. Non-goal: the
// original file, bit by bit.
#include "cli.h"
#include "payload_source.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TILE_ROWS = 16, TILE_BYTES = 512, BLOCK_VALUES = 16, WORD_BITS = 32 };
enum { ORDER_PLAIN, ORDER_ROPE, ORDER_GATE_UP }; // ORDER ROWS (compiler/graph.h)
enum { NAME_BYTES = 256, QUANT_TENSORS = 4 };

// One linear module: an entry of the index.
typedef struct Linear {
    const char *module;
    int64_t at, bits, group, zeros, scale_f32, bf16, order, head_dim, part, rows, pairs, k,
        k_padded, record_k, record_bytes, inputs, outputs, first_column, columns, input_order,
        row_order;
    const cJSON *features;              // outputs of each part of the packed tensor
    const int32_t *inputs_at, *rows_at; // orders; NULL: none
    int64_t out_at[QUANT_TENSORS];      // where its tensors lie in the new file's data
    unsigned char *out[QUANT_TENSORS];  // the same in the mapping
    bool first; // the first entry of its module: slices of one tensor follow each other
} Linear;

typedef struct Extract {
    const Executable *e;
    const char *dir;
    cJSON *index;
    const unsigned char *data; // of SEGMENT_SOURCE, behind the index
    size_t data_bytes;
    Linear *linears;
    int count;
    unsigned char *file; // model.safetensors, mapped
    size_t file_bytes;
} Extract;

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
    bool sane = l->module[0] && strlen(l->module) < NAME_BYTES && l->record_k > 0 && l->rows > 0 &&
                l->k_padded >= l->k && l->at >= 0 && l->inputs > 0 && l->outputs > 0 &&
                (l->bits == 4 || l->bits == 8 || l->bits == 16) &&
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

// ---- reading tile16 -----------------------------------------------------------------------------

static int64_t groups_of(const Linear *l) {
    return ceil_div(l->k, l->group);
}

// Feature of the module in packed row `row`; -1: another part's, or padding.
static int64_t feature_of(const Linear *l, int64_t row) {
    int64_t part = 0, n = row;
    if (l->order == ORDER_GATE_UP) {
        part = row % TILE_ROWS / 8;
        n = row / TILE_ROWS * 8 + row % 8;
        if (n >= l->pairs)
            return -1;
        n = l->rows_at ? l->rows_at[n] : n;
    } else {
        const cJSON *features = l->features ? l->features->child : NULL;
        for (; features && n >= (int64_t)features->valuedouble; features = features->next, part++)
            n -= (int64_t)features->valuedouble;
        if (!features)
            return -1;
        if (l->order == ORDER_ROPE && part < 2) {
            int64_t head = n / l->head_dim, tile = n % l->head_dim / TILE_ROWS, r = n % TILE_ROWS;
            n = head * l->head_dim + tile * 8 + r % 8 + r / 8 * (l->head_dim / 2);
        }
    }
    return part == l->part && n < l->outputs ? n : -1;
}

static const unsigned char *record_at(const Extract *x, const Linear *l, int64_t row, int64_t k) {
    return executable_segment(x->e, SEGMENT_WEIGHTS).data + l->at +
           row / TILE_ROWS * (l->k_padded / l->record_k) * l->record_bytes +
           k / l->record_k * l->record_bytes;
}

static int64_t block_bytes(const Linear *l) {
    return BLOCK_VALUES * (l->scale_f32 ? 4 : 2);
}

// Where the tiles of a record start: behind the scales and zero points of its groups.
static int64_t tiles_at(const Linear *l) {
    int64_t groups = l->bits == 16 ? 0 : l->record_k / l->group;
    return groups * (block_bytes(l) + (l->zeros ? BLOCK_VALUES * 2 : 0));
}

// The code, or with 16 bits the half, of (row, k).
static unsigned code_at(const Linear *l, const unsigned char *record, int64_t row, int64_t k) {
    int64_t tile_k = TILE_BYTES * 8 / l->bits / TILE_ROWS, in = k % l->record_k;
    const unsigned char *tile = record + tiles_at(l) + in / tile_k * TILE_BYTES;
    int64_t r = row % 8, h = row % TILE_ROWS / 8;
    in %= tile_k;
    if (l->bits == 16) {
        uint16_t half;
        memcpy(&half, tile + (4 * r + in % 8 / 2) * 16 + (in / 8 * 2 + h) * 4 + in % 2 * 2, 2);
        return half;
    }
    int64_t lane = 4 * r + in % 8 / 2, later = in % 16 / 8; // inputs 8 further on share the word
    const unsigned char *words = tile + lane * 16;
    if (l->bits == 8)
        return words[(in / 16 * 2 + h) * 4 + in % 2 * 2 + later];
    int64_t nibble = in % 2 * 4 + later * 2 + h;
    return words[in / 16 * 4 + nibble / 2] >> (nibble % 2 * 4) & 15u;
}

static float scale_at(const Linear *l, const unsigned char *record, int64_t row, int64_t k) {
    int64_t index = 2 * (row % 8) + row % TILE_ROWS / 8;
    const unsigned char *block = record + k % l->record_k / l->group * block_bytes(l);
    uint16_t half;
    float scale;
    if (l->scale_f32) {
        memcpy(&scale, block + index * 4, sizeof scale);
        return scale;
    }
    memcpy(&half, block + index * 2, sizeof half);
    return half_to_float(half);
}

static unsigned zero_at(const Linear *l, const unsigned char *record, int64_t row, int64_t k) {
    uint16_t half;
    if (!l->zeros)
        return 1u << (l->bits - 1);
    int64_t index = 2 * (row % 8) + row % TILE_ROWS / 8;
    memcpy(&half,
           record + l->record_k / l->group * block_bytes(l) +
               k % l->record_k / l->group * BLOCK_VALUES * 2 + index * 2,
           sizeof half);
    return (unsigned)half_to_float(half);
}

// ---- modules ------------------------------------------------------------------------------------

static void bits_or(unsigned char *words, int64_t word, unsigned value, int64_t shift) {
    uint32_t old;
    memcpy(&old, words + word * 4, sizeof old);
    old |= (uint32_t)value << shift;
    memcpy(words + word * 4, &old, sizeof old);
}

static int64_t input_of(const Linear *l, int64_t k) {
    return l->inputs_at ? l->inputs_at[k] : k < l->inputs ? k : -1;
}

static void plain_row(const Extract *x, const Linear *l, int64_t row, int64_t n) {
    for (int64_t k = 0; k < l->k; k++) {
        int64_t input = input_of(l, k);
        uint16_t half = (uint16_t)code_at(l, record_at(x, l, row, k), row, k);
        if (input >= 0)
            memcpy(l->out[0] + ((l->first_column + n) * l->inputs + input) * 2, &half, 2);
    }
}

// v2: the zero point as it is; v1: one less.
static void quant_row(const Extract *x, const Linear *l, int64_t row, int64_t n, bool v2) {
    int64_t column = l->first_column + n, per_word = WORD_BITS / l->bits;
    for (int64_t k = 0; k < l->k; k++) {
        const unsigned char *record = record_at(x, l, row, k);
        int64_t input = input_of(l, k);
        if (k % l->group == 0) {
            int64_t group = k / l->group;
            float scale = scale_at(l, record, row, k);
            uint16_t half = half_from_float(scale);
            unsigned zero = zero_at(l, record, row, k) - (v2 ? 0u : 1u);
            bits_or(l->out[1], group * ceil_div(l->columns, per_word) + column / per_word,
                    zero & ((1u << l->bits) - 1), column % per_word * l->bits);
            if (l->scale_f32)
                memcpy(l->out[2] + (group * l->columns + column) * 4, &scale, 4);
            else
                memcpy(l->out[2] + (group * l->columns + column) * 2, &half, 2);
        }
        if (input >= 0)
            bits_or(l->out[0], input / per_word * l->columns + column, code_at(l, record, row, k),
                    input % per_word * l->bits);
    }
}

static bool linear_write(const Extract *x, const Linear *l, bool v2, Error *err) {
    size_t weights = executable_segment(x->e, SEGMENT_WEIGHTS).size;
    uint64_t bytes =
        (uint64_t)(l->rows / TILE_ROWS * (l->k_padded / l->record_k) * l->record_bytes);
    if (l->rows % TILE_ROWS || (uint64_t)l->at > weights || bytes > weights - (uint64_t)l->at ||
        l->first_column + l->outputs > l->columns)
        return fail(err, ERR_CORRUPT, 1282, "module %s lies outside of the weights", l->module);
    for (int64_t row = 0; row < l->rows; row++) {
        int64_t n = feature_of(l, row);
        if (n < 0)
            continue;
        if (l->bits == 16)
            plain_row(x, l, row, n);
        else
            quant_row(x, l, row, n, v2);
    }
    for (int64_t k = 0; l->bits != 16 && k < l->k; k++) {
        int32_t group = (int32_t)(k / l->group);
        if (input_of(l, k) >= 0)
            memcpy(l->out[3] + input_of(l, k) * 4, &group, sizeof group);
    }
    return true;
}

// ---- model.safetensors --------------------------------------------------------------------------

typedef struct Shape {
    const char *suffix, *dtype;
    int64_t rows, columns; // columns 0: one axis
    int64_t bytes;
} Shape;

// The tensors of a module; returns how many.
static int shapes_of(const Linear *l, Shape out[QUANT_TENSORS]) {
    if (l->bits == 16) {
        out[0] = (Shape){"weight", l->bf16 ? "BF16" : "F16", l->columns, l->inputs,
                         l->columns * l->inputs * 2};
        return 1;
    }
    int64_t groups = groups_of(l), per_word = WORD_BITS / l->bits;
    int64_t words = ceil_div(l->inputs, per_word), zeros = ceil_div(l->columns, per_word);
    out[0] = (Shape){"qweight", "I32", words, l->columns, words * l->columns * 4};
    out[1] = (Shape){"qzeros", "I32", groups, zeros, groups * zeros * 4};
    out[2] = (Shape){"scales", l->scale_f32 ? "F32" : "F16", groups, l->columns,
                     groups * l->columns * (l->scale_f32 ? 4 : 2)};
    out[3] = (Shape){"g_idx", "I32", l->inputs, 0, l->inputs * 4};
    return QUANT_TENSORS;
}

static void header_add(cJSON *header, const char *name, const char *dtype, cJSON *shape,
                       int64_t *at, int64_t bytes) {
    cJSON *item = cJSON_AddObjectToObject(header, name), *range;
    cJSON_AddStringToObject(item, "dtype", dtype);
    cJSON_AddItemToObject(item, "shape", shape);
    range = cJSON_AddArrayToObject(item, "data_offsets");
    cJSON_AddItemToArray(range, cJSON_CreateNumber((double)*at));
    *at += bytes;
    cJSON_AddItemToArray(range, cJSON_CreateNumber((double)*at));
}

static cJSON *header_make(Extract *x, int64_t *bytes) {
    cJSON *header = cJSON_CreateObject();
    cJSON_AddStringToObject(cJSON_AddObjectToObject(header, "__metadata__"), "format", "pt");
    for (int i = 0; i < x->count; i++) {
        Linear *l = &x->linears[i];
        Shape shapes[QUANT_TENSORS];
        int count = l->first ? shapes_of(l, shapes) : 0;
        if (!l->first)
            memcpy(l->out_at, l[-1].out_at, sizeof l->out_at);
        for (int at = 0; at < count; at++) {
            char name[NAME_BYTES + 16];
            cJSON *shape = cJSON_CreateArray();
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)shapes[at].rows));
            if (shapes[at].columns)
                cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)shapes[at].columns));
            snprintf(name, sizeof name, "%s.%s", l->module, shapes[at].suffix);
            l->out_at[at] = *bytes;
            header_add(header, name, shapes[at].dtype, shape, bytes, shapes[at].bytes);
        }
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(x->index, "tensors")) {
        int64_t size = (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItem(item, "bytes"));
        header_add(header, cJSON_GetStringValue(cJSON_GetObjectItem(item, "name")),
                   cJSON_GetStringValue(cJSON_GetObjectItem(item, "dtype")),
                   cJSON_Duplicate(cJSON_GetObjectItem(item, "shape"), true), bytes, size);
    }
    return header;
}

static bool file_map(Extract *x, const char *name, size_t bytes, Error *err) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", x->dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644), code = 0;
    if (fd < 0)
        return fail(err, ERR_RESOURCE, 1283, "%s: %s", path, strerror(errno));
    code = posix_fallocate(fd, 0, (off_t)bytes);
    void *data = code ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED)
        code = code ? code : errno;
    close(fd);
    if (data == MAP_FAILED)
        return fail(err, ERR_RESOURCE, 1284, "%s: no room for %.1f MB: %s", path,
                    (double)bytes * 1e-6, strerror(code));
    x->file = data;
    x->file_bytes = bytes;
    return true;
}

static bool tensors_write(Extract *x, unsigned char *to, Error *err) {
    const cJSON *item;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(x->index, "tensors")) {
        size_t size = (size_t)cJSON_GetNumberValue(cJSON_GetObjectItem(item, "bytes"));
        size_t at = (size_t)cJSON_GetNumberValue(cJSON_GetObjectItem(item, "at"));
        if (at > x->data_bytes || size > x->data_bytes - at)
            return fail(err, ERR_CORRUPT, 1285, "a tensor of the checkpoint lies outside");
        memcpy(to, x->data + at, size);
        to += size;
    }
    return true;
}

static bool weights_write(Extract *x, bool v2, Error *err) {
    int64_t bytes = 0, linears = 0;
    cJSON *header = header_make(x, &bytes);
    char *text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    size_t size = text ? strlen(text) : 0, padded = (size_t)round_up(size, 8);
    uint64_t length = padded;
    bool done =
        text && file_map(x, "model.safetensors", sizeof length + padded + (size_t)bytes, err);
    for (int i = 0; i < x->count; i++) {
        Shape shapes[QUANT_TENSORS];
        int count = x->linears[i].first ? shapes_of(&x->linears[i], shapes) : 0;
        for (int at = 0; at < count; at++)
            linears += shapes[at].bytes;
    }
    if (done) {
        memcpy(x->file, &length, sizeof length);
        memset(x->file + sizeof length, ' ', padded);
        memcpy(x->file + sizeof length, text, size);
        done = tensors_write(x, x->file + sizeof length + padded + linears, err);
    }
    cJSON_free(text);
    for (int i = 0; done && i < x->count; i++) {
        Linear *l = &x->linears[i];
        for (int at = 0; at < QUANT_TENSORS; at++)
            l->out[at] = x->file + sizeof length + padded + l->out_at[at];
        done = linear_write(x, l, v2, err);
    }
    if (x->file && munmap(x->file, x->file_bytes) != 0)
        done = done && fail(err, ERR_RESOURCE, 1286, "cannot finish model.safetensors");
    return done;
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
static void rule_name(const Linear *l, char out[2 * NAME_BYTES + 8]) {
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
        char name[2 * NAME_BYTES + 8];
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
