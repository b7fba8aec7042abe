#include "aspis/ops/channel_norm/kernel/cpu.h"

#include <algorithm>
#include <cmath>

#include "aspis/base/parallel.h"
#include "aspis/ops/channel_norm/kernel/blocks.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/channel_norm/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/channel_norm/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  void (*stats)(const ChannelBlocks&, const S*, int64_t, T*, T*);
  void (*map)(const ChannelBlocks&, Activation, const S*, const S*, int64_t, const T*, S*);
  void (*sums)(const ChannelBlocks&, Activation, const S*, const S*, const S*, int64_t, const T*, T*, T*);
  void (*grad)(const ChannelBlocks&, Activation, const S*, const S*, const S*, int64_t, const T*, S*, S*);
};

#define ASPIS_FUNCTIONS(S, suffix)                                                       \
  HWY_EXPORT(stats_##suffix);                                                            \
  HWY_EXPORT(map_##suffix);                                                              \
  HWY_EXPORT(sums_##suffix);                                                             \
  HWY_EXPORT(grad_##suffix);                                                             \
  Functions<S> functions(S) {                                                            \
    return {&HWY_DYNAMIC_DISPATCH(stats_##suffix), &HWY_DYNAMIC_DISPATCH(map_##suffix),  \
            &HWY_DYNAMIC_DISPATCH(sums_##suffix), &HWY_DYNAMIC_DISPATCH(grad_##suffix)}; \
  }
ASPIS_FUNCTIONS(float, f32)
ASPIS_FUNCTIONS(double, f64)
ASPIS_FUNCTIONS(Bf16, bf16)
#undef ASPIS_FUNCTIONS

constexpr int64_t kLines = 6;             // coefficients of the gradient; the forward pass has three
constexpr int64_t kChannelsAtOnce = 256;  // merged by one task

// Scratch: two lines for each block, two for each sample (its channels put
// together), six of coefficients for each sample.
template <typename T>
struct Scratch {
  const ChannelBlocks& b;
  T* data;
  T* block(int64_t sample, int64_t i) const { return data + (sample * b.count + i) * 2 * b.line; }
  T* sample(int64_t s) const { return data + (b.samples * b.count + s) * 2 * b.line; }
  T* coefficients(int64_t s) const { return data + b.samples * (b.count + 1) * 2 * b.line + s * kLines * b.line; }
};

// Calls task(sample, first channel, last channel).
template <typename Task>
void for_channels(const ChannelBlocks& b, Task task) {
  const int64_t pieces = div_ceil(b.channels, kChannelsAtOnce);
  parallel_for(b.samples * pieces, [&](int64_t i) {
    const int64_t first = i % pieces * kChannelsAtOnce;
    task(i / pieces, first, std::min(b.channels, first + kChannelsAtOnce));
  });
}

// Mean and squared deviations of the channels of a sample from those of its
// blocks, in order (Chan, Golub and LeVeque 1979).
template <typename T>
void merge_statistics(const ChannelBlocks& b, const Scratch<T>& scratch, int64_t s, int64_t first, int64_t last) {
  double mean[kChannelsAtOnce], squares[kChannelsAtOnce];
  std::fill(mean, mean + kChannelsAtOnce, 0.0);
  std::fill(squares, squares + kChannelsAtOnce, 0.0);
  double before = 0;
  for (int64_t i = 0; i < b.count; i++) {
    const T *m = scratch.block(s, i) + first, *q = m + b.line;
    const double rows = static_cast<double>(b.rows_of(i)), share = rows / (before + rows);
    for (int64_t c = 0; c < last - first; c++) {
      const double delta = static_cast<double>(m[c]) - mean[c];
      mean[c] += delta * share;
      squares[c] += static_cast<double>(q[c]) + delta * delta * before * share;
    }
    before += rows;
  }
  T *m = scratch.sample(s) + first, *q = m + b.line;
  for (int64_t c = 0; c < last - first; c++) {
    m[c] = static_cast<T>(mean[c]);
    q[c] = static_cast<T>(squares[c]);
  }
}

// Sums of two lines of a sample over its blocks, in order.
template <typename T>
void merge_sums(const ChannelBlocks& b, const Scratch<T>& scratch, int64_t s, int64_t first, int64_t last) {
  double sums[2][kChannelsAtOnce] = {};
  for (int64_t i = 0; i < b.count; i++) {
    for (int k = 0; k < 2; k++) {
      const T* v = scratch.block(s, i) + k * b.line + first;
      for (int64_t c = 0; c < last - first; c++) sums[k][c] += static_cast<double>(v[c]);
    }
  }
  for (int k = 0; k < 2; k++) {
    T* v = scratch.sample(s) + k * b.line + first;
    for (int64_t c = 0; c < last - first; c++) v[c] = static_cast<T>(sums[k][c]);
  }
}

// Repeats the first `channels` values of each of `lines` lines along the line.
template <typename T>
void repeat(const ChannelBlocks& b, T* line, int64_t lines) {
  for (int64_t k = 0; k < lines; k++, line += b.line) {
    for (int64_t i = b.channels; i < b.line; i++) line[i] = i < b.width ? line[i - b.channels] : T(0);
  }
}

// Statistics of the groups of a sample from those of its channels.
template <typename S, typename T = Arithmetic<S>>
void finish_statistics(const ChannelNormParams<S>& p, const ChannelBlocks& b, const Scratch<T>& scratch,
                       int64_t s) {
  const int64_t each = p.channels / p.groups;
  const double rows = static_cast<double>(p.rows), n = rows * static_cast<double>(each);
  const T *m = scratch.sample(s), *q = m + b.line;
  for (int64_t g = 0; g < p.groups; g++) {
    double mean = 0, squares = 0;
    if (p.given_mean) {
      mean = static_cast<double>(p.given_mean[g]);
    } else {
      for (int64_t c = g * each; c < (g + 1) * each; c++) mean += static_cast<double>(m[c]);
      mean /= static_cast<double>(each);
      for (int64_t c = g * each; c < (g + 1) * each; c++) {
        const double delta = static_cast<double>(m[c]) - mean;
        squares += static_cast<double>(q[c]) + rows * delta * delta;
      }
    }
    const double var = p.given_var ? static_cast<double>(p.given_var[g]) : squares / n;
    p.mean[s * p.groups + g] = static_cast<T>(mean);
    p.rstd[s * p.groups + g] = static_cast<T>(1 / std::sqrt(var + p.eps));
    if (p.new_mean) {
      const double unbiased = squares / std::max(n - 1, 1.0), keep = 1 - p.momentum;
      p.new_mean[g] = static_cast<T>(keep * static_cast<double>(p.running_mean[g]) + p.momentum * mean);
      p.new_var[g] = static_cast<T>(keep * static_cast<double>(p.running_var[g]) + p.momentum * unbiased);
    }
  }
}

// The three lines of the forward pass.
template <typename P, typename T = typename P::T>
void forward_lines(const P& p, const ChannelBlocks& b, int64_t s, T* mean) {
  T *scale = mean + b.line, *bias = mean + 2 * b.line;
  const int64_t each = p.channels / p.groups;
  for (int64_t c = 0; c < p.channels; c++) {
    const int64_t g = s * p.groups + c / each;
    mean[c] = p.mean[g];
    scale[c] = p.weight ? p.rstd[g] * p.weight[c] : p.rstd[g];
    bias[c] = p.bias ? p.bias[c] : T(0);
  }
}

// The three lines that the gradient has besides.
template <typename S, typename T = Arithmetic<S>>
void gradient_lines(const ChannelNormVjpParams<S>& p, const ChannelBlocks& b, const Scratch<T>& scratch,
                    int64_t s) {
  T* lines = scratch.coefficients(s);
  T *scale = lines + b.line, *gain = lines + 3 * b.line, *slope = gain + b.line, *shift = slope + b.line;
  const T *sum_g = scratch.sample(s), *sum_gx = sum_g + b.line;
  const int64_t each = p.channels / p.groups;
  const double n = static_cast<double>(p.rows * each);
  // A group of one value does not depend on x: its gradient is exactly 0, which
  // rounding would spoil by 1 / sqrt(eps).
  const bool constant = !p.given && p.rows * each == 1;
  for (int64_t g = 0; g < p.groups; g++) {
    const double rstd = static_cast<double>(p.rstd[s * p.groups + g]);
    double g_sum = 0, gx_sum = 0;
    if (!p.given && !constant) {
      for (int64_t c = g * each; c < (g + 1) * each; c++) {
        const double w = p.weight ? static_cast<double>(p.weight[c]) : 1;
        g_sum += w * static_cast<double>(sum_g[c]);
        gx_sum += w * static_cast<double>(sum_gx[c]);
      }
    }
    for (int64_t c = g * each; c < (g + 1) * each; c++) {
      gain[c] = constant ? T(0) : scale[c];
      slope[c] = static_cast<T>(rstd * rstd * rstd * gx_sum / n);
      shift[c] = static_cast<T>(rstd * g_sum / n);
    }
  }
  repeat(b, gain, 3);
}

template <typename S>
void run_forward(const ChannelNormParams<S>& p) {
  using T = Arithmetic<S>;
  const ChannelBlocks b(p.samples, p.rows, p.channels);
  const Functions<S> f = functions(S{});
  const Scratch<T> scratch{b, p.scratch};
  const auto map = [&](int64_t s, int64_t i) {
    const int64_t at = b.offset(s, i);
    f.map(b, p.activation, p.x + at, p.residual ? p.residual + at : nullptr, b.rows_of(i), scratch.coefficients(s),
          p.y + at);
  };
  const auto statistics = [&](int64_t s, int64_t i) {
    T* lines = scratch.block(s, i);
    f.stats(b, p.x + b.offset(s, i), b.rows_of(i), lines, lines + b.line);
  };
  const auto finish = [&](int64_t s) {
    finish_statistics(p, b, scratch, s);
    forward_lines(p, b, s, scratch.coefficients(s));
    repeat(b, scratch.coefficients(s), 3);
  };
  if (b.count == 1) {  // a sample stays in the cache from its statistics to its result
    parallel_for(p.samples, [&](int64_t s) {
      if (!p.given_mean) {
        statistics(s, 0);
        std::copy(scratch.block(s, 0), scratch.block(s, 0) + 2 * b.line, scratch.sample(s));
      }
      finish(s);
      map(s, 0);
    });
    return;
  }
  if (!p.given_mean) {
    parallel_for(p.samples * b.count, [&](int64_t i) { statistics(i / b.count, i % b.count); });
    for_channels(b, [&](int64_t s, int64_t first, int64_t last) { merge_statistics(b, scratch, s, first, last); });
  }
  parallel_for(p.samples, finish);
  // Backwards: what was read last may still be in the cache.
  const int64_t tasks = p.samples * b.count;
  parallel_for(tasks, [&](int64_t i) { map((tasks - 1 - i) / b.count, (tasks - 1 - i) % b.count); });
}

template <typename S>
void run_vjp(const ChannelNormVjpParams<S>& p) {
  using T = Arithmetic<S>;
  const ChannelBlocks b(p.samples, p.rows, p.channels);
  const Functions<S> f = functions(S{});
  const Scratch<T> scratch{b, p.scratch};
  const auto at = [&](const S* v, int64_t s, int64_t i) { return v ? v + b.offset(s, i) : nullptr; };
  const auto start = [&](int64_t s) {
    forward_lines(p, b, s, scratch.coefficients(s));
    repeat(b, scratch.coefficients(s), 3);
  };
  const auto sums = [&](int64_t s, int64_t i) {
    T* lines = scratch.block(s, i);
    f.sums(b, p.activation, at(p.x, s, i), at(p.residual, s, i), at(p.dy, s, i), b.rows_of(i),
           scratch.coefficients(s), lines, lines + b.line);
  };
  const auto gradient = [&](int64_t s, int64_t i) {
    f.grad(b, p.activation, at(p.x, s, i), at(p.residual, s, i), at(p.dy, s, i), b.rows_of(i),
           scratch.coefficients(s), p.dx + b.offset(s, i), p.dresidual ? p.dresidual + b.offset(s, i) : nullptr);
  };
  if (b.count == 1) {
    parallel_for(p.samples, [&](int64_t s) {
      start(s);
      sums(s, 0);
      std::copy(scratch.block(s, 0), scratch.block(s, 0) + 2 * b.line, scratch.sample(s));
      gradient_lines(p, b, scratch, s);
      gradient(s, 0);
    });
  } else {
    parallel_for(p.samples, start);
    parallel_for(p.samples * b.count, [&](int64_t i) { sums(i / b.count, i % b.count); });
    for_channels(b, [&](int64_t s, int64_t first, int64_t last) { merge_sums(b, scratch, s, first, last); });
    parallel_for(p.samples, [&](int64_t s) { gradient_lines(p, b, scratch, s); });
    const int64_t tasks = p.samples * b.count;
    parallel_for(tasks, [&](int64_t i) { gradient((tasks - 1 - i) / b.count, (tasks - 1 - i) % b.count); });
  }
  if (!p.dweight && !p.dbias) return;
  const int64_t each = p.channels / p.groups;
  parallel_for(div_ceil(p.channels, kChannelsAtOnce), [&](int64_t piece) {
    const int64_t last = std::min(p.channels, (piece + 1) * kChannelsAtOnce);
    for (int64_t c = piece * kChannelsAtOnce; c < last; c++) {
      double weight = 0, bias = 0;
      for (int64_t s = 0; s < p.samples; s++) {
        const T* v = scratch.sample(s) + c;
        bias += static_cast<double>(v[0]);
        weight += static_cast<double>(v[b.line]) * static_cast<double>(p.rstd[s * p.groups + c / each]);
      }
      if (p.dbias) p.dbias[c] = static_cast<T>(bias);
      if (p.dweight) p.dweight[c] = static_cast<T>(weight);
    }
  });
}

}  // namespace

int64_t channel_norm_scratch(int64_t samples, int64_t rows, int64_t channels) {
  const ChannelBlocks b(samples, rows, channels);
  return samples * ((b.count + 1) * 2 + kLines) * b.line;
}

template <>
void channel_norm(const ChannelNormParams<float>& p) {
  run_forward(p);
}
template <>
void channel_norm(const ChannelNormParams<double>& p) {
  run_forward(p);
}
template <>
void channel_norm(const ChannelNormParams<Bf16>& p) {
  run_forward(p);
}
template <>
void channel_norm_vjp(const ChannelNormVjpParams<float>& p) {
  run_vjp(p);
}
template <>
void channel_norm_vjp(const ChannelNormVjpParams<double>& p) {
  run_vjp(p);
}
template <>
void channel_norm_vjp(const ChannelNormVjpParams<Bf16>& p) {
  run_vjp(p);
}

}  // namespace aspis::kernel
#endif
