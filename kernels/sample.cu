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
// (7) Read (1), then from the bottom: the three entries, draw_row. Then, in this order:
//     sample_row.cuh          what a block knows about its row; score, key, weight
//     sample_warp.cuh         sums of a warp
//     sample_chunks.cuh       sample_max and sample_mass
//     sample_source.cuh       sample_draw: candidates,
//     sample_threshold.cuh    which of them top-k and top-p keep,
//     sample_pick.cuh         which one is drawn,
//     sample_logprobs.cuh     how likely it was
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

#include "sample_row.cuh"
#include "sample_warp.cuh"
#include "sample_chunks.cuh"
#include "sample_source.cuh"
#include "sample_threshold.cuh"
#include "sample_pick.cuh"
#include "sample_logprobs.cuh"

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
