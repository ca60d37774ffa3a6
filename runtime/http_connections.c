// Connections of an evhttp server, looked at four times a second.
//
// evhttp bounds the time without progress, not the time that a request takes to arrive; it reads
// nothing while a request is in work, so it does not see that a client has left; and it counts
// nothing. We make each connection's bufferevent and keep a reference, which tells us everything:
// evhttp takes its callbacks away when it drops the connection. The socket is closed with the last
// reference, so its number is not used anew while libevent still knows it.
//
// A request that is refused before it is whole (413 and the like) has its reply while the client
// still sends. Closing then would reset the connection: the client's next write fails, and it may
// never read why. So what comes is read and thrown away for a while, until the client closes its
// end.
#include "http_connections.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/listener.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { SWEEP_MS = 250, REST_MAX_BYTES = 256 << 20 };

typedef struct Connection {
    struct bufferevent *stream; // one reference is ours
    double started; // when the first byte of a request came; 0: none has, or the request is whole
    void *request;  // in work; NULL: none
    struct event *rest; // of what comes after the refusal of a request; NULL: not waited for
    int64_t rest_bytes; // that have come
    double refused;     // when the wait began
    struct Connection *next;
} Connection;

struct Connections {
    struct event_base *base;
    struct evconnlistener *listener; // NULL: stopped
    struct event *timer;
    ConnectionsOptions options;
    Connection *first;
    int64_t count;
    struct pollfd *polls; // [poll_room], of requests in work
    Connection **polled;  // [poll_room]
    int64_t poll_room;
};

static bool dropped(const Connection *c) {
    bufferevent_data_cb read, write;
    bufferevent_event_cb event;
    void *user;
    bufferevent_getcb(c->stream, &read, &write, &event, &user);
    return !event;
}

static void input_came(struct evbuffer *input, const struct evbuffer_cb_info *change, void *user) {
    Connection *c = user;
    (void)input;
    if (change->n_added && !c->request && c->started == 0)
        c->started = clock_seconds();
}

static struct bufferevent *stream_make(struct event_base *base, void *user) {
    Connections *all = user;
    Connection *c = calloc(1, sizeof *c);
    struct bufferevent *stream = c ? bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE) : NULL;
    if (!stream) {
        free(c);
        return NULL; // evhttp makes its own, which nobody watches
    }
    bufferevent_incref(stream);
    c->stream = stream;
    c->next = all->first;
    all->first = c;
    evbuffer_add_cb(bufferevent_get_input(stream), input_came, c);
    if (++all->count >= all->options.most && all->listener)
        evconnlistener_disable(all->listener);
    return stream;
}

static void connection_release(Connections *all, Connection **at) {
    Connection *c = *at;
    *at = c->next;
    if (c->rest)
        event_free(c->rest);
    evbuffer_remove_cb(bufferevent_get_input(c->stream), input_came, c);
    bufferevent_decref(c->stream);
    free(c);
    all->count--;
}

// ---- the rest of a refused request --------------------------------------------------------------

static void rest_came(evutil_socket_t fd, short what, void *user) {
    Connection *c = user;
    char waste[1 << 16];
    ssize_t size = recv(fd, waste, sizeof waste, MSG_DONTWAIT);
    (void)what;
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    c->rest_bytes += size;
    if (size <= 0 || c->rest_bytes > REST_MAX_BYTES)
        event_del(c->rest); // the next sweep closes
}

// Is a dropped connection kept for what its client still sends?
static bool rest_awaited(const Connections *all, Connection *c, double now) {
    if (!c->rest && (c->request || c->started == 0))
        return false; // no request was under way
    if (!c->rest) {
        c->refused = now;
        c->rest =
            event_new(all->base, bufferevent_getfd(c->stream), EV_READ | EV_PERSIST, rest_came, c);
        return c->rest && event_add(c->rest, NULL) == 0;
    }
    return event_pending(c->rest, EV_READ, NULL) && now - c->refused < all->options.client_seconds;
}

// ---- what is looked at --------------------------------------------------------------------------

// Requests whose clients have closed their end. One system call for all of them.
static void gone_find(Connections *all) {
    int64_t count = 0;
    for (Connection *c = all->first; c && count < all->poll_room; c = c->next) {
        if (!c->request || dropped(c))
            continue;
        all->polls[count] =
            (struct pollfd){.fd = bufferevent_getfd(c->stream), .events = POLLRDHUP};
        all->polled[count++] = c;
    }
    if (!count || poll(all->polls, (nfds_t)count, 0) <= 0)
        return;
    for (int64_t at = 0; at < count; at++) {
        Connection *c = all->polled[at];
        void *request = c->request;
        if (all->polls[at].revents && request && !dropped(c))
            all->options.gone(request);
    }
}

static void sweep(evutil_socket_t fd, short what, void *user) {
    Connections *all = user;
    double now = clock_seconds();
    (void)fd, (void)what;
    for (Connection **at = &all->first; *at;) {
        Connection *c = *at;
        if (dropped(c)) {
            if (rest_awaited(all, c, now))
                at = &c->next;
            else
                connection_release(all, at);
            continue;
        }
        if (!c->request && c->started != 0 && now - c->started > all->options.client_seconds)
            shutdown(bufferevent_getfd(c->stream), SHUT_RDWR); // evhttp sees its end
        at = &c->next;
    }
    gone_find(all);
    if (all->listener && all->count < all->options.most)
        evconnlistener_enable(all->listener);
}

// No descriptor is left, or the like: without a pause the loop would spin.
static void accept_failed(struct evconnlistener *listener, void *user) {
    (void)user;
    evconnlistener_disable(listener);
}

bool connections_open(Connections **out, struct event_base *base, struct evhttp *http,
                      struct evconnlistener *listener, const ConnectionsOptions *o, Error *err) {
    Connections *all = calloc(1, sizeof *all);
    *out = all;
    if (!all)
        return fail(err, ERR_RESOURCE, 1150, "no memory for connections");
    *all = (Connections){.base = base, .listener = listener, .options = *o, .poll_room = o->most};
    all->polls = calloc((size_t)o->most, sizeof *all->polls);
    all->polled = calloc((size_t)o->most, sizeof(Connection *));
    all->timer = event_new(base, -1, EV_PERSIST, sweep, all);
    if (!all->polls || !all->polled || !all->timer)
        return fail(err, ERR_RESOURCE, 1151, "no memory for %lld connections", (long long)o->most);
    const struct timeval pause = {.tv_usec = SWEEP_MS * 1000};
    event_add(all->timer, &pause);
    evconnlistener_set_error_cb(listener, accept_failed);
    evhttp_set_bevcb(http, stream_make, all);
    return true;
}

void connections_close(Connections *all) {
    if (!all)
        return;
    if (all->timer)
        event_free(all->timer);
    while (all->first)
        connection_release(all, &all->first);
    free(all->polls);
    free(all->polled);
    free(all);
}

int64_t connections_count(const Connections *all) {
    int64_t count = 0;
    for (const Connection *c = all->first; c; c = c->next)
        count += !dropped(c);
    return count;
}

void connections_stop(Connections *all) {
    all->listener = NULL;
}

static Connection *connection_find(const Connections *all, struct evhttp_connection *e) {
    struct bufferevent *stream = evhttp_connection_get_bufferevent(e);
    for (Connection *c = all->first; c; c = c->next)
        if (c->stream == stream)
            return c;
    return NULL;
}

void connections_busy(Connections *all, struct evhttp_connection *e, void *request) {
    Connection *c = connection_find(all, e);
    if (!c)
        return;
    c->request = request;
    c->started = 0;
}

void connections_done(Connections *all, struct evhttp_connection *e) {
    Connection *c = connection_find(all, e);
    if (!c)
        return;
    c->request = NULL;
    // What a client sent ahead is the beginning of the next request.
    c->started = evbuffer_get_length(bufferevent_get_input(c->stream)) ? clock_seconds() : 0;
}
