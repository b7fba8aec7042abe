#pragma once

#include <cstdint>

namespace aspis::kernel {

enum class Transpose : bool { kNo = false, kYes = true };

/// C = alpha op(A) op(B) + beta C, row-major, on the calling thread alone.
///
/// op(A) is {m, k}, op(B) {k, n}, C {m, n}; a leading dimension is the distance
/// between stored rows and at least the length of one (A is stored {k, m} when
/// `a` is kYes). With beta = 0, C is not read. float goes to oneDNN
/// (Accelerate on Apple), double through a simple loop of our own, which is for
/// gradient checks. The library's own threads are never used: it would split
/// the work by their number. Nothing is allocated that outlives the call.
void gemm(Transpose a, Transpose b, int64_t m, int64_t n, int64_t k, float alpha, const float* A, int64_t lda,
          const float* B, int64_t ldb, float beta, float* C, int64_t ldc);
void gemm(Transpose a, Transpose b, int64_t m, int64_t n, int64_t k, double alpha, const double* A, int64_t lda,
          const double* B, int64_t ldb, double beta, double* C, int64_t ldc);

/// "oneDNN 2.6.3" or "Accelerate".
const char* gemm_provider();

/// True if row i of C depends on row i of A alone, bit for bit, whatever m is
/// (m >= 16). Tested for oneDNN on AVX-512; its AVX2 code treats the last rows
/// of a call differently.
bool gemm_rows_are_independent();

}  // namespace aspis::kernel
