// The kernels by name.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>

namespace emulator {

using Kernel = std::function<void(void**)>;

std::map<std::string, Kernel>& kernels();

template <class... A, size_t... I>
void call(void (*f)(A...), void** arguments, std::index_sequence<I...>) {
    f(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}

template <class... A> bool add(const char* name, void (*f)(A...)) {
    // Modules are one here: two kernels of one name could not be told apart.
    if (kernels().count(name) != 0) std::fprintf(stderr, "emulator: two kernels %s\n", name), std::abort();
    kernels()[name] = [f](void** arguments) { call(f, arguments, std::index_sequence_for<A...>{}); };
    return true;
}

}  // namespace emulator
