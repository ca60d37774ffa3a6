// A directory's tokenizer to tables (runtime/payload_tokenizer.h): nothing is parsed when an
// executable starts. tokenizer.json says everything; without it tokenizer.model (SentencePiece) and
// tokenizer_config.json do. What this version does not know is refused by name.
#include "tokenizer_build.h"

#include <string.h>
#include <unistd.h>

// The largest tokenizer.model has 5 MB.
enum { MAX_MODEL_BYTES = 1 << 26 };

const cJSON *member(const cJSON *object, const char *key) {
    const cJSON *item =
        cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
    return cJSON_IsNull(item) ? NULL : item;
}

const char *member_text(const cJSON *object, const char *key) {
    const cJSON *item = member(object, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

bool member_true(const cJSON *object, const char *key) {
    return cJSON_IsTrue(member(object, key));
}

bool refuse(const TokenizerBuild *b, int id, const char *key, const char *found,
            const char *supported) {
    char name[120];
    text_escape(name, sizeof name, found, strlen(found));
    return fail(b->err, ERR_UNSUPPORTED, id, "%s: %s is \"%s\"; supported: %s", b->file, key, name,
                supported);
}

// Everything of tokenizer.json but the model and its tokens. The pre-tokenizer comes first: it
// tells what pieces are made of.
static bool steps_read(TokenizerBuild *b, const cJSON *json) {
    return pre_tokenizer_read(b, member(json, "pre_tokenizer")) &&
           normalizer_read(b, member(json, "normalizer")) &&
           decoder_read(b, member(json, "decoder")) &&
           post_processor_read(b, member(json, "post_processor"));
}

static bool json_build(TokenizerBuild *b, const cJSON *json, const ConfigFiles *files) {
    b->default_bos = !member(json, "post_processor");
    return steps_read(b, json) && model_read(b, member(json, "model")) &&
           added_read(b, member(json, "added_tokens")) && config_apply(b, files) &&
           model_finish(b) && added_finish(b);
}

static bool spm_build(TokenizerBuild *b, Bytes model, const ConfigFiles *files) {
    const char *settings;
    cJSON *json;
    TRY(spm_read(b, model, files->config, &settings));
    TRY(json_parse(&json, (Bytes){(const unsigned char *)settings, strlen(settings)}, b->file,
                   b->err));
    bool done = steps_read(b, json);
    cJSON_Delete(json);
    return done && config_apply(b, files) && model_finish(b) && added_finish(b);
}

static void build_open(TokenizerBuild *b, const char *dir, int64_t vocab_size, Arena *a,
                       Error *err) {
    *b = (TokenizerBuild){.dir = dir, .arena = a, .err = err};
    b->file = arena_printf(a, "%s/tokenizer.json", dir);
    b->h.magic = TOKENIZER_MAGIC;
    b->h.version = TOKENIZER_VERSION;
    b->h.vocab_size = (int32_t)vocab_size;
    b->h.unknown_id = -1;
    b->pieces = ARENA_NEW(a, Piece, vocab_size);
    b->added_slots = slots_for(1);
    b->added_table = ARENA_NEW(a, int32_t, b->added_slots);
    alphabet_make(b);
}

static bool files_read(TokenizerBuild *b, ConfigFiles *files, Error *err) {
    cJSON **places[] = {&files->config, &files->added_tokens, &files->special_tokens_map};
    static const char *const names[] = {"tokenizer_config", "added_tokens", "special_tokens_map"};
    for (int at = 0; at < 3; at++) {
        bool found;
        const char *path = arena_printf(b->arena, "%s/%s.json", b->dir, names[at]);
        TRY(json_read(places[at], &found, path, err));
        if (!found)
            *places[at] = NULL;
        else if (!cJSON_IsObject(*places[at]))
            return fail(err, ERR_CORRUPT, 978, "%s: it is no object", path);
    }
    return true;
}

static bool directory_build(TokenizerBuild *b, const ConfigFiles *files) {
    cJSON *json;
    bool found;
    TRY(json_read(&json, &found, b->file, b->err));
    if (found) {
        bool done = json_build(b, json, files);
        cJSON_Delete(json);
        return done;
    }
    const char *path = arena_printf(b->arena, "%s/tokenizer.model", b->dir);
    Bytes model;
    if (access(path, R_OK) != 0)
        return fail(b->err, ERR_CORRUPT, 900, "%s is missing, and there is no tokenizer.model",
                    b->file);
    TRY(file_read(&model, path, MAX_MODEL_BYTES, b->arena, b->err));
    b->file = path;
    return spm_build(b, model, files);
}

bool tokenizer_compile(const char *dir, int64_t vocab_size, Arena *a, Bytes *blob, Error *err) {
    ConfigFiles files = {NULL, NULL, NULL};
    TokenizerBuild *b = ARENA_NEW(a, TokenizerBuild, 1);
    if (vocab_size < 1 || vocab_size > MAX_TOKENS)
        return fail(err, ERR_UNSUPPORTED, 979, "%s: vocab_size %lld of config.json; at most %d",
                    dir, (long long)vocab_size, MAX_TOKENS);
    build_open(b, dir, vocab_size, a, err);
    bool done = files_read(b, &files, err) && directory_build(b, &files);
    cJSON_Delete(files.config);
    cJSON_Delete(files.added_tokens);
    cJSON_Delete(files.special_tokens_map);
    if (done)
        *blob = blob_make(b);
    return done;
}
