#include "aspis/ops/reduce/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/reduce/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/reduce/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kBlock = 1 << 14;    // values of a block
constexpr int64_t kColumns = 1 << 10;  // of its lines: a line of sums stays in the L1 cache

// How {outer, reduced, inner} is cut: blocks of `rows` of the reduced axis.
struct Cut {
  Cut(int64_t reduced, int64_t inner) {
    rows = std::max<int64_t>(1, kBlock / std::max<int64_t>(inner, 1));
    // Wide lines: some rows at least, or the sums would be as large as the data.
    rows = std::max<int64_t>(rows, 16);
    blocks = std::max<int64_t>(1, div_ceil(reduced, rows));
  }
  int64_t rows, blocks;
};

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  T (*run)(const S*, const S*, int64_t);
  void (*rows)(const S*, const S*, int64_t, int64_t, T*);
};

#define ASPIS_FUNCTIONS(S, suffix)                                                              \
  HWY_EXPORT(sum_run_##suffix);                                                                 \
  HWY_EXPORT(sum_rows_##suffix);                                                                \
  Functions<S> functions(S) {                                                                   \
    return {&HWY_DYNAMIC_DISPATCH(sum_run_##suffix), &HWY_DYNAMIC_DISPATCH(sum_rows_##suffix)}; \
  }
ASPIS_FUNCTIONS(float, f32)
ASPIS_FUNCTIONS(double, f64)
ASPIS_FUNCTIONS(Bf16, bf16)
#undef ASPIS_FUNCTIONS

// Sum of `count` values at distance `step`, as a fixed tree.
template <typename T>
T tree(const T* v, int64_t count, int64_t step) {
  if (count == 1) return v[0];
  const int64_t half = count / 2;
  return tree(v, half, step) + tree(v + half * step, count - half, step);
}

template <typename S, typename O>
void run(const SumParams<S, O>& p) {
  using T = Arithmetic<S>;
  const auto f = functions(S{});
  const T scale = static_cast<T>(p.scale);
  const Cut cut(p.reduced, p.inner);
  const auto factor = [&](int64_t at) { return p.factor ? p.factor + at : nullptr; };
  if (p.inner == 1 && cut.blocks == 1) {  // rows, some at a time
    const int64_t each = std::max<int64_t>(1, kBlock / std::max<int64_t>(p.reduced, 1));
    parallel_for(div_ceil(p.outer, each), [&](int64_t task) {
      for (int64_t a = task * each; a < std::min(p.outer, (task + 1) * each); a++) {
        store_value(p.y[a], scale * f.run(p.x + a * p.reduced, factor(a * p.reduced), p.reduced));
      }
    });
    return;
  }
  parallel_for(p.outer * cut.blocks, [&](int64_t task) {
    const int64_t first = task % cut.blocks * cut.rows, rows = std::min(cut.rows, p.reduced - first);
    const int64_t at = (task / cut.blocks * p.reduced + first) * p.inner;
    T* line = p.scratch + task * p.inner;
    if (p.inner == 1) {
      *line = f.run(p.x + at, factor(at), rows);
    } else {
      f.rows(p.x + at, factor(at), rows, p.inner, line);
    }
  });
  const int64_t pieces = div_ceil(p.inner, kColumns);
  parallel_for(p.outer * pieces, [&](int64_t task) {
    const int64_t a = task / pieces, last = std::min(p.inner, (task % pieces + 1) * kColumns);
    for (int64_t k = task % pieces * kColumns; k < last; k++) {
      store_value(p.y[a * p.inner + k],
                  scale * tree(p.scratch + a * cut.blocks * p.inner + k, cut.blocks, p.inner));
    }
  });
}

}  // namespace

int64_t sum_scratch(int64_t outer, int64_t reduced, int64_t inner) {
  return outer * Cut(reduced, inner).blocks * inner;
}

template <typename S, typename O>
void sum(const SumParams<S, O>& p) {
  run(p);
}
template void sum(const SumParams<float, float>&);
template void sum(const SumParams<double, double>&);
template void sum(const SumParams<Bf16, Bf16>&);
template void sum(const SumParams<Bf16, float>&);

}  // namespace aspis::kernel
#endif
