#include "aspis/ops/cross_scan/cross_scan_cases.h"

#include "aspis/ops/cross_scan/cases.h"
#include "aspis/ops/cross_scan/cross_scan.h"

namespace aspis {
namespace {

harness::OpInstance make_instance(const CrossCase& c, bool merge) {
  const ScanOrders orders = grid_orders(c.grid);
  const int K = static_cast<int>(orders.count()), L = static_cast<int>(orders.length()), D = c.width;
  const auto how = c.mean ? CrossMerge::kMean : CrossMerge::kSum;
  harness::OpCase plain;
  plain.name = "B" + std::to_string(c.batch) + " grid";
  for (const auto d : c.grid) plain.name += " " + std::to_string(d);
  plain.name += " D" + std::to_string(D) + (merge && c.mean ? " mean" : "");
  plain.uses = c.uses;
  const std::vector<int> one{c.batch, L, D}, all{c.batch, K, L, D};
  plain.inputs = {{"x", merge ? all : one}};
  plain.reference = [=](const harness::Tensors& in) {
    harness::Tensor y{merge ? one : all,
                      std::vector<double>(static_cast<size_t>(c.batch) * (merge ? 1 : K) * L * D, 0)};
    for (int b = 0; b < c.batch; b++) {
      for (int k = 0; k < K; k++) {
        for (int l = 0; l < L; l++) {
          const int token = orders.steps()[static_cast<size_t>(k) * L + l];
          for (int d = 0; d < D; d++) {
            const size_t many = ((static_cast<size_t>(b) * K + k) * L + l) * D + d,
                         single = (static_cast<size_t>(b) * L + token) * D + d;
            if (merge) {
              y.data[single] += in[0].data[many] / (c.mean ? K : 1);
            } else {
              y.data[many] = in[0].data[single];
            }
          }
        }
      }
    }
    return harness::Tensors{y};
  };
  const double n = double(c.batch) * L * D;
  plain.forward = plain.backward = {.flops = n * K, .exps = 0, .bytes = 4 * n * (K + 1)};
  return {plain,
          [=](const harness::Arrays& in) {
            return harness::Arrays{merge ? cross_merge(in[0], orders, how) : cross_scan(in[0], orders)};
          },
          [=](const harness::Arrays& in) {
            return harness::Arrays{merge ? cross_merge_composed(in[0], orders, how)
                                         : cross_scan_composed(in[0], orders)};
          }};
}

harness::OpEntry make_entry(const char* name, const char* summary, bool merge) {
  return {name, summary, {"cpu", "composed"}, true, false, [merge] {
            std::vector<harness::OpInstance> instances;
            for (const CrossCase& c : kCrossCases) instances.push_back(make_instance(c, merge));
            return instances;
          }};
}

}  // namespace

harness::OpEntry cross_scan_entry() {
  return make_entry("cross_scan", "copies of a sequence in several visiting orders", false);
}

harness::OpEntry cross_merge_entry() {
  return make_entry("cross_merge", "sum or mean of sequences in several visiting orders", true);
}

}  // namespace aspis
