// AdamW for one instruction set. Four streams are read (p, g, m, v) and three
// written, 28 bytes per parameter against about 15 flops, a root and a
// division: bandwidth-bound.

#include "aspis/ops/adamw/kernel/factors.h"
#include "aspis/ops/adamw/kernel/update-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

template <typename T>
HWY_ATTR void adamw_segment(const UpdateArray<T>& a, int64_t first, int64_t n, const AdamWFactors<T>& f,
                            T average_decay) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const V keep = hn::Set(d, a.decay ? f.keep : T(1));
  const V beta1 = hn::Set(d, f.beta1), one_minus_beta1 = hn::Set(d, f.one_minus_beta1);
  const V beta2 = hn::Set(d, f.beta2), one_minus_beta2 = hn::Set(d, f.one_minus_beta2);
  const V rate = hn::Set(d, f.rate), root = hn::Set(d, f.root), eps = hn::Set(d, f.eps);
  update_segment<2, true>(a, first, n, f.gradient, average_decay, [&](V& p, V* s, V g) HWY_ATTR {
    s[0] = hn::MulAdd(beta1, s[0], hn::Mul(one_minus_beta1, g));
    s[1] = hn::MulAdd(beta2, s[1], hn::Mul(one_minus_beta2, hn::Mul(g, g)));
    const V denominator = hn::MulAdd(hn::Sqrt(s[1]), root, eps);
    p = hn::NegMulAdd(rate, hn::Div(s[0], denominator), hn::Mul(p, keep));
  });
}

HWY_ATTR void adamw_f32(const UpdateArray<float>& a, int64_t first, int64_t n, const AdamWFactors<float>& f,
                        float average_decay) {
  adamw_segment(a, first, n, f, average_decay);
}
HWY_ATTR void adamw_f64(const UpdateArray<double>& a, int64_t first, int64_t n, const AdamWFactors<double>& f,
                        double average_decay) {
  adamw_segment(a, first, n, f, average_decay);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
