// Matrix products of a linear layer, cut into tiles by data size; each tile is
// one single-threaded call of oneDNN.
//
// oneDNN's own threading splits by the number of threads and changes the bits
// with it (its AVX2 code does), so the tiles are ours. They cost 0 to 10 % of
// oneDNN called directly, 12 % for 128 -> 64; the table is in README.md.
//
// Forward: W is transposed once (oneDNN packs op(B) = B faster than B^T, and
// every tile packs it), then row tiles of about 128 rows; the bias is added
// while a tile is in cache. dx: the same with W as it is; the column sums of
// dy for dbias are taken from the tile in cache. dweight: the tokens are the
// long axis, so they are cut into chunks whose partial results are added in order.

#include "aspis/ops/linear/kernel/cpu.h"

#include <algorithm>
#include <type_traits>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/gemm.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/simd/targets.h"

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

// Fewer rows than this run in other code of oneDNN, which adds in another order.
constexpr int64_t kMinRows = 16;
// From here on it pays to transpose W first.
constexpr int64_t kTransposeRows = 64;

// A cut of [0, n) into parts of `size`; a last part shorter than kMinRows is
// joined to the one before.
struct Cut {
  int64_t n = 0, size = 0, count = 0;

  Cut(int64_t total, int64_t parts) : n(total) {
    if (n <= 0) return;
    size = div_ceil(div_ceil(n, std::max<int64_t>(1, parts)), kMinRows) * kMinRows;
    count = div_ceil(n, size);
    if (count > 1 && n - (count - 1) * size < kMinRows) count--;
  }
  int64_t first(int64_t i) const { return i * size; }
  int64_t length(int64_t i) const { return i + 1 == count ? n - i * size : size; }
};

Cut cut_rows(int64_t rows) {
  const int64_t parts = div_ceil(rows, 128);
  return {rows, parts > 1 ? parts + parts % 2 : 1};
}

// Cuts the columns only where the rows alone give too few tasks.
Cut cut_columns(int64_t columns, int64_t row_tiles) {
  const int64_t wanted = row_tiles > 0 ? div_ceil(8, row_tiles) : 1;
  return {columns, std::min(wanted, std::max<int64_t>(1, columns / 64))};
}

struct WeightCut {
  Cut out, in, tokens;

  WeightCut(int64_t rows, int64_t ins, int64_t outs) : out(0, 1), in(0, 1), tokens(0, 1) {
    constexpr int64_t kTasks = 16;
    out = Cut(outs, div_ceil(outs, 256));
    in = Cut(ins, div_ceil(ins, 1024));
    // A partial result costs a write and a read of the whole gradient, which
    // must stay small beside the product; in cache it costs less.
    const int64_t least = ins * outs <= (1 << 16) ? 512 : 1024;
    const int64_t tiles = std::max<int64_t>(1, out.count * in.count);
    const int64_t chunks = std::clamp<int64_t>(div_ceil(kTasks, tiles), 1, std::max<int64_t>(1, rows / least));
    tokens = Cut(rows, chunks);
    if (tiles * tokens.count < kTasks / 2) {
      const int64_t more = div_ceil(kTasks / 2, std::max<int64_t>(1, in.count * tokens.count));
      out = Cut(outs, std::clamp<int64_t>(more, 1, std::max<int64_t>(1, outs / 64)));
    }
  }
};

template <typename T>
void copy_rows(const T* from, int64_t stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; r++) std::copy_n(from + r * stride, columns, to + r * to_stride);
}

// y {rows, n} = x {rows, k} op(B) + bias in tiles; `visit(tile, first, count)`
// is called once per row tile by the task that has it in cache.
template <typename T, typename Visit>
void product(int64_t rows, int64_t n, int64_t k, const T* x, int64_t x_stride, Transpose tb, const T* b,
             int64_t b_stride, const T* bias, T* y, T* padding, Visit visit) {
  const T* source = x;
  T* target = y;
  int64_t tile_rows = rows;
  if (rows < kMinRows) {  // the same code for a few rows as for many
    std::fill_n(padding, kMinRows * k, T(0));
    copy_rows(x, x_stride, rows, k, padding, k);
    source = padding;
    target = padding + kMinRows * k;
    x_stride = k;
    tile_rows = kMinRows;
  }
  const Cut row_cut = cut_rows(tile_rows), column_cut = cut_columns(n, row_cut.count);
  parallel_for(row_cut.count * column_cut.count, [&](int64_t task) {
    const int64_t i = task / column_cut.count, j = task % column_cut.count;
    const int64_t r = row_cut.first(i), m = row_cut.length(i), c = column_cut.first(j), w = column_cut.length(j);
    gemm(Transpose::kNo, tb, m, w, k, T(1), source + r * x_stride, x_stride,
         b + (tb == Transpose::kYes ? c * b_stride : c), b_stride, T(0), target + r * n + c, n);
    if (bias) add_bias(target + r * n + c, n, m, w, bias + c);
    if (j == 0) visit(i, r, std::min(m, rows - r));
  });
  if (target != y) copy_rows(target, n, rows, n, y, n);
}

int64_t padding_size(int64_t rows, int64_t in, int64_t out) { return rows < kMinRows ? kMinRows * (in + out) : 0; }

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
    gemm(Transpose::kYes, Transpose::kNo, cut.out.length(o), cut.in.length(i), cut.tokens.length(t), T(1),
         p.dy + r * p.dy_stride + row, p.dy_stride, p.x + r * p.x_stride + column, p.x_stride, T(0),
         target + (t * p.out + row) * p.in + column, p.in);
  });
  if (cut.tokens.count > 1) sum_parts(partial, cut.tokens.count, p.out * p.in, p.dweight);
}

}  // namespace

int64_t linear_workspace(int64_t rows, int64_t in, int64_t out) {
  return padding_size(rows, in, out) + (rows >= kTransposeRows ? in * out : 0);
}

int64_t linear_vjp_workspace(int64_t rows, int64_t in, int64_t out, bool dweight, bool dbias) {
  const int64_t chunks = WeightCut(rows, in, out).tokens.count;
  return padding_size(rows, in, out) + (dweight && chunks > 1 ? chunks * in * out : 0) +
         (dbias ? std::max<int64_t>(1, cut_rows(rows).count) * out : 0);
}

template <typename T>
void linear(const LinearParams<T>& p) {
  if (p.rows == 0 || p.out == 0) return;
  T* padding = p.workspace;
  const T* weight = p.weight;
  int64_t weight_stride = p.weight_stride;
  Transpose tb = Transpose::kYes;
  if (p.rows >= kTransposeRows) {
    T* transposed = p.workspace + padding_size(p.rows, p.in, p.out);
    transpose(p.weight, p.weight_stride, p.out, p.in, transposed);
    weight = transposed;
    weight_stride = p.out;
    tb = Transpose::kNo;
  }
  product(p.rows, p.out, p.in, p.x, p.x_stride, tb, weight, weight_stride, p.bias, p.y, padding,
          [](int64_t, int64_t, int64_t) {});
}

template <typename T>
void linear_vjp(const LinearVjpParams<T>& p) {
  T* padding = p.workspace;
  T* bias_parts = padding + padding_size(p.rows, p.in, p.out);
  const Cut row_cut = cut_rows(p.rows);
  T* weight_parts = bias_parts + (p.dbias ? std::max<int64_t>(1, row_cut.count) * p.out : 0);

  const auto sum_tile = [&](int64_t tile, int64_t first, int64_t count) {
    if (p.dbias) column_sums(p.dy + first * p.dy_stride, p.dy_stride, count, p.out, bias_parts + tile * p.out);
  };
  if (p.dx && p.in > 0 && p.rows > 0) {
    product(p.rows, p.in, p.out, p.dy, p.dy_stride, Transpose::kNo, p.weight, p.weight_stride,
            static_cast<const T*>(nullptr), p.dx, padding, sum_tile);
  } else if (p.dbias) {
    parallel_for(row_cut.count, [&](int64_t i) { sum_tile(i, row_cut.first(i), row_cut.length(i)); });
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
