// Squeeze-and-excitation's gate: two small matrix products a sample, and their gradients.
//
// A few million multiply-adds for a whole batch, against billions around them: what counts is
// that they are one kernel each way and not a dozen.
#include "common.cuh"

// A block a sample. Warps share out the hidden values, lanes a sum; then threads the channels.
extern "C" __global__ void __launch_bounds__(256) excite_forward(
    const float* mean, const float* w_reduce, const float* b_reduce, const float* w_excite,
    const float* b_excite, float* hidden, float* gate, int channels, int squeezed) {
    DYNAMIC_SHARED(float, active);
    const i64 b = blockIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int j = warp; j < squeezed; j += warps) {
        float sum = 0.0f;
        for (int c = lane; c < channels; c += 32) {
            sum += w_reduce[static_cast<i64>(j) * channels + c] * mean[b * channels + c];
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            const float z = sum + b_reduce[j];
            hidden[b * squeezed + j] = z;
            active[j] = silu(z);
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float z = b_excite[c];
        for (int j = 0; j < squeezed; ++j) z += w_excite[static_cast<i64>(c) * squeezed + j] * active[j];
        gate[b * channels + c] = sigmoid(z);
    }
}

// From the gate's gradient to the means'; leaves the gradients of both products' results.
extern "C" __global__ void __launch_bounds__(256) excite_backward(
    const float* hidden, const float* gate, const float* dgate, const float* w_reduce,
    const float* w_excite, float* dlogit, float* dhidden, float* dmean, int channels, int squeezed) {
    DYNAMIC_SHARED(float, slope);
    const i64 b = blockIdx.x;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        const float g = gate[b * channels + c];
        dlogit[b * channels + c] = dgate[b * channels + c] * g * (1.0f - g);
    }
    __syncthreads();
    for (int j = warp; j < squeezed; j += warps) {
        float sum = 0.0f;
        for (int c = lane; c < channels; c += 32) {
            sum += w_excite[static_cast<i64>(c) * squeezed + j] * dlogit[b * channels + c];
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            const float d = sum * silu_slope(hidden[b * squeezed + j]);
            dhidden[b * squeezed + j] = d;
            slope[j] = d;
        }
    }
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float sum = 0.0f;
        for (int j = 0; j < squeezed; ++j) sum += w_reduce[static_cast<i64>(j) * channels + c] * slope[j];
        dmean[b * channels + c] = sum;
    }
}

// A thread for each pair of a channel and a hidden value; the first of either also takes a bias.
extern "C" __global__ void excite_parameters(
    const float* mean, const float* hidden, const float* dlogit, const float* dhidden,
    float* w_reduce, float* b_reduce, float* w_excite, float* b_excite, int samples, int channels,
    int squeezed) {
    const i64 i = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= static_cast<i64>(channels) * squeezed) return;
    const int c = static_cast<int>(i / squeezed), j = static_cast<int>(i % squeezed);
    float reduce = 0.0f, excite = 0.0f, reduce_bias = 0.0f, excite_bias = 0.0f;
    for (int b = 0; b < samples; ++b) {
        const float l = dlogit[static_cast<i64>(b) * channels + c];
        const float h = dhidden[static_cast<i64>(b) * squeezed + j];
        excite += l * silu(hidden[static_cast<i64>(b) * squeezed + j]);
        reduce += h * mean[static_cast<i64>(b) * channels + c];
        excite_bias += l;
        reduce_bias += h;
    }
    w_excite[i] = excite;
    w_reduce[static_cast<i64>(j) * channels + c] = reduce;
    if (j == 0) b_excite[c] = excite_bias;
    if (c == 0) b_reduce[j] = reduce_bias;
}
