#include "aspis/ops/cross_scan/kernel/cpu.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/cross_scan/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/cross_scan/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(sum_rows_f32);
HWY_EXPORT(sum_rows_f64);

namespace {

template <typename T>
void sum_rows(const T* const* rows, int64_t count, int64_t width, T scale, T* to) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(sum_rows_f32)(rows, count, width, scale, to);
  } else {
    HWY_DYNAMIC_DISPATCH(sum_rows_f64)(rows, count, width, scale, to);
  }
}

// Calls run(row) for all rows, in tasks of about 64 KiB.
template <typename Run>
void for_rows(int64_t rows, int64_t width, const Run& run) {
  const int64_t each = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
  parallel_for(div_ceil(rows, each), [&](int64_t task) {
    for (int64_t r = task * each; r < std::min(rows, (task + 1) * each); r++) run(r);
  });
}

}  // namespace

template <typename T>
void cross_scan(const CrossParams<T>& p) {
  for_rows(p.batch * p.orders * p.length, p.width, [&](int64_t r) {
    const int64_t b = r / (p.orders * p.length);
    const T* const from = p.from + (b * p.length + p.index[r % (p.orders * p.length)]) * p.width;
    sum_rows(&from, 1, p.width, p.scale, p.to + r * p.width);
  });
}

template <typename T>
void cross_merge(const CrossParams<T>& p) {
  for_rows(p.batch * p.length, p.width, [&](int64_t r) {
    const int64_t b = r / p.length, t = r % p.length;
    std::vector<const T*> rows(static_cast<size_t>(p.orders));
    for (int64_t k = 0; k < p.orders; k++)
      rows[static_cast<size_t>(k)] =
          p.from + ((b * p.orders + k) * p.length + p.index[k * p.length + t]) * p.width;
    sum_rows(rows.data(), p.orders, p.width, p.scale, p.to + r * p.width);
  });
}

template void cross_scan(const CrossParams<float>&);
template void cross_scan(const CrossParams<double>&);
template void cross_merge(const CrossParams<float>&);
template void cross_merge(const CrossParams<double>&);

}  // namespace aspis::kernel
#endif
