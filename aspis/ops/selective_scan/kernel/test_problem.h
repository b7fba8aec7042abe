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
#include "aspis/ops/selective_scan/kernel/reference.h"

namespace aspis::kernel::test {

struct Options {
  ScanShape shape;
  bool softplus = false, bias = false, skip = false, gate = false, initial = false, last = false;
  bool reverse = false, order = false, constant_B = false, constant_C = false;
  int64_t gap = 0;  ///< unused elements between rows
  double lo = 0.01, hi = 0.3;  ///< delta (without softplus)
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
    const auto [b, l, d, n, g] = o.shape;
    u = random_values(seed, "u", b * l * d, -1, 1);
    delta = o.softplus ? random_values(seed, "delta", b * l * d, -4, 1) : random_values(seed, "delta", b * l * d, o.lo, o.hi);
    if (o.gate) z = random_values(seed, "z", b * l * d, -3, 3);
    A = random_values(seed, "A", d * n, -4, -0.02);
    B = random_values(seed, "B", o.constant_B ? d * n : b * l * g * n, -1, 1);
    C = random_values(seed, "C", o.constant_C ? d * n : b * l * g * n, -1, 1);
    if (o.skip) D = random_values(seed, "D", d, -1, 1);
    if (o.bias) bias = random_values(seed, "bias", d, o.softplus ? -0.5 : 0.0, 0.5);
    if (o.initial) initial = random_values(seed, "initial", b * d * n, -1, 1);
    dout = random_values(seed, "dout", b * l * d, -1, 1);
    if (o.last) dlast = random_values(seed, "dlast", b * d * n, -1, 1);
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
  std::vector<T> checkpoints, workspace;

  explicit Problem(const Values& v) : o(v.o), order(v.order) {
    const auto [b, l, d, n, g] = o.shape;
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
    last = {b * d, n, 0};
    du = {b * l, d, gap};
    ddelta = {b * l, d, 0};
    if (o.gate) dz = {b * l, d, gap};
    dA = {d, n, 0};
    dB = {o.constant_B ? d : b * l * g, n, 0};
    dC = {o.constant_C ? d : b * l * g, n, 0};
    if (o.skip) dD = {1, d, 0};
    if (o.bias) dbias = {1, d, 0};
    if (o.initial) dinitial = {b * d, n, 0};
    checkpoints.resize(o.shape.checkpoint_size() + 1);
    workspace.resize(scan_vjp_workspace(o.shape, o.constant_B, o.constant_C));
  }

  ScanRows<T> rows(Buffer<T>& x) { return {x.get(), o.shape.length * (x.width + x.gap), x.width + x.gap}; }
  ScanRows<const T> const_rows(Buffer<T>& x) { return {x.get(), o.shape.length * (x.width + x.gap), x.width + x.gap}; }
  ScanMatrix<const T> matrix(Buffer<T>& x, bool constant) {
    return {x.get(), constant, o.shape.length * (x.width + x.gap), x.width + x.gap, o.shape.state};
  }

  ScanParams<T> forward_params() {
    ScanParams<T> p;
    p.shape = o.shape;
    p.softplus = o.softplus;
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

inline Results run_oracle(const Values& v) {
  Problem<double> problem(v);
  scan_reference(problem.forward_params());
  scan_vjp_reference(problem.backward_params(false));
  return problem.all_results();
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
