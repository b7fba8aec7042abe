#include "aspis/ops/pool/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/pool/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::AxisTable;

namespace {

std::vector<AxisTable> tables_for(int64_t in) {
  std::vector<AxisTable> t = {kernel::identity_table(in),
                              kernel::window_table(in, 3, 2, 1, 1, false),
                              kernel::window_table(in, 2, 2, 0, 1, true),
                              kernel::adaptive_window_table(in, 1),
                              kernel::adaptive_window_table(in, 3),
                              kernel::window_table(in, 1, 2, 0, 1, false)};
  if (in > 3) t.push_back(kernel::window_table(in, 2, 1, 1, 2, false));
  for (auto& v : t[0].weight) v = 0;  // numbers within windows of one
  return t;
}

template <typename S>
struct Run {
  std::vector<S> x, y, dy, dx;
  std::vector<Arithmetic<S>> scratch;
  std::array<const AxisTable*, 3> axes;
  int64_t samples, channels;

  Run(const AxisTable& a, const AxisTable& b, const AxisTable& c, int64_t samples_, int64_t channels_)
      : axes{&a, &b, &c}, samples(samples_), channels(channels_) {
    x.resize(samples * a.in * b.in * c.in * channels);
    y.resize(samples * a.out * b.out * c.out * channels);
    dy.resize(y.size()), dx.resize(x.size()), scratch.resize(y.size());
    Rng rng(3, "pool");
    // Whole numbers in a small range: ties are common, and sums exact in every storage.
    for (S& v : x) store_value(v, static_cast<Arithmetic<S>>(static_cast<double>(rng.below(9))) - 4);
    for (S& v : dy) store_value(v, static_cast<Arithmetic<S>>(static_cast<double>(rng.below(7))) - 3);
  }
  void run() {
    kernel::max_pool<S>({samples, channels, axes, x.data(), y.data()});
    kernel::max_pool_vjp<S>({samples, channels, axes, x.data(), dy.data(), dx.data(), scratch.data()});
  }
  void run_reference() {
    kernel::max_pool_reference<S>({samples, channels, axes, x.data(), y.data()});
    kernel::max_pool_vjp_reference<S>({samples, channels, axes, x.data(), dy.data(), dx.data(), nullptr});
  }
};

template <typename V>
bool equal(const std::vector<V>& a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); i++) {
    if (static_cast<double>(load_value(a[i])) != b[i]) return false;
  }
  return a.size() == b.size();
}

}  // namespace

TEST_CASE("max_pool and its gradient are exactly the definition, ties included, on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    const auto first = tables_for(2), second = tables_for(5), third = tables_for(8);
    for (size_t i = 0; i < third.size(); i++) {
      for (const int64_t channels : {1, 3, 16, 35}) {
        CAPTURE(isa);
        CAPTURE(i);
        CAPTURE(channels);
        const auto &a = first[(i + 2) % first.size()], &b = second[(i + 1) % second.size()], &c = third[i];
        Run<double> want(a, b, c, 2, channels), wide(a, b, c, 2, channels);
        Run<float> single(a, b, c, 2, channels);
        Run<Bf16> half(a, b, c, 2, channels);
        want.run_reference();
        wide.run();
        single.run();
        half.run();
        CHECK(equal(wide.y, want.y));
        CHECK(equal(single.y, want.y));
        CHECK(equal(half.y, want.y));
        CHECK(equal(wide.dx, want.dx));
        CHECK(equal(single.dx, want.dx));
        CHECK(equal(half.dx, want.dx));
      }
    }
  }
  force_isa("");
}

TEST_CASE("max_pool lets a NaN win its windows and take their gradient") {
  const auto one = kernel::window_table(1, 1, 1, 0, 1, false), c = kernel::window_table(5, 3, 1, 1, 1, false);
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const int64_t channels : {1, 20}) {
      Run<float> run(one, one, c, 1, channels);
      for (int64_t i = 0; i < 5; i++) run.x[i * channels] = i == 2 ? NAN : static_cast<float>(i);
      for (float& v : run.dy) v = 1;
      run.run();
      for (int64_t i = 0; i < 5; i++) CHECK(std::isnan(run.y[i * channels]) == (i >= 1 && i <= 3));
      CHECK(run.dx[2 * channels] == 3.f);
      CHECK(run.dx[3 * channels] == 0.f);
    }
  }
  force_isa("");
}

TEST_CASE("max_pool results have the same bits for any number of threads") {
  const auto a = kernel::window_table(1, 1, 1, 0, 1, false), b = kernel::window_table(40, 3, 2, 1, 1, false),
             c = kernel::window_table(50, 3, 2, 1, 1, false);
  set_num_threads(1);
  Run<float> first(a, b, c, 3, 24);
  first.run();
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    Run<float> next(a, b, c, 3, 24);
    next.run();
    CHECK(next.y == first.y);
    CHECK(next.dx == first.dx);
  }
  set_num_threads(0);
}
