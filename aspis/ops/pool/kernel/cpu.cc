#include "aspis/ops/pool/kernel/cpu.h"

#include <algorithm>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/pool/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/pool/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  void (*lines)(const S* const*, int64_t, int64_t, S*);
  void (*place)(const S* const*, int64_t, int64_t, T*);
  void (*collect)(const S* const*, const T* const*, const T*, int64_t, int64_t, S*);
};

#define ASPIS_FUNCTIONS(S, suffix)                                                                \
  HWY_EXPORT(max_lines_##suffix);                                                                 \
  HWY_EXPORT(max_place_##suffix);                                                                 \
  HWY_EXPORT(max_collect_##suffix);                                                               \
  Functions<S> functions(S) {                                                                     \
    return {&HWY_DYNAMIC_DISPATCH(max_lines_##suffix), &HWY_DYNAMIC_DISPATCH(max_place_##suffix), \
            &HWY_DYNAMIC_DISPATCH(max_collect_##suffix)};                                         \
  }
ASPIS_FUNCTIONS(float, f32)
ASPIS_FUNCTIONS(double, f64)
ASPIS_FUNCTIONS(Bf16, bf16)
#undef ASPIS_FUNCTIONS

// Calls task(sample, i, j, line) for the lines (sample, i, j) of a result; `make()`
// gives what a group of lines shares.
template <typename Make, typename Task>
void for_lines(int64_t samples, int64_t first, int64_t second, int64_t line_size, Make make, Task task) {
  const int64_t lines = samples * first * second;
  const int64_t each = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(line_size, 1));
  parallel_for(div_ceil(lines, each), [&](int64_t group) {
    auto shared = make();
    for (int64_t l = group * each; l < std::min(lines, (group + 1) * each); l++) {
      task(l / second / first, l / second % first, l % second, l, shared);
    }
  });
}

template <typename S>
void run(const MaxPoolParams<S>& p) {
  const AxisTable &a = *p.axes[0], &b = *p.axes[1], &c = *p.axes[2];
  const auto f = functions(S{});
  const int64_t line_in = c.in * p.channels, line_out = c.out * p.channels;
  if (line_out == 0) return;
  struct Shared {
    std::vector<const S*> sources;
    std::vector<S> line;
  };
  for_lines(
      p.samples, a.out, b.out, std::max(line_in, line_out),
      [&] {
        return Shared{{}, std::vector<S>(static_cast<size_t>(line_in))};
      },
      [&](int64_t s, int64_t i, int64_t j, int64_t l, Shared& shared) {
        auto& sources = shared.sources;
        sources.clear();
        for (int64_t u = a.first[i]; u < a.first[i + 1]; u++) {
          for (int64_t v = b.first[j]; v < b.first[j + 1]; v++) {
            sources.push_back(p.x + ((s * a.in + a.index[u]) * b.in + b.index[v]) * line_in);
          }
        }
        const S* line = sources[0];
        if (sources.size() > 1) {
          f.lines(sources.data(), static_cast<int64_t>(sources.size()), line_in, shared.line.data());
          line = shared.line.data();
        }
        for (int64_t k = 0; k < c.out; k++) {
          sources.clear();
          for (int64_t w = c.first[k]; w < c.first[k + 1]; w++) sources.push_back(line + c.index[w] * p.channels);
          f.lines(sources.data(), static_cast<int64_t>(sources.size()), p.channels,
                  p.y + l * line_out + k * p.channels);
        }
      });
}

template <typename S>
void run_vjp(const MaxPoolVjpParams<S>& p) {
  using T = Arithmetic<S>;
  const AxisTable &a = *p.axes[0], &b = *p.axes[1], &c = *p.axes[2];
  const auto f = functions(S{});
  const int64_t line_in = c.in * p.channels, line_out = c.out * p.channels;
  if (line_in == 0) return;
  for_lines(
      p.samples, a.out, b.out, std::max(line_in, line_out), [] { return std::vector<const S*>(); },
      [&](int64_t s, int64_t i, int64_t j, int64_t l, std::vector<const S*>& points) {
        for (int64_t k = 0; k < c.out; k++) {
          points.clear();
          for (int64_t u = a.first[i]; u < a.first[i + 1]; u++) {
            for (int64_t v = b.first[j]; v < b.first[j + 1]; v++) {
              const S* line = p.x + ((s * a.in + a.index[u]) * b.in + b.index[v]) * line_in;
              for (int64_t w = c.first[k]; w < c.first[k + 1]; w++)
                points.push_back(line + c.index[w] * p.channels);
            }
          }
          f.place(points.data(), static_cast<int64_t>(points.size()), p.channels,
                  p.scratch + l * line_out + k * p.channels);
        }
      });
  // Weights of the tables are numbers within a window, and so they are of the transposed ones.
  const AxisTable ta = a.transposed(), tb = b.transposed(), tc = c.transposed();
  const auto taps = [](const AxisTable& t, int64_t o) { return static_cast<double>(t.first[o + 1] - t.first[o]); };
  struct Shared {
    std::vector<const S*> dy;
    std::vector<const T*> place;
    std::vector<T> number;
  };
  for_lines(
      p.samples, a.in, b.in, std::max(line_in, line_out), [] { return Shared(); },
      [&](int64_t s, int64_t i, int64_t j, int64_t l, Shared& shared) {
        for (int64_t k = 0; k < c.in; k++) {
          shared.dy.clear();
          shared.place.clear();
          shared.number.clear();
          for (int64_t u = ta.first[i]; u < ta.first[i + 1]; u++) {
            for (int64_t v = tb.first[j]; v < tb.first[j + 1]; v++) {
              const int64_t line = ((s * a.out + ta.index[u]) * b.out + tb.index[v]) * c.out;
              for (int64_t w = tc.first[k]; w < tc.first[k + 1]; w++) {
                const int64_t at = (line + tc.index[w]) * p.channels;
                shared.dy.push_back(p.dy + at);
                shared.place.push_back(p.scratch + at);
                const double row = ta.weight[u] * taps(b, tb.index[v]) + tb.weight[v];
                shared.number.push_back(static_cast<T>(row * taps(c, tc.index[w]) + tc.weight[w]));
              }
            }
          }
          f.collect(shared.dy.data(), shared.place.data(), shared.number.data(),
                    static_cast<int64_t>(shared.dy.size()), p.channels, p.dx + l * line_in + k * p.channels);
        }
      });
}

}  // namespace

template <>
void max_pool(const MaxPoolParams<float>& p) {
  run(p);
}
template <>
void max_pool(const MaxPoolParams<double>& p) {
  run(p);
}
template <>
void max_pool(const MaxPoolParams<Bf16>& p) {
  run(p);
}
template <>
void max_pool_vjp(const MaxPoolVjpParams<float>& p) {
  run_vjp(p);
}
template <>
void max_pool_vjp(const MaxPoolVjpParams<double>& p) {
  run_vjp(p);
}
template <>
void max_pool_vjp(const MaxPoolVjpParams<Bf16>& p) {
  run_vjp(p);
}

}  // namespace aspis::kernel
#endif
