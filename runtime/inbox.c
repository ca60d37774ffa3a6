// Events lie one behind the other in a buffer under a lock; the loop takes the whole buffer and
// leaves its last one in place, so that nothing is allocated once both have grown. A file that
// becomes readable (eventfd) wakes the loop, once for all events of a step.
#include "inbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct Buffer {
    unsigned char *data; // owner: the inbox
    size_t size, room;
} Buffer;

// A record: this, then text, ids, logprobs, top, error, each aligned to 8.
typedef struct Record {
    GenerateEvent event; // pointers: only whether they are NULL
    void *owner;
    size_t bytes; // with all parts
} Record;

struct Inbox {
    pthread_mutex_t lock;
    Buffer filled, taken;
    int file;
    bool lost;
};

enum { PART_COUNT = 5 };

// Sizes of a record's parts, in their order.
static void parts(const GenerateEvent *e, size_t bytes[PART_COUNT]) {
    size_t ids = (size_t)e->id_count;
    const size_t sizes[PART_COUNT] = {
        e->text_size,
        ids * sizeof *e->ids,
        e->logprobs ? ids * sizeof *e->logprobs : 0,
        e->top ? ids * (size_t)e->top_count * sizeof *e->top : 0,
        e->error ? sizeof *e->error : 0,
    };
    for (int at = 0; at < PART_COUNT; at++)
        bytes[at] = (size_t)round_up(sizes[at], 8);
}

bool inbox_open(Inbox **out, Error *err) {
    Inbox *in = calloc(1, sizeof *in);
    *out = in;
    if (!in)
        return fail(err, ERR_RESOURCE, 1143, "no memory for events");
    pthread_mutex_init(&in->lock, NULL);
    in->file = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return in->file >= 0 || fail(err, ERR_RESOURCE, 1144, "eventfd: %s", strerror(errno));
}

void inbox_close(Inbox *in) {
    if (!in)
        return;
    if (in->file >= 0)
        close(in->file);
    pthread_mutex_destroy(&in->lock);
    free(in->filled.data);
    free(in->taken.data);
    free(in);
}

int inbox_file(const Inbox *in) {
    return in->file;
}

void inbox_wake(Inbox *in) {
    ssize_t written = write(in->file, &(uint64_t){1}, sizeof(uint64_t));
    (void)written; // a counter that is full wakes as well
}

static bool reserve(Buffer *b, size_t more) {
    if (b->room - b->size >= more)
        return true;
    size_t room = 2 * b->room + more + 4096;
    unsigned char *bigger = realloc(b->data, room);
    if (!bigger)
        return false;
    b->data = bigger;
    b->room = room;
    return true;
}

static void append(Buffer *b, const GenerateEvent *e, void *owner) {
    size_t bytes[PART_COUNT], total = sizeof(Record);
    const void *from[PART_COUNT] = {e->text, e->ids, e->logprobs, e->top, e->error};
    const size_t ids = (size_t)e->id_count;
    const size_t exact[PART_COUNT] = {e->text_size, ids * sizeof *e->ids, ids * sizeof *e->logprobs,
                                      ids * (size_t)e->top_count * sizeof *e->top,
                                      sizeof *e->error};
    parts(e, bytes);
    unsigned char *to = b->data + b->size + total;
    for (int at = 0; at < PART_COUNT; at++) {
        if (bytes[at])
            memcpy(to, from[at], exact[at]);
        to += bytes[at];
        total += bytes[at];
    }
    Record r = {.event = *e, .owner = owner, .bytes = total};
    memcpy(b->data + b->size, &r, sizeof r);
    b->size += total;
}

void inbox_put(void *user, uint64_t request, const GenerateEvent *event) {
    const InboxPort *port = user;
    Inbox *in = port->inbox;
    size_t bytes[PART_COUNT], total = sizeof(Record);
    (void)request;
    parts(event, bytes);
    for (int at = 0; at < PART_COUNT; at++)
        total += bytes[at];
    pthread_mutex_lock(&in->lock);
    bool first = in->filled.size == 0;
    bool kept = reserve(&in->filled, total);
    if (kept)
        append(&in->filled, event, port->owner);
    else
        in->lost = true;
    pthread_mutex_unlock(&in->lock);
    if (first || !kept)
        inbox_wake(in);
}

// The event of a record, with pointers into it.
static GenerateEvent event_of(const Record *r, unsigned char *parts_at) {
    GenerateEvent e = r->event;
    size_t bytes[PART_COUNT];
    void *to[PART_COUNT];
    parts(&e, bytes);
    for (int at = 0; at < PART_COUNT; at++) {
        to[at] = parts_at;
        parts_at += bytes[at];
    }
    e.text = to[0];
    e.ids = to[1];
    e.logprobs = e.logprobs ? to[2] : NULL;
    e.top = e.top ? to[3] : NULL;
    e.error = e.error ? to[4] : NULL;
    return e;
}

bool inbox_take(Inbox *in, InboxTake *take, void *user) {
    uint64_t count;
    ssize_t got = read(in->file, &count, sizeof count);
    (void)got; // nothing to read: somebody took it before
    pthread_mutex_lock(&in->lock);
    Buffer all = in->filled;
    in->filled = in->taken;
    in->filled.size = 0;
    bool lost = in->lost;
    in->lost = false;
    pthread_mutex_unlock(&in->lock);
    in->taken = all;
    for (size_t at = 0; at < all.size;) {
        Record r;
        memcpy(&r, all.data + at, sizeof r);
        GenerateEvent e = event_of(&r, all.data + at + sizeof r);
        take(user, r.owner, &e);
        at += r.bytes;
    }
    return !lost;
}
