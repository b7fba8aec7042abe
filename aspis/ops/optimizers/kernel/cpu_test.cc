#include "aspis/ops/optimizers/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/optimizers/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

using kernel::LambConstants;
using kernel::LionConstants;
using kernel::MuonConstants;
using kernel::SgdConstants;

void run(const kernel::UpdateParams<float>& p, const SgdConstants& c) { kernel::sgd(p, c); }
void run(const kernel::UpdateParams<float>& p, const LionConstants& c) { kernel::lion(p, c); }
void run(const kernel::UpdateParams<float>& p, const LambConstants& c) { kernel::lamb(p, c); }
void run(const kernel::UpdateParams<float>& p, const MuonConstants& c) { kernel::muon(p, c); }
void run(const kernel::UpdateParams<double>& p, const SgdConstants& c) { kernel::sgd(p, c); }
void run(const kernel::UpdateParams<double>& p, const LionConstants& c) { kernel::lion(p, c); }
void run(const kernel::UpdateParams<double>& p, const LambConstants& c) { kernel::lamb(p, c); }
void run(const kernel::UpdateParams<double>& p, const MuonConstants& c) { kernel::muon(p, c); }

struct Size {
  int64_t rows, columns;
};
const std::vector<Size> kSizes = {{1, 1}, {5, 3}, {3, 17}, {16, 16}, {40, 7}, {70, 301}};

struct Use {
  bool in_place = true, average = false, half = false, half_gradient = false;
};

// Matrices with random gradients, each one element off alignment; every second has no weight decay.
template <typename T>
struct Model {
  std::vector<Size> sizes;
  std::vector<std::vector<T>> lists[4], fresh[4];  // p, m, v, average
  std::vector<std::vector<T>> g;
  std::vector<std::vector<Bf16>> g_half, half;
  Use use;
  kernel::UpdateParams<T> params;
  float applied = -7;
  Rng rng{3, "optimizers"};

  Model(const std::vector<Size>& s, const Use& u) : sizes(s), use(u) {
    for (const Size& size : sizes) {
      const int64_t n = size.rows * size.columns;
      for (int k = 0; k < 4; k++) lists[k].emplace_back(n + 1);
      for (T& x : lists[0].back()) x = random();
      lists[3].back() = lists[0].back();
      g.emplace_back(n + 1);
      g_half.emplace_back(n + 1);
      half.emplace_back(n + 1);
    }
    for (int k = 0; k < 4; k++) fresh[k] = lists[k];
    params.learning_rate = 1e-2;
    params.applied = &applied;
    params.average_decay = 0.9;
  }

  T random() { return static_cast<T>(static_cast<float>(rng.normal())); }

  void draw_gradients() {
    for (size_t i = 0; i < g.size(); i++) {
      for (size_t j = 0; j < g[i].size(); j++) {
        g_half[i][j] = to_bf16(static_cast<float>(rng.normal()));
        g[i][j] = use.half_gradient ? static_cast<T>(to_float(g_half[i][j])) : random();
      }
    }
  }

  template <typename Constants>
  void step(const Constants& c) {
    params.arrays.clear();
    for (size_t i = 0; i < sizes.size(); i++) {
      kernel::UpdateArray<T> a;
      a.n = sizes[i].rows * sizes[i].columns;
      a.rows = sizes[i].rows;
      a.decay = i % 2 == 0;
      a.gradient = g[i].data() + 1;
      if (use.half_gradient) {
        a.gradient = nullptr;
        a.half_gradient = g_half[i].data() + 1;
      }
      for (int k = 0; k < 3; k++) {
        a.in[k] = lists[k][i].data() + 1;
        a.out[k] = (use.in_place ? lists : fresh)[k][i].data() + 1;
      }
      if (use.average) {
        a.average_in = lists[3][i].data() + 1;
        a.average_out = (use.in_place ? lists : fresh)[3][i].data() + 1;
      }
      if (use.half) a.half = half[i].data() + 1;
      params.arrays.push_back(a);
    }
    run(params, c);
    if (use.in_place) return;
    // A list that this optimizer does not have is left alone.
    for (int k = 0; k < 3; k++) std::swap(lists[k], fresh[k]);
    if (use.average) std::swap(lists[3], fresh[3]);
  }
};

// Largest error of a parameter (and its average) after five steps, relative to how far parameters moved.
template <typename T, typename Constants>
double five_steps(const Constants& c, const Use& use) {
  Model<T> model(kSizes, use);
  std::vector<kernel::OptimizerArray> want;
  std::vector<std::vector<double>> averages;
  for (size_t i = 0; i < kSizes.size(); i++) {
    want.emplace_back(std::vector<double>(model.lists[0][i].begin() + 1, model.lists[0][i].end()), kSizes[i].rows,
                      i % 2 == 0);
    averages.push_back(want.back().p);
  }
  const auto start = want;
  for (int64_t t = 1; t <= 5; t++) {
    model.draw_gradients();
    model.params.step = t;
    model.params.learning_rate = 1e-2 / static_cast<double>(t);
    model.params.gradient_scale = 0.5;
    model.step(c);
    CHECK(model.applied == 1);
    for (size_t i = 0; i < want.size(); i++) {
      std::vector<double> g;
      for (size_t j = 1; j < model.g[i].size(); j++) g.push_back(0.5 * static_cast<double>(model.g[i][j]));
      want[i].step(g, 1e-2 / static_cast<double>(t), t, c);
      for (size_t j = 0; j < g.size(); j++) averages[i][j] = 0.9 * averages[i][j] + 0.1 * want[i].p[j];
    }
  }
  double worst = 0, moved = 0;
  for (size_t i = 0; i < want.size(); i++) {
    for (size_t j = 0; j < want[i].p.size(); j++) {
      const double p = static_cast<double>(model.lists[0][i][j + 1]);
      worst = std::max(worst, std::abs(p - want[i].p[j]));
      if (use.average)
        worst = std::max(worst, std::abs(static_cast<double>(model.lists[3][i][j + 1]) - averages[i][j]));
      moved = std::max(moved, std::abs(start[i].p[j] - want[i].p[j]));
      if (use.half) CHECK(model.half[i][j + 1] == to_bf16(static_cast<float>(p)));
    }
  }
  return worst / moved;
}

template <typename Constants>
void check(const Constants& c, double limit) {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const bool in_place : {true, false}) {
      CHECK(five_steps<float>(c, {in_place, false, false, false}) < limit);
      CHECK(five_steps<float>(c, {in_place, true, true, true}) < limit);
      CHECK(five_steps<double>(c, {in_place, true, false, false}) < 1e-11);
    }
  }
  force_isa("");
}

template <typename Constants>
void check_threads(const Constants& c) {
  // Large enough to be cut, for Muon to share out its rows, and a few small ones.
  const std::vector<Size> sizes = {{200, 300}, {3, 17}, {41, 5}, {260, 150}};
  const auto run = [&](int threads, bool in_place) {
    set_num_threads(threads);
    Model<float> model(sizes, {in_place, true, false, false});
    for (int64_t t = 1; t <= 2; t++) {
      model.draw_gradients();
      model.params.step = t;
      model.step(c);
    }
    return std::vector{model.lists[0], model.lists[1], model.lists[3]};
  };
  const auto want = run(1, true);
  for (const int threads : {1, 2, 3, 7}) {
    CHECK(run(threads, false) == want);
    CHECK(run(threads, true) == want);
  }
  set_num_threads(0);
}

template <typename Constants>
void check_guard(const Constants& c) {
  const float nan = NAN;
  for (const bool in_place : {true, false}) {
    Model<float> model({{3, 5}, {200, 200}}, {in_place, true, true, false});
    model.draw_gradients();
    model.step(c);
    const auto p = model.lists[0], m = model.lists[1], average = model.lists[3];
    const auto half = model.half;
    model.params.step = 2;
    model.params.loss = &nan;
    for (auto& x : model.g) x.assign(x.size(), nan);
    model.step(c);
    CHECK(model.applied == 0);
    CHECK(model.lists[0] == p);
    CHECK(model.lists[1] == m);
    CHECK(model.lists[3] == average);
    CHECK(model.half == half);
  }
}

}  // namespace

// A parameter of size 4 is rounded by up to 2.4e-7 in each of five steps and moves by about 0.02.
TEST_CASE("sgd kernel follows the definition on every instruction set") {
  check(SgdConstants{0.9, false, 0.1}, 1e-4);
  check(SgdConstants{0.8, true, 0.1}, 1e-4);
  check(SgdConstants{0, false, 0}, 1e-4);
}
TEST_CASE("lion kernel follows the definition on every instruction set") {
  check(LionConstants{0.9, 0.99, 0.1}, 1e-4);
}
TEST_CASE("lamb kernel follows the definition on every instruction set") {
  check(LambConstants{0.9, 0.99, 1e-6, 0.1}, 1e-4);
}
// Newton and Schulz's steps enlarge the smallest singular values, and their rounding, by up to 3.4 each.
TEST_CASE("muon kernel follows the definition on every instruction set") {
  check(MuonConstants{}, 1e-3);
  MuonConstants other;
  other.nesterov = false;
  other.original = true;
  other.steps = 3;
  check(other, 1e-3);
}

TEST_CASE("optimizer kernels give the same bits for 1, 2, 3 and 7 threads, in place or not") {
  check_threads(SgdConstants{});
  check_threads(LionConstants{});
  check_threads(LambConstants{});
  check_threads(MuonConstants{});
}

TEST_CASE("a step of any optimizer with a loss that is not finite changes nothing") {
  check_guard(SgdConstants{});
  check_guard(LionConstants{});
  check_guard(LambConstants{});
  check_guard(MuonConstants{});
}

TEST_CASE("lion does not move where momentum and gradient are zero") {
  Model<float> model({{2, 3}}, {});
  const auto before = model.lists[0];
  model.step(LionConstants{0.9, 0.99, 0});
  CHECK(model.lists[0] == before);
}

TEST_CASE("muon makes the directions of a step equally large") {
  // Singular values 4 and 1: after the iteration both are within the published band.
  Model<double> model({{2, 2}}, {});
  model.lists[0][0] = {0, 0, 0, 0, 0};
  model.g[0] = {0, 4, 0, 0, 1};
  model.params.learning_rate = 1;
  MuonConstants c;
  c.original = true;
  c.weight_decay = 0;
  model.step(c);
  for (const int i : {1, 4}) {
    CHECK(-model.lists[0][0][i] > 0.68);
    CHECK(-model.lists[0][0][i] < 1.2);
  }
  CHECK(std::abs(model.lists[0][0][2]) < 1e-12);
}
