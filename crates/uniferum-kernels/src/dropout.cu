// Dropout: a map bound by memory; the mask is drawn, not read.
#include "common.cuh"

// What the mask of (seed, threshold) keeps, times `scale`; backward draws the same mask.
template <class T> __device__ void dropout_map(const T* x, T* y, i64 n, u64 seed, unsigned threshold, float scale) {
    EVERY(n, x, y) {
        float v[4];
        load(x + i, count, v);
        for (int q = 0; q < count; ++q) {
            v[q] *= random_bits(seed, static_cast<u64>(i + q)) >= threshold ? scale : 0.0f;
        }
        store(y + i, count, v);
    });
}

#define DEFINE(T, suffix) \
    extern "C" __global__ void dropout_##suffix(const T* x, T* y, i64 n, u64 seed, unsigned threshold, float scale) { dropout_map(x, y, n, seed, threshold, scale); }
DEFINE(float, f32)
DEFINE(bf16, bf16)
