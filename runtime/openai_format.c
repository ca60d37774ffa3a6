// What the answer must be, as a grammar: response_format, guided_json, guided_regex, guided_choice,
// and calls of tools that tool_choice demands.
#include "openai_request.h"

bool api_format(ApiRequest *r, const ApiModel *m, Refusal *why) {
    (void)m;
    if (r->tool_choice > TOOL_CHOICE_AUTO)
        return refusal_set(why, 400, "unsupported_value", "tool_choice",
                           "'tool_choice' may only be \"none\" or \"auto\" here");
    return r->format == FORMAT_TEXT ||
           refusal_set(why, 400, "unsupported_parameter", "response_format",
                       "'response_format' and guided_* are not supported by this server");
}
