#pragma once

#include <optional>

#include "aspis/nn/init.h"
#include "aspis/nn/module.h"
#include "aspis/ops/linear/kernel/epilogue.h"

namespace aspis {

/// y = x W^T + b over the last axis: {..., in} -> {..., out}.
/// Parameters: weight {out, in}, bias {out} if asked for.
class Linear final : public Module {
 public:
  Linear(int64_t in, int64_t out, bool with_bias, const Init& init);
  std::string type_name() const override { return "Linear"; }
  mx::array operator()(const mx::array& x) const;
  /// f(x W^T + b) + residual, in the pass of the product.
  mx::array operator()(const mx::array& x, Activation activation,
                       const std::optional<mx::array>& residual = {}) const;

  mx::array weight;
  std::optional<mx::array> bias;
};

/// layer(x) multiplied by `scale` {out}, if there is one (layer scale): the rows of
/// the weight are scaled, which costs nothing beside the product.
mx::array scaled(const Linear& layer, const mx::array& x, const std::optional<mx::array>& scale);

/// Start values of vision models: N(0, 0.02) cut at 2, which is never reached, and a zero bias.
void start_small(Linear& layer, const Init& init);

}  // namespace aspis
