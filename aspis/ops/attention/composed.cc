#include <cmath>
#include <limits>

#include "aspis/ops/attention/attention.h"
#include "aspis/ops/common/composed.h"

namespace aspis {

mx::array attention_composed(const mx::array& q, const mx::array& k, const mx::array& v,
                             const AttentionOptions& options, mx::StreamOrDevice s) {
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.shape(3)));
  const auto by_head = [&](const mx::array& a, bool turn) {
    return mx::transpose(a, turn ? std::vector<int>{0, 2, 3, 1} : std::vector<int>{0, 2, 1, 3}, s);
  };
  const auto scaled = mx::multiply(by_head(q, false), mx::array(scale, q.dtype()), s);
  auto scores = mx::matmul(scaled, by_head(k, true), s);
  if (options.causal) {
    const int queries = q.shape(1), keys = k.shape(1);
    const auto last = mx::reshape(mx::arange(keys - queries, keys, s), {queries, 1}, s);
    const auto seen = mx::less_equal(mx::arange(0, keys, s), last, s);
    scores = mx::where(seen, scores, mx::array(-std::numeric_limits<double>::infinity(), scores.dtype()), s);
  }
  // The maximum cancels in the quotient: no gradient goes through it.
  const auto top = mx::stop_gradient(mx::max(scores, -1, true, s), s);
  const auto e = ops::exp(mx::subtract(scores, top, s), s);
  const auto p = mx::divide(e, mx::sum(e, -1, true, s), s);
  return by_head(mx::matmul(p, by_head(v, false), s), false);
}

}  // namespace aspis
