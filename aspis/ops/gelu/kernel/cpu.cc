#include "aspis/ops/gelu/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/gelu/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/gelu/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(gelu_f32);
HWY_EXPORT(gelu_f64);
HWY_EXPORT(gelu_bf16);
HWY_EXPORT(gelu_vjp_f32);
HWY_EXPORT(gelu_vjp_f64);
HWY_EXPORT(gelu_vjp_bf16);

namespace {

constexpr int64_t kGeluBlock = 1 << 14;

template <typename Params, typename Run>
void run_blocks(const Params& p, Run run) {
  parallel_for(div_ceil(p.n, kGeluBlock), [&](int64_t block) {
    const int64_t first = block * kGeluBlock;
    run(p, first, std::min(kGeluBlock, p.n - first));
  });
}

}  // namespace

template <>
void gelu(const GeluParams<float>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(gelu_f32));
}
template <>
void gelu(const GeluParams<double>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(gelu_f64));
}
template <>
void gelu(const GeluParams<Bf16>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(gelu_bf16));
}
template <>
void gelu_vjp(const GeluVjpParams<float>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(gelu_vjp_f32));
}
template <>
void gelu_vjp(const GeluVjpParams<double>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(gelu_vjp_f64));
}
template <>
void gelu_vjp(const GeluVjpParams<Bf16>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(gelu_vjp_bf16));
}

}  // namespace aspis::kernel
#endif
