// Long sequences of every operator with a state: 131,072 tokens in float32 stay
// near float64, and the lengths around the borders of blocks are whole.

#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/conformance/support.h"

namespace aspis::conformance {

TEST_CASE("selective_scan: 131,072 tokens, values, states and gradients") {
  constexpr int kL = 131072, kD = 3, kN = 2;
  const Arrays in{normal({1, kL, kD}, 1), normal({1, kL, kD}, 2), uniform({kD, kN}, 3, -2, -0.01),
                  normal({1, kL, kN}, 4), normal({1, kL, kN}, 5)};
  const Function f = [](const Arrays& a) {
    ScanOptions o;
    o.delta_softplus = true;
    auto [out, last] = selective_scan_with_state(a[0], a[1], a[2], a[3], a[4], o);
    return Arrays{out, last};
  };
  expect_close("scan", f, in, 1e-5, 1e-4);
}

TEST_CASE("causal_conv1d: 131,072 tokens") {
  constexpr int kL = 131072;
  const Arrays in{normal({1, kL, 5}, 1), normal({5, 4}, 2)};
  const Function f = [](const Arrays& a) {
    Conv1dOptions o;
    o.silu = true;
    return Arrays{causal_conv1d(a[0], a[1], o)};
  };
  expect_close("conv", f, in, 1e-6, 1e-4);
}

TEST_CASE("ssd: 131,072 tokens with gradients") {
  constexpr int kL = 131072;
  const Arrays in{normal({1, kL, 1, 3}, 1), normal({1, kL, 1}, 2), uniform({1}, 3, -1, -0.1),
                  normal({1, kL, 1, 4}, 4), normal({1, kL, 1, 4}, 5)};
  const Function f = [](const Arrays& a) {
    SsdOptions o;
    o.dt_softplus = true;
    auto [out, last] = ssd_with_state(a[0], a[1], a[2], a[3], a[4], o);
    return Arrays{out, last};
  };
  expect_close("ssd", f, in, 1e-5, 1e-4);
}

TEST_CASE("a cut at every border of a block is the whole") {
  const auto u = normal({1, 150, 5}, 1), dt = normal({1, 150, 5}, 2), A = uniform({5, 3}, 3, -2, -0.1),
             B = normal({1, 150, 3}, 4), C = normal({1, 150, 3}, 5), z = normal({1, 150, 5}, 6);
  for (const int L : {1, 2, 3, 15, 16, 17, 31, 32, 33, 39, 63, 64, 65, 127, 128, 129, 135, 150}) {
    CAPTURE(L);
    const auto piece = [&](int from, int to, const std::optional<mx::array>& state) {
      ScanOptions o;
      o.delta_softplus = true, o.z = tokens(z, from, to), o.initial_state = state;
      return selective_scan_with_state(tokens(u, from, to), tokens(dt, from, to), A, tokens(B, from, to),
                                       tokens(C, from, to), o);
    };
    const auto whole = piece(0, 150, {}), first = piece(0, L, {});
    CHECK(error(first.first, tokens(whole.first, 0, L)) < 1e-13);
    if (L == 150) continue;
    const auto second = piece(L, 150, first.second);
    CHECK(error(second.first, tokens(whole.first, L, 150)) < 1e-12);
    CHECK(error(second.second, whole.second) < 1e-12);
  }
}

}  // namespace aspis::conformance
