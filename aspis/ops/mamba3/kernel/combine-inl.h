// The end of mamba3 for one instruction set. Included once per target by combine.cc.

#include <cmath>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Whole vectors, which most are, without a mask.
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE hn::Vec<D> LoadPart(D d, const T* p, size_t n) {
  return HWY_LIKELY(n == hn::Lanes(d)) ? hn::LoadU(d, p) : simd::LoadTail(d, p, n);
}
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void StorePart(hn::Vec<D> v, D d, T* p, size_t n) {
  if (HWY_LIKELY(n == hn::Lanes(d))) {
    hn::StoreU(v, d, p);
  } else {
    simd::StoreTail(v, d, p, n);
  }
}

// One head of one token. `u` {P} is scratch.
template <typename T>
HWY_ATTR void combine_token(const CombineParams<T>& p, int64_t token, int64_t h, T* u) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), P = p.shape.headdim, R = p.shape.rank;
  const int64_t at = (token * p.shape.heads + h) * P;
  const auto one = hn::Set(d, T(1));
  for (int64_t r = 0; r < R; r++) {
    const int64_t vector = (h * R + r) * P;
    auto squares = hn::Zero(d);
    for (int64_t c = 0; c < P; c += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, P - c));
      auto v = LoadPart(d, p.y + at * R + r * P + c, n);
      if (p.D) {
        auto x = LoadPart(d, p.x + at + c, n);
        if (p.mimo_x) x = hn::Mul(x, LoadPart(d, p.mimo_x + vector + c, n));
        v = hn::MulAdd(hn::Set(d, p.D[h]), x, v);
      }
      squares = hn::MulAdd(v, v, squares);
      StorePart(v, d, u + c, n);
    }
    auto scale = one;
    if (p.norm) scale = hn::Set(d, T(1) / std::sqrt(simd::LaneSum(d, squares) / static_cast<T>(P) + p.eps));
    for (int64_t c = 0; c < P; c += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, P - c));
      auto v = LoadPart(d, u + c, n);
      if (p.norm) v = hn::Mul(hn::Mul(v, scale), LoadPart(d, p.norm + h * P + c, n));
      if (p.z) {
        auto z = LoadPart(d, p.z + at + c, n);
        if (p.mimo_z) z = hn::Mul(z, LoadPart(d, p.mimo_z + vector + c, n));
        v = hn::Mul(v, simd::Silu(d, z));
      }
      if (p.mimo_o) v = hn::Mul(v, LoadPart(d, p.mimo_o + vector + c, n));
      T* const out = p.out + at + c;
      if (r > 0) v = hn::Add(v, LoadPart(d, out, n));
      StorePart(v, d, out, n);
    }
  }
}

// to += v
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void accumulate(D d, hn::Vec<D> v, T* to, size_t n) {
  StorePart(hn::Add(v, LoadPart(d, to, n)), d, to, n);
}

// The gradients of one head of one token. Those of parameters are added to
// `sums`, which stands for the outputs of `q` of the same name; `u` is scratch.
template <typename T>
HWY_ATTR void combine_token_vjp(const CombineVjpParams<T>& q, const CombineVjpParams<T>& sums, int64_t token,
                                int64_t h, T* u) {
  const CombineParams<T>& p = q.in;
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), P = p.shape.headdim, R = p.shape.rank;
  const int64_t at = (token * p.shape.heads + h) * P;
  const auto one = hn::Set(d, T(1));
  auto skip = hn::Zero(d);  // of D
  for (int64_t r = 0; r < R; r++) {
    const int64_t vector = (h * R + r) * P;
    T* const dn = q.dy + at * R + r * P;  // holds the gradient of n, then of u
    auto squares = hn::Zero(d);
    for (int64_t c = 0; c < P; c += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, P - c));
      auto v = LoadPart(d, p.y + at * R + r * P + c, n);
      if (p.D) {
        auto x = LoadPart(d, p.x + at + c, n);
        if (p.mimo_x) x = hn::Mul(x, LoadPart(d, p.mimo_x + vector + c, n));
        v = hn::MulAdd(hn::Set(d, p.D[h]), x, v);
      }
      squares = hn::MulAdd(v, v, squares);
      StorePart(v, d, u + c, n);
    }
    const T rstd = p.norm ? T(1) / std::sqrt(simd::LaneSum(d, squares) / static_cast<T>(P) + p.eps) : T(1);
    const auto scale = hn::Set(d, rstd);
    auto dots = hn::Zero(d);
    for (int64_t c = 0; c < P; c += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, P - c));
      const auto v = LoadPart(d, u + c, n);
      const auto weight = p.norm ? LoadPart(d, p.norm + h * P + c, n) : one;
      const auto normed = p.norm ? hn::Mul(hn::Mul(v, scale), weight) : v;
      auto g = LoadPart(d, q.dout + at + c, n);
      auto gate = one, slope = one;
      if (p.z) {
        auto z = LoadPart(d, p.z + at + c, n);
        if (p.mimo_z) z = hn::Mul(z, LoadPart(d, p.mimo_z + vector + c, n));
        simd::SiluAndGrad(d, z, gate, slope);
      }
      if (p.mimo_o) {
        accumulate(d, hn::Mul(g, hn::Mul(normed, gate)), sums.dmimo_o + vector + c, n);
        g = hn::Mul(g, LoadPart(d, p.mimo_o + vector + c, n));
      }
      if (p.z) {
        auto dz = hn::Mul(hn::Mul(g, normed), slope);
        if (p.mimo_z) {
          accumulate(d, hn::Mul(dz, LoadPart(d, p.z + at + c, n)), sums.dmimo_z + vector + c, n);
          dz = hn::Mul(dz, LoadPart(d, p.mimo_z + vector + c, n));
        }
        if (r > 0) dz = hn::Add(dz, LoadPart(d, q.dz + at + c, n));
        StorePart(dz, d, q.dz + at + c, n);
        g = hn::Mul(g, gate);
      }
      if (p.norm) {
        accumulate(d, hn::Mul(g, hn::Mul(v, scale)), sums.dnorm + h * P + c, n);
        g = hn::Mul(g, weight);
        dots = hn::MulAdd(g, v, dots);
      }
      StorePart(g, d, dn + c, n);
    }
    // du = rstd (g - u rstd^2 mean(g u))
    const auto pull = hn::Set(d, p.norm ? simd::LaneSum(d, dots) / static_cast<T>(P) * rstd * rstd : T(0));
    for (int64_t c = 0; c < P; c += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, P - c));
      auto g = LoadPart(d, dn + c, n);
      if (p.norm) g = hn::Mul(scale, hn::NegMulAdd(pull, LoadPart(d, u + c, n), g));
      StorePart(g, d, dn + c, n);
      if (!p.D) continue;
      const auto x = LoadPart(d, p.x + at + c, n), D = hn::Set(d, p.D[h]);
      const auto mx = p.mimo_x ? LoadPart(d, p.mimo_x + vector + c, n) : one;
      skip = hn::MulAdd(g, hn::Mul(x, mx), skip);
      const auto dv = hn::Mul(D, g);
      if (p.mimo_x) accumulate(d, hn::Mul(dv, x), sums.dmimo_x + vector + c, n);
      auto dx = hn::Mul(dv, mx);
      if (r > 0) dx = hn::Add(dx, LoadPart(d, q.dx + at + c, n));
      StorePart(dx, d, q.dx + at + c, n);
    }
  }
  if (p.D) sums.dD[h] += simd::LaneSum(d, skip);
}

HWY_ATTR void combine_f32(const CombineParams<float>& p, int64_t token, int64_t h, float* u) {
  combine_token(p, token, h, u);
}
HWY_ATTR void combine_f64(const CombineParams<double>& p, int64_t token, int64_t h, double* u) {
  combine_token(p, token, h, u);
}
HWY_ATTR void combine_vjp_f32(const CombineVjpParams<float>& q, const CombineVjpParams<float>& sums, int64_t token,
                              int64_t h, float* u) {
  combine_token_vjp(q, sums, token, h, u);
}
HWY_ATTR void combine_vjp_f64(const CombineVjpParams<double>& q, const CombineVjpParams<double>& sums,
                              int64_t token, int64_t h, double* u) {
  combine_token_vjp(q, sums, token, h, u);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
