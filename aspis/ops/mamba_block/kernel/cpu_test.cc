#include "aspis/ops/mamba_block/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/mamba_block/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

struct Shape {
  int64_t batch, length, width, inner, state, taps, rank;
  int branches;  // every second one in reverse
  bool order = false;
};
// Pieces are 64 tokens long; more than 16 samples share groups.
const Shape kShapes[] = {{1, 1, 1, 1, 1, 1, 1, 1},    {2, 3, 4, 5, 2, 4, 3, 2},   {3, 64, 8, 16, 8, 4, 1, 1},
                         {2, 131, 6, 20, 3, 4, 2, 2}, {1, 70, 5, 17, 2, 2, 1, 2}, {2, 25, 4, 9, 4, 3, 2, 2, true},
                         {19, 5, 4, 8, 2, 4, 2, 1}};

template <typename T>
struct Problem {
  std::vector<std::vector<T>> data;
  std::vector<std::vector<T>> gradients;
  std::vector<int32_t> order;
  kernel::MambaBlockVjpParams<T> q;

  explicit Problem(const Shape& s) {
    auto& p = q.forward;
    p.batch = s.batch;
    p.length = s.length;
    p.width = s.width;
    p.inner = s.inner;
    p.state = s.state;
    p.taps = s.taps;
    p.rank = s.rank;
    data.reserve(64);
    gradients.reserve(64);
    int64_t index = 0;
    const auto random = [&](int64_t n, double scale, double shift) {
      Rng rng(7, "mamba_block", index++);
      std::vector<T> v(n);
      for (T& x : v) x = static_cast<T>(static_cast<float>(scale * rng.normal() + shift));
      data.push_back(std::move(v));
      return data.back().data();
    };
    const auto gradient = [&](int64_t n) {
      gradients.emplace_back(n, static_cast<T>(NAN));
      return gradients.back().data();
    };
    const int64_t L = s.length, W = s.width, I = s.inner, N = s.state, R = s.rank;
    order.resize(L);
    for (int64_t i = 0; i < L; i++) order[i] = static_cast<int32_t>((i * 2) % L + (L % 2 == 0 && i >= L / 2));
    p.h = random(s.batch * L * W, 1, 0);
    p.in_proj = random(2 * I * W, 0.5, 0);
    p.out_proj = random(W * I, 0.3, 0);
    for (int b = 0; b < s.branches; b++) {
      kernel::MambaBranch<T> m;
      m.conv_weight = random(I * s.taps, 0.5, 0);
      m.conv_bias = random(I, 0.5, 0);
      m.x_proj = random((R + 2 * N) * I, 0.3, 0);
      m.dt_proj = random(I * R, 0.5, 0);
      m.dt_bias = random(I, 0.3, -1);
      m.A = random(I * N, 0.2, -1);
      m.D = random(I, 1, 0);
      m.reverse = b % 2 == 1;
      if (s.order) m.order = order.data();
      p.branches.push_back(m);
      kernel::MambaBranchGradient<T> g;
      g.conv_weight = gradient(I * s.taps);
      g.conv_bias = gradient(I);
      g.x_proj = gradient((R + 2 * N) * I);
      g.dt_proj = gradient(I * R);
      g.dt_bias = gradient(I);
      g.A = gradient(I * N);
      g.D = gradient(I);
      q.branches.push_back(g);
    }
    q.dout = random(s.batch * L * W, 1, 0);
    p.out = gradient(s.batch * L * W);
    q.dh = gradient(s.batch * L * W);
    q.din_proj = gradient(2 * I * W);
    q.dout_proj = gradient(W * I);
  }

  std::vector<T> out() const {
    const auto& p = q.forward;
    return {p.out, p.out + p.batch * p.length * p.width};
  }
};

double error(const std::vector<float>& got, const std::vector<double>& want) {
  double worst = 0, size = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i])) return INFINITY;
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
    size = std::max(size, std::abs(want[i]));
  }
  return worst / size;
}
double error(const std::vector<double>& got, const std::vector<double>& want) {
  double worst = 0, size = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i])) return INFINITY;
    worst = std::max(worst, std::abs(got[i] - want[i]));
    size = std::max(size, std::abs(want[i]));
  }
  return worst / size;
}

}  // namespace

TEST_CASE("mamba_block kernel follows the definition on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& s : kShapes) {
      CAPTURE(isa);
      CAPTURE(s.length);
      CAPTURE(s.inner);
      Problem<double> want(s);
      kernel::mamba_block_reference(want.q.forward);
      Problem<float> single(s);
      kernel::mamba_block(single.q.forward);
      // Six operations one after another, each rounded.
      CHECK(error(single.out(), want.out()) < 1e-5);
      Problem<double> wide(s);
      kernel::mamba_block(wide.q.forward);
      CHECK(error(wide.out(), want.out()) < 1e-13);
    }
  }
  force_isa("");
}

TEST_CASE("mamba_block gradients are the central differences of the definition for every input") {
  for (const Shape& s : {Shape{2, 4, 2, 3, 2, 2, 1, 2}, Shape{3, 5, 2, 2, 1, 3, 2, 1, true}}) {
    Problem<double> a(s);
    kernel::mamba_block_vjp(a.q);
    const auto& p = a.q.forward;
    // Inputs lie in `data` as they were drawn: h, in_proj, out_proj, seven of each branch.
    std::vector<const double*> got{a.q.dh, a.q.din_proj, a.q.dout_proj};
    for (const auto& g : a.q.branches) {
      got.insert(got.end(), {g.conv_weight, g.conv_bias, g.x_proj, g.dt_proj, g.dt_bias, g.A, g.D});
    }
    const auto loss = [&] {
      kernel::mamba_block_reference(p);
      double sum = 0;
      for (int64_t i = 0; i < p.batch * p.length * p.width; i++) sum += p.out[i] * a.q.dout[i];
      return sum;
    };
    for (size_t k = 0; k < got.size(); k++) {
      CAPTURE(k);
      std::vector<double> want, have(got[k], got[k] + a.data[k].size());
      for (double& x : a.data[k]) {
        constexpr double kStep = 1e-5;
        const double at = x;
        x = at + kStep;
        const double above = loss();
        x = at - kStep;
        want.push_back((above - loss()) / (2 * kStep));
        x = at;
      }
      CHECK(error(have, want) < 1e-7);
    }
  }
}

TEST_CASE("mamba_block gradients in float are those in double on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& s : kShapes) {
      CAPTURE(isa);
      CAPTURE(s.length);
      Problem<double> want(s);
      Problem<float> got(s);
      kernel::mamba_block(want.q.forward);
      kernel::mamba_block_vjp(want.q);
      kernel::mamba_block(got.q.forward);
      kernel::mamba_block_vjp(got.q);
      for (size_t i = 0; i < want.gradients.size(); i++) {
        CAPTURE(i);
        CHECK(error(got.gradients[i], want.gradients[i]) < 5e-5);
      }
    }
  }
  force_isa("");
}

TEST_CASE("mamba_block kernel gives the same bits for 1, 2, 3 and 7 threads") {
  std::vector<std::vector<float>> first;
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    Problem<float> a({19, 70, 5, 18, 3, 4, 2, 2});
    kernel::mamba_block(a.q.forward);
    kernel::mamba_block_vjp(a.q);
    if (first.empty()) first = a.gradients;
    CHECK(a.gradients == first);
  }
  set_num_threads(0);
}
