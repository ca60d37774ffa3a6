// gptq-compile cache ls|stat|prune|export|import: keeping house in the folder of cache.c.
//
// An export is a list of whole entry files behind a short header, so that a machine without NVRTC
// can compile with what another one compiled. Entries are checked one by one on the way in, but a
// checksum is no signature: import what you trust, it runs on your GPU.
#include "cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EXPORT_MAGIC "GPTQCEX\n"

enum { EXPORT_VERSION = 1, SECONDS_PER_DAY = 86400 };

typedef struct ExportHeader {
    char magic[8];
    uint32_t version;
    uint32_t count;
} ExportHeader;

typedef struct Item {
    char name[CACHE_NAME_BYTES];
    int64_t bytes;
    time_t used;
} Item;

typedef struct Items {
    Item *items;
    int count;
    int64_t bytes;
} Items;

typedef struct CacheOptions {
    const char *verb, *dir, *file;
    int64_t max_bytes; // -1: not given
    int64_t days;      // -1: not given
} CacheOptions;

static const char help_text[] =
    "gptq-compile cache ls                     entries, least recently used first\n"
    "gptq-compile cache stat                   folder, number and size of the entries\n"
    "gptq-compile cache prune                  removes damaged entries, and\n"
    "    --older-than DAYS                     those not used for so long\n"
    "    --max-bytes N[K|M|G]                  the least recently used beyond this size\n"
    "gptq-compile cache export FILE            writes all entries to one file\n"
    "gptq-compile cache import FILE            takes entries from such a file: only from those "
    "whom\n"
    "                                          you trust, since kernels run on your GPU\n"
    "    --cache-dir DIR                       not the default folder ($GPTQ_COMPILE_CACHE,\n"
    "                                          $XDG_CACHE_HOME/gptq-compile, "
    "~/.cache/gptq-compile)\n";

// ---- listing ------------------------------------------------------------------------------------

static int item_order(const void *left, const void *right) {
    const Item *a = left, *b = right;
    if (a->used != b->used)
        return a->used < b->used ? -1 : 1;
    return strcmp(a->name, b->name);
}

static bool is_entry(const char *name) {
    size_t size = strlen(name), suffix = strlen(CACHE_SUFFIX);
    return size == 32 + suffix && strcmp(name + 32, CACHE_SUFFIX) == 0;
}

static bool items_read(Items *out, const Cache *c, Arena *a, Error *err) {
    *out = (Items){0};
    if (!c->dir)
        return true;
    int fd = openat(c->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd >= 0 ? fdopendir(fd) : NULL;
    if (!folder)
        return fail(err, ERR_INTERNAL, 524, "cache %s: cannot list it: %s", c->dir,
                    strerror(errno));
    int capacity = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        struct stat info;
        if (!is_entry(entry->d_name) || fstatat(c->fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW))
            continue;
        out->items = array_grow(a, out->items, out->count, &capacity, sizeof *out->items);
        Item *item = &out->items[out->count++];
        *item = (Item){.bytes = info.st_size, .used = info.st_mtime};
        memcpy(item->name, entry->d_name, strlen(entry->d_name) + 1);
        out->bytes += info.st_size;
    }
    closedir(folder);
    if (out->count)
        qsort(out->items, (size_t)out->count, sizeof *out->items, item_order);
    return true;
}

// The lines of a key that tell what it is, on one line.
static void key_describe(Bytes key, char *out, size_t size) {
    static const char *const words[] = {"nvrtc ", "option --gpu-architecture=", "source "};
    size_t used = 0;
    out[0] = 0;
    for (size_t at = 0; at < key.size && used + 1 < size;) {
        const char *line = (const char *)key.data + at;
        const char *end = memchr(line, '\n', key.size - at);
        size_t length = end ? (size_t)(end - line) : key.size - at;
        bool told = at == 0;
        size_t skip = 0;
        for (size_t word = 0; word < sizeof words / sizeof *words; word++)
            if (length > strlen(words[word]) &&
                memcmp(line, words[word], strlen(words[word])) == 0) {
                told = true;
                skip = word == 1 ? strlen(words[word]) : 0;
            }
        if (told) {
            char text[96];
            text_escape(text, sizeof text, line + skip, length - skip);
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? " " : "", text);
        }
        if (at > 0 && length > 7 && memcmp(line, "source ", 7) == 0)
            break;
        at += length + 1;
    }
}

static bool command_ls(const CacheOptions *o, const Cache *c, Arena *a, Error *err) {
    (void)o;
    Items all;
    TRY(items_read(&all, c, a, err));
    for (int at = 0; at < all.count; at++) {
        Bytes file = entry_load(c, all.items[at].name), key, image;
        char what[256] = "damaged", when[32] = "";
        struct tm day;
        if (file.data && entry_parse(file, &key, &image))
            key_describe(key, what, sizeof what);
        if (gmtime_r(&all.items[at].used, &day))
            strftime(when, sizeof when, "%Y-%m-%d", &day);
        printf("%.32s %9lld %s %s\n", all.items[at].name, (long long)all.items[at].bytes, when,
               what);
        free((void *)(uintptr_t)file.data);
    }
    return true;
}

static bool command_stat(const CacheOptions *o, const Cache *c, Arena *a, Error *err) {
    (void)o;
    Items all;
    TRY(items_read(&all, c, a, err));
    int damaged = 0;
    for (int at = 0; at < all.count; at++) {
        Bytes file = entry_load(c, all.items[at].name), key, image;
        damaged += !(file.data && entry_parse(file, &key, &image));
        free((void *)(uintptr_t)file.data);
    }
    printf("folder   %s\nentries  %d\nbytes    %lld\ndamaged  %d\n", c->dir ? c->dir : "none",
           all.count, (long long)all.bytes, damaged);
    return true;
}

// ---- pruning ------------------------------------------------------------------------------------

static bool command_prune(const CacheOptions *o, const Cache *c, Arena *a, Error *err) {
    Items all;
    TRY(items_read(&all, c, a, err));
    int lock = c->dir ? cache_lock(c) : -1;
    if (c->dir && lock < 0)
        return fail(err, ERR_RESOURCE, 525, "cache %s: another process keeps it locked", c->dir);
    time_t now = time(NULL);
    int64_t bytes = all.bytes, removed_bytes = 0;
    int removed = 0;
    for (int at = 0; at < all.count; at++) {
        Item *item = &all.items[at];
        Bytes file = entry_load(c, item->name), key, image;
        bool bad = !(file.data && entry_parse(file, &key, &image));
        bool old = o->days >= 0 && now - item->used > o->days * SECONDS_PER_DAY;
        free((void *)(uintptr_t)file.data);
        if ((bad || old || (o->max_bytes >= 0 && bytes > o->max_bytes)) &&
            unlinkat(c->fd, item->name, 0) == 0) {
            bytes -= item->bytes;
            removed_bytes += item->bytes;
            removed++;
        }
    }
    cache_unlock(lock);
    printf("removed %d entries, %lld bytes; kept %d, %lld bytes\n", removed,
           (long long)removed_bytes, all.count - removed, (long long)bytes);
    return true;
}

// ---- export and import --------------------------------------------------------------------------

static bool export_write(FILE *out, const Items *all, const Cache *c, uint32_t *count) {
    for (int at = 0; at < all->count; at++) {
        Bytes file = entry_load(c, all->items[at].name), key, image;
        bool written = true;
        if (file.data && entry_parse(file, &key, &image)) {
            uint64_t size = file.size;
            written = fwrite(&size, sizeof size, 1, out) == 1 &&
                      fwrite(file.data, 1, file.size, out) == file.size;
            *count += 1;
        }
        free((void *)(uintptr_t)file.data);
        if (!written)
            return false;
    }
    return true;
}

static bool command_export(const CacheOptions *o, const Cache *c, Arena *a, Error *err) {
    Items all;
    TRY(items_read(&all, c, a, err));
    const char *temp = arena_printf(a, "%s.%ld" CACHE_TEMP, o->file, (long)getpid());
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    FILE *out = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!out)
        return fail(err, ERR_RESOURCE, 526, "%s: cannot be written: %s", temp, strerror(errno));
    ExportHeader h = {.magic = EXPORT_MAGIC, .version = EXPORT_VERSION};
    bool done = fwrite(&h, sizeof h, 1, out) == 1 && export_write(out, &all, c, &h.count) &&
                fseek(out, 0, SEEK_SET) == 0 && fwrite(&h, sizeof h, 1, out) == 1 &&
                fflush(out) == 0 && fsync(fd) == 0;
    done = fclose(out) == 0 && done && rename(temp, o->file) == 0;
    if (!done) {
        int error = errno;
        unlink(temp);
        return fail(err, ERR_RESOURCE, 527, "%s: cannot be written: %s", o->file, strerror(error));
    }
    printf("exported %u entries to %s\n", h.count, o->file);
    return true;
}

// Takes one entry out of `rest` and stores it.
static bool import_one(const CacheOptions *o, const Cache *c, Bytes *rest, Error *err) {
    uint64_t size;
    Bytes key, image;
    if (rest->size >= sizeof size) {
        memcpy(&size, rest->data, sizeof size);
        Bytes file = {rest->data + sizeof size, (size_t)size};
        if (size <= rest->size - sizeof size && entry_parse(file, &key, &image)) {
            char name[CACHE_NAME_BYTES];
            const char *why;
            entry_name(name, key);
            if (!entry_store(c, name, &file, 1, &why))
                return fail(err, ERR_RESOURCE, 528, "cache %s: cannot be written: %s", c->dir, why);
            *rest = (Bytes){file.data + file.size, rest->size - sizeof size - file.size};
            return true;
        }
    }
    return fail(err, ERR_CORRUPT, 529,
                "%s: damaged %zu bytes before its end; entries before that are imported", o->file,
                rest->size);
}

static bool command_import(const CacheOptions *o, const Cache *c, Arena *a, Error *err) {
    Bytes rest;
    ExportHeader h;
    TRY(file_read(&rest, o->file, (size_t)1 << 32, a, err));
    if (rest.size < sizeof h || memcmp(rest.data, EXPORT_MAGIC, sizeof h.magic) != 0)
        return fail(err, ERR_CORRUPT, 530, "%s is no export of a cache (gptq-compile cache export)",
                    o->file);
    memcpy(&h, rest.data, sizeof h);
    if (h.version != EXPORT_VERSION)
        return fail(err, ERR_UNSUPPORTED, 531, "%s: export version %u, expected %d", o->file,
                    h.version, EXPORT_VERSION);
    if (!c->dir)
        return fail(err, ERR_RESOURCE, 532,
                    "no cache folder to import into; name one with --cache-dir");
    rest = (Bytes){rest.data + sizeof h, rest.size - sizeof h};
    int lock = cache_lock(c);
    if (lock < 0)
        return fail(err, ERR_RESOURCE, 533, "cache %s: another process keeps it locked", c->dir);
    bool done = true;
    uint32_t taken = 0;
    for (; taken < h.count && done; taken++)
        done = import_one(o, c, &rest, err);
    cache_unlock(lock);
    if (done)
        printf("imported %u entries from %s\n", taken, o->file);
    return done;
}

// ---- command line -------------------------------------------------------------------------------

typedef struct Verb {
    const char *name;
    bool wants_file;
    CacheMode mode;
    bool (*run)(const CacheOptions *o, const Cache *c, Arena *a, Error *err);
} Verb;

static const Verb verbs[] = {
    {"ls", false, CACHE_READ_ONLY, command_ls},
    {"stat", false, CACHE_READ_ONLY, command_stat},
    {"prune", false, CACHE_REDO, command_prune}, // REDO: reading does not count as use
    {"export", true, CACHE_READ_ONLY, command_export},
    {"import", true, CACHE_REDO, command_import},
};

static const Verb *verb_find(const char *name) {
    for (size_t at = 0; name && at < sizeof verbs / sizeof *verbs; at++)
        if (strcmp(verbs[at].name, name) == 0)
            return &verbs[at];
    return NULL;
}

// "12", "500M"; false: no such number.
static bool number_parse(const char *text, int64_t *out) {
    static const struct {
        char letter;
        int shift;
    } units[] = {{'K', 10}, {'M', 20}, {'G', 30}};
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    int shift = 0;
    if (end == text || errno || value < 0)
        return false;
    for (size_t at = 0; at < sizeof units / sizeof *units; at++)
        if (*end == units[at].letter && !end[1])
            shift = units[at].shift;
    if ((*end && !shift) || value > INT64_MAX >> shift)
        return false;
    *out = value << shift;
    return true;
}

static bool words_parse(CacheOptions *o, int argc, char **argv, Error *err) {
    *o = (CacheOptions){.verb = argc > 2 ? argv[2] : NULL, .max_bytes = -1, .days = -1};
    for (int at = 3; at < argc; at++) {
        const char *value = at + 1 < argc ? argv[at + 1] : NULL;
        bool prune = strcmp(o->verb, "prune") == 0, good = true;
        if (strcmp(argv[at], "--cache-dir") == 0 && value)
            o->dir = argv[++at];
        else if (strcmp(argv[at], "--max-bytes") == 0 && value && prune)
            good = number_parse(argv[++at], &o->max_bytes);
        else if (strcmp(argv[at], "--older-than") == 0 && value && prune)
            good = number_parse(argv[++at], &o->days) && o->days < 1000000;
        else if (argv[at][0] != '-' && !o->file)
            o->file = argv[at];
        else
            good = false;
        if (!good)
            return fail(err, ERR_USAGE, 534,
                        "cache %s: \"%s\" is not understood; see gptq-compile "
                        "cache --help",
                        o->verb, argv[at]);
    }
    const Verb *verb = verb_find(o->verb);
    if (!verb)
        return fail(err, ERR_USAGE, 535,
                    "cache: expected ls, stat, prune, export or import, found %s",
                    o->verb ? o->verb : "nothing");
    if (verb->wants_file != (o->file != NULL))
        return fail(err, ERR_USAGE, 536, "cache %s: %s", o->verb,
                    verb->wants_file ? "name a file" : "takes no file");
    return true;
}

int cache_command(int argc, char **argv) {
    for (int at = 2; at < argc; at++)
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            fputs(help_text, stdout);
            return 0;
        }
    Error err = {0};
    Arena arena = {0};
    CacheOptions options;
    Cache *cache;
    bool done = words_parse(&options, argc, argv, &err);
    const Verb *verb = done ? verb_find(options.verb) : NULL;
    done = done && cache_open(&cache, options.dir, verb->mode, &arena, &err) &&
           verb->run(&options, cache, &arena, &err);
    if (!done)
        fprintf(stderr, "error GQC-%04d: %s\n", err.id, err.message);
    arena_free(&arena);
    return done ? 0 : (int)err.code;
}
