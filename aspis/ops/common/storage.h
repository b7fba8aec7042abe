#pragma once

#include "aspis/ops/common/primitive.h"
#include "aspis/simd/bf16.h"

/// For operators whose kernels read and write bfloat16 themselves.
namespace aspis::ops {

/// How an operator keeps activations: float64 if any input is, else bfloat16 if
/// `x` is, else float32. Throws as `compute_dtype` does.
inline mx::Dtype storage_dtype(const char* op, const mx::array& x,
                               std::initializer_list<std::pair<const char*, const mx::array*>> inputs) {
  const mx::Dtype dtype = compute_dtype(op, inputs);
  return dtype == mx::float32 && x.dtype() == mx::bfloat16 ? mx::bfloat16 : dtype;
}

/// The dtype of weights, statistics and sums beside activations kept as `storage`.
inline mx::Dtype arithmetic_dtype(mx::Dtype storage) { return storage == mx::bfloat16 ? mx::float32 : storage; }

/// Calls `f(S{})` with S = float, double or Bf16.
template <typename F>
void dispatch_storage(mx::Dtype dtype, F&& f) {
  if (dtype == mx::float64) {
    f(double{});
  } else if (dtype == mx::bfloat16) {
    f(Bf16{});
  } else {
    f(float{});
  }
}

}  // namespace aspis::ops
