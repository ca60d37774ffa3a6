// Where packed tensors lie in SEGMENT_WEIGHTS, and which feature stands in which packed row.
#include "tile16.h"

#include <assert.h>

enum { PLAIN_RECORD_K = 64 };

Record record_geometry(const PackedTensor *t) {
    bool plain = t->bits == 16;
    int64_t tile_k = TILE_BYTES * 8 / t->bits / TILE_ROWS;
    int64_t k = plain ? PLAIN_RECORD_K : t->group > tile_k ? t->group : tile_k;
    Record r = {.k = k,
                .tile_k = tile_k,
                .tiles = (int)(k / tile_k),
                .groups = plain ? 0 : (int)(k / t->group),
                .scale_bytes = t->scale_f32 ? 2 * SCALE_BLOCK_BYTES : SCALE_BLOCK_BYTES,
                .zero_bytes = t->zeros ? SCALE_BLOCK_BYTES : 0};
    r.bytes = (int64_t)r.groups * (r.scale_bytes + r.zero_bytes) + (int64_t)r.tiles * TILE_BYTES;
    return r;
}

static bool linear_layout(PackedTensor *t, Error *err) {
    Record r = record_geometry(t);
    assert(t->rows % TILE_ROWS == 0 && t->k_padded % r.k == 0);
    size_t records, bytes;
    if (!size_mul((size_t)(t->rows / TILE_ROWS), (size_t)(t->k_padded / r.k), &records) ||
        !size_mul(records, (size_t)r.bytes, &bytes) || bytes > INT64_MAX / 2)
        return fail(err, ERR_UNSUPPORTED, 460, "%s: [%lld, %lld] is too large", t->name,
                    (long long)t->out_features, (long long)t->in_features);
    t->expert_bytes = (int64_t)bytes;
    if (!size_mul(bytes, (size_t)t->experts, &bytes) || bytes > INT64_MAX / 2)
        return fail(err, ERR_UNSUPPORTED, 466, "%s: %d experts of %lld bytes are too large",
                    t->name, t->experts, (long long)t->expert_bytes);
    t->bytes = (int64_t)bytes;
    return true;
}

bool weights_layout(Graph *g, int64_t *bytes, Error *err) {
    uint64_t at = 0;
    for (int i = 0; i < g->packed_count; i++) {
        PackedTensor *t = &g->packed[i];
        if (t->kind == PACKED_LINEAR)
            TRY(linear_layout(t, err));
        else
            t->bytes = t->count * 4; // fp32 or int32
        t->offset = (int64_t)at;
        at = round_up(at + (uint64_t)t->bytes, TENSOR_ALIGN);
        if (at > INT64_MAX / 2)
            return fail(err, ERR_UNSUPPORTED, 461, "%s: the model's weights are too large", t->name);
    }
    *bytes = (int64_t)at;
    return true;
}

// ---- row orders ---------------------------------------------------------------------------------

// Feature `row` of the concatenated parts.
static void plain_row(const PackedTensor *t, int64_t row, int *part, int64_t *n) {
    for (*part = 0; *part < t->part_count; ++*part) {
        int64_t features = t->parts[*part]->out_features;
        if (row < features) {
            *n = row;
            return;
        }
        row -= features;
    }
    *part = 0;
    *n = -1;
}

// Rows r and r + 8 of tile t in a head of q or k: features 8t + r and 8t + r + head_dim / 2.
static int64_t rope_feature(int64_t row, int64_t head_dim) {
    int64_t head = row / head_dim, tile = row % head_dim / TILE_ROWS, r = row % TILE_ROWS;
    return head * head_dim + tile * 8 + r % 8 + r / 8 * (head_dim / 2);
}

void packed_row(const PackedTensor *t, int64_t row, int *part, int64_t *n) {
    if (t->order == ROWS_GATE_UP) {
        *part = (int)(row % TILE_ROWS / 8);
        *n = row / TILE_ROWS * 8 + row % 8;
        if (*n >= t->out_features / 2)
            *n = -1;
        return;
    }
    plain_row(t, row, part, n);
    if (t->order == ROWS_ROPE && *n >= 0 && *part < 2)
        *n = rope_feature(*n, t->head_dim);
}
