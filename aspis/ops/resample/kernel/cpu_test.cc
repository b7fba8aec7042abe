#include "aspis/ops/resample/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/resample/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::AxisTable;
using kernel::Interpolation;

namespace {

std::vector<AxisTable> tables_for(int64_t in) {
  std::vector<AxisTable> t = {kernel::identity_table(in), kernel::adaptive_average_table(in, 1),
                              kernel::adaptive_average_table(in, 3), kernel::adaptive_average_table(in, in + 2)};
  if (in >= 2) t.push_back(kernel::average_table(in, 2, 2, 1, true, true));
  t.push_back(kernel::average_table(in, 3, 1, 1, false, false));
  for (const auto mode :
       {Interpolation::kNearest, Interpolation::kNearestExact, Interpolation::kLinear, Interpolation::kCubic}) {
    t.push_back(kernel::interpolation_table(in, 2 * in + 1, mode, false, false, 0));
    t.push_back(kernel::interpolation_table(in, in / 2 + 1, mode, false, false, 0));
  }
  t.push_back(kernel::interpolation_table(in, in / 2 + 1, Interpolation::kCubic, false, true, 0));
  t.push_back(kernel::interpolation_table(in, 2 * in, Interpolation::kLinear, true, false, 0));
  return t;
}

template <typename S>
double error(const AxisTable& a, const AxisTable& b, const AxisTable& c, int64_t samples, int64_t channels) {
  const int64_t n = samples * a.in * b.in * c.in * channels, m = samples * a.out * b.out * c.out * channels;
  std::vector<S> x(n), y(m + 1);
  std::vector<double> wide(n), want(m);
  Rng rng(3, "resample");
  for (int64_t i = 0; i < n; i++) {
    wide[i] = static_cast<double>(to_float(to_bf16(static_cast<float>(rng.normal()))));
    store_value(x[i], static_cast<Arithmetic<S>>(wide[i]));
  }
  store_value(y[m], Arithmetic<S>(-7));
  kernel::resample<S>({samples, channels, {&a, &b, &c}, x.data(), y.data()});
  kernel::resample_reference<double>({samples, channels, {&a, &b, &c}, wide.data(), want.data()});
  CHECK(load_value(y[m]) == Arithmetic<S>(-7));
  double worst = 0, size = 1e-3;
  for (int64_t i = 0; i < m; i++) {
    worst = std::max(worst, std::abs(static_cast<double>(load_value(y[i])) - want[i]));
    size = std::max(size, std::abs(want[i]));
  }
  return worst / size;
}

}  // namespace

TEST_CASE("resample matches its definition for every kind of table, and transposed, on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    const auto first = tables_for(2), second = tables_for(5), third = tables_for(7);
    for (size_t i = 0; i < third.size(); i++) {
      CAPTURE(isa);
      CAPTURE(i);
      const auto &a = first[(i + 3) % first.size()], &b = second[(i + 1) % second.size()], &c = third[i];
      for (const int64_t channels : {1, 3, 16, 35}) {
        CHECK(error<float>(a, b, c, 2, channels) < 2e-6);
        CHECK(error<double>(a, b, c, 1, channels) < 1e-12);
        CHECK(error<Bf16>(a, b, c, 1, channels) < 1.0 / 256);
        CHECK(error<float>(a.transposed(), b.transposed(), c.transposed(), 2, channels) < 2e-6);
      }
    }
  }
  force_isa("");
}

TEST_CASE("weights of every table that averages add up to one, padding aside") {
  for (const int64_t in : {1, 2, 5, 8}) {
    const auto tables = tables_for(in);
    for (size_t i = 0; i < tables.size(); i++) {
      const AxisTable& t = tables[i];
      CAPTURE(in);
      CAPTURE(i);
      REQUIRE(t.first.size() == static_cast<size_t>(t.out) + 1);
      if (in >= 2 && i == 4) continue;  // counts padding as zeros
      for (int64_t o = 0; o < t.out; o++) {
        const double sum = std::accumulate(t.weight.begin() + t.first[o], t.weight.begin() + t.first[o + 1], 0.0);
        CHECK(sum == doctest::Approx(1).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("a table transposed twice is itself, and an enlarged identity is none") {
  for (const auto& t : tables_for(6)) CHECK(t.transposed().transposed() == t);
  CHECK(kernel::identity_table(4).is_identity());
  CHECK(kernel::interpolation_table(4, 4, Interpolation::kCubic, false, false, 0).out == 4);
  CHECK_FALSE(kernel::adaptive_average_table(4, 2).is_identity());
}

TEST_CASE("resample results have the same bits for any number of threads") {
  const auto a = kernel::identity_table(1),
             b = kernel::interpolation_table(30, 61, Interpolation::kCubic, false, false, 0),
             c = kernel::interpolation_table(40, 23, Interpolation::kLinear, false, true, 0);
  std::vector<float> x(3 * 30 * 40 * 17), first(3 * 61 * 23 * 17), next(first.size());
  Rng rng(1, "x");
  for (float& v : x) v = static_cast<float>(rng.normal());
  set_num_threads(1);
  kernel::resample<float>({3, 17, {&a, &b, &c}, x.data(), first.data()});
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    kernel::resample<float>({3, 17, {&a, &b, &c}, x.data(), next.data()});
    CHECK(next == first);
  }
  set_num_threads(0);
}
