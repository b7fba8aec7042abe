#include "aspis/ops/elementwise/elementwise_cases.h"

#include <mlx/ops.h>

#include <algorithm>

#include "aspis/ops/elementwise/cases.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/elementwise/kernel/reference.h"

namespace aspis {
namespace {

std::string joined(const std::vector<int>& v) {
  std::string text;
  for (const int d : v) text += (text.empty() ? "" : "x") + std::to_string(d);
  return text;
}
double product(const std::vector<int>& v) {
  double n = 1;
  for (const int d : v) n *= d;
  return n;
}

harness::OpInstance instance_of(const PointwiseCase& c) {
  using Function = mx::array (*)(const mx::array&, mx::StreamOrDevice);
  constexpr const char* kNames[] = {"relu ", "sigmoid ", "tanh ", "softplus "};
  constexpr Function kOps[] = {relu, aspis::sigmoid, aspis::tanh, softplus};
  constexpr Function kComposed[] = {relu_composed, sigmoid_composed, tanh_composed, softplus_composed};
  harness::OpCase plain;
  const auto k = static_cast<size_t>(c.kind);
  const double n = product(c.shape), exps = c.kind == kernel::Pointwise::kRelu ? 0 : n;
  plain.name = kNames[k] + joined(c.shape);
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape, harness::Fill::normal(3)}};
  plain.reference = [c](const harness::Tensors& in) {
    harness::Tensor y = in[0];
    for (double& v : y.data) v = kernel::pointwise_reference(c.kind, v);
    return harness::Tensors{y};
  };
  plain.forward = {.flops = 4 * n, .exps = exps, .bytes = 8 * n};
  plain.backward = {.flops = 8 * n, .exps = exps, .bytes = 12 * n};
  return {plain, [f = kOps[k]](const harness::Arrays& in) { return harness::Arrays{f(in[0], {})}; },
          [f = kComposed[k]](const harness::Arrays& in) { return harness::Arrays{f(in[0], {})}; }};
}

harness::OpInstance instance_of(const CombineCase& c) {
  constexpr const char* kNames[] = {"add ", "multiply ", "multiply_add "};
  harness::OpCase plain;
  plain.name =
      kNames[static_cast<int>(c.kind)] + joined(c.a) + " " + joined(c.b) + (c.c.empty() ? "" : " ") + joined(c.c);
  plain.uses = c.uses;
  plain.inputs = {{"a", c.a}, {"b", c.b}};
  const bool third = c.kind == kernel::Combine::kMultiplyAdd;
  if (third) plain.inputs.push_back({"c", c.c});
  const std::vector<const std::vector<int>*> shapes = {&c.a, &c.b, &c.c};
  std::vector<int> out;
  for (const auto* shape : shapes) {
    while (out.size() < shape->size()) out.insert(out.begin(), 1);
    for (size_t i = 0; i < shape->size(); i++) {
      auto& d = out[out.size() - 1 - i];
      d = std::max(d, (*shape)[shape->size() - 1 - i]);
    }
  }
  plain.reference = [c, out, third](const harness::Tensors& in) {
    harness::Tensor y{out, std::vector<double>(static_cast<size_t>(product(out)))};
    // Where element i of the result is in an input.
    const auto at = [&](const harness::Tensor& t, int64_t i) {
      int64_t index = 0, step = 1;
      for (size_t k = 0; k < out.size(); k++) {
        const int64_t place = i % out[out.size() - 1 - k];
        i /= out[out.size() - 1 - k];
        if (k >= t.shape.size()) continue;
        const int size = t.shape[t.shape.size() - 1 - k];
        if (size != 1) index += place * step;
        step *= size;
      }
      return t.data[static_cast<size_t>(index)];
    };
    for (int64_t i = 0; i < y.size(); i++) {
      const double a = at(in[0], i), b = at(in[1], i);
      y.data[static_cast<size_t>(i)] =
          c.kind == kernel::Combine::kAdd ? a + b : a * b + (third ? at(in[2], i) : 0);
    }
    return harness::Tensors{y};
  };
  const double n = product(out), all = product(c.a) + product(c.b) + (third ? product(c.c) : 0);
  plain.forward = {.flops = 2 * n, .exps = 0, .bytes = 4 * (all + n)};
  // dy and both factors are read, their gradients written; that of a full summand is dy itself.
  plain.backward = {.flops = 2 * n, .exps = 0, .bytes = 4 * (third ? 3 * n : n)};
  return {plain,
          [c](const harness::Arrays& in) -> harness::Arrays {
            if (c.kind == kernel::Combine::kAdd) return {broadcast_add(in[0], in[1])};
            if (c.kind == kernel::Combine::kMultiply) return {broadcast_multiply(in[0], in[1])};
            return {multiply_add(in[0], in[1], in[2])};
          },
          [c](const harness::Arrays& in) -> harness::Arrays {
            if (c.kind == kernel::Combine::kAdd) return {mx::add(in[0], in[1])};
            if (c.kind == kernel::Combine::kMultiply) return {mx::multiply(in[0], in[1])};
            return {multiply_add_composed(in[0], in[1], in[2])};
          }};
}

harness::OpInstance instance_of(const DropoutCase& c) {
  constexpr uint64_t kKey = 0x0123456789abcdefull, kStream = 42;
  harness::OpCase plain;
  const double n = product(c.shape);
  plain.name = joined(c.shape) + " rate " + std::to_string(c.rate).substr(0, 4);
  plain.uses = c.uses;
  plain.inputs = {{"x", c.shape}};
  plain.reference = [c](const harness::Tensors& in) {
    harness::Tensor y = in[0];
    kernel::dropout_reference<double>({y.size(), c.rate, kKey, kStream, in[0].data.data(), y.data.data()});
    return harness::Tensors{y};
  };
  plain.forward = plain.backward = {.flops = n, .exps = 0, .bytes = 8 * n};
  return {
      plain, [c](const harness::Arrays& in) { return harness::Arrays{dropout(in[0], c.rate, kKey, kStream)}; },
      [c](const harness::Arrays& in) { return harness::Arrays{dropout_composed(in[0], c.rate, kKey, kStream)}; }};
}

template <typename Case>
harness::OpEntry entry(const char* name, const char* summary, const std::vector<Case>& cases) {
  return {name, summary, {"cpu", "composed"}, true, false, [&cases] {
            std::vector<harness::OpInstance> instances;
            for (const Case& c : cases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace

harness::OpEntry pointwise_entry() {
  return entry("pointwise", "relu, sigmoid, tanh, softplus, elementwise", kPointwiseCases);
}
harness::OpEntry broadcast_entry() {
  return entry("broadcast", "a + b, a b and a b + c with broadcasting", kCombineCases);
}
harness::OpEntry dropout_entry() {
  return entry("dropout", "Dropout by counter-based random numbers", kDropoutCases);
}

}  // namespace aspis
