#include "aspis/ops/matmul/matmul.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/matmul/matmul_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("matmul conforms on every instruction set") { harness::expect_conforms(matmul_entry()); }

TEST_CASE("matmul reads slices, transposed views and broadcasts of matrices") {
  const auto wide = mx::sin(mx::reshape(mx::arange(0.0f, 240.0f), {2, 3, 4, 10}));
  const auto b = mx::cos(mx::reshape(mx::arange(0.0f, 30.0f), {6, 5}));
  const auto part = mx::slice(wide, {0, 0, 0, 2}, {2, 3, 4, 8});
  const auto same = [](const mx::array& x, const mx::array& y) { return mx::array_equal(x, y).item<bool>(); };
  CHECK(same(ops::matmul(part, b), ops::matmul(mx::contiguous(part), b)));
  const auto turned = mx::transpose(part, {1, 0, 2, 3});
  CHECK(same(ops::matmul(turned, b), ops::matmul(mx::contiguous(turned), b)));
  const auto spread = mx::broadcast_to(b, {2, 3, 6, 5});
  CHECK(same(ops::matmul(part, b), ops::matmul(part, mx::contiguous(spread))));
  const auto middle = mx::broadcast_to(mx::reshape(wide, {2, 1, 12, 10}), {2, 3, 12, 10});
  CHECK(same(ops::matmul(middle, mx::ones({10, 2})), ops::matmul(mx::contiguous(middle), mx::ones({10, 2}))));
  CHECK(ops::matmul(mx::zeros({0, 3, 4}), mx::ones({4, 2})).shape() == mx::Shape{0, 3, 2});
}

TEST_CASE("matmul refuses what does not fit with one sentence") {
  CHECK_THROWS_WITH_AS(ops::matmul(mx::ones({2, 3}), mx::ones({2, 3})),
                       "[matmul] the rows of op(a) must be as long as the columns of op(b); got {2, 3} and {2, 3}",
                       Error);
  CHECK_THROWS_WITH_AS(ops::matmul(mx::ones({3}), mx::ones({3, 2})),
                       "[matmul] a and b must have at least two axes; got {3} and {3, 2}", Error);
  CHECK_THROWS_AS(ops::matmul(mx::ones({2, 2, 3}), mx::ones({3, 3, 2})), Error);
  CHECK_THROWS_AS(ops::matmul(mx::ones({2, 3}, mx::int32), mx::ones({3, 2})), Error);
}
