// AdamW and the gradients' norm, each in one pass over memory.
#include "common.cuh"

// One update of AdamW: parameter, gradient and both running means in one pass. `keep` is
// 1 - lr * decay, `rate` lr over the first correction, `root` one over the second's root.
extern "C" __global__ void adamw_f32(
    float* parameter, const float* gradient, float* state, i64 n, float b1, float b2,
    float grad_scale, float keep, float rate, float root, float eps) {
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
