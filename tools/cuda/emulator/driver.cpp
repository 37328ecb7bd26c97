// libcuda.so.1 for tests: the device's memory is the host's, and a launch runs the kernel of that
// name, compiled for the host, before it returns. As much of the driver's interface as candle uses.
//
// What a device would forgive or do at random is an error here: memory is NaN until written, every
// array ends in a fence that is looked at when it is freed, and a launch beyond an H100's limits is
// refused.
//
// EMULATOR_DRY=1 starts nothing and touches no array: a program's launches are counted by name, and
// the most memory that it had at a time and what that was, whatever the size of its arrays; standard
// error has them at the end. What such a program computes means nothing.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include "threads.hpp"
//
#include <mutex>

#include "registry.hpp"

namespace emulator {
std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}
}  // namespace emulator

namespace {
constexpr int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500;
constexpr size_t FENCE = 256;
constexpr uint8_t FENCE_BYTE = 0xA5;
constexpr size_t LARGEST_SHARED = 48 << 10;

std::recursive_mutex lock;
int something;
void* current = nullptr;
using Address = unsigned long long;

// What a dry run counts.
struct Count {
    size_t launches = 0, threads = 0;
};
struct Dry {
    const bool on = std::getenv("EMULATOR_DRY") != nullptr;
    std::map<std::string, Count> kernels;
    std::map<Address, size_t> arrays;
    std::map<size_t, size_t> at_peak;  // arrays by size
    size_t bytes = 0, peak = 0, copies = 0;

    int allocate(Address* address, size_t size) {
        void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return OUT_OF_MEMORY;
        arrays[*address = reinterpret_cast<Address>(at)] = size;
        // A device's pool deals out pieces of 512 bytes.
        bytes += (size + 511) / 512 * 512;
        if (bytes > peak) {
            peak = bytes;
            at_peak.clear();
            for (const auto& [where, size] : arrays) ++at_peak[size];
        }
        return 0;
    }
    int release(Address address) {
        const auto found = arrays.find(address);
        if (found == arrays.end()) return 0;
        bytes -= (found->second + 511) / 512 * 512;
        munmap(reinterpret_cast<void*>(address), found->second);
        arrays.erase(found);
        return 0;
    }
    ~Dry() {
        if (!on) return;
        size_t all = 0;
        for (const auto& [name, count] : kernels) all += count.launches;
        std::fprintf(stderr, "dry run: %.3f GiB at most, %zu launches, %zu copies and fills\n",
                     static_cast<double>(peak) / (1 << 30), all, copies);
        for (const auto& [name, count] : kernels) {
            std::fprintf(stderr, "%8zu launches, %12zu threads: %s\n", count.launches, count.threads, name.c_str());
        }
        std::fprintf(stderr, "the largest arrays at that time:\n");
        size_t shown = 0;
        for (auto found = at_peak.rbegin(); found != at_peak.rend() && shown < 24; ++found, ++shown) {
            std::fprintf(stderr, "%8zu of %12zu bytes\n", found->second, found->first);
        }
    }
} dry;

// [size, padding][array][fence], the array aligned as a device would.
int allocate(Address* address, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (dry.on) return dry.allocate(address, bytes);
    auto* whole = static_cast<uint8_t*>(std::aligned_alloc(FENCE, (bytes + 3 * FENCE - 1) / FENCE * FENCE));
    std::memcpy(whole, &bytes, sizeof bytes);
    std::memset(whole + sizeof bytes, FENCE_BYTE, FENCE - sizeof bytes);
    std::memset(whole + FENCE, 0xFF, bytes);
    std::memset(whole + FENCE + bytes, FENCE_BYTE, FENCE);
    *address = reinterpret_cast<Address>(whole + FENCE);
    return 0;
}

int release(Address address) {
    if (address == 0) return 0;
    if (dry.on) return dry.release(address);
    auto* array = reinterpret_cast<uint8_t*>(address);
    uint8_t* whole = array - FENCE;
    size_t bytes;
    std::memcpy(&bytes, whole, sizeof bytes);
    for (size_t i = 0; i < FENCE; ++i) {
        const bool before = i >= sizeof bytes && whole[i] != FENCE_BYTE;
        if (before || array[bytes + i] != FENCE_BYTE) {
            std::fprintf(stderr, "emulator: a kernel wrote outside an array of %zu bytes\n", bytes);
            std::abort();
        }
    }
    std::free(whole);
    return 0;
}
}  // namespace

// For the matrix products, which are a library of their own: whether to count one instead.
extern "C" int emulator_dry_product(const char* name, size_t threads) {
    if (!dry.on) return 0;
    const std::lock_guard<std::recursive_mutex> guard(lock);
    Count& count = dry.kernels[name];
    count.launches += 1;
    count.threads += threads;
    return 1;
}

#define API extern "C" int
API cuInit(unsigned) { return 0; }
API cuDriverGetVersion(int* version) { return *version = 13000, 0; }
API cuDeviceGetCount(int* count) { return *count = 1, 0; }
API cuDeviceGet(int* device, int number) { return *device = number, number == 0 ? 0 : INVALID_DEVICE; }
API cuDeviceGetName(char* name, int length, int) { return std::snprintf(name, length, "emulated"), 0; }
API cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 1: *value = 1024; break;           // threads of a block
        case 10: *value = 32; break;            // threads of a warp
        case 16: *value = 132; break;           // multiprocessors
        case 75: *value = 9; break;             // compute capability
        case 115: *value = 1; break;            // memory pools
        default: *value = 0;
    }
    return 0;
}
API cuDevicePrimaryCtxRetain(void** context, int) { return *context = &something, 0; }
API cuDevicePrimaryCtxRelease_v2(int) { return 0; }
API cuCtxSetCurrent(void* context) { return current = context, 0; }
API cuCtxGetCurrent(void** context) { return *context = current, 0; }
API cuCtxDestroy_v2(void*) { return 0; }
API cuCtxSynchronize() { return 0; }
API cuGetErrorName(int, const char** name) { return *name = "EMULATOR_ERROR", 0; }
API cuGetErrorString(int, const char** text) { return *text = "the emulated driver refused", 0; }
API cuEventCreate(void** event, unsigned) { return *event = &something, 0; }
API cuEventDestroy_v2(void*) { return 0; }
API cuEventRecord(void*, void*) { return 0; }
API cuEventSynchronize(void*) { return 0; }
API cuEventQuery(void*) { return 0; }
API cuStreamCreate(void** stream, unsigned) { return *stream = &something, 0; }
API cuStreamDestroy_v2(void*) { return 0; }
API cuStreamSynchronize(void*) { return 0; }
API cuStreamWaitEvent(void*, void*, unsigned) { return 0; }
API cuStreamIsCapturing(void*, int* status) { return *status = 0, 0; }
API cuDeviceGetDefaultMemPool(void** pool, int) { return *pool = &something, 0; }
API cuMemGetInfo_v2(size_t* left, size_t* all) { return *left = *all = size_t(80) << 30, 0; }
API cuMemPoolSetAttribute(void*, int, void*) { return 0; }
API cuMemAlloc_v2(Address* address, size_t bytes) { return allocate(address, bytes); }
API cuMemAllocAsync(Address* address, size_t bytes, void*) { return allocate(address, bytes); }
API cuMemFree_v2(Address address) { return release(address); }
API cuMemFreeAsync(Address address, void*) { return release(address); }
API cuMemHostAlloc(void** host, size_t bytes, unsigned) { return *host = std::malloc(bytes), 0; }
API cuMemFreeHost(void* host) { return std::free(host), 0; }
API cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t n, void*) {
    if (dry.on) return ++dry.copies, 0;
    return std::memcpy(reinterpret_cast<void*>(to), from, n), 0;
}
API cuMemcpyDtoHAsync_v2(void* to, Address from, size_t n, void*) {
    if (dry.on) return ++dry.copies, std::memset(to, 0, n), 0;
    return std::memcpy(to, reinterpret_cast<void*>(from), n), 0;
}
API cuMemcpyDtoDAsync_v2(Address to, Address from, size_t n, void*) {
    if (dry.on) return ++dry.copies, 0;
    return std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), n), 0;
}
API cuMemcpyPeerAsync(Address to, void*, Address from, void*, size_t n, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, n, stream);
}
API cuMemsetD8Async(Address to, unsigned char value, size_t n, void*) {
    if (dry.on) return ++dry.copies, 0;
    return std::memset(reinterpret_cast<void*>(to), value, n), 0;
}
API cuModuleLoad(void** module, const char*) { return *module = &something, 0; }
API cuModuleLoadData(void** module, const void*) { return *module = &something, 0; }
API cuModuleUnload(void*) { return 0; }
API cuModuleGetFunction(void** function, void*, const char* name) {
    const auto found = emulator::kernels().find(name);
    if (found == emulator::kernels().end()) {
        std::fprintf(stderr, "emulator: there is no kernel %s\n", name);
        return NOT_FOUND;
    }
    return *function = &*found, 0;
}
API cuFuncSetAttribute(void*, int, int) { return 0; }
API cuFuncGetAttribute(int* value, int, void*) { return *value = 0, 0; }
API cuLaunchKernel(void* function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty,
                   unsigned tz, unsigned shared, void*, void** arguments, void**) {
    const std::lock_guard<std::recursive_mutex> guard(lock);
    using Entry = std::pair<const std::string, emulator::Kernel>;
    const auto& [name, kernel] = *static_cast<Entry*>(function);
    const bool empty = bx == 0 || by == 0 || bz == 0 || tx == 0 || ty == 0 || tz == 0;
    if (empty || tx * ty * tz > 1024 || bx > 0x7FFFFFFF || by > 65535 || bz > 65535 || shared > LARGEST_SHARED) {
        std::fprintf(stderr, "emulator: %s: impossible launch of (%u, %u, %u) blocks of (%u, %u, %u), %u bytes\n",
                     name.c_str(), bx, by, bz, tx, ty, tz, shared);
        return INVALID_VALUE;
    }
    if (dry.on) {
        Count& count = dry.kernels[name];
        count.launches += 1;
        count.threads += size_t(bx) * by * bz * tx * ty * tz;
        return 0;
    }
    const auto& run = kernel;
    emulator::launch(dim3(bx, by, bz), dim3(tx, ty, tz), shared, [&] { run(arguments); });
    return 0;
}
