// The chat templates of a checkpoint and the names of its special tokens, for the executable's chat.
//
// A template stands in chat_template.jinja, in chat_template.json or under that key of
// tokenizer_config.json; there may be a list of named ones, of which "default" and "tool_use" are
// known. Order and names: transformers, utils/hub.py and tokenization_utils_base.py
// (get_chat_template).
#include "chat_template.h"
#include "template.h"

#include <cjson/cJSON.h>
#include <string.h>

enum { TEMPLATE_MAX_BYTES = 1 << 20 };

// What was found; a source with data NULL is not there.
typedef struct Sources {
    Bytes chat, tools;
    const char *chat_name, *tools_name; // files, for messages
} Sources;

static Bytes text_copy(const cJSON *item, Arena *a) {
    size_t size = strlen(item->valuestring);
    return (Bytes){(unsigned char *)arena_strndup(a, item->valuestring, size), size};
}

// The value of a chat_template key: a string, [{"name", "template"}] or {name: template}.
static void key_read(Sources *s, const cJSON *key, const char *file, Arena *a) {
    s->chat_name = s->tools_name = file;
    if (cJSON_IsString(key)) {
        s->chat = text_copy(key, a);
        return;
    }
    for (const cJSON *item = key ? key->child : NULL; item; item = item->next) {
        const cJSON *text = cJSON_IsString(item) ? item : json_get(item, "template");
        const char *name = cJSON_IsString(item)     ? item->string
                           : json_get(item, "name") ? json_get(item, "name")->valuestring
                                                    : NULL;
        if (!cJSON_IsString(text) || !name)
            continue;
        if (strcmp(name, "default") == 0)
            s->chat = text_copy(text, a);
        else if (strcmp(name, "tool_use") == 0)
            s->tools = text_copy(text, a);
    }
}

static bool json_source_read(Sources *s, const char *path, Arena *a, Error *err) {
    cJSON *json;
    bool found;
    TRY(json_read(&json, &found, path, err));
    if (!found)
        return true;
    key_read(s, json_get(json, "chat_template"), path, a);
    cJSON_Delete(json);
    return true;
}

static bool file_exists(const char *path) {
    FILE *probe = fopen(path, "rb");
    if (probe)
        fclose(probe);
    return probe != NULL;
}

static bool sources_find(Sources *s, const char *dir, const char *given, Arena *a, Error *err) {
    const char *jinja = given ? given : arena_printf(a, "%s/chat_template.jinja", dir);
    if (given || file_exists(jinja)) {
        s->chat_name = jinja;
        return file_read(&s->chat, jinja, TEMPLATE_MAX_BYTES, a, err);
    }
    TRY(json_source_read(s, arena_printf(a, "%s/chat_template.json", dir), a, err));
    if (s->chat.data)
        return true;
    return json_source_read(s, arena_printf(a, "%s/tokenizer_config.json", dir), a, err);
}

// ---- special tokens -----------------------------------------------------------------------------

static const char *const token_keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                         "pad_token", "cls_token", "mask_token"};
enum { TOKEN_KEYS = sizeof token_keys / sizeof *token_keys };

// "<s>" or {"content": "<s>"}.
static bool tokens_read(cJSON *out, const char *path, Error *err) {
    cJSON *json;
    bool found;
    TRY(json_read(&json, &found, path, err));
    for (int at = 0; found && at < TOKEN_KEYS; at++) {
        const cJSON *token = json_get(json, token_keys[at]);
        const cJSON *text = cJSON_IsObject(token) ? json_get(token, "content") : token;
        if (cJSON_IsString(text) && !json_get(out, token_keys[at]))
            cJSON_AddStringToObject(out, token_keys[at], text->valuestring);
    }
    cJSON_Delete(json);
    return true;
}

static bool special_tokens_make(Bytes *out, const char *dir, Arena *a, Error *err) {
    cJSON *json = cJSON_CreateObject();
    bool done = tokens_read(json, arena_printf(a, "%s/tokenizer_config.json", dir), err) &&
                tokens_read(json, arena_printf(a, "%s/special_tokens_map.json", dir), err);
    char *text = cJSON_PrintUnformatted(json);
    size_t size = strlen(text);
    *out = (Bytes){(unsigned char *)arena_strndup(a, text, size), size};
    cJSON_free(text);
    cJSON_Delete(json);
    return done;
}

bool chat_templates_make(Bytes segments[SEGMENT_COUNT], const char *dir, const char *given,
                         Arena *a, Error *err) {
    Sources s = {{NULL, 0}, {NULL, 0}, NULL, NULL};
    TRY(special_tokens_make(&segments[SEGMENT_SPECIAL_TOKENS], dir, a, err));
    if (given && strcmp(given, "none") == 0)
        return true;
    TRY(sources_find(&s, dir, given, a, err));
    if (s.chat.data)
        TRY(template_compile(s.chat_name, s.chat, a, &segments[SEGMENT_TEMPLATE], err));
    if (s.tools.data)
        TRY(template_compile(s.tools_name, s.tools, a, &segments[SEGMENT_TOOL_TEMPLATE], err));
    return true;
}
