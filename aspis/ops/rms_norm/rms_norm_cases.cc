#include "aspis/ops/rms_norm/rms_norm_cases.h"

#include <mlx/ops.h>

#include "aspis/ops/rms_norm/cases.h"
#include "aspis/ops/rms_norm/rms_norm.h"
#include "aspis/ops/row_norm/kernel/reference.h"

namespace aspis {

namespace mx = mlx::core;

namespace {

constexpr float kEps = 1e-5f;

harness::Tensors reference(const RmsNormCase& c, const harness::Tensors& in) {
  const harness::Tensor& x = in[0];
  harness::Tensors out(c.residual ? 2 : 1, harness::Tensor{x.shape, std::vector<double>(x.data.size())});
  kernel::RowNormParams<double> p;
  p.center = false;
  p.length = x.shape.back();
  p.rows = x.size() / p.length;
  p.eps = kEps;
  p.x = x.data.data();
  p.x_stride = p.residual_stride = p.length;
  p.residual = c.residual ? in[1].data.data() : nullptr;
  p.weight = c.weight ? in.back().data.data() : nullptr;
  p.y = out[0].data.data();
  p.sum = c.residual ? out[1].data.data() : nullptr;
  kernel::row_norm_reference(p);
  return out;
}

std::optional<mx::array> weight_of(const RmsNormCase& c, const harness::Arrays& in) {
  return c.weight ? std::optional<mx::array>(in.back()) : std::nullopt;
}

harness::OpInstance instance_of(const RmsNormCase& c) {
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  if (c.residual) plain.name += " residual";
  if (!c.weight) plain.name += " no weight";
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  if (c.residual) plain.inputs.push_back({"residual", c.shape});
  if (c.weight) plain.inputs.push_back({"weight", {c.shape.back()}, harness::Fill::uniform(0.5, 1.5)});
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  plain.forward = {.flops = 5 * n, .exps = 0, .bytes = (c.residual ? 16 : 8) * n};
  plain.backward = {.flops = 12 * n, .exps = 0, .bytes = (c.residual ? 16 : 12) * n};
  // In a row of one element the two terms of dx cancel to eps / x^2 of their
  // size, about 1e-5: what is left has two or three digits in float32.
  if (c.shape.back() == 1) plain.tolerance.gradient = 1e-3;
  const auto op = [c](const harness::Arrays& in) -> harness::Arrays {
    if (!c.residual) return {rms_norm(in[0], weight_of(c, in), kEps)};
    const auto [y, sum] = add_rms_norm(in[0], in[1], weight_of(c, in), kEps);
    return {y, sum};
  };
  const auto composed = [c](const harness::Arrays& in) -> harness::Arrays {
    if (!c.residual) return {rms_norm_composed(in[0], weight_of(c, in), kEps)};
    const auto sum = mx::add(in[0], in[1]);
    return {rms_norm_composed(sum, weight_of(c, in), kEps), sum};
  };
  return {plain, op, composed};
}

}  // namespace

harness::OpEntry rms_norm_entry() {
  return {"rms_norm", "RMS norm over the last axis, with residual addition", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const RmsNormCase& c : kRmsNormCases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace aspis
