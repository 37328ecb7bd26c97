// Runs the blocks of a kernel launch on the host, one after another, the threads of a block as
// fibers of one host thread. C++17 and POSIX.
//
// A worker fiber runs thread after thread until one waits (at a barrier or for its warp); then it
// belongs to that thread, and a fresh worker goes on with the next. So kernels without barriers
// cost a loop, and others a switch a wait. EMULATOR_ORDER chooses who goes first: 0 ascending, 1
// descending, 2 shuffled each time; a missing barrier shows in one of them.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

namespace emulator {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;

enum class At { start, running, block, warp, end };

struct Fiber {
    std::unique_ptr<uint8_t[]> stack{new uint8_t[STACK]};
    ucontext_t context{};
    jmp_buf resume;
    bool entered = false;
};

// What a lane has of matrices: up to six registers.
using Words = std::array<uint32_t, 6>;

struct Machine {
    uint3 thread{}, block{};
    dim3 threads{}, blocks{};
    unsigned current = 0, count = 0;
    std::vector<uint8_t> shared;
    std::vector<At> at;
    std::vector<Fiber*> fiber;          // of each waiting thread
    std::vector<uint64_t> exchanged;    // a slot a thread, for shuffles
    std::vector<Words> shared_words;    // the same for matrices that a warp holds together
    std::vector<std::unique_ptr<Fiber>> all;
    std::vector<Fiber*> idle;
    std::vector<unsigned> queue;        // threads that have not begun, last first
    jmp_buf scheduler;
    const std::function<void()>* body = nullptr;
    Fiber* active = nullptr;
    unsigned random = 12345;
    int order = std::getenv("EMULATOR_ORDER") ? std::atoi(std::getenv("EMULATOR_ORDER")) : 0;
};

inline Machine& machine() {
    static Machine m;
    return m;
}

[[noreturn]] inline void fail(const char* what) {
    const Machine& m = machine();
    std::fprintf(stderr, "emulator: %s in block (%u, %u, %u), thread %u\n", what, m.block.x,
                 m.block.y, m.block.z, m.current);
    std::abort();
}

inline void become(unsigned thread) {
    Machine& m = machine();
    m.current = thread;
    m.thread.x = thread % m.threads.x;
    m.thread.y = thread / m.threads.x % m.threads.y;
    m.thread.z = thread / (m.threads.x * m.threads.y);
    m.at[thread] = At::running;
}

// What a worker does: threads from the queue, until none is left.
inline void work() {
    Machine& m = machine();
    for (;;) {
        while (!m.queue.empty()) {
            const unsigned next = m.queue.back();
            m.queue.pop_back();
            become(next);
            (*m.body)();
            m.at[m.current] = At::end;
            // A thread that waited came back by the scheduler, which decides what goes on.
            if (m.fiber[m.current]) break;
        }
        Fiber* own = m.active;
        m.fiber[m.current] = nullptr;
        m.idle.push_back(own);
        if (_setjmp(own->resume) == 0) _longjmp(m.scheduler, 1);
    }
}

inline void enter(Fiber* fiber) {
    Machine& m = machine();
    m.active = fiber;
    if (_setjmp(m.scheduler) != 0) return;
    if (fiber->entered) _longjmp(fiber->resume, 1);
    fiber->entered = true;
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, work, 0);
    setcontext(&fiber->context);
}

inline void wait(At where) {
    Machine& m = machine();
    m.at[m.current] = where;
    m.fiber[m.current] = m.active;
    Fiber* own = m.active;
    if (_setjmp(own->resume) == 0) _longjmp(m.scheduler, 1);
}

// The order of threads this time round.
inline std::vector<unsigned> order() {
    Machine& m = machine();
    std::vector<unsigned> list(m.count);
    std::iota(list.begin(), list.end(), 0u);
    if (m.order == 1) std::reverse(list.begin(), list.end());
    if (m.order == 2) {
        for (unsigned i = m.count; i > 1; --i) {
            m.random = m.random * 1664525u + 1013904223u;
            std::swap(list[i - 1], list[(m.random >> 8) % i]);
        }
    }
    return list;
}

inline Fiber* worker() {
    Machine& m = machine();
    if (m.idle.empty()) {
        m.all.emplace_back(new Fiber);
        return m.all.back().get();
    }
    Fiber* fiber = m.idle.back();
    m.idle.pop_back();
    return fiber;
}

// Frees the warps all of whose living threads wait for each other; whether any did.
inline bool release_warps() {
    Machine& m = machine();
    bool some = false;
    for (unsigned first = 0; first < m.count; first += WARP) {
        const unsigned last = std::min(m.count, first + WARP);
        unsigned waiting = 0, ended = 0;
        for (unsigned i = first; i < last; ++i) {
            waiting += m.at[i] == At::warp;
            ended += m.at[i] == At::end;
        }
        if (waiting == 0 || waiting + ended != last - first) continue;
        for (unsigned i = first; i < last; ++i) {
            if (m.at[i] == At::warp) m.at[i] = At::running;
        }
        some = true;
    }
    return some;
}

inline void run_block() {
    Machine& m = machine();
    m.at.assign(m.count, At::start);
    m.fiber.assign(m.count, nullptr);
    m.queue = order();
    std::reverse(m.queue.begin(), m.queue.end());
    while (!m.queue.empty()) enter(worker());
    for (;;) {
        unsigned ended = 0, waiting = 0;
        for (const At at : m.at) {
            ended += at == At::end;
            waiting += at == At::block;
        }
        if (ended == m.count) return;
        if (!release_warps()) {
            // Threads that have ended do not hold up a barrier on a device either, but a kernel
            // that relies on it is hard to read: refused.
            if (waiting != m.count) fail("threads wait at different barriers");
            m.at.assign(m.count, At::running);
        }
        for (const unsigned i : order()) {
            if (m.at[i] != At::running || !m.fiber[i]) continue;
            become(i);
            enter(m.fiber[i]);
        }
    }
}

inline void launch(dim3 blocks, dim3 threads, size_t shared, const std::function<void()>& body) {
    Machine& m = machine();
    m.blocks = blocks;
    m.threads = threads;
    m.count = threads.x * threads.y * threads.z;
    m.body = &body;
    m.exchanged.assign(m.count, 0);
    m.shared_words.assign((m.count + WARP - 1) / WARP * WARP, Words{});
    for (unsigned z = 0; z < blocks.z; ++z) {
        for (unsigned y = 0; y < blocks.y; ++y) {
            for (unsigned x = 0; x < blocks.x; ++x) {
                m.block = {x, y, z};
                m.shared.assign(shared + 16, 0xFF);    // NaN until written
                run_block();
            }
        }
    }
}

inline void* dynamic_shared() {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(machine().shared.data()) + 15) / 16 * 16);
}

// The value of another lane; all of a warp must come here.
template <class T> T exchange(T value, unsigned lane, bool keep) {
    static_assert(sizeof(T) <= 8, "one slot a thread");
    Machine& m = machine();
    const unsigned own = m.current, first = own / WARP * WARP;
    std::memcpy(&m.exchanged[own], &value, sizeof value);
    wait(At::warp);
    T other = value;
    if (!keep && first + lane < m.count) std::memcpy(&other, &m.exchanged[first + lane], sizeof other);
    wait(At::warp);
    return other;
}

// Calls `f` with what each lane of the warp holds; all of a warp must come here.
template <class F> void with_warp(const Words& own, F f) {
    Machine& m = machine();
    m.shared_words[m.current] = own;
    wait(At::warp);
    f(&m.shared_words[m.current / WARP * WARP]);
    wait(At::warp);
}

}  // namespace emulator
