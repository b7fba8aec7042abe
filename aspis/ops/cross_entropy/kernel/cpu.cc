// Split: tasks of about 16,000 logits, at least one row; the reduction is one
// pass in row order and in double, so that the bits do not depend on threads.

#include "aspis/ops/cross_entropy/kernel/cpu.h"

#include <algorithm>
#include <type_traits>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/cross_entropy/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/cross_entropy/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(cross_entropy_f32);
HWY_EXPORT(cross_entropy_f64);
HWY_EXPORT(cross_entropy_bf16);
HWY_EXPORT(cross_entropy_vjp_f32);
HWY_EXPORT(cross_entropy_vjp_f64);
HWY_EXPORT(cross_entropy_vjp_bf16);

namespace {

template <typename F>
void for_rows(int64_t rows, int64_t classes, F rows_task) {
  constexpr int64_t kElementsPerTask = 1 << 14;
  const int64_t block = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, classes));
  parallel_for(div_ceil(rows, block), [&](int64_t i) { rows_task(i * block, std::min(rows, (i + 1) * block)); });
}

template <typename S>
double counted_rows(const CrossEntropyParams<S>& p) {
  if (!p.labels) return static_cast<double>(p.rows);
  return static_cast<double>(p.rows - std::count(p.labels, p.labels + p.rows, p.ignore_index));
}

}  // namespace

template <typename S>
void cross_entropy(const CrossEntropyParams<S>& p) {
  for_rows(p.rows, p.classes, [&](int64_t first, int64_t last) {
    if constexpr (std::is_same_v<S, float>) {
      HWY_DYNAMIC_DISPATCH(cross_entropy_f32)(p, first, last);
    } else if constexpr (std::is_same_v<S, Bf16>) {
      HWY_DYNAMIC_DISPATCH(cross_entropy_bf16)(p, first, last);
    } else {
      HWY_DYNAMIC_DISPATCH(cross_entropy_f64)(p, first, last);
    }
  });
  if (p.reduction == LossReduction::kNone) return;
  double sum = 0;
  for (int64_t r = 0; r < p.rows; r++) sum += static_cast<double>(p.row_loss[r]);
  // No row counted: 0 / 0 = NaN, as in PyTorch.
  p.loss[0] = static_cast<Arithmetic<S>>(p.reduction == LossReduction::kMean ? sum / counted_rows(p) : sum);
}

template <typename S>
void cross_entropy_vjp(const CrossEntropyVjpParams<S>& p) {
  using T = Arithmetic<S>;
  T scale = 1;
  if (p.forward.reduction == LossReduction::kSum) scale = p.dloss[0];
  if (p.forward.reduction == LossReduction::kMean) {
    scale = static_cast<T>(static_cast<double>(p.dloss[0]) / counted_rows(p.forward));
  }
  for_rows(p.forward.rows, p.forward.classes, [&](int64_t first, int64_t last) {
    if constexpr (std::is_same_v<S, float>) {
      HWY_DYNAMIC_DISPATCH(cross_entropy_vjp_f32)(p, scale, first, last);
    } else if constexpr (std::is_same_v<S, Bf16>) {
      HWY_DYNAMIC_DISPATCH(cross_entropy_vjp_bf16)(p, scale, first, last);
    } else {
      HWY_DYNAMIC_DISPATCH(cross_entropy_vjp_f64)(p, scale, first, last);
    }
  });
}

template void cross_entropy(const CrossEntropyParams<float>&);
template void cross_entropy(const CrossEntropyParams<double>&);
template void cross_entropy(const CrossEntropyParams<Bf16>&);
template void cross_entropy_vjp(const CrossEntropyVjpParams<float>&);
template void cross_entropy_vjp(const CrossEntropyVjpParams<double>&);
template void cross_entropy_vjp(const CrossEntropyVjpParams<Bf16>&);

}  // namespace aspis::kernel
#endif
