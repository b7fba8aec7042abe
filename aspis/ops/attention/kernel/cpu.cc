#include "aspis/ops/attention/kernel/cpu.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
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
HWY_EXPORT(attention_bf16);
HWY_EXPORT(attention_vjp_f32);
HWY_EXPORT(attention_vjp_f64);
HWY_EXPORT(attention_vjp_bf16);
HWY_EXPORT(attention_add_f32);
HWY_EXPORT(attention_add_f64);
HWY_EXPORT(attention_add_bf16);

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
int64_t attention_scratch(int64_t dim) {
  dim = attention_padded(dim);
  return (2 * dim + 3 + kAttentionKeys) * kAttentionQueries + kAttentionKeys * dim;
}
int64_t attention_vjp_scratch(int64_t dim, int64_t chunk) {
  dim = attention_padded(dim);
  return (5 * dim + 3 + 2 * kAttentionKeys) * kAttentionQueries + 2 * (kAttentionKeys + chunk) * dim;
}

// Which tokens of which map a sequence is.
struct Sequence {
  int64_t batch = 0;               // of q, k and v
  int64_t y = 0, x = 0;            // first token of a window
  int64_t lines = 0, columns = 0;  // of a window; 0: the whole row
};

template <typename T, typename S>
int64_t windows_of(const AttentionParams<T, S>& p) {
  return p.side > 0 ? div_ceil(p.height, p.side) * div_ceil(p.width, p.side) : 1;
}

template <typename T, typename S>
Sequence sequence_of(const AttentionParams<T, S>& p, int64_t index) {
  if (p.side == 0) return {.batch = index};
  const int64_t across = div_ceil(p.width, p.side), windows = windows_of(p), w = index % windows;
  const int64_t y = w / across * p.side, x = w % across * p.side;
  return {index / windows, y, x, std::min(p.side, p.height - y), std::min(p.side, p.width - x)};
}

template <typename S>
AttentionTokens<S> tokens(S* data, const AttentionStrides& by, const Sequence& s, int64_t head) {
  return {data + s.batch * by.batch + s.y * by.line + s.x * by.row + head * by.head, by.row, by.line, s.columns};
}

template <typename T, typename S>
AttentionStrides dense_strides(const AttentionParams<T, S>& p, int64_t rows, int64_t heads) {
  const int64_t row = heads * p.dim, count = p.side > 0 ? p.height * p.width : rows;
  return {count * row, row, p.dim, p.width * row};
}

template <typename T, typename S>
AttentionHead<T, S> head_of(const AttentionParams<T, S>& p, int64_t index, int64_t h) {
  const Sequence s = sequence_of(p, index);
  const int64_t shared = h / (p.heads / p.kv_heads);
  AttentionHead<T, S> a;
  a.queries = p.side > 0 ? s.lines * s.columns : p.queries;
  a.keys = p.side > 0 ? a.queries : p.keys;
  a.dim = p.dim;
  a.scale = p.scale;
  a.causal = p.causal;
  a.q = tokens(p.q, p.q_strides, s, h);
  a.k = tokens(p.k, p.k_strides, s, shared);
  a.v = tokens(p.v, p.v_strides, s, shared);
  if (p.o) a.o = tokens(p.o, dense_strides(p, p.queries, p.heads), s, h);
  const AttentionMask<T>& m = p.mask;
  if (m.bias) a.bias = m.bias + s.batch * m.batch + h * m.head;
  if (m.allow) a.allow = m.allow + s.batch * m.batch + h * m.head;
  a.mask_row = m.row;
  a.mask_column = m.column;
  if (p.stats) a.stats = p.stats + (index * p.heads + h) * 2 * p.queries;
  a.stats_row = p.queries;
  return a;
}

template <typename T, typename S, typename Run>
void run_forward(const AttentionParams<T, S>& p, Run run) {
  const int64_t blocks = attention_blocks(p.queries);
  Scratch<T> scratch(attention_scratch(p.dim));
  parallel_for(p.batch * windows_of(p) * p.heads * blocks, [&](int64_t task, int worker) {
    const int64_t index = task / blocks, block = task % blocks;
    const auto head = head_of(p, index / p.heads, index % p.heads);
    if (block >= attention_blocks(head.queries)) return;  // a small window
    const int64_t first = attention_block_first(head.queries, block);
    run(head, first, attention_block_first(head.queries, block + 1) - first, scratch.of(worker));
  });
}

// Below this many tasks, keys are cut. A number of the data, not of the machine.
constexpr int64_t kEnoughTasks = 16;

template <typename T, typename S, typename Run, typename Add>
void run_vjp(const AttentionVjpParams<T, S>& p, Run run, Add add) {
  const AttentionParams<T, S>& f = p.forward;
  const int64_t sequences = f.batch * windows_of(f), group = f.heads / f.kv_heads, dim = attention_padded(f.dim);
  const int64_t tasks = sequences * f.kv_heads;
  const int64_t most = f.side > 0 ? 1 : std::max<int64_t>(1, div_ceil(f.keys, kAttentionKeys));
  const int64_t wanted = std::clamp<int64_t>(kEnoughTasks / std::max<int64_t>(tasks, 1), 1, most);
  const int64_t chunk = wanted == 1 ? std::max<int64_t>(f.keys, 1) : attention_padded(div_ceil(f.keys, wanted));
  const int64_t chunks = div_ceil(std::max<int64_t>(f.keys, 1), chunk);
  const int64_t step = f.queries * dim;  // of one head's partial dq
  std::unique_ptr<T[]> partial;
  if (chunks > 1) partial.reset(new T[static_cast<size_t>(tasks * chunks * group * step)]);
  Scratch<T> scratch(attention_vjp_scratch(f.dim, chunk));
  const auto q_strides = dense_strides(f, f.queries, f.heads), k_strides = dense_strides(f, f.keys, f.kv_heads);
  parallel_for(tasks * chunks, [&](int64_t task, int worker) {
    const int64_t index = task / chunks, c = task % chunks, sequence = index / f.kv_heads,
                  shared = index % f.kv_heads;
    const Sequence s = sequence_of(f, sequence);
    std::vector<AttentionHead<T, S>> heads;
    std::vector<AttentionTokens<const S>> o, d_o;
    std::vector<AttentionTokens<S>> dq;
    for (int64_t h = shared * group; h < (shared + 1) * group; h++) {
      heads.push_back(head_of(f, sequence, h));
      o.push_back(tokens(p.o, p.o_strides, s, h));
      d_o.push_back(tokens(p.d_o, p.d_o_strides, s, h));
      dq.push_back(tokens(p.dq, q_strides, s, h));
    }
    AttentionVjpHeads<T, S> all{group,
                                heads.data(),
                                o.data(),
                                d_o.data(),
                                dq.data(),
                                tokens(p.dk, k_strides, s, shared),
                                tokens(p.dv, k_strides, s, shared),
                                nullptr};
    if (p.d_scores) all.d_scores = p.d_scores + (sequence * f.heads + shared * group) * f.queries * f.keys;
    T* part = partial ? partial.get() + (c * tasks + index) * group * step : nullptr;
    run(all, c * chunk, std::min(heads[0].keys, (c + 1) * chunk), part, scratch.of(worker));
  });
  if (!partial) return;
  const int64_t blocks = attention_blocks(f.queries);
  parallel_for(tasks * group * blocks, [&](int64_t task) {
    const int64_t index = task / blocks, block = task % blocks;  // of a query head of a sequence
    const int64_t first = attention_block_first(f.queries, block);
    const int64_t count = attention_block_first(f.queries, block + 1) - first;
    add(partial.get() + index * step, chunks, tasks * group * step, first, count, f.dim,
        tokens(p.dq, q_strides, sequence_of(f, index / f.heads), index % f.heads));
  });
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
void attention(const AttentionParams<float, Bf16>& p) {
  run_forward(p, &HWY_DYNAMIC_DISPATCH(attention_bf16));
}
template <>
void attention_vjp(const AttentionVjpParams<float>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(attention_vjp_f32), &HWY_DYNAMIC_DISPATCH(attention_add_f32));
}
template <>
void attention_vjp(const AttentionVjpParams<double>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(attention_vjp_f64), &HWY_DYNAMIC_DISPATCH(attention_add_f64));
}
template <>
void attention_vjp(const AttentionVjpParams<float, Bf16>& p) {
  run_vjp(p, &HWY_DYNAMIC_DISPATCH(attention_vjp_bf16), &HWY_DYNAMIC_DISPATCH(attention_add_bf16));
}

}  // namespace aspis::kernel
#endif
