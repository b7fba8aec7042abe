#include "aspis/ops/add_n/add_n_cases.h"

#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/add_n/cases.h"
#include "aspis/ops/add_n/kernel/reference.h"

namespace aspis {
namespace {

harness::OpInstance instance_of(const AddNCase& c) {
  harness::OpCase plain;
  plain.name = std::to_string(c.count) + " of ";
  double n = 1;
  for (size_t i = 0; i < c.shape.size(); i++) {
    plain.name += (i ? "x" : "") + std::to_string(c.shape[i]);
    n *= c.shape[i];
  }
  plain.uses = c.uses;
  for (int k = 0; k < c.count; k++) plain.inputs.push_back({"x" + std::to_string(k), c.shape});
  plain.reference = [](const harness::Tensors& in) {
    harness::Tensor y = in[0];
    kernel::AddNParams<double> p{y.size(), {}, y.data.data()};
    for (const auto& x : in) p.xs.push_back(x.data.data());
    kernel::add_n_reference(p);
    return harness::Tensors{y};
  };
  plain.forward = {.flops = (c.count - 1) * n, .exps = 0, .bytes = 4 * (c.count + 1) * n};
  plain.backward = {};  // the cotangent itself
  return {plain, [](const harness::Arrays& in) { return harness::Arrays{add_n(in)}; },
          [](const harness::Arrays& in) { return harness::Arrays{add_n_composed(in)}; }};
}

}  // namespace

harness::OpEntry add_n_entry() {
  return {"add_n", "sum of several arrays in one pass", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const AddNCase& c : kAddNCases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace aspis
