#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/properties/recurrent.h"

namespace aspis::properties {
namespace {

mx::array zeros(mx::Shape shape) { return mx::zeros(std::move(shape), mx::float32); }

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
  r.run = [](const Named& in, const std::vector<mx::array>& state) -> Result {
    ScanOptions o;
    o.D = in.at("D");
    o.z = in.at("z");
    o.delta_bias = in.at("delta_bias");
    o.delta_softplus = true;
    o.initial_state = state[0];
    auto [out, last] =
        selective_scan_with_state(in.at("u"), in.at("delta"), in.at("A"), in.at("B"), in.at("C"), o);
    return {out, {last}};
  };
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
  r.run = [](const Named& in, const std::vector<mx::array>& state) -> Result {
    auto [out, last] = causal_conv1d_with_state(in.at("x"), in.at("weight"),
                                                {.bias = in.at("bias"), .initial_state = state[0], .silu = true});
    return {out, {last}};
  };
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

}  // namespace

std::vector<Recurrent> recurrent_operators() { return {scan(), conv(), mamba2(0), mamba2(8)}; }

}  // namespace aspis::properties
