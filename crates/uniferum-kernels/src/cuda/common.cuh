// What every kernel file shares: storage types, vectors of four, sums over a block.
//
// Values are stored as f32 or bf16 and computed in f32; sums over a block are finished in f64.
#pragma once

#include <cuda_bf16.h>

// Programs that run kernels on the host bring their own.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name)                                     \
    extern __shared__ __align__(16) unsigned char name##_bytes[];      \
    type* name = reinterpret_cast<type*>(name##_bytes)
#endif

typedef __nv_bfloat16 bf16;
typedef long long i64;
typedef unsigned long long u64;

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(bf16 v) { return __bfloat162float(v); }

template <class T> __device__ __forceinline__ T narrow(float v);
template <> __device__ __forceinline__ float narrow<float>(float v) { return v; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float v) { return __float2bfloat16(v); }

// Two neighbours of bf16 in a register, the first in the low half.
__device__ __forceinline__ unsigned pack(float a, float b) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
    unsigned bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}
__device__ __forceinline__ float2 unpack(unsigned bits) {
    return make_float2(__int_as_float(static_cast<int>(bits << 16)), __int_as_float(static_cast<int>(bits & 0xffff0000u)));
}

// What special units do in an instruction. On tensor cores, by a whole warp: lane 4 g + q holds of a
// matrix of 8 x 8 values the neighbours 2 q and 2 q + 1 of row g.
#ifndef WARP_MATRICES
// c += a b, of 16 x 16 and 16 x 8 values, in f32. `a` is [top left, bottom left, top right, bottom
// right], `b` the transposes of [top, bottom], `c` [top, bottom] of two values each.
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The transpose of 8 x 8 values.
__device__ __forceinline__ unsigned transpose(unsigned a) {
    unsigned t;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(t) : "r"(a));
    return t;
}
// 2^v and 1 / v to 22 bits; numbers below 2^-126 are 0, without which each takes three more instructions.
__device__ __forceinline__ float about_exp2(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
__device__ __forceinline__ float about_inverse(float v) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}
#endif

// Four neighbours at once: 16 bytes of f32, 8 of bf16. Their address must be aligned to that.
template <class T> struct FourOf;
template <> struct FourOf<float> { typedef float4 Type; };
template <> struct FourOf<bf16> { struct alignas(8) Type { __nv_bfloat162 a, b; }; };
template <class T> using Four = typename FourOf<T>::Type;

__device__ __forceinline__ void spread(const float4& q, float (&v)[4]) {
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
__device__ __forceinline__ void spread(const Four<bf16>& q, float (&v)[4]) {
    const float2 a = __bfloat1622float2(q.a), b = __bfloat1622float2(q.b);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
}
template <class T> __device__ __forceinline__ void load4(const T* at, float (&v)[4]) {
    spread(*reinterpret_cast<const Four<T>*>(at), v);
}
__device__ __forceinline__ void store4(float* at, const float (&v)[4]) {
    *reinterpret_cast<float4*>(at) = make_float4(v[0], v[1], v[2], v[3]);
}
__device__ __forceinline__ void store4(bf16* at, const float (&v)[4]) {
    *reinterpret_cast<Four<bf16>*>(at) = Four<bf16>{__floats2bfloat162_rn(v[0], v[1]), __floats2bfloat162_rn(v[2], v[3])};
}

// Whether rows of `n` elements of these arrays can be taken four at a time; null counts as so.
template <class... P> __device__ __forceinline__ bool fours(i64 n, const P*... arrays) {
    return n % 4 == 0 && ((reinterpret_cast<size_t>(arrays) % 16 == 0) && ...);
}

// Calls `f(index, count)` for the elements of `[0, n)` that are this thread's among `threads`
// alike: four neighbours (`count` 4) or one.
template <class F>
__device__ __forceinline__ void each(bool four, i64 n, i64 thread, i64 threads, F f) {
    if (four) {
        for (i64 i = thread * 4; i < n; i += threads * 4) f(i, 4);
    } else {
        for (i64 i = thread; i < n; i += threads) f(i, 1);
    }
}

template <class T> __device__ __forceinline__ void load(const T* at, int count, float (&v)[4]) {
    if (count == 4) {
        load4(at, v);
    } else {
        v[0] = widen(*at);
    }
}
template <class T> __device__ __forceinline__ void store(T* at, int count, const float (&v)[4]) {
    if (count == 4) {
        store4(at, v);
    } else {
        *at = narrow<T>(v[0]);
    }
}

// By the special function units: a division that rounds to the last bit would branch, and take as
// long as a row of a depthwise convolution. Within 2^-20 of the value where it matters.
__device__ __forceinline__ float sigmoid(float z) {
    constexpr float LOG2_E = 1.44269504f;
    return about_inverse(1.0f + about_exp2(-LOG2_E * z));
}
__device__ __forceinline__ float silu(float z) { return z * sigmoid(z); }
__device__ __forceinline__ float silu_slope(float z) {
    const float s = sigmoid(z);
    return s * (1.0f + z * (1.0f - s));
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_down_sync(0xffffffffu, v, step);
    return v;
}
__device__ __forceinline__ double warp_sum(double v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_down_sync(0xffffffffu, v, step);
    return v;
}

// Sums N values of each thread over a one-dimensional block of whole warps; thread 0 has the
// result. To be called once in a kernel, or with a barrier between the calls.
template <int N> __device__ __forceinline__ void block_sum(double (&v)[N]) {
    __shared__ double parts[N][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = 0; i < N; ++i) {
        v[i] = warp_sum(v[i]);
        if (lane == 0) parts[i][warp] = v[i];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 0; i < N; ++i) {
            for (int w = 1; w < blockDim.x / 32; ++w) v[i] += parts[i][w];
        }
    }
}

// The sums of N f32 values of each thread, `of(0)` to `of(N - 1)`, over a block of up to 4 whole warps,
// into `to`. To be called once in a kernel, by every thread.
template <int N, class F> __device__ __forceinline__ void leave_sums(float* to, F of) {
    __shared__ float parts[N][4];
    const int warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float total = warp_sum(of(i));
        if (threadIdx.x % 32 == 0) parts[i][warp] = total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < N; i += blockDim.x) {
        float total = 0.0f;
        for (int w = 0; w < blockDim.x / 32; ++w) total += parts[i][w];
        to[i] = total;
    }
}

// Moves planes of values in registers on by one: the last is gone, the first is zeros.
template <int A, int R, int N, class T> __device__ __forceinline__ void shift_planes(T (&planes)[A][R][N]) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
#pragma unroll
            for (int a = A - 1; a > 0; --a) planes[a][r][i] = planes[a - 1][r][i];
            planes[0][r][i] = T(0);
        }
    }
}

// The same for one f32 value, given to every thread; may be called again and again.
__device__ __forceinline__ float block_sum_all(float v) {
    __shared__ float parts[32];
    __shared__ float total;
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        float sum = 0.0f;
        for (int w = 0; w < blockDim.x / 32; ++w) sum += parts[w];
        total = sum;
    }
    __syncthreads();
    return total;
}

__device__ __forceinline__ float block_max_all(float v) {
    __shared__ float parts[32];
    __shared__ float total;
    for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_down_sync(0xffffffffu, v, step));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    if (threadIdx.x == 0) {
        float top = parts[0];
        for (int w = 1; w < blockDim.x / 32; ++w) top = fmaxf(top, parts[w]);
        total = top;
    }
    __syncthreads();
    return total;
}

// 32 random bits of element `index` of stream `seed`: the same function as on the host.
__device__ __forceinline__ unsigned random_bits(u64 seed, u64 index) {
    u64 z = seed + index * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return static_cast<unsigned>((z ^ (z >> 31)) >> 32);
}

// For the elements of arrays of `n`, shared out among all threads of the launch.
#define EVERY(n, ...)                                                                              \
    each(fours(n, __VA_ARGS__), n, static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x,        \
         static_cast<i64>(gridDim.x) * blockDim.x, [&](i64 i, int count)
