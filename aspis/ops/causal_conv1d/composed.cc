#include "aspis/ops/causal_conv1d/composed.h"

#include <mlx/ops.h>

#include <algorithm>

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

std::pair<mx::array, mx::array> one_call(const mx::array& x, const mx::array& weight, const Conv1dOptions& options,
                                         mx::StreamOrDevice s) {
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

}  // namespace

std::vector<kernel::Sequence> conv1d_sequences(const mx::array& x, const Conv1dOptions& options,
                                               mx::StreamOrDevice s) {
  if (!options.cu_seqlens.empty()) return kernel::bounded_sequences(options.cu_seqlens);
  if (!options.seq_idx) return kernel::row_sequences(x.shape(0), x.shape(1));
  mx::array ids = mx::contiguous(*options.seq_idx, false, s);
  ids.eval();
  return kernel::id_sequences(x.shape(0), x.shape(1), ids.data<int32_t>(), options.reverse);
}

std::pair<mx::array, mx::array> causal_conv1d_composed(const mx::array& x, const mx::array& weight,
                                                       const Conv1dOptions& options, mx::StreamOrDevice s) {
  if (!options.seq_idx && options.cu_seqlens.empty()) return one_call(x, weight, options, s);
  const int channels = x.shape(2), states = weight.shape(1) - 1;
  auto sequences = conv1d_sequences(x, options, s);
  std::sort(sequences.begin(), sequences.end(), [](const kernel::Sequence& a, const kernel::Sequence& b) {
    return std::pair(a.row, a.first) < std::pair(b.row, b.first);
  });
  const int count = options.cu_seqlens.empty() ? x.shape(0) : static_cast<int>(options.cu_seqlens.size()) - 1;
  std::vector<std::vector<mx::array>> rows(static_cast<size_t>(x.shape(0)));
  std::vector<mx::array> ends(static_cast<size_t>(count), mx::zeros({1, states, channels}, x.dtype(), s));
  for (const kernel::Sequence& q : sequences) {
    const int row = static_cast<int>(q.row), first = static_cast<int>(q.first), n = static_cast<int>(q.length);
    Conv1dOptions o = options;
    o.seq_idx.reset();
    o.cu_seqlens.clear();
    o.initial_state.reset();
    if (options.initial_state && q.initial >= 0) {
      const int at = static_cast<int>(q.initial);
      o.initial_state = mx::slice(*options.initial_state, {at, 0, 0}, {at + 1, states, channels}, s);
    }
    auto [out, end] = one_call(mx::slice(x, {row, first, 0}, {row + 1, first + n, channels}, s), weight, o, s);
    rows[static_cast<size_t>(row)].push_back(q.padding ? mx::zeros_like(out, s) : out);
    if (q.last >= 0) ends[static_cast<size_t>(q.last)] = end;
  }
  std::vector<mx::array> whole;
  for (const auto& row : rows) whole.push_back(mx::concatenate(row, 1, s));
  return {mx::concatenate(whole, 0, s), mx::concatenate(ends, 0, s)};
}

}  // namespace aspis
