// Matrix products from registers, for one instruction set. Included once per
// target by product.cc.
//
// A tile of C, 12 x 2 vectors with 32 registers or 6 x 2 with 16, stays in
// registers while k runs; each step loads two vectors of B and broadcasts the
// values of A. A is read where it lies: packing it costs more than it gives for
// the narrow products of these models. B is packed into panels of two vectors
// (three where the number of vectors is odd), so that a step reads one line.

#include <type_traits>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Rows of a tile by its vectors.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kTileRows[4] = {0, 12, 12, 8};
#else
constexpr int kTileRows[4] = {0, 6, 6, 4};
#endif

// Steps of k after which a tile of C is put aside, so that the panel and the
// strip of A stay in cache.
constexpr int64_t kDepth = 512;
// The same where A is read column by column.
constexpr int64_t kTransposedDepth = 512;

inline HWY_ATTR int64_t lanes_of(float) { return static_cast<int64_t>(hn::Lanes(hn::ScalableTag<float>())); }
inline HWY_ATTR int64_t lanes_of(double) { return static_cast<int64_t>(hn::Lanes(hn::ScalableTag<double>())); }

// Vectors of the panel that begins where `left` columns are left.
inline HWY_ATTR int panel_vectors(int64_t left, int64_t lanes) {
  const int64_t vectors = (left + lanes - 1) / lanes;
  return vectors == 1 ? 1 : vectors == 3 ? 3 : 2;
}

template <int kVectors, bool kTail, class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void load_row(D d, const T* p, size_t tail, hn::Vec<D>* v) {
  const size_t lanes = hn::Lanes(d);
#pragma GCC unroll 4
  for (int i = 0; i < kVectors; i++) {
    v[i] = kTail && i + 1 == kVectors ? simd::LoadTail(d, p + i * lanes, tail) : hn::LoadU(d, p + i * lanes);
  }
}

// Where the accumulators of a tile start: C, the bias, or zero.
template <int kRows, int kVectors, bool kTail, class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void begin_tile(D d, const T* c, int64_t ldc, size_t tail, const T* bias, bool add,
                                    hn::Vec<D> acc[kRows][kVectors]) {
  if (add) {
    for (int r = 0; r < kRows; r++) load_row<kVectors, kTail>(d, c + r * ldc, tail, acc[r]);
    return;
  }
  hn::Vec<D> start[kVectors];
  for (int v = 0; v < kVectors; v++) start[v] = hn::Zero(d);
  if (bias) load_row<kVectors, kTail>(d, bias, tail, start);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) acc[r][v] = start[v];
  }
}

template <int kRows, int kVectors, bool kTail, class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void end_tile(D d, const hn::Vec<D> acc[kRows][kVectors], size_t tail, T* c, int64_t ldc) {
  const size_t lanes = hn::Lanes(d);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      if (kTail && v + 1 == kVectors) {
        simd::StoreTail(acc[r][v], d, c + r * ldc + v * lanes, tail);
      } else {
        hn::StoreU(acc[r][v], d, c + r * ldc + v * lanes);
      }
    }
  }
}

// kRows rows of C over one panel: A {kRows, k} row by row, B packed.
template <int kRows, int kVectors, bool kTail, typename T>
HWY_ATTR void tile_packed(int64_t k, const T* a, int64_t lda, const T* b, size_t tail, const T* bias, bool add,
                          T* c, int64_t ldc) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  V acc[kRows][kVectors];
  begin_tile<kRows, kVectors, kTail>(d, c, ldc, tail, bias, add, acc);
  // A pointer for three rows: the other two are one and two distances away,
  // which an address can hold.
  constexpr int kPointers = (kRows + 2) / 3;
  const T* p[kPointers];
  for (int i = 0; i < kPointers; i++) p[i] = a + 3 * i * lda;
  const auto step = [&](int u) HWY_ATTR {
    V row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) row[v] = hn::LoadU(d, b + (u * kVectors + v) * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const V value = hn::Set(d, p[r / 3][(r % 3) * lda + u]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) acc[r][v] = hn::MulAdd(value, row[v], acc[r][v]);
    }
  };
  int64_t i = 0;
  for (; i + 4 <= k; i += 4) {
    step(0);
    step(1);
    step(2);
    step(3);
    b += 4 * kVectors * lanes;
#pragma GCC unroll 4
    for (int q = 0; q < kPointers; q++) p[q] += 4;
  }
  for (; i < k; i++) {
    step(0);
    b += kVectors * lanes;
    for (int q = 0; q < kPointers; q++) p[q]++;
  }
  end_tile<kRows, kVectors, kTail>(d, acc, tail, c, ldc);
}

// The same with A {k, kRows} column by column and B row-major.
template <int kRows, int kVectors, bool kTail, typename T>
HWY_ATTR void tile_transposed(int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, size_t tail, bool add,
                              T* c, int64_t ldc) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  V acc[kRows][kVectors];
  begin_tile<kRows, kVectors, kTail>(d, c, ldc, tail, static_cast<const T*>(nullptr), add, acc);
  for (int64_t i = 0; i < k; i++) {
    V row[kVectors];
    load_row<kVectors, kTail>(d, b, tail, row);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; r++) {
      const V value = hn::Set(d, a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) acc[r][v] = hn::MulAdd(value, row[v], acc[r][v]);
    }
    a += lda;
    b += ldb;
  }
  end_tile<kRows, kVectors, kTail>(d, acc, tail, c, ldc);
}

// All rows of C over one panel of `kVectors` vectors, `cols` of its columns real.
template <int kVectors, typename T>
HWY_ATTR void panel_packed(int64_t m, int64_t k, const T* a, int64_t lda, const T* b, int64_t cols, const T* bias,
                           bool add, T* c, int64_t ldc) {
  constexpr int kRows = kTileRows[kVectors];
  const int64_t width = kVectors * lanes_of(T());
  const bool whole = cols == width;
  const size_t tail = static_cast<size_t>(cols - (width - lanes_of(T())));
  const auto run = [&](auto rows, int64_t r) HWY_ATTR {
    constexpr int kR = decltype(rows)::value;
    if (whole) {
      tile_packed<kR, kVectors, false>(k, a + r * lda, lda, b, tail, bias, add, c + r * ldc, ldc);
    } else {
      tile_packed<kR, kVectors, true>(k, a + r * lda, lda, b, tail, bias, add, c + r * ldc, ldc);
    }
  };
  int64_t r = 0;
  for (; r + kRows <= m; r += kRows) run(std::integral_constant<int, kRows>(), r);
  for (; r + 4 <= m; r += 4) run(std::integral_constant<int, 4>(), r);
  for (; r < m; r++) run(std::integral_constant<int, 1>(), r);
}

template <int kVectors, typename T>
HWY_ATTR void panel_transposed(int64_t m, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                               int64_t cols, bool add, T* c, int64_t ldc) {
  constexpr int kRows = kTileRows[kVectors];
  const int64_t width = kVectors * lanes_of(T());
  const bool whole = cols == width;
  const size_t tail = static_cast<size_t>(cols - (width - lanes_of(T())));
  const auto run = [&](auto rows, int64_t r) HWY_ATTR {
    constexpr int kR = decltype(rows)::value;
    if (whole) {
      tile_transposed<kR, kVectors, false>(k, a + r, lda, b, ldb, tail, add, c + r * ldc, ldc);
    } else {
      tile_transposed<kR, kVectors, true>(k, a + r, lda, b, ldb, tail, add, c + r * ldc, ldc);
    }
  };
  int64_t r = 0;
  for (; r + kRows <= m; r += kRows) run(std::integral_constant<int, kRows>(), r);
  for (; r + 4 <= m; r += 4) run(std::integral_constant<int, 4>(), r);
  for (; r < m; r++) run(std::integral_constant<int, 1>(), r);
}

template <typename T>
HWY_ATTR void multiply_packed_block(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* packed,
                                    int64_t first, int64_t last, const T* bias, bool add, T* c, int64_t ldc) {
  const int64_t lanes = lanes_of(T());
  for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += kDepth) {
    const int64_t depth = HWY_MIN(kDepth, k - k0);
    for (int64_t j = first; j < last;) {
      const int vectors = panel_vectors(n - j, lanes);
      const int64_t width = vectors * lanes, cols = HWY_MIN(width, n - j);
      const T* b = packed + j * k + k0 * width;
      const T* start = bias && k0 == 0 ? bias + j : nullptr;
      const bool onto = add || k0 > 0;
      switch (vectors) {
        case 1:
          panel_packed<1>(m, depth, a + k0, lda, b, cols, start, onto, c + j, ldc);
          break;
        case 2:
          panel_packed<2>(m, depth, a + k0, lda, b, cols, start, onto, c + j, ldc);
          break;
        default:
          panel_packed<3>(m, depth, a + k0, lda, b, cols, start, onto, c + j, ldc);
      }
      j += width;
    }
  }
}

template <typename T>
HWY_ATTR void pack_block(const T* b, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, T* packed) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = first; j < last;) {
    const int64_t width = panel_vectors(n - j, lanes) * lanes, cols = HWY_MIN(width, n - j);
    T* to = packed + j * k;
    for (int64_t i = 0; i < k; i++, to += width) {
      const T* from = b + i * ldb + j;
      int64_t c = 0;
      for (; c + lanes <= cols; c += lanes) hn::StoreU(hn::LoadU(d, from + c), d, to + c);
      if (c < cols) hn::StoreU(simd::LoadTail(d, from + c, static_cast<size_t>(cols - c)), d, to + c);
    }
    j += width;
  }
}

template <typename T>
HWY_ATTR void pack_transposed_block(const T* b, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last,
                                    T* packed) {
  const int64_t lanes = lanes_of(T());
  for (int64_t j = first; j < last;) {
    const int64_t width = panel_vectors(n - j, lanes) * lanes, cols = HWY_MIN(width, n - j);
    T* const to = packed + j * k;
    for (int64_t c = 0; c < width; c += 4) {
      if (c + 4 > cols) {  // the edge and the padding behind it
        for (int64_t q = c; q < HWY_MIN(c + 4, width); q++) {
          for (int64_t i = 0; i < k; i++) to[i * width + q] = q < cols ? b[(j + q) * ldb + i] : T(0);
        }
        continue;
      }
      const T* const row = b + (j + c) * ldb;
      int64_t i = 0;
      if constexpr (sizeof(T) == 4 && HWY_MAX_BYTES >= 16) {
        const hn::CappedTag<T, 4> d;
        for (; hn::Lanes(d) == 4 && i + 4 <= k; i += 4) {
          const auto a0 = hn::LoadU(d, row + i), a1 = hn::LoadU(d, row + ldb + i);
          const auto a2 = hn::LoadU(d, row + 2 * ldb + i), a3 = hn::LoadU(d, row + 3 * ldb + i);
          const auto low02 = hn::InterleaveLower(d, a0, a2), low13 = hn::InterleaveLower(d, a1, a3);
          const auto high02 = hn::InterleaveUpper(d, a0, a2), high13 = hn::InterleaveUpper(d, a1, a3);
          T* const q = to + i * width + c;
          hn::StoreU(hn::InterleaveLower(d, low02, low13), d, q);
          hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, q + width);
          hn::StoreU(hn::InterleaveLower(d, high02, high13), d, q + 2 * width);
          hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, q + 3 * width);
        }
      }
      for (; i < k; i++) {
        for (int64_t q = 0; q < 4; q++) to[i * width + c + q] = row[q * ldb + i];
      }
    }
    j += width;
  }
}

template <typename T>
HWY_ATTR void multiply_transposed_block(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
                                        int64_t ldb, bool add, T* c, int64_t ldc) {
  const int64_t lanes = lanes_of(T());
  for (int64_t k0 = 0; k0 == 0 || k0 < k; k0 += kTransposedDepth) {
    const int64_t depth = HWY_MIN(kTransposedDepth, k - k0);
    const bool onto = add || k0 > 0;
    for (int64_t j = 0; j < n;) {
      const int vectors = panel_vectors(n - j, lanes);
      const int64_t width = vectors * lanes, cols = HWY_MIN(width, n - j);
      const T *a0 = a + k0 * lda, *b0 = b + k0 * ldb + j;
      switch (vectors) {
        case 1:
          panel_transposed<1>(m, depth, a0, lda, b0, ldb, cols, onto, c + j, ldc);
          break;
        case 2:
          panel_transposed<2>(m, depth, a0, lda, b0, ldb, cols, onto, c + j, ldc);
          break;
        default:
          panel_transposed<3>(m, depth, a0, lda, b0, ldb, cols, onto, c + j, ldc);
      }
      j += width;
    }
  }
}

#define ASPIS_PRODUCT_INSTANCE(T, suffix)                                                                       \
  HWY_ATTR void multiply_packed_##suffix(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda,              \
                                         const T* packed, int64_t first, int64_t last, const T* bias, bool add, \
                                         T* c, int64_t ldc) {                                                   \
    multiply_packed_block(m, n, k, a, lda, packed, first, last, bias, add, c, ldc);                             \
  }                                                                                                             \
  HWY_ATTR void multiply_transposed_##suffix(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda,          \
                                             const T* b, int64_t ldb, bool add, T* c, int64_t ldc) {            \
    multiply_transposed_block(m, n, k, a, lda, b, ldb, add, c, ldc);                                            \
  }                                                                                                             \
  HWY_ATTR void pack_##suffix(const T* b, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last,       \
                              T* packed) {                                                                      \
    pack_block(b, ldb, k, n, first, last, packed);                                                              \
  }                                                                                                             \
  HWY_ATTR void pack_transposed_##suffix(const T* b, int64_t ldb, int64_t k, int64_t n, int64_t first,          \
                                         int64_t last, T* packed) {                                             \
    pack_transposed_block(b, ldb, k, n, first, last, packed);                                                   \
  }
ASPIS_PRODUCT_INSTANCE(float, f32)
ASPIS_PRODUCT_INSTANCE(double, f64)
#undef ASPIS_PRODUCT_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
