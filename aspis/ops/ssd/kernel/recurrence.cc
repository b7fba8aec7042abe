#include "aspis/ops/ssd/kernel/recurrence.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/ssd/kernel/chunk.h"
#include "aspis/ops/ssd/kernel/parts.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/ssd/kernel/recurrence.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/ssd/kernel/recurrence-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(fill_span_loops);

template <typename T>
const SpanLoops<T>& span_loops() {
  struct Tables {
    decltype(&HWY_STATIC_DISPATCH(fill_span_loops)) made_by = nullptr;
    SpanLoops<float> single;
    SpanLoops<double> wide;
  };
  thread_local Tables tables;
  const auto fill = HWY_DYNAMIC_DISPATCH(fill_span_loops);
  if (tables.made_by != fill) {
    fill(tables.single, tables.wide);
    tables.made_by = fill;
  }
  if constexpr (std::is_same_v<T, float>) {
    return tables.single;
  } else {
    return tables.wide;
  }
}

template const SpanLoops<float>& span_loops();
template const SpanLoops<double>& span_loops();

namespace {

using namespace ssd_parts;

constexpr int64_t kSquare = kSpan * kSpan;

int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
int64_t width_of(const SsdShape& s) { return round_up(s.headdim, kWidthUnit); }
int64_t tiles_of(const SsdShape& s) { return div_ceil(s.state, kStateTile); }
int64_t held_size(const SsdShape& s) { return tiles_of(s) * kStateTile * width_of(s); }
// What the heads of a group share: B and C in tiles, and for each span the
// products weights(k, s) = C_k B_s. Parts for up to `spans` spans.
template <typename T>
struct Shared {
  T *B, *C, *products;
};
int64_t tiles_size(const SsdShape& s) { return tiles_of(s) * kSpan * kStateTile; }

template <typename T>
Shared<T> shared_of(const SsdShape& s, int64_t spans, T* memory) {
  return {memory, memory + spans * tiles_size(s), memory + 2 * spans * tiles_size(s)};
}
int64_t shared_size(const SsdShape& s, int64_t spans) { return spans * (2 * tiles_size(s) + kSquare); }

// Spans between two meetings of the team: few enough that what the heads of a
// group share stays in the second cache, and that many sequences fit into memory.
int64_t stage_spans(const SsdShape& s) {
  return std::clamp<int64_t>(64 / std::max<int64_t>(1, s.rows()) * kBlockSpans, kBlockSpans, 8 * kBlockSpans);
}

// A span never crosses the border of a chunk, where states are kept.
struct Span {
  int64_t chunk, first, n;  ///< its tokens from the beginning of the sample
  bool opens;               ///< first span of its chunk
};

int64_t spans_of_chunk(const SsdShape& s) { return div_ceil(s.chunk, kSpan); }

int64_t spans_of(const SsdShape& s, const Row& row) {
  if (row.chunks == 0) return 0;
  return (row.chunks - 1) * spans_of_chunk(s) + div_ceil(row.length - (row.chunks - 1) * s.chunk, kSpan);
}

Span span_of(const SsdShape& s, const Row& row, int64_t i) {
  const int64_t per = spans_of_chunk(s), chunk = i / per, within = i % per * kSpan;
  const int64_t left = std::min(s.chunk, row.length - chunk * s.chunk) - within;
  return {chunk, row.first + chunk * s.chunk + within, std::min(kSpan, left), within == 0};
}

// Where the sequences of packed rows begin inside a span.
struct Borders {
  int64_t start[kSpan];  ///< first token of the span that token k sees
  bool reached[kSpan];   ///< whether the state that enters is of the sequence of token k
};

template <typename T>
Borders borders_of(const SsdParams<T>& p, const Row& row, const Span& span) {
  Borders b{};
  const int32_t* const ids = p.seq_idx ? p.seq_idx + row.batch * p.shape.length : nullptr;
  int64_t start = 0;
  bool reached = true;
  for (int64_t k = 0; k < kSpan; k++) {
    const int64_t t = span.first + k;
    if (ids && k < span.n && ids[t] != (t == 0 ? 0 : ids[t - 1])) start = k, reached = false;
    b.start[k] = start, b.reached[k] = reached;
  }
  return b;
}

template <typename T>
bool is_padding(const SsdParams<T>& p, const Row& row, int64_t t) {
  return p.seq_idx && p.seq_idx[row.batch * p.shape.length + t] < 0;
}

// The part of `to` of its span `i`.
template <typename T>
void fill_shared(const SsdParams<T>& p, const Row& row, const Span& span, int64_t g, int64_t i,
                 const Shared<T>& to) {
  const SsdShape& s = p.shape;
  const auto& loops = chunk_loops<T>();
  const Borders borders = borders_of(p, row, span);
  T *const B = to.B + i * tiles_size(s), *const C = to.C + i * tiles_size(s),
           *const products = to.products + i * kSquare;
  for (int64_t k = 0; k < kSpan; k++) {
    const bool real = k < span.n;
    const T* const b = real ? p.B.row(row.batch, span.first + k, g) : nullptr;
    const T* const c = real ? p.C.row(row.batch, span.first + k, g) : nullptr;
    // A token before the last border gives nothing to the state that leaves:
    // zero instead of B, because B times a weight of zero may be NaN.
    const bool gives = real && k >= borders.start[kSpan - 1] && !is_padding(p, row, span.first + k);
    for (int64_t tile = 0; tile < tiles_of(s); tile++) {
      const int64_t n = tile * kStateTile, count = std::min(kStateTile, s.state - n);
      T *const bt = B + (tile * kSpan + k) * kStateTile, *const ct = C + (tile * kSpan + k) * kStateTile;
      if (count < kStateTile || !gives) std::fill_n(bt, kStateTile, T(0));
      if (count < kStateTile || !real) std::fill_n(ct, kStateTile, T(0));
      if (gives) std::copy_n(b + n, count, bt);
      if (real) std::copy_n(c + n, count, ct);
    }
    if (!real) continue;
    const int64_t start = borders.start[k];
    loops.row_dots(k - start + 1, s.state, p.B.row(row.batch, span.first + start, g), p.B.token, c, 0,
                   products + k * kSpan + start);
  }
}

// Up to kBlockSpans spans of one head with their vectors.
template <typename T>
struct Block {
  int64_t count = 0, tokens = 0;
  Span spans[kBlockSpans];
  Borders borders[kBlockSpans];
  T steps[kBlockSpans * kSpan];  ///< 0 behind the last token of a span
  T through[kBlockSpans];
  bool fresh[kBlockSpans];
};

// The spans that follow `i` up to `end` or to the next chunk.
template <typename T>
void begin_block(const SsdParams<T>& p, const Row& row, int64_t i, int64_t end, Block<T>& b) {
  b.count = 0;
  do {
    b.spans[b.count] = span_of(p.shape, row, i + b.count);
    b.borders[b.count] = borders_of(p, row, b.spans[b.count]);
    b.count++;
  } while (b.count < kBlockSpans && i + b.count < end && !span_of(p.shape, row, i + b.count).opens);
  const Span& last = b.spans[b.count - 1];
  b.tokens = last.first + last.n - b.spans[0].first;
}

// For every span the decays between two tokens {kSpan, kSpan}, from its start
// to each token, and from each token to its end.
constexpr int64_t kDecays = kSquare + 2 * kSpan;

template <typename T>
void fill_decays(const SsdParams<T>& p, const Row& row, int64_t h, const T* dt, Block<T>& b, T* exponents,
                 T* decays) {
  for (int64_t m = 0; m < b.count; m++) {
    const Span& span = b.spans[m];
    T* const e = exponents + m * kDecays;
    T sums[kSpan], sum = 0;
    for (int64_t k = 0; k < kSpan; k++) {
      const bool real = k < span.n;
      const T step = real ? dt[(row.batch * p.shape.length + span.first + k) * p.shape.heads + h] : T(0);
      b.steps[m * kSpan + k] = step;
      // From each border on anew: a NaN may be behind it.
      if (k > 0 && b.borders[m].start[k] == k) sum = 0;
      if (real) sum += step * p.A[h];
      sums[k] = sum;
    }
    // Differences first, then the exponential: a product of two could overflow.
    for (int64_t k = 0; k < kSpan; k++) {
      for (int64_t j = 0; j < kSpan; j++) e[k * kSpan + j] = sums[k] - sums[j];  // of use for j <= k
      e[kSquare + k] = sums[k];
      e[kSquare + kSpan + k] = sum - sums[k];
    }
  }
  chunk_loops<T>().exponentials(b.count * kDecays, exponents, decays);
  for (int64_t m = 0; m < b.count; m++) {
    b.through[m] = decays[m * kDecays + kSquare + kSpan - 1];
    b.fresh[m] = !b.borders[m].reached[kSpan - 1];
  }
}

// The spans [from, to) of one head of one row; `shared` begins with `from`.
template <typename T>
void run_head(const SsdParams<T>& p, const Row& row, int64_t h, int64_t from, int64_t to, const T* dt,
              const Shared<T>& shared, T* state) {
  const SsdShape& s = p.shape;
  const auto& held = span_loops<T>();
  constexpr int64_t most = kBlockSpans * kSpan;
  const int64_t P = s.headdim, width = width_of(s);
  Arena<T> memory{scratch<T>(3 * most * width + 2 * kBlockSpans * kDecays + 64)};
  T *const x = memory.take(most * width), *const given = memory.take(most * width),
           *const y = memory.take(most * width), *const exponents = memory.take(kBlockSpans * kDecays),
           *const decays = memory.take(kBlockSpans * kDecays);
  Block<T> b;
  for (int64_t i = from; i < to; i += b.count) {
    begin_block(p, row, i, to, b);
    fill_decays(p, row, h, dt, b, exponents, decays);
    const int64_t first = b.spans[0].first, next = first + b.tokens;
    if (p.states && b.spans[0].opens) {
      T* const kept = p.states + ((row.slot + b.spans[0].chunk) * s.heads + h) * s.state * P;
      if (width == P) {
        std::copy_n(state, s.state * P, kept);
      } else {
        for (int64_t n = 0; n < s.state; n++) std::copy_n(state + n * width, P, kept + n * P);
      }
    }
    // Only the last span may be short, so that tokens stay dense.
    T parts[most];
    bool gives[most];
    for (int64_t t = 0; t < b.tokens; t++) {
      const int64_t m = t / kSpan, k = t % kSpan;
      parts[t] = b.steps[t] * decays[m * kDecays + kSquare + kSpan + k];
      gives[t] = k >= b.borders[m].start[kSpan - 1] && !is_padding(p, row, first + t);
    }
    const int64_t token = s.heads * P, at = (row.batch * s.length + first) * token + h * P;
    held.input(
        {b.tokens, b.count * kSpan, P, width, p.x.token, p.x.row(row.batch, first, h), parts, gives, x, given});
    SpanBlock<T> block{b.count, tiles_of(s), s.state, P, width};
    block.B = shared.B + (i - from) * tiles_size(s), block.C = shared.C + (i - from) * tiles_size(s);
    block.through = b.through, block.fresh = b.fresh, block.given = given, block.state = state, block.y = y;
    // This block's output and the next one's input.
    block.ahead[0] = {p.out + at, b.tokens, token};
    if (p.z) block.ahead[1] = {p.z.row(row.batch, first, h), b.tokens, p.z.token};
    if (p.before_gate) block.ahead[2] = {p.before_gate + at, b.tokens, token};
    const int64_t following = std::min(most, row.first + row.length - next);
    if (following > 0) block.ahead[3] = {p.x.row(row.batch, next, h), following, p.x.token};
    held.block(block);
    for (int64_t m = 0; m < b.count; m++) {
      const T *const products = shared.products + (i - from + m) * kSquare, *const decay = decays + m * kDecays;
      const Borders& borders = b.borders[m];
      T weights[kSquare];
      for (int64_t k = 0; k < b.spans[m].n; k++) {
        for (int64_t j = borders.start[k]; j <= k; j++)
          weights[k * kSpan + j] = products[k * kSpan + j] * decay[k * kSpan + j] * b.steps[m * kSpan + j];
      }
      SpanOutput<T> o{b.spans[m].n,
                      P,
                      width,
                      decay + kSquare,
                      borders.reached,
                      borders.start,
                      weights,
                      x + m * kSpan * width,
                      y + m * kSpan * width};
      o.D = p.D ? p.D + (p.channel_D ? h * P : h) : nullptr, o.channel_D = p.channel_D;
      if (p.z) o.z = p.z.row(row.batch, b.spans[m].first, h), o.z_stride = p.z.token;
      o.out_stride = s.heads * P;
      o.out = p.out + at + m * kSpan * o.out_stride;
      if (p.before_gate) o.before_gate = p.before_gate + at + m * kSpan * o.out_stride;
      held.output(o);
    }
    for (int64_t t = 0; p.seq_idx && t < b.tokens; t++) {
      if (!is_padding(p, row, first + t)) continue;
      std::fill_n(p.out + at + t * s.heads * P, P, T(0));
      if (p.before_gate) std::fill_n(p.before_gate + at + t * s.heads * P, P, T(0));
    }
  }
}

}  // namespace

int64_t ssd_recurrence_workspace(const SsdShape& s) {
  return s.tokens() * s.heads + s.rows() * (s.heads * held_size(s) + s.groups * shared_size(s, stage_spans(s))) +
         64;
}

template <typename T>
void ssd_recurrence(const SsdParams<T>& p) {
  const SsdShape& s = p.shape;
  const std::vector<Row> rows = rows_of(p);
  const int64_t stage = stage_spans(s), pieces = stage / kBlockSpans;
  Arena<T> memory{aligned(p.workspace)};
  T *const states = memory.take(s.rows() * s.heads * held_size(s)),
           *const shared = memory.take(s.rows() * s.groups * shared_size(s, stage)),
           *const dt = memory.take(s.tokens() * s.heads);
  fill_steps(p, dt, static_cast<T*>(nullptr));
  int64_t most = 0;
  for (const Row& row : rows) most = std::max(most, spans_of(s, row));
  const auto shared_at = [&](int64_t index, int64_t g) {
    return shared_of(s, stage, shared + (index * s.groups + g) * shared_size(s, stage));
  };
  // At least one stage, so that empty sequences hand their state on.
  for (int64_t from = 0; from == 0 || from < most; from += stage) {
    parallel_for(s.rows() * s.groups * pieces, [&](int64_t task) {
      const int64_t index = task / pieces / s.groups, g = task / pieces % s.groups, piece = task % pieces;
      const Row& row = rows[static_cast<size_t>(index)];
      const int64_t first = from + piece * kBlockSpans, last = std::min(first + kBlockSpans, spans_of(s, row));
      const Shared<T> to = shared_at(index, g);
      for (int64_t i = first; i < last; i++) fill_shared(p, row, span_of(s, row, i), g, i - from, to);
    });
    parallel_for(s.rows() * s.heads, [&](int64_t task) {
      const int64_t index = task / s.heads, h = task % s.heads, P = s.headdim, N = s.state;
      const Row& row = rows[static_cast<size_t>(index)];
      const int64_t all = spans_of(s, row);
      if (from > 0 && from >= all) return;
      T* const state = states + task * held_size(s);
      if (from == 0) {
        std::fill_n(state, held_size(s), T(0));
        if (p.initial_state) turn(p.initial_state + task * N * P, N, P, N, state, width_of(s));
      }
      run_head(p, row, h, from, std::min(from + stage, all), dt, shared_at(index, h / s.group_heads()), state);
      if (from + stage >= all && p.final_state) turn(state, width_of(s), N, P, p.final_state + task * N * P, N);
    });
  }
}

template void ssd_recurrence(const SsdParams<float>&);
template void ssd_recurrence(const SsdParams<double>&);

}  // namespace aspis::kernel
#endif
