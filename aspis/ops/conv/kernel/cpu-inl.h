// The parts of a convolution that are not matrix products, for one instruction
// set: copies of patches into columns, their adjoint, and the depthwise form
// with lanes over channels. Included once per target by cpu.cc.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR HWY_INLINE void copy_values(const T* from, int64_t n, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::LoadU(d, from + i), d, to + i);
  for (; i < n; i++) to[i] = from[i];
}

template <typename T>
HWY_ATTR HWY_INLINE void zero_values(int64_t n, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Zero(d), d, to + i);
  for (; i < n; i++) to[i] = 0;
}

template <typename T>
HWY_ATTR HWY_INLINE void add_values(const T* from, int64_t n, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, from + i)), d, to + i);
  for (; i < n; i++) to[i] += from[i];
}

// Walks the runs of neighbouring values that a block of columns shares with
// the image: `run(column offset, image offset or -1 for padding, values)` for
// every output pixel of [first, first + count) in turn, taps in order.
template <class Run>
HWY_ATTR HWY_INLINE void walk_columns(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count,
                                      const Run& run) {
  const int64_t channels = s.group_in(), width = b.taps * channels;
  // Taps of one kernel row are neighbours in memory if nothing lies between them.
  const bool joined = s.groups == 1 && s.dilation[2] == 1;
  for (int64_t r = 0; r < count; r++) {
    int64_t rest = first + r;
    const int64_t ow = rest % s.out[2];
    rest /= s.out[2];
    const int64_t oh = rest % s.out[1];
    rest /= s.out[1];
    const int64_t od = rest % s.out[0], n = rest / s.out[0];
    for (int64_t t = 0; t < b.taps;) {
      const int64_t tap = b.first_tap + t;
      const int64_t kw = tap % s.kernel[2], kh = tap / s.kernel[2] % s.kernel[1],
                    kd = tap / s.kernel[2] / s.kernel[1];
      const int64_t d = od * s.stride[0] - s.padding[0] + kd * s.dilation[0];
      const int64_t h = oh * s.stride[1] - s.padding[1] + kh * s.dilation[1];
      const int64_t w = ow * s.stride[2] - s.padding[2] + kw * s.dilation[2];
      const int64_t row_taps = HWY_MIN(b.taps - t, s.kernel[2] - kw);
      const int64_t column = r * width + t * channels;
      if (d < 0 || d >= s.in[0] || h < 0 || h >= s.in[1]) {
        run.padding(column, row_taps * channels);
        t += row_taps;
        continue;
      }
      const int64_t row = ((n * s.in[0] + d) * s.in[1] + h) * s.in[2];
      const int64_t image = (row + w) * s.in_channels + b.group * channels;
      if (joined && w >= 0 && w + row_taps <= s.in[2]) {
        run.values(column, image, row_taps * channels, d, h);
        t += row_taps;
      } else if (w >= 0 && w < s.in[2]) {
        run.values(column, image, channels, d, h);
        t++;
      } else {
        run.padding(column, channels);
        t++;
      }
    }
  }
}

template <typename T>
struct GatherRun {
  const T* x;
  T* columns;
  HWY_ATTR HWY_INLINE void values(int64_t column, int64_t image, int64_t n, int64_t, int64_t) const {
    copy_values(x + image, n, columns + column);
  }
  HWY_ATTR HWY_INLINE void padding(int64_t column, int64_t n) const { zero_values(n, columns + column); }
};

template <typename T>
struct ScatterRun {
  const T* columns;
  T* dx;
  Band band;
  HWY_ATTR HWY_INLINE void values(int64_t column, int64_t image, int64_t n, int64_t d, int64_t h) const {
    const int64_t at = band.axis == 0 ? d : h;
    if (at >= band.first && at < band.last) add_values(columns + column, n, dx + image);
  }
  HWY_ATTR HWY_INLINE void padding(int64_t, int64_t) const {}
};

template <typename T>
HWY_ATTR void gather_block(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count, const T* x,
                           T* columns) {
  walk_columns(s, b, first, count, GatherRun<T>{x, columns});
}

template <typename T>
HWY_ATTR void scatter_block(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count,
                            const T* columns, const Band& band, T* dx) {
  walk_columns(s, b, first, count, ScatterRun<T>{columns, dx, band});
}

// out[step] = bias + sum over taps of weight_tap x_{tap, step}, lanes over
// channels, for kPixels output pixels that share the loads of the weights.
template <typename T>
HWY_ATTR void depthwise_pixels(const DepthwisePixels<T>& p) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < p.channels; c += lanes) {
    const size_t n = static_cast<size_t>(HWY_MIN(lanes, p.channels - c));
    const bool tail = static_cast<int64_t>(n) < lanes;
    const auto load = [&](const T* from)
                          HWY_ATTR { return tail ? simd::LoadTail(d, from, n) : hn::LoadU(d, from); };
    const V start = p.bias ? load(p.bias + c) : hn::Zero(d);
    V s0 = start, s1 = start, s2 = start, s3 = start;
    const T* const* in = p.in;
    for (int64_t t = 0; t < p.taps; t++, in += kPixels) {
      const V w = load(p.weight + t * p.channels + c);
      s0 = hn::MulAdd(w, load(in[0] + c), s0);
      s1 = hn::MulAdd(w, load(in[1] + c), s1);
      s2 = hn::MulAdd(w, load(in[2] + c), s2);
      s3 = hn::MulAdd(w, load(in[3] + c), s3);
    }
    const V sums[kPixels] = {s0, s1, s2, s3};
    for (int64_t i = 0; i < p.pixels; i++) {
      if (tail) {
        simd::StoreTail(sums[i], d, p.out[i] + c, n);
      } else {
        hn::StoreU(sums[i], d, p.out[i] + c);
      }
    }
  }
}

// sums_tap += sum over pixels of dy_step x_{tap, step}; `out` holds dy.
template <typename T>
HWY_ATTR void depthwise_weight_pixels(const DepthwisePixels<T>& p, T* sums) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < p.channels; c += lanes) {
    const size_t n = static_cast<size_t>(HWY_MIN(lanes, p.channels - c));
    const bool tail = static_cast<int64_t>(n) < lanes;
    const auto load = [&](const T* from)
                          HWY_ATTR { return tail ? simd::LoadTail(d, from, n) : hn::LoadU(d, from); };
    V g[kPixels];
    for (int64_t i = 0; i < kPixels; i++) g[i] = i < p.pixels ? load(p.out[i] + c) : hn::Zero(d);
    const T* const* in = p.in;
    for (int64_t t = 0; t < p.taps; t++, in += kPixels) {
      T* const to = sums + t * p.channels + c;
      V sum = load(to);
      for (int64_t i = 0; i < p.pixels; i++) sum = hn::MulAdd(g[i], load(in[i] + c), sum);
      if (tail) {
        simd::StoreTail(sum, d, to, n);
      } else {
        hn::StoreU(sum, d, to);
      }
    }
  }
}

// Four outputs of a row at a time: kTaps weights stay in registers, and an input
// serves up to four outputs.
template <int kTaps, bool kTail, typename T>
HWY_ATTR HWY_INLINE void row_outputs(const DepthwiseRow<T>& p, int64_t c, size_t n) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const auto load = [&](const T* from)
                        HWY_ATTR { return kTail ? simd::LoadTail(d, from, n) : hn::LoadU(d, from); };
  const V start = p.bias ? load(p.bias + c) : hn::Zero(d);
  const auto store = [&](int64_t at, V v) HWY_ATTR {
    T* to = p.out + at * p.channels + c;
    if (kTail) {
      simd::StoreTail(v, d, to, n);
    } else {
      hn::StoreU(v, d, to);
    }
  };
  int64_t x = 0;
  for (; x + 4 <= p.width; x += 4) {
    V sum[4] = {start, start, start, start};
    for (int64_t r = 0; r < p.rows; r++) {
      const T* const in = p.in[r] + x * p.channels + c;
      V w[kTaps];
#pragma GCC unroll 8
      for (int k = 0; k < kTaps; k++) w[k] = load(p.weight[r] + k * p.channels + c);
#pragma GCC unroll 16
      for (int j = 0; j < kTaps + 3; j++) {
        const V v = load(in + j * p.channels);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          if (j - i >= 0 && j - i < kTaps) sum[i] = hn::MulAdd(w[j - i], v, sum[i]);
        }
      }
    }
    for (int i = 0; i < 4; i++) store(x + i, sum[i]);
  }
  for (; x < p.width; x++) {
    V sum = start;
    for (int64_t r = 0; r < p.rows; r++) {
      const T* const in = p.in[r] + x * p.channels + c;
      for (int k = 0; k < kTaps; k++)
        sum = hn::MulAdd(load(p.weight[r] + k * p.channels + c), load(in + k * p.channels), sum);
    }
    store(x, sum);
  }
}

// sums {rows, taps, channels} += products of dy (`out`) with the window's rows.
template <int kTaps, bool kTail, typename T>
HWY_ATTR HWY_INLINE void row_weights(const DepthwiseRow<T>& p, int64_t c, size_t n, T* const* sums) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const auto load = [&](const T* from)
                        HWY_ATTR { return kTail ? simd::LoadTail(d, from, n) : hn::LoadU(d, from); };
  for (int64_t r = 0; r < p.rows; r++) {
    T* const to = sums[r] + c;
    V sum[kTaps];
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; k++) sum[k] = load(to + k * p.channels);
    int64_t x = 0;
    for (; x + 4 <= p.width; x += 4) {
      const T* const in = p.in[r] + x * p.channels + c;
      const T* const dy = p.out + x * p.channels + c;
      V g[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) g[i] = load(dy + i * p.channels);
#pragma GCC unroll 16
      for (int j = 0; j < kTaps + 3; j++) {
        const V v = load(in + j * p.channels);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          if (j - i >= 0 && j - i < kTaps) sum[j - i] = hn::MulAdd(g[i], v, sum[j - i]);
        }
      }
    }
    for (; x < p.width; x++) {
      const V g = load(p.out + x * p.channels + c);
#pragma GCC unroll 8
      for (int k = 0; k < kTaps; k++) sum[k] = hn::MulAdd(g, load(p.in[r] + (x + k) * p.channels + c), sum[k]);
    }
#pragma GCC unroll 8
    for (int k = 0; k < kTaps; k++) {
      if (kTail) {
        simd::StoreTail(sum[k], d, to + k * p.channels, n);
      } else {
        hn::StoreU(sum[k], d, to + k * p.channels);
      }
    }
  }
}

template <int kTaps, typename T>
HWY_ATTR void row_of(const DepthwiseRow<T>& p, T* const* sums) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= p.channels; c += lanes) {
    if (sums) {
      row_weights<kTaps, false>(p, c, static_cast<size_t>(lanes), sums);
    } else {
      row_outputs<kTaps, false>(p, c, static_cast<size_t>(lanes));
    }
  }
  if (c == p.channels) return;
  const size_t n = static_cast<size_t>(p.channels - c);
  if (sums) {
    row_weights<kTaps, true>(p, c, n, sums);
  } else {
    row_outputs<kTaps, true>(p, c, n);
  }
}

// Outputs of a row, or with `sums` the gradient of its weights.
template <typename T>
HWY_ATTR void depthwise_row(const DepthwiseRow<T>& p, T* const* sums) {
  switch (p.taps) {
    case 3:
      row_of<3>(p, sums);
      break;
    case 5:
      row_of<5>(p, sums);
      break;
    default:
      row_of<7>(p, sums);
  }
}

HWY_ATTR void gather_f32(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count, const float* x,
                         float* columns) {
  gather_block(s, b, first, count, x, columns);
}
HWY_ATTR void gather_f64(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count, const double* x,
                         double* columns) {
  gather_block(s, b, first, count, x, columns);
}
HWY_ATTR void scatter_f32(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count,
                          const float* columns, const Band& band, float* dx) {
  scatter_block(s, b, first, count, columns, band, dx);
}
HWY_ATTR void scatter_f64(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count,
                          const double* columns, const Band& band, double* dx) {
  scatter_block(s, b, first, count, columns, band, dx);
}
HWY_ATTR void depthwise_f32(const DepthwisePixels<float>& p) { depthwise_pixels(p); }
HWY_ATTR void depthwise_f64(const DepthwisePixels<double>& p) { depthwise_pixels(p); }
HWY_ATTR void depthwise_weight_f32(const DepthwisePixels<float>& p, float* sums) {
  depthwise_weight_pixels(p, sums);
}
HWY_ATTR void depthwise_weight_f64(const DepthwisePixels<double>& p, double* sums) {
  depthwise_weight_pixels(p, sums);
}

HWY_ATTR void depthwise_row_f32(const DepthwiseRow<float>& p, float* const* sums) { depthwise_row(p, sums); }
HWY_ATTR void depthwise_row_f64(const DepthwiseRow<double>& p, double* const* sums) { depthwise_row(p, sums); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
