// The limit of a dense matrix product on a CPU: loops of independent multiply-adds in registers,
// one for each kind of unit, run by all threads. No product that loads its operands can be faster.
#include "bench_peak.h"

#include "threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

enum { ACCUMULATORS = 12, ATTEMPTS = 3 };

static const int64_t ROUNDS = 1 << 21;

// Twelve names, so that the accumulators are registers without help of the optimizer.
// clang-format off
#define TWELVE(X) X(a) X(b) X(c) X(d) X(e) X(f) X(g) X(h) X(i) X(j) X(k) X(l)
// clang-format on

#define PEAK_LOOP(name, features, Vector, zero, factor, step, add)                   \
    __attribute__((target(features))) static void name(void *user, int thread) {     \
        Vector x = factor, sum = zero;                                               \
        TWELVE(PEAK_DECLARE_##Vector)                                                \
        for (int64_t round = 0; round < ROUNDS; round++) {                           \
            TWELVE(step)                                                             \
            OPAQUE(x) /* the products stay inside of the loop */                     \
        }                                                                            \
        TWELVE(add)                                                                  \
        ((volatile unsigned char *)user)[thread] = ((const unsigned char *)&sum)[0]; \
    }

typedef struct PeakLoop {
    const char *how;
    bool (*present)(void);
    void (*run)(void *user, int thread);
    int products; // of one accumulator and round
} PeakLoop;

#if defined(__x86_64__)

// Equal sums must not become one.
#define OPAQUE(n) __asm__ volatile("" : "+v"(n));
#define PEAK_DECLARE___m256(n)      \
    __m256 n = _mm256_setzero_ps(); \
    OPAQUE(n)
#define PEAK_DECLARE___m512(n)      \
    __m512 n = _mm512_setzero_ps(); \
    OPAQUE(n)
#define PEAK_DECLARE___m512i(n)         \
    __m512i n = _mm512_setzero_si512(); \
    OPAQUE(n)
#define FMA_256(n)  n = _mm256_fmadd_ps(x, x, n);
#define FMA_512(n)  n = _mm512_fmadd_ps(x, x, n);
#define DOT_512(n)  n = _mm512_dpbusd_epi32(n, x, x);
#define ADD_256(n)  sum = _mm256_add_ps(sum, n);
#define ADD_512(n)  sum = _mm512_add_ps(sum, n);
#define ADD_512I(n) sum = _mm512_add_epi32(sum, n);

PEAK_LOOP(run_fma_256, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_set1_ps(0.5f), FMA_256,
          ADD_256)
PEAK_LOOP(run_fma_512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_set1_ps(0.5f), FMA_512,
          ADD_512)
PEAK_LOOP(run_dot_512, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1),
          DOT_512, ADD_512I)

static bool has_256(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static bool has_512(void) {
    return __builtin_cpu_supports("avx512f");
}
static bool has_vnni(void) {
    return has_512() && __builtin_cpu_supports("avx512vnni");
}

static const PeakLoop loops[] = {
    {"fp32 multiply-adds in AVX2 registers by the same threads", has_256, run_fma_256, 8},
    {"fp32 multiply-adds in AVX-512 registers by the same threads", has_512, run_fma_512, 16},
    {"int8 dot products in AVX-512 VNNI registers by the same threads", has_vnni, run_dot_512, 64},
};

#elif defined(__aarch64__)

#define OPAQUE(n) __asm__ volatile("" : "+w"(n));
#define PEAK_DECLARE_float32x4_t(n) \
    float32x4_t n = vdupq_n_f32(0); \
    OPAQUE(n)
#define PEAK_DECLARE_int32x4_t(n) \
    int32x4_t n = vdupq_n_s32(0); \
    OPAQUE(n)
#define FMA_128(n)  n = vfmaq_f32(n, x, x);
#define DOT_128(n)  n = vdotq_s32(n, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(x));
#define ADD_128(n)  sum = vaddq_f32(sum, n);
#define ADD_128I(n) sum = vaddq_s32(sum, n);

PEAK_LOOP(run_fma_128, "arch=armv8-a", float32x4_t, vdupq_n_f32(0), vdupq_n_f32(0.5f), FMA_128,
          ADD_128)
PEAK_LOOP(run_dot_128, "arch=armv8.2-a+dotprod", int32x4_t, vdupq_n_s32(0), vdupq_n_s32(0x01010101),
          DOT_128, ADD_128I)

static bool has_neon(void) {
    return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0;
}
static bool has_dot(void) {
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

static const PeakLoop loops[] = {
    {"fp32 multiply-adds in NEON registers by the same threads", has_neon, run_fma_128, 4},
    {"int8 dot products in NEON registers by the same threads", has_dot, run_dot_128, 16},
};

#endif

bool peak_measure(int threads, double *ops_per_s, const char **how, Error *err) {
    Pool *pool;
    unsigned char results[256];
    *ops_per_s = 0;
    *how = "";
    TRY(pool_open(&pool, threads < 256 ? threads : 256, err));
    for (size_t at = 0; at < sizeof loops / sizeof *loops; at++)
        for (int attempt = 0; loops[at].present() && attempt < ATTEMPTS; attempt++) {
            double start = clock_seconds();
            pool_run(pool, loops[at].run, results);
            double products = (double)(ROUNDS * ACCUMULATORS * loops[at].products);
            double ops = 2 * products * pool_threads(pool) / (clock_seconds() - start);
            if (ops > *ops_per_s) {
                *ops_per_s = ops;
                *how = loops[at].how;
            }
        }
    pool_close(pool);
    return true;
}
