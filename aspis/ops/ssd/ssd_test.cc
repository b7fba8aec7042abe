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

// Tokens [from, to) of an array or a problem.
mx::array cut(const mx::array& a, int from, int to) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[1] = from, stop[1] = to;
  return mx::slice(a, start, stop);
}

Problem cut(const Problem& p, int from, int to) {
  Problem q = p;
  q.x = cut(p.x, from, to), q.dt = cut(p.dt, from, to), q.B = cut(p.B, from, to), q.C = cut(p.C, from, to);
  if (p.options.z) q.options.z = cut(*p.options.z, from, to);
  return q;
}

// The inputs that have a gradient, and a problem with other values for them.
std::vector<mx::array> inputs(const Problem& p) {
  return {p.x, p.dt, p.A, p.B, p.C, *p.options.D, *p.options.z, *p.options.dt_bias, *p.options.initial_state};
}
Problem with_inputs(Problem p, const std::vector<mx::array>& a) {
  p.x = a[0], p.dt = a[1], p.A = a[2], p.B = a[3], p.C = a[4];
  p.options.D = a[5], p.options.z = a[6], p.options.dt_bias = a[7], p.options.initial_state = a[8];
  return p;
}
const std::vector<int> kAllInputs = {0, 1, 2, 3, 4, 5, 6, 7, 8};

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
  // As reported: the step leaves D out.
  o.D = std::nullopt;
  const auto reported = ssd_step(mx::zeros({1, 2, 3, 4}, mx::float64), mx::squeeze(p.x, 1), mx::squeeze(p.dt, 1),
                                 p.A, mx::squeeze(p.B, 1), mx::squeeze(p.C, 1), o);
  CHECK(largest_difference(reported.first, want) > 1e-2);
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
    // As reported: zero from a tile that was left out, or twice the sum.
    CHECK(std::abs(gradient) > 0.1);
    CHECK(gradient != doctest::Approx(2 * numeric).epsilon(0.1));
  }
  // What a tile of 16 tokens that is left out would take away can be seen in every tile.
  p.options.chunk_size = 16;
  const auto per_token = [&](const mx::array& dt) { return mx::sum(ssd(p.x, dt, p.A, p.B, p.C, p.options)); };
  const auto by_dt = mx::grad(per_token)(p.dt);
  for (const int first : {0, 16, 32}) {
    const auto direction = mx::concatenate(
        {mx::zeros({1, first, 2}, mx::float64), mx::ones({1, std::min(16, 40 - first), 2}, mx::float64),
         mx::zeros({1, std::max(0, 24 - first), 2}, mx::float64)},
        1);
    const double along =
        mx::astype((per_token(p.dt + direction * h) - per_token(p.dt - direction * h)) / (2 * h), mx::float32)
            .item<float>();
    CHECK(std::abs(along) > 1e-2);
    CHECK(mx::astype(mx::sum(by_dt * direction), mx::float32).item<float>() ==
          doctest::Approx(along).epsilon(1e-5));
  }
}

TEST_CASE("PR #713: strong decay gives no infinity in values or gradients") {
  for (const int chunk : {0, 16, 64}) {
    CAPTURE(chunk);
    Problem p = make_problem(1, 200, 2, 3, 1, 4, mx::float32);
    p.A = mx::array({-100.f, -1e4f});
    p.options.chunk_size = chunk;
    const auto loss = [](const Problem& q) {
      return
          [q](const std::vector<mx::array>& a) { return mx::sum(ssd(a[0], a[1], a[2], a[3], a[4], q.options)); };
    };
    const std::vector<int> all{0, 1, 2, 3, 4};
    auto [value, gradients] = mx::value_and_grad(loss(p), all)({p.x, p.dt, p.A, p.B, p.C});
    const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
    Problem q = p;
    q.options.D = wide(*p.options.D), q.options.z = wide(*p.options.z),
    q.options.dt_bias = wide(*p.options.dt_bias);
    const auto fine = mx::grad(loss(q), all)({wide(p.x), wide(p.dt), wide(p.A), wide(p.B), wide(p.C)});
    for (const int i : {0, 1, 3, 4}) {
      CAPTURE(i);
      CHECK(mx::all(mx::isfinite(gradients[i])).item<bool>());
      CHECK(largest_difference(wide(gradients[i]), fine[i]) <
            1e-5 * mx::astype(mx::max(mx::abs(fine[i])), mx::float32).item<float>());
    }
    CHECK(mx::all(mx::isfinite(gradients[2])).item<bool>());  // nearly nothing is left of it
    CHECK(std::isfinite(value.item<float>()));
  }
  // As reported: exp of a difference of running sums before the mask, where the upper triangle overflows.
  const auto sums = mx::cumsum(mx::full({16}, -100.f)),
             spans = mx::expand_dims(sums, 1) - mx::expand_dims(sums, 0);
  CHECK_FALSE(mx::all(mx::isfinite(mx::exp(spans) * mx::tril(mx::ones({16, 16})))).item<bool>());
  // And as a ratio of running products: 0 / 0.
  CHECK_FALSE(
      mx::all(mx::isfinite(mx::expand_dims(mx::exp(sums), 1) / mx::expand_dims(mx::exp(sums), 0))).item<bool>());
}

TEST_CASE("#739: a second prefill starts from the state of the first") {
  Problem p = make_problem(1, 30, 2, 3, 1, 4);
  const auto piece = [&](int from, int to, const std::optional<mx::array>& state) {
    Problem q = cut(p, from, to);
    q.options.initial_state = state;
    return run(q);
  };
  const auto whole = run(p);
  const auto first = piece(0, 13, {}), second = piece(13, 30, first.second);
  CHECK(largest_difference(second.second, whole.second) < 1e-12);
  CHECK(largest_difference(second.first, cut(whole.first, 13, 30)) < 1e-12);
  // As reported: the state that was handed in is ignored.
  const auto reported = piece(13, 30, {});
  CHECK(largest_difference(reported.second, whole.second) > 1e-3);
  CHECK(largest_difference(reported.first, cut(whole.first, 13, 30)) > 1e-2);
}

TEST_CASE("#827: gradients are the same bits in five runs") {
  const Problem p = make_problem(3, 100, 6, 8, 2, 16, mx::float32);
  const auto gradients = [](const Problem& q) {
    const auto loss = [&](const std::vector<mx::array>& a) {
      return mx::sum(mx::square(ssd(a[0], a[1], a[2], a[3], a[4], q.options)));
    };
    return mx::grad(loss, std::vector<int>{0, 1, 2, 3, 4})({q.x, q.dt, q.A, q.B, q.C});
  };
  const auto first = gradients(p);
  for (int run = 0; run < 4; run++) {
    const auto again = gradients(p);
    for (size_t i = 0; i < first.size(); i++) CHECK(mx::array_equal(first[i], again[i]).item<bool>());
  }
  // What atomics do: another order of the sum over the batch, other bits in the gradient of A.
  Problem q = p;
  const auto turned = [](const mx::array& a) { return mx::take(a, mx::array({2, 0, 1}), 0); };
  q.x = turned(p.x), q.dt = turned(p.dt), q.B = turned(p.B), q.C = turned(p.C), q.options.z = turned(*p.options.z);
  const auto reported = gradients(q)[2];
  CHECK_FALSE(mx::array_equal(reported, first[2]).item<bool>());
  CHECK(mx::allclose(reported, first[2], 1e-4, 1e-4).item<bool>());
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
  const auto zero = [](const mx::Shape& s) { return mx::zeros(s, mx::float64); };
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

TEST_CASE("every cut of 70 tokens, and 70 steps, give the values and gradients of the whole") {
  Problem p = make_problem(1, 70, 2, 3, 1, 4);
  p.options.initial_state = normal({1, 2, 3, 4}, 9);
  const auto weight = normal({1, 70, 2, 3}, 10), state_weight = normal({1, 2, 3, 4}, 11);
  const auto loss_of = [&](const mx::array& out, const mx::array& state) {
    return mx::sum(out * weight) + mx::sum(state * state_weight);
  };
  const auto steps = [](const Problem& q) {
    mx::array state = *q.options.initial_state;
    std::vector<mx::array> outs;
    SsdOptions o = q.options;
    o.initial_state = std::nullopt;
    const auto token = [](const mx::array& a, int t) { return mx::squeeze(cut(a, t, t + 1), 1); };
    for (int t = 0; t < 70; t++) {
      o.z = token(*q.options.z, t);
      auto [out, next] = ssd_step(state, token(q.x, t), token(q.dt, t), q.A, token(q.B, t), token(q.C, t), o);
      outs.push_back(mx::expand_dims(out, 1));
      state = next;
    }
    return std::pair(mx::concatenate(outs, 1), state);
  };
  for (const int chunk : {0, 16}) {
    p.options.chunk_size = chunk;
    // `at` 0: single steps.
    const auto in_parts = [&](int at) {
      return mx::value_and_grad(
          [&, at](const std::vector<mx::array>& a) {
            const Problem q = with_inputs(p, a);
            if (at == 0) {
              const auto [out, state] = steps(q);
              return loss_of(out, state);
            }
            if (at == 70) {
              const auto [out, state] = run(q);
              return loss_of(out, state);
            }
            const auto first = run(cut(q, 0, at));
            Problem rest = cut(q, at, 70);
            rest.options.initial_state = first.second;
            const auto second = run(rest);
            return loss_of(mx::concatenate({first.first, second.first}, 1), second.second);
          },
          kAllInputs)(inputs(p));
    };
    const auto [value, gradients] = in_parts(70);
    for (int at = 0; at < 70; at++) {
      CAPTURE(chunk);
      CAPTURE(at);
      const auto [v, g] = in_parts(at);
      CHECK(largest_difference(v, value) < 1e-11);
      for (size_t i = 0; i < g.size(); i++) {
        CAPTURE(i);
        CHECK(largest_difference(g[i], gradients[i]) < 1e-11);
      }
    }
  }
}

TEST_CASE("packed sequences have the values and gradients of separate ones") {
  constexpr int kChunk = 8;
  const std::vector<int> lengths = {1, 2, kChunk - 1, 0, kChunk, kChunk + 1, 3 * kChunk + 5};
  std::vector<int32_t> cu = {0}, ids;
  for (size_t i = 0; i < lengths.size(); i++) {
    cu.push_back(cu.back() + lengths[i]);
    ids.insert(ids.end(), lengths[i], static_cast<int32_t>(i));
  }
  const int total = cu.back(), count = static_cast<int>(lengths.size());
  Problem p = make_problem(1, total, 2, 3, 1, 4);
  p.options.initial_state = normal({count, 2, 3, 4}, 9);
  const auto weight = normal({1, total, 2, 3}, 10), state_weight = normal({count, 2, 3, 4}, 11);
  for (const int chunk : {0, kChunk}) {
    p.options.chunk_size = chunk;
    const auto gradients = [&](bool packed, bool by_ids) {
      return mx::value_and_grad(
          [&, packed, by_ids](const std::vector<mx::array>& a) {
            Problem q = with_inputs(p, a);
            const auto state_of = [&](int i) { return mx::slice(a[8], {i, 0, 0, 0}, {i + 1, 2, 3, 4}); };
            if (packed && by_ids) {
              q.options.seq_idx = mx::array(ids.data(), {1, total}, mx::int32);
              q.options.initial_state = state_of(0);
              return mx::sum(run(q).first * weight);
            }
            if (packed) {
              q.options.cu_seqlens = cu;
              const auto [out, state] = run(q);
              return mx::sum(out * weight) + mx::sum(state * state_weight);
            }
            auto loss = mx::array(0, mx::float64);
            for (int i = 0; i < count; i++) {
              Problem own = cut(q, cu[i], cu[i + 1]);
              own.options.initial_state = by_ids && i > 0 ? mx::zeros_like(state_of(i)) : state_of(i);
              const auto [out, state] = run(own);
              if (lengths[i] > 0) loss = loss + mx::sum(out * cut(weight, cu[i], cu[i + 1]));
              if (!by_ids) loss = loss + mx::sum(state * mx::slice(state_weight, {i, 0, 0, 0}, {i + 1, 2, 3, 4}));
            }
            return loss;
          },
          kAllInputs)(inputs(p));
    };
    for (const bool by_ids : {false, true}) {
      CAPTURE(chunk);
      CAPTURE(by_ids);
      const auto [want, want_gradients] = gradients(false, by_ids);
      const auto [got, got_gradients] = gradients(true, by_ids);
      CHECK(largest_difference(got, want) < 1e-11);
      for (size_t i = 0; i < got_gradients.size(); i++) {
        CAPTURE(i);
        CHECK(largest_difference(got_gradients[i], want_gradients[i]) < 1e-11);
      }
    }
  }
}

TEST_CASE("the published small case: values and gradients to eight digits") {
  // One head, P = N = 2, three tokens, no D; loss = the sum of the output.
  const auto array = [](std::vector<double> v, mx::Shape shape) {
    return mx::reshape(mx::array(v.data(), {static_cast<int>(v.size())}, mx::float64), std::move(shape));
  };
  const auto x = array({1, 2, -1, .5, .5, -2}, {1, 3, 1, 2}), dt = array({.5, 1, .25}, {1, 3, 1}),
             A = array({-.8}, {1}), B = array({1, .5, -1, 2, .3, .7}, {1, 3, 1, 2}),
             C = array({.2, -.4, 1, 1, .5, -1}, {1, 3, 1, 2});
  for (const int chunk : {0, 2, 64}) {
    CAPTURE(chunk);
    const SsdOptions o{.chunk_size = chunk};
    const auto [out, state] = ssd_with_state(x, dt, A, B, C, o);
    CHECK(largest_difference(out, array({0, 0, -.66300328, 1.17399345, 1.97807688, -.74841344}, {1, 3, 1, 2})) <
          1e-8);
    CHECK(largest_difference(state, array({1.04017047, -1.45799165, -.19148594, .65267047}, {1, 1, 2, 2})) < 1e-8);
    const auto g =
        mx::grad([&](const std::vector<mx::array>& a) { return mx::sum(ssd(a[0], a[1], a[2], a[3], a[4], o)); },
                 std::vector<int>{0, 1, 2, 3, 4})({x, dt, A, B, C});
    const std::vector<mx::array> want = {
        array({.33699672, .33699672, -1.04682688, -1.04682688, -.1375, -.1375}, {1, 3, 1, 2}),
        array({2.02198034, -.28537869, .00626925}, {1, 3, 1}), array({1.26684353}, {1}),
        array({1.24990303, -.47782572, -.70468269, -.09063462, -.1875, .375}, {1, 3, 1, 2}),
        array({1.5, .75, 1.17399345, -.66300328, .84868454, -.80532117}, {1, 3, 1, 2})};
    for (size_t i = 0; i < want.size(); i++) CHECK(largest_difference(g[i], want[i]) < 1e-8);
  }
}

TEST_CASE("#972: the state that passes from chunk to chunk is not rounded to the type of the input") {
  for (const mx::Dtype dtype : {mx::bfloat16, mx::float16}) {
    for (const int chunk : {0, 16}) {
      Problem p = make_problem(1, 300, 2, 4, 1, 8, dtype);
      p.A = mx::array({-0.01f, -0.02f}), p.options.chunk_size = chunk;
      const auto [out, state] = run(p);
      CHECK(out.dtype() == dtype);
      CHECK(state.dtype() == mx::float32);
      const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
      Problem q = p;
      q.x = wide(p.x), q.dt = wide(p.dt), q.A = wide(p.A), q.B = wide(p.B), q.C = wide(p.C);
      q.options.D = wide(*p.options.D), q.options.z = wide(*p.options.z);
      q.options.dt_bias = wide(*p.options.dt_bias);
      const auto [fine, fine_state] = run(q);
      const auto largest = [](const mx::array& a) {
        return mx::astype(mx::max(mx::abs(a)), mx::float32).item<float>();
      };
      CHECK(largest_difference(wide(state), fine_state) < 3e-6 * largest(fine_state));
      // As reported: the state between chunks in the type of the input.
      std::optional<mx::array> between;
      for (int first = 0; first < 300; first += 20) {
        Problem piece = cut(p, first, first + 20);
        piece.options.initial_state = between;
        between = mx::astype(mx::astype(run(piece).second, dtype), mx::float32);
      }
      CHECK(largest_difference(wide(*between), fine_state) > 1e-4 * largest(fine_state));
      // Half a unit in the last place of the output's type.
      CHECK(largest_difference(wide(out), fine) < (dtype == mx::bfloat16 ? 4e-3 : 5e-4) * largest(fine));
    }
  }
}

TEST_CASE("extreme inputs") {
  for (const int chunk : {0, 16}) {
    CAPTURE(chunk);
    const auto finite = [](const mx::array& a) { return mx::all(mx::isfinite(a)).item<bool>(); };
    Problem p = make_problem(1, 40, 2, 3, 1, 4, mx::float32);
    p.options.chunk_size = chunk;
    p.options.dt_bias = mx::array({0.f, 0.f});

    // A step of 1e-4 and one behind the threshold of softplus agree with float64.
    for (const float raw : {-9.21f, 20.5f}) {
      Problem q = p;
      q.dt = mx::full({1, 40, 2}, raw);
      const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
      Problem f = q;
      f.x = wide(q.x), f.dt = wide(q.dt), f.A = wide(q.A), f.B = wide(q.B), f.C = wide(q.C);
      f.options.D = wide(*q.options.D), f.options.z = wide(*q.options.z),
      f.options.dt_bias = wide(*q.options.dt_bias);
      const auto got = run(q), want = run(f);
      const double scale = mx::astype(mx::max(mx::abs(want.second)), mx::float32).item<float>();
      CHECK(largest_difference(got.second, want.second) < 1e-6 * scale);
    }
    // dt A = -100: each token alone is left.
    {
      Problem q = p;
      q.options.dt_softplus = false, q.options.D = std::nullopt, q.options.z = std::nullopt;
      q.dt = mx::ones({1, 40, 2}), q.A = mx::array({-100.f, -1e30f});
      const auto alone = mx::sum(q.B * q.C, -1, true) * q.x;
      CHECK(largest_difference(run(q).first, alone) < 1e-5);
    }
    // A = 0: the last state is a plain sum.
    {
      Problem q = p;
      q.options.dt_softplus = false;
      q.dt = mx::ones({1, 40, 2}), q.A = mx::zeros({2});
      const auto sum = mx::matmul(mx::transpose(q.x, {0, 2, 3, 1}), mx::transpose(q.B, {0, 2, 1, 3}));
      CHECK(largest_difference(run(q).second, sum) < 1e-4);
    }
    // Zeros give zeros, with zero gradients of what they multiply.
    {
      Problem q = p;
      q.x = mx::zeros_like(q.x);
      CHECK(mx::array_equal(run(q).first, q.x).item<bool>());
      const auto g =
          mx::grad([&](const mx::array& B) { return mx::sum(ssd(q.x, q.dt, q.A, B, q.C, q.options)); })(q.B);
      CHECK(mx::array_equal(g, mx::zeros_like(g)).item<bool>());
    }
    // #352, #558: a chunk of nothing but padding, whatever lies in it.
    {
      Problem q = p;
      std::vector<int32_t> ids(40, 0);
      std::fill(ids.begin() + 10, ids.begin() + 36, -1);
      q.options.seq_idx = mx::array(ids.data(), {1, 40}, mx::int32);
      const auto is_padding = mx::less(*q.options.seq_idx, mx::array(0));
      const auto spoil = [&](const mx::array& a, float value) {
        auto mask = is_padding;
        while (mask.ndim() < a.ndim()) mask = mx::expand_dims(mask, -1);
        return mx::where(mask, mx::array(value), a);
      };
      q.x = spoil(q.x, INFINITY), q.B = spoil(q.B, NAN), q.C = spoil(q.C, INFINITY), q.dt = spoil(q.dt, NAN);
      q.options.z = spoil(*q.options.z, NAN);
      const auto clean = run(p), got = run(q);
      CHECK(finite(got.first));
      CHECK(finite(got.second));
      CHECK(largest_difference(cut(got.first, 0, 10), cut(clean.first, 0, 10)) < 1e-5);
      CHECK(mx::all(mx::equal(cut(got.first, 10, 36), mx::array(0.f))).item<bool>());
      const auto loss = [&](const std::vector<mx::array>& a) {
        Problem r = q;
        r.x = a[0], r.dt = a[1], r.B = a[2], r.C = a[3], r.options.z = a[4];
        const auto [out, state] = run(r);
        return mx::sum(out) + mx::sum(state);
      };
      for (const auto& g : mx::grad(loss, std::vector<int>{0, 1, 2, 3, 4})({q.x, q.dt, q.B, q.C, *q.options.z})) {
        CHECK(finite(g));
        CHECK(mx::all(mx::equal(cut(g, 10, 36), mx::array(0.f))).item<bool>());
      }
    }
    // Products beyond the range of float16 inside, results within it.
    {
      const auto half = [](float v, mx::Shape shape) { return mx::full(std::move(shape), v, mx::float16); };
      const SsdOptions o{.chunk_size = chunk};
      const auto out = ssd(half(6e4f, {1, 20, 1, 2}), half(1, {1, 20, 1}), half(-8, {1}),
                           half(6e4f, {1, 20, 1, 3}), half(1e-6f, {1, 20, 1, 3}), o);
      CHECK(finite(out));
      const float first = mx::astype(mx::slice(out, {0, 0, 0, 0}, {1, 1, 1, 1}), mx::float32).item<float>();
      CHECK(first == doctest::Approx(3 * 3.6e9 * 1e-6).epsilon(0.1));
    }
  }
}

TEST_CASE("ssd refuses what does not fit with one sentence") {
  const Problem p = make_problem(2, 6, 4, 3, 2, 5, mx::float32);
  const auto ones = [](const mx::Shape& s, mx::Dtype d = mx::float32) { return mx::ones(s, d); };
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
      {[&](Problem& q) {
         q.C = ones({2, 6});
       },
       "C must have shape {B, L, N} or {B, L, G, N} with {2, 6} in front"},
      {[&](Problem& q) {
         q.B = q.C = ones({2, 6, 0, 5});
       },
       "the groups of B must divide H = 4; got 0"},
      {[&](Problem& q) { q.C = mx::astype(q.C, mx::complex64); },
       "C must be a real floating-point array; got complex64"},
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
  const auto fails = [&](const std::function<void(Problem&)>& change, const std::string& says) {
    Problem q = one;
    change(q);
    CHECK_THROWS_WITH_AS(run(q), doctest::Contains(says.c_str()), Error);
  };
  const auto cu = [&](std::vector<int32_t> v, const std::string& says) {
    fails([&](Problem& q) { q.options.cu_seqlens = v; }, says);
  };
  cu({0, 4, 2, 6}, "cu_seqlens must not fall; got 4 then 2 at place 2");
  cu({1, 6}, "cu_seqlens must start with 0 and name at least one end");
  cu({0}, "cu_seqlens must start with 0 and name at least one end");
  cu({0, 4}, "cu_seqlens must end at the number of tokens, 6; got 4");
  cu({0, 4, 7}, "cu_seqlens must end at the number of tokens, 6; got 7");
  fails(
      [&](Problem& q) {
        q.options.cu_seqlens = {0, 4, 6};
        q.options.seq_idx = ones({1, 6}, mx::int32);
      },
      "only one of cu_seqlens and seq_idx may be given");
  fails(
      [&](Problem& q) {
        q.options.cu_seqlens = {0, 4, 6};
        q.options.initial_state = ones({1, 4, 3, 5});
      },
      "initial_state must have shape {sequences, H, P, N} = {2, 4, 3, 5}");
}

TEST_CASE("ssd_step refuses what does not fit with one sentence") {
  struct Inputs {
    mx::array state, x, dt, A, B, C;
    SsdOptions options;
  };
  const auto ones = [](const mx::Shape& s, mx::Dtype d = mx::float32) { return mx::ones(s, d); };
  const Inputs good{
      ones({2, 4, 3, 5}), ones({2, 4, 3}), ones({2, 4}), ones({4}), ones({2, 2, 5}), ones({2, 2, 5}), {}};
  struct Row {
    std::function<void(Inputs&)> change;
    const char* says;
  };
  const auto row = [](auto change, const char* says) { return Row{change, says}; };
  const std::vector<Row> rows = {
      row(
          [&](Inputs& q) {
            q.x = ones({2, 1, 4, 3});
          },
          "x must have shape {B, H, P}; got {2, 1, 4, 3}"),
      row(
          [&](Inputs& q) {
            q.x = ones({2, 0, 3});
          },
          "x needs at least one head and one channel"),
      row(
          [&](Inputs& q) {
            q.dt = ones({2, 4, 1});
          },
          "dt must have shape {B, H} = {2, 4}; got {2, 4, 1}"),
      row([&](Inputs& q) { q.A = ones({3}); }, "A must have shape {H} = {4}; got {3}"),
      row(
          [&](Inputs& q) {
            q.B = ones({1, 2, 5});
          },
          "B must have shape {B, N} or {B, G, N} with {2} in front"),
      row([&](Inputs& q) { q.C = ones({2}); }, "C must have shape {B, N} or {B, G, N} with {2} in front"),
      row(
          [&](Inputs& q) {
            q.B = ones({2, 3, 5});
          },
          "the groups of B must divide H = 4; got 3"),
      row(
          [&](Inputs& q) {
            q.C = ones({2, 2, 4});
          },
          "C must have shape that of B = {2, 2, 5}; got {2, 2, 4}"),
      row(
          [&](Inputs& q) {
            q.state = ones({2, 4, 5, 3});
          },
          "state must have shape {B, H, P, N} = {2, 4, 3, 5}"),
      row(
          [&](Inputs& q) {
            q.options.z = ones({2, 1, 4, 3});
          },
          "z must have shape {B, H, P} = {2, 4, 3}"),
      row([&](Inputs& q) { q.options.D = ones({3}); }, "D must have shape {H} = {4}; got {3}"),
      row([&](Inputs& q) { q.options.initial_state = q.state; },
          "only D, z, dt_bias, dt_softplus and dt_limit apply"),
      row(
          [&](Inputs& q) {
            q.options.seq_idx = ones({2, 1}, mx::int32);
          },
          "only D, z, dt_bias"),
      row(
          [&](Inputs& q) {
            q.options.cu_seqlens = {0, 1};
          },
          "only D, z, dt_bias"),
      row(
          [&](Inputs& q) {
            q.options.dt_limit = {-1, 1};
          },
          "dt_limit must be two numbers, 0 <= low <= high"),
      row(
          [&](Inputs& q) {
            q.dt = ones({2, 4}, mx::int32);
          },
          "dt must be a real floating-point array; got int32"),
  };
  for (const Row& r : rows) {
    CAPTURE(r.says);
    Inputs q = good;
    r.change(q);
    const std::string says = std::string("[ssd_step] ") + r.says;
    CHECK_THROWS_WITH_AS(ssd_step(q.state, q.x, q.dt, q.A, q.B, q.C, q.options), doctest::Contains(says.c_str()),
                         Error);
  }
  CHECK_NOTHROW(ssd_step(good.state, good.x, good.dt, good.A, good.B, good.C, good.options));
}
