#include "aspis/ops/gelu/gelu_cases.h"

#include "aspis/ops/gelu/cases.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/gelu/kernel/reference.h"

namespace aspis {
namespace {

harness::OpInstance instance_of(const GeluCase& c) {
  harness::OpCase plain;
  double n = 1;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
    n *= d;
  }
  const bool tanh_form = c.tanh_approximation;
  if (tanh_form) plain.name += " tanh";
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape, harness::Fill::normal(2)}};
  plain.reference = [tanh_form](const harness::Tensors& in) {
    harness::Tensor y = in[0];
    kernel::gelu_reference<double>({y.size(), tanh_form, in[0].data.data(), y.data.data()});
    return harness::Tensors{y};
  };
  plain.forward = {.flops = (tanh_form ? 8 : 26) * n, .exps = n, .bytes = 8 * n};
  plain.backward = {.flops = (tanh_form ? 14 : 30) * n, .exps = n, .bytes = 12 * n};
  return {plain, [tanh_form](const harness::Arrays& in) { return harness::Arrays{gelu(in[0], tanh_form)}; },
          [tanh_form](const harness::Arrays& in) { return harness::Arrays{gelu_composed(in[0], tanh_form)}; }};
}

}  // namespace

harness::OpEntry gelu_entry() {
  return {"gelu", "x Phi(x) or its tanh form, elementwise", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const GeluCase& c : kGeluCases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace aspis
