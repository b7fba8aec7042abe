#include "aspis/ops/grad_norm/kernel/cpu.h"

#include <cmath>
#include <type_traits>

#include "aspis/base/parallel.h"
#include "aspis/ops/grad_norm/kernel/segments.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/grad_norm/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/grad_norm/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(sum_squares_f32);
HWY_EXPORT(sum_squares_f64);
HWY_EXPORT(sum_squares_bf16);

template <typename T>
void global_norm(const GlobalNormParams<T>& p) {
  constexpr int64_t kBlock = 1 << 15;
  const SegmentList list =
      cut_arrays(static_cast<int64_t>(p.arrays.size()), kBlock, [&](int64_t i) { return p.arrays[i].n; });
  std::vector<double> sums(list.segments.size());
  parallel_for(list.tasks(), [&](int64_t task) {
    for (int64_t s = list.starts[task]; s < list.starts[task + 1]; s++) {
      const Segment& segment = list.segments[s];
      const ArrayRef<T>& array = p.arrays[segment.array];
      if (array.half) {
        sums[s] = HWY_DYNAMIC_DISPATCH(sum_squares_bf16)(array.half + segment.first, segment.count);
        continue;
      }
      const T* x = array.data + segment.first;
      if constexpr (std::is_same_v<T, float>) {
        sums[s] = HWY_DYNAMIC_DISPATCH(sum_squares_f32)(x, segment.count);
      } else {
        sums[s] = HWY_DYNAMIC_DISPATCH(sum_squares_f64)(x, segment.count);
      }
    }
  });
  double total = 0;
  for (const double s : sums) total += s;
  *p.norm = static_cast<float>(std::sqrt(total));
}

template void global_norm(const GlobalNormParams<float>&);
template void global_norm(const GlobalNormParams<double>&);

}  // namespace aspis::kernel
#endif
