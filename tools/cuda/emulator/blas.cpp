// libcublas.so.13 for tests: the one product that is used, for f32 and bf16 inputs, with sums in
// double precision.
#include <cuda_bf16.h>

#include <cstddef>
#include <vector>

namespace {
constexpr int NOT_SUPPORTED = 15, R_32F = 0, R_16BF = 14;
int something;

float read(const void* array, int type, size_t at) {
    if (type == R_32F) return static_cast<const float*>(array)[at];
    return __bfloat162float(static_cast<const __nv_bfloat16*>(array)[at]);
}

// op(x) of one sample, row-major [rows, columns], from the column-major array with `ld`.
std::vector<double> matrix(const void* x, int type, int transposed, size_t ld, size_t first, int rows, int columns) {
    std::vector<double> out(static_cast<size_t>(rows) * columns);
    for (int i = 0; i < rows; ++i) {
        for (int j = 0; j < columns; ++j) {
            out[static_cast<size_t>(i) * columns + j] = read(x, type, first + (transposed ? i * ld + j : j * ld + i));
        }
    }
    return out;
}
}  // namespace

extern "C" __attribute__((weak)) int emulator_dry_product(const char* name, size_t threads);

#define API extern "C" int
API cublasCreate_v2(void** handle) { return *handle = &something, 0; }
API cublasDestroy_v2(void*) { return 0; }
API cublasSetStream_v2(void*, void*) { return 0; }
API cublasSetMathMode(void*, int) { return 0; }
API cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
API cublasDgemmStridedBatched() { return NOT_SUPPORTED; }
API cublasGemmStridedBatchedEx(
    void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
    long long a_sample, const void* b, int b_type, int ldb, long long b_sample, const void* beta,
    void* c, int c_type, int ldc, long long c_sample, int samples, int, int) {
    for (const int type : {a_type, b_type, c_type}) {
        if (type != R_32F && type != R_16BF) return NOT_SUPPORTED;
    }
    // The real one refuses inputs of different types, and a leading size smaller than a column.
    if (a_type != b_type || lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7;
    const size_t outputs = static_cast<size_t>(m) * n * samples;
    if (emulator_dry_product && emulator_dry_product("matrix product (threads: outputs)", outputs)) return 0;
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    for (int s = 0; s < samples; ++s) {
        const auto left = matrix(a, a_type, ta, lda, s * a_sample, m, k);
        const auto right = matrix(b, b_type, !tb, ldb, s * b_sample, n, k);
        for (int j = 0; j < n; ++j) {
            for (int i = 0; i < m; ++i) {
                double sum = 0.0;
                const double *x = &left[static_cast<size_t>(i) * k], *y = &right[static_cast<size_t>(j) * k];
                for (int l = 0; l < k; ++l) sum += x[l] * y[l];
                const size_t at = s * c_sample + static_cast<size_t>(j) * ldc + i;
                const float before = keep == 0.0f ? 0.0f : keep * read(c, c_type, at);
                const float value = static_cast<float>(scale * sum) + before;
                if (c_type == R_32F) static_cast<float*>(c)[at] = value;
                else static_cast<__nv_bfloat16*>(c)[at] = __float2bfloat16(value);
            }
        }
    }
    return 0;
}
