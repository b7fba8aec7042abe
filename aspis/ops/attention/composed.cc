#include <cmath>
#include <limits>

#include "aspis/ops/attention/attention.h"
#include "aspis/ops/common/composed.h"

namespace aspis {
namespace {

// Every head of keys or values as often as query heads share it.
mx::array repeated(const mx::array& a, int heads, mx::StreamOrDevice s) {
  return a.shape(2) == heads ? a : mx::repeat(a, heads / a.shape(2), 2, s);
}

}  // namespace

mx::array attention_composed(const mx::array& q, const mx::array& k, const mx::array& v,
                             const AttentionOptions& options, mx::StreamOrDevice s) {
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(q.shape(3)));
  const auto by_head = [&](const mx::array& a, bool turn) {
    return mx::transpose(a, turn ? std::vector<int>{0, 2, 3, 1} : std::vector<int>{0, 2, 1, 3}, s);
  };
  const auto number = [&](double x) { return mx::array(x, q.dtype()); };
  const auto away = number(-std::numeric_limits<double>::infinity());
  const auto scaled = mx::multiply(by_head(q, false), number(scale), s);
  auto scores = mx::matmul(scaled, by_head(repeated(k, q.shape(2), s), true), s);
  if (options.mask && options.mask->dtype() == mx::bool_) {
    scores = mx::where(*options.mask, scores, away, s);
  } else if (options.mask) {
    scores = mx::add(scores, mx::astype(*options.mask, scores.dtype(), s), s);
  }
  if (options.causal) {
    const int queries = q.shape(1), keys = k.shape(1);
    const auto last = mx::reshape(mx::arange(keys - queries, keys, s), {queries, 1}, s);
    const auto seen = mx::less_equal(mx::arange(0, keys, s), last, s);
    scores = mx::where(seen, scores, away, s);
  }
  // The maximum cancels in the quotient: no gradient goes through it. Without any key that is seen it is finite
  // too.
  const auto top = mx::maximum(mx::stop_gradient(mx::max(scores, -1, true, s), s), number(-1e30), s);
  const auto e = ops::exp(mx::subtract(scores, top, s), s);
  const auto sum = mx::sum(e, -1, true, s);
  const auto p = mx::divide(e, mx::where(mx::equal(sum, number(0), s), number(1), sum, s), s);
  return by_head(mx::matmul(p, by_head(repeated(v, q.shape(2), s), false), s), false);
}

mx::array window_attention_composed(const mx::array& q, const mx::array& k, const mx::array& v, int side,
                                    float scale, mx::StreamOrDevice s) {
  const int B = q.shape(0), Y = q.shape(1), X = q.shape(2);
  const int rows = (Y + side - 1) / side, columns = (X + side - 1) / side;
  const auto cut = [&](const mx::array& a) {
    const int H = a.shape(3), D = a.shape(4);
    const auto padded = mx::pad(a, {{0, 0}, {0, rows * side - Y}, {0, columns * side - X}, {0, 0}, {0, 0}},
                                mx::array(0, a.dtype()), "constant", s);
    const auto windows =
        mx::transpose(mx::reshape(padded, {B, rows, side, columns, side, H, D}, s), {0, 1, 3, 2, 4, 5, 6}, s);
    return mx::reshape(windows, {B * rows * columns, side * side, H, D}, s);
  };
  AttentionOptions options{.scale = scale};
  const auto real = cut(mx::ones({B, Y, X, 1, 1}, q.dtype(), s));
  options.mask =
      mx::reshape(mx::greater(real, mx::array(0.5, q.dtype()), s), {B * rows * columns, 1, 1, side * side}, s);
  const auto o = attention_composed(cut(q), cut(k), cut(v), options, s);
  const int H = q.shape(3), D = q.shape(4);
  const auto lines =
      mx::transpose(mx::reshape(o, {B, rows, columns, side, side, H, D}, s), {0, 1, 3, 2, 4, 5, 6}, s);
  return mx::slice(mx::reshape(lines, {B, rows * side, columns * side, H, D}, s), {0, 0, 0, 0, 0}, {B, Y, X, H, D},
                   s);
}

}  // namespace aspis
