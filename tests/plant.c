// plant FILE KIND [ARGUMENT]: puts a fault into an executable and makes every check of the file agree
// with it, the golden hash too, so that only the numbers of `selftest` can tell.
//   tile OFFSET     inverts 512 bytes of the weights
//   selftest OTHER  takes the expected logits of another executable of the same model
//   cubin           gives one kernel the image of another
//   cubin-of OTHER N  gives the N-th kernel of which OTHER, a model of the same shape, has another image
//                   that one; says which it was
// With --keep-golden the golden hash stays that of the compiler.
#include "../compiler/artifact.h"
#include "../compiler/selftest.h"
#include "../compiler/tail.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static Bytes segment_copy(const Artifact *a, SegmentKind kind, Arena *arena) {
    Bytes from = artifact_segment(a, kind);
    unsigned char *data = arena_alloc(arena, from.size + 1);
    memcpy(data, from.data, from.size);
    return (Bytes){data, from.size};
}

static unsigned char *writable(Bytes b) {
    return (unsigned char *)(uintptr_t)b.data;
}

static void tile_plant(Bytes segments[SEGMENT_COUNT], size_t offset) {
    unsigned char *weights = writable(segments[SEGMENT_WEIGHTS]);
    for (size_t at = offset; at < offset + 512; at++)
        weights[at] ^= 0xff;
    for (size_t at = 0; at < segments[SEGMENT_WEIGHTS].size; at += PAYLOAD_PAGE_BYTES) {
        size_t left = segments[SEGMENT_WEIGHTS].size - at;
        uint64_t check =
            payload_hash64(weights + at, left < PAYLOAD_PAGE_BYTES ? left : PAYLOAD_PAGE_BYTES);
        memcpy(writable(segments[SEGMENT_CHECKS]) + at / PAYLOAD_PAGE_BYTES * sizeof check, &check,
               sizeof check);
    }
}

static KernelInfo *kernels_of(Bytes segments[SEGMENT_COUNT], size_t *count) {
    *count = segments[SEGMENT_KERNELS].size / sizeof(KernelInfo);
    return (KernelInfo *)(void *)writable(segments[SEGMENT_KERNELS]);
}

// The first two kernels of one source with different images change places, entries stay.
static bool cubin_plant(Bytes segments[SEGMENT_COUNT], Error *err) {
    size_t count;
    KernelInfo *kernels = kernels_of(segments, &count);
    for (size_t a = 0; a < count; a++)
        for (size_t b = a + 1; b < count; b++)
            if (strcmp(kernels[a].entry, kernels[b].entry) == 0 &&
                strcmp(kernels[a].name, "linear_decode.cu") == 0 &&
                kernels[a].argument_count == kernels[b].argument_count &&
                kernels[a].block == kernels[b].block &&
                kernels[a].shared_bytes == kernels[b].shared_bytes &&
                kernels[a].image_offset != kernels[b].image_offset) {
                kernels[a].image_offset = kernels[b].image_offset;
                kernels[a].image_size = kernels[b].image_size;
                memcpy(kernels[a].image_check, kernels[b].image_check,
                       sizeof kernels[a].image_check);
                return true;
            }
    return fail(err, ERR_USAGE, 0, "no two kernels to swap");
}

// Images of one kernel that differ in a constant have one size, so that they change places.
static bool cubin_of_plant(Bytes ours[SEGMENT_COUNT], const Artifact *other, size_t wanted,
                           Error *err) {
    size_t count, seen = 0;
    KernelInfo *kernels = kernels_of(ours, &count);
    Bytes table = artifact_segment(other, SEGMENT_KERNELS);
    Bytes images = artifact_segment(other, SEGMENT_CUBINS);
    for (size_t at = 0; at < count && table.size == count * sizeof *kernels; at++) {
        KernelInfo *k = &kernels[at], from;
        memcpy(&from, table.data + at * sizeof from, sizeof from);
        if (strcmp(k->entry, from.entry) != 0 || k->image_size != from.image_size ||
            memcmp(k->image_check, from.image_check, sizeof from.image_check) == 0 ||
            seen++ != wanted)
            continue;
        memcpy(writable(ours[SEGMENT_CUBINS]) + k->image_offset, images.data + from.image_offset,
               from.image_size);
        for (size_t twin = 0; twin < count; twin++) // kernels that share the image
            if (kernels[twin].image_offset == k->image_offset)
                memcpy(kernels[twin].image_check, from.image_check, sizeof from.image_check);
        printf("kernel %zu, %s:%s\n", at, k->name, k->entry);
        return true;
    }
    return fail(err, ERR_USAGE, 0, "there is no kernel %zu that differs", wanted);
}

static bool plant(int argc, char **argv, Arena *arena, Error *err) {
    Artifact a, other;
    Bytes segments[SEGMENT_COUNT];
    TRY(artifact_open(&a, argv[1], err));
    for (int kind = 0; kind < SEGMENT_COUNT; kind++)
        segments[kind] = segment_copy(&a, (SegmentKind)kind, arena);
    if (strcmp(argv[2], "tile") == 0) {
        tile_plant(segments, (size_t)strtoull(argv[3], NULL, 10));
    } else if (strcmp(argv[2], "selftest") == 0) {
        TRY(artifact_open(&other, argv[3], err));
        segments[SEGMENT_SELFTEST] = segment_copy(&other, SEGMENT_SELFTEST, arena);
    } else if (strcmp(argv[2], "cubin-of") == 0) {
        TRY(artifact_open(&other, argv[3], err));
        TRY(cubin_of_plant(segments, &other, (size_t)strtoull(argv[4], NULL, 10), err));
    } else {
        TRY(cubin_plant(segments, err));
    }
    const Bytes golden[SELFTEST_PARTS] = {{a.whole.data, (size_t)a.payload.footer.elf_size},
                                          segments[SEGMENT_CHECKS],
                                          segments[SEGMENT_KERNELS],
                                          segments[SEGMENT_CUBINS],
                                          segments[SEGMENT_TOKENIZER]};
    if (strcmp(argv[argc - 1], "--keep-golden") != 0)
        selftest_seal(segments[SEGMENT_SELFTEST], golden);
    Output out = {.path = argv[1], .fd = open(argv[1], O_RDWR)};
    PayloadFooter footer = a.payload.footer;
    for (int kind = 0; kind < SEGMENT_COUNT; kind++) {
        Segment *s = &a.payload.segments[kind];
        if (kind != SEGMENT_WEIGHTS)
            payload_hash128(segments[kind].data, segments[kind].size, s->check);
        TRY(output_write(&out, (int64_t)s->offset, segments[kind].data, segments[kind].size, err));
    }
    payload_hash128(a.payload.segments, sizeof a.payload.segments, footer.table_check);
    return output_write(&out, (int64_t)footer.table_offset, a.payload.segments,
                        sizeof a.payload.segments, err) &&
           footer_write(&out, &footer, footer.file_size, a.payload.footer_at, err);
}

int main(int argc, char **argv) {
    Error err = {0};
    Arena arena = {0};
    bool done = argc > 2 && plant(argc, argv, &arena, &err);
    if (!done)
        fprintf(stderr, "plant: %s\n", err.message);
    arena_free(&arena);
    return !done;
}
