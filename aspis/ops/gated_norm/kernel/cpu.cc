#include "aspis/ops/gated_norm/kernel/cpu.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/gated_norm/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/gated_norm/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(norm_row_f32);
HWY_EXPORT(norm_row_f64);
HWY_EXPORT(norm_row_vjp_f32);
HWY_EXPORT(norm_row_vjp_f64);

namespace {

// Blocks of rows whose parameter gradients are summed apart, then in order.
int64_t blocks_of(int64_t rows) { return std::clamp<int64_t>(rows / 32, 1, 32); }

}  // namespace

int64_t gated_norm_vjp_workspace(int64_t rows, int64_t width) { return 2 * blocks_of(rows) * width; }

template <typename T>
void gated_norm(const GatedNormParams<T>& p) {
  const int64_t each = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, p.width));
  parallel_for(div_ceil(p.rows, each), [&](int64_t task) {
    std::vector<T> v(static_cast<size_t>(p.group));
    for (int64_t r = task * each; r < std::min(p.rows, (task + 1) * each); r++) {
      if constexpr (std::is_same_v<T, float>) {
        HWY_DYNAMIC_DISPATCH(norm_row_f32)(p, r, v.data());
      } else {
        HWY_DYNAMIC_DISPATCH(norm_row_f64)(p, r, v.data());
      }
    }
  });
}

template <typename T>
void gated_norm_vjp(const GatedNormVjpParams<T>& q) {
  const GatedNormParams<T>& p = q.in;
  const int64_t blocks = blocks_of(p.rows), each = div_ceil(p.rows, blocks);
  T *const dweight = q.workspace, *const dbias = dweight + blocks * p.width;
  parallel_for(blocks, [&](int64_t block) {
    std::vector<T> v(static_cast<size_t>(2 * p.group));
    T* const dw = q.dweight ? dweight + block * p.width : nullptr;
    T* const db = q.dbias ? dbias + block * p.width : nullptr;
    if (dw) std::fill_n(dw, p.width, T(0));
    if (db) std::fill_n(db, p.width, T(0));
    for (int64_t r = block * each; r < std::min(p.rows, (block + 1) * each); r++) {
      if constexpr (std::is_same_v<T, float>) {
        HWY_DYNAMIC_DISPATCH(norm_row_vjp_f32)(q, r, v.data(), dw, db);
      } else {
        HWY_DYNAMIC_DISPATCH(norm_row_vjp_f64)(q, r, v.data(), dw, db);
      }
    }
  });
  if (q.dweight) sum_parts(dweight, blocks, p.width, q.dweight);
  if (q.dbias) sum_parts(dbias, blocks, p.width, q.dbias);
}

template void gated_norm(const GatedNormParams<float>&);
template void gated_norm(const GatedNormParams<double>&);
template void gated_norm_vjp(const GatedNormVjpParams<float>&);
template void gated_norm_vjp(const GatedNormVjpParams<double>&);

}  // namespace aspis::kernel
#endif
