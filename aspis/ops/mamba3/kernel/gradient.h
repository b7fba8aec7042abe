#pragma once

#include <cstdint>

#include "aspis/ops/mamba3/kernel/params.h"

/// Loops of the gradient over one chunk of one head, apart from its products. A
/// chunk has `rows` rows (tokens times rank); keys and queries stand as {N, stride},
/// a column for each row, so that a pair of values turns as two vectors.
namespace aspis::kernel {

/// Keys and queries of a chunk and what they are made from. Columns behind the last
/// row are worked on too and hold numbers.
template <typename T>
struct TurnedChunk {
  int64_t state = 0, angles = 0, stride = 0;
  int64_t period = 0;  ///< columns after which biases repeat, a multiple of 16
  bool adjacent = true;
  const T *cosine = nullptr, *sine = nullptr;    ///< {S, stride}
  const T *B = nullptr, *C = nullptr;            ///< {N, stride} of the group
  const T *B_bias = nullptr, *C_bias = nullptr;  ///< null or {N, period}
  T *k = nullptr, *q = nullptr;                  ///< {N, stride}
  const T *dk = nullptr, *dq = nullptr;          ///< {N, stride}
  bool fresh = false;                            ///< dB and dC hold nothing yet
  T *dB = nullptr, *dC = nullptr;                ///< {N, stride}, added to
  T *dB_bias = nullptr, *dC_bias = nullptr;      ///< null or {N, period}, added to
  T* dphi = nullptr;                             ///< {S, stride}
};

/// The square of a chunk, row s over column t. Of row s only the columns from
/// s / block * block on are there; no token lies across the border of a block.

template <typename T>
struct WeighedSquare {
  int64_t rows = 0, stride = 0, rank = 1, block = 0;
  const T* sums = nullptr;             ///< {stride} running sums of log
  const T* token = nullptr;            ///< {stride} the token of a row
  const T *w = nullptr, *g = nullptr;  ///< {rows}
  T* scores = nullptr;                 ///< in: k_s q_t; out: what v_s has in y_t
  T* dscores = nullptr;                ///< in: v_s dy_t; out: the gradient of the scores
  T *dw = nullptr, *dg = nullptr;      ///< {rows}
  T* dlog = nullptr;                   ///< {tokens + 1}: of pairs of tokens around each
  T* column = nullptr;                 ///< {stride} scratch
};

template <typename T>
struct GradientLoops {
  /// to {columns, padded} = from {rows, columns}^T, zeros behind column `rows`.
  void (*transpose)(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride,
                    int64_t padded);
  /// phi {S} over n tokens as in `mamba3_phase`; every one is written to `rows` `rank`
  /// times if that is not null. turns {n, S}.
  void (*advance)(int64_t n, int64_t angles, int64_t rank, const T* dt, int64_t dt_stride, const T* turns, T* phi,
                  T* rows);
  /// Fills k and q.
  void (*make)(const TurnedChunk<T>& c);
  /// From dk and dq to the gradients of what they were made from.
  void (*turn_back)(const TurnedChunk<T>& c);
  void (*weigh)(const WeighedSquare<T>& w);
  /// x_ij = scale_j x_ij; dots_j = sum over i of x_ij y_ij.
  void (*scale_columns)(int64_t n, int64_t stride, const T* scale, T* x, const T* y, T* dots);
  /// x = scale x; returns the product of the old x and y.
  T (*scale_and_dot)(int64_t n, T scale, T* x, const T* y);
  /// Back through the phases of n tokens, the last first: later {S} += dphi, ddt =
  /// later turns, dangle {n, S} += dt later (= instead, if fresh). dphi {n rank, S}.
  void (*phase_back)(int64_t n, int64_t angles, int64_t rank, const T* dphi, const T* turns, const T* dt, T* ddt,
                     int64_t dt_stride, bool fresh, T* later, T* dangle);
};

template <typename T>
const GradientLoops<T>& gradient_loops();

}  // namespace aspis::kernel
