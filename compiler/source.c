// Keeps of a checkpoint what the packed weights do not hold, so that `OUT extract` can give one back
// that other programs read.
//
// A linear module's entry says how to read its codes out of tile16 again: the same fields as
// PackedTensor, the part of it that the module is, and the orders of inputs and rows as arrays behind
// the index. Non-goal: bits that the packing changed (docs/shipping.md says which).
#include "source.h"

#include "../runtime/payload_source.h"
#include "tile16.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 64 << 20, TENSOR_MAX_BYTES = 1 << 20 };

static const char *const file_names[] = {
    "config.json",           "generation_config.json",  "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json",    "tokenizer.model",         "LICENSE",
};

typedef struct Builder {
    cJSON *index;
    FILE *data;
    char *bytes; // of data; owner: this
    size_t size;
    int64_t at;
} Builder;

static int64_t data_add(Builder *b, const void *data, size_t size) {
    static const char zeros[16];
    int64_t at = b->at;
    fwrite(data, 1, size, b->data);
    fwrite(zeros, 1, (size_t)round_up(size, 16) - size, b->data);
    b->at += (int64_t)round_up(size, 16);
    return at;
}

static bool files_add(Builder *b, const char *dir, Arena *a, Error *err) {
    cJSON *list = cJSON_AddArrayToObject(b->index, "files");
    for (size_t at = 0; at < sizeof file_names / sizeof *file_names; at++) {
        const char *path = arena_printf(a, "%s/%s", dir, file_names[at]);
        Bytes text;
        if (access(path, R_OK) != 0)
            continue;
        TRY(file_read(&text, path, FILE_MAX_BYTES, a, err));
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "name", file_names[at]);
        cJSON_AddNumberToObject(item, "bytes", (double)text.size);
        cJSON_AddNumberToObject(item, "at", (double)data_add(b, text.data, text.size));
        cJSON_AddItemToArray(list, item);
    }
    return true;
}

// ---- tensors that stay as they are --------------------------------------------------------------

static bool weight_has(const Weight *w, const Tensor *t) {
    return t == w->qweight || t == w->qzeros || t == w->scales || t == w->g_idx || t == w->weight;
}

static bool is_packed(const Graph *g, const Tensor *t) {
    for (int at = 0; at < g->packed_count; at++) {
        const PackedTensor *p = &g->packed[at];
        for (int part = 0; p->kind == PACKED_LINEAR && part < p->part_count * p->experts; part++)
            if (weight_has(p->parts[part], t))
                return true;
    }
    return false;
}

static void tensors_add(Builder *b, const Graph *g, const Checkpoint *c) {
    cJSON *list = cJSON_AddArrayToObject(b->index, "tensors");
    for (int at = 0; at < c->count; at++) {
        const Tensor *t = &c->tensors[at];
        bool vector = t->rank <= 1 && t->bytes <= TENSOR_MAX_BYTES && t->type != TENSOR_OTHER;
        if (!vector || is_packed(g, t))
            continue;
        cJSON *item = cJSON_CreateObject(), *shape;
        cJSON_AddStringToObject(item, "name", t->name);
        cJSON_AddStringToObject(item, "dtype", tensor_type_name(t->type));
        shape = cJSON_AddArrayToObject(item, "shape");
        for (int axis = 0; axis < t->rank; axis++)
            cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)t->shape[axis]));
        cJSON_AddNumberToObject(item, "bytes", (double)t->bytes);
        cJSON_AddNumberToObject(item, "at", (double)data_add(b, t->data, t->bytes));
        cJSON_AddItemToArray(list, item);
    }
}

// ---- linear modules -----------------------------------------------------------------------------

// "model.layers.0.mlp.down_proj" of the tensor that holds it.
static const char *module_name(const Weight *w, Arena *a) {
    const char *name = w->qweight ? w->qweight->name : w->weight->name;
    const char *dot = strrchr(name, '.');
    return arena_strndup(a, name, dot ? (size_t)(dot - name) : strlen(name));
}

static void linear_add(cJSON *list, const PackedTensor *t, int expert, int part, int64_t orders[2],
                       Arena *a) {
    const Weight *w = t->parts[expert * t->part_count + part];
    Record r = record_geometry(t);
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = {
        {"at", t->offset + expert * t->expert_bytes},
        {"bits", t->bits},
        {"group", t->group},
        {"zeros", t->zeros},
        {"scale_f32", t->scale_f32},
        {"bf16", t->bf16},
        {"order", (int64_t)t->order},
        {"head_dim", t->head_dim},
        {"part", part},
        {"rows", t->rows},
        {"pairs", t->out_features / 2},
        {"k", t->in_features},
        {"k_padded", t->k_padded},
        {"record_k", r.k},
        {"record_bytes", r.bytes},
        {"inputs", w->in_features},
        {"outputs", w->out_features},
        {"first_column", w->first_column},
        {"columns", w->columns ? w->columns : w->out_features}, // of the tensor
        {"input_order", orders[0]},
        {"row_order", orders[1]},
    };
    cJSON *item = cJSON_CreateObject(), *features;
    cJSON_AddStringToObject(item, "module", module_name(w, a));
    for (size_t at = 0; at < sizeof numbers / sizeof *numbers; at++)
        cJSON_AddNumberToObject(item, numbers[at].name, (double)numbers[at].value);
    features = cJSON_AddArrayToObject(item, "features");
    for (int other = 0; other < t->part_count; other++)
        cJSON_AddItemToArray(
            features,
            cJSON_CreateNumber((double)t->parts[expert * t->part_count + other]->out_features));
    cJSON_AddItemToArray(list, item);
}

static void linears_add(Builder *b, const Graph *g, Arena *a) {
    cJSON *list = cJSON_AddArrayToObject(b->index, "linears");
    for (int at = 0; at < g->packed_count; at++) {
        const PackedTensor *t = &g->packed[at];
        for (int expert = 0; t->kind == PACKED_LINEAR && expert < t->experts; expert++) {
            int64_t orders[2] = {-1, -1}, pairs = t->out_features / 2;
            if (t->input_order)
                orders[0] = data_add(b, t->input_order + expert * t->in_features,
                                     (size_t)t->in_features * sizeof(int32_t));
            if (t->row_order)
                orders[1] =
                    data_add(b, t->row_order + expert * pairs, (size_t)pairs * sizeof(int32_t));
            for (int part = 0; part < t->part_count; part++)
                linear_add(list, t, expert, part, orders, a);
        }
    }
}

bool source_make(Bytes *out, const Graph *g, const Checkpoint *c, const char *dir, Arena *a,
                 Error *err) {
    Builder b = {.index = cJSON_CreateObject()};
    b.data = open_memstream(&b.bytes, &b.size);
    if (!b.data)
        return fail(err, ERR_RESOURCE, 1276, "no memory for the checkpoint's files");
    bool done = files_add(&b, dir, a, err);
    tensors_add(&b, g, c);
    linears_add(&b, g, a);
    fclose(b.data);
    char *index = cJSON_PrintUnformatted(b.index);
    size_t index_bytes = (size_t)round_up(strlen(index), 16);
    SourceHeader header = {.index_bytes = index_bytes, .data_bytes = b.size};
    unsigned char *data = arena_alloc(a, sizeof header + index_bytes + b.size);
    memcpy(data, &header, sizeof header);
    memset(data + sizeof header, ' ', index_bytes);
    memcpy(data + sizeof header, index, strlen(index));
    memcpy(data + sizeof header + index_bytes, b.bytes, b.size);
    *out = (Bytes){data, sizeof header + index_bytes + b.size};
    cJSON_free(index);
    cJSON_Delete(b.index);
    free(b.bytes);
    return done;
}
