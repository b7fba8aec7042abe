#pragma once

#include <optional>
#include <utility>

#include "aspis/nn/init.h"
#include "aspis/nn/module.h"

namespace aspis {

/// A residual stream between layers, kept as two terms so that the addition is
/// done inside the next norm: its value is `sum`, or `sum + branch`.
struct Residual {
  mx::array sum;
  std::optional<mx::array> branch;

  mx::array value() const;
};

/// y = (x - mean) / sqrt(var + eps) * weight + bias over the last axis (Ba et
/// al. 2016). Parameters: weight {width}, initially 1, bias {width}, initially 0.
class LayerNorm final : public Module {
 public:
  LayerNorm(int64_t width, const Init& init, float epsilon = 1e-5f);
  std::string type_name() const override { return "LayerNorm"; }
  mx::array operator()(const mx::array& x) const;
  /// {norm(x), x} for the value x of the stream; the second is what the
  /// residual goes on with.
  std::pair<mx::array, mx::array> operator()(const Residual& x) const;

  mx::array weight, bias;

 private:
  float epsilon_;
};

/// y = x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang and
/// Sennrich 2019). Parameter: weight {width}, initially 1.
class RMSNorm final : public Module {
 public:
  RMSNorm(int64_t width, const Init& init, float epsilon = 1e-5f);
  std::string type_name() const override { return "RMSNorm"; }
  mx::array operator()(const mx::array& x) const;
  /// {norm(x), x}, as LayerNorm does it.
  std::pair<mx::array, mx::array> operator()(const Residual& x) const;

  mx::array weight;

 private:
  float epsilon_;
};

}  // namespace aspis
