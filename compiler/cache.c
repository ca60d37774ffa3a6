// Compiled kernels and host objects, kept from one compile to the next.
//
// One file per entry, named by the XXH3-128 of its key text. XXH3 is fast, not collision-proof, so
// an entry holds the whole key, which is compared, and a checksum of everything. Entries appear by
// rename, complete or not at all, so readers need no lock; writers lock the folder itself (flock),
// so that leftovers of a writer that was killed can be told from files being written. The folder
// must be private: what lies in it runs on the GPU.
//
// Nothing about a cache may stop a compile but a folder that cannot be trusted: a damaged entry is
// rebuilt, a full disk is a warning. Non-goals: a network cache, locking on file systems without
// flock.
#include "cache.h"
#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <dirent.h>

enum { ENTRY_MAX_BYTES = 1 << 28, LOCK_TRIES = 200, LOCK_PAUSE_NS = 10 * 1000 * 1000 };

// ---- entries ------------------------------------------------------------------------------------

void entry_name(char out[CACHE_NAME_BYTES], Bytes key) {
    uint64_t hash[2];
    payload_hash128(key.data, key.size, hash);
    snprintf(out, CACHE_NAME_BYTES, "%016llx%016llx" CACHE_SUFFIX, (unsigned long long)hash[1],
             (unsigned long long)hash[0]);
}

bool entry_parse(Bytes file, Bytes *key, Bytes *image) {
    EntryHeader h;
    if (file.size < sizeof h)
        return false;
    memcpy(&h, file.data, sizeof h);
    size_t rest = file.size - sizeof h;
    if (memcmp(h.magic, CACHE_MAGIC, sizeof h.magic) != 0 || h.version != CACHE_VERSION ||
        h.key_size > rest || h.image_size != rest - h.key_size)
        return false;
    uint64_t check[2];
    payload_hash128(file.data + sizeof h, rest, check);
    if (check[0] != h.check[0] || check[1] != h.check[1])
        return false;
    *key = (Bytes){file.data + sizeof h, (size_t)h.key_size};
    *image = (Bytes){key->data + key->size, (size_t)h.image_size};
    return true;
}

Bytes entry_load(const Cache *c, const char *name) {
    Bytes none = {0};
    struct stat info;
    int fd = openat(c->fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return none;
    unsigned char *data = NULL;
    size_t size = 0;
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size <= ENTRY_MAX_BYTES) {
        size = (size_t)info.st_size;
        data = malloc(size ? size : 1);
    }
    if (data && fd_read(fd, data, size, 0) < size) {
        free(data);
        data = NULL;
    }
    if (data && c->mode == CACHE_ON)
        futimens(fd, NULL); // `prune --max-bytes` removes what was not used for longest
    close(fd);
    return data ? (Bytes){data, size} : none;
}

// ---- writing ------------------------------------------------------------------------------------

int cache_lock(const Cache *c) {
    int lock = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int tries = 0; lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) != 0; tries++) {
        if (tries == LOCK_TRIES || (errno != EWOULDBLOCK && errno != EINTR)) {
            close(lock);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    return lock;
}

void cache_unlock(int lock) {
    if (lock >= 0)
        close(lock); // the last descriptor of an flock lets go
}

bool entry_store(const Cache *c, const char *name, const Bytes *parts, int part_count,
                 const char **why) {
    char temp[CACHE_NAME_BYTES + 32];
    snprintf(temp, sizeof temp, "%s.%ld" CACHE_TEMP, name, (long)getpid());
    int fd = openat(c->fd, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool done = fd >= 0;
    int64_t size = 0;
    for (int part = 0; part < part_count && done; part++) {
        done = fd_write(fd, parts[part].data, parts[part].size, size);
        size += (int64_t)parts[part].size;
    }
    done = done && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0 && close(fd) != 0 && done) {
        error = errno;
        done = false;
    }
    if (done && renameat(c->fd, temp, c->fd, name) != 0) {
        error = errno;
        done = false;
    }
    if (!done) {
        *why = strerror(error);
        if (fd >= 0)
            unlinkat(c->fd, temp, 0);
    }
    return done;
}

static void warn_once(Cache *c, const char *why) {
    if (!c->warned)
        fprintf(stderr, "warning: cache %s: %s; compiled kernels are not kept\n", c->dir, why);
    c->warned = true;
}

void cache_put(Cache *c, const char *key_text, size_t key_size, Bytes image) {
    if (!c->dir || c->mode == CACHE_OFF || c->mode == CACHE_READ_ONLY)
        return;
    Bytes key = {(const unsigned char *)key_text, key_size};
    EntryHeader h = {.magic = CACHE_MAGIC,
                     .version = CACHE_VERSION,
                     .key_size = key.size,
                     .image_size = image.size};
    unsigned char *whole = malloc(key.size + image.size + 1);
    if (!whole) {
        warn_once(c, "out of memory");
        return;
    }
    memcpy(whole, key.data, key.size);
    if (image.size)
        memcpy(whole + key.size, image.data, image.size);
    payload_hash128(whole, key.size + image.size, h.check);
    Bytes parts[] = {{(const unsigned char *)&h, sizeof h}, {whole, key.size + image.size}};
    char name[CACHE_NAME_BYTES];
    entry_name(name, key);
    const char *why = "another process has locked it";
    int lock = cache_lock(c);
    if (lock < 0 || !entry_store(c, name, parts, 2, &why))
        warn_once(c, why);
    cache_unlock(lock);
    free(whole);
}

// ---- looking up ---------------------------------------------------------------------------------

bool cache_get(Cache *c, const char *key_text, size_t key_size, Bytes *image, bool *found, Arena *a,
               Error *err) {
    (void)err;
    *found = false;
    if (!c->dir || c->mode == CACHE_OFF || c->mode == CACHE_REDO)
        return true;
    Bytes wanted = {(const unsigned char *)key_text, key_size}, key, content;
    char name[CACHE_NAME_BYTES];
    entry_name(name, wanted);
    Bytes file = entry_load(c, name);
    if (!file.data)
        return true;
    if (!entry_parse(file, &key, &content)) {
        if (c->mode == CACHE_ON)
            unlinkat(c->fd, name, 0); // at worst somebody has just repaired it: built once more
    } else if (key.size == wanted.size && memcmp(key.data, wanted.data, key.size) == 0) {
        unsigned char *copy = arena_alloc(a, content.size);
        memcpy(copy, content.data, content.size);
        *image = (Bytes){copy, content.size};
        *found = true;
    }
    free((void *)(uintptr_t)file.data);
    return true;
}

// ---- the folder ---------------------------------------------------------------------------------

// NULL: there is neither $XDG_CACHE_HOME nor $HOME.
static const char *default_dir(Arena *a) {
    const char *own = getenv("GPTQ_COMPILE_CACHE"), *xdg = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (own && *own)
        return arena_strndup(a, own, strlen(own));
    if (xdg && xdg[0] == '/')
        return arena_printf(a, "%s/gptq-compile", xdg);
    return home && home[0] == '/' ? arena_printf(a, "%s/.cache/gptq-compile", home) : NULL;
}

// Creates the folder and those above it, each for its owner only.
static bool make_dirs(const char *dir, Arena *a) {
    char *path = arena_strndup(a, dir, strlen(dir));
    for (char *at = path + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            if (mkdir(path, 0700) != 0 && errno != EEXIST)
                return false;
            *at = '/';
        }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

// Writing needs a folder of our own that nobody else can enter. For reading, it may belong to root
// and be open to all, as long as nobody else can write to it.
static bool dir_check(const char *dir, int fd, CacheMode mode, Error *err) {
    struct stat info;
    bool reading = mode == CACHE_READ_ONLY;
    if (fstat(fd, &info) != 0)
        return fail(err, ERR_INTERNAL, 520, "cache %s: %s", dir, strerror(errno));
    if (info.st_uid != geteuid() && !(reading && info.st_uid == 0))
        return fail(err, ERR_USAGE, 521,
                    "cache %s belongs to user %lu, expected %lu, who runs this compile: choose "
                    "another folder with --cache-dir, or --cache off",
                    dir, (unsigned long)info.st_uid, (unsigned long)geteuid());
    if (info.st_mode & (reading ? 022 : 077))
        return fail(err, ERR_USAGE, 522,
                    "cache %s has mode %03o, expected 700: others could plant kernels in it; chmod "
                    "700 it, choose another folder with --cache-dir, or --cache off",
                    dir, (unsigned)(info.st_mode & 0777));
    return true;
}

// Whoever is still writing holds the lock, so what is there now was left by a dead process.
static void remove_leftovers(const Cache *c) {
    int lock = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) != 0) {
        cache_unlock(lock);
        return;
    }
    int listing = dup(lock);
    DIR *folder = listing >= 0 ? fdopendir(listing) : NULL;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot && strcmp(dot, CACHE_TEMP) == 0)
            unlinkat(c->fd, entry->d_name, 0);
    }
    if (folder)
        closedir(folder);
    cache_unlock(lock);
}

bool cache_open(Cache **out, const char *dir, CacheMode mode, Arena *a, Error *err) {
    Cache *c = ARENA_NEW(a, Cache, 1);
    *c = (Cache){.mode = mode, .fd = -1};
    *out = c;
    const char *path = dir ? dir : default_dir(a);
    if (mode == CACHE_OFF || !path)
        return true;
    bool writes = mode != CACHE_READ_ONLY;
    if (writes && !make_dirs(path, a)) {
        c->dir = path;
        warn_once(c, strerror(errno));
        c->dir = NULL;
        return true;
    }
    c->fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (c->fd < 0) {
        if (errno == ENOENT)
            return true; // read-only, and nothing to read
        bool link = errno == ELOOP || errno == ENOTDIR;
        return fail(err, ERR_USAGE, 523, "cache %s: %s%s", path, strerror(errno),
                    link ? "; expected a folder, and no symbolic link" : "");
    }
    if (!dir_check(path, c->fd, mode, err)) {
        close(c->fd);
        return false;
    }
    c->dir = path;
    if (writes)
        remove_leftovers(c);
    return true;
}
