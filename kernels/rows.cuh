// What: elements of a value, 1 to 8 at a time, as the kernels on rows read and write them.
// Idea: a value is fp32 or activations; arithmetic is fp32. A thread takes COUNT elements next to
//     each other, a power of two that divides the row, so that every access is aligned.
#ifndef ROWS_CUH
#define ROWS_CUH

// The largest power of two up to `most` that divides `width`.
constexpr int vector_of(s64 width, int most) {
    return width % most == 0 ? most : vector_of(width, most / 2);
}

// COUNT: 1, 2 or a multiple of 4. `at` is a multiple of it.
template <bool F32, int COUNT>
__device__ __forceinline__ void load_elems(float x[COUNT], const void *value, s64 at) {
    const float *floats = (const float *)value + at;
    const act_t *acts   = (const act_t *)value + at;
    if constexpr (COUNT >= 4) {
#pragma unroll // x stays in registers
        for (int i = 0; i < COUNT; i += 4) {
            if constexpr (F32) {
                float4 v = ld_global_v4_f32(floats + i);
                x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
            } else {
                uint2 v  = ld_global_v2(acts + i);
                x[i]     = act2_low(v.x);
                x[i + 1] = act2_high(v.x);
                x[i + 2] = act2_low(v.y);
                x[i + 3] = act2_high(v.y);
            }
        }
    } else {
#pragma unroll // x stays in registers
        for (int i = 0; i < COUNT; i++) {
            x[i] = F32 ? ld_global_f32(floats + i) : act_to_f32(ld_global_u16(acts + i));
        }
    }
}

template <bool F32, int COUNT>
__device__ __forceinline__ void store_elems(void *value, s64 at, const float x[COUNT]) {
    float *floats = (float *)value + at;
    act_t *acts   = (act_t *)value + at;
    if constexpr (COUNT >= 4) {
#pragma unroll // x stays in registers
        for (int i = 0; i < COUNT; i += 4) {
            if constexpr (F32) {
                st_global_v4_f32(floats + i, make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]));
            } else {
                st_global_v2(acts + i, make_uint2(act2_from_f32(x[i], x[i + 1]),
                                                  act2_from_f32(x[i + 2], x[i + 3])));
            }
        }
    } else {
#pragma unroll // x stays in registers
        for (int i = 0; i < COUNT; i++) {
            if constexpr (F32) {
                st_global_f32(floats + i, x[i]);
            } else {
                st_global_u16(acts + i, act_from_f32(x[i]));
            }
        }
    }
}

#endif
