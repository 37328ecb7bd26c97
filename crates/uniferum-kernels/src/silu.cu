// SiLU: a map bound by memory, a thread four elements at a time.
#include "common.cuh"

template <class T> __device__ void silu_map(const T* x, T* y, i64 n) {
    EVERY(n, x, y) {
        float v[4];
        load(x + i, count, v);
        for (int q = 0; q < count; ++q) v[q] = silu(v[q]);
        store(y + i, count, v);
    });
}
template <class T> __device__ void silu_back(const T* x, const T* dy, T* dx, i64 n) {
    EVERY(n, x, dy, dx) {
        float v[4], g[4];
        load(x + i, count, v);
        load(dy + i, count, g);
        for (int q = 0; q < count; ++q) g[q] *= silu_slope(v[q]);
        store(dx + i, count, g);
    });
}

#define DEFINE(T, suffix) \
    extern "C" __global__ void silu_##suffix(const T* x, T* y, i64 n) { silu_map(x, y, n); } \
    extern "C" __global__ void silu_back_##suffix(const T* x, const T* dy, T* dx, i64 n) { silu_back(x, dy, dx, n); }
DEFINE(float, f32)
DEFINE(bf16, bf16)
