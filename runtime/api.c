// The endpoints.
#include "api.h"

#include "cli.h"
#include "json_input.h"
#include "page.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void reply_buffer(HttpRequest *r, int status, const char *type, Writer *b) {
    if (b->failed)
        http_drop(r);
    else
        http_reply(r, status, type, writer_bytes(b));
    writer_free(b);
}

// Is the model there? Else the request is answered.
static bool ready(Api *api, HttpRequest *r) {
    Refusal why;
    if (api->scheduler)
        return true;
    refusal_set(&why, 503, "model_loading", NULL, "the model is being loaded; try again soon");
    api_refuse(api, r, &why);
    return false;
}

// ---- answers ------------------------------------------------------------------------------------

static void chat(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)path;
    if (ready(user, r))
        job_start(user, r, API_CHAT, body);
}

static void completions(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)path;
    if (ready(user, r))
        job_start(user, r, API_COMPLETIONS, body);
}

// ---- the model ----------------------------------------------------------------------------------

static void model_print(Writer *b, const Api *api, const char *name, size_t size) {
    writer_print(b, "{\"id\":");
    writer_json(b, name, size);
    writer_print(b,
                 ",\"object\":\"model\",\"created\":%" PRId64
                 ",\"owned_by\":\"gptq-compile\",\"max_model_len\":%" PRId64 "}",
                 api->started, api->model.context);
}

static void models(void *user, HttpRequest *r, const char *path, Bytes body) {
    Api *api = user;
    Writer b = {.data = NULL};
    (void)path, (void)body;
    writer_print(&b, "{\"object\":\"list\",\"data\":[");
    for (const char *at = api->model.names; *at;) {
        size_t size = strcspn(at, ",");
        model_print(&b, api, at, size);
        at += size;
        if (*at) {
            writer_add(&b, ",", 1);
            at++;
        }
    }
    writer_print(&b, "]}");
    reply_buffer(r, 200, "application/json", &b);
}

static void model(void *user, HttpRequest *r, const char *path, Bytes body) {
    Api *api = user;
    Writer b = {.data = NULL};
    Refusal why;
    (void)body;
    cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "model", path);
    if (api_model_check(request, &api->model, &why)) {
        model_print(&b, api, path, strlen(path));
        reply_buffer(r, 200, "application/json", &b);
    } else {
        api_refuse(api, r, &why);
    }
    cJSON_Delete(request);
}

// ---- tokens -------------------------------------------------------------------------------------

// Text, or a conversation.
static bool tokens_of(const Api *api, cJSON *request, ApiPrompt *out, Refusal *why) {
    const cJSON *special = json_member(request, "add_special_tokens");
    const cJSON *text = json_member(request, "prompt");
    if (special && !cJSON_IsBool(special))
        return refusal_set(why, 400, "invalid_type", "add_special_tokens",
                           "'add_special_tokens' must be true or false, found %s",
                           api_type_name(special));
    if (json_member(request, "messages"))
        return api_chat_prompt(out, &api->model, request, json_member(request, "tools") != NULL,
                               why);
    text = text ? text : json_member(request, "content"); // llama.cpp's name
    if (!cJSON_IsString(text))
        return refusal_set(why, 400, text ? "invalid_type" : "missing_required_parameter", "prompt",
                           "'prompt' must be a string, or 'messages' a conversation");
    return api_prompt(out, &api->model, text, cJSON_IsFalse(special) ? 0 : TOKENIZER_ADD_SPECIAL,
                      why);
}

static bool tokens_print(const Api *api, cJSON *request, Writer *b, Refusal *why) {
    ApiPrompt prompt = {.ids = NULL};
    bool done = tokens_of(api, request, &prompt, why);
    if (done) {
        writer_print(b, "{\"count\":%" PRId64 ",\"max_model_len\":%" PRId64 ",\"tokens\":[",
                     prompt.count, api->model.context);
        for (int64_t at = 0; at < prompt.count; at++)
            writer_print(b, at ? ",%d" : "%d", prompt.ids[at]);
        writer_print(b, "]}");
    }
    free(prompt.ids);
    return done;
}

static bool text_print(const Api *api, cJSON *request, Writer *b, Refusal *why) {
    const cJSON *tokens = json_member(request, "tokens");
    ApiPrompt prompt = {.ids = NULL};
    char *text = NULL;
    size_t size = 0;
    Error err = {0};
    if (!cJSON_IsArray(tokens))
        return refusal_set(why, 400, tokens ? "invalid_type" : "missing_required_parameter",
                           "tokens", "'tokens' must be a list of token ids");
    bool done =
        api_ids(&prompt, &api->model, tokens, "tokens", why) &&
        (tokenizer_decode(api->model.tokenizer, prompt.ids, prompt.count, 0, &text, &size, &err) ||
         refuse_error(why, "tokens", &err));
    if (done) {
        writer_print(b, "{\"prompt\":");
        writer_json(b, text, size);
        writer_add(b, "}", 1);
    }
    free(text);
    free(prompt.ids);
    return done;
}

// Answers with what `print` makes of the request, or with why it does not.
static void reply_printed(Api *api, HttpRequest *r, Bytes body,
                          bool (*print)(const Api *, cJSON *, Writer *, Refusal *)) {
    Writer b = {.data = NULL};
    cJSON *request = NULL;
    Refusal why;
    if (!ready(api, r))
        return;
    if (api_body(&request, body, &why) && api_model_check(request, &api->model, &why) &&
        print(api, request, &b, &why))
        reply_buffer(r, 200, "application/json", &b);
    else
        api_refuse(api, r, &why);
    cJSON_Delete(request);
}

static void tokenize(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)path;
    reply_printed(user, r, body, tokens_print);
}

static void detokenize(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)path;
    reply_printed(user, r, body, text_print);
}

// ---- the server ---------------------------------------------------------------------------------

static void reply_text(HttpRequest *r, const char *type, const char *text) {
    http_reply(r, 200, type, (Bytes){(const unsigned char *)text, strlen(text)});
}

static void health(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)path, (void)body;
    if (ready(user, r))
        reply_text(r, "application/json", "{\"status\":\"ok\"}");
}

static void version(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)user, (void)path, (void)body;
    reply_text(r, "application/json", "{\"version\":\"" RUNTIME_VERSION "\"}");
}

static void metrics(void *user, HttpRequest *r, const char *path, Bytes body) {
    Api *api = user;
    Writer b = {.data = NULL};
    SchedulerStats stats = {0};
    (void)path, (void)body;
    if (api->scheduler)
        scheduler_stats(api->scheduler, &stats);
    metrics_print(&api->metrics, &stats, http_connections(api->http), api->name, &b);
    reply_buffer(r, 200, "text/plain; version=0.0.4; charset=utf-8", &b);
}

// The page says itself what it may load; that nobody may frame it can only be said here.
static void page(void *user, HttpRequest *r, const char *path, Bytes body) {
    (void)user, (void)path, (void)body;
    http_header(r, "Content-Security-Policy", "frame-ancestors 'none'");
    http_header(r, "Cache-Control", "no-cache");
    http_reply(r, 200, "text/html; charset=utf-8",
               (Bytes){page_html, (size_t)(page_html_end - page_html)});
}

// clang-format off
const HttpRoute api_routes[] = {
    {"/chat/completions", HTTP_POST, false, chat},
    {"/completions",      HTTP_POST, false, completions},
    {"/models",           HTTP_GET,  false, models},
    {"/models/",          HTTP_GET,  false, model},
    {"/tokenize",         HTTP_POST, false, tokenize},
    {"/detokenize",       HTTP_POST, false, detokenize},
    {"/metrics",          HTTP_GET,  false, metrics},
    {"/version",          HTTP_GET,  false, version},
    {"/health",           HTTP_GET,  true,  health},
    {"/",                 HTTP_GET,  true,  page},
};
// clang-format on
const int api_route_count = sizeof api_routes / sizeof *api_routes;
