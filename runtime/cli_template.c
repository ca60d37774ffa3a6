// `template`: what the model would see of a conversation, as text or as token ids.
#include "cli.h"

#include <cjson/cJSON.h>
#include <stdlib.h>

// A list of messages, or an object with `messages` and what else the template reads.
static bool request_read(const CliOptions *o, cJSON **out, Error *err) {
    char *text = NULL;
    size_t size = 0;
    TRY(cli_text(o, &text, &size, err));
    cJSON *json = cJSON_ParseWithLength(text, size);
    free(text);
    if (cJSON_IsArray(json)) {
        *out = cJSON_CreateObject();
        cJSON_AddItemToObject(*out, "messages", json);
    } else if (cJSON_IsObject(json)) {
        *out = json;
    } else {
        cJSON_Delete(json);
        return fail(err, ERR_USAGE, 1093,
                    "template wants JSON: a list of messages, or an object with \"messages\"");
    }
    if (!cJSON_GetObjectItemCaseSensitive(*out, "add_generation_prompt"))
        cJSON_AddBoolToObject(*out, "add_generation_prompt", true);
    return true;
}

static bool ids_print(Cli *cli, const cJSON *request, Error *err) {
    int32_t *ids;
    int64_t count;
    TRY(chat_encode(cli->chat, cli->tokenizer, request, &ids, &count, err));
    cJSON *list = cJSON_CreateIntArray(ids, (int)count);
    char *text = cJSON_PrintUnformatted(list);
    puts(text);
    cJSON_free(text);
    cJSON_Delete(list);
    free(ids);
    return true;
}

static bool text_print(Cli *cli, const cJSON *request, Error *err) {
    TemplateText text = {0};
    TRY(chat_render(cli->chat, request, &text, err));
    fwrite(text.text, 1, text.size, stdout);
    free(text.text);
    free(text.user_marks);
    return true;
}

bool command_template(Cli *cli, Error *err) {
    cJSON *request = NULL;
    if (!cli->chat)
        return fail(err, ERR_USAGE, 1094, "this model has no chat template");
    bool done = request_read(&cli->options, &request, err) &&
                (cli->options.json ? ids_print : text_print)(cli, request, err);
    cJSON_Delete(request);
    return done;
}
