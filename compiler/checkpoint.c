// The weights of a checkpoint folder as one table of tensors, mapped read-only.
//
// Idea: the index decides which files belong to the model and which of two equal names counts; when
// it is stale or missing, the folder does. Order of bases and fallbacks as GPTQModel has it
// (gptqmodel/utils/model.py: get_checkpoints): `model_file_base_name` of quantize_config.json, then
// `gptq_model-*`, then `model`; of each the index before the single file; then the only
// *.safetensors file, then a complete set of `*-0000i-of-0000N.safetensors`.
//
// Non-goals: .bin and .pt files (pickles run code), downloading.
#include "compile.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char SUFFIX[] = ".safetensors";
static const char INDEX_SUFFIX[] = ".safetensors.index.json";

enum { NAME_TEXT_BYTES = 160, MAX_FILES = 100000, SHARD_DIGITS = 5 };

// Names in the folder that matter here.
typedef struct Folder {
    const char *dir;
    const char **files; // *.safetensors and *.safetensors.index.json, sorted
    int file_count, capacity;
    const char *pickle; // one .bin or .pt file, for the message
    const char *base;   // model_file_base_name, NULL: none
} Folder;

// One entry of the index.
typedef struct Place {
    const char *tensor, *file;
} Place;

// The files to map, and where the index says that each tensor is.
typedef struct Choice {
    const char **files; // [count]
    int count;
    const char *index; // its name, NULL: none
    Place *places;     // [place_count], sorted by tensor
    size_t place_count;
} Choice;

// ---- the folder ---------------------------------------------------------------------------------

static bool ends_with(const char *name, const char *suffix) {
    size_t name_size = strlen(name), suffix_size = strlen(suffix);
    return name_size > suffix_size && strcmp(name + name_size - suffix_size, suffix) == 0;
}

static bool starts_with(const char *name, const char *prefix) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static int compare_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Copies of the weights in other formats and adapters stand next to the model in some folders.
static bool is_foreign(const char *name) {
    return starts_with(name, "consolidated") || starts_with(name, "adapter_model") ||
           strstr(name, "eora") != NULL;
}

static void folder_add(Folder *f, const char *name, Arena *a) {
    f->files = array_grow(a, f->files, f->file_count, &f->capacity, sizeof *f->files);
    f->files[f->file_count++] = arena_strndup(a, name, strlen(name));
}

static bool folder_read(Folder *f, const char *dir, Arena *a, Error *err) {
    f->dir = dir;
    DIR *d = opendir(dir);
    if (!d)
        return fail(err, ERR_USAGE, 120,
                    "%s: cannot open this folder: %s; expected the folder of "
                    "a Hugging Face GPTQ checkpoint",
                    dir, strerror(errno));
    for (struct dirent *entry = readdir(d); entry && f->file_count < MAX_FILES;
         entry = readdir(d)) {
        const char *name = entry->d_name;
        if (name[0] == '.' || is_foreign(name))
            continue;
        if (ends_with(name, SUFFIX) || ends_with(name, INDEX_SUFFIX))
            folder_add(f, name, a);
        else if (ends_with(name, ".bin") || ends_with(name, ".pt") || ends_with(name, ".gguf"))
            f->pickle = arena_strndup(a, name, strlen(name));
    }
    closedir(d);
    if (f->file_count)
        qsort(f->files, (size_t)f->file_count, sizeof *f->files, compare_text);
    return true;
}

// model_file_base_name of quantize_config.json, which AutoGPTQ honours; null and "" mean none.
static bool folder_base(Folder *f, Arena *a, Error *err) {
    const char *path = arena_printf(a, "%s/quantize_config.json", f->dir);
    cJSON *json;
    bool found;
    const char *base = "";
    TRY(json_read(&json, &found, path, err));
    if (!found)
        return true;
    bool done = json_text(json, "model_file_base_name", &base, path, err);
    if (done && *base)
        f->base = arena_strndup(a, base, strlen(base));
    cJSON_Delete(json);
    return done;
}

// The file `<base><suffix>`; base may end in '*'. NULL: none.
static const char *folder_find(const Folder *f, const char *base, const char *suffix) {
    size_t size = strcspn(base, "*");
    for (int i = 0; i < f->file_count; i++) {
        const char *name = f->files[i];
        if (strncmp(name, base, size) != 0 || !ends_with(name, suffix))
            continue;
        if (base[size] == '*' || strlen(name) == size + strlen(suffix))
            return name;
    }
    return NULL;
}

// ---- which files --------------------------------------------------------------------------------

// "model-00002-of-00005.safetensors": 2 and 5; false: another form.
static bool shard_name(const char *name, int *index, int *total) {
    static const char FORM[] = "-#####-of-#####.safetensors";
    size_t size = strlen(name), form = sizeof FORM - 1;
    if (size <= form)
        return false;
    const char *tail = name + size - form;
    int numbers[2] = {0, 0}, digits = 0;
    for (size_t at = 0; at < form; at++) {
        bool digit = tail[at] >= '0' && tail[at] <= '9';
        if (FORM[at] == '#' ? !digit : tail[at] != FORM[at])
            return false;
        if (FORM[at] == '#') {
            int *number = &numbers[digits++ / SHARD_DIGITS];
            *number = *number * 10 + (tail[at] - '0');
        }
    }
    *index = numbers[0];
    *total = numbers[1];
    return true;
}

// All shards of a set without index: each must be there once. Sorted names stand in their order.
static bool choose_set(Choice *out, const Folder *f, Error *err) {
    int expected = 1, all = 0;
    for (int i = 0; i < f->file_count; i++) {
        int index, total;
        if (!shard_name(f->files[i], &index, &total))
            continue;
        if ((all && total != all) || index < expected)
            return fail(err, ERR_CORRUPT, 121,
                        "%s: %s belongs to a second set of shards and there is no index to tell "
                        "which is the model",
                        f->dir, f->files[i]);
        if (index > expected)
            break;
        all = total;
        expected++;
        out->files[out->count++] = f->files[i];
    }
    if (expected <= all || !all)
        return fail(err, ERR_CORRUPT, 122,
                    "%s: shard %d of %d is missing; download the checkpoint again", f->dir,
                    expected, all);
    return true;
}

// The files by their names alone, for folders without a usable index.
static bool choose_by_name(Choice *out, const Folder *f, Error *err) {
    const char *const bases[] = {f->base ? f->base : "", "gptq_model-*", "model"};
    int index, total, singles = 0, shards = 0;
    for (size_t base = 0; base < sizeof bases / sizeof bases[0]; base++) {
        const char *name = *bases[base] ? folder_find(f, bases[base], SUFFIX) : NULL;
        if (name && !shard_name(name, &index, &total)) {
            out->files[out->count++] = name;
            return true;
        }
    }
    for (int i = 0; i < f->file_count; i++) {
        if (!ends_with(f->files[i], SUFFIX))
            continue;
        if (shard_name(f->files[i], &index, &total))
            shards++;
        else if (singles++ == 0)
            out->files[0] = f->files[i];
    }
    if (shards)
        return choose_set(out, f, err);
    if (singles == 1) {
        out->count = 1;
        return true;
    }
    if (singles)
        return fail(err, ERR_CORRUPT, 123,
                    "%s: %d .safetensors files, none named model.safetensors, and no index to tell "
                    "which is the model",
                    f->dir, singles);
    if (f->pickle)
        return fail(err, ERR_UNSUPPORTED, 124,
                    "%s: weights in %s; only .safetensors files are read, convert it first", f->dir,
                    f->pickle);
    return fail(err, ERR_CORRUPT, 125, "%s: no .safetensors file in this folder", f->dir);
}

// ---- the index ----------------------------------------------------------------------------------

static bool index_file_check(const char *name, const char *path, Error *err) {
    bool plain = name[0] != '.' && ends_with(name, SUFFIX);
    for (const char *at = name; *at; at++)
        plain = plain && *at != '/' && (unsigned char)*at >= ' ' && *at != 0x7f;
    if (plain)
        return true;
    char text[NAME_TEXT_BYTES];
    text_escape(text, sizeof text, name, strlen(name));
    return fail(err, ERR_CORRUPT, 126, "%s: \"%s\" is not the plain name of a .safetensors file",
                path, text);
}

static int compare_place(const void *a, const void *b) {
    return strcmp(((const Place *)a)->tensor, ((const Place *)b)->tensor);
}

static bool index_places(Choice *out, const cJSON *weight_map, const char *path, Arena *a,
                         Error *err) {
    if (!cJSON_IsObject(weight_map))
        return fail(err, ERR_CORRUPT, 128, "%s: no weight_map in it", path);
    out->places = ARENA_NEW(a, Place, cJSON_GetArraySize(weight_map));
    for (const cJSON *item = weight_map->child; item; item = item->next) {
        if (!cJSON_IsString(item))
            return fail(err, ERR_CORRUPT, 127, "%s: weight_map must map names to file names", path);
        TRY(index_file_check(item->valuestring, path, err));
        out->places[out->place_count++] =
            (Place){arena_strndup(a, item->string, strlen(item->string)),
                    arena_strndup(a, item->valuestring, strlen(item->valuestring))};
    }
    qsort(out->places, out->place_count, sizeof *out->places, compare_place);
    return true;
}

// Sorted, distinct names of the files of the index. Returns one that is not there, or NULL.
static const char *index_files(Choice *out, const Folder *f, Arena *a) {
    const char **names = ARENA_NEW(a, const char *, out->place_count), *stale = NULL;
    for (size_t i = 0; i < out->place_count; i++)
        names[i] = out->places[i].file;
    qsort(names, out->place_count, sizeof *names, compare_text);
    for (size_t i = 0; i < out->place_count; i++) {
        if (out->count && strcmp(names[out->count - 1], names[i]) == 0)
            continue;
        names[out->count++] = names[i];
        const char *file = arena_printf(a, "%s/%s", f->dir, names[out->count - 1]);
        if (!stale && access(file, F_OK) != 0)
            stale = names[out->count - 1];
    }
    out->files = names;
    return stale;
}

// Reads the index if there is one and all of its files exist.
static bool choose_by_index(Choice *out, const Folder *f, Notes *notes, Arena *a, Error *err) {
    const char *const bases[] = {f->base ? f->base : "", "gptq_model-*", "model"};
    for (size_t base = 0; base < sizeof bases / sizeof bases[0]; base++) {
        if (!*bases[base])
            continue;
        out->index = folder_find(f, bases[base], INDEX_SUFFIX);
        if (out->index)
            break;
        const char *single = folder_find(f, bases[base], SUFFIX);
        int index, total;
        if (single && !shard_name(single, &index, &total))
            return true; // the single file of a better base beats the index of a later one
    }
    if (!out->index)
        return true;
    const char *path = arena_printf(a, "%s/%s", f->dir, out->index);
    bool found;
    cJSON *root;
    TRY(json_read(&root, &found, path, err));
    bool done = index_places(out, json_get(root, "weight_map"), path, a, err);
    cJSON_Delete(root);
    TRY(done);
    const char *stale = index_files(out, f, a);
    if (!stale && out->count)
        return true;
    note(notes, a, "%s is stale: %s is not there; using the files of the folder", out->index,
         stale ? stale : "any file");
    *out = (Choice){0};
    return true;
}

// ---- mapping ------------------------------------------------------------------------------------

static bool file_map(Bytes *out, const char *path, Error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(err, ERR_CORRUPT, 129, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) {
        close(fd);
        return fail(err, ERR_CORRUPT, 130, "%s: empty or not a regular file", path);
    }
    size_t size = (size_t)st.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    int map_errno = errno;
    close(fd);
    if (data == MAP_FAILED)
        return fail(err, ERR_RESOURCE, 131, "%s: cannot map %zu bytes: %s", path, size,
                    strerror(map_errno));
    *out = (Bytes){data, size};
    return true;
}

void tensor_release(const Tensor *t) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = round_up((uintptr_t)t->data, page);
    uintptr_t end = ((uintptr_t)t->data + t->bytes) / page * page; // whole pages only
    if (t->mapped && end > first)
        madvise((void *)first, end - first, MADV_DONTNEED); // advice: nothing hangs on it
}

typedef struct Shard {
    Tensor *tensors; // [count], sorted by name
    int count;
} Shard;

static bool shards_map(Checkpoint *out, Shard *shards, const Choice *choice, Arena *a, Error *err) {
    for (int file = 0; file < choice->count; file++) {
        const char *name = choice->files[file];
        Bytes bytes;
        TRY(file_map(&bytes, arena_printf(a, "%s/%s", out->dir, name), err));
        TRY(safetensors_parse(&shards[file].tensors, &shards[file].count, bytes, name, a, err));
        for (int at = 0; at < shards[file].count; at++)
            shards[file].tensors[at].mapped = true;
        out->bytes += bytes.size;
        out->count += shards[file].count;
    }
    return true;
}

static int compare_tensor(const void *a, const void *b) {
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

// Merges equal names of different files: the file that the index names counts. Without an index
// two equal names are an error.
static bool tensors_merge(Checkpoint *c, const Choice *choice, Error *err) {
    int kept = 0;
    size_t at = 0;
    for (int i = 0; i < c->count; i++) {
        Tensor *t = &c->tensors[i];
        while (at < choice->place_count && strcmp(choice->places[at].tensor, t->name) < 0)
            at++;
        bool listed = at < choice->place_count && strcmp(choice->places[at].tensor, t->name) == 0;
        bool again = kept && strcmp(c->tensors[kept - 1].name, t->name) == 0;
        if (again && !listed) {
            char name[NAME_TEXT_BYTES];
            text_escape(name, sizeof name, t->name, strlen(t->name));
            return fail(err, ERR_CORRUPT, 132, "%s: tensor %s stands in %s too", t->file, name,
                        c->tensors[kept - 1].file);
        }
        if (!again)
            c->tensors[kept++] = *t;
        else if (strcmp(choice->places[at].file, t->file) == 0)
            c->tensors[kept - 1] = *t;
    }
    c->count = kept;
    return true;
}

// Whether every tensor of the index is where the index says; notes the first that is not.
static bool index_agrees(Checkpoint *c, const Choice *choice, Arena *a) {
    for (size_t i = 0; i < choice->place_count; i++) {
        const Place *place = &choice->places[i];
        const Tensor *t = checkpoint_find(c, place->tensor);
        if (t && strcmp(t->file, place->file) == 0)
            continue;
        char name[NAME_TEXT_BYTES];
        text_escape(name, sizeof name, place->tensor, strlen(place->tensor));
        note(&c->notes, a, "%s is stale: tensor %s is not in %s; using the files of the folder",
             choice->index, name, place->file);
        return false;
    }
    return true;
}

// *agrees = false: the index is wrong about the files.
static bool tensors_load(Checkpoint *out, const Choice *choice, bool *agrees, Arena *a,
                         Error *err) {
    Shard *shards = ARENA_NEW(a, Shard, choice->count);
    out->shards = choice->count;
    out->count = 0;
    out->bytes = 0;
    TRY(shards_map(out, shards, choice, a, err));
    out->tensors = ARENA_NEW(a, Tensor, out->count);
    size_t at = 0;
    for (int file = 0; file < choice->count; file++) {
        memcpy(out->tensors + at, shards[file].tensors,
               (size_t)shards[file].count * sizeof *out->tensors);
        at += (size_t)shards[file].count;
    }
    qsort(out->tensors, at, sizeof *out->tensors, compare_tensor);
    TRY(tensors_merge(out, choice, err));
    *agrees = index_agrees(out, choice, a);
    return true;
}

const Tensor *checkpoint_find(const Checkpoint *c, const char *name) {
    int low = 0, high = c->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        int order = strcmp(c->tensors[middle].name, name);
        if (order == 0)
            return &c->tensors[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

bool checkpoint_open(Checkpoint *out, const char *dir, Arena *a, Error *err) {
    Folder folder = {0};
    Choice choice = {0};
    *out = (Checkpoint){.dir = dir};
    TRY(folder_read(&folder, dir, a, err));
    TRY(folder_base(&folder, a, err));
    TRY(choose_by_index(&choice, &folder, &out->notes, a, err));
    bool agrees = false;
    if (choice.count)
        TRY(tensors_load(out, &choice, &agrees, a, err));
    if (agrees)
        return true;
    choice = (Choice){.files = ARENA_NEW(a, const char *, folder.file_count + 1)};
    TRY(choose_by_name(&choice, &folder, err));
    return tensors_load(out, &choice, &agrees, a, err);
}
