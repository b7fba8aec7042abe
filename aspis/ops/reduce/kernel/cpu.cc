#include "aspis/ops/reduce/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"
#include "aspis/simd/tree_sum.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/reduce/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/reduce/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;
constexpr int64_t kPiece = 1 << 12;  // of a wide line, summed by one task

// How {outer, reduced, inner} is cut: blocks of rows of the reduced axis, and pieces
// of the inner axis where that is wide.
struct Cut {
  Cut(int64_t reduced, int64_t inner) {
    pieces = std::max<int64_t>(1, div_ceil(inner, kPiece));
    rows = tree_block_rows(reduced, std::min(inner, kPiece));
    // Some rows at least, or the sums would be as large as the data.
    rows = std::max<int64_t>(rows, 16);
    blocks = std::max<int64_t>(1, div_ceil(reduced, rows));
  }
  int64_t rows, blocks, pieces;
};

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  T (*run)(const S*, const S*, int64_t);
  void (*rows)(const S*, const S*, int64_t, int64_t, int64_t, T*);
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

template <typename S, typename O>
void run(const SumParams<S, O>& p) {
  using T = Arithmetic<S>;
  const auto f = functions(S{});
  const T scale = static_cast<T>(p.scale);
  const Cut cut(p.reduced, p.inner);
  const auto factor = [&](int64_t at) { return p.factor ? p.factor + at : nullptr; };
  if (p.inner == 1 && cut.blocks == 1) {  // rows, some at a time
    const int64_t each = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(p.reduced, 1));
    parallel_for(div_ceil(p.outer, each), [&](int64_t task) {
      for (int64_t a = task * each; a < std::min(p.outer, (task + 1) * each); a++) {
        store_value(p.y[a], scale * f.run(p.x + a * p.reduced, factor(a * p.reduced), p.reduced));
      }
    });
    return;
  }
  parallel_for(p.outer * cut.blocks * cut.pieces, [&](int64_t task) {
    const int64_t column = task % cut.pieces * kPiece, block = task / cut.pieces;  // of all outer indices
    const int64_t first = block % cut.blocks * cut.rows, rows = std::min(cut.rows, p.reduced - first);
    const int64_t at = (block / cut.blocks * p.reduced + first) * p.inner + column;
    T* line = p.scratch + block * p.inner + column;
    if (p.inner == 1) {
      *line = f.run(p.x + at, factor(at), rows);
    } else {
      f.rows(p.x + at, factor(at), rows, std::min(kPiece, p.inner - column), p.inner, line);
    }
  });
  const auto write = [&](int64_t a, int64_t first, int64_t last) {
    const T* sums = p.scratch + a * cut.blocks * p.inner;
    for (int64_t k = first; k < last; k++) store_value(p.y[a * p.inner + k], scale * sums[k]);
  };
  const auto add_up = [&](int64_t a) {
    T* sums = p.scratch + a * cut.blocks * p.inner;
    if (cut.blocks > 1) tree_sum_rows(sums, cut.blocks, p.inner, sums);
  };
  if (p.outer == 1) {  // both on the team
    add_up(0);
    parallel_for(cut.pieces, [&](int64_t i) { write(0, i * kPiece, std::min(p.inner, (i + 1) * kPiece)); });
  } else {
    parallel_for(p.outer, [&](int64_t a) {
      add_up(a);
      write(a, 0, p.inner);
    });
  }
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
