#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace aspis {

/// A bfloat16 as it lies in memory: the upper half of a float32. Kernels read
/// and write it and compute in float.
struct Bf16 {
  uint16_t bits;
  friend bool operator==(const Bf16&, const Bf16&) = default;
};
static_assert(sizeof(Bf16) == 2 && std::is_trivially_copyable_v<Bf16>);

inline float to_float(Bf16 v) {
  const uint32_t word = static_cast<uint32_t>(v.bits) << 16;
  float f;
  std::memcpy(&f, &word, sizeof f);
  return f;
}

/// Rounds to nearest, ties to even; a NaN stays one.
inline Bf16 to_bf16(float f) {
  uint32_t word;
  std::memcpy(&word, &f, sizeof word);
  if ((word & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((word >> 16) | 0x40u)};
  return {static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16)};
}

namespace detail {
template <typename S>
struct ArithmeticOf {
  using type = S;
};
template <>
struct ArithmeticOf<Bf16> {
  using type = float;
};
}  // namespace detail

/// The type a kernel computes in for values stored as S: float for Bf16, else S.
template <typename S>
using Arithmetic = typename detail::ArithmeticOf<S>::type;

/// One stored value, and back: for references and scalar tails.
template <typename S>
Arithmetic<S> load_value(const S& v) {
  if constexpr (std::is_same_v<S, Bf16>) {
    return to_float(v);
  } else {
    return v;
  }
}
template <typename S>
void store_value(S& to, Arithmetic<S> v) {
  if constexpr (std::is_same_v<S, Bf16>) {
    to = to_bf16(v);
  } else {
    to = v;
  }
}

}  // namespace aspis
