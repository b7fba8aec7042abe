#include "aspis/ops/matmul/matmul_cases.h"

#include <algorithm>

#include "aspis/ops/matmul/cases.h"
#include "aspis/ops/matmul/kernel/reference.h"
#include "aspis/ops/matmul/matmul.h"

namespace aspis {
namespace {

harness::OpInstance make_instance(const MatmulCase& c) {
  harness::OpCase plain;
  const auto text = [](const std::vector<int>& shape) {
    std::string s;
    for (const int d : shape) s += (s.empty() ? "" : "x") + std::to_string(d);
    return s;
  };
  plain.name = text(c.a) + (c.transpose_a ? "^T" : "") + " by " + text(c.b) + (c.transpose_b ? "^T" : "");
  plain.uses = c.uses;
  plain.inputs = {{"a", c.a}, {"b", c.b}};
  const auto last = [](const std::vector<int>& v, int i) { return v[v.size() - static_cast<size_t>(i)]; };
  const int m = last(c.a, c.transpose_a ? 1 : 2), k = last(c.a, c.transpose_a ? 2 : 1),
            n = last(c.b, c.transpose_b ? 2 : 1);
  // Of the cases, one side has all leading axes; the other has the same ones or a single matrix.
  std::vector<int> lead(c.a.begin(), c.a.end() - 2);
  if (c.b.size() > c.a.size()) lead.assign(c.b.begin(), c.b.end() - 2);
  int64_t batch = 1;
  for (const int d : lead) batch *= d;
  plain.reference = [c, m, n, k, lead, batch](const harness::Tensors& t) {
    harness::Tensor y;
    y.shape = lead;
    y.shape.push_back(m);
    y.shape.push_back(n);
    y.data.resize(static_cast<size_t>(batch * m * n));
    const bool one_a = t[0].size() == int64_t{m} * k, one_b = t[1].size() == int64_t{k} * n;
    kernel::matmul_reference<double>(
        {batch, m, n, k, c.transpose_a, c.transpose_b, t[0].data.data(), t[1].data.data(), c.transpose_a ? m : k,
         c.transpose_b ? k : n, one_a ? 0 : int64_t{m} * k, one_b ? 0 : int64_t{k} * n, y.data.data(), nullptr});
    return harness::Tensors{y};
  };
  const double work = 2.0 * static_cast<double>(batch) * m * n * k;
  const double floats = static_cast<double>(batch) * (1.0 * m * k + 1.0 * k * n + 1.0 * m * n);
  plain.forward = {.flops = work, .exps = 0, .bytes = 4 * floats};
  plain.backward = {.flops = 2 * work, .exps = 0, .bytes = 8 * floats};
  const ops::MatmulOptions o{c.transpose_a, c.transpose_b};
  return {plain, [o](const harness::Arrays& a) { return harness::Arrays{ops::matmul(a[0], a[1], o)}; },
          [o](const harness::Arrays& a) { return harness::Arrays{ops::matmul_composed(a[0], a[1], o)}; }};
}

}  // namespace

harness::OpEntry matmul_entry() {
  return {"matmul", "batched matrix products, either side transposed", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const MatmulCase& c : kMatmulCases) instances.push_back(make_instance(c));
            return instances;
          }};
}

}  // namespace aspis
