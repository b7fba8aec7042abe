// Attention for one instruction set. Included once per target by cpu.cc.
//
// A block of queries meets the keys a panel at a time, with a running maximum
// and sum (Milakov and Gimelshein 2018; Dao et al. 2022), so that scratch is a
// few hundred kilobytes for any length. Scores are kept transposed, {keys of the
// panel, queries of the block}: then every matrix product broadcasts single
// values of k, v or the scores from where they lie and loads vectors of
// contiguous rows, nothing but the block's queries has to be transposed, and the
// softmax works on whole vectors of queries without a sum across lanes. Rows of
// scratch are padded to kAttentionPad values, so that the products have no tail.
//
// T is the arithmetic type, S what is stored: T, or Bf16.

#include "aspis/simd/storage-inl.h"

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
  constexpr int64_t kPanel = 256;  // of k
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

// ---------------------------------------------------------------- storage

// to {dim, width} = scale times tokens [first, first + count), transposed; the
// columns behind are 0.
template <typename T, typename S>
HWY_ATTR void transpose_padded(const AttentionTokens<const S>& from, int64_t first, int64_t count, int64_t dim,
                               T scale, T* to, int64_t width) {
  for (int64_t r = 0; r < count; r++) {
    const S* row = from.at(first + r);
    for (int64_t c = 0; c < dim; c++) to[c * width + r] = scale * load_value(row[c]);
  }
  for (int64_t c = 0; c < dim; c++) {
    for (int64_t r = count; r < width; r++) to[c * width + r] = 0;
  }
}

// How rows are used: single values of rows with any distance, whole padded rows,
// or so often that they had better be dense.
enum class Use { kValues, kRows, kOften };

// Tokens as rows of T. In place where they lie as needed, else a copy in `room`
// with rows of attention_padded(dim) values, zeros behind.
template <typename T, typename S>
HWY_ATTR ConstMatrix<T> rows_of(const AttentionTokens<const S>& from, int64_t first, int64_t count, int64_t dim,
                                Use use, T* room) {
  const int64_t width = attention_padded(dim);
  if constexpr (std::is_same_v<S, T>) {
    const bool fits = use == Use::kValues || (width == dim && (use == Use::kRows || from.step == width));
    if (from.columns == 0 && fits) return {from.at(first), from.step};
  }
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < count; r++) {
    const S* row = from.at(first + r);
    T* out = room + r * width;
    int64_t c = 0;
    for (; c + lanes <= dim; c += lanes) hn::StoreU(simd::LoadAny(d, row + c), d, out + c);
    if (c < dim) hn::StoreU(simd::LoadAnyTail(d, row + c, static_cast<size_t>(dim - c)), d, out + c), c += lanes;
    for (; c < width; c += lanes) hn::StoreU(hn::Zero(d), d, out + c);
  }
  return {room, width};
}

// Tokens [first, first + count) = rows of `from`, each times factor[row] if given.
template <typename T, typename S>
HWY_ATTR void store_rows(ConstMatrix<T> from, int64_t count, int64_t dim, const T* factor,
                         const AttentionTokens<S>& to, int64_t first) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < count; r++) {
    const auto f = hn::Set(d, factor ? factor[r] : T(1));
    const T* in = from.data + r * from.stride;
    S* out = to.at(first + r);
    int64_t c = 0;
    for (; c + lanes <= dim; c += lanes) simd::StoreAny(hn::Mul(f, hn::LoadU(d, in + c)), d, out + c);
    if (c < dim) simd::StoreAnyTail(hn::Mul(f, hn::LoadU(d, in + c)), d, out + c, static_cast<size_t>(dim - c));
  }
}

// ---------------------------------------------------------------- scores

// A panel of scores: keys [key, key + keys) by queries [query, query + queries).
struct Panel {
  int64_t key, keys, query, queries, width;
};

// The scores a query may not see become -inf; `ahead` = keys - queries.
template <typename T>
HWY_ATTR void mask_causal(T* scores, const Panel& p, int64_t ahead) {
  for (int64_t j = HWY_MAX(p.query + ahead + 1 - p.key, int64_t{0}); j < p.keys; j++) {
    const int64_t blind = HWY_MIN(p.key + j - ahead - p.query, p.queries);
    for (int64_t i = 0; i < blind; i++) scores[j * p.width + i] = -std::numeric_limits<T>::infinity();
  }
}

template <typename T, typename S>
HWY_ATTR void mask_scores(const AttentionHead<T, S>& head, T* scores, const Panel& p) {
  if (head.causal) mask_causal(scores, p, head.keys - head.queries);
  const int64_t row = head.mask_row, column = head.mask_column;
  if (head.bias && row == 0) {
    const hn::ScalableTag<T> d;
    for (int64_t j = 0; j < p.keys; j++) {
      const auto b = hn::Set(d, head.bias[(p.key + j) * column]);
      for (int64_t i = 0; i < p.width; i += static_cast<int64_t>(hn::Lanes(d))) {
        T* at = scores + j * p.width + i;
        hn::StoreU(hn::Add(hn::LoadU(d, at), b), d, at);
      }
    }
  } else if (head.bias) {
    for (int64_t j = 0; j < p.keys; j++) {
      const T* b = head.bias + p.query * row + (p.key + j) * column;
      for (int64_t i = 0; i < p.queries; i++) scores[j * p.width + i] += b[i * row];
    }
  } else if (head.allow) {
    for (int64_t j = 0; j < p.keys; j++) {
      const bool* a = head.allow + p.query * row + (p.key + j) * column;
      if (row == 0 && *a) continue;
      for (int64_t i = 0; i < p.queries; i++) {
        if (!a[i * row]) scores[j * p.width + i] = -std::numeric_limits<T>::infinity();
      }
    }
  }
}

// Every column of scores {keys, width} becomes e^(score - largest), where `largest`
// {width} is the running maximum, which this panel may raise; `sum` {width}
// follows, and `correction` {width} is what earlier panels are to be multiplied
// with. Sums go by parts of the panel to bound the rounding.
template <typename T>
HWY_ATTR void softmax_panel(T* scores, int64_t keys, int64_t width, T* largest, T* sum, T* correction) {
  constexpr int64_t kPart = 64;
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < width; i += lanes) {
    const auto before = hn::LoadU(d, largest + i);
    auto top = before;
    for (int64_t j = 0; j < keys; j++) top = hn::Max(top, hn::LoadU(d, scores + j * width + i));
    const auto again = simd::ExpNonPositive(d, hn::Sub(before, top));
    auto total = hn::Mul(hn::LoadU(d, sum + i), again);
    for (int64_t j0 = 0; j0 < keys; j0 += kPart) {
      auto part = hn::Zero(d);
      for (int64_t j = j0; j < HWY_MIN(keys, j0 + kPart); j++) {
        T* at = scores + j * width + i;
        const auto e = simd::ExpNonPositive(d, hn::Sub(hn::LoadU(d, at), top));
        hn::StoreU(e, d, at);
        part = hn::Add(part, e);
      }
      total = hn::Add(total, part);
    }
    hn::StoreU(top, d, largest + i);
    hn::StoreU(total, d, sum + i);
    hn::StoreU(again, d, correction + i);
  }
}

// scores {keys, width} become the probabilities e^(score - largest) inverse, dp
// the gradients scale p (dp - mean). If `d_scores`, p (dp - mean) goes there too,
// {queries, ..} with rows `d_row` apart.
template <typename T>
HWY_ATTR void softmax_panel_vjp(T* scores, T* dp, const Panel& p, const T* largest, const T* inverse,
                                const T* mean, T scale, T* d_scores, int64_t d_row) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto size = hn::Set(d, scale);
  for (int64_t i = 0; i < p.width; i += lanes) {
    const auto top = hn::LoadU(d, largest + i), factor = hn::LoadU(d, inverse + i), m = hn::LoadU(d, mean + i);
    for (int64_t j = 0; j < p.keys; j++) {
      T *s = scores + j * p.width + i, *g = dp + j * p.width + i;
      const auto w = hn::Mul(simd::ExpNonPositive(d, hn::Sub(hn::LoadU(d, s), top)), factor);
      hn::StoreU(w, d, s);
      hn::StoreU(hn::Mul(w, hn::Sub(hn::LoadU(d, g), m)), d, g);
    }
  }
  if (d_scores) {
    for (int64_t i = 0; i < p.queries; i++) {
      for (int64_t j = 0; j < p.keys; j++) d_scores[i * d_row + p.key + j] = dp[j * p.width + i];
    }
  }
  for (int64_t i = 0; i < p.keys * p.width; i += lanes) hn::StoreU(hn::Mul(size, hn::LoadU(d, dp + i)), d, dp + i);
}

// mean[i] = <do, o> of every query of the block, which is the sum over the keys of p dp.
template <typename T, typename S>
HWY_ATTR void row_products(const AttentionTokens<const S>& a, const AttentionTokens<const S>& b, int64_t first,
                           int64_t count, int64_t dim, T* mean, int64_t width) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < count; r++) {
    const S *x = a.at(first + r), *y = b.at(first + r);
    auto sum = hn::Zero(d);
    int64_t c = 0;
    for (; c + lanes <= dim; c += lanes) sum = hn::MulAdd(simd::LoadAny(d, x + c), simd::LoadAny(d, y + c), sum);
    if (c < dim) {
      const auto rest = static_cast<size_t>(dim - c);
      sum = hn::MulAdd(simd::LoadAnyTail(d, x + c, rest), simd::LoadAnyTail(d, y + c, rest), sum);
    }
    mean[r] = simd::LaneSum(d, sum);
  }
  for (int64_t r = count; r < width; r++) mean[r] = 0;
}

// Queries [first, first + count) of one head. `scratch` has attention_scratch()
// values and is aligned to a cache line.
template <typename T, typename S>
HWY_ATTR void attention_block(const AttentionHead<T, S>& head, int64_t first, int64_t count, T* scratch) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = attention_padded(count), dim = attention_padded(head.dim);
  T* turned = scratch;
  T* largest = turned + dim * kAttentionQueries;
  T* sum = largest + kAttentionQueries;
  T* correction = sum + kAttentionQueries;
  T* out = correction + kAttentionQueries;
  T* scores = out + dim * kAttentionQueries;
  T* room = scores + kAttentionKeys * kAttentionQueries;
  transpose_padded<T, S>(head.q, first, count, head.dim, static_cast<T>(head.scale), turned, width);
  for (int64_t i = 0; i < width; i++) {
    largest[i] = std::numeric_limits<T>::lowest();
    sum[i] = 0;
  }
  const int64_t seen = head.causal ? first + count + head.keys - head.queries : head.keys;
  for (int64_t key = 0; key < seen; key += kAttentionKeys) {
    const Panel p{key, HWY_MIN(kAttentionKeys, seen - key), first, count, width};
    const auto k = rows_of<T, S>(head.k, key, p.keys, head.dim, Use::kValues, room);
    product<T>(p.keys, width, head.dim, {k.data, k.stride, 1}, {turned, width}, {scores, width}, false);
    mask_scores(head, scores, p);
    softmax_panel(scores, p.keys, width, largest, sum, correction);
    if (key > 0) {
      for (int64_t r = 0; r < count; r++) {
        const auto f = hn::Set(d, correction[r]);
        T* row = out + r * dim;
        for (int64_t c = 0; c < dim; c += lanes) hn::StoreU(hn::Mul(f, hn::LoadU(d, row + c)), d, row + c);
      }
    }
    const auto v = rows_of<T, S>(head.v, key, p.keys, head.dim, Use::kRows, room);
    product<T>(count, dim, p.keys, {scores, 1, width}, v, {out, dim}, key > 0);
  }
  // A query that sees no key gives 0; its statistics make all of its probabilities 0.
  for (int64_t i = 0; i < count; i++) {
    const bool blind = sum[i] == 0;
    sum[i] = blind ? T(0) : 1 / sum[i];
    if (!head.stats) continue;
    head.stats[first + i] = blind ? std::numeric_limits<T>::infinity() : largest[i];
    head.stats[head.stats_row + first + i] = sum[i];
  }
  store_rows<T, S>({out, dim}, count, head.dim, sum, head.o, first);
}

// All queries of the heads that share the keys [key_first, key_last) of one
// head of k and v. `scratch` has attention_vjp_scratch() values. dq goes to
// `partial` {queries, padded dim} for each head if that is given.
template <typename T, typename S>
HWY_ATTR void attention_vjp_keys(const AttentionVjpHeads<T, S>& p, int64_t key_first, int64_t key_last, T* partial,
                                 T* scratch) {
  const AttentionHead<T, S>& any = p.heads[0];
  const int64_t dim = attention_padded(any.dim), chunk = key_last - key_first;
  T* turned_q = scratch;
  T* turned_g = turned_q + dim * kAttentionQueries;
  T* largest = turned_g + dim * kAttentionQueries;
  T* inverse = largest + kAttentionQueries;
  T* mean = inverse + kAttentionQueries;
  T* out = mean + kAttentionQueries;
  T* q_room = out + dim * kAttentionQueries;
  T* g_room = q_room + dim * kAttentionQueries;
  T* scores = g_room + dim * kAttentionQueries;
  T* gradient = scores + kAttentionKeys * kAttentionQueries;
  T* k_room = gradient + kAttentionKeys * kAttentionQueries;
  T* v_room = k_room + kAttentionKeys * dim;
  T* dk = v_room + kAttentionKeys * dim;
  T* dv = dk + chunk * dim;
  for (int64_t i = 0; i < chunk * dim; i++) dk[i] = dv[i] = 0;
  for (int64_t h = 0; h < p.count; h++) {
    const AttentionHead<T, S>& head = p.heads[h];
    const int64_t blocks = attention_blocks(head.queries), ahead = head.keys - head.queries;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t first = attention_block_first(head.queries, block);
      const int64_t count = attention_block_first(head.queries, block + 1) - first,
                    width = attention_padded(count);
      const int64_t seen = head.causal ? HWY_MIN(key_last, first + count + ahead) : key_last;
      for (int64_t i = 0; i < width; i++) {
        largest[i] = i < count ? head.stats[first + i] : std::numeric_limits<T>::infinity();
        inverse[i] = i < count ? head.stats[head.stats_row + first + i] : T(0);
      }
      if (seen <= key_first) {
        for (int64_t i = 0; i < count * dim; i++) out[i] = 0;
      } else {
        transpose_padded<T, S>(head.q, first, count, head.dim, static_cast<T>(head.scale), turned_q, width);
        transpose_padded<T, S>(p.d_o[h], first, count, head.dim, T(1), turned_g, width);
        row_products<T, S>(p.d_o[h], p.o[h], first, count, head.dim, mean, width);
      }
      if (p.d_scores) {
        for (int64_t i = first; i < first + count; i++) {
          T* row = p.d_scores + (h * head.queries + i) * head.keys;
          for (int64_t j = HWY_MAX(seen, key_first); j < key_last; j++) row[j] = 0;
        }
      }
      const auto q_rows = rows_of<T, S>(head.q, first, count, head.dim, Use::kOften, q_room);
      const auto g_rows = rows_of<T, S>(p.d_o[h], first, count, head.dim, Use::kOften, g_room);
      for (int64_t key = key_first; key < seen; key += kAttentionKeys) {
        const Panel panel{key, HWY_MIN(kAttentionKeys, seen - key), first, count, width};
        const auto k = rows_of<T, S>(head.k, key, panel.keys, head.dim, Use::kOften, k_room);
        product<T>(panel.keys, width, head.dim, {k.data, k.stride, 1}, {turned_q, width}, {scores, width}, false);
        mask_scores(head, scores, panel);
        const auto v = rows_of<T, S>(head.v, key, panel.keys, head.dim, Use::kOften, v_room);
        product<T>(panel.keys, width, head.dim, {v.data, v.stride, 1}, {turned_g, width}, {gradient, width},
                   false);
        softmax_panel_vjp(scores, gradient, panel, largest, inverse, mean, static_cast<T>(head.scale),
                          p.d_scores ? p.d_scores + (h * head.queries + first) * head.keys : nullptr, head.keys);
        product<T>(count, dim, panel.keys, {gradient, 1, width}, k, {out, dim}, key > key_first);
        const int64_t at = (key - key_first) * dim;
        product<T>(panel.keys, dim, count, {gradient, width, 1}, q_rows, {dk + at, dim}, true);
        product<T>(panel.keys, dim, count, {scores, width, 1}, g_rows, {dv + at, dim}, true);
      }
      if (partial) {
        T* to = partial + (h * head.queries + first) * dim;
        for (int64_t i = 0; i < count * dim; i++) to[i] = out[i];
      } else {
        store_rows<T, S>({out, dim}, count, head.dim, nullptr, p.dq[h], first);
      }
    }
  }
  store_rows<T, S>({dk, dim}, chunk, any.dim, nullptr, p.dk, key_first);
  store_rows<T, S>({dv, dim}, chunk, any.dim, nullptr, p.dv, key_first);
}

// Queries [first, first + count) of dq = the sum of `chunks` partial ones, `step` apart.
template <typename T, typename S>
HWY_ATTR void attention_add_partial(T* partial, int64_t chunks, int64_t step, int64_t first, int64_t count,
                                    int64_t dim, const AttentionTokens<S>& dq) {
  const hn::ScalableTag<T> d;
  const int64_t wide = attention_padded(dim), n = count * wide;
  T* sum = partial + first * wide;
  for (int64_t c = 1; c < chunks; c++) {
    const T* more = sum + c * step;
    for (int64_t i = 0; i < n; i += static_cast<int64_t>(hn::Lanes(d))) {
      hn::StoreU(hn::Add(hn::LoadU(d, sum + i), hn::LoadU(d, more + i)), d, sum + i);
    }
  }
  store_rows<T, S>({sum, wide}, count, dim, nullptr, dq, first);
}

#define ASPIS_ATTENTION_INSTANCE(T, S, suffix)                                                                  \
  HWY_ATTR void attention_##suffix(const AttentionHead<T, S>& head, int64_t first, int64_t count, T* scratch) { \
    attention_block(head, first, count, scratch);                                                               \
  }                                                                                                             \
  HWY_ATTR void attention_vjp_##suffix(const AttentionVjpHeads<T, S>& p, int64_t key_first, int64_t key_last,   \
                                       T* partial, T* scratch) {                                                \
    attention_vjp_keys(p, key_first, key_last, partial, scratch);                                               \
  }                                                                                                             \
  HWY_ATTR void attention_add_##suffix(T* partial, int64_t chunks, int64_t step, int64_t first, int64_t count,  \
                                       int64_t dim, const AttentionTokens<S>& dq) {                             \
    attention_add_partial<T, S>(partial, chunks, step, first, count, dim, dq);                                  \
  }
ASPIS_ATTENTION_INSTANCE(float, float, f32)
ASPIS_ATTENTION_INSTANCE(double, double, f64)
ASPIS_ATTENTION_INSTANCE(float, Bf16, bf16)
#undef ASPIS_ATTENTION_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
