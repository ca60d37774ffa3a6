// What: how the work of attention_decode is cut: rows into parts, parts over blocks.
// Idea: the keys of a row are cut by its length only. All parts of all rows and of all blocks of heads,
//     one behind the other, are dealt out in equal runs of units:
//
//         row 0: | heads 0: part 0 1 2 | heads 1: part 0 1 2 |   row 1: | heads 0: part 0 | heads 1: ...
//         block: |----- 0 -----|----- 1 -----|----- 2 ----- ...
//
//     A block finds its first row by a scan over the rows, 32 at a time; then it takes segment by segment,
//     each the neighbouring parts of one row and one block of heads.
// Parameters: SPLITS, WARPS; the constants of attention_decode.cu.
#ifndef ATTENTION_UNITS_CUH
#define ATTENTION_UNITS_CUH

// The keys of a row: from `start` on in `parts` parts of `part_keys`; those before `seen` do not
// count.
struct Row {
    int slot, length, start, seen, part_keys, parts;
};

__device__ __forceinline__ Row row_open(const Operands &o, int token) {
    Row r;
    int last    = (int)ld_global_u32(o.positions + token); // at the same time as the slot
    r.slot      = (int)ld_global_u32(o.slots + token);
    r.length    = r.slot < 0 ? 0 : last + 1;
    r.seen      = first_key(r.length - 1);
    r.start     = r.seen / RUN * RUN;
    int keys    = r.length - r.start;
    r.part_keys = (keys + SPLITS * STEP - 1) / (SPLITS * STEP) * STEP;
    r.parts     = keys > 0 ? (keys + r.part_keys - 1) / r.part_keys : 0;
    return r;
}

// Units are parts of rows and blocks of heads: all of row 0, those of its first heads first, ...
struct Units {
    int first, last; // of this block
    int token, base; // the row that holds `first`, and the row's first unit
};

__device__ __forceinline__ int lane_units(const Operands &o, int token) {
    return token < o.tokens ? row_open(o, token).parts * ROW_UNITS : 0;
}

// The sum over all rows, of which `mine` is what the first 32 of them have.
__device__ __forceinline__ int units_total(const Operands &o, int mine) {
    int total = (int)__reduce_add_sync(FULL_MASK, (u32)mine);
    for (int token = WARP_LANES; token < o.tokens; token += WARP_LANES) {
        mine = lane_units(o, token + (int)threadIdx.x % WARP_LANES);
        total += (int)__reduce_add_sync(FULL_MASK, (u32)mine);
    }
    return total;
}

__device__ __forceinline__ Units units_open(const Operands &o) {
    int lane = (int)threadIdx.x % WARP_LANES, mine = lane_units(o, lane);
    int total = units_total(o, mine), block = (int)blockIdx.x;
    int blocks = min((int)gridDim.x, total);
    Units u = {0, 0, 0, 0};
    if (block >= blocks) {
        return u;
    }
    u.first = (int)((s64)total * block / blocks);
    u.last  = (int)((s64)total * (block + 1) / blocks);
    for (int token = 0;; token += WARP_LANES) {
        int end    = warp_scan(mine);
        u32 behind = __ballot_sync(FULL_MASK, u.base + end > u.first);
        if (behind) {
            int at  = __ffs((int)behind) - 1;
            u.token = token + at;
            u.base += __shfl_sync(FULL_MASK, end - mine, at);
            return u;
        }
        u.base += __shfl_sync(FULL_MASK, end, WARP_LANES - 1);
        mine = lane_units(o, token + WARP_LANES + lane);
    }
}

// Parts [first_part, last_part) of one row and one block of heads.
struct Segment {
    KvHead head;
    int token, unit;          // unit: of the row, less than ROW_UNITS
    int first_head, heads;    // in the row of q
    int first_part, last_part, parts;
    int part_keys, begin, end, seen; // keys [begin, end)
    int old;                         // keys before it are of earlier steps
};

__device__ __forceinline__ Segment segment_of(const Operands &o, const Row &row, int token,
                                              int local, int count) {
    Segment s;
    s.token       = token;
    s.unit        = local / row.parts;
    s.first_part  = local % row.parts;
    s.last_part   = min(s.first_part + count, row.parts);
    s.parts       = row.parts;
    s.part_keys   = row.part_keys;
    s.begin       = row.start + s.first_part * row.part_keys;
    s.end         = min(row.length, row.start + s.last_part * row.part_keys);
    s.seen        = row.seen;
    s.old         = row.length - o.tokens; // the step has at most so many tokens of the sequence
    int kv_index  = s.unit / BLOCKS, of_group = s.unit % BLOCKS * (TILES * 8);
    s.first_head  = kv_index * GROUP_HEADS + of_group;
    s.heads       = min(GROUP_HEADS - of_group, TILES * 8);
    s.head        = kv_head(o.kv, o.page_table, row.slot, kv_index);
    return s;
}

// The segments of this block that are left; false: none.
__device__ __forceinline__ bool segment_next(const Operands &o, Units &u, Segment &s) {
    while (u.first < u.last) {
        Row row = row_open(o, u.token);
        int all = row.parts * ROW_UNITS, local = u.first - u.base;
        if (local < all) {
            s = segment_of(o, row, u.token, local, u.last - u.first);
            u.first += s.last_part - s.first_part;
            return true;
        }
        u.base += all;
        u.token++;
    }
    return false;
}

__device__ __forceinline__ int segment_runs(const Segment &s) {
    return (s.end - s.begin + STEP - 1) / STEP;
}

__device__ __forceinline__ int run_first(const Segment &s, int run) {
    return s.begin + (run * WARPS + (int)threadIdx.x / WARP_LANES) * RUN;
}

#endif
