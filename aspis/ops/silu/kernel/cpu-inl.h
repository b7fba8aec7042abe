// SiLU for one instruction set. Included once per target by cpu.cc.
//
// Bandwidth-bound: one exponential and about ten flops per 8 bytes moved.

#include "aspis/simd/loops-inl.h"
#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

inline constexpr int64_t kSiluBlock = 1 << 14;

template <typename S>
HWY_ATTR void silu_block(const SiluParams<S>& p, int64_t block) {
  const int64_t first = block * kSiluBlock, n = HWY_MIN(kSiluBlock, p.n - first);
  const hn::ScalableTag<Arithmetic<S>> d;
  simd::MapArrays(
      d, n, p.y + first, [](auto tag, auto x) HWY_ATTR { return simd::Silu(tag, x); }, p.x + first);
}

template <typename S>
HWY_ATTR void silu_vjp_block(const SiluVjpParams<S>& p, int64_t block) {
  const int64_t first = block * kSiluBlock, n = HWY_MIN(kSiluBlock, p.n - first);
  const hn::ScalableTag<Arithmetic<S>> d;
  simd::MapArrays(
      d, n, p.dx + first, [](auto tag, auto x, auto dy) HWY_ATTR { return hn::Mul(dy, simd::SiluGrad(tag, x)); },
      p.x + first, p.dy + first);
}

HWY_ATTR void silu_f32(const SiluParams<float>& p, int64_t block) { silu_block(p, block); }
HWY_ATTR void silu_f64(const SiluParams<double>& p, int64_t block) { silu_block(p, block); }
HWY_ATTR void silu_bf16(const SiluParams<Bf16>& p, int64_t block) { silu_block(p, block); }
HWY_ATTR void silu_vjp_f32(const SiluVjpParams<float>& p, int64_t block) { silu_vjp_block(p, block); }
HWY_ATTR void silu_vjp_f64(const SiluVjpParams<double>& p, int64_t block) { silu_vjp_block(p, block); }
HWY_ATTR void silu_vjp_bf16(const SiluVjpParams<Bf16>& p, int64_t block) { silu_vjp_block(p, block); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
