// What the update of every optimizer shares, for one instruction set: one pass
// over the parameter, its states and the gradient, with the moving average and
// the rounded copy of the parameter on the way. Included once per target.
//
// In place, nothing but the streams themselves is read. Into new memory the
// caches would read the output too, so there whole vectors are streamed past them.

#if defined(ASPIS_UPDATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ASPIS_UPDATE_INL_H_
#undef ASPIS_UPDATE_INL_H_
#else
#define ASPIS_UPDATE_INL_H_
#endif

#include <hwy/cache_control.h>

#include <cstdint>
#include <type_traits>

#include "aspis/ops/adamw/kernel/params.h"
#include "aspis/simd/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Shorter segments are likely to be read again from cache.
inline constexpr int64_t kStreamFrom = 1 << 13;

template <class D, typename T>
HWY_ATTR HWY_INLINE hn::Vec<D> load_gradient(D d, const UpdateArray<T>& a, int64_t at) {
  if constexpr (std::is_same_v<T, float>) {
    if (a.half_gradient) return simd::LoadAny(d, a.half_gradient + at);
  }
  return hn::LoadU(d, a.gradient + at);
}
template <class D, typename T>
HWY_ATTR HWY_INLINE hn::Vec<D> load_gradient_tail(D d, const UpdateArray<T>& a, int64_t at, size_t count) {
  if constexpr (std::is_same_v<T, float>) {
    if (a.half_gradient) return simd::LoadAnyTail(d, a.half_gradient + at, count);
  }
  return simd::LoadTail(d, a.gradient + at, count);
}

// update(p, states, g) on vectors for `n` elements from `first` on; g comes
// multiplied by `scale`. Without kStore the states are only read, and g is 0.
template <int kStates, bool kStore, typename T, typename F>
HWY_ATTR HWY_INLINE void update_segment(const UpdateArray<T>& a, int64_t first, int64_t n, T scale,
                                        T average_decay, F update) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLists = kStates + 1;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const V factor = hn::Set(d, scale), keep = hn::Set(d, average_decay);
  const T* average_in = a.average_out ? a.average_in + first : nullptr;
  T* average_out = a.average_out ? a.average_out + first : nullptr;
  [[maybe_unused]] Bf16* half = a.half ? a.half + first : nullptr;
  const T* in[kLists];
  T* out[kLists];
  for (int k = 0; k < kLists; k++) {
    in[k] = a.in[k] + first;
    out[k] = a.out[k] + first;
  }
  int64_t i = 0;
  const auto partial = [&](size_t count) HWY_ATTR {
    V x[kLists], g = hn::Zero(d);
#pragma GCC unroll 4
    for (int k = 0; k < kLists; k++) x[k] = simd::LoadTail(d, in[k] + i, count);
    if constexpr (kStore) g = hn::Mul(factor, load_gradient_tail(d, a, first + i, count));
    update(x[0], x + 1, g);
    simd::StoreTail(x[0], d, out[0] + i, count);
    for (int k = 1; kStore && k < kLists; k++) simd::StoreTail(x[k], d, out[k] + i, count);
    if (average_out) {
      const V e = simd::LoadTail(d, average_in + i, count);
      simd::StoreTail(hn::MulAdd(keep, hn::Sub(e, x[0]), x[0]), d, average_out + i, count);
    }
    if constexpr (std::is_same_v<T, float>) {
      if (half) simd::StoreAnyTail(x[0], d, half + i, count);
    }
    i += static_cast<int64_t>(count);
  };
  const auto run = [&](auto stream_p, auto stream_states) HWY_ATTR {
    const auto store = [&](auto stream, V x, T* to) HWY_ATTR {
      if constexpr (decltype(stream)::value) {
        hn::Stream(x, d, to);
      } else {
        hn::StoreU(x, d, to);
      }
    };
    for (; i + lanes <= n; i += lanes) {
      V x[kLists], g = hn::Zero(d);
#pragma GCC unroll 4
      for (int k = 0; k < kLists; k++) x[k] = hn::LoadU(d, in[k] + i);
      if constexpr (kStore) g = hn::Mul(factor, load_gradient(d, a, first + i));
      update(x[0], x + 1, g);
      store(stream_p, x[0], out[0] + i);
#pragma GCC unroll 4
      for (int k = 1; kStore && k < kLists; k++) store(stream_states, x[k], out[k] + i);
      if (average_out) {
        const V e = hn::LoadU(d, average_in + i);
        hn::StoreU(hn::MulAdd(keep, hn::Sub(e, x[0]), x[0]), d, average_out + i);
      }
      if constexpr (std::is_same_v<T, float>) {
        if (half) simd::StoreAny(x[0], d, half + i);
      }
    }
  };
  // Outputs may bypass the caches if their vectors are aligned.
  const size_t bytes = static_cast<size_t>(lanes) * sizeof(T);
  const auto offset = [&](const T* q) HWY_ATTR { return reinterpret_cast<uintptr_t>(q) % bytes; };
  bool fresh_states = kStore && kStates > 0, one_offset = offset(out[0]) % sizeof(T) == 0;
  for (int k = 1; k < kLists; k++) fresh_states = fresh_states && out[k] != in[k];
  for (int k = 1; k < kLists; k++) one_offset = one_offset && (!fresh_states || offset(out[k]) == offset(out[0]));
  if (n >= kStreamFrom && out[0] != in[0] && one_offset) {
    if (offset(out[0]) != 0) partial((bytes - offset(out[0])) / sizeof(T));
    if (fresh_states) {
      run(std::true_type(), std::true_type());
    } else {
      run(std::true_type(), std::false_type());
    }
    hwy::FlushStream();
  } else {
    run(std::false_type(), std::false_type());
  }
  if (i < n) partial(static_cast<size_t>(n - i));
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ASPIS_UPDATE_INL_H_
