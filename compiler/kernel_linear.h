// What the CUDA families of linears share: parameters and operands of kernels/dequant.cuh and
// kernels/epilogue.cuh, and the variants that a benchmark may ask for one by one.
#ifndef KERNEL_LINEAR_H
#define KERNEL_LINEAR_H

#include "tile16.h"

// BITS .. EXPERTS and, for EPILOGUE_ROPE_KV, where the KV cache lies. Experts ask with the fields
// of a linear filled in (kernel_experts.c).
void linear_params(Params *params, const Problem *p);
// out, kv, inv_freq, positions, slots, page_table, behind `bias`; unused ones are 0.
void linear_operands(Step *s, const Problem *p, Plan *plan, PhasePlan *phase);
// What no linear kernel takes; writes the reason.
bool linear_supported(const Problem *p, char reason[REASON_BYTES]);
const PackedTensor *linear_weight(const Problem *p);
// Does dequantization need few registers? Not with groups of 16, zero points, fp32 scales or bf16.
bool linear_is_lean(const Problem *p);
// Bytes of one token of the input (before a norm) and of the output.
int64_t linear_token_bytes(const Problem *p);

enum { DECODE_TOKENS_LIMIT = 32 }; // four mma tiles of tokens

// kernels/linear_decode.cu. How the block is cut; the rest follows from the problem.
typedef struct DecodeVariant {
    int warps;      // that split K
    int tiles;      // row tiles that share activations
    int stages;     // of a warp's ring, 0: as many as useful
    bool bulk;      // bulk copies instead of cp.async
    int ctas_per_sm;
    int cluster; // blocks that split K, 1, 2 or 4
    bool apart;  // a norm in front is a step of its own
} DecodeVariant;

// warps and ctas_per_sm for this shape; the same for any number of tokens, so that results are.
DecodeVariant decode_variant(const Problem *p);
// For blocks in clusters, whose sums are in another order.
DecodeVariant decode_cluster(const Problem *p, int cluster);
// Completes the variant: params, or false where shared memory does not suffice.
bool decode_params(const Problem *p, DecodeVariant v, Params *out);

// kernels/linear_gemm.cu
typedef struct GemmVariant {
    int block_tokens; // 32, 64, 128, 256
    int warp_tiles;   // 1, 2, 4: block rows / 64
    int stages;       // 0: as many as fit, up to 4
    int ctas_per_sm;
} GemmVariant;

bool gemm_params(const Problem *p, GemmVariant v, Params *out);

// kernels/linear_wgmma.cu
typedef struct WgmmaVariant {
    int block_tokens; // 16, 32, 64, 128, 256
    int row_groups;   // warpgroups of 64 rows: 1 .. 4
    int k_groups;     // warpgroups that take turns along K: 1 .. 4
    int cluster;      // blocks that share K: 1, 2, 4
    int spread;       // blocks that share x: 1, 2, 4
    int even;         // 1: what does not fill the last turn is split evenly along K
    int stages;       // 0: as many as fit, up to 16
} WgmmaVariant;

bool wgmma_params(const Problem *p, WgmmaVariant v, Params *out);

// A norm in front as a step of its own (kernel_linear_gemm.c): the buffer of act [tokens, K], and its time.
int linear_norm_step(const Problem *p, Plan *plan, PhasePlan *phase);
double linear_norm_us(const Problem *p);

// What the two kernels of many tokens share (kernel_linear_gemm.c): when they are asked at all, the
// time around their products, and their step.
bool linear_many_accepts(const Problem *p, char reason[REASON_BYTES]);
Cost linear_many_cost(const Problem *p, double compute_us, double blocks);
Step *linear_many_step(const Problem *p, const Params *params, const Cost *predicted, Plan *plan,
                       PhasePlan *phase, const char *source, const char *entry);

#endif
