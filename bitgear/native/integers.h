// Arithmetic on sizes. Not for files that are compiled for an instruction set: what they emit, all of the program may
// use.
#pragma once

#include <cstddef>

namespace bitgear {

inline std::size_t sz(int n) { return static_cast<std::size_t>(n); }

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

constexpr int round_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

}  // namespace bitgear
