// What: fixed-width types and one function per PTX instruction, named after it.
// Idea: NVRTC gets no toolkit header (design, "Dependencies"), so all that C++ lacks is here:
//     16-bit floats, fragments of the tensor cores, asynchronous copies, memory scopes. Nothing
//     else in kernels/ holds assembly.
// Source: PTX ISA 8.x; fragment layouts as drawn in docs/kernels.md.
// Non-goals: wgmma (wgmma.cuh), tensor maps.
#ifndef PTX_CUH
#define PTX_CUH

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "fixed widths");

constexpr int WARP_LANES = 32;
constexpr u32 FULL_MASK = 0xffffffffu;

#ifndef __CUDA_ARCH__
#define PTX_ARCH 0
#else
#define PTX_ARCH __CUDA_ARCH__
#endif

// ---- activations --------------------------------------------------------------------------------
//
// One place for the dtype of activations: u16 holds its bits, a u32 two of them (low half first).

typedef u16 act_t;

__device__ __forceinline__ float cvt_f32_f16(u16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}
__device__ __forceinline__ u16 cvt_rn_f16_f32(float x) {
    u16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
// Two floats in one word: `low` in bits 0-15.
__device__ __forceinline__ u32 cvt_rn_f16x2_f32(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
__device__ __forceinline__ float f16x2_low(u32 x) {
    return cvt_f32_f16((u16)(x & 0xffffu));
}
__device__ __forceinline__ float f16x2_high(u32 x) {
    return cvt_f32_f16((u16)(x >> 16));
}
// bf16: the upper half of a float.
__device__ __forceinline__ u16 cvt_rn_bf16_f32(float x) {
    u16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ u32 cvt_rn_bf16x2_f32(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
__device__ __forceinline__ float bf16x2_low(u32 x) {
    return __uint_as_float(x << 16);
}
__device__ __forceinline__ float bf16x2_high(u32 x) {
    return __uint_as_float(x & 0xffff0000u);
}

#ifndef ACT_BF16
#define ACT_BF16 0 // 1: activations, 16-bit weights and the KV cache are bf16, not fp16
#endif
static_assert(ACT_BF16 == 0 || ACT_BF16 == 1, "ACT_BF16");

__device__ __forceinline__ float act_to_f32(act_t x) {
    return ACT_BF16 ? bf16x2_low(x) : cvt_f32_f16(x);
}
__device__ __forceinline__ act_t act_from_f32(float x) {
    return ACT_BF16 ? cvt_rn_bf16_f32(x) : cvt_rn_f16_f32(x);
}
__device__ __forceinline__ u32 act2_from_f32(float low, float high) {
    return ACT_BF16 ? cvt_rn_bf16x2_f32(low, high) : cvt_rn_f16x2_f32(low, high);
}
__device__ __forceinline__ float act2_low(u32 x) {
    return ACT_BF16 ? bf16x2_low(x) : f16x2_low(x);
}
__device__ __forceinline__ float act2_high(u32 x) {
    return ACT_BF16 ? bf16x2_high(x) : f16x2_high(x);
}

// ---- packed halves and words --------------------------------------------------------------------

__device__ __forceinline__ u32 add_f16x2(u32 a, u32 b) {
    u32 d;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
__device__ __forceinline__ u32 sub_f16x2(u32 a, u32 b) {
    u32 d;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
__device__ __forceinline__ u32 mul_f16x2(u32 a, u32 b) {
    u32 d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
}
__device__ __forceinline__ u32 fma_f16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
__device__ __forceinline__ u32 fma_bf16x2(u32 a, u32 b, u32 c) {
    u32 d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}
// LUT is the truth table of f(a, b, c) with a = 0xf0, b = 0xcc, c = 0xaa.
template <int LUT> __device__ __forceinline__ u32 lop3(u32 a, u32 b, u32 c) {
    u32 d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(LUT));
    return d;
}
__device__ __forceinline__ u32 prmt(u32 a, u32 b, u32 selector) {
    u32 d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

// ---- approximate functions ----------------------------------------------------------------------

__device__ __forceinline__ float ex2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float lg2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float rsqrt_approx(float x) {
    float y;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float sin_approx(float x) {
    float y;
    asm("sin.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float cos_approx(float x) {
    float y;
    asm("cos.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- global memory ------------------------------------------------------------------------------

// Read once by one SM (weights): past L1, first to leave L2.
__device__ __forceinline__ uint4 ld_nc_v4_stream(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
__device__ __forceinline__ u32 ld_nc_u32(const void *p) {
    u32 v;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
__device__ __forceinline__ uint4 ld_nc_v4(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}
__device__ __forceinline__ uint4 ld_global_v4(const void *p) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}
__device__ __forceinline__ uint2 ld_global_v2(const void *p) {
    uint2 v;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ u32 ld_global_u32(const void *p) {
    u32 v;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ u16 ld_global_u16(const void *p) {
    u16 v;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ float4 ld_global_v4_f32(const void *p) {
    float4 v;
    asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}
__device__ __forceinline__ float ld_global_f32(const void *p) {
    float v;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void st_global_v4(void *p, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
__device__ __forceinline__ void st_global_v4_f32(void *p, float4 v) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z),
                 "f"(v.w)
                 : "memory");
}
__device__ __forceinline__ void st_global_v2(void *p, uint2 v) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void st_global_u32(void *p, u32 v) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void st_global_u16(void *p, u16 v) {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(p), "h"(v) : "memory");
}
// *p += v, without waiting for it.
__device__ __forceinline__ void red_global_add_f32(void *p, float v) {
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");
}
__device__ __forceinline__ void st_global_f32(void *p, float v) {
    asm volatile("st.global.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");
}
__device__ __forceinline__ void prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// ---- memory order between blocks ----------------------------------------------------------------

__device__ __forceinline__ u32 ld_acquire_gpu_u32(const u32 *p) {
    u32 v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void st_release_gpu_u32(u32 *p, u32 v) {
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void red_release_gpu_add_u32(u32 *p, u32 v) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ __forceinline__ u32 atom_acq_rel_gpu_add_u32(u32 *p, u32 v) {
    u32 old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(p), "r"(v)
                 : "memory");
    return old;
}
__device__ __forceinline__ u64 atom_relaxed_gpu_max_u64(u64 *p, u64 v) {
    u64 old;
    asm volatile("atom.relaxed.gpu.global.max.u64 %0, [%1], %2;"
                 : "=l"(old)
                 : "l"(p), "l"(v)
                 : "memory");
    return old;
}
__device__ __forceinline__ void fence_acq_rel_gpu() {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// ---- shared memory ------------------------------------------------------------------------------

__device__ __forceinline__ u32 shared_address(const void *p) {
    return (u32)__cvta_generic_to_shared(p);
}
__device__ __forceinline__ uint4 ld_shared_v4(u32 p) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(p)
                 : "memory");
    return v;
}
__device__ __forceinline__ uint2 ld_shared_v2(u32 p) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(p) : "memory");
    return v;
}
__device__ __forceinline__ u32 ld_shared_u32(u32 p) {
    u32 v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(p) : "memory");
    return v;
}
__device__ __forceinline__ float ld_shared_f32(u32 p) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(p) : "memory");
    return v;
}
__device__ __forceinline__ float2 ld_shared_v2_f32(u32 p) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(p) : "memory");
    return v;
}
__device__ __forceinline__ void st_shared_v4(u32 p, uint4 v) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(p), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}
__device__ __forceinline__ float4 ld_shared_v4_f32(u32 p) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(p)
                 : "memory");
    return v;
}
__device__ __forceinline__ void st_shared_v4_f32(u32 p, float4 v) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(p), "f"(v.x), "f"(v.y), "f"(v.z),
                 "f"(v.w)
                 : "memory");
}
__device__ __forceinline__ void st_shared_v2(u32 p, uint2 v) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(p), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void st_shared_u32(u32 p, u32 v) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(p), "r"(v) : "memory");
}
__device__ __forceinline__ void st_shared_u16(u32 p, u16 v) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(p), "h"(v) : "memory");
}
__device__ __forceinline__ void st_shared_f32(u32 p, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(p), "f"(v) : "memory");
}
__device__ __forceinline__ void st_shared_v2_f32(u32 p, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(p), "f"(x), "f"(y) : "memory");
}
__device__ __forceinline__ u32 atom_shared_add_u32(u32 p, u32 v) {
    u32 old;
    asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(old) : "r"(p), "r"(v) : "memory");
    return old;
}
__device__ __forceinline__ void bar_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// Counts this warp in without waiting; what it wrote before is visible behind bar_sync.
__device__ __forceinline__ void bar_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- asynchronous copies, sm_80 -----------------------------------------------------------------

// 16 bytes, past L1. `bytes` of them are read, the rest is filled with zeros.
__device__ __forceinline__ void cp_async_16(u32 shared, const void *global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
__device__ __forceinline__ void cp_async_16_zfill(u32 shared, const void *global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
                 "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
__device__ __forceinline__ void cp_async_wait_all() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}
// Until at most PENDING of this thread's newest groups are under way.
template <int PENDING> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- barriers in shared memory and bulk copies, sm_90 -------------------------------------------

#if PTX_ARCH >= 900 || PTX_ARCH == 0
__device__ __forceinline__ void mbarrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ bool mbarrier_try_wait_parity(u32 barrier, u32 parity) {
    u32 done;
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p;}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return done != 0;
}
// The compiler must take the value from its register from here on.
__device__ __forceinline__ void opaque(u32 &value) {
    asm volatile("" : "+r"(value));
}
// Until the phase of this parity is over.
__device__ __forceinline__ void mbarrier_wait_parity(u32 barrier, u32 parity) {
    asm volatile("{.reg .pred p; again: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; "
                 "@!p bra again;}" ::"r"(barrier), "r"(parity)
                 : "memory");
}
// Arrives when this thread's copies so far have landed; the barrier counts the thread already.
__device__ __forceinline__ void cp_async_arrive(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// `bytes`: multiple of 16; both addresses aligned to 16. Completes on the barrier.
__device__ __forceinline__ void cp_async_bulk(u32 shared, const void *global, u32 bytes,
                                              u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared),
                 "l"(global), "r"(bytes), "r"(barrier)
                 : "memory");
}

// A matrix in memory as the driver describes it (runtime/tensor_map.h), a parameter of the kernel.
struct alignas(64) TensorMap {
    u64 opaque[16];
};
__device__ __forceinline__ void prefetch_tensor_map(const TensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// A box of the map from (column, row) on, rows one behind the other in the map's swizzle; what lies
// outside of the matrix is 0. Completes on the barrier.
__device__ __forceinline__ void cp_async_bulk_tensor(u32 shared, const TensorMap *map, s32 column,
                                                     s32 row, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}
// The same to the same place of every block of the cluster in `blocks`, each on its own barrier.
__device__ __forceinline__ void cp_async_bulk_tensor_spread(u32 shared, const TensorMap *map,
                                                            s32 column, s32 row, u32 barrier,
                                                            u16 blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared),
                 "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
                 : "memory");
}
#endif

// ---- clusters, sm_90 ----------------------------------------------------------------------------

#if PTX_ARCH >= 900
// All threads of all blocks; what they wrote before is visible behind it.
__device__ __forceinline__ void cluster_sync() {
    __syncwarp(); // .aligned: a warp arrives as a whole
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}
// In two halves: who waits sees what others did before they arrived.
__device__ __forceinline__ void cluster_arrive() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The same place in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ u32 cluster_address(u32 shared, int rank) {
    u32 there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared), "r"(rank));
    return there;
}
// barrier: a cluster_address. What this thread read before is read when the barrier completes.
__device__ __forceinline__ void mbarrier_arrive_cluster(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier)
                 : "memory");
}
// Both addresses: cluster_address of one block. Counts 16 bytes on the barrier when they are there.
__device__ __forceinline__ void st_async_v4_f32(u32 p, float4 x, u32 barrier) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(p),
                 "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w), "r"(barrier)
                 : "memory");
}
// Until the phase of this parity is over, and with it what other blocks stored on this barrier.
__device__ __forceinline__ void mbarrier_wait_parity_cluster(u32 barrier, u32 parity) {
    asm volatile("{.reg .pred p; again: "
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1; "
                 "@!p bra again;}" ::"r"(barrier), "r"(parity)
                 : "memory");
}
__device__ __forceinline__ void st_cluster_f32(u32 p, float x) {
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(p), "f"(x) : "memory");
}
#endif

// ---- registers of a warpgroup, sm_90a -----------------------------------------------------------

#if PTX_ARCH == 900
template <int COUNT> __device__ __forceinline__ void registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void registers_less() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
#endif

// ---- tensor cores -------------------------------------------------------------------------------

// D += A B. A: 16 x 16 (rows of weights or queries), B: 16 x 8, D: 16 x 8 in fp32. With lane l,
// r = l / 4, c = l % 4:
//     a0 = A[r][2c, 2c+1]  a1 = A[r+8][2c, 2c+1]  a2 = A[r][2c+8, 2c+9]  a3 = A[r+8][2c+8, 2c+9]
//     b0 = B[2c, 2c+1][r]  b1 = B[2c+8, 2c+9][r]
//     d0, d1 = D[r][2c, 2c+1]  d2, d3 = D[r+8][2c, 2c+1]
__device__ __forceinline__ void mma_m16n8k16_f16(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                                 u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma_m16n8k16_bf16(float d[4], u32 a0, u32 a1, u32 a2, u32 a3,
                                                  u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// D = A B.
__device__ __forceinline__ void mma_m16n8k16_f16_zero(float d[4], u32 a0, u32 a1, u32 a2, u32 a3,
                                                      u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(0.0f));
}
__device__ __forceinline__ void mma_m16n8k16_bf16_zero(float d[4], u32 a0, u32 a1, u32 a2, u32 a3,
                                                       u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(0.0f));
}
// Both operands are activations' dtype.
__device__ __forceinline__ void mma_m16n8k16_act(float d[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0,
                                                 u32 b1) {
    if (ACT_BF16) {
        mma_m16n8k16_bf16(d, a0, a1, a2, a3, b0, b1);
    } else {
        mma_m16n8k16_f16(d, a0, a1, a2, a3, b0, b1);
    }
}
__device__ __forceinline__ void mma_m16n8k16_act_zero(float d[4], u32 a0, u32 a1, u32 a2, u32 a3,
                                                      u32 b0, u32 b1) {
    if (ACT_BF16) {
        mma_m16n8k16_bf16_zero(d, a0, a1, a2, a3, b0, b1);
    } else {
        mma_m16n8k16_f16_zero(d, a0, a1, a2, a3, b0, b1);
    }
}
__device__ __forceinline__ void ldmatrix_x4(u32 d[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2(u32 d[2], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(shared)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(u32 d[4], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared)
                 : "memory");
}
__device__ __forceinline__ void ldmatrix_x2_trans(u32 d[2], u32 shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(shared)
                 : "memory");
}
// Stores four 8 x 8 matrices, each as its transpose: lane 8 m + i gives the address of 16 bytes for
// column i of matrix m, of which a lane holds row l / 4, columns 2 (l % 4) and + 1 in d[m].
#if PTX_ARCH >= 900 || PTX_ARCH == 0
__device__ __forceinline__ void stmatrix_x4_trans(u32 shared, const u32 d[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     shared),
                 "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3])
                 : "memory");
}
#endif

// Transposes an 8 x 8 matrix of halves; lane l holds row l / 4, columns 2 (l % 4) and + 1.
__device__ __forceinline__ u32 movmatrix_trans(u32 x) {
    u32 y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// ---- lanes --------------------------------------------------------------------------------------

__device__ __forceinline__ float shfl_xor_f32(float x, int lanes) {
    return __shfl_xor_sync(FULL_MASK, x, lanes);
}
__device__ __forceinline__ u32 shfl_xor_u32(u32 x, int lanes) {
    return __shfl_xor_sync(FULL_MASK, x, lanes);
}

// ---- programmatic dependent launch, sm_90 -------------------------------------------------------
//
// No effect in a kernel that was launched without the attribute, nothing below sm_90.

// Until the kernels before this one have finished and their writes are visible.
__device__ __forceinline__ void griddepcontrol_wait() {
#if PTX_ARCH >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if PTX_ARCH >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
