// Depthwise 3-D convolution of bf16 on tensor cores: cubic kernels of 3 or 5 voxels, a step of 1,
// as many zeros on either side.
//
// Along a row such a convolution is a product with a band matrix: 8 neighbouring outputs (a
// window) are made of the 8 inputs above them and up to 2 on either side, 12 numbers, by a
// matrix of 16 x 8 whose columns are the taps, moved down by one each. 16 windows under one
// another are a matrix of 16 x 16, so that one product of a warp, mma.m16n8k16, does all taps of
// a row for 128 outputs, and K^2 of these do the whole kernel: 25 for K = 5, where the units of
// single numbers need 500 instructions of a warp. A third to a half of the numbers multiplied are
// zeros, which costs nothing that is short.
//
// A lane reads 2 neighbours of a row, 4 bytes, and a warp 16 windows of its strips, which is 128
// bytes at once where rows are of 64 voxels; what windows need of their neighbours comes from the
// lanes beside. No shared memory, no barrier. A strip is TALL rows of outputs, walked along the
// depth: rows of an input plane are read once (and normed and activated once), and go into the
// sums of the K output planes and up to K rows they belong to, K x TALL x 4 registers of them.
// As soon as a row has been used, the same row of the next plane is asked for.
//
// Bound by memory: at batch 8 and 128 x 80 x 64 voxels, 128 outputs of K = 3 are 512 bytes, some
// 40 cycles of a multiprocessor's share, and take 14 cycles of its tensor cores and 12 to issue
// (46 instructions of a warp, 4 at a time); K = 5 takes 40 of tensor cores and 21 to issue. Taps are rounded to bf16, sums are of f32. An input that is not
// finite makes its whole window so.
#include "common.cuh"

constexpr int WINDOW = 8, SLOTS = 16, TALL = 4;     // outputs of a window, windows of a warp, rows of a strip
constexpr int WARPS = 4;                // of a block
constexpr unsigned ALL_LANES = 0xffffffffu;

// Alike for all kernels of this file. Input and output are of the same size.
struct Sizes {
    int samples, channels, depth, height, width;
    int across, planes;                 // windows of a row in a warp; output planes of a walk
    i64 x_sample, x_channel, y_sample;  // elements from one to the next

    __device__ int plane() const { return height * width; }
    __device__ int tiles() const { return (width + WINDOW * across - 1) / (WINDOW * across); }
    __device__ int chunks() const { return (depth + planes - 1) / planes; }
    __device__ int down() const { return (height + TALL - 1) / TALL; }
    __device__ int groups() const { return (samples * down() * across + SLOTS - 1) / SLOTS; }
    // Walks of a warp through a channel.
    __device__ int walks() const { return tiles() * chunks() * groups(); }
};

// What one walk of a warp covers: the strips of a group, side by side along a tile of the width.
// A lane has a pair of voxels in two strips.
struct Place {
    int begin, end;                     // output planes
    int column;
    int sample[2], row[2];              // the sample is -1 where there is no such strip

    __device__ __forceinline__ Place(const Sizes& s, int walk) {
        const int slot = threadIdx.x % 32 / 4, groups = s.groups(), tiles = s.tiles(), down = s.down();
        const int group = walk % groups, tile = walk / groups % tiles;
        begin = walk / (groups * tiles) * s.planes;
        end = min(begin + s.planes, s.depth);
        column = (tile * s.across + slot % s.across) * WINDOW + threadIdx.x % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int strip = (group * SLOTS + half * (SLOTS / 2) + slot) / s.across;
            sample[half] = strip < s.samples * down ? strip / down : -1;
            row[half] = strip % down * TALL;
        }
    }
};

// The element of a lane's pair in row `row` of its strip, in the first plane of the channel.
__device__ __forceinline__ i64 element(const Sizes& s, const Place& at, int half, i64 sample, int row) {
    return max(at.sample[half], 0) * sample + (at.row[half] + row) * s.width + at.column;
}

// The input rows that strips of TALL rows of outputs need, as matrices of 16 windows x 16 voxels.
// FAR where rows are of several tiles, whose windows at the edge need another warp's voxels.
template <int K, bool NORMED, bool FAR> struct Inputs {
    static constexpr int EDGE = K / 2, ROWS = TALL + 2 * EDGE;
    const Sizes& s;
    const bf16* from[2];                // a lane's pair in the first row and plane
    const bf16* ahead[2];               // and in the first row of the plane that is asked for
    unsigned inside[2];                 // which rows are, a bit each
    float scale, shift;
    int lane;                           // whose pair stands beside this lane's window
    bool near, far;                     // whether one does, and whether it is another warp's
    unsigned held[ROWS][2];

    __device__ __forceinline__ Inputs(const Sizes& s, const Place& at, const bf16* x, float scale, float shift)
        : s(s), scale(scale), shift(shift) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const bool there = at.sample[half] >= 0 && at.column < s.width;
            from[half] = x + element(s, at, half, s.x_sample, -EDGE);
            inside[half] = 0;
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const int row = at.row[half] - EDGE + r;
                inside[half] |= (there && row >= 0 && row < s.height) << r;
            }
        }
        // The first lane of a window has the pair before it, the second that behind it.
        const int pair = threadIdx.x % 4, window = threadIdx.x % 32 / 4 % s.across;
        lane = (threadIdx.x % 32 + (pair == 0 ? 31 : 3)) % 32;
        near = pair == 0 ? window > 0 : pair == 1 && window + 1 < s.across;
        const int column = at.column + beside();
        far = pair < 2 && !near && column >= 0 && column < s.width;
    }
    __device__ static int beside() { return threadIdx.x % 4 == 0 ? -2 : WINDOW - 2; }

    // Whether row `r` is one; it is also one of the outputs' `r - EDGE`.
    __device__ __forceinline__ bool has(int r, int half) const { return inside[half] >> r & 1u; }

    // Asks for the rows of plane `d`, the first that is.
    __device__ __forceinline__ void begin(int d) {
#pragma unroll
        for (int half = 0; half < 2; ++half) ahead[half] = from[half] + d * s.plane();
#pragma unroll
        for (int r = 0; r < ROWS; ++r) fetch(d, r);
    }
    // Of the plane behind the one that was asked for before.
    __device__ __forceinline__ void advance() {
#pragma unroll
        for (int half = 0; half < 2; ++half) ahead[half] += s.plane();
    }
    // Asks for row `r` of plane `d`, which is the one ahead.
    __device__ __forceinline__ void fetch(int d, int r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            held[r][half] = has(r, half) && d < s.depth ? pair_at(ahead[half] + r * s.width) : 0u;
        }
    }
    __device__ __forceinline__ static unsigned pair_at(const bf16* at) {
        return *reinterpret_cast<const unsigned*>(at);
    }
    __device__ __forceinline__ unsigned active(unsigned pair, bool there) const {
        if (!NORMED) return pair;
        const float2 v = unpack(pair);
        return there ? pack(silu(scale * v.x + shift), silu(scale * v.y + shift)) : 0u;
    }
    // The matrix of row `r` of plane `d`, which has been asked for.
    __device__ __forceinline__ void take(int d, int r, unsigned (&a)[4]) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            a[half] = active(held[r][half], has(r, half));
            const unsigned other = __shfl_sync(ALL_LANES, a[half], lane);
            a[2 + half] = near ? other : 0u;
            if (FAR && far && has(r, half)) {
                a[2 + half] = active(pair_at(from[half] + d * s.plane() + r * s.width + beside()), true);
            }
        }
    }
};

// The place along the row, from a window's first output, of column `i` of the matrices above.
__device__ __forceinline__ int place_of(int i) { return i < 8 ? i : i < 10 ? i - 10 : i - 2; }

// The column of the voxel at a place, and the row of its transpose.
__device__ __forceinline__ int row_of(int place) { return place < 0 ? place + 10 : place < 8 ? place : place + 2; }

// The taps of each row of the kernel as a matrix of 16 inputs x 8 outputs; `flip` for the turned
// kernel.
template <int K> __device__ __forceinline__ void band(const float* taps, int flip, unsigned (&w)[K][K][2]) {
    constexpr int ALL = K * K * K;
    const int pair = threadIdx.x % 4, output = threadIdx.x % 32 / 4;
#pragma unroll
    for (int row = 0; row < K * K; ++row) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float v[2];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int input = half * 8 + pair * 2 + i, tap = place_of(input) - output + K / 2;
                const bool some = input < 12 && tap >= 0 && tap < K;
                const int at = row * K + tap;
                v[i] = some ? taps[flip ? ALL - 1 - at : at] : 0.0f;
            }
            w[row / K][row % K][half] = pack(v[0], v[1]);
        }
    }
}

template <int K, bool NORMED, bool FAR>
__device__ __forceinline__ void forward(
    const bf16* x, const float* weight, const float* bias, const float* scale, const float* shift,
    const bf16* behind, const float* behind_scale, const float* behind_shift, bf16* y, const Sizes& s, int flip) {
    const int walks = s.walks(), warp = blockIdx.x * WARPS + threadIdx.x / 32;
    if (warp >= walks * s.channels) return;
    const int c = warp / walks;
    const Place at(s, warp % walks);
    Inputs<K, NORMED, FAR> inputs(s, at, x + c * s.x_channel, NORMED ? scale[c] : 1.0f, NORMED ? shift[c] : 0.0f);
    const i64 channel = static_cast<i64>(c) * s.depth * s.plane();
    const i64 to[2] = {channel + element(s, at, 0, s.y_sample, 0), channel + element(s, at, 1, s.y_sample, 0)};
    const float own_bias = bias ? bias[c] : 0.0f;
    const float slope_scale = behind ? behind_scale[c] : 0.0f, slope_shift = behind ? behind_shift[c] : 0.0f;
    unsigned w[K][K][2];
    band<K>(weight + c * (K * K * K), flip, w);

    constexpr int EDGE = K / 2, ROWS = TALL + 2 * EDGE;
    float sum[K][TALL][4] = {};         // of output planes j, j - 1 ...
    inputs.begin(max(at.begin - EDGE, 0));
    for (int j = at.begin; j < at.end + K - 1; ++j) {
        const int d = j - EDGE;
        if (d >= 0 && d < s.depth) {
            inputs.advance();
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                unsigned a[4];
                inputs.take(d, r, a);
                inputs.fetch(d + 1, r);
#pragma unroll
                for (int o = 0; o < TALL; ++o) {
                    if (r < o || r - o >= K) continue;
#pragma unroll
                    for (int kd = 0; kd < K; ++kd) multiply_add(sum[kd][o], a, w[kd][r - o]);
                }
            }
        }
        const int out = j - (K - 1);
        // All of them before the first is used, so that they are waited for once.
        unsigned slopes[TALL][2] = {};
        if (behind && out >= at.begin) {
#pragma unroll
            for (int o = 0; o < TALL; ++o) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    if (!inputs.has(o + EDGE, half)) continue;
                    slopes[o][half] = inputs.pair_at(behind + to[half] + out * s.plane() + o * s.width);
                }
            }
        }
#pragma unroll
        for (int o = 0; o < TALL; ++o) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if (out < at.begin || !inputs.has(o + EDGE, half)) continue;
                float v[2] = {sum[K - 1][o][2 * half] + own_bias, sum[K - 1][o][2 * half + 1] + own_bias};
                const i64 place = to[half] + out * s.plane() + o * s.width;
                if (behind) {
                    const float2 z = unpack(slopes[o][half]);
                    v[0] *= silu_slope(slope_scale * z.x + slope_shift);
                    v[1] *= silu_slope(slope_scale * z.y + slope_shift);
                }
                *reinterpret_cast<unsigned*>(y + place) = pack(v[0], v[1]);
            }
        }
        shift_planes(sum);
    }
}

// The gradient of the kernel: the sum over windows of inputs times gradients is a product too, of
// 16 inputs x 16 windows and 16 windows x 8 outputs, whose diagonals are the taps. Both matrices
// are the transposes of what lanes hold; K^2 sums of 16 x 8 stay in registers. A block takes every
// `blocks`th of the channel's walks, and leaves one sum a tap; `parts` is its shared memory.
template <int K, bool NORMED, bool FAR>
__device__ __forceinline__ void weight_gradient(
    const bf16* x, const bf16* dy, const float* scale, const float* shift, float* partial, const Sizes& s, int blocks,
    float4 (&parts)[K * K][32]) {
    constexpr int EDGE = K / 2, TAPS = K * K * K;
    const int c = blockIdx.x / blocks, warp = threadIdx.x / 32, walks = s.walks();
    const i64 channel = static_cast<i64>(c) * s.depth * s.plane();
    const float own_scale = NORMED ? scale[c] : 1.0f, own_shift = NORMED ? shift[c] : 0.0f;

    float sum[K][K][4] = {};
    for (int walk = blockIdx.x % blocks * WARPS + warp; walk < walks; walk += blocks * WARPS) {
        const Place at(s, walk);
        Inputs<K, NORMED, FAR> inputs(s, at, x + c * s.x_channel, own_scale, own_shift);
        const bf16* slope[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) slope[half] = dy + channel + element(s, at, half, s.y_sample, 0);
        const auto read = [&](int d, int o, int half) {
            const bool there = d < at.end && inputs.has(o + EDGE, half);
            return there ? *reinterpret_cast<const unsigned*>(slope[half] + d * s.plane() + o * s.width) : 0u;
        };
        constexpr int ROWS = TALL + 2 * EDGE;
        unsigned g[K][TALL][2] = {}, next[TALL][2];     // of output planes j, j - 1 ...
        inputs.begin(max(at.begin - EDGE, 0));
#pragma unroll
        for (int i = 0; i < TALL * 2; ++i) next[i / 2][i % 2] = read(at.begin, i / 2, i % 2);
        for (int j = at.begin; j < at.end + K - 1; ++j) {
            shift_planes(g);
#pragma unroll
            for (int o = 0; o < TALL; ++o) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    g[0][o][half] = transpose(next[o][half]);
                    next[o][half] = read(j + 1, o, half);
                }
            }
            const int d = j - EDGE;
            if (d < 0 || d >= s.depth) continue;
            inputs.advance();
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                unsigned a[4];
                inputs.take(d, r, a);
                inputs.fetch(d + 1, r);
                const unsigned t[4] = {transpose(a[0]), transpose(a[2]), transpose(a[1]), transpose(a[3])};
#pragma unroll
                for (int o = 0; o < TALL; ++o) {
                    if (r < o || r - o >= K) continue;
#pragma unroll
                    for (int kd = 0; kd < K; ++kd) multiply_add(sum[kd][r - o], t, g[kd][o]);
                }
            }
        }
    }

    // The block's sum of each matrix, a warp after the other; then a thread a tap, along its diagonal. Sums of
    // each tap over a warp would be five times the instructions.
    const int lane = threadIdx.x % 32;
    for (int turn = 0; turn < WARPS; ++turn) {
        if (turn == warp) {
#pragma unroll
            for (int row = 0; row < K * K; ++row) {
                const float (&own)[4] = sum[row / K][row % K];
                float4& all = parts[row][lane];
                const float4 before = turn ? all : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                all = make_float4(before.x + own[0], before.y + own[1], before.z + own[2], before.w + own[3]);
            }
        }
        __syncthreads();
    }
    for (int tap = threadIdx.x; tap < TAPS; tap += blockDim.x) {
        const float* matrix = reinterpret_cast<const float*>(parts[tap / K]);
        float total = 0.0f;
        for (int output = 0; output < WINDOW; ++output) {
            const int input = row_of(output + tap % K - EDGE);
            total += matrix[(input % 8 * 4 + output / 2) * 4 + input / 8 * 2 + output % 2];
        }
        partial[static_cast<i64>(blockIdx.x) * TAPS + tap] = total;
    }
}

#define DEFINE(K, BLOCKS, WEIGHT_BLOCKS, NORMED, how)                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) depthwise_tensor_forward##how##_k##K( \
        const bf16* x, const float* weight, const float* bias, const float* scale,                 \
        const float* shift, const bf16* behind, const float* behind_scale,                         \
        const float* behind_shift, bf16* y, int samples, int channels, int depth, int height,      \
        int width, int across, int planes, i64 x_sample, i64 x_channel, i64 y_sample, int flip) {  \
        const Sizes s{samples, channels, depth, height, width, across, planes, x_sample,           \
                      x_channel, y_sample};                                                        \
        if (s.tiles() > 1) {                                                                       \
            forward<K, NORMED, true>(x, weight, bias, scale, shift, behind, behind_scale, behind_shift, y, s, flip); \
        } else {                                                                                   \
            forward<K, NORMED, false>(x, weight, bias, scale, shift, behind, behind_scale, behind_shift, y, s, flip); \
        }                                                                                          \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, WEIGHT_BLOCKS) depthwise_tensor_weights##how##_k##K( \
        const bf16* x, const bf16* dy, const float* scale, const float* shift, float* partial,     \
        int samples, int channels, int depth, int height, int width, int across, int planes,       \
        i64 x_sample, i64 x_channel, i64 y_sample, int blocks) {                                   \
        const Sizes s{samples, channels, depth, height, width, across, planes, x_sample,           \
                      x_channel, y_sample};                                                        \
        __shared__ float4 parts[K * K][32];                                                        \
        if (s.tiles() > 1) {                                                                       \
            weight_gradient<K, NORMED, true>(x, dy, scale, shift, partial, s, blocks, parts);      \
        } else {                                                                                   \
            weight_gradient<K, NORMED, false>(x, dy, scale, shift, partial, s, blocks, parts);     \
        }                                                                                          \
    }
// Blocks a multiprocessor: the most for which the registers hold all sums.
DEFINE(3, 3, 4, false, )
DEFINE(3, 3, 4, true, _normed)
DEFINE(5, 2, 2, false, )
DEFINE(5, 2, 2, true, _normed)
