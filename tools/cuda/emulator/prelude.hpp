// Included before a kernel file that is compiled for the host: CUDA's own headers for types and
// conversions, then the words of the language that a device has and a host has not.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include "threads.hpp"

// One block runs at a time, so that a static is that block's shared memory.
#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::dynamic_shared())

#define threadIdx (emulator::machine().thread)
#define blockIdx (emulator::machine().block)
#define blockDim (emulator::machine().threads)
#define gridDim (emulator::machine().blocks)
static constexpr int warpSize = 32;

static inline void __syncthreads() { emulator::wait(emulator::At::block); }
static inline void __syncwarp(unsigned = ~0u) { emulator::wait(emulator::At::warp); }
template <class T> static inline T __shfl_down_sync(unsigned, T value, unsigned by, int = 32) {
    const unsigned lane = emulator::machine().current % 32 + by;
    return emulator::exchange(value, lane, lane >= 32);
}
template <class T> static inline T __shfl_xor_sync(unsigned, T value, unsigned mask, int = 32) {
    return emulator::exchange(value, (emulator::machine().current % 32) ^ mask, false);
}
template <class T> static inline T __shfl_sync(unsigned, T value, unsigned lane, int = 32) {
    return emulator::exchange(value, lane % 32, false);
}
template <class T> static inline T atomicAdd(T* at, T value) {
    const T old = *at;
    *at = old + value;
    return old;
}
template <class T> static inline T atomicMax(T* at, T value) {
    const T old = *at;
    *at = std::max(old, value);
    return old;
}
template <class T> static inline T __ldg(const T* at) { return *at; }

// The two matrix instructions of a warp that our kernels use, as `common.cuh` describes them.
#define WARP_MATRICES
static inline float half_of(uint32_t pair, int which) {
    const uint32_t bits = which ? pair & 0xffff0000u : pair << 16;
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
static inline void multiply_add(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    const unsigned lane = emulator::machine().current % 32;
    emulator::with_warp({a[0], a[1], a[2], a[3], b[0], b[1]}, [&](const emulator::Words* lanes) {
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 % 8, column = lane % 4 * 2 + i % 2, below = i / 2;
            double sum = c[i];
            for (int k = 0; k < 16; ++k) {
                const uint32_t left = lanes[row * 4 + k % 8 / 2][below + k / 8 * 2];
                const uint32_t right = lanes[column * 4 + k % 8 / 2][4 + k / 8];
                sum += static_cast<double>(half_of(left, k % 2)) * half_of(right, k % 2);
            }
            c[i] = static_cast<float>(sum);
        }
    });
}
static inline unsigned transpose(unsigned a) {
    const unsigned lane = emulator::machine().current % 32, column = lane / 4;
    unsigned t = 0;
    emulator::with_warp({a}, [&](const emulator::Words* lanes) {
        for (unsigned i = 0; i < 2; ++i) {
            const uint32_t pair = lanes[(lane % 4 * 2 + i) * 4 + column / 2][0];
            t |= (column % 2 ? pair >> 16 : pair & 0xffffu) << (16 * i);
        }
    });
    return t;
}

using std::isnan;
using std::max;
using std::min;
// A host rounds each of these by itself, as its compiler fuses nothing without being asked to.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float about_exp2(float v) { return std::exp2(v); }
static inline float about_inverse(float v) { return 1.0f / v; }
static inline float __fsqrt_rn(float a) { return std::sqrt(a); }
static inline int __float_as_int(float v) { int bits; std::memcpy(&bits, &v, sizeof bits); return bits; }
static inline float __int_as_float(int bits) { float v; std::memcpy(&v, &bits, sizeof v); return v; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }
static inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752); }

// What CUDA's headers give of bf16 to devices alone.
#define HALF_FUNCTION(name, function)                                                     \
    static inline __nv_bfloat16 name(__nv_bfloat16 x) {                                   \
        return __float2bfloat16(std::function(__bfloat162float(x)));                      \
    }
HALF_FUNCTION(hsqrt, sqrt)
HALF_FUNCTION(hcos, cos)
HALF_FUNCTION(hsin, sin)
HALF_FUNCTION(hlog, log)
HALF_FUNCTION(hexp, exp)
HALF_FUNCTION(hceil, ceil)
HALF_FUNCTION(hfloor, floor)
HALF_FUNCTION(hrint, nearbyint)
HALF_FUNCTION(htrunc, trunc)
