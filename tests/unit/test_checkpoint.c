// The safetensors container and the choice of files in a checkpoint folder: what must be read is
// read, and every rule that a damaged or hostile file breaks is named.
#include "../../compiler/compile.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "files.h"

// ---- the container ------------------------------------------------------------------------------

#define ENTRY(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

typedef struct Broken {
    int id; // of the message; 0: the file is good
    size_t data;
    const char *header;
} Broken;

static const Broken CONTAINERS[] = {
    {0, 0, "{}"},
    {0, 8, "{" ENTRY("a", "F32", "[2]", "[0,8]") "}  "},
    {0, 4, "{" ENTRY("scalar", "F32", "[]", "[0,4]") "}"},
    {0, 4, "{" ENTRY("empty", "F32", "[0,7]", "[4,4]") "," ENTRY("a", "F32", "[1]", "[0,4]") "}"},
    {0, 4, "{" ENTRY("e", "F32", "[0]", "[0,0]") "," ENTRY("a", "F32", "[1]", "[0,4]") "}"},
    {0, 6, "{" ENTRY("b", "F16", "[1]", "[4,6]") "," ENTRY("a", "F32", "[1]", "[0,4]") "}"},
    {0, 2, "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("a", "BF16", "[1]", "[0,2]") "}"},
    {0, 3, "{" ENTRY("sub-byte", "F6_E2M3", "[4]", "[0,3]") "}"},
    {0, 1, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":{\"x\":[]}}}"},
    {101, 0, "{\"a\":7}"},
    {102, 1, "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}"},
    {103, 1, "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}"},
    {103, 1, "{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}"},
    {104, 1, "{" ENTRY("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}"},
    {105, 1, "{" ENTRY("a", "U8", "[-1]", "[0,1]") "}"},
    {105, 1, "{" ENTRY("a", "U8", "[0.5]", "[0,1]") "}"},
    {105, 1, "{" ENTRY("a", "U8", "[1e300]", "[0,1]") "}"},
    {105, 1, "{" ENTRY("a", "U8", "[\"1\"]", "[0,1]") "}"},
    {106, 1, "{" ENTRY("a", "F32", "[4294967296,4294967296]", "[0,1]") "}"},
    {106, 0, "{" ENTRY("a", "F32", "[4294967296,4294967296,0]", "[0,0]") "}"},
    {107, 1, "{" ENTRY("a", "F4", "[1]", "[0,1]") "}"},
    {108, 1, "{" ENTRY("a", "\\u001bQ8", "[1]", "[0,1]") "}"},
    {109, 1, "{" ENTRY("a", "U8", "[1]", "[0]") "}"},
    {109, 1, "{" ENTRY("a", "U8", "[1]", "[0,1,2]") "}"},
    {109, 1, "{" ENTRY("a", "U8", "[1]", "[-1,0]") "}"},
    {110, 1, "{" ENTRY("a", "U8", "[1]", "[1,0]") "}"},
    {110, 1, "{" ENTRY("a", "U8", "[2]", "[0,2]") "}"},
    {110, 1, "{" ENTRY("a", "U8", "[2]", "[9007199254740990,9007199254740992]") "}"},
    {111, 4, "{" ENTRY("a", "F32", "[2]", "[0,4]") "}"},
    {112, 0, "{\"__metadata__\":{\"format\":1}}"},
    {112, 0, "{\"__metadata__\":[]}"},
    {101, 0, "{\"__metadata__\":{},\"__metadata__\":1}"},
    {103, 0, "{\"__metadata__\":{},\"__metadata__\":{}}"},
    {115, 0, " {}"},
    {115, 0, "[]"},
    {115, 0, ""},
    {116, 8, "{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[2,6]") "}"},
    {116, 4, "{" ENTRY("a", "F32", "[1]", "[0,4]") "," ENTRY("b", "F32", "[1]", "[0,4]") "}"},
    {117, 8, "{" ENTRY("a", "F32", "[1]", "[4,8]") "}"},
    {117, 5, "{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("b", "U8", "[1]", "[2,3]") "}"},
    {118, 9, "{" ENTRY("a", "F32", "[2]", "[0,8]") "}"},
    {118, 1, "{}"},
    {119, 2, "{" ENTRY("a", "U8", "[1]", "[0,1]") "," ENTRY("a", "U8", "[1]", "[1,2]") "}"},
    {204, 0, "{\"a\":{}\n, \"b\""},
    {205, 0, "{\"a\\u0000b\":{}}"},
    {206, 0, "{\"a"},
    {207, 0, "{\"a\xff\":{}}"},
    {207, 0, "{\"\xc0\x80\":{}}"},
    {207, 0, "{\"\xed\xa0\x80\":{}}"},
    {211, 0, "{\"a\":}"},
    {211, 0, "{\"a\" 1}"},
    {212, 0, "{}x"},
};

static void test_containers(void **state) {
    (void)state;
    static unsigned char buffer[1 << 12];
    for (size_t at = 0; at < sizeof CONTAINERS / sizeof CONTAINERS[0]; at++) {
        const Broken *b = &CONTAINERS[at];
        Arena a = {0};
        Error err = {0};
        Tensor *tensors;
        int count;
        size_t header = strlen(b->header);
        memset(buffer, 0, sizeof buffer);
        buffer[0] = (unsigned char)header;
        memcpy(buffer + 8, b->header, header);
        if (b->id == 204)
            buffer[8 + 7] = 0;
        Bytes file = {buffer, 8 + header + b->data};
        bool done = safetensors_parse(&tensors, &count, file, "file", &a, &err);
        if (err.id != b->id)
            print_message("%s: GQC-%04d %s\n", b->header, err.id, err.message);
        assert_int_equal(err.id, b->id);
        assert_int_equal(done, b->id == 0);
        for (const char *c = err.message; *c; c++)
            assert_true(*c >= ' ' && *c < 0x7f);
        arena_free(&a);
    }
}

static void test_header_length(void **state) {
    (void)state;
    static const struct {
        int id;
        unsigned char bytes[12];
        size_t size;
    } cases[] = {
        {113, {0}, 0},
        {113, {2, 0, 0, 0, 0, 0, 0}, 7},
        {114, {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10},
        {114, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, '{', '}'}, 10},
        {114, {1, 0xe1, 0xf5, 5, 0, 0, 0, 0, '{', '}'}, 10}, // 100,000,001
        {0, {2, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10},
    };
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++) {
        Arena a = {0};
        Error err = {0};
        Tensor *tensors;
        int count;
        Bytes file = {cases[at].bytes, cases[at].size};
        safetensors_parse(&tensors, &count, file, "file", &a, &err);
        assert_int_equal(err.id, cases[at].id);
        arena_free(&a);
    }
}

// The worked example of the format's description: 180 bytes, header of 158 padded to 160.
static void test_worked_example(void **state) {
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"a.qweight\":{\"dtype\":\"I32\",\"shape\":[1,2],"
        "\"data_offsets\":[0,8]},\"a.scales\":{\"dtype\":\"F16\",\"shape\":[1,2],"
        "\"data_offsets\":[8,12]}}";
    static const unsigned char data[12] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba,
                                           0xdc, 0xfe, 0x00, 0x38, 0x00, 0x3c};
    static const unsigned char start[16] = {0xa0, 0,    0,    0,    0,    0,    0,    0,
                                            0x7b, 0x22, 0x5f, 0x5f, 0x6d, 0x65, 0x74, 0x61};
    char dir[FOLDER_BYTES], path[FILES_PATH_BYTES];
    Arena a = {0};
    Error err = {0};
    Checkpoint c;
    Bytes whole;
    assert_int_equal(sizeof header - 1, 158);
    folder_make(dir);
    container_write(dir, "model.safetensors", header, 2, data, sizeof data);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_true(file_read(&whole, path, 1000, &a, &err));
    assert_int_equal(whole.size, 180);
    assert_memory_equal(whole.data, start, sizeof start);
    assert_true(checkpoint_open(&c, dir, &a, &err));
    assert_int_equal(c.count, 2);
    const Tensor *q = checkpoint_find(&c, "a.qweight"), *s = checkpoint_find(&c, "a.scales");
    assert_non_null(q);
    assert_int_equal(q->type, TENSOR_I32);
    assert_int_equal(q->rank, 2);
    assert_int_equal(q->shape[1], 2);
    assert_memory_equal(q->data, data, 8);
    float scales[2];
    tensor_read_f32(s, 0, 2, scales);
    assert_true(scales[0] == 0.5f && scales[1] == 1.0f);
    assert_null(checkpoint_find(&c, "a"));
    char shape[32], small[5];
    assert_string_equal(shape_text(shape, sizeof shape, q->shape, q->rank), "[1, 2]");
    assert_string_equal(shape_text(small, sizeof small, q->shape, q->rank), "[1, ");
    folder_remove(dir);
    arena_free(&a);
}

static void test_many_tensors(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    char *header = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&header, &size);
    unsigned char *file = NULL;
    fputc('{', text);
    for (int i = 0; i < COUNT; i++) // neither by name nor by place in order
        fprintf(text, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                i ? "," : "", i, i * 7919 % COUNT, i * 7919 % COUNT + 1);
    fputc('}', text);
    fclose(text);
    file = calloc(1, 8 + size + COUNT);
    memcpy(file, &size, 8);
    memcpy(file + 8, header, size);
    Arena a = {0};
    Error err = {0};
    Tensor *tensors;
    int count;
    double start = clock_seconds();
    assert_true(
        safetensors_parse(&tensors, &count, (Bytes){file, 8 + size + COUNT}, "f", &a, &err));
    assert_int_equal(count, COUNT);
    assert_true(clock_seconds() - start < 5);
    arena_free(&a);
    free(file);
    free(header);
}

// ---- the folder ---------------------------------------------------------------------------------

typedef struct FolderFile {
    const char *name, *text; // text NULL: a safetensors file with one tensor
    const char *tensor;      // its name
    unsigned char value;
} FolderFile;

typedef struct FolderCase {
    const char *what;
    int id, notes;
    unsigned char expected; // of tensor "a"
    FolderFile files[6];
} FolderCase;

#define INDEX(map) "{\"metadata\":{\"total_size\":1},\"weight_map\":" map "}"
#define SHARD1     "model-00001-of-00002.safetensors"
#define SHARD2     "model-00002-of-00002.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

static const FolderCase FOLDERS[] = {
    {"single file", 0, 0, 1, {{"model.safetensors", NULL, "a", 1}}},
    {"any name", 0, 0, 1, {{"llama-7b-4bit-128g.no-act-order.safetensors", NULL, "a", 1}}},
    {"foreign files are ignored",
     0,
     0,
     1,
     {{"x.safetensors", NULL, "a", 1},
      {"consolidated.safetensors", NULL, "a", 2},
      {"adapter_model.safetensors", NULL, "a", 3},
      {"lora-eora.safetensors", NULL, "a", 4}}},
    {"gptq_model before model",
     0,
     0,
     1,
     {{"gptq_model-4bit--1g.safetensors", NULL, "a", 1}, {"model.safetensors", NULL, "a", 2}}},
    {"base name before both",
     0,
     0,
     3,
     {{"gptq_model-4bit-128g.safetensors", NULL, "a", 1},
      {"model.safetensors", NULL, "a", 2},
      {"other.safetensors", NULL, "a", 3},
      {"quantize_config.json", "{\"model_file_base_name\":\"other\"}", NULL, 0}}},
    {"empty base name",
     0,
     0,
     2,
     {{"model.safetensors", NULL, "a", 2},
      {"quantize_config.json", "{\"model_file_base_name\":\"\",}", NULL, 0}}},
    {"index",
     0,
     0,
     1,
     {{SHARD1, NULL, "a", 1},
      {SHARD2, NULL, "b", 2},
      {INDEX_NAME, INDEX("{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\"}"), NULL, 0}}},
    {"index decides between equal names",
     0,
     0,
     2,
     {{SHARD1, NULL, "a", 1},
      {SHARD2, NULL, "a", 2},
      {"x.safetensors", NULL, "b", 0},
      {INDEX_NAME, INDEX("{\"a\":\"" SHARD2 "\",\"b\":\"x.safetensors\"}"), NULL, 0}}},
    {"files outside of the index are ignored",
     0,
     0,
     1,
     {{SHARD1, NULL, "a", 1},
      {"mtp.safetensors", NULL, "a", 2},
      {INDEX_NAME, INDEX("{\"a\":\"" SHARD1 "\"}"), NULL, 0}}},
    {"stale index, whole set",
     0,
     1,
     1,
     {{SHARD1, NULL, "a", 1},
      {SHARD2, NULL, "b", 2},
      {INDEX_NAME, INDEX("{\"a\":\"model-00001-of-00003.safetensors\"}"), NULL, 0}}},
    {"stale index, single file",
     0,
     1,
     1,
     {{"model.safetensors", NULL, "a", 1},
      {INDEX_NAME, INDEX("{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\"}"), NULL, 0}}},
    {"index names the wrong shard",
     0,
     1,
     1,
     {{SHARD1, NULL, "a", 1},
      {SHARD2, NULL, "b", 2},
      {INDEX_NAME, INDEX("{\"a\":\"" SHARD2 "\",\"b\":\"" SHARD2 "\"}"), NULL, 0}}},
    {"empty index",
     0,
     1,
     1,
     {{"model.safetensors", NULL, "a", 1}, {INDEX_NAME, INDEX("{}"), NULL, 0}}},
    {"set without index", 0, 0, 1, {{SHARD1, NULL, "a", 1}, {SHARD2, NULL, "b", 2}}},
    {"two sets",
     121,
     0,
     0,
     {{SHARD1, NULL, "a", 1},
      {SHARD2, NULL, "b", 2},
      {"other-00001-of-00002.safetensors", NULL, "b", 2}}},
    {"shard missing", 122, 0, 0, {{SHARD1, NULL, "a", 1}}},
    {"first shard missing", 122, 0, 0, {{SHARD2, NULL, "a", 1}}},
    {"listed shard missing",
     122,
     1,
     0,
     {{SHARD1, NULL, "a", 1},
      {INDEX_NAME, INDEX("{\"a\":\"" SHARD1 "\",\"b\":\"" SHARD2 "\"}"), NULL, 0}}},
    {"which of two", 123, 0, 0, {{"x.safetensors", NULL, "a", 1}, {"y.safetensors", NULL, "b", 2}}},
    {"pickles", 124, 0, 0, {{"pytorch_model.bin", "x", NULL, 0}}},
    {"nothing", 125, 0, 0, {{"readme.md", "x", NULL, 0}}},
    {"path in the index",
     126,
     0,
     0,
     {{SHARD1, NULL, "a", 1}, {INDEX_NAME, INDEX("{\"a\":\"../" SHARD1 "\"}"), NULL, 0}}},
    {"hidden file in the index",
     126,
     0,
     0,
     {{SHARD1, NULL, "a", 1}, {INDEX_NAME, INDEX("{\"a\":\"..safetensors\"}"), NULL, 0}}},
    {"escape in the index",
     126,
     0,
     0,
     {{SHARD1, NULL, "a", 1}, {INDEX_NAME, INDEX("{\"a\":\"\\u001b.safetensors\"}"), NULL, 0}}},
    {"index of pickles",
     126,
     0,
     0,
     {{SHARD1, NULL, "a", 1}, {INDEX_NAME, INDEX("{\"a\":\"model.bin\"}"), NULL, 0}}},
    {"weight_map of numbers",
     127,
     0,
     0,
     {{SHARD1, NULL, "a", 1}, {INDEX_NAME, INDEX("{\"a\":1}"), NULL, 0}}},
    {"no weight_map",
     128,
     0,
     0,
     {{SHARD1, NULL, "a", 1}, {INDEX_NAME, "{\"metadata\":{}}", NULL, 0}}},
    {"index is no JSON", 211, 0, 0, {{SHARD1, NULL, "a", 1}, {INDEX_NAME, "<html>", NULL, 0}}},
    {"empty file", 130, 0, 0, {{"model.safetensors", "", NULL, 0}}},
    {"a web page", 114, 0, 0, {{"model.safetensors", "<html>not found</html>", NULL, 0}}},
    {"equal names, no index", 132, 0, 0, {{SHARD1, NULL, "a", 1}, {SHARD2, NULL, "a", 2}}},
};

static void folder_fill(const char *dir, const FolderCase *c) {
    for (size_t at = 0; at < 6 && c->files[at].name; at++) {
        const FolderFile *f = &c->files[at];
        FileTensor t = {f->tensor, "U8", 1, {1}, &f->value, 1};
        if (f->text)
            text_write(dir, f->name, f->text);
        else
            tensors_write(dir, f->name, &t, 1);
    }
}

static void test_folders(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof FOLDERS / sizeof FOLDERS[0]; at++) {
        const FolderCase *folder = &FOLDERS[at];
        char dir[FOLDER_BYTES];
        Arena a = {0};
        Error err = {0};
        Checkpoint c;
        folder_make(dir);
        folder_fill(dir, folder);
        checkpoint_open(&c, dir, &a, &err);
        if (err.id != folder->id || c.notes.count != folder->notes)
            print_message("%s: GQC-%04d %s\n", folder->what, err.id, err.message);
        assert_int_equal(err.id, folder->id);
        assert_int_equal(c.notes.count, folder->notes);
        if (!folder->id) {
            const Tensor *t = checkpoint_find(&c, "a");
            assert_non_null(t);
            assert_int_equal(t->data[0], folder->expected);
        }
        folder_remove(dir);
        arena_free(&a);
    }
}

static void test_missing_folder(void **state) {
    (void)state;
    Arena a = {0};
    Error err = {0};
    Checkpoint c;
    assert_false(checkpoint_open(&c, "build/tests/no-such-folder", &a, &err));
    assert_int_equal(err.id, 120);
    assert_int_equal(err.code, ERR_USAGE);
    arena_free(&a);
}

// A shard that was there when the folder was listed, but cannot be opened.
static void test_dangling_link(void **state) {
    (void)state;
    char dir[FOLDER_BYTES], path[FILES_PATH_BYTES];
    Arena a = {0};
    Error err = {0};
    Checkpoint c;
    folder_make(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_false(checkpoint_open(&c, dir, &a, &err));
    assert_int_equal(err.id, 129);
    folder_remove(dir);
    arena_free(&a);
}

// A byte less anywhere in the file must not go unseen.
static void test_truncated(void **state) {
    (void)state;
    static const char header[] = "{" ENTRY("a", "F32", "[2]", "[0,8]") "}";
    unsigned char file[8 + sizeof header - 1 + 8] = {sizeof header - 1};
    memcpy(file + 8, header, sizeof header - 1);
    for (size_t size = 0; size <= sizeof file; size++) {
        Arena a = {0};
        Error err = {0};
        Tensor *tensors;
        int count;
        unsigned char *copy = malloc(size + 1); // so that a sanitizer sees reads behind the end
        memcpy(copy, file, size);
        bool done = safetensors_parse(&tensors, &count, (Bytes){copy, size}, "f", &a, &err);
        assert_int_equal(done, size == sizeof file);
        assert_int_equal(err.code, done ? ERR_NONE : ERR_CORRUPT);
        free(copy);
        arena_free(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_containers),     cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_worked_example), cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_folders),        cmocka_unit_test(test_missing_folder),
        cmocka_unit_test(test_dangling_link),  cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
