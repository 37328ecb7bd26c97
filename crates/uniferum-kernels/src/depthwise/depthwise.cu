// Depthwise 3-D convolution with cubic kernels of 3 or 5 voxels and steps of 1 or 2.
//
// A thread owns 4 neighbouring outputs of a few rows and walks along the depth. Of each input
// plane it reads the groups of four that lie above its outputs, 16 bytes of f32 or 8 of bf16 at a
// time, and what its outputs need beside them comes from the neighbouring lanes of the warp: no
// shared memory and no barrier. The norm and activation of the layer before are taken on the way,
// an exponential a voxel and row of threads. A plane goes into the running sums of all output
// planes it belongs to: ceil(K / S) of them, in registers. As soon as a row has been used, the
// same row of the next plane is asked for, so that its way from memory is hidden behind the rows
// between.
//
// An output of K = 3 costs 27 multiply-adds and is bound by memory and instructions alike; one of
// K = 5 costs 125, which is bound by arithmetic: at 33 million million multiply-adds a second it
// cannot move more than 1 TB/s of bf16. About 100 registers a thread let 20 warps share a
// multiprocessor.
#include "common.cuh"

// Sizes and places, alike for all kernels of this file.
struct Shape {
    int depth, height, width;           // input
    int out_depth, out_height, out_width;
    int before_d, before_h, before_w;   // zeros before the first voxel
};

// How threads lie over outputs: `across` times 4 along the width, `down` times a few along the
// height, and `side` tiles of other channels (or samples) at once where a plane is small.
struct Lanes {
    int x, y, z;
    int across, down;
    __device__ Lanes(int across, int down) : across(across), down(down) {
        x = threadIdx.x % across;
        y = threadIdx.x / across % down;
        z = threadIdx.x / (across * down);
    }
};

// How rows of the input are read: value by value whatever their place, four at a time, or that with
// norm and activation.
enum Reading { ONES, FOURS, FOURS_NORMED };

// The rows of an input plane that R rows of 4 outputs need: 4 S columns above the outputs, LEFT
// before and RIGHT behind them.
template <class T, int K, int S, int R, Reading HOW> struct Window {
    static constexpr int LEFT = (K - S) / 2, RIGHT = K - S - LEFT, OWN = 4 * S;
    static constexpr int ROWS = (R - 1) * S + K, COLUMNS = LEFT + OWN + RIGHT;
    const T* volume;                    // null where there is none
    int depth, height, width, row, column;
    bool first, last, normed;
    float scale, shift;
    unsigned inside;                    // which groups of four are, a bit each
    const T* above;                     // the first of them in the first plane
    Four<T> held[ROWS][S];

    __device__ __forceinline__ Window(const Shape& s, const Lanes& lane, const float* scale, const float* shift, int c)
        : volume(nullptr), depth(s.depth), height(s.height), width(s.width), row(0), column(0),
          first(lane.x == 0), last(lane.x == lane.across - 1), normed(scale != nullptr),
          scale(scale ? scale[c] : 1.0f), shift(scale ? shift[c] : 0.0f), inside(0), above(nullptr) {}

    // Turns to outputs whose window begins at these places.
    __device__ __forceinline__ void turn(const T* at, int first_row, int first_column) {
        volume = at;
        row = first_row;
        column = first_column + LEFT;
        above = at + static_cast<i64>(row) * width + column;
        inside = 0;
#pragma unroll
        for (int r = 0; r < ROWS; ++r) {
#pragma unroll
            for (int q = 0; q < S; ++q) {
                if (at && row + r >= 0 && row + r < height && column + 4 * q >= 0 && column + 4 * q < width) {
                    inside |= 1u << (r * S + q);
                }
            }
        }
    }

    __device__ __forceinline__ bool has(int d) const { return d >= 0 && d < depth; }
    __device__ __forceinline__ bool has(int r, int q) const { return inside >> (r * S + q) & 1u; }

    // Asks for row `r` of plane `d`.
    __device__ __forceinline__ void fetch(int d, int r) {
        if constexpr (HOW != ONES) {
            const T* from = above + static_cast<i64>(d) * (height * width) + r * width;
#pragma unroll
            for (int q = 0; q < S; ++q) {
                if (has(d) && has(r, q)) held[r][q] = *reinterpret_cast<const Four<T>*>(from + 4 * q);
            }
        }
    }
    __device__ __forceinline__ void fetch(int d) {
#pragma unroll
        for (int r = 0; r < ROWS; ++r) fetch(d, r);
    }

    __device__ float one(int d, int r, int w) const {
        if (!volume || !has(d) || row + r < 0 || row + r >= height || w < 0 || w >= width) return 0.0f;
        const float v = widen(volume[(static_cast<i64>(d) * height + row + r) * width + w]);
        return normed ? silu(scale * v + shift) : v;
    }

    // The values of row `r` of plane `d`, which has been asked for; by the whole warp at once.
    __device__ __forceinline__ void take(int d, int r, float (&v)[COLUMNS]) const {
        if constexpr (HOW == ONES) {
            for (int i = 0; i < COLUMNS; ++i) v[i] = one(d, r, column - LEFT + i);
        } else {
            take_fours(d, r, v);
        }
    }

    __device__ __forceinline__ void take_fours(int d, int r, float (&v)[COLUMNS]) const {
#pragma unroll
        for (int q = 0; q < S; ++q) {
            float four[4];
            spread(held[r][q], four);
            const bool some = has(d) && has(r, q);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float own = HOW == FOURS_NORMED ? silu(scale * four[i] + shift) : four[i];
                v[LEFT + 4 * q + i] = some ? own : 0.0f;
            }
        }
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < LEFT; ++i) {
            const float near = __shfl_sync(0xffffffffu, v[OWN + i], lane - 1);
            v[i] = first ? 0.0f : near;
        }
#pragma unroll
        for (int i = 0; i < RIGHT; ++i) {
            const float near = __shfl_sync(0xffffffffu, v[LEFT + i], lane + 1);
            v[LEFT + OWN + i] = last ? 0.0f : near;
        }
    }
};

// The taps of a channel in shared memory, its rows padded to whole groups of four.
template <int K> struct Taps {
    static constexpr int ROW = (K + 3) / 4 * 4, COUNT = K * K * ROW;
    const float* taps;

    // `flip` for the turned kernel; the caller waits for the block.
    __device__ __forceinline__ Taps(float* to, const float* weight, int flip, int thread, int threads)
        : taps(to) {
        constexpr int ALL = K * K * K;
        for (int i = thread; i < ALL; i += threads) {
            to[i / K * ROW + i % K] = weight[flip ? ALL - 1 - i : i];
        }
    }
    __device__ __forceinline__ void row(int kd, int kh, float (&k)[ROW]) const {
#pragma unroll
        for (int i = 0; i < ROW; i += 4) {
            float four[4];
            load4(taps + (kd * K + kh) * ROW + i, four);
            for (int q = 0; q < 4; ++q) k[i + q] = four[q];
        }
    }
};

// Four neighbours along a row from `w`, of a row of `width`, in one piece (FOUR) or those that there
// are; others are 0.
template <bool FOUR, class T>
__device__ __forceinline__ void load_row(const T* row, int w, int width, float (&v)[4]) {
    if constexpr (FOUR) {
        load4(row + w, v);
    } else {
        for (int r = 0; r < 4; ++r) v[r] = w + r < width ? widen(row[w + r]) : 0.0f;
    }
}
template <bool FOUR, class T>
__device__ __forceinline__ void store_row(T* row, int w, int width, const float (&v)[4]) {
    if constexpr (FOUR) {
        store4(row + w, v);
    } else {
        for (int r = 0; r < min(4, width - w); ++r) row[w + r] = narrow<T>(v[r]);
    }
}

template <class T, int K, int S, int R, Reading HOW>
__device__ __forceinline__ void forward(
    const T* x, const float* weight, const float* bias, const float* scale, const float* shift,
    const T* behind, const float* behind_scale, const float* behind_shift, T* y, Shape s,
    int samples, int channels, i64 x_sample, i64 x_channel, i64 y_sample, int flip, int across,
    int down, int side, int planes) {
    typedef Window<T, K, S, R, HOW> W;
    constexpr int A = (K + S - 1) / S, ROW = Taps<K>::ROW;
    DYNAMIC_SHARED(float, shared);
    const Lanes lane(across, down);
    const int tiles_w = (s.out_width + across * 4 - 1) / (across * 4);
    const int tiles_h = (s.out_height + down * R - 1) / (down * R);
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
    const Taps<K> taps(shared + lane.z * Taps<K>::COUNT, weight + static_cast<i64>(c) * K * K * K, flip,
                       lane.y * across + lane.x, across * down);
    __syncthreads();

    const int h = (tile_h * down + lane.y) * R, w = (tile_w * across + lane.x) * 4;
    W window(s, lane, scale, shift, c);
    window.turn(there ? x + b * x_sample + c * x_channel : nullptr, h * S - s.before_h, w * S - s.before_w);
    const int begin = chunk * planes, end = min(begin + planes, s.out_depth);
    const i64 plane = static_cast<i64>(s.out_height) * s.out_width;
    const i64 first = b * y_sample + c * plane * s.out_depth + static_cast<i64>(h) * s.out_width;
    const float slope_scale = behind ? behind_scale[c] : 0.0f;
    const float slope_shift = behind ? behind_shift[c] : 0.0f, own_bias = bias ? bias[c] : 0.0f;
    const int rows = there && w < s.out_width ? min(R, s.out_height - h) : 0;    // that are written

    float sum[A][R][4] = {};
    window.fetch(max(begin * S - s.before_d, 0));
    for (int j = begin; j < end + A - 1; ++j) {
#pragma unroll
        for (int step = 0; step < S; ++step) {
            const int d = j * S + step - s.before_d;
            if (d < 0 || d >= s.depth) continue;           // alike for the whole block
#pragma unroll
            for (int r = 0; r < W::ROWS; ++r) {
                float v[W::COLUMNS];
                window.take(d, r, v);
                window.fetch(d + 1, r);
#pragma unroll
                for (int a = 0; a < A; ++a) {
                    const int kd = step + S * a;
                    if (kd >= K) continue;
#pragma unroll
                    for (int o = 0; o < R; ++o) {
                        const int kh = r - o * S;
                        if (kh < 0 || kh >= K) continue;
                        float k[ROW];
                        taps.row(kd, kh, k);
#pragma unroll
                        for (int kw = 0; kw < K; ++kw) {
#pragma unroll
                            for (int i = 0; i < 4; ++i) sum[a][o][i] += v[i * S + kw] * k[kw];
                        }
                    }
                }
            }
        }
        const int d = j - (A - 1);
        if (d >= begin) {
#pragma unroll
            for (int o = 0; o < R; ++o) {
                if (o >= rows) continue;
                const i64 at = first + d * plane + static_cast<i64>(o) * s.out_width;
                float out[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) out[i] = sum[A - 1][o][i] + own_bias;
                if (behind) {
                    float z[4];
                    load_row<HOW != ONES>(behind + at, w, s.out_width, z);
#pragma unroll
                    for (int i = 0; i < 4; ++i) out[i] *= silu_slope(slope_scale * z[i] + slope_shift);
                }
                store_row<HOW != ONES>(y + at, w, s.out_width, out);
            }
        }
        shift_planes(sum);
    }
}

// The gradient of the input for a step of 2, rows in one piece (FOUR) or not. (For a step of 1 it is
// `forward` of the output's gradient with the kernel turned about.)
//
// A thread owns bricks of 2 x 2 x 4 voxels, one behind the other along the depth. Whichever taps
// meet which voxel of a brick is known when this is compiled, as the first voxel of each is at
// even places: a voxel reads the outputs of every second tap along each axis. The few outputs
// that a brick needs stay in registers from brick to brick; neighbours share them through the
// first-level cache. Bound by memory for both kernels: 54 multiply-adds for a brick of K = 3,
// 250 of K = 5.
template <class T, int K, bool FOUR>
__device__ __forceinline__ void input_gradient(
    const T* dy, const float* weight, const T* behind, const float* behind_scale,
    const float* behind_shift, T* dx, Shape s, int samples, int channels, i64 dy_sample,
    i64 dx_sample, int bricks) {
    constexpr int B = (K - 2) / 2;
    // Outputs that 2 (or 4) voxels in a row read: from LOW on, relative to the brick's own.
    constexpr int LOW = -((K - 1 - B) / 2), NEAR = (1 + B) / 2 - LOW + 1, WIDE = (3 + B) / 2 - LOW + 1;
    __shared__ float taps[K * K * K];
    const int quads = (s.width + 3) / 4, pairs = (s.height + 1) / 2, deep = (s.depth + 1) / 2;
    const int chunks = (deep + bricks - 1) / bricks;
    const int blocks = (quads * pairs + blockDim.x - 1) / blockDim.x;
    int block = blockIdx.x;
    const int item = block % blocks * blockDim.x + threadIdx.x;
    block /= blocks;
    const int begin = block % chunks * bricks, end = min(begin + bricks, deep);
    const int which = block / chunks, b = which / channels, c = which % channels;
    for (int i = threadIdx.x; i < K * K * K; i += blockDim.x) taps[i] = weight[c * K * K * K + i];
    __syncthreads();
    if (item >= quads * pairs) return;
    const int h = item / quads * 2, w = item % quads * 4;
    const i64 out_plane = static_cast<i64>(s.out_height) * s.out_width;
    const i64 plane = static_cast<i64>(s.height) * s.width;
    const T* from = dy + b * dy_sample + c * out_plane * s.out_depth;
    const i64 first = b * dx_sample + c * plane * s.depth + static_cast<i64>(h) * s.width;
    const float slope_scale = behind ? behind_scale[c] : 0.0f;
    const float slope_shift = behind ? behind_shift[c] : 0.0f;

    float g[NEAR][NEAR][WIDE];
    const auto read = [&](float (&to)[NEAR][WIDE], int d) {
#pragma unroll
        for (int i = 0; i < NEAR; ++i) {
            const int oh = h / 2 + LOW + i;
            const bool row = d >= 0 && d < s.out_depth && oh >= 0 && oh < s.out_height;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                const int ow = w / 2 + LOW + j;
                const bool inside = row && ow >= 0 && ow < s.out_width;
                to[i][j] = inside ? widen(from[d * out_plane + static_cast<i64>(oh) * s.out_width + ow]) : 0.0f;
            }
        }
    };
#pragma unroll
    for (int i = 0; i + 1 < NEAR; ++i) read(g[i], begin + LOW + i);
    for (int e = begin; e < end; ++e) {
        float z[2][2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int d = 2 * e + i / 2, r = h + i % 2;
            if (behind && d < s.depth && r < s.height) {
                load_row<FOUR>(behind + first + d * plane + static_cast<i64>(i % 2) * s.width, w, s.width, z[i / 2][i % 2]);
            }
        }
        read(g[NEAR - 1], e + LOW + NEAR - 1);
#pragma unroll
        for (int rd = 0; rd < 2; ++rd) {
#pragma unroll
            for (int rh = 0; rh < 2; ++rh) {
                const int d = 2 * e + rd;
                if (d >= s.depth || h + rh >= s.height) continue;
                const i64 at = first + d * plane + static_cast<i64>(rh) * s.width;
                float sum[4] = {};
#pragma unroll
                for (int kd = (rd + B) % 2; kd < K; kd += 2) {
#pragma unroll
                    for (int kh = (rh + B) % 2; kh < K; kh += 2) {
#pragma unroll
                        for (int r = 0; r < 4; ++r) {
#pragma unroll
                            for (int kw = (r + B) % 2; kw < K; kw += 2) {
                                sum[r] += g[(rd + B - kd) / 2 - LOW][(rh + B - kh) / 2 - LOW][(r + B - kw) / 2 - LOW] *
                                          taps[(kd * K + kh) * K + kw];
                            }
                        }
                    }
                }
                if (behind) {
                    for (int r = 0; r < 4; ++r) sum[r] *= silu_slope(slope_scale * z[rd][rh][r] + slope_shift);
                }
                store_row<FOUR>(dx + at, w, s.width, sum);
            }
        }
#pragma unroll
        for (int i = 0; i + 1 < NEAR; ++i) {
            for (int j = 0; j < NEAR; ++j) {
                for (int k = 0; k < WIDE; ++k) g[i][j][k] = g[i + 1][j][k];
            }
        }
    }
}

// The same for any padding in front: a thread gathers for one voxel the outputs that read it.
template <class T, int K>
__device__ __forceinline__ void input_gradient_any(
    const T* dy, const float* weight, const T* behind, const float* behind_scale,
    const float* behind_shift, T* dx, Shape s, int samples, int channels, i64 dy_sample,
    i64 dx_sample, int) {
    constexpr int S = 2;
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
// (about 200 for K = 5: two blocks of 128 a multiprocessor, which have enough independent sums to
// keep its units busy). A block takes every `blocks`th of the channel's tiles, samples side by
// side where planes are small, and leaves one sum a tap.
template <class T, int K, int S, int R, Reading HOW>
__device__ __forceinline__ void weight_gradient(
    const T* x, const T* dy, const float* scale, const float* shift, float* partial, Shape s,
    int samples, int channels, i64 x_sample, i64 x_channel, i64 dy_sample, int across, int down,
    int side, int planes, int blocks) {
    typedef Window<T, K, S, R, HOW> W;
    constexpr int A = (K + S - 1) / S, TAPS = K * K * K;
    const Lanes lane(across, down);
    const int tiles_w = (s.out_width + across * 4 - 1) / (across * 4);
    const int tiles_h = (s.out_height + down * R - 1) / (down * R);
    const int chunks = (s.out_depth + planes - 1) / planes;
    const int items = samples * chunks * tiles_h * tiles_w;
    const int c = blockIdx.x / blocks, own_block = blockIdx.x % blocks;
    const i64 plane = static_cast<i64>(s.out_height) * s.out_width;
    W window(s, lane, scale, shift, c);

    float sum[TAPS] = {};
    // As many rounds for every side, so that warps stay together.
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
        const int h = (tile_h * down + lane.y) * R, w = (tile_w * across + lane.x) * 4;
        const int rows = there && w < s.out_width ? min(R, s.out_height - h) : 0;
        const T* slope = dy + b * dy_sample + c * plane * s.out_depth + static_cast<i64>(h) * s.out_width;
        window.turn(there ? x + b * x_sample + c * x_channel : nullptr, h * S - s.before_h, w * S - s.before_w);
        window.fetch(begin * S - s.before_d);
        float g[A][R][4] = {};
        for (int j = 0; j < planes + A - 1; ++j) {
            const int od = begin + j;
            shift_planes(g);
#pragma unroll
            for (int o = 0; o < R; ++o) {
                if (o < rows && od < end) {
                    load_row<HOW != ONES>(slope + od * plane + static_cast<i64>(o) * s.out_width, w, s.out_width, g[0][o]);
                }
            }
#pragma unroll
            for (int step = 0; step < S; ++step) {
                const int d = od * S + step - s.before_d;
#pragma unroll
                for (int r = 0; r < W::ROWS; ++r) {
                    float v[W::COLUMNS];
                    window.take(d, r, v);
                    window.fetch(d + 1, r);
#pragma unroll
                    for (int a = 0; a < A; ++a) {
                        const int kd = step + S * a;
                        if (kd >= K) continue;
#pragma unroll
                        for (int o = 0; o < R; ++o) {
                            const int kh = r - o * S;
                            if (kh < 0 || kh >= K) continue;
#pragma unroll
                            for (int kw = 0; kw < K; ++kw) {
#pragma unroll
                                for (int i = 0; i < 4; ++i) {
                                    sum[(kd * K + kh) * K + kw] += v[i * S + kw] * g[a][o][i];
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    leave_sums<TAPS>(partial + static_cast<i64>(blockIdx.x) * TAPS, [&](int tap) { return sum[tap]; });
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

// Rows of outputs a thread, and blocks a multiprocessor, as measured on an H100: more rows share more
// of what they read, more warps hide more of its latency. The host knows the rows too.
constexpr int rows_of(int K) { return K == 3 ? 2 : 1; }
constexpr int forward_blocks(int K, int S) { return K == 3 && S == 1 ? 5 : 4; }
constexpr int weight_blocks(int K, int S) { return K == 5 ? 2 : S == 1 ? 5 : 3; }
constexpr int gradient_blocks(int K) { return K == 3 ? 6 : 3; }

// One kernel for each way of reading.
#define DEFINE(K, S, HOW, how, T, suffix)                                                          \
    extern "C" __global__ void __launch_bounds__(128, forward_blocks(K, S)) depthwise_forward##how##_k##K##s##S##_##suffix( \
        const T* x, const float* weight, const float* bias, const float* scale,                    \
        const float* shift, const T* behind, const float* behind_scale,                            \
        const float* behind_shift, T* y, int depth, int height, int width, int out_depth,          \
        int out_height, int out_width, int before_d, int before_h, int before_w, int samples,      \
        int channels, i64 x_sample, i64 x_channel, i64 y_sample, int flip, int across, int down,   \
        int side, int planes) {                                                                    \
        const Shape s{depth, height, width, out_depth, out_height, out_width, before_d, before_h,  \
                      before_w};                                                                   \
        forward<T, K, S, rows_of(K), HOW>(                                                 \
            x, weight, bias, scale, shift, behind, behind_scale, behind_shift, y, s, samples,      \
            channels, x_sample, x_channel, y_sample, flip, across, down, side, planes);            \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(128, weight_blocks(K, S)) depthwise_weight_gradient##how##_k##K##s##S##_##suffix( \
        const T* x, const T* dy, const float* scale, const float* shift, float* partial,           \
        int depth, int height, int width, int out_depth, int out_height, int out_width,            \
        int before_d, int before_h, int before_w, int samples, int channels, i64 x_sample,         \
        i64 x_channel, i64 dy_sample, int across, int down, int side, int planes, int blocks) {    \
        const Shape s{depth, height, width, out_depth, out_height, out_width, before_d, before_h,  \
                      before_w};                                                                   \
        weight_gradient<T, K, S, rows_of(K), HOW>(                                         \
            x, dy, scale, shift, partial, s, samples, channels, x_sample, x_channel, dy_sample,    \
            across, down, side, planes, blocks);                                                   \
    }
#define DEFINE_GRADIENT(K, how, FUNCTION, T, suffix)                                               \
    extern "C" __global__ void __launch_bounds__(128, gradient_blocks(K)) depthwise_input_gradient##how##_k##K##s2_##suffix( \
        const T* dy, const float* weight, const T* behind, const float* behind_scale,              \
        const float* behind_shift, T* dx, int depth, int height, int width, int out_depth,         \
        int out_height, int out_width, int before_d, int before_h, int before_w, int samples,      \
        int channels, i64 dy_sample, i64 dx_sample, int bricks) {                                  \
        const Shape s{depth, height, width, out_depth, out_height, out_width, before_d, before_h,  \
                      before_w};                                                                   \
        FUNCTION(dy, weight, behind, behind_scale, behind_shift, dx, s, samples, channels,         \
                 dy_sample, dx_sample, bricks);                                                    \
    }
#define DEFINE_ALL(K, S, T, suffix)                                                                \
    DEFINE(K, S, ONES, _any, T, suffix)                                                            \
    DEFINE(K, S, FOURS, , T, suffix)                                                               \
    DEFINE(K, S, FOURS_NORMED, _normed, T, suffix)
#define DEFINE_GRADIENTS(K, T, suffix)                                                             \
    DEFINE_GRADIENT(K, , (input_gradient<T, K, true>), T, suffix)                                  \
    DEFINE_GRADIENT(K, _ones, (input_gradient<T, K, false>), T, suffix)                            \
    DEFINE_GRADIENT(K, _any, (input_gradient_any<T, K>), T, suffix)
#define DEFINE_TYPE(T, suffix)                                                                     \
    DEFINE_ALL(3, 1, T, suffix)                                                                    \
    DEFINE_ALL(3, 2, T, suffix)                                                                    \
    DEFINE_ALL(5, 1, T, suffix)                                                                    \
    DEFINE_ALL(5, 2, T, suffix)                                                                    \
    DEFINE_GRADIENTS(3, T, suffix)                                                                 \
    DEFINE_GRADIENTS(5, T, suffix)
DEFINE_TYPE(float, f32)
DEFINE_TYPE(bf16, bf16)
