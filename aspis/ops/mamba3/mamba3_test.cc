#include "aspis/ops/mamba3/mamba3.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/test_problem.h"
#include "aspis/ops/mamba3/mamba3_cases.h"

using namespace aspis;

namespace {

mx::array normal(const mx::Shape& shape, int seed, double scale = 1, mx::Dtype dtype = mx::float64) {
  return mx::astype(mx::multiply(mx::random::normal(shape, mx::float32, mx::random::key(seed)),
                                 mx::array(static_cast<float>(scale))),
                    dtype);
}

struct Problem {
  mx::array x, B, C, dd_dt, dd_A, trap;
  Mamba3Options options;
};

Problem make_problem(int batch, int length, int heads, int headdim, int rank, int groups, int state, int angles,
                     mx::Dtype dtype = mx::float64) {
  const auto draw = [&](const mx::Shape& shape, int seed, double scale = 1) {
    return normal(shape, seed, scale, dtype);
  };
  Problem p{draw({batch, length, heads, headdim}, 1),
            draw({batch, length, rank, groups, state}, 2),
            draw({batch, length, rank, groups, state}, 3),
            draw({batch, length, heads}, 4, 0.7),
            draw({batch, length, heads}, 5),
            draw({batch, length, heads}, 6),
            {}};
  Mamba3Options& o = p.options;
  o.angle = draw({batch, length, angles}, 7);
  o.dt_bias = draw({heads}, 8, 0.3);
  o.B_norm_weight = mx::abs(draw({state}, 9)), o.C_norm_weight = mx::abs(draw({state}, 10));
  o.B_bias = draw({heads, rank, state}, 11), o.C_bias = draw({heads, rank, state}, 12);
  o.D = draw({heads}, 13);
  o.z = draw({batch, length, heads, headdim}, 14);
  if (rank > 1) {
    o.mimo_x = draw({heads, rank, headdim}, 15), o.mimo_z = draw({heads, rank, headdim}, 16);
    o.mimo_o = draw({heads, rank, headdim}, 17);
    o.pairing = RotaryPairing::kHalf;
  }
  return p;
}

Mamba3State random_state(int sequences, int heads, int headdim, int rank, int state, int angles) {
  return {mx::abs(normal({sequences, heads, angles}, 20)), normal({sequences, heads, headdim, state}, 21),
          normal({sequences, rank, heads, state}, 22), normal({sequences, heads, headdim}, 23)};
}

std::pair<mx::array, Mamba3State> run(const Problem& p) {
  return mamba3_with_state(p.x, p.B, p.C, p.dd_dt, p.dd_A, p.trap, p.options);
}

mx::array cut(const mx::array& a, int axis, int from, int to) {
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[axis] = from, stop[axis] = to;
  return mx::slice(a, start, stop);
}

// Tokens [from, to) with another state in front.
Problem tokens(const Problem& p, int from, int to, std::optional<Mamba3State> state) {
  Problem q = p;
  for (auto* a : {&q.x, &q.B, &q.C, &q.dd_dt, &q.dd_A, &q.trap}) *a = cut(*a, 1, from, to);
  q.options.angle = cut(*p.options.angle, 1, from, to);
  if (p.options.z) q.options.z = cut(*p.options.z, 1, from, to);
  q.options.initial_state = std::move(state);
  q.options.cu_seqlens.clear();
  return q;
}

double difference(const mx::array& a, const mx::array& b) {
  REQUIRE(a.shape() == b.shape());
  if (a.size() == 0) return 0;
  return mx::astype(mx::max(mx::abs(mx::subtract(a, b))), mx::float32).item<float>();
}

void expect_same(const Mamba3State& a, const Mamba3State& b, double tolerance) {
  CHECK(difference(mx::sin(a.angle), mx::sin(b.angle)) < tolerance);
  CHECK(difference(a.ssm, b.ssm) < tolerance);
  CHECK(difference(a.k, b.k) < tolerance);
  CHECK(difference(a.v, b.v) < tolerance);
}

}  // namespace

TEST_CASE("mamba3 conforms on every instruction set") { harness::expect_conforms(mamba3_entry()); }

TEST_CASE("a sequence cut anywhere, with its state carried on, gives the same as the whole") {
  for (const int rank : {1, 2}) {
    Problem p = make_problem(2, 70, 2, 3, rank, 1, 4, 2);
    p.options.chunk_size = 16;
    p.options.initial_state = random_state(2, 2, 3, rank, 4, 2);
    const auto [out, state] = run(p);
    for (int at = 1; at < 70; at++) {
      CAPTURE(at);
      const auto [first, middle] = run(tokens(p, 0, at, p.options.initial_state));
      const auto [second, last] = run(tokens(p, at, 70, middle));
      CHECK(difference(mx::concatenate({first, second}, 1), out) < 1e-11);
      expect_same(last, state, 1e-11);
    }
  }
}

// Reported is an error of shapes in the forward pass with a cache: were it here, the step would throw.
TEST_CASE("single steps are the whole; a step takes {B, ..} inputs (#1014, #1022)") {
  for (const int rank : {1, 3}) {
    Problem p = make_problem(3, 9, 2, 5, rank, 2, 6, 3);
    const auto [out, last] = run(p);
    Mamba3State state = mamba3_zero_state(3, 2, rank, 5, 6, 3, mx::float64);
    for (int t = 0; t < 9; t++) {
      const auto at = [&](const mx::array& a) { return mx::squeeze(cut(a, 1, t, t + 1), 1); };
      Mamba3Options o = p.options;
      o.angle = at(*o.angle), o.z = at(*o.z);
      auto [y, next] = mamba3_step(state, at(p.x), at(p.B), at(p.C), at(p.dd_dt), at(p.dd_A), at(p.trap), o);
      CHECK(difference(y, at(out)) < 1e-11);
      state = next;
    }
    expect_same(state, last, 1e-11);
  }
}

TEST_CASE("#911: packed sequences are the separate ones, phases and last values included") {
  for (const int rank : {1, 2}) {
    Problem p = make_problem(1, 60, 2, 3, rank, 1, 4, 2);
    p.options.chunk_size = 8;
    p.options.cu_seqlens = {0, 1, 3, 3, 19, 36, 60};
    p.options.initial_state = random_state(6, 2, 3, rank, 4, 2);
    const auto [out, state] = run(p);
    for (int i = 0; i < 6; i++) {
      CAPTURE(i);
      const auto own = [&](const mx::array& a) { return cut(a, 0, i, i + 1); };
      const Mamba3State& all = *p.options.initial_state;
      const Mamba3State mine{own(all.angle), own(all.ssm), own(all.k), own(all.v)};
      const int first = p.options.cu_seqlens[i], last = p.options.cu_seqlens[i + 1];
      const Mamba3State got{own(state.angle), own(state.ssm), own(state.k), own(state.v)};
      if (first == last) {
        expect_same(got, mine, 1e-15);
        continue;
      }
      const auto [y, next] = run(tokens(p, first, last, mine));
      CHECK(difference(cut(out, 1, first, last), y) < 1e-11);
      expect_same(got, next, 1e-11);
      if (first == 0 || last - first < 2) continue;
      // As reported: the sum of angles goes on from the sequence before.
      Mamba3State reported = mine;
      reported.angle = cut(state.angle, 0, i - 1, i);
      const auto [wrong, after] = run(tokens(p, first, last, reported));
      CHECK(difference(wrong, y) > 1e-2);
      CHECK(difference(mx::sin(after.angle), mx::sin(next.angle)) > 1e-2);
    }
  }
}

TEST_CASE("gradients are the same whether the forward pass ran before or not, gated or not") {
  for (const bool gate : {false, true}) {
    const auto normal = [](const mx::Shape& shape, uint64_t seed) {
      return mx::random::normal(shape, mx::float32, mx::random::key(seed));
    };
    const std::vector<mx::array> in{
        normal({1, 19, 2, 4}, 1), normal({1, 19, 1, 1, 8}, 2), normal({1, 19, 1, 1, 8}, 3),
        normal({1, 19, 2}, 4),    normal({1, 19, 2}, 5),       normal({1, 19, 2}, 6),
        normal({1, 19, 2}, 7),    normal({1, 19, 2, 4}, 8),    normal({2}, 9)};
    const auto run = [&](bool before) {
      const auto f = [&](const std::vector<mx::array>& a) {
        Mamba3Options o;
        o.angle = a[6], o.D = a[8];
        if (gate) o.z = a[7];
        const auto y = mamba3(a[0], a[1], a[2], a[3], a[4], a[5], o);
        if (before) mx::eval(y);
        return std::vector<mx::array>{y};
      };
      return mx::vjp(f, in, {normal({1, 19, 2, 4}, 10)}).second;
    };
    const auto lazy = run(false), early = run(true);
    for (size_t i = 0; i < in.size(); i++) CHECK(mx::allclose(lazy[i], early[i], 1e-5, 1e-5).item<bool>());
  }
}

TEST_CASE("all chunk sizes give the same") {
  Problem p = make_problem(1, 45, 2, 4, 2, 1, 6, 2);
  p.options.chunk_size = 1;
  const auto want = run(p).first;
  for (const int chunk : {2, 7, 16, 45, 100}) {
    p.options.chunk_size = chunk;
    CHECK(difference(run(p).first, want) < 1e-11);
  }
}

TEST_CASE("lambda near 1 and no angles: the operator of Mamba-2") {
  Problem p = make_problem(1, 20, 2, 3, 1, 1, 4, 1);
  p.options.angle = std::nullopt;
  p.options.B_bias = p.options.C_bias = std::nullopt;
  p.options.z = std::nullopt;
  p.trap = mx::full({1, 20, 2}, 40.0, mx::float64);  // sigmoid is 1 to the last digit
  const auto out = run(p).first;
  p.trap = mx::full({1, 20, 2}, 60.0, mx::float64);
  CHECK(difference(out, run(p).first) < 1e-13);
  p.trap = mx::full({1, 20, 2}, 0.0, mx::float64);  // the classical trapezoid differs
  CHECK(difference(out, run(p).first) > 1e-3);
}

TEST_CASE("#962: both activations of A, and no gradient where the floor holds") {
  Problem p = make_problem(1, 6, 2, 3, 1, 1, 4, 1);
  p.dd_A = mx::full({1, 6, 2}, -1e9, mx::float64);  // heavy tail: -1e-9, below the floor
  const auto loss = [&](const mx::array& a) {
    return mx::sum(mamba3(p.x, p.B, p.C, p.dd_dt, a, p.trap, p.options));
  };
  CHECK(difference(mx::grad(loss)(p.dd_A), mx::zeros({1, 6, 2}, mx::float64)) == 0);
  const auto heavy = run(p).first;
  p.options.A_activation = AActivation::kSoftplus;
  CHECK(difference(heavy, run(p).first) < 1e-12);  // both are at the floor
  p.dd_A = mx::full({1, 6, 2}, 1.0, mx::float64);
  const auto soft = run(p).first;
  p.options.A_activation = AActivation::kHeavyTail;
  CHECK(difference(soft, run(p).first) > 1e-3);
}

TEST_CASE("#1024: head dimensions that no vector divides, values beside the output untouched") {
  // Everything that the kernels write lies between guards. Upstream's step wrote whole tiles of 64 channels, into
  // the weights behind. Seen to fail with the store of a whole vector at the end of a row: of the states
  // of the step, of the combined ranks.
  static constexpr double kGuard = -12345;
  static constexpr int64_t kAround = 128;
  struct Guarded {
    std::vector<double> all;
    explicit Guarded(int64_t size) : all(static_cast<size_t>(size + 2 * kAround), kGuard) {}
    double* data() { return all.data() + kAround; }
    std::vector<double> values() const { return {all.begin() + kAround, all.end() - kAround}; }
    bool whole() const {
      return std::all_of(all.begin(), all.begin() + kAround, [](double v) { return v == kGuard; }) &&
             std::all_of(all.end() - kAround, all.end(), [](double v) { return v == kGuard; });
    }
  };
  const auto draw = [](int64_t size, int seed) {
    auto a = normal({static_cast<int>(size)}, seed);
    mx::eval(a);
    return std::vector<double>(a.data<double>(), a.data<double>() + size);
  };
  constexpr int64_t kB = 2, kH = 2, kN = 6;
  for (const int64_t P : {1, 40, 63, 65, 80}) {
    for (const int64_t R : {1, 2}) {
      for (const int64_t L : {1, 5}) {
        CAPTURE(P);
        CAPTURE(R);
        CAPTURE(L);
        kernel::Mamba3Shape shape;
        shape.batch = kB, shape.length = L, shape.heads = kH, shape.rank = R, shape.headdim = P, shape.state = kN;
        shape.chunk = 4;
        const int64_t rows = kB * L * kH;
        auto log = draw(rows, 1), w = draw(rows, 2), g = draw(rows, 3), v = draw(rows * R * P, 4),
             k = draw(rows * R * kN, 5), q = draw(rows * R * kN, 6), x = draw(rows * P, 7), z = draw(rows * P, 8),
             D = draw(kH, 9), mimo = draw(kH * R * P, 10), norm = draw(kH * P, 11),
             initial = draw(kB * kH * P * kN, 12);
        for (auto& a : log) a = -std::abs(a);
        Guarded y(rows * R * P), final(kB * kH * P * kN), states(shape.slots() * kH * P * kN), out(rows * P);
        kernel::Mamba3CoreParams<double> core;
        core.shape = shape;
        core.log = log.data(), core.w = w.data(), core.g = g.data(), core.v = v.data(), core.k = k.data();
        core.q = q.data(), core.initial = initial.data();
        core.y = y.data(), core.final = final.data(), core.states = states.data();
        kernel::mamba3_core(core);
        kernel::CombineParams<double> combine;
        combine.shape = shape, combine.eps = 1e-5;
        combine.y = y.data(), combine.x = x.data(), combine.D = D.data(), combine.z = z.data();
        combine.mimo_x = combine.mimo_z = combine.mimo_o = mimo.data(), combine.norm = norm.data();
        combine.out = out.data();
        kernel::mamba3_combine(combine);
        for (const Guarded* a : {&y, &final, &states, &out}) CHECK(a->whole());
        for (const Guarded* a : {&y, &final, &out}) {
          for (const double value : a->values()) CHECK(std::isfinite(value));
        }
        // Gradients too: dv and dinitial have rows of P, dk and dq of N.
        Guarded dlog(rows), dw(rows), dg(rows), dv(rows * R * P), dk(rows * R * kN), dq(rows * R * kN),
            dinitial(kB * kH * P * kN);
        kernel::Mamba3CoreVjpParams<double> back;
        back.in = core;
        const auto dfinal = draw(kB * kH * P * kN, 13);
        back.dy = v.data(), back.dfinal = dfinal.data();
        back.dlog = dlog.data(), back.dw = dw.data(), back.dg = dg.data(), back.dv = dv.data(),
        back.dk = dk.data();
        back.dq = dq.data(), back.dinitial = dinitial.data();
        kernel::mamba3_core_vjp(back);
        for (const Guarded* a : {&dlog, &dw, &dg, &dv, &dk, &dq, &dinitial}) CHECK(a->whole());

        if (L == 1) {
          auto B = draw(kB * R * kN, 14), C = draw(kB * R * kN, 15), dd = draw(kB * kH, 16),
               angle = draw(kB * 3, 17), before_phi = draw(kB * kH * 3, 18), before_k = draw(kB * R * kH * kN, 19);
          Guarded step_out(kB * kH * P), next_phi(kB * kH * 3), next_ssm(kB * kH * P * kN),
              next_k(kB * R * kH * kN);
          kernel::Mamba3StepParams<double> step;
          step.batch = kB, step.heads = kH, step.rank = R, step.headdim = P, step.state = kN, step.angles = 3;
          step.A_floor = 1e-4, step.eps = 1e-5;
          step.x = x.data(), step.B = B.data(), step.C = C.data(), step.dd_dt = step.dd_A = step.trap = dd.data();
          step.angle = angle.data(), step.D = D.data(), step.z = z.data(), step.out_norm = norm.data();
          step.mimo_x = step.mimo_z = step.mimo_o = mimo.data();
          step.phi = before_phi.data(), step.ssm = initial.data(), step.k = before_k.data(), step.v = v.data();
          step.out = step_out.data(), step.next_phi = next_phi.data(), step.next_ssm = next_ssm.data();
          step.next_k = next_k.data();
          kernel::mamba3_step(step);
          for (const Guarded* a : {&step_out, &next_phi, &next_ssm, &next_k}) {
            CHECK(a->whole());
            for (const double value : a->values()) CHECK((std::isfinite(value) && value != kGuard));
          }
        }

        // The recurrence with keys and queries made inside, and its gradient in one pass.
        shape.angles = 3;
        kernel::mamba3_test::Options options;
        options.D = options.z = R == 1;
        kernel::mamba3_test::Problem<double> want(shape, options), inside(shape, options);
        want.forward();
        want.backward();
        auto forward = inside.params(true);
        Guarded turned(rows * R * P), finished(rows * P), last(kB * kH * P * kN), phi(kB * kH * 3),
            kept(shape.slots() * kH * P * kN);
        forward.y = turned.data(), forward.final = last.data(), forward.last_phi = phi.data();
        forward.states = kept.data();
        if (forward.out) forward.out = finished.data();
        kernel::mamba3_core_spans(forward);
        for (const Guarded* a : {&turned, &finished, &last, &phi, &kept}) CHECK(a->whole());
        CHECK((forward.out ? finished.values() : turned.values()) == want.result());
        CHECK(last.values() == want.final);
        auto backward = inside.vjp_params();
        backward.in = forward;
        std::vector<Guarded> gradients;
        for (const auto& pair : inside.gradients())
          gradients.emplace_back(static_cast<int64_t>(pair.second->size()));
        double** const targets[] = {&backward.dlog,     &backward.dw,     &backward.dg,  &backward.dv,
                                    &backward.dinitial, &backward.dB,     &backward.dC,  &backward.dB_bias,
                                    &backward.dC_bias,  &backward.dangle, &backward.ddt, &backward.dinitial_phi,
                                    &backward.dD,       &backward.dz};
        for (size_t i = 0; i < gradients.size(); i++) {
          if (*targets[i]) *targets[i] = gradients[i].data();
        }
        kernel::mamba3_turned_vjp(backward);
        const auto right = want.gradients();
        for (size_t i = 0; i < gradients.size(); i++) {
          CAPTURE(i);
          CHECK(gradients[i].whole());
          if (*targets[i]) CHECK(gradients[i].values() == *right[i].first);
        }
      }
    }
  }
  // The step as a whole, whose results are arrays of their own: those of the sequence.
  for (const int headdim : {1, 40, 63, 65, 80}) {
    const Problem p = make_problem(2, 3, 2, headdim, 1, 1, 4, 1);
    const auto [out, last] = run(p);
    Mamba3State state = mamba3_zero_state(2, 2, 1, headdim, 4, 1, mx::float64);
    for (int t = 0; t < 3; t++) {
      const auto at = [&](const mx::array& a) { return mx::squeeze(cut(a, 1, t, t + 1), 1); };
      Mamba3Options o = p.options;
      o.angle = at(*o.angle), o.z = at(*o.z);
      auto [y, next] = mamba3_step(state, at(p.x), at(p.B), at(p.C), at(p.dd_dt), at(p.dd_A), at(p.trap), o);
      CHECK(difference(y, at(out)) < 1e-11);
      state = next;
    }
    expect_same(state, last, 1e-11);
  }
}

TEST_CASE("131,072 tokens with angles that walk: float32 stays near float64") {
  const int length = 131072;
  Problem p = make_problem(1, length, 1, 2, 1, 1, 4, 2, mx::float32);
  p.options.z = std::nullopt;
  p.dd_dt = p.dd_dt - 4.0f;
  const auto single = run(p);
  const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
  Problem q{wide(p.x), wide(p.B), wide(p.C), wide(p.dd_dt), wide(p.dd_A), wide(p.trap), p.options};
  for (auto* a : {&q.options.angle, &q.options.dt_bias, &q.options.B_norm_weight, &q.options.C_norm_weight,
                  &q.options.B_bias, &q.options.C_bias, &q.options.D}) {
    *a = wide(**a);
  }
  const auto fine = run(q);
  const double scale = mx::astype(mx::max(mx::abs(fine.first)), mx::float32).item<float>();
  // Phases are reduced at every token; their float32 sum is good to about 1e-4.
  CHECK(difference(single.first, fine.first) < 1e-3 * scale);
}

TEST_CASE("extremes of steps, decay, trapezoid and angles, zeros and huge values: mamba3") {
  const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
  struct Extreme {
    std::string what;
    std::function<void(Problem&)> change;
    double limit = 1e-4;
  };
  const auto all = [](mx::array& a, float value) { a = mx::full(a.shape(), value); };
  const auto first_huge = [](mx::array& a, float value) {
    mx::Shape start(a.ndim(), 0), stop(a.ndim(), 1);
    a = mx::slice_update(a, mx::full(stop, value), start, stop);
  };
  const std::vector<Extreme> extremes = {
      {"steps of 1e-4", [&](Problem& p) { all(p.dd_dt, -9.21f); }},
      {"steps of 1e-9", [&](Problem& p) { all(p.dd_dt, -20.7f); }},
      {"steps behind the threshold of the softplus", [&](Problem& p) { all(p.dd_dt, 20.5f); }},
      // A turn of 1000 pi has an error of 2e-4 in float32, and 40 of them add up.
      {"steps of 1000", [&](Problem& p) { all(p.dd_dt, 1000); }, 2e-3},
      {"complete decay", [&](Problem& p) { all(p.dd_A, 1e4f); }},
      {"decay at the floor", [&](Problem& p) { all(p.dd_A, -1e9f); }},
      {"no decay", [&](Problem& p) { all(p.dd_A, -1e30f), p.options.A_floor = 0; }},
      {"each token once", [&](Problem& p) { all(p.trap, 100); }},
      {"each token a step late", [&](Problem& p) { all(p.trap, -100); }},
      {"half turns forward", [&](Problem& p) { all(*p.options.angle, 1e4f); }},
      {"half turns backward", [&](Problem& p) { all(*p.options.angle, -1e4f); }},
      {"no input", [&](Problem& p) { all(p.x, 0); }},
      {"one value of 3e38",
       [&](Problem& p) {
         all(*p.options.B_norm_weight, 0.01f), all(*p.options.C_norm_weight, 0.01f);
         all(*p.options.B_bias, 0.01f), all(*p.options.C_bias, 0.01f), all(*p.options.D, 0.01f);
         all(*p.options.z, 0.5f);
         first_huge(p.x, 3e38f);
       }},
      {"keys as large as float16 has them", [&](Problem& p) { all(p.B, 65504); }},
  };
  for (const int rank : {1, 2}) {
    for (const int chunk : {0, 16}) {
      for (const Extreme& e : extremes) {
        CAPTURE(rank);
        CAPTURE(chunk);
        CAPTURE(e.what);
        Problem p = make_problem(1, 40, 2, 3, rank, 1, 4, 2, mx::float32);
        p.options.dt_bias = std::nullopt;
        if (rank > 1) {
          for (auto* m : {&p.options.mimo_x, &p.options.mimo_z, &p.options.mimo_o}) **m = **m * 0.1f;
        }
        p.options.chunk_size = chunk;
        e.change(p);
        Problem q{wide(p.x), wide(p.B), wide(p.C), wide(p.dd_dt), wide(p.dd_A), wide(p.trap), p.options};
        for (auto* a : {&q.options.angle, &q.options.B_norm_weight, &q.options.C_norm_weight, &q.options.B_bias,
                        &q.options.C_bias, &q.options.D, &q.options.z, &q.options.mimo_x, &q.options.mimo_z,
                        &q.options.mimo_o}) {
          if (*a) *a = wide(**a);
        }
        const auto [out, state] = run(p);
        const auto [fine, fine_state] = run(q);
        const auto close = [&e](const mx::array& a, const mx::array& b) {
          const double largest = mx::astype(mx::max(mx::abs(b)), mx::float32).item<float>();
          CHECK(mx::all(mx::isfinite(a)).item<bool>());
          CHECK(difference(mx::astype(a, mx::float64), b) <= e.limit * std::max(largest, 1e-30));
        };
        close(out, fine);
        close(state.ssm, fine_state.ssm);
        const auto gradients = mx::grad(
            [&](const std::vector<mx::array>& a) {
              return mx::sum(mamba3(a[0], a[1], a[2], a[3], a[4], a[5], p.options) * (1.f / 1024));
            },
            std::vector<int>{0, 1, 2, 3, 4, 5})({p.x, p.B, p.C, p.dd_dt, p.dd_A, p.trap});
        if (e.what == "one value of 3e38") continue;  // its square is beyond float32
        for (const auto& g : gradients) CHECK(mx::all(mx::isfinite(g)).item<bool>());
      }
    }
  }
}

TEST_CASE("mamba3 refuses what does not fit with one sentence") {
  const Problem siso = make_problem(2, 6, 4, 3, 1, 2, 6, 2, mx::float32);
  const Problem mimo = make_problem(2, 6, 4, 3, 2, 2, 6, 2, mx::float32);
  const auto ones = [](const mx::Shape& s, mx::Dtype d = mx::float32) { return mx::ones(s, d); };
  struct Row {
    const Problem& from;
    std::function<void(Problem&)> change;
    const char* says;
  };
  const std::vector<Row> rows = {
      {siso,
       [&](Problem& q) {
         q.x = ones({2, 6, 12});
       },
       "x must have shape {B, L, H, P}; got {2, 6, 12}"},
      {siso,
       [&](Problem& q) {
         q.x = ones({2, 6, 0, 3});
       },
       "x needs at least one head and one channel"},
      {siso,
       [&](Problem& q) {
         q.B = ones({2, 5, 1, 2, 6});
       },
       "B must have shape {B, L, R, G, N} or {B, L, G, N} with {2, 6} in front"},
      {siso,
       [&](Problem& q) {
         q.C = ones({2, 6, 1, 2, 4});
       },
       "C must have shape that of B = {2, 6, 1, 2, 6}"},
      {siso,
       [&](Problem& q) {
         q.B = q.C = ones({2, 6, 1, 3, 6});
       },
       "the groups of B must divide H = 4; got 3"},
      {siso,
       [&](Problem& q) {
         q.B = q.C = ones({2, 6, 1, 2, 0});
       },
       "B needs a rank and a state of at least 1"},
      {siso,
       [&](Problem& q) {
         q.dd_dt = ones({2, 6, 3});
       },
       "dd_dt must have shape {B, L, H} = {2, 6, 4}; got {2, 6, 3}"},
      {siso,
       [&](Problem& q) {
         q.dd_A = ones({2, 6});
       },
       "dd_A must have shape {B, L, H}"},
      {siso,
       [&](Problem& q) {
         q.trap = ones({2, 4, 6});
       },
       "trap must have shape {B, L, H}"},
      {siso,
       [&](Problem& q) {
         q.options.angle = ones({2, 6});
       },
       "angle must have shape {B, L, A}"},
      {siso,
       [&](Problem& q) {
         q.options.angle = ones({2, 6, 4});
       },
       "the angles must be 1 to N / 2 = 3; got 4"},
      {siso,
       [&](Problem& q) {
         q.B = q.C = ones({2, 6, 1, 2, 5});
       },
       "the state size N must be even with angles; got 5"},
      {siso, [&](Problem& q) { q.options.dt_bias = ones({3}); }, "dt_bias must have shape {H} = {4}"},
      {siso, [&](Problem& q) { q.options.B_norm_weight = ones({5}); }, "B_norm_weight must have shape {N} = {6}"},
      {siso,
       [&](Problem& q) {
         q.options.C_bias = ones({4, 6});
       },
       "C_bias must have shape {H, R, N} = {4, 1, 6}"},
      {siso,
       [&](Problem& q) {
         q.options.D = ones({4, 3});
       },
       "D must have shape {H} = {4}"},
      {siso,
       [&](Problem& q) {
         q.options.z = ones({2, 6, 4});
       },
       "z must have shape {B, L, H, P} = {2, 6, 4, 3}"},
      {siso, [&](Problem& q) { q.options.out_norm_weight = ones({12}); },
       "out_norm_weight must have shape {H, P} = {4, 3}"},
      {siso, [&](Problem& q) { q.options.A_floor = -1; }, "A_floor must not be negative"},
      {siso, [&](Problem& q) { q.options.eps = -1; }, "eps must not be negative"},
      {siso, [&](Problem& q) { q.options.chunk_size = -2; },
       "chunk_size must be positive, or 0 to choose; got -2"},
      {siso,
       [&](Problem& q) {
         q.options.cu_seqlens = {0, 6};
       },
       "cu_seqlens needs a batch of 1"},
      {siso,
       [&](Problem& q) {
         q.x = ones({2, 6, 4, 3}, mx::int32);
       },
       "x must be a real floating-point array; got int32"},
      {siso, [&](Problem& q) { q.options.initial_state = mamba3_zero_state(1, 4, 1, 3, 6, 2); },
       "initial_state.angle must have shape {S, H, A} = {2, 4, 2}"},
      {mimo, [&](Problem& q) { q.options.mimo_x = std::nullopt; },
       "a rank above 1 needs mimo_x and mimo_o; got rank 2"},
      {mimo, [&](Problem& q) { q.options.mimo_o = std::nullopt; },
       "a rank above 1 needs mimo_x and mimo_o; got rank 2"},
      {mimo,
       [&](Problem& q) {
         q.options.mimo_z = ones({4, 1, 3});
       },
       "mimo_z must have shape {H, R, P} = {4, 2, 3}"},
      {mimo, [&](Problem& q) { q.options.z = std::nullopt; }, "mimo_z needs the gate z"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.says);
    Problem q = row.from;
    row.change(q);
    std::string message;
    try {
      run(q);
    } catch (const Error& e) {
      message = e.what();
    }
    CAPTURE(message);
    CHECK(message.find(std::string("[mamba3] ") + row.says) != std::string::npos);
  }
}
