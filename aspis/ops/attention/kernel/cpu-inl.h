// Attention for one instruction set. Included once per target by cpu.cc.
//
// Scores are kept transposed, {keys, queries of the block}: then every matrix
// product broadcasts single values of k, v or the scores from where they lie
// and loads vectors of contiguous rows, nothing but the block's queries has to
// be transposed, and the softmax works on whole vectors of queries without a
// sum across lanes. Rows of scratch are padded to kAttentionPad values, so that
// the products have no tail.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Accumulators of a tile: 6 x 4 vectors where there are 32 registers, else 6 x 2.
inline constexpr int kTileRows = 6;
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
inline constexpr int kTileVectors = 4;
#else
inline constexpr int kTileVectors = 2;
#endif

// A(m, k) at data[m * row + k * column].
template <typename T>
struct Left {
  const T* data;
  int64_t row, column;
};

// Row-major values with a distance between rows.
template <typename T, typename P = T*>
struct Matrix {
  P data;
  int64_t stride;
};
template <typename T>
using ConstMatrix = Matrix<T, const T*>;

// c {kRows, kVectors vectors} (+)= a b over k.
template <int kRows, int kVectors, typename T>
HWY_ATTR HWY_INLINE void product_tile(int64_t k, Left<T> a, const T* b, int64_t b_stride, T* c, int64_t c_stride,
                                      bool add) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<hn::ScalableTag<T>> sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; j++) sum[i][j] = hn::Zero(d);
  }
  for (int64_t p = 0; p < k; p++) {
    hn::Vec<hn::ScalableTag<T>> right[kVectors];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; j++) right[j] = hn::LoadU(d, b + p * b_stride + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
      const auto left = hn::Set(d, a.data[i * a.row + p * a.column]);
#pragma GCC unroll 8
      for (int j = 0; j < kVectors; j++) sum[i][j] = hn::MulAdd(left, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++) {
#pragma GCC unroll 8
    for (int j = 0; j < kVectors; j++) {
      T* at = c + i * c_stride + j * lanes;
      hn::StoreU(add ? hn::Add(hn::LoadU(d, at), sum[i][j]) : sum[i][j], d, at);
    }
  }
}

template <int kVectors, typename T>
HWY_ATTR void product_columns(int64_t m, int64_t k, Left<T> a, const T* b, int64_t b_stride, T* c,
                              int64_t c_stride, bool add) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    product_tile<kTileRows, kVectors>(k, {a.data + i * a.row, a.row, a.column}, b, b_stride, c + i * c_stride,
                                      c_stride, add);
  }
  for (; i + 2 <= m; i += 2) {
    product_tile<2, kVectors>(k, {a.data + i * a.row, a.row, a.column}, b, b_stride, c + i * c_stride, c_stride,
                              add);
  }
  if (i < m) {
    product_tile<1, kVectors>(k, {a.data + i * a.row, a.row, a.column}, b, b_stride, c + i * c_stride, c_stride,
                              add);
  }
}

// c {m, n} (+)= a {m, k} b {k, n}; n is a multiple of the vector length. Long
// sums are cut into panels of k, which bounds the rounding and keeps b in cache.
template <typename T>
HWY_ATTR void product(int64_t m, int64_t n, int64_t k, Left<T> a, ConstMatrix<T> b, Matrix<T> c, bool add) {
  constexpr int64_t kPanel = 256;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  for (int64_t p = 0; p < k; p += kPanel) {
    const int64_t depth = HWY_MIN(kPanel, k - p);
    const Left<T> left{a.data + p * a.column, a.row, a.column};
    const T* right = b.data + p * b.stride;
    const bool sum = add || p > 0;
    for (int64_t j = 0; j < n;) {
      const int64_t vectors = HWY_MIN((n - j) / lanes, int64_t{kTileVectors});
      if constexpr (kTileVectors == 4) {
        if (vectors == 4) product_columns<4>(m, depth, left, right + j, b.stride, c.data + j, c.stride, sum);
        if (vectors == 3) product_columns<3>(m, depth, left, right + j, b.stride, c.data + j, c.stride, sum);
      }
      if (vectors == 2) product_columns<2>(m, depth, left, right + j, b.stride, c.data + j, c.stride, sum);
      if (vectors == 1) product_columns<1>(m, depth, left, right + j, b.stride, c.data + j, c.stride, sum);
      j += vectors * lanes;
    }
  }
}

// to {columns, width} = scale from {rows, columns}^T; the columns behind `rows` are 0.
template <typename T>
HWY_ATTR void transpose_padded(ConstMatrix<T> from, int64_t rows, int64_t columns, T scale, T* to, int64_t width) {
  for (int64_t c = 0; c < columns; c++) {
    T* out = to + c * width;
    for (int64_t r = 0; r < rows; r++) out[r] = scale * from.data[r * from.stride + c];
    for (int64_t r = rows; r < width; r++) out[r] = 0;
  }
}

// The matrix itself if its rows need no padding, else a padded copy in `room`.
template <typename T>
HWY_ATTR ConstMatrix<T> padded(ConstMatrix<T> from, int64_t rows, int64_t columns, T* room) {
  const int64_t width = attention_padded(columns);
  if (width == columns) return from;
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c++) room[r * width + c] = from.data[r * from.stride + c];
    for (int64_t c = columns; c < width; c++) room[r * width + c] = 0;
  }
  return {room, width};
}

// The scores a query may not see become -inf. Rows of `scores` are keys, columns
// the queries from `first` on; `ahead` = keys - queries.
template <typename T>
HWY_ATTR void mask_causal(T* scores, int64_t width, int64_t keys, int64_t first, int64_t count, int64_t ahead) {
  for (int64_t j = first + ahead + 1; j < keys; j++) {
    const int64_t blind = HWY_MIN(j - ahead - first, count);
    for (int64_t i = 0; i < blind; i++) scores[j * width + i] = -std::numeric_limits<T>::infinity();
  }
}

// Every column of scores {keys, width} becomes e^(score - largest); `inverse`
// {width} receives 1 / sum. Sums go by panels of keys to bound the rounding.
template <typename T>
HWY_ATTR void softmax_columns(T* scores, int64_t keys, int64_t width, T* inverse) {
  constexpr int64_t kPanel = 64;
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < width; i += lanes) {
    auto largest = hn::LoadU(d, scores + i);
    for (int64_t j = 1; j < keys; j++) largest = hn::Max(largest, hn::LoadU(d, scores + j * width + i));
    auto total = hn::Zero(d);
    for (int64_t j0 = 0; j0 < keys; j0 += kPanel) {
      auto sum = hn::Zero(d);
      for (int64_t j = j0; j < HWY_MIN(keys, j0 + kPanel); j++) {
        T* at = scores + j * width + i;
        const auto e = simd::ExpNonPositive(d, hn::Sub(hn::LoadU(d, at), largest));
        hn::StoreU(e, d, at);
        sum = hn::Add(sum, e);
      }
      total = hn::Add(total, sum);
    }
    hn::StoreU(hn::Div(hn::Set(d, T(1)), total), d, inverse + i);
  }
}

// p becomes the probability p * inverse, dp the gradient of the unscaled score,
// scale p (dp - sum over keys of p dp). All {keys, width}.
template <typename T>
HWY_ATTR void softmax_columns_vjp(T* p, T* dp, int64_t keys, int64_t width, const T* inverse, T scale) {
  constexpr int64_t kPanel = 64;
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < width; i += lanes) {
    const auto factor = hn::LoadU(d, inverse + i), size = hn::Set(d, scale);
    auto total = hn::Zero(d);
    for (int64_t j0 = 0; j0 < keys; j0 += kPanel) {
      auto sum = hn::Zero(d);
      for (int64_t j = j0; j < HWY_MIN(keys, j0 + kPanel); j++) {
        const auto w = hn::Mul(hn::LoadU(d, p + j * width + i), factor);
        hn::StoreU(w, d, p + j * width + i);
        sum = hn::MulAdd(w, hn::LoadU(d, dp + j * width + i), sum);
      }
      total = hn::Add(total, sum);
    }
    for (int64_t j = 0; j < keys; j++) {
      T* at = dp + j * width + i;
      const auto w = hn::Mul(hn::LoadU(d, p + j * width + i), size);
      hn::StoreU(hn::Mul(w, hn::Sub(hn::LoadU(d, at), total)), d, at);
    }
  }
}

// to {rows, columns} = from, each row times factor[row] if given.
template <typename T>
HWY_ATTR void copy_rows(ConstMatrix<T> from, int64_t rows, int64_t columns, const T* factor, Matrix<T> to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++) {
    const auto f = hn::Set(d, factor ? factor[r] : T(1));
    const T* in = from.data + r * from.stride;
    T* out = to.data + r * to.stride;
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) hn::StoreU(hn::Mul(f, hn::LoadU(d, in + c)), d, out + c);
    if (c < columns) {
      simd::StoreTail(hn::Mul(f, hn::LoadU(d, in + c)), d, out + c, static_cast<size_t>(columns - c));
    }
  }
}

template <typename T>
HWY_ATTR ConstMatrix<T> head_of(const T* data, const AttentionStrides& s, int64_t b, int64_t h, int64_t row = 0) {
  return {data + b * s.batch + h * s.head + row * s.row, s.row};
}

// The unnormalised probabilities of queries [first, first + count) of one head.
// Returns how many keys any of them sees; the others are not touched.
template <typename T>
HWY_ATTR int64_t block_scores(const AttentionParams<T>& p, int64_t b, int64_t h, int64_t first, int64_t count,
                              int64_t width, T* turned, T* scores, T* inverse) {
  const int64_t ahead = p.keys - p.queries;
  const int64_t keys = p.causal ? first + count + ahead : p.keys;
  transpose_padded(head_of(p.q, p.q_strides, b, h, first), count, p.dim, static_cast<T>(p.scale), turned, width);
  const auto k = head_of(p.k, p.k_strides, b, h);
  product<T>(keys, width, p.dim, {k.data, k.stride, 1}, {turned, width}, {scores, width}, false);
  if (p.causal) mask_causal(scores, width, keys, first, count, ahead);
  softmax_columns(scores, keys, width, inverse);
  return keys;
}

// Queries [first, first + count) of head h of batch b. `scratch` has
// attention_scratch() values and is aligned to a cache line.
template <typename T>
HWY_ATTR void attention_block(const AttentionParams<T>& p, int64_t b, int64_t h, int64_t first, int64_t count,
                              T* scratch) {
  const int64_t width = attention_padded(count), dim = attention_padded(p.dim);
  T* turned = scratch;
  T* inverse = turned + dim * kAttentionQueries;
  T* out = inverse + kAttentionQueries;
  T* scores = out + dim * kAttentionQueries;
  T* room = scores + p.keys * kAttentionQueries;
  const int64_t keys = block_scores(p, b, h, first, count, width, turned, scores, inverse);
  const auto v = padded(head_of(p.v, p.v_strides, b, h), keys, p.dim, room);
  product<T>(count, dim, keys, {scores, 1, width}, v, {out, dim}, false);
  T* o = p.o + ((b * p.queries + first) * p.heads + h) * p.dim;
  copy_rows<T>({out, dim}, count, p.dim, inverse, {o, p.heads * p.dim});
}

// All queries of head h of batch b. `scratch` has attention_vjp_scratch() values.
template <typename T>
HWY_ATTR void attention_vjp_head(const AttentionVjpParams<T>& p, int64_t b, int64_t h, T* scratch) {
  const AttentionParams<T>& f = p.forward;
  const int64_t dim = attention_padded(f.dim), step = f.heads * f.dim;
  T* turned = scratch;
  T* inverse = turned + dim * kAttentionQueries;
  T* out = inverse + kAttentionQueries;
  T* q_room = out + dim * kAttentionQueries;
  T* g_room = q_room + dim * kAttentionQueries;
  T* scores = g_room + dim * kAttentionQueries;
  T* gradient = scores + f.keys * kAttentionQueries;
  T* dk = gradient + f.keys * kAttentionQueries;
  T* dv = dk + f.keys * dim;
  T* k_room = dv + f.keys * dim;
  for (int64_t i = 0; i < f.keys * dim; i++) dk[i] = dv[i] = 0;
  const auto k = padded(head_of(f.k, f.k_strides, b, h), f.keys, f.dim, k_room);
  const auto v = head_of(f.v, f.v_strides, b, h);
  const int64_t blocks = attention_blocks(f.queries);
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t first = attention_block_first(f.queries, block);
    const int64_t count = attention_block_first(f.queries, block + 1) - first, width = attention_padded(count);
    const int64_t keys = block_scores(f, b, h, first, count, width, turned, scores, inverse);
    const auto g = head_of(p.d_o, p.d_o_strides, b, h, first);
    transpose_padded(g, count, f.dim, T(1), turned, width);
    product<T>(keys, width, f.dim, {v.data, v.stride, 1}, {turned, width}, {gradient, width}, false);
    softmax_columns_vjp(scores, gradient, keys, width, inverse, static_cast<T>(f.scale));
    product<T>(count, dim, keys, {gradient, 1, width}, k, {out, dim}, false);
    copy_rows<T>({out, dim}, count, f.dim, nullptr,
                 {p.dq + ((b * f.queries + first) * f.heads + h) * f.dim, step});
    const auto q_rows = padded(head_of(f.q, f.q_strides, b, h, first), count, f.dim, q_room);
    const auto g_rows = padded(g, count, f.dim, g_room);
    product<T>(keys, dim, count, {gradient, width, 1}, q_rows, {dk, dim}, true);
    product<T>(keys, dim, count, {scores, width, 1}, g_rows, {dv, dim}, true);
  }
  const int64_t first = (b * f.keys * f.heads + h) * f.dim;
  copy_rows<T>({dk, dim}, f.keys, f.dim, nullptr, {p.dk + first, step});
  copy_rows<T>({dv, dim}, f.keys, f.dim, nullptr, {p.dv + first, step});
}

#define ASPIS_ATTENTION_INSTANCE(T, suffix)                                                                \
  HWY_ATTR void attention_##suffix(const AttentionParams<T>& p, int64_t b, int64_t h, int64_t first,       \
                                   int64_t count, T* scratch) {                                            \
    attention_block(p, b, h, first, count, scratch);                                                       \
  }                                                                                                        \
  HWY_ATTR void attention_vjp_##suffix(const AttentionVjpParams<T>& p, int64_t b, int64_t h, T* scratch) { \
    attention_vjp_head(p, b, h, scratch);                                                                  \
  }
ASPIS_ATTENTION_INSTANCE(float, f32)
ASPIS_ATTENTION_INSTANCE(double, f64)
#undef ASPIS_ATTENTION_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
