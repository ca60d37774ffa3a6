// The cache of compiled kernels: what is put is found again, what is damaged or foreign never is,
// many processes share a folder, a full disk or a folder that cannot be written only costs the
// cache, and a folder that others could write to is refused. Also the `cache` command.
#include "compiler/compile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { PATH_BYTES = 400 };

typedef struct Folder {
    char path[64]; // "/tmp/cache-XXXXXX/c": made by cache_open
    char base[64];
    Arena arena;
    Error err;
} Folder;

static int folder_setup(void **state) {
    static Folder f;
    f = (Folder){0};
    memcpy(f.base, "/tmp/cache-XXXXXX", 18);
    if (!mkdtemp(f.base))
        return -1;
    snprintf(f.path, sizeof f.path, "%s/c", f.base);
    *state = &f;
    return 0;
}

static int folder_teardown(void **state) {
    Folder *f = *state;
    const char *dirs[] = {f->path, f->base};
    chmod(f->path, 0700);
    for (int at = 0; at < 2; at++) {
        DIR *d = opendir(dirs[at]);
        for (struct dirent *e; d && (e = readdir(d));) {
            char path[PATH_BYTES + 64];
            snprintf(path, sizeof path, "%s/%s", dirs[at], e->d_name);
            unlink(path);
        }
        if (d)
            closedir(d);
        rmdir(dirs[at]);
    }
    arena_free(&f->arena);
    return 0;
}

static Cache *open_cache(Folder *f, CacheMode mode) {
    Cache *c = NULL;
    assert_true(cache_open(&c, f->path, mode, &f->arena, &f->err));
    return c;
}

static void put(Cache *c, const char *key, const char *image) {
    cache_put(c, key, strlen(key), (Bytes){(const unsigned char *)image, strlen(image)});
}

static bool has(Folder *f, Cache *c, const char *key, const char *image) {
    Bytes found_image;
    bool found;
    assert_true(cache_get(c, key, strlen(key), &found_image, &found, &f->arena, &f->err));
    if (found) {
        assert_int_equal(found_image.size, strlen(image));
        assert_memory_equal(found_image.data, image, found_image.size);
    }
    return found;
}

// Files in the folder; the path of the last one with `suffix` goes into path.
static int files(const Folder *f, const char *suffix, char path[PATH_BYTES]) {
    DIR *d = opendir(f->path);
    int count = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        size_t size = strlen(e->d_name), end = strlen(suffix);
        if (e->d_name[0] == '.' || size < end || strcmp(e->d_name + size - end, suffix) != 0)
            continue;
        count++;
        if (path)
            snprintf(path, PATH_BYTES, "%s/%s", f->path, e->d_name);
    }
    if (d)
        closedir(d);
    return count;
}

// ---- modes --------------------------------------------------------------------------------------

static void modes(void **state) {
    Folder *f = *state;
    struct stat info;
    Cache *none = open_cache(f, CACHE_READ_ONLY); // no folder yet: nothing is found or made
    assert_false(has(f, none, "k", ""));
    put(none, "k", "x");
    assert_int_not_equal(stat(f->path, &info), 0);

    Cache *on = open_cache(f, CACHE_ON);
    assert_int_equal(stat(f->path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0700);
    assert_false(has(f, on, "key", "image"));
    put(on, "key", "image");
    put(on, "empty", "");
    assert_true(has(f, on, "key", "image"));
    assert_true(has(f, on, "empty", ""));
    assert_false(has(f, on, "ke", ""));

    Cache *read = open_cache(f, CACHE_READ_ONLY);
    assert_true(has(f, read, "key", "image"));
    put(read, "more", "x");
    assert_false(has(f, on, "more", ""));

    Cache *off = open_cache(f, CACHE_OFF);
    assert_false(has(f, off, "key", ""));
    put(off, "more", "x");
    assert_false(has(f, on, "more", ""));

    Cache *redo = open_cache(f, CACHE_REDO);
    assert_false(has(f, redo, "key", ""));
    put(redo, "key", "newer");
    assert_true(has(f, on, "key", "newer"));
    assert_int_equal(files(f, "", NULL), 2);
}

static void location(void **state) {
    Folder *f = *state;
    Cache *c;
    struct stat info;
    char path[PATH_BYTES];
    setenv("GPTQ_COMPILE_CACHE", f->path, 1);
    assert_true(cache_open(&c, NULL, CACHE_ON, &f->arena, &f->err));
    put(c, "a", "1");
    assert_true(has(f, open_cache(f, CACHE_ON), "a", "1"));
    unsetenv("GPTQ_COMPILE_CACHE");
    setenv("XDG_CACHE_HOME", f->base, 1);
    assert_true(cache_open(&c, NULL, CACHE_ON, &f->arena, &f->err));
    snprintf(path, sizeof path, "%s/gptq-compile", f->base);
    assert_int_equal(stat(path, &info), 0);
    rmdir(path);
    unsetenv("XDG_CACHE_HOME");
    unsetenv("HOME");
    assert_true(cache_open(&c, NULL, CACHE_ON, &f->arena, &f->err)); // no place: no cache
    assert_false(has(f, c, "a", ""));
    put(c, "a", "1");
}

// ---- damage -------------------------------------------------------------------------------------

static void damage(const char *path, off_t at, off_t size) {
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    if (size >= 0) {
        assert_int_equal(ftruncate(fd, size), 0);
    } else {
        unsigned char byte;
        assert_int_equal(pread(fd, &byte, 1, at), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    }
    close(fd);
}

static void every_damaged_byte_is_seen(void **state) {
    Folder *f = *state;
    Cache *on = open_cache(f, CACHE_ON);
    char path[PATH_BYTES];
    struct stat info;
    put(on, "some key", "some image");
    assert_int_equal(files(f, ".entry", path), 1);
    assert_int_equal(stat(path, &info), 0);
    for (off_t at = 0; at < info.st_size; at++) {
        bool reserved = at >= 12 && at < 16;
        damage(path, at, -1);
        bool found = has(f, on, "some key", "some image");
        assert_true(found == reserved);
        assert_int_equal(files(f, ".entry", NULL), reserved ? 1 : 0); // a bad one is gone
        put(on, "some key", "some image");
    }
    for (off_t size = 0; size < info.st_size; size++) {
        damage(path, 0, size);
        assert_false(has(f, on, "some key", ""));
        put(on, "some key", "some image");
    }
    assert_true(has(f, on, "some key", "some image"));
}

static void a_reader_leaves_damaged_entries(void **state) {
    Folder *f = *state;
    char path[PATH_BYTES];
    put(open_cache(f, CACHE_ON), "key", "image");
    files(f, ".entry", path);
    damage(path, 50, -1);
    assert_false(has(f, open_cache(f, CACHE_READ_ONLY), "key", ""));
    assert_int_equal(files(f, ".entry", NULL), 1);
}

// An entry of another key under this key's name, as a collision of XXH3 would leave it.
static void a_foreign_entry_is_no_hit(void **state) {
    Folder *f = *state;
    Cache *on = open_cache(f, CACHE_ON);
    char first[PATH_BYTES], second[PATH_BYTES];
    put(on, "first", "1");
    files(f, ".entry", first);
    char moved[PATH_BYTES + 8];
    snprintf(moved, sizeof moved, "%s.away", first);
    assert_int_equal(rename(first, moved), 0);
    put(on, "second", "2");
    files(f, ".entry", second);
    assert_int_equal(rename(moved, second), 0);
    assert_false(has(f, on, "second", ""));
    assert_false(has(f, on, "first", ""));
    put(on, "second", "2");
    assert_true(has(f, on, "second", "2"));
}

static void what_is_no_file_is_no_hit(void **state) {
    Folder *f = *state;
    Cache *on = open_cache(f, CACHE_ON);
    char path[PATH_BYTES];
    put(on, "key", "image");
    files(f, ".entry", path);
    unlink(path);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_false(has(f, on, "key", ""));
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); // must not block
    assert_false(has(f, on, "key", ""));
    put(on, "key", "image");
    assert_true(has(f, on, "key", "image"));
}

// ---- trust --------------------------------------------------------------------------------------

static void open_fails(Folder *f, const char *path, CacheMode mode, int id, const char *word) {
    Cache *c;
    f->err = (Error){0};
    assert_false(cache_open(&c, path, mode, &f->arena, &f->err));
    assert_int_equal(f->err.id, id);
    assert_int_equal(f->err.code, ERR_USAGE);
    assert_non_null(strstr(f->err.message, path));
    assert_non_null(strstr(f->err.message, word));
}

static void an_open_folder_is_refused(void **state) {
    Folder *f = *state;
    open_cache(f, CACHE_ON);
    static const mode_t modes[] = {0777, 0770, 0755, 0701};
    for (int at = 0; at < 4; at++) {
        chmod(f->path, modes[at]);
        open_fails(f, f->path, CACHE_ON, 522, "700");
    }
    chmod(f->path, 0775);
    open_fails(f, f->path, CACHE_READ_ONLY, 522, "775");
    chmod(f->path, 0755); // for reading it is enough that nobody else can write
    assert_non_null(open_cache(f, CACHE_READ_ONLY));
}

static void a_foreign_folder_is_refused(void **state) {
    Folder *f = *state;
    open_cache(f, CACHE_ON);
    if (geteuid() != 0) {
        puts("skipped: only root can give a folder to someone else");
        skip();
    }
    assert_int_equal(chown(f->path, 12345, 12345), 0);
    open_fails(f, f->path, CACHE_ON, 521, "12345");
    open_fails(f, f->path, CACHE_READ_ONLY, 521, "12345");
}

static void a_link_is_refused(void **state) {
    Folder *f = *state;
    char path[PATH_BYTES];
    open_cache(f, CACHE_ON);
    snprintf(path, sizeof path, "%s/link", f->base);
    assert_int_equal(symlink(f->path, path), 0);
    open_fails(f, path, CACHE_ON, 523, "symbolic link");
    unlink(path);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    open_fails(f, path, CACHE_ON, 523, "folder");
}

// ---- trouble with the disk ----------------------------------------------------------------------

static void no_place_to_make_it_is_a_warning(void **state) {
    Folder *f = *state;
    Cache *c;
    assert_true(cache_open(&c, "/proc/none/such", CACHE_ON, &f->arena, &f->err));
    put(c, "key", "image");
    assert_false(has(f, c, "key", ""));
}

// A limit on file sizes stops a write in the middle, as a full disk does.
static void a_full_disk_is_a_warning(void **state) {
    Folder *f = *state;
    Cache *c = open_cache(f, CACHE_ON);
    put(c, "small", "image");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        static char large[1 << 20];
        memset(large, 'x', sizeof large - 1);
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 16, 1 << 16});
        put(c, "large", large);
        _exit(files(f, "", NULL) == 1 && !has(f, c, "large", "") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(has(f, c, "small", "image"));
}

static void leftovers_of_a_killed_writer_go(void **state) {
    Folder *f = *state;
    char path[PATH_BYTES];
    open_cache(f, CACHE_ON);
    snprintf(path, sizeof path, "%s/0123.entry.77.temp", f->path);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    open_cache(f, CACHE_READ_ONLY);
    assert_int_equal(files(f, ".temp", NULL), 1);
    open_cache(f, CACHE_ON);
    assert_int_equal(files(f, ".temp", NULL), 0);
}

// ---- many processes -----------------------------------------------------------------------------

enum { PROCESSES = 6, SHARED_KEYS = 40, SHARED_BYTES = 20000 };

static void shared_text(char *image, int key) {
    for (int at = 0; at < SHARED_BYTES; at++)
        image[at] = (char)('a' + (at * 7 + key * 13) % 26);
    image[SHARED_BYTES] = 0;
}

// Reads, writes and damages the same entries in another order than its neighbours.
static int shared_worker(Folder *f, int process) {
    static char image[SHARED_BYTES + 1];
    char key[32], path[PATH_BYTES];
    Cache *c;
    if (!cache_open(&c, f->path, CACHE_ON, &f->arena, &f->err))
        return 1;
    for (int round = 0; round < SHARED_KEYS * 3; round++) {
        int number = (round * (2 * process + 1) + process) % SHARED_KEYS;
        snprintf(key, sizeof key, "key %d", number);
        shared_text(image, number);
        Bytes found_image;
        bool found;
        if (!cache_get(c, key, strlen(key), &found_image, &found, &f->arena, &f->err))
            return 2;
        if (found && (found_image.size != SHARED_BYTES ||
                      memcmp(found_image.data, image, SHARED_BYTES) != 0))
            return 3;
        if (!found)
            put(c, key, image);
        if (round % 11 == 10 && files(f, ".entry", path) > 0) {
            int fd = open(path, O_RDWR);
            if (fd >= 0 && pwrite(fd, "#", 1, 100 + round) < 0)
                return 4;
            close(fd);
        }
    }
    return 0;
}

static void many_processes_share_a_folder(void **state) {
    Folder *f = *state;
    pid_t children[PROCESSES];
    fflush(NULL);
    for (int process = 0; process < PROCESSES; process++) {
        children[process] = fork();
        if (children[process] == 0)
            _exit(shared_worker(f, process));
    }
    for (int process = 0; process < PROCESSES; process++) {
        int status;
        assert_int_equal(waitpid(children[process], &status, 0), children[process]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(files(f, ".temp", NULL), 0);
}

// ---- the command --------------------------------------------------------------------------------

// Runs `gptq-compile cache ...` in a child; its output goes to out.
static int command(Folder *f, char *out, size_t size, const char *first, const char *second,
                   const char *third) {
    const char *words[] = {"gptq-compile", "cache", first, "--cache-dir", f->path, second, third};
    char *argv[8] = {0};
    int argc = 0, ends[2], status;
    for (int at = 0; at < 7; at++)
        if (words[at])
            argv[argc++] = (char *)(uintptr_t)words[at];
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        int code = cache_command(argc, argv);
        fflush(NULL);
        _exit(code);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t got; used + 1 < size && (got = read(ends[0], out + used, size - used - 1)) > 0;)
        used += (size_t)got;
    out[used] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WEXITSTATUS(status);
}

static void command_lists_and_prunes(void **state) {
    Folder *f = *state;
    char out[4096], path[PATH_BYTES];
    assert_int_equal(command(f, out, sizeof out, "stat", NULL, NULL), 0); // no folder yet
    assert_non_null(strstr(out, "entries  0"));
    Cache *c = open_cache(f, CACHE_ON);
    put(c,
        "gptq-compile cubin 1\nnvrtc 13.0\noption --gpu-architecture=sm_90a\nsource kernels/x.cu\n",
        "cubin");
    put(c, "other\033[31m", "object");
    assert_int_equal(command(f, out, sizeof out, "ls", NULL, NULL), 0);
    assert_non_null(strstr(out, "cubin 1 nvrtc 13.0 sm_90a source kernels/x.cu"));
    assert_non_null(strstr(out, "other\\x1b[31m"));
    assert_int_equal(command(f, out, sizeof out, "stat", NULL, NULL), 0);
    assert_non_null(strstr(out, "entries  2"));
    files(f, ".entry", path);
    damage(path, 50, -1);
    assert_int_equal(command(f, out, sizeof out, "prune", NULL, NULL), 0);
    assert_non_null(strstr(out, "removed 1 entries"));
    put(c, "a", "1");
    assert_int_equal(command(f, out, sizeof out, "prune", "--older-than", "1"), 0);
    assert_non_null(strstr(out, "removed 0 entries"));
    assert_int_equal(command(f, out, sizeof out, "prune", "--max-bytes", "1K"), 0);
    assert_non_null(strstr(out, "removed 0 entries"));
    assert_int_equal(command(f, out, sizeof out, "prune", "--max-bytes", "0"), 0);
    assert_non_null(strstr(out, "removed 2 entries"));
    assert_int_equal(files(f, "", NULL), 0);
}

static void prune_removes_the_least_recently_used(void **state) {
    Folder *f = *state;
    char out[4096], path[PATH_BYTES];
    Cache *c = open_cache(f, CACHE_ON);
    put(c, "old", "1");
    files(f, ".entry", path);
    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    put(c, "new", "1");
    assert_int_equal(command(f, out, sizeof out, "prune", "--max-bytes", "70"), 0);
    assert_true(has(f, c, "new", "1"));
    assert_false(has(f, c, "old", ""));
    put(c, "old", "1");
    files(f, ".entry", path);
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_true(has(f, c, "old", "1") && has(f, c, "new", "1")); // a hit counts as use
    assert_int_equal(command(f, out, sizeof out, "prune", "--older-than", "3"), 0);
    assert_non_null(strstr(out, "removed 0 entries"));
}

static void export_and_import(void **state) {
    Folder *f = *state;
    char out[4096], file[PATH_BYTES], whole[4096];
    snprintf(file, sizeof file, "%s/all", f->base);
    Cache *c = open_cache(f, CACHE_ON);
    put(c, "a", "first");
    put(c, "b", "second");
    assert_int_equal(command(f, out, sizeof out, "export", file, NULL), 0);
    assert_int_equal(command(f, out, sizeof out, "prune", "--max-bytes", "0"), 0);
    assert_int_equal(command(f, out, sizeof out, "import", file, NULL), 0);
    assert_true(has(f, c, "a", "first") && has(f, c, "b", "second"));
    FILE *in = fopen(file, "rb");
    assert_non_null(in);
    size_t size = fread(whole, 1, sizeof whole, in);
    fclose(in);
    for (size_t cut = 0; cut < size; cut += 7) { // a damaged file gives no entry that is wrong
        FILE *bad = fopen(file, "wb");
        assert_non_null(bad);
        fwrite(whole, 1, cut, bad);
        fclose(bad);
        assert_int_equal(command(f, out, sizeof out, "import", file, NULL), ERR_CORRUPT);
    }
    assert_true(has(f, c, "a", "first") && has(f, c, "b", "second"));
    assert_int_equal(command(f, out, sizeof out, "import", "/nonexistent/file", NULL), ERR_CORRUPT);
    assert_int_equal(command(f, out, sizeof out, "export", "/nonexistent/file", NULL),
                     ERR_RESOURCE);
}

static void wrong_words_are_named(void **state) {
    Folder *f = *state;
    char out[4096];
    assert_int_equal(command(f, out, sizeof out, "frobnicate", NULL, NULL), ERR_USAGE);
    assert_non_null(strstr(out, "frobnicate"));
    assert_int_equal(command(f, out, sizeof out, "prune", "--max-bytes", "lots"), ERR_USAGE);
    assert_int_equal(command(f, out, sizeof out, "ls", "file", NULL), ERR_USAGE);
    assert_int_equal(command(f, out, sizeof out, "export", NULL, NULL), ERR_USAGE);
    assert_int_equal(command(f, out, sizeof out, "ls", "--help", NULL), 0);
    assert_non_null(strstr(out, "least recently used"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(modes),
        TEST(location),
        TEST(every_damaged_byte_is_seen),
        TEST(a_reader_leaves_damaged_entries),
        TEST(a_foreign_entry_is_no_hit),
        TEST(what_is_no_file_is_no_hit),
        TEST(an_open_folder_is_refused),
        TEST(a_foreign_folder_is_refused),
        TEST(a_link_is_refused),
        TEST(no_place_to_make_it_is_a_warning),
        TEST(a_full_disk_is_a_warning),
        TEST(leftovers_of_a_killed_writer_go),
        TEST(many_processes_share_a_folder),
        TEST(command_lists_and_prunes),
        TEST(prune_removes_the_least_recently_used),
        TEST(export_and_import),
        TEST(wrong_words_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
