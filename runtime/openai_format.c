// What the answer must be, as a grammar: response_format, guided_json, guided_regex, guided_choice,
// and calls of tools that tool_choice demands.
#include "openai_request.h"

#include "json_input.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

static Bytes bytes_of(const char *text) {
    return (Bytes){(const unsigned char *)text, strlen(text)};
}

static bool no_memory(Error *err) {
    return fail(err, ERR_INTERNAL, 1170, "no memory for a schema");
}

static bool text_make(ApiRequest *r, const ApiModel *m, GrammarKind kind, const char *text,
                      Error *err) {
    const Bytes bytes = bytes_of(text);
    return grammar_cache_get(m->grammars, kind, &bytes, 1, &r->grammar, err);
}

static bool schema_make(ApiRequest *r, const ApiModel *m, const cJSON *schema, Error *err) {
    if (cJSON_IsString(schema)) // guided_json may be a text
        return text_make(r, m, GRAMMAR_SCHEMA, schema->valuestring, err);
    char *text = cJSON_PrintUnformatted(schema);
    bool done = text ? text_make(r, m, GRAMMAR_SCHEMA, text, err) : no_memory(err);
    cJSON_free(text);
    return done;
}

static bool choice_make(ApiRequest *r, const ApiModel *m, Error *err) {
    int32_t count = cJSON_GetArraySize(r->format_spec), at = 0;
    Bytes *choices = calloc((size_t)count, sizeof *choices);
    if (!choices)
        return no_memory(err);
    for (const cJSON *item = r->format_spec->child; item; item = item->next)
        choices[at++] = bytes_of(item->valuestring);
    bool done = grammar_cache_get(m->grammars, GRAMMAR_CHOICE, choices, count, &r->grammar, err);
    free(choices);
    return done;
}

// ---- calls of tools -----------------------------------------------------------------------------

// What a tool takes; the caller deletes it.
static cJSON *parameters_of(const cJSON *tool) {
    const cJSON *parameters = json_member(json_member(tool, "function"), "parameters");
    if (parameters && parameters->child)
        return cJSON_Duplicate(parameters, true);
    cJSON *any = cJSON_CreateObject();
    cJSON_AddStringToObject(any, "type", "object");
    return any;
}

// Definitions are found from the root of a schema.
static void definitions_move(cJSON *root, cJSON *parameters) {
    static const char *const names[] = {"$defs", "definitions"};
    for (size_t at = 0; at < sizeof names / sizeof *names; at++) {
        cJSON *from = cJSON_DetachItemFromObjectCaseSensitive(parameters, names[at]);
        cJSON *to = json_member(root, names[at]);
        if (from && !to)
            to = cJSON_AddObjectToObject(root, names[at]);
        while (from && from->child && to) {
            cJSON *item = cJSON_DetachItemViaPointer(from, from->child);
            cJSON_AddItemToObject(to, item->string, item);
        }
        cJSON_Delete(from);
    }
}

// {"name": "f", "parameters": {...}}
static cJSON *call_schema(cJSON *root, const cJSON *tool) {
    cJSON *call = cJSON_CreateObject(), *parameters = parameters_of(tool);
    const char *required[] = {"name", "parameters"};
    cJSON_AddStringToObject(call, "type", "object");
    cJSON *properties = cJSON_AddObjectToObject(call, "properties");
    cJSON *name = cJSON_AddObjectToObject(properties, "name");
    cJSON_AddStringToObject(name, "const",
                            json_member(json_member(tool, "function"), "name")->valuestring);
    definitions_move(root, parameters);
    cJSON_AddItemToObject(properties, "parameters", parameters);
    cJSON_AddItemToObject(call, "required", cJSON_CreateStringArray(required, 2));
    cJSON_AddFalseToObject(call, "additionalProperties");
    return call;
}

// A list of calls, at least one.
static bool calls_make(ApiRequest *r, const ApiModel *m, Error *err) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "type", "array");
    cJSON_AddNumberToObject(root, "minItems", 1);
    if (!r->parallel_tool_calls)
        cJSON_AddNumberToObject(root, "maxItems", 1);
    cJSON *any = cJSON_AddArrayToObject(cJSON_AddObjectToObject(root, "items"), "anyOf");
    for (const cJSON *tool = r->tools->child; tool; tool = tool->next)
        cJSON_AddItemToArray(any, call_schema(root, tool));
    bool done = schema_make(r, m, root, err);
    cJSON_Delete(root);
    return done;
}

static bool arguments_make(ApiRequest *r, const ApiModel *m, Error *err) {
    for (const cJSON *tool = r->tools->child; tool; tool = tool->next) {
        const cJSON *name = json_member(json_member(tool, "function"), "name");
        if (strcmp(name->valuestring, r->tool_name) != 0)
            continue;
        cJSON *parameters = parameters_of(tool);
        bool done = schema_make(r, m, parameters, err);
        cJSON_Delete(parameters);
        return done;
    }
    return fail(err, ERR_INTERNAL, 1171, "the tool %.100s has gone", r->tool_name);
}

// ---- all of them --------------------------------------------------------------------------------

static bool grammar_make(ApiRequest *r, const ApiModel *m, Error *err) {
    if (r->tool_choice == TOOL_CHOICE_REQUIRED)
        return calls_make(r, m, err);
    if (r->tool_choice == TOOL_CHOICE_NAMED)
        return arguments_make(r, m, err);
    if (r->format == FORMAT_OBJECT)
        return text_make(r, m, GRAMMAR_OBJECT, "", err);
    if (r->format == FORMAT_SCHEMA)
        return schema_make(r, m, r->format_spec, err);
    if (r->format == FORMAT_REGEX)
        return text_make(r, m, GRAMMAR_REGEX, r->format_spec->valuestring, err);
    return r->format == FORMAT_TEXT || choice_make(r, m, err);
}

bool api_format(ApiRequest *r, const ApiModel *m, Refusal *why) {
    Error err = {0};
    if (grammar_make(r, m, &err)) {
        r->params.grammar = r->grammar;
        return true;
    }
    if (err.code == ERR_INTERNAL)
        return refuse_error(why, NULL, &err);
    return refusal_set(why, 400, "invalid_value",
                       r->tool_choice > TOOL_CHOICE_AUTO ? "tools" : r->format_name, "%s",
                       err.message);
}
