// Calls of tools in the formats of three families: each text at once, byte by byte, and cut at every
// place, gives the same text and calls. The formats are those of the models' own chat templates and
// model cards (Qwen2.5 and Hermes 2 Pro; Llama 3.1; Mistral v3 and v11).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef fail
#include "runtime/tool_call.h"

enum { OUT_BYTES = 4096 };

typedef struct Case {
    ToolFormat format;
    const char *text;
    const char *expected; // text, and {{name|arguments}} for calls
} Case;

#define WEATHER \
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"K\\u00f6ln\", \"days\": 3}}"
#define FOUND "{{get_weather|{\"city\": \"K\\u00f6ln\", \"days\": 3}}}"

static const Case cases[] = {
    {TOOLS_NONE, "<tool_call>{}</tool_call> {x}", "<tool_call>{}</tool_call> {x}"},
    {TOOLS_HERMES, "no calls at all", "no calls at all"},
    {TOOLS_HERMES, "<tool_call>\n" WEATHER "\n</tool_call>", FOUND},
    {TOOLS_HERMES,
     "I look.\n<tool_call>\n" WEATHER "\n</tool_call>\n<tool_call>\n" WEATHER "\n</tool_call>\n",
     "I look." FOUND FOUND "\n"},
    {TOOLS_HERMES, "a < b <tool> <tool_cal", "a < b <tool> <tool_cal"},
    {TOOLS_HERMES, "<tool_call>{\"name\": 3}</tool_call> x",
     "<tool_call>{\"name\": 3}</tool_call> x"},
    {TOOLS_HERMES, "<tool_call>broken</tool_call>", "<tool_call>broken</tool_call>"},
    {TOOLS_HERMES, "<tool_call>" WEATHER, FOUND}, // ended by the stop token
    {TOOLS_HERMES, "<tool_call>{\"name\": \"f\"", "<tool_call>{\"name\": \"f\""},
    {TOOLS_HERMES, "<tool_call>", "<tool_call>"},
    {TOOLS_HERMES, "<tool_call>{\"name\": \"f\"}</tool_call>", "{{f|{}}}"},
    {TOOLS_HERMES, "<tool_call>{\"arguments\": {\"a\": \"}{\\\"\"}, \"name\": \"f\"}</tool_call>",
     "{{f|{\"a\": \"}{\\\"\"}}}"},
    {TOOLS_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
     "{{f|{\"a\": 1}}}"},
    {TOOLS_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
     "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>"},
    {TOOLS_HERMES, "<tool_call>{\"name\": \"f\", \"arguments\": \"[1]\"}</tool_call>",
     "<tool_call>{\"name\": \"f\", \"arguments\": \"[1]\"}</tool_call>"},
    {TOOLS_HERMES, "trailing blanks \n ", "trailing blanks \n "},
    {TOOLS_LLAMA3, "{\"name\": \"f\", \"parameters\": {\"x\": [1, {\"y\": \"}\"}]}}",
     "{{f|{\"x\": [1, {\"y\": \"}\"}]}}}"},
    {TOOLS_LLAMA3, "{\"name\": \"f\", \"parameters\": {\"x\": \"\\\"}\\\\\"}}",
     "{{f|{\"x\": \"\\\"}\\\\\"}}}"},
    {TOOLS_LLAMA3,
     "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", "
     "\"parameters\": {\"a\": 12345678901234567890}}",
     "{{f|{}}}{{g|{\"a\": 12345678901234567890}}}"},
    {TOOLS_LLAMA3, "Use {\"name\": \"f\", \"parameters\": {}}",
     "Use {\"name\": \"f\", \"parameters\": {}}"},
    {TOOLS_LLAMA3, "{\"answer\": 42} and so on", "{\"answer\": 42} and so on"},
    {TOOLS_LLAMA3, "{\"name\": \"f\", \"parameters\": {", "{\"name\": \"f\", \"parameters\": {"},
    {TOOLS_LLAMA3, "<|python", "<|python"},
    {TOOLS_LLAMA3, " \n", " \n"},
    {TOOLS_LLAMA3, "{\"name\": \"f\", \"parameters\": {}} thanks", "{{f|{}}} thanks"},
    {TOOLS_MISTRAL, "[TOOL_CALLS][" WEATHER ", " WEATHER "]", FOUND FOUND},
    {TOOLS_MISTRAL, "Well. [TOOL_CALLS] [" WEATHER "]", "Well." FOUND},
    {TOOLS_MISTRAL, "[TOOL_CALLS]get_weather[ARGS]{\"city\": \"K\"}",
     "{{get_weather|{\"city\": \"K\"}}}"},
    {TOOLS_MISTRAL, "[TOOL_CALLS]f{\"a\": \"}\"}[TOOL_CALLS]g[ARGS]{}",
     "{{f|{\"a\": \"}\"}}}{{g|{}}}"},
    {TOOLS_MISTRAL, "[TOOL_CALLS][{\"name\": 1}] x", "{\"name\": 1}] x"},
    {TOOLS_MISTRAL, "[TOOL_CALLS]nothing", "nothing"},
    {TOOLS_MISTRAL, "[TOOL", "[TOOL"},
    {TOOLS_MISTRAL, "a [list] of things", "a [list] of things"},
};

static bool text_add(void *user, Bytes text, Error *err) {
    char *out = user;
    (void)err;
    size_t size = strlen(out);
    snprintf(out + size, OUT_BYTES - size, "%.*s", (int)text.size, (const char *)text.data);
    return true;
}

static bool call_add(void *user, const char *name, Bytes arguments, Error *err) {
    char *out = user;
    (void)err;
    size_t size = strlen(out);
    snprintf(out + size, OUT_BYTES - size, "{{%s|%.*s}}", name, (int)arguments.size,
             (const char *)arguments.data);
    return true;
}

static void check(ToolParser parser, const Case *c, size_t first, size_t step) {
    char out[OUT_BYTES] = "";
    const ToolSink sink = {text_add, call_add, out};
    size_t size = strlen(c->text);
    Error err;
    for (size_t at = 0; at < size;) {
        size_t part = at == 0 && first ? first : step;
        part = part < size - at ? part : size - at;
        // A copy of its own, so that a read beyond it is seen.
        unsigned char *copy = malloc(part);
        assert_non_null(copy);
        memcpy(copy, c->text + at, part);
        assert_true(tool_parser_add(&parser, (Bytes){copy, part}, &sink, &err));
        free(copy);
        at += part;
    }
    assert_true(tool_parser_end(&parser, &sink, &err));
    if (strcmp(out, c->expected) != 0)
        print_message("%s of \"%s\", cut at %zu then every %zu\n", tool_format_name(c->format),
                      c->text, first, step);
    assert_string_equal(out, c->expected);
}

static void calls_do_not_depend_on_cuts(void **state) {
    (void)state;
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++) {
        const Case *c = &cases[at];
        const ToolParser parser = {.format = c->format};
        check(parser, c, 0, SIZE_MAX);
        check(parser, c, 0, 1);
        for (size_t cut = 1; cut < strlen(c->text); cut++)
            check(parser, c, cut, SIZE_MAX);
    }
}

static void lists_of_calls(void **state) {
    static const Case list = {
        TOOLS_MISTRAL,
        " [{\"name\":\"f\",\"parameters\":{\"a\":1}},{\"name\":\"g\",\"parameters\":{}}]",
        "{{f|{\"a\":1}}}{{g|{}}}"};
    (void)state;
    check(tool_parser_list(), &list, 0, SIZE_MAX);
    check(tool_parser_list(), &list, 0, 1);
}

static void formats_of_templates(void **state) {
    static const struct {
        const char *words;
        ToolFormat format;
    } templates[] = {
        {"... within <tool_call></tool_call> XML tags:\n<tool_call>", TOOLS_HERMES},
        {"{%- if builtin_tools is defined %}{{- \"<|python_tag|>\" }}<|eom_id|>", TOOLS_LLAMA3},
        {"[AVAILABLE_TOOLS][/AVAILABLE_TOOLS][TOOL_CALLS]", TOOLS_MISTRAL},
        {"{{ message.content }}", TOOLS_NONE},
    };
    ToolFormat found;
    (void)state;
    for (size_t at = 0; at < sizeof templates / sizeof *templates; at++)
        assert_int_equal(tool_format_find((Bytes){(const unsigned char *)templates[at].words,
                                                  strlen(templates[at].words)}),
                         templates[at].format);
    assert_true(tool_format_parse(&found, "llama3"));
    assert_int_equal(found, TOOLS_LLAMA3);
    assert_false(tool_format_parse(&found, "pythonic"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_do_not_depend_on_cuts),
        cmocka_unit_test(lists_of_calls),
        cmocka_unit_test(formats_of_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
