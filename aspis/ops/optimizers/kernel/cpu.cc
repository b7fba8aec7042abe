#include "aspis/ops/optimizers/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/adamw/kernel/update.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/ops/optimizers/kernel/factors.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/optimizers/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/optimizers/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(sgd_f32);
HWY_EXPORT(sgd_f64);
HWY_EXPORT(lion_f32);
HWY_EXPORT(lion_f64);
HWY_EXPORT(lamb_moments_f32);
HWY_EXPORT(lamb_moments_f64);
HWY_EXPORT(lamb_f32);
HWY_EXPORT(lamb_f64);
HWY_EXPORT(muon_moments_f32);
HWY_EXPORT(muon_moments_f64);
HWY_EXPORT(muon_f32);
HWY_EXPORT(muon_f64);
HWY_EXPORT(muon_polynomial_f32);
HWY_EXPORT(muon_polynomial_f64);

namespace {

// Writes `applied` and tells whether the step happens; if not, passes everything through.
template <typename T>
bool begin_step(const UpdateParams<T>& p, double* factor) {
  *factor = gradient_factor(p);
  const bool applied = std::isfinite(*factor);
  if (p.applied) *p.applied = applied ? 1.0f : 0.0f;
  if (!applied) pass_through(p);
  return applied;
}

template <typename T>
UpdateFactors<T> factors_of(const UpdateParams<T>& p, double factor, double weight_decay) {
  return {p.learning_rate, factor, p.average_decay, weight_decay};
}

// Matrices of at least this many multiplications a product share out their rows.
constexpr int64_t kLargeProduct = int64_t{1} << 22;
constexpr int64_t kRowBlock = 48;

// Scratch of one matrix with the smaller side m and the larger n.
template <typename T>
struct MuonScratch {
  std::vector<T> u, x, y, gram, poly, packed;
  MuonScratch(int64_t m, int64_t n)
      : u(m * n),
        x(m * n),
        y(m * n),
        gram(m * m),
        poly(m * m),
        packed(std::max({packed_size(n, m), packed_size(m, m), packed_size(m, n)})) {}
};

// Packs all columns of B {k, n} (or, `turned`, of B^T {n, k}) on the team.
template <typename T>
void pack_all(const T* B, int64_t k, int64_t n, bool turned, T* packed) {
  constexpr int64_t kColumns = 4 * kPanelCut;
  const int64_t ranges = std::max<int64_t>(1, n / kColumns);
  parallel_for(ranges, [&](int64_t r) {
    const int64_t first = r * kColumns, last = r + 1 == ranges ? n : first + kColumns;
    if (turned) {
      pack_transposed(B, k, k, n, first, last, packed);
    } else {
      pack(B, n, k, n, first, last, packed);
    }
  });
}

// C {m, n} = A {m, k} B by rows on the team.
template <typename T>
void multiply_rows(int64_t m, int64_t n, int64_t k, const T* A, const T* packed, T* C) {
  parallel_for(div_ceil(m, kRowBlock), [&](int64_t block) {
    const int64_t first = block * kRowBlock, rows = std::min(kRowBlock, m - first);
    multiply_packed<T>(rows, n, k, A + first * k, k, packed, 0, n, nullptr, false, C + first * n, n);
  });
}

template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T factor, T* to) {
  parallel_for(div_ceil(columns, kRowBlock), [&](int64_t block) {
    for (int64_t c = block * kRowBlock; c < std::min(columns, (block + 1) * kRowBlock); c++) {
      for (int64_t r = 0; r < rows; r++) to[c * rows + r] = factor * from[r * columns + c];
    }
  });
}

// One matrix; every part runs on the team, or in order inside a task.
template <typename T, typename Moments, typename Polynomial, typename Apply>
void muon_matrix(const UpdateArray<T>& a, const MuonConstants& c, const UpdateFactors<T>& f, Moments moments,
                 Polynomial polynomial, Apply apply) {
  const int64_t rows = a.rows, columns = rows > 0 ? a.n / rows : 0;
  if (a.n == 0) return;
  const int64_t m = std::min(rows, columns), n = std::max(rows, columns), blocks = div_ceil(a.n, kUpdateBlock);
  MuonScratch<T> s(m, n);
  std::vector<double> squares(blocks);
  parallel_for(blocks, [&](int64_t b) {
    const int64_t first = b * kUpdateBlock;
    squares[b] = moments(a, first, std::min(kUpdateBlock, a.n - first), f, s.u.data());
  });
  double total = 0;
  for (const double x : squares) total += x;
  const T inverse = static_cast<T>(1 / std::max(std::sqrt(total), c.eps));
  if (rows > columns) {
    transpose(s.u.data(), rows, columns, inverse, s.x.data());
  } else {
    for (int64_t i = 0; i < a.n; i++) s.x[i] = inverse * s.u[i];
  }
  for (int step = 0; step < c.steps; step++) {
    pack_all(s.x.data(), n, m, true, s.packed.data());
    multiply_rows(m, m, n, s.x.data(), s.packed.data(), s.gram.data());
    pack_all(s.gram.data(), m, m, false, s.packed.data());
    multiply_rows(m, m, m, s.gram.data(), s.packed.data(), s.poly.data());
    parallel_for(div_ceil(m, kRowBlock), [&](int64_t block) {
      polynomial(s.gram.data(), s.poly.data(), m, block * kRowBlock, std::min(m, (block + 1) * kRowBlock),
                 static_cast<T>(c.a), static_cast<T>(c.b), static_cast<T>(c.c));
    });
    pack_all(s.x.data(), m, n, false, s.packed.data());
    multiply_rows(m, n, m, s.poly.data(), s.packed.data(), s.y.data());
    std::swap(s.x, s.y);
  }
  if (rows > columns) {
    transpose(s.x.data(), columns, rows, T(1), s.y.data());
    std::swap(s.x, s.y);
  }
  UpdateArray<T> step = a;
  step.gradient = s.x.data();
  step.half_gradient = nullptr;
  const double size = c.original
                          ? std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)))
                          : 0.2 * std::sqrt(static_cast<double>(n));
  const T rate = static_cast<T>(static_cast<double>(f.rate) * size);
  parallel_for(blocks, [&](int64_t b) {
    const int64_t first = b * kUpdateBlock;
    apply(step, first, std::min(kUpdateBlock, a.n - first), f, rate);
  });
}

template <typename T, typename... Kernels>
void run_muon(const UpdateParams<T>& p, const MuonConstants& c, Kernels... kernels) {
  double factor;
  if (!begin_step(p, &factor)) return;
  UpdateFactors<T> f = factors_of(p, factor, c.weight_decay);
  f.betas(c.momentum, 0, p.step);
  f.nesterov = c.nesterov;
  std::vector<const UpdateArray<T>*> small;
  for (const UpdateArray<T>& a : p.arrays) {
    const int64_t columns = a.rows > 0 ? a.n / a.rows : 0;
    if (a.n * std::min(a.rows, columns) < kLargeProduct) {
      small.push_back(&a);
    } else {
      muon_matrix(a, c, f, kernels...);
    }
  }
  parallel_for(static_cast<int64_t>(small.size()), [&](int64_t i) { muon_matrix(*small[i], c, f, kernels...); });
}

template <typename T, typename Moments, typename Apply>
void run_lamb(const UpdateParams<T>& p, const LambConstants& c, Moments moments, Apply apply) {
  double factor;
  if (!begin_step(p, &factor)) return;
  UpdateFactors<T> f = factors_of(p, factor, c.weight_decay);
  f.betas(c.beta1, c.beta2, p.step);
  f.eps = static_cast<T>(c.eps);
  const auto count = static_cast<int64_t>(p.arrays.size());
  std::vector<int64_t> block_of(count + 1);
  for (int64_t i = 0; i < count; i++) block_of[i + 1] = block_of[i] + div_ceil(p.arrays[i].n, kUpdateBlock);
  std::vector<double> sums(2 * block_of[count]);
  const auto at = [&](const UpdateArray<T>& a, int64_t first) {
    return 2 * (block_of[&a - p.arrays.data()] + first / kUpdateBlock);
  };
  for_segments(p, [&](const UpdateArray<T>& a, int64_t first, int64_t n) {
    moments(a, first, n, f, sums.data() + at(a, first));
  });
  std::vector<T> rates(count);
  for (int64_t i = 0; i < count; i++) {
    double of_p = 0, of_r = 0;
    for (int64_t b = block_of[i]; b < block_of[i + 1]; b++) {
      of_p += sums[2 * b];
      of_r += sums[2 * b + 1];
    }
    const bool adapts = p.arrays[i].decay && of_p > 0 && of_r > 0;
    rates[i] = static_cast<T>(p.learning_rate * (adapts ? std::sqrt(of_p / of_r) : 1.0));
  }
  for_segments(p, [&](const UpdateArray<T>& a, int64_t first, int64_t n) {
    UpdateArray<T> moved = a;
    moved.in[1] = a.out[1];
    moved.in[2] = a.out[2];
    apply(moved, first, n, f, rates[&a - p.arrays.data()]);
  });
}

template <typename T, typename Kernel>
void run_sgd(const UpdateParams<T>& p, const SgdConstants& c, Kernel kernel) {
  double factor;
  if (!begin_step(p, &factor)) return;
  UpdateFactors<T> f = factors_of(p, factor, c.weight_decay);
  f.beta1 = static_cast<T>(c.momentum);
  f.nesterov = c.nesterov;
  for_segments(p, [&](const UpdateArray<T>& a, int64_t first, int64_t n) { kernel(a, first, n, f); });
}

template <typename T, typename Kernel>
void run_lion(const UpdateParams<T>& p, const LionConstants& c, Kernel kernel) {
  double factor;
  if (!begin_step(p, &factor)) return;
  UpdateFactors<T> f = factors_of(p, factor, c.weight_decay);
  f.betas(c.beta1, c.beta2, p.step);
  for_segments(p, [&](const UpdateArray<T>& a, int64_t first, int64_t n) { kernel(a, first, n, f); });
}

}  // namespace

template <>
void sgd(const UpdateParams<float>& p, const SgdConstants& c) {
  run_sgd(p, c, &HWY_DYNAMIC_DISPATCH(sgd_f32));
}
template <>
void sgd(const UpdateParams<double>& p, const SgdConstants& c) {
  run_sgd(p, c, &HWY_DYNAMIC_DISPATCH(sgd_f64));
}
template <>
void lion(const UpdateParams<float>& p, const LionConstants& c) {
  run_lion(p, c, &HWY_DYNAMIC_DISPATCH(lion_f32));
}
template <>
void lion(const UpdateParams<double>& p, const LionConstants& c) {
  run_lion(p, c, &HWY_DYNAMIC_DISPATCH(lion_f64));
}
template <>
void lamb(const UpdateParams<float>& p, const LambConstants& c) {
  run_lamb(p, c, &HWY_DYNAMIC_DISPATCH(lamb_moments_f32), &HWY_DYNAMIC_DISPATCH(lamb_f32));
}
template <>
void lamb(const UpdateParams<double>& p, const LambConstants& c) {
  run_lamb(p, c, &HWY_DYNAMIC_DISPATCH(lamb_moments_f64), &HWY_DYNAMIC_DISPATCH(lamb_f64));
}
template <>
void muon(const UpdateParams<float>& p, const MuonConstants& c) {
  run_muon(p, c, &HWY_DYNAMIC_DISPATCH(muon_moments_f32), &HWY_DYNAMIC_DISPATCH(muon_polynomial_f32),
           &HWY_DYNAMIC_DISPATCH(muon_f32));
}
template <>
void muon(const UpdateParams<double>& p, const MuonConstants& c) {
  run_muon(p, c, &HWY_DYNAMIC_DISPATCH(muon_moments_f64), &HWY_DYNAMIC_DISPATCH(muon_polynomial_f64),
           &HWY_DYNAMIC_DISPATCH(muon_f64));
}

}  // namespace aspis::kernel
#endif
