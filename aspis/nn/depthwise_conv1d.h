#pragma once

#include <optional>
#include <utility>

#include "aspis/nn/init.h"
#include "aspis/nn/module.h"
#include "aspis/nn/scan_order.h"

namespace aspis {

/// Causal depthwise convolution over tokens with SiLU:
///
///     y_t = silu(bias + sum_k weight_k x_{t-W+1+k})      per channel, in visiting order
///
/// {B, L, channels} -> the same. Parameters: weight {channels, W}, bias {channels}.
class DepthwiseConv1d final : public Module {
 public:
  DepthwiseConv1d(int64_t channels, int64_t width, const Init& init);
  std::string type_name() const override { return "DepthwiseConv1d"; }
  mx::array operator()(const mx::array& x, const ScanDirection& direction = {}) const;
  /// The same with the last W-1 inputs; `state` {B, W-1, channels} are the inputs before the first token.
  std::pair<mx::array, mx::array> prefill(const mx::array& x, const mx::array& state) const;
  /// One token: x {B, channels}; returns {y, next state}.
  std::pair<mx::array, mx::array> step(const mx::array& x, const mx::array& state) const;

  int64_t width() const { return weight.shape(1); }

  mx::array weight, bias;
};

}  // namespace aspis
