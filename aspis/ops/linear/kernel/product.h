#pragma once

#include <cstdint>

/// Own matrix products for one thread, T float or double. Every element of C is
/// a chain of multiply-adds over k in order, whatever the sizes, so the bits of
/// a row depend on neither the number of rows nor the place of the call.
namespace aspis::kernel {

/// Columns of B may be cut at multiples of this, with at least this many left.
constexpr int64_t kPanelCut = 64;

/// Values that B {k, n} takes packed.
int64_t packed_size(int64_t k, int64_t n);

/// Packs columns [first, last) of B {k, n} (rows at distance ldb) into panels
/// as wide as the registers allow; `first` and `last` are cuts as above, or n.
template <typename T>
void pack(const T* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, T* packed);

/// The same from B^T {n, k} (rows at distance ldb).
template <typename T>
void pack_transposed(const T* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, T* packed);

/// C {m, columns first .. last of n} = A {m, k} B + bias, B packed; added to C
/// instead of the bias if `add`. The bias may be null. C points at column 0.
template <typename T>
void multiply_packed(int64_t m, int64_t n, int64_t k, const T* A, int64_t lda, const T* packed, int64_t first,
                     int64_t last, const T* bias, bool add, T* C, int64_t ldc);

/// C {m, n} = A^T B, added to C if `add`, from A {k, m} and B {k, n} as they are;
/// a few hundred columns of each at a time are what the caches like.
template <typename T>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const T* A, int64_t lda, const T* B, int64_t ldb,
                         bool add, T* C, int64_t ldc);

}  // namespace aspis::kernel
