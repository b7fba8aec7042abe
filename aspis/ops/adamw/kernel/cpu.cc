#include "aspis/ops/adamw/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "aspis/ops/adamw/kernel/factors.h"
#include "aspis/ops/adamw/kernel/update.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/adamw/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/adamw/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(adamw_f32);
HWY_EXPORT(adamw_f64);

template <typename T>
double gradient_factor(const UpdateParams<T>& p) {
  constexpr double kStop = std::numeric_limits<double>::quiet_NaN();
  if (p.loss && !std::isfinite(*p.loss)) return kStop;
  if (!p.norm) return p.gradient_scale;
  if (!std::isfinite(*p.norm)) return kStop;
  if (!(p.max_norm > 0)) return p.gradient_scale;
  // The small number and the order are PyTorch's (clip_grad_norm_).
  const double norm = static_cast<double>(*p.norm) * std::abs(p.gradient_scale);
  return p.gradient_scale * std::min(1.0, p.max_norm / (norm + 1e-6));
}

template <typename T>
void adamw(const UpdateParams<T>& p, const AdamWConstants& constants) {
  const double factor = gradient_factor(p);
  const bool applied = std::isfinite(factor);
  if (p.applied) *p.applied = applied ? 1.0f : 0.0f;
  if (!applied) {
    pass_through(p);
    return;
  }
  const AdamWFactors<T> f(constants, p.learning_rate, p.step, factor);
  for_segments(p, [&](const UpdateArray<T>& a, int64_t first, int64_t count) {
    if constexpr (std::is_same_v<T, float>) {
      HWY_DYNAMIC_DISPATCH(adamw_f32)(a, first, count, f, static_cast<T>(p.average_decay));
    } else {
      HWY_DYNAMIC_DISPATCH(adamw_f64)(a, first, count, f, static_cast<T>(p.average_decay));
    }
  });
}

template double gradient_factor(const UpdateParams<float>&);
template double gradient_factor(const UpdateParams<double>&);
template void adamw(const UpdateParams<float>&, const AdamWConstants&);
template void adamw(const UpdateParams<double>&, const AdamWConstants&);

}  // namespace aspis::kernel
#endif
