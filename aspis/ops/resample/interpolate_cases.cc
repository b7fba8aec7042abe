#include "aspis/ops/resample/interpolate_cases.h"

#include "aspis/ops/resample/cases.h"
#include "aspis/ops/resample/interpolate.h"
#include "aspis/ops/resample/kernel/reference.h"

namespace aspis {
namespace {

harness::OpInstance instance_of(const InterpolateCase& c) {
  harness::OpCase plain;
  constexpr const char* kNames[] = {"nearest", "nearest-exact", "linear", "cubic"};
  const auto joined = [](const std::vector<int>& v) {
    std::string text;
    for (const int d : v) text += (text.empty() ? "" : "x") + std::to_string(d);
    return text;
  };
  plain.name = joined(c.shape) + " to " + joined(c.size) + " " + kNames[static_cast<int>(c.mode)];
  if (c.align_corners) plain.name += " aligned";
  if (c.antialias) plain.name += " antialias";
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  const size_t axes = c.size.size();
  double in = 1, out = c.shape[0] * c.shape.back();
  for (const int d : c.shape) in *= d;
  for (const int d : c.size) out *= d;
  plain.reference = [c, axes](const harness::Tensors& x) {
    kernel::AxisTable tables[3] = {kernel::identity_table(1), kernel::identity_table(1),
                                   kernel::identity_table(1)};
    std::vector<int> shape = {c.shape[0]};
    for (size_t i = 0; i < axes; i++) {
      tables[3 - axes + i] =
          kernel::interpolation_table(c.shape[i + 1], c.size[i], c.mode, c.align_corners, c.antialias, 0);
      shape.push_back(c.size[i]);
    }
    shape.push_back(c.shape.back());
    int64_t n = 1;
    for (const int d : shape) n *= d;
    harness::Tensor y{shape, std::vector<double>(static_cast<size_t>(n))};
    kernel::resample_reference<double>(
        {c.shape[0], c.shape.back(), {&tables[0], &tables[1], &tables[2]}, x[0].data.data(), y.data.data()});
    return harness::Tensors{y};
  };
  plain.forward = {.flops = 0, .exps = 0, .bytes = 4 * (in + out)};
  plain.backward = plain.forward;
  const InterpolateOptions options{.mode = c.mode, .align_corners = c.align_corners, .antialias = c.antialias};
  return {plain,
          [c, options](const harness::Arrays& x) { return harness::Arrays{interpolate(x[0], c.size, options)}; },
          [c, options](const harness::Arrays& x) {
            return harness::Arrays{interpolate_composed(x[0], c.size, options)};
          }};
}

}  // namespace

harness::OpEntry interpolate_entry() {
  return {
      "interpolate", "Nearest, linear and cubic resizing, with antialias", {"cpu", "composed"}, true, false, [] {
        std::vector<harness::OpInstance> instances;
        for (const InterpolateCase& c : kInterpolateCases) instances.push_back(instance_of(c));
        return instances;
      }};
}

}  // namespace aspis
