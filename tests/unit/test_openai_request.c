// Requests: what JSON is taken, each field's rule, and the error object of a refusal. The expected
// codes and parameters are those of OpenAI's reference.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cjson/cJSON.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef fail
#include "runtime/json_input.h"
#include "runtime/openai_request.h"

static const ApiModel model = {
    .names = "tale,other",
    .context = 100,
    .vocab_size = 1000,
    .defaults = {.temperature = 0.5F, .top_p = 0.75F, .repetition_penalty = 1, .logprobs = -1},
};

// A copy without a zero behind it, so that a read beyond it is seen.
static Bytes copy_of(const char *text, size_t size) {
    unsigned char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    return (Bytes){copy, size};
}

// ---- JSON ---------------------------------------------------------------------------------------

typedef struct JsonCase {
    const char *text;
    const char *words; // of the refusal; NULL: it is taken
} JsonCase;

static const JsonCase json_cases[] = {
    {"{}", NULL},
    {" [1, -2.5e+3, \"a\\u00e9\\ud83d\\ude00\\n\", true, false, null, {\"a\": []}] \n", NULL},
    {"\"\xf0\x9f\x98\x80\"", NULL},
    {"", "empty"},
    {"   ", "too early"},
    {"{", "too early"},
    {"[1,", "too early"},
    {"[1,]", "does not have"},
    {"{\"a\":1,}", "key in quotes"},
    {"{a:1}", "key in quotes"},
    {"{\"a\" 1}", "colon"},
    {"[1 2]", "comma"},
    {"[1}", "comma"},
    {"{} {}", "more follows"},
    {"NaN", "does not have"},
    {"-Infinity", "does not have"},
    {"01", "does not have"},
    {"1.", "does not have"},
    {".5", "does not have"},
    {"+1", "does not have"},
    {"1e", "does not have"},
    {"-", "does not have"},
    {"1e999", "too large"},
    {"nul", "does not have"},
    {"\"a", "no end"},
    {"\"a\\", "no end"},
    {"\"\\x41\"", "escape"},
    {"\"\\u12g4\"", "four hexadecimal"},
    {"\"\\u12\"", "four hexadecimal"},
    {"\"\\ud800\"", "high surrogate"},
    {"\"\\ud800x\"", "high surrogate"},
    {"\"\\ud800\\u0041\"", "high surrogate"},
    {"\"\\udc00\"", "low surrogate"},
    {"\"\\u0000\"", "zero character"},
    {"\"a\nb\"", "control character"},
    {"\"\xc3\"", "not UTF-8"},
    {"\"\xed\xa0\x80\"", "not UTF-8"},
    {"\"\xc0\x80\"", "not UTF-8"},
    {"\"\xf4\x90\x80\x80\"", "not UTF-8"},
    {"\"\xff\"", "not UTF-8"},
    {"'a'", "does not have"},
    {"// x\n1", "does not have"},
    {"\xef\xbb\xbf{}", "does not have"},
};

static void json_is_strict(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof json_cases / sizeof *json_cases; at++) {
        const JsonCase *c = &json_cases[at];
        Bytes text = copy_of(c->text, strlen(c->text));
        cJSON *json = NULL;
        Error err = {0};
        bool taken = json_input(&json, text, &err);
        if (taken != !c->words || (!taken && !strstr(err.message, c->words)))
            print_message("%s: %s\n", c->text, taken ? "taken" : err.message);
        assert_int_equal(taken, c->words == NULL);
        assert_true(taken || strstr(err.message, c->words));
        cJSON_Delete(json);
        free((void *)(uintptr_t)text.data);
    }
}

static void json_depth(void **state) {
    enum { DEEP = 100000 };
    (void)state;
    char *text = malloc(2 * DEEP);
    assert_non_null(text);
    for (int depth = 63; depth <= DEEP; depth = depth < 65 ? depth + 1 : depth * 100) {
        cJSON *json = NULL;
        Error err;
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        assert_int_equal(json_input(&json, (Bytes){(unsigned char *)text, 2 * (size_t)depth}, &err),
                         depth <= 64);
        cJSON_Delete(json);
    }
    free(text);
}

static void json_members(void **state) {
    static const char text[] =
        "{ \"a\" : [1, {\"b\": \"}\\\"\"}] ,\"b\":2,\"a\":\"x,y\", \"c\" : -1.5e3 }";
    static const struct {
        const char *name, *value;
    } members[] = {{"a", "\"x,y\""}, {"b", "2"}, {"c", "-1.5e3"}, {"d", NULL}};
    cJSON *json = cJSON_Parse(text);
    (void)state;
    for (size_t at = 0; at < sizeof members / sizeof *members; at++) {
        Bytes value;
        bool found = json_member_text((Bytes){(const unsigned char *)text, sizeof text - 1},
                                      members[at].name, &value);
        assert_int_equal(found, members[at].value != NULL);
        if (found) {
            assert_int_equal(value.size, strlen(members[at].value));
            assert_memory_equal(value.data, members[at].value, value.size);
        }
    }
    assert_string_equal(json_member(json, "a")->valuestring, "x,y"); // the last of two
    assert_null(json_member(json, "d"));
    cJSON_Delete(json);
}

// ---- fields -------------------------------------------------------------------------------------

typedef struct FieldCase {
    ApiKind kind;
    const char *fields; // besides the prompt or messages
    const char *param;  // of the refusal; NULL: it is taken
    const char *code;
} FieldCase;

#define T    API_COMPLETIONS
#define C    API_CHAT
#define TOOL "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]"

static const FieldCase field_cases[] = {
    {T, "\"unknown\":{\"x\":[1]}", NULL, NULL},
    {T, "\"temperature\":null,\"stop\":null,\"n\":null,\"logit_bias\":null,\"stream\":null", NULL,
     NULL},
    {T, "\"user\":\"me\",\"metadata\":{\"a\":\"b\"},\"service_tier\":\"auto\"", NULL, NULL},
    {T, "\"temperature\":2", NULL, NULL},
    {T, "\"temperature\":2.1", "temperature", "invalid_value"},
    {T, "\"temperature\":-1", "temperature", "invalid_value"},
    {T, "\"temperature\":\"hot\"", "temperature", "invalid_type"},
    {T, "\"temperature\":true", "temperature", "invalid_type"},
    {T, "\"top_p\":1.5", "top_p", "invalid_value"},
    {T, "\"min_p\":-0.1", "min_p", "invalid_value"},
    {T, "\"presence_penalty\":-2.5", "presence_penalty", "invalid_value"},
    {T, "\"frequency_penalty\":3", "frequency_penalty", "invalid_value"},
    {T, "\"repetition_penalty\":0", "repetition_penalty", "invalid_value"},
    {T, "\"top_k\":-1", NULL, NULL},
    {T, "\"top_k\":-2", "top_k", "invalid_value"},
    {T, "\"top_k\":1.5", "top_k", "invalid_value"},
    {T, "\"n\":0", "n", "invalid_value"},
    {T, "\"n\":129", "n", "invalid_value"},
    {T, "\"n\":1.5", "n", "invalid_type"},
    {T, "\"n\":3.0", NULL, NULL},
    {T, "\"n\":2,\"best_of\":2", NULL, NULL},
    {T, "\"best_of\":2", "best_of", "unsupported_value"},
    {T, "\"max_tokens\":0", "max_tokens", "invalid_value"},
    {T, "\"max_tokens\":-1", "max_tokens", "invalid_value"},
    {T, "\"max_tokens\":\"5\"", "max_tokens", "invalid_type"},
    {T, "\"max_tokens\":97", NULL, NULL},
    {T, "\"max_tokens\":98", "prompt", "context_length_exceeded"},
    {T, "\"max_tokens\":5,\"min_tokens\":6", "min_tokens", "invalid_value"},
    {T, "\"seed\":-3", NULL, NULL},
    {T, "\"seed\":1.5", "seed", "invalid_type"},
    {T, "\"stop\":\"x\"", NULL, NULL},
    {T, "\"stop\":[\"x\",\"y\"]", NULL, NULL},
    {T, "\"stop\":[]", NULL, NULL},
    {T, "\"stop\":[\"x\",3]", "stop", "invalid_type"},
    {T, "\"stop\":\"\"", "stop", "invalid_value"},
    {T, "\"stop_token_ids\":[1,2]", NULL, NULL},
    {T, "\"stop_token_ids\":[-1]", "stop_token_ids", "invalid_type"},
    {T, "\"logit_bias\":{\"5\":-100,\"7\":2.5}", NULL, NULL},
    {T, "\"logit_bias\":{\"x\":1}", "logit_bias", "invalid_value"},
    {T, "\"logit_bias\":{\"5\":101}", "logit_bias", "invalid_value"},
    {T, "\"logit_bias\":[1]", "logit_bias", "invalid_type"},
    {T, "\"logprobs\":5", NULL, NULL},
    {T, "\"logprobs\":21", "logprobs", "invalid_value"},
    {T, "\"logprobs\":true", "logprobs", "invalid_type"},
    {T, "\"echo\":true,\"logprobs\":1", "echo", "unsupported_value"},
    {T, "\"stream\":1", "stream", "invalid_type"},
    {T, "\"stream_options\":{\"include_usage\":true}", "stream_options", "invalid_value"},
    {T, "\"stream\":true,\"stream_options\":{\"include_usage\":1}", "stream_options.include_usage",
     "invalid_type"},
    {T, "\"stream\":true,\"stream_options\":{\"include_usage\":true}", NULL, NULL},
    {T, "\"suffix\":\"x\"", "suffix", "unsupported_parameter"},
    {T, "\"suffix\":\"\"", NULL, NULL},
    {T, "\"use_beam_search\":true", "use_beam_search", "unsupported_value"},
    {T, "\"use_beam_search\":false", NULL, NULL},
    {T, "\"length_penalty\":1.0", NULL, NULL},
    {T, "\"length_penalty\":2", "length_penalty", "unsupported_value"},
    {T, "\"guided_grammar\":\"x\"", "guided_grammar", "unsupported_parameter"},
    {T, "\"model\":\"tale\"", NULL, NULL},
    {T, "\"model\":\"other\"", NULL, NULL},
    {T, "\"model\":\"tal\"", "model", "model_not_found"},
    {T, "\"model\":\"othe\"", "model", "model_not_found"},
    {T, "\"model\":\"tales\"", "model", "model_not_found"},
    {T, "\"model\":\"gpt-4\"", "model", "model_not_found"},
    {T, "\"model\":3", "model", "invalid_type"},
    {T, "\"response_format\":{\"type\":\"text\"}", NULL, NULL},
    {T, "\"response_format\":\"json\"", "response_format", "invalid_type"},
    {T, "\"response_format\":{\"type\":\"xml\"}", "response_format", "unsupported_value"},
    {T, "\"response_format\":{\"type\":\"json_schema\"}", "response_format.json_schema",
     "invalid_value"},
    {T, "\"guided_choice\":[]", "guided_choice", "invalid_type"},
    {T, "\"guided_choice\":[1]", "guided_choice", "invalid_type"},
    {T, "\"guided_regex\":3", "guided_regex", "invalid_type"},
    {T, "\"guided_regex\":\"a\",\"guided_choice\":[\"a\"]", "guided_choice", "invalid_value"},
    {C, "\"logprobs\":1", "logprobs", "invalid_type"},
    {C, "\"top_logprobs\":3", "top_logprobs", "invalid_value"},
    {C, "\"logprobs\":true,\"top_logprobs\":21", "top_logprobs", "invalid_value"},
    {C, "\"functions\":[]", "functions", "unsupported_parameter"},
    {C, "\"function_call\":\"auto\"", "function_call", "unsupported_parameter"},
    {C, "\"audio\":{}", "audio", "unsupported_parameter"},
    {C, "\"modalities\":[\"audio\"]", "modalities", "unsupported_value"},
    {C, "\"tools\":{}", "tools", "invalid_type"},
    {C, "\"tools\":[{\"type\":\"retrieval\"}]", "tools", "invalid_value"},
    {C, "\"tools\":[{\"type\":\"function\",\"function\":{}}]", "tools", "invalid_value"},
    {C, "\"tool_choice\":\"required\"", "tool_choice", "invalid_value"},
    {C, TOOL ",\"tool_choice\":\"maybe\"", "tool_choice", "invalid_value"},
    {C, TOOL ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}",
     "tool_choice", "invalid_value"},
    {C, "\"store\":true", "store", "unsupported_value"},
    {C, "\"continue_final_message\":true", "continue_final_message", "unsupported_value"},
    {C, "\"n\":2", "messages", "unsupported_value"}, // this model has no template
};

static bool request_read(ApiRequest *r, ApiKind kind, const char *start, const char *fields,
                         Refusal *why) {
    char text[1024];
    snprintf(text, sizeof text, "{%s%s%s}", start, *start && *fields ? "," : "", fields);
    Bytes body = copy_of(text, strlen(text));
    *why = (Refusal){0};
    bool taken = api_request_read(r, kind, &model, body, why);
    free((void *)(uintptr_t)body.data);
    return taken;
}

static void fields_have_rules(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof field_cases / sizeof *field_cases; at++) {
        const FieldCase *c = &field_cases[at];
        ApiRequest r;
        Refusal why;
        bool taken = request_read(&r, c->kind,
                                  c->kind == API_CHAT
                                      ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
                                      : "\"prompt\":[1,2,3]",
                                  c->fields, &why);
        if (taken != !c->param || (!taken && strcmp(why.param, c->param) != 0))
            print_message("%s: %s %s\n", c->fields, taken ? "taken" : why.param, why.message);
        assert_int_equal(taken, c->param == NULL);
        if (!taken) {
            assert_string_equal(why.param, c->param);
            assert_string_equal(why.code, c->code);
            assert_int_equal(why.status, strcmp(c->code, "model_not_found") == 0 ? 404 : 400);
            assert_true(strlen(why.message) > 10);
        }
        api_request_free(&r);
    }
}

static void prompts_have_rules(void **state) {
    static const FieldCase prompts[] = {
        {T, "", "prompt", "missing_required_parameter"},
        {T, "\"prompt\":null", "prompt", "missing_required_parameter"},
        {T, "\"prompt\":3", "prompt", "invalid_type"},
        {T, "\"prompt\":{}", "prompt", "invalid_type"},
        {T, "\"prompt\":[[]]", "prompt", "invalid_type"},
        {T, "\"prompt\":[1,\"x\"]", "prompt", "invalid_value"},
        {T, "\"prompt\":[1,-1]", "prompt", "invalid_value"},
        {T, "\"prompt\":[1,1000]", "prompt", "invalid_value"},
        {T, "\"prompt\":[1,1.5]", "prompt", "invalid_value"},
        {T, "\"prompt\":[[1],[2,3]]", NULL, NULL},
        {T, "\"prompt\":[999]", NULL, NULL},
        {T, "\"prompt\":[[1],[2]],\"n\":65", "prompt", "invalid_value"},
        {C, "", "messages", "unsupported_value"},
    };
    (void)state;
    for (size_t at = 0; at < sizeof prompts / sizeof *prompts; at++) {
        ApiRequest r;
        Refusal why;
        assert_int_equal(request_read(&r, prompts[at].kind, "", prompts[at].fields, &why),
                         prompts[at].param == NULL);
        if (prompts[at].param) {
            assert_string_equal(why.param, prompts[at].param);
            assert_string_equal(why.code, prompts[at].code);
        }
        api_request_free(&r);
    }
}

static void messages_have_rules(void **state) {
    static const struct {
        const char *messages, *param; // param NULL: it becomes `result`
        const char *result;
    } lists[] = {
        {"[]", "messages", NULL},
        {"{}", "messages", NULL},
        {"[3]", "messages", NULL},
        {"[{}]", "messages", NULL},
        {"[{\"role\":3,\"content\":\"x\"}]", "messages", NULL},
        {"[{\"role\":\"user\",\"content\":3}]", "messages[0].content", NULL},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]",
         "messages[0].content", NULL},
        {"[{\"role\":\"user\",\"content\":[\"x\"]}]", "messages[0].content", NULL},
        {"[{\"role\":\"assistant\",\"tool_calls\":{}}]", "messages[0].tool_calls", NULL},
        {"[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"["
         "\"}}]}]",
         "messages[0].tool_calls", NULL},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
         "\"text\":\"b\"}]}]",
         NULL, "[{\"role\":\"user\",\"content\":\"a\\nb\"}]"},
        {"[{\"role\":\"developer\",\"content\":\"a\"}]", NULL,
         "[{\"role\":\"system\",\"content\":\"a\"}]"},
        {"[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"x\",\"function\":"
         "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]}]",
         NULL,
         "[{\"role\":\"assistant\",\"tool_calls\":[{\"id\":\"x\",\"function\":{\"name\":\"f\","
         "\"arguments\":{\"a\":1}}}],\"content\":\"\"}]"},
    };
    (void)state;
    for (size_t at = 0; at < sizeof lists / sizeof *lists; at++) {
        cJSON *request = cJSON_CreateObject();
        Refusal why = {0};
        cJSON_AddItemToObject(request, "messages", cJSON_Parse(lists[at].messages));
        bool done = api_messages(request, NULL, &why);
        if (done != !lists[at].param)
            print_message("%s: %s\n", lists[at].messages, why.message);
        assert_int_equal(done, lists[at].param == NULL);
        if (done) {
            char *text = cJSON_PrintUnformatted(json_member(request, "messages"));
            assert_string_equal(text, lists[at].result);
            cJSON_free(text);
        } else {
            assert_string_equal(why.param, lists[at].param);
        }
        cJSON_Delete(request);
    }
}

static void values_arrive(void **state) {
    ApiRequest r;
    Refusal why;
    (void)state;
    assert_true(
        request_read(&r, T, "\"prompt\":[4,5]",
                     "\"temperature\":0.25,\"top_k\":-1,\"min_p\":0.125,\"n\":3,\"seed\":77,"
                     "\"max_tokens\":9,\"stop\":[\"x\",\"yz\"],\"stop_token_ids\":[8],"
                     "\"logit_bias\":{\"5\":-2.5},\"logprobs\":2,\"stream\":true,"
                     "\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true",
                     &why));
    assert_true(r.params.temperature == 0.25F && r.params.top_p == 0.75F &&
                r.params.min_p == 0.125F);
    assert_int_equal(r.params.top_k, 0);
    assert_int_equal(r.n, 3);
    assert_true(r.seeded && r.seed == 77 && r.stream && r.include_usage && r.params.ignore_eos);
    assert_int_equal(r.params.max_tokens, 9);
    assert_int_equal(r.params.stop_count, 2);
    assert_string_equal(r.params.stops[1], "yz");
    assert_int_equal(r.params.stop_ids[0], 8);
    assert_true(r.params.bias[0].id == 5 && r.params.bias[0].bias == -2.5F);
    assert_int_equal(r.params.logprobs, 2);
    assert_int_equal(r.prompts[0].count, 2);
    assert_int_equal(r.prompts[0].ids[1], 5);
    api_request_free(&r);
    assert_true(request_read(&r, T, "\"prompt\":[4]", "\"top_p\":0", &why));
    assert_true(r.params.top_p == 1.0F && r.params.top_k == 1);
    assert_true(r.params.temperature == 0.5F && r.params.logprobs == -1);
    assert_int_equal(r.params.max_tokens, 16); // OpenAI's default
    api_request_free(&r);
    assert_true(request_read(&r, T, "\"prompt\":[4]",
                             "\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":true}",
                             &why));
    assert_false(r.include_usage || r.continuous_usage); // only where usage is wanted at all
    api_request_free(&r);
}

static void context_has_both_numbers(void **state) {
    ApiRequest r;
    Refusal why;
    (void)state;
    assert_false(request_read(&r, T, "\"prompt\":[4,5]", "\"max_tokens\":300", &why));
    assert_non_null(strstr(why.message, "100 tokens"));
    assert_non_null(strstr(why.message, "302 tokens (2 in the prompt, 300 in the completion)"));
    api_request_free(&r);
}

static void refusals_are_objects(void **state) {
    static const struct {
        int status;
        const char *type;
    } types[] = {{400, "invalid_request_error"}, {401, "authentication_error"},
                 {404, "not_found_error"},       {405, "invalid_request_error"},
                 {429, "rate_limit_error"},      {500, "server_error"},
                 {503, "server_error"}};
    (void)state;
    for (size_t at = 0; at < sizeof types / sizeof *types; at++) {
        Refusal why;
        refusal_set(&why, types[at].status, at ? "some_code" : NULL, at ? "field" : NULL,
                    "a \"quoted\"\n\xc3");
        char *text = refusal_json(&why);
        cJSON *json = cJSON_Parse(text);
        const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
        assert_string_equal(cJSON_GetObjectItemCaseSensitive(error, "message")->valuestring,
                            "a \"quoted\"\n\xef\xbf\xbd");
        assert_string_equal(cJSON_GetObjectItemCaseSensitive(error, "type")->valuestring,
                            types[at].type);
        assert_int_equal(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(error, "param")), at == 0);
        assert_int_equal(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(error, "code")), at == 0);
        cJSON_Delete(json);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_is_strict),       cmocka_unit_test(json_depth),
        cmocka_unit_test(json_members),         cmocka_unit_test(fields_have_rules),
        cmocka_unit_test(prompts_have_rules),   cmocka_unit_test(messages_have_rules),
        cmocka_unit_test(values_arrive),        cmocka_unit_test(context_has_both_numbers),
        cmocka_unit_test(refusals_are_objects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
