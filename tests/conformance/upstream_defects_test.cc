// Defects of the upstream implementations of Mamba, by their issue numbers. Each case
// computes the reported wrong value beside the right one and sees that they differ, or
// says with which mistake in the code it was seen to fail.
// Those of ssd and mamba3 that need their kernels are in aspis/ops/*/..._test.cc.

#include <sys/mman.h>

#include <cstring>
#include <limits>

#include "aspis/base/parallel.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/causal_conv1d/kernel/cpu.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/selective_scan/composed.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"
#include "aspis/ops/selective_scan/kernel/plan.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/conformance/support.h"

namespace aspis::conformance {
namespace {

struct Scan {
  mx::array u, delta, A, B, C;
  ScanOptions options;

  std::pair<mx::array, mx::array> run() const { return selective_scan_with_state(u, delta, A, B, C, options); }
};

Scan scan_problem(int batch, int length, int channels, int state) {
  Scan p{normal({batch, length, channels}, 1),    normal({batch, length, channels}, 2),
         uniform({channels, state}, 3, -2, -0.1), normal({batch, length, state}, 4),
         normal({batch, length, state}, 5),       {}};
  p.options.delta_softplus = true;
  p.options.delta_bias = normal({channels}, 6, 0.3, 2);
  return p;
}

}  // namespace

TEST_CASE("#368: the tail behind the last token takes no part in the reverse sweep") {
  // Lengths that no block divides, and a bias for which softplus(bias) is large. Upstream fills up to a block with
  // zeros, where dt is then softplus(bias): the gradient of the last state decays through the tail on its way in.
  for (const int L : {1, 15, 17, 37}) {
    CAPTURE(L);
    const Scan p = scan_problem(1, 48, 5, 3);
    const auto weight = normal({1, 48, 5}, 9), state_weight = normal({1, 5, 3}, 10);
    const Arrays in{tokens(p.u, 0, L), tokens(p.delta, 0, L), p.A, tokens(p.B, 0, L), tokens(p.C, 0, L)};
    const auto gradients = [&](const auto& scan, int tail) {
      return mx::grad(
          [&](const Arrays& a) {
            const auto filled = [&](const mx::array& m) {
              mx::Shape shape = m.shape();
              shape[1] = tail;
              return tail ? mx::concatenate({m, mx::zeros(shape, m.dtype())}, 1) : m;
            };
            const auto [y, last] = scan(filled(a[0]), filled(a[1]), a[2], filled(a[3]), filled(a[4]));
            return mx::sum(tokens(y, 0, L) * tokens(weight, 0, L)) + mx::sum(last * state_weight);
          },
          std::vector<int>{0, 1, 2, 3, 4})(in);
    };
    const auto kernel = [&](const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                            const mx::array& C) {
      return selective_scan_with_state(u, delta, A, B, C, p.options);
    };
    const auto definition = [&](const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                                const mx::array& C) {
      return selective_scan_composed(u, delta, A, mx::expand_dims(B, 2), mx::expand_dims(C, 2), p.options, {});
    };
    const auto got = gradients(kernel, 0), want = gradients(definition, 0), reported = gradients(kernel, 48 - L);
    for (size_t i = 0; i < got.size(); i++) CHECK(error(got[i], want[i]) < 1e-12);
    for (const size_t i : {size_t{0}, size_t{1}, size_t{2}, size_t{3}}) CHECK(error(reported[i], want[i]) > 1e-2);
  }
}

TEST_CASE("PR #371: the last state holds the factor B also where B is constant") {
  Scan p = scan_problem(1, 20, 4, 3);
  const auto constant = normal({4, 3}, 8);
  p.B = constant;
  const auto got = p.run().second;
  // The recurrence by hand.
  const auto dt = mx::log1p(mx::exp(p.delta + *p.options.delta_bias));
  mx::array with = mx::zeros({1, 4, 3}, mx::float64), without = with;
  for (int t = 0; t < 20; t++) {
    const auto step = mx::expand_dims(mx::squeeze(tokens(dt, t, t + 1), 1), 2),
               u = mx::expand_dims(mx::squeeze(tokens(p.u, t, t + 1), 1), 2);
    with = mx::exp(step * p.A) * with + step * u * constant;
    without = mx::exp(step * p.A) * without + step * u;
  }
  CHECK(error(got, with) < 1e-7);  // the engine's exp in float64 is good to 4e-9
  CHECK(error(got, without) > 0.1);
}

TEST_CASE("#258, #536, #829: a prefill in chunks carries the state of Mamba-1") {
  const Scan p = scan_problem(2, 50, 6, 4);
  const auto whole = p.run();
  std::optional<mx::array> state;
  Arrays outs;
  for (int first = 0; first < 50; first += 13) {
    const int last = std::min(50, first + 13);
    Scan q{tokens(p.u, first, last), tokens(p.delta, first, last), p.A,
           tokens(p.B, first, last), tokens(p.C, first, last),     p.options};
    q.options.initial_state = state;
    auto [out, next] = q.run();
    outs.push_back(out);
    state = next;
  }
  CHECK(error(mx::concatenate(outs, 1), whole.first) < 1e-12);
  CHECK(error(*state, whole.second) < 1e-12);
  // Without the state the second chunk is another sequence.
  const Scan second{tokens(p.u, 13, 26), tokens(p.delta, 13, 26), p.A,
                    tokens(p.B, 13, 26), tokens(p.C, 13, 26),     p.options};
  CHECK(error(second.run().first, tokens(whole.first, 13, 26)) > 1e-3);
}

TEST_CASE("#352, #558: infinities in padding give no NaN, in values or gradients") {
  const double inf = std::numeric_limits<double>::infinity();
  constexpr int kReal = 20, kL = 30;
  std::vector<int32_t> ids(kL, 0);
  std::fill(ids.begin() + kReal, ids.end(), -1);
  const mx::array seq_idx(ids.data(), {1, kL}, mx::int32);
  const auto spoil = [&](const mx::array& a, double with) {
    return mx::concatenate({tokens(a, 0, kReal), mx::full(tokens(a, kReal, kL).shape(), with, mx::float64)}, 1);
  };
  const auto has_nan = [](const mx::array& a) { return mx::any(mx::isnan(a)).item<bool>(); };
  // `f` with the ids on spoiled inputs is `f` on the real tokens alone, with zeros behind.
  const auto check = [&](const char* what, const auto& f, const Arrays& in, const std::vector<bool>& has_tokens) {
    CAPTURE(what);
    Arrays spoiled = in, real = in;
    for (size_t i = 0; i < in.size(); i++) {
      if (has_tokens[i]) spoiled[i] = spoil(in[i], inf), real[i] = tokens(in[i], 0, kReal);
    }
    const auto weight = normal(f(in, seq_idx).shape(), 30);
    const auto run_weighted = [&](const Arrays& a, const std::optional<mx::array>& by, int count) {
      auto [out, gradients] =
          mx::vjp([&](const Arrays& b) { return Arrays{f(b, by)}; }, a, {tokens(weight, 0, count)});
      return Outcome{out, gradients};
    };
    const Outcome got = run_weighted(spoiled, seq_idx, kL), want = run_weighted(real, {}, kReal);
    const auto behind = [&](const mx::array& a) {
      CHECK(mx::all(mx::equal(tokens(a, kReal, kL), mx::array(0, mx::float64))).item<bool>());
    };
    CHECK(error(tokens(got.outputs[0], 0, kReal), want.outputs[0]) < 1e-12);
    behind(got.outputs[0]);
    for (size_t i = 0; i < in.size(); i++) {
      CAPTURE(i);
      if (!has_tokens[i]) {
        CHECK(error(got.gradients[i], want.gradients[i]) < 1e-12);
        continue;
      }
      CHECK(error(tokens(got.gradients[i], 0, kReal), want.gradients[i]) < 1e-12);
      behind(got.gradients[i]);
    }
  };
  const Scan p = scan_problem(1, kL, 5, 3);
  const auto scan = [&](const Arrays& a, const std::optional<mx::array>& by) {
    ScanOptions o = p.options;
    o.seq_idx = by;
    return selective_scan(a[0], a[1], a[2], a[3], a[4], o);
  };
  check("scan", scan, {p.u, p.delta, p.A, p.B, p.C}, {true, true, false, true, true});
  const Arrays dual_in{normal({1, kL, 2, 3}, 1), normal({1, kL, 2}, 2), uniform({2}, 3, -2, -1),
                       normal({1, kL, 1, 4}, 4), normal({1, kL, 1, 4}, 5)};
  const auto dual = [&](const Arrays& a, const std::optional<mx::array>& by, int chunk) {
    SsdOptions o;
    o.dt_softplus = true, o.seq_idx = by, o.chunk_size = chunk;
    return ssd(a[0], a[1], a[2], a[3], a[4], o);
  };
  for (const int chunk : {0, 8}) {
    check("ssd", [&](const Arrays& a, const std::optional<mx::array>& by) { return dual(a, by, chunk); }, dual_in,
          {true, true, false, true, true});
  }
  const auto conv = [&](const Arrays& a, const std::optional<mx::array>& by) {
    Conv1dOptions o;
    o.seq_idx = by, o.silu = true;
    return causal_conv1d(a[0], a[1], o);
  };
  check("conv", conv, {normal({1, kL, 5}, 1), normal({5, 4}, 2)}, {true, false});

  // As reported: padding made harmless by a factor of zero, dt = 0. What is there times 0 is NaN, and stays.
  const Arrays by_zero{spoil(p.u, inf), spoil(p.delta, -inf), p.A, spoil(p.B, inf), spoil(p.C, 1)};
  const Outcome reported = run([&](const Arrays& a) { return Arrays{scan(a, {})}; }, by_zero);
  CHECK(has_nan(reported.outputs[0]));
  CHECK(has_nan(reported.gradients[2]));
  const Outcome dual_reported = run(
      [&](const Arrays& a) { return Arrays{dual(a, {}, 8)}; },
      {spoil(dual_in[0], inf), spoil(dual_in[1], -inf), dual_in[2], spoil(dual_in[3], inf), spoil(dual_in[4], 1)});
  CHECK(has_nan(dual_reported.outputs[0]));
  CHECK(has_nan(dual_reported.gradients[2]));
}

TEST_CASE("#827: gradients of scan, convolution and mamba3 are the same bits in five runs") {
  // `parameter`: an input whose gradient is a sum over the batch.
  const auto check = [](const char* what, const Function& f, const Arrays& in, int parameter) {
    CAPTURE(what);
    const Arrays single = cast(in, mx::float32);
    const Outcome first = run(f, single);
    for (int i = 0; i < 4; i++) {
      set_num_threads(1 + i);
      const Outcome again = run(f, single);
      for (size_t k = 0; k < first.gradients.size(); k++)
        CHECK(mx::array_equal(again.gradients[k], first.gradients[k]).item<bool>());
    }
    set_num_threads(0);
    // What atomics do: another order of the sum over the batch, other bits.
    Arrays turned = single;
    for (size_t i = 0; i < turned.size(); i++) {
      if (turned[i].shape(0) == 3 && turned[i].ndim() > 2)
        turned[i] = mx::take(turned[i], mx::array({2, 0, 1}), 0);
    }
    const auto with_loss = [&](const Arrays& a) {
      return mx::grad([&](const Arrays& b) { return mx::sum(mx::square(f(b)[0])); },
                      std::vector<int>{parameter})(a)[0];
    };
    const auto straight = with_loss(single), reordered = with_loss(turned);
    CHECK(mx::array_equal(with_loss(single), straight).item<bool>());
    CHECK_FALSE(mx::array_equal(reordered, straight).item<bool>());
    CHECK(error(reordered, straight) < 1e-5);
  };
  const Scan p = scan_problem(3, 90, 70, 4);
  check(
      "scan", [&](const Arrays& a) { return Arrays{selective_scan(a[0], a[1], a[2], a[3], a[4])}; },
      {p.u, mx::abs(p.delta) * 0.1, p.A, p.B, p.C}, 2);
  check(
      "conv", [](const Arrays& a) { return Arrays{causal_conv1d(a[0], a[1])}; },
      {normal({3, 200, 70}, 1), normal({70, 4}, 2)}, 1);
  check(
      "mamba3",
      [](const Arrays& a) {
        Mamba3Options o;
        o.angle = a[6], o.dt_bias = a[7];
        return Arrays{mamba3(a[0], a[1], a[2], a[3], a[4], a[5], o)};
      },
      {normal({3, 90, 4, 8}, 1), normal({3, 90, 1, 1, 8}, 2), normal({3, 90, 1, 1, 8}, 3),
       normal({3, 90, 4}, 4, 1, -2), normal({3, 90, 4}, 5), normal({3, 90, 4}, 6), normal({3, 90, 2}, 7),
       normal({4}, 8)},
      7);
}

TEST_CASE("#1015, #1033-#1038: scan and convolution reach rows beyond 2^31 elements") {
  // Seen to fail with the place of a token in 32 bits, in the rows of the scan and in those of the convolution.
  // Tokens 2^31 values apart, in address space that is never touched in between: 32 bits with a sign end at the
  // second token, and without one the third has the place of the first.
  constexpr int64_t kStride = int64_t{1} << 31;
  constexpr int kTokens = 4, kD = 20, kN = 2;
  const size_t bytes = (kStride * (kTokens - 1) + kD) * sizeof(float);
  const auto spread = [&](const std::vector<float>& rows, int width) {
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    auto* const data = static_cast<float*>(memory);
    for (int t = 0; t < kTokens; t++) std::copy_n(rows.data() + t * width, width, data + t * kStride);
    return data;
  };
  std::vector<float> u(kTokens * kD), delta(u.size(), 0.25f), B(kTokens * kN, 0.5f), C(B.size(), 1.5f),
      A(kD * kN, -1.f);
  for (size_t i = 0; i < u.size(); i++) u[i] = static_cast<float>(i) * 0.1f - 3;
  std::vector<float> near(u.size()), far(u.size());
  kernel::ScanParams<float> p;
  p.shape = {1, kTokens, kD, kN, 1};
  p.u = {u.data(), 0, kD}, p.delta = {delta.data(), 0, kD};
  p.A = A.data();
  p.B = {B.data(), false, 0, kN, kN}, p.C = {C.data(), false, 0, kN, kN};
  p.out = {near.data(), 0, kD};
  kernel::scan(p);
  float* const far_u = spread(u, kD);
  float* const far_B = spread(B, kN);
  p.u = {far_u, 0, kStride};
  p.B = {far_B, false, 0, kStride, kN};
  p.out = {far.data(), 0, kD};
  kernel::scan(p);
  CHECK(near == far);

  std::vector<float> weight(kD * 4, 0.3f), workspace;
  kernel::Conv1dParams<float> c;
  c.batch = 1, c.length = kTokens, c.channels = kD, c.width = 4, c.reach = 3;
  c.x = u.data(), c.x_token = kD, c.weight = weight.data(), c.out = near.data();
  workspace.resize(kernel::conv1d_workspace(c));
  c.workspace = workspace.data();
  kernel::conv1d(c);
  c.x = far_u, c.x_token = kStride, c.out = far.data();
  kernel::conv1d(c);
  CHECK(near == far);
  munmap(far_u, bytes);
  munmap(far_B, bytes);
}

TEST_CASE("MIMO, packed: each sequence ends with its own last value and key") {
  constexpr int kH = 2, kR = 3, kP = 4, kN = 4;
  const std::vector<int32_t> cu{0, 5, 6, 17};
  const int L = cu.back();
  const auto x = normal({1, L, kH, kP}, 1), B = normal({1, L, kR, 1, kN}, 2), C = normal({1, L, kR, 1, kN}, 3),
             dt = normal({1, L, kH}, 4), A = normal({1, L, kH}, 5), trap = normal({1, L, kH}, 6),
             angle = normal({1, L, 2}, 7);
  Mamba3Options o;
  o.mimo_x = normal({kH, kR, kP}, 8), o.mimo_o = normal({kH, kR, kP}, 9), o.pairing = RotaryPairing::kHalf;
  const auto run_part = [&](int from, int to, const std::vector<int32_t>& bounds) {
    Mamba3Options q = o;
    q.angle = tokens(angle, from, to);
    q.cu_seqlens = bounds;
    return mamba3_with_state(tokens(x, from, to), tokens(B, from, to), tokens(C, from, to), tokens(dt, from, to),
                             tokens(A, from, to), tokens(trap, from, to), q);
  };
  const auto packed = run_part(0, L, cu).second;
  for (int i = 0; i < 3; i++) {
    CAPTURE(i);
    const auto own = run_part(cu[i], cu[i + 1], {}).second;
    const auto row = [&](const mx::array& a) {
      mx::Shape start(a.ndim(), 0), stop = a.shape();
      start[0] = i, stop[0] = i + 1;
      return mx::slice(a, start, stop);
    };
    CHECK(error(row(packed.v), own.v) < 1e-12);
    CHECK(error(row(packed.k), own.k) < 1e-12);
    CHECK(error(row(packed.angle), own.angle) < 1e-12);
    CHECK(error(row(packed.ssm), own.ssm) < 1e-12);
    // What was reported: the last token of the whole pack for all.
    if (i < 2) CHECK(error(row(packed.v), mx::squeeze(tokens(x, L - 1, L), 1)) > 1e-2);
  }
}

TEST_CASE("MIMO: lengths that the chunk does not divide read nothing behind the end") {
  constexpr int kH = 2, kR = 2, kP = 4, kN = 4, kBehind = 16;
  const auto angle = normal({1, 40, 2}, 7);
  const Arrays in{normal({1, 40, kH, kP}, 1),
                  normal({1, 40, kR, 1, kN}, 2),
                  normal({1, 40, kR, 1, kN}, 3),
                  normal({1, 40, kH}, 4),
                  normal({1, 40, kH}, 5),
                  normal({1, 40, kH}, 6),
                  angle,
                  normal({1, 40, kH, kP}, 10)};
  const auto x = normal({kH, kR, kP}, 8), out = normal({kH, kR, kP}, 9);
  for (const int L : {1, 7, 9, 17, 33}) {
    for (const int chunk : {0, 8, 16}) {
      CAPTURE(L);
      CAPTURE(chunk);
      const auto f = [&](const Arrays& a) {
        Mamba3Options o;
        o.mimo_x = x, o.mimo_o = out, o.angle = a[6], o.z = a[7], o.chunk_size = chunk;
        auto [y, last] = mamba3_with_state(a[0], a[1], a[2], a[3], a[4], a[5], o);
        return Arrays{y, last.ssm, last.k, last.v};
      };
      // The first L tokens of memory that goes on with NaN. A view of a single row is dense, so that the kernels
      // get this very memory and no copy of it.
      Arrays clean, views;
      for (const auto& a : in) {
        auto shape = a.shape();
        shape[1] = kBehind;
        clean.push_back(mx::contiguous(tokens(a, 0, L)));
        auto whole = mx::concatenate({tokens(a, 0, L), mx::full(shape, NAN, mx::float64)}, 1);
        mx::eval(whole);
        auto view = tokens(whole, 0, L);
        mx::eval(view);
        REQUIRE(view.flags().row_contiguous);
        REQUIRE(view.data<double>() == whole.data<double>());
        REQUIRE(std::isnan(view.data<double>()[view.size()]));
        views.push_back(view);
      }
      const Outcome got = run(f, views), want = run(f, clean);
      for (size_t i = 0; i < got.outputs.size(); i++)
        CHECK(mx::array_equal(got.outputs[i], want.outputs[i]).item<bool>());
      for (size_t i = 0; i < got.gradients.size(); i++)
        CHECK(mx::array_equal(got.gradients[i], want.gradients[i]).item<bool>());
      // As reported: the rest of the last chunk is taken from what lies behind.
      if (chunk > 0) {
        auto longer = in;
        for (size_t i = 0; i < in.size(); i++) {
          auto shape = in[i].shape();
          shape[1] = L + 1;
          auto step = mx::Strides(in[i].ndim(), 1);
          for (size_t k = in[i].ndim() - 1; k-- > 0;) step[k] = step[k + 1] * shape[k + 1];
          longer[i] = mx::as_strided(views[i], shape, step, 0);
        }
        const auto reported = f(longer);
        CHECK(mx::any(mx::isnan(reported[1])).item<bool>());
      }
    }
  }
}

// Reported is an error for them: were it here, the calls would throw.
TEST_CASE("channel counts and strides that 8 does not divide are taken by scan and convolution") {
  for (const int D : {1, 3, 7, 9, 13}) {
    CAPTURE(D);
    const auto wide = normal({2, 20, D + 5}, 1), w = normal({D, 4}, 2);
    const auto x = mx::slice(wide, {0, 0, 3}, {2, 20, D + 3});
    CHECK(mx::array_equal(causal_conv1d(x, w), causal_conv1d(mx::contiguous(x), w)).item<bool>());
    Scan p = scan_problem(2, 20, D, 3);
    const auto dense = p.run().first;
    const auto padded = mx::concatenate({p.u, normal({2, 20, 5}, 8)}, 2);
    p.u = mx::slice(padded, {0, 0, 0}, {2, 20, D});
    CHECK(mx::array_equal(p.run().first, dense).item<bool>());
  }
}

TEST_CASE("a step without dt_bias is one token of the whole, heads tied or not") {
  // Upstream looks at the strides of dt_bias to learn whether heads are tied, and fails where there is none.
  const auto x = normal({2, 3, 4}, 1), dt = normal({2, 3}, 2), A = uniform({3}, 3, -2, -1),
             B = normal({2, 1, 5}, 4), C = normal({2, 1, 5}, 5), state = normal({2, 3, 4, 5}, 6);
  SsdOptions o;
  o.dt_softplus = true;
  const auto step = ssd_step(state, x, dt, A, B, C, o);
  o.initial_state = state;
  const auto row = [](const mx::array& a) { return mx::expand_dims(a, 1); };
  const auto whole = ssd_with_state(row(x), row(dt), A, row(B), row(C), o);
  CHECK(error(row(step.first), whole.first) < 1e-12);
  CHECK(error(step.second, whole.second) < 1e-12);
  // The same through the step of Mamba-1, with A and dt of a head tied over its channels by strides of zero, and
  // with copies of them.
  const auto tied_dt = mx::reshape(mx::broadcast_to(mx::expand_dims(dt, 2), {2, 3, 4}), {2, 12}),
             tied_A = mx::broadcast_to(mx::reshape(A, {3, 1, 1}), {3, 4, 5});
  for (const bool copies : {false, true}) {
    const auto maybe = [&](const mx::array& a) { return copies ? mx::contiguous(a) : a; };
    ScanOptions s;
    s.delta_softplus = true;
    const auto [out, next] =
        selective_scan_step(mx::reshape(state, {2, 12, 5}), mx::reshape(x, {2, 12}), maybe(tied_dt),
                            mx::reshape(maybe(tied_A), {12, 5}), mx::squeeze(B, 1), mx::squeeze(C, 1), s);
    CHECK(error(mx::reshape(out, {2, 3, 4}), step.first) < 1e-12);
    CHECK(error(mx::reshape(next, {2, 3, 4, 5}), step.second) < 1e-12);
  }
}

TEST_CASE("#500, #641: steps and the whole agree in float32 to the last digits") {
  const Scan p = scan_problem(2, 64, 20, 16);
  const auto single = [](const mx::array& a) { return mx::astype(a, mx::float32); };
  ScanOptions o;
  o.delta_softplus = true;
  o.delta_bias = single(*p.options.delta_bias);
  const auto [want, last] =
      selective_scan_with_state(single(p.u), single(p.delta), single(p.A), single(p.B), single(p.C), o);
  mx::array state = mx::zeros({2, 20, 16}), rounded = state;
  Arrays outs, rounded_outs;
  const auto at = [&](const mx::array& a, int t) { return single(mx::squeeze(tokens(a, t, t + 1), 1)); };
  for (int t = 0; t < 64; t++) {
    auto [out, next] =
        selective_scan_step(state, at(p.u, t), at(p.delta, t), single(p.A), at(p.B, t), at(p.C, t), o);
    outs.push_back(mx::expand_dims(out, 1));
    state = next;
    // As reported: one of the two ways keeps its state in the type of the activations.
    auto [other, other_next] =
        selective_scan_step(rounded, at(p.u, t), at(p.delta, t), single(p.A), at(p.B, t), at(p.C, t), o);
    rounded_outs.push_back(mx::expand_dims(other, 1));
    rounded = mx::astype(mx::astype(other_next, mx::bfloat16), mx::float32);
  }
  CHECK(error(mx::concatenate(outs, 1), want) < 5e-7);
  CHECK(error(state, last) < 5e-7);
  CHECK(error(mx::concatenate(rounded_outs, 1), want) > 1e-4);
}

TEST_CASE("norms of B and C inside mamba3: gradients by finite differences") {
  constexpr int kH = 2, kP = 3, kN = 4;
  const Arrays in{normal({1, 6, kH, kP}, 1), normal({1, 6, 1, 1, kN}, 2), normal({1, 6, 1, 1, kN}, 3),
                  normal({1, 6, kH}, 4),     normal({1, 6, kH}, 5),       normal({1, 6, kH}, 6),
                  normal({kN}, 7, 0.2, 1),   normal({kN}, 8, 0.2, 1)};
  const auto weight = normal({1, 6, kH, kP}, 9);
  const auto loss = [&](const Arrays& a) {
    Mamba3Options o;
    o.B_norm_weight = a[6], o.C_norm_weight = a[7];
    return mx::sum(mamba3(a[0], a[1], a[2], a[3], a[4], a[5], o) * weight);
  };
  for (const int which : {1, 2, 6, 7}) {
    CAPTURE(which);
    const auto gradient = mx::grad(loss, std::vector<int>{which})(in)[0];
    const auto direction = normal(in[static_cast<size_t>(which)].shape(), 20);
    const auto moved = [&](double h) {
      Arrays a = in;
      a[static_cast<size_t>(which)] = a[static_cast<size_t>(which)] + direction * mx::array(h, mx::float64);
      return values(loss(a))[0];
    };
    const double numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
    CHECK(values(mx::sum(gradient * direction))[0] == doctest::Approx(numeric).epsilon(1e-7));
    if (which > 2) continue;
    // As reported, the gradient stops at the norm: its root counts as a constant.
    const auto stopped = mx::grad(
        [&](const Arrays& a) {
          const auto normed = [&](size_t i) {
            const auto root =
                mx::rsqrt(mx::mean(mx::square(a[i]), -1, true) + mx::array(double{1e-5f}, mx::float64));
            return a[i] * mx::stop_gradient(root) * a[i + 5];
          };
          return mx::sum(mamba3(a[0], normed(1), normed(2), a[3], a[4], a[5]) * weight);
        },
        std::vector<int>{which})(in)[0];
    CHECK(std::abs(values(mx::sum(stopped * direction))[0] - numeric) > 1e-3 * std::abs(numeric));
  }
}

}  // namespace aspis::conformance
