#include "aspis/ops/gated_norm/gated_norm_cases.h"

#include "aspis/ops/gated_norm/cases.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/gated_norm/kernel/reference.h"

namespace aspis {
namespace {

harness::OpInstance make_instance(const GatedNormCase& c, bool center) {
  const auto has = [c](char option) { return c.options.find(option) != std::string::npos; };
  const int width = c.shape.back(), group = c.group ? c.group : width;
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  if (!c.grid.empty()) plain.name = c.grid + " " + plain.name;
  if (c.group) plain.name += " groups of " + std::to_string(group);
  if (!c.options.empty()) plain.name += " " + c.options;
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  // Places of the optional inputs, 0 if absent.
  size_t z = 0, weight = 0, bias = 0;
  const auto add = [&](char option, size_t& place, harness::TensorSpec spec) {
    if (!has(option)) return;
    place = plain.inputs.size();
    plain.inputs.push_back(std::move(spec));
  };
  add('z', z, {"z", c.shape});
  add('w', weight, {"weight", {width}, harness::Fill::uniform(0.5, 1.5)});
  add('b', bias, {"bias", {width}});
  const bool norm_first = has('n');
  plain.reference = [=](const harness::Tensors& in) {
    harness::Tensor y = in[0];
    kernel::GatedNormParams<double> p{y.size() / width, width, group, 1e-5, center, norm_first, in[0].data.data()};
    if (z) p.z = in[z].data.data();
    if (weight) p.weight = in[weight].data.data();
    if (bias) p.bias = in[bias].data.data();
    p.y = y.data.data();
    kernel::gated_norm_reference(p);
    return harness::Tensors{y};
  };
  const double arrays = z ? 3 : 2;
  plain.forward = {.flops = 8 * n, .exps = z ? n : 0, .bytes = 4 * arrays * n};
  plain.backward = {.flops = 20 * n, .exps = z ? n : 0, .bytes = 4 * (2 * arrays - 1) * n};
  const auto run = [=](const harness::Arrays& in, bool composed) {
    GatedNormOptions o;
    if (z) o.z = in[z];
    if (weight) o.weight = in[weight];
    if (bias) o.bias = in[bias];
    o.group_size = group, o.norm_before_gate = norm_first;
    if (composed) return harness::Arrays{gated_norm_composed(in[0], o, center)};
    return harness::Arrays{center ? layer_norm_gated(in[0], o) : rmsnorm_gated(in[0], o)};
  };
  return {plain, [run](const harness::Arrays& in) { return run(in, false); },
          [run](const harness::Arrays& in) { return run(in, true); }};
}

harness::OpEntry make_entry(const char* name, const char* summary, const std::vector<GatedNormCase>& cases,
                            bool center) {
  return {name, summary, {"cpu", "composed"}, true, false, [&cases, center] {
            std::vector<harness::OpInstance> instances;
            for (const GatedNormCase& c : cases) instances.push_back(make_instance(c, center));
            for (const GatedNormCase& c : gated_norm_grid(center)) instances.push_back(make_instance(c, center));
            return instances;
          }};
}

}  // namespace

harness::OpEntry rmsnorm_gated_entry() {
  return make_entry("rmsnorm_gated", "RMS norm in groups with a SiLU gate before or after", kRmsnormGatedCases,
                    false);
}

harness::OpEntry layer_norm_gated_entry() {
  return make_entry("layer_norm_gated", "layer norm in groups with a SiLU gate before or after",
                    kLayerNormGatedCases, true);
}

}  // namespace aspis
