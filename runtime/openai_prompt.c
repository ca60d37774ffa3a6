// Prompts: text or token ids of /completions, conversations of /chat/completions.
#include "openai_request.h"

#include "json_input.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static bool no_memory(Refusal *why) {
    return refusal_set(why, 500, "internal_error", NULL, "no memory for the prompt");
}

bool api_ids(ApiPrompt *out, const ApiModel *m, const cJSON *value, const char *param,
             Refusal *why) {
    size_t count = (size_t)cJSON_GetArraySize(value);
    out->ids = calloc(count + 1, sizeof *out->ids);
    if (!out->ids)
        return no_memory(why);
    for (const cJSON *item = value->child; item; item = item->next) {
        double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (id < 0 || id >= (double)m->vocab_size || id != (double)(int32_t)id)
            return refusal_set(why, 400, "invalid_value", param,
                               "'%s' must have token ids from 0 to %lld, found %s %.10g", param,
                               (long long)m->vocab_size - 1, api_type_name(item),
                               cJSON_IsNumber(item) ? item->valuedouble : 0.0);
        out->ids[out->count++] = (int32_t)id;
    }
    return true;
}

static bool prompt_text(ApiPrompt *out, const ApiModel *m, const char *text, unsigned flags,
                        Refusal *why) {
    Error err = {0};
    Bytes bytes = {(const unsigned char *)text, strlen(text)};
    return tokenizer_encode(m->tokenizer, bytes, flags, &out->ids, &out->count, &err) ||
           refuse_error(why, "prompt", &err);
}

bool api_prompt(ApiPrompt *out, const ApiModel *m, const cJSON *value, unsigned flags,
                Refusal *why) {
    if (cJSON_IsString(value))
        return prompt_text(out, m, value->valuestring, flags, why);
    if (!cJSON_IsArray(value) || !value->child)
        return refusal_set(
            why, 400, "invalid_type", "prompt",
            "'prompt' must be a string, a list of token ids, or a list of those, found %s",
            cJSON_IsArray(value) ? "an empty list" : api_type_name(value));
    return api_ids(out, m, value, "prompt", why);
}

// What `echo` gives back.
static bool echo_keep(ApiPrompt *p, const ApiModel *m, const cJSON *value, Refusal *why) {
    Error err = {0};
    if (!cJSON_IsString(value))
        return tokenizer_decode(m->tokenizer, p->ids, p->count, TOKENIZER_SKIP_SPECIAL, &p->text,
                                &p->text_size, &err) ||
               refuse_error(why, "prompt", &err);
    p->text = strdup(value->valuestring);
    p->text_size = strlen(value->valuestring);
    return p->text || no_memory(why);
}

static bool completion_prompts(ApiRequest *r, const ApiModel *m, Refusal *why) {
    const cJSON *prompt = json_member(r->json, "prompt");
    if (!prompt)
        return refusal_set(why, 400, "missing_required_parameter", "prompt", "'prompt' is missing");
    const cJSON *first = cJSON_IsArray(prompt) ? prompt->child : NULL;
    bool many = first && !cJSON_IsNumber(first);
    int64_t count = many ? cJSON_GetArraySize(prompt) : 1;
    if (count * r->n > API_MAX_CHOICES)
        return refusal_set(why, 400, "invalid_value", "prompt",
                           "%lld prompts with %lld answers each are more than %d answers",
                           (long long)count, (long long)r->n, API_MAX_CHOICES);
    r->prompts = calloc((size_t)count, sizeof *r->prompts);
    if (!r->prompts)
        return no_memory(why);
    r->prompt_count = count;
    const cJSON *item = many ? first : prompt;
    for (int64_t at = 0; at < count; at++, item = item->next) {
        unsigned flags = r->start_token ? TOKENIZER_ADD_SPECIAL : 0;
        TRY(api_prompt(&r->prompts[at], m, item, flags, why));
        if (r->echo)
            TRY(echo_keep(&r->prompts[at], m, item, why));
    }
    return true;
}

// What templates know by other names than messages and tools.
static void template_words(cJSON *context, const cJSON *request) {
    static const char *const passed[] = {"documents", "reasoning_effort"};
    for (size_t at = 0; at < sizeof passed / sizeof *passed; at++) {
        cJSON *value = json_member(request, passed[at]);
        if (value)
            cJSON_AddItemReferenceToObject(context, passed[at], value);
    }
    const cJSON *words = json_member(request, "chat_template_kwargs");
    for (cJSON *word = words ? words->child : NULL; word; word = word->next)
        if (strcmp(word->string, "messages") != 0 && strcmp(word->string, "tools") != 0 &&
            strcmp(word->string, "add_generation_prompt") != 0)
            cJSON_AddItemReferenceToObject(context, word->string, word);
}

bool api_chat_prompt(ApiPrompt *out, const ApiModel *m, cJSON *request, bool with_tools,
                     Refusal *why) {
    Error err = {0};
    if (!m->chat)
        return refusal_set(
            why, 400, "unsupported_value", "messages",
            "this model has no chat template; /v1/completions writes on from a text");
    TRY(api_messages(request, m->system, why));
    const cJSON *kwargs = json_member(request, "chat_template_kwargs");
    if (kwargs && !cJSON_IsObject(kwargs))
        return refusal_set(why, 400, "invalid_type", "chat_template_kwargs",
                           "'chat_template_kwargs' must be an object, found %s",
                           api_type_name(kwargs));
    const cJSON *prompt = json_member(request, "add_generation_prompt");
    cJSON *context = cJSON_CreateObject();
    if (!context)
        return no_memory(why);
    cJSON_AddItemReferenceToObject(context, "messages", json_member(request, "messages"));
    if (with_tools)
        cJSON_AddItemReferenceToObject(context, "tools", json_member(request, "tools"));
    cJSON_AddBoolToObject(context, "add_generation_prompt", !cJSON_IsFalse(prompt));
    template_words(context, request);
    bool done = chat_encode(m->chat, m->tokenizer, context, &out->ids, &out->count, &err) ||
                refuse_error(why, "messages", &err);
    cJSON_Delete(context);
    return done;
}

// As OpenAI words it, with both numbers.
static bool context_check(const ApiRequest *r, const ApiModel *m, const ApiPrompt *p,
                          Refusal *why) {
    int64_t answer = r->params.max_tokens ? r->params.max_tokens : 1;
    const char *part = r->kind == API_CHAT ? "messages" : "prompt";
    return p->count + answer <= m->context ||
           refusal_set(
               why, 400, "context_length_exceeded", part,
               "This model's maximum context length is %lld tokens. However, you requested %lld "
               "tokens (%lld in the %s, %lld in the completion). Please reduce the length of "
               "the %s or completion.",
               (long long)m->context, (long long)(p->count + answer), (long long)p->count, part,
               (long long)answer, part);
}

bool api_prompts(ApiRequest *r, const ApiModel *m, Refusal *why) {
    if (r->kind == API_CHAT) {
        r->prompts = calloc(1, sizeof *r->prompts);
        if (!r->prompts)
            return no_memory(why);
        r->prompt_count = 1;
        TRY(api_chat_prompt(r->prompts, m, r->json, r->tool_choice != TOOL_CHOICE_NONE, why));
    } else {
        TRY(completion_prompts(r, m, why));
    }
    for (int64_t at = 0; at < r->prompt_count; at++)
        TRY(context_check(r, m, &r->prompts[at], why));
    return true;
}
