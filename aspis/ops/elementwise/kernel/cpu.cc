#include "aspis/ops/elementwise/kernel/cpu.h"

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/elementwise/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/elementwise/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kBlock = 1 << 14;

// Calls run(first, count) for blocks of n values.
template <typename Run>
void for_blocks(int64_t n, Run run) {
  parallel_for(div_ceil(n, kBlock), [&](int64_t i) { run(i * kBlock, std::min(kBlock, n - i * kBlock)); });
}

template <typename S>
void run_combine(const CombineParams<S>& p,
                 void (*run)(Combine, int64_t, const S*, const S*, bool, const S*, bool, S*)) {
  constexpr int kLast = CombineParams<S>::kAxes - 1;
  const int64_t length = p.sizes[kLast];
  int64_t rows = 1;
  for (int i = 0; i < kLast; i++) rows *= p.sizes[i];
  // Long rows are cut, short ones taken together.
  const int64_t piece = std::min(length, kBlock),
                pieces = div_ceil(std::max<int64_t>(length, 1), std::max<int64_t>(piece, 1));
  const int64_t each = std::max<int64_t>(1, kBlock / std::max<int64_t>(length, 1));
  if (length == 0) return;
  const bool b_line = p.b_strides[kLast] != 0, c_line = p.c_strides[kLast] != 0;
  parallel_for(div_ceil(rows, each) * pieces, [&](int64_t task) {
    const int64_t at = task % pieces * piece, n = std::min(piece, length - at), group = task / pieces;
    for (int64_t r = group * each; r < std::min(rows, (group + 1) * each); r++) {
      int64_t a = 0, b = 0, c = 0, rest = r;
      for (int i = kLast - 1; i >= 0; i--) {
        const int64_t k = rest % p.sizes[i];
        rest /= p.sizes[i];
        a += k * p.a_strides[i], b += k * p.b_strides[i], c += k * p.c_strides[i];
      }
      run(p.kind, n, p.a + a + at, p.b + b + (b_line ? at : 0), b_line, p.c ? p.c + c + (c_line ? at : 0) : p.b,
          c_line, p.y + r * length + at);
    }
  });
}

uint32_t threshold_of(double rate) { return static_cast<uint32_t>(std::min(rate * 4294967296.0, 4294967295.0)); }

}  // namespace

#define ASPIS_INSTANCE(S, suffix)                                                    \
  HWY_EXPORT(pointwise_##suffix);                                                    \
  HWY_EXPORT(pointwise_vjp_##suffix);                                                \
  HWY_EXPORT(combine_##suffix);                                                      \
  HWY_EXPORT(dropout_##suffix);                                                      \
  template <>                                                                        \
  void pointwise(const PointwiseParams<S>& p) {                                      \
    const auto run = &HWY_DYNAMIC_DISPATCH(pointwise_##suffix);                      \
    for_blocks(p.n, [&](int64_t first, int64_t n) { run(p, first, n); });            \
  }                                                                                  \
  template <>                                                                        \
  void pointwise_vjp(const PointwiseVjpParams<S>& p) {                               \
    const auto run = &HWY_DYNAMIC_DISPATCH(pointwise_vjp_##suffix);                  \
    for_blocks(p.n, [&](int64_t first, int64_t n) { run(p, first, n); });            \
  }                                                                                  \
  template <>                                                                        \
  void combine(const CombineParams<S>& p) {                                          \
    run_combine(p, &HWY_DYNAMIC_DISPATCH(combine_##suffix));                         \
  }                                                                                  \
  template <>                                                                        \
  void dropout(const DropoutParams<S>& p) {                                          \
    const auto run = &HWY_DYNAMIC_DISPATCH(dropout_##suffix);                        \
    const uint32_t threshold = threshold_of(p.rate);                                 \
    for_blocks(p.n, [&](int64_t first, int64_t n) { run(p, threshold, first, n); }); \
  }
ASPIS_INSTANCE(float, f32)
ASPIS_INSTANCE(double, f64)
ASPIS_INSTANCE(Bf16, bf16)
#undef ASPIS_INSTANCE

HWY_EXPORT(cast_down);
HWY_EXPORT(cast_up);
void cast(const CastParams<float, Bf16>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(cast_down);
  for_blocks(p.n, [&](int64_t first, int64_t n) { run(p, first, n); });
}
void cast(const CastParams<Bf16, float>& p) {
  const auto run = &HWY_DYNAMIC_DISPATCH(cast_up);
  for_blocks(p.n, [&](int64_t first, int64_t n) { run(p, first, n); });
}

}  // namespace aspis::kernel
#endif
