#include "aspis/ops/layer_norm/layer_norm_cases.h"

#include <mlx/ops.h>

#include <algorithm>
#include <vector>

#include "aspis/ops/layer_norm/cases.h"
#include "aspis/ops/layer_norm/layer_norm.h"
#include "aspis/ops/row_norm/kernel/reference.h"

namespace aspis {

namespace mx = mlx::core;

namespace {

constexpr float kEps = 1e-5f;

harness::Tensors reference(const LayerNormCase& c, const harness::Tensors& in) {
  const harness::Tensor& x = in[0];
  harness::Tensors out(c.residual ? 2 : 1, harness::Tensor{x.shape, std::vector<double>(x.data.size())});
  kernel::RowNormParams<double> p;
  p.length = x.shape.back();
  p.rows = x.size() / p.length;
  p.eps = kEps;
  p.x = x.data.data();
  p.x_stride = p.residual_stride = p.length;
  p.residual = c.residual ? in[1].data.data() : nullptr;
  p.weight = c.weight ? in[c.residual ? 2 : 1].data.data() : nullptr;
  p.bias = c.bias ? in.back().data.data() : nullptr;
  p.y = out[0].data.data();
  p.sum = c.residual ? out[1].data.data() : nullptr;
  kernel::row_norm_reference(p);
  return out;
}

std::optional<mx::array> weight_of(const LayerNormCase& c, const harness::Arrays& in) {
  return c.weight ? std::optional<mx::array>(in[c.residual ? 2 : 1]) : std::nullopt;
}

std::optional<mx::array> bias_of(const LayerNormCase& c, const harness::Arrays& in) {
  return c.bias ? std::optional<mx::array>(in.back()) : std::nullopt;
}

harness::OpInstance instance_of(const LayerNormCase& c) {
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  if (c.residual) plain.name += " residual";
  if (!c.weight) plain.name += " no weight";
  if (!c.bias) plain.name += " no bias";
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  if (c.residual) plain.inputs.push_back({"residual", c.shape});
  if (c.weight) plain.inputs.push_back({"weight", {c.shape.back()}, harness::Fill::uniform(0.5, 1.5)});
  if (c.bias) plain.inputs.push_back({"bias", {c.shape.back()}});
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  plain.forward = {.flops = 8 * n, .exps = 0, .bytes = (c.residual ? 16 : 8) * n};
  plain.backward = {.flops = 20 * n, .exps = 0, .bytes = (c.residual ? 16 : 12) * n};
  const auto op = [c](const harness::Arrays& in) -> harness::Arrays {
    if (!c.residual) return {layer_norm(in[0], weight_of(c, in), bias_of(c, in), kEps)};
    const auto [y, sum] = add_layer_norm(in[0], in[1], weight_of(c, in), bias_of(c, in), kEps);
    return {y, sum};
  };
  const auto composed = [c](const harness::Arrays& in) -> harness::Arrays {
    if (!c.residual) return {layer_norm_composed(in[0], weight_of(c, in), bias_of(c, in), kEps)};
    const auto sum = mx::add(in[0], in[1]);
    return {layer_norm_composed(sum, weight_of(c, in), bias_of(c, in), kEps), sum};
  };
  return {plain, op, composed};
}

// {B, N, ...} as rows of N, or back.
std::vector<double> turned(const std::vector<double>& v, const std::vector<int>& shape, bool back) {
  const int64_t samples = shape[0], channels = shape[1];
  const int64_t positions = static_cast<int64_t>(v.size()) / std::max<int64_t>(1, samples * channels);
  std::vector<double> out(v.size());
  for (int64_t i = 0; i < static_cast<int64_t>(v.size()); i++) {
    const int64_t s = i / (channels * positions), c = i / positions % channels, p = i % positions;
    const int64_t row = (s * positions + p) * channels + c;
    out[back ? i : row] = v[back ? row : i];
  }
  return out;
}

harness::OpInstance channels_first_instance_of(const LayerNormCase& c) {
  harness::OpInstance instance = instance_of(c);
  auto& plain = instance.plain;
  for (size_t i = 1; i < plain.inputs.size(); i++) plain.inputs[i].shape = {c.shape[1]};
  plain.reference = [c](const harness::Tensors& in) {
    const int channels = c.shape[1];
    harness::Tensors rows = in;
    rows[0].data = turned(in[0].data, c.shape, false);
    rows[0].shape = {static_cast<int>(in[0].size()) / channels, channels};
    auto out = reference(c, rows);
    out[0] = {c.shape, turned(out[0].data, c.shape, true)};
    return out;
  };
  instance.op = [c](const harness::Arrays& in) -> harness::Arrays {
    return {layer_norm_channels_first(in[0], weight_of(c, in), bias_of(c, in), kEps)};
  };
  instance.composed = [c](const harness::Arrays& in) -> harness::Arrays {
    return {layer_norm_channels_first_composed(in[0], weight_of(c, in), bias_of(c, in), kEps)};
  };
  return instance;
}

}  // namespace

harness::OpEntry layer_norm_channels_first_entry() {
  return {"layer_norm_channels_first",
          "Layer norm over axis 1 of images {B, C, H, W}",
          {"cpu", "composed"},
          true,
          false,
          [] {
            std::vector<harness::OpInstance> instances;
            for (const LayerNormCase& c : kChannelsFirstCases) instances.push_back(channels_first_instance_of(c));
            return instances;
          }};
}

harness::OpEntry layer_norm_entry() {
  return {
      "layer_norm", "Layer norm over the last axis, with residual addition", {"cpu", "composed"}, true, false, [] {
        std::vector<harness::OpInstance> instances;
        for (const LayerNormCase& c : kLayerNormCases) instances.push_back(instance_of(c));
        return instances;
      }};
}

}  // namespace aspis
