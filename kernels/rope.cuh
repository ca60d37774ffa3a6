// What: the rotation of a pair of elements by the angle position * inv_freq.
// Idea: the angle is rounded to fp32 as the reference implementation rounds it, then reduced to
//     [-pi, pi] by 2 pi in three parts (Cody and Waite); there the hardware's sine is within
//     2^-20.9 (PTX ISA).
#ifndef ROPE_CUH
#define ROPE_CUH

// cos and sin of position * inv_freq, times `factor`.
__device__ __forceinline__ void rope_cos_sin(float *cosine, float *sine, int position,
                                             float inv_freq, float factor) {
    float angle = __fmul_rn((float)position, inv_freq);
    float turns = rintf(angle * 0.15915494309f);
    float rest  = __fmaf_rn(-turns, 6.28125f, angle);
    rest        = __fmaf_rn(-turns, 1.93500518798828125e-3f, rest);
    rest        = __fmaf_rn(-turns, 3.0199159819567e-7f, rest);
    *cosine     = cos_approx(rest) * factor;
    *sine       = sin_approx(rest) * factor;
}

#endif
