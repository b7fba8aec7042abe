// SiLU for one instruction set. Included once per target by cpu.cc.
//
// Bandwidth-bound: one exponential and about ten flops per 8 bytes moved. Two
// vectors an iteration hide the latency of the exponential.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Applies `f` to vectors of `n` values; the tail goes through a partial vector,
// so every element is computed by the same instructions whatever its place.
template <typename T, typename F, typename... In>
HWY_ATTR void map_block(int64_t n, T* out, F f, const In*... in) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(f(d, hn::LoadU(d, in + i)...), d, out + i);
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    simd::StoreTail(f(d, simd::LoadTail(d, in + i, rest)...), d, out + i, rest);
  }
}

inline constexpr int64_t kSiluBlock = 1 << 14;

template <typename T>
HWY_ATTR void silu_block(const SiluParams<T>& p, int64_t block) {
  const int64_t first = block * kSiluBlock, n = HWY_MIN(kSiluBlock, p.n - first);
  map_block(n, p.y + first, [](auto d, auto x) HWY_ATTR { return simd::Silu(d, x); }, p.x + first);
}

template <typename T>
HWY_ATTR void silu_vjp_block(const SiluVjpParams<T>& p, int64_t block) {
  const int64_t first = block * kSiluBlock, n = HWY_MIN(kSiluBlock, p.n - first);
  map_block(
      n, p.dx + first, [](auto d, auto x, auto dy) HWY_ATTR { return hn::Mul(dy, simd::SiluGrad(d, x)); },
      p.x + first, p.dy + first);
}

HWY_ATTR void silu_f32(const SiluParams<float>& p, int64_t block) { silu_block(p, block); }
HWY_ATTR void silu_f64(const SiluParams<double>& p, int64_t block) { silu_block(p, block); }
HWY_ATTR void silu_vjp_f32(const SiluVjpParams<float>& p, int64_t block) { silu_vjp_block(p, block); }
HWY_ATTR void silu_vjp_f64(const SiluVjpParams<double>& p, int64_t block) { silu_vjp_block(p, block); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
