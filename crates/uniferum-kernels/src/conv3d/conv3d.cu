// Dense and grouped 3-D convolution of any kernel, step and padding: a thread an output.
//
// The network's own convolutions do not come here: those of one voxel are matrix products, and
// the stem (one input channel) and the depthwise ones have `depthwise.cu`. These kernels make the
// operation whole; neighbouring threads read neighbouring voxels, and what they share comes from
// the first-level cache.
#include "common.cuh"

struct Shape {
    int samples, in_channels, out_channels, groups;
    int in[3], out[3], kernel[3], stride[3], before[3];
    __device__ i64 voxels(const int (&n)[3]) const { return static_cast<i64>(n[0]) * n[1] * n[2]; }
    __device__ int taps() const { return kernel[0] * kernel[1] * kernel[2]; }
    __device__ int group_in() const { return in_channels / groups; }
    __device__ int group_out() const { return out_channels / groups; }
};

// The place along an axis in three, from an index that counts all voxels.
__device__ __forceinline__ void split(i64 index, const int (&n)[3], int (&place)[3]) {
    place[2] = static_cast<int>(index % n[2]);
    index /= n[2];
    place[1] = static_cast<int>(index % n[1]);
    place[0] = static_cast<int>(index / n[1]);
}

template <class T> __device__ void forward(const T* x, const float* weight, const float* bias, T* y, const Shape& s) {
    const i64 out = s.voxels(s.out), in = s.voxels(s.in);
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= out * s.samples * s.out_channels) return;
    int at[3];
    split(i % out, s.out, at);
    const int c = static_cast<int>(i / out % s.out_channels);
    const i64 b = i / out / s.out_channels;
    const int first = c / s.group_out() * s.group_in();
    float sum = bias ? bias[c] : 0.0f;
    for (int ci = 0; ci < s.group_in(); ++ci) {
        const T* from = x + (b * s.in_channels + first + ci) * in;
        const float* w = weight + (static_cast<i64>(c) * s.group_in() + ci) * s.taps();
        for (int kd = 0; kd < s.kernel[0]; ++kd) {
            const int d = at[0] * s.stride[0] + kd - s.before[0];
            if (d < 0 || d >= s.in[0]) continue;
            for (int kh = 0; kh < s.kernel[1]; ++kh) {
                const int h = at[1] * s.stride[1] + kh - s.before[1];
                if (h < 0 || h >= s.in[1]) continue;
                for (int kw = 0; kw < s.kernel[2]; ++kw) {
                    const int v = at[2] * s.stride[2] + kw - s.before[2];
                    if (v < 0 || v >= s.in[2]) continue;
                    const float tap = w[(kd * s.kernel[1] + kh) * s.kernel[2] + kw];
                    sum += tap * widen(from[(static_cast<i64>(d) * s.in[1] + h) * s.in[2] + v]);
                }
            }
        }
    }
    y[i] = narrow<T>(sum);
}

// The output along `axis` that reads input `place` with kernel tap `tap`, or -1.
__device__ __forceinline__ int reader(const Shape& s, int axis, int place, int tap) {
    const int from = place + s.before[axis] - tap;
    if (from < 0 || from % s.stride[axis] != 0) return -1;
    const int out = from / s.stride[axis];
    return out < s.out[axis] ? out : -1;
}

template <class T> __device__ void input_gradient(const T* dy, const float* weight, T* dx, const Shape& s) {
    const i64 out = s.voxels(s.out), in = s.voxels(s.in);
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= in * s.samples * s.in_channels) return;
    int at[3];
    split(i % in, s.in, at);
    const int ci = static_cast<int>(i / in % s.in_channels);
    const i64 b = i / in / s.in_channels;
    const int group = ci / s.group_in(), own = ci % s.group_in();
    float sum = 0.0f;
    for (int kd = 0; kd < s.kernel[0]; ++kd) {
        const int d = reader(s, 0, at[0], kd);
        if (d < 0) continue;
        for (int kh = 0; kh < s.kernel[1]; ++kh) {
            const int h = reader(s, 1, at[1], kh);
            if (h < 0) continue;
            for (int kw = 0; kw < s.kernel[2]; ++kw) {
                const int v = reader(s, 2, at[2], kw);
                if (v < 0) continue;
                const i64 place = (static_cast<i64>(d) * s.out[1] + h) * s.out[2] + v;
                const int tap = (kd * s.kernel[1] + kh) * s.kernel[2] + kw;
                for (int o = 0; o < s.group_out(); ++o) {
                    const int c = group * s.group_out() + o;
                    sum += widen(dy[(b * s.out_channels + c) * out + place]) *
                           weight[(static_cast<i64>(c) * s.group_in() + own) * s.taps() + tap];
                }
            }
        }
    }
    dx[i] = narrow<T>(sum);
}

// A block a weight.
template <class T> __device__ void weight_gradient(const T* x, const T* dy, float* dw, const Shape& s) {
    const i64 out = s.voxels(s.out), in = s.voxels(s.in);
    const int tap = blockIdx.x % s.taps();
    const int ci = blockIdx.x / s.taps() % s.group_in();
    const int c = blockIdx.x / s.taps() / s.group_in();
    const int from = c / s.group_out() * s.group_in() + ci;
    int k[3];
    split(tap, s.kernel, k);
    double sum[1] = {0.0};
    for (i64 i = threadIdx.x; i < out * s.samples; i += blockDim.x) {
        int at[3];
        split(i % out, s.out, at);
        const i64 b = i / out;
        const int d = at[0] * s.stride[0] + k[0] - s.before[0];
        const int h = at[1] * s.stride[1] + k[1] - s.before[1];
        const int v = at[2] * s.stride[2] + k[2] - s.before[2];
        if (d < 0 || d >= s.in[0] || h < 0 || h >= s.in[1] || v < 0 || v >= s.in[2]) continue;
        const i64 place = (static_cast<i64>(d) * s.in[1] + h) * s.in[2] + v;
        sum[0] += widen(x[(b * s.in_channels + from) * in + place]) *
                  widen(dy[(b * s.out_channels + c) * out + i % out]);
    }
    block_sum<1>(sum);
    if (threadIdx.x == 0) dw[blockIdx.x] = static_cast<float>(sum[0]);
}

#define SIZES                                                                                      \
    int samples, int in_channels, int out_channels, int groups, int i0, int i1, int i2, int o0,    \
        int o1, int o2, int k0, int k1, int k2, int s0, int s1, int s2, int b0, int b1, int b2
#define SHAPE                                                                                      \
    const Shape s {                                                                                \
        samples, in_channels, out_channels, groups, {i0, i1, i2}, {o0, o1, o2}, {k0, k1, k2},      \
            {s0, s1, s2}, { b0, b1, b2 }                                                           \
    }
#define DEFINE(T, suffix)                                                                          \
    extern "C" __global__ void conv3d_forward_##suffix(                                            \
        const T* x, const float* weight, const float* bias, T* y, SIZES) {                         \
        SHAPE;                                                                                     \
        forward<T>(x, weight, bias, y, s);                                                         \
    }                                                                                              \
    extern "C" __global__ void conv3d_input_gradient_##suffix(                                     \
        const T* dy, const float* weight, T* dx, SIZES) {                                          \
        SHAPE;                                                                                     \
        input_gradient<T>(dy, weight, dx, s);                                                      \
    }                                                                                              \
    extern "C" __global__ void conv3d_weight_gradient_##suffix(                                    \
        const T* x, const T* dy, float* dw, SIZES) {                                               \
        SHAPE;                                                                                     \
        weight_gradient<T>(x, dy, dw, s);                                                          \
    }
DEFINE(float, f32)
DEFINE(bf16, bf16)
