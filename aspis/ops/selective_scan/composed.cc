#include "aspis/ops/selective_scan/composed.h"

#include <mlx/ops.h>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/common/composed_trig.h"
#include "aspis/ops/selective_scan/pairs.h"

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

// The part of complex numbers that stands at `which` (0 real, 1 imaginary) of their pairs {.., 2 N}.
mx::array part_of(const mx::array& pairs, int which, mx::StreamOrDevice s) {
  mx::Shape shape = pairs.shape();
  shape.back() /= 2;
  shape.push_back(2);
  return mx::take(mx::reshape(pairs, shape, s), which, -1, s);
}

mx::array pairs_from(const mx::array& real, const mx::array& imaginary, mx::StreamOrDevice s) {
  mx::Shape shape = real.shape();
  shape.back() *= 2;
  return mx::reshape(mx::stack({real, imaginary}, -1, s), shape, s);
}

// The product of pairs.
mx::array times(const mx::array& a, const mx::array& b, mx::StreamOrDevice s) {
  const auto re = part_of(a, 0, s), im = part_of(a, 1, s), x = part_of(b, 0, s), y = part_of(b, 1, s);
  return pairs_from(mx::subtract(mx::multiply(re, x, s), mx::multiply(im, y, s), s),
                    mx::add(mx::multiply(re, y, s), mx::multiply(im, x, s), s), s);
}

mx::array exp_pairs(const mx::array& a, mx::StreamOrDevice s) {
  const auto size = ops::exp(part_of(a, 0, s), s);
  const auto [sine, cosine] = ops::sine_cosine(part_of(a, 1, s), s);
  return pairs_from(mx::multiply(size, cosine, s), mx::multiply(size, sine, s), s);
}

// With `pairs`, A, B, C and states are those of pairs.h.
std::pair<mx::array, mx::array> one_call(const mx::array& u, const mx::array& delta, const mx::array& A,
                                         const mx::array& B, const mx::array& C, const ScanOptions& o, bool pairs,
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

  // {B, L} factors of the state before a step and of the state after it: 0 where
  // a sequence begins, and 0 in padding.
  std::optional<mx::array> carried, real;
  if (o.seq_idx) {
    const auto ids = visited(*o.seq_idx);
    const auto before = mx::concatenate(
        {mx::zeros({batch, 1}, mx::int32, s), mx::slice(ids, {0, 0}, {batch, length - 1}, s)}, 1, s);
    carried = mx::expand_dims(mx::equal(ids, before, s), {2, 3}, s);
    real = mx::expand_dims(mx::greater_equal(ids, mx::array(0), s), {2, 3}, s);
  }
  const auto zero = mx::array(0, u.dtype());

  Arrays rows;
  for (int t = 0; t < length; t++) {
    const auto step = mx::expand_dims(at_step(dt, t, s), 2, s);
    const auto input = mx::expand_dims(at_step(us, t, s), 2, s);
    const auto b = constant_B ? B : spread(at_step(Bs, t, s), channels, s);
    const auto c = constant_C ? C : spread(at_step(Cs, t, s), channels, s);
    if (carried) x = mx::where(at_step(*carried, t, s), x, zero, s);
    const auto exponent = mx::multiply(step, A, s);
    const auto kept = pairs ? times(exp_pairs(exponent, s), x, s) : mx::multiply(ops::exp(exponent, s), x, s);
    x = mx::add(kept, mx::multiply(mx::multiply(step, b, s), input, s), s);
    if (real) x = mx::where(at_step(*real, t, s), x, zero, s);
    const auto product =
        pairs ? mx::multiply(mx::array(2, x.dtype()), part_of(times(x, c, s), 0, s), s) : mx::multiply(x, c, s);
    rows.push_back(mx::sum(product, -1, false, s));
  }
  mx::array y = mx::stack(rows, 1, s);
  if (o.D) y = mx::add(y, mx::multiply(us, *o.D, s), s);
  if (tokens) y = mx::take(y, mx::argsort(*tokens, s), 1, s);
  if (o.z) y = mx::multiply(y, mx::multiply(*o.z, ops::sigmoid(*o.z, s), s), s);
  if (o.seq_idx) y = mx::where(mx::expand_dims(mx::greater_equal(*o.seq_idx, mx::array(0), s), 2, s), y, zero, s);
  return {y, x};
}

// Rows [first, last) of axis 1 (of axis 0 for states).
mx::array part(const mx::array& a, int axis, int first, int last, mx::StreamOrDevice s) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = first, stop[axis] = last;
  return mx::slice(a, start, stop, s);
}

std::pair<mx::array, mx::array> all_calls(const mx::array& u, const mx::array& delta, const mx::array& A,
                                          const mx::array& B, const mx::array& C, const ScanOptions& options,
                                          bool pairs, mx::StreamOrDevice s) {
  if (options.cu_seqlens.empty()) return one_call(u, delta, A, B, C, options, pairs, s);
  Arrays outs, states;
  for (size_t i = 0; i + 1 < options.cu_seqlens.size(); i++) {
    const int first = options.cu_seqlens[i], last = options.cu_seqlens[i + 1], row = static_cast<int>(i);
    const auto tokens = [&](const mx::array& a) { return part(a, 1, first, last, s); };
    ScanOptions o = options;
    o.cu_seqlens.clear();
    if (o.z) o.z = tokens(*o.z);
    if (o.initial_state) o.initial_state = part(*o.initial_state, 0, row, row + 1, s);
    auto [out, state] = one_call(tokens(u), tokens(delta), A, B.ndim() == 2 ? B : tokens(B),
                                 C.ndim() == 2 ? C : tokens(C), o, pairs, s);
    outs.push_back(out);
    states.push_back(state);
  }
  return {mx::concatenate(outs, 1, s), mx::concatenate(states, 0, s)};
}

}  // namespace

std::pair<mx::array, mx::array> selective_scan_composed(const mx::array& u, const mx::array& delta,
                                                        const mx::array& A, const mx::array& B, const mx::array& C,
                                                        const ScanOptions& options, mx::StreamOrDevice s) {
  return all_calls(u, delta, A, B, C, options, false, s);
}

std::pair<mx::array, mx::array> selective_scan_pairs_composed(const mx::array& u, const mx::array& delta,
                                                              const mx::array& A, const mx::array& B,
                                                              const mx::array& C, const ScanOptions& options,
                                                              mx::StreamOrDevice s) {
  return all_calls(u, delta, A, B, C, options, true, s);
}

}  // namespace aspis
