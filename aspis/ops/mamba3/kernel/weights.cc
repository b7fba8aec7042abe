// Time step, decay and the two weights of the trapezoid from their projections.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/step.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/mamba3/kernel/weights.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/mamba3/kernel/weights-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(token_weights_f32);
HWY_EXPORT(token_weights_f64);
HWY_EXPORT(token_weights_vjp_f32);
HWY_EXPORT(token_weights_vjp_f64);

template <typename T>
void token_weights(const Mamba3WeightsParams<T>& p) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(token_weights_f32)(p, 0);
  } else {
    HWY_DYNAMIC_DISPATCH(token_weights_f64)(p, 0);
  }
}
template void token_weights(const Mamba3WeightsParams<float>&);
template void token_weights(const Mamba3WeightsParams<double>&);

template <typename T>
void mamba3_weights(const Mamba3WeightsParams<T>& p) {
  constexpr int64_t kTokens = 64;
  parallel_for(div_ceil(p.tokens, kTokens), [&](int64_t task) {
    for (int64_t t = task * kTokens; t < std::min(p.tokens, (task + 1) * kTokens); t++) {
      if constexpr (std::is_same_v<T, float>) {
        HWY_DYNAMIC_DISPATCH(token_weights_f32)(p, t);
      } else {
        HWY_DYNAMIC_DISPATCH(token_weights_f64)(p, t);
      }
    }
  });
}

template <typename T>
void mamba3_weights_vjp(const Mamba3WeightsVjpParams<T>& q) {
  const Mamba3WeightsParams<T>& p = q.in;
  // The bias is summed in chunks of tokens, by their number alone, which are added in order.
  const int64_t chunks = std::clamp<int64_t>(p.tokens / 64, 1, 16), each = div_ceil(p.tokens, chunks);
  std::vector<T> sums(static_cast<size_t>(q.dbias ? chunks * p.heads : 0), T(0));
  parallel_for(chunks, [&](int64_t chunk) {
    T* const dbias = q.dbias ? sums.data() + chunk * p.heads : nullptr;
    for (int64_t t = chunk * each; t < std::min(p.tokens, (chunk + 1) * each); t++) {
      if constexpr (std::is_same_v<T, float>) {
        HWY_DYNAMIC_DISPATCH(token_weights_vjp_f32)(q, t, dbias);
      } else {
        HWY_DYNAMIC_DISPATCH(token_weights_vjp_f64)(q, t, dbias);
      }
    }
  });
  if (q.dbias) sum_parts(sums.data(), chunks, p.heads, q.dbias);
}

template void mamba3_weights(const Mamba3WeightsParams<float>&);
template void mamba3_weights(const Mamba3WeightsParams<double>&);
template void mamba3_weights_vjp(const Mamba3WeightsVjpParams<float>&);
template void mamba3_weights_vjp(const Mamba3WeightsVjpParams<double>&);

}  // namespace aspis::kernel
#endif
