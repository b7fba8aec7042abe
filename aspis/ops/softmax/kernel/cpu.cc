#include "aspis/ops/softmax/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/softmax/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/softmax/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;
constexpr int64_t kLongRow = 1 << 16;
constexpr int64_t kPiece = 1 << 14;

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  void (*row)(const S*, S*, int64_t, bool, const S*);
  void (*piece)(const S*, int64_t, T*, T*);
  void (*write)(const S*, S*, int64_t, T, T, bool);
  T (*dot)(const S*, const S*, int64_t, bool, bool);
  void (*vjp_write)(const S*, const S*, S*, int64_t, T, bool);
};

#define ASPIS_FUNCTIONS(S, suffix)                                                                      \
  HWY_EXPORT(softmax_row_##suffix);                                                                     \
  HWY_EXPORT(softmax_piece_##suffix);                                                                   \
  HWY_EXPORT(softmax_write_##suffix);                                                                   \
  HWY_EXPORT(softmax_dot_##suffix);                                                                     \
  HWY_EXPORT(softmax_vjp_write_##suffix);                                                               \
  Functions<S> functions(S) {                                                                           \
    return {&HWY_DYNAMIC_DISPATCH(softmax_row_##suffix), &HWY_DYNAMIC_DISPATCH(softmax_piece_##suffix), \
            &HWY_DYNAMIC_DISPATCH(softmax_write_##suffix), &HWY_DYNAMIC_DISPATCH(softmax_dot_##suffix), \
            &HWY_DYNAMIC_DISPATCH(softmax_vjp_write_##suffix)};                                         \
  }
ASPIS_FUNCTIONS(float, f32)
ASPIS_FUNCTIONS(double, f64)
ASPIS_FUNCTIONS(Bf16, bf16)
#undef ASPIS_FUNCTIONS

HWY_EXPORT(softmax_vjp_row_bf16);
constexpr int64_t kBuffered = 4096;  // kSoftmaxBuffer of every target

// Calls task(row) for blocks of whole rows.
template <typename Task>
void for_rows(int64_t rows, int64_t length, Task task) {
  const int64_t per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(length, 1));
  parallel_for(div_ceil(rows, per_task), [&](int64_t block) {
    const int64_t last = std::min(rows, (block + 1) * per_task);
    for (int64_t r = block * per_task; r < last; r++) task(r);
  });
}

// Calls task(piece index, row, offset, count) for all pieces of all rows.
template <typename Task>
void for_pieces(int64_t rows, int64_t length, Task task) {
  const int64_t pieces = div_ceil(length, kPiece);
  parallel_for(rows * pieces, [&](int64_t i) {
    const int64_t offset = i % pieces * kPiece;
    task(i, i / pieces, offset, std::min(kPiece, length - offset));
  });
}

template <typename S, typename T = Arithmetic<S>>
void softmax_long_rows(const SoftmaxParams<S>& p, const Functions<S>& f) {
  const int64_t pieces = div_ceil(p.length, kPiece);
  std::vector<T> tops(p.rows * pieces), sums(p.rows * pieces);
  for_pieces(p.rows, p.length, [&](int64_t i, int64_t r, int64_t offset, int64_t n) {
    f.piece(p.x + r * p.x_stride + offset, n, &tops[i], &sums[i]);
  });
  std::vector<T> row_top(p.rows), row_sum(p.rows);
  for (int64_t r = 0; r < p.rows; r++) {
    const T* top = &tops[r * pieces];
    const T best = *std::max_element(top, top + pieces);
    double sum = 0;
    for (int64_t k = 0; k < pieces; k++) {
      sum += static_cast<double>(sums[r * pieces + k]) * std::exp(static_cast<double>(top[k] - best));
    }
    row_top[r] = best;
    row_sum[r] = static_cast<T>(sum);
  }
  for_pieces(p.rows, p.length, [&](int64_t, int64_t r, int64_t offset, int64_t n) {
    f.write(p.x + r * p.x_stride + offset, p.y + r * p.length + offset, n, row_top[r], row_sum[r], p.logarithm);
  });
}

template <typename S, typename T = Arithmetic<S>>
void softmax_vjp_long_rows(const SoftmaxVjpParams<S>& p, const Functions<S>& f) {
  const int64_t pieces = div_ceil(p.length, kPiece);
  std::vector<T> dots(p.rows * pieces);
  for_pieces(p.rows, p.length, [&](int64_t i, int64_t r, int64_t offset, int64_t n) {
    dots[i] = f.dot(p.y + r * p.y_stride + offset, p.dy + r * p.dy_stride + offset, n, p.logarithm, false);
  });
  std::vector<T> row_dot(p.rows);
  for (int64_t r = 0; r < p.rows; r++) {
    double sum = 0;
    for (int64_t k = 0; k < pieces; k++) sum += static_cast<double>(dots[r * pieces + k]);
    row_dot[r] = static_cast<T>(sum);
  }
  for_pieces(p.rows, p.length, [&](int64_t, int64_t r, int64_t offset, int64_t n) {
    f.vjp_write(p.y + r * p.y_stride + offset, p.dy + r * p.dy_stride + offset, p.dx + r * p.length + offset, n,
                row_dot[r], p.logarithm);
  });
}

template <typename S, typename T = Arithmetic<S>>
void run_softmax(const SoftmaxParams<S>& p) {
  const Functions<S> f = functions(S{});
  if (p.length > kLongRow) return softmax_long_rows(p, f);
  for_rows(p.rows, p.length, [&](int64_t r) {
    f.row(p.x + r * p.x_stride, p.y + r * p.length, p.length, p.logarithm,
          p.x + std::min(r + 1, p.rows - 1) * p.x_stride);
  });
}

template <typename S, typename T = Arithmetic<S>>
void run_softmax_vjp(const SoftmaxVjpParams<S>& p) {
  const Functions<S> f = functions(S{});
  if (p.length > kLongRow) return softmax_vjp_long_rows(p, f);
  if constexpr (std::is_same_v<S, Bf16>) {
    if (p.x && !p.logarithm && p.length <= kBuffered) {
      const auto run = &HWY_DYNAMIC_DISPATCH(softmax_vjp_row_bf16);
      return for_rows(p.rows, p.length, [&](int64_t r) {
        run(p.x + r * p.x_stride, p.dy + r * p.dy_stride, p.dx + r * p.length, p.length);
      });
    }
  }
  for_rows(p.rows, p.length, [&](int64_t r) {
    const S *y = p.y + r * p.y_stride, *dy = p.dy + r * p.dy_stride;
    f.vjp_write(y, dy, p.dx + r * p.length, p.length, f.dot(y, dy, p.length, p.logarithm, true), p.logarithm);
  });
}

}  // namespace

#define ASPIS_INSTANCE(S)                          \
  template <>                                      \
  void softmax(const SoftmaxParams<S>& p) {        \
    run_softmax(p);                                \
  }                                                \
  template <>                                      \
  void softmax_vjp(const SoftmaxVjpParams<S>& p) { \
    run_softmax_vjp(p);                            \
  }
ASPIS_INSTANCE(float)
ASPIS_INSTANCE(double)
ASPIS_INSTANCE(Bf16)
#undef ASPIS_INSTANCE

}  // namespace aspis::kernel
#endif
