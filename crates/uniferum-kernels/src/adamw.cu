// AdamW, the gradients' norm and moving averages, of all tensors of a model in one launch each and in
// one pass over memory: a model has hundreds, most of them too small to fill the device or to be worth
// a launch.
#include "common.cuh"

// A tensor of those that a launch takes: its blocks begin at `first`. What `a`, `b` and `c` are depends
// on the kernel.
struct Entry {
    float* a;
    const float* b;
    float* c;
    i64 n, first;
    float number;
};

// This block's tensor, and which of all threads that share it this one is.
struct Share {
    Entry entry;
    i64 thread, threads;
    __device__ Share(const Entry* table, int entries) {
        int low = 0, high = entries - 1;
        while (low < high) {
            const int middle = (low + high + 1) / 2;
            if (table[middle].first <= blockIdx.x) low = middle;
            else high = middle - 1;
        }
        entry = table[low];
        const i64 end = low + 1 < entries ? table[low + 1].first : gridDim.x;
        thread = (blockIdx.x - entry.first) * blockDim.x + threadIdx.x;
        threads = (end - entry.first) * blockDim.x;
    }
};

// One update of AdamW of parameters `a` by gradients `b`, with both running means in `c`. An entry's
// number is 1 - lr * decay; `rate` is lr over the first correction, `root` one over the second's root.
// `clip`, if it is there, is what clip_f32 wrote: without a factor nothing is updated.
extern "C" __global__ void adamw_f32(
    const Entry* table, int entries, float b1, float b2, float grad_scale, float rate, float root,
    float eps, const float* clip) {
    if (clip) {
        if (isnan(clip[1])) return;
        grad_scale *= clip[1];
    }
    const Share own(table, entries);
    const Entry& e = own.entry;
    float* first = e.c;
    float* second = e.c + e.n;
    each(fours(e.n, e.a, e.b, first, second), e.n, own.thread, own.threads, [&](i64 i, int count) {
        float p[4], g[4], m[4], v[4];
        load(e.a + i, count, p);
        load(e.b + i, count, g);
        load(first + i, count, m);
        load(second + i, count, v);
        for (int q = 0; q < count; ++q) {
            const float slope = g[q] * grad_scale;
            m[q] += (1.0f - b1) * (slope - m[q]);
            v[q] += (1.0f - b2) * (slope * slope - v[q]);
            p[q] = p[q] * e.number - rate * m[q] / (sqrtf(v[q]) * root + eps);
        }
        store(e.a + i, count, p);
        store(first + i, count, m);
        store(second + i, count, v);
    });
}

// Averages `a` towards values `b`.
extern "C" __global__ void averages_f32(const Entry* table, int entries, float keep, float weight) {
    const Share own(table, entries);
    const Entry& e = own.entry;
    each(fours(e.n, e.a, e.b), e.n, own.thread, own.threads, [&](i64 i, int count) {
        float a[4], b[4];
        load(e.a + i, count, a);
        load(e.b + i, count, b);
        for (int q = 0; q < count; ++q) a[q] = a[q] * keep + b[q] * weight;
        store(e.a + i, count, a);
    });
}

// A block's sum of squares of `b`.
extern "C" __global__ void squares_f32(const Entry* table, int entries, double* partial) {
    double sum[1] = {0.0};
    const Share own(table, entries);
    const Entry& e = own.entry;
    each(fours(e.n, e.b), e.n, own.thread, own.threads, [&](i64 i, int count) {
        float v[4];
        load(e.b + i, count, v);
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
