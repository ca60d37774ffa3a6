// Conversations to token ids, by the model's own chat template.
#ifndef CHAT_H
#define CHAT_H

#include "executable.h"
#include "template.h"
#include "tokenizer.h"

struct cJSON;

typedef struct Chat Chat;

// *out stays NULL for a model without a template. ERR_CORRUPT.
bool chat_open(Chat **out, const Executable *e, Error *err);
void chat_close(Chat *c); // takes NULL
// Renders a JSON object with `messages` and whatever else a template reads (tools,
// add_generation_prompt, enable_thinking ...). What it lacks is added: the special tokens, tools and
// documents as null. `tools` that are not null use the template for tools, if there is one.
bool chat_render(const Chat *c, const struct cJSON *request, TemplateText *out, Error *err);
// The same as ids: templates write the start token themselves, and no byte of a message becomes a
// special token. The caller frees ids.
bool chat_encode(const Chat *c, const Tokenizer *t, const struct cJSON *request, int32_t **ids,
                 int64_t *count, Error *err);
// {"role": role, "content": text[0, size)} at the end of `messages`; text is made valid UTF-8.
bool chat_message_add(struct cJSON *messages, const char *role, const char *text, size_t size,
                      Error *err);

#endif
