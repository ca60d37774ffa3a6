// Writes the payload of runtime/payload.h: ELF image, weights (packed in place by pack.c), the
// other segments and the tail (tail.c). Bytes depend on the inputs only.
#include "compile.h"
#include "selftest.h"
#include "tail.h"

#include <assert.h>
#include <string.h>

int64_t payload_weights_offset(size_t elf_bytes) {
    return (int64_t)round_up(elf_bytes, PAYLOAD_WEIGHTS_ALIGN);
}

// ---- targets, kernels, cubins -------------------------------------------------------------------

// The tables of all GPU targets. Equal images (same key) are stored once.
typedef struct KernelTables {
    TargetInfo *targets;
    KernelInfo *kernels;
    unsigned char *images;
    int target_count, kernel_count;
    size_t image_bytes;
} KernelTables;

static const KernelInfo *kernel_same_image(const KernelTables *t, const Cubin *cubin) {
    for (int at = 0; at < t->kernel_count; at++)
        if (memcmp(t->kernels[at].key, cubin->key, sizeof cubin->key) == 0)
            return &t->kernels[at];
    return NULL;
}

static void kernel_store(KernelTables *t, const Step *step, const Cubin *cubin) {
    KernelInfo *k = &t->kernels[t->kernel_count];
    *k = (KernelInfo){.shared_bytes = step->shared_bytes,
                      .block = step->block,
                      .is_ptx = cubin->is_ptx,
                      .argument_count = step->operand_count,
                      .map_columns = step->map_columns,
                      .map_rows = step->map_rows,
                      .cluster_blocks = step->cluster_blocks,
                      .image_size = cubin->image.size};
    snprintf(k->name, sizeof k->name, "%s", strrchr(step->source, '/') + 1);
    snprintf(k->entry, sizeof k->entry, "%s", step->entry);
    memcpy(k->key, cubin->key, sizeof k->key);
    payload_hash128(cubin->image.data, cubin->image.size, k->image_check);
    const KernelInfo *same = kernel_same_image(t, cubin);
    if (same) {
        k->image_offset = same->image_offset;
    } else {
        k->image_offset = t->image_bytes;
        memcpy(t->images + t->image_bytes, cubin->image.data, cubin->image.size);
        t->image_bytes += (size_t)round_up(cubin->image.size, 64);
    }
    t->kernel_count++;
}

static KernelTables tables_new(const Contents *c, Arena *a) {
    int kernels = 0;
    size_t bytes = 0;
    for (int plan = 0; plan < c->plan_count; plan++)
        for (int at = 0; c->cubins[plan] && at < c->plans[plan]->kernel_count; at++) {
            kernels++;
            bytes += (size_t)round_up(c->cubins[plan][at].image.size, 64);
        }
    return (KernelTables){.targets = ARENA_NEW(a, TargetInfo, c->plan_count),
                          .kernels = ARENA_NEW(a, KernelInfo, kernels),
                          .images = arena_alloc(a, bytes)};
}

static KernelTables tables_make(const Contents *c, Arena *a) {
    KernelTables t = tables_new(c, a);
    for (int plan = 0; plan < c->plan_count; plan++) {
        const Plan *p = c->plans[plan];
        TargetInfo *info = &t.targets[t.target_count++];
        *info = (TargetInfo){.device = (int32_t)p->target->device,
                             .compute_major = p->target->compute_major,
                             .compute_minor = p->target->compute_minor,
                             .exact = p->target->exact,
                             .first_kernel = t.kernel_count,
                             .same_rows = (int32_t)p->same_rows};
        if (p->target->device == DEVICE_CPU)
            snprintf(info->name, sizeof info->name, "cpu:%s", p->target->cpu_level);
        else
            snprintf(info->name, sizeof info->name, "%s", p->target->name);
        for (int at = 0; c->cubins[plan] && at < p->kernel_count; at++)
            kernel_store(&t, p->kernels[at], &c->cubins[plan][at]);
        info->kernel_count = t.kernel_count - info->first_kernel;
    }
    return t;
}

// ---- the tail -----------------------------------------------------------------------------------

// One ModelInfo serves all targets: the arena is as large as the largest wants it.
static ModelInfo model_info(const Contents *c, int64_t weights_bytes) {
    ModelInfo info = c->plans[0]->info;
    for (int plan = 1; plan < c->plan_count; plan++) {
        const ModelInfo *other = &c->plans[plan]->info;
        assert(other->logits_offset == info.logits_offset);
        if (other->arena_bytes > info.arena_bytes)
            info.arena_bytes = other->arena_bytes;
        if (c->plans[plan]->target->device == DEVICE_CUDA)
            info.activation_dtype = other->activation_dtype;
    }
    info.weights_bytes = weights_bytes;
    if (c->name) {
        memset(info.name, 0, sizeof info.name);
        snprintf(info.name, sizeof info.name, "%s", c->name);
    }
    return info;
}

// The segments that stay as they are, from `at` on. Returns where they end.
static bool segments_write(Output *out, Segment table[SEGMENT_COUNT], const Bytes *segments,
                           int64_t *at, Error *err) {
    for (int kind = 0; kind < SEGMENT_COUNT; kind++) {
        if (kind == SEGMENT_WEIGHTS || segment_replaceable((SegmentKind)kind))
            continue;
        *at = (int64_t)round_up((uint64_t)*at, PAYLOAD_SEGMENT_ALIGN);
        table[kind] =
            (Segment){.kind = (uint32_t)kind, .offset = (uint64_t)*at, .size = segments[kind].size};
        payload_hash128(segments[kind].data, segments[kind].size, table[kind].check);
        TRY(output_write(out, *at, segments[kind].data, segments[kind].size, err));
        *at += (int64_t)segments[kind].size;
    }
    return true;
}

bool payload_write(Output *out, const Contents *c, int64_t weights_bytes, const uint64_t *checks,
                   Arena *a, Error *err) {
    KernelTables tables = tables_make(c, a);
    ModelInfo info = model_info(c, weights_bytes);
    int64_t weights_at = payload_weights_offset(c->elf.size);
    size_t pages = (size_t)ceil_div(weights_bytes, PAYLOAD_PAGE_BYTES);
    Bytes segments[SEGMENT_COUNT];
    memcpy(segments, c->segments, sizeof segments);
    segments[SEGMENT_MODEL] = (Bytes){(const unsigned char *)&info, sizeof info};
    segments[SEGMENT_TARGETS] = (Bytes){(const unsigned char *)tables.targets,
                                        (size_t)tables.target_count * sizeof(TargetInfo)};
    segments[SEGMENT_KERNELS] = (Bytes){(const unsigned char *)tables.kernels,
                                        (size_t)tables.kernel_count * sizeof(KernelInfo)};
    segments[SEGMENT_CUBINS] = (Bytes){tables.images, tables.image_bytes};
    segments[SEGMENT_CHECKS] = (Bytes){(const unsigned char *)checks, pages * sizeof(uint64_t)};
    Segment table[SEGMENT_COUNT] = {0};
    table[SEGMENT_WEIGHTS] = (Segment){
        .kind = SEGMENT_WEIGHTS, .offset = (uint64_t)weights_at, .size = (uint64_t)weights_bytes};
    const Bytes golden[SELFTEST_PARTS] = {c->elf, segments[SEGMENT_CHECKS],
                                          segments[SEGMENT_KERNELS], segments[SEGMENT_CUBINS],
                                          segments[SEGMENT_TOKENIZER]};
    selftest_seal(segments[SEGMENT_SELFTEST], golden);
    if (c->split_bytes)
        table[SEGMENT_WEIGHTS] =
            (Segment){.kind = SEGMENT_WEIGHTS,
                      .reserved = (uint32_t)ceil_div(weights_bytes, c->split_bytes),
                      .size = (uint64_t)weights_bytes,
                      .check = {(uint64_t)c->split_bytes, 0}};
    PayloadFooter footer = {.elf_size = c->elf.size};
    payload_hash128(c->elf.data, c->elf.size, footer.elf_check);
    int64_t at = c->split_bytes ? (int64_t)c->elf.size : weights_at + weights_bytes;
    TRY(output_write(out, 0, c->elf.data, c->elf.size, err));
    TRY(segments_write(out, table, segments, &at, err));
    return tail_write(out, table, segments, (uint64_t)at, &footer, a, err);
}
