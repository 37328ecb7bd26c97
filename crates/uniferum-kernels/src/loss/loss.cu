// Cross-entropy and focal loss of logits, forward and gradient; bound by memory.
#include "common.cuh"

// Cross-entropy of a logit against its target, and its probability; stable for any logit.
__device__ __forceinline__ float cross_entropy(float x, float t, float& p) {
    const float e = expf(-fabsf(x));
    p = x >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
    return fmaxf(x, 0.0f) - x * t + log1pf(e);
}
// base^exponent, without a call for the usual exponents.
__device__ __forceinline__ float power(float base, float exponent) {
    if (exponent == 2.0f) return base * base;
    if (exponent == 1.0f) return base;
    return powf(base, exponent);
}

// With gamma below 0 plain cross-entropy, else the focal loss.
extern "C" __global__ void loss_f32(const float* x, const float* t, float* y, i64 n, float alpha, float gamma) {
    EVERY(n, x, t, y) {
        float v[4], target[4], p;
        load(x + i, count, v);
        load(t + i, count, target);
        for (int q = 0; q < count; ++q) {
            const float y_true = target[q], ce = cross_entropy(v[q], y_true, p);
            const float missed = p * (1.0f - y_true) + (1.0f - p) * y_true;
            const float weight = alpha * y_true + (1.0f - alpha) * (1.0f - y_true);
            v[q] = gamma < 0.0f ? ce : weight * ce * power(missed, gamma);
        }
        store(y + i, count, v);
    });
}
extern "C" __global__ void loss_back_f32(const float* x, const float* t, const float* dy, float* dx, i64 n, float alpha, float gamma) {
    EVERY(n, x, t, dy, dx) {
        float v[4], target[4], g[4], p;
        load(x + i, count, v);
        load(t + i, count, target);
        load(dy + i, count, g);
        for (int q = 0; q < count; ++q) {
            const float y_true = target[q], ce = cross_entropy(v[q], y_true, p);
            if (gamma < 0.0f) {
                g[q] *= p - y_true;
                continue;
            }
            const float missed = p * (1.0f - y_true) + (1.0f - p) * y_true;
            const float weight = alpha * y_true + (1.0f - alpha) * (1.0f - y_true);
            const float through = gamma == 0.0f || missed == 0.0f
                ? 0.0f
                : gamma * ce * power(missed, gamma - 1.0f) * p * (1.0f - p) * (1.0f - 2.0f * y_true);
            g[q] *= weight * ((p - y_true) * power(missed, gamma) + through);
        }
        store(dx + i, count, g);
    });
}
