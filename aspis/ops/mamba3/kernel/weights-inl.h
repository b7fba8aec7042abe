// The weights of a token for one instruction set. Included once per target by weights.cc.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// A and its derivative by v; the derivative is 0 where the floor holds.
template <class D, class V = hn::Vec<D>>
HWY_ATTR HWY_INLINE void decay_rate(D d, V v, bool heavy_tail, V floor, V& A, V& slope) {
  const V one = hn::Set(d, 1), zero = hn::Zero(d);
  V f, df;
  if (heavy_tail) {
    const V low = hn::Div(one, hn::Sub(one, hn::Min(v, zero)));
    const auto above = hn::Ge(v, zero);
    f = hn::IfThenElse(above, hn::Add(one, v), low);
    df = hn::IfThenElse(above, one, hn::Mul(low, low));
    // Min turns a NaN into 0 on some machines.
    f = hn::IfThenElse(hn::IsNaN(v), v, f);
  } else {
    f = simd::Softplus(d, v);
    df = simd::SoftplusGrad(d, v);
  }
  const auto held = hn::Lt(f, floor);
  A = hn::Neg(hn::IfThenElse(held, floor, f));
  slope = hn::IfThenElse(held, zero, hn::Neg(df));
}

template <typename T>
HWY_ATTR void token_weights(const Mamba3WeightsParams<T>& p, int64_t token) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), at = token * p.heads;
  const auto floor = hn::Set(d, p.A_floor);
  for (int64_t h = 0; h < p.heads; h += lanes) {
    const size_t n = static_cast<size_t>(HWY_MIN(lanes, p.heads - h));
    auto raw = simd::LoadTail(d, p.dd_dt + at + h, n);
    if (p.dt_bias) raw = hn::Add(raw, simd::LoadTail(d, p.dt_bias + h, n));
    const auto dt = simd::Softplus(d, raw);
    auto A = dt, slope = dt;
    decay_rate(d, simd::LoadTail(d, p.dd_A + at + h, n), p.heavy_tail, floor, A, slope);
    const auto gamma = hn::Mul(dt, simd::Sigmoid(d, simd::LoadTail(d, p.trap + at + h, n)));
    simd::StoreTail(dt, d, p.dt + at + h, n);
    simd::StoreTail(hn::Mul(A, dt), d, p.log + at + h, n);
    simd::StoreTail(gamma, d, p.gamma + at + h, n);
    simd::StoreTail(hn::Sub(dt, gamma), d, p.beta + at + h, n);
  }
}

// `dbias` {heads}: sums over the tokens of a part, or null.
template <typename T>
HWY_ATTR void token_weights_vjp(const Mamba3WeightsVjpParams<T>& q, int64_t token, T* dbias) {
  const Mamba3WeightsParams<T>& p = q.in;
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), at = token * p.heads;
  const auto floor = hn::Set(d, p.A_floor), one = hn::Set(d, T(1));
  for (int64_t h = 0; h < p.heads; h += lanes) {
    const size_t n = static_cast<size_t>(HWY_MIN(lanes, p.heads - h));
    const auto load = [&](const T* from) HWY_ATTR { return simd::LoadTail(d, from + at + h, n); };
    auto raw = load(p.dd_dt);
    if (p.dt_bias) raw = hn::Add(raw, simd::LoadTail(d, p.dt_bias + h, n));
    const auto dt = simd::Softplus(d, raw), lambda = simd::Sigmoid(d, load(p.trap));
    auto A = dt, slope = dt;
    decay_rate(d, load(p.dd_A), p.heavy_tail, floor, A, slope);
    const auto dlog = load(q.dlog), dgamma = load(q.dgamma), dbeta = load(q.dbeta);
    const auto apart = hn::Sub(dgamma, dbeta);
    // dt enters by itself, by log = A dt, gamma = dt lambda and beta = dt - gamma.
    const auto ddt = hn::Add(hn::MulAdd(A, dlog, load(q.ddt)), hn::MulAdd(lambda, apart, dbeta));
    const auto draw = hn::Mul(ddt, simd::SoftplusGrad(d, raw));
    simd::StoreTail(draw, d, q.ddd_dt + at + h, n);
    simd::StoreTail(hn::Mul(hn::Mul(dt, dlog), slope), d, q.ddd_A + at + h, n);
    simd::StoreTail(hn::Mul(hn::Mul(dt, apart), hn::Mul(lambda, hn::Sub(one, lambda))), d, q.dtrap + at + h, n);
    if (dbias) simd::StoreTail(hn::Add(simd::LoadTail(d, dbias + h, n), draw), d, dbias + h, n);
  }
}

HWY_ATTR void token_weights_f32(const Mamba3WeightsParams<float>& p, int64_t token) { token_weights(p, token); }
HWY_ATTR void token_weights_f64(const Mamba3WeightsParams<double>& p, int64_t token) { token_weights(p, token); }
HWY_ATTR void token_weights_vjp_f32(const Mamba3WeightsVjpParams<float>& q, int64_t token, float* dbias) {
  token_weights_vjp(q, token, dbias);
}
HWY_ATTR void token_weights_vjp_f64(const Mamba3WeightsVjpParams<double>& q, int64_t token, double* dbias) {
  token_weights_vjp(q, token, dbias);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
