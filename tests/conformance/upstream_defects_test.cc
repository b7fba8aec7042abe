// Defects of the upstream implementations of Mamba, by their issue numbers: each
// case fails on the behaviour that was reported, which it computes beside.
// Those of ssd and mamba3 that need their kernels are in aspis/ops/*/..._test.cc.

#include <sys/mman.h>

#include <cstring>
#include <limits>

#include "aspis/base/parallel.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/causal_conv1d/kernel/cpu.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/mamba3/mamba3.h"
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
  Scan p{normal({batch, length, channels}, 1), normal({batch, length, channels}, 2), uniform({channels, state}, 3, -2, -0.1),
         normal({batch, length, state}, 4), normal({batch, length, state}, 5), {}};
  p.options.delta_softplus = true;
  p.options.delta_bias = normal({channels}, 6, 0.3, 2);
  return p;
}

}  // namespace

TEST_CASE("#368: the tail behind the last token takes no part in the reverse sweep") {
  // A length that no block divides, and a bias for which softplus(bias) is large: upstream's tail then decays
  // and accumulates. Gradients of the short sequence are those of the same tokens inside a longer one whose
  // later outputs do not count.
  for (const int L : {1, 15, 17, 37}) {
    CAPTURE(L);
    const Scan p = scan_problem(1, 48, 5, 3);
    const auto weight = normal({1, 48, 5}, 9);
    const auto gradients = [&](int length) {
      return mx::grad(
          [&](const Arrays& a) {
            const auto y = selective_scan(a[0], a[1], a[2], a[3], a[4], p.options);
            return mx::sum(tokens(y, 0, L) * tokens(weight, 0, L));
          },
          std::vector<int>{0, 1, 2, 3, 4})(
          {tokens(p.u, 0, length), tokens(p.delta, 0, length), p.A, tokens(p.B, 0, length), tokens(p.C, 0, length)});
    };
    const auto alone = gradients(L), inside = gradients(48);
    for (const size_t i : {size_t{0}, size_t{1}, size_t{3}, size_t{4}}) CHECK(error(alone[i], tokens(inside[i], 0, L)) < 1e-12);
    CHECK(error(alone[2], inside[2]) < 1e-12);
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
    Scan q{tokens(p.u, first, last), tokens(p.delta, first, last), p.A, tokens(p.B, first, last),
           tokens(p.C, first, last), p.options};
    q.options.initial_state = state;
    auto [out, next] = q.run();
    outs.push_back(out);
    state = next;
  }
  CHECK(error(mx::concatenate(outs, 1), whole.first) < 1e-12);
  CHECK(error(*state, whole.second) < 1e-12);
  // Without the state the second chunk is another sequence.
  const Scan second{tokens(p.u, 13, 26), tokens(p.delta, 13, 26), p.A, tokens(p.B, 13, 26), tokens(p.C, 13, 26), p.options};
  CHECK(error(second.run().first, tokens(whole.first, 13, 26)) > 1e-3);
}

TEST_CASE("#352, #558: infinities in padding give no NaN, in values or gradients") {
  const double inf = std::numeric_limits<double>::infinity();
  std::vector<int32_t> ids(30, 0);
  std::fill(ids.begin() + 20, ids.end(), -1);
  const mx::array seq_idx(ids.data(), {1, 30}, mx::int32);
  const auto spoil = [&](const mx::array& a) {
    auto shape = tokens(a, 20, 30).shape();
    return mx::concatenate({tokens(a, 0, 20), mx::full(shape, inf, mx::float64)}, 1);
  };
  const auto finite = [](const Arrays& list) {
    for (const auto& a : list) CHECK(mx::all(mx::isfinite(a)).item<bool>());
  };
  const Scan p = scan_problem(1, 30, 5, 3);
  const Outcome scan = run(
      [&](const Arrays& a) {
        ScanOptions o = p.options;
        o.seq_idx = seq_idx;
        return Arrays{selective_scan(a[0], a[1], a[2], a[3], a[4], o)};
      },
      {spoil(p.u), spoil(p.delta), p.A, spoil(p.B), spoil(p.C)});
  finite(scan.outputs), finite(scan.gradients);
  const Outcome dual = run(
      [&](const Arrays& a) {
        SsdOptions o;
        o.dt_softplus = true;
        o.seq_idx = seq_idx;
        return Arrays{ssd(a[0], a[1], a[2], a[3], a[4], o)};
      },
      {spoil(normal({1, 30, 2, 3}, 1)), spoil(normal({1, 30, 2}, 2)), uniform({2}, 3, -2, -1),
       spoil(normal({1, 30, 1, 4}, 4)), spoil(normal({1, 30, 1, 4}, 5))});
  finite(dual.outputs), finite(dual.gradients);
  const Outcome conv = run(
      [&](const Arrays& a) {
        Conv1dOptions o;
        o.seq_idx = seq_idx;
        o.silu = true;
        return Arrays{causal_conv1d(a[0], a[1], o)};
      },
      {spoil(normal({1, 30, 5}, 1)), normal({5, 4}, 2)});
  finite(conv.outputs), finite(conv.gradients);
}

TEST_CASE("#827: gradients of scan, convolution and mamba3 are the same bits in five runs") {
  const auto check = [](const char* what, const Function& f, const Arrays& in) {
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
  };
  const Scan p = scan_problem(3, 90, 70, 4);
  check("scan", [&](const Arrays& a) { return Arrays{selective_scan(a[0], a[1], a[2], a[3], a[4])}; },
        {p.u, mx::abs(p.delta) * 0.1, p.A, p.B, p.C});
  check("conv", [](const Arrays& a) { return Arrays{causal_conv1d(a[0], a[1])}; }, {normal({3, 200, 70}, 1), normal({70, 4}, 2)});
  check("mamba3",
        [](const Arrays& a) {
          Mamba3Options o;
          o.angle = a[6];
          return Arrays{mamba3(a[0], a[1], a[2], a[3], a[4], a[5], o)};
        },
        {normal({2, 90, 3, 8}, 1), normal({2, 90, 1, 1, 8}, 2), normal({2, 90, 1, 1, 8}, 3), normal({2, 90, 3}, 4, 1, -2),
         normal({2, 90, 3}, 5), normal({2, 90, 3}, 6), normal({2, 90, 2}, 7)});
}

TEST_CASE("#1015, #1033-#1038: scan and convolution reach rows beyond 2^31 elements") {
  // Tokens 2^30 values apart, in address space that is never touched in between.
  constexpr int64_t kStride = int64_t{1} << 30;
  constexpr int kTokens = 4, kD = 20, kN = 2;
  const size_t bytes = (kStride * (kTokens - 1) + kD) * sizeof(float);
  const auto spread = [&](const std::vector<float>& rows, int width) {
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    auto* const data = static_cast<float*>(memory);
    for (int t = 0; t < kTokens; t++) std::copy_n(rows.data() + t * width, width, data + t * kStride);
    return data;
  };
  std::vector<float> u(kTokens * kD), delta(u.size(), 0.25f), B(kTokens * kN, 0.5f), C(B.size(), 1.5f), A(kD * kN, -1.f);
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
             dt = normal({1, L, kH}, 4), A = normal({1, L, kH}, 5), trap = normal({1, L, kH}, 6), angle = normal({1, L, 2}, 7);
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
  constexpr int kH = 2, kR = 2, kP = 4, kN = 4;
  const auto x = normal({1, 40, kH, kP}, 1), B = normal({1, 40, kR, 1, kN}, 2), C = normal({1, 40, kR, 1, kN}, 3),
             dt = normal({1, 40, kH}, 4), A = normal({1, 40, kH}, 5), trap = normal({1, 40, kH}, 6);
  Mamba3Options o;
  o.mimo_x = normal({kH, kR, kP}, 8), o.mimo_o = normal({kH, kR, kP}, 9);
  for (const int L : {1, 7, 9, 17, 33}) {
    for (const int chunk : {8, 16}) {
      o.chunk_size = chunk;
      // The same tokens with NaN behind them: a view that ends before the poison.
      const auto view = [&](const mx::array& a, bool poison) {
        if (!poison) return mx::contiguous(tokens(a, 0, L));
        auto shape = a.shape();
        shape[1] = 8;
        return tokens(mx::concatenate({tokens(a, 0, L), mx::full(shape, NAN, mx::float64)}, 1), 0, L);
      };
      const auto out = [&](bool poison) {
        return mamba3(view(x, poison), view(B, poison), view(C, poison), view(dt, poison), view(A, poison),
                      view(trap, poison), o);
      };
      CHECK(mx::array_equal(out(true), out(false)).item<bool>());
    }
  }
}

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
  const auto x = normal({2, 3, 4}, 1), dt = normal({2, 3}, 2), A = uniform({3}, 3, -2, -1), B = normal({2, 1, 5}, 4),
             C = normal({2, 1, 5}, 5), state = normal({2, 3, 4, 5}, 6);
  SsdOptions o;
  o.dt_softplus = true;
  const auto step = ssd_step(state, x, dt, A, B, C, o);
  o.initial_state = state;
  const auto row = [](const mx::array& a) { return mx::expand_dims(a, 1); };
  const auto whole = ssd_with_state(row(x), row(dt), A, row(B), row(C), o);
  CHECK(error(row(step.first), whole.first) < 1e-12);
  CHECK(error(step.second, whole.second) < 1e-12);
}

TEST_CASE("#500, #641: steps and the whole agree in float32 to the last digits") {
  const Scan p = scan_problem(2, 64, 20, 16);
  const auto single = [](const mx::array& a) { return mx::astype(a, mx::float32); };
  ScanOptions o;
  o.delta_softplus = true;
  o.delta_bias = single(*p.options.delta_bias);
  const auto [want, last] = selective_scan_with_state(single(p.u), single(p.delta), single(p.A), single(p.B), single(p.C), o);
  mx::array state = mx::zeros({2, 20, 16});
  Arrays outs;
  const auto at = [&](const mx::array& a, int t) { return single(mx::squeeze(tokens(a, t, t + 1), 1)); };
  for (int t = 0; t < 64; t++) {
    auto [out, next] = selective_scan_step(state, at(p.u, t), at(p.delta, t), single(p.A), at(p.B, t), at(p.C, t), o);
    outs.push_back(mx::expand_dims(out, 1));
    state = next;
  }
  CHECK(error(mx::concatenate(outs, 1), want) < 5e-7);
  CHECK(error(state, last) < 5e-7);
}

TEST_CASE("norms of B and C inside mamba3: gradients by finite differences") {
  constexpr int kH = 2, kP = 3, kN = 4;
  const Arrays in{normal({1, 6, kH, kP}, 1),  normal({1, 6, 1, 1, kN}, 2), normal({1, 6, 1, 1, kN}, 3), normal({1, 6, kH}, 4),
                  normal({1, 6, kH}, 5),      normal({1, 6, kH}, 6),       normal({kN}, 7, 0.2, 1),     normal({kN}, 8, 0.2, 1)};
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
  }
}

}  // namespace aspis::conformance
