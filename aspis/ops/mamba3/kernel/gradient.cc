// The gradient of the core with all that makes its keys and queries, by chunks of
// matrix products as that of Mamba-2 (ops/ssd/kernel/cpu.cc). Keys and queries are
// made again for each chunk of a head and their gradients turned back at once, so
// that nothing of their size for all heads exists.

#include "aspis/ops/mamba3/kernel/gradient.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/linear/kernel/product.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/rotary.h"
#include "aspis/ops/mamba3/kernel/sequences.h"
#include "aspis/ops/ssd/kernel/chunk.h"
#include "aspis/ops/ssd/kernel/parts.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/mamba3/kernel/gradient.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/mamba3/kernel/gradient-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(fill_gradient);

template <typename T>
const GradientLoops<T>& gradient_loops() {
  struct Tables {
    decltype(&HWY_STATIC_DISPATCH(fill_gradient)) made_by = nullptr;
    GradientLoops<float> single;
    GradientLoops<double> wide;
  };
  thread_local Tables tables;
  const auto fill = HWY_DYNAMIC_DISPATCH(fill_gradient);
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

namespace {

using mamba3_parts::Sequence;
using mamba3_parts::sequences_of;
using ssd_parts::Arena;
using ssd_parts::prefetch_rows;
using ssd_parts::scratch;
using ssd_parts::turn;

template <typename T>
class Gradient {
 public:
  explicit Gradient(const Mamba3TurnedVjpParams<T>& d)
      : d_(d),
        p_(d.in),
        s_(d.in.shape),
        sequences_(sequences_of(d.in)),
        H_(s_.heads),
        P_(s_.headdim),
        N_(s_.state),
        R_(s_.rank),
        A_(p_.angle ? s_.angles : 0),
        groups_(p_.key.groups),
        group_heads_(H_ / groups_),
        // By the number of heads alone, since the sums over heads follow it.
        unit_heads_(div_ceil(group_heads_, std::min<int64_t>(group_heads_, 8))),
        units_(div_ceil(group_heads_, unit_heads_)),
        rows_(s_.chunk * R_),
        stride_((rows_ + 15) / 16 * 16),
        period_(std::lcm(R_, int64_t{16})),
        block_(kTriangle % R_ == 0 ? kTriangle : stride_),
        part_size_(2 * N_ * stride_ + s_.chunk * A_),
        stage_(std::clamp<int64_t>(8 / std::max<int64_t>(1, s_.rows()), 1, kStage)) {}

  void run() {
    const int64_t heads = s_.rows() * H_, tasks = s_.rows() * groups_ * units_;
    const int64_t bias = N_ * period_, lanes = 16;
    const int64_t values = heads * (N_ * P_ + A_ + P_ + R_ * P_ + 2 * bias) + 2 * H_ * bias +
                           s_.slots() * H_ * A_ + tasks * stage_ * part_size_ + 10 * lanes;
    const auto memory = std::make_unique_for_overwrite<T[]>(static_cast<size_t>(values));
    Arena<T> arena{memory.get()};
    carries_ = arena.take(heads * N_ * P_), later_ = arena.take(heads * A_), dD_ = arena.take(heads * P_);
    dscale_ = arena.take(heads * R_ * P_);
    key_bias_ = expand_bias(p_.key.bias, arena), query_bias_ = expand_bias(p_.query.bias, arena);
    if (key_bias_) key_sums_ = arena.take(heads * bias);
    if (query_bias_) query_sums_ = arena.take(heads * bias);
    phases_ = arena.take(s_.slots() * H_ * A_);
    parts_ = arena.take(tasks * stage_ * part_size_);
    if (A_ > 0) turns_ = mamba3_parts::all_turns(s_.tokens() * A_, p_.angle);
    parallel_for(heads, [&](int64_t i) { open_head(i); });

    int64_t most = 0;
    for (const Sequence& q : sequences_) most = std::max(most, q.chunks);
    const int64_t pieces = 2 * div_ceil(N_, kPiece);  // of dB and dC
    const int64_t matrices = s_.rows() * groups_ * stage_ * pieces, angles = A_ > 0 ? s_.rows() * stage_ : 0;
    for (int64_t step = 0; step < most; step += stage_) {
      parallel_for(tasks, [&](int64_t task) {
        for (int64_t i = 0; i < stage_; i++) run_unit(task, step, i);
      });
      parallel_for(matrices + angles, [&](int64_t task) {
        if (task < matrices) {
          sum_matrices(task / pieces / stage_, step, task / pieces % stage_, task % pieces);
        } else {
          sum_angles((task - matrices) / stage_, step, (task - matrices) % stage_);
        }
      });
    }

    parallel_for(heads, [&](int64_t i) {
      turn(carries_ + i * N_ * P_, P_, N_, P_, d_.dinitial + i * N_ * P_, N_);
      if (A_ > 0) std::copy_n(later_ + i * A_, A_, d_.dinitial_phi + i * A_);
    });
    parallel_for(H_, [&](int64_t h) {
      sum_bias(key_sums_, h, d_.dB_bias);
      sum_bias(query_sums_, h, d_.dC_bias);
      for (int64_t i = 0; p_.scale && i < R_ * P_; i++) {
        T sum = 0;
        for (int64_t row = 0; row < s_.rows(); row++) sum += dscale_[(row * H_ + h) * R_ * P_ + i];
        d_.dscale[h * R_ * P_ + i] = sum;
      }
      if (!p_.D) return;
      T sum = 0;
      for (int64_t row = 0; row < s_.rows(); row++) {
        for (int64_t i = 0; i < P_; i++) sum += dD_[(row * H_ + h) * P_ + i];
      }
      d_.dD[h] = sum;
    });
  }

 private:
  static constexpr int64_t kPiece = 16;
  static constexpr int64_t kStage = 4;      // chunks between two meetings of the team
  static constexpr int64_t kTriangle = 32;  // rows of a block of the squares

  // The chunk of a sequence that is `step` from its end.
  struct Chunk {
    int64_t token = 0, n = 0, rows = 0, slot = 0;
    int64_t before = 0;  ///< tokens of the chunk before it
  };
  Chunk chunk_at(const Sequence& q, int64_t step) const {
    const int64_t c = q.chunks - 1 - step, first = c * s_.chunk;
    Chunk k{q.batch * s_.length + q.first + first, std::min(s_.chunk, q.length - first), 0, q.slot + c, 0};
    k.rows = k.n * R_;
    if (c > 0) k.before = s_.chunk;
    return k;
  }

  // {H, N, period} of {H, R, N}, or null.
  T* expand_bias(const T* bias, Arena<T>& arena) const {
    if (!bias) return nullptr;
    T* const to = arena.take(H_ * N_ * period_);
    for (int64_t h = 0; h < H_; h++) {
      for (int64_t n = 0; n < N_; n++) {
        for (int64_t i = 0; i < period_; i++) to[(h * N_ + n) * period_ + i] = bias[(h * R_ + i % R_) * N_ + n];
      }
    }
    return to;
  }

  void sum_bias(const T* sums, int64_t h, T* to) const {
    if (!sums) return;
    std::fill_n(to + h * R_ * N_, R_ * N_, T(0));
    for (int64_t row = 0; row < s_.rows(); row++) {
      const T* const from = sums + (row * H_ + h) * N_ * period_;
      for (int64_t n = 0; n < N_; n++) {
        for (int64_t i = 0; i < period_; i++) to[(h * R_ + i % R_) * N_ + n] += from[n * period_ + i];
      }
    }
  }

  // What a head of a sequence starts from; the phases before its chunks.
  void open_head(int64_t i) {
    const int64_t h = i % H_;
    const Sequence& q = sequences_[static_cast<size_t>(i / H_)];
    turn(d_.dfinal + i * N_ * P_, N_, P_, N_, carries_ + i * N_ * P_, P_);
    std::fill_n(dD_ + i * P_, P_, T(0));
    std::fill_n(dscale_ + i * R_ * P_, R_ * P_, T(0));
    for (T* sums : {key_sums_, query_sums_}) {
      if (sums) std::fill_n(sums + i * N_ * period_, N_ * period_, T(0));
    }
    if (A_ == 0) return;
    std::copy_n(d_.dlast_phi + i * A_, A_, later_ + i * A_);
    std::vector<T> phi(p_.initial_phi + i * A_, p_.initial_phi + (i + 1) * A_);
    for (int64_t c = 0; c < q.chunks; c++) {
      std::copy_n(phi.data(), A_, phases_ + ((q.slot + c) * H_ + h) * A_);
      const int64_t first = c * s_.chunk, token = q.batch * s_.length + q.first + first;
      gradient_loops<T>().advance(std::min(s_.chunk, q.length - first), A_, 1, p_.dt + token * H_ + h, H_,
                                  turns_.data() + token * A_, phi.data(), nullptr);
    }
  }

  // The heads of a unit. Rows of a head lie pages apart, so they are read and written
  // for all of them together.
  void run_unit(int64_t task, int64_t step, int64_t within) {
    const int64_t index = task / (groups_ * units_), g = task / units_ % groups_, u = task % units_;
    const Sequence& sequence = sequences_[static_cast<size_t>(index)];
    if (step + within >= sequence.chunks) return;
    const Chunk k = chunk_at(sequence, step + within);
    const int64_t first = g * group_heads_ + u * unit_heads_,
                  last = std::min((g + 1) * group_heads_, first + unit_heads_);
    const int64_t block = rows_ * P_, square = rows_ * stride_;
    const int64_t widest = std::max(packed_size(P_, rows_), packed_size(rows_, P_));
    Arena<T> memory{scratch<T>(5 * block + 6 * N_ * stride_ + 3 * A_ * stride_ + rows_ * A_ + 2 * square +
                               packed_size(P_, rows_ + 16) + std::max(widest, packed_size(rows_, block_)) +
                               16 * (stride_ + 16) + 40 * 16)};
    T *const B = memory.take(N_ * stride_), *const C = memory.take(N_ * stride_);
    const int64_t matrix = (k.token * R_ * groups_ + g) * N_;
    gradient_loops<T>().transpose(k.rows, N_, p_.key.x + matrix, groups_ * N_, B, stride_, stride_);
    gradient_loops<T>().transpose(k.rows, N_, p_.query.x + matrix, groups_ * N_, C, stride_, stride_);
    T* const part = parts_ + (task * stage_ + within) * part_size_;
    TurnedChunk<T> turned{N_, A_, stride_, period_, p_.key.pairs == RotaryPairs::kAdjacent};
    turned.B = B, turned.C = C, turned.fresh = true;
    turned.dB = part, turned.dC = part + N_ * stride_;
    for (int64_t h = first; h < last; h++) {
      // What this thread most likely works on next: the next head, or the first in the chunk before.
      Ahead next{k.token, k.n, k.slot, h + 1};
      if (h + 1 == last) next = {k.token - k.before, k.before, k.slot - 1, first};
      run_head(k, index, h, next, turned, part + 2 * N_ * stride_, memory);
      turned.fresh = false;
    }
  }

  struct Ahead {
    int64_t token, n, slot, head;
  };

  void run_head(const Chunk& k, int64_t index, int64_t h, const Ahead& next, TurnedChunk<T> turned, T* dangle,
                Arena<T> memory) {
    const auto& loops = chunk_loops<T>();
    const auto& own = gradient_loops<T>();
    const int64_t rows = k.rows, head = index * H_ + h, bias = N_ * period_;
    const T* const none = nullptr;
    T *const v = memory.take(rows_ * P_), *const G = memory.take(rows_ * P_), *const dv = memory.take(rows_ * P_),
             *const x = memory.take(p_.scale ? rows_ * P_ : 0);
    T *const keys = memory.take(N_ * stride_), *const queries = memory.take(N_ * stride_),
             *const dk = memory.take(N_ * stride_), *const dq = memory.take(N_ * stride_);
    T *const cosine = memory.take(A_ * stride_), *const sine = memory.take(A_ * stride_),
             *const dphi = memory.take(A_ * stride_), *const phases = memory.take(rows_ * A_);
    T *const scaled = memory.take(rows_ * P_), *const scores = memory.take(rows_ * stride_),
             *const dscores = memory.take(rows_ * stride_);
    T *const turned_G = memory.take(packed_size(P_, rows_ + 16)), *const packed = memory.take(
                                                                      std::max({packed_size(P_, rows_),
                                                                                packed_size(rows_, P_),
                                                                                packed_size(rows_, block_)}));
    T *const sums = memory.take(stride_), *const tokens = memory.take(stride_), *const w = memory.take(stride_),
             *const g = memory.take(stride_), *const into = memory.take(stride_),
             *const reach = memory.take(stride_), *const out_of = memory.take(stride_),
             *const dw = memory.take(stride_), *const dg = memory.take(stride_),
             *const dlog = memory.take(stride_ + 1), *const column = memory.take(stride_),
             *const dots = memory.take(stride_);
    T* const carry = carries_ + head * N_ * P_;
    const T* const state = p_.states + (k.slot * H_ + h) * N_ * P_;

    const int64_t width = R_ * P_;  // of a token
    // Rows that lie pages apart are all read before one of such rows is written: their addresses
    // agree in the lower bits, by which a load would wait for the stores before it.
    const auto gather = [&](const T* from, int64_t values, T* to) {
      for (int64_t i = 0; i < k.n; i++)
        std::copy_n(from + ((k.token + i) * H_ + h) * values, values, to + i * values);
    };
    const auto scatter = [&](const T* from, int64_t values, T* to) {
      for (int64_t i = 0; i < k.n; i++)
        std::copy_n(from + i * values, values, to + ((k.token + i) * H_ + h) * values);
    };
    const T* const scale = p_.scale ? p_.scale + h * width : nullptr;
    const int64_t v_width = scale ? P_ : width;
    gather(p_.v, v_width, scale ? x : v);
    for (int64_t i = 0; scale && i < rows; i++) {
      const T *const from = x + i / R_ * P_, *const by = scale + i % R_ * P_;
      for (int64_t c = 0; c < P_; c++) v[i * P_ + c] = from[c] * by[c];
    }
    gather(d_.dout, width, G);
    if (p_.z) {
      gather(p_.y, width, dv);
      gather(p_.z, width, scaled);
      loops.gate_vjp(rows * P_, G, dv, scaled, G, scaled);
      scatter(scaled, width, d_.dz);
    }
    T sum = 0;
    for (int64_t i = 0; i < rows; i++) {
      const int64_t token = i / R_, at = (k.token + token) * H_ + h;
      if (i % R_ == 0) sum += p_.log[at];
      sums[i] = sum, tokens[i] = static_cast<T>(token), w[i] = p_.w[at], g[i] = p_.g[at];
    }
    for (int64_t i = 0; i < rows; i++) reach[i] = sum - sums[i];
    for (int64_t i = rows; i < stride_; i++) sums[i] = sum, tokens[i] = static_cast<T>(k.n), into[i] = 0;
    loops.exponentials(rows, sums, into);
    loops.exponentials(rows, reach, reach);
    for (int64_t i = 0; i < rows; i++) out_of[i] = w[i] * reach[i];
    const T through = into[rows - 1];

    if (A_ > 0) {
      T* const phi = dots;  // of use only here
      std::vector<T> spare;
      T* now = phi;
      if (A_ > stride_) spare.resize(static_cast<size_t>(A_)), now = spare.data();
      std::copy_n(phases_ + (k.slot * H_ + h) * A_, A_, now);
      own.advance(k.n, A_, R_, p_.dt + k.token * H_ + h, H_, turns_.data() + k.token * A_, now, phases);
      own.transpose(rows, A_, phases, A_, dphi, stride_, stride_);
      rotary_loops<T>().sincos(A_ * stride_, dphi, cosine, sine);
    }
    turned.cosine = cosine, turned.sine = sine, turned.dphi = dphi;
    turned.k = keys, turned.q = queries, turned.dk = dk, turned.dq = dq;
    if (key_bias_) turned.B_bias = key_bias_ + h * bias, turned.dB_bias = key_sums_ + head * bias;
    if (query_bias_) turned.C_bias = query_bias_ + h * bias, turned.dC_bias = query_sums_ + head * bias;
    own.make(turned);

    // Of the squares only what is at or behind the diagonal, in blocks; block(first, its rows).
    const auto for_blocks = [&](const auto& block) {
      for (int64_t i = 0; i < rows; i += block_) block(i, std::min(block_, rows - i));
    };
    // Rows of a head lie pages apart, which hardware prefetching does not follow: those that come
    // next are asked for a few at a time, because all at once would stall.
    int64_t asked = 0;
    const auto ask = [&] {
      constexpr int64_t kTimes = 14;
      const int64_t from = std::min(next.n, next.n * asked / kTimes),
                    to = std::min(next.n, next.n * (asked + 1) / kTimes);
      const int64_t there = (next.token + from) * H_ + next.head;
      const T* const before = p_.z ? p_.y : nullptr;
      for (const T* ahead : {d_.dout, before, p_.z, static_cast<const T*>(d_.dz)}) {
        if (ahead) prefetch_rows(ahead + there * width, H_ * width, to - from, width);
      }
      for (const T* ahead : {p_.v, static_cast<const T*>(d_.dv)}) {
        prefetch_rows(ahead + there * v_width, H_ * v_width, to - from, v_width);
      }
      asked++;
    };
    // scores(s, t) = k_s q_t, dscores(s, t) = v_s G_t
    for_blocks([&](int64_t i, int64_t m) {
      ask();
      multiply_transposed(m, rows - i, N_, keys + i, stride_, queries + i, stride_, false,
                          scores + i * stride_ + i, stride_);
    });
    for_blocks([&](int64_t i, int64_t m) {
      ask();
      pack_transposed(G + i * P_, P_, P_, m, 0, m, turned_G + i * P_);
      multiply_packed(i + m, m, P_, v, P_, turned_G + i * P_, 0, m, none, false, dscores + i, stride_);
    });
    own.weigh({rows, stride_, R_, block_, sums, tokens, w, g, scores, dscores, dw, dg, dlog, column});

    // dv = out_of (k carry) + W G + D G
    ask();
    multiply_transposed(rows, P_, N_, keys, stride_, carry, P_, false, dv, P_);
    loops.row_dots(rows, P_, v, P_, dv, P_, dots);
    loops.scale_rows(rows, P_, out_of, dv, P_, dv, P_);
    for_blocks([&](int64_t i, int64_t m) {
      ask();
      pack(G + i * P_, P_, rows - i, P_, 0, P_, packed);
      multiply_packed(m, P_, rows - i, scores + i * stride_ + i, stride_, packed, 0, P_, none, true, dv + i * P_,
                      P_);
    });
    if (p_.D) loops.skip_vjp(rows, P_, G, v, P_, p_.D + h, false, dv, P_, dD_ + head * P_);
    // What a token gave to the state that leaves decays over the tokens after it.
    T given = 0;
    for (int64_t i = 0; i < rows; i++) {
      if (i % R_ == 0) dlog[i / R_] += given;
      dw[i] += reach[i] * dots[i];
      given += out_of[i] * dots[i];
    }

    // dk = out_of (carry v) + dscores q
    loops.scale_rows(rows, P_, out_of, v, P_, scaled, P_);
    pack_transposed(scaled, P_, P_, rows, 0, rows, packed);
    multiply_packed(N_, rows, P_, carry, P_, packed, 0, rows, none, false, dk, stride_);
    for_blocks([&](int64_t i, int64_t m) {
      ask();
      pack_transposed(dscores + i * stride_ + i, stride_, rows - i, m, 0, m, packed);
      multiply_packed(N_, m, rows - i, queries + i, stride_, packed, 0, m, none, true, dk + i, stride_);
    });
    // dq = into (state G) + dscores^T k
    for_blocks([&](int64_t i, int64_t m) {
      ask();
      multiply_packed(N_, m, P_, state, P_, turned_G + i * P_, 0, m, none, false, dq + i, stride_);
    });
    for (int64_t n = 0; rows < stride_ && n < N_; n++) {
      std::fill(dk + n * stride_ + rows, dk + (n + 1) * stride_, T(0));
      std::fill(dq + n * stride_ + rows, dq + (n + 1) * stride_, T(0));
    }
    own.scale_columns(N_, stride_, into, dq, queries, dots);
    for_blocks([&](int64_t i, int64_t m) {
      ask();
      pack(dscores + i, stride_, i + m, m, 0, m, packed);
      multiply_packed(N_, m, i + m, keys, stride_, packed, 0, m, none, true, dq + i, stride_);
    });
    // carry = through carry + q (into G)
    ask();
    const T whole = own.scale_and_dot(N_ * P_, through, carry, state);
    loops.scale_rows(rows, P_, into, G, P_, scaled, P_);
    pack(scaled, P_, rows, P_, 0, P_, packed);
    multiply_packed(N_, P_, rows, queries, stride_, packed, 0, P_, none, true, carry, P_);

    // What the entering state gives decays over all tokens up to there.
    T taken = through == T(0) ? T(0) : through * whole;
    for (int64_t i = k.n - 1; i >= 0; i--) {
      const int64_t at = (k.token + i) * H_ + h;
      T own_dw = 0, own_dg = 0;
      for (int64_t r = i * R_; r < (i + 1) * R_; r++) taken += dots[r], own_dw += dw[r], own_dg += dg[r];
      d_.dlog[at] = dlog[i] + taken, d_.dw[at] = own_dw, d_.dg[at] = own_dg;
    }
    if (scale) {
      T* const scale_sums = dscale_ + head * width;
      for (int64_t i = 0; i < rows; i++) {
        const T *const d = dv + i * P_, *const by = scale + i % R_ * P_, *const own_x = x + i / R_ * P_;
        T *const dx = scaled + i / R_ * P_, *const to = scale_sums + i % R_ * P_;
        if (i % R_ == 0) std::fill_n(dx, P_, T(0));
        for (int64_t c = 0; c < P_; c++) dx[c] += d[c] * by[c], to[c] += d[c] * own_x[c];
      }
    }
    scatter(scale ? scaled : dv, v_width, d_.dv);
    own.turn_back(turned);
    if (A_ == 0) return;
    own.transpose(A_, rows, dphi, stride_, phases, A_, A_);
    own.phase_back(k.n, A_, R_, phases, turns_.data() + k.token * A_, p_.dt + k.token * H_ + h,
                   d_.ddt + k.token * H_ + h, H_, turned.fresh, later_ + head * A_, dangle);
  }

  // kPiece rows of dB or dC of one group, summed over its units.
  void sum_matrices(int64_t group, int64_t step, int64_t within, int64_t piece) {
    const int64_t index = group / groups_, g = group % groups_, half = div_ceil(N_, kPiece);
    const Sequence& sequence = sequences_[static_cast<size_t>(index)];
    if (step + within >= sequence.chunks) return;
    const Chunk k = chunk_at(sequence, step + within);
    const bool of_C = piece >= half;
    const int64_t n = piece % half * kPiece, count = std::min(kPiece, N_ - n);
    T* const sum = scratch<T>(kPiece * stride_);
    column_sums(parts_ + (group * units_ * stage_ + within) * part_size_ + ((of_C ? N_ : 0) + n) * stride_,
                stage_ * part_size_, units_, count * stride_, sum);
    T* const to = (of_C ? d_.dC : d_.dB) + (k.token * R_ * groups_ + g) * N_ + n;
    gradient_loops<T>().transpose(count, k.rows, sum, stride_, to, groups_ * N_, count);
  }

  void sum_angles(int64_t index, int64_t step, int64_t within) {
    const Sequence& sequence = sequences_[static_cast<size_t>(index)];
    if (step + within >= sequence.chunks) return;
    const Chunk k = chunk_at(sequence, step + within);
    T* const to = d_.dangle + k.token * A_;
    column_sums(parts_ + (index * groups_ * units_ * stage_ + within) * part_size_ + 2 * N_ * stride_,
                stage_ * part_size_, groups_ * units_, k.n * A_, to);
    rotary_loops<T>().turns_vjp(k.n * A_, p_.angle + k.token * A_, to);
  }

  const Mamba3TurnedVjpParams<T>& d_;
  const Mamba3CoreParams<T>& p_;
  const Mamba3Shape& s_;
  const std::vector<Sequence> sequences_;
  const int64_t H_, P_, N_, R_, A_, groups_, group_heads_, unit_heads_, units_, rows_, stride_, period_, block_,
      part_size_, stage_;
  std::vector<T> turns_;
  T *carries_ = nullptr, *later_ = nullptr, *dD_ = nullptr, *dscale_ = nullptr, *key_bias_ = nullptr,
    *query_bias_ = nullptr, *key_sums_ = nullptr, *query_sums_ = nullptr, *phases_ = nullptr, *parts_ = nullptr;
};

}  // namespace

template <typename T>
void mamba3_turned_vjp(const Mamba3TurnedVjpParams<T>& d) {
  Gradient<T>(d).run();
}

template const GradientLoops<float>& gradient_loops<float>();
template const GradientLoops<double>& gradient_loops<double>();
template void mamba3_turned_vjp(const Mamba3TurnedVjpParams<float>&);
template void mamba3_turned_vjp(const Mamba3TurnedVjpParams<double>&);

}  // namespace aspis::kernel
#endif
