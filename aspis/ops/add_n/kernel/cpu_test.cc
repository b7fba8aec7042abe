#include "aspis/ops/add_n/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/ops/add_n/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

TEST_CASE("add_n kernel adds from left to right for any number of inputs on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const size_t count : {1, 2, 3, 4, 5, 6, 7, 8, 11}) {
      for (const int64_t n : {0, 1, 15, 16, 33, 5000, 9001}) {
        CAPTURE(isa);
        CAPTURE(count);
        CAPTURE(n);
        Rng rng(1, "add_n");
        std::vector<std::vector<float>> xs(count, std::vector<float>(n + 1));
        kernel::AddNParams<float> p{n, {}, nullptr};
        for (auto& x : xs) {
          for (float& v : x) v = static_cast<float>(rng.normal());
          p.xs.push_back(x.data() + 1);
        }
        std::vector<float> y(n + 2, -7.f), want(n + 1);
        p.y = y.data() + 1;
        kernel::add_n(p);
        p.y = want.data();
        kernel::add_n_reference(p);
        // The order of additions is part of the contract: equal bits.
        for (int64_t i = 0; i < n; i++) REQUIRE(y[i + 1] == want[i]);
        CHECK(y[0] == -7.f);
        CHECK(y[n + 1] == -7.f);
      }
    }
  }
  force_isa("");
}

TEST_CASE("add_n kernel may write over one of its inputs") {
  std::vector<double> a(6000, 1.0), b(6000, 2.0), c(6000, 4.0);
  kernel::add_n<double>({6000, {a.data(), b.data(), c.data()}, a.data()});
  CHECK(a == std::vector<double>(6000, 7.0));
}
