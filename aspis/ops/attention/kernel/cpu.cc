#include "aspis/ops/attention/kernel/cpu.h"

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/attention/kernel/blocks.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/attention/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/attention/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(attention_f32);
HWY_EXPORT(attention_f64);
HWY_EXPORT(attention_vjp_f32);
HWY_EXPORT(attention_vjp_f64);

namespace {

// One buffer per worker, made by the worker's first task and aligned to a cache line.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : count_(count), buffers_(static_cast<size_t>(num_threads())) {}

  T* of(int worker) {
    auto& buffer = buffers_[static_cast<size_t>(worker)];
    if (!buffer) buffer.reset(new T[static_cast<size_t>(count_ + kLine)]);
    const auto address = reinterpret_cast<uintptr_t>(buffer.get());
    return buffer.get() + (kBytes - address % kBytes) % kBytes / sizeof(T);
  }

 private:
  static constexpr uintptr_t kBytes = 64;
  static constexpr int64_t kLine = kBytes / sizeof(T);
  int64_t count_;
  std::vector<std::unique_ptr<T[]>> buffers_;
};

// Values of scratch, in the order in which cpu-inl.h uses them.
template <typename T>
int64_t attention_scratch(const AttentionParams<T>& p) {
  const int64_t dim = attention_padded(p.dim);
  return (2 * dim + 1 + p.keys) * kAttentionQueries + (dim == p.dim ? 0 : p.keys * dim);
}
template <typename T>
int64_t attention_vjp_scratch(const AttentionParams<T>& p) {
  const int64_t dim = attention_padded(p.dim);
  return (4 * dim + 1 + 2 * p.keys) * kAttentionQueries + (dim == p.dim ? 2 : 3) * p.keys * dim;
}

template <typename T, typename Run>
void run_forward(const AttentionParams<T>& p, Run run) {
  const int64_t blocks = attention_blocks(p.queries);
  Scratch<T> scratch(attention_scratch(p));
  parallel_for(p.batch * p.heads * blocks, [&](int64_t task, int worker) {
    const int64_t head = task / blocks, block = task % blocks;
    const int64_t first = attention_block_first(p.queries, block);
    const int64_t count = attention_block_first(p.queries, block + 1) - first;
    run(p, head / p.heads, head % p.heads, first, count, scratch.of(worker));
  });
}

template <typename T, typename Run>
void run_vjp(const AttentionVjpParams<T>& p, Run run) {
  Scratch<T> scratch(attention_vjp_scratch(p.forward));
  const int64_t heads = p.forward.heads;
  parallel_for(p.forward.batch * heads,
               [&](int64_t task, int worker) { run(p, task / heads, task % heads, scratch.of(worker)); });
}

}  // namespace

template <>
void attention(const AttentionParams<float>& p) {
  run_forward(p, &HWY_DYNAMIC_DISPATCH(attention_f32));
}
template <>
void attention(const AttentionParams<double>& p) {
  run_forward(p, &HWY_DYNAMIC_DISPATCH(attention_f64));
}
template <>
void attention_vjp(const AttentionVjpParams<float>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(attention_vjp_f32));
}
template <>
void attention_vjp(const AttentionVjpParams<double>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(attention_vjp_f64));
}

}  // namespace aspis::kernel
#endif
