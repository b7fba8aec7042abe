#pragma once

#include <cmath>

#include "aspis/base/rng.h"
#include "aspis/ops/elementwise/kernel/params.h"

namespace aspis::kernel {

/// The definitions, one element at a time: the oracle of the tests.
template <typename T>
T pointwise_reference(Pointwise kind, T x) {
  switch (kind) {
    case Pointwise::kRelu:
      return x < 0 ? T(0) : x;
    case Pointwise::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Pointwise::kTanh:
      return std::tanh(x);
    case Pointwise::kSoftplus:
      return x > 20 ? x : std::log1p(std::exp(x));
  }
  return x;
}

template <typename T>
T pointwise_gradient_reference(Pointwise kind, T x) {
  switch (kind) {
    case Pointwise::kRelu:
      return x <= 0 ? T(0) : T(1);
    case Pointwise::kSigmoid:
      return 1 / (1 + std::exp(-x)) / (1 + std::exp(x));
    case Pointwise::kTanh:
      return 1 / (std::cosh(x) * std::cosh(x));
    case Pointwise::kSoftplus:
      return x > 20 ? T(1) : 1 / (1 + std::exp(-x));
  }
  return x;
}

template <typename T>
void combine_reference(const CombineParams<T>& p) {
  constexpr int kAxes = CombineParams<T>::kAxes;
  int64_t n = 1;
  for (const int64_t size : p.sizes) n *= size;
  for (int64_t i = 0; i < n; i++) {
    int64_t a = 0, b = 0, c = 0, rest = i;
    for (int axis = kAxes - 1; axis >= 0; axis--) {
      const int64_t k = rest % p.sizes[axis];
      rest /= p.sizes[axis];
      a += k * p.a_strides[axis], b += k * p.b_strides[axis], c += k * p.c_strides[axis];
    }
    p.y[i] = p.kind == Combine::kAdd        ? p.a[a] + p.b[b]
             : p.kind == Combine::kMultiply ? p.a[a] * p.b[b]
                                            : p.a[a] * p.b[b] + p.c[c];
  }
}

/// Values are taken 64 at a time: value i belongs to counter i / 64 * 16 + i % 16
/// of Philox4x32-10, and to its word i % 64 / 16.
inline uint32_t dropout_word(uint64_t key, uint64_t stream, int64_t i) {
  const auto counter = static_cast<uint64_t>(i / 64 * 16 + i % 16);
  const auto block = philox4x32({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                                 static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                                {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)});
  return block[static_cast<size_t>(i % 64 / 16)];
}

/// Words below this are dropped.
inline uint32_t dropout_threshold(double rate) {
  return static_cast<uint32_t>(std::min(rate * 4294967296.0, 4294967295.0));
}

template <typename T>
void dropout_reference(const DropoutParams<T>& p) {
  for (int64_t i = 0; i < p.n; i++) {
    const bool keep = dropout_word(p.key, p.stream, i) >= dropout_threshold(p.rate);
    p.y[i] = keep ? p.x[i] * static_cast<T>(1 / (1 - p.rate)) : T(0);
  }
}

}  // namespace aspis::kernel
