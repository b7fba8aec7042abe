#include "aspis/ops/ssd/ssd.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cmath>
#include <functional>
#include <string>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/ssd/ssd_cases.h"

using namespace aspis;

namespace {

mx::array normal(const mx::Shape& shape, int seed, double scale = 1, mx::Dtype dtype = mx::float64) {
  return mx::astype(mx::multiply(mx::random::normal(shape, mx::float32, mx::random::key(seed)),
                                 mx::array(static_cast<float>(scale))),
                    dtype);
}

struct Problem {
  mx::array x, dt, A, B, C;
  SsdOptions options;
};

Problem make_problem(int batch, int length, int heads, int headdim, int groups, int state,
                     mx::Dtype dtype = mx::float64) {
  Problem p{
      normal({batch, length, heads, headdim}, 1, 1, dtype), normal({batch, length, heads}, 2, 0.7, dtype),
      mx::negative(mx::abs(normal({heads}, 3, 1, dtype))),  normal({batch, length, groups, state}, 4, 1, dtype),
      normal({batch, length, groups, state}, 5, 1, dtype),  {}};
  p.options.D = normal({heads}, 6, 1, dtype);
  p.options.z = normal({batch, length, heads, headdim}, 7, 1, dtype);
  p.options.dt_bias = normal({heads}, 8, 0.3, dtype);
  p.options.dt_softplus = true;
  return p;
}

std::pair<mx::array, mx::array> run(const Problem& p) {
  return ssd_with_state(p.x, p.dt, p.A, p.B, p.C, p.options);
}

double largest_difference(const mx::array& a, const mx::array& b) {
  return mx::astype(mx::max(mx::abs(mx::subtract(a, b))), mx::float32).item<float>();
}

}  // namespace

TEST_CASE("ssd conforms on every instruction set") { harness::expect_conforms(ssd_entry()); }

TEST_CASE("the step is one token of the whole, with gradients") {
  Problem p = make_problem(2, 1, 4, 3, 2, 5);
  p.options.initial_state = normal({2, 4, 3, 5}, 9);
  const auto token = [](const mx::array& a) { return mx::squeeze(a, 1); };
  const auto weight = normal({2, 4, 3}, 10), state_weight = normal({2, 4, 3, 5}, 11);
  const auto whole = [&](const std::vector<mx::array>& a) {
    SsdOptions o = p.options;
    o.z = a[5], o.initial_state = a[6];
    auto [out, state] = ssd_with_state(a[0], a[1], a[2], a[3], a[4], o);
    return mx::sum(token(out) * weight) + mx::sum(state * state_weight);
  };
  const auto step = [&](const std::vector<mx::array>& a) {
    SsdOptions o = p.options;
    o.z = token(a[5]), o.initial_state = std::nullopt;
    auto [out, state] = ssd_step(a[6], token(a[0]), token(a[1]), a[2], token(a[3]), token(a[4]), o);
    return mx::sum(out * weight) + mx::sum(state * state_weight);
  };
  const std::vector<mx::array> in{p.x, p.dt, p.A, p.B, p.C, *p.options.z, *p.options.initial_state};
  const std::vector<int> all{0, 1, 2, 3, 4, 5, 6};
  const auto [a, ga] = mx::value_and_grad(whole, all)(in);
  const auto [b, gb] = mx::value_and_grad(step, all)(in);
  CHECK(largest_difference(a, b) < 1e-12);
  for (size_t i = 0; i < in.size(); i++) CHECK(largest_difference(ga[i], gb[i]) < 1e-12);
}

TEST_CASE("#887: D of shape {H, P} counts in the step as in the whole") {
  Problem p = make_problem(1, 1, 2, 3, 1, 4);
  p.options.D = normal({2, 3}, 12);
  const auto want = mx::squeeze(run(p).first, 1);
  SsdOptions o = p.options;
  o.z = mx::squeeze(*o.z, 1);
  const auto got = ssd_step(mx::zeros({1, 2, 3, 4}, mx::float64), mx::squeeze(p.x, 1), mx::squeeze(p.dt, 1), p.A,
                            mx::squeeze(p.B, 1), mx::squeeze(p.C, 1), o);
  CHECK(largest_difference(got.first, want) < 1e-12);
}

TEST_CASE("#537, #921: the gradient of A is counted once, whatever the chunk") {
  Problem p = make_problem(1, 40, 2, 3, 1, 4);
  const auto loss = [&](const mx::array& A) { return mx::sum(ssd(p.x, p.dt, A, p.B, p.C, p.options)); };
  const double h = 1e-5;
  const auto up = loss(p.A + h), down = loss(p.A - h);
  const double numeric = mx::astype((up - down) / (2 * h), mx::float32).item<float>();
  for (const int chunk : {1, 7, 16, 64}) {
    p.options.chunk_size = chunk;
    const auto gradient = mx::astype(mx::sum(mx::grad(loss)(p.A)), mx::float32).item<float>();
    CHECK(gradient == doctest::Approx(numeric).epsilon(1e-5));
  }
}

TEST_CASE("PR #713: strong decay gives no infinity in values or gradients") {
  Problem p = make_problem(1, 200, 2, 3, 1, 4, mx::float32);
  p.A = mx::array({-100.f, -1e4f});
  const auto loss = [&](const std::vector<mx::array>& a) {
    return mx::sum(ssd(a[0], a[1], a[2], a[3], a[4], p.options));
  };
  auto [value, gradients] = mx::value_and_grad(loss, std::vector<int>{0, 1, 2, 3, 4})({p.x, p.dt, p.A, p.B, p.C});
  CHECK(std::isfinite(value.item<float>()));
  for (const auto& g : gradients) CHECK(mx::all(mx::isfinite(g)).item<bool>());
}

TEST_CASE("#739: a second prefill starts from the state of the first") {
  Problem p = make_problem(1, 30, 2, 3, 1, 4);
  const auto cut = [](const mx::array& a, int from, int to) {
    mx::Shape start(a.ndim(), 0), stop = a.shape();
    start[1] = from, stop[1] = to;
    return mx::slice(a, start, stop);
  };
  const auto piece = [&](int from, int to, std::optional<mx::array> state) {
    Problem q = p;
    q.x = cut(p.x, from, to), q.dt = cut(p.dt, from, to), q.B = cut(p.B, from, to), q.C = cut(p.C, from, to);
    q.options.z = cut(*p.options.z, from, to);
    q.options.initial_state = state;
    return run(q);
  };
  const auto whole = run(p);
  const auto first = piece(0, 13, {}), second = piece(13, 30, first.second);
  CHECK(largest_difference(second.second, whole.second) < 1e-12);
  CHECK(largest_difference(second.first, cut(whole.first, 13, 30)) < 1e-12);
}

TEST_CASE("#827: gradients are the same bits in five runs") {
  const Problem p = make_problem(2, 100, 6, 8, 2, 16, mx::float32);
  const auto gradients = [&] {
    const auto loss = [&](const std::vector<mx::array>& a) {
      return mx::sum(mx::square(ssd(a[0], a[1], a[2], a[3], a[4], p.options)));
    };
    return mx::grad(loss, std::vector<int>{0, 1, 2, 3, 4})({p.x, p.dt, p.A, p.B, p.C});
  };
  const auto first = gradients();
  for (int run = 0; run < 4; run++) {
    const auto again = gradients();
    for (size_t i = 0; i < first.size(); i++) CHECK(mx::array_equal(first[i], again[i]).item<bool>());
  }
}

TEST_CASE("an input is read in place where its rows have gaps") {
  const Problem p = make_problem(2, 20, 2, 4, 1, 3);
  // x, B and C as parts of one array, as a block's convolution leaves them.
  const auto joined = mx::concatenate(
      {mx::reshape(p.x, {2, 20, 8}), mx::reshape(p.B, {2, 20, 3}), mx::reshape(p.C, {2, 20, 3})}, 2);
  const auto part = [&](int from, int to, mx::Shape shape) {
    return mx::reshape(mx::slice(joined, {0, 0, from}, {2, 20, to}), std::move(shape));
  };
  Problem q = p;
  q.x = part(0, 8, {2, 20, 2, 4}), q.B = part(8, 11, {2, 20, 1, 3}), q.C = part(11, 14, {2, 20, 3});
  CHECK(mx::array_equal(run(p).first, run(q).first).item<bool>());
}

TEST_CASE("no tokens: the state passes through") {
  const auto state = normal({2, 3, 4, 5}, 1);
  const auto zero = [](mx::Shape s) { return mx::zeros(std::move(s), mx::float64); };
  const auto [out, last] = ssd_with_state(zero({2, 0, 3, 4}), zero({2, 0, 3}), zero({3}), zero({2, 0, 1, 5}),
                                          zero({2, 0, 1, 5}), {.initial_state = state});
  CHECK(out.shape() == mx::Shape{2, 0, 3, 4});
  CHECK(mx::array_equal(last, state).item<bool>());
}

TEST_CASE("131,072 tokens in float32 stay near float64") {
  const int length = 131072;
  Problem p = make_problem(1, length, 1, 4, 1, 8, mx::float32);
  p.options.z = std::nullopt;
  const auto single = run(p);
  const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
  SsdOptions o = p.options;
  o.D = wide(*o.D), o.dt_bias = wide(*o.dt_bias);
  const auto fine = ssd_with_state(wide(p.x), wide(p.dt), wide(p.A), wide(p.B), wide(p.C), o);
  const double scale = mx::astype(mx::max(mx::abs(fine.first)), mx::float32).item<float>();
  CHECK(largest_difference(single.first, fine.first) < 1e-5 * scale);
}

TEST_CASE("ssd refuses what does not fit with one sentence") {
  const Problem p = make_problem(2, 6, 4, 3, 2, 5, mx::float32);
  const auto ones = [](mx::Shape s, mx::Dtype d = mx::float32) { return mx::ones(std::move(s), d); };
  struct Row {
    std::function<void(Problem&)> change;
    const char* says;
  };
  const std::vector<Row> rows = {
      {[&](Problem& q) {
         q.x = ones({2, 6, 12});
       },
       "x must have shape {B, L, H, P}; got {2, 6, 12}"},
      {[&](Problem& q) {
         q.x = ones({2, 6, 0, 3});
       },
       "x needs at least one head and one channel"},
      {[&](Problem& q) {
         q.dt = ones({2, 6, 3});
       },
       "dt must have shape {B, L, H} = {2, 6, 4}; got {2, 6, 3}"},
      {[&](Problem& q) {
         q.A = ones({4, 1});
       },
       "A must have shape {H} = {4}; got {4, 1}"},
      {[&](Problem& q) {
         q.B = ones({2, 5, 2, 5});
       },
       "B must have shape {B, L, N} or {B, L, G, N} with {2, 6} in front"},
      {[&](Problem& q) {
         q.B = ones({2, 6, 3, 5});
       },
       "the groups of B must divide H = 4; got 3"},
      {[&](Problem& q) {
         q.C = ones({2, 6, 2, 4});
       },
       "C must have shape that of B = {2, 6, 2, 5}; got {2, 6, 2, 4}"},
      {[&](Problem& q) {
         q.B = q.C = ones({2, 6, 2, 0});
       },
       "the state size N of B must be at least 1; got 0"},
      {[&](Problem& q) { q.options.D = ones({3}); }, "D must have shape {H} = {4}; got {3}"},
      {[&](Problem& q) {
         q.options.D = ones({4, 4});
       },
       "D must have shape {H, P} = {4, 3}; got {4, 4}"},
      {[&](Problem& q) {
         q.options.z = ones({2, 6, 4});
       },
       "z must have shape {B, L, H, P} = {2, 6, 4, 3}; got {2, 6, 4}"},
      {[&](Problem& q) { q.options.dt_bias = ones({1}); }, "dt_bias must have shape {H} = {4}; got {1}"},
      {[&](Problem& q) {
         q.options.initial_state = ones({2, 4, 5, 3});
       },
       "initial_state must have shape {B, H, P, N} = {2, 4, 3, 5}"},
      {[&](Problem& q) {
         q.options.dt_limit = {0.5, 0.1};
       },
       "dt_limit must be two numbers, 0 <= low <= high"},
      {[&](Problem& q) {
         q.options.dt_limit = {std::nan(""), 1};
       },
       "dt_limit must be two numbers, 0 <= low <= high"},
      {[&](Problem& q) { q.options.chunk_size = -1; }, "chunk_size must be positive, or 0 to choose; got -1"},
      {[&](Problem& q) {
         q.options.seq_idx = ones({2, 5}, mx::int32);
       },
       "seq_idx must have shape {B, L} = {2, 6}; got {2, 5}"},
      {[&](Problem& q) {
         q.options.seq_idx = ones({2, 6});
       },
       "seq_idx must be int32; got float32"},
      {[&](Problem& q) {
         q.options.cu_seqlens = {0, 6};
       },
       "cu_seqlens needs a batch of 1; got a batch of 2"},
      {[&](Problem& q) {
         q.x = ones({2, 6, 4, 3}, mx::int32);
       },
       "x must be a real floating-point array; got int32"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.says);
    Problem q = p;
    row.change(q);
    std::string message;
    try {
      run(q);
    } catch (const Error& e) {
      message = e.what();
    }
    CAPTURE(message);
    CHECK(message.find(std::string("[ssd] ") + row.says) != std::string::npos);
  }
  Problem one = make_problem(1, 6, 4, 3, 2, 5, mx::float32);
  one.options.cu_seqlens = {0, 4, 2, 6};
  CHECK_THROWS_WITH_AS(run(one), doctest::Contains("cu_seqlens must not fall; got 4 then 2 at place 2"), Error);
  one.options.cu_seqlens = {0, 4, 6};
  one.options.seq_idx = ones({1, 6}, mx::int32);
  CHECK_THROWS_WITH_AS(run(one), doctest::Contains("only one of cu_seqlens and seq_idx may be given"), Error);
  one.options.seq_idx = std::nullopt;
  one.options.initial_state = ones({1, 4, 3, 5});
  CHECK_THROWS_WITH_AS(
      run(one), doctest::Contains("initial_state must have shape {sequences, H, P, N} = {2, 4, 3, 5}"), Error);
}
