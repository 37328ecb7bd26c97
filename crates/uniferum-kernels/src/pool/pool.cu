// Pooling over windows of a volume: a thread an output, or in backward a thread an input where windows
// overlap, so that no two write the same place. Windows come as first voxel and length along each axis, so that
// sliding and adaptive ones are alike. For the mask's max-pool of disjoint windows each voxel is
// read once in either pass, neighbouring threads at neighbouring places.
#include "common.cuh"

// The windows of the three axes behind each other: firsts, then lengths.
struct Windows {
    const int* first[3];
    const int* length[3];
    int in[3], out[3];
    __device__ Windows(const int* table, int i0, int i1, int i2, int o0, int o1, int o2)
        : in{i0, i1, i2}, out{o0, o1, o2} {
        for (int a = 0; a < 3; ++a) {
            first[a] = table;
            length[a] = table + out[a];
            table += 2 * out[a];
        }
    }
    __device__ i64 in_voxels() const { return static_cast<i64>(in[0]) * in[1] * in[2]; }
    __device__ i64 out_voxels() const { return static_cast<i64>(out[0]) * out[1] * out[2]; }
};

// The place of the first largest value of a window; a NaN counts as largest.
template <class T> __device__ i64 largest(const T* x, const Windows& s, const int (&o)[3]) {
    i64 best = -1;
    float top = 0.0f;
    for (int d = 0; d < s.length[0][o[0]]; ++d) {
        for (int h = 0; h < s.length[1][o[1]]; ++h) {
            for (int w = 0; w < s.length[2][o[2]]; ++w) {
                const i64 at = (static_cast<i64>(s.first[0][o[0]] + d) * s.in[1] + s.first[1][o[1]] + h) * s.in[2] + s.first[2][o[2]] + w;
                const float v = widen(x[at]);
                if (best < 0 || v > top || (isnan(v) && !isnan(top))) {
                    best = at;
                    top = v;
                }
            }
        }
    }
    return best;
}

__device__ __forceinline__ void split(i64 index, const int (&n)[3], int (&place)[3]) {
    place[2] = static_cast<int>(index % n[2]);
    index /= n[2];
    place[1] = static_cast<int>(index % n[1]);
    place[0] = static_cast<int>(index / n[1]);
}

template <class T> __device__ void forward(const T* x, T* y, const Windows& s, i64 rows, int mean) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * s.out_voxels()) return;
    const T* from = x + i / s.out_voxels() * s.in_voxels();
    int o[3];
    split(i % s.out_voxels(), s.out, o);
    if (!mean) {
        y[i] = from[largest(from, s, o)];
        return;
    }
    float sum = 0.0f;
    for (int d = 0; d < s.length[0][o[0]]; ++d) {
        for (int h = 0; h < s.length[1][o[1]]; ++h) {
            for (int w = 0; w < s.length[2][o[2]]; ++w) {
                sum += widen(from[(static_cast<i64>(s.first[0][o[0]] + d) * s.in[1] + s.first[1][o[1]] + h) * s.in[2] + s.first[2][o[2]] + w]);
            }
        }
    }
    y[i] = narrow<T>(sum / (s.length[0][o[0]] * s.length[1][o[1]] * s.length[2][o[2]]));
}

// The windows along an axis that hold a place: firsts never fall, and windows that hold it follow
// each other.
__device__ __forceinline__ void holders(const Windows& s, int axis, int place, int& begin, int& end) {
    int low = 0, high = s.out[axis];
    while (low < high) {                       // the first window that begins behind the place
        const int middle = (low + high) / 2;
        if (s.first[axis][middle] > place) high = middle;
        else low = middle + 1;
    }
    end = low;
    begin = end;
    while (begin > 0 && s.first[axis][begin - 1] + s.length[axis][begin - 1] > place) --begin;
}

template <class T> __device__ void backward(const T* x, const T* dy, T* dx, const Windows& s, i64 rows, int mean) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * s.in_voxels()) return;
    const i64 row = i / s.in_voxels(), own = i % s.in_voxels();
    const T* from = x + row * s.in_voxels();
    const T* slope = dy + row * s.out_voxels();
    int at[3], begin[3], end[3];
    split(own, s.in, at);
    for (int a = 0; a < 3; ++a) holders(s, a, at[a], begin[a], end[a]);
    float sum = 0.0f;
    for (int d = begin[0]; d < end[0]; ++d) {
        for (int h = begin[1]; h < end[1]; ++h) {
            for (int w = begin[2]; w < end[2]; ++w) {
                const int o[3] = {d, h, w};
                const float g = widen(slope[(static_cast<i64>(d) * s.out[1] + h) * s.out[2] + w]);
                if (mean) sum += g / (s.length[0][d] * s.length[1][h] * s.length[2][w]);
                else if (largest(from, s, o) == own) sum += g;
            }
        }
    }
    dx[i] = narrow<T>(sum);
}

// The same for the largest values of windows without a voxel in common, over zeros: a thread a window.
template <class T> __device__ void scatter(const T* x, const T* dy, T* dx, const Windows& s, i64 rows) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * s.out_voxels()) return;
    const i64 first = i / s.out_voxels() * s.in_voxels();
    int o[3];
    split(i % s.out_voxels(), s.out, o);
    dx[first + largest(x + first, s, o)] = dy[i];
}

// The mean over the whole volume spreads its gradient evenly.
template <class T> __device__ void spread(const T* dy, T* dx, i64 voxels, i64 n) {
    const i64 threads = static_cast<i64>(gridDim.x) * blockDim.x;
    each(fours(voxels, dx), n, static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x, threads, [&](i64 i, int count) {
        const float g = widen(dy[i / voxels]) / voxels;
        const float v[4] = {g, g, g, g};
        store(dx + i, count, v);
    });
}

#define DEFINE(T, suffix)                                                                          \
    extern "C" __global__ void pool_forward_##suffix(                                              \
        const T* x, T* y, const int* table, int i0, int i1, int i2, int o0, int o1, int o2,        \
        i64 rows, int mean) {                                                                      \
        forward<T>(x, y, Windows(table, i0, i1, i2, o0, o1, o2), rows, mean);                      \
    }                                                                                              \
    extern "C" __global__ void pool_backward_##suffix(                                             \
        const T* x, const T* dy, T* dx, const int* table, int i0, int i1, int i2, int o0, int o1,  \
        int o2, i64 rows, int mean) {                                                              \
        backward<T>(x, dy, dx, Windows(table, i0, i1, i2, o0, o1, o2), rows, mean);                \
    }                                                                                              \
    extern "C" __global__ void pool_scatter_##suffix(                                              \
        const T* x, const T* dy, T* dx, const int* table, int i0, int i1, int i2, int o0, int o1,  \
        int o2, i64 rows, int) {                                                                   \
        scatter<T>(x, dy, dx, Windows(table, i0, i1, i2, o0, o1, o2), rows);                       \
    }                                                                                              \
    extern "C" __global__ void pool_spread_##suffix(const T* dy, T* dx, i64 voxels, i64 n) {       \
        spread<T>(dy, dx, voxels, n);                                                              \
    }
DEFINE(float, f32)
DEFINE(bf16, bf16)
