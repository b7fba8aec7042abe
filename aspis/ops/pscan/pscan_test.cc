#include "aspis/ops/pscan/pscan.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <limits>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/pscan/pscan_cases.h"

using namespace aspis;

TEST_CASE("pscan conforms on every instruction set") { harness::expect_conforms(pscan_entry()); }

TEST_CASE("every length is exact, 1 to 69 and around the borders of segments") {
  for (int L = 1; L <= 69; L++) {
    const auto A = mx::full({1, L, 1}, 1.0f), X = mx::full({1, L, 1}, 1.0f);
    CHECK(mx::array_equal(pscan(A, X), mx::reshape(mx::arange(1.0f, static_cast<float>(L + 1)), {1, L, 1}))
              .item<bool>());
  }
  for (const int L : {1023, 1024, 1025, 2047, 4097}) {
    const auto X = mx::full({1, L, 2}, 1.0f);
    const auto H = pscan(X, X, mx::full({1, 2}, 3.0f));
    const auto want =
        mx::broadcast_to(mx::reshape(mx::arange(4.0f, static_cast<float>(L + 4)), {1, L, 1}), {1, L, 2});
    CHECK(mx::array_equal(H, want).item<bool>());
  }
}

TEST_CASE("a NaN reaches what comes after it in its column") {
  for (const int L : {20, 2000}) {
    const int at = L / 2;
    const auto A = mx::full({1, L, 2}, 0.5f);
    const auto X =
        mx::slice_update(mx::ones({1, L, 2}), mx::full({1, 1, 1}, std::numeric_limits<float>::quiet_NaN()),
                         mx::Shape{0, at, 1}, mx::Shape{1, at + 1, 2});
    const auto hit = mx::sum(mx::astype(mx::isnan(pscan(A, X)), mx::int32), 1);
    CHECK(mx::array_equal(hit, mx::array({0, L - at}, {1, 2})).item<bool>());
  }
}

TEST_CASE("pscan refuses what does not fit and takes what is empty") {
  CHECK(pscan(mx::zeros({2, 0, 3}), mx::zeros({2, 0, 3})).shape() == mx::Shape{2, 0, 3});
  const auto x = mx::ones({2, 5, 3});
  CHECK_THROWS_WITH_AS(pscan(mx::ones({2, 4, 3}), x),
                       "[pscan] A must have shape that of X = {2, 5, 3}; got {2, 4, 3}", Error);
  CHECK_THROWS_WITH_AS(pscan(mx::ones({2}), mx::ones({2})), "[pscan] X must have shape {B, L, ..}; got {2}",
                       Error);
  CHECK_THROWS_WITH_AS(pscan(x, x, mx::ones({2, 5})),
                       "[pscan] initial must have shape {B, ..} = {2, 3}; got {2, 5}", Error);
  CHECK_THROWS_AS(pscan(mx::ones({2, 5, 3}, mx::int32), x), Error);
}
