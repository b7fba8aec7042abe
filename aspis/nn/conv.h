#pragma once

#include <array>
#include <optional>

#include "aspis/nn/init.h"
#include "aspis/nn/module.h"
#include "aspis/simd/activation.h"

namespace aspis {

/// Sizes of a square 2-D convolution.
struct Conv2dConfig {
  int64_t in = 0, out = 0;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t groups = 1;
  bool bias = true;
};

/// 2-D convolution over channel-last images: {B, H, W, in} -> {B, H', W', out}.
/// Parameters: weight {out, k, k, in / groups}, bias {out} if asked for.
class Conv2d final : public Module {
 public:
  Conv2d(const Conv2dConfig& config, const Init& init);
  std::string type_name() const override { return "Conv2d"; }
  mx::array operator()(const mx::array& x) const { return apply(x, weight, bias); }
  /// The same with other weights of the same shape: activation(conv(x)) + residual.
  mx::array apply(const mx::array& x, const mx::array& w, const std::optional<mx::array>& b,
                  Activation activation = Activation::kNone,
                  const std::optional<mx::array>& residual = std::nullopt) const;
  const Conv2dConfig& config() const { return config_; }

  mx::array weight;
  std::optional<mx::array> bias;

 private:
  Conv2dConfig config_;
};

/// Batch norm over all axes but the last (Ioffe and Szegedy 2015). In training
/// the statistics are those of the batch, and the running ones follow them,
/// new = (1 - momentum) old + momentum batch, with the unbiased variance as in
/// PyTorch; in inference the running ones are used.
///
/// Parameters: weight, bias; buffers: running_mean, running_var; all {channels}.
class BatchNorm final : public Module {
 public:
  BatchNorm(int64_t channels, const Init& init, float epsilon = 1e-5f, float momentum = 0.1f);
  std::string type_name() const override { return "BatchNorm"; }
  /// act(norm(x) + residual), in one pass over the data after the statistics.
  mx::array operator()(const mx::array& x, Activation activation = Activation::kNone,
                       const std::optional<mx::array>& residual = std::nullopt) const;
  /// act(norm(conv(x)) + residual). In inference the norm is folded into the weights of the
  /// convolution, so that it costs nothing.
  mx::array after(const Conv2d& conv, const mx::array& x, Activation activation = Activation::kNone,
                  const std::optional<mx::array>& residual = std::nullopt) const;

  mx::array weight, bias;
  /// They change in a forward pass in training and must be evaluated with the step's results.
  mutable mx::array running_mean, running_var;

 private:
  /// Inference as y = x factor + shift.
  mx::array factor() const;

  float epsilon_, momentum_;
};

}  // namespace aspis
