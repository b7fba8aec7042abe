#include "aspis/ops/ssd/composed.h"

#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "aspis/ops/common/composed.h"

namespace aspis {
namespace {

mx::array part(const mx::array& a, int axis, int first, int last, mx::StreamOrDevice s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = first, stop[axis] = last;
  return mx::slice(a, start, stop, s);
}

mx::array scalar(double v, mx::Dtype dtype) { return mx::array(v, dtype); }

// {B, L} places of sequences: how often the id has changed so far.
mx::array segments(const mx::array& ids, mx::StreamOrDevice s) {
  const int batch = ids.shape(0), length = ids.shape(1);
  const auto before = mx::concatenate({mx::zeros({batch, 1}, mx::int32, s), part(ids, 1, 0, length - 1, s)}, 1, s);
  return mx::cumsum(mx::astype(mx::not_equal(ids, before, s), mx::int32, s), 1, false, true, s);
}

std::pair<mx::array, mx::array> one_call(const mx::array& x, const mx::array& dt, const mx::array& A,
                                         const mx::array& B, const mx::array& C, const SsdOptions& o,
                                         mx::StreamOrDevice s) {
  const int batch = x.shape(0), length = x.shape(1), heads = x.shape(2), headdim = x.shape(3), state = B.shape(3);
  const mx::Dtype dtype = x.dtype();
  mx::array h = o.initial_state ? *o.initial_state : mx::zeros({batch, heads, headdim, state}, dtype, s);
  if (x.size() == 0) return {mx::zeros_like(x, s), h};

  mx::array steps = o.dt_bias ? mx::add(dt, *o.dt_bias, s) : dt;
  if (o.dt_softplus) steps = ops::softplus(steps, s);
  steps = mx::maximum(steps, scalar(o.dt_limit.first, dtype), s);
  if (std::isfinite(o.dt_limit.second)) steps = mx::minimum(steps, scalar(o.dt_limit.second, dtype), s);
  std::optional<mx::array> segment, real;
  if (o.seq_idx) {
    segment = segments(*o.seq_idx, s);
    real = mx::greater_equal(*o.seq_idx, mx::array(0), s);
    steps = mx::where(mx::expand_dims(*real, 2, s), steps, scalar(0, dtype), s);
  }
  // {B, H, L, .} throughout.
  const auto to_heads = [&](const mx::array& m) {
    return mx::swapaxes(mx::repeat(m, heads / m.shape(2), 2, s), 1, 2, s);
  };
  const auto xs = mx::swapaxes(x, 1, 2, s), Bs = to_heads(B), Cs = to_heads(C), ts = mx::swapaxes(steps, 1, 2, s);
  const auto logs = mx::multiply(ts, mx::reshape(A, {1, heads, 1}, s), s);
  const auto minus_infinity = scalar(-std::numeric_limits<double>::infinity(), dtype), zero = scalar(0, dtype);

  const int chunk = o.chunk_size > 0 ? o.chunk_size : 64;
  mx::array entering = mx::zeros({batch, 1}, mx::int32, s);
  Arrays rows;
  for (int first = 0; first < length; first += chunk) {
    const int last = std::min(length, first + chunk), n = last - first;
    const auto xc = part(xs, 2, first, last, s), Bc = part(Bs, 2, first, last, s),
               Cc = part(Cs, 2, first, last, s);
    const auto tc = part(ts, 2, first, last, s),
               sums = mx::cumsum(part(logs, 2, first, last, s), 2, false, true, s);
    const auto total = part(sums, 2, n - 1, n, s);
    // Differences first, then the mask, then exp.
    auto allowed = mx::tril(mx::ones({n, n}, mx::bool_, s), 0, s);
    auto into = sums, out_of = mx::subtract(total, sums, s), through = total;
    if (segment) {
      const auto seg = part(*segment, 1, first, last, s), end = part(seg, 1, n - 1, n, s);
      allowed = mx::logical_and(
          allowed, mx::expand_dims(mx::equal(mx::expand_dims(seg, 2, s), mx::expand_dims(seg, 1, s), s), 1, s), s);
      const auto from = [&](const mx::array& same, const mx::array& v) {
        return mx::where(mx::expand_dims(same, 1, s), v, minus_infinity, s);
      };
      into = from(mx::equal(seg, entering, s), into);
      out_of = from(mx::equal(seg, end, s), out_of);
      through = from(mx::equal(end, entering, s), through);
      entering = end;
    }
    const auto spans = mx::subtract(mx::expand_dims(sums, 3, s), mx::expand_dims(sums, 2, s), s);
    const auto decay = ops::exp(mx::where(allowed, spans, minus_infinity, s), s);
    const auto scores = mx::multiply(mx::multiply(mx::matmul(Cc, mx::swapaxes(Bc, 2, 3, s), s), decay, s),
                                     mx::expand_dims(tc, 2, s), s);
    const auto inside = mx::matmul(scores, xc, s);
    const auto before =
        mx::multiply(mx::matmul(Cc, mx::swapaxes(h, 2, 3, s), s), mx::expand_dims(ops::exp(into, s), 3, s), s);
    rows.push_back(mx::add(inside, before, s));
    const auto weight = mx::expand_dims(mx::multiply(ops::exp(out_of, s), tc, s), 3, s);
    h = mx::add(mx::multiply(h, mx::expand_dims(ops::exp(through, s), 3, s), s),
                mx::matmul(mx::swapaxes(mx::multiply(xc, weight, s), 2, 3, s), Bc, s), s);
  }
  mx::array y = mx::swapaxes(mx::concatenate(rows, 2, s), 1, 2, s);
  if (o.D) y = mx::add(y, mx::multiply(x, o.D->ndim() == 1 ? mx::expand_dims(*o.D, 1, s) : *o.D, s), s);
  if (o.z) y = mx::multiply(y, mx::multiply(*o.z, ops::sigmoid(*o.z, s), s), s);
  if (real) y = mx::where(mx::expand_dims(*real, {2, 3}, s), y, zero, s);
  return {y, h};
}

}  // namespace

std::pair<mx::array, mx::array> ssd_composed(const mx::array& x, const mx::array& dt, const mx::array& A,
                                             const mx::array& B, const mx::array& C, const SsdOptions& options,
                                             mx::StreamOrDevice s) {
  if (options.cu_seqlens.empty()) return one_call(x, dt, A, B, C, options, s);
  Arrays outs, states;
  for (size_t i = 0; i + 1 < options.cu_seqlens.size(); i++) {
    const int first = options.cu_seqlens[i], last = options.cu_seqlens[i + 1], row = static_cast<int>(i);
    SsdOptions o = options;
    o.cu_seqlens.clear();
    if (o.z) o.z = part(*o.z, 1, first, last, s);
    if (o.initial_state) o.initial_state = part(*o.initial_state, 0, row, row + 1, s);
    auto [out, state] = one_call(part(x, 1, first, last, s), part(dt, 1, first, last, s), A,
                                 part(B, 1, first, last, s), part(C, 1, first, last, s), o, s);
    outs.push_back(out);
    states.push_back(state);
  }
  return {mx::concatenate(outs, 1, s), mx::concatenate(states, 0, s)};
}

}  // namespace aspis
