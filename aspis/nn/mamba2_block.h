#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "aspis/nn/depthwise_conv1d.h"
#include "aspis/nn/init.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/sequence_mixer.h"

namespace aspis {

/// Sizes of a Mamba-2 block; defaults of state-spaces/mamba. inner = expand * width,
/// in heads of `headdim` channels.
struct Mamba2Config {
  int64_t width = 768;
  int64_t state = 128;
  int64_t conv = 4;
  int64_t expand = 2;
  int64_t headdim = 64;
  int64_t groups = 1;  ///< of B and C
  double dt_min = 0, dt_max = 0;  ///< limits of the step after the softplus; 0, 0: none

  int64_t inner() const { return expand * width; }
  int64_t heads() const { return inner() / headdim; }
  /// Channels of the convolution: x, B and C.
  int64_t conv_channels() const { return inner() + 2 * groups * state; }
  /// Throws Error(kUsage) if a size is not positive or does not divide.
  void check(const std::string& where) const;
};

/// The Mamba-2 block (Dao and Gu 2024), without norm and residual:
///
///     z, x, B, C, dt = in_proj(h)                width -> 2 inner + 2 G N + H, no bias
///     x, B, C        = silu(conv1d([x, B, C]))   depthwise, causal, with bias
///     y              = ssd(x, softplus(dt + dt_bias), -exp(A_log), B, C, D)
///     out            = out_proj(norm(y silu(z))) RMS norm over each group's channels
///
/// Parameter names are those of state-spaces/mamba: in_proj.weight, conv1d.{weight,
/// bias}, dt_bias {H}, A_log {H}, D {H}, norm.weight {inner}, out_proj.weight.
class Mamba2Block final : public SequenceMixer {
 public:
  Mamba2Block(const Mamba2Config& config, const Init& init);
  std::string type_name() const override { return "Mamba2Block"; }
  const Mamba2Config& config() const { return config_; }

  using SequenceMixer::operator();
  mx::array operator()(const mx::array& h, const ScanDirection& direction) const override;
  State initial_state(int64_t batch) const override;
  std::pair<mx::array, State> prefill(const mx::array& h, const State& state) const override;
  std::pair<mx::array, State> step(const mx::array& h, const State& state) const override;

 private:
  struct GatedNorm final : Module {
    GatedNorm(int64_t width, const Init& init);
    std::string type_name() const override { return "RMSNormGated"; }
    mx::array weight;
  };
  mx::array finish(const mx::array& y, const mx::array& z) const;

  Mamba2Config config_;

 public:
  Linear in_proj;
  DepthwiseConv1d conv1d;
  mx::array dt_bias, A_log, D;
  GatedNorm norm;
  Linear out_proj;
};

}  // namespace aspis
