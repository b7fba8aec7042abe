#include "aspis/ops/attention/attention.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <limits>

#include "aspis/base/error.h"
#include "aspis/ops/attention/attention_cases.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("attention conforms on every instruction set") { harness::expect_conforms(attention_entry()); }
TEST_CASE("window_attention conforms on every instruction set") {
  harness::expect_conforms(window_attention_entry());
}

TEST_CASE("attention reads the three parts of one projection in place with the same bits") {
  const auto qkv = mx::random::normal({2, 50, 3, 2, 24}, mx::random::key(3));
  harness::Arrays parts;
  for (const int i : {0, 1, 2})
    parts.push_back(mx::squeeze(mx::slice(qkv, {0, 0, i, 0, 0}, {2, 50, i + 1, 2, 24}), 2));
  const auto copy = [](const mx::array& a) { return mx::contiguous(a); };
  const auto want = attention(copy(parts[0]), copy(parts[1]), copy(parts[2]));
  CHECK(mx::array_equal(attention(parts[0], parts[1], parts[2]), want).item<bool>());
}

TEST_CASE("attention with equal scores is the mean of the values, causal of those seen") {
  const auto q = mx::zeros({1, 2, 1, 1}), k = mx::ones({1, 3, 1, 1});
  const auto v = mx::array({2.f, 4.f, 9.f}, {1, 3, 1, 1});
  CHECK(mx::allclose(attention(q, k, v), mx::full({1, 2, 1, 1}, 5.f)).item<bool>());
  // The first of two queries sees two of three keys.
  CHECK(mx::allclose(attention(q, k, v, {.causal = true}), mx::array({3.f, 5.f}, {1, 2, 1, 1})).item<bool>());
}

TEST_CASE("attention that is causal ignores later keys") {
  const auto random = [](uint64_t key, int rows) {
    return mx::random::normal({1, rows, 2, 8}, mx::random::key(key));
  };
  const auto q = random(1, 90), k = random(2, 90), v = random(3, 90);
  const auto first = [](const mx::array& a, int rows) { return mx::slice(a, {0, 0, 0, 0}, {1, rows, 2, 8}); };
  const auto all = first(attention(q, k, v, {.causal = true}), 33);
  const auto part = attention(first(q, 33), first(k, 33), first(v, 33), {.causal = true});
  CHECK(mx::allclose(all, part, 1e-5, 1e-6).item<bool>());
}

TEST_CASE("attention gives only the gradients asked for") {
  const auto q = mx::random::normal({1, 3, 1, 4}, mx::random::key(1));
  const auto loss = [](const harness::Arrays& a) { return mx::sum(mx::square(attention(a[0], a[1], a[2]))); };
  const auto all = mx::grad(loss, std::vector<int>{0, 1, 2})({q, q, q});
  CHECK(mx::array_equal(mx::grad(loss, std::vector<int>{2})({q, q, q})[0], all[2]).item<bool>());
}

TEST_CASE("attention takes masks of every shape that broadcasts, and slices of them") {
  const auto random = [](const mx::Shape& shape, uint64_t key) {
    return mx::random::normal(shape, mx::random::key(key));
  };
  const auto q = random({2, 5, 3, 4}, 1), k = random({2, 7, 3, 4}, 2), v = random({2, 7, 3, 4}, 3);
  const auto base = random({2, 3, 5, 14}, 4);
  const auto every_other = mx::slice(base, {0, 0, 0, 0}, {2, 3, 5, 14}, {1, 1, 1, 2});
  for (const auto& m : {every_other, random({7}, 5), random({5, 1}, 6), random({3, 1, 1}, 7),
                        mx::transpose(random({7, 5}, 8)), random({2, 1, 1, 7}, 9)}) {
    CHECK(mx::allclose(attention(q, k, v, {.mask = m}), attention_composed(q, k, v, {.mask = m}), 1e-5, 1e-6)
              .item<bool>());
    const auto flags = mx::greater(m, mx::array(0.0f));
    CHECK(
        mx::allclose(attention(q, k, v, {.mask = flags}), attention_composed(q, k, v, {.mask = flags}), 1e-5, 1e-6)
            .item<bool>());
  }
}

TEST_CASE("attention gives zero to a query that sees nothing, and no gradient through it") {
  const auto q = mx::random::normal({1, 2, 1, 4}, mx::random::key(1));
  const auto mask = mx::array({true, true, false, false}, {2, 2});
  const auto y = attention(q, q, q, {.mask = mask});
  CHECK(mx::array_equal(mx::slice(y, {0, 1, 0, 0}, {1, 2, 1, 4}), mx::zeros({1, 1, 1, 4})).item<bool>());
  const auto loss = [&](const harness::Arrays& a) {
    return mx::sum(mx::square(attention(a[0], q, q, {.mask = mask})));
  };
  const auto g = mx::grad(loss)({q})[0];
  CHECK(mx::all(mx::isfinite(g)).item<bool>());
  CHECK(mx::array_equal(mx::slice(g, {0, 1, 0, 0}, {1, 2, 1, 4}), mx::zeros({1, 1, 1, 4})).item<bool>());
}

TEST_CASE("attention in bfloat16 is attention of the same values in float32, rounded once") {
  const auto random = [](uint64_t key) {
    return mx::astype(mx::random::normal({2, 70, 3, 24}, mx::random::key(key)), mx::bfloat16);
  };
  const harness::Arrays half{random(1), random(2), random(3)};
  harness::Arrays wide;
  for (const auto& a : half) wide.push_back(mx::astype(a, mx::float32));
  CHECK(mx::array_equal(attention(half[0], half[1], half[2]),
                        mx::astype(attention(wide[0], wide[1], wide[2]), mx::bfloat16))
            .item<bool>());
  const auto loss = [](const harness::Arrays& a) {
    return mx::sum(mx::astype(attention(a[0], a[1], a[2]), mx::float32));
  };
  const auto got = mx::grad(loss, std::vector<int>{0, 1, 2})(half),
             want = mx::grad(loss, std::vector<int>{0, 1, 2})(wide);
  for (const int i : {0, 1, 2}) {
    CHECK(got[i].dtype() == mx::bfloat16);
    auto gap = mx::max(mx::abs(mx::subtract(mx::astype(got[i], mx::float32), want[i])));
    auto size = mx::max(mx::abs(want[i]));
    mx::eval(gap, size);
    CHECK(gap.item<float>() < 8e-3f * size.item<float>());  // the backward starts from the rounded output
  }
}

TEST_CASE("attention keeps half dtypes and works on no queries") {
  const auto half = mx::ones({1, 2, 1, 4}, mx::bfloat16);
  CHECK(attention(half, half, half).dtype() == mx::bfloat16);
  CHECK(attention(half, half, mx::ones({1, 2, 1, 4})).dtype() == mx::float32);
  const auto none = attention(mx::zeros({2, 0, 1, 4}), mx::ones({2, 3, 1, 4}), mx::ones({2, 3, 1, 4}));
  mx::eval(none);
  CHECK(none.shape() == mx::Shape{2, 0, 1, 4});
}

TEST_CASE("attention refuses wrong arguments with one sentence") {
  const auto q = mx::ones({2, 4, 3, 8}), k = mx::ones({2, 5, 3, 8}), few = mx::ones({2, 3, 3, 8});
  CHECK_THROWS_WITH_AS(attention(mx::ones({4, 8}), k, k),
                       "[attention] q must have shape {B, L, H, Dh}; got {4, 8}", Error);
  CHECK_THROWS_WITH_AS(attention(q, mx::ones({2, 5, 3, 9}), k),
                       "[attention] k must have shape {B, S, H, Dh} = {2, 5, 3, 8}; got {2, 5, 3, 9}", Error);
  CHECK_THROWS_WITH_AS(attention(q, k, few), "[attention] v must have shape of k = {2, 5, 3, 8}; got {2, 3, 3, 8}",
                       Error);
  CHECK_THROWS_WITH_AS(attention(q, mx::ones({2, 0, 3, 8}), k),
                       "[attention] k must have shape {B, S, H, Dh} with at least one key; got {2, 0, 3, 8}",
                       Error);
  CHECK_THROWS_WITH_AS(
      attention(q, few, few, {.causal = true}),
      "[attention] causal attention needs at least as many keys as queries; got 3 keys for 4 queries", Error);
  CHECK_THROWS_WITH_AS(attention(mx::ones({2, 4, 3, 8}, mx::int32), k, k),
                       "[attention] q must be a real floating-point array; got int32", Error);
  CHECK_THROWS_AS(attention(q, k, k, {.scale = std::numeric_limits<float>::infinity()}), Error);
  CHECK_THROWS_WITH_AS(attention(q, k, k, {.mask = mx::ones({4, 4})}),
                       "[attention] the mask must broadcast to {B, H, L, S} = {2, 3, 4, 5}; got {4, 4}", Error);
  CHECK_THROWS_WITH_AS(attention(q, k, k, {.mask = mx::ones({4, 5}, mx::int32)}),
                       "[attention] the mask must be bool or floating point; got int32", Error);
  const auto shared = mx::ones({2, 5, 2, 8});
  CHECK_THROWS_WITH_AS(attention(q, shared, shared),
                       "[attention] the heads of q must be a multiple of those of k; got 3 and 2", Error);
  const auto map = mx::ones({1, 4, 3, 2, 8});
  CHECK_THROWS_WITH_AS(window_attention(map, map, map, 0),
                       "[window_attention] the side of a window must be at least 1 and at most 16384; got 0",
                       Error);
  CHECK_THROWS_WITH_AS(window_attention(q, q, q, 2),
                       "[window_attention] q must have shape {B, Y, X, H, Dh}; got {2, 4, 3, 8}", Error);
}
