#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/test_problem.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using namespace aspis::kernel;
using mamba3_test::Options;
using mamba3_test::Problem;

namespace {

template <typename A, typename B>
double error(const std::vector<A>& got, const std::vector<B>& want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return INFINITY;
    worst = std::max(worst, std::abs(double(got[i]) - double(want[i])));
    largest = std::max(largest, std::abs(double(want[i])));
  }
  return worst / largest;
}

struct Case {
  const char* name;
  Mamba3Shape shape;  // batch, length, heads, rank, headdim, state, angles, chunk
  Options options = {};
  bool small = false;  // finite differences too
};

constexpr auto kHalf = RotaryPairs::kHalf;

std::vector<Case> cases() {
  return {{"one", {1, 1, 1, 1, 1, 2, 1, 8}, {}, true},
          {"odd sizes", {2, 11, 3, 1, 5, 6, 2, 8}, {3, kHalf, true, true, true}, true},
          {"gate alone", {1, 9, 2, 1, 3, 4, 1, 8}, {2, {}, false, false, true}, true},
          {"skip alone", {1, 9, 2, 1, 3, 4, 2, 8}, {1, {}, true, true, false}, true},
          {"no angles", {1, 9, 2, 1, 3, 5, 0, 8}, {1, {}, true}, true},
          {"rank 2", {1, 13, 2, 2, 3, 4, 2, 4}, {1, kHalf}, true},
          {"rank 8", {1, 3, 2, 8, 2, 4, 1, 2}, {2}, true},
          {"rank 2, skip, scale", {1, 13, 2, 2, 3, 4, 2, 4}, {1, kHalf, true, true, false, {}, true}, true},
          {"rank 1, scale", {2, 9, 2, 1, 3, 4, 1, 8}, {1, kHalf, true, true, false, {}, true}, true},
          {"packed", {1, 17, 2, 1, 3, 4, 2, 8}, {1, {}, true, true, true, {0, 1, 1, 7, 17}}, true},
          {"packed, rank 2", {1, 17, 2, 2, 3, 4, 2, 4}, {1, kHalf, true, false, false, {0, 9, 17}}, true},
          {"vectors", {1, 150, 4, 1, 64, 32, 8, 64}, {2, {}, true, true, true}},
          {"many heads", {1, 70, 18, 1, 20, 18, 5, 64}, {1, {}, true, true, true}},
          {"rank 4", {2, 37, 3, 4, 17, 16, 4, 16}, {1, kHalf}},
          {"rank 4, skip, scale", {2, 37, 3, 4, 17, 16, 4, 16}, {1, kHalf, true, true, false, {}, true}},
          {"rank 3 by chunks", {1, 50, 2, 3, 9, 8, 2, 21}, {1, kHalf}},
          {"rank 5 by chunks", {1, 29, 2, 5, 4, 8, 2, 12}, {1}}};
}

// The gradients stage by stage, in double: phases, keys, queries, core, what follows.
void stages(Problem<double>& m) {
  const Mamba3Shape& s = m.s;
  Problem<double>& d = m;
  std::vector<double> phi(static_cast<size_t>(s.tokens() * s.heads * s.angles)), dphi_k(phi.size()),
      dphi_q(phi.size());
  std::vector<double> k(static_cast<size_t>(s.tokens() * s.heads * s.rank * s.state)), q(k.size()), dk(k.size()),
      dq(k.size());
  const auto get = [](std::vector<double>& a) { return a.empty() ? nullptr : a.data(); };
  const Mamba3PhaseParams<double> phase{s,          m.o.cu.data(),  get(m.angle), get(m.dt), get(m.initial_phi),
                                        phi.data(), get(m.last_phi)};
  if (s.angles > 0) mamba3_phase(phase);
  const RotaryParams<double> key{s, m.o.groups, m.o.pairs, m.B.data(), get(m.B_bias), phi.data(), k.data()},
      query{s, m.o.groups, m.o.pairs, m.C.data(), get(m.C_bias), phi.data(), q.data()};
  rotary(key);
  rotary(query);
  Mamba3CoreParams<double> core = m.params(true);
  core.shape.recurrent = false;
  core.k = k.data(), core.q = q.data();
  std::vector<double> y(m.dout.size()), dy(m.dout), dv(m.dout.size()), v(m.v);
  const int64_t P = s.headdim, R = s.rank;
  // v^r = v scale^r; what follows adds D v and gates.
  for (size_t i = 0; m.o.scale && i < y.size(); i++) {
    if (i == 0) v.resize(y.size());
    const int64_t row = static_cast<int64_t>(i) / P, c = static_cast<int64_t>(i) % P;
    v[i] = m.v[row / R * P + c] * m.scale[(row / R % s.heads * R + row % R) * P + c];
  }
  core.v = v.data(), core.y = y.data();
  mamba3_core(core);
  const auto head = [&](size_t i) { return static_cast<int64_t>(i) / (P * R) % s.heads; };
  for (size_t i = 0; m.o.D && i < y.size(); i++) y[i] += m.D[head(i)] * v[i];
  m.y = y;
  for (size_t i = 0; m.o.z && i < y.size(); i++) {
    const double sigma = 1 / (1 + std::exp(-m.z[i]));
    m.out[i] = y[i] * m.z[i] * sigma;
    dy[i] = m.dout[i] * m.z[i] * sigma;
    d.dz[i] = m.dout[i] * y[i] * sigma * (1 + m.z[i] * (1 - sigma));
  }
  mamba3_core_vjp<double>({core, dy.data(), m.dfinal.data(), d.dlog.data(), d.dw.data(), d.dg.data(), dv.data(),
                           dk.data(), dq.data(), d.dinitial.data()});
  for (double& x : d.dD) x = 0;
  for (size_t i = 0; m.o.D && i < y.size(); i++) d.dD[head(i)] += dy[i] * v[i], dv[i] += m.D[head(i)] * dy[i];
  d.dv = dv;
  if (m.o.scale) {
    d.dv.assign(m.v.size(), 0), d.dscale.assign(m.scale.size(), 0);
    for (size_t i = 0; i < dv.size(); i++) {
      const int64_t row = static_cast<int64_t>(i) / P, c = static_cast<int64_t>(i) % P, at = row / R * P + c,
                    by = (row / R % s.heads * R + row % R) * P + c;
      d.dv[at] += dv[i] * m.scale[by];
      d.dscale[by] += dv[i] * m.v[at];
    }
  }
  rotary_vjp<double>({key, dk.data(), d.dB.data(), get(d.dB_bias), get(dphi_k)});
  rotary_vjp<double>({query, dq.data(), d.dC.data(), get(d.dC_bias), get(dphi_q)});
  for (size_t i = 0; i < dphi_k.size(); i++) dphi_k[i] += dphi_q[i];
  if (s.angles > 0)
    mamba3_phase_vjp<double>(
        {phase, dphi_k.data(), d.dangle.data(), d.ddt.data(), d.dinitial_phi.data(), m.dlast_phi.data()});
}

// What the forward pass keeps, where the recurrence does not do the rank.
template <typename T>
void forward(Problem<T>& m) {
  if (mamba3_spans_fit(m.s)) return m.forward();
  Problem<double> wide(m.s, m.o);
  stages(wide);
  m.states.assign(wide.states.begin(), wide.states.end());
  m.y.assign(wide.y.begin(), wide.y.end());
}

}  // namespace

TEST_CASE("the gradient in one pass is that of the stages, on every instruction set") {
  for (const Case& c : cases()) {
    Problem<double> want(c.shape, c.options);
    stages(want);
    for (const auto& isa : supported_isas()) {
      force_isa(isa);
      CAPTURE(isa);
      CAPTURE(std::string(c.name));
      Problem<double> wide(c.shape, c.options);
      forward(wide);
      wide.backward();
      Problem<float> single(c.shape, c.options);
      forward(single);
      single.backward();
      if (mamba3_spans_fit(wide.s)) CHECK(error(wide.result(), want.result()) < 1e-12);
      const auto wanted = want.gradients(), got = wide.gradients();
      const auto got_single = single.gradients();
      for (size_t i = 0; i < wanted.size(); i++) {
        CAPTURE(i);
        CHECK(error(*got[i].first, *wanted[i].first) < 1e-12);
        // Phases are sums of turns and the gradients of angles and steps sum over them:
        // float32 keeps about five digits.
        CHECK(error(*got_single[i].first, *wanted[i].first) < 3e-5);
      }
    }
    force_isa("");
  }
}

TEST_CASE("the gradient in one pass agrees with finite differences") {
  for (const Case& c : cases()) {
    if (!c.small) continue;
    CAPTURE(std::string(c.name));
    Problem<double> m(c.shape, c.options);
    m.forward();
    m.backward();
    const auto loss = [&] {
      // The last phase is counted modulo full turns, by which it may jump.
      double sum = m.loss();
      for (size_t i = 0; i < m.last_phi.size(); i++) sum += std::sin(m.last_phi[i] - 1) * m.dlast_phi[i];
      return sum;
    };
    m.forward();
    const std::vector<double> weights = m.dlast_phi;
    for (size_t i = 0; i < weights.size(); i++) m.dlast_phi[i] = std::cos(m.last_phi[i] - 1) * weights[i];
    m.backward();
    m.dlast_phi = weights;
    for (const auto& [d, x] : m.gradients()) {
      for (size_t i = 0; i < x->size(); i++) {
        const double kept = (*x)[i], h = 1e-6;
        (*x)[i] = kept + h;
        const double up = loss();
        (*x)[i] = kept - h;
        const double slope = (up - loss()) / (2 * h);
        (*x)[i] = kept;
        double largest = 1;
        for (const double v : *d) largest = std::max(largest, std::abs(v));
        CHECK(std::abs(slope - (*d)[i]) < 1e-7 * largest);
      }
    }
  }
}

TEST_CASE("the gradient in one pass gives the same bits for 1, 2, 3 and 7 threads") {
  for (const Case& c : cases()) {
    CAPTURE(std::string(c.name));
    set_num_threads(1);
    Problem<float> one(c.shape, c.options);
    forward(one);
    one.backward();
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      Problem<float> many(c.shape, c.options);
      forward(many);
      many.backward();
      const auto a = one.gradients(), b = many.gradients();
      for (size_t i = 0; i < a.size(); i++) {
        CAPTURE(i);
        CHECK(*a[i].first == *b[i].first);
      }
    }
  }
  set_num_threads(0);
}
