#pragma once

#include <cstdint>

#include "aspis/ops/ssd/kernel/params.h"

/// The forward pass with the state in registers.
///
/// The recurrence token by token takes three instructions for five operations:
/// h = a h, h += B x, y += C h. Eight tokens at a time the decay of the state is
/// applied once, y reads the state that enters and what the tokens give each
/// other is added apart (36 products of B and C shared by all heads of a group),
/// so that 17 instructions do the work of 24.
namespace aspis::kernel {

constexpr int64_t kSpan = 8;        ///< tokens that are worked on together
constexpr int64_t kStateTile = 16;  ///< states of a tile
constexpr int64_t kBlockSpans = 4;  ///< spans for which a tile stays in registers
constexpr int64_t kWidthUnit = 16;  ///< rows are padded to multiples of this, the most lanes there are

/// Rows that will be needed: those of a head lie pages apart, which hardware
/// prefetching does not follow, and asking for all at once would stall.
template <typename T>
struct Ahead {
  const T* rows = nullptr;
  int64_t count = 0, stride = 0;
};

/// x of a block as dense rows, and weighted by what a token gives to the state
/// that leaves its span.
template <typename T>
struct SpanInput {
  int64_t tokens = 0, padded = 0;  ///< rows, with those of zeros behind them
  int64_t headdim = 0, width = 0, stride = 0;
  const T* x = nullptr;                ///< {tokens, headdim} at distance `stride`
  const T* parts = nullptr;            ///< {tokens}
  const bool* gives = nullptr;         ///< {tokens} false: zero whatever x is
  T *own = nullptr, *given = nullptr;  ///< {padded, width}
};

/// One head over some spans; everything is padded with zeros. `tiles` of the `states`:
/// B and C are {spans, tiles, kSpan, kStateTile}.
template <typename T>
struct SpanBlock {
  int64_t spans = 0, tiles = 0, states = 0, headdim = 0, width = 0;
  const T *B = nullptr, *C = nullptr;
  const T* through = nullptr;   ///< {spans} decay of the state over the span
  const bool* fresh = nullptr;  ///< {spans} the state that enters does not reach the end: zero instead
  const T* given = nullptr;     ///< {spans kSpan, width} x weighted by its part in the state that leaves
  T* state = nullptr;           ///< {tiles kStateTile, width}
  T* y = nullptr;               ///< {spans kSpan, width} = C (state entering the span)
  Ahead<T> ahead[4] = {};
};

/// The output of the tokens of one span. What they give each other is added to
/// the sums of y: into_k y_k + sum over s in [start_k, k] of weights(k, s) x_s;
/// then D x and the gate, if they are there.
template <typename T>
struct SpanOutput {
  int64_t tokens = 0, headdim = 0, width = 0;
  const T* into = nullptr;             ///< {kSpan}
  const bool* reached = nullptr;       ///< {kSpan} whether the entering state counts
  const int64_t* start = nullptr;      ///< {kSpan}
  const T* weights = nullptr;          ///< {kSpan, kSpan}
  const T *x = nullptr, *y = nullptr;  ///< {kSpan, width}
  const T* D = nullptr;                ///< null, one value or {headdim}
  bool channel_D = false;
  const T* z = nullptr;  ///< null or {tokens, headdim} at distance z_stride
  int64_t z_stride = 0;
  T *out = nullptr, *before_gate = nullptr;  ///< {tokens, headdim} at distance out_stride; the latter may be null
  int64_t out_stride = 0;
  const int64_t* last = nullptr;  ///< {kSpan} where the sum over s ends, if that is not k
};

template <typename T>
struct SpanLoops {
  void (*input)(const SpanInput<T>&);
  void (*block)(const SpanBlock<T>&);
  void (*output)(const SpanOutput<T>&);
};

/// The loops of the present instruction set.
template <typename T>
const SpanLoops<T>& span_loops();

/// Forward pass of `ssd` (cpu.h) in this form; keeps the states before each chunk if asked.
template <typename T>
void ssd_recurrence(const SsdParams<T>& p);
int64_t ssd_recurrence_workspace(const SsdShape& s);

}  // namespace aspis::kernel
