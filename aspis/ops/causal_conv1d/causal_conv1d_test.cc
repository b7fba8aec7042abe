#include "aspis/ops/causal_conv1d/causal_conv1d.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/causal_conv1d/causal_conv1d_cases.h"
#include "aspis/ops/causal_conv1d/composed.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;

namespace {

mx::array random(const mx::Shape& shape, uint64_t seed) {
  return mx::random::normal(shape, mx::random::key(seed));
}

bool same(const mx::array& a, const mx::array& b) { return mx::array_equal(a, b).item<bool>(); }

bool close(const mx::array& a, const mx::array& b) {
  return a.shape() == b.shape() && mx::allclose(a, b, 1e-5, 1e-5).item<bool>();
}

mx::array tokens(const mx::array& x, int first, int last) {
  return mx::slice(x, {0, first, 0}, {x.shape(0), last, x.shape(2)});
}

}  // namespace

TEST_CASE("causal_conv1d conforms on every instruction set") { harness::expect_conforms(causal_conv1d_entry()); }

TEST_CASE("causal_conv1d gives the sums worked out by hand") {
  const auto x = mx::array({1.f, 2.f, 3.f, 4.f}, {1, 4, 1});
  const auto w = mx::array({10.f, 100.f, 1000.f}, {1, 3});
  CHECK(same(causal_conv1d(x, w), mx::array({1000.f, 2100.f, 3210.f, 4320.f}, {1, 4, 1})));
  CHECK(same(causal_conv1d(x, w, {.symmetric = true}), mx::array({2100.f, 3210.f, 4320.f, 430.f}, {1, 4, 1})));
  CHECK(same(causal_conv1d(x, w, {.reverse = true}), mx::array({1230.f, 2340.f, 3400.f, 4000.f}, {1, 4, 1})));
  // Visits tokens 2, 0, 3, 1: values 3, 1, 4, 2.
  CHECK(same(causal_conv1d(x, w, {.order = mx::array({2, 0, 3, 1})}),
             mx::array({1300.f, 2410.f, 3000.f, 4130.f}, {1, 4, 1})));
}

TEST_CASE("a 70-token sequence may be cut anywhere, gradients included") {
  const int length = 70;
  const auto x = random({2, length, 5}, 1), w = random({5, 4}, 2), bias = random({5}, 3),
             start = random({2, 3, 5}, 4);
  const auto weights = random({2, length, 5}, 5), state_weights = random({2, 3, 5}, 6);
  const auto loss_of = [&](int cut) {
    return [&, cut](const Arrays& in) {
      const Conv1dOptions options{.bias = in[2], .initial_state = in[3], .silu = true};
      auto [out, state] = causal_conv1d_with_state(tokens(in[0], 0, cut), in[1], options);
      if (cut < length) {
        const Conv1dOptions rest{.bias = in[2], .initial_state = state, .silu = true};
        const auto [out2, state2] = causal_conv1d_with_state(tokens(in[0], cut, length), in[1], rest);
        out = mx::concatenate({out, out2}, 1);
        state = state2;
      }
      return mx::add(mx::sum(mx::multiply(out, weights)), mx::sum(mx::multiply(state, state_weights)));
    };
  };
  const Arrays inputs = {x, w, bias, start};
  auto [whole, whole_gradients] = mx::value_and_grad(loss_of(length), {0, 1, 2, 3})(inputs);
  for (const int cut : {1, 2, 3, 4, 31, 64, 65, 68, 69}) {
    CAPTURE(cut);
    auto [value, gradients] = mx::value_and_grad(loss_of(cut), {0, 1, 2, 3})(inputs);
    CHECK(value.item<float>() == doctest::Approx(whole.item<float>()).epsilon(1e-5));
    for (size_t i = 0; i < inputs.size(); i++)
      CHECK_MESSAGE(close(gradients[i], whole_gradients[i]), "gradient ", i);
  }
}

TEST_CASE("steps give the same bits as the whole sequence") {
  const auto x = random({2, 9, 21}, 1), w = random({21, 4}, 2), bias = random({21}, 3);
  const Conv1dOptions options{.bias = bias, .silu = true};
  const auto [want, want_state] = causal_conv1d_with_state(x, w, options);
  mx::array state = mx::zeros({2, 3, 21});
  for (int t = 0; t < 9; t++) {
    const auto [out, next] = causal_conv1d_step(state, mx::squeeze(tokens(x, t, t + 1), 1), w, options);
    CHECK(same(out, mx::squeeze(tokens(want, t, t + 1), 1)));
    state = next;
  }
  CHECK(same(state, want_state));
}

TEST_CASE("order and reverse equal a permuted copy") {
  const auto x = random({2, 8, 6}, 1), w = random({6, 4}, 2);
  const auto order = mx::array({3, 1, 7, 0, 5, 2, 6, 4});
  const auto back = mx::argsort(order);
  CHECK(same(causal_conv1d(x, w, {.order = order}), mx::take(causal_conv1d(mx::take(x, order, 1), w), back, 1)));
  const auto reversed = mx::take(order, mx::array({7, 6, 5, 4, 3, 2, 1, 0}));
  CHECK(same(causal_conv1d(x, w, {.reverse = true, .order = order}), causal_conv1d(x, w, {.order = reversed})));
}

TEST_CASE("a slice of a wider array is read in place and gives the same bits") {
  const auto wide = random({2, 11, 40}, 1), w = random({20, 4}, 2);
  const auto x = mx::slice(wide, {0, 0, 20}, {2, 11, 40});
  CHECK(same(causal_conv1d(x, w), causal_conv1d(mx::contiguous(x), w)));
}

TEST_CASE("channels-first data is taken as a transposed view, gradients included") {
  const auto first = random({2, 6, 11}, 1), w = random({6, 4}, 2);
  const auto view = mx::transpose(first, {0, 2, 1});
  CHECK(same(causal_conv1d(view, w), causal_conv1d(mx::contiguous(view), w)));
  const auto loss = [&](const mx::array& x) {
    const auto y = causal_conv1d(mx::transpose(x, {0, 2, 1}), w, {.silu = true});
    return mx::sum(mx::multiply(y, y));
  };
  const auto last = [&](const mx::array& x) {
    const auto y = causal_conv1d(x, w, {.silu = true});
    return mx::sum(mx::multiply(y, y));
  };
  CHECK(same(mx::grad(loss)(first), mx::transpose(mx::grad(last)(mx::contiguous(view)), {0, 2, 1})));
}

TEST_CASE("packed sequences equal calls of their own in every bit") {
  const auto x = random({1, 30, 6}, 1), w = random({6, 4}, 2), starts = random({3, 3, 6}, 3);
  const std::vector<int32_t> bounds{0, 2, 19, 30};
  const auto [out, ends] = causal_conv1d_with_state(x, w, {.initial_state = starts, .silu = true, .cu_seqlens = bounds});
  for (int i = 0; i < 3; i++) {
    const auto start = mx::slice(starts, {i, 0, 0}, {i + 1, 3, 6});
    const auto [alone, end] =
        causal_conv1d_with_state(tokens(x, bounds[i], bounds[i + 1]), w, {.initial_state = start, .silu = true});
    CHECK(same(tokens(out, bounds[i], bounds[i + 1]), alone));
    CHECK(same(mx::slice(ends, {i, 0, 0}, {i + 1, 3, 6}), end));
  }
  std::vector<int32_t> ids(30, 2);
  std::fill(ids.begin(), ids.begin() + 19, 1);
  std::fill(ids.begin(), ids.begin() + 2, 0);
  CHECK(same(causal_conv1d(x, w, {.seq_idx = mx::array(ids.data(), {1, 30}, mx::int32)}),
             causal_conv1d(x, w, {.cu_seqlens = bounds})));
}

TEST_CASE("an output does not depend on later tokens or on the rest of the batch") {
  const auto x = random({3, 40, 7}, 1), w = random({7, 4}, 2);
  const auto all = causal_conv1d(x, w, {.silu = true});
  CHECK(same(causal_conv1d(tokens(x, 0, 23), w, {.silu = true}), tokens(all, 0, 23)));
  const auto one = mx::slice(x, {1, 0, 0}, {2, 40, 7});
  CHECK(same(causal_conv1d(one, w, {.silu = true}), mx::slice(all, {1, 0, 0}, {2, 40, 7})));
}

TEST_CASE("causal_conv1d accepts empty batches and sequences, half precision and every integer order") {
  const auto w = random({4, 4}, 2);
  CHECK(causal_conv1d(mx::zeros({0, 5, 4}), w).shape() == mx::Shape{0, 5, 4});
  const auto start = random({2, 3, 4}, 3);
  const auto [out, state] = causal_conv1d_with_state(mx::zeros({2, 0, 4}), w, {.initial_state = start});
  CHECK(out.shape() == mx::Shape{2, 0, 4});
  CHECK(same(state, start));
  const auto x = mx::astype(random({1, 6, 4}, 4), mx::bfloat16);
  const auto half = causal_conv1d(x, w, {.silu = true});
  CHECK(half.dtype() == mx::bfloat16);
  CHECK(same(half, mx::astype(causal_conv1d(mx::astype(x, mx::float32), w, {.silu = true}), mx::bfloat16)));
  const auto order = mx::array({2, 0, 1, 5, 4, 3}, mx::int64);
  CHECK(same(causal_conv1d(x, w, {.order = order}), causal_conv1d(x, w, {.order = mx::astype(order, mx::int32)})));
}

TEST_CASE("the composed back end can be forced and agrees") {
  const auto x = random({2, 9, 6}, 1), w = random({6, 3}, 2), bias = random({6}, 3);
  const Conv1dOptions options{.bias = bias, .silu = true, .symmetric = true, .reverse = true};
  const auto want = causal_conv1d(x, w, options);
  ops::force_back_end(ops::BackEnd::kComposed);
  const auto got = causal_conv1d(x, w, options);
  ops::force_back_end(std::nullopt);
  CHECK(want.primitive().name() == std::string("causal_conv1d"));
  CHECK_FALSE(got.primitive().name() == std::string("causal_conv1d"));
  CHECK(close(got, want));
}

TEST_CASE("causal_conv1d says in one sentence what does not fit") {
  const auto x = mx::zeros({2, 5, 4}), w = mx::zeros({4, 3});
  CHECK_THROWS_WITH_AS(causal_conv1d(mx::zeros({5, 4}), w),
                       "[causal_conv1d] x must have shape {B, L, D} (batch, tokens, channels); got {5, 4}", Error);
  CHECK_THROWS_WITH_AS(
      causal_conv1d(x, mx::zeros({3, 4})),
      "[causal_conv1d] weight must have shape {D, W} with D = 4 channels and W >= 1 taps; got {3, 4}", Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(mx::zeros({2, 5, 4}, mx::int32), w),
                       "[causal_conv1d] x must be a real floating-point array; got int32", Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(x, w, {.bias = mx::zeros({5})}),
                       "[causal_conv1d] bias must have shape {D} = {4}; got {5}", Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(x, w, {.initial_state = mx::zeros({2, 3, 4})}),
                       "[causal_conv1d] initial_state must have shape {B, W-1, D} = {2, 2, 4}; got {2, 3, 4}",
                       Error);
  CHECK_THROWS_AS(causal_conv1d(x, w, {.initial_state = mx::zeros({2, 2, 4}), .symmetric = true}), Error);
  CHECK_THROWS_AS(causal_conv1d_with_state(x, w, {.symmetric = true}), Error);
  CHECK_THROWS_AS(causal_conv1d(x, w, {.order = mx::zeros({5})}), Error);
  CHECK_THROWS_AS(causal_conv1d(x, w, {.order = mx::array({0, 1, 2, 3})}), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(x, w, {.order = mx::array({0, 1, 2, 3, 3})}),
                       "[causal_conv1d] order must hold each of 0 .. L-1 = 4 once; got another list of numbers",
                       Error);
  const auto row = mx::zeros({1, 5, 4});
  CHECK_THROWS_WITH_AS(causal_conv1d(x, w, {.cu_seqlens = {0, 5}}),
                       doctest::Contains("cu_seqlens needs a batch of 1; got a batch of 2"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(row, w, {.cu_seqlens = {0, 3, 2, 5}}),
                       doctest::Contains("cu_seqlens must not fall; got 3 then 2 at place 2"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(row, w, {.cu_seqlens = {0, 4}}),
                       doctest::Contains("cu_seqlens must end at the number of tokens, 5; got 4"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(x, w, {.seq_idx = mx::zeros({2, 4}, mx::int32)}),
                       doctest::Contains("seq_idx must have shape {B, L} = {2, 5}; got {2, 4}"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(x, w, {.seq_idx = mx::zeros({2, 5})}),
                       doctest::Contains("seq_idx must be int32; got float32"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(row, w, {.seq_idx = mx::zeros({1, 5}, mx::int32), .cu_seqlens = {0, 5}}),
                       doctest::Contains("only one of cu_seqlens and seq_idx"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(row, w, {.order = mx::arange(5), .cu_seqlens = {0, 5}}),
                       doctest::Contains("visited in the order of their tokens"), Error);
  CHECK_THROWS_WITH_AS(causal_conv1d(row, w, {.initial_state = mx::zeros({1, 2, 4}), .cu_seqlens = {0, 2, 5}}),
                       doctest::Contains("initial_state must have shape {sequences, W-1, D} = {2, 2, 4}"), Error);
  CHECK_THROWS_AS(causal_conv1d_step(mx::zeros({2, 2, 4}), mx::zeros({2, 4}), w, {.cu_seqlens = {0, 1}}), Error);
  CHECK_THROWS_AS(causal_conv1d_step(mx::zeros({2, 2, 4}), x, w), Error);
  CHECK_THROWS_AS(causal_conv1d_step(mx::zeros({2, 2, 4}), mx::zeros({2, 4}), w, {.reverse = true}), Error);
}

TEST_CASE("an order computed later and wrong gives NaN, not a fault") {
  const auto order = mx::add(mx::array({0, 1, 2, 3, 4}), mx::array(1000000));
  const auto out = causal_conv1d(mx::ones({1, 5, 2}), mx::ones({2, 3}), {.order = order});
  CHECK(mx::all(mx::isnan(out)).item<bool>());
}
