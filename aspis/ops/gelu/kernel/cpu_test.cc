#include "aspis/ops/gelu/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/ops/gelu/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

TEST_CASE("gelu kernel matches its definition for odd counts and unaligned pointers on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const bool tanh_form : {false, true}) {
      for (const int64_t n : {1, 2, 3, 15, 16, 17, 63, 1000, 20000}) {
        CAPTURE(isa);
        CAPTURE(tanh_form);
        CAPTURE(n);
        std::vector<float> x(n + 1), y(n + 2, -7.f);
        std::vector<double> wide(n), want(n);
        Rng rng(1, "gelu");
        for (int64_t i = 0; i < n; i++) wide[i] = x[i + 1] = static_cast<float>(3 * rng.normal());
        kernel::gelu<float>({n, tanh_form, x.data() + 1, y.data() + 1});
        kernel::gelu_reference<double>({n, tanh_form, wide.data(), want.data()});
        double worst = 0;
        for (int64_t i = 0; i < n; i++) {
          worst = std::max(worst, std::abs(y[i + 1] - want[i]) / (0.25 + std::abs(want[i])));
        }
        CHECK(worst < 3e-7);
        CHECK(y[0] == -7.f);
        CHECK(y[n + 1] == -7.f);
      }
    }
  }
  force_isa("");
}

TEST_CASE("gelu gradient kernel is the slope of the forward kernel") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const bool tanh_form : {false, true}) {
      const int64_t n = 401;
      std::vector<double> x(n), above(n), below(n), high(n), low(n), dy(n), dx(n);
      for (int64_t i = 0; i < n; i++) {
        x[i] = -10 + 0.05 * static_cast<double>(i);
        above[i] = x[i] + 1e-6;
        below[i] = x[i] - 1e-6;
        dy[i] = 1 + 0.01 * static_cast<double>(i % 7);
      }
      kernel::gelu<double>({n, tanh_form, above.data(), high.data()});
      kernel::gelu<double>({n, tanh_form, below.data(), low.data()});
      kernel::gelu_vjp<double>({n, tanh_form, x.data(), dy.data(), dx.data()});
      for (int64_t i = 0; i < n; i++) {
        CAPTURE(x[i]);
        CHECK(std::abs(dx[i] - dy[i] * (high[i] - low[i]) / 2e-6) < 3e-9);
      }
    }
  }
  force_isa("");
}

TEST_CASE("gelu kernel keeps NaN and gives the limits far out") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float x[] = {0.f, kInf, -200.f, NAN, 1e30f, -1e30f};
  for (const bool tanh_form : {false, true}) {
    float y[6];
    kernel::gelu<float>({6, tanh_form, x, y});
    CHECK(y[0] == 0.f);
    CHECK(y[1] == kInf);
    CHECK(y[2] == 0.f);
    CHECK(std::isnan(y[3]));
    CHECK(y[4] == 1e30f);
    CHECK(y[5] == 0.f);
  }
}
