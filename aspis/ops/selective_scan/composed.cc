#include "aspis/ops/selective_scan/composed.h"

#include <mlx/ops.h>

#include "aspis/ops/common/composed.h"

namespace aspis {
namespace {

// Rows of step t of {B, L, ...}: {B, ...}.
mx::array at_step(const mx::array& a, int t, mx::StreamOrDevice s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[1] = t, stop[1] = t + 1;
  return mx::squeeze(mx::slice(a, start, stop, s), 1, s);
}

// {B, G, N} -> {B, D, N}: every channel gets the row of its group.
mx::array spread(const mx::array& m, int channels, mx::StreamOrDevice s) {
  return mx::repeat(m, channels / m.shape(1), 1, s);
}

}  // namespace

std::pair<mx::array, mx::array> selective_scan_composed(const mx::array& u, const mx::array& delta, const mx::array& A,
                                                        const mx::array& B, const mx::array& C, const ScanOptions& o,
                                                        mx::StreamOrDevice s) {
  const int batch = u.shape(0), length = u.shape(1), channels = u.shape(2), state = A.shape(1);
  mx::array x = o.initial_state ? *o.initial_state : mx::zeros({batch, channels, state}, u.dtype(), s);
  if (u.size() == 0) return {mx::zeros_like(u, s), x};

  std::optional<mx::array> tokens;
  if (o.order || o.reverse) {
    const auto steps = o.reverse ? mx::arange(length - 1, -1, -1, mx::int32, s) : mx::arange(length, mx::int32, s);
    tokens = o.order ? mx::take(*o.order, steps, s) : steps;
  }
  const auto visited = [&](const mx::array& a) { return tokens ? mx::take(a, *tokens, 1, s) : a; };
  const auto us = visited(u);
  mx::array dt = visited(delta);
  if (o.delta_bias) dt = mx::add(dt, *o.delta_bias, s);
  if (o.delta_softplus) dt = ops::softplus(dt, s);
  const bool constant_B = B.ndim() == 2, constant_C = C.ndim() == 2;
  const auto Bs = constant_B ? B : visited(B), Cs = constant_C ? C : visited(C);

  Arrays rows;
  for (int t = 0; t < length; t++) {
    const auto step = mx::expand_dims(at_step(dt, t, s), 2, s);
    const auto input = mx::expand_dims(at_step(us, t, s), 2, s);
    const auto b = constant_B ? B : spread(at_step(Bs, t, s), channels, s);
    const auto c = constant_C ? C : spread(at_step(Cs, t, s), channels, s);
    x = mx::add(mx::multiply(ops::exp(mx::multiply(step, A, s), s), x, s),
                mx::multiply(mx::multiply(step, b, s), input, s), s);
    rows.push_back(mx::sum(mx::multiply(x, c, s), -1, false, s));
  }
  mx::array y = mx::stack(rows, 1, s);
  if (o.D) y = mx::add(y, mx::multiply(us, *o.D, s), s);
  if (tokens) y = mx::take(y, mx::argsort(*tokens, s), 1, s);
  if (o.z) y = mx::multiply(y, mx::multiply(*o.z, ops::sigmoid(*o.z, s), s), s);
  return {y, x};
}

}  // namespace aspis
