// make-checkpoint SHAPE DIR [options]: writes a valid GPTQ checkpoint with random weights, of the
// shape of a real model, to measure speed and memory where no real checkpoint is at hand.
//
// Idea: first list every tensor with its place in its shard, then fill the files block by block
// from many threads. The random numbers of a block depend on seed, tensor and block only, so the
// thread count does not change a byte. Scales are such that activations keep about unit variance:
// uniform codes of b bits have a deviation of 2^b / sqrt(12).
// Non-goal: weights that write sensible text.
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BLOCK_BYTES = 1 << 20,
    NAME_BYTES = 96,
    PATH_BYTES = 4096,
    MAX_SHARDS = 1000,
    BYTE_TOKENS = 256,
    EXIT_FAILED = 1,
    EXIT_BAD_USAGE = 2,
    EXIT_NO_ROOM = 6,
};

typedef struct Shape {
    const char *name, *architecture, *model_type;
    int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab;
    double rope_theta;
    double rope_factor; // llama3 scaling; 0: none
    int64_t max_position;
    bool tied, qkv_bias;
} Shape;

// clang-format off
static const Shape shapes[] = {
    {"llama-3.2-1b", "LlamaForCausalLM", "llama", 2048,  8192, 16, 32, 8,  64, 128256, 5e5, 32, 131072, true,  false},
    {"llama-3.1-8b", "LlamaForCausalLM", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 5e5,  8, 131072, false, false},
    {"llama-3.1-70b", "LlamaForCausalLM", "llama", 8192, 28672, 80, 64, 8, 128, 128256, 5e5, 8, 131072, false, false},
    {"qwen2.5-7b", "Qwen2ForCausalLM", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 1e6,   0,  32768, false, true},
    {"deepseek-r1-distill-qwen-7b", "Qwen2ForCausalLM", "qwen2", 3584, 18944, 28, 28, 4, 128, 152064, 1e4, 0, 131072, false, true},
    {"custom",     "LlamaForCausalLM", "llama", 256,    512,  2,  4, 2,  64,   1024, 1e4,   0,   4096, false, false},
};
// clang-format on

typedef struct Options {
    Shape shape;
    const char *dir;
    int64_t bits, group_size, seed, shard_bytes, threads;
    int64_t asymmetric, act_order; // 0 or 1
} Options;

static _Noreturn void stop(int code, const char *what, const char *detail) {
    fprintf(stderr, "make-checkpoint: %s%s%s\n", what, detail ? ": " : "", detail ? detail : "");
    exit(code);
}

static _Noreturn void stop_io(const char *path) {
    bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    fprintf(stderr, "make-checkpoint: %s: %s\n", path, strerror(errno));
    exit(full ? EXIT_NO_ROOM : EXIT_FAILED);
}

// ---- the list of tensors ------------------------------------------------------------------------

typedef enum Fill { FILL_CODES, FILL_ZEROS, FILL_SCALES, FILL_GROUPS, FILL_NORM, FILL_NORMAL } Fill;

typedef struct Entry {
    char name[NAME_BYTES];
    Fill fill;
    int64_t rows, columns; // columns 0: rank 1
    int64_t bytes;
    double spread; // FILL_SCALES: the scale; FILL_NORMAL: the deviation
    int shard;
    int64_t begin; // in the shard's data
} Entry;

typedef struct List {
    const Options *o;
    Entry *entries;
    int count, capacity;
} List;

static bool is_int32(Fill fill) {
    return fill == FILL_CODES || fill == FILL_ZEROS || fill == FILL_GROUPS;
}

// 5, 6 and 7 bits exist in planes only, the format gptq_p.
static bool is_planar(const Options *o) {
    return o->bits >= 5 && o->bits <= 7;
}

// The stored zero points of a symmetric module: in the format gptq the code of 0, minus 1, in each
// field; in planes the code itself, whose highest bit lies in the last words of a block.
static uint32_t zero_word(int64_t bits, int64_t word) {
    enum { PERIOD = 7 };
    static const uint32_t words[9][PERIOD] = {
        [2] = {0x55555555},
        [3] = {0xdb6db6db, 0xb6db6db6, 0x6db6db6d},
        [4] = {0x77777777},
        [5] = {0, 0, 0, 0, 0xffffffff},
        [6] = {0, 0, 0, 0, 0xaaaaaaaa, 0xaaaaaaaa},
        [7] = {0, 0, 0, 0, 0, 0, 0xffffffff},
        [8] = {0x7f7f7f7f},
    };
    int64_t period = bits % 2 || bits == 6 ? bits : 1;
    return words[bits][word % period];
}

// With act-order the inputs of a group stand anywhere. The same order for all modules of one width,
// as they see the same activations.
static uint32_t group_of(const Options *o, int64_t k, const Entry *e) {
    enum { STRIDE = 7919 }; // prime, so that it visits every input of any usual width
    int64_t place = o->act_order ? (k * STRIDE + 11) % e->rows : k;
    return (uint32_t)(place / (int64_t)e->spread);
}

static void add(List *l, const char *prefix, const char *suffix, Fill fill, int64_t rows,
                int64_t columns, double spread) {
    if (l->count == l->capacity) {
        l->capacity = l->capacity ? 2 * l->capacity : 256;
        l->entries = realloc(l->entries, (size_t)l->capacity * sizeof *l->entries);
        if (!l->entries)
            stop(EXIT_NO_ROOM, "out of memory", NULL);
    }
    Entry *e = &l->entries[l->count++];
    *e = (Entry){.fill = fill, .rows = rows, .columns = columns, .spread = spread};
    snprintf(e->name, sizeof e->name, "%s%s", prefix, suffix);
    e->bytes = rows * (columns ? columns : 1) * (is_int32(fill) ? 4 : 2);
}

static void add_linear(List *l, const char *layer, const char *module, int64_t k, int64_t n,
                       bool bias) {
    const Options *o = l->o;
    char prefix[NAME_BYTES];
    snprintf(prefix, sizeof prefix, "%s%s", layer, module);
    int64_t group = o->group_size < 0 ? k : o->group_size;
    if (k % 32 || n % 32 || k % group)
        stop(EXIT_BAD_USAGE, "sizes must be multiples of 32, in_features also of the group", prefix);
    double deviation = pow(2, (double)o->bits) / sqrt(12);
    if (bias)
        add(l, prefix, ".bias", FILL_NORMAL, n, 0, 0.1);
    add(l, prefix, ".g_idx", FILL_GROUPS, k, 0, (double)group);
    add(l, prefix, ".qweight", FILL_CODES, k * o->bits / 32, n, 0);
    add(l, prefix, ".qzeros", FILL_ZEROS, k / group, n * o->bits / 32, 0);
    add(l, prefix, ".scales", FILL_SCALES, k / group, n, 1 / (sqrt((double)k) * deviation));
}

static void add_layer(List *l, int64_t layer) {
    const Shape *s = &l->o->shape;
    char p[NAME_BYTES / 2];
    snprintf(p, sizeof p, "model.layers.%lld.", (long long)layer);
    add(l, p, "input_layernorm.weight", FILL_NORM, s->hidden, 0, 0);
    add_linear(l, p, "mlp.down_proj", s->intermediate, s->hidden, false);
    add_linear(l, p, "mlp.gate_proj", s->hidden, s->intermediate, false);
    add_linear(l, p, "mlp.up_proj", s->hidden, s->intermediate, false);
    add(l, p, "post_attention_layernorm.weight", FILL_NORM, s->hidden, 0, 0);
    add_linear(l, p, "self_attn.k_proj", s->hidden, s->kv_heads * s->head_dim, s->qkv_bias);
    add_linear(l, p, "self_attn.o_proj", s->heads * s->head_dim, s->hidden, false);
    add_linear(l, p, "self_attn.q_proj", s->hidden, s->heads * s->head_dim, s->qkv_bias);
    add_linear(l, p, "self_attn.v_proj", s->hidden, s->kv_heads * s->head_dim, s->qkv_bias);
}

static List list_make(const Options *o) {
    const Shape *s = &o->shape;
    List l = {.o = o};
    if (!s->tied)
        add(&l, "lm_head", ".weight", FILL_NORMAL, s->vocab, s->hidden,
            1 / sqrt((double)s->hidden));
    add(&l, "model.embed_tokens", ".weight", FILL_NORMAL, s->vocab, s->hidden, 0.02);
    for (int64_t layer = 0; layer < s->layers; layer++)
        add_layer(&l, layer);
    add(&l, "model.norm", ".weight", FILL_NORM, s->hidden, 0, 0);
    return l;
}

// Gives every tensor its shard and place; returns the number of shards.
static int list_place(List *l) {
    int shard = 0;
    int64_t at = 0;
    for (int i = 0; i < l->count; i++) {
        Entry *e = &l->entries[i];
        if (at && at + e->bytes > l->o->shard_bytes) {
            shard++;
            at = 0;
        }
        if (shard >= MAX_SHARDS)
            stop(EXIT_BAD_USAGE, "more than 1000 shards; raise --shard-bytes", NULL);
        e->shard = shard;
        e->begin = at;
        at += e->bytes;
    }
    return shard + 1;
}

// ---- random content -----------------------------------------------------------------------------

static uint64_t splitmix(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

// Values of normal size only (2^-14 .. 2^15), rounded to nearest.
static uint16_t half_from(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude < 0x38800000) // subnormal as fp16: zero is near enough for random weights
        return (uint16_t)sign;
    return (uint16_t)(sign | (magnitude + 0x1000 - 0x38000000) >> 13);
}

// Sum of four uniform numbers, scaled to deviation 1.
static float normal_from(uint64_t random) {
    int sum = (int)(random & 0xffff) + (int)(random >> 16 & 0xffff) + (int)(random >> 32 & 0xffff) +
              (int)(random >> 48);
    return (float)(sum - 2 * 65535) * (1.7320508f / 65536.0f);
}

static void fill_halves(const Entry *e, uint64_t *state, uint16_t *out, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t random = splitmix(state);
        float uniform = (float)(random >> 40) * 0x1p-24f;
        float value = e->fill == FILL_NORM     ? 0.95f + 0.1f * uniform
                      : e->fill == FILL_SCALES ? (float)e->spread * (0.8f + 0.4f * uniform)
                                               : (float)e->spread * normal_from(random);
        out[i] = half_from(value);
    }
}

// Bytes [at, at + size) of a tensor; at is a multiple of BLOCK_BYTES.
static void fill_block(const Options *o, int tensor, const Entry *e, int64_t at, int64_t size,
                       unsigned char *out) {
    uint64_t state = (uint64_t)o->seed * 0x2545f4914f6cdd1d + ((uint64_t)tensor << 32) +
                     (uint64_t)(at / BLOCK_BYTES);
    if (!is_int32(e->fill)) {
        fill_halves(e, &state, (uint16_t *)(void *)out, size / 2);
        return;
    }
    uint32_t *words = (uint32_t *)(void *)out;
    for (int64_t i = 0; i < size / 4; i++)
        words[i] = e->fill == FILL_CODES || (e->fill == FILL_ZEROS && o->asymmetric)
                       ? (uint32_t)splitmix(&state)
                   : e->fill == FILL_GROUPS ? group_of(o, at / 4 + i, e)
                                            : zero_word(o->bits, (at / 4 + i) % e->columns);
}

// ---- writing ------------------------------------------------------------------------------------

typedef struct Work {
    const Options *o;
    const List *list;
    int fds[MAX_SHARDS];
    int64_t data_at[MAX_SHARDS]; // where a shard's data starts
    int64_t next;                // block to do next, over all tensors
    pthread_mutex_t lock;
} Work;

static void write_at(int fd, const void *data, int64_t size, int64_t at, const char *path) {
    const unsigned char *bytes = data;
    while (size > 0) {
        ssize_t wrote = pwrite(fd, bytes, (size_t)size, at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            stop_io(path);
        bytes += wrote;
        at += wrote;
        size -= wrote;
    }
}

// Takes the next block of all; false: none left.
static bool work_take(Work *w, int *tensor, int64_t *at) {
    pthread_mutex_lock(&w->lock);
    int64_t block = w->next++;
    pthread_mutex_unlock(&w->lock);
    for (*tensor = 0; *tensor < w->list->count; ++*tensor) {
        int64_t blocks = (w->list->entries[*tensor].bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
        if (block < blocks) {
            *at = block * BLOCK_BYTES;
            return true;
        }
        block -= blocks;
    }
    return false;
}

static void *work_run(void *argument) {
    Work *w = argument;
    unsigned char *block = malloc(BLOCK_BYTES);
    if (!block)
        stop(EXIT_NO_ROOM, "out of memory", NULL);
    int tensor;
    for (int64_t at; work_take(w, &tensor, &at);) {
        const Entry *e = &w->list->entries[tensor];
        int64_t size = e->bytes - at < BLOCK_BYTES ? e->bytes - at : BLOCK_BYTES;
        fill_block(w->o, tensor, e, at, size, block);
        write_at(w->fds[e->shard], block, size, w->data_at[e->shard] + e->begin + at, e->name);
    }
    free(block);
    return NULL;
}

static FILE *open_in(const char *dir, const char *name, char path[PATH_BYTES]) {
    snprintf(path, PATH_BYTES, "%.3000s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    if (!file)
        stop_io(path);
    return file;
}

static void close_file(FILE *file, const char *path) {
    if (ferror(file) || fclose(file) != 0)
        stop_io(path);
}

static void shard_name(char out[64], int shard, int shards) {
    if (shards == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05d-of-%05d.safetensors", shard + 1, shards);
}

static void print_entry(FILE *out, const Entry *e, bool first) {
    fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", first ? "" : ",", e->name,
            is_int32(e->fill) ? "I32" : "F16", (long long)e->rows);
    if (e->columns)
        fprintf(out, ",%lld", (long long)e->columns);
    fprintf(out, "],\"data_offsets\":[%lld,%lld]}", (long long)e->begin,
            (long long)(e->begin + e->bytes));
}

// Creates the shard with its header; the data follows from the threads.
static void shard_open(Work *w, int shard, int shards) {
    char path[PATH_BYTES], name[64], *header = NULL;
    size_t size = 0;
    FILE *text = open_memstream(&header, &size);
    if (!text)
        stop(EXIT_NO_ROOM, "out of memory", NULL);
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", text);
    for (int i = 0; i < w->list->count; i++)
        if (w->list->entries[i].shard == shard)
            print_entry(text, &w->list->entries[i], false);
    fputc('}', text);
    while (ftell(text) % 8)
        fputc(' ', text);
    fclose(text);
    shard_name(name, shard, shards);
    snprintf(path, sizeof path, "%.3000s/%s", w->o->dir, name);
    w->fds[shard] = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (w->fds[shard] < 0)
        stop_io(path);
    uint64_t length = size;
    write_at(w->fds[shard], &length, 8, 0, path);
    write_at(w->fds[shard], header, (int64_t)size, 8, path);
    w->data_at[shard] = 8 + (int64_t)size;
    free(header);
}

static void index_write(const Options *o, const List *l, int shards) {
    char path[PATH_BYTES], name[64];
    FILE *out = open_in(o->dir, "model.safetensors.index.json", path);
    int64_t total = 0;
    for (int i = 0; i < l->count; i++)
        total += l->entries[i].bytes;
    fprintf(out, "{\"metadata\":{\"total_size\":%lld},\"weight_map\":{", (long long)total);
    for (int i = 0; i < l->count; i++) {
        shard_name(name, l->entries[i].shard, shards);
        fprintf(out, "%s\n\"%s\":\"%s\"", i ? "," : "", l->entries[i].name, name);
    }
    fputs("\n}}\n", out);
    close_file(out, path);
}

static void weights_write(const Options *o, List *l) {
    static Work work; // large
    int shards = list_place(l);
    work.o = o;
    work.list = l;
    pthread_mutex_init(&work.lock, NULL);
    for (int shard = 0; shard < shards; shard++)
        shard_open(&work, shard, shards);
    pthread_t threads[256];
    int started = 0;
    while (started < o->threads && !pthread_create(&threads[started], NULL, work_run, &work))
        started++;
    if (!started)
        work_run(&work);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    for (int shard = 0; shard < shards; shard++)
        if (close(work.fds[shard]) != 0)
            stop_io(o->dir);
    if (shards > 1)
        index_write(o, l, shards);
}

// ---- config.json and its neighbours -------------------------------------------------------------

static int64_t special_count(const Shape *s) {
    return s->vocab > 20000 ? 256 : 4;
}

static void print_quant(FILE *out, const Options *o) {
    fprintf(out,
            "{\"bits\":%lld,\"group_size\":%lld,\"desc_act\":%s,\"sym\":%s,\"lm_head\":false,"
            "\"quant_method\":\"gptq\",\"checkpoint_format\":\"%s\",\"pack_dtype\":\"int32\","
            "\"static_groups\":false,\"true_sequential\":true}",
            (long long)o->bits, (long long)o->group_size, o->act_order ? "true" : "false",
            o->asymmetric ? "false" : "true", is_planar(o) ? "gptq_p" : "gptq");
}

static void config_write(const Options *o) {
    char path[PATH_BYTES];
    const Shape *s = &o->shape;
    long long bos = (long long)(s->vocab - special_count(s));
    FILE *out = open_in(o->dir, "config.json", path);
    fprintf(out,
            "{\"architectures\":[\"%s\"],\"model_type\":\"%s\",\"hidden_size\":%lld,"
            "\"intermediate_size\":%lld,\"num_hidden_layers\":%lld,\"num_attention_heads\":%lld,"
            "\"num_key_value_heads\":%lld,\"head_dim\":%lld,\"vocab_size\":%lld,",
            s->architecture, s->model_type, (long long)s->hidden, (long long)s->intermediate,
            (long long)s->layers, (long long)s->heads, (long long)s->kv_heads,
            (long long)s->head_dim, (long long)s->vocab);
    fprintf(out,
            "\"max_position_embeddings\":%lld,\"rms_norm_eps\":1e-05,\"rope_theta\":%.1f,"
            "\"hidden_act\":\"silu\",\"tie_word_embeddings\":%s,\"torch_dtype\":\"float16\","
            "\"bos_token_id\":%lld,\"eos_token_id\":%lld,",
            (long long)s->max_position, s->rope_theta, s->tied ? "true" : "false", bos, bos + 1);
    if (s->rope_factor > 0)
        fprintf(out,
                "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":%.1f,"
                "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192},",
                s->rope_factor);
    fputs("\"quantization_config\":", out);
    print_quant(out, o);
    fputs("}\n", out);
    close_file(out, path);
    out = open_in(o->dir, "quantize_config.json", path);
    print_quant(out, o);
    close_file(out, path);
    out = open_in(o->dir, "generation_config.json", path);
    fprintf(out, "{\"bos_token_id\":%lld,\"eos_token_id\":%lld}\n", bos, bos + 1);
    close_file(out, path);
}

// ---- tokenizer.json: 256 bytes, then all words of 2, 3 and 4 letters until the table is full ----

static void print_code_point(FILE *out, int code) {
    fprintf(out, "\\u%04x", (unsigned)code);
}

// GPT-2's alphabet: printable bytes stand for themselves, the others for U+0100 and up.
static void print_byte_tokens(FILE *out) {
    int next = 256;
    for (int byte = 0; byte < BYTE_TOKENS; byte++) {
        bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        fputs(byte ? ",\"" : "\"", out);
        print_code_point(out, plain ? byte : next++);
        fprintf(out, "\":%d", byte);
    }
}

enum { LETTERS = 26, PAIRS = LETTERS * LETTERS, TRIPLES = PAIRS * LETTERS };

// Word number `at` of all words of 2, then 3, then 4 letters, and where its merge splits it.
static void word_make(int64_t at, char word[8], int *split) {
    int64_t length = at < PAIRS ? 2 : at < PAIRS + TRIPLES ? 3 : 4;
    int64_t rest = at - (length > 2 ? PAIRS : 0) - (length > 3 ? TRIPLES : 0);
    for (int64_t i = length - 1; i >= 0; i--, rest /= LETTERS)
        word[i] = (char)('a' + rest % LETTERS);
    word[length] = 0;
    *split = length == 2 ? 1 : 2;
}

static void print_special(FILE *out, const Shape *s, int64_t i) {
    char name[64] = "<|begin_of_text|>";
    if (i == 1)
        snprintf(name, sizeof name, "<|end_of_text|>");
    else if (i)
        snprintf(name, sizeof name, "<|reserved_special_token_%lld|>", (long long)i - 2);
    fprintf(out,
            "%s{\"id\":%lld,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
            "\"rstrip\":false,\"normalized\":false,\"special\":true}",
            i ? ",\n" : "", (long long)(s->vocab - special_count(s) + i), name);
}

static void tokenizer_write(const Options *o) {
    static const char split_regex[] =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+";
    char path[PATH_BYTES], word[8];
    int split;
    const Shape *s = &o->shape;
    int64_t words = s->vocab - special_count(s) - BYTE_TOKENS;
    FILE *out = open_in(o->dir, "tokenizer.json", path);
    fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[", out);
    for (int64_t i = 0; i < special_count(s); i++)
        print_special(out, s, i);
    fprintf(out,
            "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
            "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\","
            "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
            "\"trim_offsets\":true,\"use_regex\":false}]},\n",
            split_regex);
    fprintf(out,
            "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
            "{\"id\":\"<|begin_of_text|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":"
            "0}}],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":"
            "\"B\",\"type_id\":1}}],\"special_tokens\":{\"<|begin_of_text|>\":{\"id\":"
            "\"<|begin_of_text|>\",\"ids\":[%lld],\"tokens\":[\"<|begin_of_text|>\"]}}},\n",
            (long long)(s->vocab - special_count(s)));
    fputs("\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
          "\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
          "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"
          "\"byte_fallback\":false,\"ignore_merges\":true,\"vocab\":{",
          out);
    print_byte_tokens(out);
    for (int64_t i = 0; i < words; i++) {
        word_make(i, word, &split);
        fprintf(out, ",\"%s\":%lld", word, (long long)(BYTE_TOKENS + i));
    }
    fputs("},\"merges\":[", out);
    for (int64_t i = 0; i < words; i++) {
        word_make(i, word, &split);
        fprintf(out, "%s\"%.*s %s\"", i ? "," : "", split, word, word + split);
    }
    fputs("]}}\n", out);
    close_file(out, path);
}

// ---- command line -------------------------------------------------------------------------------

typedef struct OptionSpec {
    const char *name;
    size_t offset; // int64_t in Options
    const char *help;
} OptionSpec;

#define AT(field) offsetof(Options, field)
// clang-format off
static const OptionSpec specs[] = {
    {"--bits",         AT(bits),               "2 to 8, default 4"},
    {"--group-size",   AT(group_size),         "128 (default), another number, or -1"},
    {"--asymmetric",   AT(asymmetric),         "1: zero points of any value"},
    {"--act-order",    AT(act_order),          "1: inputs of a group stand anywhere"},
    {"--seed",         AT(seed),               "of the random weights (1)"},
    {"--shard-bytes",  AT(shard_bytes),        "largest file (4 GB)"},
    {"--threads",      AT(threads),            "one per core"},
    {"--layers",       AT(shape.layers),       "this and the next: instead of the shape's own"},
    {"--hidden",       AT(shape.hidden),       ""},
    {"--intermediate", AT(shape.intermediate), ""},
    {"--heads",        AT(shape.heads),        ""},
    {"--kv-heads",     AT(shape.kv_heads),     ""},
    {"--head-dim",     AT(shape.head_dim),     ""},
    {"--vocab",        AT(shape.vocab),        ""},
};
// clang-format on

static _Noreturn void usage(FILE *out, int code) {
    fputs("make-checkpoint SHAPE DIR [options]\n  SHAPE:", out);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        fprintf(out, " %s", shapes[i].name);
    fputc('\n', out);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++)
        fprintf(out, "  %-15s %s\n", specs[i].name, specs[i].help);
    exit(code);
}

static void option_set(Options *o, const char *name, const char *text) {
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        if (strcmp(specs[i].name, name) != 0)
            continue;
        char *end;
        long long value = text ? strtoll(text, &end, 10) : 0;
        if (!text || end == text || *end)
            stop(EXIT_BAD_USAGE, "a number must follow", name);
        if (value < (strcmp(name, "--group-size") ? 1 : -1) || value > 1LL << 40 || !value)
            stop(EXIT_BAD_USAGE, "a number out of range follows", name);
        *(int64_t *)(void *)((unsigned char *)o + specs[i].offset) = value;
        return;
    }
    stop(EXIT_BAD_USAGE, "unknown option", name);
}

static Options options_parse(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--help") == 0)
        usage(stdout, 0);
    if (argc < 3)
        usage(stderr, EXIT_BAD_USAGE);
    Options o = {.dir = argv[2], .bits = 4, .group_size = 128, .seed = 1};
    o.shard_bytes = 4000000000;
    o.threads = sysconf(_SC_NPROCESSORS_ONLN);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, argv[1]) == 0)
            o.shape = shapes[i];
    if (!o.shape.name)
        stop(EXIT_BAD_USAGE, "unknown shape", argv[1]);
    for (int i = 3; i < argc; i += 2)
        option_set(&o, argv[i], i + 1 < argc ? argv[i + 1] : NULL);
    if (o.bits < 2 || o.bits > 8)
        stop(EXIT_BAD_USAGE, "--bits must be 2 to 8", NULL);
    if (o.threads > 256)
        o.threads = 256;
    int64_t words = o.shape.vocab - special_count(&o.shape) - BYTE_TOKENS;
    if (words < 0 || words > PAIRS + TRIPLES + PAIRS * PAIRS)
        stop(EXIT_BAD_USAGE, "--vocab is out of range", NULL);
    return o;
}

int main(int argc, char **argv) {
    Options o = options_parse(argc, argv);
    if (mkdir(o.dir, 0755) != 0 && errno != EEXIST)
        stop_io(o.dir);
    List list = list_make(&o);
    config_write(&o);
    tokenizer_write(&o);
    weights_write(&o, &list);
    int64_t bytes = 0;
    for (int i = 0; i < list.count; i++)
        bytes += list.entries[i].bytes;
    printf("%s: %s, %d tensors, %.2f GB\n", o.dir, o.shape.name, list.count, (double)bytes * 1e-9);
    free(list.entries);
    return 0;
}
