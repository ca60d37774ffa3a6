// From the scheduler's thread to the event loop: what was generated, in order.
#ifndef INBOX_H
#define INBOX_H

#include "scheduler.h"

typedef struct Inbox Inbox;

// What a request gives the scheduler as `user`; lives until its last event was taken.
typedef struct InboxPort {
    Inbox *inbox;
    void *owner;
} InboxPort;

typedef void InboxTake(void *user, void *owner, const GenerateEvent *event);

bool inbox_open(Inbox **out, Error *err);
void inbox_close(Inbox *in);
// Readable while something waits.
int inbox_file(const Inbox *in);
// A GenerateCallback; user: InboxPort.
void inbox_put(void *user, uint64_t request, const GenerateEvent *event);
// Wakes the loop, with nothing to take.
void inbox_wake(Inbox *in);
// Everything that waits. Returns false when an event was lost for want of memory: every request
// of this inbox is to be ended.
bool inbox_take(Inbox *in, InboxTake *take, void *user);

#endif
