#include "aspis/ops/rms_norm/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/rms_norm/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

std::vector<double> random(int64_t n, const char* name) {
  std::vector<double> v(n);
  Rng rng(3, name);
  for (double& x : v) x = static_cast<float>(rng.normal());
  return v;
}

std::vector<float> narrow(const std::vector<double>& v) { return {v.begin(), v.end()}; }

double worst_error(const std::vector<float>& got, const std::vector<double>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); i++) worst = std::max(worst, std::abs(got[i] - want[i]));
  return worst;
}

struct Shape {
  int64_t rows, length;
};
const Shape kShapes[] = {{1, 1}, {3, 2}, {5, 15}, {4, 16}, {7, 33}, {2, 1000}, {300, 70}};

}  // namespace

TEST_CASE("rms_norm kernel matches its definition with and without residual and weight, rows with gaps") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const auto& [rows, length] : kShapes) {
      for (int options = 0; options < 4; options++) {
        CAPTURE(isa);
        CAPTURE(length);
        CAPTURE(options);
        const int64_t step = length + 5;
        const auto x = random(rows * step, "x"), residual = random(rows * step, "r"), w = random(length, "w");
        const auto fx = narrow(x), fr = narrow(residual), fw = narrow(w);
        std::vector<float> y(rows * length), sum(rows * length);
        std::vector<double> want_y(rows * length), want_sum(rows * length);
        kernel::RmsNormParams<float> p{rows, length, 1e-5, fx.data(), step, nullptr, step, nullptr, y.data(), nullptr};
        kernel::RmsNormParams<double> q{rows,    length,  1e-5,          x.data(), step,
                                        nullptr, step, nullptr, want_y.data(), nullptr};
        if (options & 1) {
          p.residual = fr.data();
          p.sum = sum.data();
          q.residual = residual.data();
          q.sum = want_sum.data();
        }
        if (options & 2) {
          p.weight = fw.data();
          q.weight = w.data();
        }
        kernel::rms_norm(p);
        kernel::rms_norm_reference(q);
        CHECK(worst_error(y, want_y) < 3e-6);
        if (options & 1) CHECK(worst_error(sum, want_sum) < 1e-6);
      }
    }
  }
  force_isa("");
}

TEST_CASE("rms_norm gradient of the weight has the same bits for any number of threads") {
  const int64_t rows = 5000, length = 37;
  const auto h = narrow(random(rows * length, "h")), dy = narrow(random(rows * length, "dy"));
  const auto w = narrow(random(length, "w"));
  std::vector<float> scratch(kernel::rms_norm_vjp_scratch(rows, length)), first;
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    std::vector<float> dx(rows * length), dw(length);
    kernel::RmsNormVjpParams<float> p;
    p.rows = rows;
    p.length = length;
    p.eps = 1e-5;
    p.h = h.data();
    p.dy = dy.data();
    p.h_stride = p.dy_stride = length;
    p.weight = w.data();
    p.dx = dx.data();
    p.dweight = dw.data();
    p.scratch = scratch.data();
    kernel::rms_norm_vjp(p);
    if (first.empty()) first = dw;
    CHECK(dw == first);
  }
  set_num_threads(0);
}
