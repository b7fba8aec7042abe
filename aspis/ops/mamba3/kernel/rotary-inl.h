// The loops of rotary.h for one instruction set. Included once per target by rotary.cc.

#include <numbers>
#include <type_traits>

#include "aspis/simd/math-inl.h"
#include "aspis/simd/sincos-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void turns(int64_t n, const T* angle, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto pi = hn::Set(d, static_cast<T>(std::numbers::pi));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    simd::StoreTail(hn::Mul(pi, simd::Tanh(d, simd::LoadTail(d, angle + i, m))), d, out + i, m);
  }
}

template <typename T>
HWY_ATTR void turns_vjp(int64_t n, const T* angle, T* g) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto pi = hn::Set(d, static_cast<T>(std::numbers::pi)), one = hn::Set(d, T(1));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    const auto t = simd::Tanh(d, simd::LoadTail(d, angle + i, m));
    const auto slope = hn::Mul(pi, hn::NegMulAdd(t, t, one));
    simd::StoreTail(hn::Mul(simd::LoadTail(d, g + i, m), slope), d, g + i, m);
  }
}

template <typename T>
HWY_ATTR void advance(int64_t n, T dt, const T* turn, T* phi) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto step = hn::Set(d, dt), round = hn::Set(d, static_cast<T>(2 * std::numbers::pi)),
             inverse = hn::Set(d, static_cast<T>(0.5 / std::numbers::pi));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    const auto v = hn::MulAdd(step, simd::LoadTail(d, turn + i, m), simd::LoadTail(d, phi + i, m));
    simd::StoreTail(hn::NegMulAdd(round, hn::Floor(hn::Mul(v, inverse)), v), d, phi + i, m);
  }
}

template <typename T>
HWY_ATTR void sincos(int64_t n, const T* phi, T* cosine, T* sine) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    auto s = hn::Zero(d), c = s;
    simd::SinCos(d, simd::LoadTail(d, phi + i, m), s, c);
    simd::StoreTail(s, d, sine + i, m);
    simd::StoreTail(c, d, cosine + i, m);
  }
}

template <typename T>
HWY_ATTR void turn(int64_t n, bool adjacent, int64_t N, const T* cosine, const T* sine, T sign, T* v) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), half = N / 2;
  const auto way = hn::Set(d, sign);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto c = hn::LoadU(d, cosine + i), s = hn::Mul(way, hn::LoadU(d, sine + i));
    auto a = c, b = c;
    if (adjacent) {
      hn::LoadInterleaved2(d, v + 2 * i, a, b);
    } else {
      a = hn::LoadU(d, v + i), b = hn::LoadU(d, v + half + i);
    }
    const auto x = hn::NegMulAdd(b, s, hn::Mul(a, c)), y = hn::MulAdd(a, s, hn::Mul(b, c));
    if (adjacent) {
      hn::StoreInterleaved2(x, y, d, v + 2 * i);
    } else {
      hn::StoreU(x, d, v + i);
      hn::StoreU(y, d, v + half + i);
    }
  }
  for (; i < n; i++) {
    T &a = v[adjacent ? 2 * i : i], &b = v[adjacent ? 2 * i + 1 : half + i];
    const T kept = a, s = sign * sine[i];
    a = kept * cosine[i] - b * s;
    b = kept * s + b * cosine[i];
  }
}

template <typename T>
HWY_ATTR void turn_gradient(int64_t n, bool adjacent, int64_t N, const T* y, const T* dy, T* dphi) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), half = N / 2;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto a = hn::Zero(d), b = a, da = a, db = a;
    if (adjacent) {
      hn::LoadInterleaved2(d, y + 2 * i, a, b);
      hn::LoadInterleaved2(d, dy + 2 * i, da, db);
    } else {
      a = hn::LoadU(d, y + i), b = hn::LoadU(d, y + half + i);
      da = hn::LoadU(d, dy + i), db = hn::LoadU(d, dy + half + i);
    }
    hn::StoreU(hn::Add(hn::LoadU(d, dphi + i), hn::NegMulAdd(b, da, hn::Mul(a, db))), d, dphi + i);
  }
  for (; i < n; i++) {
    const int64_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : half + i;
    dphi[i] += y[a] * dy[b] - y[b] * dy[a];
  }
}

template <typename T>
HWY_ATTR void sum(int64_t n, const T* a, const T* b, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, a + i);
    hn::StoreU(b ? hn::Add(v, hn::LoadU(d, b + i)) : v, d, out + i);
  }
  for (; i < n; i++) out[i] = b ? a[i] + b[i] : a[i];
}

template <typename T>
HWY_ATTR void add_to(int64_t n, const T* a, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, a + i)), d, to + i);
  for (; i < n; i++) to[i] += a[i];
}

template <typename T>
RotaryLoops<T> loops() {
  return {&turns<T>, &turns_vjp<T>, &advance<T>, &sincos<T>, &turn<T>, &turn_gradient<T>, &sum<T>, &add_to<T>};
}

HWY_ATTR void fill_rotary(RotaryLoops<float>& single, RotaryLoops<double>& wide) {
  single = loops<float>();
  wide = loops<double>();
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
