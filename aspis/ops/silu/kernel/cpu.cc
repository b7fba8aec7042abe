#include "aspis/ops/silu/kernel/cpu.h"

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/silu/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/silu/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(silu_f32);
HWY_EXPORT(silu_f64);
HWY_EXPORT(silu_bf16);
HWY_EXPORT(silu_vjp_f32);
HWY_EXPORT(silu_vjp_f64);
HWY_EXPORT(silu_vjp_bf16);

namespace {
constexpr int64_t kBlock = 1 << 14;  // kSiluBlock of every target
}

template <>
void silu(const SiluParams<float>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(silu_f32);
  parallel_for(div_ceil(p.n, kBlock), [&](int64_t block) { run(p, block); });
}
template <>
void silu(const SiluParams<double>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(silu_f64);
  parallel_for(div_ceil(p.n, kBlock), [&](int64_t block) { run(p, block); });
}
template <>
void silu(const SiluParams<Bf16>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(silu_bf16);
  parallel_for(div_ceil(p.n, kBlock), [&](int64_t block) { run(p, block); });
}
template <>
void silu_vjp(const SiluVjpParams<float>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(silu_vjp_f32);
  parallel_for(div_ceil(p.n, kBlock), [&](int64_t block) { run(p, block); });
}
template <>
void silu_vjp(const SiluVjpParams<double>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(silu_vjp_f64);
  parallel_for(div_ceil(p.n, kBlock), [&](int64_t block) { run(p, block); });
}
template <>
void silu_vjp(const SiluVjpParams<Bf16>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(silu_vjp_bf16);
  parallel_for(div_ceil(p.n, kBlock), [&](int64_t block) { run(p, block); });
}

}  // namespace aspis::kernel
#endif
