#include "aspis/ops/gated_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/gated_norm/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using namespace aspis::kernel;

namespace {

template <typename T>
std::vector<T> draw(const char* name, int64_t n, double shift = 0) {
  Rng rng(1, name);
  std::vector<T> v(static_cast<size_t>(n));
  for (auto& x : v) x = static_cast<T>(static_cast<float>(shift + rng.normal()));
  return v;
}

template <typename A, typename B>
double error(const std::vector<A>& got, const std::vector<B>& want) {
  double worst = 0, largest = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return INFINITY;
    worst = std::max(worst, std::abs(double(got[i]) - double(want[i])));
    largest = std::max(largest, std::abs(double(want[i])));
  }
  return worst / largest;
}

struct Case {
  int64_t rows, width, group;
};
constexpr Case kCases[] = {{1, 1, 1}, {3, 12, 4}, {2, 33, 33}, {5, 40, 8}, {70, 17, 17}, {200, 64, 32}};

template <typename T>
struct Problem {
  Case c;
  std::vector<T> x, z, weight, bias, dy, y, dx, dz, dweight, dbias, work;
  GatedNormVjpParams<T> q;

  Problem(Case size, int options)
      : c(size),
        x(draw<T>("x", c.rows * c.width, 0.5)),
        z(draw<T>("z", c.rows * c.width)),
        weight(draw<T>("weight", c.width, 1)),
        bias(draw<T>("bias", c.width)),
        dy(draw<T>("dy", c.rows * c.width)) {
    const T nan = std::numeric_limits<T>::quiet_NaN();
    for (auto* v : {&y, &dx, &dz}) v->assign(x.size(), nan);
    for (auto* v : {&dweight, &dbias}) v->assign(weight.size(), nan);
    work.assign(static_cast<size_t>(gated_norm_vjp_workspace(c.rows, c.width)) + 1, T(77));
    q.in = {c.rows, c.width, c.group, 1e-5, (options & 1) != 0, (options & 2) != 0, x.data()};
    if (options & 4) q.in.z = z.data(), q.dz = dz.data();
    if (options & 8) q.in.weight = weight.data(), q.dweight = dweight.data();
    if (options & 16) q.in.bias = bias.data(), q.dbias = dbias.data();
    q.in.y = y.data(), q.dy = dy.data(), q.dx = dx.data(), q.workspace = work.data();
  }
};

std::vector<double> numeric(Problem<double>& p, std::vector<double>& input) {
  std::vector<double> gradient;
  const auto loss = [&] {
    gated_norm_reference(p.q.in);
    double sum = 0;
    for (size_t i = 0; i < p.y.size(); i++) sum += p.y[i] * p.dy[i];
    return sum;
  };
  for (double& value : input) {
    const double kept = value, h = 1e-6;
    value = kept + h;
    const double up = loss();
    value = kept - h;
    gradient.push_back((up - loss()) / (2 * h));
    value = kept;
  }
  return gradient;
}

}  // namespace

TEST_CASE("gated norms agree with the definition and its finite differences on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Case& c : kCases) {
      for (int options = 0; options < 32; options++) {
        CAPTURE(isa);
        CAPTURE(c.rows);
        CAPTURE(c.width);
        CAPTURE(options);
        Problem<double> wide(c, options);
        gated_norm_reference(wide.q.in);
        const auto want = wide.y;
        gated_norm(wide.q.in);
        CHECK(error(wide.y, want) < 1e-13);
        gated_norm_vjp(wide.q);
        CHECK(wide.work.back() == 77);
        Problem<float> single(c, options);
        gated_norm(single.q.in);
        CHECK(error(single.y, want) < 2e-6);
        gated_norm_vjp(single.q);
        // One value a group: the normalised value hardly depends on x at all.
        if (c.group > 1) CHECK(error(single.dx, wide.dx) < 1e-5);
        if (single.q.dz && c.group > 1) CHECK(error(single.dz, wide.dz) < 1e-5);
        if (single.q.dweight && c.group > 1) CHECK(error(single.dweight, wide.dweight) < 1e-5);
        if (c.rows * c.width > 100 || c.group == 1) continue;
        const auto dx = wide.dx, dz = wide.dz, dweight = wide.dweight, dbias = wide.dbias;
        CHECK(error(numeric(wide, wide.x), dx) < 1e-7);
        if (wide.q.dz) CHECK(error(numeric(wide, wide.z), dz) < 1e-7);
        if (wide.q.dweight) CHECK(error(numeric(wide, wide.weight), dweight) < 1e-7);
        if (wide.q.dbias) CHECK(error(numeric(wide, wide.bias), dbias) < 1e-7);
      }
    }
  }
  force_isa("");
}

TEST_CASE("rows longer than what one task takes") {
  for (const int64_t group : {17000, 1000}) {
    const Case c{3, 17000, group};
    Problem<double> wide(c, 31);
    gated_norm_reference(wide.q.in);
    const auto want = wide.y;
    gated_norm(wide.q.in);
    CHECK(error(wide.y, want) < 1e-13);
    Problem<float> single(c, 31);
    gated_norm(single.q.in);
    CHECK(error(single.y, want) < 2e-6);
    gated_norm_vjp(single.q);
    gated_norm_vjp(wide.q);
    CHECK(error(single.dx, wide.dx) < 1e-5);
    CHECK(error(single.dweight, wide.dweight) < 1e-5);
  }
}

TEST_CASE("gated norms give the same bits for 1, 2, 3 and 7 threads") {
  set_num_threads(1);
  Problem<float> one({777, 48, 24}, 31);
  gated_norm(one.q.in);
  gated_norm_vjp(one.q);
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    Problem<float> many({777, 48, 24}, 31);
    gated_norm(many.q.in);
    gated_norm_vjp(many.q);
    CHECK(many.y == one.y);
    CHECK(many.dx == one.dx);
    CHECK(many.dz == one.dz);
    CHECK(many.dweight == one.dweight);
    CHECK(many.dbias == one.dbias);
  }
  set_num_threads(0);
}
