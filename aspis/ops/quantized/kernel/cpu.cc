#include "aspis/ops/quantized/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/cuts.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/quantized/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/quantized/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(quantized_rows);
HWY_EXPORT(dequantize_rows);

namespace {
// Up to so many rows a panel meets all of x while it is in cache; beyond, x would have to be read too often.
constexpr int64_t kPanelRows = 256;
}  // namespace

void quantize(const QuantizeParams& p) {
  const QuantizedShape& s = p.shape;
  const uint32_t most = (1u << s.bits) - 1u;
  constexpr int64_t kRowsOfTask = 8;
  parallel_for(div_ceil(s.out, kRowsOfTask), [&](int64_t task) {
    for (int64_t o = task * kRowsOfTask; o < std::min(s.out, (task + 1) * kRowsOfTask); o++) {
      uint32_t* const words = p.packed + o * s.words();
      std::fill_n(words, s.words(), 0u);
      for (int64_t g = 0; g < s.groups(); g++) {
        const float* const w = p.weight + o * s.in + g * s.group;
        const auto [low, high] = std::minmax_element(w, w + s.group);
        const float offset = *low, scale = (*high - *low) / static_cast<float>(most);
        p.scales[o * s.groups() + g] = scale;
        p.offsets[o * s.groups() + g] = offset;
        for (int64_t i = 0; i < s.group; i++) {
          const float at = scale > 0 ? std::nearbyint((w[i] - offset) / scale) : 0.0f;
          // A weight that is not a number has no place here; it counts as the lowest of its group.
          const uint32_t q = at > 0 ? std::min(most, static_cast<uint32_t>(std::min(at, 255.0f))) : 0u;
          const int64_t value = g * s.group + i, block = value / s.block(), place = value % s.block();
          words[block * 16 + place % 16] |= q << (place / 16 * s.bits);
        }
      }
    }
  });
}

void dequantize(const QuantizedLinearParams& p, float* weight) {
  constexpr int64_t kRowsOfTask = 16;
  parallel_for(div_ceil(p.shape.out, kRowsOfTask), [&](int64_t task) {
    const int64_t first = task * kRowsOfTask, last = std::min(p.shape.out, first + kRowsOfTask);
    HWY_DYNAMIC_DISPATCH(dequantize_rows)(p, first, last, weight + first * p.shape.in);
  });
}

int64_t quantized_linear_workspace(const QuantizedShape& s, int64_t rows) {
  return rows <= kQuantizedRows ? rows * s.groups() : rows <= kPanelRows ? 0 : packed_size(s.in, s.out);
}

void quantized_linear(const QuantizedLinearParams& p) {
  const QuantizedShape& s = p.shape;
  if (p.rows == 0 || s.out == 0) return;
  if (p.rows <= kQuantizedRows) {
    for (int64_t r = 0; r < p.rows; r++) {
      for (int64_t g = 0; g < s.groups(); g++) {
        const float* const x = p.x + r * p.x_stride + g * s.group;
        float part[4] = {};
        for (int64_t i = 0; i < s.group; i++) part[i % 4] += x[i];
        p.workspace[r * s.groups() + g] = (part[0] + part[1]) + (part[2] + part[3]);
      }
    }
    // 64 KiB of integers at a time.
    const int64_t unit = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, s.words()));
    parallel_for(div_ceil(s.out, unit), [&](int64_t task) {
      HWY_DYNAMIC_DISPATCH(quantized_rows)(p, p.workspace, task * unit, std::min(s.out, (task + 1) * unit));
    });
    return;
  }
  const Cut parts = cut_columns(s.out, std::max<int64_t>(1, s.out / kPanelCut));
  // Panels depend only on how many columns follow, so that a part can be packed by itself.
  const auto make_panel = [&](int64_t first, int64_t count, float* packed) {
    thread_local std::vector<float> rows;
    rows.resize(static_cast<size_t>(count * s.in));
    HWY_DYNAMIC_DISPATCH(dequantize_rows)(p, first, first + count, rows.data());
    pack_transposed(rows.data(), s.in, s.in, s.out - first, 0, count, packed);
  };
  if (p.rows <= kPanelRows) {
    parallel_for(parts.count, [&](int64_t j) {
      thread_local std::vector<float> packed;
      const int64_t first = parts.first(j), count = parts.length(j);
      packed.resize(static_cast<size_t>(packed_size(s.in, count)));
      make_panel(first, count, packed.data());
      multiply_packed(p.rows, s.out - first, s.in, p.x, p.x_stride, packed.data(), 0, count,
                      p.bias ? p.bias + first : nullptr, false, p.y + first, s.out);
    });
    return;
  }
  parallel_for(parts.count, [&](int64_t j) {
    make_panel(parts.first(j), parts.length(j), p.workspace + parts.first(j) * s.in);
  });
  const Cut row_cut = cut_rows(p.rows);
  const Cut columns = cut_columns(s.out, div_ceil(8, row_cut.count));
  parallel_for(row_cut.count * columns.count, [&](int64_t task) {
    const int64_t i = task / columns.count, j = task % columns.count, r = row_cut.first(i);
    multiply_packed(row_cut.length(i), s.out, s.in, p.x + r * p.x_stride, p.x_stride, p.workspace,
                    columns.first(j), columns.last(j), p.bias, false, p.y + r * s.out, s.out);
  });
}

}  // namespace aspis::kernel
#endif
