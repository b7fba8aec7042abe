#include <mlx/ops.h>

#include "aspis/ops/cross_scan/cross_scan.h"

namespace aspis {
namespace {

mx::array index_array(const std::vector<int32_t>& index) {
  return mx::array(index.data(), {static_cast<int>(index.size())}, mx::int32);
}

}  // namespace

mx::array cross_scan_composed(const mx::array& x, const ScanOrders& o, mx::StreamOrDevice s) {
  const auto taken = mx::take(x, index_array(o.steps()), 1, s);
  return mx::reshape(taken, {x.shape(0), static_cast<int>(o.count()), x.shape(1), x.shape(2)}, s);
}

mx::array cross_merge_composed(const mx::array& x, const ScanOrders& o, CrossMerge merge, mx::StreamOrDevice s) {
  // Rows of all orders one after another: order k begins at k L.
  std::vector<int32_t> index = o.places();
  for (size_t i = 0; i < index.size(); i++)
    index[i] += static_cast<int32_t>(static_cast<int64_t>(i) / o.length() * o.length());
  const auto flat = mx::reshape(x, {x.shape(0), static_cast<int>(o.count() * o.length()), x.shape(3)}, s);
  const auto sorted = mx::reshape(mx::take(flat, index_array(index), 1, s), x.shape(), s);
  return merge == CrossMerge::kMean ? mx::mean(sorted, 1, false, s) : mx::sum(sorted, 1, false, s);
}

}  // namespace aspis
