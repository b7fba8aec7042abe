#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/ops/ssd/kernel/cpu.h"
#include "aspis/ops/ssd/kernel/reference.h"

/// A whole problem with its memory, for tests and the bench of the kernel.
namespace aspis::kernel::ssd_test {

struct Options {
  bool D = true, channel_D = false, z = true, bias = true, softplus = true, initial = true, final = true;
  double dt_min = 0, dt_max = std::numeric_limits<double>::infinity();
  std::vector<int32_t> cu = {};       ///< cu_seqlens
  std::vector<int32_t> seq_idx = {};  ///< {B, L}
  int64_t gap = 0;                    ///< values between rows of x, z, B and C
  double decay = 1;                   ///< largest -A, or the negative of the largest A
};

template <typename T>
struct Results {
  std::vector<T> out, final_state;
  std::vector<T> dx, dz, dB, dC, ddt, dA, dD, ddt_bias, dinitial;

  std::vector<std::pair<const char*, std::vector<T> Results::*>> static fields() {
    return {{"out", &Results::out},
            {"final_state", &Results::final_state},
            {"dx", &Results::dx},
            {"dz", &Results::dz},
            {"dB", &Results::dB},
            {"dC", &Results::dC},
            {"ddt", &Results::ddt},
            {"dA", &Results::dA},
            {"dD", &Results::dD},
            {"ddt_bias", &Results::ddt_bias},
            {"dinitial", &Results::dinitial}};
  }
};

template <typename T>
struct Problem {
  SsdShape shape;
  Options options;
  std::vector<T> x, z, B, C, dt, A, D, bias, initial, dout, dfinal;
  std::vector<T> states, before_gate, forward_work, backward_work;

  Problem(SsdShape s, const Options& o, uint64_t seed = 1) : shape(s), options(o) {
    shape.ids = !o.seq_idx.empty();
    shape.sequences = o.cu.empty() ? 0 : static_cast<int64_t>(o.cu.size()) - 1;
    const auto draw = [&](const char* name, int64_t n, double scale, double shift = 0) {
      Rng rng(seed, name);
      std::vector<T> v(static_cast<size_t>(n));
      for (auto& value : v) value = static_cast<T>(static_cast<float>(shift + scale * rng.normal()));
      return v;
    };
    const int64_t tokens = s.tokens(), H = s.heads, P = s.headdim, N = s.state;
    x = draw("x", tokens * (H * P + o.gap), 1);
    z = draw("z", tokens * (H * P + o.gap), 1);
    B = draw("B", tokens * (s.groups * N + o.gap), 1);
    C = draw("C", tokens * (s.groups * N + o.gap), 1);
    dt = draw("dt", tokens * H, 0.7, o.softplus ? -1 : 0);
    if (!o.softplus) {
      for (auto& v : dt) v = std::abs(v) * T(0.3);
    }
    A = draw("A", H, 0.3);
    for (auto& v : A) v = -static_cast<T>(o.decay) * std::min(T(1), T(0.1) + std::abs(v));
    D = draw("D", o.channel_D ? H * P : H, 1);
    bias = draw("bias", H, 0.3);
    initial = draw("initial", shape.rows() * H * P * N, 1);
    dout = draw("dout", tokens * H * P, 1);
    dfinal = draw("dfinal", shape.rows() * H * P * N, 1);
  }

  SsdParams<T> params(Results<T>& r) {
    const int64_t H = shape.heads, P = shape.headdim, N = shape.state, G = shape.groups, L = shape.length;
    const T nan = std::numeric_limits<T>::quiet_NaN();
    SsdParams<T> p;
    p.shape = shape;
    p.softplus = options.softplus;
    p.dt_min = static_cast<T>(options.dt_min), p.dt_max = static_cast<T>(options.dt_max);
    p.channel_D = options.channel_D;
    const auto rows = [&](const std::vector<T>& v, int64_t heads, int64_t last) {
      const int64_t token = heads * last + options.gap;
      return SsdRows<const T>{v.data(), L * token, token, last};
    };
    p.x = rows(x, H, P), p.B = rows(B, G, N), p.C = rows(C, G, N);
    if (options.z) p.z = rows(z, H, P);
    p.dt = dt.data(), p.A = A.data();
    if (options.D) p.D = D.data();
    if (options.bias) p.dt_bias = bias.data();
    if (options.initial) p.initial_state = initial.data();
    if (!options.seq_idx.empty()) p.seq_idx = options.seq_idx.data();
    if (!options.cu.empty()) p.cu_seqlens = options.cu.data();
    r.out.assign(static_cast<size_t>(shape.tokens() * H * P), nan);
    r.final_state.assign(static_cast<size_t>(shape.rows() * H * P * N), nan);
    before_gate.assign(r.out.size(), nan);
    p.out = r.out.data(), p.final_state = r.final_state.data(), p.before_gate = before_gate.data();
    return p;
  }

  SsdVjpParams<T> vjp_params(const SsdParams<T>& p, Results<T>& r) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    const int64_t H = shape.heads, tokens = shape.tokens();
    SsdVjpParams<T> q;
    q.in = p;
    q.dout = dout.data();
    if (options.final) q.dfinal_state = dfinal.data();
    const auto make = [&](std::vector<T>& v, int64_t n) {
      v.assign(static_cast<size_t>(n), nan);
      return v.data();
    };
    q.dx = make(r.dx, tokens * H * shape.headdim);
    if (options.z) q.dz = make(r.dz, tokens * H * shape.headdim);
    q.dB = make(r.dB, tokens * shape.groups * shape.state);
    q.dC = make(r.dC, tokens * shape.groups * shape.state);
    q.ddt = make(r.ddt, tokens * H);
    q.dA = make(r.dA, H);
    if (options.D) q.dD = make(r.dD, static_cast<int64_t>(D.size()));
    if (options.bias) q.ddt_bias = make(r.ddt_bias, H);
    if (options.initial) q.dinitial_state = make(r.dinitial, static_cast<int64_t>(initial.size()));
    return q;
  }

  Results<T> reference() {
    Results<T> r;
    const auto p = params(r);
    ssd_reference(p);
    ssd_vjp_reference(vjp_params(p, r));
    return r;
  }

  /// The kernels; workspaces end with a value that must stay.
  Results<T> run(bool backward = true) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    Results<T> r;
    auto p = params(r);
    states.assign(static_cast<size_t>(shape.slots() * shape.heads * shape.state_size()), nan);
    forward_work.assign(static_cast<size_t>(ssd_workspace(shape)) + 1, nan);
    backward_work.assign(static_cast<size_t>(ssd_vjp_workspace(shape)) + 1, nan);
    forward_work.back() = backward_work.back() = T(77);
    p.states = states.data();
    p.workspace = forward_work.data();
    ssd(p);
    if (backward) {
      auto q = vjp_params(p, r);
      q.workspace = backward_work.data();
      ssd_vjp(q);
    }
    return r;
  }
};

/// max |got - want| / max |want|, infinity for a NaN.
template <typename A, typename B>
double error(const std::vector<A>& got, const std::vector<B>& want) {
  if (got.size() != want.size()) return std::numeric_limits<double>::infinity();
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(double(got[i]) - double(want[i])));
    largest = std::max(largest, std::abs(double(want[i])));
  }
  return worst / largest;
}

}  // namespace aspis::kernel::ssd_test
