// libcurand.so.10 for tests.
#include <cmath>
#include <cstddef>
#include <random>

namespace {
std::mt19937_64 engine(299792458);
}

#define API extern "C" int
API curandCreateGenerator(void** generator, int) { return *generator = &engine, 0; }
API curandDestroyGenerator(void*) { return 0; }
API curandSetStream(void*, void*) { return 0; }
API curandSetPseudoRandomGeneratorSeed(void*, unsigned long long seed) { return engine.seed(seed), 0; }
API curandGenerateUniform(void*, float* values, size_t n) {
    std::uniform_real_distribution<float> draw(0.0f, 1.0f);
    for (size_t i = 0; i < n; ++i) values[i] = 1.0f - draw(engine);
    return 0;
}
API curandGenerateNormal(void*, float* values, size_t n, float mean, float deviation) {
    std::normal_distribution<float> draw(mean, deviation);
    for (size_t i = 0; i < n; ++i) values[i] = draw(engine);
    return 0;
}
API curandGenerateUniformDouble() { return 1; }
API curandGenerateNormalDouble() { return 1; }
