// The exact GELU: a map bound by memory, a thread four elements at a time.
#include "common.cuh"

__device__ __forceinline__ float normal(float x) { return 0.5f * erfcf(-x * 0.70710678f); }

// x Phi(x), the exact GELU.
template <class T> __device__ void gelu_map(const T* x, T* y, i64 n) {
    EVERY(n, x, y) {
        float v[4];
        load(x + i, count, v);
        for (int q = 0; q < count; ++q) v[q] *= normal(v[q]);
        store(y + i, count, v);
    });
}
template <class T> __device__ void gelu_back(const T* x, const T* dy, T* dx, i64 n) {
    EVERY(n, x, dy, dx) {
        float v[4], g[4];
        load(x + i, count, v);
        load(dy + i, count, g);
        for (int q = 0; q < count; ++q) {
            g[q] *= normal(v[q]) + v[q] * 0.39894228f * expf(-0.5f * v[q] * v[q]);
        }
        store(dx + i, count, g);
    });
}

#define DEFINE(T, suffix) \
    extern "C" __global__ void gelu_##suffix(const T* x, T* y, i64 n) { gelu_map(x, y, n); } \
    extern "C" __global__ void gelu_back_##suffix(const T* x, const T* dy, T* dx, i64 n) { gelu_back(x, dy, dx, n); }
DEFINE(float, f32)
DEFINE(bf16, bf16)
