#include "aspis/ops/mamba3/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/mamba3/kernel/rotary.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using namespace aspis::kernel;

namespace {

template <typename T>
std::vector<T> draw(const char* name, int64_t n, double scale = 1, double shift = 0) {
  Rng rng(1, name);
  std::vector<T> v(static_cast<size_t>(n));
  for (auto& x : v) x = static_cast<T>(static_cast<float>(shift + scale * rng.normal()));
  return v;
}

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
  std::vector<int32_t> cu = {};
};

std::vector<Case> cases() {
  return {{"one", {1, 1, 1, 1, 1, 2, 1, 4}},
          {"odd sizes", {2, 11, 3, 1, 5, 6, 2, 4}},
          {"rank 2", {1, 7, 2, 2, 3, 4, 2, 3}},
          {"rank 3, one chunk", {2, 5, 2, 3, 2, 6, 3, 8}},
          {"vectors", {1, 70, 2, 1, 64, 32, 8, 64}},
          {"rank 4", {1, 37, 2, 4, 17, 16, 4, 16}},
          {"packed", {1, 17, 2, 1, 3, 4, 2, 4}, {0, 1, 1, 7, 17}},
          {"packed, rank 2", {1, 17, 2, 2, 3, 4, 2, 4}, {0, 9, 17}},
          {"recurrent, one", {1, 1, 1, 1, 1, 2, 1, 8, 0, true}},
          {"recurrent", {2, 70, 2, 1, 19, 18, 2, 16, 0, true}},
          {"recurrent, vectors", {1, 103, 2, 1, 64, 32, 8, 64, 0, true}},
          {"recurrent, rank 2", {1, 37, 2, 2, 5, 4, 2, 8, 0, true}},
          {"recurrent, rank 4", {1, 37, 2, 4, 17, 16, 4, 16, 0, true}},
          {"recurrent, rank 8", {1, 9, 1, 8, 3, 4, 2, 4, 0, true}},
          {"recurrent, rank 3 falls back", {1, 9, 1, 3, 3, 4, 2, 4, 0, true}},
          {"recurrent, packed", {1, 47, 2, 1, 3, 4, 2, 8, 0, true}, {0, 1, 1, 8, 25, 47}},
          {"recurrent, packed, rank 2", {1, 17, 2, 2, 3, 4, 2, 4, 0, true}, {0, 9, 17}}};
}

// All inputs and outputs of the core.
template <typename T>
struct Core {
  Mamba3Shape s;
  std::vector<int32_t> cu;
  std::vector<T> log, w, g, v, k, q, initial, dy, dfinal;
  std::vector<T> y, final, states, dlog, dw, dg, dv, dk, dq, dinitial;

  explicit Core(const Case& c) : s(c.shape), cu(c.cu) {
    s.sequences = cu.empty() ? 0 : static_cast<int64_t>(cu.size()) - 1;
    const int64_t tokens = s.tokens() * s.heads, states_size = s.rows() * s.heads * s.state_size();
    log = draw<T>("log", tokens, 0.5);
    for (auto& x : log) x = -std::abs(x);
    w = draw<T>("w", tokens, 0.3, 0.5), g = draw<T>("g", tokens, 0.3, 0.5);
    v = draw<T>("v", tokens * s.rank * s.headdim);
    k = draw<T>("k", tokens * s.rank * s.state), q = draw<T>("q", tokens * s.rank * s.state);
    initial = draw<T>("initial", states_size), dfinal = draw<T>("dfinal", states_size);
    dy = draw<T>("dy", tokens * s.rank * s.headdim);
  }

  Mamba3CoreParams<T> params() {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    y.assign(v.size(), nan), final.assign(initial.size(), nan);
    states.assign(static_cast<size_t>(s.slots() * s.heads * s.state_size()), nan);
    return {s,        cu.data(), log.data(),     w.data(), g.data(),     v.data(),
            k.data(), q.data(),  initial.data(), y.data(), final.data(), states.data(),
            {},       {}};
  }
  void forward() { mamba3_core(params()); }
  void backward() {
    const auto p = params();
    mamba3_core(p);
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (auto [d, x] :
         {std::pair{&dlog, &log}, {&dw, &w}, {&dg, &g}, {&dv, &v}, {&dk, &k}, {&dq, &q}, {&dinitial, &initial}})
      d->assign(x->size(), nan);
    mamba3_core_vjp<T>({p, dy.data(), dfinal.data(), dlog.data(), dw.data(), dg.data(), dv.data(), dk.data(),
                        dq.data(), dinitial.data()});
  }
  double loss() {
    forward();
    double sum = 0;
    for (size_t i = 0; i < y.size(); i++) sum += y[i] * dy[i];
    for (size_t i = 0; i < final.size(); i++) sum += final[i] * dfinal[i];
    return sum;
  }

  // The definition, one token at a time.
  std::pair<std::vector<T>, std::vector<T>> reference() const {
    std::vector<T> out(v.size()), last(initial);
    for (int64_t row = 0; row < s.rows(); row++) {
      const int64_t first = cu.empty() ? row * s.length : cu[row],
                    end = cu.empty() ? first + s.length : cu[row + 1];
      for (int64_t h = 0; h < s.heads; h++) {
        T* const S = last.data() + (row * s.heads + h) * s.state_size();
        for (int64_t t = first; t < end; t++) {
          const int64_t at = t * s.heads + h;
          const T a = std::exp(log[at]);
          for (int64_t i = 0; i < s.state_size(); i++) S[i] *= a;
          for (int64_t r = 0; r < s.rank; r++) {
            const T* const qr = &q[(at * s.rank + r) * s.state];
            for (int64_t p = 0; p < s.headdim; p++) {
              T sum = 0;
              for (int64_t n = 0; n < s.state; n++) sum += S[p * s.state + n] * qr[n];
              for (int64_t o = 0; o < s.rank; o++) {
                T dot = 0;
                for (int64_t n = 0; n < s.state; n++) dot += qr[n] * k[(at * s.rank + o) * s.state + n];
                sum += g[at] * dot * v[(at * s.rank + o) * s.headdim + p];
              }
              out[(at * s.rank + r) * s.headdim + p] = sum;
            }
          }
          for (int64_t r = 0; r < s.rank; r++)
            for (int64_t p = 0; p < s.headdim; p++)
              for (int64_t n = 0; n < s.state; n++)
                S[p * s.state + n] +=
                    w[at] * v[(at * s.rank + r) * s.headdim + p] * k[(at * s.rank + r) * s.state + n];
        }
      }
    }
    return {out, last};
  }
};

// Central differences of `loss` by every element of `input`.
std::vector<double> numeric(std::vector<double>& input, const std::function<double()>& loss) {
  std::vector<double> gradient(input.size());
  for (size_t i = 0; i < input.size(); i++) {
    const double kept = input[i], h = 1e-6;
    input[i] = kept + h;
    const double up = loss();
    input[i] = kept - h;
    gradient[i] = (up - loss()) / (2 * h);
    input[i] = kept;
  }
  return gradient;
}

}  // namespace

TEST_CASE("the core is the recurrence, and its gradients are finite differences, on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Case& c : cases()) {
      CAPTURE(isa);
      CAPTURE(c.name);
      Core<double> core(c);
      core.backward();
      const auto [out, last] = core.reference();
      CHECK(error(core.y, out) < 1e-13);
      CHECK(error(core.final, last) < 1e-13);
      Core<float> single(c);
      single.backward();
      CHECK(error(single.y, out) < 2e-6);
      CHECK(error(single.final, last) < 2e-6);
      const Core<double> exact = core;
      CHECK(error(single.dlog, exact.dlog) < 1e-5);
      CHECK(error(single.dw, exact.dw) < 1e-5);
      CHECK(error(single.dg, exact.dg) < 1e-5);
      CHECK(error(single.dv, exact.dv) < 1e-5);
      CHECK(error(single.dk, exact.dk) < 1e-5);
      CHECK(error(single.dq, exact.dq) < 1e-5);
      CHECK(error(single.dinitial, exact.dinitial) < 1e-5);
      if (core.v.size() * core.k.size() > 40000) continue;
      const auto loss = [&] { return core.loss(); };
      CHECK(error(numeric(core.log, loss), exact.dlog) < 1e-7);
      CHECK(error(numeric(core.w, loss), exact.dw) < 1e-7);
      CHECK(error(numeric(core.g, loss), exact.dg) < 1e-7);
      CHECK(error(numeric(core.v, loss), exact.dv) < 1e-7);
      CHECK(error(numeric(core.k, loss), exact.dk) < 1e-7);
      CHECK(error(numeric(core.q, loss), exact.dq) < 1e-7);
      CHECK(error(numeric(core.initial, loss), exact.dinitial) < 1e-7);
    }
  }
  force_isa("");
}

TEST_CASE("a NaN or infinity in the core reaches what comes after it, and the tokens before it are still right") {
  // A chunk that holds one is worked out token by token: the values must be
  // those of the definition there, not only finite.
  for (const auto& c : cases()) {
    if (c.shape.tokens() < 3) continue;
    const std::string name = c.name;
    CAPTURE(name);
    const Core<float> clean(c);
    const auto [want, want_last] = clean.reference();
    const Mamba3Shape& s = clean.s;
    const int64_t row = s.heads * s.rank * s.headdim;
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const bool in_key : {false, true}) {
        const int64_t token = s.tokens() / 2;
        Core<float> core(c);
        if (in_key) {
          core.k[static_cast<size_t>(token * s.heads * s.rank * s.state)] = bad;  // head 0, rank 0
        } else {
          core.v[static_cast<size_t>(token * row)] = bad;
        }
        core.forward();
        CAPTURE(in_key);
        CHECK(!std::isfinite(core.y[static_cast<size_t>(token * row)]));
        // What the token does not reach: all before it, and the other heads.
        double worst = 0, largest = 1e-30;
        for (int64_t t = 0; t < s.tokens(); t++) {
          for (int64_t i = 0; i < row; i++) {
            if (t >= token && i < s.rank * s.headdim) continue;
            const auto at = static_cast<size_t>(t * row + i);
            REQUIRE(std::isfinite(core.y[at]));
            worst = std::max(worst, std::abs(double(core.y[at]) - double(want[at])));
            largest = std::max(largest, std::abs(double(want[at])));
          }
        }
        CHECK(worst < 1e-5 * largest);
      }
    }
  }
}

TEST_CASE("the core gives the same bits for 1, 2, 3 and 7 threads") {
  for (const Case& c : cases()) {
    set_num_threads(1);
    Core<float> one(c);
    one.backward();
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      Core<float> many(c);
      many.backward();
      CHECK(many.y == one.y);
      CHECK(many.final == one.final);
      CHECK(many.dlog == one.dlog);
      CHECK(many.dk == one.dk);
      CHECK(many.dq == one.dq);
      CHECK(many.dv == one.dv);
      CHECK(many.dg == one.dg);
      CHECK(many.dw == one.dw);
      CHECK(many.dinitial == one.dinitial);
    }
  }
  set_num_threads(0);
}

TEST_CASE("the weights of a token agree with the definition, their gradients with finite differences") {
  constexpr int64_t kTokens = 70, kHeads = 5, kAll = kTokens * kHeads;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const bool heavy : {true, false}) {
      std::vector<double> dd_dt = draw<double>("dt", kAll, 3), dd_A = draw<double>("A", kAll, 3),
                          trap = draw<double>("trap", kAll, 3), bias = draw<double>("bias", kHeads);
      dd_dt[0] = 25, dd_dt[1] = -40, dd_A[2] = -1e6, dd_A[3] = 0;
      const std::vector<double> cotangents[] = {draw<double>("c0", kAll), draw<double>("c1", kAll),
                                                draw<double>("c2", kAll), draw<double>("c3", kAll)};
      const auto definition = [&](int64_t i, double* out) {
        const auto soft = [](double x) { return x > 20 ? x : std::log1p(std::exp(x)); };
        const double dt = soft(dd_dt[i] + bias[i % kHeads]), v = dd_A[i];
        const double f = !heavy ? soft(v) : v >= 0 ? 1 + v : 1 / (1 - v);
        out[0] = dt;
        out[1] = std::min(-f, -1e-4) * dt;
        out[2] = dt / (1 + std::exp(-trap[i]));
        out[3] = dt - out[2];
      };
      const auto run = [&](auto tag, double forward, double gradient) {
        using T = decltype(tag);
        const auto cast = [](const std::vector<double>& v) { return std::vector<T>(v.begin(), v.end()); };
        const auto a = cast(dd_dt), b = cast(dd_A), c = cast(trap), e = cast(bias);
        std::vector<T> got[4], d[4], back[4];
        for (int k = 0; k < 4; k++) got[k].assign(kAll, T(NAN)), back[k].assign(k < 3 ? kAll : kHeads, T(NAN)), d[k] = cast(cotangents[k]);
        const Mamba3WeightsParams<T> p{kTokens, kHeads, heavy, T(1e-4), a.data(), b.data(), c.data(), e.data(),
                                       got[0].data(), got[1].data(), got[2].data(), got[3].data()};
        mamba3_weights(p);
        mamba3_weights_vjp<T>({p, d[0].data(), d[1].data(), d[2].data(), d[3].data(), back[0].data(), back[1].data(),
                               back[2].data(), back[3].data()});
        std::vector<double> want[4];
        for (auto& w : want) w.resize(kAll);
        for (int64_t i = 0; i < kAll; i++) {
          double out[4];
          definition(i, out);
          for (int k = 0; k < 4; k++) want[k][static_cast<size_t>(i)] = out[k];
        }
        for (int k = 0; k < 4; k++) CHECK(error(got[k], want[k]) < forward);
        const auto loss = [&] {
          double sum = 0, out[4];
          for (int64_t i = 0; i < kAll; i++) {
            definition(i, out);
            for (int k = 0; k < 4; k++) sum += out[k] * cotangents[k][static_cast<size_t>(i)];
          }
          return sum;
        };
        CHECK(error(back[0], numeric(dd_dt, loss)) < gradient);
        CHECK(error(back[1], numeric(dd_A, loss)) < gradient);
        CHECK(error(back[2], numeric(trap, loss)) < gradient);
        CHECK(error(back[3], numeric(bias, loss)) < gradient);
      };
      run(double{}, 1e-14, 2e-6);  // the loss is a sum of 1400 terms: differences lose ten digits
      run(float{}, 1e-6, 1e-5);
    }
  }
  force_isa("");
}

TEST_CASE("sine and cosine are right to a few units in the last place") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    const int64_t n = 4001;
    std::vector<double> x(n), c(n), s(n);
    std::vector<float> xf(n), cf(n), sf(n);
    for (int64_t i = 0; i < n; i++)
      xf[i] = static_cast<float>(x[i] = static_cast<double>(i - 2000) * std::numbers::pi / 1000);
    rotary_loops<double>().sincos(n, x.data(), c.data(), s.data());
    rotary_loops<float>().sincos(n, xf.data(), cf.data(), sf.data());
    double worst = 0, worst_single = 0;
    for (int64_t i = 0; i < n; i++) {
      worst = std::max({worst, std::abs(c[i] - std::cos(x[i])), std::abs(s[i] - std::sin(x[i]))});
      const double exact = xf[i];
      worst_single =
          std::max({worst_single, std::abs(cf[i] - std::cos(exact)), std::abs(sf[i] - std::sin(exact))});
    }
    CHECK(worst < 4e-16);
    CHECK(worst_single < 1.2e-7);
  }
  force_isa("");
}

TEST_CASE("phase and rotation agree with the definition, their gradients with finite differences") {
  for (const Case& c : cases()) {
    for (const auto pairs : {RotaryPairs::kAdjacent, RotaryPairs::kHalf}) {
      CAPTURE(c.name);
      Mamba3Shape s = c.shape;
      s.sequences = c.cu.empty() ? 0 : static_cast<int64_t>(c.cu.size()) - 1;
      if (s.tokens() > 40) continue;
      const int64_t tokens = s.tokens();
      auto angle = draw<double>("angle", tokens * s.angles), dt = draw<double>("dt", tokens * s.heads, 0.2, 0.6);
      auto initial = draw<double>("initial", s.rows() * s.heads * s.angles, 0.5, 3);
      const int64_t groups = s.heads % 2 == 0 ? 2 : 1;
      auto x = draw<double>("x", tokens * s.rank * groups * s.state);
      auto bias = draw<double>("bias", s.heads * s.rank * s.state);
      const auto dy = draw<double>("dy", tokens * s.heads * s.rank * s.state);
      const auto extra = draw<double>("extra", tokens * s.heads * s.angles);
      std::vector<double> phi(tokens * s.heads * s.angles), y(dy.size());
      const Mamba3PhaseParams<double> phase{s, c.cu.data(), angle.data(), dt.data(), initial.data(), phi.data()};
      const RotaryParams<double> turn{s, groups, pairs, x.data(), bias.data(), phi.data(), y.data()};
      const auto loss = [&] {
        mamba3_phase(phase);
        rotary(turn);
        double sum = 0;
        for (size_t i = 0; i < y.size(); i++) sum += y[i] * dy[i];
        for (size_t i = 0; i < phi.size(); i++) sum += std::sin(phi[i]) * extra[i];  // knows nothing of full turns
        return sum;
      };
      loss();
      // The definition of the phase, by the row of each token.
      for (int64_t row = 0; row < s.rows(); row++) {
        const int64_t first = c.cu.empty() ? row * s.length : c.cu[row],
                      end = c.cu.empty() ? first + s.length : c.cu[row + 1];
        for (int64_t h = 0; h < s.heads; h++) {
          for (int64_t i = 0; i < s.angles; i++) {
            double p = initial[(row * s.heads + h) * s.angles + i];
            for (int64_t t = first; t < end; t++) {
              p += std::numbers::pi * std::tanh(angle[t * s.angles + i]) * dt[t * s.heads + h];
              const double got = phi[(t * s.heads + h) * s.angles + i];
              CHECK(std::abs(std::remainder(got - p, 2 * std::numbers::pi)) < 1e-12);
              CHECK(got >= -1e-12);
              CHECK(got < 2 * std::numbers::pi + 1e-12);
            }
          }
        }
      }
      std::vector<double> dphi(phi.size()), dx(x.size()), dbias(bias.size()), dangle(angle.size()), ddt(dt.size()),
          dinitial(initial.size());
      rotary_vjp<double>({turn, dy.data(), dx.data(), dbias.data(), dphi.data()});
      for (size_t i = 0; i < phi.size(); i++) dphi[i] += std::cos(phi[i]) * extra[i];
      mamba3_phase_vjp<double>({phase, dphi.data(), dangle.data(), ddt.data(), dinitial.data()});
      CHECK(error(numeric(x, loss), dx) < 1e-7);
      CHECK(error(numeric(bias, loss), dbias) < 1e-7);
      CHECK(error(numeric(angle, loss), dangle) < 1e-7);
      CHECK(error(numeric(dt, loss), ddt) < 1e-7);
      CHECK(error(numeric(initial, loss), dinitial) < 1e-7);
    }
  }
}

TEST_CASE("the combination of ranks agrees with the definition, its gradients with finite differences") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t rank : {1, 3}) {
      for (int bits = 0; bits < 32; bits++) {
        const bool skip = bits & 1, norm = bits & 2, gate = bits & 4, in = bits & 8, out_weights = bits & 16;
        CAPTURE(isa);
        CAPTURE(rank);
        CAPTURE(bits);
        const Mamba3Shape s{1, 3, 2, rank, 5, 2, 0, 4};
        const int64_t n = s.tokens() * s.heads * s.headdim, m = s.heads * rank * s.headdim;
        auto y = draw<double>("y", n * rank), x = draw<double>("x", n), D = draw<double>("D", s.heads);
        auto mx = draw<double>("mx", m), mz = draw<double>("mz", m), mo = draw<double>("mo", m);
        auto z = draw<double>("z", n), w = draw<double>("w", s.heads * s.headdim);
        const auto dout = draw<double>("dout", n);
        std::vector<double> out(n);
        CombineParams<double> p{s, 1e-5, y.data(), x.data()};
        if (skip) p.D = D.data();
        if (in) p.mimo_x = mx.data();
        if (gate) p.z = z.data();
        if (gate && in) p.mimo_z = mz.data();
        if (out_weights) p.mimo_o = mo.data();
        if (norm) p.norm = w.data();
        p.out = out.data();
        const auto loss = [&] {
          mamba3_combine(p);
          double sum = 0;
          for (int64_t i = 0; i < n; i++) sum += out[i] * dout[i];
          return sum;
        };
        loss();
        for (int64_t at = 0; at < s.tokens() * s.heads; at++) {
          const int64_t h = at % s.heads;
          for (int64_t c = 0; c < s.headdim; c++) {
            double want = 0;
            for (int64_t r = 0; r < rank; r++) {
              const auto u = [&](int64_t i) {
                return y[(at * rank + r) * s.headdim + i] +
                       (skip ? D[h] * x[at * s.headdim + i] * (in ? mx[(h * rank + r) * s.headdim + i] : 1) : 0);
              };
              double squares = 0;
              for (int64_t i = 0; i < s.headdim; i++) squares += u(i) * u(i);
              double v = u(c);
              if (norm) v *= w[h * s.headdim + c] / std::sqrt(squares / static_cast<double>(s.headdim) + 1e-5);
              const int64_t k = (h * rank + r) * s.headdim + c;
              if (gate) {
                const double g = z[at * s.headdim + c] * (in ? mz[k] : 1);
                v *= g / (1 + std::exp(-g));
              }
              want += v * (out_weights ? mo[k] : 1);
            }
            CHECK(out[at * s.headdim + c] == doctest::Approx(want).epsilon(1e-12));
          }
        }
        const auto fill = [](const std::vector<double>& v) { return std::vector<double>(v.size(), 7.0); };
        auto dy = fill(y), dx = fill(x), dD = fill(D), dmx = fill(mx), dmz = fill(mz), dmo = fill(mo),
             dz = fill(z), dw = fill(w);
        CombineVjpParams<double> q{p, dout.data(), dy.data()};
        if (skip) q.dx = dx.data(), q.dD = dD.data();
        if (in) q.dmimo_x = dmx.data();
        if (gate) q.dz = dz.data();
        if (gate && in) q.dmimo_z = dmz.data();
        if (out_weights) q.dmimo_o = dmo.data();
        if (norm) q.dnorm = dw.data();
        mamba3_combine_vjp(q);
        CHECK(error(numeric(y, loss), dy) < 1e-7);
        if (skip) CHECK(error(numeric(x, loss), dx) < 1e-7);
        if (skip) CHECK(error(numeric(D, loss), dD) < 1e-7);
        if (in && skip) CHECK(error(numeric(mx, loss), dmx) < 1e-7);
        if (in && !skip) CHECK(dmx == std::vector<double>(dmx.size(), 0));
        if (gate) CHECK(error(numeric(z, loss), dz) < 1e-7);
        if (gate && in) CHECK(error(numeric(mz, loss), dmz) < 1e-7);
        if (out_weights) CHECK(error(numeric(mo, loss), dmo) < 1e-7);
        if (norm) CHECK(error(numeric(w, loss), dw) < 1e-7);
      }
    }
  }
  force_isa("");
}
