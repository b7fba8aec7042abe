// GELU for one instruction set. Included once per target by cpu.cc.
//
// Blocks of kGeluBlock elements go to the team. The exact form costs one
// exponential, one division and a degree-9 polynomial per element (about 30
// instructions a vector), the tanh form one exponential and one division; both
// are bound by memory once the data leave the L2 cache.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename S>
HWY_ATTR void gelu_block(const GeluParams<S>& p, int64_t first, int64_t n) {
  const hn::ScalableTag<Arithmetic<S>> d;
  if (p.tanh_approximation) {
    simd::MapArrays(
        d, n, p.y + first, [](auto tag, auto x) HWY_ATTR { return simd::GeluTanh(tag, x); }, p.x + first);
  } else {
    simd::MapArrays(
        d, n, p.y + first, [](auto tag, auto x) HWY_ATTR { return simd::Gelu(tag, x); }, p.x + first);
  }
}

template <typename S>
HWY_ATTR void gelu_vjp_block(const GeluVjpParams<S>& p, int64_t first, int64_t n) {
  const hn::ScalableTag<Arithmetic<S>> d;
  if (p.tanh_approximation) {
    simd::MapArrays(
        d, n, p.dx + first,
        [](auto tag, auto x, auto dy) HWY_ATTR { return hn::Mul(dy, simd::GeluTanhGrad(tag, x)); }, p.x + first,
        p.dy + first);
  } else {
    simd::MapArrays(
        d, n, p.dx + first, [](auto tag, auto x, auto dy) HWY_ATTR { return hn::Mul(dy, simd::GeluGrad(tag, x)); },
        p.x + first, p.dy + first);
  }
}

HWY_ATTR void gelu_f32(const GeluParams<float>& p, int64_t first, int64_t n) { gelu_block(p, first, n); }
HWY_ATTR void gelu_f64(const GeluParams<double>& p, int64_t first, int64_t n) { gelu_block(p, first, n); }
HWY_ATTR void gelu_bf16(const GeluParams<Bf16>& p, int64_t first, int64_t n) { gelu_block(p, first, n); }
HWY_ATTR void gelu_vjp_f32(const GeluVjpParams<float>& p, int64_t first, int64_t n) {
  gelu_vjp_block(p, first, n);
}
HWY_ATTR void gelu_vjp_f64(const GeluVjpParams<double>& p, int64_t first, int64_t n) {
  gelu_vjp_block(p, first, n);
}
HWY_ATTR void gelu_vjp_bf16(const GeluVjpParams<Bf16>& p, int64_t first, int64_t n) {
  gelu_vjp_block(p, first, n);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
