#include "aspis/ops/pool/pool_cases.h"

#include "aspis/ops/pool/cases.h"
#include "aspis/ops/pool/kernel/reference.h"
#include "aspis/ops/pool/pool.h"
#include "aspis/ops/resample/kernel/reference.h"

namespace aspis {
namespace {

kernel::AxisTable table_of(const PoolCase& c, size_t axis, bool average) {
  const auto get = [axis](const std::vector<int>& v, int otherwise) {
    return v.empty() ? otherwise : v[v.size() == 1 ? 0 : axis];
  };
  const int in = c.shape[axis + 1], window = get(c.window, 0);
  if (c.adaptive) {
    return average ? kernel::adaptive_average_table(in, window) : kernel::adaptive_window_table(in, window);
  }
  const int stride = get(c.stride, window), padding = get(c.padding, 0);
  return average ? kernel::average_table(in, window, stride, padding, c.ceil_mode, c.count_include_pad)
                 : kernel::window_table(in, window, stride, padding, get(c.dilation, 1), c.ceil_mode);
}

harness::OpInstance instance_of(const PoolCase& c, bool average) {
  harness::OpCase plain;
  const auto joined = [](const std::vector<int>& v) {
    std::string text;
    for (const int d : v) text += (text.empty() ? "" : "x") + std::to_string(d);
    return text;
  };
  plain.name = joined(c.shape) + (c.adaptive ? " to " : " window ") + joined(c.window);
  if (!c.stride.empty()) plain.name += " stride " + joined(c.stride);
  if (!c.padding.empty()) plain.name += " padding " + joined(c.padding);
  if (!c.dilation.empty()) plain.name += " dilation " + joined(c.dilation);
  if (c.ceil_mode) plain.name += " ceil";
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  std::vector<kernel::AxisTable> tables(3, kernel::window_table(1, 1, 1, 0, 1, false));
  if (average) tables.assign(3, kernel::identity_table(1));
  const size_t axes = c.shape.size() - 2;
  std::vector<int> shape = {c.shape[0]};
  for (size_t i = 0; i < axes; i++) {
    tables[3 - axes + i] = table_of(c, i, average);
    shape.push_back(static_cast<int>(tables[3 - axes + i].out));
  }
  shape.push_back(c.shape.back());
  double in = 1, out = 1;
  for (const int d : c.shape) in *= d;
  for (const int d : shape) out *= d;
  plain.reference = [c, tables, shape, out, average](const harness::Tensors& x) {
    harness::Tensor y{shape, std::vector<double>(static_cast<size_t>(out))};
    const int64_t samples = c.shape[0], channels = c.shape.back();
    const std::array<const kernel::AxisTable*, 3> axes_of = {&tables[0], &tables[1], &tables[2]};
    if (average) {
      kernel::resample_reference<double>({samples, channels, axes_of, x[0].data.data(), y.data.data()});
    } else {
      kernel::max_pool_reference<double>({samples, channels, axes_of, x[0].data.data(), y.data.data()});
    }
    return harness::Tensors{y};
  };
  plain.forward = {.flops = 0, .exps = 0, .bytes = 4 * (in + out)};
  plain.backward = {.flops = 0, .exps = 0, .bytes = 4 * (average ? in + out : 2 * in + out)};
  const PoolOptions options{c.window, c.stride, c.padding, c.dilation, c.ceil_mode, c.count_include_pad};
  const auto run = [c, options, average](const harness::Arrays& x, bool composed) -> harness::Arrays {
    if (c.adaptive && average) {
      return {composed ? adaptive_avg_pool_composed(x[0], c.window) : adaptive_avg_pool(x[0], c.window)};
    }
    if (c.adaptive) {
      return {composed ? adaptive_max_pool_composed(x[0], c.window) : adaptive_max_pool(x[0], c.window)};
    }
    if (average) return {composed ? avg_pool_composed(x[0], options) : avg_pool(x[0], options)};
    return {composed ? max_pool_composed(x[0], options) : max_pool(x[0], options)};
  };
  return {plain, [run](const harness::Arrays& x) { return run(x, false); },
          [run](const harness::Arrays& x) { return run(x, true); }};
}

harness::OpEntry entry(const char* name, const char* summary, bool average) {
  return {name, summary, {"cpu", "composed"}, true, false, [average] {
            std::vector<harness::OpInstance> instances;
            for (const PoolCase& c : kPoolCases) instances.push_back(instance_of(c, average));
            if (average) return instances;
            for (const PoolCase& c : kDilatedPoolCases) instances.push_back(instance_of(c, false));
            return instances;
          }};
}

}  // namespace

harness::OpEntry max_pool_entry() {
  return entry("max_pool", "Largest value of windows, fixed and adaptive", false);
}
harness::OpEntry avg_pool_entry() { return entry("avg_pool", "Mean of windows, fixed and adaptive", true); }

}  // namespace aspis
