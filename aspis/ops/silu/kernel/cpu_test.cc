#include "aspis/ops/silu/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/ops/silu/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

TEST_CASE("silu kernel matches its definition for odd counts and unaligned pointers on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t n : {1, 2, 3, 15, 16, 17, 63, 1000, 20000}) {
      CAPTURE(isa);
      CAPTURE(n);
      std::vector<float> x(n + 1), y(n + 2, -7.f);
      std::vector<double> wide(n), want(n);
      Rng rng(1, "silu");
      for (int64_t i = 0; i < n; i++) wide[i] = x[i + 1] = static_cast<float>(5 * rng.normal());
      kernel::silu<float>({n, x.data() + 1, y.data() + 1});
      kernel::silu_reference<double>({n, wide.data(), want.data()});
      double worst = 0;
      for (int64_t i = 0; i < n; i++)
        worst = std::max(worst, std::abs(y[i + 1] - want[i]) / (1 + std::abs(want[i])));
      CHECK(worst < 3e-7);
      CHECK(y[0] == -7.f);
      CHECK(y[n + 1] == -7.f);
    }
  }
  force_isa("");
}

TEST_CASE("silu kernel handles special values") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float x[] = {0.f, kInf, -200.f, NAN, 100.f};
  float y[5];
  kernel::silu<float>({5, x, y});
  CHECK(y[0] == 0.f);
  CHECK(y[1] == kInf);
  CHECK(std::abs(y[2]) < 1e-30f);
  CHECK(std::isnan(y[3]));
  CHECK(y[4] == 100.f);
}
