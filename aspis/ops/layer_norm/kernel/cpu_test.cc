#include "aspis/ops/layer_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/layer_norm/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

// Values that float holds exactly, so both precisions see the same input.
std::vector<double> random(int64_t n, const char* name) {
  std::vector<double> v(n);
  Rng rng(3, name);
  for (double& x : v) x = static_cast<float>(rng.normal());
  return v;
}

template <typename T>
std::vector<T> as(const std::vector<double>& v) {
  return {v.begin(), v.end()};
}

// Largest difference over the largest wanted value (at least 1).
template <typename T>
double worst_error(const std::vector<T>& got, const std::vector<double>& want) {
  double worst = 0, size = 1;
  for (size_t i = 0; i < want.size(); i++) {
    worst = std::max(worst, std::isfinite(got[i]) ? std::abs(static_cast<double>(got[i]) - want[i]) : 1e30);
    size = std::max(size, std::abs(want[i]));
  }
  return worst / size;
}

struct Shape {
  int64_t rows, length;
};
const Shape kShapes[] = {{1, 1}, {3, 3}, {5, 15}, {4, 16}, {7, 33}, {2, 1000}, {300, 70}};

// Inputs and outputs of one call; options: 1 residual, 2 weight, 4 bias.
template <typename T>
struct Run {
  int64_t rows, length, step;
  int options;
  std::vector<T> x, residual, weight, bias, dy, y, sum, dx, dweight, dbias, scratch[2];

  Run(const Shape& shape, int options_)
      : rows(shape.rows),
        length(shape.length),
        step(length + 5),
        options(options_),
        x(as<T>(random(rows * step, "x"))),
        residual(as<T>(random(rows * step, "r"))),
        weight(as<T>(random(length, "w"))),
        bias(as<T>(random(length, "b"))),
        dy(as<T>(random(rows * step, "dy"))),
        y(rows * length),
        sum(rows * length),
        dx(rows * length),
        dweight(length),
        dbias(length) {
    for (auto& s : scratch) s.resize(kernel::layer_norm_vjp_scratch(rows, length));
  }

  kernel::LayerNormParams<T> forward() {
    const bool r = options & 1;
    return {rows,
            length,
            1e-5,
            x.data(),
            step,
            r ? residual.data() : nullptr,
            step,
            options & 2 ? weight.data() : nullptr,
            options & 4 ? bias.data() : nullptr,
            y.data(),
            r ? sum.data() : nullptr};
  }

  // The residual stands for the cotangent of the sum.
  kernel::LayerNormVjpParams<T> backward() {
    kernel::LayerNormVjpParams<T> p;
    p.rows = rows;
    p.length = length;
    p.eps = 1e-5;
    p.h = x.data();
    p.dy = dy.data();
    p.h_stride = p.dy_stride = p.dsum_stride = step;
    p.dsum = options & 1 ? residual.data() : nullptr;
    p.weight = options & 2 ? weight.data() : nullptr;
    p.dx = dx.data();
    p.dweight = options & 2 ? dweight.data() : nullptr;
    p.dbias = options & 4 ? dbias.data() : nullptr;
    p.dweight_scratch = scratch[0].data();
    p.dbias_scratch = scratch[1].data();
    return p;
  }
};

template <typename T>
void check_all(double forward_limit, double gradient_limit) {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& shape : kShapes) {
      for (int options = 0; options < 8; options++) {
        CAPTURE(isa);
        CAPTURE(shape.length);
        CAPTURE(options);
        Run<T> got(shape, options);
        Run<double> want(shape, options);
        kernel::layer_norm(got.forward());
        kernel::layer_norm_reference(want.forward());
        CHECK(worst_error(got.y, want.y) < forward_limit);
        CHECK(worst_error(got.sum, want.sum) < forward_limit);
        kernel::layer_norm_vjp(got.backward());
        kernel::layer_norm_vjp_reference(want.backward());
        CHECK(worst_error(got.dx, want.dx) < gradient_limit);
        CHECK(worst_error(got.dweight, want.dweight) < gradient_limit);
        CHECK(worst_error(got.dbias, want.dbias) < gradient_limit);
      }
    }
  }
  force_isa("");
}

}  // namespace

TEST_CASE("layer_norm kernel matches its definition and gradient for all options, rows with gaps") {
  check_all<float>(2e-6, 1e-5);
  check_all<double>(1e-12, 1e-10);
}

TEST_CASE("layer_norm results have the same bits for any number of threads") {
  Run<float> first({5000, 37}, 7);
  set_num_threads(1);
  kernel::layer_norm(first.forward());
  kernel::layer_norm_vjp(first.backward());
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    Run<float> next({5000, 37}, 7);
    kernel::layer_norm(next.forward());
    kernel::layer_norm_vjp(next.backward());
    CHECK(next.y == first.y);
    CHECK(next.sum == first.sum);
    CHECK(next.dx == first.dx);
    CHECK(next.dweight == first.dweight);
    CHECK(next.dbias == first.dbias);
  }
  set_num_threads(0);
}
