// Channels weighted by a gate, and the gradient to the gate; bound by memory.
#include "common.cuh"

// y = x * gate, one gate a row; and its gradient to the gate is a row's inner product.
template <class T> __device__ void scale_rows(const T* x, const T* gate, T* y, i64 voxels, i64 n) {
    EVERY(n, x, y) {
        float v[4];
        load(x + i, count, v);
        for (int q = 0; q < count; ++q) v[q] *= widen(gate[(i + q) / voxels]);
        store(y + i, count, v);
    });
}
template <class T> __device__ void row_products(const T* x, const T* dy, T* gate, i64 voxels) {
    const i64 first = blockIdx.x * voxels;
    double sum[1] = {0.0};
    each(fours(voxels, x, dy), voxels, threadIdx.x, blockDim.x, [&](i64 i, int count) {
        float v[4], g[4];
        load(x + first + i, count, v);
        load(dy + first + i, count, g);
        for (int q = 0; q < count; ++q) sum[0] += v[q] * g[q];
    });
    block_sum<1>(sum);
    if (threadIdx.x == 0) gate[blockIdx.x] = narrow<T>(static_cast<float>(sum[0]));
}

#define DEFINE(T, suffix) \
    extern "C" __global__ void scale_rows_##suffix(const T* x, const T* gate, T* y, i64 voxels, i64 n) { scale_rows(x, gate, y, voxels, n); } \
    extern "C" __global__ void row_products_##suffix(const T* x, const T* dy, T* gate, i64 voxels) { row_products(x, dy, gate, voxels); }
DEFINE(float, f32)
DEFINE(bf16, bf16)
