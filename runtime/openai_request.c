// The fields of a request, in a table: type, range, where the value goes, or that it is refused.
// A field that is not here is ignored, as OpenAI's clients expect.
#include "openai_request.h"

#include "json_input.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum FieldType {
    FIELD_REAL,   // float
    FIELD_INT,    // int64_t
    FIELD_INT32,  // int32_t
    FIELD_BOOL,   // bool
    FIELD_CUSTOM, // a function
    FIELD_ONLY,   // only the number `low`, or `low` as a truth value, which changes nothing
    FIELD_NONE,   // known, and not supported
} FieldType;

typedef struct FieldSpec {
    const char *name;
    unsigned kinds; // ApiKind
    FieldType type;
    double low, high;
    size_t offset; // in ApiRequest
    bool (*read)(ApiRequest *r, const char *name, const cJSON *value, Refusal *why);
} FieldSpec;

// ---- values -------------------------------------------------------------------------------------

const char *api_type_name(const cJSON *value) {
    return cJSON_IsString(value)   ? "a string"
           : cJSON_IsNumber(value) ? "a number"
           : cJSON_IsBool(value)   ? "true or false"
           : cJSON_IsArray(value)  ? "a list"
           : cJSON_IsObject(value) ? "an object"
                                   : "nothing";
}

static bool mistyped(Refusal *why, const char *name, const char *wanted, const cJSON *found) {
    return refusal_set(why, 400, "invalid_type", name, "'%s' must be %s, found %s", name, wanted,
                       api_type_name(found));
}

static bool is_whole(double value) {
    return value == floor(value) && fabs(value) < 9007199254740992.0; // 2^53
}

static bool number_read(ApiRequest *r, const FieldSpec *s, const cJSON *value, Refusal *why) {
    unsigned char *to = (unsigned char *)r + s->offset;
    if (!cJSON_IsNumber(value))
        return mistyped(why, s->name, s->type == FIELD_REAL ? "a number" : "an integer", value);
    double x = value->valuedouble;
    if (s->type != FIELD_REAL && !is_whole(x))
        return refusal_set(why, 400, "invalid_type", s->name, "'%s' must be an integer, found %g",
                           s->name, x);
    if (!(x >= s->low && x <= s->high))
        return refusal_set(why, 400, "invalid_value", s->name,
                           "'%s' must be between %.10g and %.10g, found %.10g", s->name, s->low,
                           s->high, x);
    if (s->type == FIELD_REAL)
        memcpy(to, &(float){(float)x}, sizeof(float));
    else if (s->type == FIELD_INT32)
        memcpy(to, &(int32_t){(int32_t)x}, sizeof(int32_t));
    else
        memcpy(to, &(int64_t){(int64_t)x}, sizeof(int64_t));
    return true;
}

static bool unsupported(Refusal *why, const char *name) {
    return refusal_set(why, 400, "unsupported_parameter", name,
                       "'%s' is not supported by this server", name);
}

static bool only_read(const FieldSpec *s, const cJSON *value, Refusal *why) {
    bool same = cJSON_IsBool(value) ? (s->low != 0) == (bool)cJSON_IsTrue(value)
                                    : cJSON_IsNumber(value) && value->valuedouble == s->low;
    return same || refusal_set(why, 400, "unsupported_value", s->name,
                               "'%s' is not supported by this server with this value", s->name);
}

// ---- fields with rules of their own -------------------------------------------------------------

static bool seed_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsNumber(value) || !is_whole(value->valuedouble))
        return mistyped(why, name, "an integer", value);
    r->seed = (int64_t)value->valuedouble;
    r->seeded = true;
    return true;
}

// -1 is vLLM's word for off.
static bool top_k_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    double x = cJSON_IsNumber(value) ? value->valuedouble : (double)NAN;
    if (!is_whole(x) || x < -1 || x > INT32_MAX)
        return refusal_set(why, 400, "invalid_value", name,
                           "'%s' must be a number of tokens, or 0 or -1 for all", name);
    r->params.top_k = x < 0 ? 0 : (int32_t)x;
    return true;
}

static bool stop_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    const cJSON *item = cJSON_IsArray(value) ? value->child : value;
    for (; item; item = cJSON_IsArray(value) ? item->next : NULL) {
        if (!cJSON_IsString(item))
            return mistyped(why, name, "a string or a list of strings", item);
        if (r->params.stop_count == API_MAX_STOPS)
            return refusal_set(why, 400, "invalid_value", name, "'%s' may have %d strings at most",
                               name, API_MAX_STOPS);
        if (!item->valuestring[0])
            return refusal_set(why, 400, "invalid_value", name, "'%s' has an empty string", name);
        r->stops[r->params.stop_count++] = item->valuestring;
    }
    r->params.stops = r->stops;
    return true;
}

static bool stop_ids_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsArray(value))
        return mistyped(why, name, "a list of token ids", value);
    for (const cJSON *item = value->child; item; item = item->next) {
        double x = cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
        if (!is_whole(x) || x < 0 || x > INT32_MAX)
            return mistyped(why, name, "a list of token ids", item);
        if (r->params.stop_id_count == API_MAX_STOP_IDS)
            return refusal_set(why, 400, "invalid_value", name, "'%s' may have %d ids at most",
                               name, API_MAX_STOP_IDS);
        r->stop_ids[r->params.stop_id_count++] = (int32_t)x;
    }
    r->params.stop_ids = r->stop_ids;
    return true;
}

static bool bias_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsObject(value))
        return mistyped(why, name, "an object from token ids to numbers", value);
    for (const cJSON *item = value->child; item; item = item->next) {
        char *end;
        long long id = strtoll(item->string, &end, 10);
        double x = cJSON_IsNumber(item) ? item->valuedouble : (double)NAN;
        if (end == item->string || *end || id < 0 || id > INT32_MAX || !(fabs(x) <= 100))
            return refusal_set(why, 400, "invalid_value", name,
                               "'%s' must be an object from token ids to numbers from -100 to 100",
                               name);
        if (r->params.bias_count == SCHEDULER_MAX_BIAS)
            return refusal_set(why, 400, "invalid_value", name, "'%s' may have %d entries at most",
                               name, SCHEDULER_MAX_BIAS);
        r->bias[r->params.bias_count++] = (LogitBias){(int32_t)id, (float)x};
    }
    r->params.bias = r->bias;
    return true;
}

static bool stream_options_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsObject(value))
        return mistyped(why, name, "an object", value);
    const cJSON *usage = json_member(value, "include_usage");
    const cJSON *each = json_member(value, "continuous_usage_stats");
    if (usage && !cJSON_IsBool(usage))
        return mistyped(why, "stream_options.include_usage", "true or false", usage);
    if (each && !cJSON_IsBool(each))
        return mistyped(why, "stream_options.continuous_usage_stats", "true or false", each);
    r->include_usage = cJSON_IsTrue(usage);
    r->continuous_usage = r->include_usage && cJSON_IsTrue(each);
    return true;
}

static bool best_of_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    const cJSON *n = json_member(r->json, "n");
    double wanted = cJSON_IsNumber(n) ? n->valuedouble : 1;
    return (cJSON_IsNumber(value) && value->valuedouble == wanted) ||
           refusal_set(why, 400, "unsupported_value", name,
                       "'%s' is supported only where it equals 'n'", name);
}

static bool modalities_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    (void)r;
    const cJSON *first = cJSON_IsArray(value) ? value->child : NULL;
    return (first && !first->next && cJSON_IsString(first) &&
            strcmp(first->valuestring, "text") == 0) ||
           refusal_set(why, 400, "unsupported_value", name, "'%s' may only be [\"text\"]", name);
}

static bool suffix_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    (void)r;
    return (cJSON_IsString(value) && !value->valuestring[0]) || unsupported(why, name);
}

// ---- tools --------------------------------------------------------------------------------------

static bool tools_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsArray(value))
        return mistyped(why, name, "a list of tools", value);
    for (const cJSON *tool = value->child; tool; tool = tool->next) {
        const cJSON *type = json_member(tool, "type"), *function = json_member(tool, "function");
        const cJSON *parameters = json_member(function, "parameters");
        if (!cJSON_IsString(type) || strcmp(type->valuestring, "function") != 0)
            return refusal_set(why, 400, "invalid_value", "tools",
                               "a tool's 'type' must be \"function\"");
        if (!cJSON_IsObject(function) || !cJSON_IsString(json_member(function, "name")))
            return refusal_set(why, 400, "invalid_value", "tools",
                               "a tool must have a 'function' object with a 'name'");
        if (parameters && !cJSON_IsObject(parameters))
            return mistyped(why, "tools.function.parameters", "an object", parameters);
    }
    r->tools = value->child ? value : NULL;
    return true;
}

static bool tool_known(const ApiRequest *r, const char *name) {
    const cJSON *tools = json_member(r->json, "tools");
    for (const cJSON *tool = cJSON_IsArray(tools) ? tools->child : NULL; tool; tool = tool->next) {
        const cJSON *found = json_member(json_member(tool, "function"), "name");
        if (cJSON_IsString(found) && strcmp(found->valuestring, name) == 0)
            return true;
    }
    return false;
}

static bool tool_choice_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    static const struct {
        const char *word;
        ToolChoice choice;
    } words[] = {
        {"none", TOOL_CHOICE_NONE}, {"auto", TOOL_CHOICE_AUTO}, {"required", TOOL_CHOICE_REQUIRED}};
    for (size_t at = 0; cJSON_IsString(value) && at < sizeof words / sizeof *words; at++)
        if (strcmp(value->valuestring, words[at].word) == 0) {
            r->tool_choice = words[at].choice;
            return true;
        }
    const cJSON *function = cJSON_IsObject(value) ? json_member(value, "function") : NULL;
    const cJSON *wanted = json_member(function, "name");
    if (!cJSON_IsString(wanted))
        return refusal_set(why, 400, "invalid_value", name,
                           "'%s' must be \"none\", \"auto\", \"required\" or "
                           "{\"type\":\"function\",\"function\":{\"name\":...}}",
                           name);
    if (!tool_known(r, wanted->valuestring))
        return refusal_set(why, 400, "invalid_value", name,
                           "'%s' names '%s', which is not in 'tools'", name, wanted->valuestring);
    r->tool_choice = TOOL_CHOICE_NAMED;
    r->tool_name = wanted->valuestring;
    return true;
}

// ---- the form of the answer ---------------------------------------------------------------------

static bool format_set(ApiRequest *r, const char *name, FormatKind format, const cJSON *spec,
                       Refusal *why) {
    if (r->format != FORMAT_TEXT)
        return refusal_set(why, 400, "invalid_value", name,
                           "'%s' and another field both say what the answer must be", name);
    r->format = format;
    r->format_spec = spec;
    r->format_name = name;
    return true;
}

static bool response_format_read(ApiRequest *r, const char *name, const cJSON *value,
                                 Refusal *why) {
    const cJSON *type = cJSON_IsObject(value) ? json_member(value, "type") : NULL;
    if (!cJSON_IsString(type))
        return refusal_set(why, 400, "invalid_type", name, "'%s' must be an object with a 'type'",
                           name);
    if (strcmp(type->valuestring, "text") == 0)
        return true;
    if (strcmp(type->valuestring, "json_object") == 0)
        return format_set(r, name, FORMAT_OBJECT, NULL, why);
    if (strcmp(type->valuestring, "json_schema") != 0)
        return refusal_set(why, 400, "unsupported_value", name,
                           "'%s.type' must be \"text\", \"json_object\" or \"json_schema\"", name);
    const cJSON *schema = json_member(json_member(value, "json_schema"), "schema");
    if (!cJSON_IsObject(schema) && !cJSON_IsBool(schema))
        return refusal_set(why, 400, "invalid_value", "response_format.json_schema",
                           "'response_format.json_schema' must be an object with a 'schema'");
    return format_set(r, name, FORMAT_SCHEMA, schema, why);
}

static bool guided_json_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsObject(value) && !cJSON_IsBool(value) && !cJSON_IsString(value))
        return mistyped(why, name, "a JSON schema", value);
    return format_set(r, name, FORMAT_SCHEMA, value, why);
}

static bool guided_regex_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsString(value))
        return mistyped(why, name, "a regular expression in a string", value);
    return format_set(r, name, FORMAT_REGEX, value, why);
}

static bool guided_choice_read(ApiRequest *r, const char *name, const cJSON *value, Refusal *why) {
    if (!cJSON_IsArray(value) || !value->child)
        return mistyped(why, name, "a list of strings that is not empty", value);
    for (const cJSON *item = value->child; item; item = item->next)
        if (!cJSON_IsString(item))
            return mistyped(why, name, "a list of strings", item);
    return format_set(r, name, FORMAT_CHOICE, value, why);
}

// ---- the table ----------------------------------------------------------------------------------

#define AT(field)   offsetof(ApiRequest, field)
#define BOTH        (API_CHAT | API_COMPLETIONS)
#define CHAT        API_CHAT
#define COMPLETIONS API_COMPLETIONS

// clang-format off
static const FieldSpec fields[] = {
    {"temperature",           BOTH, FIELD_REAL,  0, 2, AT(params.temperature), NULL},
    {"top_p",                 BOTH, FIELD_REAL,  0, 1, AT(params.top_p), NULL},
    {"min_p",                 BOTH, FIELD_REAL,  0, 1, AT(params.min_p), NULL},
    {"repetition_penalty",    BOTH, FIELD_REAL,  0.01, 100, AT(params.repetition_penalty), NULL},
    {"repeat_penalty",        BOTH, FIELD_REAL,  0.01, 100, AT(params.repetition_penalty), NULL},
    {"presence_penalty",      BOTH, FIELD_REAL, -2, 2, AT(params.presence_penalty), NULL},
    {"frequency_penalty",     BOTH, FIELD_REAL, -2, 2, AT(params.frequency_penalty), NULL},
    {"top_k",                 BOTH, FIELD_CUSTOM, 0, 0, 0, top_k_read},
    {"seed",                  BOTH, FIELD_CUSTOM, 0, 0, 0, seed_read},
    {"n",                     BOTH, FIELD_INT,   1, API_MAX_CHOICES, AT(n), NULL},
    {"best_of",               COMPLETIONS, FIELD_CUSTOM, 0, 0, 0, best_of_read},
    {"max_tokens",            BOTH, FIELD_INT,   1, 1e9, AT(params.max_tokens), NULL},
    {"max_completion_tokens", CHAT, FIELD_INT,   1, 1e9, AT(params.max_tokens), NULL},
    {"min_tokens",            BOTH, FIELD_INT,   0, 1e9, AT(params.min_tokens), NULL},
    {"ignore_eos",            BOTH, FIELD_BOOL,  0, 0, AT(params.ignore_eos), NULL},
    {"include_stop_str_in_output", BOTH, FIELD_BOOL, 0, 0, AT(params.include_stop), NULL},
    {"stop",                  BOTH, FIELD_CUSTOM, 0, 0, 0, stop_read},
    {"stop_token_ids",        BOTH, FIELD_CUSTOM, 0, 0, 0, stop_ids_read},
    {"logit_bias",            BOTH, FIELD_CUSTOM, 0, 0, 0, bias_read},
    {"logprobs",              CHAT, FIELD_BOOL,  0, 0, AT(want_logprobs), NULL},
    {"top_logprobs",          CHAT, FIELD_INT,   0, SCHEDULER_MAX_LOGPROBS, AT(top_logprobs), NULL},
    {"logprobs",              COMPLETIONS, FIELD_INT, 0, SCHEDULER_MAX_LOGPROBS, AT(logprobs), NULL},
    {"echo",                  COMPLETIONS, FIELD_BOOL, 0, 0, AT(echo), NULL},
    {"stream",                BOTH, FIELD_BOOL,  0, 0, AT(stream), NULL},
    {"stream_options",        BOTH, FIELD_CUSTOM, 0, 0, 0, stream_options_read},
    {"tools",                 CHAT, FIELD_CUSTOM, 0, 0, 0, tools_read},
    {"tool_choice",           CHAT, FIELD_CUSTOM, 0, 0, 0, tool_choice_read},
    {"parallel_tool_calls",   CHAT, FIELD_BOOL,  0, 0, AT(parallel_tool_calls), NULL},
    {"response_format",       BOTH, FIELD_CUSTOM, 0, 0, 0, response_format_read},
    {"guided_json",           BOTH, FIELD_CUSTOM, 0, 0, 0, guided_json_read},
    {"guided_regex",          BOTH, FIELD_CUSTOM, 0, 0, 0, guided_regex_read},
    {"guided_choice",         BOTH, FIELD_CUSTOM, 0, 0, 0, guided_choice_read},
    {"add_special_tokens",    COMPLETIONS, FIELD_BOOL, 0, 0, AT(start_token), NULL},
    // what changes nothing where it has this value, and is not supported with another one
    {"add_special_tokens",    CHAT, FIELD_ONLY, 0, 0, 0, NULL},
    {"add_generation_prompt", CHAT, FIELD_ONLY, 1, 0, 0, NULL},
    {"continue_final_message", CHAT, FIELD_ONLY, 0, 0, 0, NULL},
    {"skip_special_tokens",   BOTH, FIELD_ONLY, 1, 0, 0, NULL},
    {"return_tokens_as_token_ids", BOTH, FIELD_ONLY, 0, 0, 0, NULL},
    {"use_beam_search",       BOTH, FIELD_ONLY, 0, 0, 0, NULL},
    {"length_penalty",        BOTH, FIELD_ONLY, 1, 0, 0, NULL},
    {"typical_p",             BOTH, FIELD_ONLY, 1, 0, 0, NULL},
    {"mirostat",              BOTH, FIELD_ONLY, 0, 0, 0, NULL},
    {"store",                 CHAT, FIELD_ONLY, 0, 0, 0, NULL},
    {"modalities",            CHAT, FIELD_CUSTOM, 0, 0, 0, modalities_read},
    {"suffix",                COMPLETIONS, FIELD_CUSTOM, 0, 0, 0, suffix_read},
    {"audio",                 CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"prediction",            CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"web_search_options",    CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"functions",             CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"function_call",         CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"verbosity",             CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"chat_template",         CHAT, FIELD_NONE, 0, 0, 0, NULL},
    {"prompt_logprobs",       BOTH, FIELD_NONE, 0, 0, 0, NULL},
    {"truncate_prompt_tokens", BOTH, FIELD_NONE, 0, 0, 0, NULL},
    {"logits_processors",     BOTH, FIELD_NONE, 0, 0, 0, NULL},
    {"guided_grammar",        BOTH, FIELD_NONE, 0, 0, 0, NULL},
    {"grammar",               BOTH, FIELD_NONE, 0, 0, 0, NULL},
    {"structured_outputs",    BOTH, FIELD_NONE, 0, 0, 0, NULL},
};
// clang-format on

static bool field_read(ApiRequest *r, const FieldSpec *s, Refusal *why) {
    const cJSON *value = json_member(r->json, s->name);
    if (!value || !(s->kinds & r->kind))
        return true;
    if (s->type == FIELD_NONE)
        return unsupported(why, s->name);
    if (s->type == FIELD_ONLY)
        return only_read(s, value, why);
    if (s->type == FIELD_CUSTOM)
        return s->read(r, s->name, value, why);
    if (s->type != FIELD_BOOL)
        return number_read(r, s, value, why);
    if (!cJSON_IsBool(value))
        return mistyped(why, s->name, "true or false", value);
    *((bool *)(void *)((unsigned char *)r + s->offset)) = cJSON_IsTrue(value);
    return true;
}

// ---- the whole request --------------------------------------------------------------------------

bool refuse_error(Refusal *why, const char *param, const Error *err) {
    enum { PROMPT_TOO_LONG = 1101, QUEUE_FULL = 1102 }; // scheduler.h
    if (err->id == QUEUE_FULL)
        return refusal_set(why, 429, "rate_limit_exceeded", NULL, "%s", err->message);
    if (err->id == PROMPT_TOO_LONG)
        return refusal_set(why, 400, "context_length_exceeded", param, "%s", err->message);
    bool theirs = err->code == ERR_USAGE || err->code == ERR_UNSUPPORTED;
    return refusal_set(why, theirs ? 400 : 500, theirs ? "invalid_value" : "internal_error",
                       theirs ? param : NULL, "%s", err->message);
}

bool api_body(cJSON **out, Bytes body, Refusal *why) {
    Error err = {0};
    if (!json_input(out, body, &err)) {
        refuse_error(why, NULL, &err);
        why->code = err.code == ERR_USAGE ? "invalid_json" : why->code;
        return false;
    }
    return cJSON_IsObject(*out) ||
           refusal_set(why, 400, "invalid_json", NULL, "the body must be a JSON object, found %s",
                       api_type_name(*out));
}

bool api_model_check(const cJSON *request, const ApiModel *m, Refusal *why) {
    const cJSON *model = json_member(request, "model");
    if (!model)
        return true;
    if (!cJSON_IsString(model))
        return mistyped(why, "model", "a string", model);
    size_t wanted = strlen(model->valuestring);
    for (const char *at = m->names; *at;) {
        size_t size = strcspn(at, ",");
        if (size == wanted && memcmp(at, model->valuestring, size) == 0)
            return true;
        at += size + (at[size] == ',');
    }
    return refusal_set(why, 404, "model_not_found", "model",
                       "the model '%.100s' does not exist; this server has %.200s",
                       model->valuestring, m->names);
}

// Rules between fields.
static bool fields_check(ApiRequest *r, Refusal *why) {
    if (json_member(r->json, "top_logprobs") && r->kind == API_CHAT && !r->want_logprobs)
        return refusal_set(why, 400, "invalid_value", "top_logprobs",
                           "'top_logprobs' needs 'logprobs': true");
    if (json_member(r->json, "stream_options") && !r->stream)
        return refusal_set(why, 400, "invalid_value", "stream_options",
                           "'stream_options' needs 'stream': true");
    if (r->echo && r->logprobs >= 0)
        return refusal_set(why, 400, "unsupported_value", "echo",
                           "'echo' together with 'logprobs' is not supported by this server");
    if (r->params.max_tokens && r->params.min_tokens > r->params.max_tokens)
        return refusal_set(why, 400, "invalid_value", "min_tokens",
                           "'min_tokens' is more than 'max_tokens'");
    if (!r->tools && r->tool_choice > TOOL_CHOICE_AUTO)
        return refusal_set(why, 400, "invalid_value", "tool_choice", "'tool_choice' needs 'tools'");
    if (r->tool_choice > TOOL_CHOICE_AUTO && r->format != FORMAT_TEXT)
        return refusal_set(why, 400, "invalid_value", "tool_choice",
                           "'tool_choice' and another field both say what the answer must be");
    r->params.logprobs = r->kind == API_COMPLETIONS ? (int32_t)r->logprobs
                         : r->want_logprobs         ? (int32_t)r->top_logprobs
                                                    : -1;
    if (r->params.top_p <= 0) { // no token at all would be left: the most likely one is meant
        r->params.top_p = 1;
        r->params.top_k = 1;
    }
    if (!r->tools || r->kind != API_CHAT)
        r->tool_choice = TOOL_CHOICE_NONE;
    return true;
}

static void defaults_set(ApiRequest *r, const ApiModel *m) {
    enum { COMPLETION_TOKENS = 16 }; // OpenAI's
    r->params = m->defaults;
    r->params.max_tokens = r->kind == API_COMPLETIONS ? COMPLETION_TOKENS : 0;
    r->n = 1;
    r->logprobs = -1;
    r->parallel_tool_calls = true;
    r->tool_choice = TOOL_CHOICE_AUTO;
    r->start_token = true;
}

bool api_request_read(ApiRequest *r, ApiKind kind, const ApiModel *m, Bytes body, Refusal *why) {
    *r = (ApiRequest){.kind = kind, .grammars = m->grammars};
    defaults_set(r, m);
    TRY(api_body(&r->json, body, why));
    TRY(api_model_check(r->json, m, why));
    for (size_t at = 0; at < sizeof fields / sizeof *fields; at++)
        TRY(field_read(r, &fields[at], why));
    return fields_check(r, why) && api_prompts(r, m, why) && api_format(r, m, why);
}

void api_request_free(ApiRequest *r) {
    for (int64_t at = 0; at < r->prompt_count; at++) {
        free(r->prompts[at].ids);
        free(r->prompts[at].text);
    }
    free(r->prompts);
    if (r->grammar)
        grammar_cache_release(r->grammars, r->grammar);
    cJSON_Delete(r->json);
    *r = (ApiRequest){.json = NULL};
}
