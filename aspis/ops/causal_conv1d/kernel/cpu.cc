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

// A piece of the (batch, tokens, channels) box.
struct Block {
  int64_t batch, first, last, channel, channels;
};

struct Split {
  int64_t token_blocks, channel_blocks, tokens, channels;

  template <typename T>
  Split(const Conv1dParams<T>& p, int64_t tokens_per_block, int64_t channels_per_block)
      : token_blocks(div_ceil(p.length, tokens_per_block)),
        channel_blocks(div_ceil(p.channels, channels_per_block)),
        tokens(tokens_per_block),
        channels(channels_per_block) {}

  template <typename T>
  Block block(const Conv1dParams<T>& p, int64_t task) const {
    const int64_t c = task % channel_blocks * channels, rest = task / channel_blocks;
    const int64_t first = rest % token_blocks * tokens;
    return {rest / token_blocks, first, std::min(p.length, first + tokens), c, std::min(channels, p.channels - c)};
  }
};

// Where the input of step t begins; `zeros` stands for what lies outside.
template <typename T>
const T* input_row(const Conv1dParams<T>& p, const T* zeros, int64_t batch, int64_t t) {
  if (t >= p.length || (t < 0 && !p.initial)) return zeros;
  if (t < 0) return p.initial + batch * p.initial_batch + (p.width - 1 + t) * p.initial_token;
  return p.x + batch * p.x_batch + p.token(t) * p.x_token;
}

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
void copy_final_state(const Conv1dParams<T>& p, const T* zeros) {
  const int64_t states = p.width - 1;
  parallel_for(p.batch, [&](int64_t b) {
    for (int64_t j = 0; j < states; j++) {
      const T* row = input_row(p, zeros, b, p.length - states + j);
      std::memcpy(p.final_state + (b * states + j) * p.channels, row, sizeof(T) * p.channels);
    }
  });
}

// The backward pass over one block, with its scratch.
template <typename T>
class GradBlock {
 public:
  GradBlock(const Conv1dVjpParams<T>& p, const Conv1dRowKernels<T>& kernels, const T* packed, const T* flipped,
            const T* zeros, const Block& b, T* scratch, T* sums)
      : p_(p),
        f_(p.forward),
        kernels_(kernels),
        packed_(packed),
        flipped_(flipped),
        zeros_(zeros),
        b_(b),
        scratch_(scratch),
        sums_(sums) {
    // The first block also owns the steps before 0: the initial state.
    begin_ = b.first == 0 && p.dinitial ? -(f_.width - 1) : b.first;
    // dx at t meets dpre at t + reach - k.
    dpre_first_ = std::max<int64_t>(0, begin_ + f_.reach - (f_.width - 1));
    dpre_last_ = std::min(f_.length, b.last + f_.reach);
  }

  void run() {
    std::fill_n(sums_, padded(b_.channels) * (f_.width + 1), T(0));
    // The borders belong to a neighbour's sums.
    fill_dpre(dpre_first_, b_.first);
    if (f_.width >= 2 && f_.width <= 4) {
      fill_dpre_and_sums();
    } else {
      fill_dpre(b_.first, b_.last);
      accumulate_sums();
    }
    fill_dpre(b_.last, dpre_last_);
    // dx is a convolution of dpre with the reversed filter.
    convolve(
        kernels_, rows(flipped_), f_.width - 1 - f_.reach, begin_, b_.last, false,
        [&](int64_t t) { return t < 0 || t >= f_.length ? zeros_ + b_.channel : dpre(t); },
        [&](int64_t t) { return dx(t); });
    if (p_.dfinal) add_state_cotangent();
  }

 private:
  Conv1dRows<T> rows(const T* packed) const {
    Conv1dRows<T> a;
    a.channels = b_.channels;
    a.width = f_.width;
    a.packed = packed + b_.channel * (f_.width + 1);
    return a;
  }

  const T* input(int64_t t) const { return input_row(f_, zeros_, b_.batch, t) + b_.channel; }
  const T* dout(int64_t t) const {
    return p_.dout + b_.batch * p_.dout_batch + f_.token(t) * p_.dout_token + b_.channel;
  }
  T* dpre(int64_t t) const { return scratch_ + (t - dpre_first_) * padded(b_.channels); }
  T* dx(int64_t t) const {
    if (t < 0) return p_.dinitial + (b_.batch * (f_.width - 1) + f_.width - 1 + t) * f_.channels + b_.channel;
    return p_.dx + (b_.batch * f_.length + f_.token(t)) * f_.channels + b_.channel;
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
    a.steps = static_cast<int>(std::min<int64_t>(kConv1dSteps, b_.last - t));
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
    for (int64_t t = b_.first; t < b_.last; t += kConv1dSteps) kernels_.grad(grad_rows(t, 0, f_.width));
  }

  void accumulate_sums() {
    for (int64_t t = b_.first; t < b_.last; t += kConv1dSteps) {
      for (int64_t k = 0; k < f_.width; k += kConv1dTaps) {
        kernels_.accumulate(grad_rows(t, k, std::min<int64_t>(kConv1dTaps, f_.width - k)));
      }
    }
  }

  void add_state_cotangent() {
    const int64_t states = f_.width - 1, from = f_.length - states;
    for (int64_t t = std::max(begin_, from); t < b_.last; t++) {
      kernels_.add(p_.dfinal + b_.batch * p_.dfinal_batch + (t - from) * p_.dfinal_token + b_.channel, dx(t),
                   b_.channels);
    }
  }

  const Conv1dVjpParams<T>& p_;
  const Conv1dParams<T>& f_;
  const Conv1dRowKernels<T>& kernels_;
  const T *packed_, *flipped_, *zeros_;
  const Block b_;
  T *scratch_, *sums_;
  int64_t begin_, dpre_first_, dpre_last_;
};

template <typename T>
int64_t partial_count(const Conv1dParams<T>& p) {
  return std::max<int64_t>(1, p.batch * div_ceil(p.length, kGradTokenBlock));
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

template <typename T>
void conv1d(const Conv1dParams<T>& p) {
  const int64_t states = p.width - 1;
  if (p.order && !is_permutation(p.order, p.length)) {
    fill_nan(p.out, p.batch * p.length * p.channels);
    fill_nan(p.final_state, p.batch * states * p.channels);
    return;
  }
  const auto kernels = conv1d_row_kernels<T>();
  T* const zeros = static_cast<T*>(p.workspace);
  T* const packed = zeros + padded(p.channels);
  std::fill_n(zeros, padded(p.channels), T(0));
  kernels.pack(p.weight, p.bias, p.channels, p.width, false, packed);

  const Split split(p, token_block(p.channels), kChannelBlock);
  parallel_for(p.batch * split.token_blocks * split.channel_blocks, [&](int64_t task) {
    const Block b = split.block(p, task);
    Conv1dRows<T> a;
    a.channels = b.channels;
    a.width = p.width;
    a.packed = packed + b.channel * (p.width + 1);
    convolve(
        kernels, a, p.reach, b.first, b.last, p.silu,
        [&](int64_t t) { return input_row(p, zeros, b.batch, t) + b.channel; },
        [&](int64_t t) { return p.out + (b.batch * p.length + p.token(t)) * p.channels + b.channel; });
  });
  if (p.final_state) copy_final_state(p, zeros);
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
    fill_nan(p.dinitial, f.batch * states * f.channels);
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

  const Split split(f, kGradTokenBlock, kGradChannelBlock);
  const int64_t tasks = f.batch * split.token_blocks * split.channel_blocks;
  if (tasks == 0) std::fill_n(partials, size, T(0));
  const int64_t scratch_rows = std::min(f.length, kGradTokenBlock + 2 * states);
  const int64_t scratch_size = scratch_rows * padded(std::min(f.channels, kGradChannelBlock));
  std::vector<std::vector<T>> scratch(num_threads());
  parallel_for(tasks, [&](int64_t task, int worker) {
    if (scratch[worker].empty()) scratch[worker].resize(scratch_size);
    const Block b = split.block(f, task);
    T* const sums = partials + task / split.channel_blocks * size + b.channel * (f.width + 1);
    GradBlock<T>(p, kernels, packed, flipped, zeros, b, scratch[worker].data(), sums).run();
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
