#include "aspis/simd/math.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "aspis/base/ftz.h"
#include "aspis/base/rng.h"
#include "aspis/simd/isa.h"

namespace aspis {
namespace {

// References, in the next wider type: double for float, long double (64-bit
// mantissa) for double. Each is written so that its own error is far below the
// unit of the narrower type.
using L = long double;
constexpr L kPi = 3.14159265358979323846264338327950288L;

template <class R>
R softplus_ref(R x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}
template <class R>
R sigmoid_ref(R x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
template <class R>
R silu_ref(R x) {
  return x * sigmoid_ref(x);
}
template <class R>
R silu_grad_ref(R x) {
  return sigmoid_ref(x) * (1 + x * sigmoid_ref(-x));
}
template <class R>
R cdf_ref(R x) {
  return std::erfc(-x / std::sqrt(R(2))) / 2;
}
template <class R>
R gelu_ref(R x) {
  return x * cdf_ref(x);
}
template <class R>
R gelu_grad_ref(R x) {
  return cdf_ref(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * R(kPi));
}
template <class R>
R gelu_tanh_ref(R x) {
  return x * sigmoid_ref(2 * std::sqrt(2 / R(kPi)) * (x + R(0.044715L) * x * x * x));
}
template <class R>
R gelu_tanh_grad_ref(R x) {
  const R v = 2 * std::sqrt(2 / R(kPi)) * (x + R(0.044715L) * x * x * x);
  const R slope = 2 * std::sqrt(2 / R(kPi)) * (1 + 3 * R(0.044715L) * x * x);
  return sigmoid_ref(v) + x * sigmoid_ref(v) * sigmoid_ref(-v) * slope;
}

template <class T>
struct Function {
  using Wide = std::conditional_t<sizeof(T) == 4, double, L>;
  const char* name;
  void (*run)(const T*, T*, size_t);
  Wide (*reference)(Wide);
  double lo, hi;   // the range of the bound
  double max_ulp;  // in units of the result, or of `floor` where |result| is smaller
  // 0: purely relative. The others cross zero, or have a tail whose relative
  // error is that of the argument of the exponential.
  double floor;
};

// The bounds of the table in math.h.
template <class T>
std::vector<Function<T>> functions() {
  using W = typename Function<T>::Wide;
  constexpr bool f32 = sizeof(T) == 4;
  const double big = std::numeric_limits<T>::max();
  const double zero_exp = f32 ? -104 : -746, top_exp = f32 ? 89 : 710;
  const double normal_exp = f32 ? -87.3 : -708.3, normal_exp2 = f32 ? -126 : -1022;
  return {
      {"exp", exp_array, [](W x) { return std::exp(x); }, zero_exp, top_exp, 1.2, 0},
      {"exp_nonpositive", exp_nonpositive_array, [](W x) { return std::exp(x); }, normal_exp, 0, 2.5, 0},
      {"exp2_nonpositive", exp2_nonpositive_array, [](W x) { return std::exp2(x); }, normal_exp2, 0, 2.5, 0},
      {"log", log_array, [](W x) { return std::log(x); }, 0, big, 1.0, 0},
      {"log1p", log1p_array, [](W x) { return std::log1p(x); }, -1, big, 1.6, 0},
      {"softplus", softplus_array, softplus_ref<W>, -big, big, 2.0, 0},
      {"softplus_grad", softplus_grad_array, [](W x) { return x > 20 ? W(1) : sigmoid_ref(x); }, normal_exp, big,
       2.6, 0},
      {"sigmoid", sigmoid_array, sigmoid_ref<W>, normal_exp, big, 2.6, 0},
      {"silu", silu_array, silu_ref<W>, normal_exp, big, 3.8, 0},
      {"silu_grad", silu_grad_array, silu_grad_ref<W>, -big, big, 3.6, 0.25},
      {"tanh", tanh_array, [](W x) { return std::tanh(x); }, -big, big, 3.0, 0},
      {"erf", erf_array, [](W x) { return std::erf(x); }, -big, big, 2.8, 0},
      {"gelu", gelu_array, gelu_ref<W>, f32 ? -13 : -37, big, 8.0, 0},
      {"gelu_grad", gelu_grad_array, gelu_grad_ref<W>, -big, big, 8.0, 0.25},
      {"gelu_tanh", gelu_tanh_array, gelu_tanh_ref<W>, -big, big, 2.0, 0.25},
      {"gelu_tanh_grad", gelu_tanh_grad_array, gelu_tanh_grad_ref<W>, -1e6, 1e6, 4.0, 0.25},
  };
}

template <class T>
double ulp_of(double value, double floor) {
  const T v = static_cast<T>(std::max({std::fabs(value), floor, double(std::numeric_limits<T>::min())}));
  int exponent;
  std::frexp(v, &exponent);
  return std::ldexp(1.0, exponent - std::numeric_limits<T>::digits);
}

// Points of [lo, hi]: evenly spaced, plus evenly spaced in the bits (so every
// binary order of magnitude is met), plus the ends and the neighbours of the
// places where the code changes branch.
template <class T>
std::vector<T> samples(double lo, double hi, int n) {
  std::vector<T> x;
  Rng rng(20240611, "math_test");
  const double near_lo = std::max(lo, -800.0), near_hi = std::min(hi, 800.0);
  for (int i = 0; i < n; ++i) {
    x.push_back(static_cast<T>(near_lo + (near_hi - near_lo) * rng.uniform()));
    x.push_back(static_cast<T>(std::max(lo, -4.0) + (std::min(hi, 4.0) - std::max(lo, -4.0)) * rng.uniform()));
    using U = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    x.push_back(std::bit_cast<T>(static_cast<U>(rng.next_u64())));
  }
  for (double edge : {0.0, -0.0, 0.5, 1.0, 20.0, 0.34657359027997264, 14.5, 38.7, 10.0, 87.33654, 88.37, 708.3964,
                      1.2676506002282294e30, double(std::numeric_limits<T>::min()),
                      double(std::numeric_limits<T>::denorm_min()), lo, hi}) {
    for (T v : {static_cast<T>(edge), static_cast<T>(-edge)}) {
      x.push_back(v);
      x.push_back(std::nextafter(v, std::numeric_limits<T>::infinity()));
      x.push_back(std::nextafter(v, -std::numeric_limits<T>::infinity()));
    }
  }
  std::erase_if(x, [&](T v) { return !(v >= lo && v <= hi) || !std::isfinite(v); });
  return x;
}

// Largest error in ULP and where it was.
template <class T>
struct Worst {
  double ulp = 0;
  T at = 0;
};

template <class T>
Worst<T> measure(const Function<T>& f, const std::vector<T>& x,
                 const std::vector<typename Function<T>::Wide>& want) {
  std::vector<T> y(x.size());
  f.run(x.data(), y.data(), x.size());
  Worst<T> worst;
  for (size_t i = 0; i < x.size(); ++i) {
    const T rounded = static_cast<T>(want[i]);
    double error;
    if (!std::isfinite(rounded)) {
      // Overflow: the last finite number and inf are equally right at the edge.
      const bool ok = y[i] == rounded || (std::fabs(y[i]) == std::numeric_limits<T>::max());
      error = ok ? 0 : std::numeric_limits<double>::infinity();
    } else {
      const double ulp = ulp_of<T>(double(want[i]), f.floor);
      error = double(std::fabs(typename Function<T>::Wide(y[i]) - want[i]) / ulp);
      if (std::isnan(y[i])) error = std::numeric_limits<double>::infinity();
    }
    if (error > worst.ulp) worst = {error, x[i]};
  }
  return worst;
}

template <class T>
void check_all_functions(const char* type, int n) {
  // ASPIS_PRINT_ULP=1 prints the table of math.h.
  const bool print = std::getenv("ASPIS_PRINT_ULP") != nullptr;
  for (const auto& f : functions<T>()) {
    const auto x = samples<T>(f.lo, f.hi, n);
    std::vector<typename Function<T>::Wide> want;
    for (T v : x) want.push_back(f.reference(v));
    for (const auto& isa : supported_isas()) {
      force_isa(isa);
      const Worst<T> worst = measure(f, x, want);
      if (print)
        std::printf("%-18s %s %-7s %.2f at %.9g\n", f.name, type, isa.c_str(), worst.ulp, double(worst.at));
      INFO(f.name << " " << type << " on " << isa << ": " << worst.ulp << " ULP at x = " << double(worst.at));
      CHECK(worst.ulp <= f.max_ulp);
    }
  }
  force_isa("");
}

TEST_CASE("float functions stay within their stated error on every instruction set") {
  check_all_functions<float>("f32", 200000);
}

TEST_CASE("double functions stay within their stated error on every instruction set") {
  check_all_functions<double>("f64", 30000);
}

template <class T>
void check_special_values() {
  constexpr T inf = std::numeric_limits<T>::infinity();
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  struct Limit {
    const char* name;
    void (*run)(const T*, T*, size_t);
    T at_minus_inf, at_zero, at_inf;
  };
  const Limit limits[] = {
      {"exp", exp_array, 0, 1, inf},
      {"exp_nonpositive", exp_nonpositive_array, 0, 1, 0},  // +inf is not allowed
      {"exp2_nonpositive", exp2_nonpositive_array, 0, 1, 0},
      {"log", log_array, nan, -inf, inf},
      {"log1p", log1p_array, nan, 0, inf},
      {"softplus", softplus_array, 0, T(0.69314718055994531), inf},
      {"softplus_grad", softplus_grad_array, 0, T(0.5), 1},
      {"sigmoid", sigmoid_array, 0, T(0.5), 1},
      {"silu", silu_array, nan, 0, inf},
      {"tanh", tanh_array, -1, 0, 1},
      {"erf", erf_array, -1, 0, 1},
      {"gelu", gelu_array, nan, 0, inf},
      {"gelu_grad", gelu_grad_array, 0, T(0.5), 1},
      {"gelu_tanh", gelu_tanh_array, nan, 0, inf},
      {"gelu_tanh_grad", gelu_tanh_grad_array, 0, T(0.5), 1},
  };
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& f : limits) {
      INFO(f.name << " on " << isa);
      // Odd count: the values also pass through the tail.
      const T x[5] = {-inf, T(-0.0), T(0), inf, nan};
      T y[5];
      for (int offset = 0; offset < 5; ++offset) f.run(x + offset, y + offset, 1);
      T whole[37], out[37];
      for (int i = 0; i < 37; ++i) whole[i] = x[i % 5];
      f.run(whole, out, 37);
      for (int i = 0; i < 37; ++i) {
        const bool same = out[i] == y[i % 5] || (std::isnan(out[i]) && std::isnan(y[i % 5]));
        CHECK(same);
      }
      const auto is = [](T got, T want) {
        return std::isnan(want) ? std::isnan(got) : std::fabs(got - want) <= 2e-7 || got == want;
      };
      CHECK(is(y[0], f.at_minus_inf));
      CHECK(is(y[1], f.at_zero));
      CHECK(is(y[2], f.at_zero));
      if (std::string(f.name).find("nonpositive") == std::string::npos) CHECK(is(y[3], f.at_inf));
      CHECK(std::isnan(y[4]));
    }
  }
  force_isa("");
}

TEST_CASE("infinities, zeros and NaN give the limits, in full vectors and in tails") {
  check_special_values<float>();
  check_special_values<double>();
}

template <class T>
void check_extremes() {
  const T big = std::numeric_limits<T>::max();
  const T x[] = {-big, T(-1e30), T(-1e4), big, T(1e30), T(1e4)};
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    INFO(isa);
    T y[6];
    const auto expect = [&](const char* name, const std::vector<T>& want) {
      for (size_t i = 0; i < want.size(); ++i) {
        INFO(name << " of " << double(x[i]) << " is " << double(y[i]));
        CHECK(y[i] == want[i]);
      }
    };
    exp_nonpositive_array(x, y, 3);
    expect("exp_nonpositive", {0, 0, 0});
    exp2_nonpositive_array(x, y, 3);
    expect("exp2_nonpositive", {0, 0, 0});
    silu_array(x, y, 6);
    expect("silu", {0, 0, 0, big, T(1e30), T(1e4)});
    gelu_array(x, y, 6);
    expect("gelu", {0, 0, 0, big, T(1e30), T(1e4)});
    gelu_tanh_array(x, y, 6);
    expect("gelu_tanh", {0, 0, 0, big, T(1e30), T(1e4)});
    gelu_grad_array(x, y, 6);
    expect("gelu_grad", {0, 0, 0, 1, 1, 1});
    silu_grad_array(x, y, 6);
    expect("silu_grad", {0, 0, 0, 1, 1, 1});
  }
  force_isa("");
}

TEST_CASE("the largest finite arguments give finite limits") {
  check_extremes<float>();
  check_extremes<double>();
}

TEST_CASE("softplus and its derivative change branch at 20 and nowhere else") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    const double x[] = {20.0, std::nextafter(20.0, 21.0)};
    double y[2], g[2];
    softplus_array(x, y, 2);
    softplus_grad_array(x, g, 2);
    CHECK(y[0] > 20.0);  // log1p(e^20) = 20 + 2.06e-9
    CHECK(y[1] == x[1]);
    CHECK(g[0] < 1.0);
    CHECK(g[1] == 1.0);
  }
  force_isa("");
}

TEST_CASE("results are the same bits at every position and length") {
  std::vector<float> x(67), y(67);
  Rng rng(1, "positions");
  for (auto& v : x) v = static_cast<float>(rng.uniform(-10, 10));
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& f : functions<float>()) {
      std::vector<float> positive(x.size());
      for (size_t i = 0; i < x.size(); ++i)
        positive[i] = std::min(std::fabs(x[i]), 100.0f) * (f.hi > 0 ? 1.0f : -1.0f);
      f.run(positive.data(), y.data(), y.size());
      for (size_t n = 0; n <= x.size(); ++n) {
        std::vector<float> part(n + 1, -7.0f);
        f.run(positive.data() + (x.size() - n), part.data(), n);
        for (size_t i = 0; i < n; ++i) {
          INFO(f.name << " on " << isa << " length " << n << " at " << i);
          REQUIRE(std::bit_cast<uint32_t>(part[i]) == std::bit_cast<uint32_t>(y[x.size() - n + i]));
        }
        REQUIRE(part[n] == -7.0f);  // nothing is written behind the end
      }
    }
  }
  force_isa("");
}

TEST_CASE("functions keep their accuracy with denormals flushed to zero") {
  const FlushToZeroGuard flush;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& f : functions<float>()) {
      // Away from denormal results and intermediates, which count as 0 then.
      std::vector<float> x;
      std::vector<double> want;
      for (float v : samples<float>(f.lo, f.hi, 2000)) {
        const double y = f.reference(v);
        if (std::fabs(v) < 1e-35f || std::fabs(y) < 1e-35) continue;
        x.push_back(v);
        want.push_back(y);
      }
      REQUIRE(x.size() > 500);
      const auto worst = measure(f, x, want);
      INFO(f.name << " on " << isa << ": " << worst.ulp << " ULP at x = " << worst.at);
      CHECK(worst.ulp <= f.max_ulp);
    }
  }
  force_isa("");
}

TEST_CASE("sums and maxima cover every element once") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (size_t n = 0; n < 70; ++n) {
      std::vector<float> x(n);
      std::vector<double> z(n);
      float top = -std::numeric_limits<float>::infinity();
      for (size_t i = 0; i < n; ++i) {
        x[i] = static_cast<float>(int(i * 37 % 64) - 80);
        z[i] = double(x[i]);
        top = std::max(top, x[i]);
      }
      double total = 0;
      for (double v : z) total += v;
      CHECK(sum_array(x.data(), n) == static_cast<float>(total));  // small integers: exact in any order
      CHECK(sum_array(z.data(), n) == total);
      CHECK(max_array(x.data(), n) == top);
      CHECK(max_array(z.data(), n) == double(top));
    }
  }
  force_isa("");
}

}  // namespace
}  // namespace aspis
