// The model's chat template around messages. The template's own text may name special tokens; what
// people wrote is marked byte by byte (template.h) and stays text (tokenizer.h).
#include "chat.h"

#include "cli_text.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

struct Chat {
    Template *chat, *tools; // NULL: there is none
    cJSON *special_tokens;
};

bool chat_open(Chat **out, const Executable *e, Error *err) {
    Bytes chat = executable_segment(e, SEGMENT_TEMPLATE);
    Bytes tools = executable_segment(e, SEGMENT_TOOL_TEMPLATE);
    Bytes tokens = executable_segment(e, SEGMENT_SPECIAL_TOKENS);
    *out = NULL;
    if (!chat.size)
        return true;
    Chat *c = calloc(1, sizeof *c);
    if (!c)
        return fail(err, ERR_RESOURCE, 1080, "no memory for the chat template");
    c->special_tokens = cJSON_ParseWithLength((const char *)tokens.data, tokens.size);
    bool done = cJSON_IsObject(c->special_tokens) ||
                fail(err, ERR_CORRUPT, 1081, "the payload's special tokens are damaged");
    done = done && template_open(&c->chat, chat, err);
    done = done && (!tools.size || template_open(&c->tools, tools, err));
    if (!done) {
        chat_close(c);
        return false;
    }
    *out = c;
    return true;
}

void chat_close(Chat *c) {
    if (!c)
        return;
    template_close(c->chat);
    template_close(c->tools);
    cJSON_Delete(c->special_tokens);
    free(c);
}

// Names of special tokens are the model's: their bytes may become special tokens, so a request has
// no say in them.
static void tokens_set(cJSON *context, const cJSON *tokens) {
    static const char suffix[] = "_token";
    for (cJSON *item = context->child, *next; item; item = next) {
        size_t size = strlen(item->string), end = sizeof suffix - 1;
        next = item->next;
        if (size > end && strcmp(item->string + size - end, suffix) == 0)
            cJSON_Delete(cJSON_DetachItemViaPointer(context, item));
    }
    for (const cJSON *token = tokens->child; token; token = token->next)
        cJSON_AddStringToObject(context, token->string, token->valuestring);
}

// The request with what templates expect to find.
static cJSON *context_make(const Chat *c, const cJSON *request) {
    static const char *const always[] = {"tools", "documents"};
    cJSON *context = cJSON_Duplicate(request, true);
    for (size_t at = 0; context && at < sizeof always / sizeof *always; at++)
        if (!cJSON_GetObjectItemCaseSensitive(context, always[at]))
            cJSON_AddNullToObject(context, always[at]);
    if (context)
        tokens_set(context, c->special_tokens);
    return context;
}

bool chat_render(const Chat *c, const cJSON *request, TemplateText *out, Error *err) {
    const cJSON *tools = cJSON_GetObjectItemCaseSensitive(request, "tools");
    const Template *t = c->tools && tools && !cJSON_IsNull(tools) ? c->tools : c->chat;
    TemplateOptions options = {.now = time(NULL)};
    cJSON *context = context_make(c, request);
    char *text = context ? cJSON_PrintUnformatted(context) : NULL;
    bool done = text ? template_render(t, text, &options, out, err)
                     : fail(err, ERR_RESOURCE, 1082, "no memory for the conversation");
    cJSON_free(text);
    cJSON_Delete(context);
    return done;
}

bool chat_encode(const Chat *c, const Tokenizer *t, const cJSON *request, int32_t **ids,
                 int64_t *count, Error *err) {
    TemplateText text = {0};
    TRY(chat_render(c, request, &text, err));
    bool done = tokenizer_encode_marked(t, (Bytes){(unsigned char *)text.text, text.size},
                                        text.user_marks, 0, ids, count, err);
    free(text.text);
    free(text.user_marks);
    return done;
}

bool chat_message_add(cJSON *messages, const char *role, const char *text, size_t size,
                      Error *err) {
    TextStream valid = {.out = NULL};
    bool done =
        text_add(&valid, (Bytes){(const unsigned char *)text, size}, err) && text_end(&valid, err);
    char *json = done ? text_json(valid.text, valid.size) : NULL;
    cJSON *message = json ? cJSON_CreateObject() : NULL;
    if (message) {
        cJSON_AddStringToObject(message, "role", role);
        cJSON_AddRawToObject(message, "content", json);
        cJSON_AddItemToArray(messages, message);
    }
    free(json);
    free(valid.text);
    return message || (done && fail(err, ERR_RESOURCE, 1083, "no memory for a message"));
}
