#include "aspis/ops/grad_norm/grad_norm_cases.h"

#include "aspis/ops/grad_norm/cases.h"
#include "aspis/ops/grad_norm/grad_norm.h"
#include "aspis/ops/grad_norm/kernel/reference.h"

namespace aspis {
namespace {

harness::OpInstance make_instance(const GradNormCase& c) {
  harness::OpCase plain;
  plain.name = std::to_string(c.shapes.size()) + " arrays,";
  plain.uses = c.uses;
  double elements = 0;
  for (size_t i = 0; i < c.shapes.size(); i++) {
    double n = 1;
    for (const int d : c.shapes[i]) n *= d;
    elements += n;
    plain.inputs.push_back({"x" + std::to_string(i), c.shapes[i], harness::Fill::normal(), false});
  }
  plain.name += " " + std::to_string(static_cast<int64_t>(elements)) + " elements";
  plain.reference = [](const harness::Tensors& in) {
    kernel::GlobalNormParams<double> p;
    for (const auto& t : in) p.arrays.push_back({t.size(), t.data.data()});
    return harness::Tensors{{{}, {kernel::global_norm_reference(p)}}};
  };
  // The result is a float32 number whatever the inputs are.
  plain.tolerance.forward_double = 1e-7;
  plain.forward = {.flops = 2 * elements, .exps = 0, .bytes = 4 * elements};
  return {plain, [](const harness::Arrays& in) { return harness::Arrays{global_norm(in)}; },
          [](const harness::Arrays& in) { return harness::Arrays{global_norm_composed(in)}; }};
}

}  // namespace

harness::OpEntry grad_norm_entry() {
  return {"grad_norm", "Euclidean norm over a list of arrays", {"cpu", "composed"}, false, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const GradNormCase& c : kGradNormCases) instances.push_back(make_instance(c));
            return instances;
          }};
}

}  // namespace aspis
