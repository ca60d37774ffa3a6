// Refusals as OpenAI's error objects, those of evhttp included: it answers by itself what is not HTTP
// or larger than it may be, with evhttp_send_error, which runtime/libevent/own_errors.h lets us
// replace.
#include "http.h"

#include "cli_text.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool refusal_set(Refusal *why, int status, const char *code, const char *param, const char *format,
                 ...) {
    *why = (Refusal){.status = status, .code = code};
    snprintf(why->param, sizeof why->param, "%s", param ? param : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why->message, sizeof why->message, format, arguments);
    va_end(arguments);
    return false;
}

// A JSON string of text that may have been cut inside of a character; NULL: no memory.
static char *quoted(const char *text) {
    TextStream valid = {.out = NULL};
    Error err;
    bool done = text_add(&valid, (Bytes){(const unsigned char *)text, strlen(text)}, &err) &&
                text_end(&valid, &err);
    char *json = done ? text_json(valid.text ? valid.text : "", valid.size) : NULL;
    free(valid.text);
    return json;
}

// OpenAI's types; what has none of its own is invalid_request_error.
static const char *refusal_type(int status) {
    static const struct {
        int status;
        const char *type;
    } types[] = {
        {401, "authentication_error"},
        {404, "not_found_error"},
        {429, "rate_limit_error"},
    };
    for (size_t at = 0; at < sizeof types / sizeof *types; at++)
        if (types[at].status == status)
            return types[at].type;
    return status >= 500 ? "server_error" : "invalid_request_error";
}

char *refusal_json(const Refusal *why) {
    char *message = quoted(why->message), *param = quoted(why->param), *json = NULL;
    const char *mark = why->code ? "\"" : "";
    if (!message || !param ||
        asprintf(&json, "{\"error\":{\"message\":%s,\"type\":\"%s\",\"param\":%s,\"code\":%s%s%s}}",
                 message, refusal_type(why->status), why->param[0] ? param : "null", mark,
                 why->code ? why->code : "null", mark) < 0)
        json = NULL;
    free(message);
    free(param);
    return json;
}

// ---- evhttp's own -------------------------------------------------------------------------------

// evhttp says 400 to a header that is too large, too.
static bool header_too_large(struct evhttp_request *request) {
    struct evhttp_connection *e = evhttp_request_get_connection(request);
    struct bufferevent *stream = evhttp_connection_get_bufferevent(e);
    size_t waiting = evbuffer_get_length(bufferevent_get_input(stream));
    return request->headers_size + waiting > HTTP_MAX_HEADER_BYTES && !request->body_size;
}

static const char *own_refusal(struct evhttp_request *request, int status, Refusal *why) {
    if (status == HTTP_BADREQUEST && header_too_large(request)) {
        refusal_set(why, 431, "headers_too_large", NULL, "the headers are larger than %d bytes",
                    HTTP_MAX_HEADER_BYTES);
        return "Request Header Fields Too Large";
    }
    if (status == HTTP_ENTITYTOOLARGE)
        refusal_set(why, status, "request_too_large", NULL, "the body is larger than %d bytes%s",
                    HTTP_MAX_BODY_BYTES, request->chunked ? ", or its chunks are malformed" : "");
    else if (status == HTTP_EXPECTATIONFAILED)
        refusal_set(why, status, "expectation_failed", NULL, "the only Expect is 100-continue");
    else
        refusal_set(why, status, "malformed_request", NULL, "this is not a request of HTTP/1");
    return NULL;
}

// Called by evhttp only. The connection ends with the reply: what follows on it cannot be told apart.
void evhttp_send_error(struct evhttp_request *request, int status, const char *reason) {
    Refusal why;
    struct evbuffer *out = evbuffer_new();
    const char *words = own_refusal(request, status, &why);
    char *json = refusal_json(&why);
    if (!out || !json || evbuffer_add(out, json, strlen(json)) != 0) {
        evhttp_connection_free(evhttp_request_get_connection(request));
    } else {
        struct evkeyvalq *headers = evhttp_request_get_output_headers(request);
        evhttp_clear_headers(headers);
        evhttp_add_header(headers, "Access-Control-Allow-Origin", "*");
        evhttp_add_header(headers, "Content-Type", "application/json");
        evhttp_add_header(headers, "Connection", "close");
        if (!request->major) // its line was not understood
            request->major = request->minor = 1;
        evhttp_send_reply(request, why.status, words ? words : reason, out);
    }
    if (out)
        evbuffer_free(out);
    free(json);
}
