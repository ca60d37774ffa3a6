// The server around evhttp: finds the route, asks for the key, answers.
//
// evhttp parses HTTP, bounds headers and bodies and writes what the socket takes; http_connections.c
// watches over slow and absent clients. A request is ours from the route's handler to its reply; a
// client that leaves before ends it (HttpRequest.closed). What is not HTTP at all, and what is too
// large, evhttp refuses before it gets here (http_refusal.c has the words).
#include "http.h"

#include "http_connections.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    BACKLOG = 4096,
    SPARE_FILES = 64, // of the process, besides connections
};

struct HttpServer {
    struct evhttp *http;
    struct evconnlistener *listener; // owner: evhttp once it is bound
    bool bound;
    Connections *connections;
    HttpOptions options;
    int port;
    int64_t requests;
    bool stopping;
};

struct HttpRequest {
    HttpServer *server;
    struct evhttp_request *request;
    struct evbuffer *part; // of a stream
    void (*closed)(void *user);
    void *user;
    bool head; // the body is left out
};

// ---- replies ------------------------------------------------------------------------------------

// The request is ours no more: evhttp sends what it has.
static void request_release(HttpRequest *r) {
    struct evhttp_connection *e = evhttp_request_get_connection(r->request);
    if (e) {
        evhttp_connection_set_closecb(e, NULL, NULL);
        connections_done(r->server->connections, e);
    }
    r->server->requests--;
    if (r->part)
        evbuffer_free(r->part);
    free(r);
}

// evhttp drops the connection: a time-out, or a write that failed.
static void connection_closed(struct evhttp_connection *e, void *user) {
    HttpRequest *r = user;
    struct evhttp_request *request = r->request;
    bool orphan = evhttp_request_get_connection(request) == NULL;
    connections_done(r->server->connections, e);
    r->server->requests--;
    if (r->closed)
        r->closed(r->user);
    if (r->part)
        evbuffer_free(r->part);
    free(r);
    if (orphan)
        evhttp_request_free(request); // else the connection does
}

void http_drop(HttpRequest *r) {
    r->closed = NULL;
    evhttp_connection_free(evhttp_request_get_connection(r->request));
}

static void client_gone(void *request) {
    HttpRequest *r = request;
    evhttp_connection_free(evhttp_request_get_connection(r->request));
}

void http_on_close(HttpRequest *r, void (*closed)(void *user), void *user) {
    r->closed = closed;
    r->user = user;
}

void http_header(HttpRequest *r, const char *name, const char *value) {
    evhttp_add_header(evhttp_request_get_output_headers(r->request), name, value);
}

static void headers_common(HttpRequest *r, const char *content_type) {
    http_header(r, "Access-Control-Allow-Origin", "*");
    if (content_type)
        http_header(r, "Content-Type", content_type);
    if (r->server->stopping)
        http_header(r, "Connection", "close");
}

void http_reply(HttpRequest *r, int status, const char *content_type, Bytes body) {
    struct evbuffer *out = evbuffer_new();
    struct evhttp_request *request = r->request;
    headers_common(r, content_type);
    if (!out || (!r->head && body.size && evbuffer_add(out, body.data, body.size) != 0)) {
        if (out)
            evbuffer_free(out);
        http_drop(r);
        return;
    }
    if (r->head) {
        char size[24];
        snprintf(size, sizeof size, "%zu", body.size);
        http_header(r, "Content-Length", size);
    }
    request_release(r);
    evhttp_send_reply(request, status, NULL, out);
    evbuffer_free(out);
}

void http_refuse(HttpRequest *r, const Refusal *why) {
    char *json = refusal_json(why);
    if (why->status == 429 || why->status == 503)
        http_header(r, "Retry-After", "1");
    if (why->status == 401)
        http_header(r, "WWW-Authenticate", "Bearer");
    if (json)
        http_reply(r, why->status, "application/json",
                   (Bytes){(unsigned char *)json, strlen(json)});
    else
        http_drop(r);
    free(json);
}

void http_stream_start(HttpRequest *r) {
    r->part = evbuffer_new();
    headers_common(r, "text/event-stream; charset=utf-8");
    http_header(r, "Cache-Control", "no-cache");
    http_header(r, "X-Accel-Buffering", "no");
    evhttp_send_reply_start(r->request, 200, NULL);
}

void http_stream_write(HttpRequest *r, Bytes text) {
    if (r->part && evbuffer_add(r->part, text.data, text.size) == 0)
        evhttp_send_reply_chunk(r->request, r->part);
}

void http_stream_end(HttpRequest *r) {
    struct evhttp_request *request = r->request;
    request_release(r);
    evhttp_send_reply_end(request);
}

// ---- requests -----------------------------------------------------------------------------------

// Does the client name the key? Its time depends on the lengths only.
static bool key_matches(const HttpServer *s, struct evhttp_request *request) {
    static const char scheme[] = "Bearer ";
    const char *given =
        evhttp_find_header(evhttp_request_get_input_headers(request), "Authorization");
    const char *key = s->options.api_key;
    if (!given || strncasecmp(given, scheme, sizeof scheme - 1) != 0)
        return false;
    given += sizeof scheme - 1;
    size_t size = strlen(given), key_size = strlen(key);
    volatile unsigned difference = size != key_size;
    for (size_t at = 0; at < size; at++)
        difference |= (unsigned char)given[at] ^ (unsigned char)key[at % (key_size + 1)];
    return !difference;
}

static const HttpRoute *route_find(const HttpServer *s, const char *path) {
    const char *plain = strncmp(path, "/v1/", 4) == 0 ? path + 3 : path;
    for (int at = 0; at < s->options.route_count; at++) {
        const HttpRoute *route = &s->options.routes[at];
        size_t size = strlen(route->path);
        bool prefix = size > 1 && route->path[size - 1] == '/';
        if (prefix ? strncmp(plain, route->path, size) == 0 && plain[size]
                   : strcmp(plain, route->path) == 0)
            return route;
    }
    return NULL;
}

// What a browser asks before it sends a request to another origin.
static void preflight(HttpRequest *r) {
    const char *wanted = evhttp_find_header(evhttp_request_get_input_headers(r->request),
                                            "Access-Control-Request-Headers");
    http_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    http_header(r, "Access-Control-Allow-Headers", wanted ? wanted : "Authorization, Content-Type");
    http_header(r, "Access-Control-Max-Age", "86400");
    http_reply(r, 204, NULL, (Bytes){NULL, 0});
}

static void request_route(HttpRequest *r, const char *path) {
    HttpServer *s = r->server;
    Refusal why;
    enum evhttp_cmd_type command = evhttp_request_get_command(r->request);
    const HttpRoute *route = route_find(s, path);
    r->head = command == EVHTTP_REQ_HEAD;
    unsigned method = command == EVHTTP_REQ_GET || r->head ? HTTP_GET
                      : command == EVHTTP_REQ_POST         ? HTTP_POST
                                                           : 0;
    if (command == EVHTTP_REQ_OPTIONS) {
        preflight(r);
    } else if (s->options.api_key && !(route && route->open) && !key_matches(s, r->request)) {
        refusal_set(&why, 401, "invalid_api_key", NULL,
                    "this server wants its key: Authorization: Bearer KEY");
        http_refuse(r, &why);
    } else if (!route) {
        refusal_set(&why, 404, "unknown_url", NULL, "there is nothing at %s", path);
        http_refuse(r, &why);
    } else if (!(route->methods & method)) {
        refusal_set(&why, 405, "method_not_allowed", NULL, "%s takes %s only", path,
                    route->methods & HTTP_GET ? "GET" : "POST");
        http_header(r, "Allow", route->methods & HTTP_GET ? "GET, HEAD, OPTIONS" : "POST, OPTIONS");
        http_refuse(r, &why);
    } else if (s->stopping && !route->open) {
        refusal_set(&why, 503, "shutting_down", NULL, "the server is shutting down");
        http_refuse(r, &why);
    } else {
        const char *plain = strncmp(path, "/v1/", 4) == 0 ? path + 3 : path;
        size_t fixed = strlen(route->path);
        char *rest = evhttp_uridecode(strlen(plain) > fixed ? plain + fixed : "", 0, NULL);
        struct evbuffer *input = evhttp_request_get_input_buffer(r->request);
        size_t size = evbuffer_get_length(input);
        route->handle(s->options.user, r, rest ? rest : "",
                      (Bytes){size ? evbuffer_pullup(input, -1) : NULL, size});
        free(rest);
    }
}

static void request_came(struct evhttp_request *request, void *user) {
    HttpServer *s = user;
    struct evhttp_connection *e = evhttp_request_get_connection(request);
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(request));
    HttpRequest *r = calloc(1, sizeof *r);
    if (!r) {
        evhttp_connection_free(e);
        return;
    }
    *r = (HttpRequest){.server = s, .request = request};
    s->requests++;
    connections_busy(s->connections, e, r);
    evhttp_connection_set_closecb(e, connection_closed, r);
    request_route(r, path && path[0] ? path : "/");
}

// ---- open, close --------------------------------------------------------------------------------

// So many connections, or what the process may open.
static int64_t connections_allowed(int64_t wanted) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return wanted;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_NOFILE, &files);
    int64_t room = files.rlim_cur > INT32_MAX ? INT32_MAX : (int64_t)files.rlim_cur;
    room = room > 2 * SPARE_FILES ? room - SPARE_FILES : room / 2;
    return wanted < room ? wanted : room;
}

static bool listen_at(HttpServer *s, struct event_base *base, Error *err) {
    const HttpOptions *o = &s->options;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", o->port);
    int code = getaddrinfo(o->host, port, &hints, &found);
    if (code)
        return fail(err, ERR_USAGE, 1152, "--host %s: %s", o->host, gai_strerror(code));
    for (struct addrinfo *at = found; at && !s->listener; at = at->ai_next)
        s->listener = evconnlistener_new_bind(
            base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_EXEC,
            BACKLOG, at->ai_addr, (int)at->ai_addrlen);
    code = errno;
    freeaddrinfo(found);
    if (!s->listener)
        return fail(err, ERR_USAGE, 1153, "cannot listen on %s port %d: %s; --port gives another",
                    o->host, o->port, strerror(code));
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    // Taken over by every connection: small parts of a stream are to leave at once.
    setsockopt(evconnlistener_get_fd(s->listener), IPPROTO_TCP, TCP_NODELAY, &(int){1},
               sizeof(int));
    getsockname(evconnlistener_get_fd(s->listener), (struct sockaddr *)&address, &size);
    s->port =
        ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&address)->sin6_port
                                            : ((struct sockaddr_in *)(void *)&address)->sin_port);
    return true;
}

static bool server_start(HttpServer *s, struct event_base *base, Error *err) {
    HttpOptions *o = &s->options;
    TRY(listen_at(s, base, err));
    s->http = evhttp_new(base);
    if (!s->http)
        return fail(err, ERR_RESOURCE, 1154, "no memory for the server");
    o->max_connections = connections_allowed(o->max_connections);
    ConnectionsOptions watch = {
        .most = o->max_connections, .client_seconds = o->client_seconds, .gone = client_gone};
    TRY(connections_open(&s->connections, base, s->http, s->listener, &watch, err));
    struct timeval timeout = {
        .tv_sec = (time_t)o->client_seconds,
        .tv_usec = (suseconds_t)((o->client_seconds - (double)(time_t)o->client_seconds) * 1e6)};
    evhttp_set_timeout_tv(s->http, &timeout);
    evhttp_set_max_headers_size(s->http, HTTP_MAX_HEADER_BYTES);
    evhttp_set_max_body_size(s->http, HTTP_MAX_BODY_BYTES);
    evhttp_set_default_content_type(s->http, NULL);
    evhttp_set_allowed_methods(s->http, UINT16_MAX);
    evhttp_set_gencb(s->http, request_came, s);
    s->bound = evhttp_bind_listener(s->http, s->listener) != NULL;
    return s->bound || fail(err, ERR_RESOURCE, 1155, "no memory for the listener");
}

bool http_open(HttpServer **out, struct event_base *base, const HttpOptions *o, Error *err) {
    HttpServer *s = calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return fail(err, ERR_RESOURCE, 1156, "no memory for the HTTP server");
    s->options = *o;
    if (server_start(s, base, err))
        return true;
    http_close(s);
    *out = NULL;
    return false;
}

int http_port(const HttpServer *s) {
    return s->port;
}

int64_t http_connections(const HttpServer *s) {
    return connections_count(s->connections);
}

int64_t http_requests(const HttpServer *s) {
    return s->requests;
}

static void bound_found(struct evhttp_bound_socket *bound, void *user) {
    *(struct evhttp_bound_socket **)user = bound;
}

void http_stop(HttpServer *s) {
    struct evhttp_bound_socket *bound = NULL;
    if (s->stopping)
        return;
    s->stopping = true;
    connections_stop(s->connections);
    evhttp_foreach_bound_socket(s->http, bound_found, &bound);
    if (bound)
        evhttp_del_accept_socket(s->http, bound); // closes the listener
    s->listener = NULL;
}

void http_close(HttpServer *s) {
    if (!s)
        return;
    if (s->http)
        evhttp_free(s->http); // with its connections
    if (s->listener && !s->bound)
        evconnlistener_free(s->listener);
    connections_close(s->connections);
    free(s);
}
