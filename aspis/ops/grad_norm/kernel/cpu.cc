#include "aspis/ops/grad_norm/kernel/cpu.h"

#include "aspis/ops/common/flat_blocks.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/grad_norm/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/grad_norm/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

HWY_EXPORT(squares_f32);
HWY_EXPORT(squares_f64);

template <typename T>
double run(const GradNormParams<T>& p, double (*squares)(const T*, int64_t)) {
  std::vector<int64_t> sizes;
  for (const auto& part : p.parts) sizes.push_back(part.size);
  const ops::FlatBlocks flat(sizes);
  std::vector<double> sums(flat.blocks());
  parallel_for(flat.blocks(), [&](int64_t block) {
    double sum = 0;
    flat.for_parts(block, [&](int64_t i, int64_t offset, int64_t n) { sum += squares(p.parts[i].data + offset, n); });
    sums[block] = sum;
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace

template <>
double sum_of_squares(const GradNormParams<float>& p) {
  return run(p, &HWY_DYNAMIC_DISPATCH(squares_f32));
}
template <>
double sum_of_squares(const GradNormParams<double>& p) {
  return run(p, &HWY_DYNAMIC_DISPATCH(squares_f64));
}

}  // namespace aspis::kernel
#endif
