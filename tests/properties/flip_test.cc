// Turned in time, a recurrence with B and C exchanged is its own transpose: the
// gradient of x is the operator itself run backwards over the cotangent, with decays
// (and turns) one token later. Nothing of the backward kernels is in the second way.

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "aspis/base/rng.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/properties/recurrent.h"

namespace aspis::properties {
namespace {

mx::array wide(const mx::array& a) { return mx::astype(a, mx::float64); }

// {B, L, ..} from its last token to its first.
mx::array turned(const mx::array& a) {
  std::vector<int32_t> order;
  for (int t = a.shape(1) - 1; t >= 0; t--) order.push_back(t);
  return mx::take(a, mx::array(order.data(), {a.shape(1)}, mx::int32), 1);
}

// Turned, with the values of the token behind: at place t' what belonged to token L - t'. The first is free.
mx::array turned_late(const mx::array& a) {
  const auto back = turned(a);
  mx::Shape stop = a.shape(), start(a.ndim(), 0), first = a.shape();
  stop[1] -= 1, first[1] = 1;
  return mx::concatenate({mx::slice(back, start, first), mx::slice(back, start, stop)}, 1);
}

double error(const mx::array& got, const mx::array& want) {
  const auto largest = [](const mx::array& a) {
    return mx::astype(mx::max(mx::abs(a)), mx::float32).item<float>();
  };
  const double e = largest(got - want), scale = largest(want);
  return std::isfinite(e) ? e / std::max(scale, 1e-30) : INFINITY;
}

}  // namespace

TEST_CASE("the gradient of ssd by x is ssd run backwards with B and C exchanged") {
  for (int i = 0; i < 50; i++) {
    Rng rng(1, "flip ssd", static_cast<uint64_t>(i));
    const int B = 2, L = static_cast<int>(between(rng, 1, 70)), H = 4, P = 3, G = 2, N = 5;
    CAPTURE(L);
    const auto x = wide(normal(rng, {B, L, H, P})), dt = mx::exp(wide(normal(rng, {B, L, H}, 0.7))),
               A = wide(negative_uniform(rng, {H}, 0.1, 2)), keys = wide(normal(rng, {B, L, G, N})),
               queries = wide(normal(rng, {B, L, G, N})), w = wide(normal(rng, {B, L, H, P}));
    SsdOptions o;
    o.chunk_size = i % 2 == 0 ? 0 : static_cast<int>(between(rng, 1, 40));
    const auto gradient =
        mx::vjp([&](const std::vector<mx::array>& a) { return std::vector{ssd(a[0], dt, A, keys, queries, o)}; },
                {x}, {w})
            .second[0];
    const auto late = turned_late(dt);
    const auto rows = [](const mx::array& a) { return mx::expand_dims(a, 3); };
    const auto back = ssd(turned(w) / rows(late), late, A, turned(queries), turned(keys), o);
    CHECK(error(turned(back) * rows(dt), gradient) < 1e-12);
  }
}

TEST_CASE("the gradient of mamba3 by x is mamba3 run backwards with B and C exchanged") {
  for (int i = 0; i < 50; i++) {
    Rng rng(1, "flip mamba3", static_cast<uint64_t>(i));
    const int B = 2, L = static_cast<int>(between(rng, 1, 70)), H = 4, P = 3, G = 2, N = 6, A = 3;
    CAPTURE(L);
    const auto x = wide(normal(rng, {B, L, H, P})), dd_dt = wide(normal(rng, {B, L, H}, 0.7)),
               dd_A = wide(normal(rng, {B, L, H})), keys = wide(normal(rng, {B, L, 1, G, N})),
               queries = wide(normal(rng, {B, L, 1, G, N})), w = wide(normal(rng, {B, L, H, P})),
               angle = wide(normal(rng, {B, L, A}));
    // lambda = 1: a token enters once, with dt.
    const auto trap = mx::full({B, L, H}, mx::array(800.0, mx::float64), mx::float64);
    Mamba3Options o;
    o.chunk_size = i % 2 == 0 ? 0 : static_cast<int>(between(rng, 1, 40));
    if (i % 3 == 0) o.pairing = RotaryPairing::kHalf;
    const auto gradient = mx::vjp(
                              [&](const std::vector<mx::array>& a) {
                                Mamba3Options q = o;
                                q.angle = angle;
                                return std::vector{mamba3(a[0], keys, queries, dd_dt, dd_A, trap, q)};
                              },
                              {x}, {w})
                              .second[0];
    const auto late = turned_late(dd_dt);
    const auto step = [](const mx::array& dd) { return mx::expand_dims(ops::softplus(dd), 3); };
    Mamba3Options q = o;
    q.angle = mx::negative(turned_late(angle));
    const auto back =
        mamba3(turned(w) / step(late), turned(queries), turned(keys), late, turned_late(dd_A), trap, q);
    CHECK(error(turned(back) * step(dd_dt), gradient) < 1e-11);
  }
}

}  // namespace aspis::properties
