#include "aspis/ops/adamw/kernel/cpu.h"

#include <cmath>
#include <cstring>

#include "aspis/ops/common/flat_blocks.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/adamw/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/adamw/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

HWY_EXPORT(adamw_part_f32);
HWY_EXPORT(adamw_part_f64);

template <typename T>
void copy(const T* from, T* to, int64_t n) {
  if (from != to) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

template <typename T>
void run(const AdamWParams<T>& a,
         void (*part_fn)(const typename AdamWParams<T>::Part&, const AdamWFactors<T>&, int64_t, int64_t)) {
  using Part = typename AdamWParams<T>::Part;
  const auto finite = [](const T* value) { return !value || std::isfinite(*value); };
  const bool apply = finite(a.norm) && finite(a.loss);
  const AdamWFactors<T> factors[2] = {{a, false}, {a, true}};
  std::vector<int64_t> sizes;
  for (const Part& part : a.parts) sizes.push_back(part.size);
  const ops::FlatBlocks flat(sizes);
  parallel_for(flat.blocks(), [&](int64_t block) {
    flat.for_parts(block, [&](int64_t i, int64_t offset, int64_t n) {
      const Part& part = a.parts[i];
      if (apply) return part_fn(part, factors[part.decay ? 1 : 0], offset, n);
      copy(part.p + offset, part.new_p + offset, n);
      copy(part.m + offset, part.new_m + offset, n);
      copy(part.v + offset, part.new_v + offset, n);
    });
  });
}

}  // namespace

template <>
void adamw(const AdamWParams<float>& a) {
  run<float>(a, &HWY_DYNAMIC_DISPATCH(adamw_part_f32));
}
template <>
void adamw(const AdamWParams<double>& a) {
  run<double>(a, &HWY_DYNAMIC_DISPATCH(adamw_part_f64));
}

}  // namespace aspis::kernel
#endif
