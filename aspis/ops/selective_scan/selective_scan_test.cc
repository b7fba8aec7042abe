#include "aspis/ops/selective_scan/selective_scan.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/selective_scan/pairs.h"
#include "aspis/ops/selective_scan/scan_modes.h"
#include "aspis/ops/selective_scan/selective_scan_cases.h"

using namespace aspis;
using harness::Arrays;

namespace {

mx::array normal(const mx::Shape& shape, int seed, double scale = 1, mx::Dtype dtype = mx::float32) {
  return mx::astype(mx::multiply(mx::random::normal(shape, mx::float32, mx::random::key(seed)),
                                 mx::array(static_cast<float>(scale))),
                    dtype);
}

struct Problem {
  mx::array u, delta, A, B, C;
  ScanOptions options;
};

Problem make_problem(int batch, int length, int channels, int state) {
  Problem p{normal({batch, length, channels}, 1),
            normal({batch, length, channels}, 2),
            mx::negative(mx::abs(normal({channels, state}, 3))),
            normal({batch, length, state}, 4),
            normal({batch, length, state}, 5),
            {}};
  p.options.D = normal({channels}, 6);
  p.options.z = normal({batch, length, channels}, 7);
  p.options.delta_bias = normal({channels}, 8, 0.3);
  p.options.delta_softplus = true;
  return p;
}

mx::array tokens(const mx::array& a, int from, int to) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[1] = from, stop[1] = to;
  return mx::slice(a, start, stop);
}

mx::array token(const mx::array& a, int t) { return mx::squeeze(tokens(a, t, t + 1), 1); }

bool near(const mx::array& a, const mx::array& b, double tolerance) {
  return mx::allclose(a, b, tolerance, tolerance).item<bool>();
}

}  // namespace

TEST_CASE("selective_scan conforms on every instruction set") { harness::expect_conforms(selective_scan_entry()); }

TEST_CASE("a sequence cut anywhere, with its state carried on, gives the same as the whole") {
  const Problem p = make_problem(2, 70, 19, 5);
  const auto [whole, last] = selective_scan_with_state(p.u, p.delta, p.A, p.B, p.C, p.options);
  for (const int cut : {1, 2, 15, 16, 17, 32, 33, 64, 69}) {
    CAPTURE(cut);
    const auto part = [&](int from, int to, const std::optional<mx::array>& state) {
      ScanOptions o = p.options;
      o.z = tokens(*p.options.z, from, to);
      o.initial_state = state;
      return selective_scan_with_state(tokens(p.u, from, to), tokens(p.delta, from, to), p.A, tokens(p.B, from, to),
                                       tokens(p.C, from, to), o);
    };
    const auto [first, middle] = part(0, cut, std::nullopt);
    const auto [second, end] = part(cut, 70, middle);
    CHECK(near(mx::concatenate({first, second}, 1), whole, 2e-6));
    CHECK(near(end, last, 2e-6));
  }
}

TEST_CASE("packed sequences equal calls of their own in every bit, with either way to say where they begin") {
  Problem p = make_problem(1, 61, 40, 5);
  const std::vector<int32_t> bounds{0, 7, 8, 40, 61};
  const auto states = normal({4, 40, 5}, 9);
  p.options.initial_state = states;
  p.options.cu_seqlens = bounds;
  const auto [out, last] = selective_scan_with_state(p.u, p.delta, p.A, p.B, p.C, p.options);
  CHECK(last.shape() == mx::Shape{4, 40, 5});
  std::vector<int32_t> ids;
  for (int i = 0; i < 4; i++) {
    const int first = bounds[i], end = bounds[i + 1];
    ids.insert(ids.end(), end - first, i);
    ScanOptions o = p.options;
    o.cu_seqlens.clear();
    o.z = tokens(*o.z, first, end);
    o.initial_state = mx::slice(states, {i, 0, 0}, {i + 1, 40, 5});
    const auto [alone, end_state] = selective_scan_with_state(tokens(p.u, first, end), tokens(p.delta, first, end), p.A,
                                                              tokens(p.B, first, end), tokens(p.C, first, end), o);
    CHECK(mx::array_equal(tokens(out, first, end), alone).item<bool>());
    CHECK(mx::array_equal(mx::slice(last, {i, 0, 0}, {i + 1, 40, 5}), end_state).item<bool>());
  }
  // By ids only the first sequence has an initial state, and only the last one a last state.
  p.options.cu_seqlens.clear();
  p.options.seq_idx = mx::array(ids.data(), {1, 61}, mx::int32);
  p.options.initial_state = mx::slice(states, {0, 0, 0}, {1, 40, 5});
  const auto by_ids = selective_scan(p.u, p.delta, p.A, p.B, p.C, p.options);
  CHECK(mx::array_equal(tokens(by_ids, 0, 7), tokens(out, 0, 7)).item<bool>());
  p.options.seq_idx.reset();
  p.options.cu_seqlens = bounds;
  p.options.initial_state = mx::concatenate({mx::slice(states, {0, 0, 0}, {1, 40, 5}), mx::zeros({3, 40, 5})}, 0);
  CHECK(mx::array_equal(by_ids, selective_scan(p.u, p.delta, p.A, p.B, p.C, p.options)).item<bool>());
}

TEST_CASE("steps one by one give the same as the whole sequence") {
  const Problem p = make_problem(3, 12, 21, 16);
  const auto [whole, last] = selective_scan_with_state(p.u, p.delta, p.A, p.B, p.C, p.options);
  mx::array state = mx::zeros({3, 21, 16});
  for (int t = 0; t < 12; t++) {
    ScanOptions o = p.options;
    o.z = token(*p.options.z, t);
    auto [out, next] = selective_scan_step(state, token(p.u, t), token(p.delta, t), p.A, token(p.B, t), token(p.C, t), o);
    // A step adds the states up in another order: a few units in the last place of sums with both signs.
    CHECK(near(out, token(whole, t), 5e-6));
    state = next;
  }
  CHECK(near(state, last, 2e-6));
}

TEST_CASE("a later token does not change earlier outputs in any bit") {
  const Problem p = make_problem(1, 40, 33, 16);
  const auto before = selective_scan(p.u, p.delta, p.A, p.B, p.C, p.options);
  const auto mask = mx::reshape(mx::astype(mx::greater_equal(mx::arange(40), mx::array(25)), mx::float32), {1, 40, 1});
  const auto after = selective_scan(mx::add(p.u, mask), p.delta, p.A, p.B, p.C, p.options);
  CHECK(mx::array_equal(tokens(before, 0, 25), tokens(after, 0, 25)).item<bool>());
  CHECK_FALSE(mx::array_equal(tokens(before, 25, 40), tokens(after, 25, 40)).item<bool>());
}

TEST_CASE("gradients are the same whether the forward pass ran before or not") {
  const Problem p = make_problem(2, 37, 20, 8);
  const auto grads = [&](bool evaluate_first) {
    auto [outputs, gradients] = mx::vjp(
        [&](const std::vector<mx::array>& in) {
          auto y = selective_scan(in[0], p.delta, in[1], p.B, p.C, p.options);
          if (evaluate_first) y.eval();
          return std::vector<mx::array>{y};
        },
        {p.u, p.A}, {mx::ones({2, 37, 20})});
    mx::eval(gradients);
    return gradients;
  };
  const auto lazy = grads(false), eager = grads(true);
  for (size_t i = 0; i < lazy.size(); i++) CHECK(mx::array_equal(lazy[i], eager[i]).item<bool>());
}

TEST_CASE("bfloat16 activations are computed in float32 and come back as bfloat16") {
  const Problem p = make_problem(1, 9, 8, 4);
  const auto out = selective_scan(mx::astype(p.u, mx::bfloat16), p.delta, p.A, p.B, p.C, p.options);
  CHECK(out.dtype() == mx::bfloat16);
  CHECK(near(mx::astype(out, mx::float32), selective_scan(p.u, p.delta, p.A, p.B, p.C, p.options), 0.05));
}

TEST_CASE("empty sequences pass the state through") {
  Problem p = make_problem(1, 4, 8, 4);
  ScanOptions o;
  o.initial_state = normal({1, 8, 4}, 11);
  const auto [out, last] = selective_scan_with_state(tokens(p.u, 0, 0), tokens(p.delta, 0, 0), p.A, tokens(p.B, 0, 0),
                                                     tokens(p.C, 0, 0), o);
  CHECK(out.shape() == mx::Shape{1, 0, 8});
  CHECK(mx::array_equal(last, *o.initial_state).item<bool>());
}

TEST_CASE("selective_scan refuses what does not fit with one sentence") {
  const Problem p = make_problem(2, 6, 8, 4);
  const auto message = [&](auto change) {
    Problem q = p;
    change(q);
    try {
      selective_scan(q.u, q.delta, q.A, q.B, q.C, q.options);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kUsage);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(message([](Problem& q) { q.A = mx::zeros({7, 4}); }) ==
        "[selective_scan] A must have shape {D, N} with D = 8; got {7, 4}");
  CHECK(message([](Problem& q) { q.A = mx::zeros({8, 0}); }) ==
        "[selective_scan] the state size N of A must be 1 to 256; got 0");
  CHECK(message([](Problem& q) { q.A = mx::zeros({8, 257}); }) ==
        "[selective_scan] the state size N of A must be 1 to 256; got 257");
  CHECK(message([](Problem& q) { q.B = mx::zeros({2, 6, 3, 4}); }) ==
        "[selective_scan] the groups of B must divide D = 8; got 3");
  CHECK(message([](Problem& q) { q.C = mx::zeros({2, 6, 5}); }) ==
        "[selective_scan] C must have shape {B, L, N}, {B, L, G, N} or {D, N} = {2, 6, 4}, with groups, or {8, 4}; got {2, 6, 5}");
  CHECK(message([](Problem& q) { q.u = mx::zeros({6, 8}); }) ==
        "[selective_scan] u must have shape {B, L, D}; got {6, 8}");
  CHECK(message([](Problem& q) { q.u = mx::zeros({2, 6, 8}, mx::int32); }) ==
        "[selective_scan] u must be a real floating-point array; got int32");
  CHECK(message([](Problem& q) { q.options.order = mx::array({0, 1, 2, 3, 4, 4}, mx::int32); }) ==
        "[selective_scan] order must hold each of 0 .. L-1 = 5 once; got 4 at place 5");
  CHECK(message([](Problem& q) { q.options.initial_state = mx::zeros({2, 8, 3}); }) ==
        "[selective_scan] initial_state must have shape {B, D, N} = {2, 8, 4}; got {2, 8, 3}");
  const auto begins = [&](const std::string& text, const std::string& with) { return text.rfind(with, 0) == 0; };
  CHECK(begins(message([](Problem& q) { q.options.cu_seqlens = {0, 6}; }),
               "[selective_scan] cu_seqlens needs a batch of 1; got a batch of 2"));
  CHECK(begins(message([](Problem& q) { q.options.seq_idx = mx::zeros({2, 5}, mx::int32); }),
               "[selective_scan] seq_idx must have shape {B, L} = {2, 6}; got {2, 5}"));
  CHECK(begins(message([](Problem& q) { q.options.seq_idx = mx::zeros({2, 6}); }),
               "[selective_scan] seq_idx must be int32; got float32"));
  CHECK(begins(message([](Problem& q) {
                 q.options.seq_idx = mx::zeros({2, 6}, mx::int32);
                 q.options.order = mx::arange(6);
               }),
               "[selective_scan] packed sequences are visited in the order of their tokens; got an order too"));
  const auto row_message = [&](std::vector<int32_t> bounds, bool ids = false) {
    return message([&](Problem& q) {
      const auto first = [](const mx::array& a) { return mx::slice(a, {0, 0, 0}, {1, a.shape(1), a.shape(2)}); };
      q.u = first(q.u), q.delta = first(q.delta), q.B = first(q.B), q.C = first(q.C), q.options.z = first(*q.options.z);
      q.options.cu_seqlens = bounds;
      if (ids) q.options.seq_idx = mx::zeros({1, 6}, mx::int32);
    });
  };
  CHECK(begins(row_message({0, 4, 2, 6}), "[selective_scan] cu_seqlens must not fall; got 4 then 2 at place 2"));
  CHECK(begins(row_message({0, 4}), "[selective_scan] cu_seqlens must end at the number of tokens, 6; got 4"));
  CHECK(begins(row_message({1, 6}), "[selective_scan] cu_seqlens must start with 0"));
  CHECK(begins(row_message({0, 6}, true), "[selective_scan] only one of cu_seqlens and seq_idx may be given; got both"));
}

TEST_CASE("complex64 A, B, C and states: values, steps, and gradients by both parts") {
  const Problem p = make_problem(2, 9, 7, 3);
  const auto complex = [](const mx::array& re, const mx::array& im) {
    return mx::add(re, mx::multiply(im, mx::array(mx::complex64_t{0, 1}, mx::complex64)));
  };
  const auto A = complex(p.A, normal({7, 3}, 21, 3)), B = complex(p.B, normal({2, 9, 3}, 22)),
             C = complex(p.C, normal({2, 9, 3}, 23)), state = complex(normal({2, 7, 3}, 24), normal({2, 7, 3}, 25));
  ScanOptions o = p.options;
  o.initial_state = state;
  const auto [out, last] = selective_scan_with_state(p.u, p.delta, A, B, C, o);
  CHECK(out.dtype() == mx::float32);
  CHECK(last.dtype() == mx::complex64);
  REQUIRE(last.shape() == mx::Shape{2, 7, 3});
  ScanOptions in_pairs = o;
  in_pairs.initial_state = pairs_of(state);
  const auto [want, want_last] =
      selective_scan_pairs_composed(p.u, p.delta, pairs_of(A), mx::expand_dims(pairs_of(B), 2),
                                    mx::expand_dims(pairs_of(C), 2), in_pairs);
  CHECK(near(out, want, 5e-6));
  CHECK(near(pairs_of(last), want_last, 5e-6));

  mx::array now = state;
  for (int t = 0; t < 9; t++) {
    ScanOptions one = p.options;
    one.z = token(*p.options.z, t);
    auto [y, next] = selective_scan_step(now, token(p.u, t), token(p.delta, t), A, token(B, t), token(C, t), one);
    CHECK(near(y, token(out, t), 5e-6));
    now = next;
  }
  CHECK(near(pairs_of(now), pairs_of(last), 5e-6));

  // A real C is a complex one without imaginary parts, and has a real gradient.
  const auto as_real = selective_scan(p.u, p.delta, A, B, p.C, o);
  CHECK(near(as_real, selective_scan(p.u, p.delta, A, B, mx::astype(p.C, mx::complex64), o), 0));

  // dL = Re(sum conj(g) dA): the gradient by the parts is the real and the imaginary part of g.
  const auto weight = normal({2, 9, 7}, 26), last_weight = complex(normal({2, 7, 3}, 27), normal({2, 7, 3}, 28));
  const auto gradients = [&](bool parts) {
    auto [values, grads] = mx::vjp(
        [&](const Arrays& in) {
          ScanOptions with_state = p.options;
          with_state.initial_state = parts ? numbers_of(in[3]) : in[3];
          const auto number = [&](int i) { return parts ? numbers_of(in[i]) : in[i]; };
          auto [y, end] = selective_scan_with_state(p.u, p.delta, number(0), number(1), number(2), with_state);
          return Arrays{y, end};
        },
        parts ? Arrays{pairs_of(A), pairs_of(B), pairs_of(C), pairs_of(state)} : Arrays{A, B, C, state},
        {weight, last_weight});
    return grads;
  };
  const auto by_numbers = gradients(false), by_parts = gradients(true);
  for (size_t i = 0; i < by_parts.size(); i++) {
    CAPTURE(i);
    CHECK(by_numbers[i].dtype() == mx::complex64);
    CHECK(near(pairs_of(by_numbers[i]), by_parts[i], 0));
  }
  // The engine's own complex operations follow the same convention: A from real parameters.
  const auto imaginary = normal({7, 3}, 21, 3);
  auto [values, from_parameters] = mx::vjp(
      [&](const Arrays& in) {
        auto [y, end] = selective_scan_with_state(p.u, p.delta, complex(in[0], in[1]), B, C, o);
        return Arrays{y, end};
      },
      {p.A, imaginary}, {weight, last_weight});
  CHECK(near(from_parameters[0], mx::real(by_numbers[0]), 1e-6));
  CHECK(near(from_parameters[1], mx::imag(by_numbers[0]), 1e-6));

  const auto message = [&](const mx::array& a, const mx::array& b, const mx::array& u, const std::optional<mx::array>& initial) {
    ScanOptions bad = p.options;
    bad.initial_state = initial;
    try {
      selective_scan(u, p.delta, a, b, p.C, bad);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kUsage);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(message(p.A, B, p.u, std::nullopt) ==
        "[selective_scan] complex B, C or states need a complex64 A; got float32 A");
  CHECK(message(A, B, mx::astype(p.u, mx::float64, mx::Device::cpu), std::nullopt).find("no wider complex type") !=
        std::string::npos);
  CHECK(message(A, mx::astype(mx::zeros({2, 9, 3}), mx::int32), p.u, std::nullopt) ==
        "[selective_scan] B must be a floating-point or complex64 array; got int32");
  CHECK(message(A, tokens(B, 0, 5), p.u, std::nullopt).find("got {2, 5, 3}") != std::string::npos);
  CHECK(message(A, B, p.u, normal({2, 7, 6}, 3)) ==
        "[selective_scan] initial_state must have shape {.., D, N} with N = 3; got {2, 7, 6}");
}

TEST_CASE("every scan mode of mlx-vision-mamba is the operator, with gradients, beyond 16 states and 32 tokens") {
  const Problem p = make_problem(2, 40, 6, 20);
  const auto delta = mx::abs(p.delta);
  ScanOptions o;
  o.D = p.options.D;
  const auto want = selective_scan(p.u, delta, p.A, p.B, p.C, o);
  const Arrays inputs = {p.u, delta, p.A, p.B, p.C, *p.options.D};
  const auto gradients = [&](const std::function<mx::array(const Arrays&)>& f) {
    return mx::vjp([&](const Arrays& in) { return Arrays{f(in)}; }, inputs, {normal({2, 40, 6}, 30)}).second;
  };
  const auto want_gradients = gradients([](const Arrays& in) {
    ScanOptions with_D;
    with_D.D = in[5];
    return selective_scan(in[0], in[1], in[2], in[3], in[4], with_D);
  });
  REQUIRE(scan_mode_names().size() == 8);
  for (const auto& mode : scan_mode_names()) {
    CAPTURE(mode);
    const ScanFunction scan = scan_function(mode);
    CHECK(mx::array_equal(scan(p.u, delta, p.A, p.B, p.C, *p.options.D, {}), want).item<bool>());
    const auto got = gradients(
        [&](const Arrays& in) { return scan(in[0], in[1], in[2], in[3], in[4], in[5], mx::StreamOrDevice{}); });
    for (size_t i = 0; i < got.size(); i++) CHECK(mx::array_equal(got[i], want_gradients[i]).item<bool>());
  }
  CHECK((scan_function("metal_train") == selective_scan_metal_trainable));
  CHECK((scan_function("chunked") == selective_scan_chunked));
  CHECK_THROWS_WITH_AS(scan_function("metl"), doctest::Contains("Try: metal"), Error);
}

TEST_CASE("golden vector of the specification") {
  const auto row = [](std::initializer_list<double> v, mx::Shape shape) {
    return mx::array(std::vector<double>(v).begin(), std::move(shape), mx::float64);
  };
  ScanOptions o;
  o.D = row({.5}, {1});
  o.z = row({.3, -1, 2}, {1, 3, 1});
  o.delta_bias = row({.1}, {1});
  o.delta_softplus = true;
  const auto out = selective_scan(row({1, -.5, 2}, {1, 3, 1}), row({0, 1, -1}, {1, 3, 1}), row({-1, -2}, {1, 2}),
                                  row({1, .5, -1, 2, .3, .7}, {1, 3, 2}), row({.2, -.4, 1, 1, .5, -1}, {1, 3, 2}), o);
  CHECK(mx::allclose(out, row({.08616638, .19755041, 2.86592137}, {1, 3, 1}), 1e-7, 1e-8).item<bool>());
}
