// What cache.c (looking up and storing) and cache_command.c (listing and keeping house) share.
#ifndef CACHE_H
#define CACHE_H

#include "compile.h"

enum { CACHE_VERSION = 1, CACHE_NAME_BYTES = 40 };

#define CACHE_MAGIC  "GPTQCCH\n"
#define CACHE_SUFFIX ".entry"
#define CACHE_TEMP   ".temp" // suffix of files that are being written

// An entry file: this, then the key text, then the image.
typedef struct EntryHeader {
    char magic[8];
    uint32_t version;
    uint32_t reserved;
    uint64_t key_size, image_size;
    uint64_t check[2]; // XXH3-128 of key text and image
} EntryHeader;

struct Cache {
    CacheMode mode;
    const char *dir; // NULL: no folder, nothing is found or kept
    int fd;          // of the folder; closed by the end of the process
    bool warned;     // one warning per run is enough
};

// True if `file` is a whole and undamaged entry; then *key and *image lie in it.
bool entry_parse(Bytes file, Bytes *key, Bytes *image);
// "0123456789abcdef0123456789abcdef.entry"
void entry_name(char out[CACHE_NAME_BYTES], Bytes key);
// The whole file, from malloc: the caller frees .data. data == NULL: cannot be read.
Bytes entry_load(const Cache *c, const char *name);
// Writes the file under its final name or not at all. `why`: what failed.
bool entry_store(const Cache *c, const char *name, const Bytes *parts, int part_count,
                 const char **why);
// One writer at a time; false: somebody has held it for too long. The folder itself is locked, so a
// process that dies lets go. Returns the descriptor that holds the lock, -1: none.
int cache_lock(const Cache *c);
void cache_unlock(int lock);

#endif
