// HTTP/1.1 over libevent's evhttp: routes, limits, CORS, the key, replies and streams. Everything
// runs on the thread of the event loop.
#ifndef HTTP_H
#define HTTP_H

#include "base.h"

struct event_base;

typedef struct HttpServer HttpServer;
typedef struct HttpRequest HttpRequest; // from the handler's call to its reply

// ---- why a request is not served ----------------------------------------------------------------

typedef struct Refusal {
    int status;       // of HTTP
    const char *code; // of OpenAI's error object; NULL: null
    char param[64];   // the field that is wrong; "": null
    char message[512];
} Refusal;

// Fills *why (printf style) and returns false. param may be NULL.
bool refusal_set(Refusal *why, int status, const char *code, const char *param, const char *format,
                 ...) __attribute__((format(printf, 5, 6)));
// {"error":{"message","type","param","code"}}; the caller frees it. NULL: no memory.
char *refusal_json(const Refusal *why);

// ---- the server ---------------------------------------------------------------------------------

enum { HTTP_GET = 1, HTTP_POST = 2 };

enum {
    HTTP_MAX_HEADER_BYTES = 32 << 10, // with the request's line
    HTTP_MAX_BODY_BYTES = 32 << 20,
};

typedef struct HttpRoute {
    const char *path; // found with and without /v1 before it; one that ends with '/' is the start
                      // of the paths that it stands for
    unsigned methods; // HTTP_GET (HEAD too), HTTP_POST
    bool open;        // needs no key
    // path: what follows the route's, decoded. body lives until the handler returns. Ends, now or
    // later, with one of the replies below.
    void (*handle)(void *user, HttpRequest *r, const char *path, Bytes body);
} HttpRoute;

typedef struct HttpOptions {
    const char *host;
    int port;                // 0: any free one
    const char *api_key;     // NULL: none is asked for
    int64_t max_connections; // more wait to be accepted; lowered to what the process may open
    double client_seconds;   // for a client to send a request, and without progress on either side
    const HttpRoute *routes; // [route_count]; outlives the server
    int route_count;
    void *user; // of the handlers
} HttpOptions;

// Listens when it returns. ERR_USAGE: the address cannot be had.
bool http_open(HttpServer **out, struct event_base *base, const HttpOptions *o, Error *err);
int http_port(const HttpServer *s);
int64_t http_connections(const HttpServer *s);
int64_t http_requests(const HttpServer *s); // handled, and not yet replied to
// No new connections; those that are open are closed after the reply that they wait for.
void http_stop(HttpServer *s);
void http_close(HttpServer *s);

// ---- replies ------------------------------------------------------------------------------------

// Called when the client goes away before the reply is complete; r is gone then.
void http_on_close(HttpRequest *r, void (*closed)(void *user), void *user);
void http_header(HttpRequest *r, const char *name, const char *value);
// A whole reply, after which r is gone.
void http_reply(HttpRequest *r, int status, const char *content_type, Bytes body);
void http_refuse(HttpRequest *r, const Refusal *why);
// A reply in parts (server-sent events), after whose end r is gone.
void http_stream_start(HttpRequest *r);
void http_stream_write(HttpRequest *r, Bytes text);
void http_stream_end(HttpRequest *r);
// The connection is cut, without a reply.
void http_drop(HttpRequest *r);

#endif
