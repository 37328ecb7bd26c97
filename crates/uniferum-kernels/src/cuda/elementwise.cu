// Small maps that several operations need. Bound by memory: one read and one write a value.
#include "common.cuh"

template <class T> __device__ void add_bias(T* y, const float* bias, int channels, i64 voxels, i64 n) {
    const i64 threads = static_cast<i64>(gridDim.x) * blockDim.x;
    for (i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += threads) {
        y[i] = narrow<T>(widen(y[i]) + bias[i / voxels % channels]);
    }
}

template <class From, class To> __device__ void cast(const From* x, To* y, i64 n) {
    const i64 threads = static_cast<i64>(gridDim.x) * blockDim.x;
    each(fours(n, x, y), n, static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, threads, [&](i64 i, int count) {
        float v[4];
        load(x + i, count, v);
        store(y + i, count, v);
    });
}

extern "C" __global__ void add_bias_f32(float* y, const float* bias, int channels, i64 voxels, i64 n) {
    add_bias<float>(y, bias, channels, voxels, n);
}
extern "C" __global__ void add_bias_bf16(bf16* y, const float* bias, int channels, i64 voxels, i64 n) {
    add_bias<bf16>(y, bias, channels, voxels, n);
}
extern "C" __global__ void cast_f32(const float* x, float* y, i64 n) { cast<float, float>(x, y, n); }
extern "C" __global__ void cast_bf16(const float* x, bf16* y, i64 n) { cast<float, bf16>(x, y, n); }

template <class T> __device__ void add(T* y, const T* x, i64 n) {
    const i64 threads = static_cast<i64>(gridDim.x) * blockDim.x;
    each(fours(n, x, y), n, static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, threads, [&](i64 i, int count) {
        float v[4], w[4];
        load(y + i, count, v);
        load(x + i, count, w);
        for (int q = 0; q < count; ++q) v[q] += w[q];
        store(y + i, count, v);
    });
}
extern "C" __global__ void add_f32(float* y, const float* x, i64 n) { add<float>(y, x, n); }
extern "C" __global__ void add_bf16(bf16* y, const bf16* x, i64 n) { add<bf16>(y, x, n); }

// Sums over chunks of rows of [rows, width]: partial [chunks, width].
template <class T> __device__ void column_sums(const T* x, float* partial, int rows, int width, int columns, int chunk) {
    const int c = blockIdx.x % columns * blockDim.x + threadIdx.x, part = blockIdx.x / columns;
    if (c >= width) return;
    float sum = 0.0f;
    for (int row = part * chunk; row < min((part + 1) * chunk, rows); ++row) {
        sum += widen(x[static_cast<i64>(row) * width + c]);
    }
    partial[static_cast<i64>(part) * width + c] = sum;
}
extern "C" __global__ void column_sums_f32(const float* x, float* partial, int rows, int width, int columns, int chunk) {
    column_sums(x, partial, rows, width, columns, chunk);
}
extern "C" __global__ void column_sums_bf16(const bf16* x, float* partial, int rows, int width, int columns, int chunk) {
    column_sums(x, partial, rows, width, columns, chunk);
}
extern "C" __global__ void column_sums_end(const float* partial, float* sums, int width, int chunks) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= width) return;
    double sum = 0.0;
    for (int p = 0; p < chunks; ++p) sum += partial[static_cast<i64>(p) * width + c];
    sums[c] = static_cast<float>(sum);
}
