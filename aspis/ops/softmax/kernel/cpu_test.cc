#include "aspis/ops/softmax/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/softmax/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Shape {
  int64_t rows, length;
};
const Shape kShapes[] = {{1, 1}, {3, 2}, {5, 15}, {4, 16}, {7, 33}, {2, 1000}, {300, 70}, {1, 65536}, {2, 70001}};
}  // namespace

TEST_CASE("softmax kernel matches its definition for any row length and row step on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& [rows, length] : kShapes) {
      CAPTURE(isa);
      CAPTURE(rows);
      CAPTURE(length);
      const int64_t stride = length + 3;
      std::vector<float> x(rows * stride, NAN), y(rows * length + 1, -7.f);
      std::vector<double> wide(rows * stride), want(rows * length);
      Rng rng(1, "softmax");
      for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < length; i++) {
          const auto v = static_cast<float>(10 * rng.normal());
          wide[r * stride + i] = x[r * stride + i] = v;
        }
      }
      kernel::softmax<float>({rows, length, x.data(), stride, y.data()});
      kernel::softmax_reference<double>({rows, length, wide.data(), stride, want.data()});
      double worst = 0;
      for (int64_t i = 0; i < rows * length; i++) {
        worst = std::max(worst, std::abs(y[i] - want[i]) / (want[i] + 1e-30));
      }
      // x - max is rounded at most once at 60 (4e-6 of the exponential).
      CHECK(worst < 6e-6);
      CHECK(y[rows * length] == -7.f);
    }
  }
  force_isa("");
}

TEST_CASE("softmax gradient kernel matches its definition, pieces of long rows included") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& [rows, length] : kShapes) {
      CAPTURE(isa);
      CAPTURE(length);
      std::vector<double> y(rows * length), dy(rows * length), dx(rows * length);
      Rng rng(2, "softmax");
      for (auto& v : y) v = rng.uniform();
      for (auto& v : dy) v = rng.normal();
      kernel::softmax_vjp<double>({rows, length, y.data(), dy.data(), length, length, dx.data()});
      for (int64_t r = 0; r < rows; r++) {
        double dot = 0;
        for (int64_t i = 0; i < length; i++) dot += y[r * length + i] * dy[r * length + i];
        double worst = 0;
        for (int64_t i = 0; i < length; i++) {
          const int64_t k = r * length + i;
          worst = std::max(worst, std::abs(dx[k] - y[k] * (dy[k] - dot)) / (1 + std::abs(dot)));
        }
        CHECK(worst < 1e-12);
      }
    }
  }
  force_isa("");
}

TEST_CASE("softmax of masked, infinite and NaN entries is that of PyTorch, in short and long rows") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t length : {5, 37, 70001}) {
      CAPTURE(isa);
      CAPTURE(length);
      std::vector<float> x(length, -kInf), y(length);
      const auto run = [&] { kernel::softmax<float>({1, length, x.data(), length, y.data()}); };
      const auto all_nan = [&] {
        for (const float v : y) {
          if (!std::isnan(v)) return false;
        }
        return true;
      };
      run();
      CHECK(all_nan());  // all masked
      x[2] = 3.f;
      run();
      CHECK(y[2] == 1.f);
      CHECK(y[0] == 0.f);
      CHECK(y[length - 1] == 0.f);
      x[length - 1] = NAN;
      run();
      CHECK(all_nan());
      x[length - 1] = kInf;
      run();
      CHECK(all_nan());
      x[length - 1] = -3e38f;
      x[2] = 3e38f;
      run();
      CHECK(y[2] == 1.f);
      CHECK(y[length - 1] == 0.f);
    }
  }
  force_isa("");
}
