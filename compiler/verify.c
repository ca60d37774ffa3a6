// `gptq-compile verify FILE`: is every byte of an executable what the compiler wrote? Program code,
// segments and weight pages have checks; what lies between them must be zero. `--against MODEL`
// packs the checkpoint once more and compares, so that a file that was made from other weights is
// found too. Non-goal: who made the file; sign it for that (docs/shipping.md).
#include "artifact.h"

#include "../runtime/payload_parts.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_RANGES = SEGMENT_COUNT + 4 };

// Bytes that have a check.
typedef struct Range {
    uint64_t offset, size;
    const char *name;
} Range;

// ---- every byte ---------------------------------------------------------------------------------

static int range_compare(const void *a, const void *b) {
    const Range *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->size < y->size ? -1 : x->size > y->size;
}

static int ranges_make(const Artifact *a, Range ranges[MAX_RANGES]) {
    const PayloadFooter *f = &a->payload.footer;
    int count = 0;
    ranges[count++] = (Range){0, f->elf_size, "program code"};
    ranges[count++] = (Range){f->table_offset, SEGMENT_COUNT * sizeof(Segment), "segment table"};
    for (int kind = 0; kind < SEGMENT_COUNT; kind++) {
        const Segment *s = &a->payload.segments[kind];
        if (s->size && !(kind == SEGMENT_WEIGHTS && weights_external(s)))
            ranges[count++] = (Range){s->offset, s->size, segment_name((SegmentKind)kind)};
    }
    ranges[count++] = (Range){payload_footer_offset(f->file_size, a->payload.footer_at),
                              PAYLOAD_FOOTER_BYTES, "footer"};
    qsort(ranges, (size_t)count, sizeof *ranges, range_compare);
    return count;
}

// In the second area and the second footer only an interrupted repack leaves anything.
static bool zeros_check(const Artifact *a, uint64_t from, uint64_t end, Error *err) {
    const PayloadFooter *f = &a->payload.footer;
    for (uint64_t at = from; at < end; at++) {
        if (!a->whole.data[at])
            continue;
        return fail(err, ERR_CORRUPT, 678,
                    "%s: byte %llu, between two segments, is not zero: the file is damaged%s",
                    a->path, (unsigned long long)at,
                    at >= f->area_offset
                        ? ", or a repack was interrupted; `gptq-compile repack FILE` clears that"
                        : "; copy it again");
    }
    return true;
}

static bool gaps_check(const Artifact *a, uint64_t *padding, Error *err) {
    Range ranges[MAX_RANGES];
    int count = ranges_make(a, ranges);
    uint64_t at = 0;
    *padding = 0;
    for (int i = 0; i < count; i++) {
        if (ranges[i].offset < at)
            return fail(err, ERR_CORRUPT, 679, "%s: %s and what is before it overlap", a->path,
                        ranges[i].name);
        TRY(zeros_check(a, at, ranges[i].offset, err));
        *padding += ranges[i].offset - at;
        at = ranges[i].offset + ranges[i].size;
    }
    *padding += a->whole.size - at;
    return zeros_check(a, at, a->whole.size, err);
}

static bool pages_check(const Artifact *a, Error *err) {
    Bytes weights = artifact_segment(a, SEGMENT_WEIGHTS);
    Bytes checks = artifact_segment(a, SEGMENT_CHECKS);
    int64_t pages = ceil_div((int64_t)weights.size, PAYLOAD_PAGE_BYTES);
    if ((uint64_t)a->info.weights_bytes != weights.size ||
        checks.size != (size_t)pages * sizeof(uint64_t))
        return fail(err, ERR_CORRUPT, 680, "%s: sizes of weights and checks contradict each other",
                    a->path);
    for (int64_t page = 0; page < pages; page++) {
        size_t at = (size_t)page * PAYLOAD_PAGE_BYTES;
        size_t size =
            weights.size - at < PAYLOAD_PAGE_BYTES ? weights.size - at : (size_t)PAYLOAD_PAGE_BYTES;
        uint64_t expected;
        memcpy(&expected, checks.data + page * (int64_t)sizeof expected, sizeof expected);
        if (payload_hash64(weights.data + at, size) != expected)
            return fail(err, ERR_CORRUPT, 681,
                        "%s: the weights are damaged (MiB %lld of %lld): copy the file again",
                        a->path, (long long)page, (long long)pages);
    }
    return true;
}

// Each kernel's image is the one that the compiler chose for it.
static bool kernels_check(const Artifact *a, int *count, Error *err) {
    Bytes table = artifact_segment(a, SEGMENT_KERNELS);
    Bytes images = artifact_segment(a, SEGMENT_CUBINS);
    *count = (int)(table.size / sizeof(KernelInfo));
    for (int at = 0; at < *count; at++) {
        KernelInfo k;
        uint64_t found[2];
        memcpy(&k, table.data + (size_t)at * sizeof k, sizeof k);
        bool good = k.image_offset <= images.size && k.image_size <= images.size - k.image_offset;
        if (good)
            payload_hash128(images.data + k.image_offset, (size_t)k.image_size, found);
        if (!good || memcmp(found, k.image_check, sizeof found) != 0)
            return fail(err, ERR_CORRUPT, 682, "%s: kernel %.63s has another kernel's image",
                        a->path, k.entry);
    }
    return true;
}

// ---- against the checkpoint ---------------------------------------------------------------------

typedef struct Source {
    Checkpoint checkpoint;
    Config config;
    Graph graph; // fused, laid out
    int64_t weights_bytes;
} Source;

static bool source_read(Source *s, const Artifact *a, const char *dir, Arena *arena, Error *err) {
    TRY(checkpoint_open(&s->checkpoint, dir, arena, err));
    TRY(config_read(&s->config, dir, arena, err));
    Graph unfused = graph_new(arena);
    unfused.dtype = (ModelDType)a->info.activation_dtype;
    TRY(arch_build(arch_find(s->config.architecture), &unfused, &s->config, &s->checkpoint,
                   a->info.max_seq_len, arena, err));
    TRY(graph_verify(&unfused, err));
    TRY(graph_fuse(&s->graph, &unfused, arena, err));
    return weights_layout(&s->graph, &s->weights_bytes, err);
}

static bool tensor_same(const Artifact *a, const PackedTensor *t, Error *err) {
    Arena scratch = {0};
    const unsigned char *stored = artifact_segment(a, SEGMENT_WEIGHTS).data + t->offset;
    unsigned char *packed = arena_alloc(&scratch, (size_t)t->bytes);
    tensor_pack(t, packed);
    int64_t at = 0;
    while (at < t->bytes && packed[at] == stored[at])
        at++;
    arena_free(&scratch);
    if (at < t->bytes)
        return fail(err, ERR_MISMATCH, 683,
                    "%s: %s is not what the checkpoint holds (byte %lld of %lld)", a->path, t->name,
                    (long long)at, (long long)t->bytes);
    return true;
}

static bool same_bytes(Bytes a, Bytes b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static bool against(const Artifact *a, const char *dir, Arena *arena, Error *err) {
    Source *s = ARENA_NEW(arena, Source, 1);
    TRY(source_read(s, a, dir, arena, err));
    if ((uint64_t)s->weights_bytes != a->payload.segments[SEGMENT_WEIGHTS].size)
        return fail(err, ERR_MISMATCH, 684,
                    "%s: %llu bytes of weights, %s gives %lld: it was made from another model",
                    a->path, (unsigned long long)a->payload.segments[SEGMENT_WEIGHTS].size, dir,
                    (long long)s->weights_bytes);
    for (int at = 0; at < s->graph.packed_count; at++)
        TRY(tensor_same(a, &s->graph.packed[at], err));
    Bytes tokenizer;
    TRY(tokenizer_compile(dir, s->config.vocab_size, arena, &tokenizer, err));
    if (!same_bytes(tokenizer, artifact_segment(a, SEGMENT_TOKENIZER)))
        return fail(err, ERR_MISMATCH, 685, "%s: the tokenizer is not that of %s", a->path, dir);
    printf("weights and tokenizer are those of %s: %d tensors compared\n", dir,
           s->graph.packed_count);
    return true;
}

// ---- the command --------------------------------------------------------------------------------

static bool verify(const char *path, const char *model, Arena *arena, Error *err) {
    Artifact a;
    uint64_t padding;
    int kernels;
    TRY(artifact_open(&a, path, err));
    TRY(payload_segment_check(a.whole, path, &a.payload.segments[SEGMENT_SOURCE], err));
    TRY(kernels_check(&a, &kernels, err));
    TRY(gaps_check(&a, &padding, err));
    TRY(pages_check(&a, err));
    printf("%s: good. %.1f MB: program, %d segments, %lld MiB of weights, %d kernels, "
           "%llu bytes of padding\n",
           path, (double)a.whole.size * 1e-6, SEGMENT_COUNT,
           (long long)ceil_div(a.info.weights_bytes, PAYLOAD_PAGE_BYTES), kernels,
           (unsigned long long)padding);
    return !model || against(&a, model, arena, err);
}

int verify_command(int argc, char **argv) {
    Error err = {0};
    Arena arena = {0};
    bool help;
    const char *path = NULL, *model = NULL;
    const Word words[] = {{.name = "--against",
                           .text = &model,
                           .value = "MODEL",
                           .help = "also pack this checkpoint again and compare"}};
    bool done = words_parse(words, 1, &path, 1, argc, argv, &help, &err);
    if (done && help)
        words_help("gptq-compile verify FILE       is every byte what the compiler wrote?", words,
                   1);
    else
        done = done && verify(path, model, &arena, &err);
    arena_free(&arena);
    return subcommand_end(done, &err);
}
