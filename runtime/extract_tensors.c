// model.safetensors of an extracted checkpoint: a header made from the index, and behind it the
// tensors of every module and those that were never quantized.
#include "extract.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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
    int64_t groups = linear_groups(l), per_word = EXTRACT_WORD_BITS / l->bits;
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
            char name[EXTRACT_NAME_BYTES + 16];
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

bool weights_write(Extract *x, bool v2, Error *err) {
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
