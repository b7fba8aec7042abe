#include "aspis/ops/row_norm/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"
#include "aspis/simd/tree_sum.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/row_norm/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/row_norm/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;
constexpr int64_t kPositions = 256;  // of a tile: kTile of every target

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  void (*rows)(const RowNormParams<S>&, int64_t, int64_t);
  void (*rows_vjp)(const RowNormVjpParams<S>&, int64_t, int64_t, T*, T*);
  void (*tile)(const ColumnNormParams<S>&, int64_t, int64_t, int64_t);
  void (*tile_vjp)(const ColumnNormVjpParams<S>&, int64_t, int64_t, int64_t, T*, T*);
};

#define ASPIS_FUNCTIONS(S, suffix)                                                                         \
  HWY_EXPORT(row_norm_##suffix);                                                                           \
  HWY_EXPORT(row_norm_vjp_##suffix);                                                                       \
  HWY_EXPORT(column_norm_##suffix);                                                                        \
  HWY_EXPORT(column_norm_vjp_##suffix);                                                                    \
  Functions<S> functions(S) {                                                                              \
    return {&HWY_DYNAMIC_DISPATCH(row_norm_##suffix), &HWY_DYNAMIC_DISPATCH(row_norm_vjp_##suffix),        \
            &HWY_DYNAMIC_DISPATCH(column_norm_##suffix), &HWY_DYNAMIC_DISPATCH(column_norm_vjp_##suffix)}; \
  }
ASPIS_FUNCTIONS(float, f32)
ASPIS_FUNCTIONS(double, f64)
ASPIS_FUNCTIONS(Bf16, bf16)
#undef ASPIS_FUNCTIONS

template <typename S>
void run_rows(const RowNormParams<S>& p) {
  const auto run = functions(S{}).rows;
  const int64_t block = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(p.length, 1));
  parallel_for(div_ceil(p.rows, block), [&](int64_t i) { run(p, i * block, std::min(p.rows, (i + 1) * block)); });
}

// Runs `run(block, dweight, dbias)` with the block's private sums, or null, and adds them up.
template <typename P, typename Run>
void with_sums(const P& p, int64_t blocks, Run run) {
  parallel_for(blocks, [&](int64_t i) {
    run(i, p.dweight ? p.dweight_scratch + i * p.length : nullptr,
        p.dbias ? p.dbias_scratch + i * p.length : nullptr);
  });
  if (p.dweight) tree_sum_rows(p.dweight_scratch, blocks, p.length, p.dweight);
  if (p.dbias) tree_sum_rows(p.dbias_scratch, blocks, p.length, p.dbias);
}

template <typename S>
void run_rows_vjp(const RowNormVjpParams<S>& p) {
  const auto run = functions(S{}).rows_vjp;
  const int64_t block = tree_block_rows(p.rows, p.length);
  with_sums(p, div_ceil(p.rows, block), [&](int64_t i, Arithmetic<S>* dweight, Arithmetic<S>* dbias) {
    run(p, i * block, std::min(p.rows, (i + 1) * block), dweight, dbias);
  });
}

// Positions of a tile: so few that it stays in the L2 cache between the passes.
int64_t tile_positions(int64_t length) {
  const int64_t fitting = (int64_t{1} << 15) / std::max<int64_t>(length, 1);
  return std::clamp<int64_t>(fitting / 64 * 64, 64, kPositions);
}

template <typename S>
void run_columns(const ColumnNormParams<S>& p) {
  const auto run = functions(S{}).tile;
  const int64_t step = tile_positions(p.length), tiles = div_ceil(p.positions, step);
  parallel_for(p.samples * tiles, [&](int64_t i) {
    const int64_t first = i % tiles * step;
    run(p, i / tiles, first, std::min(step, p.positions - first));
  });
}

template <typename S>
void run_columns_vjp(const ColumnNormVjpParams<S>& p) {
  const auto run = functions(S{}).tile_vjp;
  const int64_t step = tile_positions(p.length), tiles = div_ceil(p.positions, step);
  with_sums(p, p.samples * tiles, [&](int64_t i, Arithmetic<S>* dweight, Arithmetic<S>* dbias) {
    const int64_t first = i % tiles * step;
    run(p, i / tiles, first, std::min(step, p.positions - first), dweight, dbias);
  });
}

}  // namespace

int64_t row_norm_vjp_scratch(int64_t rows, int64_t length) {
  return div_ceil(rows, tree_block_rows(rows, length)) * length;
}

int64_t column_norm_vjp_scratch(int64_t samples, int64_t length, int64_t positions) {
  return samples * div_ceil(positions, tile_positions(length)) * length;
}

#define ASPIS_INSTANCE(S)                                 \
  template <>                                             \
  void row_norm(const RowNormParams<S>& p) {              \
    run_rows(p);                                          \
  }                                                       \
  template <>                                             \
  void row_norm_vjp(const RowNormVjpParams<S>& p) {       \
    run_rows_vjp(p);                                      \
  }                                                       \
  template <>                                             \
  void column_norm(const ColumnNormParams<S>& p) {        \
    run_columns(p);                                       \
  }                                                       \
  template <>                                             \
  void column_norm_vjp(const ColumnNormVjpParams<S>& p) { \
    run_columns_vjp(p);                                   \
  }
ASPIS_INSTANCE(float)
ASPIS_INSTANCE(double)
ASPIS_INSTANCE(Bf16)
#undef ASPIS_INSTANCE

}  // namespace aspis::kernel
#endif
