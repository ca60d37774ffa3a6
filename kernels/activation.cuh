// What: the activation functions of gated layers. Parameter: ACT.
#ifndef ACTIVATION_CUH
#define ACTIVATION_CUH

#define ACT_SILU 0 // ORDER ACTIVATIONS (compiler/compile.h)
#define ACT_GELU_TANH 1
#define ACT_GELU 2

static_assert(ACT == ACT_SILU || ACT == ACT_GELU_TANH || ACT == ACT_GELU, "ACT");

__device__ __forceinline__ float activation(float x) {
    constexpr float LOG2_E = 1.4426950409f;
    if (ACT == ACT_GELU) {
        return 0.5f * x * (1.0f + erff(x * 0.70710678119f));
    }
    // gelu_tanh(x) = x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 x^3))
    float z = ACT == ACT_SILU ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
    return x * rcp_approx(1.0f + ex2_approx(-z * LOG2_E));
}

#endif
