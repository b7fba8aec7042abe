#include "aspis/ops/reduce/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/reduce/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

struct Shape {
  int64_t outer, reduced, inner;
};
const Shape kShapes[] = {{1, 1, 1},    {5, 7, 1},     {3, 1, 17},    {2, 9, 33},    {1, 50000, 1},
                         {300, 70, 1}, {1, 3000, 21}, {4, 37, 1000}, {2, 3, 20000}, {3, 0, 5}};

template <typename S, typename O>
struct Run {
  Shape s;
  std::vector<S> x, factor;
  std::vector<O> y;
  std::vector<Arithmetic<S>> scratch;
  bool product;

  Run(const Shape& shape, bool product_) : s(shape), product(product_) {
    x.resize(s.outer * s.reduced * s.inner), factor.resize(x.size()), y.resize(s.outer * s.inner);
    scratch.resize(kernel::sum_scratch(s.outer, s.reduced, s.inner));
    Rng rng(3, "sum");
    for (auto* v : {&x, &factor}) {
      for (S& e : *v)
        store_value(e, static_cast<Arithmetic<S>>(to_float(to_bf16(static_cast<float>(rng.normal())))));
    }
  }
  kernel::SumParams<S, O> params() {
    return {s.outer,  s.reduced,     s.inner, 0.5, x.data(), product ? factor.data() : nullptr,
            y.data(), scratch.data()};
  }
};

// Over the size of a sum of so many numbers.
template <typename S, typename O>
double error(const Shape& shape, bool product) {
  Run<S, O> got(shape, product);
  Run<double, double> want(shape, product);
  kernel::sum(got.params());
  kernel::sum_reference(want.params());
  double worst = 0;
  for (size_t i = 0; i < want.y.size(); i++) {
    worst = std::max(worst, std::abs(static_cast<double>(load_value(got.y[i])) - want.y[i]));
  }
  return worst / std::sqrt(static_cast<double>(shape.reduced + 1));
}

}  // namespace

TEST_CASE("sum matches its definition for rows, columns and middle axes on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& shape : kShapes) {
      for (const bool product : {false, true}) {
        CAPTURE(isa);
        CAPTURE(shape.reduced);
        CAPTURE(shape.inner);
        CAPTURE(product);
        CHECK(error<float, float>(shape, product) < 2e-6);
        CHECK(error<double, double>(shape, product) < 1e-14);
        CHECK(error<Bf16, float>(shape, product) < 2e-6);
        CHECK(error<Bf16, Bf16>(shape, product) < 0.02);  // half a unit of sums up to 4 deviations
      }
    }
  }
  force_isa("");
}

TEST_CASE("sum has the same bits for any number of threads") {
  for (const Shape& shape : kShapes) {
    set_num_threads(1);
    Run<float, float> first(shape, true);
    kernel::sum(first.params());
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      Run<float, float> next(shape, true);
      kernel::sum(next.params());
      CHECK(next.y == first.y);
    }
  }
  set_num_threads(0);
}
