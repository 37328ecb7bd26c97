// Depthwise 3-D convolution with cubic kernels of 3 or 5 voxels and steps of 1 or 2.
//
// A block owns a tile of the output plane, 4 neighbouring outputs along the width a thread, and
// walks along the depth. Each input plane of the tile (with its border) is read once into shared
// memory, after the norm and activation of the layer before where there is one, so that the
// exponential is taken once a voxel and not once a tap. From there it goes into the running sums
// of all output planes it belongs to: ceil(K / S) of them, in registers.
//
// Shared memory is read 16 bytes a thread at neighbouring addresses, without bank conflicts for
// step 1 and two-way for step 2. An output of K = 5 costs 125 multiply-adds and 23 such reads
// (4 outputs share them): bound by arithmetic; K = 3 (27 and 8) by memory. Two planes take turns,
// which saves a barrier a plane: 10.5 KiB at 256 threads, K = 5, S = 1, and 35 KiB at S = 2. About
// 64 registers a thread let 4 blocks of 256 share a multiprocessor, half its warps; what hides
// the latency of global memory is the next plane's read, which needs no result of this one.
#include "common.cuh"

// Sizes and places, alike for all kernels of this file.
struct Shape {
    int depth, height, width;           // input
    int out_depth, out_height, out_width;
    int before_d, before_h, before_w;   // zeros before the first voxel
};

// How threads lie over outputs: `across` times 4 along the width, `down` along the height, and
// `side` tiles of other channels (or samples) at once where a plane is small.
struct Lanes {
    int x, y, z;
    int across, down;
    __device__ Lanes(int across, int down) : across(across), down(down) {
        x = threadIdx.x % across;
        y = threadIdx.x / across % down;
        z = threadIdx.x / (across * down);
    }
};

template <int K, int S> struct Tile {
    static constexpr int READS = ((3 * S + K) + 3) / 4;    // groups of four that 4 outputs need
    static __host__ __device__ int pitch(int across) { return (across - 1) * 4 * S + 4 * READS; }
    static __host__ __device__ int rows(int down) { return (down - 1) * S + K; }
};

// Reads the tile's part of input plane `d`, zeros outside the volume.
template <class T, int K, int S>
__device__ __forceinline__ void read_plane(
    float* plane, const T* x, bool there, int d, int first_h, int first_w, const Shape& s,
    const Lanes& lane, bool normed, float scale, float shift) {
    const int rows = Tile<K, S>::rows(lane.down), pitch = Tile<K, S>::pitch(lane.across);
    for (int r = lane.y; r < rows; r += lane.down) {
        const int h = first_h + r;
        const bool inside = there && h >= 0 && h < s.height;
        const T* row = x + (static_cast<i64>(d) * s.height + h) * s.width;
        for (int c = lane.x; c < pitch; c += lane.across) {
            const int w = first_w + c;
            float v = 0.0f;
            if (inside && w >= 0 && w < s.width) {
                v = widen(row[w]);
                if (normed) v = silu(scale * v + shift);
            }
            plane[r * pitch + c] = v;
        }
    }
}

template <class T, int K, int S>
__device__ __forceinline__ void forward(
    const T* x, const float* weight, const float* bias, const float* scale, const float* shift,
    const T* behind, const float* behind_scale, const float* behind_shift, T* y, Shape s,
    int samples, int channels, i64 x_sample, i64 x_channel, i64 y_sample, int flip, int across,
    int down, int side, int planes) {
    constexpr int A = (K + S - 1) / S, READS = Tile<K, S>::READS, ROW = (K + 3) / 4 * 4;
    DYNAMIC_SHARED(float, shared);
    const Lanes lane(across, down);
    const int tiles_w = (s.out_width + across * 4 - 1) / (across * 4);
    const int tiles_h = (s.out_height + down - 1) / down;
    const int chunks = (s.out_depth + planes - 1) / planes;
    int block = blockIdx.x;
    const int tile_w = block % tiles_w;
    block /= tiles_w;
    const int tile_h = block % tiles_h;
    block /= tiles_h;
    const int chunk = block % chunks;
    const int which = block / chunks * side + lane.z;      // sample and channel
    const bool there = which < samples * channels;
    const int b = there ? which / channels : 0, c = there ? which % channels : 0;

    // The kernel's rows, padded to whole groups of four, then two planes, for each side.
    constexpr int TAPS = K * K * ROW;
    const int area = Tile<K, S>::rows(down) * Tile<K, S>::pitch(across);
    const int pitch = Tile<K, S>::pitch(across);
    float* taps = shared + lane.z * (TAPS + 2 * area);
    float* plane = taps + TAPS;
    for (int i = lane.y * across + lane.x; i < TAPS; i += across * down) {
        const int kw = i % ROW, kd_kh = i / ROW;
        const int tap = kd_kh * K + kw;
        taps[i] = kw < K ? weight[c * K * K * K + (flip ? K * K * K - 1 - tap : tap)] : 0.0f;
    }

    const T* from = x + b * x_sample + c * x_channel;
    const int h = tile_h * down + lane.y, w = (tile_w * across + lane.x) * 4;
    const int first_h = tile_h * down * S - s.before_h, first_w = tile_w * across * 4 * S - s.before_w;
    const float norm_scale = scale ? scale[c] : 1.0f, norm_shift = scale ? shift[c] : 0.0f;
    const int begin = chunk * planes, end = min(begin + planes, s.out_depth);

    float sum[A][4] = {};
    int turn = 0;
    for (int j = begin; j < end + A - 1; ++j) {
#pragma unroll
        for (int step = 0; step < S; ++step) {
            const int d = j * S + step - s.before_d;
            if (d < 0 || d >= s.depth) continue;           // alike for the whole block
            float* own = plane + turn * area;
            turn ^= 1;
            read_plane<T, K, S>(own, from, there, d, first_h, first_w, s, lane, scale != nullptr,
                                norm_scale, norm_shift);
            __syncthreads();
#pragma unroll
            for (int kh = 0; kh < K; ++kh) {
                float v[4 * READS];
                const float* row = own + (lane.y * S + kh) * pitch + lane.x * 4 * S;
#pragma unroll
                for (int i = 0; i < READS; ++i) {
                    float four[4];
                    load4(row + 4 * i, four);
                    for (int q = 0; q < 4; ++q) v[4 * i + q] = four[q];
                }
#pragma unroll
                for (int a = 0; a < A; ++a) {
                    const int kd = step + S * a;
                    if (kd >= K) continue;
                    float k[ROW];
#pragma unroll
                    for (int i = 0; i < ROW / 4; ++i) {
                        float four[4];
                        load4(taps + (kd * K + kh) * ROW + 4 * i, four);
                        for (int q = 0; q < 4; ++q) k[4 * i + q] = four[q];
                    }
#pragma unroll
                    for (int kw = 0; kw < K; ++kw) {
#pragma unroll
                        for (int r = 0; r < 4; ++r) sum[a][r] += v[r * S + kw] * k[kw];
                    }
                }
            }
        }
        const int d = j - (A - 1);
        if (d >= begin && there && h < s.out_height && w < s.out_width) {
            const i64 at = (static_cast<i64>(d) * s.out_height + h) * s.out_width + w;
            const i64 voxels = static_cast<i64>(s.out_depth) * s.out_height * s.out_width;
            float out[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) out[r] = sum[A - 1][r] + (bias ? bias[c] : 0.0f);
            const int count = min(4, s.out_width - w);
            if (behind) {
                const T* z = behind + b * y_sample + c * voxels + at;
                for (int r = 0; r < count; ++r) {
                    out[r] *= silu_slope(behind_scale[c] * widen(z[r]) + behind_shift[c]);
                }
            }
            T* to = y + b * y_sample + c * voxels + at;
            if (s.out_width % 4 == 0) {
                store4(to, out);
            } else {
                for (int r = 0; r < count; ++r) to[r] = narrow<T>(out[r]);
            }
        }
#pragma unroll
        for (int a = A - 1; a > 0; --a) {
            for (int r = 0; r < 4; ++r) sum[a][r] = sum[a - 1][r];
        }
        for (int r = 0; r < 4; ++r) sum[0][r] = 0.0f;
    }
}

// The gradient of the input for a step of 2: each thread gathers for one voxel the (K / 2)^3 or so
// outputs that read it; neighbours share them through the first-level cache. (For a step of 1 the
// gradient is `forward` of the output's gradient with the kernel turned about.)
template <class T, int K, int S>
__device__ __forceinline__ void input_gradient(
    const T* dy, const float* weight, const T* behind, const float* behind_scale,
    const float* behind_shift, T* dx, Shape s, int samples, int channels, i64 dy_sample,
    i64 dx_sample) {
    const i64 in = static_cast<i64>(s.depth) * s.height * s.width;
    const i64 out = static_cast<i64>(s.out_depth) * s.out_height * s.out_width;
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= in * samples * channels) return;
    const i64 which = i / in;
    const int place = static_cast<int>(i % in);
    const int b = static_cast<int>(which / channels), c = static_cast<int>(which % channels);
    const int w = place % s.width, h = place / s.width % s.height, d = place / (s.width * s.height);
    const T* from = dy + b * dy_sample + c * out;
    float sum = 0.0f;
    for (int kd = (d + s.before_d) % S; kd < K; kd += S) {
        const int od = (d + s.before_d - kd) / S;
        if (d + s.before_d < kd || od >= s.out_depth) continue;
        for (int kh = (h + s.before_h) % S; kh < K; kh += S) {
            const int oh = (h + s.before_h - kh) / S;
            if (h + s.before_h < kh || oh >= s.out_height) continue;
            for (int kw = (w + s.before_w) % S; kw < K; kw += S) {
                const int ow = (w + s.before_w - kw) / S;
                if (w + s.before_w < kw || ow >= s.out_width) continue;
                const i64 at = (static_cast<i64>(od) * s.out_height + oh) * s.out_width + ow;
                sum += widen(from[at]) * weight[((c * K + kd) * K + kh) * K + kw];
            }
        }
    }
    const i64 at = b * dx_sample + c * in + place;
    if (behind) sum *= silu_slope(behind_scale[c] * widen(behind[at]) + behind_shift[c]);
    dx[at] = narrow<T>(sum);
}

// The gradient of the kernel: the walk of `forward`, with all K^3 sums of a thread in registers
// (about 200 for K = 5: one block of 256 a multiprocessor, which has enough independent sums to
// keep its units busy). A block takes every `blocks`th of the channel's tiles, samples side by
// side where planes are small, and leaves one sum a tap.
template <class T, int K, int S>
__device__ __forceinline__ void weight_gradient(
    const T* x, const T* dy, const float* scale, const float* shift, float* partial, Shape s,
    int samples, int channels, i64 x_sample, i64 x_channel, i64 dy_sample, int across, int down,
    int side, int planes, int blocks) {
    constexpr int A = (K + S - 1) / S, READS = Tile<K, S>::READS, TAPS = K * K * K;
    DYNAMIC_SHARED(float, shared);
    const Lanes lane(across, down);
    const int tiles_w = (s.out_width + across * 4 - 1) / (across * 4);
    const int tiles_h = (s.out_height + down - 1) / down;
    const int chunks = (s.out_depth + planes - 1) / planes;
    const int items = samples * chunks * tiles_h * tiles_w;
    const int c = blockIdx.x / blocks, own_block = blockIdx.x % blocks;
    const i64 out_voxels = static_cast<i64>(s.out_depth) * s.out_height * s.out_width;
    const int area = Tile<K, S>::rows(down) * Tile<K, S>::pitch(across);
    const int pitch = Tile<K, S>::pitch(across);
    float* plane = shared + lane.z * 2 * area;
    const float norm_scale = scale ? scale[c] : 1.0f, norm_shift = scale ? shift[c] : 0.0f;

    float sum[TAPS] = {};
    int turn = 0;
    // As many rounds for every side, so that all meet at the barriers.
    const int rounds = (items + blocks * side - 1) / (blocks * side);
    for (int round = 0; round < rounds; ++round) {
        // The sides of a block are the same tile of neighbouring samples.
        const int item = (round * blocks + own_block) * side + lane.z;
        const bool there = item < items;
        int rest = there ? item : 0;
        const int b = rest % samples;
        rest /= samples;
        const int tile_w = rest % tiles_w;
        rest /= tiles_w;
        const int tile_h = rest % tiles_h;
        const int begin = rest / tiles_h * planes, end = min(begin + planes, s.out_depth);
        const T* from = x + b * x_sample + c * x_channel;
        const T* slope = dy + b * dy_sample + c * out_voxels;
        const int h = tile_h * down + lane.y, w = (tile_w * across + lane.x) * 4;
        const int first_h = tile_h * down * S - s.before_h;
        const int first_w = tile_w * across * 4 * S - s.before_w;
        float g[A][4] = {};
        for (int j = 0; j < planes + A - 1; ++j) {
#pragma unroll
            for (int a = A - 1; a > 0; --a) {
                for (int r = 0; r < 4; ++r) g[a][r] = g[a - 1][r];
            }
            const int od = begin + j;
            for (int r = 0; r < 4; ++r) {
                const bool inside =
                    there && od < end && h < s.out_height && w + r < s.out_width;
                const i64 at = (static_cast<i64>(od) * s.out_height + h) * s.out_width + w + r;
                g[0][r] = inside ? widen(slope[at]) : 0.0f;
            }
#pragma unroll
            for (int step = 0; step < S; ++step) {
                const int d = od * S + step - s.before_d;
                float* own = plane + turn * area;
                turn ^= 1;
                const bool some = there && d >= 0 && d < s.depth;
                read_plane<T, K, S>(own, from, some, d, first_h, first_w, s, lane,
                                    scale != nullptr, norm_scale, norm_shift);
                __syncthreads();
#pragma unroll
                for (int kh = 0; kh < K; ++kh) {
                    float v[4 * READS];
                    const float* row = own + (lane.y * S + kh) * pitch + lane.x * 4 * S;
#pragma unroll
                    for (int i = 0; i < READS; ++i) {
                        float four[4];
                        load4(row + 4 * i, four);
                        for (int q = 0; q < 4; ++q) v[4 * i + q] = four[q];
                    }
#pragma unroll
                    for (int a = 0; a < A; ++a) {
                        const int kd = step + S * a;
                        if (kd >= K) continue;
#pragma unroll
                        for (int kw = 0; kw < K; ++kw) {
#pragma unroll
                            for (int r = 0; r < 4; ++r) {
                                sum[(kd * K + kh) * K + kw] += v[r * S + kw] * g[a][r];
                            }
                        }
                    }
                }
            }
        }
    }

    __shared__ float parts[TAPS][8];
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int tap = 0; tap < TAPS; ++tap) {
        const float total = warp_sum(sum[tap]);
        if (threadIdx.x % 32 == 0) parts[tap][warp] = total;
    }
    __syncthreads();
    for (int tap = threadIdx.x; tap < TAPS; tap += blockDim.x) {
        float total = 0.0f;
        for (int i = 0; i < blockDim.x / 32; ++i) total += parts[tap][i];
        partial[static_cast<i64>(blockIdx.x) * TAPS + tap] = total;
    }
}

// Adds the blocks' sums up: one thread a channel and tap.
extern "C" __global__ void depthwise_weight_sums(
    const float* partial, float* dw, int channels, int taps, int blocks) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= channels * taps) return;
    const int c = i / taps, tap = i % taps;
    double sum = 0.0;
    for (int p = 0; p < blocks; ++p) sum += partial[(static_cast<i64>(c) * blocks + p) * taps + tap];
    dw[i] = static_cast<float>(sum);
}

#define DEFINE(K, S, T, suffix)                                                                    \
    extern "C" __global__ void __launch_bounds__(256) depthwise_forward_k##K##s##S##_##suffix(     \
        const T* x, const float* weight, const float* bias, const float* scale,                    \
        const float* shift, const T* behind, const float* behind_scale,                            \
        const float* behind_shift, T* y, int depth, int height, int width, int out_depth,          \
        int out_height, int out_width, int before_d, int before_h, int before_w, int samples,      \
        int channels, i64 x_sample, i64 x_channel, i64 y_sample, int flip, int across, int down,   \
        int side, int planes) {                                                                    \
        const Shape s{depth, height, width, out_depth, out_height, out_width, before_d, before_h,  \
                      before_w};                                                                   \
        forward<T, K, S>(x, weight, bias, scale, shift, behind, behind_scale, behind_shift, y, s,  \
                         samples, channels, x_sample, x_channel, y_sample, flip, across, down,     \
                         side, planes);                                                            \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) depthwise_input_gradient_k##K##s##S##_##suffix( \
        const T* dy, const float* weight, const T* behind, const float* behind_scale,              \
        const float* behind_shift, T* dx, int depth, int height, int width, int out_depth,         \
        int out_height, int out_width, int before_d, int before_h, int before_w, int samples,      \
        int channels, i64 dy_sample, i64 dx_sample) {                                              \
        const Shape s{depth, height, width, out_depth, out_height, out_width, before_d, before_h,  \
                      before_w};                                                                   \
        input_gradient<T, K, S>(dy, weight, behind, behind_scale, behind_shift, dx, s, samples,    \
                                channels, dy_sample, dx_sample);                                   \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) depthwise_weight_gradient_k##K##s##S##_##suffix( \
        const T* x, const T* dy, const float* scale, const float* shift, float* partial,           \
        int depth, int height, int width, int out_depth, int out_height, int out_width,            \
        int before_d, int before_h, int before_w, int samples, int channels, i64 x_sample,         \
        i64 x_channel, i64 dy_sample, int across, int down, int side, int planes, int blocks) {    \
        const Shape s{depth, height, width, out_depth, out_height, out_width, before_d, before_h,  \
                      before_w};                                                                   \
        weight_gradient<T, K, S>(x, dy, scale, shift, partial, s, samples, channels, x_sample,     \
                                 x_channel, dy_sample, across, down, side, planes, blocks);        \
    }
#define DEFINE_BOTH(K, S) DEFINE(K, S, float, f32) DEFINE(K, S, bf16, bf16)
DEFINE_BOTH(3, 1)
DEFINE_BOTH(3, 2)
DEFINE_BOTH(5, 1)
DEFINE_BOTH(5, 2)
