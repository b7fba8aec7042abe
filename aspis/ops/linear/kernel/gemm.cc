#include "aspis/ops/linear/kernel/gemm.h"

#include <algorithm>
#include <string>
#include <vector>

#if defined(__APPLE__)
#include <Accelerate/Accelerate.h>
#else
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_version.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "aspis/base/error.h"

namespace aspis::kernel {
namespace {

#if !defined(__APPLE__)
// Keeps oneDNN on the calling thread while alive. Inside a team it is there
// already, unless the team is not libgomp's.
class OneThread {
 public:
#if defined(_OPENMP)
  OneThread() : outside_(!omp_in_parallel()) {
    if (!outside_) return;
    saved_ = omp_get_max_threads();
    if (saved_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (outside_ && saved_ != 1) omp_set_num_threads(saved_);
  }

 private:
  bool outside_;
  int saved_ = 1;
#else
  OneThread() {}
#endif
};
#endif

// Rows of C in fixed strips of k that stay in cache.
void gemm_loop(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double* A, int64_t lda,
               const double* B, int64_t ldb, double beta, double* C, int64_t ldc) {
  std::vector<double> columns;
  if (tb) {  // op(B) row by row, so that the innermost loop is over contiguous memory
    columns.resize(static_cast<size_t>(n * k));
    for (int64_t j = 0; j < n; j++) {
      for (int64_t p = 0; p < k; p++) columns[p * n + j] = B[j * ldb + p];
    }
    B = columns.data();
    ldb = n;
  }
  constexpr int64_t kStrip = 64;
  for (int64_t p0 = 0; p0 == 0 || p0 < k; p0 += kStrip) {
    const int64_t p1 = std::min(k, p0 + kStrip);
    for (int64_t i = 0; i < m; i++) {
      double* c = C + i * ldc;
      if (p0 == 0) {
        for (int64_t j = 0; j < n; j++) c[j] = beta == 0 ? 0 : beta * c[j];
      }
      for (int64_t p = p0; p < p1; p++) {
        const double a = alpha * (ta ? A[p * lda + i] : A[i * lda + p]);
        const double* b = B + p * ldb;
        for (int64_t j = 0; j < n; j++) c[j] += a * b[j];
      }
    }
  }
}

}  // namespace

void gemm(Transpose a, Transpose b, int64_t m, int64_t n, int64_t k, float alpha, const float* A, int64_t lda,
          const float* B, int64_t ldb, float beta, float* C, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  const bool ta = a == Transpose::kYes, tb = b == Transpose::kYes;
  if (k <= 0) {
    for (int64_t i = 0; i < m; i++) {
      for (int64_t j = 0; j < n; j++) C[i * ldc + j] = beta == 0 ? 0 : beta * C[i * ldc + j];
    }
    return;
  }
  // The libraries check lda against the length of a row even where there is only one.
  lda = std::max(lda, ta ? m : k);
  ldb = std::max(ldb, tb ? k : n);
  ldc = std::max(ldc, n);
#if defined(__APPLE__)
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), alpha, A, static_cast<int>(lda), B, static_cast<int>(ldb),
              beta, C, static_cast<int>(ldc));
#else
  const OneThread guard;
  const dnnl_status_t status =
      dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
  if (status != dnnl_success) {
    throw Error(status == dnnl_out_of_memory ? ErrorKind::kDevice : ErrorKind::kRuntime,
                {.where = "linear",
                 .required = "the matrix product of " + std::to_string(m) + " x " + std::to_string(k) + " x " +
                             std::to_string(n) + " must be computed by oneDNN",
                 .got = "status " + std::to_string(static_cast<int>(status))});
  }
#endif
}

void gemm(Transpose a, Transpose b, int64_t m, int64_t n, int64_t k, double alpha, const double* A, int64_t lda,
          const double* B, int64_t ldb, double beta, double* C, int64_t ldc) {
  if (m <= 0 || n <= 0) return;
  gemm_loop(a == Transpose::kYes, b == Transpose::kYes, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc);
}

const char* gemm_provider() {
#if defined(__APPLE__)
  return "Accelerate";
#else
  static const std::string name = [] {
    const dnnl_version_t* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
  }();
  return name.c_str();
#endif
}

bool gemm_rows_are_independent() {
#if defined(__APPLE__)
  return false;
#else
  return (static_cast<int>(dnnl_get_effective_cpu_isa()) & static_cast<int>(dnnl_cpu_isa_avx512_core)) ==
         static_cast<int>(dnnl_cpu_isa_avx512_core);
#endif
}

}  // namespace aspis::kernel
