#include "aspis/ops/causal_conv1d/composed.h"

#include <mlx/ops.h>

#include "aspis/ops/common/composed.h"

namespace aspis {
namespace {

// Token of each step, or nothing if steps and tokens agree.
std::optional<mx::array> visits(const mx::array& x, const Conv1dOptions& options, mx::StreamOrDevice s) {
  if (!options.order && !options.reverse) return std::nullopt;
  const int length = x.shape(1);
  const auto steps =
      options.reverse ? mx::arange(length - 1, -1, -1, mx::int32, s) : mx::arange(length, mx::int32, s);
  return options.order ? mx::take(*options.order, steps, s) : steps;
}

}  // namespace

std::pair<mx::array, mx::array> causal_conv1d_composed(const mx::array& x, const mx::array& weight,
                                                       const Conv1dOptions& options, mx::StreamOrDevice s) {
  const int batch = x.shape(0), length = x.shape(1), channels = x.shape(2), width = weight.shape(1);
  const int left = options.symmetric ? (width - 1) / 2 : width - 1;
  const auto tokens = visits(x, options, s);
  const auto steps = tokens ? mx::take(x, *tokens, 1, s) : x;
  const auto zeros = [&](int rows) { return mx::zeros({batch, rows, channels}, x.dtype(), s); };
  const auto before = options.initial_state ? *options.initial_state : zeros(left);
  const auto padded = mx::concatenate({before, steps, zeros(width - 1 - left)}, 1, s);

  mx::array sum = options.bias ? mx::broadcast_to(*options.bias, x.shape(), s) : zeros(length);
  for (int k = 0; k < width; k++) {
    const auto tap = mx::slice(weight, {0, k}, {channels, k + 1}, s);
    const auto shifted = mx::slice(padded, {0, k, 0}, {batch, k + length, channels}, s);
    sum = mx::add(sum, mx::multiply(mx::reshape(tap, {channels}, s), shifted, s), s);
  }
  if (options.silu) sum = mx::multiply(sum, ops::sigmoid(sum, s), s);
  if (tokens) sum = mx::take(sum, mx::argsort(*tokens, s), 1, s);
  return {sum, mx::slice(padded, {0, padded.shape(1) - (width - 1), 0}, padded.shape(), s)};
}

}  // namespace aspis
