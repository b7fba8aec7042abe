#include "aspis/ops/ssd/kernel/chunk.h"

#include <type_traits>

#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/ssd/kernel/chunk.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/ssd/kernel/chunk-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(fill_loops);

template <typename T>
const ChunkLoops<T>& chunk_loops() {
  // One table for each way to fill it: tests change the instruction set.
  struct Tables {
    decltype(&HWY_STATIC_DISPATCH(fill_loops)) made_by = nullptr;
    ChunkLoops<float> single;
    ChunkLoops<double> wide;
  };
  thread_local Tables tables;
  const auto fill = HWY_DYNAMIC_DISPATCH(fill_loops);
  if (tables.made_by != fill) {
    fill(tables.single, tables.wide);
    tables.made_by = fill;
  }
  if constexpr (std::is_same_v<T, float>) {
    return tables.single;
  } else {
    return tables.wide;
  }
}

template const ChunkLoops<float>& chunk_loops<float>();
template const ChunkLoops<double>& chunk_loops<double>();

}  // namespace aspis::kernel
#endif
