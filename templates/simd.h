// The vector operations that the CPU kernels are written in, once per instruction set. A vector is
// LANES elements of 32 bits: 16 with AVX-512, 8 with AVX2, 4 elsewhere (NEON, or plain C on the
// compiler's vector types, which any machine runs). Sums of integers are exact, so kernels that add integers
// only give the same bits on every level.
//
// Not here: anything that knows a layout (tile16.h) or an operator (cpu_*.c).
#ifndef SIMD_H
#define SIMD_H

#include <stddef.h>
#include <stdint.h>

// No header of a C library: bitcode is also made for machines whose headers are not installed.
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int byte, size_t bytes);

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

// Arrays of vectors stay in registers only if the loops over them are unrolled.
#if defined(__clang__)
#define UNROLL      _Pragma("clang loop unroll(full)")
#define UNROLL_BY_4 _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL      _Pragma("GCC unroll 32")
#define UNROLL_BY_4 _Pragma("GCC unroll 4")
#endif

// The compiler forgets what it has loaded.
#define COMPILER_BARRIER() __asm__ volatile("" ::: "memory")

#if defined(__AVX512F__) && defined(__AVX512BW__)
enum { LANES = 16 };
#elif defined(__AVX2__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
enum { VECTOR_BYTES = LANES * 4 };
// Floats are added up in as many sums on every level, so that all levels give the same bits.
enum { SUMS = 16, SUM_VECTORS = SUMS / LANES };

typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vw __attribute__((vector_size(LANES * 4)));
typedef int16_t vs __attribute__((vector_size(LANES * 4)));
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef double d8 __attribute__((vector_size(64)));
typedef uint32_t u4 __attribute__((vector_size(16)));

INLINE vi vi_load(const void *p) {
    vi v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vi_store(void *p, vi v) {
    memcpy(p, &v, sizeof v);
}
INLINE vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vf_store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}
INLINE vi vi_set(int32_t x) {
    return x - (vi){0};
}
INLINE vf vf_set(float x) {
    return x - (vf){0};
}
// The 32 bits at p in every lane.
INLINE vi vi_broadcast(const void *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return vi_set(x);
}
// Shifts every 16-bit half right, filling with zeros.
INLINE vi vi_srl16(vi v, int count) {
    return (vi)((vw)v >> (uint16_t)count);
}
// Per lane: odd lanes shifted right by `odd`, even lanes by `even`.
INLINE vi vi_srl_pair(vi v, uint32_t even, uint32_t odd) {
    vu count;
    UNROLL
    for (int lane = 0; lane < LANES; lane++)
        count[lane] = lane & 1 ? odd : even;
    return (vi)((vu)v >> count);
}
// The same with copies of the sign.
INLINE vi vi_sra_pair(vi v, int32_t even, int32_t odd) {
    vi count;
    UNROLL
    for (int lane = 0; lane < LANES; lane++)
        count[lane] = lane & 1 ? odd : even;
    return v >> count;
}
INLINE vi vi_add16(vi a, vi b) {
    return (vi)((vw)a + (vw)b);
}
INLINE vf vf_zero(void) {
    return (vf){0};
}
INLINE vi vi_zero(void) {
    return (vi){0};
}

// ---- operations that the compiler does not find by itself ---------------------------------------
//
// vi_dot16(acc, a, b)  acc + a.lo * b.lo + a.hi * b.hi, the halves as int16
// vi_rows(acc)         lane i = sum of the lanes of acc[i]
// vi_rows2(acc)        lane 2 i + h = sum of the lanes of acc[i] whose number is h modulo 2
// vi_steps4(acc, out)  lane i of out[j] = sum of the lanes of acc[i] whose number is j modulo 4
// vi_steps2(acc, out)  lane 2 i + h of out[j] = sum of those of acc[i] that are 2 j + h modulo 4
// vf_rows2(acc)        lane 2 i + h = (s0 + s1) + (s2 + s3), s_n the sum of the sums 4 n + 2 h and
//                      4 n + 2 h + 1 of acc[i]
// vi_double(p)         LANES / 2 dwords at p, each in two neighbouring lanes
// vf_double2(p)        LANES / 2 floats at p, each pair in two neighbouring pairs of lanes
// vf_fma(a, b, c)      a * b + c, rounded once
// vf_half(p)           LANES halves at p as floats
// vf_half_pairs(v, low, high)  the halves in the low and high 16 bits of each lane as floats
// vi_round(v)          to the nearest integer, ties to even
// f8_half_store(p, v)  8 floats as halves, rounded to nearest even, at p
// vf_bf16(p), vf_bf16_pairs(v, low, high), f8_bf16_store(p, v)  the same with bf16
// vf_split(v, even, odd)  16 floats in LANES-wide pieces: those at even and at odd places

#if defined(__AVX512F__) && defined(__AVX512BW__)

INLINE vi vi_dot16(vi acc, vi a, vi b) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#else
    return acc + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#endif
}

INLINE __m512i quarters(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

INLINE vi vi_rows(const vi acc[LANES]) {
    __m512i pair[8], four[4];
    UNROLL
    for (int i = 0; i < 8; i++) {
        const __m512i a = (__m512i)acc[2 * i], b = (__m512i)acc[2 * i + 1];
        pair[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(pair[2 * i], pair[2 * i + 1]),
                                   _mm512_unpackhi_epi64(pair[2 * i], pair[2 * i + 1]));
    return (vi)quarters(quarters(four[0], four[1]), quarters(four[2], four[3]));
}

INLINE vi vi_rows2(const vi acc[LANES / 2]) {
    __m512i four[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512i a = (__m512i)acc[2 * i], b = (__m512i)acc[2 * i + 1];
        four[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    }
    return (vi)quarters(quarters(four[0], four[1]), quarters(four[2], four[3]));
}

INLINE void vi_steps4(const vi acc[LANES], vi out[4]) {
    __m512i four[4]; // four[i]: rows i, 4 + i, 8 + i, 12 + i
    UNROLL
    for (int i = 0; i < 4; i++)
        four[i] = quarters(quarters((__m512i)acc[i], (__m512i)acc[4 + i]),
                           quarters((__m512i)acc[8 + i], (__m512i)acc[12 + i]));
    const __m512i a = _mm512_unpacklo_epi32(four[0], four[1]);
    const __m512i b = _mm512_unpacklo_epi32(four[2], four[3]);
    const __m512i c = _mm512_unpackhi_epi32(four[0], four[1]);
    const __m512i d = _mm512_unpackhi_epi32(four[2], four[3]);
    out[0] = (vi)_mm512_unpacklo_epi64(a, b);
    out[1] = (vi)_mm512_unpackhi_epi64(a, b);
    out[2] = (vi)_mm512_unpacklo_epi64(c, d);
    out[3] = (vi)_mm512_unpackhi_epi64(c, d);
}

INLINE void vi_steps2(const vi acc[LANES / 2], vi out[2]) {
    __m512i four[2]; // four[i]: rows i, 2 + i, 4 + i, 6 + i
    UNROLL
    for (int i = 0; i < 2; i++)
        four[i] = quarters(quarters((__m512i)acc[i], (__m512i)acc[2 + i]),
                           quarters((__m512i)acc[4 + i], (__m512i)acc[6 + i]));
    out[0] = (vi)_mm512_unpacklo_epi64(four[0], four[1]);
    out[1] = (vi)_mm512_unpackhi_epi64(four[0], four[1]);
}

INLINE __m512 quarters_f(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

INLINE vf vf_rows2(const vf acc[LANES / 2][SUM_VECTORS]) {
    __m512 four[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512 a = (__m512)acc[2 * i][0], b = (__m512)acc[2 * i + 1][0];
        four[i] = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
    }
    return (vf)quarters_f(quarters_f(four[0], four[1]), quarters_f(four[2], four[3]));
}

INLINE vi vi_double(const void *p) {
    const __m512i index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return (vi)_mm512_permutexvar_epi32(index, _mm512_castsi256_si512(_mm256_loadu_si256(p)));
}
INLINE vf vf_double2(const float *p) {
    const __m512i index = _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3);
    return (vf)_mm512_permutexvar_pd(index,
                                     _mm512_castpd256_pd512(_mm256_castps_pd(_mm256_loadu_ps(p))));
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
INLINE vf vf_half(const void *p) {
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p));
}
INLINE void vf_half_pairs(vi v, vf *low, vf *high) {
    *low = (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)v));
    *high = (vf)_mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)v, 16)));
}
INLINE vi vi_round(vf v) {
    return (vi)_mm512_cvtps_epi32((__m512)v);
}
INLINE vf vf_max(vf a, vf b) {
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}
INLINE void vf_split(const vf v[1], f8 *even, f8 *odd) {
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m512 sorted = _mm512_permutexvar_ps(index, (__m512)v[0]);
    *even = (f8)_mm512_castps512_ps256(sorted);
    *odd = (f8)_mm512_extractf32x8_ps(sorted, 1);
}

#elif defined(__AVX2__)

INLINE vi vi_dot16(vi acc, vi a, vi b) {
    return acc + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
}
INLINE vi vi_rows(const vi acc[LANES]) {
    __m256i four[2];
    UNROLL
    for (int i = 0; i < 2; i++)
        four[i] =
            _mm256_hadd_epi32(_mm256_hadd_epi32((__m256i)acc[4 * i], (__m256i)acc[4 * i + 1]),
                              _mm256_hadd_epi32((__m256i)acc[4 * i + 2], (__m256i)acc[4 * i + 3]));
    return (vi)_mm256_add_epi32(_mm256_permute2x128_si256(four[0], four[1], 0x20),
                                _mm256_permute2x128_si256(four[0], four[1], 0x31));
}
INLINE vi vi_rows2(const vi acc[LANES / 2]) {
    __m256i two[2];
    UNROLL
    for (int i = 0; i < 2; i++) {
        const __m256i a = (__m256i)acc[2 * i], b = (__m256i)acc[2 * i + 1];
        two[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    }
    return (vi)_mm256_add_epi32(_mm256_permute2x128_si256(two[0], two[1], 0x20),
                                _mm256_permute2x128_si256(two[0], two[1], 0x31));
}
INLINE __m256i halves(vi a, vi b) {
    return _mm256_add_epi32(_mm256_permute2x128_si256((__m256i)a, (__m256i)b, 0x20),
                            _mm256_permute2x128_si256((__m256i)a, (__m256i)b, 0x31));
}
INLINE void vi_steps4(const vi acc[LANES], vi out[4]) {
    __m256i two[4]; // two[i]: rows i, 4 + i
    UNROLL
    for (int i = 0; i < 4; i++)
        two[i] = halves(acc[i], acc[4 + i]);
    const __m256i a = _mm256_unpacklo_epi32(two[0], two[1]);
    const __m256i b = _mm256_unpacklo_epi32(two[2], two[3]);
    const __m256i c = _mm256_unpackhi_epi32(two[0], two[1]);
    const __m256i d = _mm256_unpackhi_epi32(two[2], two[3]);
    out[0] = (vi)_mm256_unpacklo_epi64(a, b);
    out[1] = (vi)_mm256_unpackhi_epi64(a, b);
    out[2] = (vi)_mm256_unpacklo_epi64(c, d);
    out[3] = (vi)_mm256_unpackhi_epi64(c, d);
}
INLINE void vi_steps2(const vi acc[LANES / 2], vi out[2]) {
    const __m256i a = halves(acc[0], acc[2]), b = halves(acc[1], acc[3]);
    out[0] = (vi)_mm256_unpacklo_epi64(a, b);
    out[1] = (vi)_mm256_unpackhi_epi64(a, b);
}
INLINE vf vf_rows2(const vf acc[LANES / 2][SUM_VECTORS]) {
    __m256 sum[SUM_VECTORS];
    UNROLL
    for (int v = 0; v < SUM_VECTORS; v++) {
        const __m256 a = _mm256_hadd_ps((__m256)acc[0][v], (__m256)acc[1][v]);
        const __m256 b = _mm256_hadd_ps((__m256)acc[2][v], (__m256)acc[3][v]);
        sum[v] =
            _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    return (vf)_mm256_add_ps(sum[0], sum[1]);
}
INLINE vi vi_double(const void *p) {
    const __m256i index = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return (vi)_mm256_permutevar8x32_epi32(_mm256_castsi128_si256(_mm_loadu_si128(p)), index);
}
INLINE vf vf_double2(const float *p) {
    return (vf)_mm256_castpd_ps(
        _mm256_permute4x64_pd(_mm256_castpd128_pd256(_mm_castps_pd(_mm_loadu_ps(p))), 0x50));
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
INLINE vf vf_half(const void *p) {
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128(p));
}
INLINE void vf_half_pairs(vi v, vf *low, vf *high) {
    const __m256i even = _mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xffff));
    const __m256i both = _mm256_permute4x64_epi64(
        _mm256_packus_epi32(even, _mm256_srli_epi32((__m256i)v, 16)), 0xd8);
    *low = (vf)_mm256_cvtph_ps(_mm256_castsi256_si128(both));
    *high = (vf)_mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
}
INLINE vi vi_round(vf v) {
    return (vi)_mm256_cvtps_epi32((__m256)v);
}
INLINE vf vf_max(vf a, vf b) {
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}
INLINE void vf_split(const vf v[2], f8 *even, f8 *odd) {
    const __m256d a = _mm256_castps_pd(_mm256_shuffle_ps((__m256)v[0], (__m256)v[1], 0x88));
    const __m256d b = _mm256_castps_pd(_mm256_shuffle_ps((__m256)v[0], (__m256)v[1], 0xdd));
    *even = (f8)_mm256_castpd_ps(_mm256_permute4x64_pd(a, 0xd8));
    *odd = (f8)_mm256_castpd_ps(_mm256_permute4x64_pd(b, 0xd8));
}

#elif defined(__ARM_NEON)

INLINE vi vi_dot16(vi acc, vi a, vi b) {
    const int16x8_t x = (int16x8_t)a, y = (int16x8_t)b;
    const int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y)), high = vmull_high_s16(x, y);
    return acc + (vi)vpaddq_s32(low, high);
}
INLINE vi vi_rows(const vi acc[LANES]) {
    return (vi)vpaddq_s32(vpaddq_s32((int32x4_t)acc[0], (int32x4_t)acc[1]),
                          vpaddq_s32((int32x4_t)acc[2], (int32x4_t)acc[3]));
}
INLINE void vi_steps2(const vi acc[LANES / 2], vi out[2]) {
    out[0] = (vi)vzip1q_s64((int64x2_t)acc[0], (int64x2_t)acc[1]);
    out[1] = (vi)vzip2q_s64((int64x2_t)acc[0], (int64x2_t)acc[1]);
}
INLINE vi vi_rows2(const vi acc[LANES / 2]) {
    vi halves[2];
    vi_steps2(acc, halves);
    return halves[0] + halves[1];
}
INLINE void vi_steps4(const vi acc[LANES], vi out[4]) {
    const int64x2_t a = (int64x2_t)vtrn1q_s32((int32x4_t)acc[0], (int32x4_t)acc[1]);
    const int64x2_t b = (int64x2_t)vtrn1q_s32((int32x4_t)acc[2], (int32x4_t)acc[3]);
    const int64x2_t c = (int64x2_t)vtrn2q_s32((int32x4_t)acc[0], (int32x4_t)acc[1]);
    const int64x2_t d = (int64x2_t)vtrn2q_s32((int32x4_t)acc[2], (int32x4_t)acc[3]);
    out[0] = (vi)vzip1q_s64(a, b);
    out[1] = (vi)vzip1q_s64(c, d);
    out[2] = (vi)vzip2q_s64(a, b);
    out[3] = (vi)vzip2q_s64(c, d);
}
INLINE vf vf_rows2(const vf acc[LANES / 2][SUM_VECTORS]) {
    float32x4_t sum[SUM_VECTORS];
    UNROLL
    for (int v = 0; v < SUM_VECTORS; v++)
        sum[v] = vpaddq_f32((float32x4_t)acc[0][v], (float32x4_t)acc[1][v]);
    return (vf)vaddq_f32(vaddq_f32(sum[0], sum[1]), vaddq_f32(sum[2], sum[3]));
}
INLINE vi vi_double(const void *p) {
    int32x2_t x;
    memcpy(&x, p, sizeof x);
    return (vi)vcombine_s32(vzip1_s32(x, x), vzip2_s32(x, x));
}
INLINE vf vf_double2(const float *p) {
    float32x2_t x;
    memcpy(&x, p, sizeof x);
    return (vf)vcombine_f32(x, x);
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
INLINE vf vf_half(const void *p) {
    float16x4_t x;
    memcpy(&x, p, sizeof x);
    return (vf)vcvt_f32_f16(x);
}
INLINE void vf_half_pairs(vi v, vf *low, vf *high) {
    *low = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32((uint32x4_t)v)));
    *high = (vf)vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32((uint32x4_t)v, 16)));
}
INLINE vi vi_round(vf v) {
    return (vi)vcvtnq_s32_f32((float32x4_t)v);
}
INLINE vf vf_max(vf a, vf b) {
    return (vf)vbslq_f32(vcgtq_f32((float32x4_t)a, (float32x4_t)b), (float32x4_t)a, (float32x4_t)b);
}
INLINE void vf_split(const vf v[4], f8 *even, f8 *odd) {
    const float32x4_t e[2] = {vuzp1q_f32((float32x4_t)v[0], (float32x4_t)v[1]),
                              vuzp1q_f32((float32x4_t)v[2], (float32x4_t)v[3])};
    const float32x4_t o[2] = {vuzp2q_f32((float32x4_t)v[0], (float32x4_t)v[1]),
                              vuzp2q_f32((float32x4_t)v[2], (float32x4_t)v[3])};
    memcpy(even, e, sizeof e);
    memcpy(odd, o, sizeof o);
}

// Whether products of bytes are faster than those of 16-bit halves: four of them added to each lane,
// unsigned with unsigned or signed with signed.
#if defined(__ARM_FEATURE_DOTPROD)
#define BYTE_DOTS 1
INLINE vi vi_dot_u8(vi acc, vi a, vi b) {
    return (vi)vdotq_u32((uint32x4_t)acc, (uint8x16_t)a, (uint8x16_t)b);
}
INLINE vi vi_dot_s8(vi acc, vi a, vi b) {
    return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)a, (int8x16_t)b);
}
#endif

#else // any machine

INLINE vi vi_dot16(vi acc, vi a, vi b) {
    const vi a_low = (vi)((vu)a << 16) >> 16, b_low = (vi)((vu)b << 16) >> 16;
    return acc + a_low * b_low + (a >> 16) * (b >> 16);
}
INLINE vi vi_rows(const vi acc[LANES]) {
    vi sums;
    for (int i = 0; i < LANES; i++)
        sums[i] = (acc[i][0] + acc[i][1]) + (acc[i][2] + acc[i][3]);
    return sums;
}
INLINE vi vi_rows2(const vi acc[LANES / 2]) {
    vi sums;
    for (int i = 0; i < LANES; i++)
        sums[i] = acc[i / 2][i % 2] + acc[i / 2][i % 2 + 2];
    return sums;
}
INLINE void vi_steps4(const vi acc[LANES], vi out[4]) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 4; j++)
            out[j][i] = acc[i][j];
}
INLINE void vi_steps2(const vi acc[LANES / 2], vi out[2]) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < 2; j++)
            out[j][i] = acc[i / 2][2 * j + i % 2];
}
INLINE vf vf_rows2(const vf acc[LANES / 2][SUM_VECTORS]) {
    vf sum[SUM_VECTORS];
    for (int v = 0; v < SUM_VECTORS; v++)
        for (int i = 0; i < LANES; i++)
            sum[v][i] = acc[i / 2][v][i % 2 * 2] + acc[i / 2][v][i % 2 * 2 + 1];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
INLINE vi vi_double(const void *p) {
    int32_t x[2];
    memcpy(x, p, sizeof x);
    return (vi){x[0], x[0], x[1], x[1]};
}
INLINE vf vf_double2(const float *p) {
    return (vf){p[0], p[1], p[0], p[1]};
}
INLINE vf vf_fma(vf a, vf b, vf c) {
    vf out;
    for (int lane = 0; lane < LANES; lane++)
        out[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return out;
}
INLINE float half_lane(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, bits = (uint32_t)(half & 0x7fff) << 13;
    float value;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f; // moves the exponent and makes denormals whole
    uint32_t out;
    memcpy(&out, &value, sizeof out);
    out = ((half & 0x7c00) == 0x7c00 ? bits | 0x7f800000 : out) | sign;
    memcpy(&value, &out, sizeof value);
    return value;
}
INLINE vf vf_half(const void *p) {
    uint16_t x[LANES];
    memcpy(x, p, sizeof x);
    vf out;
    for (int lane = 0; lane < LANES; lane++)
        out[lane] = half_lane(x[lane]);
    return out;
}
INLINE void vf_half_pairs(vi v, vf *low, vf *high) {
    for (int lane = 0; lane < LANES; lane++) {
        (*low)[lane] = half_lane((uint16_t)v[lane]);
        (*high)[lane] = half_lane((uint16_t)((uint32_t)v[lane] >> 16));
    }
}
INLINE vi vi_round(vf v) {
    // Adding 1.5 * 2^23 leaves the integer in the low bits; our values are below 2^22.
    const vf shifted = v + 12582912.0f;
    return (vi)shifted - 0x4b400000;
}
INLINE vf vf_max(vf a, vf b) {
    const vi greater = a > b;
    return (vf)(((vi)a & greater) | ((vi)b & ~greater));
}
INLINE void vf_split(const vf v[4], f8 *even, f8 *odd) {
    for (int i = 0; i < 8; i++) {
        (*even)[i] = v[i / 2][i % 2 * 2];
        (*odd)[i] = v[i / 2][i % 2 * 2 + 1];
    }
}

#endif

#if !defined(BYTE_DOTS)
#define BYTE_DOTS 0
#endif

INLINE vf vf_from_vi(vi v) {
    return __builtin_convertvector(v, vf);
}

// Of SUMS sums, in a fixed order; loops over lanes become shuffles.
INLINE float vf_sum(const vf sums[SUM_VECTORS]) {
    float lanes[SUMS];
    memcpy(lanes, sums, sizeof lanes);
    UNROLL
    for (int half = SUMS / 2; half > 0; half /= 2) {
        UNROLL
        for (int lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
}
INLINE float vf_largest(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float lanes[LANES];
    memcpy(lanes, &v, sizeof v);
    UNROLL
    for (int half = LANES / 2; half > 0; half /= 2) {
        UNROLL
        for (int lane = 0; lane < half; lane++)
            lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
    }
    return lanes[0];
#endif
}

#if defined(__F16C__)
INLINE void f8_half_store(void *p, f8 v) {
    _mm_storeu_si128(p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__ARM_NEON)
INLINE void f8_half_store(void *p, f8 v) {
    float32x4_t x[2];
    memcpy(x, &v, sizeof v);
    const float16x8_t halves = vcvt_high_f16_f32(vcvt_f16_f32(x[0]), x[1]);
    memcpy(p, &halves, sizeof halves);
}
#else
INLINE void f8_half_store(void *p, f8 v) {
    uint16_t out[8];
    for (int i = 0; i < 8; i++) {
        float value = v[i];
        uint32_t bits, sign;
        memcpy(&bits, &value, sizeof bits);
        sign = bits >> 16 & 0x8000;
        bits &= 0x7fffffff;
        if (bits >= 0x47800000) { // 65536 and more, infinity, NaN
            out[i] = (uint16_t)(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00));
        } else if (bits < 0x38800000) { // denormal: the addition rounds
            memcpy(&value, &bits, sizeof value);
            value += 0.5f;
            memcpy(&bits, &value, sizeof bits);
            out[i] = (uint16_t)(sign | (bits - 0x3f000000));
        } else {
            out[i] = (uint16_t)(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13));
        }
    }
    memcpy(p, out, sizeof out);
}
#endif

// A bf16 is the upper half of a float.
INLINE vf vf_bf16(const void *p) {
    typedef uint16_t lanes __attribute__((vector_size(LANES * 2)));
    lanes x;
    memcpy(&x, p, sizeof x);
    return (vf)(__builtin_convertvector(x, vu) << 16);
}
INLINE void vf_bf16_pairs(vi v, vf *low, vf *high) {
    *low = (vf)((vu)v << 16);
    *high = (vf)((vu)v & 0xffff0000u);
}
INLINE void f8_bf16_store(void *p, f8 v) {
    typedef uint32_t u8 __attribute__((vector_size(32)));
    typedef uint16_t w8 __attribute__((vector_size(16)));
    const u8 bits = (u8)v, nan = (u8)(v != v);
    const u8 rounded = bits + 0x7fff + (bits >> 16 & 1); // a NaN might become 0
    const u8 kept = (rounded & ~nan) | ((bits | 0x400000) & nan);
    const w8 out = __builtin_convertvector(kept >> 16, w8);
    memcpy(p, &out, sizeof out);
}

// e^x for x <= 88, 0 below -87; relative error under 2e-7 (degree 6 minimax of Cephes' expf).
// Written once for two vector types.
#define EXP_FUNCTION(name, F, I)                                                              \
    INLINE F name(F x) {                                                                      \
        const I below = x < -87.0f, above = x > 88.0f;                                        \
        x = (F)(((I)x & ~below & ~above) | ((I)(88.0f - (F){0}) & above));                    \
        const F shifted = x * 1.44269504f + 12582912.0f; /* the integer is in the low bits */ \
        const F n = shifted - 12582912.0f;                                                    \
        const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;                              \
        F p = r * 1.9875691500e-4f + 1.3981999507e-3f;                                        \
        p = p * r + 8.3334519073e-3f;                                                         \
        p = p * r + 4.1665795894e-2f;                                                         \
        p = p * r + 1.6666665459e-1f;                                                         \
        p = p * r + 5.0000001201e-1f;                                                         \
        p = p * (r * r) + r + 1.0f;                                                           \
        const I scale = (((I)shifted - 0x4b400000) + 127) << 23;                              \
        return (F)((I)(p * (F)scale) & ~below);                                               \
    }
EXP_FUNCTION(vf_exp, vf, vi)
EXP_FUNCTION(f8_exp, f8, i8)

// tanh with a relative error under 3e-7: the polynomial of Cephes' tanhf below 0.625, else
// (1 - e^-2x) / (1 + e^-2x).
#define TANH_FUNCTION(name, F, I, exp)                                                      \
    INLINE F name(F x) {                                                                    \
        const I sign = (I)x & INT32_MIN;                                                    \
        const F a = (F)((I)x ^ sign), z = x * x;                                            \
        F p = z * -5.70498872745e-3f + 2.06390887954e-2f;                                   \
        p = p * z - 5.37397155531e-2f;                                                      \
        p = p * z + 1.33314422036e-1f;                                                      \
        p = p * z - 3.33332819422e-1f;                                                      \
        const F small = p * z * a + a, e = exp(a * -2.0f), large = (1.0f - e) / (1.0f + e); \
        const I is_small = a < 0.625f;                                                      \
        return (F)((((I)small & is_small) | ((I)large & ~is_small)) | sign);                \
    }
TANH_FUNCTION(vf_tanh, vf, vi, vf_exp)
TANH_FUNCTION(f8_tanh, f8, i8, f8_exp)

#endif
