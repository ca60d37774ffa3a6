// OpenAI's messages as chat templates know them: Hugging Face's templates read content as text and
// the arguments of earlier tool calls as objects, OpenAI sends parts and strings of JSON.
#include "openai_request.h"

#include "json_input.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool wrong(Refusal *why, const char *where, const char *wanted, const cJSON *found) {
    return refusal_set(why, 400, "invalid_type", where, "'%s' must be %s, found %s", where, wanted,
                       api_type_name(found));
}

// Parts of text, with line ends between them.
static bool parts_join(char **out, const cJSON *parts, const char *where, Refusal *why) {
    size_t size = 1;
    for (const cJSON *part = parts->child; part; part = part->next) {
        const cJSON *type = json_member(part, "type"), *text = json_member(part, "text");
        if (cJSON_IsString(type) && strcmp(type->valuestring, "text") != 0)
            return refusal_set(why, 400, "unsupported_value", where,
                               "'%s' has a part of type '%.50s'; this model reads text only", where,
                               type->valuestring);
        if (!cJSON_IsObject(part) || !cJSON_IsString(text))
            return wrong(why, where, "a string or a list of {\"type\":\"text\",\"text\":...}",
                         part);
        size += strlen(text->valuestring) + 1;
    }
    char *to = *out = malloc(size);
    if (!to)
        return refusal_set(why, 500, "internal_error", NULL, "no memory for a message");
    for (const cJSON *part = parts->child; part; part = part->next) {
        const char *text = json_member(part, "text")->valuestring;
        size_t length = strlen(text);
        memcpy(to, text, length);
        to += length;
        if (part->next)
            *to++ = '\n';
    }
    *to = 0;
    return true;
}

static bool content_set(cJSON *message, const char *where, Refusal *why) {
    const cJSON *content = json_member(message, "content");
    char *joined = NULL;
    if (cJSON_IsString(content))
        return true;
    if (content && !cJSON_IsArray(content))
        return wrong(why, where, "a string or a list of parts", content);
    if (content)
        TRY(parts_join(&joined, content, where, why));
    cJSON *text = cJSON_CreateString(joined ? joined : "");
    free(joined);
    while (cJSON_GetObjectItemCaseSensitive(message, "content"))
        cJSON_DeleteItemFromObjectCaseSensitive(message, "content");
    cJSON_AddItemToObject(message, "content", text);
    return true;
}

// {"arguments": "{\"a\":1}"} becomes {"arguments": {"a":1}}.
static bool arguments_set(cJSON *call, const char *where, Refusal *why) {
    cJSON *function = json_member(call, "function");
    const cJSON *arguments = cJSON_IsObject(function) ? json_member(function, "arguments") : NULL;
    cJSON *value = NULL;
    Error err;
    if (!cJSON_IsObject(function) || !cJSON_IsString(json_member(function, "name")))
        return refusal_set(why, 400, "invalid_value", where,
                           "'%s': a call must have a 'function' with a 'name'", where);
    if (cJSON_IsObject(arguments))
        return true;
    if (arguments && !cJSON_IsString(arguments))
        return wrong(why, where, "calls with 'arguments' in a string", arguments);
    const char *text = arguments && arguments->valuestring[0] ? arguments->valuestring : "{}";
    bool parsed = json_input(&value, (Bytes){(const unsigned char *)text, strlen(text)}, &err);
    if (!parsed || !cJSON_IsObject(value)) {
        cJSON_Delete(value);
        return refusal_set(why, 400, "invalid_value", where,
                           "'%s': the 'arguments' of a call must be a JSON object in a string",
                           where);
    }
    while (cJSON_GetObjectItemCaseSensitive(function, "arguments"))
        cJSON_DeleteItemFromObjectCaseSensitive(function, "arguments");
    cJSON_AddItemToObject(function, "arguments", value);
    return true;
}

static bool calls_set(cJSON *message, const char *where, Refusal *why) {
    const cJSON *calls = json_member(message, "tool_calls");
    if (!calls) { // templates ask whether there is such a member, not what it is
        cJSON_DeleteItemFromObjectCaseSensitive(message, "tool_calls");
        return true;
    }
    if (!cJSON_IsArray(calls))
        return wrong(why, where, "a list of calls", calls);
    for (cJSON *call = calls->child; call; call = call->next)
        TRY(arguments_set(call, where, why));
    return true;
}

static bool message_set(cJSON *message, int at, Refusal *why) {
    char content[64], calls[64];
    snprintf(content, sizeof content, "messages[%d].content", at);
    snprintf(calls, sizeof calls, "messages[%d].tool_calls", at);
    cJSON *role = cJSON_IsObject(message) ? json_member(message, "role") : NULL;
    if (!cJSON_IsObject(message))
        return wrong(why, "messages", "a list of objects", message);
    if (!cJSON_IsString(role))
        return refusal_set(why, 400, "invalid_value", "messages",
                           "'messages[%d].role' must be a string such as \"user\"", at);
    if (strcmp(role->valuestring, "developer") == 0) // OpenAI's newer word
        cJSON_SetValuestring(role, "system");
    return content_set(message, content, why) && calls_set(message, calls, why);
}

// The default, where the client gives none.
static void system_add(cJSON *messages, const char *system) {
    const cJSON *role = json_member(messages->child, "role");
    cJSON *message = strcmp(role->valuestring, "system") != 0 ? cJSON_CreateObject() : NULL;
    if (!message)
        return;
    cJSON_AddStringToObject(message, "role", "system");
    cJSON_AddStringToObject(message, "content", system);
    cJSON_InsertItemInArray(messages, 0, message);
}

bool api_messages(cJSON *request, const char *system, Refusal *why) {
    cJSON *messages = json_member(request, "messages");
    int at = 0;
    if (!messages)
        return refusal_set(why, 400, "missing_required_parameter", "messages",
                           "'messages' is missing");
    if (!cJSON_IsArray(messages) || !messages->child)
        return refusal_set(why, 400, "invalid_type", "messages",
                           "'messages' must be a list of messages that is not empty");
    for (cJSON *message = messages->child; message; message = message->next)
        TRY(message_set(message, at++, why));
    if (system)
        system_add(messages, system);
    return true;
}
