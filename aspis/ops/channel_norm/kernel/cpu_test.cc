#include "aspis/ops/channel_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/channel_norm/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

struct Shape {
  int64_t samples, rows, channels, groups;
};

enum Options { kResidual = 1, kWeight = 2, kBias = 4, kGiven = 8, kRunning = 16 };

template <typename S>
std::vector<S> random(int64_t n, const char* name, double mean = 0, double deviation = 1) {
  std::vector<S> v(n);
  Rng rng(3, name);
  // Values that bfloat16 holds exactly, so every precision sees the same input.
  for (S& x : v) {
    const float value = to_float(to_bf16(static_cast<float>(mean + deviation * rng.normal())));
    store_value(x, static_cast<Arithmetic<S>>(value));
  }
  return v;
}

template <typename S>
struct Run {
  using T = Arithmetic<S>;
  Shape shape;
  int options;
  Activation activation;
  std::vector<S> x, residual, dy, y, dx, dresidual;
  std::vector<T> weight, bias, given_mean, given_var, mean, rstd, new_mean, new_var, dweight, dbias, scratch;

  Run(Shape shape_, int options_, Activation activation_ = Activation::kNone, double offset = 0)
      : shape(shape_), options(options_), activation(activation_) {
    const int64_t n = shape.samples * shape.rows * shape.channels, c = shape.channels;
    x = random<S>(n, "x", offset), residual = random<S>(n, "residual"), dy = random<S>(n, "dy");
    y.resize(n), dx.resize(n), dresidual.resize(n);
    weight = random<T>(c, "weight", 1, 0.3), bias = random<T>(c, "bias");
    given_mean = random<T>(c, "mean");
    given_var = random<T>(c, "var", 2, 0.2);
    mean.resize(shape.samples * shape.groups), rstd = mean;
    new_mean.resize(c), new_var = dweight = dbias = new_mean;
    scratch.resize(kernel::channel_norm_scratch(shape.samples, shape.rows, shape.channels));
  }

  kernel::ChannelNormParams<S> forward() {
    kernel::ChannelNormParams<S> p;
    p.samples = shape.samples, p.rows = shape.rows, p.channels = shape.channels, p.groups = shape.groups;
    p.eps = 1e-5, p.activation = activation;
    p.x = x.data(), p.y = y.data(), p.mean = mean.data(), p.rstd = rstd.data(), p.scratch = scratch.data();
    if (options & kResidual) p.residual = residual.data();
    if (options & kWeight) p.weight = weight.data();
    if (options & kBias) p.bias = bias.data();
    if (options & kGiven) p.given_mean = given_mean.data(), p.given_var = given_var.data();
    if (options & kRunning) {
      p.momentum = 0.1;
      p.running_mean = given_mean.data(), p.running_var = given_var.data();
      p.new_mean = new_mean.data(), p.new_var = new_var.data();
    }
    return p;
  }

  void run_vjp() {
    kernel::ChannelNormVjpParams<S> p;
    p.samples = shape.samples, p.rows = shape.rows, p.channels = shape.channels, p.groups = shape.groups;
    p.activation = activation, p.given = options & kGiven;
    p.x = x.data(), p.dy = dy.data(), p.mean = mean.data(), p.rstd = rstd.data(), p.scratch = scratch.data();
    if (options & kResidual) p.residual = residual.data();
    if (options & kWeight) p.weight = weight.data(), p.dweight = dweight.data();
    if (options & kBias) p.bias = bias.data(), p.dbias = dbias.data();
    if (options & kResidual && activation != Activation::kNone) p.dresidual = dresidual.data();
    p.dx = dx.data();
    kernel::channel_norm_vjp(p);
  }
  void run_all() {
    kernel::channel_norm(forward());
    run_vjp();
  }
};

// Largest difference over the largest wanted value, or over `size` if that is larger.
template <typename V, typename W>
double worst_error(const std::vector<V>& got, const std::vector<W>& want, double size = 1e-3) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); i++) {
    const double g = static_cast<double>(load_value(got[i])), w = static_cast<double>(load_value(want[i]));
    worst = std::max(worst, std::isfinite(g) ? std::abs(g - w) : 1e30);
    size = std::max(size, std::abs(w));
  }
  return worst / size;
}

const Shape kShapes[] = {{1, 7, 3, 3},   {1, 5, 16, 16},     {1, 40, 65, 65}, {2, 9, 6, 2},
                         {3, 4, 1, 1},   {2, 3000, 12, 12},  {1, 1, 4, 1},    {1, 1500, 33, 33},
                         {2, 70, 96, 4}, {1, 40, 1100, 1100}};
const Activation kKinds[] = {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu,
                             Activation::kGeluTanh};

template <typename S>
void compare(double forward_limit, double gradient_limit) {
  int turn = 0;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& shape : kShapes) {
      for (int options = 0; options<16; options += shape.rows> 1000 ? 3 : 1) {
        const Activation kind = kKinds[turn++ % 5];
        if ((options & kGiven) && (shape.samples > 1 || shape.groups != shape.channels)) continue;
        if (options & kResidual && shape.channels == 1100) continue;
        CAPTURE(isa);
        CAPTURE(shape.channels);
        CAPTURE(options);
        CAPTURE(static_cast<int>(kind));
        const bool batch = shape.samples == 1 && shape.groups == shape.channels;
        const int all = batch && !(options & kGiven) ? options | kRunning : options;
        Run<S> got(shape, all, kind);
        Run<double> want(shape, all, kind), exact(shape, all, kind);
        got.run_all();
        exact.run_all();
        kernel::channel_norm_reference(want.forward());
        REQUIRE(worst_error(got.y, want.y) < forward_limit);
        CHECK(worst_error(got.mean, want.mean, 1) < 1e-6);
        CHECK(worst_error(got.rstd, want.rstd) < 1e-6);
        if (all & kRunning) {
          CHECK(worst_error(got.new_mean, want.new_mean, 1) < 1e-6);
          CHECK(worst_error(got.new_var, want.new_var) < 1e-6);
        }
        REQUIRE(worst_error(got.dx, exact.dx) < gradient_limit);
        CHECK(worst_error(got.dresidual, exact.dresidual) < gradient_limit);
        CHECK(worst_error(got.dweight, exact.dweight) < gradient_limit);
        CHECK(worst_error(got.dbias, exact.dbias) < gradient_limit);
      }
    }
  }
  force_isa("");
}

}  // namespace

TEST_CASE("channel_norm matches its definition for all shapes, options and activations on every instruction set") {
  compare<float>(2e-6, 1e-5);
  compare<double>(1e-12, 1e-10);
}

TEST_CASE("channel_norm reads and writes bfloat16 with one rounding") { compare<Bf16>(1.0 / 256, 1.0 / 128); }

TEST_CASE("channel_norm gradients are those of finite differences") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Activation kind : kKinds) {
      for (const Shape& shape : {Shape{1, 5, 3, 3}, Shape{2, 4, 6, 2}, Shape{2, 3, 4, 4}}) {
        CAPTURE(isa);
        CAPTURE(static_cast<int>(kind));
        CAPTURE(shape.channels);
        Run<double> run(shape, kResidual | kWeight | kBias, kind);
        run.run_all();
        const auto loss = [&] {
          Run<double> moved = run;
          kernel::channel_norm_reference(moved.forward());
          double sum = 0;
          for (size_t i = 0; i < moved.y.size(); i++) sum += moved.y[i] * moved.dy[i];
          return sum;
        };
        const auto check = [&](std::vector<double>& input, const std::vector<double>& gradient, const char* name) {
          CAPTURE(name);
          for (size_t i = 0; i < input.size(); i++) {
            const double saved = input[i], step = 1e-6;
            input[i] = saved + step;
            const double above = loss();
            input[i] = saved - step;
            const double below = loss();
            input[i] = saved;
            CHECK(gradient[i] == doctest::Approx((above - below) / (2 * step)).epsilon(1e-6).scale(1));
          }
        };
        check(run.x, run.dx, "x");
        check(run.weight, run.dweight, "weight");
        check(run.bias, run.dbias, "bias");
        if (kind != Activation::kNone) check(run.residual, run.dresidual, "residual");
      }
    }
  }
  force_isa("");
}

TEST_CASE("channel_norm keeps its digits when a channel has a large common offset") {
  Run<float> near({1, 400, 70, 70}, kWeight | kBias), far({1, 400, 70, 70}, kWeight | kBias);
  // Exact beside 2^14, and with a mean of exactly 0 and 2^14.
  const size_t half = near.x.size() / 2;
  for (size_t i = 0; i < near.x.size(); i++) {
    near.x[i] = i < half ? std::round(near.x[i] * 64) / 64 : -near.x[i - half];
    far.x[i] = near.x[i] + 16384.f;
  }
  near.run_all();
  far.run_all();
  CHECK(worst_error(far.y, near.y) < 2e-6);
  CHECK(worst_error(far.dx, near.dx) < 1e-5);
}

TEST_CASE("channel_norm results have the same bits for any number of threads") {
  for (const Shape& shape : {Shape{1, 9000, 37, 37}, Shape{3, 5000, 24, 4}, Shape{7, 50, 24, 24}}) {
    set_num_threads(1);
    Run<float> first(shape, kWeight | kBias | kResidual, Activation::kSilu);
    first.run_all();
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      Run<float> next(shape, kWeight | kBias | kResidual, Activation::kSilu);
      next.run_all();
      CHECK(next.y == first.y);
      CHECK(next.rstd == first.rstd);
      CHECK(next.dx == first.dx);
      CHECK(next.dresidual == first.dresidual);
      CHECK(next.dweight == first.dweight);
      CHECK(next.dbias == first.dbias);
    }
  }
  set_num_threads(0);
}

TEST_CASE("channel_norm lets a NaN spoil its own channel only") {
  Run<float> run({1, 100, 20, 20}, kWeight | kBias);
  run.x[20 * 50 + 7] = NAN;
  run.run_all();
  for (int64_t i = 0; i < 2000; i++) {
    CHECK(std::isnan(run.y[i]) == (i % 20 == 7));
    CHECK(std::isnan(run.dx[i]) == (i % 20 == 7));
  }
}

TEST_CASE("channel_norm of groups of one value has a gradient of exactly zero") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    Run<float> run({3, 1, 20, 20}, kWeight | kBias);
    run.run_all();
    CHECK(run.dx == std::vector<float>(60, 0.f));
    CHECK(run.y[25] == run.bias[5]);
  }
  force_isa("");
}
