#include "aspis/ops/resample/kernel/cpu.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/resample/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/resample/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;

template <typename S, typename T = Arithmetic<S>>
struct Functions {
  void (*lines)(const S* const*, const T*, int64_t, int64_t, T*);
  void (*points)(const T* const*, const T*, int64_t, int64_t, S*);
};

#define ASPIS_FUNCTIONS(S, suffix)                                                                  \
  HWY_EXPORT(sum_lines_##suffix);                                                                   \
  HWY_EXPORT(sum_points_##suffix);                                                                  \
  Functions<S> functions(S) {                                                                       \
    return {&HWY_DYNAMIC_DISPATCH(sum_lines_##suffix), &HWY_DYNAMIC_DISPATCH(sum_points_##suffix)}; \
  }
ASPIS_FUNCTIONS(float, f32)
ASPIS_FUNCTIONS(double, f64)
ASPIS_FUNCTIONS(Bf16, bf16)
#undef ASPIS_FUNCTIONS

template <typename S>
void run(const ResampleParams<S>& p) {
  using T = Arithmetic<S>;
  const AxisTable &a = *p.axes[0], &b = *p.axes[1], &c = *p.axes[2];
  const Functions<S> f = functions(S{});
  const int64_t line_in = c.in * p.channels, line_out = c.out * p.channels;
  const int64_t lines = p.samples * a.out * b.out;
  if (lines == 0 || line_out == 0) return;
  const int64_t each = std::max<int64_t>(1, kElementsPerTask / std::max(line_in, line_out));
  const bool same = c.is_identity();
  std::vector<T> last_weights(c.weight.begin(), c.weight.end());
  parallel_for(div_ceil(lines, each), [&](int64_t task) {
    std::vector<const S*> sources;
    std::vector<const T*> points;
    std::vector<T> weights, line(static_cast<size_t>(line_in));
    for (int64_t l = task * each; l < std::min(lines, (task + 1) * each); l++) {
      const int64_t j = l % b.out, i = l / b.out % a.out, s = l / b.out / a.out;
      sources.clear();
      weights.clear();
      for (int64_t u = a.first[i]; u < a.first[i + 1]; u++) {
        for (int64_t v = b.first[j]; v < b.first[j + 1]; v++) {
          sources.push_back(p.x + ((s * a.in + a.index[u]) * b.in + b.index[v]) * line_in);
          weights.push_back(static_cast<T>(a.weight[u] * b.weight[v]));
        }
      }
      S* y = p.y + l * line_out;
      const auto count = static_cast<int64_t>(sources.size());
      if (count == 0) {  // no input reaches this line (gradients only)
        std::fill(y, y + line_out, S{});
        continue;
      }
      if constexpr (std::is_same_v<S, T>) {
        if (same) {
          f.lines(sources.data(), weights.data(), count, line_in, y);
          continue;
        }
      }
      f.lines(sources.data(), weights.data(), count, line_in, line.data());
      for (int64_t k = 0; k < c.out; k++) {
        points.clear();
        for (int64_t w = c.first[k]; w < c.first[k + 1]; w++)
          points.push_back(line.data() + c.index[w] * p.channels);
        if (points.empty()) {
          std::fill(y + k * p.channels, y + (k + 1) * p.channels, S{});
        } else {
          f.points(points.data(), last_weights.data() + c.first[k], static_cast<int64_t>(points.size()),
                   p.channels, y + k * p.channels);
        }
      }
    }
  });
}

}  // namespace

template <>
void resample(const ResampleParams<float>& p) {
  run(p);
}
template <>
void resample(const ResampleParams<double>& p) {
  run(p);
}
template <>
void resample(const ResampleParams<Bf16>& p) {
  run(p);
}

}  // namespace aspis::kernel
#endif
