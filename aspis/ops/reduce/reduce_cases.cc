#include "aspis/ops/reduce/reduce_cases.h"

#include "aspis/ops/reduce/cases.h"
#include "aspis/ops/reduce/reduce.h"

namespace aspis {
namespace {

// Element by element, apart from the kernel's order of axes.
harness::Tensors reference(const ReduceCase& c, const harness::Tensors& in) {
  const size_t ndim = c.shape.size();
  std::vector<bool> marked(ndim, c.axes.empty());
  for (const int a : c.axes) marked[a < 0 ? ndim + static_cast<size_t>(a) : static_cast<size_t>(a)] = true;
  std::vector<int> shape;
  int64_t size = 1;
  double count = 1;
  for (size_t i = 0; i < ndim; i++) {
    if (marked[i]) count *= c.shape[i];
    if (!marked[i]) size *= c.shape[i];
    if (!marked[i] || c.keepdims) shape.push_back(marked[i] ? 1 : c.shape[i]);
  }
  harness::Tensor y{shape, std::vector<double>(static_cast<size_t>(size))};
  for (int64_t i = 0; i < in[0].size(); i++) {
    int64_t rest = i, at = 0, step = 1;
    for (size_t k = ndim; k-- > 0;) {
      const int64_t index = rest % c.shape[k];
      rest /= c.shape[k];
      if (marked[k]) continue;
      at += index * step;
      step *= c.shape[k];
    }
    y.data[static_cast<size_t>(at)] += in[0].data[static_cast<size_t>(i)];
  }
  if (c.mean) {
    for (double& v : y.data) v /= count;
  }
  return {y};
}

harness::OpInstance instance_of(const ReduceCase& c) {
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  plain.name += c.mean ? " mean over" : " sum over";
  for (const int a : c.axes) plain.name += " " + std::to_string(a);
  if (c.axes.empty()) plain.name += " all";
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  plain.forward = {.flops = n, .exps = 0, .bytes = 4 * n};
  plain.backward = {};  // a view
  return {plain,
          [c](const harness::Arrays& in) {
            return harness::Arrays{c.mean ? mean_over(in[0], c.axes, c.keepdims)
                                          : sum_over(in[0], c.axes, c.keepdims)};
          },
          [c](const harness::Arrays& in) {
            return harness::Arrays{c.mean ? mean_over_composed(in[0], c.axes, c.keepdims)
                                          : sum_over_composed(in[0], c.axes, c.keepdims)};
          }};
}

}  // namespace

harness::OpEntry reduce_entry() {
  return {"reduce", "Sum and mean over any axes", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const ReduceCase& c : kReduceCases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace aspis
