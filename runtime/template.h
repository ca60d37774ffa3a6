// Chat templates: opens the code that the compiler made (payload_template.h) and runs it over one
// conversation.
#ifndef TEMPLATE_H
#define TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base.h"

typedef struct Template Template;

// Everything but `now` may be 0: the default.
typedef struct TemplateOptions {
    time_t now;            // what strftime_now() prints, in local time
    uint64_t max_steps;    // instructions, and items that filters go through
    size_t max_memory;     // bytes of all values of one rendering
    size_t max_text_bytes; // of the rendered text
} TemplateOptions;

typedef struct TemplateText {
    char *text;          // UTF-8, ends with a 0 behind `size`; owner: the caller, free()
    uint8_t *user_marks; // [size]: 1 where a user wrote the byte; owner: the caller, free()
    size_t size;
} TemplateText;

// `blob` must stay; it is checked as a whole, so that no blob can make a rendering touch memory
// that is not its own. Fails with ERR_CORRUPT.
bool template_open(Template **out, Bytes blob, Error *err);
void template_close(Template *t); // takes NULL

// Renders a JSON object: messages, tools, add_generation_prompt, bos_token, eos_token and whatever
// else the template knows. transformers passes tools and documents always, as null if there are
// none. A byte of the text is marked unless it comes from the template itself, from a string of
// the context that names a special token (bos_token, eos_token, unk_token, sep_token, pad_token,
// cls_token, mask_token), or from the role of a message if that is one of the words that all
// families know (system, user, assistant...: Phi-4 makes its special tokens out of roles). Never
// make special tokens out of marked bytes. Threads may share a Template. What the template refuses
// (raise_exception) and what jinja2 would fail on is ERR_USAGE.
bool template_render(const Template *t, const char *json_context, const TemplateOptions *o,
                     TemplateText *out, Error *err);

#endif
