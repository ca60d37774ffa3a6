// (1) Draws one token per row. The same in runtime/sampler.c (CPU); both follow this text. For a
//     row with parameters p = sample[slot] and logits l[0 .. VOCAB):
//
//     scores    s_i = l_i. If p.repetition_penalty > 0, it is not 1 and bit i of seen[slot] is set:
//               s_i = l_i * (1 / penalty) where l_i > 0, l_i * penalty elsewhere. If token i was
//               drawn c = counts[slot][i] > 0 times: s_i -= p.presence_penalty +
//               p.frequency_penalty * c (counts are read and kept only where one of the two is not
//               0). If bit i of biased[slot] is set: s_i += the bias of id i in the first
//               p.bias_count entries of bias[slot], which are ordered by id. Then NaN and -inf
//               become -FLT_MAX, +inf becomes FLT_MAX.
//     excluded  s_i = -inf where 0 < p.token_count <= i (rows that the vocabulary is filled up
//               with), and where p.masked is not 0 and bit i of mask[slot] is not set; one token at
//               least is left.   max = the largest s_i.
//     greedy    unless p.temperature > 0: the lowest i with s_i = max. Nothing below applies.
//     weights   x_i = (s_i - max) * c in fp32, c = 1.44269504 / p.temperature;
//               W_i = 0 if x_i <= -40, else floor(2^x_i * 2^40): integers, so that every sum below
//               is exact and has no order. 2^x is an approximation to 2 ulp.
//     top-k     if 0 < p.top_k < VOCAB: keep i only if fewer than top_k tokens j have s_j > s_i
//               (tokens that tie with the last one stay, as in transformers' TopKLogitsWarper).
//     top-p     if p.top_p < 1: T = sum of W over the kept; limit = max(1, high 64 bits of
//               T * q * 2^32), q = floor(max(p.top_p, 0) * 2^32); keep i only if the sum of W_j
//               over the kept j with s_j > s_i is less than limit (TopPLogitsWarper, but tokens of
//               equal logit stay or go together).
//     min-p     keep i only if W_i >= max(1, floor(p.min_p * 2^40)), p.min_p cut to [0, 1]
//               (MinPLogitsWarper; the order temperature, top-k, top-p, min-p is transformers').
//     draw      T = sum of W over the kept, u = first word of Philox4x32-10 (counter {p.step, 0, 0,
//               0}, key {p.seed_low, p.seed_high}), r = floor(T * u / 2^32): the lowest i with
//               sum of W_j over the kept j <= i greater than r.
//     after     sampled[slot] = token_ids[row] = token;
//               positions[row] = positions[head_rows[row]] + 1 (read before it is written: row 0
//               may stand for the last row of a prefill); bit `token` of seen[slot] is set; the
//               token's count grows up to 65535; p.step += 1.
//     logprobs  if p.logprobs > 0: results[slot] gets log softmax(l) (l with NaN and infinities
//               replaced as above) of the token, and of the p.logprobs - 1 ids below p.token_count
//               with the largest l, the lower id first among equals.
//     drafts    if f = p.first_row > 0, the slot has several rows, each with a token that is to be
//               tried behind the one before; f - 1 is the first. Row r draws with p.step + r + 1 - f;
//               `seen` has the tokens that are tried. drawn[r] = token instead of all of "after", and
//               there are no logprobs: which tokens count, the host finds out.
//     A row whose slot is -1 is left alone.
//
// (2) operand     dtype         shape                  notes
//     logits      fp32          [rows, VOCAB]
//     sample      SampleParams  [slots]                64 bytes each, by slot
//     head_slots  int32         [rows]                 -1: no row
//     seen        uint32        [slots, SEEN_WORDS]    token t is bit t % 32 of word t / 32
//     mask        uint32        [slots, SEEN_WORDS]
//     biased      uint32        [slots, SEEN_WORDS]
//     bias        LogitBias     [slots, MAX_BIAS]      id, bias; 8 bytes each
//     counts      uint16        [slots, VOCAB]
//     scratch     Chunk         [rows, CHUNKS]         written by one entry, read by the next
//     head_rows   int32         [rows]                 in [0, ROWS), else the row is left alone. A
//     token_ids   int32         [ROWS]                 row may name itself or one that no other row
//     positions   int32         [ROWS]                 writes.
//     drawn       int32         [rows]
//     sampled     int32         [slots]
//     results     SampleResult  [slots]
//     rows        int64
//
// (3) Layouts: logits plain. Keys: the bits of a float, made ordered as an unsigned integer (sign
//     flipped if positive, all flipped if negative). A Chunk covers 4096 tokens: its best (key <<
//     32 | ~id), its sum of W, and a list of the tokens within a window of the row's maximum, by
//     id.
//
// (4) Bytes: rows * VOCAB * 4 twice, from L2 (the head just wrote them). 128256 tokens, one row:
//     three launches of about 2 us; only rows whose top-k or top-p set leaves the lists read the
//     row again, about 12 times per threshold. Times: docs/performance.md.
//
// (5) VOCAB       tokens, at most 2^18 (sums of W fit 64 bits, chunks fit one warp pair)
//     SEEN_WORDS  ceil(VOCAB / 32)
//     ROWS        rows that token_ids and positions have room for
//     MAX_BIAS    biases that a slot has room for
//     MAX_TOP     of SampleResult
//
// (6) sample_max and sample_mass: grid {CHUNKS, rows, 1}, 256 threads, warp w takes tokens 512 w ..
//     512 w + 511 of the chunk, lane by lane. sample_draw: grid {1, rows, 1}, 512 threads.
//
// (7) Read: (1); score, weight; max_chunk; mass_chunk; then draw_row, whose last part is the list of
//     steps; logprobs_row. Row is what a block knows about its row.
#include "ptx.cuh"
#include "reduce.cuh"

// ORDER SAMPLE: SampleParams, LogitBias and SampleResult of runtime/payload.h.
struct SampleParams {
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    s32 top_k;
    u32 seed_low, seed_high;
    s32 step, token_count, bias_count, masked, logprobs, first_row;
    s32 reserved;
};
struct LogitBias {
    s32 id;
    float bias;
};
struct SampleResult {
    float logprob;
    s32 top_count;
    s32 top_ids[MAX_TOP];
    float top_logprobs[MAX_TOP];
};
static_assert(sizeof(SampleParams) == 64, "SampleParams");

constexpr int CHUNK_TOKENS = 4096;
constexpr int CHUNK_LIST   = 512; // tokens that a chunk's list holds
constexpr int CHUNKS       = (VOCAB + CHUNK_TOKENS - 1) / CHUNK_TOKENS;
constexpr int CHUNK_WARPS  = 8;
constexpr int CHUNK_LANE   = CHUNK_TOKENS / CHUNK_WARPS / WARP_LANES; // tokens of a lane
constexpr int WINDOWS      = 3;
constexpr int DRAW_THREADS = 512;
constexpr int DRAW_WARPS   = DRAW_THREADS / WARP_LANES;
constexpr int LIST_TOKENS  = 4096; // tokens of all lists together that a draw takes
constexpr int PIVOTS       = 3;    // per pass of a threshold's search
constexpr float LARGEST    = 3.402823466e38f;
constexpr float ONE_WEIGHT = 1099511627776.0f; // 2^40
static_assert(VOCAB > 0 && VOCAB <= 1 << 18 && CHUNKS <= 64, "sums and chunks");
static_assert(SEEN_WORDS == (VOCAB + 31) / 32 && ROWS > 0, "SEEN_WORDS, ROWS");

struct Chunk { // ORDER CHUNK: kernel_sample.c knows its size
    u64 best;            // key << 32 | ~id
    u64 mass;            // sum of W, see mass_chunk
    u32 counts[WINDOWS]; // tokens within window(0), window(1), ... of the row's maximum
    u32 stored;          // windows that the list covers
    u32 keys[CHUNK_LIST], ids[CHUNK_LIST];
};
static_assert(sizeof(Chunk) == 4128, "kernel_sample.c: CHUNK_BYTES");

// Distance from the maximum, in logits, of the tokens that a list covers.
__device__ __forceinline__ float window(int index) {
    return index == 0 ? 3.0f : index == 1 ? 6.0f : 10.0f;
}

// ---- what a block knows about its row -----------------------------------------------------------

// Where all rows find theirs.
struct Slots {
    const float *logits;
    const SampleParams *sample;
    const s32 *head_slots;
    const u32 *seen, *mask, *biased;
    const LogitBias *bias;
    const u16 *counts;
};

struct Row {
    const float *logits;
    const u32 *seen, *mask, *biased;
    const LogitBias *bias;
    const u16 *counts;
    SampleParams p;
    s32 slot;
    int tokens; // that may be drawn
    float max;   // set once it is known
    float scale; // c of (1)
    float inverse_penalty;
    u64 min_weight;
    bool penalty, counted, greedy, thresholds;
};

__device__ __forceinline__ u64 floor_weight(float x) {
    return (u64)(x * ONE_WEIGHT);
}

// False: nothing to do for this row.
__device__ __forceinline__ bool row_open(Row &row, s64 at, const Slots &slots) {
    row.slot = slots.head_slots[at];
    if (row.slot < 0) {
        return false;
    }
    s64 words      = (s64)row.slot * SEEN_WORDS;
    row.p          = slots.sample[row.slot];
    row.logits     = slots.logits + at * VOCAB;
    row.seen       = slots.seen + words;
    row.mask       = slots.mask + words;
    row.biased     = slots.biased + words;
    row.bias       = slots.bias + (s64)row.slot * MAX_BIAS;
    row.counts     = slots.counts + (s64)row.slot * VOCAB;
    row.p.step += row.p.first_row > 0 ? (int)at + 1 - row.p.first_row : 0;
    row.tokens     = row.p.token_count > 0 ? min(row.p.token_count, VOCAB) : VOCAB;
    row.penalty    = row.p.repetition_penalty > 0.0f && row.p.repetition_penalty != 1.0f;
    row.counted    = row.p.presence_penalty != 0.0f || row.p.frequency_penalty != 0.0f;
    row.greedy     = !(row.p.temperature > 0.0f);
    row.thresholds = (row.p.top_k > 0 && row.p.top_k < VOCAB) || row.p.top_p < 1.0f;
    row.scale      = fminf(1.44269504f / row.p.temperature, 1e30f); // 0 * inf is no number
    row.max        = 0.0f;
    row.inverse_penalty = 1.0f / row.p.repetition_penalty;
    u64 least      = floor_weight(fminf(fmaxf(row.p.min_p, 0.0f), 1.0f));
    row.min_weight = least > 1 ? least : 1;
    return true;
}

__device__ __forceinline__ bool has_bit(const u32 *bits, int id) {
    return bits[id / 32] >> (id % 32) & 1;
}

// NaN counts as the smallest; -0 becomes +0.
__device__ __forceinline__ float cleaned(float s) {
    s = s >= -LARGEST ? s : -LARGEST;
    return fminf(s, LARGEST) + 0.0f;
}

__device__ __forceinline__ float never() { // the score of an excluded token: -infinity
    return __uint_as_float(0xff800000u);
}

// Of an id that biased[slot] has. At most 300 tokens of a row come here.
__device__ __forceinline__ float bias_of(const Row &row, int id) {
    int low = 0, high = row.p.bias_count - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (row.bias[middle].id < id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return row.bias[low].bias;
}

__device__ __forceinline__ float score(const Row &row, int id) {
    float s = ld_global_f32(row.logits + id);
    if (row.penalty && has_bit(row.seen, id)) {
        s = s * (s > 0.0f ? row.inverse_penalty : row.p.repetition_penalty);
    }
    if (row.counted && row.counts[id]) {
        s -= row.p.presence_penalty + row.p.frequency_penalty * (float)row.counts[id];
    }
    if (row.p.bias_count > 0 && has_bit(row.biased, id)) {
        s += bias_of(row, id);
    }
    bool excluded = id >= row.tokens || (row.p.masked && !has_bit(row.mask, id));
    return excluded ? never() : cleaned(s);
}

__device__ __forceinline__ u32 key_of(float s) {
    u32 bits = __float_as_uint(s);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float key_value(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

__device__ __forceinline__ u64 weight(const Row &row, float s) {
    float x = (s - row.max) * row.scale;
    return x <= -40.0f ? 0 : floor_weight(ex2_approx(x));
}

// ---- warp helpers for 64-bit integers: exact, so any order gives the same -----------------------

__device__ __forceinline__ u64 warp_max_u64(u64 x) {
#pragma unroll // shuffle distances are immediates
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
        u64 other = __shfl_xor_sync(FULL_MASK, x, lanes);
        x         = other > x ? other : x;
    }
    return x;
}
__device__ __forceinline__ u64 warp_sum_u64(u64 x) {
#pragma unroll // shuffle distances are immediates
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
        x += __shfl_xor_sync(FULL_MASK, x, lanes);
    }
    return x;
}
// Sum over the lanes up to and with this one.
__device__ __forceinline__ u64 warp_scan_u64(u64 x) {
    int lane = (int)threadIdx.x % WARP_LANES;
#pragma unroll // shuffle distances are immediates
    for (int lanes = 1; lanes < WARP_LANES; lanes *= 2) {
        u64 other = __shfl_up_sync(FULL_MASK, x, lanes);
        x += lane >= lanes ? other : 0;
    }
    return x;
}

// ---- sample_max: the best token of each chunk ---------------------------------------------------

__device__ __forceinline__ int chunk_token(int chunk, int at) {
    return chunk * CHUNK_TOKENS + (int)threadIdx.x / WARP_LANES * (CHUNK_LANE * WARP_LANES) +
           at * WARP_LANES + (int)threadIdx.x % WARP_LANES;
}

__device__ __forceinline__ void max_chunk(const Row &row, int chunk, Chunk *out, u64 *shared) {
    u64 best = 0;
#pragma unroll // all loads at once
    for (int at = 0; at < CHUNK_LANE; at++) {
        int id = chunk_token(chunk, at);
        if (id < VOCAB) {
            u64 found = (u64)key_of(score(row, id)) << 32 | (u32)~id;
            best      = found > best ? found : best;
        }
    }
    best = warp_max_u64(best);
    if (threadIdx.x % WARP_LANES == 0) {
        shared[threadIdx.x / WARP_LANES] = best;
    }
    __syncthreads();
    if (threadIdx.x < WARP_LANES) {
        best = warp_max_u64(threadIdx.x < CHUNK_WARPS ? shared[threadIdx.x] : 0);
        if (threadIdx.x == 0) {
            out->best = best;
        }
    }
}

// Lane l of every warp looks at chunks l and l + 32.
__device__ __forceinline__ u64 row_best(const Chunk *chunks) {
    int lane = (int)threadIdx.x % WARP_LANES;
    u64 a    = lane < CHUNKS ? chunks[lane].best : 0;
    u64 b    = lane + WARP_LANES < CHUNKS ? chunks[lane + WARP_LANES].best : 0;
    return warp_max_u64(a > b ? a : b);
}
__device__ __forceinline__ u64 chunk_mass(const Chunk *chunks, int chunk) {
    return chunk < CHUNKS ? chunks[chunk].mass : 0;
}
// Tokens within window `index`, of the chunks before `end`.
__device__ __forceinline__ u32 window_tokens(const Chunk *chunks, int index, int end) {
    int lane  = (int)threadIdx.x % WARP_LANES;
    u32 count = lane < end ? chunks[lane].counts[index] : 0;
    if (CHUNKS > WARP_LANES) {
        count += lane + WARP_LANES < end ? chunks[lane + WARP_LANES].counts[index] : 0;
    }
    return __reduce_add_sync(FULL_MASK, count);
}

// ---- sample_mass: sum of W, and the list of large tokens, of each chunk -------------------------

struct MassShared {
    u64 mass[CHUNK_WARPS];
    u32 counts[WINDOWS][CHUNK_WARPS];
};

// Counts per window and the sum of W of this warp's tokens: all of them if a threshold follows,
// else only those that min-p keeps, since then the draw uses this sum as it is.
__device__ __forceinline__ void mass_warp(const Row &row, int chunk, const float s[CHUNK_LANE],
                                          MassShared *shared) {
    u64 mass            = 0;
    u32 counts[WINDOWS] = {0, 0, 0};
#pragma unroll // s stays in registers
    for (int at = 0; at < CHUNK_LANE; at++) {
        if (chunk_token(chunk, at) < VOCAB) {
            u64 w = weight(row, s[at]);
            mass += row.thresholds || w >= row.min_weight ? w : 0;
            float distance = row.max - s[at];
#pragma unroll // counts stay in registers
            for (int index = 0; index < WINDOWS; index++) {
                counts[index] += distance <= window(index);
            }
        }
    }
    int warp = (int)threadIdx.x / WARP_LANES;
    mass     = warp_sum_u64(mass);
#pragma unroll // counts stay in registers
    for (int index = 0; index < WINDOWS; index++) {
        counts[index] = __reduce_add_sync(FULL_MASK, counts[index]);
        shared->counts[index][warp] = counts[index];
    }
    shared->mass[warp] = mass;
}

// Writes this warp's tokens within the window to the list, in the order of their ids.
__device__ __forceinline__ void list_warp(const Row &row, int chunk, const float s[CHUNK_LANE],
                                          float distance, u32 first, Chunk *out) {
    u32 before = (1u << threadIdx.x % WARP_LANES) - 1;
#pragma unroll // s stays in registers
    for (int at = 0; at < CHUNK_LANE; at++) {
        int id    = chunk_token(chunk, at);
        bool take = id < VOCAB && row.max - s[at] <= distance;
        u32 lanes = __ballot_sync(FULL_MASK, take);
        if (take) {
            u32 to        = first + (u32)__popc(lanes & before);
            out->keys[to] = key_of(s[at]);
            out->ids[to]  = (u32)id;
        }
        first += (u32)__popc(lanes);
    }
}

__device__ __forceinline__ void mass_chunk(Row &row, int chunk, const Chunk *chunks, Chunk *out,
                                           MassShared *shared) {
    row.max = key_value((u32)(row_best(chunks) >> 32));
    float s[CHUNK_LANE];
#pragma unroll // all loads at once
    for (int at = 0; at < CHUNK_LANE; at++) {
        int id = chunk_token(chunk, at);
        s[at]  = id < VOCAB ? score(row, id) : never();
    }
    mass_warp(row, chunk, s, shared);
    __syncthreads();
    int stored = 0, warp = (int)threadIdx.x / WARP_LANES;
    u32 first = 0;
    for (int index = 0; index < WINDOWS; index++) {
        u32 total = 0, before = 0;
        for (int other = 0; other < CHUNK_WARPS; other++) {
            before += other < warp ? shared->counts[index][other] : 0;
            total += shared->counts[index][other];
        }
        if (total <= CHUNK_LIST) {
            stored = index + 1;
            first  = before;
        }
        if (threadIdx.x == 0) {
            out->counts[index] = total;
        }
    }
    if (stored > 0) {
        list_warp(row, chunk, s, window(stored - 1), first, out);
    }
    if (threadIdx.x == 0) {
        u64 mass = 0;
        for (int other = 0; other < CHUNK_WARPS; other++) {
            mass += shared->mass[other];
        }
        out->mass   = mass;
        out->stored = (u32)stored;
    }
}

// ---- sample_draw: thresholds and the draw -------------------------------------------------------

struct DrawShared {
    u64 sums[PIVOTS][DRAW_WARPS];
    float floats[DRAW_WARPS];
    u32 chosen;
    u32 keys[LIST_TOKENS], ids[LIST_TOKENS];
};

// Where candidates come from, in the order of their ids: the lists in shared memory, or, where
// `keys` is NULL, the row itself from token `first` on.
struct Source {
    const Row *row;
    const u32 *keys, *ids;
    int first, count;
    __device__ __forceinline__ u32 key(int at) const {
        return keys ? keys[at] : key_of(score(*row, first + at));
    }
    __device__ __forceinline__ u32 id(int at) const {
        return keys ? ids[at] : (u32)(first + at);
    }
};

// Copies the lists into shared memory, cut to the largest window that all of them cover and that
// fits. Returns its index, -1 if there is none, and the number of tokens.
__device__ __forceinline__ int lists_load(const Row &row, const Chunk *chunks, DrawShared *shared,
                                          int *count) {
    int lane   = (int)threadIdx.x % WARP_LANES;
    u32 stored = min(lane < CHUNKS ? chunks[lane].stored : WINDOWS,
                     lane + WARP_LANES < CHUNKS ? chunks[lane + WARP_LANES].stored : WINDOWS);
    stored     = __reduce_min_sync(FULL_MASK, stored);
    int chosen = -1;
    for (int index = 0; index < (int)stored; index++) {
        u32 total = window_tokens(chunks, index, CHUNKS);
        if (total <= LIST_TOKENS) {
            chosen = index;
            *count = (int)total;
        }
    }
    if (chosen < 0) {
        return -1;
    }
    float distance = window(chosen);
    // A warp per chunk keeps the order of ids.
    for (int chunk = (int)threadIdx.x / WARP_LANES; chunk < CHUNKS; chunk += DRAW_WARPS) {
        const Chunk *c = chunks + chunk;
        u32 to = window_tokens(chunks, chosen, chunk), have = c->counts[c->stored - 1];
        for (u32 from = 0; from < have; from += WARP_LANES) {
            u32 at    = from + (u32)lane;
            u32 key   = at < have ? c->keys[at] : 0;
            bool take = at < have && row.max - key_value(key) <= distance;
            u32 lanes = __ballot_sync(FULL_MASK, take);
            if (take) {
                u32 slot           = to + (u32)__popc(lanes & ((1u << lane) - 1));
                shared->keys[slot] = key;
                shared->ids[slot]  = c->ids[at];
            }
            to += (u32)__popc(lanes);
        }
    }
    __syncthreads();
    return chosen;
}

// For all threads: sums over the block of PIVOTS values each.
__device__ __forceinline__ void block_sums(u64 values[PIVOTS], DrawShared *shared) {
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    __syncthreads(); // the last use of sums is over
#pragma unroll // values stay in registers
    for (int pivot = 0; pivot < PIVOTS; pivot++) {
        u64 sum = warp_sum_u64(values[pivot]);
        if (lane == 0) {
            shared->sums[pivot][warp] = sum;
        }
    }
    __syncthreads();
#pragma unroll // values stay in registers
    for (int pivot = 0; pivot < PIVOTS; pivot++) {
        values[pivot] = warp_sum_u64(lane < DRAW_WARPS ? shared->sums[pivot][lane] : 0);
    }
}

// The lowest key v for which the measure of the keys above v is less than `limit`; the measure of a
// key is 1 or its W. Only keys of `least` or more count. Searched with PIVOTS pivots a pass.
__device__ __forceinline__ u32 lowest_kept(const Source &source, const Row &row, bool by_weight,
                                           u32 least, u64 limit, DrawShared *shared) {
    u32 low = 0, high = key_of(row.max);
    while (low < high) {
        u32 step = (high - low) / (PIVOTS + 1) + 1;
        u64 above[PIVOTS];
#pragma unroll // above stays in registers
        for (int pivot = 0; pivot < PIVOTS; pivot++) {
            above[pivot] = 0;
        }
#pragma unroll 4 // loads in flight
        for (int at = (int)threadIdx.x; at < source.count; at += DRAW_THREADS) {
            u32 key     = source.key(at);
            u64 measure = by_weight ? weight(row, key_value(key)) : 1;
            measure     = key >= least ? measure : 0;
#pragma unroll // above stays in registers
            for (int pivot = 0; pivot < PIVOTS; pivot++) {
                above[pivot] += key > (u64)low + (u64)step * (u32)pivot ? measure : 0;
            }
        }
        block_sums(above, shared);
        // above falls from pivot to pivot: the first one below the limit is the new upper end.
        u32 from = low;
        bool found = false;
#pragma unroll // above stays in registers
        for (int pivot = 0; pivot < PIVOTS; pivot++) {
            u64 at = (u64)from + (u64)step * (u32)pivot;
            if (!found && at < high) {
                if (above[pivot] < limit) {
                    high  = (u32)at;
                    found = true;
                } else {
                    low = (u32)at + 1;
                }
            }
        }
    }
    return high;
}

// Sum of W over the keys of `least` or more.
__device__ __forceinline__ u64 mass_kept(const Source &source, const Row &row, u32 least,
                                         DrawShared *shared) {
    u64 sums[PIVOTS] = {0};
#pragma unroll 4 // loads in flight
    for (int at = (int)threadIdx.x; at < source.count; at += DRAW_THREADS) {
        u32 key = source.key(at);
        sums[0] += key >= least ? weight(row, key_value(key)) : 0;
    }
    block_sums(sums, shared);
    return sums[0];
}

__device__ __forceinline__ u64 top_p_limit(const Row &row, u64 mass) {
    u64 share = (u64)(fmaxf(row.p.top_p, 0.0f) * 4294967296.0f);
    u64 limit = __umul64hi(mass, share << 32);
    return limit > 1 ? limit : 1;
}

// The lowest key that top-k and top-p keep. `mass`: sum of W over the whole row.
__device__ __forceinline__ u32 threshold(const Source &source, const Row &row, u64 mass,
                                         DrawShared *shared) {
    u32 least = 0;
    if (row.p.top_k > 0 && row.p.top_k < VOCAB) {
        least = lowest_kept(source, row, false, 0, (u64)row.p.top_k, shared);
        mass  = mass_kept(source, row, least, shared);
    }
    if (row.p.top_p < 1.0f) {
        least = max(least, lowest_kept(source, row, true, least, top_p_limit(row, mass), shared));
    }
    return least;
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011), first word.
__device__ __forceinline__ u32 philox(const SampleParams &p) {
    u32 c0 = (u32)p.step, c1 = 0, c2 = 0, c3 = 0, k0 = p.seed_low, k1 = p.seed_high;
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
        u32 high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c0;
}

__device__ __forceinline__ u64 kept_weight(const Row &row, u32 key, u32 least) {
    u64 w = key >= least ? weight(row, key_value(key)) : 0;
    return w >= row.min_weight ? w : 0;
}

// The token at which the running sum of kept W passes r; r < 0 as a u64 (all ones): r is drawn
// here. Warp w takes a contiguous part of the source.
__device__ __forceinline__ u32 draw(const Source &source, const Row &row, u32 least, u64 r,
                                    DrawShared *shared) {
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    int part  = (source.count + DRAW_THREADS - 1) / DRAW_THREADS * WARP_LANES;
    int first = warp * part, last = min(first + part, source.count);
    u64 mass = 0;
#pragma unroll 4 // loads in flight
    for (int at = first + lane; at < last; at += WARP_LANES) {
        mass += kept_weight(row, source.key(at), least);
    }
    mass = warp_sum_u64(mass);
    __syncthreads(); // the last use of sums is over
    if (lane == 0) {
        shared->sums[0][warp] = mass;
    }
    __syncthreads();
    u64 own  = lane < DRAW_WARPS ? shared->sums[0][lane] : 0;
    u64 upto = warp_scan_u64(own); // through warp `lane`
    if (r == ~(u64)0) {
        r = __umul64hi(__shfl_sync(FULL_MASK, upto, WARP_LANES - 1), (u64)philox(row.p) << 32);
    }
    u32 passed = __ballot_sync(FULL_MASK, upto > r);
    int owner  = passed ? __ffs((int)passed) - 1 : DRAW_WARPS - 1;
    u64 before = __shfl_sync(FULL_MASK, upto - own, owner);
    if (warp == owner) {
        u64 rest = r - before;
        for (int from = first; from < last; from += WARP_LANES) {
            int at    = from + lane;
            u64 w     = at < last ? kept_weight(row, source.key(at), least) : 0;
            u64 sum   = warp_scan_u64(w);
            u32 lanes = __ballot_sync(FULL_MASK, sum > rest);
            if (lanes) {
                if (lane == __ffs((int)lanes) - 1) {
                    shared->chosen = source.id(at);
                }
                break;
            }
            rest -= __shfl_sync(FULL_MASK, sum, WARP_LANES - 1);
        }
    }
    __syncthreads();
    return shared->chosen;
}

// Without thresholds: the chunk by the chunks' sums, then the token in it.
__device__ __forceinline__ u32 draw_by_chunks(const Row &row, const Chunk *chunks,
                                              DrawShared *shared) {
    int lane   = (int)threadIdx.x % WARP_LANES;
    u64 low    = warp_scan_u64(chunk_mass(chunks, lane));
    u64 high   = warp_scan_u64(chunk_mass(chunks, lane + WARP_LANES));
    u64 middle = __shfl_sync(FULL_MASK, low, WARP_LANES - 1);
    u64 total  = middle + __shfl_sync(FULL_MASK, high, WARP_LANES - 1);
    u64 r      = __umul64hi(total, (u64)philox(row.p) << 32);
    bool upper = r >= middle;
    u64 upto   = upper ? middle + high : low; // sum through the lane's chunk
    int owner  = __ffs((int)__ballot_sync(FULL_MASK, upto > r)) - 1;
    int chunk  = owner + (upper ? WARP_LANES : 0);
    r -= __shfl_sync(FULL_MASK, upto, owner) - chunks[chunk].mass;
    int first = chunk * CHUNK_TOKENS;
    Source source = {&row, nullptr, nullptr, first, min(CHUNK_TOKENS, VOCAB - first)};
    return draw(source, row, 0, r, shared);
}

// Whether the kept set lies inside of the lists, which cover `distance` and hold `count` tokens.
__device__ __forceinline__ bool list_is_enough(const Row &row, const Source &source,
                                               float distance, u64 mass, DrawShared *shared) {
    if (distance * row.scale >= 40.0f) {
        return true; // W = 0 outside
    }
    if (row.p.top_k > 0 && row.p.top_k < VOCAB) {
        return source.count >= row.p.top_k;
    }
    return mass_kept(source, row, 0, shared) >= top_p_limit(row, mass);
}

__device__ __forceinline__ u32 draw_row(Row &row, const Chunk *chunks, DrawShared *shared) {
    u64 best = row_best(chunks);
    if (row.greedy) {
        return ~(u32)best;
    }
    row.max = key_value((u32)(best >> 32));
    if (!row.thresholds) {
        return draw_by_chunks(row, chunks, shared);
    }
    int lane = (int)threadIdx.x % WARP_LANES;
    u64 mass = warp_sum_u64(chunk_mass(chunks, lane) + chunk_mass(chunks, lane + WARP_LANES));
    Source source = {&row, shared->keys, shared->ids, 0, 0};
    int index     = lists_load(row, chunks, shared, &source.count);
    if (index < 0 || !list_is_enough(row, source, window(index), mass, shared)) {
        source = {&row, nullptr, nullptr, 0, VOCAB};
    }
    return draw(source, row, threshold(source, row, mass, shared), ~(u64)0, shared);
}

// ---- logprobs, for rows that ask for them -------------------------------------------------------

__device__ __forceinline__ u64 block_max_u64(u64 x, DrawShared *shared) {
    int lane = (int)threadIdx.x % WARP_LANES, warp = (int)threadIdx.x / WARP_LANES;
    x        = warp_max_u64(x);
    __syncthreads(); // the last use of sums is over
    if (lane == 0) {
        shared->sums[0][warp] = x;
    }
    __syncthreads();
    return warp_max_u64(lane < DRAW_WARPS ? shared->sums[0][lane] : 0);
}

// The largest key << 32 | ~id below `limit` among a thread's tokens before `end`; 0: none.
__device__ __forceinline__ u64 thread_best(const Row &row, int end, u64 limit) {
    u64 best = 0;
#pragma unroll 4 // loads in flight
    for (int id = (int)threadIdx.x; id < end; id += DRAW_THREADS) {
        u64 found = (u64)key_of(cleaned(ld_global_f32(row.logits + id))) << 32 | (u32)~id;
        best      = found > best && found < limit ? found : best;
    }
    return best;
}

// The most likely token is found again and again among what each thread has left.
__device__ __forceinline__ void logprobs_row(const Row &row, u32 token, SampleResult *out,
                                             DrawShared *shared) {
    float max   = key_value((u32)(block_max_u64(thread_best(row, VOCAB, ~(u64)0), shared) >> 32));
    float total = 0.0f;
#pragma unroll 4 // loads in flight
    for (int id = (int)threadIdx.x; id < VOCAB; id += DRAW_THREADS) {
        total += ex2_approx((cleaned(ld_global_f32(row.logits + id)) - max) * 1.44269504f);
    }
    total       = block_sum<DRAW_WARPS>(total, shared->floats);
    float below = lg2_approx(total) * 0.69314718f;
    int asked   = min(row.p.logprobs - 1, min(MAX_TOP, row.tokens));
    u64 mine    = asked > 0 ? thread_best(row, row.tokens, ~(u64)0) : 0;
    for (int rank = 0; rank < asked; rank++) {
        u64 best = block_max_u64(mine, shared);
        if (mine == best) {
            out->top_ids[rank]      = (s32)~(u32)best;
            out->top_logprobs[rank] = key_value((u32)(best >> 32)) - max - below;
            mine                    = thread_best(row, row.tokens, best);
        }
    }
    if (threadIdx.x == 0) {
        out->logprob   = cleaned(ld_global_f32(row.logits + token)) - max - below;
        out->top_count = asked > 0 ? asked : 0;
    }
}

// ---- entries ------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(CHUNK_WARPS *WARP_LANES)
    sample_max(const float *logits, const SampleParams *sample, const s32 *head_slots,
               const u32 *seen, const u32 *mask, const u32 *biased, const LogitBias *bias,
               const u16 *counts, Chunk *scratch, s64 rows) {
    __shared__ u64 shared[CHUNK_WARPS];
    Slots slots = {logits, sample, head_slots, seen, mask, biased, bias, counts};
    Row row;
    s64 at = blockIdx.y;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (at < rows && row_open(row, at, slots)) {
        max_chunk(row, (int)blockIdx.x, scratch + at * CHUNKS + blockIdx.x, shared);
    }
}

extern "C" __global__ void __launch_bounds__(CHUNK_WARPS *WARP_LANES, 1)
    sample_mass(const float *logits, const SampleParams *sample, const s32 *head_slots,
                const u32 *seen, const u32 *mask, const u32 *biased, const LogitBias *bias,
                const u16 *counts, Chunk *scratch, s64 rows) {
    __shared__ MassShared shared;
    Slots slots = {logits, sample, head_slots, seen, mask, biased, bias, counts};
    Row row;
    s64 at = blockIdx.y;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (at < rows && row_open(row, at, slots) && !row.greedy) {
        Chunk *chunks = scratch + at * CHUNKS;
        mass_chunk(row, (int)blockIdx.x, chunks, chunks + blockIdx.x, &shared);
    }
}

extern "C" __global__ void __launch_bounds__(DRAW_THREADS, 1)
    sample_draw(const float *logits, SampleParams *sample, const s32 *head_slots, u32 *seen,
                const u32 *mask, const u32 *biased, const LogitBias *bias, u16 *counts,
                const Chunk *scratch, const s32 *head_rows, s32 *token_ids, s32 *positions,
                s32 *drawn, s32 *sampled, SampleResult *results, s64 rows) {
    __shared__ DrawShared shared;
    Slots slots = {logits, sample, head_slots, seen, mask, biased, bias, counts};
    Row row;
    s64 at = blockIdx.y;
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
    if (at >= rows || !row_open(row, at, slots)) {
        return;
    }
    s32 from = head_rows[at];
    if (from < 0 || from >= ROWS) {
        return;
    }
    s32 position = positions[from];
    u32 token    = draw_row(row, scratch + at * CHUNKS, &shared);
    if (row.p.first_row > 0) {
        if (threadIdx.x == 0) {
            drawn[at] = (s32)token;
        }
        return;
    }
    if (row.p.logprobs > 0) {
        logprobs_row(row, token, results + row.slot, &shared);
    }
    __syncthreads(); // everybody has read
    if (threadIdx.x == 0) {
        sampled[row.slot]     = (s32)token;
        token_ids[at]         = (s32)token;
        positions[at]         = position + 1;
        sample[row.slot].step = row.p.step + 1;
        seen[(s64)row.slot * SEEN_WORDS + token / 32] |= 1u << token % 32;
        u16 *count = counts + (s64)row.slot * VOCAB + token;
        if (row.counted && *count < 65535) {
            *count = (u16)(*count + 1);
        }
    }
}
