#include "aspis/ops/grad_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

// Tiny, empty and large tensors; the large one spans several blocks.
const std::vector<int64_t> kSizes = {1, 0, 3, 16, 17, 33, 100000, 0, 5, 32768, 7};

template <typename T>
struct Data {
  std::vector<std::vector<T>> storage;
  kernel::GradNormParams<T> params;
  double want = 0;
  Data() {
    Rng rng(3, "grad_norm");
    for (const int64_t n : kSizes) {
      auto& x = storage.emplace_back(n);
      for (auto& v : x) {
        v = static_cast<T>(rng.normal());
        want += static_cast<double>(v) * static_cast<double>(v);
      }
    }
    for (const auto& x : storage) params.parts.push_back({x.data(), static_cast<int64_t>(x.size())});
  }
};

}  // namespace

TEST_CASE_TEMPLATE("sum of squares counts every element once on every instruction set", T, float, double) {
  const Data<T> data;
  for (const auto& isa : supported_isas()) {
    CAPTURE(isa);
    force_isa(isa);
    CHECK(kernel::sum_of_squares(data.params) == doctest::Approx(data.want).epsilon(1e-12));
  }
  force_isa("");
}

TEST_CASE("sum of squares is bit-equal for any number of threads") {
  const Data<float> data;
  set_num_threads(1);
  const double want = kernel::sum_of_squares(data.params);
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    CHECK(kernel::sum_of_squares(data.params) == want);
  }
  set_num_threads(0);
}

TEST_CASE("sum of squares of nothing is zero") {
  CHECK(kernel::sum_of_squares(kernel::GradNormParams<float>{}) == 0);
  CHECK(kernel::sum_of_squares(kernel::GradNormParams<float>{{{nullptr, 0}}}) == 0);
}
