// The operators against values and gradients that tools/golden/make_operators.py
// computed with PyTorch's autograd from other formulas.

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "aspis/base/file.h"
#include "aspis/io/array_io.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/mamba3/mamba3.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/ssd/ssd.h"

namespace aspis {
namespace {

using Named = std::map<std::string, mx::array>;

Named load_case(const std::string& name) {
  static const NamedArrays all =
      load_arrays(read_file(ASPIS_SOURCE_DIR "/tests/data/golden/operators.safetensors"), "operators.safetensors");
  Named tensors;
  for (const auto& [key, value] : all) {
    if (key.rfind(name + "/", 0) == 0) tensors.emplace(key.substr(name.size() + 1), value);
  }
  REQUIRE(!tensors.empty());
  return tensors;
}

Named under(const Named& tensors, const std::string& kind) {
  Named out;
  for (const auto& [key, value] : tensors) {
    if (key.rfind(kind + "/", 0) == 0) out.emplace(key.substr(kind.size() + 1), value);
  }
  return out;
}

/// max |got - want| / max |want|.
double error(const mx::array& got, const mx::array& want) {
  REQUIRE(got.shape() == want.shape());
  auto a = mx::contiguous(mx::astype(got, mx::float64)), b = mx::contiguous(want);
  mx::eval(a, b);
  double difference = 0, scale = 1e-30;
  for (size_t i = 0; i < a.size(); i++) {
    const double x = a.data<double>()[i], y = b.data<double>()[i];
    if (!std::isfinite(x)) return INFINITY;
    difference = std::max(difference, std::abs(x - y));
    scale = std::max(scale, std::abs(y));
  }
  return difference / scale;
}

/// Every output and every gradient of `op`, in float64 and float32.
void check(const std::string& name, const std::function<Named(const Named&)>& op) {
  CAPTURE(name);
  const Named tensors = load_case(name);
  const Named want_out = under(tensors, "out"), want_grad = under(tensors, "grad"),
              cotangents = under(tensors, "cot");
  for (const auto dtype : {mx::float64, mx::float32}) {
    CAPTURE(dtype == mx::float64);
    const double forward_limit = dtype == mx::float64 ? 1e-12 : 2e-6;
    const double gradient_limit = dtype == mx::float64 ? 1e-11 : 1e-5;
    Named inputs = under(tensors, "in");
    std::vector<std::string> names;
    std::vector<mx::array> primals, cots;
    for (auto& [key, value] : inputs) {
      if (value.dtype() != mx::float64) continue;  // ids
      value = mx::astype(value, dtype);
      names.push_back(key);
      primals.push_back(value);
    }
    const auto run = [&](const std::vector<mx::array>& values) {
      Named all = inputs;
      for (size_t i = 0; i < names.size(); i++) all.at(names[i]) = values[i];
      const Named out = op(all);
      REQUIRE(out.size() == want_out.size());
      std::vector<mx::array> list;
      for (const auto& [key, value] : out) list.push_back(value);
      return list;
    };
    for (const auto& [key, value] : cotangents) cots.push_back(mx::astype(value, dtype));
    const auto [outputs, gradients] = mx::vjp(run, primals, cots);
    size_t k = 0;
    for (const auto& [key, value] : want_out) {
      CAPTURE(key);
      CHECK(error(outputs[k++], value) < forward_limit);
    }
    CHECK(want_grad.size() == names.size());
    for (size_t i = 0; i < names.size(); i++) {
      CAPTURE(names[i]);
      CHECK(error(gradients[i], want_grad.at(names[i])) < gradient_limit);
    }
  }
}

std::optional<mx::array> optional(const Named& in, const std::string& key) {
  const auto found = in.find(key);
  return found == in.end() ? std::nullopt : std::optional(found->second);
}

Named scan(const Named& in, bool softplus) {
  ScanOptions options;
  options.D = optional(in, "D");
  options.z = optional(in, "z");
  options.delta_bias = optional(in, "delta_bias");
  options.initial_state = optional(in, "initial_state");
  options.delta_softplus = softplus;
  auto [out, last] =
      selective_scan_with_state(in.at("u"), in.at("delta"), in.at("A"), in.at("B"), in.at("C"), options);
  return {{"out", out}, {"last_state", last}};
}

TEST_CASE("selective_scan has PyTorch's values and gradients") {
  for (const char* name : {"scan", "scan_constant_b", "scan_constant_c", "scan_constant_bc"}) {
    check(name, [](const Named& in) { return scan(in, true); });
  }
  check("scan_bare", [](const Named& in) { return scan(in, false); });
}

TEST_CASE("causal_conv1d has PyTorch's values and gradients") {
  for (const bool silu : {true, false}) {
    check(silu ? "conv" : "conv_short", [&](const Named& in) {
      auto [out, state] =
          causal_conv1d_with_state(in.at("x"), in.at("weight"),
                                   {.bias = in.at("bias"), .initial_state = in.at("initial_state"), .silu = silu});
      return Named{{"out", out}, {"final_state", state}};
    });
  }
  check("conv_symmetric", [](const Named& in) {
    return Named{{"out", causal_conv1d(in.at("x"), in.at("weight"),
                                       {.bias = in.at("bias"), .silu = true, .symmetric = true})}};
  });
}

TEST_CASE("ssd has PyTorch's values and gradients") {
  const auto run = [](const Named& in, bool softplus, std::pair<double, double> limit) {
    SsdOptions o;
    o.D = optional(in, "D"), o.z = optional(in, "z"), o.dt_bias = optional(in, "dt_bias");
    o.initial_state = optional(in, "initial_state"), o.seq_idx = optional(in, "seq_idx");
    o.dt_softplus = softplus, o.dt_limit = limit;
    auto [out, state] = ssd_with_state(in.at("x"), in.at("dt"), in.at("A"), in.at("B"), in.at("C"), o);
    return Named{{"out", out}, {"final_state", state}};
  };
  const std::pair<double, double> none = SsdOptions().dt_limit;
  check("ssd", [&](const Named& in) { return run(in, true, none); });
  check("ssd_channel_d_limit", [&](const Named& in) { return run(in, true, {0.4, 1.2}); });
  check("ssd_sequences", [&](const Named& in) { return run(in, true, none); });
  check("ssd_bare", [&](const Named& in) { return run(in, false, none); });
}

TEST_CASE("mamba3 has PyTorch's values and gradients") {
  const auto run = [](const Named& in, RotaryPairing pairing, AActivation activation) {
    Mamba3Options o;
    o.angle = in.at("angle"), o.dt_bias = in.at("dt_bias");
    o.B_norm_weight = in.at("B_norm_weight"), o.C_norm_weight = in.at("C_norm_weight");
    o.B_bias = in.at("B_bias"), o.C_bias = in.at("C_bias"), o.D = in.at("D"), o.z = in.at("z");
    o.mimo_x = optional(in, "mimo_x"), o.mimo_z = optional(in, "mimo_z"), o.mimo_o = optional(in, "mimo_o");
    o.out_norm_weight = optional(in, "out_norm_weight");
    o.pairing = pairing, o.A_activation = activation;
    o.initial_state = Mamba3State{in.at("angle_state"), in.at("ssm_state"), in.at("k_state"), in.at("v_state")};
    auto [out, state] =
        mamba3_with_state(in.at("x"), in.at("B"), in.at("C"), in.at("dd_dt"), in.at("dd_A"), in.at("trap"), o);
    return Named{{"out", out},
                 {"angle_state", state.angle},
                 {"ssm_state", state.ssm},
                 {"k_state", state.k},
                 {"v_state", state.v}};
  };
  const auto adjacent = RotaryPairing::kAdjacent, half = RotaryPairing::kHalf;
  check("mamba3_siso", [&](const Named& in) { return run(in, adjacent, AActivation::kHeavyTail); });
  check("mamba3_siso_norm", [&](const Named& in) { return run(in, adjacent, AActivation::kSoftplus); });
  check("mamba3_mimo", [&](const Named& in) { return run(in, half, AActivation::kHeavyTail); });
  check("mamba3_mimo_norm", [&](const Named& in) { return run(in, half, AActivation::kHeavyTail); });
}

TEST_CASE("gated norms have PyTorch's values and gradients") {
  const auto run = [](const Named& in, int group, bool norm_first, bool center) {
    const GatedNormOptions o{optional(in, "z"), optional(in, "weight"), optional(in, "bias"), group, norm_first};
    return Named{{"out", center ? layer_norm_gated(in.at("x"), o) : rmsnorm_gated(in.at("x"), o)}};
  };
  check("rmsnorm_gate_first", [&](const Named& in) { return run(in, 0, false, false); });
  check("rmsnorm_gate_first_groups", [&](const Named& in) { return run(in, 4, false, false); });
  check("rmsnorm_norm_first", [&](const Named& in) { return run(in, 6, true, false); });
  check("rmsnorm_no_gate", [&](const Named& in) { return run(in, 0, false, false); });
  check("layer_norm_gate_first", [&](const Named& in) { return run(in, 0, false, true); });
  check("layer_norm_norm_first_groups", [&](const Named& in) { return run(in, 4, true, true); });
}

}  // namespace
}  // namespace aspis
