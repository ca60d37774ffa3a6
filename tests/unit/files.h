// Small checkpoint folders for tests: a folder under build/tests, files in it, safetensors files
// from a table of tensors. Include after compile.h and cmocka.
#ifndef FILES_H
#define FILES_H

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDER_BYTES = 64, FILES_PATH_BYTES = 400 };

typedef struct FileTensor {
    const char *name, *dtype;
    int rank;
    int64_t shape[3];
    const void *data;
    size_t bytes;
} FileTensor;

static inline void folder_make(char out[FOLDER_BYTES]) {
    mkdir("build", 0755);
    mkdir("build/tests", 0755);
    snprintf(out, FOLDER_BYTES, "build/tests/folder-XXXXXX");
    assert_non_null(mkdtemp(out));
}

static inline void folder_remove(const char *dir) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        char path[FILES_PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            assert_int_equal(unlink(path), 0);
    }
    closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

static inline void file_write(const char *dir, const char *name, const void *data, size_t size) {
    char path[FILES_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void text_write(const char *dir, const char *name, const char *text) {
    file_write(dir, name, text, strlen(text));
}

// Header, `blanks` spaces behind it, data.
static inline void container_write(const char *dir, const char *name, const char *header,
                                   size_t blanks, const void *data, size_t data_size) {
    size_t text = strlen(header), length = text + blanks;
    unsigned char *whole = malloc(8 + length + data_size);
    assert_non_null(whole);
    for (int byte = 0; byte < 8; byte++)
        whole[byte] = (unsigned char)((uint64_t)length >> (8 * byte));
    memcpy(whole + 8, header, text);
    memset(whole + 8 + text, ' ', blanks);
    if (data_size)
        memcpy(whole + 8 + length, data, data_size);
    file_write(dir, name, whole, 8 + length + data_size);
    free(whole);
}

// A valid file. Its header is padded to an odd length, so that no tensor is aligned.
static inline void tensors_write(const char *dir, const char *name, const FileTensor *tensors,
                                 int count) {
    char *header = NULL;
    unsigned char *data = NULL;
    size_t header_size = 0, size = 0, at = 0;
    FILE *text = open_memstream(&header, &header_size);
    assert_non_null(text);
    for (int i = 0; i < count; i++)
        size += tensors[i].bytes;
    data = malloc(size + 1);
    assert_non_null(data);
    fputc('{', text);
    for (int i = 0; i < count; i++) {
        const FileTensor *t = &tensors[i];
        fprintf(text, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, t->dtype);
        for (int dim = 0; dim < t->rank; dim++)
            fprintf(text, "%s%lld", dim ? "," : "", (long long)t->shape[dim]);
        fprintf(text, "],\"data_offsets\":[%zu,%zu]}", at, at + t->bytes);
        if (t->bytes)
            memcpy(data + at, t->data, t->bytes);
        at += t->bytes;
    }
    fputc('}', text);
    fclose(text);
    container_write(dir, name, header, 1 + header_size % 2, data, size);
    free(header);
    free(data);
}

#endif
