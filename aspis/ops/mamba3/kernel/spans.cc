#include "aspis/ops/mamba3/kernel/spans.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/rotary.h"
#include "aspis/ops/mamba3/kernel/sequences.h"
#include "aspis/ops/ssd/kernel/chunk.h"
#include "aspis/ops/ssd/kernel/parts.h"
#include "aspis/ops/ssd/kernel/recurrence.h"

namespace aspis::kernel {
namespace {

using mamba3_parts::Sequence;
using mamba3_parts::sequences_of;
using ssd_parts::Arena;
using ssd_parts::prefetch_rows;
using ssd_parts::scratch;
using ssd_parts::turn;

constexpr int64_t kSquare = kSpan * kSpan, kMost = kBlockSpans * kSpan;
// Of a span: the decays between two rows, from its start to each row and from each row to its end.
constexpr int64_t kDecays = kSquare + 2 * kSpan;

int64_t width_of(const Mamba3Shape& s) { return div_ceil(s.headdim, kWidthUnit) * kWidthUnit; }
int64_t tiles_of(const Mamba3Shape& s) { return div_ceil(s.state, kStateTile); }

// One head of one sequence.
template <typename T>
class Head {
 public:
  // `turns` {tokens, S}: pi tanh(angle).
  Head(const Mamba3CoreParams<T>& p, const T* turns, const Sequence& q, int64_t index, int64_t h)
      : p_(p),
        s_(p.shape),
        turns_(turns),
        q_(q),
        index_(index),
        h_(h),
        width_(width_of(s_)),
        tiles_(tiles_of(s_)) {
    const int64_t tile = tiles_ * kSpan * kStateTile;
    Arena<T> memory{scratch<T>(3 * kMost * width_ + kSpan * width_ + 2 * kBlockSpans * (tile + kDecays) +
                               tiles_ * kStateTile * width_ + 2 * kMost * s_.state + 3 * s_.angles + 17 * 16)};
    x_ = memory.take(kMost * width_), given_ = memory.take(kMost * width_), y_ = memory.take(kMost * width_);
    out_ = memory.take(kSpan * width_);
    B_ = memory.take(kBlockSpans * tile), C_ = memory.take(kBlockSpans * tile);
    exponents_ = memory.take(kBlockSpans * kDecays), decays_ = memory.take(kBlockSpans * kDecays);
    state_ = memory.take(tiles_ * kStateTile * width_);
    made_k_ = memory.take(kMost * s_.state), made_q_ = memory.take(kMost * s_.state);
    cosine_ = memory.take(s_.angles), sine_ = memory.take(s_.angles), phi_ = memory.take(s_.angles);
  }

  void run() {
    const int64_t P = s_.headdim, N = s_.state, at = (index_ * s_.heads + h_) * N * P;
    std::fill_n(state_, tiles_ * kStateTile * width_, T(0));
    // What is never written again: behind the channels of a row and the states of a key.
    std::fill_n(x_, 2 * kMost * width_, T(0));
    std::fill_n(B_, 2 * kBlockSpans * tiles_ * kSpan * kStateTile, T(0));
    turn(p_.initial + at, N, P, N, state_, width_);
    const int64_t phase = (index_ * s_.heads + h_) * s_.angles;
    if (turns_) std::copy_n(p_.initial_phi + phase, s_.angles, phi_);
    for (int64_t c = 0; c < q_.chunks; c++) {
      if (p_.states) {
        T* const kept = p_.states + ((q_.slot + c) * s_.heads + h_) * N * P;
        for (int64_t n = 0; n < N; n++) std::copy_n(state_ + n * width_, P, kept + n * P);
      }
      const int64_t first = c * s_.chunk, n = std::min(s_.chunk, q_.length - first), step = kMost / s_.rank;
      for (int64_t i = 0; i < n; i += step) {
        run_block(q_.batch * s_.length + q_.first + first + i, std::min(step, n - i), q_.length - first - i);
      }
    }
    turn(state_, width_, N, P, p_.final + at, N);
    if (turns_) std::copy_n(phi_, s_.angles, p_.last_phi + phase);
  }

 private:
  // `tokens` tokens from `token` (of all) on; `left` are there in the sequence.
  void run_block(int64_t token, int64_t tokens, int64_t left) {
    const int64_t R = s_.rank, rows = tokens * R, spans = div_ceil(rows, kSpan), P = s_.headdim, N = s_.state;
    const auto& held = span_loops<T>();
    gather(token, tokens);
    fill_decays(token, rows, spans);
    T through[kBlockSpans];
    const bool fresh[kBlockSpans] = {};
    T parts[kMost];
    bool gives[kMost];
    for (int64_t i = 0; i < rows; i++) {
      parts[i] =
          p_.w[(token + i / R) * s_.heads + h_] * decays_[i / kSpan * kDecays + kSquare + kSpan + i % kSpan];
      gives[i] = true;
    }
    for (int64_t m = 0; m < spans; m++) through[m] = decays_[m * kDecays + kSquare + kSpan - 1];
    const int64_t v_width = p_.scale ? P : R * P;  // of a token
    const T* const v = p_.v + (token * s_.heads + h_) * v_width;
    if (R == 1 && !p_.scale) {
      held.input({rows, spans * kSpan, P, width_, s_.heads * P, v, parts, gives, x_, given_});
    } else {
      for (int64_t i = 0; i < rows; i++) {
        T* const to = x_ + i * width_;
        const T* const from = v + i / R * s_.heads * v_width;
        if (p_.scale) {
          const T* const scale = p_.scale + (h_ * R + i % R) * P;
          for (int64_t c = 0; c < P; c++) to[c] = from[c] * scale[c];
        } else {
          std::copy_n(from + i % R * P, P, to);
        }
      }
      held.input({rows, spans * kSpan, width_, width_, width_, x_, parts, gives, x_, given_});
    }
    SpanBlock<T> block{spans, tiles_, N, P, width_};
    block.B = B_, block.C = C_, block.through = through, block.fresh = fresh;
    block.given = given_, block.state = state_, block.y = y_;
    // What the next block reads, and this one's output.
    const int64_t following = std::min(kMost / R, left - tokens), next = (token + tokens) * s_.heads + h_;
    if (following > 0) {
      if (p_.k) {
        prefetch_rows(p_.k + next * R * N, s_.heads * R * N, following, R * N);
        prefetch_rows(p_.q + next * R * N, s_.heads * R * N, following, R * N);
      }
      block.ahead[0] = {p_.v + next * v_width, following, s_.heads * v_width};
    }
    const int64_t here = (token * s_.heads + h_) * R * P;
    block.ahead[1] = {(p_.out ? p_.out : p_.y) + here, tokens, s_.heads * R * P};
    if (p_.z) block.ahead[2] = {p_.z + here, tokens, s_.heads * P};
    if (p_.out && p_.y) block.ahead[3] = {p_.y + here, tokens, s_.heads * P};
    held.block(block);
    for (int64_t m = 0; m < spans; m++) write_span(token, rows, m);
  }

  // Keys and queries of the block in tiles; rows behind the last are zeros.
  void gather(int64_t token, int64_t tokens) {
    const int64_t R = s_.rank, N = s_.state, rows = tokens * R, spans = div_ceil(rows, kSpan);
    const auto store = [&](const T* from, int64_t i, T* to) {
      T* const row = to + (i / kSpan * tiles_ * kSpan + i % kSpan) * kStateTile;
      int64_t tile = 0;
      for (; (tile + 1) * kStateTile <= N; tile++)
        std::copy_n(from + tile * kStateTile, kStateTile, row + tile * kSpan * kStateTile);
      if (tile < tiles_)
        std::copy_n(from + tile * kStateTile, N - tile * kStateTile, row + tile * kSpan * kStateTile);
    };
    if (p_.k) {
      keys_ = p_.k + (token * s_.heads + h_) * R * N, queries_ = p_.q + (token * s_.heads + h_) * R * N;
      token_stride_ = s_.heads * R * N;
    } else {
      make(token, tokens);
      keys_ = made_k_, queries_ = made_q_;
      token_stride_ = R * N;
    }
    for (int64_t i = 0; i < rows; i++) {
      const int64_t at = i / R * token_stride_ + i % R * N;
      store(keys_ + at, i, B_);
      store(queries_ + at, i, C_);
    }
    for (int64_t i = rows; i < spans * kSpan; i++) {
      for (int64_t tile = 0; tile < tiles_; tile++) {
        const int64_t at = ((i / kSpan * tiles_ + tile) * kSpan + i % kSpan) * kStateTile;
        std::fill_n(B_ + at, kStateTile, T(0));
        std::fill_n(C_ + at, kStateTile, T(0));
      }
    }
  }

  // Keys and queries of the head from those of its group.
  void make(int64_t token, int64_t tokens) {
    const auto& loops = rotary_loops<T>();
    const int64_t R = s_.rank, N = s_.state, A = s_.angles, groups = p_.key.groups;
    const int64_t g = h_ / (s_.heads / groups);
    const bool adjacent = p_.key.pairs == RotaryPairs::kAdjacent;
    for (int64_t i = 0; i < tokens; i++) {
      if (A > 0) {
        loops.advance(A, p_.dt[(token + i) * s_.heads + h_], turns_ + (token + i) * A, phi_);
        loops.sincos(A, phi_, cosine_, sine_);
      }
      for (int64_t r = 0; r < R; r++) {
        const int64_t from = (((token + i) * R + r) * groups + g) * N, bias = (h_ * R + r) * N,
                      to = (i * R + r) * N;
        loops.sum(N, p_.key.x + from, p_.key.bias ? p_.key.bias + bias : nullptr, made_k_ + to);
        loops.sum(N, p_.query.x + from, p_.query.bias ? p_.query.bias + bias : nullptr, made_q_ + to);
        if (A == 0) continue;
        loops.turn(A, adjacent, N, cosine_, sine_, T(1), made_k_ + to);
        loops.turn(A, adjacent, N, cosine_, sine_, T(1), made_q_ + to);
      }
    }
  }

  void fill_decays(int64_t token, int64_t rows, int64_t spans) {
    const int64_t R = s_.rank;
    for (int64_t m = 0; m < spans; m++) {
      T* const e = exponents_ + m * kDecays;
      T sums[kSpan], sum = 0;
      for (int64_t k = 0; k < kSpan; k++) {
        const int64_t i = m * kSpan + k;
        if (i < rows && i % R == 0) sum += p_.log[(token + i / R) * s_.heads + h_];
        sums[k] = sum;
      }
      for (int64_t k = 0; k < kSpan; k++) {
        for (int64_t j = 0; j < kSpan; j++) e[k * kSpan + j] = sums[k] - sums[j];  // of use for j <= k
        e[kSquare + k] = sums[k];
        e[kSquare + kSpan + k] = sum - sums[k];
      }
    }
    chunk_loops<T>().exponentials(spans * kDecays, exponents_, decays_);
  }

  // The output of span m: what its rows give each other is added to y.
  void write_span(int64_t token, int64_t rows, int64_t m) {
    static constexpr bool kReached[kSpan] = {true, true, true, true, true, true, true, true};
    static constexpr int64_t kStart[kSpan] = {};
    const int64_t R = s_.rank, P = s_.headdim, N = s_.state, n = std::min(kSpan, rows - m * kSpan);
    const int64_t first = token + m * kSpan / R, stride = token_stride_;
    const T* const decay = decays_ + m * kDecays;
    const T *const k0 = keys_ + m * kSpan / R * stride, *const q0 = queries_ + m * kSpan / R * stride;
    const auto& loops = chunk_loops<T>();
    T weights[kSquare];
    int64_t last[kSpan];
    for (int64_t k = 0; k < n; k++) {
      const int64_t own = k / R * R;  // first row of its token
      const T* const q = q0 + k / R * stride + k % R * N;
      last[k] = own + R - 1;
      T products[kSpan];
      if (R == 1) {
        loops.row_dots(k + 1, N, k0, stride, q, 0, products);
      } else {
        for (int64_t j = 0; j <= own; j += R) loops.row_dots(R, N, k0 + j / R * stride, N, q, 0, products + j);
      }
      for (int64_t j = 0; j <= last[k]; j++) {
        const int64_t at = (first + j / R) * s_.heads + h_;
        weights[k * kSpan + j] = products[j] * (j < own ? decay[k * kSpan + j] * p_.w[at] : p_.g[at]);
      }
    }
    SpanOutput<T> o{n,
                    P,
                    width_,
                    decay + kSquare,
                    kReached,
                    kStart,
                    weights,
                    x_ + m * kSpan * width_,
                    y_ + m * kSpan * width_};
    o.last = last;
    if (p_.D) o.D = p_.D + h_;
    T* const y = p_.y ? p_.y + (first * s_.heads + h_) * R * P : nullptr;
    if (R == 1) {
      o.out_stride = s_.heads * P;
      if (p_.out) {
        const int64_t at = (first * s_.heads + h_) * P;
        o.out = p_.out + at;
        o.before_gate = p_.y ? y : nullptr;
        if (p_.z) o.z = p_.z + at, o.z_stride = s_.heads * P;
      } else {
        o.out = y;
      }
      span_loops<T>().output(o);
      return;
    }
    o.out = out_, o.out_stride = width_;
    span_loops<T>().output(o);
    for (int64_t k = 0; k < n; k++) std::copy_n(out_ + k * width_, P, y + (k / R * s_.heads * R + k % R) * P);
  }

  const Mamba3CoreParams<T>& p_;
  const Mamba3Shape& s_;
  const T* const turns_;
  const Sequence& q_;
  const int64_t index_, h_, width_, tiles_;
  T *x_, *given_, *y_, *out_, *B_, *C_, *exponents_, *decays_, *state_, *made_k_, *made_q_, *cosine_, *sine_,
      *phi_;
  const T *keys_ = nullptr, *queries_ = nullptr;  // of the block
  int64_t token_stride_ = 0;
};

}  // namespace

bool mamba3_spans_fit(const Mamba3Shape& s) {
  return kSpan % s.rank == 0 && (s.chunk * s.rank % kSpan == 0 || s.chunk >= s.length);
}

template <typename T>
void mamba3_core_spans(const Mamba3CoreParams<T>& p) {
  const std::vector<Sequence> sequences = sequences_of(p);
  const Mamba3Shape& s = p.shape;
  const std::vector<T> turns =
      p.angle ? mamba3_parts::all_turns(s.tokens() * s.angles, p.angle) : std::vector<T>();
  parallel_for(s.rows() * s.heads, [&](int64_t task) {
    const int64_t index = task / s.heads;
    Head<T>(p, p.angle ? turns.data() : nullptr, sequences[static_cast<size_t>(index)], index, task % s.heads)
        .run();
  });
}

template void mamba3_core_spans(const Mamba3CoreParams<float>&);
template void mamba3_core_spans(const Mamba3CoreParams<double>&);

}  // namespace aspis::kernel
