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

TEST_CASE("selective_scan: 262,144 tokens, also of equal inputs, extreme steps and decays, and one huge value") {
  constexpr int kL = 262144, kD = 4, kN = 16, kHuge = 1000;
  const auto u = normal({1, kL, kD}, 1), B = normal({1, kL, kN}, 4, 0.1), C = normal({1, kL, kN}, 5, 0.1);
  const auto all = [&](double value, const mx::Shape& shape) {
    return mx::full(shape, mx::array(value, mx::float64), mx::float64);
  };
  const mx::Shape rows{1, kL, kD}, matrix{kD, kN};
  const auto draw_dt = uniform(rows, 2, 0.01, 0.1), draw_A = uniform(matrix, 3, -2, -0.5);
  const auto place = mx::astype(mx::reshape(mx::arange(kL), {1, kL, 1}) == mx::array(kHuge), mx::float64);
  struct Case {
    std::string what;
    mx::array u, dt, A, B, C;
    double limit = 1e-5;
  };
  // A decay nearer to 1 than float32 can say counts as none: 262,144 times dt A, 1.4e-4 and 3.3e-4 at most, is
  // lost.
  constexpr double kNoDecay = 4e-4;
  const std::vector<Case> cases = {
      {"random", u, draw_dt, draw_A, B, C},
      {"all equal", all(1, rows), all(0.05, rows), all(-1, matrix), all(0.5, {1, kL, kN}), all(1, {1, kL, kN})},
      {"dt 1e4", u, all(1e4, rows), draw_A, B, C},
      {"dt 1e-9", u, all(1e-9, rows), draw_A, B, C, kNoDecay},
      {"A -1e-8", u, draw_dt, all(-1e-8, matrix), B, C, kNoDecay},
      {"A -1e4", u, draw_dt, all(-1e4, matrix), B, C},
      {"one value of 3e38", u * (1 - place) + place * 3e38, draw_dt, draw_A, B, C},
  };
  for (const auto& c : cases) {
    CAPTURE(c.what);
    const Arrays in{c.u, c.dt, c.A, c.B, c.C};
    const Function f = [](const Arrays& a) {
      auto [out, last] = selective_scan_with_state(a[0], a[1], a[2], a[3], a[4]);
      return Arrays{out, last};
    };
    const Outcome fine = run(f, in, false), single = run(f, cast(in, mx::float32), false);
    CHECK(error(single.outputs[0], fine.outputs[0]) < c.limit);
    CHECK(error(single.outputs[1], fine.outputs[1]) < c.limit);
    // The end by itself: where 3e38 has decayed, what follows is as good as ever.
    CHECK(error(tokens(single.outputs[0], kL - 4096, kL), tokens(fine.outputs[0], kL - 4096, kL)) < c.limit);
  }
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
