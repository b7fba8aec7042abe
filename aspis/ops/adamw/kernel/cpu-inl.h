// AdamW for one instruction set. Included once per target by cpu.cc.
//
// Bandwidth-bound: four reads and three writes an element; one square root and
// one division hide behind them.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Turns p, m and v of a vector into their new values.
template <class V>
HWY_INLINE void adamw_update(const V& g_raw, V& p, V& m, V& v, const V& clip, const V& one_minus_beta1, const V& beta2,
                             const V& one_minus_beta2, const V& inverse_root, const V& eps, const V& rate,
                             const V& keep) {
  const V g = hn::Mul(g_raw, clip);
  m = hn::MulAdd(one_minus_beta1, hn::Sub(g, m), m);
  v = hn::MulAdd(one_minus_beta2, hn::Mul(g, g), hn::Mul(beta2, v));
  const V denominator = hn::MulAdd(hn::Sqrt(v), inverse_root, eps);
  p = hn::NegMulAdd(rate, hn::Div(m, denominator), hn::Mul(p, keep));
}

template <typename T>
HWY_ATTR void adamw_part(const typename AdamWParams<T>::Part& part, const AdamWFactors<T>& f, int64_t offset,
                         int64_t n) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto clip = hn::Set(d, f.clip), one_minus_beta1 = hn::Set(d, f.one_minus_beta1);
  const auto beta2 = hn::Set(d, f.beta2), one_minus_beta2 = hn::Set(d, f.one_minus_beta2);
  const auto inverse_root = hn::Set(d, f.inverse_root), eps = hn::Set(d, f.eps);
  const auto rate = hn::Set(d, f.rate), keep = hn::Set(d, f.keep);
  const T *p_in = part.p + offset, *g_in = part.g + offset, *m_in = part.m + offset, *v_in = part.v + offset;
  T *p_out = part.new_p + offset, *m_out = part.new_m + offset, *v_out = part.new_v + offset;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto p = hn::LoadU(d, p_in + i), m = hn::LoadU(d, m_in + i), v = hn::LoadU(d, v_in + i);
    adamw_update(hn::LoadU(d, g_in + i), p, m, v, clip, one_minus_beta1, beta2, one_minus_beta2, inverse_root, eps,
                 rate, keep);
    hn::StoreU(p, d, p_out + i);
    hn::StoreU(m, d, m_out + i);
    hn::StoreU(v, d, v_out + i);
  }
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    auto p = simd::LoadTail(d, p_in + i, rest), m = simd::LoadTail(d, m_in + i, rest);
    auto v = simd::LoadTail(d, v_in + i, rest);
    adamw_update(simd::LoadTail(d, g_in + i, rest), p, m, v, clip, one_minus_beta1, beta2, one_minus_beta2,
                 inverse_root, eps, rate, keep);
    simd::StoreTail(p, d, p_out + i, rest);
    simd::StoreTail(m, d, m_out + i, rest);
    simd::StoreTail(v, d, v_out + i, rest);
  }
}

HWY_ATTR void adamw_part_f32(const AdamWParams<float>::Part& part, const AdamWFactors<float>& f, int64_t offset,
                             int64_t n) {
  adamw_part<float>(part, f, offset, n);
}
HWY_ATTR void adamw_part_f64(const AdamWParams<double>::Part& part, const AdamWFactors<double>& f, int64_t offset,
                             int64_t n) {
  adamw_part<double>(part, f, offset, n);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
