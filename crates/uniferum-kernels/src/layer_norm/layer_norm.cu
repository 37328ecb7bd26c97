// Layer norm: a block a row, which stays in the first-level cache for its passes. Rows are of a few
// hundred to a few thousand values; bound by memory. The gradients of weight and bias are sums over
// rows: a thread a column, neighbouring threads at neighbouring columns, over chunks of rows whose
// sums `column_sums_end` adds up.
#include "common.cuh"

template <class T>
__device__ void forward(const T* x, const float* weight, const float* bias, T* y, float* mean, float* rstd, int width, float eps) {
    const T* from = x + static_cast<i64>(blockIdx.x) * width;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) sum += widen(from[i]);
    const float m = block_sum_all(sum) / width;
    __syncthreads();
    float squares = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float d = widen(from[i]) - m;
        squares += d * d;
    }
    const float r = rsqrtf(block_sum_all(squares) / width + eps);
    T* to = y + static_cast<i64>(blockIdx.x) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        to[i] = narrow<T>((widen(from[i]) - m) * r * weight[i] + bias[i]);
    }
    if (threadIdx.x == 0) {
        mean[blockIdx.x] = m;
        rstd[blockIdx.x] = r;
    }
}

template <class T>
__device__ void input_gradient(const T* x, const T* dy, const float* weight, const float* mean, const float* rstd, T* dx, int width) {
    const i64 first = static_cast<i64>(blockIdx.x) * width;
    const float m = mean[blockIdx.x], r = rstd[blockIdx.x];
    float plain = 0.0f, along = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float g = weight[i] * widen(dy[first + i]);
        plain += g;
        along += g * (widen(x[first + i]) - m) * r;
    }
    plain = block_sum_all(plain) / width;
    __syncthreads();
    along = block_sum_all(along) / width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        const float n = (widen(x[first + i]) - m) * r;
        dx[first + i] = narrow<T>(r * (weight[i] * widen(dy[first + i]) - plain - n * along));
    }
}

// Partial sums of weight and bias gradients, [chunks, 2, width].
template <class T>
__device__ void parameters(const T* x, const T* dy, const float* mean, const float* rstd, float* partial, int rows, int width, int columns, int chunk) {
    const int c = blockIdx.x % columns * blockDim.x + threadIdx.x, part = blockIdx.x / columns;
    if (c >= width) return;
    float weight = 0.0f, bias = 0.0f;
    for (int row = part * chunk; row < min((part + 1) * chunk, rows); ++row) {
        const i64 at = static_cast<i64>(row) * width + c;
        const float g = widen(dy[at]);
        weight += g * (widen(x[at]) - mean[row]) * rstd[row];
        bias += g;
    }
    partial[static_cast<i64>(2 * part) * width + c] = weight;
    partial[static_cast<i64>(2 * part + 1) * width + c] = bias;
}

#define DEFINE(T, suffix)                                                                          \
    extern "C" __global__ void layer_norm_##suffix(                                                \
        const T* x, const float* weight, const float* bias, T* y, float* mean, float* rstd,        \
        int width, float eps) {                                                                    \
        forward(x, weight, bias, y, mean, rstd, width, eps);                                       \
    }                                                                                              \
    extern "C" __global__ void layer_norm_back_##suffix(                                           \
        const T* x, const T* dy, const float* weight, const float* mean, const float* rstd,        \
        T* dx, int width) {                                                                        \
        input_gradient(x, dy, weight, mean, rstd, dx, width);                                      \
    }                                                                                              \
    extern "C" __global__ void layer_norm_parameters_##suffix(                                     \
        const T* x, const T* dy, const float* mean, const float* rstd, float* partial, int rows,   \
        int width, int columns, int chunk) {                                                       \
        parameters(x, dy, mean, rstd, partial, rows, width, columns, chunk);                       \
    }
DEFINE(float, f32)
DEFINE(bf16, bf16)
