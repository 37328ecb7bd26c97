// Batch norm, alone or with SiLU and a gate behind it, over [B, C, voxels].
//
// All are bound by memory: one read (and write) a value, 16 bytes a thread at a time, a few dozen
// registers and full occupancy. Sums over a channel are split among `blocks` blocks, so that a
// handful of channels of millions of voxels occupies the whole device; each block leaves one
// partial sum, in double precision, and a small kernel adds these up. The order of additions
// depends on the sizes alone: the same input gives the same bits.
#include "common.cuh"

// Which block of which channel or row this is.
struct Place {
    int row, block, blocks;
    __device__ explicit Place(int blocks)
        : row(blockIdx.x / blocks), block(blockIdx.x % blocks), blocks(blocks) {}
    // Number of this thread among all of the row, and of all of these.
    __device__ i64 thread() const { return static_cast<i64>(block) * blockDim.x + threadIdx.x; }
    __device__ i64 threads() const { return static_cast<i64>(blocks) * blockDim.x; }
};

// Sums of (x - pivot) and its square, the pivot being the channel's first value: in single
// precision a thread, without the cancellation of plain sums where the mean is far from 0.
template <class T>
__device__ void moments(const T* x, double* partial, int samples, int channels, i64 voxels, int blocks) {
    const Place place(blocks);
    const float pivot = widen(x[place.row * voxels]);
    float sum = 0.0f, squares = 0.0f;
    for (int b = 0; b < samples; ++b) {
        const T* from = x + (static_cast<i64>(b) * channels + place.row) * voxels;
        each(fours(voxels, x), voxels, place.thread(), place.threads(), [&](i64 i, int count) {
            float v[4];
            load(from + i, count, v);
            for (int q = 0; q < count; ++q) {
                const float d = v[q] - pivot;
                sum += d;
                squares += d * d;
            }
        });
    }
    double sums[2] = {sum, squares};
    block_sum<2>(sums);
    if (threadIdx.x == 0) {
        partial[2 * blockIdx.x] = sums[0];
        partial[2 * blockIdx.x + 1] = sums[1];
    }
}

// Where a norm is written, and what it is made of beside its statistics.
struct Norm {
    const float *gamma, *beta;
    float *mean, *inv_std, *scale, *shift;
    float eps;
    // One channel's, as `scale x + shift`.
    __device__ void prepare(int c, float own_mean, float var) const {
        mean[c] = own_mean;
        inv_std[c] = static_cast<float>(1.0 / sqrt(static_cast<double>(var) + eps));
        scale[c] = gamma[c] * inv_std[c];
        shift[c] = beta[c] - scale[c] * own_mean;
    }
};

// Mean and biased variance of each channel from the partial sums, and the norm of these.
template <class T>
__device__ void norm_of_moments(const T* x, const double* partial, float* mean, float* var, const Norm& norm, int channels, int samples, i64 voxels, int blocks) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    double sum = 0.0, squares = 0.0;
    for (int p = 0; p < blocks; ++p) {
        sum += partial[2 * (static_cast<i64>(c) * blocks + p)];
        squares += partial[2 * (static_cast<i64>(c) * blocks + p) + 1];
    }
    const double n = static_cast<double>(samples) * voxels, shift = sum / n;
    mean[c] = static_cast<float>(widen(x[c * voxels]) + shift);
    var[c] = static_cast<float>(fmax(squares / n - shift * shift, 0.0));
    norm.prepare(c, mean[c], var[c]);
}

// The norm of constant statistics.
extern "C" __global__ void norm_of_constants(
    const float* mean, const float* var, const float* gamma, const float* beta, float* own_mean,
    float* inv_std, float* scale, float* shift, int channels, float eps) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    Norm{gamma, beta, own_mean, inv_std, scale, shift, eps}.prepare(c, mean[c], var[c]);
}

// Running statistics towards the batch's; the variance by a weight of its own, which makes it the unbiased
// one.
extern "C" __global__ void move_statistics(
    float* running_mean, float* running_var, const float* mean, const float* var, int channels,
    float momentum, float var_momentum) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    running_mean[c] = (1.0f - momentum) * running_mean[c] + momentum * mean[c];
    running_var[c] = (1.0f - momentum) * running_var[c] + var_momentum * var[c];
}

// y = act(scale x + shift) * gate + residual, the last two where there are any; the gate is one
// value a sample and channel.
template <class T>
__device__ void normalise(const T* x, const float* scale, const float* shift, const float* gate, const T* residual, T* y, int channels, i64 voxels, int active, int blocks) {
    const Place place(blocks);
    const int c = place.row % channels;
    const float own_scale = scale[c], own_shift = shift[c], own_gate = gate ? gate[place.row] : 1.0f;
    const i64 first = place.row * voxels;
    each(fours(voxels, x, residual, y), voxels, place.thread(), place.threads(), [&](i64 i, int count) {
        float v[4], r[4];
        load(x + first + i, count, v);
        if (residual) load(residual + first + i, count, r);
        for (int q = 0; q < count; ++q) {
            v[q] = own_scale * v[q] + own_shift;
            if (active) v[q] = silu(v[q]);
            v[q] *= own_gate;
            if (residual) v[q] += r[q];
        }
        store(y + first + i, count, v);
    });
}

// Partial sums over each row (a sample's channel) of act(scale x + shift).
template <class T>
__device__ void row_sums(const T* x, const float* scale, const float* shift, double* partial, int channels, i64 voxels, int active, int blocks) {
    const Place place(blocks);
    const int c = place.row % channels;
    const float own_scale = scale ? scale[c] : 1.0f, own_shift = scale ? shift[c] : 0.0f;
    float sum = 0.0f;
    each(fours(voxels, x), voxels, place.thread(), place.threads(), [&](i64 i, int count) {
        float v[4];
        load(x + place.row * voxels + i, count, v);
        for (int q = 0; q < count; ++q) {
            const float z = own_scale * v[q] + own_shift;
            sum += active ? silu(z) : z;
        }
    });
    double sums[1] = {sum};
    block_sum<1>(sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

// sums[row] = factor * (its partial sums).
extern "C" __global__ void row_sums_end(const double* partial, float* sums, int rows, int blocks, float factor) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    double sum = 0.0;
    for (int p = 0; p < blocks; ++p) sum += partial[static_cast<i64>(row) * blocks + p];
    sums[row] = static_cast<float>(sum * factor);
}

// The same over the samples of each channel.
extern "C" __global__ void channel_sums_end(const double* partial, float* sums, int samples, int channels, int blocks) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    double sum = 0.0;
    for (int b = 0; b < samples; ++b) {
        for (int p = 0; p < blocks; ++p) sum += partial[(static_cast<i64>(b) * channels + c) * blocks + p];
    }
    sums[c] = static_cast<float>(sum);
}

// With u the gradient behind the activation, z = scale x + shift and s the activation's slope, the
// sums over each row of u act(z), u s, u s (x - mean), s, s (x - mean): all that the gradients
// of norm and gate need, linear in a gain of u and in a constant added to it.
template <class T>
__device__ void slope_sums(const T* u, const T* x, const float* scale, const float* shift, const float* mean, double* partial, int channels, i64 voxels, int active, int blocks) {
    const Place place(blocks);
    const int c = place.row % channels;
    const float own_scale = scale[c], own_shift = shift[c], own_mean = mean[c];
    float sum[5] = {};
    each(fours(voxels, u, x), voxels, place.thread(), place.threads(), [&](i64 i, int count) {
        float g[4], v[4];
        load(u + place.row * voxels + i, count, g);
        load(x + place.row * voxels + i, count, v);
        for (int q = 0; q < count; ++q) {
            const float z = own_scale * v[q] + own_shift, d = v[q] - own_mean;
            const float s = active ? silu_slope(z) : 1.0f;
            sum[0] += g[q] * (active ? silu(z) : z);
            sum[1] += g[q] * s;
            sum[2] += g[q] * s * d;
            sum[3] += s;
            sum[4] += s * d;
        }
    });
    double sums[5];
    for (int i = 0; i < 5; ++i) sums[i] = sum[i];
    block_sum<5>(sums);
    if (threadIdx.x == 0) {
        for (int i = 0; i < 5; ++i) partial[5 * static_cast<i64>(blockIdx.x) + i] = sums[i];
    }
}

// Adds the blocks up: sums [rows, 5], and the gradient of the gate [rows] where asked for.
extern "C" __global__ void slope_sums_end(const double* partial, double* sums, float* gate, int rows, int blocks) {
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= rows) return;
    for (int i = 0; i < 5; ++i) {
        double sum = 0.0;
        for (int p = 0; p < blocks; ++p) sum += partial[5 * (static_cast<i64>(row) * blocks + p) + i];
        sums[5 * static_cast<i64>(row) + i] = sum;
    }
    if (gate) gate[row] = static_cast<float>(sums[5 * static_cast<i64>(row)]);
}

// Gradients of gamma and beta, and p, q such that the gradient of x is
// scale s (gain u + add) + p x + q: what flows through the batch's statistics. `count` is 0 for
// constant statistics. Gain and add are one value a row, 1 and 0 where there are none; add comes
// as the gradient of the row's mean.
extern "C" __global__ void norm_gradient(
    const double* sums, const float* gain, const float* mean_gradient, const float* scale,
    const float* mean, const float* inv_std, float* dgamma, float* dbeta, float* p, float* q,
    int samples, int channels, i64 voxels, double count) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= channels) return;
    double plain = 0.0, along = 0.0;
    for (int b = 0; b < samples; ++b) {
        const i64 row = static_cast<i64>(b) * channels + c;
        const double own = gain ? gain[row] : 1.0;
        const double add = mean_gradient ? static_cast<double>(mean_gradient[row]) / voxels : 0.0;
        plain += own * sums[5 * row + 1] + add * sums[5 * row + 3];
        along += own * sums[5 * row + 2] + add * sums[5 * row + 4];
    }
    along *= inv_std[c];
    dgamma[c] = static_cast<float>(along);
    dbeta[c] = static_cast<float>(plain);
    const double own_p = count > 0.0 ? -static_cast<double>(scale[c]) * inv_std[c] * along / count : 0.0;
    const double own_q = count > 0.0 ? -static_cast<double>(scale[c]) * plain / count - own_p * mean[c] : 0.0;
    p[c] = static_cast<float>(own_p);
    q[c] = static_cast<float>(own_q);
}

// dx, possibly over u or x.
template <class T>
__device__ void norm_back(const T* u, const T* x, const float* scale, const float* shift, const float* p, const float* q, const float* gain, const float* mean_gradient, T* dx, int channels, i64 voxels, int active, int blocks) {
    const Place place(blocks);
    const int c = place.row % channels;
    const float own_scale = scale[c], own_shift = shift[c], own_p = p[c], own_q = q[c];
    const float own_gain = gain ? gain[place.row] : 1.0f;
    const float add = mean_gradient ? mean_gradient[place.row] / voxels : 0.0f;
    const i64 first = place.row * voxels;
    each(fours(voxels, u, x, dx), voxels, place.thread(), place.threads(), [&](i64 i, int count) {
        float g[4], v[4];
        load(u + first + i, count, g);
        load(x + first + i, count, v);
        for (int k = 0; k < count; ++k) {
            const float s = active ? silu_slope(own_scale * v[k] + own_shift) : 1.0f;
            g[k] = own_scale * s * (own_gain * g[k] + add) + own_p * v[k] + own_q;
        }
        store(dx + first + i, count, g);
    });
}

#define DEFINE(T, suffix)                                                                          \
    extern "C" __global__ void moments_##suffix(                                                   \
        const T* x, double* partial, int samples, int channels, i64 voxels, int blocks) {          \
        moments<T>(x, partial, samples, channels, voxels, blocks);                                 \
    }                                                                                              \
    extern "C" __global__ void norm_of_moments_##suffix(                                           \
        const T* x, const double* partial, float* mean, float* var, const float* gamma,            \
        const float* beta, float* own_mean, float* inv_std, float* scale, float* shift,            \
        int channels, float eps, int samples, i64 voxels, int blocks) {                            \
        const Norm norm{gamma, beta, own_mean, inv_std, scale, shift, eps};                        \
        norm_of_moments<T>(x, partial, mean, var, norm, channels, samples, voxels, blocks);        \
    }                                                                                              \
    extern "C" __global__ void normalise_##suffix(                                                 \
        const T* x, const float* scale, const float* shift, const float* gate, const T* residual,  \
        T* y, int channels, i64 voxels, int active, int blocks) {                                  \
        normalise<T>(x, scale, shift, gate, residual, y, channels, voxels, active, blocks);        \
    }                                                                                              \
    extern "C" __global__ void row_sums_##suffix(                                                  \
        const T* x, const float* scale, const float* shift, double* partial, int channels,         \
        i64 voxels, int active, int blocks) {                                                      \
        row_sums<T>(x, scale, shift, partial, channels, voxels, active, blocks);                   \
    }                                                                                              \
    extern "C" __global__ void slope_sums_##suffix(                                                \
        const T* u, const T* x, const float* scale, const float* shift, const float* mean,         \
        double* partial, int channels, i64 voxels, int active, int blocks) {                       \
        slope_sums<T>(u, x, scale, shift, mean, partial, channels, voxels, active, blocks);        \
    }                                                                                              \
    extern "C" __global__ void norm_back_##suffix(                                                 \
        const T* u, const T* x, const float* scale, const float* shift, const float* p,            \
        const float* q, const float* gain, const float* mean_gradient, T* dx, int channels,        \
        i64 voxels, int active, int blocks) {                                                      \
        norm_back<T>(u, x, scale, shift, p, q, gain, mean_gradient, dx, channels, voxels, active,  \
                     blocks);                                                                      \
    }
DEFINE(float, f32)
DEFINE(bf16, bf16)
