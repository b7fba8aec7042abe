// Batched matrix products from the tiles of product.h. B is packed once for each
// matrix it differs in, then tiles of 48 rows go to the team. A^T B reads both
// where they lie; A^T B^T copies a tile of A.

#include "aspis/ops/matmul/kernel/cpu.h"

#include <algorithm>
#include <vector>

#include "aspis/ops/linear/kernel/cuts.h"
#include "aspis/ops/linear/kernel/product.h"

namespace aspis::kernel {
namespace {

// Matrices of B that are not the same.
template <typename T>
int64_t distinct_b(const MatmulParams<T>& p) {
  return p.b_batch == 0 ? std::min<int64_t>(1, p.batch) : p.batch;
}

template <typename T>
void packed_products(const MatmulParams<T>& p) {
  const int64_t panel = packed_size(p.k, p.n);
  const Cut columns = cut_columns(p.n, std::max<int64_t>(1, p.n / kPanelCut));
  const int64_t matrices = distinct_b(p);
  parallel_for(matrices * columns.count, [&](int64_t task) {
    const int64_t i = task / columns.count, j = task % columns.count;
    const T* const b = p.b + i * p.b_batch;
    if (p.transpose_b) {
      pack_transposed(b, p.b_stride, p.k, p.n, columns.first(j), columns.last(j), p.workspace + i * panel);
    } else {
      pack(b, p.b_stride, p.k, p.n, columns.first(j), columns.last(j), p.workspace + i * panel);
    }
  });
  const Cut rows = cut_rows(p.m);
  // Columns are cut only where there are few tasks else.
  const Cut parts = cut_columns(p.n, div_ceil(8, std::max<int64_t>(1, p.batch * rows.count)));
  parallel_for(p.batch * rows.count * parts.count, [&](int64_t task) {
    const int64_t j = task % parts.count, r = task / parts.count % rows.count, i = task / parts.count / rows.count;
    const int64_t first = rows.first(r), m = rows.length(r);
    const T* a = p.a + i * p.a_batch;
    int64_t stride = p.a_stride;
    if (p.transpose_a) {
      thread_local std::vector<T> tile;
      tile.resize(static_cast<size_t>(m * p.k));
      for (int64_t q = 0; q < p.k; q++) {
        for (int64_t s = 0; s < m; s++) tile[static_cast<size_t>(s * p.k + q)] = a[q * p.a_stride + first + s];
      }
      a = tile.data();
      stride = p.k;
    } else {
      a += first * p.a_stride;
    }
    multiply_packed(m, p.n, p.k, a, stride, p.workspace + (p.b_batch == 0 ? 0 : i) * panel, parts.first(j),
                    parts.last(j), static_cast<const T*>(nullptr), false, p.c + (i * p.m + first) * p.n, p.n);
  });
}

template <typename T>
void transposed_products(const MatmulParams<T>& p) {
  const Cut rows(p.m, div_ceil(p.m, 240), 24), columns(p.n, div_ceil(p.n, 256), 64);
  parallel_for(p.batch * rows.count * columns.count, [&](int64_t task) {
    const int64_t j = task % columns.count, r = task / columns.count % rows.count,
                  i = task / columns.count / rows.count;
    multiply_transposed(rows.length(r), columns.length(j), p.k, p.a + i * p.a_batch + rows.first(r), p.a_stride,
                        p.b + i * p.b_batch + columns.first(j), p.b_stride, false,
                        p.c + (i * p.m + rows.first(r)) * p.n + columns.first(j), p.n);
  });
}

template <typename T>
bool reads_both_in_place(const MatmulParams<T>& p) {
  return p.transpose_a && !p.transpose_b;
}

}  // namespace

template <typename T>
int64_t matmul_workspace(const MatmulParams<T>& p) {
  return reads_both_in_place(p) ? 0 : distinct_b(p) * packed_size(p.k, p.n);
}

template <typename T>
void matmul(const MatmulParams<T>& p) {
  if (p.batch == 0 || p.m == 0 || p.n == 0) return;
  if (reads_both_in_place(p)) {
    transposed_products(p);
  } else {
    packed_products(p);
  }
}

template int64_t matmul_workspace(const MatmulParams<float>&);
template int64_t matmul_workspace(const MatmulParams<double>&);
template void matmul(const MatmulParams<float>&);
template void matmul(const MatmulParams<double>&);

}  // namespace aspis::kernel
