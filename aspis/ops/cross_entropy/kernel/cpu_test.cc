#include "aspis/ops/cross_entropy/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/cross_entropy/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

// Rows with gaps between them, labels in the classes, every fourth row ignored.
template <typename T>
struct Data {
  std::vector<T> x, t, loss;
  std::vector<int64_t> labels;
  kernel::CrossEntropyParams<T> p;

  Data(int64_t rows, int64_t classes, bool soft, double smoothing) {
    p.rows = rows;
    p.classes = classes;
    p.x_stride = classes + 3;
    p.t_stride = classes + 1;
    p.smoothing = smoothing;
    p.ignore_index = -7;
    x.assign(rows * p.x_stride, std::numeric_limits<T>::quiet_NaN());
    t.assign(rows * p.t_stride, std::numeric_limits<T>::quiet_NaN());
    labels.assign(rows, 0);
    loss.assign(rows + 1, T(-5));
    Rng rng(1, "cross_entropy");
    for (int64_t r = 0; r < rows; r++) {
      for (int64_t c = 0; c < classes; c++) {
        x[r * p.x_stride + c] = static_cast<T>(static_cast<float>(100 + 3 * rng.normal()));
        t[r * p.t_stride + c] = static_cast<T>(static_cast<float>(rng.uniform(0, 1)));
      }
      labels[r] = r % 4 == 3 ? -7 : static_cast<int64_t>(rng.below(static_cast<uint64_t>(classes)));
    }
    p.x = x.data();
    p.loss = loss.data();
    if (soft) {
      p.t = t.data();
    } else {
      p.labels = labels.data();
    }
  }
};

}  // namespace

TEST_CASE_TEMPLATE("cross-entropy kernel matches its definition for any row length on every instruction set", T, float,
                   double) {
  const double bound = sizeof(T) == 4 ? 2e-6 : 1e-13;
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t classes : {1, 2, 10, 16, 17, 37, 1000}) {
      for (const bool soft : {false, true}) {
        for (const double smoothing : {0.0, 0.1, 1.0}) {
          CAPTURE(isa);
          CAPTURE(classes);
          CAPTURE(soft);
          CAPTURE(smoothing);
          Data<T> got(9, classes, soft, smoothing);
          Data<double> want(9, classes, soft, smoothing);
          kernel::cross_entropy(got.p);
          kernel::cross_entropy_reference(want.p);
          double worst = 0, scale = 1;
          for (int r = 0; r < 9; r++) {
            scale = std::max(scale, std::abs(want.loss[r]));
            worst = std::max(worst, std::abs(static_cast<double>(got.loss[r]) - want.loss[r]));
          }
          CHECK(worst < bound * scale);
          CHECK(got.loss[9] == T(-5));
          for (const bool mean : {false, true}) {
            got.p.reduce = want.p.reduce = true;
            got.p.mean = want.p.mean = mean;
            kernel::cross_entropy(got.p);
            kernel::cross_entropy_reference(want.p);
            CHECK(static_cast<double>(got.loss[0]) == doctest::Approx(want.loss[0]).epsilon(bound));
          }
        }
      }
    }
  }
  force_isa("");
}

TEST_CASE("cross-entropy gradients match differences of the definition on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const bool soft : {false, true}) {
      for (const double smoothing : {0.0, 0.2}) {
        CAPTURE(isa);
        CAPTURE(soft);
        CAPTURE(smoothing);
        constexpr int64_t kRows = 6, kClasses = 11;
        Data<double> d(kRows, kClasses, soft, smoothing);
        d.p.reduce = d.p.mean = true;
        std::vector<double> dx(kRows * kClasses), dt(kRows * kClasses);
        const double dy = 1.5;
        kernel::cross_entropy_vjp<double>({d.p, &dy, dx.data(), soft ? dt.data() : nullptr});
        const auto slope = [&](double& value) {
          const double saved = value, h = 1e-5;
          value = saved + h;
          kernel::cross_entropy_reference(d.p);
          const double above = d.loss[0];
          value = saved - h;
          kernel::cross_entropy_reference(d.p);
          value = saved;
          return dy * (above - d.loss[0]) / (2 * h);
        };
        double worst = 0;
        for (int64_t r = 0; r < kRows; r++) {
          for (int64_t c = 0; c < kClasses; c++) {
            worst = std::max(worst, std::abs(dx[r * kClasses + c] - slope(d.x[r * d.p.x_stride + c])));
            if (soft) worst = std::max(worst, std::abs(dt[r * kClasses + c] - slope(d.t[r * d.p.t_stride + c])));
          }
        }
        CHECK(worst < 1e-8);
      }
    }
  }
  force_isa("");
}

TEST_CASE("cross-entropy of a wrong label is NaN in its row only, an ignored row is zero") {
  Data<float> d(4, 5, false, 0.1);
  d.labels = {5, -1, 2, -7};
  kernel::cross_entropy(d.p);
  CHECK(std::isnan(d.loss[0]));
  CHECK(std::isnan(d.loss[1]));
  CHECK(std::isfinite(d.loss[2]));
  CHECK(d.loss[3] == 0);
  std::vector<float> dx(20, 9.f), dy(4, 1.f);
  kernel::cross_entropy_vjp<float>({d.p, dy.data(), dx.data(), nullptr});
  for (int c = 0; c < 5; c++) {
    CHECK(std::isnan(dx[c]));
    CHECK(std::isfinite(dx[10 + c]));
    CHECK(dx[15 + c] == 0);
  }
}

TEST_CASE("cross-entropy of huge, infinite and NaN logits is that of PyTorch") {
  std::vector<float> x = {3e38f, -3e38f, 0.f}, loss(1);
  std::vector<int64_t> label = {0};
  kernel::CrossEntropyParams<float> p;
  p.rows = 1;
  p.classes = 3;
  p.x = x.data();
  p.x_stride = 3;
  p.labels = label.data();
  p.loss = loss.data();
  const auto run = [&](std::vector<float> values, int64_t of) {
    x = std::move(values);
    p.x = x.data();
    label[0] = of;
    kernel::cross_entropy(p);
    return loss[0];
  };
  const auto inf = static_cast<float>(kInf);
  CHECK(run({3e38f, -3e38f, 0.f}, 0) == 0.f);
  CHECK(run({0.f, -inf, 0.f}, 0) == doctest::Approx(std::log(2.0)));
  CHECK(run({0.f, -inf, 0.f}, 1) == inf);
  CHECK(std::isnan(run({0.f, NAN, 0.f}, 0)));
  CHECK(std::isnan(run({NAN, 0.f, 0.f}, 1)));
  CHECK(std::isnan(run({-inf, -inf, -inf}, 1)));
  CHECK(std::isnan(run({inf, 0.f, 0.f}, 0)));
}

TEST_CASE("the mean cross-entropy is bit-equal for any number of threads") {
  Data<float> d(20000, 10, false, 0.1);
  d.p.reduce = d.p.mean = true;
  set_num_threads(1);
  kernel::cross_entropy(d.p);
  const float want = d.loss[0];
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    kernel::cross_entropy(d.p);
    CHECK(d.loss[0] == want);
  }
  set_num_threads(0);
}
