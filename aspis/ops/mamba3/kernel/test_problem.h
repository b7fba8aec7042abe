#pragma once

// The core with keys and queries made inside, with random data: what the test of its
// gradient and the bench run.

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/spans.h"

namespace aspis::kernel::mamba3_test {

struct Options {
  int64_t groups = 1;
  RotaryPairs pairs = RotaryPairs::kAdjacent;
  bool bias = true, D = false, z = false;
  std::vector<int32_t> cu = {};
  bool scale = false;
};

template <typename T>
std::vector<T> draw(const char* name, int64_t n, double scale = 1, double shift = 0) {
  Rng rng(1, name);
  std::vector<T> v(static_cast<size_t>(n));
  for (auto& x : v) x = static_cast<T>(static_cast<float>(shift + scale * rng.normal()));
  return v;
}

/// Inputs, results and gradients; shape.angles 0: no phases.
template <typename T>
struct Problem {
  Mamba3Shape s;
  Options o;
  std::vector<T> log, w, g, v, initial, B, C, B_bias, C_bias, angle, dt, initial_phi, D, z, scale;
  std::vector<T> dout, dfinal, dlast_phi;
  std::vector<T> out, y, final, last_phi, states;
  std::vector<T> dlog, dw, dg, dv, dinitial, dB, dC, dB_bias, dC_bias, dangle, ddt, dinitial_phi, dD, dz, dscale;

  Problem(const Mamba3Shape& shape, const Options& options) : s(shape), o(options) {
    s.sequences = o.cu.empty() ? 0 : static_cast<int64_t>(o.cu.size()) - 1;
    s.recurrent = true;
    const int64_t tokens = s.tokens() * s.heads, heads = s.rows() * s.heads,
                  matrix = s.tokens() * s.rank * o.groups * s.state;
    log = draw<T>("log", tokens, 0.5);
    for (auto& x : log) x = -std::abs(x);
    w = draw<T>("w", tokens, 0.3, 0.5), g = draw<T>("g", tokens, 0.3, 0.5);
    v = draw<T>("v", tokens * (o.scale ? 1 : s.rank) * s.headdim),
    dout = draw<T>("dout", tokens * s.rank * s.headdim);
    B = draw<T>("B", matrix), C = draw<T>("C", matrix);
    initial = draw<T>("initial", heads * s.state_size()), dfinal = draw<T>("dfinal", heads * s.state_size());
    if (o.bias) {
      B_bias = draw<T>("B_bias", s.heads * s.rank * s.state),
      C_bias = draw<T>("C_bias", s.heads * s.rank * s.state);
    }
    if (s.angles > 0) {
      angle = draw<T>("angle", s.tokens() * s.angles), dt = draw<T>("dt", tokens, 0.2, 0.6);
      initial_phi = draw<T>("initial_phi", heads * s.angles, 0.5, 3);
      dlast_phi = draw<T>("dlast_phi", heads * s.angles);
    }
    if (o.scale) scale = draw<T>("scale", s.heads * s.rank * s.headdim);
    if (o.D) D = draw<T>("D", s.heads);
    if (o.z) z = draw<T>("z", tokens * s.headdim);
    for (auto [d, x] : gradients()) d->assign(x->size(), static_cast<T>(NAN));
    y.assign(dout.size(), static_cast<T>(NAN)), out = y, final.assign(initial.size(), static_cast<T>(NAN));
    last_phi.assign(initial_phi.size(), static_cast<T>(NAN));
    states.assign(static_cast<size_t>(s.slots() * s.heads * s.state_size()), static_cast<T>(NAN));
  }

  /// Every gradient with its input.
  std::vector<std::pair<std::vector<T>*, std::vector<T>*>> gradients() {
    std::vector<std::pair<std::vector<T>*, std::vector<T>*>> list{{&dlog, &log},
                                                                  {&dw, &w},
                                                                  {&dg, &g},
                                                                  {&dv, &v},
                                                                  {&dinitial, &initial},
                                                                  {&dB, &B},
                                                                  {&dC, &C},
                                                                  {&dB_bias, &B_bias},
                                                                  {&dC_bias, &C_bias},
                                                                  {&dangle, &angle},
                                                                  {&ddt, &dt},
                                                                  {&dinitial_phi, &initial_phi},
                                                                  {&dD, &D},
                                                                  {&dz, &z}};
    if (o.scale) list.emplace_back(&dscale, &scale);
    return list;
  }

  bool finish() const { return o.z; }

  Mamba3CoreParams<T> params(bool training) {
    const auto get = [](std::vector<T>& a) { return a.empty() ? nullptr : a.data(); };
    Mamba3CoreParams<T> p;
    p.shape = s;
    p.cu_seqlens = o.cu.data();
    p.log = log.data(), p.w = w.data(), p.g = g.data(), p.v = v.data(), p.initial = initial.data();
    p.final = final.data(), p.y = y.data();
    if (training) p.states = states.data();
    p.key.groups = p.query.groups = o.groups, p.key.pairs = o.pairs;
    p.key.x = B.data(), p.query.x = C.data(), p.key.bias = get(B_bias), p.query.bias = get(C_bias);
    p.angle = get(angle), p.dt = get(dt), p.initial_phi = get(initial_phi), p.last_phi = get(last_phi);
    p.D = get(D), p.scale = get(scale);
    if (finish()) p.out = out.data(), p.z = get(z), p.y = training ? y.data() : nullptr;
    return p;
  }
  void forward(bool training = true) { mamba3_core_spans(params(training)); }
  Mamba3TurnedVjpParams<T> vjp_params() {
    const auto get = [](std::vector<T>& a) { return a.empty() ? nullptr : a.data(); };
    return {params(true),      dout.data(),  dfinal.data(), get(dlast_phi),  dlog.data(),
            dw.data(),         dg.data(),    dv.data(),     dinitial.data(), dB.data(),
            dC.data(),         get(dB_bias), get(dC_bias),  get(dangle),     get(ddt),
            get(dinitial_phi), get(dD),      get(dz),       get(dscale)};
  }
  void backward() { mamba3_turned_vjp(vjp_params()); }
  const std::vector<T>& result() const { return finish() ? out : y; }
  double loss() {
    forward();
    double sum = 0;
    for (size_t i = 0; i < dout.size(); i++) sum += double(result()[i]) * double(dout[i]);
    for (size_t i = 0; i < final.size(); i++) sum += double(final[i]) * double(dfinal[i]);
    return sum;
  }
};

}  // namespace aspis::kernel::mamba3_test
