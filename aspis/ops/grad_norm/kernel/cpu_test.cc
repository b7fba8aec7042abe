#include "aspis/ops/grad_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/grad_norm/kernel/reference.h"
#include "aspis/ops/grad_norm/kernel/segments.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

template <typename T>
struct Lists {
  std::vector<std::vector<T>> values;
  kernel::GlobalNormParams<T> params;
  float norm = -7;

  // Data begin one element late, so that no pointer is aligned.
  explicit Lists(const std::vector<int64_t>& sizes) {
    Rng rng(1, "grad_norm");
    for (const int64_t n : sizes) {
      values.emplace_back(n + 1);
      for (auto& v : values.back()) v = static_cast<T>(static_cast<float>(rng.normal()));
    }
    for (const auto& v : values) params.arrays.push_back({static_cast<int64_t>(v.size()) - 1, v.data() + 1});
    params.norm = &norm;
  }
  float run() {
    kernel::global_norm(params);
    return norm;
  }
};

}  // namespace

TEST_CASE("global_norm kernel matches its definition for any list of sizes on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const auto& sizes : std::vector<std::vector<int64_t>>{
             {}, {0}, {1}, {3, 0, 5}, {31, 32, 33, 64, 100}, {32768, 1}, {100000, 7, 40000}}) {
      Lists<float> single(sizes);
      Lists<double> wide(sizes);
      const double want = kernel::global_norm_reference(single.params);
      CHECK(single.run() == doctest::Approx(want).epsilon(1e-7));
      CHECK(wide.run() == doctest::Approx(want).epsilon(1e-7));
    }
  }
  force_isa("");
}

TEST_CASE("global_norm kernel gives the same bits for 1, 2, 3 and 7 threads") {
  Lists<float> lists({100000, 3, 17, 250001, 40000});
  set_num_threads(1);
  const float want = lists.run();
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    CHECK(lists.run() == want);
  }
  set_num_threads(0);
}

TEST_CASE("global_norm keeps huge values finite and shows NaN and infinity") {
  Lists<float> lists({50, 20});
  for (auto& v : lists.values[0]) v = 3e37f;
  CHECK(lists.run() == doctest::Approx(3e37 * std::sqrt(50.0)).epsilon(1e-6));
  lists.values[1][7] = std::numeric_limits<float>::infinity();
  CHECK(std::isinf(lists.run()));
  lists.values[1][20] = NAN;
  CHECK(std::isnan(lists.run()));
}

TEST_CASE("a list of arrays is cut into tasks of about one block that cover every element once") {
  const std::vector<int64_t> sizes = {5, 0, 25, 10, 1, 1, 1, 8};
  const auto list = kernel::cut_arrays(8, 10, [&](int64_t i) { return sizes[i]; });
  std::vector<int64_t> seen(8);
  for (const auto& s : list.segments) {
    CHECK(s.first == seen[s.array]);
    CHECK(s.count > 0);
    CHECK(s.count <= 10);
    seen[s.array] += s.count;
  }
  CHECK(seen == sizes);
  CHECK(list.starts.back() == static_cast<int64_t>(list.segments.size()));
  // 5 | 10 | 10 | 5 | 10 | 1 1 1 | 8
  CHECK(list.tasks() == 7);
}
