// The connections of an evhttp server: how many there are, how long they may take, whether the
// client is still there. evhttp itself knows none of this.
#ifndef HTTP_CONNECTIONS_H
#define HTTP_CONNECTIONS_H

#include "base.h"

struct event_base;
struct evhttp;
struct evhttp_connection;
struct evconnlistener;

typedef struct Connections Connections;

typedef struct ConnectionsOptions {
    int64_t most;
    double client_seconds;
    void (*gone)(void *request); // a client has closed its end while `request` was in work
} ConnectionsOptions;

// Watches all connections of `http`, accepted by `listener`.
bool connections_open(Connections **out, struct event_base *base, struct evhttp *http,
                      struct evconnlistener *listener, const ConnectionsOptions *o, Error *err);
// After the server's end.
void connections_close(Connections *c);
int64_t connections_count(const Connections *c);
void connections_stop(Connections *c); // the listener is closed: nothing new is accepted
// A request of this connection has been received; until connections_done it may take any time.
void connections_busy(Connections *c, struct evhttp_connection *e, void *request);
void connections_done(Connections *c, struct evhttp_connection *e);

#endif
