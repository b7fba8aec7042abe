// Under the label `long`: a million tokens (no overflow of an offset, no drift), and
// the upstream grids at their full sizes.

#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/causal_conv1d/causal_conv1d_cases.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/mamba3/mamba3_cases.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "aspis/ops/ssd/ssd_cases.h"
#include "tests/conformance/support.h"

namespace aspis::conformance {
namespace {

constexpr int kL = 1 << 20;

}  // namespace

TEST_CASE("#1015: selective_scan over a million tokens") {
  const Arrays in{normal({1, kL, 3}, 1), normal({1, kL, 3}, 2), uniform({3, 2}, 3, -2, -0.01),
                  normal({1, kL, 2}, 4), normal({1, kL, 2}, 5)};
  const Function f = [](const Arrays& a) {
    ScanOptions o;
    o.delta_softplus = true;
    return Arrays{selective_scan(a[0], a[1], a[2], a[3], a[4], o)};
  };
  expect_close("scan", f, in, 1e-5, 1e-4);
}

TEST_CASE("#880: causal_conv1d over a million tokens of 64 channels") {
  const Arrays in{normal({1, kL, 64}, 1), normal({64, 4}, 2)};
  const Function f = [](const Arrays& a) { return Arrays{causal_conv1d(a[0], a[1])}; };
  expect_close("conv", f, in, 1e-6, 1e-4);
}

TEST_CASE("#884: ssd over a million tokens") {
  const Arrays in{normal({1, kL, 1, 4}, 1), normal({1, kL, 1}, 2), uniform({1}, 3, -1, -0.1),
                  normal({1, kL, 1, 4}, 4), normal({1, kL, 1, 4}, 5)};
  const Function f = [](const Arrays& a) {
    SsdOptions o;
    o.dt_softplus = true;
    return Arrays{ssd(a[0], a[1], a[2], a[3], a[4], o)};
  };
  expect_close("ssd", f, in, 1e-5, 1e-4);
}

TEST_CASE("mamba3 over a million tokens with angles that walk") {
  const Arrays in{normal({1, kL, 1, 4}, 1),     normal({1, kL, 1, 1, 4}, 2), normal({1, kL, 1, 1, 4}, 3),
                  normal({1, kL, 1}, 4, 1, -3), normal({1, kL, 1}, 5),       normal({1, kL, 1}, 6),
                  normal({1, kL, 2}, 7)};
  const Function f = [](const Arrays& a) {
    Mamba3Options o;
    o.angle = a[6];
    return Arrays{mamba3(a[0], a[1], a[2], a[3], a[4], a[5], o)};
  };
  const Outcome fine = run(f, in, false), single = run(f, cast(in, mx::float32), false);
  CHECK(error(single.outputs[0], fine.outputs[0]) <
        1e-3);  // a phase of a million reduced sums, 1e-4 rad by 65,536
}

TEST_CASE("upstream's full sizes: causal_conv1d of 4128 channels") {
  harness::expect_grid(causal_conv1d_entry(), "test_causal_conv1d B", 23, true);
}

TEST_CASE("upstream's full sizes: packed states of 64 heads") {
  harness::expect_grid(ssd_entry(), "chunk_state_varlen B", 1, true);
}

TEST_CASE("upstream's full sizes: mamba3 SISO") { harness::expect_grid(mamba3_entry(), "SISO B", 1, true); }

TEST_CASE("upstream's full sizes: mamba3 MIMO") { harness::expect_grid(mamba3_entry(), "MIMO B", 13, true); }

}  // namespace aspis::conformance
