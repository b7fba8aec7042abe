// Matrix products of a linear layer, cut into tiles by data size; each tile is
// one call of product.h (of Accelerate on Apple, whose matrix unit has no other
// door).
//
// Forward: W is packed once, then row tiles; a few rows pack as they go, each
// task its own columns. dx: the same with W as it is; the column sums of dy for
// dbias are taken from the tile in cache. Activation and residual follow a tile
// while it is there (epilogue.h); in the gradient dz = dy f'(z) comes before. dweight: the tokens are the long
// axis, so they are cut into chunks whose partial results are added in order.
//
// The products are our own because they are as fast as oneDNN's for these
// shapes (README.md), do not repack x, and give a row the same bits whatever the
// number of rows, threads and the instruction set's width.

#include "aspis/ops/linear/kernel/cpu.h"

#include <algorithm>
#include <type_traits>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/cuts.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/simd/targets.h"
#if defined(__APPLE__)
#include "aspis/ops/linear/kernel/gemm.h"
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/linear/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/linear/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(add_bias_f32);
HWY_EXPORT(add_bias_f64);
HWY_EXPORT(column_sums_f32);
HWY_EXPORT(column_sums_f64);
HWY_EXPORT(transpose_f32);
HWY_EXPORT(transpose_f64);

template <typename T>
void add_bias(T* y, int64_t stride, int64_t rows, int64_t cols, const T* bias) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(add_bias_f32)(y, stride, rows, cols, bias);
  } else {
    HWY_DYNAMIC_DISPATCH(add_bias_f64)(y, stride, rows, cols, bias);
  }
}

template <typename T>
void column_sums(const T* g, int64_t stride, int64_t rows, int64_t cols, T* sums) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(column_sums_f32)(g, stride, rows, cols, sums);
  } else {
    HWY_DYNAMIC_DISPATCH(column_sums_f64)(g, stride, rows, cols, sums);
  }
}

template <typename T>
void transpose(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to) {
  constexpr int64_t kColumns = 32;
  parallel_for(div_ceil(columns, kColumns), [&](int64_t task) {
    const int64_t first = task * kColumns, last = std::min(columns, first + kColumns);
    if constexpr (std::is_same_v<T, float>) {
      HWY_DYNAMIC_DISPATCH(transpose_f32)(from, stride, rows, first, last, to);
    } else {
      HWY_DYNAMIC_DISPATCH(transpose_f64)(from, stride, rows, first, last, to);
    }
  });
}

template <typename T>
void sum_parts(const T* from, int64_t parts, int64_t n, T* to) {
  constexpr int64_t kColumns = 1 << 12;
  parallel_for(div_ceil(n, kColumns), [&](int64_t block) {
    const int64_t c = block * kColumns;
    column_sums(from + c, n, parts, std::min(kColumns, n - c), to + c);
  });
}

namespace {

template <typename T>
void pack_columns(Weight form, const T* w, int64_t stride, int64_t k, int64_t n, int64_t first, int64_t last,
                  T* packed) {
  if (form == Weight::kTransposed) {
    pack_transposed(w, stride, k, n, first, last, packed);
  } else {
    pack(w, stride, k, n, first, last, packed);
  }
}

// y {rows, n} = x {rows, k} op(W) + bias in tiles; `before(tile, first, count)` is
// called once per row tile, ahead of its product, if possible by the task that has
// it in cache, and `end` done behind.
template <typename T, typename Before>
void product(int64_t rows, int64_t n, int64_t k, const T* x, int64_t x_stride, Weight form, const T* w,
             int64_t w_stride, const T* bias, T* y, T* packed, const Epilogue<T>& end, const Before& before) {
  const Cut row_cut = cut_rows(rows);
#if defined(__APPLE__)
  if constexpr (std::is_same_v<T, float>) {
    parallel_for(row_cut.count, [&](int64_t i) {
      const int64_t r = row_cut.first(i), m = row_cut.length(i);
      before(i, r, m);
      gemm(Transpose::kNo, static_cast<Transpose>(form == Weight::kTransposed), m, n, k, T(1), x + r * x_stride,
           x_stride, w, w_stride, T(0), y + r * n, n);
      if (bias) add_bias(y + r * n, n, m, n, bias);
      if (!end.empty()) finish(end.at(r, 0, n), m, n, y + r * n, n, y + r * n, n);
    });
    return;
  }
#endif
  const bool pack_first = row_cut.count > 1;
  if (pack_first) {
    const Cut parts = cut_columns(n, n / kPanelCut);
    parallel_for(parts.count,
                 [&](int64_t j) { pack_columns(form, w, w_stride, k, n, parts.first(j), parts.last(j), packed); });
  }
  // Columns are cut only where the rows alone give too few tasks.
  const Cut columns = cut_columns(n, pack_first ? div_ceil(8, row_cut.count) : n / kPanelCut);
  if (columns.count > 1) {
    parallel_for(row_cut.count, [&](int64_t i) { before(i, row_cut.first(i), row_cut.length(i)); });
  }
  parallel_for(row_cut.count * columns.count, [&](int64_t task) {
    const int64_t i = task / columns.count, j = task % columns.count;
    const int64_t r = row_cut.first(i), m = row_cut.length(i), c0 = columns.first(j), c1 = columns.last(j);
    if (columns.count == 1) before(i, r, m);
    if (!pack_first) pack_columns(form, w, w_stride, k, n, c0, c1, packed);
    multiply_packed(m, n, k, x + r * x_stride, x_stride, packed, c0, c1, bias, false, y + r * n, n);
    if (end.empty()) return;
    T* const part = y + r * n + c0;
    finish(end.at(r, c0, n), m, c1 - c0, part, n, part, n);
  });
}

template <typename T>
void weight_tile(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                 int64_t ldc) {
#if defined(__APPLE__)
  if constexpr (std::is_same_v<T, float>) {
    gemm(Transpose::kYes, Transpose::kNo, m, n, k, T(1), a, lda, b, ldb, T(0), c, ldc);
    return;
  }
#endif
  multiply_transposed(m, n, k, a, lda, b, ldb, false, c, ldc);
}

template <typename T>
void weight_gradient(const LinearVjpParams<T>& p, T* partial) {
  const WeightCut cut(p.rows, p.in, p.out);
  if (cut.tokens.count == 0) {
    std::fill_n(p.dweight, p.out * p.in, T(0));
    return;
  }
  T* target = cut.tokens.count > 1 ? partial : p.dweight;
  const int64_t tiles = cut.out.count * cut.in.count;
  parallel_for(cut.tokens.count * tiles, [&](int64_t task) {
    const int64_t t = task / tiles, o = task % tiles / cut.in.count, i = task % cut.in.count;
    const int64_t r = cut.tokens.first(t), row = cut.out.first(o), column = cut.in.first(i);
    weight_tile(cut.out.length(o), cut.in.length(i), cut.tokens.length(t), p.dy + r * p.dy_stride + row,
                p.dy_stride, p.x + r * p.x_stride + column, p.x_stride, target + (t * p.out + row) * p.in + column,
                p.in);
  });
  if (cut.tokens.count > 1) sum_parts(partial, cut.tokens.count, p.out * p.in, p.dweight);
}

}  // namespace

int64_t linear_workspace(int64_t, int64_t in, int64_t out) { return packed_size(in, out); }

int64_t linear_vjp_workspace(int64_t rows, int64_t in, int64_t out, bool dx, bool dweight, bool dbias) {
  const int64_t chunks = WeightCut(rows, in, out).tokens.count;
  return (dx ? packed_size(out, in) : 0) + (dweight && chunks > 1 ? chunks * in * out : 0) +
         (dbias ? std::max<int64_t>(1, cut_rows(rows).count) * out : 0);
}

template <typename T>
void linear(const LinearParams<T>& p) {
  if (p.rows == 0 || p.out == 0) return;
  product(p.rows, p.out, p.in, p.x, p.x_stride, Weight::kTransposed, p.weight, p.weight_stride, p.bias, p.y,
          p.workspace, p.end, [](int64_t, int64_t, int64_t) {});
}

template <typename T>
void linear_vjp(const LinearVjpParams<T>& params) {
  LinearVjpParams<T> p = params;
  T* packed = p.workspace;
  T* bias_parts = packed + (p.dx ? packed_size(p.out, p.in) : 0);
  const Cut row_cut = cut_rows(p.rows);
  T* weight_parts = bias_parts + (p.dbias ? std::max<int64_t>(1, row_cut.count) * p.out : 0);

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
    product(p.rows, p.in, p.out, p.dy, p.dy_stride, Weight::kAsIs, p.weight, p.weight_stride,
            static_cast<const T*>(nullptr), p.dx, packed, Epilogue<T>(), before);
  } else if (p.dbias || active) {
    parallel_for(row_cut.count, [&](int64_t i) { before(i, row_cut.first(i), row_cut.length(i)); });
  }
  if (p.dbias) sum_parts(bias_parts, row_cut.count, p.out, p.dbias);
  if (p.dweight) weight_gradient(p, weight_parts);
}

template void add_bias(float*, int64_t, int64_t, int64_t, const float*);
template void add_bias(double*, int64_t, int64_t, int64_t, const double*);
template void column_sums(const float*, int64_t, int64_t, int64_t, float*);
template void column_sums(const double*, int64_t, int64_t, int64_t, double*);
template void sum_parts(const float*, int64_t, int64_t, float*);
template void sum_parts(const double*, int64_t, int64_t, double*);
template void transpose(const float*, int64_t, int64_t, int64_t, float*);
template void transpose(const double*, int64_t, int64_t, int64_t, double*);
template void linear(const LinearParams<float>&);
template void linear(const LinearParams<double>&);
template void linear_vjp(const LinearVjpParams<float>&);
template void linear_vjp(const LinearVjpParams<double>&);

}  // namespace aspis::kernel
#endif
