#include "aspis/train/optimizer.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "aspis/base/error.h"

using namespace aspis;
using aspis::train::OptimizerSettings;
using aspis::train::Optimizer;

namespace {

// A quadratic bowl with a matrix that decays and a bias that does not.
struct Bowl : Module {
  mx::array weight = mx::array({1.0f, -2.0f, 3.0f, 0.5f, 0.25f, -1.0f}, {2, 3});
  mx::array bias = mx::array({1.0f, -1.0f});
  mx::array frozen = mx::array({4.0f});
  Bowl() {
    add_parameter("weight", weight);
    add_parameter("bias", bias, Decay::kNo);
    add_parameter("frozen", frozen);
    freeze("frozen");
  }
  std::string type_name() const override { return "Bowl"; }
};

// The same update for one number, written out.
struct Scalar {
  double p, m = 0, v = 0;
  void step(double g, int64_t t, double rate, double decay, const OptimizerSettings& s) {
    m = s.beta1 * m + (1 - s.beta1) * g;
    v = s.beta2 * v + (1 - s.beta2) * g * g;
    const auto n = static_cast<double>(t);
    p *= 1 - rate * decay;
    p -= rate * m / (1 - std::pow(s.beta1, n)) / (std::sqrt(v / (1 - std::pow(s.beta2, n))) + s.eps);
  }
};

std::vector<float> values(mx::array a) {
  a = mx::contiguous(a);
  a.eval();
  return {a.data<float>(), a.data<float>() + a.size()};
}

std::vector<mx::array> doubled(const Module& m) {
  std::vector<mx::array> gradients;
  for (const auto& [name, value] : m.trainable_parameters()) gradients.push_back(mx::multiply(value, mx::array(2.0f)));
  return gradients;
}

}  // namespace

TEST_CASE("the optimizer follows AdamW with clipping, decays what decays and spares frozen parameters") {
  Bowl bowl;
  OptimizerSettings s;
  s.weight_decay = 0.1;
  s.clip = 5;  // the first norm is about 8.5, later ones are smaller
  Optimizer optimizer(bowl, s);
  std::vector<Scalar> want;
  for (const float p : values(bowl.weight)) want.push_back({p});
  for (const float p : values(bowl.bias)) want.push_back({p});
  for (int64_t t = 1; t <= 10; t++) {
    double squares = 0;
    for (const Scalar& w : want) squares += 4 * w.p * w.p;
    const double norm = std::sqrt(squares), clip = std::min(1.0, 5 / (norm + 1e-6));
    auto got = optimizer.update(doubled(bowl), mx::array(1.0f), 0.1);
    auto pending = optimizer.pending();
    CHECK(pending.size() == 6);
    pending.push_back(got);
    mx::eval(pending);
    optimizer.confirm(true);
    CHECK(got.item<float>() == doctest::Approx(norm).epsilon(1e-5));
    for (size_t i = 0; i < want.size(); i++) want[i].step(2 * want[i].p * clip, t, 0.1, i < 6 ? 0.1 : 0, s);
  }
  CHECK(optimizer.steps() == 10);
  const auto weight = values(bowl.weight), bias = values(bowl.bias);
  for (size_t i = 0; i < 6; i++) CHECK(weight[i] == doctest::Approx(want[i].p).epsilon(1e-5));
  for (size_t i = 0; i < 2; i++) CHECK(bias[i] == doctest::Approx(want[6 + i].p).epsilon(1e-5));
  CHECK(values(bowl.frozen) == std::vector<float>{4.0f});
}

TEST_CASE("a loss or gradient that is not finite changes nothing and does not count as a step") {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const bool in_loss : {false, true}) {
    Bowl bowl;
    Optimizer optimizer(bowl, {});
    mx::eval(optimizer.update(doubled(bowl), mx::array(1.0f), 0.1));
    optimizer.confirm(true);
    std::vector<std::vector<float>> before;
    for (const auto& a : optimizer.pending()) before.push_back(values(a));
    auto gradients = doubled(bowl);
    if (!in_loss) gradients[1] = mx::array({1.0f, kNan});
    auto norm = optimizer.update(gradients, mx::array(in_loss ? kNan : 1.0f), 0.1);
    CHECK(std::isfinite(norm.item<float>()) == in_loss);
    optimizer.confirm(false);
    CHECK(optimizer.steps() == 1);
    const auto after = optimizer.pending();
    for (size_t i = 0; i < after.size(); i++) CHECK(values(after[i]) == before[i]);
  }
}

TEST_CASE("an optimizer that is saved and loaded goes on bit by bit") {
  Bowl bowl;
  Optimizer optimizer(bowl, {});
  for (int i = 0; i < 3; i++) {
    optimizer.update(doubled(bowl), mx::array(1.0f), 0.1);
    optimizer.confirm(true);
  }
  const NamedArrays state = optimizer.state();
  REQUIRE(state.size() == 4);
  CHECK(state[0].first == "m.weight");
  CHECK(state[3].first == "v.bias");
  Bowl other;
  other.load(bowl.state());
  Optimizer loaded(other, {});
  loaded.load(state, optimizer.steps(), "test");
  CHECK(loaded.steps() == 3);
  optimizer.update(doubled(bowl), mx::array(1.0f), 0.1);
  loaded.update(doubled(other), mx::array(1.0f), 0.1);
  CHECK(values(bowl.weight) == values(other.weight));
  CHECK(values(bowl.bias) == values(other.bias));
}

TEST_CASE("every optimizer goes down the bowl, and goes on bit by bit when it is saved and loaded") {
  for (const auto kind : {OptimizerKind::kAdamW, OptimizerKind::kSgd, OptimizerKind::kLion, OptimizerKind::kLamb,
                          OptimizerKind::kMuon}) {
    for (const double ema : {0.0, 0.9}) {
      CAPTURE(to_string(kind));
      CAPTURE(ema);
      OptimizerSettings s;
      s.kind = kind;
      s.ema = ema;
      s.weight_decay = 0.01;
      Bowl bowl;
      Optimizer optimizer(bowl, s);
      double before = 0, after = 0;
      for (const float x : values(bowl.weight)) before += static_cast<double>(x) * x;
      const auto step = [](Bowl& b, Optimizer& o) {
        auto norm = o.update(doubled(b), mx::array(1.0f), 0.02);
        auto pending = o.pending();
        pending.push_back(norm);
        mx::eval(pending);
        o.confirm(true);
      };
      for (int i = 0; i < 30; i++) step(bowl, optimizer);
      for (const float x : values(bowl.weight)) after += static_cast<double>(x) * x;
      CHECK(after < 0.9 * before);
      // As the trainer does it: the weights of a checkpoint are the averages.
      const auto raw = values(bowl.weight);
      optimizer.swap_averages();
      const NamedArrays weights = bowl.state();
      optimizer.swap_averages();
      CHECK(values(bowl.weight) == raw);
      CHECK((values(weights[0].second) == raw) == (ema == 0));
      Bowl other;
      other.load(weights);
      Optimizer loaded(other, s);
      loaded.load(optimizer.state(), optimizer.steps(), "test");
      CHECK(values(other.weight) == raw);
      step(bowl, optimizer);
      step(other, loaded);
      CHECK(values(bowl.weight) == values(other.weight));
      CHECK(values(bowl.bias) == values(other.bias));
      optimizer.swap_averages();
      loaded.swap_averages();
      CHECK(values(bowl.weight) == values(other.weight));
    }
  }
}

TEST_CASE("the moving average is that of the parameters, young ones forgetting faster") {
  Bowl bowl;
  OptimizerSettings s;
  s.ema = 0.3;
  Optimizer optimizer(bowl, s);
  std::vector<double> want;
  for (const float x : values(bowl.bias)) want.push_back(x);
  for (int t = 0; t < 6; t++) {
    mx::eval(optimizer.update(doubled(bowl), mx::array(1.0f), 0.1));
    optimizer.confirm(true);
    const double decay = std::min(0.3, (1.0 + t) / (10.0 + t));
    const auto now = values(bowl.bias);
    for (size_t i = 0; i < want.size(); i++) want[i] = decay * want[i] + (1 - decay) * static_cast<double>(now[i]);
  }
  optimizer.swap_averages();
  const auto got = values(bowl.bias);
  for (size_t i = 0; i < want.size(); i++) CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-5));
}

TEST_CASE("the optimizer refuses moments that do not fit and keeps its own") {
  Bowl bowl;
  Optimizer optimizer(bowl, {});
  const auto refuse = [&](const NamedArrays& state, const char* message) {
    try {
      optimizer.load(state, 7, "optimizer.safetensors");
      FAIL("no error");
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kModel);
      CHECK(std::string(e.what()).find(message) != std::string::npos);
      CHECK(std::string(e.what()).find("optimizer.safetensors") != std::string::npos);
    }
    CHECK(optimizer.steps() == 0);
  };
  NamedArrays state = optimizer.state();
  state[3].second = mx::zeros({3});
  refuse(state, "v.bias must have shape {2}; got {3}");
  state.pop_back();
  refuse(state, "the moment v.bias is needed");
  state = optimizer.state();
  state.emplace_back("m.extra", mx::zeros({1}));
  refuse(state, "m.extra");
}
