// AdamW for one instruction set. Four streams are read (p, g, m, v) and three
// written, 28 bytes per parameter against about 15 flops, a root and a
// division: bandwidth-bound. In place, nothing else is read. Into new memory the
// caches would read the output too, so there whole vectors are streamed past them.

#include <hwy/cache_control.h>

#include <cstdint>
#include <type_traits>

#include "aspis/ops/adamw/kernel/factors.h"
#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Shorter segments are likely to be read again from cache.
inline constexpr int64_t kStreamFrom = 1 << 13;

template <typename T>
HWY_ATTR void adamw_segment(const UpdateArray<T>& a, int64_t first, int64_t n, const AdamWFactors<T>& f) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const V scale = hn::Set(d, f.gradient), keep = hn::Set(d, a.decay ? f.keep : T(1));
  const V beta1 = hn::Set(d, f.beta1), one_minus_beta1 = hn::Set(d, f.one_minus_beta1);
  const V beta2 = hn::Set(d, f.beta2), one_minus_beta2 = hn::Set(d, f.one_minus_beta2);
  const V rate = hn::Set(d, f.rate), root = hn::Set(d, f.root), eps = hn::Set(d, f.eps);
  const auto update = [&](V& p, V& m, V& v, V gradient) HWY_ATTR {
    const V g = hn::Mul(gradient, scale);
    m = hn::MulAdd(beta1, m, hn::Mul(one_minus_beta1, g));
    v = hn::MulAdd(beta2, v, hn::Mul(one_minus_beta2, hn::Mul(g, g)));
    const V denominator = hn::MulAdd(hn::Sqrt(v), root, eps);
    p = hn::NegMulAdd(rate, hn::Div(m, denominator), hn::Mul(p, keep));
  };
  const T *g = a.gradient + first, *p_in = a.in[0] + first, *m_in = a.in[1] + first, *v_in = a.in[2] + first;
  T *p_out = a.out[0] + first, *m_out = a.out[1] + first, *v_out = a.out[2] + first;
  int64_t i = 0;
  const auto partial = [&](size_t count) HWY_ATTR {
    V p = simd::LoadTail(d, p_in + i, count), m = simd::LoadTail(d, m_in + i, count);
    V v = simd::LoadTail(d, v_in + i, count);
    update(p, m, v, simd::LoadTail(d, g + i, count));
    simd::StoreTail(p, d, p_out + i, count);
    simd::StoreTail(m, d, m_out + i, count);
    simd::StoreTail(v, d, v_out + i, count);
    i += static_cast<int64_t>(count);
  };
  // One output may bypass the caches if its vectors are aligned.
  const auto run = [&](auto stream_p, auto stream_m, auto stream_v) HWY_ATTR {
    const auto store = [&](auto stream, V x, T* to) HWY_ATTR {
      if constexpr (decltype(stream)::value) {
        hn::Stream(x, d, to);
      } else {
        hn::StoreU(x, d, to);
      }
    };
    for (; i + lanes <= n; i += lanes) {
      V p = hn::LoadU(d, p_in + i), m = hn::LoadU(d, m_in + i), v = hn::LoadU(d, v_in + i);
      update(p, m, v, hn::LoadU(d, g + i));
      store(stream_p, p, p_out + i);
      store(stream_m, m, m_out + i);
      store(stream_v, v, v_out + i);
    }
  };
  const size_t bytes = static_cast<size_t>(lanes) * sizeof(T);
  const auto offset = [&](const T* q) HWY_ATTR { return reinterpret_cast<uintptr_t>(q) % bytes; };
  const bool fresh_p = p_out != p_in, fresh_states = m_out != m_in && v_out != v_in;
  const bool one_offset = offset(p_out) % sizeof(T) == 0 &&
                          (!fresh_states || (offset(m_out) == offset(p_out) && offset(v_out) == offset(p_out)));
  if (n >= kStreamFrom && fresh_p && one_offset) {
    if (offset(p_out) != 0) partial((bytes - offset(p_out)) / sizeof(T));
    if (fresh_states) {
      run(std::true_type(), std::true_type(), std::true_type());
    } else {
      run(std::true_type(), std::false_type(), std::false_type());
    }
    hwy::FlushStream();
  } else {
    run(std::false_type(), std::false_type(), std::false_type());
  }
  if (i < n) partial(static_cast<size_t>(n - i));
}

HWY_ATTR void adamw_f32(const UpdateArray<float>& a, int64_t first, int64_t n, const AdamWFactors<float>& f) {
  adamw_segment(a, first, n, f);
}
HWY_ATTR void adamw_f64(const UpdateArray<double>& a, int64_t first, int64_t n, const AdamWFactors<double>& f) {
  adamw_segment(a, first, n, f);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
