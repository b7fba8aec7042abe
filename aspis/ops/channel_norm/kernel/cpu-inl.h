// Norms over rows and groups of channels for one instruction set: what is done
// to one block of rows. Included once per target by cpu.cc.
//
// Bound by memory. A block is read from memory once per pass; its mean is
// finished before the squares are summed around it (the second read comes from
// the L2 cache), so a large common offset costs no more digits than the mean has.

#include "aspis/simd/activation-inl.h"
#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Calls f(offset, width) for the lines of a block; the last may be shorter.
template <class F>
HWY_INLINE void for_lines(const ChannelBlocks& b, int64_t rows, const F& f) {
  const int64_t n = rows * b.channels;
  for (int64_t i = 0; i < n; i += b.width) f(i, HWY_MIN(b.width, n - i));
}

// Adds the columns of the `fold` rows in a line together, into its first `channels`.
template <typename T>
HWY_ATTR void fold_line(const ChannelBlocks& b, T* line) {
  const hn::ScalableTag<T> d;
  for (int64_t k = 1; k < b.fold; k++) {
    simd::MapArrays(
        d, b.channels, line, [](auto, auto a, auto v) HWY_ATTR { return hn::Add(a, v); }, line,
        line + k * b.channels);
  }
}

// Mean and sum of squared deviations of each channel of a block, into the first
// `channels` values of two lines.
template <typename S, typename T>
HWY_ATTR void stats_block(const ChannelBlocks& b, const S* x, int64_t rows, T* mean, T* squares) {
  const hn::ScalableTag<T> d;
  // Deviations from the first row are summed, so that the sum has the digits of
  // the deviations. It stands in the line of the squares for now.
  T* origin = squares;
  for (int64_t c = 0; c < b.channels; c++) origin[c] = load_value(x[c]);
  for (int64_t k = 1; k < b.fold; k++) std::copy(origin, origin + b.channels, origin + k * b.channels);
  std::fill(mean, mean + b.line, T(0));
  for_lines(b, rows, [&](int64_t i, int64_t n) HWY_ATTR {
    simd::MapArrays(
        d, n, mean, [](auto, auto a, auto v, auto o) HWY_ATTR { return hn::Add(a, hn::Sub(v, o)); }, mean, x + i,
        origin);
  });
  fold_line(b, mean);
  for (int64_t c = 0; c < b.channels; c++) mean[c] = mean[c] / static_cast<T>(rows) + origin[c];
  for (int64_t k = 1; k < b.fold; k++) std::copy(mean, mean + b.channels, mean + k * b.channels);
  std::fill(squares, squares + b.line, T(0));
  for_lines(b, rows, [&](int64_t i, int64_t n) HWY_ATTR {
    simd::MapArrays(
        d, n, squares,
        [](auto, auto a, auto v, auto m) HWY_ATTR {
          const auto c = hn::Sub(v, m);
          return hn::MulAdd(c, c, a);
        },
        squares, x + i, mean);
  });
  fold_line(b, squares);
}

// y = act((x - mean) scale + bias + residual); `c` holds these three lines.
template <Activation kKind, typename S, typename T>
HWY_ATTR void map_kind(const ChannelBlocks& b, const S* x, const S* residual, int64_t rows, const T* c, S* y) {
  const hn::ScalableTag<T> d;
  const T *mean = c, *scale = c + b.line, *bias = c + 2 * b.line;
  for_lines(b, rows, [&](int64_t i, int64_t n) HWY_ATTR {
    if (residual) {
      simd::MapArrays(
          d, n, y + i,
          [](auto tag, auto v, auto e, auto m, auto s, auto a)
              HWY_ATTR { return simd::Activate<kKind>(tag, hn::Add(hn::MulAdd(hn::Sub(v, m), s, a), e)); },
          x + i, residual + i, mean, scale, bias);
    } else {
      simd::MapArrays(
          d, n, y + i,
          [](auto tag, auto v, auto m, auto s, auto a)
              HWY_ATTR { return simd::Activate<kKind>(tag, hn::MulAdd(hn::Sub(v, m), s, a)); },
          x + i, mean, scale, bias);
    }
  });
}

// Lines of coefficients of the gradient.
template <typename T>
struct GradientLines {
  const T *mean, *scale, *bias;   // of the forward pass
  const T *gain, *slope, *shift;  // dx = gain g - (slope (x - mean) + shift)

  GradientLines(const ChannelBlocks& b, const T* c)
      : mean(c),
        scale(c + b.line),
        bias(c + 2 * b.line),
        gain(c + 3 * b.line),
        slope(c + 4 * b.line),
        shift(c + 5 * b.line) {}
};

// g = dy act'(z) from the vectors of a line at column k. Lines of coefficients
// are whole vectors.
template <Activation kKind, class D, class V = hn::Vec<D>, typename T>
HWY_INLINE V gradient_before(D d, const GradientLines<T>& lines, int64_t k, V x, V residual, V dy) {
  if constexpr (kKind == Activation::kNone) {
    return dy;
  } else {
    const V z = hn::MulAdd(hn::Sub(x, hn::LoadU(d, lines.mean + k)), hn::LoadU(d, lines.scale + k),
                           hn::Add(hn::LoadU(d, lines.bias + k), residual));
    return simd::ActivationGrad<kKind>(d, z, dy);
  }
}

// Sums over a block of g and g (x - mean) into the first `channels` values of two lines.
template <Activation kKind, typename S, typename T>
HWY_ATTR void sums_kind(const ChannelBlocks& b, const S* x, const S* residual, const S* dy, int64_t rows,
                        const T* c, T* sum_g, T* sum_gx) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const GradientLines<T> lines(b, c);
  std::fill(sum_g, sum_g + b.line, T(0));
  std::fill(sum_gx, sum_gx + b.line, T(0));
  const auto add = [&](int64_t k, V v, V e, V g_after) HWY_ATTR {
    const V g = gradient_before<kKind>(d, lines, k, v, e, g_after);
    const V centred = hn::Sub(v, hn::LoadU(d, lines.mean + k));
    hn::StoreU(hn::Add(hn::LoadU(d, sum_g + k), g), d, sum_g + k);
    hn::StoreU(hn::MulAdd(g, centred, hn::LoadU(d, sum_gx + k)), d, sum_gx + k);
  };
  for_lines(b, rows, [&](int64_t i, int64_t n) HWY_ATTR {
    const S *v = x + i, *g = dy + i, *e = residual ? residual + i : nullptr;
    int64_t k = 0;
    for (; k + lanes <= n; k += lanes) {
      add(k, simd::LoadAny(d, v + k), e ? simd::LoadAny(d, e + k) : hn::Zero(d), simd::LoadAny(d, g + k));
    }
    if (k < n) {  // dy is 0 behind the end, and so is what is added there
      const size_t rest = static_cast<size_t>(n - k);
      add(k, simd::LoadAnyTail(d, v + k, rest), e ? simd::LoadAnyTail(d, e + k, rest) : hn::Zero(d),
          simd::LoadAnyTail(d, g + k, rest));
    }
  });
  fold_line(b, sum_g);
  fold_line(b, sum_gx);
}

// dx, and dresidual = g where it is wanted.
template <Activation kKind, typename S, typename T>
HWY_ATTR void grad_kind(const ChannelBlocks& b, const S* x, const S* residual, const S* dy, int64_t rows,
                        const T* c, S* dx, S* dresidual) {
  const hn::ScalableTag<T> d;
  const GradientLines<T> lines(b, c);
  const auto plain = [&](int64_t i, int64_t n, const S* g) HWY_ATTR {
    simd::MapArrays(
        d, n, dx + i,
        [](auto, auto v, auto before, auto m, auto gain, auto slope, auto shift)
            HWY_ATTR { return hn::MulSub(gain, before, hn::MulAdd(slope, hn::Sub(v, m), shift)); },
        x + i, g, lines.mean, lines.gain, lines.slope, lines.shift);
  };
  for_lines(b, rows, [&](int64_t i, int64_t n) HWY_ATTR {
    if constexpr (kKind == Activation::kNone) {
      plain(i, n, dy + i);
    } else if (residual) {
      simd::MapArrays(
          d, n, dresidual + i,
          [](auto tag, auto v, auto e, auto after, auto m, auto s, auto a) HWY_ATTR {
            return simd::ActivationGrad<kKind>(tag, hn::MulAdd(hn::Sub(v, m), s, hn::Add(a, e)), after);
          },
          x + i, residual + i, dy + i, lines.mean, lines.scale, lines.bias);
      if constexpr (std::is_same_v<S, T>) {
        plain(i, n, dresidual + i);
      } else {  // a rounded g would leave its error in the difference of nearly equal terms
        simd::MapArrays(
            d, n, dx + i,
            [](auto tag, auto v, auto e, auto after, auto m, auto s, auto a, auto gain, auto slope,
               auto shift) HWY_ATTR {
              const auto centred = hn::Sub(v, m);
              const auto before = simd::ActivationGrad<kKind>(tag, hn::MulAdd(centred, s, hn::Add(a, e)), after);
              return hn::MulSub(gain, before, hn::MulAdd(slope, centred, shift));
            },
            x + i, residual + i, dy + i, lines.mean, lines.scale, lines.bias, lines.gain, lines.slope,
            lines.shift);
      }
    } else {
      simd::MapArrays(
          d, n, dx + i,
          [](auto tag, auto v, auto after, auto m, auto s, auto a, auto gain, auto slope, auto shift) HWY_ATTR {
            const auto centred = hn::Sub(v, m);
            const auto before = simd::ActivationGrad<kKind>(tag, hn::MulAdd(centred, s, a), after);
            return hn::MulSub(gain, before, hn::MulAdd(slope, centred, shift));
          },
          x + i, dy + i, lines.mean, lines.scale, lines.bias, lines.gain, lines.slope, lines.shift);
    }
  });
}

#define ASPIS_CHANNEL_NORM_FOR(S, T, suffix)                                                                    \
  HWY_ATTR void stats_##suffix(const ChannelBlocks& b, const S* x, int64_t rows, T* mean, T* squares) {         \
    stats_block(b, x, rows, mean, squares);                                                                     \
  }                                                                                                             \
  HWY_ATTR void map_##suffix(const ChannelBlocks& b, Activation a, const S* x, const S* residual, int64_t rows, \
                             const T* c, S* y) {                                                                \
    simd::WithActivation(                                                                                       \
        a, [&](auto kind) HWY_ATTR { map_kind<decltype(kind)::value>(b, x, residual, rows, c, y); });           \
  }                                                                                                             \
  HWY_ATTR void sums_##suffix(const ChannelBlocks& b, Activation a, const S* x, const S* residual, const S* dy, \
                              int64_t rows, const T* c, T* sum_g, T* sum_gx) {                                  \
    simd::WithActivation(a, [&](auto kind) HWY_ATTR {                                                           \
      sums_kind<decltype(kind)::value>(b, x, residual, dy, rows, c, sum_g, sum_gx);                             \
    });                                                                                                         \
  }                                                                                                             \
  HWY_ATTR void grad_##suffix(const ChannelBlocks& b, Activation a, const S* x, const S* residual, const S* dy, \
                              int64_t rows, const T* c, S* dx, S* dresidual) {                                  \
    simd::WithActivation(a, [&](auto kind) HWY_ATTR {                                                           \
      grad_kind<decltype(kind)::value>(b, x, residual, dy, rows, c, dx, dresidual);                             \
    });                                                                                                         \
  }
ASPIS_CHANNEL_NORM_FOR(float, float, f32)
ASPIS_CHANNEL_NORM_FOR(double, double, f64)
ASPIS_CHANNEL_NORM_FOR(Bf16, float, bf16)
#undef ASPIS_CHANNEL_NORM_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
