#include "aspis/ops/add_n/add_n.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/add_n/add_n_cases.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("add_n conforms on every instruction set") { harness::expect_conforms(add_n_entry()); }
TEST_CASE("add_n keeps bfloat16 in its kernel") { harness::expect_bf16_conforms(add_n_entry()); }

TEST_CASE("add_n takes one array twice") {
  const auto x = mx::array({1.0f, 2.0f});
  const auto y = add_n({x, x, x});
  CHECK(mx::array_equal(y, mx::array({3.0f, 6.0f})).item<bool>());
}

TEST_CASE("add_n keeps shape and dtype, empty and scalar arrays included") {
  CHECK(add_n({mx::zeros({0, 3}), mx::zeros({0, 3})}).shape() == mx::Shape{0, 3});
  CHECK(add_n({mx::array(1.0f), mx::array(2.0f)}).item<float>() == 3.0f);
  const auto half = mx::astype(mx::array(1.0f), mx::bfloat16);
  CHECK(add_n({half, half}).dtype() == mx::bfloat16);
}

TEST_CASE("add_n refuses what it cannot add with one sentence") {
  CHECK_THROWS_WITH_AS(add_n({}), "[add_n] at least one array is needed; got none", Error);
  CHECK_THROWS_WITH_AS(
      add_n({mx::zeros({2}), mx::zeros({3})}),
      "[add_n] xs[1] must have the shape of xs[0], {2}; got {3}. Try: mx::broadcast_to before the sum", Error);
  CHECK_THROWS_WITH_AS(add_n({mx::zeros({2}), mx::zeros({2}, mx::int32)}),
                       "[add_n] xs[1] must be a real floating-point array; got int32", Error);
}
