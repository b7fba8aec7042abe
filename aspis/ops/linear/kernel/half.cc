// A linear layer whose values are stored as bfloat16: the tasks of cpu.cc around
// products of pairs (pairs.h) where the machine has units for them, else around
// those of float32 (product.h) with a tile widened at a time.
//
// A task computes 48 rows by 128 columns in float, which stay in the first-level
// cache until activation and residual are done and y is rounded. W may be
// float32 (master weights): it is rounded while it is packed.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/cpu.h"
#include "aspis/ops/linear/kernel/cuts.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/linear/kernel/pairs.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/simd/isa.h"

namespace aspis::kernel {
namespace {

constexpr int64_t kColumns = 128;  // of a tile in float
constexpr int64_t kDepth = 256;    // rows of x and dy that a step of the weight's gradient takes

// Scratch of the calling thread, one array for each use.
template <typename T, int kUse>
T* scratch(int64_t values) {
  thread_local std::vector<T> memory;
  if (static_cast<int64_t>(memory.size()) < values) memory.resize(static_cast<size_t>(values));
  return memory.data();
}

// Columns [first, last) of op(W) {k, n} into the panels of the products at hand.
template <typename W>
void pack_weight(bool units, Weight form, const W* w, int64_t stride, int64_t k, int64_t n, int64_t first,
                 int64_t last, float* packed) {
  const bool transposed = form == Weight::kTransposed;
  const W* const part = transposed ? w + first * stride : w + first;
  const int64_t rows = transposed ? last - first : k, columns = transposed ? k : last - first;
  if (units) {
    const Bf16* from = nullptr;
    int64_t from_stride = stride;
    if constexpr (std::is_same_v<W, Bf16>) {
      from = part;
    } else {
      Bf16* const rounded = scratch<Bf16, 0>(rows * columns);
      narrow(part, stride, rows, columns, rounded);
      from = rounded;
      from_stride = columns;
    }
    uint32_t* const to = reinterpret_cast<uint32_t*>(packed);
    if (transposed) {
      pack_pairs_transposed(from, from_stride, k, n, first, last, to);
    } else {
      pack_pairs(from, from_stride, k, n, first, last, to);
    }
    return;
  }
  // The panels of product.h are addressed from column 0 on.
  float* const wide = scratch<float, 0>(transposed ? n * k : k * n);
  float* const to = transposed ? wide + first * k : wide;
  if constexpr (std::is_same_v<W, Bf16>) {
    widen(part, stride, rows, columns, to);
  } else {
    round_to_bf16(part, stride, rows, columns, to);
  }
  if (transposed) {
    pack_transposed(wide, k, k, n, first, last, packed);
  } else {
    // Here the rows are as long as the part: columns are cut by the caller only where all are.
    pack(wide, columns, k, n, first, last, packed);
  }
}

// y {rows, n} = f(x {rows, k} op(W) + bias) + residual, as `product` in cpu.cc.
template <typename W, typename Before>
void half_product(int64_t rows, int64_t n, int64_t k, const Bf16* x, int64_t x_stride, Weight form, const W* w,
                  int64_t w_stride, const float* bias, Bf16* y, float* packed, const Epilogue<Bf16>& end,
                  const Before& before) {
  const bool units = bf16_units();
  const Cut row_cut = cut_rows(rows);
  // Wide panels are packed whole, since their columns lie far apart in memory.
  const bool pack_parts = units || form == Weight::kTransposed;
  const bool pack_first = row_cut.count > 1 || !pack_parts;
  if (pack_first) {
    const Cut parts = pack_parts ? cut_columns(n, n / kPanelCut) : Cut(n, 1, n);
    parallel_for(parts.count, [&](int64_t j) {
      pack_weight(units, form, w, w_stride, k, n, parts.first(j), parts.last(j), packed);
    });
  }
  const Cut columns = cut_columns(n, row_cut.count > 1 ? div_ceil(8, row_cut.count) : n / kPanelCut);
  if (columns.count > 1) {
    parallel_for(row_cut.count, [&](int64_t i) { before(i, row_cut.first(i), row_cut.length(i)); });
  }
  parallel_for(row_cut.count * columns.count, [&](int64_t task) {
    const int64_t i = task / columns.count, j = task % columns.count;
    const int64_t r = row_cut.first(i), m = row_cut.length(i), last = columns.last(j);
    if (columns.count == 1) before(i, r, m);
    if (!pack_first) pack_weight(units, form, w, w_stride, k, n, columns.first(j), last, packed);
    if (units && end.empty()) {
      multiply_pairs(m, n, k, x + r * x_stride, x_stride, reinterpret_cast<const uint32_t*>(packed),
                     columns.first(j), last, bias, y + r * n + columns.first(j), n);
      return;
    }
    float* const tile = scratch<float, 1>(m * (kColumns + kPanelCut));
    const Bf16* const rows_of_x = x + r * x_stride;
    const float* wide = nullptr;
    if (!units) {
      float* const to = scratch<float, 2>(m * k + 1);
      widen(rows_of_x, x_stride, m, k, to);
      wide = to;
    }
    for (int64_t c0 = columns.first(j); c0 < last;) {
      // The last part takes what would be too narrow for a part of its own.
      const int64_t c1 = last - c0 < kColumns + kPanelCut ? last : c0 + kColumns, width = c1 - c0;
      if (units) {
        multiply_pairs(m, n, k, rows_of_x, x_stride, reinterpret_cast<const uint32_t*>(packed), c0, c1, bias, tile,
                       width);
      } else {
        // C is addressed from column 0 on.
        float* const all = scratch<float, 3>(m * n);
        multiply_packed(m, n, k, wide, k, packed, c0, c1, bias, false, all, n);
        finish(end.at(r, c0, n), m, width, all + c0, n, y + r * n + c0, n);
        c0 = c1;
        continue;
      }
      finish(end.at(r, c0, n), m, width, tile, width, y + r * n + c0, n);
      c0 = c1;
    }
  });
}

// One tile of the weight's gradient in float.
void weight_tile(bool units, int64_t m, int64_t n, int64_t rows, const Bf16* dy, int64_t dy_stride, const Bf16* x,
                 int64_t x_stride, float* c, int64_t ldc) {
  for (int64_t r = 0; r < rows; r += kDepth) {
    const int64_t depth = std::min(kDepth, rows - r);
    if (units) {
      const int64_t pairs = (depth + 1) / 2;
      uint32_t *const a = scratch<uint32_t, 0>(pairs * m), *const b = scratch<uint32_t, 1>(pairs * n);
      interleave(dy + r * dy_stride, dy_stride, depth, m, a);
      interleave(x + r * x_stride, x_stride, depth, n, b);
      multiply_pairs_transposed(m, n, pairs, a, b, r > 0, c, ldc);
    } else {
      float *const a = scratch<float, 4>(depth * m), *const b = scratch<float, 5>(depth * n);
      widen(dy + r * dy_stride, dy_stride, depth, m, a);
      widen(x + r * x_stride, x_stride, depth, n, b);
      multiply_transposed(m, n, depth, a, m, b, n, r > 0, c, ldc);
    }
  }
}

template <typename W>
void weight_gradient(const LinearVjpParams<Bf16, W>& p, float* partial) {
  const bool units = bf16_units();
  const WeightCut cut(p.rows, p.in, p.out);
  const int64_t chunks = cut.tokens.count, values = p.out * p.in;
  constexpr bool kWide = std::is_same_v<W, float>;
  if (chunks == 0) {
    std::fill_n(p.dweight, values, W{});
    return;
  }
  float* target = partial;
  if constexpr (kWide) target = chunks > 1 ? partial : p.dweight;
  const int64_t tiles = cut.out.count * cut.in.count;
  parallel_for(chunks * tiles, [&](int64_t task) {
    const int64_t t = task / tiles, o = task % tiles / cut.in.count, i = task % cut.in.count;
    const int64_t r = cut.tokens.first(t), row = cut.out.first(o), column = cut.in.first(i);
    weight_tile(units, cut.out.length(o), cut.in.length(i), cut.tokens.length(t), p.dy + r * p.dy_stride + row,
                p.dy_stride, p.x + r * p.x_stride + column, p.x_stride, target + (t * p.out + row) * p.in + column,
                p.in);
  });
  if constexpr (kWide) {
    if (chunks > 1) sum_parts(partial, chunks, values, p.dweight);
  } else {
    float* const total = partial + chunks * values;
    sum_parts(partial, chunks, values, total);
    constexpr int64_t kValues = 1 << 14;
    parallel_for(div_ceil(values, kValues), [&](int64_t block) {
      const int64_t first = block * kValues;
      narrow(total + first, 0, 1, std::min(kValues, values - first), p.dweight + first);
    });
  }
}

}  // namespace

int64_t half_linear_workspace(int64_t, int64_t in, int64_t out) { return packed_size(in + 1, out); }

int64_t half_linear_vjp_workspace(int64_t rows, int64_t in, int64_t out, bool dx, bool dweight, bool dbias) {
  return (dx ? packed_size(out + 1, in) : 0) +
         (dweight ? (WeightCut(rows, in, out).tokens.count + 1) * in * out : 0) +
         (dbias ? std::max<int64_t>(1, cut_rows(rows).count) * out : 0);
}

template <typename W>
void half_linear(const LinearParams<Bf16, W>& p) {
  if (p.rows == 0 || p.out == 0) return;
  half_product(p.rows, p.out, p.in, p.x, p.x_stride, Weight::kTransposed, p.weight, p.weight_stride, p.bias, p.y,
               p.workspace, p.end, [](int64_t, int64_t, int64_t) {});
}

template <typename W>
void half_linear_vjp(const LinearVjpParams<Bf16, W>& params) {
  LinearVjpParams<Bf16, W> p = params;
  float* const packed = p.workspace;
  float* const bias_parts = packed + (p.dx ? packed_size(p.out + 1, p.in) : 0);
  const Cut row_cut = cut_rows(p.rows);
  float* const weight_parts = bias_parts + (p.dbias ? std::max<int64_t>(1, row_cut.count) * p.out : 0);
  const bool active = p.activation != Activation::kNone;
  if (active) {
    p.dy = p.dz;
    p.dy_stride = p.out;
  }
  const auto before = [&](int64_t tile, int64_t first, int64_t count) {
    if (active) {
      finish_gradient(p.activation, count, p.out, p.pre + first * p.out, params.dy + first * params.dy_stride,
                      params.dy_stride, p.dz + first * p.out, p.out);
    }
    if (p.dbias) column_sums(p.dy + first * p.dy_stride, p.dy_stride, count, p.out, bias_parts + tile * p.out);
  };
  if (p.dx && p.in > 0 && p.rows > 0) {
    half_product(p.rows, p.in, p.out, p.dy, p.dy_stride, Weight::kAsIs, p.weight, p.weight_stride,
                 static_cast<const float*>(nullptr), p.dx, packed, Epilogue<Bf16>(), before);
  } else if (p.dbias || active) {
    parallel_for(row_cut.count, [&](int64_t i) { before(i, row_cut.first(i), row_cut.length(i)); });
  }
  if (p.dbias) sum_parts(bias_parts, row_cut.count, p.out, p.dbias);
  if (p.dweight) weight_gradient(p, weight_parts);
}

template void half_linear(const LinearParams<Bf16, Bf16>&);
template void half_linear(const LinearParams<Bf16, float>&);
template void half_linear_vjp(const LinearVjpParams<Bf16, Bf16>&);
template void half_linear_vjp(const LinearVjpParams<Bf16, float>&);

}  // namespace aspis::kernel
