// Mamba-2's state space dual form on the CPU: the gradient, the step, and the
// forward pass in chunks (recurrence.h has the other one).
//
// Everything of size N P is a matrix product (ops/linear/kernel/product.h runs
// at nine tenths of the multiply-add peak). A chunk is short enough (64 tokens)
// that the part inside it costs a fifth of the whole.
//
// Squares over the tokens of a chunk are stored s over t (chunk.h). The state of
// a head is kept as {N, P}; the public layout is {P, N}.

#include "aspis/ops/ssd/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/ops/ssd/kernel/chunk.h"
#include "aspis/ops/ssd/kernel/parts.h"
#include "aspis/ops/ssd/kernel/recurrence.h"

namespace aspis::kernel {
namespace {

using namespace ssd_parts;

// Heads of one task of the gradient pass: by the number of heads alone, since
// the sums over heads follow the tasks.
int64_t units_per_group(const SsdShape& s) { return std::min<int64_t>(s.group_heads(), 8); }

int64_t square_stride(const SsdShape& s) { return (s.chunk + 15) / 16 * 16; }
int64_t square_size(const SsdShape& s) { return square_stride(s) * s.chunk; }

// What a chunk of a head is, apart from its data.
template <typename T>
struct Chunk {
  int64_t batch, first, n;  ///< tokens [first, first + n) of a sample
  const T *dt, *sums;       ///< {n}
  const T* into;            ///< {n} exp(sums), 0 where the entering state does not reach
  const T* out_of;          ///< {n} dt exp(last sum - sums), 0 where the token does not
                            ///< reach the end
  const T* reach;           ///< {n} the same without dt
  T through;                ///< decay of the entering state over the whole chunk
  const T* segments;        ///< null or {n}
};

// Fills a chunk's vectors in `a`; dt is {tokens, H}.
template <typename T>
Chunk<T> chunk_of(const SsdParams<T>& p, const Row& row, int64_t c, int64_t h, const T* dt, Arena<T>& a) {
  const SsdShape& s = p.shape;
  Chunk<T> k;
  k.batch = row.batch;
  k.first = row.first + c * s.chunk;
  k.n = std::min(s.chunk, row.first + row.length - k.first);
  T *steps = a.take(k.n), *sums = a.take(k.n), *into = a.take(k.n), *out_of = a.take(k.n), *reach = a.take(k.n);
  T* segments = p.seq_idx ? a.take(k.n) : nullptr;
  T sum = 0;
  for (int64_t i = 0; i < k.n; i++) {
    steps[i] = dt[(k.batch * s.length + k.first + i) * s.heads + h];
    sum += steps[i] * p.A[h];
    sums[i] = sum;
    reach[i] = 0;
  }
  for (int64_t i = 0; i < k.n; i++) reach[i] = sum - sums[i];
  const auto& loops = chunk_loops<T>();
  loops.exponentials(k.n, sums, into);
  loops.exponentials(k.n, reach, reach);
  k.through = into[k.n - 1];
  if (p.seq_idx) {
    const int32_t* ids = p.seq_idx + k.batch * s.length;
    int32_t before = k.first == 0 ? 0 : ids[k.first - 1];
    T segment = 0;  // 0 is the one that the entering state belongs to
    for (int64_t i = 0; i < k.n; i++) {
      const int32_t id = ids[k.first + i];
      segment += id != before;
      segments[i] = segment;
      before = id;
      if (segment > 0) into[i] = 0;
    }
    for (int64_t i = 0; i < k.n; i++) {
      if (segments[i] != segment) reach[i] = 0;
    }
    if (segment > 0) k.through = 0;
  }
  for (int64_t i = 0; i < k.n; i++) out_of[i] = steps[i] * reach[i];
  k.dt = steps, k.sums = sums, k.into = into, k.out_of = out_of, k.reach = reach, k.segments = segments;
  return k;
}

// Tokens after which the squares of a chunk are cut: less of their empty half
// is computed.
constexpr int64_t kHalf = 32;

// scores(s, t) = B_s C_t of one group and chunk.
template <typename T>
void fill_scores(const SsdParams<T>& p, int64_t b, int64_t first, int64_t n, int64_t g, T* scores) {
  const SsdShape& s = p.shape;
  T* packed = scratch<T>(packed_size(s.state, n));
  pack_transposed(p.C.row(b, first, g), p.C.token, s.state, n, 0, n, packed);
  multiply_packed(n, n, s.state, p.B.row(b, first, g), p.B.token, packed, 0, n, static_cast<const T*>(nullptr),
                  false, scores, square_stride(s));
}

// The definition over one chunk, token by token: where a product with a mask
// would spread a NaN or an infinity to tokens that it must not reach.
template <typename T>
void recur(const SsdParams<T>& p, const Chunk<T>& k, int64_t h, T* state, T* y) {
  const SsdShape& s = p.shape;
  const int64_t P = s.headdim, N = s.state, g = h / s.group_heads();
  for (int64_t i = 0; i < k.n; i++) {
    const T *x = p.x.row(k.batch, k.first + i, h), *B = p.B.row(k.batch, k.first + i, g),
            *C = p.C.row(k.batch, k.first + i, g);
    if (k.segments && k.segments[i] != (i == 0 ? T(0) : k.segments[i - 1])) std::fill_n(state, N * P, T(0));
    std::fill_n(y + i * P, P, T(0));
    if (p.seq_idx && p.seq_idx[k.batch * s.length + k.first + i] < 0) continue;
    const T a = std::exp(k.dt[i] * p.A[h]);
    for (int64_t n = 0; n < N; n++) {
      for (int64_t c = 0; c < P; c++) {
        T& v = state[n * P + c];
        v = a * v + k.dt[i] * x[c] * B[n];
        y[i * P + c] += v * C[n];
      }
    }
  }
}

// False for a NaN or an infinity, and for values whose squares overflow.
template <typename T>
bool all_tame(const T* v, int64_t n) {
  T sum = 0;
  chunk_loops<T>().row_dots(1, n, v, 0, v, 0, &sum);
  return std::isfinite(sum);
}

// All chunks of one head of one row.
template <typename T>
void forward_head(const SsdParams<T>& p, const Row& row, int64_t index, int64_t h, const T* dt, const T* scores) {
  const SsdShape& s = p.shape;
  const auto& loops = chunk_loops<T>();
  const int64_t P = s.headdim, N = s.state, g = h / s.group_heads(), stride = square_stride(s);
  const int64_t values =
      2 * N * P + 3 * s.chunk * P + square_size(s) + packed_size(std::max(N, s.chunk), P) + 8 * s.chunk + 256;
  Arena<T> memory{scratch<T>(values)};
  T *state = memory.take(N * P), *kept = memory.take(N * P), *y = memory.take(s.chunk * P),
    *scaled = memory.take(s.chunk * P), *own = memory.take(s.chunk * P), *weights = memory.take(square_size(s)),
    *packed = memory.take(packed_size(std::max(N, s.chunk), P));
  const T* const none = nullptr;
  if (p.initial_state) {
    turn(p.initial_state + (index * s.heads + h) * N * P, N, P, N, state, P);
  } else {
    std::fill_n(state, N * P, T(0));
  }
  for (int64_t c = 0; c < row.chunks; c++) {
    Arena<T> vectors{memory};
    const Chunk<T> k = chunk_of(p, row, c, h, dt, vectors);
    const int64_t slot = row.slot + c;
    if (p.states) std::copy_n(state, N * P, p.states + (slot * s.heads + h) * N * P);
    // Rows a page apart also fall into a few sets of the cache: one dense copy.
    const T* const x = own;
    for (int64_t i = 0; i < k.n; i++) std::copy_n(p.x.row(k.batch, k.first + i, h), P, own + i * P);
    if (c + 1 < row.chunks) {
      const int64_t next = k.first + s.chunk, count = std::min(s.chunk, row.first + row.length - next);
      prefetch_rows(p.x.row(k.batch, next, h), p.x.token, count, P);
      if (p.z) prefetch_rows(p.z.row(k.batch, next, h), p.z.token, count, P);
    }
    std::copy_n(state, N * P, kept);
    // y = into (C state) + W^T x
    pack(state, P, N, P, 0, P, packed);
    multiply_packed(k.n, P, N, p.C.row(k.batch, k.first, g), p.C.token, packed, 0, P, none, false, y, P);
    loops.scale_rows(k.n, P, k.into, y, P, y, P);
    loops.weigh({k.n, stride, k.sums, k.segments, k.dt}, scores + (slot * s.groups + g) * square_size(s), weights);
    const int64_t half = k.n > kHalf ? kHalf : 0;
    multiply_transposed(half, P, half, weights, stride, x, P, true, y, P);
    multiply_transposed(k.n - half, P, k.n, weights + half, stride, x, P, true, y + half * P, P);
    // state = through state + B^T (out_of x)
    loops.scale_rows(k.n, P, k.out_of, x, P, scaled, P);
    loops.scale_rows(1, N * P, &k.through, state, 0, state, 0);
    multiply_transposed(N, P, k.n, p.B.row(k.batch, k.first, g), p.B.token, scaled, P, true, state, P);
    if (!all_tame(y, k.n * P) || !all_tame(state, N * P)) {
      std::copy_n(kept, N * P, state);
      recur(p, k, h, state, y);
    }
    const int64_t at = ((k.batch * s.length + k.first) * s.heads + h) * P;
    const T* const z = p.z ? p.z.row(k.batch, k.first, h) : nullptr;
    const T* const D = p.D ? p.D + (p.channel_D ? h * P : h) : nullptr;
    loops.finish(k.n, P, y, x, P, D, p.channel_D, z, p.z.token, p.out + at, s.heads * P,
                 p.before_gate ? p.before_gate + at : nullptr);
    for (int64_t i = 0; p.seq_idx && i < k.n; i++) {
      if (p.seq_idx[k.batch * s.length + k.first + i] >= 0) continue;
      std::fill_n(p.out + at + i * s.heads * P, P, T(0));
      if (p.before_gate) std::fill_n(p.before_gate + at + i * s.heads * P, P, T(0));
    }
  }
  if (p.final_state) turn(state, P, N, P, p.final_state + (index * s.heads + h) * N * P, N);
}

// Gradient buffers of one row and chunk step.
template <typename T>
struct Parts {
  T *dB = nullptr, *dC = nullptr;  ///< {N, Q}, as the products leave them
  T* dscores = nullptr;            ///< square
  bool fresh = false;              ///< dB holds nothing yet; the others are zero
};

// One head of one chunk, backwards. `carry` {N, P} is the gradient of the state
// that leaves, on return of the one that enters. Adds to `part`. `C_turned` is
// {N, Q}; x, G and dx {Q, P} are of this head alone.
template <typename T>
void backward_head(const SsdVjpParams<T>& q, const Row& row, int64_t c, int64_t h, const T* dt, const T* scores,
                   const T* C_turned, const T* x, const T* G, T* dx, T* carry, const Parts<T>& part, T* dD,
                   T* dsteps, T* dlogs, Arena<T> memory) {
  const SsdParams<T>& p = q.in;
  const SsdShape& s = p.shape;
  const auto& loops = chunk_loops<T>();
  const int64_t P = s.headdim, N = s.state, Q = s.chunk, g = h / s.group_heads(), stride = square_stride(s);
  T *into_G = memory.take(Q * P), *given = memory.take(Q * P), *direct = memory.take(Q * N),
    *dweights = memory.take(square_size(s)), *weights = memory.take(square_size(s)),
    *spans = memory.take(square_size(s)), *direct_dots = memory.take(Q), *dlog = memory.take(Q),
    *dw = memory.take(Q), *column = memory.take(stride + 16),
    *packed = memory.take(std::max(packed_size(std::max(N, Q), P), packed_size(P, Q)));
  const Chunk<T> k = chunk_of(p, row, c, h, dt, memory);
  const T* const none = nullptr;
  const T *B = p.B.row(k.batch, k.first, g), *C = p.C.row(k.batch, k.first, g);
  const T* const state = p.states + ((row.slot + c) * s.heads + h) * N * P;
  const auto padding = [&](int64_t i) { return p.seq_idx && p.seq_idx[k.batch * s.length + k.first + i] < 0; };

  // Inside the chunk: dW(s, t) = x_s G_t for t >= s, in two halves of t.
  const int64_t half = k.n > kHalf ? kHalf : 0, rest = k.n - half;
  if (half > 0) {
    pack_transposed(G, P, P, half, 0, half, packed);
    multiply_packed(half, half, P, x, P, packed, 0, half, none, false, dweights, stride);
  }
  pack_transposed(G + half * P, P, P, rest, 0, rest, packed);
  multiply_packed(k.n, rest, P, x, P, packed, 0, rest, none, false, dweights + half, stride);
  loops.weigh_vjp({k.n, stride, k.sums, k.segments, k.dt}, scores, dweights, weights, part.dscores, spans, dw);
  std::fill_n(dlog, k.n, T(0));
  loops.span_sums(k.n, stride, spans, column, dlog);

  // dx = out_of (B carry) + W G + D G
  pack(carry, P, N, P, 0, P, packed);
  multiply_packed(k.n, P, N, B, p.B.token, packed, 0, P, none, false, dx, P);
  loops.row_dots(k.n, P, x, P, dx, P, direct_dots);  // x_s carry^T B_s
  loops.scale_rows(k.n, P, k.out_of, dx, P, dx, P);
  pack(G + half * P, P, rest, P, 0, P, packed);
  multiply_packed(k.n, P, rest, weights + half, stride, packed, 0, P, none, true, dx, P);
  if (half > 0) {
    pack(G, P, half, P, 0, P, packed);
    multiply_packed(half, P, half, weights, stride, packed, 0, P, none, true, dx, P);
  }
  if (p.D) loops.skip_vjp(k.n, P, G, x, P, p.D + (p.channel_D ? h * P : h), p.channel_D, dx, P, dD);
  // What a token gave to the state that leaves decays over all later tokens.
  T gave = 0;
  for (int64_t i = 0; i < k.n; i++) {
    dw[i] += k.reach[i] * direct_dots[i];
    dlog[i] += gave;
    gave += k.out_of[i] * direct_dots[i];
  }
  // dB^T += carry (out_of x)^T: of the two ways round the one that transposes
  // less.
  loops.scale_rows(k.n, P, k.out_of, x, P, given, P);
  pack_transposed(given, P, P, k.n, 0, k.n, packed);
  multiply_packed(N, k.n, P, carry, P, packed, 0, k.n, none, !part.fresh, part.dB, Q);

  // dC^T += state (into G)^T; what the entering state gives decays over all
  // tokens up to there.
  loops.scale_rows(k.n, P, k.into, G, P, into_G, P);
  pack_transposed(into_G, P, P, k.n, 0, k.n, packed);
  multiply_packed(N, k.n, P, state, P, packed, 0, k.n, none, false, direct, Q);
  loops.add_column_dots(N, k.n, direct, C_turned, Q, part.dC, direct_dots);
  T whole = 0;
  loops.row_dots(1, N * P, state, 0, carry, 0, &whole);
  T taken = k.through == T(0) ? T(0) : k.through * whole;
  for (int64_t i = k.n - 1; i >= 0; i--) {
    taken += direct_dots[i];
    dlog[i] += taken;
  }

  // carry = through carry + C^T (into G)
  loops.scale_rows(1, N * P, &k.through, carry, 0, carry, 0);
  multiply_transposed(N, P, k.n, C, p.C.token, into_G, P, true, carry, P);

  for (int64_t i = 0; i < k.n; i++) {
    const int64_t place = (k.batch * s.length + k.first + i) * s.heads + h;
    dsteps[place] = dw[i] + p.A[h] * dlog[i];
    dlogs[place] = k.dt[i] * dlog[i];
    if (padding(i)) dsteps[place] = dlogs[place] = 0;
  }
}

// The heads [first, last) of one group of one chunk, backwards. Rows of a head
// lie a page apart, so rows are read and written for all of them together.
template <typename T>
struct UnitPlaces {
  const T *dt, *scores, *C_turned;
  T *carries, *dD, *dsteps,
      *dlogs;  ///< carries {H, N P} and dD {H, P} of this row
};

template <typename T>
void backward_unit(const SsdVjpParams<T>& q, const Row& row, int64_t c, int64_t first, int64_t last,
                   const UnitPlaces<T>& places, Parts<T> part) {
  const SsdParams<T>& p = q.in;
  const SsdShape& s = p.shape;
  const auto& loops = chunk_loops<T>();
  const int64_t P = s.headdim, N = s.state, Q = s.chunk, heads = last - first;
  const int64_t values = (4 * heads + 2) * Q * P + Q * N + 3 * square_size(s) + packed_size(std::max(N, Q), P) +
                         packed_size(P, Q) + 16 * Q + 16 * 16 + 512;
  Arena<T> memory{scratch<T>(values)};
  T *const x = memory.take(heads * Q * P), *const G = memory.take(heads * Q * P),
           *const dx = memory.take(heads * Q * P), *const z = memory.take(p.z ? heads * Q * P : 0);
  const int64_t begin = row.first + c * Q, n = std::min(Q, row.first + row.length - begin);
  // G is the gradient of the output before the gate. Rows that lie pages apart are all read before
  // one of such rows is written: their addresses agree in the lower bits, by which a load would
  // wait for the stores before it.
  for (int64_t i = 0; i < n; i++) {
    const int64_t t = begin + i, token = row.batch * s.length + t;
    const bool padding = p.seq_idx && p.seq_idx[token] < 0;
    for (int64_t h = first; h < last; h++) {
      const int64_t at = (token * s.heads + h) * P, to = ((h - first) * Q + i) * P;
      if (padding) {
        for (T* const rows : {x, G, dx}) std::fill_n(rows + to, P, T(0));
        if (p.z) std::fill_n(z + to, P, T(0));
        continue;
      }
      std::copy_n(p.x.row(row.batch, t, h), P, x + to);
      std::copy_n(q.dout + at, P, G + to);
      if (!p.z) continue;
      std::copy_n(p.before_gate + at, P, dx + to);  // dx is of use only later
      std::copy_n(p.z.row(row.batch, t, h), P, z + to);
    }
  }
  if (p.z) {
    for (int64_t h = 0; h < heads; h++)
      loops.gate_vjp(n * P, G + h * Q * P, dx + h * Q * P, z + h * Q * P, G + h * Q * P, z + h * Q * P);
    for (int64_t i = 0; i < n; i++) {
      const int64_t token = row.batch * s.length + begin + i;
      for (int64_t h = first; h < last; h++)
        std::copy_n(z + ((h - first) * Q + i) * P, P, q.dz + (token * s.heads + h) * P);
    }
  }
  for (int64_t h = first; h < last; h++) {
    const int64_t own = (h - first) * Q * P;
    backward_head(q, row, c, h, places.dt, places.scores, places.C_turned, x + own, G + own, dx + own,
                  places.carries + h * N * P, part, places.dD + h * P, places.dsteps, places.dlogs, memory);
    part.fresh = false;
  }
  for (int64_t i = 0; i < n; i++) {
    const int64_t token = row.batch * s.length + begin + i;
    for (int64_t h = first; h < last; h++)
      std::copy_n(dx + ((h - first) * Q + i) * P, P, q.dx + (token * s.heads + h) * P);
  }
}

// to {columns} = sum of rows, in fixed parts.
template <typename T>
void sum_columns(const T* from, int64_t rows, int64_t columns, T* partial, T* to) {
  const int64_t parts = div_ceil(rows, int64_t{512});
  parallel_for(parts, [&](int64_t i) {
    const int64_t first = i * 512;
    column_sums(from + first * columns, columns, std::min<int64_t>(512, rows - first), columns,
                partial + i * columns);
  });
  sum_parts(partial, parts, columns, to);
}

// B or C, dense, with zeros at padding: whatever lies there may be infinite or
// NaN.
template <typename T>
SsdRows<const T> without_padding(const SsdParams<T>& p, const SsdRows<const T>& m, T* to) {
  const SsdShape& s = p.shape;
  const int64_t width = s.groups * s.state;
  constexpr int64_t kTokens = 64;
  parallel_for(div_ceil(s.tokens(), kTokens), [&](int64_t task) {
    for (int64_t i = task * kTokens; i < std::min(s.tokens(), (task + 1) * kTokens); i++) {
      for (int64_t g = 0; g < s.groups; g++) {
        T* const row = to + i * width + g * s.state;
        if (p.seq_idx[i] < 0) {
          std::fill_n(row, s.state, T(0));
        } else {
          std::copy_n(m.row(i / s.length, i % s.length, g), s.state, row);
        }
      }
    }
  });
  return {to, s.length * width, width, s.state};
}

constexpr int64_t kPiece = 4096;  // values of a task of a simple sum
int64_t turned_size(const SsdShape& s) { return s.chunk * s.state; }
int64_t part_size(const SsdShape& s) { return 2 * s.chunk * s.state + square_size(s); }

}  // namespace

int64_t ssd_workspace(const SsdShape& s) {
  if (s.recurrent) return ssd_recurrence_workspace(s);
  return s.tokens() * s.heads + s.slots() * s.groups * square_size(s) + 64;
}

int64_t ssd_vjp_workspace(const SsdShape& s) {
  const int64_t tokens = s.tokens() * s.heads, units = s.groups * units_per_group(s);
  return 4 * tokens + div_ceil(s.tokens(), int64_t{512}) * s.heads + s.heads +
         s.rows() * s.heads * s.state_size() + s.rows() * s.heads * s.headdim + s.heads * s.headdim +
         s.rows() * (s.groups * (2 * square_size(s) + 2 * turned_size(s) + part_size(s)) + units * part_size(s)) +
         (s.ids ? 2 * s.tokens() * s.groups * s.state : 0) + 256;
}

template <typename T>
void ssd(const SsdParams<T>& p) {
  const SsdShape& s = p.shape;
  if (s.recurrent) return ssd_recurrence(p);
  const std::vector<Row> rows = rows_of(p);
  Arena<T> memory{p.workspace};
  T *dt = memory.take(s.tokens() * s.heads), *scores = memory.take(s.slots() * s.groups * square_size(s));
  fill_steps(p, dt, static_cast<T*>(nullptr));
  std::vector<std::pair<const Row*, int64_t>> chunks;
  for (const Row& row : rows) {
    for (int64_t c = 0; c < row.chunks; c++) chunks.emplace_back(&row, c);
  }
  parallel_for(static_cast<int64_t>(chunks.size()) * s.groups, [&](int64_t task) {
    const auto [row, c] = chunks[static_cast<size_t>(task / s.groups)];
    const int64_t first = row->first + c * s.chunk, n = std::min(s.chunk, row->first + row->length - first);
    fill_scores(p, row->batch, first, n, task % s.groups, scores + task * square_size(s));
  });
  parallel_for(s.rows() * s.heads, [&](int64_t task) {
    const int64_t index = task / s.heads;
    forward_head(p, rows[static_cast<size_t>(index)], index, task % s.heads, dt, scores);
  });
}

template <typename T>
void ssd_vjp(const SsdVjpParams<T>& given) {
  SsdVjpParams<T> q = given;
  const SsdParams<T>& p = q.in;
  const SsdShape& s = p.shape;
  const int64_t H = s.heads, P = s.headdim, N = s.state, units = units_per_group(s), all_units = s.groups * units;
  const int64_t unit_heads = div_ceil(s.group_heads(), units), tokens = s.tokens() * H;
  const std::vector<Row> rows = rows_of(p);
  Arena<T> memory{q.workspace};
  T *dt = memory.take(tokens), *dsteps = memory.take(tokens), *dlogs = memory.take(tokens),
    *slopes = memory.take(tokens), *partial = memory.take(div_ceil(s.tokens(), int64_t{512}) * H),
    *carries = memory.take(s.rows() * H * N * P), *dD = memory.take(s.rows() * H * P),
    *dD_sum = memory.take(H * P), *scores = memory.take(2 * s.rows() * s.groups * square_size(s)),
    *C_turned = memory.take(2 * s.rows() * s.groups * turned_size(s)),
    *sums = memory.take(s.rows() * s.groups * part_size(s)),
    *parts = memory.take(s.rows() * all_units * part_size(s));
  if (s.ids) {
    for (auto* m : {&q.in.B, &q.in.C}) *m = without_padding(p, *m, memory.take(s.tokens() * s.groups * N));
  }
  fill_steps(p, dt, slopes);
  std::fill_n(dD, s.rows() * H * P, T(0));
  parallel_for(s.rows() * H, [&](int64_t i) {
    if (q.dfinal_state) {
      turn(q.dfinal_state + i * N * P, N, P, N, carries + i * N * P, P);
    } else {
      std::fill_n(carries + i * N * P, N * P, T(0));
    }
  });

  // The chunk of a row that is `step` from its end; negative if there is none.
  const auto chunk_at = [&](int64_t index, int64_t step) {
    return rows[static_cast<size_t>(index)].chunks - 1 - step;
  };
  const auto span = [&](int64_t index, int64_t step) {
    const Row& row = rows[static_cast<size_t>(index)];
    const int64_t first = row.first + chunk_at(index, step) * s.chunk;
    return std::pair(first, std::min(s.chunk, row.first + row.length - first));
  };
  const int64_t groups = s.rows() * s.groups;
  // Scores and C of a step lie in one of two halves: the next step's are made while this one's are used.
  const auto scores_at = [&](int64_t group, int64_t step) {
    return scores + (step % 2 * groups + group) * square_size(s);
  };
  const auto turned_at = [&](int64_t group, int64_t step) {
    return C_turned + (step % 2 * groups + group) * turned_size(s);
  };
  const auto prepare = [&](int64_t group, int64_t step) {
    const int64_t index = group / s.groups, g = group % s.groups;
    if (chunk_at(index, step) < 0) return;
    const auto [first, n] = span(index, step);
    const int64_t b = rows[static_cast<size_t>(index)].batch;
    fill_scores(p, b, first, n, g, scores_at(group, step));
    turn(p.C.row(b, first, g), p.C.token, n, N, turned_at(group, step), s.chunk);
  };
  // From the sums over the heads of a group.
  const auto finish = [&](int64_t group, int64_t step) {
    const int64_t index = group / s.groups, g = group % s.groups;
    if (step < 0 || chunk_at(index, step) < 0) return;
    const auto [first, n] = span(index, step);
    const int64_t b = rows[static_cast<size_t>(index)].batch, stride = square_stride(s);
    const T* const sum = sums + group * part_size(s);
    // dB_s += sum over t of dscores(s, t) C_t; dC_t += sum over s of dscores(s, t) B_s
    const T* const dscores = sum + 2 * s.chunk * N;
    const int64_t token = s.groups * N, to = (b * s.length + first) * token + g * N;
    turn(sum, s.chunk, N, n, q.dB + to, token);
    turn(sum + s.chunk * N, s.chunk, N, n, q.dC + to, token);
    T* const packed = scratch<T>(packed_size(n, N));
    pack(p.C.row(b, first, g), p.C.token, n, N, 0, N, packed);
    multiply_packed(n, N, n, dscores, stride, packed, 0, N, static_cast<const T*>(nullptr), true, q.dB + to,
                    token);
    multiply_transposed(n, N, n, dscores, stride, p.B.row(b, first, g), p.B.token, true, q.dC + to, token);
  };

  int64_t most = 0;
  for (const Row& row : rows) most = std::max(most, row.chunks);
  parallel_for(groups, [&](int64_t group) { prepare(group, 0); });
  for (int64_t step = 0; step < most; step++) {
    // The heads of this step, and beside them what the steps around it leave to
    // do for whole groups, which alone would keep few threads busy.
    parallel_for(s.rows() * all_units + 2 * groups, [&](int64_t task) {
      if (task >= s.rows() * all_units) {
        const int64_t group = task - s.rows() * all_units;
        return group < groups ? prepare(group, step + 1) : finish(group - groups, step - 1);
      }
      const int64_t index = task / all_units, unit = task % all_units, g = unit / units,
                    group = index * s.groups + g;
      if (chunk_at(index, step) < 0) return;
      T* const part = parts + task * part_size(s);
      const int64_t first = g * s.group_heads() + unit % units * unit_heads;
      const int64_t last = std::min((g + 1) * s.group_heads(), first + unit_heads);
      if (first >= last) {
        std::fill_n(part, part_size(s), T(0));
        return;
      }
      std::fill_n(part + turned_size(s), part_size(s) - turned_size(s), T(0));
      const UnitPlaces<T> places{dt,
                                 scores_at(group, step),
                                 turned_at(group, step),
                                 carries + index * H * N * P,
                                 dD + index * H * P,
                                 dsteps,
                                 dlogs};
      backward_unit(q, rows[static_cast<size_t>(index)], chunk_at(index, step), first, last, places,
                    {part, part + turned_size(s), part + 2 * turned_size(s), true});
    });
    const int64_t pieces = div_ceil(part_size(s), kPiece);
    parallel_for(groups * pieces, [&](int64_t task) {
      const int64_t at = task % pieces * kPiece, group = task / pieces;
      if (chunk_at(group / s.groups, step) < 0) return;
      column_sums(parts + group * units * part_size(s) + at, part_size(s), units,
                  std::min(kPiece, part_size(s) - at), sums + group * part_size(s) + at);
    });
  }
  parallel_for(groups, [&](int64_t group) { finish(group, most - 1); });

  if (q.dinitial_state) {
    parallel_for(s.rows() * H,
                 [&](int64_t i) { turn(carries + i * N * P, P, N, P, q.dinitial_state + i * N * P, N); });
  }
  sum_columns(dlogs, s.tokens(), H, partial, q.dA);
  parallel_for(div_ceil(tokens, kPiece), [&](int64_t piece) {
    for (int64_t i = piece * kPiece; i < std::min(tokens, (piece + 1) * kPiece); i++)
      q.ddt[i] = slopes[i] == T(0) ? T(0) : dsteps[i] * slopes[i];
  });
  if (q.ddt_bias) sum_columns(q.ddt, s.tokens(), H, partial, q.ddt_bias);
  if (q.dD) {
    sum_parts(dD, s.rows(), H * P, p.channel_D ? q.dD : dD_sum);
    for (int64_t h = 0; !p.channel_D && h < H; h++) {
      q.dD[h] = 0;
      for (int64_t i = 0; i < P; i++) q.dD[h] += dD_sum[h * P + i];
    }
  }
}

template <typename T>
void ssd_step(const SsdStepParams<T>& p) {
  const int64_t P = p.headdim, N = p.state_size;
  parallel_for(p.batch * p.heads, [&](int64_t task) {
    const auto& loops = chunk_loops<T>();
    const int64_t b = task / p.heads, h = task % p.heads, g = h / (p.heads / p.groups);
    T dt = 0, a = 0;
    loops.time_steps(1, p.dt + task, p.dt_bias ? p.dt_bias[h] : T(0), p.softplus, p.dt_min, p.dt_max, &dt);
    const T log = dt * p.A[h];
    loops.exponentials(1, &log, &a);
    const T* const x = p.x + task * P;
    T* const out = p.out + task * P;
    loops.step(P, N, a, dt, x, p.B + (b * p.groups + g) * N, p.C + (b * p.groups + g) * N, p.state + task * P * N,
               p.next_state + task * P * N, out);
    const T* const D = p.D ? p.D + (p.channel_D ? h * P : h) : nullptr;
    loops.finish(1, P, out, x, P, D, p.channel_D, p.z ? p.z + task * P : nullptr, P, out, P, nullptr);
  });
}

template void ssd(const SsdParams<float>&);
template void ssd(const SsdParams<double>&);
template void ssd_vjp(const SsdVjpParams<float>&);
template void ssd_vjp(const SsdVjpParams<double>&);
template void ssd_step(const SsdStepParams<float>&);
template void ssd_step(const SsdStepParams<double>&);

}  // namespace aspis::kernel
