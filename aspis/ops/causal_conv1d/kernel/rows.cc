#include "aspis/ops/causal_conv1d/kernel/rows.h"

#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/causal_conv1d/kernel/rows.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/causal_conv1d/kernel/rows-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(kernels_f32);
HWY_EXPORT(kernels_f64);

template <>
Conv1dRowKernels<float> conv1d_row_kernels() {
  return HWY_DYNAMIC_DISPATCH(kernels_f32)();
}
template <>
Conv1dRowKernels<double> conv1d_row_kernels() {
  return HWY_DYNAMIC_DISPATCH(kernels_f64)();
}

}  // namespace aspis::kernel
#endif
