#pragma once

#include <array>
#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// Functions of one value. Softplus is the identity above 20, as in PyTorch.
enum class Pointwise : uint8_t { kRelu, kSigmoid, kTanh, kSoftplus };

/// y = f(x) over n contiguous values; `x` and `y` may be the same. S is float,
/// double or Bf16.
template <typename S>
struct PointwiseParams {
  Pointwise kind = Pointwise::kRelu;
  int64_t n = 0;
  const S* x = nullptr;
  S* y = nullptr;
};

/// dx = dy f'(x). The derivative of relu at 0 is 0.
template <typename S>
struct PointwiseVjpParams {
  Pointwise kind = Pointwise::kRelu;
  int64_t n = 0;
  const S *x = nullptr, *dy = nullptr;
  S* dx = nullptr;
};

enum class Combine : uint8_t { kAdd, kMultiply, kMultiplyAdd };

/// y = a + b, a b or a b + c over `sizes` (any of them 1), y dense. An input
/// advances by its strides; along the last axis `a` has stride 1 and the others 1
/// or 0.
template <typename S>
struct CombineParams {
  static constexpr int kAxes = 5;
  using Strides = std::array<int64_t, kAxes>;
  Combine kind = Combine::kAdd;
  std::array<int64_t, kAxes> sizes{1, 1, 1, 1, 1};
  const S *a = nullptr, *b = nullptr, *c = nullptr;
  Strides a_strides{}, b_strides{}, c_strides{};
  S* y = nullptr;
};

/// y = x / (1 - rate), or 0 with probability `rate`: whether a value is dropped is a
/// function of (key, stream, its index) alone. The gradient is the same map.
template <typename S>
struct DropoutParams {
  int64_t n = 0;
  double rate = 0;  ///< in [0, 1)
  uint64_t key = 0, stream = 0;
  const S* x = nullptr;
  S* y = nullptr;
};

/// y = x in another storage type.
template <typename From, typename To>
struct CastParams {
  int64_t n = 0;
  const From* x = nullptr;
  To* y = nullptr;
};

}  // namespace aspis::kernel
