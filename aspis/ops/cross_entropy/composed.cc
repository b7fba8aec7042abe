#include <limits>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"

namespace aspis {

mx::array cross_entropy_composed(const mx::array& logits, const mx::array& targets,
                                 const CrossEntropyOptions& options, mx::StreamOrDevice s) {
  const int classes = logits.shape(-1);
  const auto number = [&](double v) { return mx::array(v, logits.dtype()); };
  const mx::array m = mx::stop_gradient(mx::max(logits, -1, true, s), s);
  const mx::array shifted = mx::subtract(logits, m, s);
  const mx::array log_p = mx::subtract(shifted, mx::log(mx::sum(ops::exp(shifted, s), -1, true, s), s), s);

  mx::array one_hot = targets, counted = mx::array(true);
  if (targets.ndim() == 1) {
    const mx::array label = mx::expand_dims(targets, -1, s);
    one_hot = mx::astype(mx::equal(label, mx::arange(classes, s), s), logits.dtype(), s);
    counted = mx::not_equal(targets, mx::array(options.ignore_index), s);
  }
  const mx::array q = mx::add(mx::multiply(one_hot, number(1 - options.label_smoothing), s),
                              number(options.label_smoothing / classes), s);
  // A class of weight 0 may have a log-probability of -inf.
  const mx::array zero = number(0);
  const mx::array used = mx::where(mx::equal(q, zero, s), zero, log_p, s);
  mx::array loss = mx::negative(mx::sum(mx::multiply(q, used, s), -1, false, s), s);
  if (targets.ndim() == 1) {
    const mx::array is_class =
        mx::logical_and(mx::greater_equal(targets, mx::array(0), s), mx::less(targets, mx::array(classes), s), s);
    loss = mx::where(is_class, loss, number(std::numeric_limits<double>::quiet_NaN()), s);
    loss = mx::where(counted, loss, zero, s);
  }
  if (options.reduction == Reduction::kNone) return loss;
  mx::array total = mx::sum(loss, s);
  if (options.reduction == Reduction::kSum) return total;
  const mx::array rows = targets.ndim() == 1 ? mx::astype(mx::sum(counted, s), logits.dtype(), s)
                                             : number(static_cast<double>(logits.shape(0)));
  return mx::divide(total, rows, s);
}

}  // namespace aspis
