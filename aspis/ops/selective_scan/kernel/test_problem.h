#pragma once

// Random problems for the kernel's tests: values in double, views with gaps in T.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"
#include "aspis/ops/selective_scan/kernel/plan.h"
#include "aspis/ops/selective_scan/kernel/reference.h"

namespace aspis::kernel::test {

struct Options {
  ScanShape shape;
  bool softplus = false, bias = false, skip = false, gate = false, initial = false, last = false;
  bool reverse = false, order = false, constant_B = false, constant_C = false;
  bool pairs = false;           ///< complex; shape.state is even then
  std::vector<int32_t> bounds;  ///< cu_seqlens, for a batch of one
  std::vector<int32_t> ids;     ///< seq_idx {B, L}
  int64_t chunks = 1;           ///< of the time-parallel form
  int64_t gap = 0;  ///< unused elements between rows
  double lo = 0.01, hi = 0.3;  ///< delta (without softplus)

  /// Initial and last states.
  int64_t states() const { return bounds.empty() ? shape.batch : static_cast<int64_t>(bounds.size()) - 1; }
  ScanPlan plan() const {
    if (!bounds.empty()) return packed_plan(bounds);
    if (!ids.empty()) return packed_plan(shape, ids.data(), reverse);
    return chunks > 1 ? chained_plan(shape, chunks) : dense_plan(shape);
  }
};

inline std::vector<double> random_values(uint64_t seed, const char* name, int64_t n, double lo, double hi) {
  Rng rng(seed, name);
  std::vector<double> v(n);
  // Rounded to float: the oracle sees what a float kernel sees.
  for (double& x : v) x = static_cast<float>(rng.uniform(lo, hi));
  return v;
}

/// The inputs of a problem, dense and in double.
struct Values {
  Options o;
  std::vector<double> u, delta, z, A, B, C, D, bias, initial, dout, dlast;
  std::vector<int32_t> order;

  Values(const Options& options, uint64_t seed) : o(options) {
    const auto [b, l, d, n, g, unit] = o.shape;
    u = random_values(seed, "u", b * l * d, -1, 1);
    delta = o.softplus ? random_values(seed, "delta", b * l * d, -4, 1) : random_values(seed, "delta", b * l * d, o.lo, o.hi);
    if (o.gate) z = random_values(seed, "z", b * l * d, -3, 3);
    A = random_values(seed, "A", d * n, -4, -0.02);
    if (o.pairs) {
      // Imaginary parts of both signs, some beyond a turn a step.
      const auto turns = random_values(seed, "turns", d * n / 2, -6, 6);
      for (int64_t i = 0; i < d * n / 2; i++) A[2 * i + 1] = turns[i];
    }
    B = random_values(seed, "B", o.constant_B ? d * n : b * l * g * n, -1, 1);
    C = random_values(seed, "C", o.constant_C ? d * n : b * l * g * n, -1, 1);
    if (o.skip) D = random_values(seed, "D", d, -1, 1);
    if (o.bias) bias = random_values(seed, "bias", d, o.softplus ? -0.5 : 0.0, 0.5);
    if (o.initial) initial = random_values(seed, "initial", o.states() * d * n, -1, 1);
    dout = random_values(seed, "dout", b * l * d, -1, 1);
    if (o.last) dlast = random_values(seed, "dlast", o.states() * d * n, -1, 1);
    if (o.order) {
      order.resize(l);
      std::iota(order.begin(), order.end(), 0);
      Rng rng(seed, "order");
      for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[rng.below(i)]);
    }
  }
};

inline constexpr double kGapValue = -77;

/// Rows of `width` values in a buffer with `gap` values between them, a guard in
/// front and behind, and an odd alignment.
template <typename T>
struct Buffer {
  int64_t rows = 0, width = 0, gap = 0;
  std::vector<T> data;

  Buffer() = default;
  Buffer(int64_t rows_, int64_t width_, int64_t gap_)
      : rows(rows_), width(width_), gap(gap_), data(1 + rows * (width + gap) + 1, T(kGapValue)) {}
  Buffer(const std::vector<double>& values, int64_t width_, int64_t gap_)
      : Buffer(values.empty() ? 0 : static_cast<int64_t>(values.size()) / width_, width_, gap_) {
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t i = 0; i < width; i++) row(r)[i] = static_cast<T>(values[r * width + i]);
    }
  }
  T* row(int64_t r) { return data.data() + 1 + r * (width + gap); }
  T* get() { return rows ? row(0) : nullptr; }
  std::vector<double> values() {
    std::vector<double> v;
    for (int64_t r = 0; r < rows; r++) v.insert(v.end(), row(r), row(r) + width);
    return v;
  }
  bool gaps_untouched() {
    if (data.empty()) return true;
    bool ok = data.front() == T(kGapValue) && data.back() == T(kGapValue);
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t i = width; i < width + gap; i++) ok = ok && row(r)[i] == T(kGapValue);
    }
    return ok;
  }
};

struct Named {
  std::string name;
  std::vector<double> values;
};
using Results = std::vector<Named>;

/// A problem in T with all outputs; runs the kernel or the oracle.
template <typename T>
struct Problem {
  Options o;
  Buffer<T> u, delta, z, A, B, C, D, bias, initial, dout, dlast;
  Buffer<T> out, last, du, ddelta, dz, dA, dB, dC, dD, dbias, dinitial;
  std::vector<int32_t> order;
  ScanPlan plan;
  std::vector<T> checkpoints, workspace;

  explicit Problem(const Values& v) : o(v.o), order(v.order), plan(v.o.plan()) {
    const auto [b, l, d, n, g, unit] = o.shape;
    const int64_t gap = o.gap;
    u = {v.u, d, gap};
    delta = {v.delta, d, gap + 1};
    z = {v.z, d, gap};
    A = {v.A, n, 0};
    B = {v.B, o.constant_B ? n : g * n, o.constant_B ? 0 : gap};
    C = {v.C, o.constant_C ? n : g * n, o.constant_C ? 0 : 2 * gap};
    D = {v.D, d, 0};
    bias = {v.bias, d, 0};
    initial = {v.initial, n, 0};
    dout = {v.dout, d, gap};
    dlast = {v.dlast, n, 0};
    out = {b * l, d, gap};
    last = {o.states() * d, n, 0};
    du = {b * l, d, gap};
    ddelta = {b * l, d, 0};
    if (o.gate) dz = {b * l, d, gap};
    dA = {d, n, 0};
    dB = {o.constant_B ? d : b * l * g, n, 0};
    dC = {o.constant_C ? d : b * l * g, n, 0};
    if (o.skip) dD = {1, d, 0};
    if (o.bias) dbias = {1, d, 0};
    if (o.initial) dinitial = {o.states() * d, n, 0};
    checkpoints.resize(plan.checkpoint_size(o.shape) + 1);
    workspace.resize(scan_vjp_workspace(o.shape, plan.part_count(), o.constant_B, o.constant_C));
  }

  ScanRows<T> rows(Buffer<T>& x) { return {x.get(), o.shape.length * (x.width + x.gap), x.width + x.gap}; }
  ScanRows<const T> const_rows(Buffer<T>& x) { return {x.get(), o.shape.length * (x.width + x.gap), x.width + x.gap}; }
  ScanMatrix<const T> matrix(Buffer<T>& x, bool constant) {
    return {x.get(), constant, o.shape.length * (x.width + x.gap), x.width + x.gap, o.shape.state};
  }

  ScanParams<T> forward_params() {
    ScanParams<T> p;
    p.shape = o.shape;
    p.plan = &plan;
    p.softplus = o.softplus;
    p.pairs = o.pairs;
    p.reverse = o.reverse;
    p.order = o.order ? order.data() : nullptr;
    p.u = const_rows(u), p.delta = const_rows(delta), p.z = const_rows(z);
    p.A = A.get();
    p.B = matrix(B, o.constant_B), p.C = matrix(C, o.constant_C);
    p.D = D.get(), p.delta_bias = bias.get(), p.initial_state = initial.get();
    p.out = rows(out);
    p.last_state = last.get();
    p.checkpoints = checkpoints.data() + 1;
    return p;
  }
  ScanVjpParams<T> backward_params(bool recompute) {
    ScanVjpParams<T> q;
    q.in = forward_params();
    q.recompute = recompute;
    q.dout = const_rows(dout);
    q.dlast_state = dlast.get();
    q.du = rows(du), q.ddelta = rows(ddelta), q.dz = rows(dz);
    q.dA = dA.get(), q.dB = dB.get(), q.dC = dC.get(), q.dD = dD.get();
    q.ddelta_bias = dbias.get(), q.dinitial_state = dinitial.get();
    q.workspace = workspace.data();
    return q;
  }

  Results forward_results() { return {{"out", out.values()}, {"last_state", last.values()}}; }
  Results gradient_results() {
    return {{"du", du.values()},   {"ddelta", ddelta.values()}, {"dz", dz.values()},   {"dA", dA.values()},
            {"dB", dB.values()},   {"dC", dC.values()},         {"dD", dD.values()},   {"dbias", dbias.values()},
            {"dinitial", dinitial.values()}};
  }
  Results all_results() {
    Results r = forward_results();
    for (auto& g : gradient_results()) r.push_back(g);
    return r;
  }
  bool gaps_untouched() {
    return out.gaps_untouched() && last.gaps_untouched() && du.gaps_untouched() && ddelta.gaps_untouched() &&
           dz.gaps_untouched() && dA.gaps_untouched() && dB.gaps_untouched() && dC.gaps_untouched();
  }
};

template <typename T>
Results run_kernel(Problem<T>& problem, bool recompute = false) {
  if (recompute) {
    ScanParams<T> p = problem.forward_params();
    p.checkpoints = nullptr;
    scan(p);
  } else {
    scan(problem.forward_params());
  }
  scan_vjp(problem.backward_params(recompute));
  return problem.all_results();
}

/// Tokens of one sequence, found from bounds or ids by the definition.
struct Sequence {
  int64_t row, first, length, initial, last;  ///< states: -1 none
  bool padding;
};
inline std::vector<Sequence> sequences_of(const Options& o) {
  std::vector<Sequence> list;
  const int64_t L = o.shape.length;
  for (size_t i = 0; i + 1 < o.bounds.size(); i++) {
    const auto at = static_cast<int64_t>(i);
    list.push_back({0, o.bounds[i], o.bounds[i + 1] - o.bounds[i], at, at, false});
  }
  for (int64_t b = 0; !o.ids.empty() && b < o.shape.batch; b++) {
    for (int64_t t = 0; t < L; t++) {
      const int32_t id = o.ids[b * L + t];
      if (t == 0 || id != o.ids[b * L + t - 1]) list.push_back({b, t, 0, -1, -1, id < 0});
      list.back().length++;
      const int64_t visited_first = o.reverse ? L - 1 : 0, visited_last = L - 1 - visited_first;
      if (t == visited_first && id == 0) list.back().initial = b;
      if (t == visited_last && id >= 0) list.back().last = b;
    }
  }
  if (o.bounds.empty() && o.ids.empty()) {
    for (int64_t b = 0; b < o.shape.batch; b++) list.push_back({b, 0, L, b, b, false});
  }
  return list;
}

/// Every sequence on its own, in double; gradients that they share are added.
inline Results run_oracle(const Values& v) {
  Problem<double> problem(v);
  const ScanVjpParams<double> whole = problem.backward_params(false);
  const ScanShape& s = v.o.shape;
  const int64_t DN = s.channels * s.state;
  // Sums over sequences, zero where nothing is added.
  Problem<double> total(v);
  for (auto* buffer : {&total.dA, &total.dB, &total.dC, &total.dD, &total.dbias, &total.last, &total.dinitial,
                       &total.out, &total.du, &total.ddelta, &total.dz}) {
    for (int64_t r = 0; r < buffer->rows; r++) std::fill_n(buffer->row(r), buffer->width, 0.0);
  }
  for (const Sequence& q : sequences_of(v.o)) {
    if (q.padding) continue;
    ScanVjpParams<double> p = whole;
    p.in.shape.batch = 1;
    p.in.shape.length = q.length;
    const auto move_rows = [&](auto& rows) {
      if (rows) rows.data = rows.row(q.row, q.first);
    };
    const auto move_matrix = [&](auto& m) {
      if (!m.constant) m.data = m.row(q.row, q.first, 0);
    };
    move_rows(p.in.u), move_rows(p.in.delta), move_rows(p.in.z), move_rows(p.dout);
    move_matrix(p.in.B), move_matrix(p.in.C);
    const auto target = [&](Buffer<double>& x) {
      return ScanRows<double>{x.get() ? x.row(q.row * s.length + q.first) : nullptr, 0, x.width + x.gap};
    };
    p.in.out = target(total.out), p.du = target(total.du), p.ddelta = target(total.ddelta), p.dz = target(total.dz);
    p.in.initial_state = whole.in.initial_state && q.initial >= 0 ? whole.in.initial_state + q.initial * DN : nullptr;
    p.dlast_state = whole.dlast_state && q.last >= 0 ? whole.dlast_state + q.last * DN : nullptr;
    std::vector<double> unused(DN);
    p.in.last_state = q.last >= 0 ? total.last.row(q.last * s.channels) : unused.data();
    p.dinitial_state = whole.dinitial_state && q.initial >= 0 ? total.dinitial.row(q.initial * s.channels) : nullptr;
    scan_reference(p.in);
    scan_vjp_reference(p);
    const auto add = [](Buffer<double>& to, const double* from, int64_t first_row, int64_t rows) {
      for (int64_t i = 0; from && i < rows * to.width; i++) to.row(first_row)[i] += from[i];
    };
    const int64_t first = (q.row * s.length + q.first) * s.groups, rows = q.length * s.groups;
    add(total.dA, whole.dA, 0, s.channels);
    add(total.dB, whole.dB, v.o.constant_B ? 0 : first, v.o.constant_B ? s.channels : rows);
    add(total.dC, whole.dC, v.o.constant_C ? 0 : first, v.o.constant_C ? s.channels : rows);
    if (whole.dD) add(total.dD, whole.dD, 0, 1);
    if (whole.ddelta_bias) add(total.dbias, whole.ddelta_bias, 0, 1);
  }
  return total.all_results();
}

/// max |got - want| / max |want|; infinity if one is NaN or infinite and the other is not.
inline double error(const std::vector<double>& got, const std::vector<double>& want) {
  double worst = 0, largest = 0;
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(want[i]) || !std::isfinite(got[i])) {
      if (got[i] != want[i] && !(std::isnan(got[i]) && std::isnan(want[i]))) return std::numeric_limits<double>::infinity();
      continue;
    }
    worst = std::max(worst, std::abs(got[i] - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  return worst / std::max(largest, 1e-30);
}

}  // namespace aspis::kernel::test
