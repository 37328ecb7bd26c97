// AdamW and the gradients' norm, each in one pass over memory.
#include "common.cuh"

// One update of AdamW: parameter, gradient and both running means in one pass. `keep` is
// 1 - lr * decay, `rate` lr over the first correction, `root` one over the second's root. `clip`, if
// it is there, is what clip_f32 wrote: without a factor nothing is updated.
extern "C" __global__ void adamw_f32(
    float* parameter, const float* gradient, float* state, i64 n, float b1, float b2,
    float grad_scale, float keep, float rate, float root, float eps, const float* clip) {
    if (clip) {
        if (isnan(clip[1])) return;
        grad_scale *= clip[1];
    }
    float* first = state;
    float* second = state + n;
    EVERY(n, parameter, gradient, first, second) {
        float p[4], g[4], m[4], v[4];
        load(parameter + i, count, p);
        load(gradient + i, count, g);
        load(first + i, count, m);
        load(second + i, count, v);
        for (int q = 0; q < count; ++q) {
            const float own = g[q] * grad_scale;
            m[q] += (1.0f - b1) * (own - m[q]);
            v[q] += (1.0f - b2) * (own * own - v[q]);
            p[q] = p[q] * keep - rate * m[q] / (sqrtf(v[q]) * root + eps);
        }
        store(parameter + i, count, p);
        store(first + i, count, m);
        store(second + i, count, v);
    });
}

// A block's sum of squares.
extern "C" __global__ void squares_f32(const float* x, double* partial, i64 n) {
    double sum[1] = {0.0};
    EVERY(n, x) {
        float v[4];
        load(x + i, count, v);
        for (int q = 0; q < count; ++q) sum[0] += static_cast<double>(v[q]) * v[q];
    });
    block_sum<1>(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum[0];
}

// From the blocks' sums to the norm, and the factor that makes it at most `largest`: NaN for a norm
// that is not finite. One block: there are some thousands of sums.
extern "C" __global__ void clip_f32(const double* partial, float* clip, i64 n, float largest) {
    double sum[1] = {0.0};
    for (i64 i = threadIdx.x; i < n; i += blockDim.x) sum[0] += partial[i];
    block_sum<1>(sum);
    if (threadIdx.x != 0) return;
    const double norm = sqrt(sum[0]);
    clip[0] = static_cast<float>(norm);
    // NaN compares as false, and an infinite norm times 0 is NaN.
    if (norm <= largest) clip[1] = 1.0f;
    else clip[1] = static_cast<float>(largest / norm + 0.0 * norm);
}
