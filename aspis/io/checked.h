#pragma once

#include <cstdint>

namespace aspis {

/// `a * b` and `a + b` of non-negative values; false if the result does not fit.
/// The only way in which readers compute with numbers from a file.
inline bool checked_mul(int64_t a, int64_t b, int64_t* out) { return !__builtin_mul_overflow(a, b, out); }
inline bool checked_add(int64_t a, int64_t b, int64_t* out) { return !__builtin_add_overflow(a, b, out); }

}  // namespace aspis
