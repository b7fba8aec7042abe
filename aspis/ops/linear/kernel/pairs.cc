#include "aspis/ops/linear/kernel/pairs.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <hwy/base.h>

#include "aspis/base/error.h"

namespace aspis::kernel {
namespace {

constexpr int64_t kLanes = 16;

// Columns of the panel that begins where `left` are left.
int64_t panel_width(int64_t left) { return left > kLanes ? 2 * kLanes : kLanes; }

}  // namespace

int64_t pairs_size(int64_t k, int64_t n) { return (n + kLanes - 1) / kLanes * kLanes * ((k + 1) / 2); }

}  // namespace aspis::kernel

#if defined(__x86_64__)
HWY_PUSH_ATTRIBUTES("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace aspis::kernel {
namespace {

// Two neighbouring values at any address.
typedef int32_t __attribute__((may_alias, aligned(2))) Word;

inline __m512i broadcast(const void* p) { return _mm512_set1_epi32(*static_cast<const Word*>(p)); }

inline __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }

inline __mmask16 mask_of(int64_t n) { return static_cast<__mmask16>(n >= kLanes ? 0xffffu : (1u << n) - 1u); }

// kRows rows of C over one panel; `a(r, i)` is the pair i of row r.
template <int kRows, int kVectors, bool kTransposed, typename C>
inline void tile(int64_t pairs, bool odd, const void* from, int64_t lda, const uint32_t* b, int64_t ldb,
                 const float* bias, bool add, __mmask16 last, C* c, int64_t ldc) {
  constexpr bool kHalf = std::is_same_v<C, Bf16>;
  __m512 acc[kRows][kVectors];
  __mmask16 mask[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; v++) mask[v] = v + 1 == kVectors ? last : mask_of(kLanes);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) {
      const float* start = bias ? bias + v * kLanes : nullptr;
      if constexpr (!kHalf) start = add ? c + r * ldc + v * kLanes : start;
      acc[r][v] = start ? _mm512_maskz_loadu_ps(mask[v], start) : _mm512_setzero_ps();
    }
  }
  if constexpr (kTransposed) {
    const uint32_t* a = static_cast<const uint32_t*>(from);
    for (int64_t i = 0; i < pairs; i++, a += lda, b += ldb) {
      __m512i row[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) row[v] = _mm512_maskz_loadu_epi32(mask[v], b + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        const __m512i value = broadcast(a + r);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) acc[r][v] = dot(acc[r][v], value, row[v]);
      }
    }
  } else {
    // A pointer for three rows, as in product-inl.h.
    constexpr int kPointers = (kRows + 2) / 3;
    const Bf16* p[kPointers];
#pragma GCC unroll 4
    for (int q = 0; q < kPointers; q++) p[q] = static_cast<const Bf16*>(from) + 3 * q * lda;
    for (int64_t i = 0; i < pairs; i++, b += ldb) {
      __m512i row[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v++) row[v] = _mm512_loadu_si512(b + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; r++) {
        const __m512i value = broadcast(p[r / 3] + (r % 3) * lda);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) acc[r][v] = dot(acc[r][v], value, row[v]);
      }
#pragma GCC unroll 4
      for (int q = 0; q < kPointers; q++) p[q] += 2;
    }
    if (odd) {
      for (int r = 0; r < kRows; r++) {
        const __m512i value = _mm512_set1_epi32(static_cast<int>(p[r / 3][(r % 3) * lda].bits));
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) {
          acc[r][v] = dot(acc[r][v], value, _mm512_loadu_si512(b + v * kLanes));
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) {
      if constexpr (kHalf) {
        _mm256_mask_storeu_epi16(c + r * ldc + v * kLanes, mask[v], (__m256i)_mm512_cvtneps_pbh(acc[r][v]));
      } else {
        _mm512_mask_storeu_ps(c + r * ldc + v * kLanes, mask[v], acc[r][v]);
      }
    }
  }
}

template <int kVectors, bool kTransposed, typename C>
void panel(int64_t m, int64_t pairs, bool odd, const void* a, int64_t lda, const uint32_t* b, int64_t ldb,
           const float* bias, bool add, __mmask16 last, C* c, int64_t ldc) {
  const auto at = [&](int64_t r) -> const void* {
    if constexpr (kTransposed) {
      return static_cast<const uint32_t*>(a) + r;
    } else {
      return static_cast<const Bf16*>(a) + r * lda;
    }
  };
  int64_t r = 0;
  for (; r + 12 <= m; r += 12)
    tile<12, kVectors, kTransposed>(pairs, odd, at(r), lda, b, ldb, bias, add, last, c + r * ldc, ldc);
  for (; r + 4 <= m; r += 4)
    tile<4, kVectors, kTransposed>(pairs, odd, at(r), lda, b, ldb, bias, add, last, c + r * ldc, ldc);
  for (; r < m; r++)
    tile<1, kVectors, kTransposed>(pairs, odd, at(r), lda, b, ldb, bias, add, last, c + r * ldc, ldc);
}

// Words of row 0 and row 1 (or zeros) side by side: 32 columns from 2 x 32 values.
inline void interleave_32(const uint16_t* row0, const uint16_t* row1, __mmask32 mask, uint32_t* to, __mmask16 low,
                          __mmask16 high) {
  static const uint16_t order[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                     8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                     16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                     24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
  const __m512i a = _mm512_maskz_loadu_epi16(mask, row0);
  const __m512i b = row1 ? _mm512_maskz_loadu_epi16(mask, row1) : _mm512_setzero_si512();
  const __m512i first = _mm512_loadu_si512(order), second = _mm512_loadu_si512(order + 32);
  _mm512_mask_storeu_epi32(to, low, _mm512_permutex2var_epi16(a, first, b));
  _mm512_mask_storeu_epi32(to + kLanes, high, _mm512_permutex2var_epi16(a, second, b));
}

inline __mmask32 mask32_of(int64_t n) { return n >= 32 ? 0xffffffffu : (1u << n) - 1u; }

template <typename T>
void multiply(int64_t m, int64_t n, int64_t k, const Bf16* A, int64_t lda, const uint32_t* packed, int64_t first,
              int64_t last, const float* bias, T* C, int64_t ldc) {
  const int64_t words = (k + 1) / 2;
  for (int64_t j = first; j < last;) {
    const int64_t width = panel_width(n - j), cols = std::min(width, n - j);
    const float* const start = bias ? bias + j : nullptr;
    const uint32_t* const b = packed + j * words;
    T* const c = C + j - first;
    if (width > kLanes) {
      panel<2, false>(m, k / 2, k % 2 != 0, A, lda, b, width, start, false, mask_of(cols - kLanes), c, ldc);
    } else {
      panel<1, false>(m, k / 2, k % 2 != 0, A, lda, b, width, start, false, mask_of(cols), c, ldc);
    }
    j += width;
  }
}

}  // namespace

void pack_pairs(const Bf16* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, uint32_t* packed) {
  const int64_t words = (k + 1) / 2;
  for (int64_t j = first; j < last;) {
    const int64_t width = panel_width(n - j), cols = std::min(width, n - j);
    uint32_t* to = packed + j * words;
    const uint16_t* from = &B[j - first].bits;
    const __mmask16 high = width > kLanes ? mask_of(kLanes) : 0;
    for (int64_t i = 0; i < k; i += 2, from += 2 * ldb, to += width) {
      interleave_32(from, i + 1 < k ? from + ldb : nullptr, mask32_of(cols), to, mask_of(kLanes), high);
    }
    j += width;
  }
}

void pack_pairs_transposed(const Bf16* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last,
                           uint32_t* packed) {
  const int64_t words = (k + 1) / 2, whole = k / 2;
  for (int64_t j = first; j < last;) {
    const int64_t width = panel_width(n - j), cols = std::min(width, n - j);
    uint32_t* const to = packed + j * words;
    for (int64_t c = 0; c < width; c += 4) {
      const Bf16* const row = B + (j - first + c) * ldb;
      int64_t i = 0;
      if (c + 4 <= cols) {
        const auto load = [&](int64_t q) {
          return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + q * ldb + 2 * i));
        };
        const auto store = [&](int64_t q, __m128i v) {
          _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (i + q) * width + c), v);
        };
        for (; i + 4 <= whole; i += 4) {
          const __m128i a0 = load(0), a1 = load(1), a2 = load(2), a3 = load(3);
          const __m128i low02 = _mm_unpacklo_epi32(a0, a2), low13 = _mm_unpacklo_epi32(a1, a3);
          const __m128i high02 = _mm_unpackhi_epi32(a0, a2), high13 = _mm_unpackhi_epi32(a1, a3);
          store(0, _mm_unpacklo_epi32(low02, low13));
          store(1, _mm_unpackhi_epi32(low02, low13));
          store(2, _mm_unpacklo_epi32(high02, high13));
          store(3, _mm_unpackhi_epi32(high02, high13));
        }
      }
      for (; i < words; i++) {
        for (int64_t q = c; q < c + 4; q++) {
          uint32_t word = 0;
          if (q < cols) std::memcpy(&word, row + (q - c) * ldb + 2 * i, i < whole ? 4 : 2);
          to[i * width + q] = word;
        }
      }
    }
    j += width;
  }
}

void multiply_pairs(int64_t m, int64_t n, int64_t k, const Bf16* A, int64_t lda, const uint32_t* packed,
                    int64_t first, int64_t last, const float* bias, float* C, int64_t ldc) {
  multiply(m, n, k, A, lda, packed, first, last, bias, C, ldc);
}
void multiply_pairs(int64_t m, int64_t n, int64_t k, const Bf16* A, int64_t lda, const uint32_t* packed,
                    int64_t first, int64_t last, const float* bias, Bf16* C, int64_t ldc) {
  multiply(m, n, k, A, lda, packed, first, last, bias, C, ldc);
}

void interleave(const Bf16* from, int64_t stride, int64_t rows, int64_t columns, uint32_t* to) {
  for (int64_t r = 0; r < rows; r += 2, to += columns) {
    const uint16_t* const row0 = &from[r * stride].bits;
    const uint16_t* const row1 = r + 1 < rows ? row0 + stride : nullptr;
    for (int64_t c = 0; c < columns; c += 32) {
      const int64_t left = columns - c;
      interleave_32(row0 + c, row1 ? row1 + c : nullptr, mask32_of(left), to + c, mask_of(left),
                    left > kLanes ? mask_of(left - kLanes) : 0);
    }
  }
}

void multiply_pairs_transposed(int64_t m, int64_t n, int64_t pairs, const uint32_t* A, const uint32_t* B, bool add,
                               float* C, int64_t ldc) {
  for (int64_t j = 0; j < n;) {
    const int64_t width = panel_width(n - j), cols = std::min(width, n - j);
    if (width > kLanes) {
      panel<2, true>(m, pairs, false, A, m, B + j, n, nullptr, add, mask_of(cols - kLanes), C + j, ldc);
    } else {
      panel<1, true>(m, pairs, false, A, m, B + j, n, nullptr, add, mask_of(cols), C + j, ldc);
    }
    j += width;
  }
}

}  // namespace aspis::kernel
HWY_POP_ATTRIBUTES

#else

// Never called: bf16_units() is false here.
namespace aspis::kernel {
namespace {
[[noreturn]] void no_units() {
  throw Error(ErrorKind::kRuntime, {.where = "linear",
                                    .required = "products of bfloat16 pairs need AVX-512 with bf16",
                                    .got = "another instruction set"});
}
}  // namespace
void pack_pairs(const Bf16*, int64_t, int64_t, int64_t, int64_t, int64_t, uint32_t*) { no_units(); }
void pack_pairs_transposed(const Bf16*, int64_t, int64_t, int64_t, int64_t, int64_t, uint32_t*) { no_units(); }
void multiply_pairs(int64_t, int64_t, int64_t, const Bf16*, int64_t, const uint32_t*, int64_t, int64_t,
                    const float*, float*, int64_t) {
  no_units();
}
void multiply_pairs(int64_t, int64_t, int64_t, const Bf16*, int64_t, const uint32_t*, int64_t, int64_t,
                    const float*, Bf16*, int64_t) {
  no_units();
}
void interleave(const Bf16*, int64_t, int64_t, int64_t, uint32_t*) { no_units(); }
void multiply_pairs_transposed(int64_t, int64_t, int64_t, const uint32_t*, const uint32_t*, bool, float*,
                               int64_t) {
  no_units();
}
}  // namespace aspis::kernel
#endif
