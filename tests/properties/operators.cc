#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/properties/recurrent.h"

namespace aspis::properties {
namespace {

mx::array zeros(const mx::Shape& shape) { return mx::zeros(shape, mx::float32); }

Recurrent scan() {
  constexpr int kD = 5, kN = 3, kG = 1;
  Recurrent r;
  r.name = "selective_scan";
  r.token_inputs = {"u", "delta", "B", "C", "z"};
  r.linear_in = {"u"};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"u", normal(rng, {d.batch, d.length, kD})},     {"delta", normal(rng, {d.batch, d.length, kD}, 0.5)},
            {"A", negative_uniform(rng, {kD, kN}, 0.1, 2)},  {"B", normal(rng, {d.batch, d.length, kG, kN})},
            {"C", normal(rng, {d.batch, d.length, kG, kN})}, {"D", normal(rng, {kD})},
            {"z", normal(rng, {d.batch, d.length, kD})},     {"delta_bias", normal(rng, {kD}, 0.3)}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kD, kN})}; };
  const auto run = [](const Named& in, const std::vector<mx::array>& state,
                      const std::vector<int32_t>& cu) -> Result {
    ScanOptions o;
    o.cu_seqlens = cu;
    o.D = in.at("D");
    o.z = in.at("z");
    o.delta_bias = in.at("delta_bias");
    o.delta_softplus = true;
    o.initial_state = state[0];
    auto [out, last] =
        selective_scan_with_state(in.at("u"), in.at("delta"), in.at("A"), in.at("B"), in.at("C"), o);
    return {out, {last}};
  };
  r.run = [run](const Named& in, const std::vector<mx::array>& state) { return run(in, state, {}); };
  r.packed = run;
  return r;
}

Recurrent conv() {
  constexpr int kD = 5, kTaps = 4;
  Recurrent r;
  r.name = "causal_conv1d";
  r.token_inputs = {"x"};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"x", normal(rng, {d.batch, d.length, kD})},
            {"weight", normal(rng, {kD, kTaps})},
            {"bias", normal(rng, {kD})}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kTaps - 1, kD})}; };
  const auto run = [](const Named& in, const std::vector<mx::array>& state,
                      const std::vector<int32_t>& cu) -> Result {
    const Conv1dOptions o{.bias = in.at("bias"), .initial_state = state[0], .silu = true, .cu_seqlens = cu};
    auto [out, last] = causal_conv1d_with_state(in.at("x"), in.at("weight"), o);
    return {out, {last}};
  };
  r.run = [run](const Named& in, const std::vector<mx::array>& state) { return run(in, state, {}); };
  r.packed = run;
  return r;
}

Recurrent mamba2(int chunk) {
  constexpr int kH = 4, kP = 3, kG = 2, kN = 5;
  Recurrent r;
  r.name = "ssd, chunk " + std::to_string(chunk);
  r.token_inputs = {"x", "dt", "B", "C", "z"};
  r.linear_in = {"x"};
  r.draw = [](const Dims& d, Rng& rng) -> Named {
    return {{"x", normal(rng, {d.batch, d.length, kH, kP})}, {"dt", normal(rng, {d.batch, d.length, kH}, 0.7)},
            {"A", negative_uniform(rng, {kH}, 0.1, 2)},      {"B", normal(rng, {d.batch, d.length, kG, kN})},
            {"C", normal(rng, {d.batch, d.length, kG, kN})}, {"D", normal(rng, {kH})},
            {"z", normal(rng, {d.batch, d.length, kH, kP})}, {"dt_bias", normal(rng, {kH}, 0.3)}};
  };
  r.zero_state = [](int batch) { return std::vector{zeros({batch, kH, kP, kN})}; };
  const auto run = [chunk](const Named& in, const std::vector<mx::array>& state, const std::vector<int32_t>& cu) {
    SsdOptions o;
    o.D = in.at("D"), o.z = in.at("z"), o.dt_bias = in.at("dt_bias"), o.initial_state = state[0];
    o.dt_softplus = true, o.chunk_size = chunk, o.cu_seqlens = cu;
    auto [out, last] = ssd_with_state(in.at("x"), in.at("dt"), in.at("A"), in.at("B"), in.at("C"), o);
    return Result{out, {last}};
  };
  r.run = [run](const Named& in, const std::vector<mx::array>& state) { return run(in, state, {}); };
  r.packed = run;
  return r;
}

Recurrent mamba3_of_rank(int rank, int chunk) {
  constexpr int kH = 2, kP = 3, kG = 1, kN = 4, kA = 2;
  Recurrent r;
  r.name = "mamba3, rank " + std::to_string(rank) + ", chunk " + std::to_string(chunk);
  r.token_inputs = {"x", "B", "C", "dd_dt", "dd_A", "trap", "angle", "z"};
  r.precision = 3e-5;  // a phase is a sum of turns of up to pi: each adds a rounding of 2 pi
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
  const auto run = [rank, chunk](const Named& in, const std::vector<mx::array>& state,
                                 const std::vector<int32_t>& cu) {
    Mamba3Options o;
    o.angle = in.at("angle"), o.z = in.at("z"), o.D = in.at("D"), o.dt_bias = in.at("dt_bias");
    o.B_norm_weight = o.C_norm_weight = in.at("norm"), o.B_bias = o.C_bias = in.at("bias");
    o.mimo_x = o.mimo_z = o.mimo_o = in.at("mimo");
    if (rank > 1) o.pairing = RotaryPairing::kHalf;
    o.initial_state = Mamba3State{state[0], state[1], state[2], state[3]};
    o.chunk_size = chunk, o.cu_seqlens = cu;
    auto [out, last] =
        mamba3_with_state(in.at("x"), in.at("B"), in.at("C"), in.at("dd_dt"), in.at("dd_A"), in.at("trap"), o);
    return Result{out, {last.angle, last.ssm, last.k, last.v}};
  };
  r.run = [run](const Named& in, const std::vector<mx::array>& state) { return run(in, state, {}); };
  r.packed = run;
  return r;
}

}  // namespace

std::vector<Recurrent> recurrent_operators() {
  return {scan(), conv(), mamba2(0), mamba2(8), mamba3_of_rank(1, 8), mamba3_of_rank(2, 0)};
}

}  // namespace aspis::properties
