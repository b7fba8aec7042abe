#include "aspis/ops/quantized/kernel/cpu.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/quantized/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::QuantizedShape;

namespace {

std::vector<float> random_values(const char* name, int64_t n) {
  Rng rng(1, name);
  std::vector<float> v(n);
  for (auto& x : v) x = static_cast<float>(rng.normal());
  return v;
}

struct Run {
  std::vector<float> weight, scales, offsets, x, bias, y, work;
  std::vector<uint32_t> packed;
  kernel::QuantizedLinearParams p;
};

Run run(const QuantizedShape& s, int64_t rows, int64_t gap = 0) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Run r;
  r.weight = random_values("w", s.out * s.in);
  r.x = random_values("x", rows * (s.in + gap) + 1);
  r.bias = random_values("b", s.out);
  r.packed.assign(s.out * s.words() + 1, 77);
  r.scales.assign(s.out * s.groups(), nan);
  r.offsets = r.scales;
  r.y.assign(rows * s.out, nan);
  r.work.assign(kernel::quantized_linear_workspace(s, rows) + 1, nan);
  kernel::quantize({s, r.weight.data(), r.packed.data(), r.scales.data(), r.offsets.data()});
  CHECK(r.packed.back() == 77);
  r.p = {s,
         rows,
         r.x.data(),
         s.in + gap,
         r.packed.data(),
         r.scales.data(),
         r.offsets.data(),
         r.bias.data(),
         r.y.data(),
         r.work.data()};
  kernel::quantized_linear(r.p);
  return r;
}

const QuantizedShape kShapes[] = {{1, 64, 8, 64}, {5, 192, 8, 64},    {70, 96, 8, 32}, {33, 320, 4, 64},
                                  {9, 32, 4, 32}, {130, 384, 4, 128}, {7, 48, 4, 16},  {200, 640, 8, 16}};

}  // namespace

TEST_CASE("quantised weights are within half a step of the weights") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& s : kShapes) {
      const Run r = run(s, 1);
      std::vector<float> back(s.out * s.in);
      kernel::dequantize(r.p, back.data());
      double steps = 0, apart = 0;  // largest error in steps; kernel and definition
      for (int64_t o = 0; o < s.out; o++) {
        for (int64_t i = 0; i < s.in; i++) {
          const double want = kernel::quantized_value(r.p, o, i), step = r.scales[o * s.groups() + i / s.group];
          steps = std::max(steps, std::abs(want - double(r.weight[o * s.in + i])) / step);
          apart = std::max(apart, std::abs(double(back[o * s.in + i]) - want));
        }
      }
      CHECK(steps <= 0.501);
      CHECK(apart < 1e-6);
    }
  }
  force_isa("");
}

TEST_CASE("a product with quantised weights matches the definition for few rows and many") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const auto& s : kShapes) {
      for (const int64_t rows : {1, 3, 4, 8, 9, 60, 300}) {
        if (rows == 300 && s.out > 100) continue;
        for (const int64_t gap : {0, 5}) {
          CAPTURE(s.out);
          CAPTURE(rows);
          const Run r = run(s, rows, gap);
          const auto want = kernel::quantized_linear_reference(r.p);
          double largest = 0, worst = 0;
          for (size_t i = 0; i < want.size(); i++) {
            largest = std::max(largest, std::abs(want[i]));
            worst = std::max(worst, std::isfinite(r.y[i]) ? std::abs(double(r.y[i]) - want[i]) : 1e9);
          }
          // Integers up to 255 are summed before the offset takes most of them away again.
          CHECK(worst < 1e-5 * largest);
        }
      }
    }
  }
  force_isa("");
}

TEST_CASE("a product with quantised weights has the same bits for 1, 2, 3 and 7 threads") {
  for (const auto& s : kShapes) {
    for (const int64_t rows : {1, 5, 60}) {
      set_num_threads(1);
      const Run want = run(s, rows);
      for (const int threads : {2, 3, 7}) {
        set_num_threads(threads);
        const Run got = run(s, rows);
        CHECK(got.packed == want.packed);
        CHECK(got.y == want.y);
      }
    }
  }
  set_num_threads(0);
}

TEST_CASE("a group of equal weights, zeros and infinities in x") {
  const QuantizedShape s{1, 64, 4, 64};
  std::vector<float> w(64, 3.0f), scales(1), offsets(1), x(64, 1.0f), y(1), work(1);
  std::vector<uint32_t> packed(s.words());
  kernel::quantize({s, w.data(), packed.data(), scales.data(), offsets.data()});
  const kernel::QuantizedLinearParams p{
      s, 1, x.data(), 64, packed.data(), scales.data(), offsets.data(), nullptr, y.data(), work.data()};
  kernel::quantized_linear(p);
  CHECK(y[0] == 192.0f);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  kernel::quantized_linear(p);
  CHECK(std::isnan(y[0]));
}
