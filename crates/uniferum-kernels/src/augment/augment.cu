// A scan from its stored voxels to the model's array, and a mask to the target of the mask head.
//
// Bound by gathers: without a rotation an output reads about 1.5 x 2 x 2 voxels, with one up to
// 5 x 5 x 5, and neighbouring threads are neighbours along the contiguous axis, so that nearly all
// reads are of lines in the first cache and device memory is read about once. No memory is
// shared but the noise's words (2 KB), and of registers there are 64 (71 for sm_80): 4 (3) blocks of 256
// threads a multiprocessor.
//
// Places and noise are computed without fused multiply-adds, in the order of the host's code: cells,
// shares, nearest voxels and random numbers are then the host's to the last bit. Sums of voxels are
// not; they differ by rounding, and by the host's 16-bit levels of the smoothed field.
#include "common.cuh"

__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fadd_rn(a, -b); }
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }

// What `table.rs` writes, followed by the arrays: each begins at word `at[..]` of the table.
struct Header {
    int volume[3], shape[3];
    int field[3], offset[3], taps[3];
    float rotation[9], middle[3];
    unsigned key[8];
    float std, shift;
    int at[9];     // straight: starts, offsets, weights; turned: outputs, kernels
    int labels;    // eight words of bits for each set of labels
};

__device__ __forceinline__ const int* ints(const Header* h, int array) {
    return reinterpret_cast<const int*>(h) + h->at[array];
}
__device__ __forceinline__ const float* floats(const Header* h, int array) {
    return reinterpret_cast<const float*>(h) + h->at[array];
}

// HU to the model's values; outside the volume is air.
__device__ __forceinline__ float load_hu(short hu) { return mul(add(static_cast<float>(hu), 1000.0f), 1.0f / 2000.0f); }

// The sum over the product of three axes' weights.
struct Straight {
    const Header* h;
    __device__ float image(const short* voxels, const int (&o)[3]) const {
        int start[3], count[3];
        const float* weights[3];
        for (int a = 0; a < 3; ++a) {
            const int* offsets = ints(h, 3 + a);
            start[a] = ints(h, a)[o[a]];
            count[a] = offsets[o[a] + 1] - offsets[o[a]];
            weights[a] = floats(h, 6 + a) + offsets[o[a]];
        }
        float sum = 0.0f;
        for (int x = 0; x < count[0]; ++x) {
            float plane = 0.0f;
            for (int y = 0; y < count[1]; ++y) {
                const short* row = voxels + (static_cast<i64>(start[0] + x) * h->volume[1] + start[1] + y) * h->volume[2] + start[2];
                float line = 0.0f;
                for (int z = 0; z < count[2]; ++z) line += weights[2][z] * load_hu(row[z]);
                plane += weights[1][y] * line;
            }
            sum += weights[0][x] * plane;
        }
        return sum;
    }
    // The voxel of an output, or -1.
    __device__ i64 nearest(const int (&o)[3]) const {
        i64 at = 0;
        for (int a = 0; a < 3; ++a) {
            const int* offsets = ints(h, 3 + a);
            if (offsets[o[a] + 1] == offsets[o[a]]) return -1;
            at = at * h->volume[a] + ints(h, a)[o[a]];
        }
        return at;
    }
};

// A turned place: of the smoothed field's samples for an image, of the field's voxels for a mask.
struct Turned {
    const Header* h;
    // The place of an output along one axis, clamped to `last`.
    __device__ float place(int a, const int (&o)[3], int last) const {
        const float* r = h->rotation + 3 * a;
        const float x = floats(h, 0)[2 * o[0]], y = floats(h, 1)[2 * o[1]], z = floats(h, 2)[2 * o[2]];
        const float start = add(add(h->middle[a], mul(r[0], x)), mul(r[1], y));
        return fminf(fmaxf(add(start, mul(z, r[2])), 0.0f), static_cast<float>(last));
    }
    __device__ float weight(const int (&o)[3]) const {
        const float x = floats(h, 0)[2 * o[0] + 1], y = floats(h, 1)[2 * o[1] + 1], z = floats(h, 2)[2 * o[2] + 1];
        return mul(mul(x, y), z);
    }
    // The weight of tap `j` of a sample between two smoothed ones, `taps + 1` in all.
    __device__ static float tap(const float* kernel, int taps, float share, int j) {
        const float low = j < taps ? kernel[j] : 0.0f, high = j > 0 ? kernel[j - 1] : 0.0f;
        return low + share * (high - low);
    }
    // The voxel of the volume for a voxel of the field whose edge is repeated, or -1 for air.
    __device__ int voxel(int a, int at) const {
        const int v = min(max(at, 0), h->field[a] - 1) + h->offset[a];
        return v < h->volume[a] ? v : -1;
    }
    __device__ float image(const short* voxels, const int (&o)[3]) const {
        int low[3];
        float share[3];
        for (int a = 0; a < 3; ++a) {
            const int samples = h->field[a] + (h->taps[a] % 2 == 0);
            const float at = place(a, o, samples - 1);
            // The last sample is reached from the one before it.
            const int cell = min(static_cast<int>(at), max(samples - 2, 0));
            share[a] = sub(at, static_cast<float>(cell));
            low[a] = cell - h->taps[a] / 2;
        }
        const float *kx = floats(h, 3), *ky = floats(h, 4), *kz = floats(h, 5);
        float sum = 0.0f;
        for (int x = 0; x <= h->taps[0]; ++x) {
            const int vx = voxel(0, low[0] + x);
            if (vx < 0) continue;
            float plane = 0.0f;
            for (int y = 0; y <= h->taps[1]; ++y) {
                const int vy = voxel(1, low[1] + y);
                if (vy < 0) continue;
                const short* row = voxels + (static_cast<i64>(vx) * h->volume[1] + vy) * h->volume[2];
                float line = 0.0f;
                for (int z = 0; z <= h->taps[2]; ++z) {
                    const int vz = voxel(2, low[2] + z);
                    if (vz >= 0) line += tap(kz, h->taps[2], share[2], z) * load_hu(row[vz]);
                }
                plane += tap(ky, h->taps[1], share[1], y) * line;
            }
            sum += tap(kx, h->taps[0], share[0], x) * plane;
        }
        return weight(o) * sum;
    }
    __device__ i64 nearest(const int (&o)[3]) const {
        if (weight(o) == 0.0f) return -1;
        i64 at = 0;
        for (int a = 0; a < 3; ++a) {
            const int v = voxel(a, static_cast<int>(add(place(a, o, h->field[a] - 1), 0.5f)));
            if (v < 0) return -1;
            at = at * h->volume[a] + v;
        }
        return at;
    }
};

__device__ __forceinline__ unsigned turn_left(unsigned v, int by) { return v << by | v >> (32 - by); }

__device__ __forceinline__ void quarter(unsigned (&s)[16], int a, int b, int c, int d) {
    s[a] += s[b], s[d] = turn_left(s[d] ^ s[a], 16);
    s[c] += s[d], s[b] = turn_left(s[b] ^ s[c], 12);
    s[a] += s[b], s[d] = turn_left(s[d] ^ s[a], 8);
    s[c] += s[d], s[b] = turn_left(s[b] ^ s[c], 7);
}

// Block `counter` of a stream of ChaCha8 (Bernstein 2008, with eight rounds).
__device__ void chacha8(const unsigned* key, unsigned counter, unsigned stream, unsigned* words) {
    const unsigned start[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, key[0], key[1], key[2], key[3],
                                key[4],     key[5],     key[6],     key[7],     counter, 0,     stream, 0};
    unsigned s[16];
    for (int i = 0; i < 16; ++i) s[i] = start[i];
    for (int round = 0; round < 4; ++round) {
        for (int c = 0; c < 4; ++c) quarter(s, c, 4 + c, 8 + c, 12 + c);
        for (int c = 0; c < 4; ++c) quarter(s, c, 4 + (c + 1) % 4, 8 + (c + 2) % 4, 12 + (c + 3) % 4);
    }
    for (int i = 0; i < 16; ++i) words[i] = s[i] + start[i];
}

// 1 - x/d1 (1 - x/d2 (1 - ...)).
template <int N> __device__ __forceinline__ float taylor(float x, const float (&divisors)[N]) {
    float sum = 1.0f;
    for (int i = N - 1; i >= 0; --i) sum = sub(1.0f, mul(mul(x, __fdiv_rn(1.0f, divisors[i])), sum));
    return sum;
}

// ln((word + 0.5) / 2^32).
__device__ __forceinline__ float ln_of_share(unsigned word) {
    const float share = add(mul(static_cast<float>(word >> 16), 65536.0f), add(static_cast<float>(word & 0xffff), 0.5f));
    const int bits = __float_as_int(share);
    const int exponent = (bits - 0x3f3504f3) >> 23;    // sqrt(1/2): mantissas around 1
    const float mantissa = __int_as_float(bits - (exponent << 23));
    const float half = __fdiv_rn(sub(mantissa, 1.0f), add(mantissa, 1.0f)), square = mul(half, half);
    float series = 1.0f / 9.0f;
    series = add(1.0f / 7.0f, mul(square, series));
    series = add(1.0f / 5.0f, mul(square, series));
    series = add(1.0f / 3.0f, mul(square, series));
    series = add(1.0f, mul(square, series));
    return add(mul(static_cast<float>(exponent - 32), 0.693147180559945309417f), mul(mul(2.0f, half), series));
}

// Two words to two normal numbers (Box and Muller 1958), the polynomials of the host.
__device__ __forceinline__ void normals(unsigned first, unsigned second, float& cosine_part, float& sine_part) {
    const float radius = __fsqrt_rn(fmaxf(mul(-2.0f, ln_of_share(first)), 0.0f));
    const float half = mul(static_cast<float>(static_cast<int>(second)), 1.57079632679489661923f / 2147483648.0f);
    const float square = mul(half, half);
    const float sine = mul(half, taylor(square, {6.0f, 20.0f, 42.0f, 72.0f, 110.0f}));
    const float cosine = taylor(square, {2.0f, 12.0f, 30.0f, 56.0f, 90.0f, 132.0f});
    sine_part = mul(radius, mul(mul(2.0f, sine), cosine));
    cosine_part = mul(radius, sub(1.0f, mul(mul(2.0f, sine), sine)));
}

// A block makes 512 neighbouring outputs of a plane, two a thread: 512 words of the plane's stream
// become the noise of just these, words i and 256 + i that of outputs i and 256 + i.
template <class Sampler> __device__ void image(const short* voxels, const Header* h, float* out) {
    __shared__ unsigned words[512];
    const int cells = h->shape[1] * h->shape[2], chunks = (cells + 511) / 512;
    const int x = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    const bool noisy = h->std != 0.0f;
    if (noisy && threadIdx.x < 32) chacha8(h->key, chunk * 32 + threadIdx.x, x, words + 16 * threadIdx.x);
    const Sampler sampler{h};
    float value[2] = {0.0f, 0.0f};
    for (int half = 0; half < 2; ++half) {
        const int cell = chunk * 512 + half * 256 + threadIdx.x;
        if (cell >= cells) break;
        const int o[3] = {x, cell / h->shape[2], cell % h->shape[2]};
        value[half] = sampler.image(voxels, o);
    }
    if (noisy) {
        __syncthreads();
        float normal[2];
        normals(words[threadIdx.x], words[256 + threadIdx.x], normal[0], normal[1]);
        for (int half = 0; half < 2; ++half) value[half] = add(value[half], add(h->shift, mul(h->std, normal[half])));
    } else {
        for (int half = 0; half < 2; ++half) value[half] = add(value[half], h->shift);
    }
    for (int half = 0; half < 2; ++half) {
        const int cell = chunk * 512 + half * 256 + threadIdx.x;
        if (cell < cells) out[static_cast<i64>(x) * cells + cell] = value[half];
    }
}

// The largest of each cell's voxels, as tokens and their cells: `out` is [questions, L, P] and 0
// before; threads of one cell write the same 1.
template <class Sampler>
__device__ void mask(const unsigned char* voxels, const Header* h, float* out, int questions, int patch, int pool) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const i64 n = static_cast<i64>(h->shape[0]) * h->shape[1] * h->shape[2];
    if (i >= n) return;
    const int o[3] = {static_cast<int>(i / h->shape[2] / h->shape[1]), static_cast<int>(i / h->shape[2] % h->shape[1]),
                      static_cast<int>(i % h->shape[2])};
    const i64 at = Sampler{h}.nearest(o);
    if (at < 0) return;
    const unsigned label = voxels[at];
    i64 token = 0, inner = 0, tokens = 1;
    for (int a = 0; a < 3; ++a) {
        const int cell = o[a] / pool, along = h->shape[a] / (pool * patch);
        token = token * along + cell / patch;
        inner = inner * patch + cell % patch;
        tokens *= along;
    }
    const i64 cells = static_cast<i64>(patch) * patch * patch;
    const unsigned* bits = reinterpret_cast<const unsigned*>(h) + h->labels + label / 32;
    for (int q = 0; q < questions; ++q) {
        if (bits[8 * q] >> (label % 32) & 1) out[(q * tokens + token) * cells + inner] = 1.0f;
    }
}

#define DEFINE(Sampler, suffix)                                                                        \
    extern "C" __global__ void augment_image_##suffix(const short* voxels, const Header* h, float* out) { \
        image<Sampler>(voxels, h, out);                                                                \
    }                                                                                                  \
    extern "C" __global__ void augment_mask_##suffix(                                                  \
        const unsigned char* voxels, const Header* h, float* out, int questions, int patch, int pool) { \
        mask<Sampler>(voxels, h, out, questions, patch, pool);                                         \
    }
DEFINE(Straight, straight)
DEFINE(Turned, turned)
