// Convolutions over 1 to 3 axes, channels last.
//
// Wide images: a row of outputs meets each row of the window in one matrix product
// that reads the padded image as it lies, its rows one stride apart; the parts
// add up in y. dx of stride 1 is the same from dy and the turned weight.
//
// Else patches are copied into columns a tile at a time (a tile stays in the second
// level cache) and meet the weight in one matrix product; the copy costs
// 1 / (2 out_channels) of the product's arithmetic. Wide patches go in blocks
// of taps that add up. dx: products with the weight give columns, which are
// added back to the image; a task owns a band of it, so nothing is shared.
// dweight: partial sums over fixed chunks of pixels, added in order. A
// pointwise convolution is `linear`; a depthwise one runs over channels in
// vectors, four pixels at a time.

#include "aspis/ops/conv/kernel/cpu.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/conv/kernel/blocks.h"
#include "aspis/ops/linear/kernel/cpu.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/conv/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/conv/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(gather_f32);
HWY_EXPORT(gather_f64);
HWY_EXPORT(scatter_f32);
HWY_EXPORT(scatter_f64);
HWY_EXPORT(depthwise_f32);
HWY_EXPORT(depthwise_f64);
HWY_EXPORT(depthwise_weight_f32);
HWY_EXPORT(depthwise_weight_f64);
HWY_EXPORT(depthwise_row_f32);
HWY_EXPORT(depthwise_row_f64);

namespace {

template <typename T>
void gather(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count, const T* x, T* columns) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(gather_f32)(s, b, first, count, x, columns);
  } else {
    HWY_DYNAMIC_DISPATCH(gather_f64)(s, b, first, count, x, columns);
  }
}

template <typename T>
void scatter(const ConvShape& s, const ColumnBlock& b, int64_t first, int64_t count, const T* columns,
             const Band& band, T* dx) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(scatter_f32)(s, b, first, count, columns, band, dx);
  } else {
    HWY_DYNAMIC_DISPATCH(scatter_f64)(s, b, first, count, columns, band, dx);
  }
}

template <typename T>
void depthwise(const DepthwisePixels<T>& p) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(depthwise_f32)(p);
  } else {
    HWY_DYNAMIC_DISPATCH(depthwise_f64)(p);
  }
}

template <typename T>
void depthwise_weight(const DepthwisePixels<T>& p, T* sums) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(depthwise_weight_f32)(p, sums);
  } else {
    HWY_DYNAMIC_DISPATCH(depthwise_weight_f64)(p, sums);
  }
}

template <typename T>
void depthwise_row(const DepthwiseRow<T>& p, T* const* sums) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(depthwise_row_f32)(p, sums);
  } else {
    HWY_DYNAMIC_DISPATCH(depthwise_row_f64)(p, sums);
  }
}

// --- tiles, by sizes alone ---------------------------------------------------

constexpr int64_t kWidth = 1024;          // columns of one product, if a tap is not wider
constexpr int64_t kTileValues = 1 << 17;  // of a tile of columns: 512 KiB in float
constexpr int64_t kTasks = 16;

struct Columns {
  int64_t taps_each = 1, count = 1;  // of the blocks
  int64_t channels = 0, taps = 0;
  int64_t tile_rows = 1;

  explicit Columns(const ConvShape& s) : channels(s.group_in()), taps(s.taps()) {
    taps_each = std::clamp<int64_t>(kWidth / channels, 1, taps);
    if (taps_each >= s.kernel[2]) taps_each -= taps_each % s.kernel[2];
    count = div_ceil(taps, taps_each);
    tile_rows = std::clamp<int64_t>(kTileValues / (taps_each * channels), 48, 480) / 24 * 24;
  }
  ColumnBlock block(int64_t group, int64_t i) const {
    return {group, i * taps_each, std::min(taps_each, taps - i * taps_each)};
  }
  int64_t width(const ColumnBlock& b) const { return b.taps * channels; }
};

// Chunks of pixels of the weight gradient: more only where the blocks alone
// give too few tasks, since each costs a pass over the whole gradient.
int64_t weight_chunks(const ConvShape& s) {
  const int64_t tasks = s.groups * Columns(s).count;
  return std::clamp<int64_t>(div_ceil(kTasks, tasks), 1, std::max<int64_t>(1, s.pixels() / 1024));
}

// Pixels of one depthwise task.
int64_t depthwise_unit(const ConvShape& s) {
  return std::max<int64_t>(kPixels, 32768 / s.in_channels / kPixels * kPixels);
}
int64_t depthwise_chunks(const ConvShape& s) { return std::clamp<int64_t>(s.pixels() / 512, 1, kTasks); }

template <typename T>
T* columns_scratch(int64_t values) {
  thread_local std::vector<T> scratch;
  if (static_cast<int64_t>(scratch.size()) < values) scratch.resize(static_cast<size_t>(values));
  return scratch.data();
}

// --- rows of outputs straight from the image -----------------------------------

// The convolution that gives dx from dy where the stride is 1.
ConvShape turned(const ConvShape& s) {
  ConvShape r = s;
  std::swap(r.in, r.out);
  std::swap(r.in_channels, r.out_channels);
  for (int a = 0; a < 3; a++) r.padding[a] = (s.kernel[a] - 1) * s.dilation[a] - s.padding[a];
  return r;
}

// Whether rows of the image are long enough, and a row of the window wide enough.
bool direct(const ConvShape& s) {
  return s.groups == 1 && s.dilation[2] == 1 && !s.pointwise() && s.kernel[2] * s.in_channels >= 64 &&
         s.out[2] >= 24;
}
// The same for dx, as a convolution of dy.
bool direct_gradient(const ConvShape& s) {
  if (s.groups != 1) return false;
  for (int a = 0; a < 3; a++) {
    if (s.stride[a] != 1 || s.padding[a] > (s.kernel[a] - 1) * s.dilation[a]) return false;
  }
  return direct(turned(s));
}

int64_t window_rows(const ConvShape& s) { return s.kernel[0] * s.kernel[1]; }
int64_t window_panel(const ConvShape& s) { return packed_size(s.kernel[2] * s.in_channels, s.out_channels); }
int64_t direct_workspace(const ConvShape& s) { return window_rows(s) * window_panel(s); }

// y = f(x * weight + bias) + residual, the rows of the window packed one after the other.
template <typename T>
void direct_products(const ConvShape& s, const T* x, const T* packed, const T* bias, T* y,
                     const Epilogue<T>& end) {
  constexpr int64_t kBand = 8, kChunk = 64;
  const int64_t bands = div_ceil(s.out[1], kBand), panel = window_panel(s);
  const int64_t width = (s.out[2] - 1) * s.stride[2] + s.kernel[2], pitch = width * s.in_channels;
  const int64_t count = std::min(s.in[2], width - s.padding[2]);  // values of a row that are not padding
  const bool in_place = s.padding[2] == 0 && width <= s.in[2];
  const int64_t depth = s.kernel[2] * s.in_channels, out_row = s.out[2] * s.out_channels;
  const auto input = [&](int axis, int64_t at, int64_t k) {
    return at * s.stride[axis] - s.padding[axis] + k * s.dilation[axis];
  };
  parallel_for(s.batch * s.out[0] * bands, [&](int64_t task) {
    const int64_t n = task / bands / s.out[0], od = task / bands % s.out[0], first = task % bands * kBand;
    const int64_t last = std::min(s.out[1], first + kBand);
    const int64_t h0 = std::max<int64_t>(0, input(1, first, 0)),
                  h1 = std::min(s.in[1], input(1, last - 1, s.kernel[1] - 1) + 1);
    const int64_t rows = std::max<int64_t>(0, h1 - h0);
    const auto image = [&](int64_t d, int64_t h) {
      return x + ((n * s.in[0] + d) * s.in[1] + h) * s.in[2] * s.in_channels;
    };
    T* padded = nullptr;
    if (!in_place) {
      padded = columns_scratch<T>(s.kernel[0] * rows * pitch + 1);
      for (int64_t kd = 0; kd < s.kernel[0]; kd++) {
        const int64_t d = input(0, od, kd);
        if (d < 0 || d >= s.in[0]) continue;
        for (int64_t r = 0; r < rows; r++) {
          T* const to = padded + (kd * rows + r) * pitch;
          const int64_t before = s.padding[2] * s.in_channels, values = count * s.in_channels;
          std::fill_n(to, before, T(0));
          std::copy_n(image(d, h0 + r), values, to + before);
          std::fill_n(to + before + values, pitch - before - values, T(0));
        }
      }
    }
    for (int64_t c0 = 0; c0 < s.out_channels;) {
      const int64_t c1 = s.out_channels - c0 < 2 * kChunk ? s.out_channels : c0 + kChunk;
      bool begun[kBand] = {};
      for (int64_t kd = 0; kd < s.kernel[0]; kd++) {
        const int64_t d = input(0, od, kd);
        if (d < 0 || d >= s.in[0]) continue;
        for (int64_t kh = 0; kh < s.kernel[1]; kh++) {
          for (int64_t oh = first; oh < last; oh++) {
            const int64_t h = input(1, oh, kh);
            if (h < 0 || h >= s.in[1]) continue;
            const T* const row = in_place ? image(d, h) : padded + (kd * rows + h - h0) * pitch;
            bool& add = begun[oh - first];
            multiply_packed(s.out[2], s.out_channels, depth, row, s.stride[2] * s.in_channels,
                            packed + (kd * s.kernel[1] + kh) * panel, c0, c1, add ? nullptr : bias, add,
                            y + ((n * s.out[0] + od) * s.out[1] + oh) * out_row, s.out_channels);
            add = true;
          }
        }
      }
      for (int64_t oh = first; oh < last; oh++) {
        const int64_t pixel = ((n * s.out[0] + od) * s.out[1] + oh) * s.out[2];
        T* const row = y + pixel * s.out_channels;
        // A window that lies in the padding altogether: the bias is all.
        if (!begun[oh - first]) {
          multiply_packed(s.out[2], s.out_channels, 0, x, 0, packed, c0, c1, bias, false, row, s.out_channels);
        }
        if (end.empty()) continue;
        finish(end.at(pixel, c0, s.out_channels), s.out[2], c1 - c0, row + c0, s.out_channels, row + c0,
               s.out_channels);
      }
      c0 = c1;
    }
  });
}

// The rows of the window {out_channels, kernel[2] * in_channels} of a weight.
template <typename T>
void pack_window(const ConvShape& s, const T* weight, T* packed) {
  const int64_t k = s.kernel[2] * s.in_channels;
  parallel_for(window_rows(s), [&](int64_t i) {
    pack_transposed(weight + i * k, s.depth(), k, s.out_channels, 0, s.out_channels, packed + i * window_panel(s));
  });
}

// The same of the turned weight, which maps dy to dx: `s` is the forward shape.
template <typename T>
void pack_turned_window(const ConvShape& s, const T* weight, T* packed) {
  const int64_t taps = s.taps(), kw = s.kernel[2], c = s.in_channels, o = s.out_channels;
  const int64_t panel = packed_size(kw * o, c);
  parallel_for(window_rows(s), [&](int64_t i) {
    T* const rows = columns_scratch<T>(kw * o * c);
    for (int64_t w = 0; w < kw; w++) {
      const int64_t tap = taps - 1 - (i * kw + w);
      for (int64_t q = 0; q < o; q++) std::copy_n(weight + (q * taps + tap) * c, c, rows + (w * o + q) * c);
    }
    pack(rows, c, kw * o, c, 0, c, packed + i * panel);
  });
}

// --- products ----------------------------------------------------------------

template <typename T>
void conv_products(const ConvParams<T>& p) {
  const ConvShape& s = p.shape;
  const int64_t co = s.group_out(), depth = s.depth(), pixels = s.pixels();
  const Columns columns(s);
  // Each block of taps of each group is packed by itself.
  const int64_t panel = packed_size(columns.taps_each * s.group_in(), co);
  parallel_for(s.groups * columns.count, [&](int64_t task) {
    const ColumnBlock block = columns.block(task / columns.count, task % columns.count);
    pack_transposed(p.weight + block.group * co * depth + block.first_tap * s.group_in(), depth,
                    columns.width(block), co, 0, co, p.workspace + task * panel);
  });
  const int64_t tiles = div_ceil(pixels, columns.tile_rows);
  const int64_t cuts = std::clamp<int64_t>(div_ceil(kTasks, tiles * s.groups), 1, std::max<int64_t>(1, co / 64));
  const int64_t cut_width = div_ceil(div_ceil(co, cuts), kPanelCut) * kPanelCut;
  parallel_for(tiles * s.groups * cuts, [&](int64_t task) {
    const int64_t cut = task % cuts, g = task / cuts % s.groups, tile = task / cuts / s.groups;
    const int64_t first = tile * columns.tile_rows, rows = std::min(columns.tile_rows, pixels - first);
    // A last cut that would be too narrow for a panel goes to the one before.
    const int64_t c0 = cut * cut_width, c1 = co - (c0 + cut_width) < kPanelCut ? co : c0 + cut_width;
    if (cut > 0 && co - c0 < kPanelCut) return;
    T* const out = p.y + first * s.out_channels + g * co;
    for (int64_t i = 0; i < columns.count; i++) {
      const ColumnBlock block = columns.block(g, i);
      const int64_t k = columns.width(block);
      T* const patch = columns_scratch<T>(rows * k);
      gather(s, block, first, rows, p.x, patch);
      multiply_packed(rows, co, k, patch, k, p.workspace + (g * columns.count + i) * panel, c0, c1,
                      p.bias && i == 0 ? p.bias + g * co : nullptr, i > 0, out, s.out_channels);
    }
    if (p.end.empty()) return;
    finish(p.end.at(first, g * co + c0, s.out_channels), rows, c1 - c0, out + c0, s.out_channels, out + c0,
           s.out_channels);
  });
}

template <typename T>
void image_gradient(const ConvVjpParams<T>& p, T* packed) {
  const ConvShape& s = p.shape;
  const int64_t ci = s.group_in(), co = s.group_out(), depth = s.depth();
  const Columns columns(s);
  const int64_t panel = packed_size(co, columns.taps_each * ci);
  parallel_for(s.groups * columns.count, [&](int64_t task) {
    const ColumnBlock block = columns.block(task / columns.count, task % columns.count);
    const int64_t k = columns.width(block);
    pack(p.weight + block.group * co * depth + block.first_tap * ci, depth, co, k, 0, k, packed + task * panel);
  });
  // The outermost axis that the image has.
  const int axis = s.in[0] == 1 && s.out[0] == 1 ? 1 : 0;
  const int64_t reach = (s.kernel[axis] - 1) * s.dilation[axis] + 1, extent = s.in[axis];
  const int64_t bands =
      std::clamp<int64_t>(div_ceil(kTasks, s.batch * s.groups), 1, std::max<int64_t>(1, extent / (4 * reach)));
  const int64_t each = div_ceil(extent, bands);
  const int64_t in_inner = volume(s.in) / extent, out_inner = volume(s.out) / s.out[axis];
  parallel_for(s.batch * s.groups * bands, [&](int64_t task) {
    const int64_t n = task / bands / s.groups, g = task / bands % s.groups;
    Band band{axis, task % bands * each, 0};
    band.last = std::min(extent, band.first + each);
    if (band.first >= band.last) return;
    T* const image = p.dx + (n * extent + band.first) * in_inner * s.in_channels + g * ci;
    const int64_t values = (band.last - band.first) * in_inner;
    if (s.groups == 1) {
      std::fill_n(image, values * ci, T(0));
    } else {
      for (int64_t i = 0; i < values; i++) std::fill_n(image + i * s.in_channels, ci, T(0));
    }
    // Output positions that reach into the band.
    const int64_t low = band.first + s.padding[axis] - (reach - 1), high = band.last - 1 + s.padding[axis];
    const int64_t o0 = low <= 0 ? 0 : div_ceil(low, s.stride[axis]);
    const int64_t o1 = std::min(s.out[axis], high / s.stride[axis] + 1);
    const int64_t begin = (n * s.out[axis] + o0) * out_inner, end = (n * s.out[axis] + o1) * out_inner;
    for (int64_t first = begin; first < end; first += columns.tile_rows) {
      const int64_t rows = std::min(columns.tile_rows, end - first);
      for (int64_t i = 0; i < columns.count; i++) {
        const ColumnBlock block = columns.block(g, i);
        const int64_t k = columns.width(block);
        T* const patch = columns_scratch<T>(rows * k);
        multiply_packed(rows, k, co, p.dy + first * s.out_channels + g * co, s.out_channels,
                        packed + (g * columns.count + i) * panel, 0, k, static_cast<const T*>(nullptr), false,
                        patch, k);
        scatter(s, block, first, rows, patch, band, p.dx);
      }
    }
  });
}

template <typename T>
void weight_gradient(const ConvVjpParams<T>& p, T* partial) {
  const ConvShape& s = p.shape;
  const int64_t ci = s.group_in(), co = s.group_out(), depth = s.depth(), pixels = s.pixels();
  const Columns columns(s);
  const int64_t chunks = weight_chunks(s), each = div_ceil(pixels, chunks);
  T* const target = chunks > 1 ? partial : p.dweight;
  parallel_for(chunks * s.groups * columns.count, [&](int64_t task) {
    const int64_t i = task % columns.count, g = task / columns.count % s.groups;
    const int64_t chunk = task / columns.count / s.groups;
    const ColumnBlock block = columns.block(g, i);
    const int64_t k = columns.width(block), end = std::min(pixels, (chunk + 1) * each);
    T* const out = target + (chunk * s.out_channels + g * co) * depth + block.first_tap * ci;
    int64_t first = chunk * each;
    if (first >= end) {
      for (int64_t o = 0; o < co; o++) std::fill_n(out + o * depth, k, T(0));
    }
    for (bool add = false; first < end; first += columns.tile_rows, add = true) {
      const int64_t rows = std::min(columns.tile_rows, end - first);
      T* const patch = columns_scratch<T>(rows * k);
      gather(s, block, first, rows, p.x, patch);
      multiply_transposed(co, k, rows, p.dy + first * s.out_channels + g * co, s.out_channels, patch, k, add, out,
                          depth);
    }
  });
  if (chunks > 1) sum_parts(partial, chunks, s.out_channels * depth, p.dweight);
}

// --- depthwise ---------------------------------------------------------------

// The rows that each tap of a pixel meets. Forward, pixels are outputs and rows
// come from x; backward, pixels are inputs and rows come from dy.
template <typename T>
class TapRows {
 public:
  TapRows(const ConvShape& s, const T* rows, bool backward)
      : s_(s),
        rows_(rows),
        backward_(backward),
        zeros_(static_cast<size_t>(s.in_channels), T(0)),
        in_(static_cast<size_t>(s.taps() * kPixels), zeros_.data()) {}

  // Fills the table for `count` pixels from `first` on.
  const T* const* operator()(int64_t first, int64_t count) {
    const Axes& grid = backward_ ? s_.in : s_.out;
    const Axes& other = backward_ ? s_.out : s_.in;
    for (int64_t i = 0; i < kPixels; i++) {
      int64_t rest = first + i;
      Axes at{};
      for (int a = 2; a >= 0; a--) {
        at[a] = rest % grid[a];
        rest /= grid[a];
      }
      const int64_t image = rest * volume(other);
      int64_t t = 0;
      for (int64_t kd = 0; kd < s_.kernel[0]; kd++) {
        const int64_t d = i < count ? position(0, at[0], kd) : -1;
        for (int64_t kh = 0; kh < s_.kernel[1]; kh++) {
          const int64_t h = d < 0 ? -1 : position(1, at[1], kh);
          for (int64_t kw = 0; kw < s_.kernel[2]; kw++, t++) {
            const int64_t w = h < 0 ? -1 : position(2, at[2], kw);
            in_[static_cast<size_t>(t * kPixels + i)] =
                w < 0 ? zeros_.data() : rows_ + (image + (d * other[1] + h) * other[2] + w) * s_.in_channels;
          }
        }
      }
    }
    return in_.data();
  }

 private:
  // Where tap k of position `at` lies on the other side; -1 for nowhere.
  int64_t position(int axis, int64_t at, int64_t k) const {
    if (backward_) {
      const int64_t scaled = at + s_.padding[axis] - k * s_.dilation[axis];
      if (scaled < 0 || scaled % s_.stride[axis] != 0) return -1;
      return scaled / s_.stride[axis] < s_.out[axis] ? scaled / s_.stride[axis] : -1;
    }
    const int64_t p = at * s_.stride[axis] - s_.padding[axis] + k * s_.dilation[axis];
    return p >= 0 && p < s_.in[axis] ? p : -1;
  }

  const ConvShape& s_;
  const T* rows_;
  bool backward_;
  std::vector<T> zeros_;
  std::vector<const T*> in_;
};

// out {pixels of the grid, channels} from rows of the other side and weight {taps, channels}.
template <typename T>
void depthwise_pass(const ConvShape& s, bool backward, const T* rows, const T* weight, const T* bias, T* out,
                    const Epilogue<T>& epilogue = {}) {
  const int64_t pixels = s.batch * volume(backward ? s.in : s.out), unit = depthwise_unit(s);
  parallel_for(div_ceil(pixels, unit), [&](int64_t task) {
    TapRows<T> taps(s, rows, backward);
    DepthwisePixels<T> p{.channels = s.in_channels, .taps = s.taps(), .weight = weight, .bias = bias};
    const int64_t end = std::min(pixels, (task + 1) * unit);
    for (int64_t first = task * unit; first < end; first += kPixels) {
      p.pixels = std::min(kPixels, end - first);
      p.in = taps(first, p.pixels);
      for (int64_t i = 0; i < p.pixels; i++) p.out[i] = out + (first + i) * s.in_channels;
      depthwise(p);
      if (!epilogue.empty()) {
        finish(epilogue.at(first, 0, s.in_channels), p.pixels, s.in_channels, p.out[0], s.in_channels, p.out[0],
               s.in_channels);
      }
    }
  });
}

template <typename T>
void depthwise_weight_gradient(const ConvVjpParams<T>& p, T* partial) {
  const ConvShape& s = p.shape;
  const int64_t chunks = depthwise_chunks(s), each = div_ceil(div_ceil(s.pixels(), chunks), kPixels) * kPixels;
  const int64_t values = s.taps() * s.in_channels;
  parallel_for(chunks, [&](int64_t chunk) {
    TapRows<T> taps(s, p.x, false);
    DepthwisePixels<T> d{.channels = s.in_channels, .taps = s.taps()};
    T* const sums = partial + chunk * values;
    std::fill_n(sums, values, T(0));
    const int64_t end = std::min(s.pixels(), (chunk + 1) * each);
    for (int64_t first = chunk * each; first < end; first += kPixels) {
      d.pixels = std::min(kPixels, end - first);
      d.in = taps(first, d.pixels);
      // The kernel only reads through `out` here.
      for (int64_t i = 0; i < d.pixels; i++) d.out[i] = const_cast<T*>(p.dy) + (first + i) * s.in_channels;
      depthwise_weight(d, sums);
    }
  });
  T* const total = partial + chunks * values;
  sum_parts(partial, chunks, values, total);
  transpose(total, s.in_channels, s.taps(), s.in_channels, p.dweight);
}

// Whether a whole row of outputs can be computed at a time.
bool in_rows(const ConvShape& s) {
  return has_row_loop(s.kernel[2]) && s.stride[2] == 1 && s.dilation[2] == 1 && s.padding[2] < s.kernel[2];
}

// The same convolution seen from its input, where that has stride 1 throughout:
// dx is dy convolved with the reversed weight.
bool reversible(const ConvShape& s) {
  bool fits = in_rows(s);
  for (int a = 0; a < 3; a++) fits = fits && s.stride[a] == 1 && s.padding[a] <= (s.kernel[a] - 1) * s.dilation[a];
  return fits;
}
// The rows of the image that a row of outputs sees, padded at both ends. They
// are copied once and stay while the next rows of outputs need them.
template <typename T>
class Window {
 public:
  Window(const ConvShape& s, const T* image)
      : s_(s),
        image_(image),
        width_(s.out[2] + s.kernel[2] - 1),
        slots_(s.kernel[0] * ((s.kernel[1] - 1) * s.dilation[1] + 1)),
        held_(static_cast<size_t>(slots_), -1),
        rows_(static_cast<size_t>(slots_ * width_ * s.in_channels), T(0)) {}

  // The padded row (n, d, h) of the image; `kd` tells its place in the window.
  const T* row(int64_t n, int64_t d, int64_t h, int64_t kd) {
    const int64_t each = slots_ / s_.kernel[0], slot = kd * each + h % each,
                  id = (n * s_.in[0] + d) * s_.in[1] + h;
    T* const to = rows_.data() + slot * width_ * s_.in_channels;
    if (held_[static_cast<size_t>(slot)] != id) {
      held_[static_cast<size_t>(slot)] = id;
      // The padding in front and behind is zero from the start and stays so.
      const int64_t count = std::min(s_.in[2], width_ - s_.padding[2]);
      std::copy_n(image_ + id * s_.in[2] * s_.in_channels, count * s_.in_channels,
                  to + s_.padding[2] * s_.in_channels);
    }
    return to;
  }

 private:
  const ConvShape& s_;
  const T* image_;
  int64_t width_, slots_;
  std::vector<int64_t> held_;
  std::vector<T> rows_;
};

// Calls run(row of outputs, its window) for the rows [first, last) of outputs;
// the weights of a window's rows come from `weight` {taps, channels}.
template <typename T, typename Run>
void for_output_rows(const ConvShape& s, const T* image, const T* weight, int64_t first, int64_t last,
                     const Run& run) {
  Window<T> window(s, image);
  std::vector<const T*> in, weights;
  DepthwiseRow<T> p{.channels = s.in_channels, .width = s.out[2], .taps = s.kernel[2]};
  for (int64_t o = first; o < last; o++) {
    const int64_t oh = o % s.out[1], od = o / s.out[1] % s.out[0], n = o / s.out[1] / s.out[0];
    in.clear();
    weights.clear();
    for (int64_t kd = 0; kd < s.kernel[0]; kd++) {
      const int64_t d = od * s.stride[0] - s.padding[0] + kd * s.dilation[0];
      if (d < 0 || d >= s.in[0]) continue;
      for (int64_t kh = 0; kh < s.kernel[1]; kh++) {
        const int64_t h = oh * s.stride[1] - s.padding[1] + kh * s.dilation[1];
        if (h < 0 || h >= s.in[1]) continue;
        in.push_back(window.row(n, d, h, kd));
        weights.push_back(weight + (kd * s.kernel[1] + kh) * s.kernel[2] * s.in_channels);
      }
    }
    p.rows = static_cast<int64_t>(in.size());
    p.in = in.data();
    p.weight = weights.data();
    run(o, p);
  }
}

template <typename T>
void depthwise_rows(const ConvShape& s, const T* image, const T* weight, const T* bias, T* out,
                    const Epilogue<T>& end = {}) {
  const int64_t rows = s.batch * s.out[0] * s.out[1], row = s.out[2] * s.in_channels;
  // Rows of a task: enough that its first window is a small part of the copies.
  const int64_t unit = std::max<int64_t>(4 * s.kernel[1], 65536 / std::max<int64_t>(1, row));
  parallel_for(div_ceil(rows, unit), [&](int64_t task) {
    for_output_rows(s, image, weight, task * unit, std::min(rows, (task + 1) * unit),
                    [&](int64_t o, DepthwiseRow<T>& p) {
                      p.bias = bias;
                      p.out = out + o * row;
                      depthwise_row(p, static_cast<T* const*>(nullptr));
                      if (!end.empty()) {
                        finish(end.at(o * s.out[2], 0, s.in_channels), s.out[2], s.in_channels, p.out,
                               s.in_channels, p.out, s.in_channels);
                      }
                    });
  });
}

template <typename T>
void depthwise_rows_weight_gradient(const ConvVjpParams<T>& p, T* partial) {
  const ConvShape& s = p.shape;
  const int64_t rows = s.batch * s.out[0] * s.out[1], row = s.out[2] * s.in_channels;
  const int64_t chunks = depthwise_chunks(s), each = div_ceil(rows, chunks), values = s.taps() * s.in_channels;
  parallel_for(chunks, [&](int64_t chunk) {
    T* const sums = partial + chunk * values;
    std::fill_n(sums, values, T(0));
    for_output_rows(s, p.x, static_cast<const T*>(sums), std::min(rows, chunk * each),
                    std::min(rows, (chunk + 1) * each), [&](int64_t o, DepthwiseRow<T>& r) {
                      // The kernel only reads dy; where it reads weights otherwise, it sums here.
                      r.out = const_cast<T*>(p.dy) + o * row;
                      depthwise_row(r, const_cast<T* const*>(r.weight));
                    });
  });
  T* const total = partial + chunks * values;
  sum_parts(partial, chunks, values, total);
  transpose(total, s.in_channels, s.taps(), s.in_channels, p.dweight);
}

}  // namespace

int64_t conv_workspace(const ConvShape& s) {
  if (s.pointwise()) return linear_workspace(s.pixels(), s.in_channels, s.out_channels);
  if (s.depthwise()) return s.out_channels * s.depth();
  if (direct(s)) return direct_workspace(s);
  const Columns columns(s);
  return s.groups * columns.count * packed_size(columns.taps_each * s.group_in(), s.group_out());
}

int64_t conv_vjp_workspace(const ConvShape& s, bool dx, bool dweight, bool dbias) {
  if (s.pointwise()) return linear_vjp_workspace(s.pixels(), s.in_channels, s.out_channels, dx, dweight, dbias);
  const int64_t bias = dbias ? linear_vjp_workspace(s.pixels(), 0, s.out_channels, false, false, true) : 0;
  const int64_t weight = s.out_channels * s.depth();
  if (s.depthwise()) return bias + (dx ? weight : 0) + (dweight ? (depthwise_chunks(s) + 1) * weight : 0);
  const Columns columns(s);
  const int64_t image =
      dx && direct_gradient(s) ? direct_workspace(turned(s))
      : dx ? s.groups * columns.count * packed_size(s.group_out(), columns.taps_each * s.group_in())
           : 0;
  return bias + image + (dweight && weight_chunks(s) > 1 ? weight_chunks(s) * weight : 0);
}

template <typename T>
void conv(const ConvParams<T>& p) {
  const ConvShape& s = p.shape;
  if (s.pixels() == 0) return;
  if (s.pointwise()) {
    linear(LinearParams<T>{s.pixels(), s.in_channels, s.out_channels, p.x, s.in_channels, p.weight, s.in_channels,
                           p.bias, p.y, p.workspace, p.end});
  } else if (s.depthwise()) {
    transpose(p.weight, s.taps(), s.in_channels, s.taps(), p.workspace);
    if (in_rows(s)) {
      depthwise_rows(s, p.x, p.workspace, p.bias, p.y, p.end);
    } else {
      depthwise_pass(s, false, p.x, p.workspace, p.bias, p.y, p.end);
    }
  } else if (direct(s)) {
    pack_window(s, p.weight, p.workspace);
    direct_products(s, p.x, p.workspace, p.bias, p.y, p.end);
  } else {
    conv_products(p);
  }
}

template <typename T>
void conv_vjp(const ConvVjpParams<T>& params) {
  ConvVjpParams<T> p = params;
  const ConvShape& s = p.shape;
  if (s.pointwise()) {
    linear_vjp(LinearVjpParams<T>{s.pixels(), s.in_channels, s.out_channels, p.x, p.weight, p.dy, s.in_channels,
                                  s.in_channels, s.out_channels, p.dx, p.dweight, p.dbias, p.workspace,
                                  p.activation, p.pre, p.dz});
    return;
  }
  if (p.activation != Activation::kNone) {
    constexpr int64_t kValues = 1 << 14;
    const int64_t values = s.pixels() * s.out_channels;
    parallel_for(div_ceil(values, kValues), [&](int64_t task) {
      const int64_t first = task * kValues, count = std::min(kValues, values - first);
      finish_gradient(p.activation, 1, count, p.pre + first, params.dy + first, count, p.dz + first, count);
    });
    p.dy = p.dz;
  }
  T* work = p.workspace;
  if (p.dbias) {
    linear_vjp(LinearVjpParams<T>{.rows = s.pixels(),
                                  .out = s.out_channels,
                                  .dy = p.dy,
                                  .dy_stride = s.out_channels,
                                  .dbias = p.dbias,
                                  .workspace = work});
    work += linear_vjp_workspace(s.pixels(), 0, s.out_channels, false, false, true);
  }
  if (s.depthwise()) {
    if (p.dx) {
      transpose(p.weight, s.taps(), s.in_channels, s.taps(), work);
      const T* const none = nullptr;
      if (reversible(s)) {
        for (int64_t t = 0, last = s.taps() - 1; t < last; t++, last--)
          std::swap_ranges(work + t * s.in_channels, work + (t + 1) * s.in_channels, work + last * s.in_channels);
        depthwise_rows(turned(s), p.dy, work, none, p.dx);
      } else {
        depthwise_pass(s, true, p.dy, work, none, p.dx);
      }
      work += s.in_channels * s.taps();
    }
    if (p.dweight && in_rows(s)) {
      depthwise_rows_weight_gradient(p, work);
    } else if (p.dweight) {
      depthwise_weight_gradient(p, work);
    }
    return;
  }
  if (p.dx && direct_gradient(s)) {
    const ConvShape t = turned(s);
    pack_turned_window(s, p.weight, work);
    direct_products(t, p.dy, work, static_cast<const T*>(nullptr), p.dx, Epilogue<T>());
    work += direct_workspace(t);
  } else if (p.dx) {
    const Columns columns(s);
    image_gradient(p, work);
    work += s.groups * columns.count * packed_size(s.group_out(), columns.taps_each * s.group_in());
  }
  if (p.dweight) weight_gradient(p, work);
}

template <typename T>
void conv_transpose(const ConvVjpParams<T>& p, const T* bias) {
  conv_vjp(p);
  if (!bias) return;
  const int64_t pixels = p.shape.batch * volume(p.shape.in), channels = p.shape.in_channels;
  const int64_t unit = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, channels));
  parallel_for(div_ceil(pixels, unit), [&](int64_t task) {
    const int64_t first = task * unit;
    add_bias(p.dx + first * channels, channels, std::min(unit, pixels - first), channels, bias);
  });
}

template void conv_transpose(const ConvVjpParams<float>&, const float*);
template void conv_transpose(const ConvVjpParams<double>&, const double*);
template void conv(const ConvParams<float>&);
template void conv(const ConvParams<double>&);
template void conv_vjp(const ConvVjpParams<float>&);
template void conv_vjp(const ConvVjpParams<double>&);

}  // namespace aspis::kernel
#endif
