// A window of blocks that moves over the file.
#include "blocks.h"
#include "fd.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { BLOCK_BYTES = PAYLOAD_WEIGHTS_ALIGN, SLOTS_LEAST = 16, SLOTS_PER_THREAD = 2 };

typedef struct Slot {
    unsigned char *data; // [BLOCK_BYTES]
    int64_t filled;      // bytes
    bool written;
} Slot;

struct Blocks {
    int fd;
    int64_t base, bytes;
    uint64_t *checks;
    Slot *slots; // block b is in slot b % count
    int64_t count;
    int64_t first; // block of the window that is not written yet
    int error;     // errno of the first failure
    pthread_mutex_t lock;
    pthread_cond_t moved; // `first` or `error`
};

Blocks *blocks_open(int fd, int64_t base, int64_t bytes, int threads, uint64_t *checks, Arena *a) {
    Blocks *b = ARENA_NEW(a, Blocks, 1);
    *b = (Blocks){.fd = fd,
                  .base = base,
                  .bytes = bytes,
                  .checks = checks,
                  .count = SLOTS_LEAST + threads * SLOTS_PER_THREAD};
    b->slots = ARENA_NEW(a, Slot, b->count);
    for (int64_t at = 0; at < b->count; at++)
        b->slots[at].data = arena_alloc(a, BLOCK_BYTES);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->moved, NULL);
    return b;
}

int blocks_close(Blocks *b) {
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->moved);
    return b->error;
}

static int64_t block_bytes(const Blocks *b, int64_t block) {
    int64_t left = b->bytes - block * BLOCK_BYTES;
    return left < BLOCK_BYTES ? left : BLOCK_BYTES;
}

// The slot of a block, once the window has reached it. NULL: a block could not be written.
static Slot *slot_wait(Blocks *b, int64_t block) {
    pthread_mutex_lock(&b->lock);
    while (block >= b->first + b->count && !b->error)
        pthread_cond_wait(&b->moved, &b->lock);
    Slot *s = b->error ? NULL : &b->slots[block % b->count];
    pthread_mutex_unlock(&b->lock);
    return s;
}

static bool slot_fill(Blocks *b, Slot *s, int64_t block, int64_t size) {
    pthread_mutex_lock(&b->lock);
    s->filled += size;
    bool full = s->filled == block_bytes(b, block);
    pthread_mutex_unlock(&b->lock);
    return full;
}

static void block_write(Blocks *b, Slot *s, int64_t block) {
    int64_t size = block_bytes(b, block), at = block * BLOCK_BYTES;
    for (int64_t page = 0; page < size; page += PAYLOAD_PAGE_BYTES) {
        int64_t left = size - page;
        b->checks[(at + page) / PAYLOAD_PAGE_BYTES] = payload_hash64(
            s->data + page, (size_t)(left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES));
    }
    int error = fd_write(b->fd, s->data, (size_t)size, b->base + at) ? 0 : errno;
    pthread_mutex_lock(&b->lock);
    s->written = true;
    b->error = b->error ? b->error : error;
    for (Slot *f; (f = &b->slots[b->first % b->count])->written; b->first++)
        *f = (Slot){.data = f->data};
    pthread_cond_broadcast(&b->moved);
    pthread_mutex_unlock(&b->lock);
}

bool blocks_put(Blocks *b, int64_t at, const void *data, int64_t size) {
    const unsigned char *from = data;
    while (size > 0) {
        int64_t block = at / BLOCK_BYTES, offset = at % BLOCK_BYTES;
        int64_t part = size < BLOCK_BYTES - offset ? size : BLOCK_BYTES - offset;
        Slot *s = slot_wait(b, block);
        if (!s)
            return false;
        memcpy(s->data + offset, from, (size_t)part);
        if (slot_fill(b, s, block, part))
            block_write(b, s, block);
        from += part;
        at += part;
        size -= part;
    }
    return true;
}
