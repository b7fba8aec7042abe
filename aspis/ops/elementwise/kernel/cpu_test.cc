#include "aspis/ops/elementwise/kernel/cpu.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/elementwise/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::Combine;
using kernel::Pointwise;

namespace {

constexpr Pointwise kKinds[] = {Pointwise::kRelu, Pointwise::kSigmoid, Pointwise::kTanh, Pointwise::kSoftplus};

// Values that bfloat16 holds exactly, so every precision sees the same input.
template <typename S>
std::vector<S> random(int64_t n, const char* name, double scale = 1) {
  std::vector<S> v(n);
  Rng rng(3, name);
  for (S& x : v)
    store_value(x, static_cast<Arithmetic<S>>(to_float(to_bf16(static_cast<float>(scale * rng.normal())))));
  return v;
}

// Of each value, over its size (at least 1e-3); sigmoid's tail counts too.
template <typename V>
double worst_error(const std::vector<V>& got, const std::vector<double>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); i++) {
    const double g = static_cast<double>(load_value(got[i]));
    worst = std::max(worst, std::abs(g - want[i]) / std::max(std::abs(want[i]), 1e-3));
    if (!std::isfinite(g)) return 1e30;
  }
  return worst;
}

template <typename S>
void check_pointwise(double limit) {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Pointwise kind : kKinds) {
      for (const int64_t n : {1, 3, 16, 17, 63, 20000}) {
        CAPTURE(isa);
        CAPTURE(n);
        CAPTURE(static_cast<int>(kind));
        const auto x = random<S>(n, "x", 5), dy = random<S>(n, "dy");
        std::vector<S> y(n + 1), dx(n + 1);
        store_value(y[n], Arithmetic<S>(-7)), store_value(dx[n], Arithmetic<S>(-7));
        kernel::pointwise<S>({kind, n, x.data(), y.data()});
        kernel::pointwise_vjp<S>({kind, n, x.data(), dy.data(), dx.data()});
        CHECK(load_value(y[n]) == Arithmetic<S>(-7));
        CHECK(load_value(dx[n]) == Arithmetic<S>(-7));
        std::vector<double> want(n), want_dx(n);
        for (int64_t i = 0; i < n; i++) {
          const double v = static_cast<double>(load_value(x[i]));
          want[i] = kernel::pointwise_reference(kind, v);
          want_dx[i] = static_cast<double>(load_value(dy[i])) * kernel::pointwise_gradient_reference(kind, v);
        }
        y.resize(n), dx.resize(n);
        CHECK(worst_error(y, want) < limit);
        CHECK(worst_error(dx, want_dx) < 2 * limit);
      }
    }
  }
  force_isa("");
}

template <typename S>
bool combine_is_exact() {
  using Strides = typename kernel::CombineParams<S>::Strides;
  struct Case {
    std::array<int64_t, 5> sizes;
    Strides a, b, c;
  };
  const Case cases[] = {
      {{1, 1, 1, 1, 37}, {0, 0, 0, 0, 1}, {0, 0, 0, 0, 1}, {0, 0, 0, 0, 1}},
      {{1, 1, 1, 5, 19}, {0, 0, 0, 19, 1}, {0, 0, 0, 0, 1}, {0, 0, 0, 19, 1}},  // a row for all
      {{1, 1, 3, 5, 19}, {0, 0, 95, 19, 1}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}},  // one value a sample or a row
      {{2, 1, 3, 1, 33}, {99, 0, 33, 0, 1}, {0, 0, 33, 0, 1}, {33, 0, 0, 0, 1}},
      {{1, 1, 1, 2, 40001}, {0, 0, 0, 40001, 1}, {0, 0, 0, 0, 1}, {0, 0, 0, 1, 0}},
      {{2, 3, 1, 4, 5}, {60, 20, 0, 5, 1}, {15, 5, 0, 0, 1}, {0, 0, 0, 0, 0}},
  };
  bool right = true;
  for (const Case& k : cases) {
    int64_t n = 1;
    for (const int64_t s : k.sizes) n *= s;
    // Small whole numbers: products and sums are exact in every storage and order.
    std::vector<S> a(n), b(n), c(n), y(n + 1);
    std::vector<double> wa(n), wb(n), wc(n), want(n);
    Rng rng(5, "combine");
    for (int64_t i = 0; i < n; i++) {
      wa[i] = static_cast<double>(rng.below(9)) - 4, wb[i] = static_cast<double>(rng.below(7)) - 3;
      wc[i] = static_cast<double>(rng.below(9)) - 4;
      store_value(a[i], static_cast<Arithmetic<S>>(wa[i])), store_value(b[i], static_cast<Arithmetic<S>>(wb[i]));
      store_value(c[i], static_cast<Arithmetic<S>>(wc[i]));
    }
    for (const Combine kind : {Combine::kAdd, Combine::kMultiply, Combine::kMultiplyAdd}) {
      store_value(y[n], Arithmetic<S>(-77));
      kernel::combine<S>({kind, k.sizes, a.data(), b.data(), c.data(), k.a, k.b, k.c, y.data()});
      kernel::combine_reference<double>(
          {kind, k.sizes, wa.data(), wb.data(), wc.data(), k.a, k.b, k.c, want.data()});
      for (int64_t i = 0; i < n; i++) right = right && static_cast<double>(load_value(y[i])) == want[i];
      right = right && load_value(y[n]) == Arithmetic<S>(-77);
    }
  }
  return right;
}

}  // namespace

TEST_CASE("pointwise functions and gradients match their definitions in every storage and instruction set") {
  check_pointwise<float>(2e-6);
  check_pointwise<double>(1e-14);
  check_pointwise<Bf16>(1.0 / 255);
}

TEST_CASE("pointwise functions keep a NaN and have the limits of their definitions") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {NAN, kInf, -kInf, 0, -0.f};
  const double want[4][5] = {
      {NAN, kInf, 0, 0, 0}, {NAN, 1, 0, 0.5, 0.5}, {NAN, 1, -1, 0, 0}, {NAN, kInf, 0, M_LN2, M_LN2}};
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (int k = 0; k < 4; k++) {
      std::vector<float> y(5);
      kernel::pointwise<float>({kKinds[k], 5, x.data(), y.data()});
      CAPTURE(isa);
      CAPTURE(k);
      CHECK(std::isnan(y[0]));
      for (int i = 1; i < 5; i++) CHECK((y[i] == want[k][i] || y[i] == doctest::Approx(want[k][i])));
    }
  }
  force_isa("");
}

TEST_CASE("combine adds and multiplies lines and single values exactly on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    CHECK(combine_is_exact<float>());
    CHECK(combine_is_exact<double>());
    CHECK(combine_is_exact<Bf16>());
  }
  force_isa("");
}

TEST_CASE("dropout drops by the words of Philox alone, for every instruction set and number of threads") {
  for (const int64_t n : {1, 63, 64, 65, 1000, 40000}) {
    auto x = random<float>(n, "x");
    x[0] = 2;
    std::vector<float> want(n);
    const uint64_t key = 0x123456789abcdef0ull, stream = 0xfedcba9876543210ull;
    kernel::dropout_reference<float>({n, 0.3, key, stream, x.data(), want.data()});
    for (const auto& isa : supported_isas()) {
      force_isa(isa);
      for (const int threads : {1, 2, 3, 7}) {
        CAPTURE(isa);
        CAPTURE(n);
        set_num_threads(threads);
        std::vector<float> y(n);
        kernel::dropout<float>({n, 0.3, key, stream, x.data(), y.data()});
        CHECK(y == want);
        std::vector<double> wide(n), wide_x(x.begin(), x.end());
        kernel::dropout<double>({n, 0.3, key, stream, wide_x.data(), wide.data()});
        CHECK(std::equal(wide.begin(), wide.end(), want.begin(),
                         [](double u, float v) { return (u == 0) == (v == 0); }));
      }
      set_num_threads(0);
    }
  }
  force_isa("");
}

TEST_CASE("dropout drops the share it is told to, and other streams drop others") {
  const int64_t n = 100000;
  std::vector<float> x(n, 1.f), y(n), z(n);
  kernel::dropout<float>({n, 0.25, 1, 2, x.data(), y.data()});
  kernel::dropout<float>({n, 0.25, 1, 3, x.data(), z.data()});
  const auto dropped = std::count(y.begin(), y.end(), 0.f);
  CHECK(std::abs(static_cast<double>(dropped) - 25000) < 700);  // five deviations
  int both = 0;
  for (int64_t i = 0; i < n; i++) both += y[i] == 0 && z[i] == 0;
  CHECK(std::abs(both - 6250) < 400);
  x.assign(n, std::numeric_limits<float>::infinity());
  kernel::dropout<float>({n, 0.25, 1, 2, x.data(), y.data()});
  CHECK(std::count(y.begin(), y.end(), 0.f) == dropped);
}

TEST_CASE("cast rounds to bfloat16 and widens it back") {
  const int64_t n = 40003;
  const auto x = random<float>(n, "x", 3);
  std::vector<Bf16> half(n);
  std::vector<float> back(n);
  kernel::cast(kernel::CastParams<float, Bf16>{n, x.data(), half.data()});
  kernel::cast(kernel::CastParams<Bf16, float>{n, half.data(), back.data()});
  CHECK(back == x);
}
