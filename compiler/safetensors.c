// The safetensors container: one file in memory to a table of tensors.
//
//   offset 0     u64 little-endian H = bytes of the header
//   offset 8     header: a JSON object, name -> {"dtype", "shape", "data_offsets": [begin, end]}
//   offset 8+H   data; begin and end count from here
//
// Idea: a pure function of a byte range. It is as strict as the library that writes such files:
// tensors must cover the data without holes, overlap or rest, which also finds truncated downloads.
// Data has no alignment, so that nobody may read it but through memcpy.
//
// Source: README.md and safetensors/src/tensor.rs of huggingface/safetensors.
// Non-goals: writing; dtypes that no GPTQ checkpoint uses are listed, but their data is not read.
#include "compile.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_TEXT_BYTES = 200, LENGTH_BYTES = 8 };

static const size_t HEADER_MAX_BYTES = 100000000; // constant of the library
static const double OFFSET_MAX = 0x1p53;          // doubles hold all integers up to here

typedef struct DType {
    const char *name;
    TensorType type;
    size_t bits;
} DType;

static const DType DTYPES[] = {
    // ORDER TENSOR_TYPES, then names for TENSOR_OTHER
    {"BOOL", TENSOR_BOOL, 8},
    {"U8", TENSOR_U8, 8},
    {"I8", TENSOR_I8, 8},
    {"F8_E5M2", TENSOR_F8_E5M2, 8},
    {"F8_E4M3", TENSOR_F8_E4M3, 8},
    {"I16", TENSOR_I16, 16},
    {"U16", TENSOR_U16, 16},
    {"F16", TENSOR_F16, 16},
    {"BF16", TENSOR_BF16, 16},
    {"I32", TENSOR_I32, 32},
    {"U32", TENSOR_U32, 32},
    {"F32", TENSOR_F32, 32},
    {"I64", TENSOR_I64, 64},
    {"U64", TENSOR_U64, 64},
    {"F64", TENSOR_F64, 64},
    {"C64", TENSOR_OTHER, 64},
    {"F8_E8M0", TENSOR_OTHER, 8},
    {"F8_E4M3FNUZ", TENSOR_OTHER, 8},
    {"F8_E5M2FNUZ", TENSOR_OTHER, 8},
    {"F6_E2M3", TENSOR_OTHER, 6},
    {"F6_E3M2", TENSOR_OTHER, 6},
    {"F4", TENSOR_OTHER, 4},
};

const char *tensor_type_name(TensorType type) {
    return type < TENSOR_OTHER ? DTYPES[type].name : "other";
}

const char *shape_text(char *out, size_t size, const int64_t *shape, int rank) {
    size_t used = (size_t)snprintf(out, size, "[");
    for (int dim = 0; dim < rank && used < size; dim++)
        used += (size_t)snprintf(out + used, size - used, "%s%lld", dim ? ", " : "",
                                 (long long)shape[dim]);
    if (used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

void tensor_read_f32(const Tensor *t, int64_t first, int64_t count, float *out) {
    if (t->type == TENSOR_F32) {
        memcpy(out, t->data + first * 4, (size_t)count * 4);
        return;
    }
    const unsigned char *data = t->data + first * 2;
    for (int64_t elem = 0; elem < count; elem++) {
        uint16_t bits;
        memcpy(&bits, data + elem * 2, sizeof bits);
        out[elem] = t->type == TENSOR_BF16 ? bfloat_to_float(bits) : half_to_float(bits);
    }
}

// ---- one entry of the header --------------------------------------------------------------------

// What the messages about one entry need.
typedef struct Entry {
    const char *file;
    char name[NAME_TEXT_BYTES]; // escaped
    Error *err;
} Entry;

static bool entry_fail(const Entry *e, int id, const char *what) {
    return fail(e->err, ERR_CORRUPT, id, "%s: tensor %s: %s", e->file, e->name, what);
}

// A JSON number as a size; false: negative, fractional or too large.
static bool size_of(const cJSON *item, size_t *out) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0) || item->valuedouble > OFFSET_MAX)
        return false;
    *out = (size_t)item->valuedouble;
    return (double)*out == item->valuedouble;
}

// Finds the three members; each must be there once. Others are ignored.
static bool entry_members(const Entry *e, const cJSON *json, const cJSON *members[3]) {
    static const char *const KEYS[3] = {"dtype", "shape", "data_offsets"};
    if (!cJSON_IsObject(json))
        return entry_fail(e, 101, "expected an object with dtype, shape and data_offsets");
    for (const cJSON *item = json->child; item; item = item->next) {
        for (int key = 0; key < 3; key++) {
            if (strcmp(item->string, KEYS[key]) != 0)
                continue;
            if (members[key])
                return entry_fail(e, 102, "dtype, shape or data_offsets stands there twice");
            members[key] = item;
        }
    }
    if (!cJSON_IsString(members[0]) || !cJSON_IsArray(members[1]) || !cJSON_IsArray(members[2]))
        return entry_fail(e, 103, "expected dtype (string), shape and data_offsets (arrays)");
    return true;
}

static const DType *dtype_find(const char *name) {
    for (size_t at = 0; at < sizeof DTYPES / sizeof DTYPES[0]; at++)
        if (strcmp(DTYPES[at].name, name) == 0)
            return &DTYPES[at];
    return NULL;
}

static bool entry_shape(const Entry *e, const cJSON *shape, const DType *dtype, Tensor *t,
                        size_t *bytes) {
    size_t bits = dtype->bits;
    for (const cJSON *item = shape->child; item; item = item->next) {
        size_t dim;
        if (t->rank == TENSOR_MAX_RANK)
            return fail(e->err, ERR_UNSUPPORTED, 104, "%s: tensor %s: more than %d dimensions",
                        e->file, e->name, TENSOR_MAX_RANK);
        if (!size_of(item, &dim))
            return entry_fail(e, 105, "shape holds something else than non-negative integers");
        if (!size_mul(bits, dim, &bits))
            return entry_fail(e, 106, "the product of its shape overflows");
        t->shape[t->rank++] = (int64_t)dim;
    }
    if (bits % 8)
        return entry_fail(e, 107, "its bits do not fill whole bytes");
    *bytes = bits / 8;
    return true;
}

static bool entry_parse(const Entry *e, const cJSON *json, Bytes data, Tensor *t) {
    const cJSON *members[3] = {0};
    TRY(entry_members(e, json, members));
    const DType *dtype = dtype_find(members[0]->valuestring);
    if (!dtype) {
        char name[40];
        text_escape(name, sizeof name, members[0]->valuestring, strlen(members[0]->valuestring));
        return fail(e->err, ERR_CORRUPT, 108, "%s: tensor %s: unknown dtype \"%s\"", e->file,
                    e->name, name);
    }
    size_t expected = 0, begin, end;
    TRY(entry_shape(e, members[1], dtype, t, &expected));
    const cJSON *first = members[2]->child, *second = first ? first->next : NULL;
    if (!second || second->next || !size_of(first, &begin) || !size_of(second, &end))
        return entry_fail(e, 109, "data_offsets must be two non-negative integers");
    if (end < begin || end > data.size)
        return fail(e->err, ERR_CORRUPT, 110,
                    "%s: tensor %s: data_offsets [%zu, %zu] leave the data of %zu bytes; the file "
                    "is damaged or its download was cut short",
                    e->file, e->name, begin, end, data.size);
    if (end - begin != expected) {
        char shape[160];
        return fail(e->err, ERR_CORRUPT, 111,
                    "%s: tensor %s: data_offsets give %zu bytes, %s %s needs %zu", e->file, e->name,
                    end - begin, dtype->name, shape_text(shape, sizeof shape, t->shape, t->rank),
                    expected);
    }
    t->type = dtype->type;
    t->data = data.data + begin;
    t->bytes = end - begin;
    return true;
}

static bool metadata_check(const cJSON *json, const char *file, Error *err) {
    bool good = cJSON_IsObject(json);
    for (const cJSON *item = good ? json->child : NULL; item; item = item->next)
        good = good && cJSON_IsString(item);
    if (!good)
        return fail(err, ERR_CORRUPT, 112, "%s: __metadata__ must map strings to strings", file);
    return true;
}

// ---- the file -----------------------------------------------------------------------------------

// Reads header length and header text.
static bool header_find(Bytes file, const char *name, Bytes *header, Error *err) {
    if (file.size < LENGTH_BYTES)
        return fail(err, ERR_CORRUPT, 113,
                    "%s: %zu bytes are too few for a safetensors file; download it again", name,
                    file.size);
    uint64_t length = 0;
    for (int byte = LENGTH_BYTES; byte-- > 0;)
        length = length << 8 | file.data[byte];
    if (length > HEADER_MAX_BYTES || length > file.size - LENGTH_BYTES)
        return fail(err, ERR_CORRUPT, 114,
                    "%s: header of %llu bytes in a file of %zu bytes (at most %zu); not a "
                    "safetensors file, or cut short",
                    name, (unsigned long long)length, file.size, HEADER_MAX_BYTES);
    *header = (Bytes){file.data + LENGTH_BYTES, (size_t)length};
    if (!length || header->data[0] != '{')
        return fail(err, ERR_CORRUPT, 115, "%s: the header does not start with '{'", name);
    return true;
}

static int compare_place(const void *a, const void *b) {
    const Tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int compare_name(const void *a, const void *b) {
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

// Tensors, sorted by place, must follow each other from the first byte of the data to the last.
static bool places_check(const Tensor *tensors, int count, Bytes data, const char *file,
                         Error *err) {
    const unsigned char *at = data.data;
    for (int i = 0; i < count; i++) {
        const Tensor *t = &tensors[i];
        if (t->data != at) {
            Entry e = {.file = file, .err = err};
            text_escape(e.name, sizeof e.name, t->name, strlen(t->name));
            return t->data < at ? entry_fail(&e, 116, "overlaps another tensor")
                                : entry_fail(&e, 117, "a hole in the data stands before it");
        }
        at += t->bytes;
    }
    if (at != data.data + data.size)
        return fail(err, ERR_CORRUPT, 118, "%s: %zu bytes behind the last tensor", file,
                    (size_t)(data.data + data.size - at));
    return true;
}

static bool entries_parse(const cJSON *root, Bytes data, const char *file, Tensor *tensors,
                          int *count, Arena *a, Error *err) {
    bool has_metadata = false;
    for (const cJSON *item = root->child; item; item = item->next) {
        if (strcmp(item->string, "__metadata__") == 0 && !has_metadata) {
            has_metadata = true;
            TRY(metadata_check(item, file, err));
            continue;
        }
        Entry e = {.file = file, .err = err};
        text_escape(e.name, sizeof e.name, item->string, strlen(item->string));
        Tensor *t = &tensors[(*count)++];
        t->name = arena_strndup(a, item->string, strlen(item->string));
        t->file = file;
        TRY(entry_parse(&e, item, data, t));
    }
    return true;
}

bool safetensors_parse(Tensor **out, int *count, Bytes file, const char *name, Arena *a,
                       Error *err) {
    Bytes header;
    cJSON *root;
    *count = 0;
    TRY(header_find(file, name, &header, err));
    TRY(json_parse(&root, header, name, err));
    Bytes data = {header.data + header.size, file.size - LENGTH_BYTES - header.size};
    name = arena_strndup(a, name, strlen(name));
    *out = ARENA_NEW(a, Tensor, cJSON_GetArraySize(root));
    bool done = entries_parse(root, data, name, *out, count, a, err);
    cJSON_Delete(root);
    TRY(done);
    size_t number = (size_t)*count;
    qsort(*out, number, sizeof **out, compare_place);
    TRY(places_check(*out, *count, data, name, err));
    qsort(*out, number, sizeof **out, compare_name);
    for (int i = 1; i < *count; i++) {
        if (strcmp((*out)[i - 1].name, (*out)[i].name) != 0)
            continue;
        Entry e = {.file = name, .err = err};
        text_escape(e.name, sizeof e.name, (*out)[i].name, strlen((*out)[i].name));
        return entry_fail(&e, 119, "stands in the header twice");
    }
    return true;
}

#ifdef FUZZ
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Arena arena = {0};
    Tensor *tensors;
    int count;
    Error err;
    safetensors_parse(&tensors, &count, (Bytes){data, size}, "fuzz", &arena, &err);
    arena_free(&arena);
    return 0;
}
#endif
