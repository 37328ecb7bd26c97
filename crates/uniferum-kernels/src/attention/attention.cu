// The softmax of attention scores with key mask and dropout, and its gradient: a warp a row, so that
// sums need no barrier. Rows are of tens to hundreds of keys; products around it are cuBLAS's.
#include "common.cuh"

__device__ __forceinline__ float warp_max_all(float v) {
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, step));
    return v;
}
__device__ __forceinline__ float warp_sum_all(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
}

// Dropout's mask of one launch; `scale` 0 for none.
struct Keep {
    u64 seed;
    unsigned threshold;
    float scale;
    __device__ float factor(i64 index) const {
        if (scale == 0.0f) return 1.0f;
        return random_bits(seed, static_cast<u64>(index)) >= threshold ? scale : 0.0f;
    }
};

// Scores become probabilities in place, and `kept` what dropout leaves of them. `rows_of_sample`
// rows share a mask; a row without a key becomes zeros.
template <class T>
__device__ void softmax(float* scores, const float* mask, T* kept, i64 rows, int keys, int rows_of_sample, float scale, Keep keep) {
    const i64 row = static_cast<i64>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const bool there = row < rows;
    float* own = scores + (there ? row : 0) * keys;
    const float* seen = mask ? mask + (there ? row / rows_of_sample : 0) * keys : nullptr;
    float top = -INFINITY;
    for (int i = lane; i < keys && there; i += 32) {
        if (!seen || seen[i] != 0.0f) top = fmaxf(top, own[i]);
    }
    top = warp_max_all(top);
    float sum = 0.0f;
    for (int i = lane; i < keys && there; i += 32) {
        const bool some = !seen || seen[i] != 0.0f;
        const float e = some ? expf((own[i] - top) * scale) : 0.0f;
        own[i] = e;
        sum += e;
    }
    sum = warp_sum_all(sum);
    const float inverse = sum > 0.0f ? 1.0f / sum : 0.0f;
    for (int i = lane; i < keys && there; i += 32) {
        const float p = own[i] * inverse;
        own[i] = p;
        kept[row * keys + i] = narrow<T>(p * keep.factor(row * keys + i));
    }
}

// From the gradient of what dropout left to that of the scores.
template <class T>
__device__ void softmax_back(const float* p, const float* dkept, T* dscores, i64 rows, int keys, float scale, Keep keep) {
    const i64 row = static_cast<i64>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    const bool there = row < rows;
    const i64 first = (there ? row : 0) * keys;
    float along = 0.0f;
    for (int i = lane; i < keys && there; i += 32) {
        along += p[first + i] * dkept[first + i] * keep.factor(first + i);
    }
    along = warp_sum_all(along);
    for (int i = lane; i < keys && there; i += 32) {
        const float d = dkept[first + i] * keep.factor(first + i);
        dscores[first + i] = narrow<T>(scale * p[first + i] * (d - along));
    }
}

#define DEFINE(T, suffix)                                                                          \
    extern "C" __global__ void attention_softmax_##suffix( \
        float* scores, const float* mask, T* kept, i64 rows, int keys, int rows_of_sample,         \
        float scale, u64 seed, unsigned threshold, float keep) {                                   \
        softmax(scores, mask, kept, rows, keys, rows_of_sample, scale,                             \
                Keep{seed, threshold, keep});                                                      \
    }                                                                                              \
    extern "C" __global__ void attention_softmax_back_##suffix( \
        const float* p, const float* dkept, T* dscores, i64 rows, int keys, float scale,           \
        u64 seed, unsigned threshold, float keep) {                                                \
        softmax_back(p, dkept, dscores, rows, keys, scale, Keep{seed, threshold, keep});           \
    }
DEFINE(float, f32)
DEFINE(bf16, bf16)
