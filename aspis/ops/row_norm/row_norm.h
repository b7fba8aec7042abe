#pragma once

#include <mlx/array.h>

#include <optional>
#include <vector>

namespace aspis::ops {

namespace mx = mlx::core;

/// One layer or RMS norm as a node of the graph, checked already.
struct RowNormCall {
  bool center = true;  ///< layer norm; false: RMS norm
  float eps = 0;
  std::optional<mx::array> residual = {};           ///< of x's shape: what is normalised is x + residual
  std::optional<mx::array> weight = {}, bias = {};  ///< {N}
};

/// {norm(x)}, or {norm(x + residual), x + residual}, over the last axis by the CPU
/// kernel. x is computed in `storage` (see `storage_dtype`) and the results have
/// x's dtype.
std::vector<mx::array> row_norm(const mx::array& x, const RowNormCall& call, mx::Dtype storage, mx::Stream s);

/// The norm over axis 1 of x {B, N, ...}, without a residual.
mx::array column_norm(const mx::array& x, const RowNormCall& call, mx::Dtype storage, mx::Stream s);

}  // namespace aspis::ops
