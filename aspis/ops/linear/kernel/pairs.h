#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

/// Matrix products of bfloat16 with sums in float32 by the units for pairs
/// (vdpbf16ps), for one thread; only where `bf16_units()` says so.
///
/// Each element of C is one chain over pairs of k in order, whatever the sizes,
/// so its bits depend on neither the number of rows nor the place of the call.
/// The unit adds two products at a time, takes denormal numbers as zero and
/// flushes results to zero, so a float32 product of the same values has other bits.
namespace aspis::kernel {

/// 32-bit words that B {k, n} takes packed: two values of k in each.
int64_t pairs_size(int64_t k, int64_t n);

/// Packs columns [first, last) of B {k, n}, cut as in product.h. B points at
/// column `first`, its rows lie at distance ldb.
void pack_pairs(const Bf16* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, uint32_t* packed);
/// The same from B^T {n, k}, pointing at row `first`.
void pack_pairs_transposed(const Bf16* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last,
                           uint32_t* packed);

/// C {m, columns first .. last of n} = A {m, k} B + bias; C points at column
/// `first`, the bias (or null) at column 0.
void multiply_pairs(int64_t m, int64_t n, int64_t k, const Bf16* A, int64_t lda, const uint32_t* packed,
                    int64_t first, int64_t last, const float* bias, float* C, int64_t ldc);
/// The same with C rounded to bfloat16 on the way to memory.
void multiply_pairs(int64_t m, int64_t n, int64_t k, const Bf16* A, int64_t lda, const uint32_t* packed,
                    int64_t first, int64_t last, const float* bias, Bf16* C, int64_t ldc);

/// to {(rows + 1) / 2, columns}: values of two rows below each other side by side, an odd
/// last one beside zeros.
void interleave(const Bf16* from, int64_t stride, int64_t rows, int64_t columns, uint32_t* to);

/// C {m, n} = A^T B, added to C if `add`, from interleaved A {pairs, m} and B {pairs, n}.
void multiply_pairs_transposed(int64_t m, int64_t n, int64_t pairs, const uint32_t* A, const uint32_t* B, bool add,
                               float* C, int64_t ldc);

}  // namespace aspis::kernel
