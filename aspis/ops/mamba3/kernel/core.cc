// The recurrence of Mamba-3 in chunks of matrix products, as that of Mamba-2
// (ops/ssd/kernel/cpu.cc), with two differences: keys and queries belong to a
// head, and a token's own part has a weight of its own. The rank's vectors of a
// token are rows of their own, so that a chunk of n tokens is a square of n R
// rows; the R x R blocks on its diagonal are a token's own part.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/sequences.h"
#include "aspis/ops/mamba3/kernel/spans.h"
#include "aspis/ops/ssd/kernel/chunk.h"

namespace aspis::kernel {
namespace {

using mamba3_parts::Sequence;
using mamba3_parts::sequences_of;

// The memory of one task; kept between the tasks of a thread.
template <typename T>
struct Work {
  std::vector<T> state, carry, v, k, q, y, dy, scaled, direct, scores, weights, dweights, dscores, spans, packed,
      sums, w_rows, into, reach, out_of, dlog, dw, dots, column, blocks;

  explicit Work(const Mamba3Shape& s) {
    const auto n = static_cast<size_t>(s.chunk * s.rank), P = static_cast<size_t>(s.headdim),
               N = static_cast<size_t>(s.state), square = n * stride(s);
    const int64_t widest = std::max({s.headdim, s.state, s.chunk * s.rank});
    for (auto* a : {&state, &carry}) a->resize(N * P);
    for (auto* a : {&v, &y, &dy, &scaled}) a->resize(n * P);
    for (auto* a : {&k, &q, &direct}) a->resize(n * N);
    for (auto* a : {&scores, &weights, &dweights, &dscores, &spans}) a->resize(square);
    packed.resize(static_cast<size_t>(
        std::max({packed_size(widest, s.headdim), packed_size(s.headdim, widest),
                  packed_size(s.state, s.chunk * s.rank), packed_size(s.chunk * s.rank, s.state)})));
    for (auto* a : {&sums, &w_rows, &into, &reach, &out_of, &dlog, &dw, &dots}) a->resize(n + 16);
    column.resize(stride(s) + 16);
    blocks.resize(n * static_cast<size_t>(s.rank));
  }
  static size_t stride(const Mamba3Shape& s) { return static_cast<size_t>((s.chunk * s.rank + 15) / 16 * 16); }
};

// One chunk of one head.
template <typename T>
struct Chunk {
  int64_t token, n, rows;  ///< first token of all, tokens, rows n R
  T through;
};

// Rows of a head lie pages apart, which hardware prefetching does not follow.
template <typename T>
void prefetch(const T* row, int64_t values) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < values; i += kLine) __builtin_prefetch(row + i);
}

// Gathers the vectors of a head and fills the decays, one value a row; asks for
// those of the chunk that comes `ahead` of it.
template <typename T>
Chunk<T> open_chunk(const Mamba3CoreParams<T>& p, const Sequence& s, int64_t c, int64_t h, int64_t ahead,
                    Work<T>& m) {
  const Mamba3Shape& shape = p.shape;
  const int64_t R = shape.rank, P = shape.headdim, N = shape.state, H = shape.heads;
  const int64_t first = s.first + c * shape.chunk;
  Chunk<T> k;
  k.token = s.batch * shape.length + first;
  k.n = std::min(shape.chunk, s.first + s.length - first);
  k.rows = k.n * R;
  T sum = 0;
  for (int64_t i = 0; i < k.n; i++) {
    const int64_t at = (k.token + i) * H + h;
    std::copy_n(p.v + at * R * P, R * P, m.v.data() + i * R * P);
    std::copy_n(p.k + at * R * N, R * N, m.k.data() + i * R * N);
    std::copy_n(p.q + at * R * N, R * N, m.q.data() + i * R * N);
    const int64_t next = first + i + ahead * shape.chunk;
    if (next >= s.first && next < s.first + s.length) {
      const int64_t there = at + ahead * shape.chunk * H;
      prefetch(p.v + there * R * P, R * P);
      prefetch(p.k + there * R * N, R * N);
      prefetch(p.q + there * R * N, R * N);
    }
    sum += p.log[at];
    for (int64_t r = 0; r < R; r++) {
      m.sums[i * R + r] = sum;
      m.w_rows[i * R + r] = p.w[at];
    }
  }
  for (int64_t i = 0; i < k.rows; i++) m.reach[i] = sum - m.sums[i];
  const auto& loops = chunk_loops<T>();
  loops.exponentials(k.rows, m.sums.data(), m.into.data());
  loops.exponentials(k.rows, m.reach.data(), m.reach.data());
  for (int64_t i = 0; i < k.rows; i++) m.out_of[i] = m.w_rows[i] * m.reach[i];
  k.through = m.into[k.rows - 1];
  return k;
}

// scores(s, t) = k_s q_t over the rows of a chunk.
template <typename T>
void fill_scores(const Mamba3Shape& s, const Chunk<T>& c, Work<T>& m) {
  const auto stride = static_cast<int64_t>(Work<T>::stride(s));
  pack_transposed(m.q.data(), s.state, s.state, c.rows, 0, c.rows, m.packed.data());
  multiply_packed(c.rows, c.rows, s.state, m.k.data(), s.state, m.packed.data(), 0, c.rows,
                  static_cast<const T*>(nullptr), false, m.scores.data(), stride);
}

// Calls visit(token, place in the square) for the elements of the blocks on the diagonal.
template <typename T, typename Visit>
void for_blocks(const Mamba3Shape& s, const Chunk<T>& c, const Visit& visit) {
  const auto stride = static_cast<int64_t>(Work<T>::stride(s));
  for (int64_t i = 0; i < c.n; i++) {
    for (int64_t a = 0; a < s.rank; a++) {
      for (int64_t b = 0; b < s.rank; b++) visit(i, (i * s.rank + a) * stride + i * s.rank + b);
    }
  }
}

template <typename T>
void turn(const T* from, int64_t rows, int64_t columns, T* to) {
  for (int64_t r = 0; r < rows; r++) {
    for (int64_t c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
  }
}

template <typename T>
bool tame(const T* v, int64_t n) {
  T sum = 0;
  chunk_loops<T>().row_dots(1, n, v, 0, v, 0, &sum);
  return std::isfinite(sum);
}

// The definition, token by token: a product with a mask would carry a NaN back
// in time (see ops/ssd/kernel/cpu.cc).
template <typename T>
void recur(const Mamba3CoreParams<T>& p, const Chunk<T>& c, int64_t h, Work<T>& m) {
  const Mamba3Shape& s = p.shape;
  const int64_t R = s.rank, P = s.headdim, N = s.state;
  for (int64_t i = 0; i < c.n; i++) {
    const int64_t at = (c.token + i) * s.heads + h;
    const T a = std::exp(p.log[at]);
    for (T& x : m.state) x *= a;
    for (int64_t r = 0; r < R; r++) {
      T* const y = m.y.data() + (i * R + r) * P;
      const T* const q = m.q.data() + (i * R + r) * N;
      for (int64_t c2 = 0; c2 < P; c2++) {
        y[c2] = 0;
        for (int64_t n = 0; n < N; n++) y[c2] += m.state[n * P + c2] * q[n];
      }
      for (int64_t o = 0; o < R; o++) {
        T dot = 0;
        for (int64_t n = 0; n < N; n++) dot += q[n] * m.k[(i * R + o) * N + n];
        for (int64_t c2 = 0; c2 < P; c2++) y[c2] += p.g[at] * dot * m.v[(i * R + o) * P + c2];
      }
    }
    for (int64_t r = 0; r < R; r++) {
      for (int64_t n = 0; n < N; n++) {
        const T key = p.w[at] * m.k[(i * R + r) * N + n];
        for (int64_t c2 = 0; c2 < P; c2++) m.state[n * P + c2] += key * m.v[(i * R + r) * P + c2];
      }
    }
  }
}

template <typename T>
void forward_head(const Mamba3CoreParams<T>& p, const Sequence& q, int64_t index, int64_t h, Work<T>& m) {
  const Mamba3Shape& s = p.shape;
  const auto& loops = chunk_loops<T>();
  const int64_t P = s.headdim, N = s.state, R = s.rank;
  const auto stride = static_cast<int64_t>(Work<T>::stride(s));
  const T* const none = nullptr;
  turn(p.initial + (index * s.heads + h) * N * P, P, N, m.state.data());
  for (int64_t c = 0; c < q.chunks; c++) {
    const Chunk<T> k = open_chunk(p, q, c, h, 1, m);
    if (p.states) std::copy(m.state.begin(), m.state.end(), p.states + ((q.slot + c) * s.heads + h) * N * P);
    m.carry = m.state;
    pack(m.state.data(), P, N, P, 0, P, m.packed.data());
    multiply_packed(k.rows, P, N, m.q.data(), N, m.packed.data(), 0, P, none, false, m.y.data(), P);
    loops.scale_rows(k.rows, P, m.into.data(), m.y.data(), P, m.y.data(), P);
    fill_scores(s, k, m);
    loops.weigh({k.rows, stride, m.sums.data(), none, m.w_rows.data()}, m.scores.data(), m.weights.data());
    for_blocks(s, k,
               [&](int64_t i, int64_t at) { m.weights[at] = m.scores[at] * p.g[(k.token + i) * s.heads + h]; });
    multiply_transposed(k.rows, P, k.rows, m.weights.data(), stride, m.v.data(), P, true, m.y.data(), P);
    loops.scale_rows(k.rows, P, m.out_of.data(), m.v.data(), P, m.scaled.data(), P);
    loops.scale_rows(1, N * P, &k.through, m.state.data(), 0, m.state.data(), 0);
    multiply_transposed(N, P, k.rows, m.k.data(), N, m.scaled.data(), P, true, m.state.data(), P);
    if (!tame(m.y.data(), k.rows * P) || !tame(m.state.data(), N * P)) {
      m.state = m.carry;
      recur(p, k, h, m);
    }
    for (int64_t i = 0; i < k.n; i++)
      std::copy_n(m.y.data() + i * R * P, R * P, p.y + ((k.token + i) * s.heads + h) * R * P);
  }
  turn(m.state.data(), N, P, p.final + (index * s.heads + h) * N * P);
}

template <typename T>
void backward_head(const Mamba3CoreVjpParams<T>& d, const Sequence& sequence, int64_t index, int64_t h,
                   Work<T>& m) {
  const Mamba3CoreParams<T>& p = d.in;
  const Mamba3Shape& s = p.shape;
  const auto& loops = chunk_loops<T>();
  const int64_t P = s.headdim, N = s.state, R = s.rank;
  const auto stride = static_cast<int64_t>(Work<T>::stride(s));
  const T* const none = nullptr;
  turn(d.dfinal + (index * s.heads + h) * N * P, P, N, m.carry.data());
  for (int64_t c = sequence.chunks - 1; c >= 0; c--) {
    const Chunk<T> k = open_chunk(p, sequence, c, h, -1, m);
    const T* const state = p.states + ((sequence.slot + c) * s.heads + h) * N * P;
    for (int64_t i = 0; i < k.n; i++)
      std::copy_n(d.dy + ((k.token + i) * s.heads + h) * R * P, R * P, m.dy.data() + i * R * P);
    fill_scores(s, k, m);

    // Inside the chunk: dW(s, t) = v_s dy_t. The blocks on the diagonal are put
    // aside, since they neither decay nor carry w.
    pack_transposed(m.dy.data(), P, P, k.rows, 0, k.rows, m.packed.data());
    multiply_packed(k.rows, k.rows, P, m.v.data(), P, m.packed.data(), 0, k.rows, none, false, m.dweights.data(),
                    stride);
    size_t place = 0;
    for_blocks(s, k, [&](int64_t, int64_t at) {
      m.blocks[place++] = m.dweights[at];
      m.dweights[at] = 0;
    });
    std::fill(m.dscores.begin(), m.dscores.end(), T(0));
    loops.weigh_vjp({k.rows, stride, m.sums.data(), none, m.w_rows.data()}, m.scores.data(), m.dweights.data(),
                    m.weights.data(), m.dscores.data(), m.spans.data(), m.dw.data());
    for (int64_t i = 0; i < k.n; i++) d.dg[(k.token + i) * s.heads + h] = 0;
    place = 0;
    for_blocks(s, k, [&](int64_t i, int64_t at) {
      const int64_t token = (k.token + i) * s.heads + h;
      const T dW = m.blocks[place++];
      m.weights[at] = m.scores[at] * p.g[token];
      m.dscores[at] = dW * p.g[token];
      d.dg[token] += dW * m.scores[at];
    });
    std::fill_n(m.dlog.begin(), k.rows, T(0));
    loops.span_sums(k.rows, stride, m.spans.data(), m.column.data(), m.dlog.data());

    // dv = out_of (k carry) + W dy
    T* const dv = m.y.data();
    pack(m.carry.data(), P, N, P, 0, P, m.packed.data());
    multiply_packed(k.rows, P, N, m.k.data(), N, m.packed.data(), 0, P, none, false, dv, P);
    loops.row_dots(k.rows, P, m.v.data(), P, dv, P, m.dots.data());
    loops.scale_rows(k.rows, P, m.out_of.data(), dv, P, dv, P);
    pack(m.dy.data(), P, k.rows, P, 0, P, m.packed.data());
    multiply_packed(k.rows, P, k.rows, m.weights.data(), stride, m.packed.data(), 0, P, none, true, dv, P);
    // What a token gave to the state that leaves decays over the tokens after it.
    T given = 0;
    for (int64_t i = 0; i < k.n; i++) {
      m.dlog[i * R] += given;
      for (int64_t r = i * R; r < (i + 1) * R; r++) {
        m.dw[r] += m.reach[r] * m.dots[r];
        given += m.out_of[r] * m.dots[r];
      }
    }
    // dk = out_of (v carry^T) + dscores q
    pack_transposed(m.carry.data(), P, P, N, 0, N, m.packed.data());
    multiply_packed(k.rows, N, P, m.v.data(), P, m.packed.data(), 0, N, none, false, m.direct.data(), N);
    loops.scale_rows(k.rows, N, m.out_of.data(), m.direct.data(), N, m.direct.data(), N);
    pack(m.q.data(), N, k.rows, N, 0, N, m.packed.data());
    multiply_packed(k.rows, N, k.rows, m.dscores.data(), stride, m.packed.data(), 0, N, none, true,
                    m.direct.data(), N);
    for (int64_t i = 0; i < k.n; i++)
      std::copy_n(m.direct.data() + i * R * N, R * N, d.dk + ((k.token + i) * s.heads + h) * R * N);
    // dq = into (dy state^T) + dscores^T k
    pack_transposed(state, P, P, N, 0, N, m.packed.data());
    multiply_packed(k.rows, N, P, m.dy.data(), P, m.packed.data(), 0, N, none, false, m.direct.data(), N);
    loops.row_dots(k.rows, N, m.q.data(), N, m.direct.data(), N, m.dots.data());
    loops.scale_rows(k.rows, N, m.into.data(), m.direct.data(), N, m.direct.data(), N);
    multiply_transposed(k.rows, N, k.rows, m.dscores.data(), stride, m.k.data(), N, true, m.direct.data(), N);
    for (int64_t i = 0; i < k.n; i++)
      std::copy_n(m.direct.data() + i * R * N, R * N, d.dq + ((k.token + i) * s.heads + h) * R * N);
    // What the entering state gives decays over all tokens up to there.
    T whole = 0;
    loops.row_dots(1, N * P, state, 0, m.carry.data(), 0, &whole);
    T taken = k.through == T(0) ? T(0) : k.through * whole;
    for (int64_t i = k.n - 1; i >= 0; i--) {
      for (int64_t r = i * R; r < (i + 1) * R; r++) taken += m.into[r] * m.dots[r];
      const int64_t token = (k.token + i) * s.heads + h;
      d.dlog[token] = m.dlog[i * R] + taken;
      d.dw[token] = 0;
      for (int64_t r = i * R; r < (i + 1) * R; r++) d.dw[token] += m.dw[r];
      std::copy_n(dv + i * R * P, R * P, d.dv + token * R * P);
    }
    // carry = through carry + q^T (into dy)
    loops.scale_rows(k.rows, P, m.into.data(), m.dy.data(), P, m.scaled.data(), P);
    loops.scale_rows(1, N * P, &k.through, m.carry.data(), 0, m.carry.data(), 0);
    multiply_transposed(N, P, k.rows, m.q.data(), N, m.scaled.data(), P, true, m.carry.data(), P);
  }
  turn(m.carry.data(), N, P, d.dinitial + (index * s.heads + h) * N * P);
}

// Calls run(sequence, its index, head, memory) for every head of every sequence.
template <typename T, typename Run>
void for_heads(const Mamba3CoreParams<T>& p, const Run& run) {
  const Mamba3Shape& s = p.shape;
  const std::vector<Sequence> sequences = sequences_of(p);
  std::vector<std::unique_ptr<Work<T>>> memory(static_cast<size_t>(num_threads()));
  parallel_for(s.rows() * s.heads, [&](int64_t task, int worker) {
    auto& m = memory[static_cast<size_t>(worker)];
    if (!m) m = std::make_unique<Work<T>>(s);
    const int64_t index = task / s.heads;
    run(sequences[static_cast<size_t>(index)], index, task % s.heads, *m);
  });
}

}  // namespace

template <typename T>
void mamba3_core(const Mamba3CoreParams<T>& p) {
  if (p.shape.recurrent && mamba3_spans_fit(p.shape)) return mamba3_core_spans(p);
  for_heads(p, [&](const Sequence& s, int64_t index, int64_t h, Work<T>& m) { forward_head(p, s, index, h, m); });
}

template <typename T>
void mamba3_core_vjp(const Mamba3CoreVjpParams<T>& d) {
  for_heads(d.in,
            [&](const Sequence& s, int64_t index, int64_t h, Work<T>& m) { backward_head(d, s, index, h, m); });
}

template void mamba3_core(const Mamba3CoreParams<float>&);
template void mamba3_core(const Mamba3CoreParams<double>&);
template void mamba3_core_vjp(const Mamba3CoreVjpParams<float>&);
template void mamba3_core_vjp(const Mamba3CoreVjpParams<double>&);

}  // namespace aspis::kernel
