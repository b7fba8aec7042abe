#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/pscan/pscan.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/properties/recurrent.h"

namespace aspis::properties {
namespace {

using States = std::vector<mx::array>;
using Bounds = std::vector<int32_t>;

mx::array zeros(const mx::Shape& shape) { return mx::zeros(shape, mx::float32); }

void fill(Named& in, const std::string& name, double value) {
  auto& a = in.at(name);
  a = mx::full(a.shape(), mx::array(value, a.dtype()), a.dtype());
}

mx::array silu(const mx::array& z) { return z * ops::sigmoid(z); }

Recurrent scan() {
  constexpr int kD = 6, kN = 3, kG = 2;
  Recurrent r;
  r.name = "selective_scan";
  r.token_inputs = {"u", "delta", "B", "C", "z"};
  r.linear_in = {"u"};
  r.linear_state = {0};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"u", normal(rng, {d.batch, d.length, kD})},     {"delta", normal(rng, {d.batch, d.length, kD}, 0.5)},
            {"A", negative_uniform(rng, {kD, kN}, 0.1, 2)},  {"B", normal(rng, {d.batch, d.length, kG, kN})},
            {"C", normal(rng, {d.batch, d.length, kG, kN})}, {"D", normal(rng, {kD})},
            {"z", normal(rng, {d.batch, d.length, kD})},     {"delta_bias", normal(rng, {kD}, 0.3)}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kD, kN})}; };
  const auto run = [](const Named& in, const States& state, const Bounds& cu, const std::optional<mx::array>& ids,
                      bool reverse) -> Result {
    ScanOptions o;
    o.cu_seqlens = cu;
    o.seq_idx = ids;
    o.reverse = reverse;
    o.D = in.at("D");
    o.z = in.at("z");
    o.delta_bias = in.at("delta_bias");
    o.delta_softplus = true;
    o.initial_state = state[0];
    auto [out, last] =
        selective_scan_with_state(in.at("u"), in.at("delta"), in.at("A"), in.at("B"), in.at("C"), o);
    return {out, {last}};
  };
  r.run = [run](const Named& in, const States& state) { return run(in, state, {}, {}, false); };
  r.packed = [run](const Named& in, const States& state, const Bounds& cu) {
    return run(in, state, cu, {}, false);
  };
  r.by_ids = [run](const Named& in, const States& state, const mx::array& ids) {
    return run(in, state, {}, ids, false);
  };
  r.reversed = [run](const Named& in, const States& state) { return run(in, state, {}, {}, true); };
  r.exchanges = {
      {"channels", kD, kD / kG, {{"u", 2}, {"delta", 2}, {"A", 0}, {"D", 0}, {"z", 2}, {"delta_bias", 0}}, {1}, 2},
      {"states", kN, kN, {{"A", 1}, {"B", 3}, {"C", 3}}, {2}, -1}};
  r.no_step = [](Named& in) { fill(in, "delta", -1e4); };
  r.skip = [](const Named& in) { return in.at("u") * in.at("D") * silu(in.at("z")); };
  r.forget = [](Named& in) { fill(in, "A", -1e30); };
  return r;
}

Recurrent conv(bool linear) {
  constexpr int kD = 5, kTaps = 4;
  Recurrent r;
  r.name = linear ? "causal_conv1d without SiLU and bias" : "causal_conv1d";
  r.token_inputs = {"x"};
  if (linear) r.linear_in = {"x"}, r.linear_state = {0};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"x", normal(rng, {d.batch, d.length, kD})},
            {"weight", normal(rng, {kD, kTaps})},
            {"bias", normal(rng, {kD})}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kTaps - 1, kD})}; };
  const auto run = [linear](const Named& in, const States& state, const Bounds& cu,
                            const std::optional<mx::array>& ids, bool reverse) -> Result {
    Conv1dOptions o;
    if (!linear) o.bias = in.at("bias"), o.silu = true;
    o.initial_state = state[0], o.cu_seqlens = cu, o.seq_idx = ids, o.reverse = reverse;
    auto [out, last] = causal_conv1d_with_state(in.at("x"), in.at("weight"), o);
    return {out, {last}};
  };
  r.run = [run](const Named& in, const States& state) { return run(in, state, {}, {}, false); };
  r.packed = [run](const Named& in, const States& state, const Bounds& cu) {
    return run(in, state, cu, {}, false);
  };
  r.by_ids = [run](const Named& in, const States& state, const mx::array& ids) {
    return run(in, state, {}, ids, false);
  };
  r.reversed = [run](const Named& in, const States& state) { return run(in, state, {}, {}, true); };
  r.exchanges = {{"channels", kD, kD, {{"x", 2}, {"weight", 0}, {"bias", 0}}, {2}, 2}};
  return r;
}

Recurrent mamba2(int chunk) {
  constexpr int kH = 4, kP = 3, kG = 2, kN = 5;
  Recurrent r;
  r.name = "ssd, chunk " + std::to_string(chunk);
  r.token_inputs = {"x", "dt", "B", "C", "z"};
  r.linear_in = {"x"};
  r.linear_state = {0};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"x", normal(rng, {d.batch, d.length, kH, kP})}, {"dt", normal(rng, {d.batch, d.length, kH}, 0.7)},
            {"A", negative_uniform(rng, {kH}, 0.1, 2)},      {"B", normal(rng, {d.batch, d.length, kG, kN})},
            {"C", normal(rng, {d.batch, d.length, kG, kN})}, {"D", normal(rng, {kH})},
            {"z", normal(rng, {d.batch, d.length, kH, kP})}, {"dt_bias", normal(rng, {kH}, 0.3)}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kH, kP, kN})}; };
  const auto run = [](const Named& in, const States& state, const Bounds& cu, const std::optional<mx::array>& ids,
                      int size) {
    SsdOptions o;
    o.D = in.at("D"), o.z = in.at("z"), o.dt_bias = in.at("dt_bias"), o.initial_state = state[0];
    o.dt_softplus = true, o.chunk_size = size, o.cu_seqlens = cu, o.seq_idx = ids;
    auto [out, last] = ssd_with_state(in.at("x"), in.at("dt"), in.at("A"), in.at("B"), in.at("C"), o);
    return Result{out, {last}};
  };
  r.run = [=](const Named& in, const States& state) { return run(in, state, {}, {}, chunk); };
  r.packed = [=](const Named& in, const States& state, const Bounds& cu) { return run(in, state, cu, {}, chunk); };
  r.by_ids = [=](const Named& in, const States& state, const mx::array& ids) {
    return run(in, state, {}, ids, chunk);
  };
  r.chunked = [=](const Named& in, const States& state, int size) { return run(in, state, {}, {}, size); };
  r.exchanges = {
      {"heads", kH, kH / kG, {{"x", 2}, {"dt", 2}, {"A", 0}, {"D", 0}, {"z", 2}, {"dt_bias", 0}}, {1}, 2},
      {"channels", kP, kP, {{"x", 3}, {"z", 3}}, {2}, 3},
      {"states", kN, kN, {{"B", 3}, {"C", 3}}, {3}, -1}};
  r.no_step = [](Named& in) { fill(in, "dt", -1e4); };
  r.skip = [](const Named& in) { return in.at("x") * mx::expand_dims(in.at("D"), 1) * silu(in.at("z")); };
  r.forget = [](Named& in) { fill(in, "A", -1e30); };
  return r;
}

Recurrent mamba3_of_rank(int rank, int chunk) {
  constexpr int kH = 2, kP = 3, kG = 1, kN = 4, kA = 2;
  Recurrent r;
  r.name = "mamba3, rank " + std::to_string(rank) + ", chunk " + std::to_string(chunk);
  r.token_inputs = {"x", "B", "C", "dd_dt", "dd_A", "trap", "angle", "z"};
  r.linear_in = {"x"};
  r.linear_state = {1, 3};  // of phase, state, key and value those that x enters
  r.precision = 3e-5;       // a phase is a sum of turns of up to pi: each adds a rounding of 2 pi
  r.draw = [rank](const Dims& d, Rng& rng) -> Named {
    return {{"x", normal(rng, {d.batch, d.length, kH, kP})},
            {"B", normal(rng, {d.batch, d.length, rank, kG, kN})},
            {"C", normal(rng, {d.batch, d.length, rank, kG, kN})},
            {"dd_dt", normal(rng, {d.batch, d.length, kH}, 0.7)},
            {"dd_A", normal(rng, {d.batch, d.length, kH})},
            {"trap", normal(rng, {d.batch, d.length, kH})},
            {"angle", normal(rng, {d.batch, d.length, kA})},
            {"z", normal(rng, {d.batch, d.length, kH, kP})},
            {"D", normal(rng, {kH})},
            {"dt_bias", normal(rng, {kH}, 0.3)},
            {"norm", normal(rng, {kN}, 0.2, 1)},
            {"bias", normal(rng, {kH, rank, kN}, 0.3, 1)},
            {"mimo", normal(rng, {kH, rank, kP}, 0.5, 0.5)}};
  };
  r.zero_state = [rank](int batch) {
    const Mamba3State s = mamba3_zero_state(batch, kH, rank, kP, kN, kA);
    return std::vector{s.angle, s.ssm, s.k, s.v};
  };
  const auto run = [rank](const Named& in, const States& state, const Bounds& cu, int size) {
    Mamba3Options o;
    o.angle = in.at("angle"), o.z = in.at("z"), o.D = in.at("D"), o.dt_bias = in.at("dt_bias");
    o.B_norm_weight = o.C_norm_weight = in.at("norm"), o.B_bias = o.C_bias = in.at("bias");
    o.mimo_x = o.mimo_z = o.mimo_o = in.at("mimo");
    if (rank > 1) o.pairing = RotaryPairing::kHalf;
    o.initial_state = Mamba3State{state[0], state[1], state[2], state[3]};
    o.chunk_size = size, o.cu_seqlens = cu;
    auto [out, last] =
        mamba3_with_state(in.at("x"), in.at("B"), in.at("C"), in.at("dd_dt"), in.at("dd_A"), in.at("trap"), o);
    return Result{out, {last.angle, last.ssm, last.k, last.v}};
  };
  r.run = [=](const Named& in, const States& state) { return run(in, state, {}, chunk); };
  r.packed = [=](const Named& in, const States& state, const Bounds& cu) { return run(in, state, cu, chunk); };
  r.chunked = [=](const Named& in, const States& state, int size) { return run(in, state, {}, size); };
  r.exchanges = {{"heads",
                  kH,
                  kH,
                  {{"x", 2},
                   {"dd_dt", 2},
                   {"dd_A", 2},
                   {"trap", 2},
                   {"z", 2},
                   {"D", 0},
                   {"dt_bias", 0},
                   {"bias", 0},
                   {"mimo", 0}},
                  {1, 1, 2, 1},
                  2},
                 {"channels", kP, kP, {{"x", 3}, {"z", 3}, {"mimo", 2}}, {-1, 2, -1, 2}, 3},
                 {"ranks", rank, rank, {{"B", 2}, {"C", 2}, {"bias", 1}, {"mimo", 1}}, {-1, -1, 1, -1}, -1}};
  r.no_step = [](Named& in) { fill(in, "dd_dt", -1e4); };
  r.skip = [](const Named& in) {
    // sum_r mimo_o^r (D x mimo_x^r) silu(z mimo_z^r)
    const auto wide = [](const mx::array& a) { return mx::expand_dims(a, 3); };
    const auto& m = in.at("mimo");
    const auto D = mx::reshape(in.at("D"), {kH, 1, 1});
    return mx::sum(m * (wide(in.at("x")) * m * D) * silu(wide(in.at("z")) * m), 3);
  };
  r.kept_state = 1;
  r.forget = [](Named& in) { fill(in, "dd_A", 1e30); };
  return r;
}

Recurrent elementwise() {
  constexpr int kD = 5, kN = 3;
  Recurrent r;
  r.name = "pscan";
  r.token_inputs = {"A", "X"};
  r.linear_in = {"X"};
  r.linear_state = {0};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"A", negative_uniform(rng, {d.batch, d.length, kD, kN}, -0.95, 0.95)},
            {"X", normal(rng, {d.batch, d.length, kD, kN})}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kD, kN})}; };
  r.run = [](const Named& in, const States& state) -> Result {
    const auto H = pscan(in.at("A"), in.at("X"), state[0]);
    const int L = H.shape(1);
    return {H, {mx::squeeze(mx::slice(H, {0, L - 1, 0, 0}, {H.shape(0), L, kD, kN}), 1)}};
  };
  r.exchanges = {{"columns", kD, kD, {{"A", 2}, {"X", 2}}, {1}, 2}};
  r.no_step = [](Named& in) { fill(in, "A", 1), fill(in, "X", 0); };
  r.skip = [](const Named& in) { return in.at("X"); };
  r.forget = [](Named& in) { fill(in, "A", 0); };
  return r;
}

}  // namespace

std::vector<Recurrent> recurrent_operators() {
  return {scan(),    conv(false),          conv(true),           mamba2(0),
          mamba2(8), mamba3_of_rank(1, 8), mamba3_of_rank(2, 0), elementwise()};
}

}  // namespace aspis::properties
