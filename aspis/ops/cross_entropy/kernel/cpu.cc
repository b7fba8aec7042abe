#include "aspis/ops/cross_entropy/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/cross_entropy/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/cross_entropy/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

template <typename T>
struct Functions {
  void (*label_sums)(const T*, int64_t, T*, T*, T*);
  void (*weight_sums)(const T*, const T*, int64_t, T, T*, T*);
  void (*label_grad)(const T*, T*, int64_t, T, T, T);
  void (*weight_grad)(const T*, const T*, T*, int64_t, T, T, T, T);
  void (*target_grad)(const T*, T*, int64_t, T, T, T);
};

HWY_EXPORT(label_sums_f32);
HWY_EXPORT(weight_sums_f32);
HWY_EXPORT(label_grad_f32);
HWY_EXPORT(weight_grad_f32);
HWY_EXPORT(target_grad_f32);
HWY_EXPORT(label_sums_f64);
HWY_EXPORT(weight_sums_f64);
HWY_EXPORT(label_grad_f64);
HWY_EXPORT(weight_grad_f64);
HWY_EXPORT(target_grad_f64);

Functions<float> functions(float) {
  return {&HWY_DYNAMIC_DISPATCH(label_sums_f32), &HWY_DYNAMIC_DISPATCH(weight_sums_f32),
          &HWY_DYNAMIC_DISPATCH(label_grad_f32), &HWY_DYNAMIC_DISPATCH(weight_grad_f32),
          &HWY_DYNAMIC_DISPATCH(target_grad_f32)};
}
Functions<double> functions(double) {
  return {&HWY_DYNAMIC_DISPATCH(label_sums_f64), &HWY_DYNAMIC_DISPATCH(weight_sums_f64),
          &HWY_DYNAMIC_DISPATCH(label_grad_f64), &HWY_DYNAMIC_DISPATCH(weight_grad_f64),
          &HWY_DYNAMIC_DISPATCH(target_grad_f64)};
}

template <typename Task>
void for_rows(int64_t rows, int64_t length, Task task) {
  const int64_t per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(length, 1));
  parallel_for(div_ceil(rows, per_task), [&](int64_t block) {
    const int64_t last = std::min(rows, (block + 1) * per_task);
    for (int64_t r = block * per_task; r < last; r++) task(r);
  });
}

template <typename T>
bool ignored(const CrossEntropyParams<T>& p, int64_t r) {
  return p.labels && p.labels[r] == p.ignore_index;
}

template <typename T>
bool label_out_of_range(const CrossEntropyParams<T>& p, int64_t r) {
  return p.labels && (p.labels[r] < 0 || p.labels[r] >= p.classes);
}

// What the mean divides by.
template <typename T>
double counted_rows(const CrossEntropyParams<T>& p) {
  int64_t n = 0;
  for (int64_t r = 0; r < p.rows; r++) n += !ignored(p, r);
  return static_cast<double>(n);
}

template <typename T>
double row_loss(const CrossEntropyParams<T>& p, const Functions<T>& f, int64_t r) {
  if (ignored(p, r)) return 0;
  if (label_out_of_range(p, r)) return std::numeric_limits<double>::quiet_NaN();
  const T* x = p.x + r * p.x_stride;
  const double share = p.smoothing / static_cast<double>(p.classes);
  T top, sum, shifted;
  f.label_sums(x, p.classes, &top, &sum, &shifted);
  const double log_sum = std::log(static_cast<double>(sum));
  double mass = 1, dot = 0;  // sum q and sum q (x - top) without the smoothing
  if (p.labels) {
    dot = static_cast<double>(x[p.labels[r]]) - static_cast<double>(top);
  } else {
    T weights, product;
    f.weight_sums(x, p.t + r * p.t_stride, p.classes, top, &weights, &product);
    mass = static_cast<double>(weights);
    dot = static_cast<double>(product);
  }
  double loss = 0;
  // A share of exactly 0 must not meet an infinite sum.
  if (p.smoothing < 1) loss += (1 - p.smoothing) * (mass * log_sum - dot);
  if (p.smoothing > 0) loss += p.smoothing * log_sum - share * static_cast<double>(shifted);
  return loss;
}

template <typename T>
void run(const CrossEntropyParams<T>& p) {
  const Functions<T> f = functions(T{});
  if (!p.reduce) return for_rows(p.rows, p.classes, [&](int64_t r) { p.loss[r] = static_cast<T>(row_loss(p, f, r)); });
  std::vector<double> losses(p.rows);
  for_rows(p.rows, p.classes, [&](int64_t r) { losses[r] = row_loss(p, f, r); });
  double total = 0;
  for (const double loss : losses) total += loss;
  *p.loss = static_cast<T>(p.mean ? total / counted_rows(p) : total);
}

template <typename T>
void row_vjp(const CrossEntropyVjpParams<T>& p, const Functions<T>& f, int64_t r, double weight) {
  const auto& in = p.in;
  const int64_t n = in.classes;
  T* dx = p.dx ? p.dx + r * n : nullptr;
  if (ignored(in, r) || label_out_of_range(in, r)) {
    if (dx) std::fill_n(dx, n, ignored(in, r) ? T(0) : std::numeric_limits<T>::quiet_NaN());
    return;
  }
  const T* x = in.x + r * in.x_stride;
  const double share = in.smoothing / static_cast<double>(n), rest = 1 - in.smoothing;
  T top, sum, unused;
  f.label_sums(x, n, &top, &sum, &unused);
  const double scale = weight / static_cast<double>(sum);
  if (in.labels) {
    if (!dx) return;
    f.label_grad(x, dx, n, top, static_cast<T>(scale), static_cast<T>(weight * share));
    T& at = dx[in.labels[r]];
    // Of the label the difference of two numbers near each other: in double.
    const double e = std::exp(static_cast<double>(x[in.labels[r]]) - static_cast<double>(top));
    at = static_cast<T>(scale * e - weight * (rest + share));
    return;
  }
  const T* t = in.t + r * in.t_stride;
  if (dx) {
    T mass, dot;
    f.weight_sums(x, t, n, top, &mass, &dot);
    const double all = rest * static_cast<double>(mass) + in.smoothing;
    f.weight_grad(x, t, dx, n, top, static_cast<T>(scale * all), static_cast<T>(weight * share),
                  static_cast<T>(weight * rest));
  }
  if (p.dt) {
    f.target_grad(x, p.dt + r * n, n, top, static_cast<T>(std::log(static_cast<double>(sum))),
                  static_cast<T>(weight * rest));
  }
}

template <typename T>
void run_vjp(const CrossEntropyVjpParams<T>& p) {
  const Functions<T> f = functions(T{});
  const double divisor = p.in.mean && p.in.reduce ? counted_rows(p.in) : 1;
  for_rows(p.in.rows, p.in.classes, [&](int64_t r) {
    row_vjp(p, f, r, static_cast<double>(p.dy[p.in.reduce ? 0 : r]) / divisor);
  });
}

}  // namespace

template <>
void cross_entropy(const CrossEntropyParams<float>& p) {
  run(p);
}
template <>
void cross_entropy(const CrossEntropyParams<double>& p) {
  run(p);
}
template <>
void cross_entropy_vjp(const CrossEntropyVjpParams<float>& p) {
  run_vjp(p);
}
template <>
void cross_entropy_vjp(const CrossEntropyVjpParams<double>& p) {
  run_vjp(p);
}

}  // namespace aspis::kernel
#endif
