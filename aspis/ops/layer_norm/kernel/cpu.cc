#include "aspis/ops/layer_norm/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"
#include "aspis/simd/tree_sum.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/layer_norm/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/layer_norm/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(layer_norm_f32);
HWY_EXPORT(layer_norm_f64);
HWY_EXPORT(layer_norm_vjp_f32);
HWY_EXPORT(layer_norm_vjp_f64);

namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

int64_t forward_rows(int64_t length) {
  return std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(length, 1));
}

template <typename T, typename Run>
void run_forward(const LayerNormParams<T>& p, Run run) {
  const int64_t block = forward_rows(p.length);
  parallel_for(div_ceil(p.rows, block), [&](int64_t i) { run(p, i * block, std::min(p.rows, (i + 1) * block)); });
}

template <typename T, typename Run>
void run_vjp(const LayerNormVjpParams<T>& p, Run run) {
  const int64_t block = tree_block_rows(p.rows, p.length), blocks = div_ceil(p.rows, block);
  parallel_for(blocks, [&](int64_t i) {
    const auto own = [&](T* scratch) { return scratch ? scratch + i * p.length : nullptr; };
    run(p, i * block, std::min(p.rows, (i + 1) * block), own(p.dweight ? p.dweight_scratch : nullptr),
        own(p.dbias ? p.dbias_scratch : nullptr));
  });
  if (p.dweight) tree_sum_rows(p.dweight_scratch, blocks, p.length, p.dweight);
  if (p.dbias) tree_sum_rows(p.dbias_scratch, blocks, p.length, p.dbias);
}

}  // namespace

int64_t layer_norm_vjp_scratch(int64_t rows, int64_t length) {
  return div_ceil(rows, tree_block_rows(rows, length)) * length;
}

template <>
void layer_norm(const LayerNormParams<float>& p) {
  run_forward(p, &HWY_DYNAMIC_DISPATCH(layer_norm_f32));
}
template <>
void layer_norm(const LayerNormParams<double>& p) {
  run_forward(p, &HWY_DYNAMIC_DISPATCH(layer_norm_f64));
}
template <>
void layer_norm_vjp(const LayerNormVjpParams<float>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(layer_norm_vjp_f32));
}
template <>
void layer_norm_vjp(const LayerNormVjpParams<double>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(layer_norm_vjp_f64));
}

}  // namespace aspis::kernel
#endif
