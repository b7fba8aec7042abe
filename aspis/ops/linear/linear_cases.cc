#include "aspis/ops/linear/linear_cases.h"

#include "aspis/ops/linear/cases.h"
#include "aspis/ops/linear/kernel/reference.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {
namespace {

harness::OpInstance make_instance(const LinearCase& c) {
  const int in = c.x.back(), out = c.out;
  double rows = 1;
  harness::OpCase plain;
  for (const int d : c.x) plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
  plain.name += " to " + std::to_string(out) + (c.bias ? " + bias" : "");
  static constexpr const char* kNames[] = {"", ", relu", ", silu", ", gelu", ", gelu tanh"};
  plain.name += kNames[static_cast<int>(c.activation)];
  if (c.residual) plain.name += ", residual";
  for (size_t i = 0; i + 1 < c.x.size(); i++) rows *= c.x[i];
  plain.uses = c.uses;
  plain.inputs = {{"x", c.x}, {"weight", {out, in}, harness::Fill::normal(0.5)}};
  if (c.bias) plain.inputs.push_back({"bias", {out}});
  if (c.residual) {
    auto shape = c.x;
    shape.back() = out;
    plain.inputs.push_back({"residual", shape});
  }
  plain.reference = [c, in, out](const harness::Tensors& t) {
    harness::Tensor y;
    y.shape = c.x;
    y.shape.back() = out;
    const int64_t n = t[0].size() / in;
    y.data.resize(n * out);
    kernel::linear_reference<double>({n,
                                      in,
                                      out,
                                      t[0].data.data(),
                                      in,
                                      t[1].data.data(),
                                      in,
                                      c.bias ? t[2].data.data() : nullptr,
                                      y.data.data(),
                                      nullptr,
                                      {c.activation, c.residual ? t.back().data.data() : nullptr, out, nullptr}});
    return harness::Tensors{y};
  };
  const double product = 2 * rows * in * out,
               floats = rows * in + rows * out * (c.residual ? 2 : 1) + 1.0 * in * out;
  const double exps = c.activation == Activation::kNone || c.activation == Activation::kRelu ? 0 : rows * out;
  plain.forward = {.flops = product, .exps = exps, .bytes = 4 * floats};
  plain.backward = {.flops = 2 * product, .exps = exps, .bytes = 8 * floats};
  const auto options = [c](const harness::Arrays& a) {
    LinearOptions o{.bias = {}, .activation = c.activation, .residual = {}};
    if (c.bias) o.bias = a[2];
    if (c.residual) o.residual = a.back();
    return o;
  };
  return {
      plain, [options](const harness::Arrays& a) { return harness::Arrays{linear(a[0], a[1], options(a))}; },
      [options](const harness::Arrays& a) { return harness::Arrays{linear_composed(a[0], a[1], options(a))}; }};
}

}  // namespace

harness::OpEntry linear_entry() {
  return {"linear", "x W^T + b over the last axis", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const LinearCase& c : kLinearCases) instances.push_back(make_instance(c));
            return instances;
          }};
}

}  // namespace aspis
