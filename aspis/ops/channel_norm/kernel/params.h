#pragma once

#include <cstdint>

#include "aspis/simd/activation.h"
#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// Norm of a dense {samples, rows, channels} array over the rows of a sample and
/// the channels of a group:
///
///     y = act((x - mean) / sqrt(var + eps) * weight + bias + residual)
///
/// Batch norm is one sample whose groups are single channels, instance norm the
/// same with one sample per image, group norm the rest. S is float, double or
/// Bf16; weights, statistics and scratch are kept in the arithmetic type.
template <typename S>
struct ChannelNormParams {
  using T = Arithmetic<S>;
  int64_t samples = 1, rows = 0, channels = 0, groups = 0;
  double eps = 0;
  Activation activation = Activation::kNone;
  const S* x = nullptr;
  const S* residual = nullptr;  ///< of x's shape, or null
  const T* weight = nullptr;    ///< {channels}, or null for ones
  const T* bias = nullptr;      ///< {channels}, or null for zeros
  /// Statistics that are given instead of taken from x: {channels}, with one
  /// sample and groups = channels; or null.
  const T *given_mean = nullptr, *given_var = nullptr;
  S* y = nullptr;
  T *mean = nullptr, *rstd = nullptr;  ///< {samples, groups}: mean and 1 / sqrt(var + eps)
  /// Running statistics, followed with the unbiased variance: new = (1 - momentum)
  /// old + momentum batch. {channels}, one sample, groups = channels; or null.
  double momentum = 0;
  const T *running_mean = nullptr, *running_var = nullptr;
  T *new_mean = nullptr, *new_var = nullptr;
  T* scratch = nullptr;  ///< channel_norm_scratch values
};

/// Gradients for dy, with g = dy act'(.), n values in a group:
///
///     dresidual = g,  dbias = sum g,  dweight = sum g (x - mean) rstd
///     dx = rstd (g w - sum(g w) / n - (x - mean) rstd^2 sum(g w (x - mean)) / n)
///
/// and dx = rstd w g where the statistics are given.
template <typename S>
struct ChannelNormVjpParams {
  using T = Arithmetic<S>;
  int64_t samples = 1, rows = 0, channels = 0, groups = 0;
  bool given = false;
  Activation activation = Activation::kNone;
  const S *x = nullptr, *dy = nullptr;
  const S* residual = nullptr;                 ///< needed with an activation if there was one
  const T *weight = nullptr, *bias = nullptr;  ///< or null; the bias is needed with an activation
  const T *mean = nullptr, *rstd = nullptr;    ///< from the forward pass
  S *dx = nullptr, *dresidual = nullptr;       ///< dresidual or null
  T *dweight = nullptr, *dbias = nullptr;      ///< {channels}, or null
  T* scratch = nullptr;                        ///< channel_norm_scratch values
};

}  // namespace aspis::kernel
