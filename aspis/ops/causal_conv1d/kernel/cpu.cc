// Depthwise convolution over tokens: which rows meet which.
//
// Work is split into blocks of tokens and channels whose size depends on the
// shape only. A step's row is looked up by pointer, so order, direction, the
// initial state and the zero padding cost nothing in the inner loop. The
// backward pass recomputes pre-activations; a block of dx needs W-1 rows of dpre
// beyond its border, which are computed twice. Weight gradients: one packed
// partial sum per block of tokens, added up by a fixed tree.

#include "aspis/ops/causal_conv1d/kernel/cpu.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/causal_conv1d/kernel/rows.h"

namespace aspis::kernel {
namespace {

constexpr int64_t kChannelBlock = 1024, kGradChannelBlock = 512;
constexpr int64_t kGradTokenBlock = 64;

int64_t token_block(int64_t channels) {
  const int64_t row = std::min(channels, kChannelBlock);
  return std::clamp<int64_t>((int64_t{1} << 15) / std::max<int64_t>(row, 1) / 4 * 4, 32, 512);
}

int64_t padded(int64_t channels) { return div_ceil(channels, kConv1dPad) * kConv1dPad; }

template <typename T>
void fill_nan(T* data, int64_t n) {
  if (data) std::fill_n(data, n, std::numeric_limits<T>::quiet_NaN());
}

// Steps [first, last) of a sequence.
struct Piece {
  const Sequence* sequence;
  int64_t first, last;
};

// Pieces of some `tokens` steps together: one after another inside a task, so
// that many short sequences do not become as many tasks and partial sums.
struct Pieces {
  std::vector<Sequence> rows;  // if there are no sequences
  std::vector<Piece> list;
  std::vector<int64_t> parts{0};  // first piece of each part, and their number behind them

  template <typename T>
  Pieces(const Conv1dParams<T>& p, int64_t tokens) {
    if (!p.sequences) rows = row_sequences(p.batch, p.length);
    int64_t open = 0;
    for (const Sequence& q : p.sequences ? *p.sequences : rows) {
      int64_t first = 0;
      do {  // an empty sequence is a piece too: its state passes through
        const int64_t last = std::min(q.length, first + tokens);
        if (open > 0 && open + last - first > tokens) end_part(&open);
        list.push_back({&q, first, last});
        open += std::max<int64_t>(1, last - first);
        first = last;
      } while (first < q.length);
      if (!p.sequences) end_part(&open);  // a sample's results do not depend on its neighbours
    }
    if (open > 0) end_part(&open);
  }
  Pieces(const Pieces&) = delete;

  int64_t part_count() const { return static_cast<int64_t>(parts.size()) - 1; }

 private:
  void end_part(int64_t* open) {
    parts.push_back(static_cast<int64_t>(list.size()));
    *open = 0;
  }
};

// Channels [channel, channel + channels) of a part.
struct Block {
  int64_t part, channel, channels;
};

Block block_of(int64_t task, int64_t all_channels, int64_t channels) {
  const int64_t blocks = div_ceil(all_channels, channels), at = task % blocks * channels;
  return {task / blocks, at, std::min(channels, all_channels - at)};
}

// Where the input of step t begins, for channels from `channel` on; `zeros` stands for
// what lies outside.
template <typename T>
const T* input_row(const Conv1dParams<T>& p, const Sequence& q, const T* zeros, int64_t channel, int64_t t) {
  if (t >= q.length || (t < 0 && (!p.initial || q.initial < 0))) return zeros + channel;
  if (t < 0) return p.initial + q.initial * p.initial_batch + (p.width - 1 + t) * p.initial_token + channel;
  return p.x + q.row * p.x_batch + p.token(q, t) * p.x_token + channel;
}

// The inputs of steps [first, last) for the channels of a block: where they lie, or, if channels
// are apart, turned into rows of scratch. Steps outside the sequence need none.
template <typename T>
class Inputs {
 public:
  Inputs(const Conv1dParams<T>& p, const Sequence& q, const T* zeros, const Block& b, int64_t first, int64_t last,
         T* scratch)
      : p_(p), q_(q), zeros_(zeros), channel_(b.channel), stride_(padded(b.channels)) {
    if (p.x_channel == 1) return;
    rows_ = scratch;
    first_ = std::max<int64_t>(0, first);
    const int64_t count = std::min(q.length, last) - first_;
    // Tiles of a cache line in both directions.
    constexpr int64_t kTile = 16;
    for (int64_t i0 = 0; i0 < count; i0 += kTile) {
      const int64_t i1 = std::min(count, i0 + kTile);
      const T* tokens[kTile];
      for (int64_t i = i0; i < i1; i++) {
        tokens[i - i0] = p.x + q.row * p.x_batch + p.token(q, first_ + i) * p.x_token + b.channel * p.x_channel;
      }
      for (int64_t c0 = 0; c0 < b.channels; c0 += kTile) {
        const int64_t c1 = std::min(b.channels, c0 + kTile);
        for (int64_t c = c0; c < c1; c++) {
          for (int64_t i = i0; i < i1; i++) scratch[i * stride_ + c] = tokens[i - i0][c * p.x_channel];
        }
      }
    }
  }

  const T* row(int64_t t) const {
    if (rows_ && t >= 0 && t < q_.length) return rows_ + (t - first_) * stride_;
    return input_row(p_, q_, zeros_, channel_, t);
  }

  /// Elements of scratch for pieces of `steps` steps and what lies around them.
  static int64_t scratch_size(const Conv1dParams<T>& p, int64_t steps, int64_t channels) {
    return p.x_channel == 1 ? 0 : (steps + 3 * (p.width - 1)) * padded(std::min(p.channels, channels));
  }

 private:
  const Conv1dParams<T>& p_;
  const Sequence& q_;
  const T* zeros_;
  const int64_t channel_, stride_;
  const T* rows_ = nullptr;
  int64_t first_ = 0;
};

// out(t) = bias + sum_k w_k in(t - reach + k) for t in [first, last).
template <typename T, typename In, typename Out>
void convolve(const Conv1dRowKernels<T>& kernels, Conv1dRows<T> a, int64_t reach, int64_t first, int64_t last,
              bool silu, const In& in, const Out& out) {
  for (int64_t t = first; t < last; t += kConv1dSteps) {
    a.steps = static_cast<int>(std::min<int64_t>(kConv1dSteps, last - t));
    for (int s = 0; s < a.steps; s++) a.out[s] = out(t + s);
    for (a.first_tap = 0; a.first_tap < a.width; a.first_tap += kConv1dTaps) {
      a.taps = static_cast<int>(std::min<int64_t>(kConv1dTaps, a.width - a.first_tap));
      a.start_from_out = a.first_tap > 0;
      a.silu = silu && a.first_tap + a.taps == a.width;
      for (int i = 0; i < a.steps + a.taps - 1; i++) a.in[i] = in(t - reach + a.first_tap + i);
      kernels.conv(a);
    }
  }
}

template <typename T>
void copy_final_states(const Conv1dParams<T>& p, const Pieces& pieces, const T* zeros) {
  const int64_t states = p.width - 1;
  // Those that no sequence ends in are zeros.
  if (p.sequences) std::fill_n(p.final_state, p.states * states * p.channels, T(0));
  parallel_for(pieces.part_count(), [&](int64_t part) {
    for (int64_t i = pieces.parts[part]; i < pieces.parts[part + 1]; i++) {
      const Sequence& q = *pieces.list[i].sequence;
      if (pieces.list[i].last != q.length || q.last < 0) continue;
      for (int64_t j = 0; j < states; j++) {
        const int64_t t = q.length - states + j;
        const T* row = input_row(p, q, zeros, 0, t);
        T* to = p.final_state + (q.last * states + j) * p.channels;
        const int64_t apart = t >= 0 ? p.x_channel : 1;
        for (int64_t c = 0; apart != 1 && c < p.channels; c++) to[c] = row[c * apart];
        if (apart == 1) std::memcpy(to, row, sizeof(T) * p.channels);
      }
    }
  });
}

// The backward pass over one piece, with its scratch; adds to the sums of its part.
template <typename T>
class GradPiece {
 public:
  GradPiece(const Conv1dVjpParams<T>& p, const Conv1dRowKernels<T>& kernels, const T* packed, const T* flipped,
            const T* zeros, const Piece& piece, const Block& b, T* scratch, T* turned, T* sums)
      : p_(p),
        f_(p.forward),
        kernels_(kernels),
        packed_(packed),
        flipped_(flipped),
        zeros_(zeros),
        q_(*piece.sequence),
        first_(piece.first),
        last_(piece.last),
        b_(b),
        scratch_(scratch),
        sums_(sums) {
    // The first piece also owns the steps before 0: the initial state.
    begin_ = first_ == 0 && p.dinitial && q_.initial >= 0 ? -(f_.width - 1) : first_;
    // dx at t meets dpre at t + reach - k.
    dpre_first_ = std::max<int64_t>(0, begin_ + f_.reach - (f_.width - 1));
    dpre_last_ = std::min(q_.length, last_ + f_.reach);
    if (!q_.padding) {
      inputs_.emplace(f_, q_, zeros, b, dpre_first_ - f_.reach, dpre_last_ + f_.width - 1 - f_.reach, turned);
    }
  }

  void run() {
    if (q_.padding) {
      for (int64_t t = first_; t < last_; t++) std::fill_n(dx(t), b_.channels, T(0));
      return;
    }
    // The borders belong to a neighbour's sums.
    fill_dpre(dpre_first_, first_);
    if (f_.width >= 2 && f_.width <= 4) {
      fill_dpre_and_sums();
    } else {
      fill_dpre(first_, last_);
      accumulate_sums();
    }
    fill_dpre(last_, dpre_last_);
    // dx is a convolution of dpre with the reversed filter.
    convolve(
        kernels_, rows(flipped_), f_.width - 1 - f_.reach, begin_, last_, false,
        [&](int64_t t) { return t < 0 || t >= q_.length ? zeros_ + b_.channel : dpre(t); },
        [&](int64_t t) { return dx(t); });
    if (p_.dfinal && q_.last >= 0) add_state_cotangent();
  }

 private:
  Conv1dRows<T> rows(const T* packed) const {
    Conv1dRows<T> a;
    a.channels = b_.channels;
    a.width = f_.width;
    a.packed = packed + b_.channel * (f_.width + 1);
    return a;
  }

  const T* input(int64_t t) const { return inputs_->row(t); }
  const T* dout(int64_t t) const {
    return p_.dout + q_.row * p_.dout_batch + f_.token(q_, t) * p_.dout_token + b_.channel;
  }
  T* dpre(int64_t t) const { return scratch_ + (t - dpre_first_) * padded(b_.channels); }
  T* dx(int64_t t) const {
    if (t < 0) return p_.dinitial + (q_.initial * (f_.width - 1) + f_.width - 1 + t) * f_.channels + b_.channel;
    return p_.dx + (q_.row * f_.length + f_.token(q_, t)) * f_.channels + b_.channel;
  }

  void fill_dpre(int64_t first, int64_t last) {
    if (first >= last) return;
    if (f_.silu) {
      convolve(
          kernels_, rows(packed_), f_.reach, first, last, false, [&](int64_t t) { return input(t); },
          [&](int64_t t) { return dpre(t); });
    }
    for (int64_t t = first; t < last; t++) {
      if (f_.silu) {
        kernels_.silu_grad(dout(t), dpre(t), b_.channels);
      } else {
        std::memcpy(dpre(t), dout(t), sizeof(T) * b_.channels);
      }
    }
  }

  Conv1dGradRows<T> grad_rows(int64_t t, int64_t first_tap, int64_t taps) const {
    Conv1dGradRows<T> g{.rows = rows(packed_), .dout = {}, .sums = sums_};
    Conv1dRows<T>& a = g.rows;
    a.silu = f_.silu;
    a.steps = static_cast<int>(std::min<int64_t>(kConv1dSteps, last_ - t));
    a.first_tap = first_tap;
    a.taps = static_cast<int>(taps);
    for (int i = 0; i < a.steps + a.taps - 1; i++) a.in[i] = input(t - f_.reach + first_tap + i);
    for (int s = 0; s < a.steps; s++) {
      a.out[s] = dpre(t + s);
      g.dout[s] = dout(t + s);
    }
    return g;
  }

  void fill_dpre_and_sums() {
    for (int64_t t = first_; t < last_; t += kConv1dSteps) kernels_.grad(grad_rows(t, 0, f_.width));
  }

  void accumulate_sums() {
    for (int64_t t = first_; t < last_; t += kConv1dSteps) {
      for (int64_t k = 0; k < f_.width; k += kConv1dTaps) {
        kernels_.accumulate(grad_rows(t, k, std::min<int64_t>(kConv1dTaps, f_.width - k)));
      }
    }
  }

  void add_state_cotangent() {
    const int64_t states = f_.width - 1, from = q_.length - states;
    for (int64_t t = std::max(begin_, from); t < last_; t++) {
      kernels_.add(p_.dfinal + q_.last * p_.dfinal_batch + (t - from) * p_.dfinal_token + b_.channel, dx(t),
                   b_.channels);
    }
  }

  const Conv1dVjpParams<T>& p_;
  const Conv1dParams<T>& f_;
  const Conv1dRowKernels<T>& kernels_;
  const T *packed_, *flipped_, *zeros_;
  const Sequence& q_;
  const int64_t first_, last_;
  const Block b_;
  T *scratch_, *sums_;
  int64_t begin_, dpre_first_, dpre_last_;
  std::optional<Inputs<T>> inputs_;
};

template <typename T>
int64_t partial_count(const Conv1dParams<T>& p) {
  return std::max<int64_t>(1, Pieces(p, kGradTokenBlock).part_count());
}

// Partial sums i += i + step for step = 1, 2, 4, ...: a tree of fixed shape.
template <typename T>
void add_partials(const Conv1dRowKernels<T>& kernels, T* partials, int64_t count, int64_t size) {
  constexpr int64_t kPiece = 4096;
  parallel_for(div_ceil(size, kPiece), [&](int64_t piece) {
    const int64_t at = piece * kPiece, n = std::min(kPiece, size - at);
    for (int64_t step = 1; step < count; step *= 2) {
      for (int64_t i = 0; i + step < count; i += 2 * step) {
        kernels.add(partials + (i + step) * size + at, partials + i * size + at, n);
      }
    }
  });
}

}  // namespace

bool is_permutation(const int32_t* order, int64_t n) {
  std::vector<bool> seen(n);
  for (int64_t i = 0; i < n; i++) {
    if (order[i] < 0 || order[i] >= n || seen[order[i]]) return false;
    seen[order[i]] = true;
  }
  return true;
}

template <typename T>
size_t conv1d_workspace(const Conv1dParams<T>& p) {
  return sizeof(T) * (padded(p.channels) + conv1d_packed_size(p.channels, p.width));
}

// A step of generation: no filter is packed and nothing is allocated.
template <typename T>
void conv1d_token(const Conv1dParams<T>& p) {
  constexpr int64_t kChannels = 512;
  const int64_t blocks = div_ceil(p.channels, kChannels), states = p.width - 1;
  const auto kernels = conv1d_row_kernels<T>();
  parallel_for(p.batch * blocks, [&](int64_t task) {
    const int64_t b = task / blocks, c = task % blocks * kChannels;
    Conv1dToken<T> a;
    a.channels = std::min(kChannels, p.channels - c), a.width = p.width, a.silu = p.silu;
    a.weight = p.weight + c * p.width;
    if (p.bias) a.bias = p.bias + c;
    if (p.initial) a.state = p.initial + b * p.initial_batch + c, a.state_stride = p.initial_token;
    a.x = p.x + b * p.x_batch + c;
    a.out = p.out + b * p.channels + c;
    if (p.final_state) a.next = p.final_state + b * states * p.channels + c, a.next_stride = p.channels;
    kernels.token(a);
  });
}

template <typename T>
void conv1d(const Conv1dParams<T>& p) {
  const int64_t states = p.width - 1;
  if (p.order && !is_permutation(p.order, p.length)) {
    fill_nan(p.out, p.batch * p.length * p.channels);
    fill_nan(p.final_state, p.state_count() * states * p.channels);
    return;
  }
  const bool token = p.length == 1 && !p.sequences && p.reach == states && p.x_channel == 1;
  if (token && p.width >= 2 && p.width <= 4) return conv1d_token(p);
  const auto kernels = conv1d_row_kernels<T>();
  T* const zeros = static_cast<T*>(p.workspace);
  T* const packed = zeros + padded(p.channels);
  std::fill_n(zeros, padded(p.channels), T(0));
  kernels.pack(p.weight, p.bias, p.channels, p.width, false, packed);

  const Pieces pieces(p, token_block(p.channels));
  const int64_t turned_size = Inputs<T>::scratch_size(p, token_block(p.channels), kChannelBlock);
  std::vector<std::vector<T>> turned(turned_size ? num_threads() : 0);
  parallel_for(pieces.part_count() * div_ceil(p.channels, kChannelBlock), [&](int64_t task, int worker) {
    if (turned_size && turned[worker].empty()) turned[worker].resize(turned_size);
    const Block b = block_of(task, p.channels, kChannelBlock);
    Conv1dRows<T> a;
    a.channels = b.channels;
    a.width = p.width;
    a.packed = packed + b.channel * (p.width + 1);
    for (int64_t i = pieces.parts[b.part]; i < pieces.parts[b.part + 1]; i++) {
      const Sequence& q = *pieces.list[i].sequence;
      const auto out = [&](int64_t t) {
        return p.out + (q.row * p.length + p.token(q, t)) * p.channels + b.channel;
      };
      if (q.padding) {
        for (int64_t t = pieces.list[i].first; t < pieces.list[i].last; t++) std::fill_n(out(t), b.channels, T(0));
        continue;
      }
      const int64_t first = pieces.list[i].first, last = pieces.list[i].last;
      const Inputs<T> inputs(p, q, zeros, b, first - p.reach, last + p.width - 1 - p.reach,
                             turned_size ? turned[worker].data() : nullptr);
      convolve(
          kernels, a, p.reach, first, last, p.silu, [&](int64_t t) { return inputs.row(t); }, out);
    }
  });
  if (p.final_state) copy_final_states(p, pieces, zeros);
}

template <typename T>
size_t conv1d_vjp_workspace(const Conv1dVjpParams<T>& p) {
  const Conv1dParams<T>& f = p.forward;
  return sizeof(T) * (padded(f.channels) + (2 + partial_count(f)) * conv1d_packed_size(f.channels, f.width));
}

template <typename T>
void conv1d_vjp(const Conv1dVjpParams<T>& p) {
  const Conv1dParams<T>& f = p.forward;
  const int64_t states = f.width - 1;
  if (f.order && !is_permutation(f.order, f.length)) {
    fill_nan(p.dx, f.batch * f.length * f.channels);
    fill_nan(p.dweight, f.channels * f.width);
    fill_nan(p.dbias, f.channels);
    fill_nan(p.dinitial, f.state_count() * states * f.channels);
    return;
  }
  const auto kernels = conv1d_row_kernels<T>();
  const int64_t size = conv1d_packed_size(f.channels, f.width), count = partial_count(f);
  T* const zeros = static_cast<T*>(p.workspace);
  T* const packed = zeros + padded(f.channels);
  T* const flipped = packed + size;
  T* const partials = flipped + size;
  std::fill_n(zeros, padded(f.channels), T(0));
  kernels.pack(f.weight, f.bias, f.channels, f.width, false, packed);
  kernels.pack(f.weight, nullptr, f.channels, f.width, true, flipped);

  if (f.sequences && p.dinitial) std::fill_n(p.dinitial, f.states * states * f.channels, T(0));
  const Pieces pieces(f, kGradTokenBlock);
  const int64_t tasks = pieces.part_count() * div_ceil(f.channels, kGradChannelBlock);
  if (tasks == 0) std::fill_n(partials, size, T(0));
  const int64_t scratch_rows = std::min(f.length, kGradTokenBlock + 2 * states);
  const int64_t scratch_size = scratch_rows * padded(std::min(f.channels, kGradChannelBlock));
  const int64_t turned_size = Inputs<T>::scratch_size(f, kGradTokenBlock, kGradChannelBlock);
  std::vector<std::vector<T>> scratch(num_threads());
  parallel_for(tasks, [&](int64_t task, int worker) {
    if (scratch[worker].empty()) scratch[worker].resize(scratch_size + turned_size);
    const Block b = block_of(task, f.channels, kGradChannelBlock);
    T* const sums = partials + b.part * size + b.channel * (f.width + 1);
    std::fill_n(sums, padded(b.channels) * (f.width + 1), T(0));
    for (int64_t i = pieces.parts[b.part]; i < pieces.parts[b.part + 1]; i++) {
      GradPiece<T>(p, kernels, packed, flipped, zeros, pieces.list[i], b, scratch[worker].data(),
                   scratch[worker].data() + scratch_size, sums)
          .run();
    }
  });
  add_partials(kernels, partials, count, size);
  kernels.unpack(partials, f.channels, f.width, p.dweight, p.dbias);
}

template void conv1d(const Conv1dParams<float>&);
template void conv1d(const Conv1dParams<double>&);
template void conv1d_vjp(const Conv1dVjpParams<float>&);
template void conv1d_vjp(const Conv1dVjpParams<double>&);
template size_t conv1d_workspace(const Conv1dParams<float>&);
template size_t conv1d_workspace(const Conv1dParams<double>&);
template size_t conv1d_vjp_workspace(const Conv1dVjpParams<float>&);
template size_t conv1d_vjp_workspace(const Conv1dVjpParams<double>&);

}  // namespace aspis::kernel
