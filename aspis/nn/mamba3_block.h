#pragma once

#include <optional>
#include <string>
#include <utility>

#include "aspis/nn/init.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/sequence_mixer.h"
#include "aspis/ops/mamba3/mamba3.h"

namespace aspis {

/// Sizes of a Mamba-3 block; defaults of state-spaces/mamba. inner = expand * width,
/// in heads of `headdim` channels.
struct Mamba3Config {
  int64_t width = 768;
  int64_t state = 128;
  int64_t expand = 2;
  int64_t headdim = 64;
  int64_t groups = 1;          ///< of B and C
  int64_t rank = 1;            ///< 1: SISO; more: MIMO
  double rope_fraction = 0.5;  ///< of the state that turns: 0.5 or 1
  bool out_norm = false;       ///< RMS norm of every head before the gate

  int64_t inner() const { return expand * width; }
  int64_t heads() const { return inner() / headdim; }
  int64_t angles() const { return static_cast<int64_t>(static_cast<double>(state) * rope_fraction) / 2; }
  /// Throws Error(kUsage) for sizes that are not positive or do not divide.
  void check(const std::string& where) const;
};

/// The Mamba-3 block (arXiv 2603.15569), without norm and residual and without a
/// convolution:
///
///     z, x, B, C, dd_dt, dd_A, trap, angle = in_proj(h)     no bias
///     out = out_proj(mamba3(x, B, C, dd_dt, dd_A, trap; ...))
///
/// in_proj: width -> 2 inner + 2 N G R + 3 H + A. Parameter names are those of
/// state-spaces/mamba: in_proj.weight, dt_bias {H}, B_bias, C_bias {H, R, N} (ones),
/// B_norm.weight, C_norm.weight {N}, D {H}, mimo_x, mimo_z, mimo_o {H, R, P} for
/// R > 1 (1/R, 1, 1/R), norm.weight {inner} with out_norm, out_proj.weight.
class Mamba3Block final : public SequenceMixer {
 public:
  Mamba3Block(const Mamba3Config& config, const Init& init);
  std::string type_name() const override { return "Mamba3Block"; }
  const Mamba3Config& config() const { return config_; }

  using SequenceMixer::operator();
  mx::array operator()(const mx::array& h, const ScanDirection& direction) const override;
  State initial_state(int64_t batch) const override;
  std::pair<mx::array, State> prefill(const mx::array& h, const State& state) const override;
  std::pair<mx::array, State> step(const mx::array& h, const State& state) const override;

 private:
  struct Weight final : Module {
    Weight(mx::array value, std::string type) : weight(std::move(value)), type_(std::move(type)) {
      add_parameter("weight", weight, Decay::kNo);
    }
    std::string type_name() const override { return type_; }
    mx::array weight;

   private:
    std::string type_;
  };
  /// What in_proj gives, shaped for the operator; `rows` are the axes before the channels.
  struct Parts {
    mx::array z, x, B, C, dd_dt, dd_A, trap, angle;
  };
  Parts parts_of(const mx::array& h) const;
  Mamba3Options options_of(const Parts& parts) const;

  Mamba3Config config_;

 public:
  Linear in_proj;
  mx::array dt_bias, B_bias, C_bias;
  Weight B_norm, C_norm;
  mx::array D;
  std::optional<mx::array> mimo_x, mimo_z, mimo_o;
  std::optional<Weight> norm;
  Linear out_proj;
};

}  // namespace aspis
