// Runs the kernels of kernels/ on a CPU, so that what they compute can be tested without a GPU.
//
// The text that NVRTC would get is compiled by a host C++ compiler behind this header, which stands
// in for CUDA's built-ins and for kernels/ptx.cuh (the only file with assembly). A thread is a
// fiber; it runs until it meets its warp (shuffle, mma, ldmatrix) or its block (barrier).
// Instructions do what the PTX manual says, on the registers of 32 lanes at once. Asynchronous
// copies are carried out only when they are waited for, and fibers run forwards or backwards
// (simt_backwards), so that a missing wait or barrier shows up as a wrong or different result.
//
// Non-goals: speed, memory order between blocks (they run one after the other), sm_90 barriers and
// bulk copies, wgmma.
#ifndef SIMT_H
#define SIMT_H

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define PTX_CUH // kernels/ptx.cuh stays out
#define PTX_ARCH 800
#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef u16 act_t;
constexpr int WARP_LANES = 32;
constexpr u32 FULL_MASK = 0xffffffffu;

struct uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }

// ---- fibers -------------------------------------------------------------------------------------

struct SimtIndex {
    unsigned x, y, z;
};
enum {
    SIMT_STACK_BYTES = 1 << 16,
    SIMT_MAX_THREADS = 1024,
    SIMT_EXCHANGE_BYTES = 64,
    SIMT_BARRIERS = 16
};

struct SimtBarrier {
    int arrived;
    unsigned generation;
};
struct SimtWarp {
    SimtBarrier barrier;
    alignas(16) unsigned char data[2][WARP_LANES][SIMT_EXCHANGE_BYTES];
};
struct SimtCopy {
    void *to;
    const void *from;
    int bytes; // of 16; the rest becomes 0
    int group;
};
struct SimtThread {
    void *stack_pointer;
    SimtIndex index;
    bool done;
    std::vector<SimtCopy> copies;
    int groups; // committed
    unsigned char *stack;
};

static SimtThread simt_threads[SIMT_MAX_THREADS];
static SimtWarp simt_warps[SIMT_MAX_THREADS / WARP_LANES];
static SimtBarrier simt_barriers[SIMT_BARRIERS];
static SimtThread *simt_current;
static int simt_thread_count;
static void *simt_scheduler;
static bool simt_progress; // somebody passed a barrier or ended in this round
static SimtIndex blockIdx, gridDim, blockDim;
#define threadIdx (simt_current->index)
// Dynamic shared memory. step_lab.h turns `extern __shared__ ... x[];` into a pointer to it.
alignas(1024) static unsigned char simt_dynamic[1 << 18];

extern "C" __attribute__((visibility("hidden"))) void simt_switch(void **save, void *load);
asm(".text\n.hidden simt_switch\n.globl simt_switch\nsimt_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void simt_yield() { simt_switch(&simt_current->stack_pointer, simt_scheduler); }

static void simt_wait(SimtBarrier &b, int count) {
    unsigned generation = b.generation;
    if (++b.arrived == count) {
        b.arrived = 0;
        b.generation++;
        simt_progress = true;
    }
    while (b.generation == generation)
        simt_yield();
}

static inline int simt_lane() { return (int)(simt_current->index.x % WARP_LANES); }

// Every lane hands in a value and sees those of all 32.
template <class T> static const T *simt_exchange(const T &mine, T out[WARP_LANES]) {
    static_assert(sizeof(T) <= SIMT_EXCHANGE_BYTES, "exchange");
    SimtWarp &w = simt_warps[simt_current->index.x / WARP_LANES];
    unsigned parity = w.barrier.generation & 1;
    memcpy(w.data[parity][simt_lane()], &mine, sizeof mine);
    simt_wait(w.barrier, WARP_LANES);
    for (int lane = 0; lane < WARP_LANES; lane++)
        memcpy(&out[lane], w.data[parity][lane], sizeof(T));
    return out;
}

static inline void __syncthreads() { simt_wait(simt_barriers[0], simt_thread_count); }
static inline void bar_sync(int barrier, int threads) {
    simt_wait(simt_barriers[barrier], threads);
}
// Counts the warp in; its lanes go on.
static inline void simt_arrive(SimtBarrier &b, int count) {
    if (++b.arrived == count) {
        b.arrived = 0;
        b.generation++;
        simt_progress = true;
    }
}
static inline void bar_arrive(int barrier, int threads) {
    simt_arrive(simt_barriers[barrier], threads);
}
static inline void __syncwarp() {
    int all[WARP_LANES];
    simt_exchange(0, all);
}

// ---- CUDA's built-in functions ------------------------------------------------------------------

template <class T> static inline T __shfl_sync(u32, T x, int lane) {
    T all[WARP_LANES];
    return simt_exchange(x, all)[lane & 31];
}
template <class T> static inline T __shfl_xor_sync(u32, T x, int lanes) {
    T all[WARP_LANES];
    return simt_exchange(x, all)[simt_lane() ^ lanes];
}
template <class T> static inline T __shfl_up_sync(u32, T x, int lanes) {
    T all[WARP_LANES];
    int lane = simt_lane();
    return simt_exchange(x, all)[lane >= lanes ? lane - lanes : lane];
}
static inline u32 __ballot_sync(u32, bool x) {
    bool all[WARP_LANES];
    simt_exchange(x, all);
    u32 bits = 0;
    for (int lane = 0; lane < WARP_LANES; lane++)
        bits |= (u32)all[lane] << lane;
    return bits;
}
static inline u32 __reduce_add_sync(u32, u32 x) {
    u32 all[WARP_LANES], sum = 0;
    simt_exchange(x, all);
    for (u32 value : all)
        sum += value;
    return sum;
}
static inline u32 __reduce_min_sync(u32, u32 x) {
    u32 all[WARP_LANES], least = FULL_MASK;
    simt_exchange(x, all);
    for (u32 value : all)
        least = value < least ? value : least;
    return least;
}
static inline u32 __reduce_max_sync(u32, u32 x) {
    u32 all[WARP_LANES], most = 0;
    simt_exchange(x, all);
    for (u32 value : all)
        most = value > most ? value : most;
    return most;
}
static inline int __popc(u32 x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
static inline u64 __umul64hi(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }
static inline u32 __float_as_uint(float x) {
    u32 y;
    memcpy(&y, &x, 4);
    return y;
}
static inline float __uint_as_float(u32 x) {
    float y;
    memcpy(&y, &x, 4);
    return y;
}
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
template <class A, class B> static inline auto min(A a, B b) -> decltype(a + b) {
    return a < b ? a : b;
}
template <class A, class B> static inline auto max(A a, B b) -> decltype(a + b) {
    return a > b ? a : b;
}

// ---- ptx.cuh: floats and words ------------------------------------------------------------------

static inline float cvt_f32_f16(u16 x) {
    _Float16 h;
    memcpy(&h, &x, 2);
    return (float)h;
}
static inline u16 cvt_rn_f16_f32(float x) {
    _Float16 h = (_Float16)x;
    u16 y;
    memcpy(&y, &h, 2);
    return y;
}
static inline u32 cvt_rn_f16x2_f32(float low, float high) {
    return cvt_rn_f16_f32(low) | (u32)cvt_rn_f16_f32(high) << 16;
}
static inline float f16x2_low(u32 x) { return cvt_f32_f16((u16)x); }
static inline float f16x2_high(u32 x) { return cvt_f32_f16((u16)(x >> 16)); }
static inline float bf16x2_low(u32 x) { return __uint_as_float(x << 16); }
static inline float bf16x2_high(u32 x) { return __uint_as_float(x & 0xffff0000u); }
static inline u16 cvt_rn_bf16_f32(float x) { // to nearest, ties to even
    u32 bits = __float_as_uint(x);
    return x != x ? 0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static inline u32 cvt_rn_bf16x2_f32(float low, float high) {
    return cvt_rn_bf16_f32(low) | (u32)cvt_rn_bf16_f32(high) << 16;
}
#ifndef ACT_BF16
#define ACT_BF16 0
#endif
static inline float act_to_f32(act_t x) { return ACT_BF16 ? bf16x2_low(x) : cvt_f32_f16(x); }
static inline act_t act_from_f32(float x) {
    return ACT_BF16 ? cvt_rn_bf16_f32(x) : cvt_rn_f16_f32(x);
}
static inline u32 act2_from_f32(float low, float high) {
    return act_from_f32(low) | (u32)act_from_f32(high) << 16;
}
static inline float act2_low(u32 x) { return act_to_f32((u16)x); }
static inline float act2_high(u32 x) { return act_to_f32((u16)(x >> 16)); }
static inline u32 fma_f16x2(u32 a, u32 b, u32 c) {
    return cvt_rn_f16x2_f32(fmaf(f16x2_low(a), f16x2_low(b), f16x2_low(c)),
                            fmaf(f16x2_high(a), f16x2_high(b), f16x2_high(c)));
}
static inline u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    return cvt_rn_bf16x2_f32(fmaf(bf16x2_low(a), bf16x2_low(b), bf16x2_low(c)),
                             fmaf(bf16x2_high(a), bf16x2_high(b), bf16x2_high(c)));
}
static inline u32 add_f16x2(u32 a, u32 b) {
    return cvt_rn_f16x2_f32(f16x2_low(a) + f16x2_low(b), f16x2_high(a) + f16x2_high(b));
}
static inline u32 sub_f16x2(u32 a, u32 b) { return add_f16x2(a, b ^ 0x80008000u); }
static inline u32 mul_f16x2(u32 a, u32 b) {
    return cvt_rn_f16x2_f32(f16x2_low(a) * f16x2_low(b), f16x2_high(a) * f16x2_high(b));
}
template <int LUT> static inline u32 lop3(u32 a, u32 b, u32 c) {
    u32 d = 0;
    for (int bit = 0; bit < 8; bit++)
        if (LUT >> bit & 1)
            d |= (bit & 4 ? a : ~a) & (bit & 2 ? b : ~b) & (bit & 1 ? c : ~c);
    return d;
}
static inline u32 prmt(u32 a, u32 b, u32 selector) {
    u64 both = (u64)b << 32 | a;
    u32 d = 0;
    for (int byte = 0; byte < 4; byte++)
        d |= (u32)(both >> (selector >> 4 * byte & 7) * 8 & 0xff) << 8 * byte;
    return d;
}
static inline float ex2_approx(float x) { return exp2f(x); }
static inline float lg2_approx(float x) { return log2f(x); }
static inline float rcp_approx(float x) { return 1.0f / x; }
static inline float rsqrt_approx(float x) { return 1.0f / sqrtf(x); }
static inline float sin_approx(float x) { return sinf(x); }
static inline float cos_approx(float x) { return cosf(x); }

// ---- ptx.cuh: memory ----------------------------------------------------------------------------

template <class T> static inline T simt_load(const void *p) {
    if ((uintptr_t)p % sizeof(T) != 0) {
        fprintf(stderr, "simt: misaligned load of %zu bytes\n", sizeof(T));
        abort();
    }
    T v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class T> static inline void simt_store(void *p, const T &v) {
    if ((uintptr_t)p % sizeof(T) != 0) {
        fprintf(stderr, "simt: misaligned store of %zu bytes\n", sizeof(T));
        abort();
    }
    memcpy(p, &v, sizeof v);
}
static inline uint4 ld_nc_v4_stream(const void *p) { return simt_load<uint4>(p); }
static inline u32 ld_nc_u32(const void *p) { return simt_load<u32>(p); }
static inline uint4 ld_nc_v4(const void *p) { return simt_load<uint4>(p); }
static inline uint4 ld_global_v4(const void *p) { return simt_load<uint4>(p); }
static inline uint2 ld_global_v2(const void *p) { return simt_load<uint2>(p); }
static inline u32 ld_global_u32(const void *p) { return simt_load<u32>(p); }
static inline u16 ld_global_u16(const void *p) { return simt_load<u16>(p); }
static inline float4 ld_global_v4_f32(const void *p) { return simt_load<float4>(p); }
static inline float ld_global_f32(const void *p) { return simt_load<float>(p); }
static inline void st_global_v4(void *p, uint4 v) { simt_store(p, v); }
static inline void st_global_v4_f32(void *p, float4 v) { simt_store(p, v); }
static inline void st_global_v2(void *p, uint2 v) { simt_store(p, v); }
static inline void st_global_u32(void *p, u32 v) { simt_store(p, v); }
static inline void st_global_u16(void *p, u16 v) { simt_store(p, v); }
static inline void st_global_f32(void *p, float v) { simt_store(p, v); }
static inline void red_global_add_f32(void *p, float v) {
    float old;
    memcpy(&old, p, sizeof old);
    simt_store(p, old + v);
}
static inline u32 atom_acq_rel_gpu_add_u32(u32 *p, u32 v) { // blocks run one after the other
    u32 old = simt_load<u32>(p);
    simt_store(p, old + v);
    return old;
}
static inline void prefetch_l2(const void *) {}
static inline void griddepcontrol_wait() {}
static inline void griddepcontrol_launch_dependents() {}

// Shared addresses are distances from a static variable of the same library.
static inline u32 shared_address(const void *p) { return (u32)((const u8 *)p - simt_dynamic); }
static inline u8 *simt_at(u32 address) { return simt_dynamic + (s32)address; }
static inline uint4 ld_shared_v4(u32 p) { return simt_load<uint4>(simt_at(p)); }
static inline uint2 ld_shared_v2(u32 p) { return simt_load<uint2>(simt_at(p)); }
static inline u32 ld_shared_u32(u32 p) { return simt_load<u32>(simt_at(p)); }
static inline float ld_shared_f32(u32 p) { return simt_load<float>(simt_at(p)); }
static inline float2 ld_shared_v2_f32(u32 p) { return simt_load<float2>(simt_at(p)); }
static inline void st_shared_v4(u32 p, uint4 v) { simt_store(simt_at(p), v); }
static inline void st_shared_v2(u32 p, uint2 v) { simt_store(simt_at(p), v); }
static inline void st_shared_u32(u32 p, u32 v) { simt_store(simt_at(p), v); }
static inline void st_shared_u16(u32 p, u16 v) { simt_store(simt_at(p), v); }
static inline void st_shared_f32(u32 p, float v) { simt_store(simt_at(p), v); }
static inline void st_shared_v2_f32(u32 p, float x, float y) {
    simt_store(simt_at(p), make_float2(x, y));
}

static inline float4 ld_shared_v4_f32(u32 p) { return simt_load<float4>(simt_at(p)); }
static inline void st_shared_v4_f32(u32 p, float4 v) { simt_store(simt_at(p), v); }
static inline u32 atom_shared_add_u32(u32 p, u32 v) {
    u32 old = simt_load<u32>(simt_at(p));
    simt_store(simt_at(p), old + v);
    return old;
}

static inline void cp_async_16_zfill(u32 to, const void *from, int bytes) {
    if ((uintptr_t)from % 16 != 0 || to % 16 != 0) {
        fprintf(stderr, "simt: misaligned cp.async\n");
        abort();
    }
    simt_current->copies.push_back({simt_at(to), from, bytes, simt_current->groups});
}
static inline void cp_async_16(u32 to, const void *from) { cp_async_16_zfill(to, from, 16); }
static inline void cp_async_commit() { simt_current->groups++; }
template <int PENDING> static inline void cp_async_wait() {
    std::vector<SimtCopy> left;
    for (const SimtCopy &c : simt_current->copies) {
        if (c.group >= simt_current->groups - PENDING) {
            left.push_back(c);
            continue;
        }
        memset(c.to, 0, 16);
        memcpy(c.to, c.from, (size_t)c.bytes);
    }
    simt_current->copies.swap(left);
}

// ---- ptx.cuh: tensor cores ----------------------------------------------------------------------

struct SimtMma {
    u32 a[4], b[2];
};

template <float (*TO_F32)(u32)>
static inline void simt_mma(float d[4], const SimtMma &mine) {
    SimtMma all[WARP_LANES];
    simt_exchange(mine, all);
    int r = simt_lane() / 4, c = simt_lane() % 4;
    for (int out = 0; out < 4; out++) {
        int column = 2 * c + out % 2;
        float sum = 0.0f;
        for (int k = 0; k < 16; k++) {
            // A[row][k]: lane 4 r + k % 8 / 2, register row half + 2 * (k half)
            u32 a = all[r * 4 + k % 8 / 2].a[out / 2 + k / 8 * 2];
            u32 b = all[column * 4 + k % 8 / 2].b[k / 8];
            sum += TO_F32(a >> k % 2 * 16) * TO_F32(b >> k % 2 * 16);
        }
        d[out] += sum;
    }
}
static inline void mma_m16n8k16_f16(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    simt_mma<f16x2_low>(d, {{a0, a1, a2, a3}, {b0, b1}});
}
static inline void mma_m16n8k16_bf16(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    simt_mma<bf16x2_low>(d, {{a0, a1, a2, a3}, {b0, b1}});
}
static inline void mma_m16n8k16_act(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    simt_mma < ACT_BF16 ? bf16x2_low : f16x2_low > (d, {{a0, a1, a2, a3}, {b0, b1}});
}
static inline void mma_m16n8k16_f16_zero(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                         u32 b1) {
    d[0] = d[1] = d[2] = d[3] = 0.0f;
    mma_m16n8k16_f16(d, a0, a1, a2, a3, b0, b1);
}
static inline void mma_m16n8k16_bf16_zero(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                          u32 b1) {
    d[0] = d[1] = d[2] = d[3] = 0.0f;
    mma_m16n8k16_bf16(d, a0, a1, a2, a3, b0, b1);
}
static inline void mma_m16n8k16_act_zero(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                         u32 b1) {
    d[0] = d[1] = d[2] = d[3] = 0.0f;
    mma_m16n8k16_act(d, a0, a1, a2, a3, b0, b1);
}
// Lane 8 m + r hands in the address of row r of matrix m.
template <int COUNT, bool TRANS> static inline void simt_ldmatrix(u32 *d, u32 address) {
    u32 rows[WARP_LANES];
    simt_exchange(address, rows);
    int lane = simt_lane();
    for (int matrix = 0; matrix < COUNT; matrix++) {
        u16 pair[2];
        for (int half = 0; half < 2; half++) {
            int row = TRANS ? lane % 4 * 2 + half : lane / 4;
            int column = TRANS ? lane / 4 : lane % 4 * 2 + half;
            uint4 line = simt_load<uint4>(simt_at(rows[matrix * 8 + row]));
            memcpy(&pair[half], (const u8 *)&line + column * 2, 2);
        }
        d[matrix] = pair[0] | (u32)pair[1] << 16;
    }
}
static inline void ldmatrix_x4(u32 d[4], u32 p) { simt_ldmatrix<4, false>(d, p); }
static inline void ldmatrix_x2(u32 d[2], u32 p) { simt_ldmatrix<2, false>(d, p); }
static inline void ldmatrix_x4_trans(u32 d[4], u32 p) { simt_ldmatrix<4, true>(d, p); }
static inline void ldmatrix_x2_trans(u32 d[2], u32 p) { simt_ldmatrix<2, true>(d, p); }
static inline u32 movmatrix_trans(u32 x) {
    u32 all[WARP_LANES];
    simt_exchange(x, all);
    int r = simt_lane() / 4, c = simt_lane() % 4;
    u32 low = all[2 * c * 4 + r / 2] >> r % 2 * 16 & 0xffff;
    u32 high = all[(2 * c + 1) * 4 + r / 2] >> r % 2 * 16 & 0xffff;
    return low | high << 16;
}
static inline float shfl_xor_f32(float x, int lanes) {
    return __shfl_xor_sync(FULL_MASK, x, lanes);
}
static inline u32 shfl_xor_u32(u32 x, int lanes) { return __shfl_xor_sync(FULL_MASK, x, lanes); }

// ---- launching ----------------------------------------------------------------------------------

typedef void SimtEntry(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64,
                       u64);

static SimtEntry *simt_entry;
static u64 simt_arguments[16];

static void simt_thread_main() {
    const u64 *a = simt_arguments;
    simt_entry(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12],
               a[13], a[14], a[15]);
    simt_current->done = true;
    simt_progress = true;
    for (;;)
        simt_yield();
}

static void simt_thread_start(int index) {
    SimtThread &t = simt_threads[index];
    if (!t.stack)
        t.stack = (unsigned char *)aligned_alloc(64, SIMT_STACK_BYTES);
    t.index = {(unsigned)index, 0, 0};
    t.done = false;
    t.copies.clear();
    t.groups = 0;
    void **top = (void **)(t.stack + SIMT_STACK_BYTES) - 1; // aligned as behind a call
    *--top = (void *)simt_thread_main;                      // where `ret` goes
    for (int saved = 0; saved < 6; saved++)
        *--top = nullptr;
    t.stack_pointer = top;
}

static bool simt_block(bool backwards) {
    memset(simt_dynamic, 0xff, sizeof simt_dynamic);
    memset(simt_barriers, 0, sizeof simt_barriers);
    memset(simt_warps, 0, sizeof simt_warps);
    for (int index = 0; index < simt_thread_count; index++)
        simt_thread_start(index);
    for (int left = simt_thread_count; left > 0;) {
        simt_progress = false;
        left = simt_thread_count;
        for (int turn = 0; turn < simt_thread_count; turn++) {
            int index = backwards ? simt_thread_count - 1 - turn : turn;
            simt_current = &simt_threads[index];
            if (!simt_current->done)
                simt_switch(&simt_scheduler, simt_current->stack_pointer);
            left -= simt_current->done;
        }
        if (!simt_progress)
            return false;
    }
    return true;
}

// Runs a grid. False: some threads wait for others that do not come.
extern "C" __attribute__((visibility("default"))) bool simt_launch(void *entry, const int grid[3],
                                                                   int block, const u64 *arguments,
                                                                   int count, bool backwards) {
    simt_entry = (SimtEntry *)entry;
    simt_thread_count = block;
    gridDim = {(unsigned)grid[0], (unsigned)grid[1], (unsigned)grid[2]};
    blockDim = {(unsigned)block, 1, 1};
    for (int at = 0; at < 16; at++)
        simt_arguments[at] = at < count ? arguments[at] : 0;
    int blocks = grid[0] * grid[1] * grid[2];
    for (int turn = 0; turn < blocks; turn++) {
        int at = backwards ? blocks - 1 - turn : turn;
        blockIdx = {(unsigned)(at % grid[0]), (unsigned)(at / grid[0] % grid[1]),
                    (unsigned)(at / grid[0] / grid[1])};
        if (!simt_block(backwards))
            return false;
    }
    return true;
}

#endif
