#include "aspis/ops/optimizers/optimizers.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <map>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/rng.h"
#include "aspis/io/array_io.h"
#include "aspis/ops/grad_norm/grad_norm.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/optimizers/optimizers_cases.h"

using namespace aspis;
namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

namespace {

constexpr OptimizerKind kAll[] = {OptimizerKind::kAdamW, OptimizerKind::kSgd, OptimizerKind::kLion,
                                  OptimizerKind::kLamb, OptimizerKind::kMuon};

mx::array random_array(const char* name, const mx::Shape& shape, uint64_t index = 0) {
  Rng rng(1, name, index);
  int64_t n = 1;
  for (const auto d : shape) n *= d;
  std::vector<float> values(n);
  for (auto& v : values) v = static_cast<float>(rng.normal());
  return mx::array(values.begin(), shape);
}

std::vector<Arrays> zero_states(OptimizerKind kind, const Arrays& like) {
  std::vector<Arrays> states(state_count(kind));
  for (Arrays& list : states) {
    for (const auto& a : like) {
      list.push_back(mx::zeros(a.shape(), a.dtype()));
      mx::eval(list.back());
    }
  }
  return states;
}

void eval(const OptimizerResult& r) {
  Arrays all{r.applied};
  for (const auto* list : {&r.params, &r.averages, &r.half}) all.insert(all.end(), list->begin(), list->end());
  for (const auto& list : r.states) all.insert(all.end(), list.begin(), list.end());
  mx::eval(all);
}

double error(const mx::array& got, const mx::array& want) {
  auto a = mx::contiguous(mx::astype(got, mx::float64)), b = mx::contiguous(mx::astype(want, mx::float64));
  mx::eval(a, b);
  double worst = 0;
  for (size_t i = 0; i < b.size(); i++)
    worst = std::max(worst, std::abs(a.data<double>()[i] - b.data<double>()[i]));
  return worst;
}

}  // namespace

TEST_CASE("optimizers conform on every instruction set") { harness::expect_conforms(optimizers_entry()); }

TEST_CASE("five steps of every optimizer are those of PyTorch and timm") {
  const auto stored =
      load_arrays(read_file(ASPIS_SOURCE_DIR "/tests/data/golden/optimizers.safetensors"), "optimizers");
  const std::map<std::string, mx::array> golden(stored.begin(), stored.end());
  OptimizerRule adamw{.beta2 = 0.99}, sgd{.kind = OptimizerKind::kSgd},
      lion{.kind = OptimizerKind::kLion, .beta2 = 0.99},
      lamb{.kind = OptimizerKind::kLamb, .beta2 = 0.99, .eps = 1e-6},
      muon{.kind = OptimizerKind::kMuon, .beta1 = 0.95, .eps = 1e-7, .nesterov = true};
  auto nesterov = sgd;
  nesterov.nesterov = true;
  auto original = muon;
  original.original_factor = true;
  for (auto& [name, rule] : {std::pair<std::string, OptimizerRule>{"adamw", adamw},
                             {"sgd", sgd},
                             {"sgd_nesterov", nesterov},
                             {"lion", lion},
                             {"lamb", lamb},
                             {"muon", muon},
                             {"muon_original", original}}) {
    for (const auto dtype : {mx::float64, mx::float32}) {
      CAPTURE(name);
      OptimizerRule r = rule;
      r.weight_decay = 0.1;
      const int count = r.kind == OptimizerKind::kMuon ? 2 : 3;
      const auto all = [&](const std::string& prefix) {
        Arrays list;
        for (int i = 0; i < count; i++) list.push_back(mx::astype(golden.at(prefix + std::to_string(i)), dtype));
        return list;
      };
      Arrays p = all("start/");
      auto states = zero_states(r.kind, p);
      std::vector<bool> decay{true, true, false};
      decay.resize(count);
      for (int t = 1; t <= 5; t++) {
        StepControl control;
        control.lr = 0.1 / t;
        control.step = t;
        auto result = optimizer_step(r, std::move(p), all("gradient/" + std::to_string(t) + "/"),
                                     std::move(states), decay, control);
        eval(result);
        p = std::move(result.params);
        states = std::move(result.states);
        for (int i = 0; i < count; i++) {
          const auto& want = golden.at(name + "/" + std::to_string(t) + "/" + std::to_string(i));
          CHECK(error(p[i], want) < (dtype == mx::float64 ? 1e-9 : 1e-5));
        }
      }
    }
  }
}

TEST_CASE("every optimizer keeps averages and bfloat16 copies beside float32 parameters, in place") {
  for (const OptimizerKind kind : kAll) {
    CAPTURE(to_string(kind));
    OptimizerRule rule{.kind = kind};
    Arrays p{random_array("p", {7, 5}), random_array("p", {300, 70}, 1)};
    auto states = zero_states(kind, p);
    Arrays averages{mx::add(p[0], mx::array(0.0f)), mx::add(p[1], mx::array(0.0f))};
    mx::eval(averages);
    Arrays plain = p, want = p;
    auto plain_states = zero_states(kind, p);
    for (int t = 1; t <= 3; t++) {
      const Arrays g{mx::astype(random_array("g", {7, 5}, t), mx::bfloat16),
                     mx::astype(random_array("h", {300, 70}, t), mx::bfloat16)};
      StepControl control;
      control.lr = 0.01;
      control.step = t;
      auto alone = optimizer_step(rule, plain, {mx::astype(g[0], mx::float32), mx::astype(g[1], mx::float32)},
                                  plain_states, {true, false}, control);
      eval(alone);
      plain = alone.params;
      plain_states = alone.states;
      for (size_t i = 0; i < 2; i++) {
        want[i] = mx::add(mx::multiply(want[i], mx::array(0.5f)), mx::multiply(plain[i], mx::array(0.5f)));
      }
      control.averages = std::move(averages);
      control.average_decay = 0.5;
      control.half = true;
      auto r = optimizer_step(rule, std::move(p), g, std::move(states), {true, false}, std::move(control));
      eval(r);
      p = r.params;
      states = r.states;
      averages = r.averages;
      for (size_t i = 0; i < 2; i++) {
        CHECK(mx::array_equal(p[i], plain[i]).item<bool>());
        CHECK(mx::array_equal(r.half[i], mx::astype(plain[i], mx::bfloat16)).item<bool>());
        CHECK(error(averages[i], want[i]) < 1e-6);
      }
      r.params.clear();
      r.averages.clear();
    }
  }
}

TEST_CASE("a scaled loss gives the step of the plain one, and one that overflows gives none") {
  const Arrays p{random_array("p", {4, 4})}, g{random_array("g", {4, 4})};
  for (const OptimizerKind kind : kAll) {
    CAPTURE(to_string(kind));
    const OptimizerRule rule{.kind = kind};
    StepControl control;
    control.max_norm = 0.5;
    control.norm = global_norm(g);
    const auto want = optimizer_step(rule, p, g, zero_states(kind, p), {true}, control);
    const Arrays scaled{mx::multiply(g[0], mx::array(1024.0f))};
    control.norm = global_norm(scaled);
    control.gradient_scale = 1.0 / 1024;
    const auto got = optimizer_step(rule, p, scaled, zero_states(kind, p), {true}, control);
    CHECK(mx::allclose(got.params[0], want.params[0], 1e-6, 1e-7).item<bool>());
    const Arrays too_large{mx::multiply(g[0], mx::array(INFINITY))};
    control.norm = global_norm(too_large);
    const auto none = optimizer_step(rule, p, too_large, zero_states(kind, p), {true}, control);
    eval(none);
    CHECK(none.applied.item<float>() == 0);
    CHECK(mx::array_equal(none.params[0], p[0]).item<bool>());
  }
}

TEST_CASE("optimizers refuse what does not fit with one sentence") {
  const Arrays p{mx::zeros({3})}, matrix{mx::zeros({3, 2})};
  const auto step = [](const OptimizerRule& rule, const Arrays& params, const StepControl& control = {}) {
    return optimizer_step(rule, params, params, zero_states(rule.kind, params), {true}, control);
  };
  CHECK_THROWS_WITH_AS(step({.kind = OptimizerKind::kMuon}, p),
                       "[muon] params[0] must have at least two axes; got {3}. Try: adamw for vectors and numbers",
                       Error);
  CHECK_THROWS_AS(step({.kind = OptimizerKind::kLion, .beta2 = 1}, p), Error);
  CHECK_THROWS_AS(step({.kind = OptimizerKind::kLamb, .eps = 0}, p), Error);
  CHECK_THROWS_WITH_AS(optimizer_step({.kind = OptimizerKind::kLamb}, p, p, {p}, {true}, {}),
                       "[lamb] 2 lists of states are needed; got 1", Error);
  StepControl control;
  control.averages = {mx::zeros({2})};
  CHECK_THROWS_WITH_AS(step({.kind = OptimizerKind::kSgd}, p, control),
                       "[sgd] averages[0] must have shape {parameter} = {3}; got {2}", Error);
  CHECK_THROWS_WITH_AS(optimizer_kind("adam"),
                       "[optimizer] one of adamw, sgd, lion, lamb, muon is needed; got 'adam'", Error);
}
