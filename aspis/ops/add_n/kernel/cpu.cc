#include "aspis/ops/add_n/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/add_n/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/add_n/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(add_n_f32);
HWY_EXPORT(add_n_f64);
HWY_EXPORT(add_n_bf16);

namespace {

constexpr int64_t kAddNBlock = 1 << 12;  // partial sums stay in the L1 cache

template <typename Params, typename Run>
void run_blocks(const Params& p, Run run) {
  parallel_for(div_ceil(p.n, kAddNBlock), [&](int64_t block) {
    const int64_t first = block * kAddNBlock;
    run(p, first, std::min(kAddNBlock, p.n - first));
  });
}

}  // namespace

template <>
void add_n(const AddNParams<float>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(add_n_f32));
}
template <>
void add_n(const AddNParams<double>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(add_n_f64));
}
template <>
void add_n(const AddNParams<Bf16>& p) {
  run_blocks(p, &HWY_DYNAMIC_DISPATCH(add_n_bf16));
}

}  // namespace aspis::kernel
#endif
