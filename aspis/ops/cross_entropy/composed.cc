#include <limits>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"

namespace aspis {

mx::array cross_entropy_composed(const mx::array& logits, const mx::array& targets, const CrossEntropyOptions& options,
                                 mx::StreamOrDevice s) {
  const bool soft = mx::issubdtype(targets.dtype(), mx::floating);
  const mx::Dtype dtype = logits.dtype() == mx::float64 || targets.dtype() == mx::float64 ? mx::float64 : mx::float32;
  const auto x = mx::astype(logits, dtype, s);
  const auto number = [&](double v) { return mx::array(v, dtype); };
  const int classes = x.shape(1);
  // The maximum cancels: no gradient goes through it.
  const auto shifted = mx::subtract(x, mx::stop_gradient(mx::max(x, -1, true, s), s), s);
  const auto log_p = mx::subtract(shifted, mx::log(mx::sum(ops::exp(shifted, s), -1, true, s), s), s);
  auto loss = number(0);
  auto counted = number(x.shape(0));
  std::optional<mx::array> ignored, wrong;
  if (soft) {
    loss = mx::sum(mx::multiply(mx::astype(targets, dtype, s), log_p, s), -1, false, s);
  } else {
    const auto labels = mx::astype(targets, mx::int64, s);
    ignored = mx::equal(labels, mx::array(options.ignore_index, mx::int64), s);
    wrong = mx::logical_or(mx::less(labels, mx::array(0, mx::int64), s),
                           mx::greater_equal(labels, mx::array(classes, mx::int64), s), s);
    const auto safe = mx::where(*wrong, mx::array(0, mx::int64), labels, s);
    loss = mx::squeeze(mx::take_along_axis(log_p, mx::expand_dims(safe, 1, s), 1, s), 1, s);
    counted = mx::sum(mx::astype(mx::logical_not(*ignored, s), dtype, s), s);
  }
  if (options.label_smoothing > 0) {
    loss = mx::add(mx::multiply(loss, number(1 - options.label_smoothing), s),
                   mx::multiply(mx::sum(log_p, -1, false, s), number(options.label_smoothing / classes), s), s);
  }
  loss = mx::negative(loss, s);
  if (!soft) {
    loss = mx::where(*wrong, number(std::numeric_limits<double>::quiet_NaN()), loss, s);
    loss = mx::where(*ignored, number(0), loss, s);
  }
  if (options.reduction == Reduction::kNone) return loss;
  loss = mx::sum(loss, s);
  return options.reduction == Reduction::kMean ? mx::divide(loss, counted, s) : loss;
}

}  // namespace aspis
