#include "aspis/ops/softmax/softmax_cases.h"

#include "aspis/ops/softmax/cases.h"
#include "aspis/ops/softmax/kernel/reference.h"
#include "aspis/ops/softmax/softmax.h"

namespace aspis {
namespace {

harness::OpInstance instance_of(const SoftmaxCase& c, bool logarithm) {
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape, harness::Fill::normal(2)}};
  plain.reference = [logarithm](const harness::Tensors& in) {
    harness::Tensor y = in[0];
    const int64_t length = y.shape.back();
    kernel::softmax_reference<double>(
        {y.size() / length, length, in[0].data.data(), length, y.data.data(), logarithm});
    return harness::Tensors{y};
  };
  plain.forward = {.flops = 4 * n, .exps = n, .bytes = 8 * n};
  plain.backward = {.flops = 4 * n, .exps = logarithm ? n : 0, .bytes = 12 * n};
  if (logarithm) {
    return {plain, [](const harness::Arrays& in) { return harness::Arrays{log_softmax(in[0])}; },
            [](const harness::Arrays& in) { return harness::Arrays{log_softmax_composed(in[0])}; }};
  }
  return {plain, [](const harness::Arrays& in) { return harness::Arrays{aspis::softmax(in[0])}; },
          [](const harness::Arrays& in) { return harness::Arrays{softmax_composed(in[0])}; }};
}

harness::OpEntry entry(const char* name, const char* summary, bool logarithm) {
  return {name, summary, {"cpu", "composed"}, true, false, [logarithm] {
            std::vector<harness::OpInstance> instances;
            for (const SoftmaxCase& c : kSoftmaxCases) instances.push_back(instance_of(c, logarithm));
            return instances;
          }};
}

}  // namespace

harness::OpEntry softmax_entry() { return entry("softmax", "softmax over the last axis", false); }
harness::OpEntry log_softmax_entry() {
  return entry("log_softmax", "logarithm of the softmax over the last axis", true);
}

}  // namespace aspis
