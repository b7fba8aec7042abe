#include "aspis/ops/cross_entropy/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/cross_entropy/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::LossReduction;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Problem {
  int64_t rows, classes;
  bool soft;
  double smoothing;
  LossReduction reduction;
  double scale = 3;
  int64_t gap = 0;
};

struct Result {
  std::vector<double> loss, dlogits, dsoft;
};

template <typename T>
Result run(const Problem& c, bool plain) {
  Rng rng(1, "cross_entropy");
  const int64_t stride = c.classes + c.gap, n = c.rows * c.classes;
  std::vector<T> logits(c.rows * stride + 1), soft(c.rows * stride + 1), loss(c.rows, T(-7)), rows(c.rows);
  std::vector<T> statistics(2 * c.rows), dloss(c.rows), dlogits(n, T(-7)), dsoft(n, T(-7));
  std::vector<int32_t> labels(c.rows);
  for (auto& v : logits) v = static_cast<T>(static_cast<float>(c.scale * rng.normal()));
  for (auto& v : soft) v = static_cast<T>(static_cast<float>(rng.uniform() / static_cast<double>(c.classes)));
  for (auto& v : dloss) v = static_cast<T>(static_cast<float>(rng.normal()));
  for (auto& v : labels) v = static_cast<int32_t>(rng.below(static_cast<uint64_t>(c.classes)));
  if (c.rows > 2) labels[1] = -100;
  kernel::CrossEntropyParams<T> p{c.rows,
                                  c.classes,
                                  logits.data() + 1,
                                  stride,
                                  c.soft ? nullptr : labels.data(),
                                  c.soft ? soft.data() + 1 : nullptr,
                                  stride,
                                  c.smoothing,
                                  -100,
                                  c.reduction,
                                  loss.data(),
                                  c.reduction == LossReduction::kNone ? loss.data() : rows.data(),
                                  statistics.data()};
  kernel::CrossEntropyVjpParams<T> v{p, dloss.data(), dlogits.data(), c.soft ? dsoft.data() : nullptr};
  if (plain) {
    kernel::cross_entropy_reference(p);
    kernel::cross_entropy_vjp_reference(v);
  } else {
    kernel::cross_entropy(p);
    kernel::cross_entropy_vjp(v);
  }
  const auto wide = [](const std::vector<T>& x) { return std::vector<double>(x.begin(), x.end()); };
  return {wide(loss), wide(dlogits), wide(dsoft)};
}

double error(const std::vector<double>& got, const std::vector<double>& want) {
  double worst = 0, largest = 1e-300;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return kInf;
    worst = std::max(worst, std::abs(got[i] - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  return worst / largest;
}

template <typename T>
double loss_of(const std::vector<T>& x, int32_t label, double smoothing = 0, std::vector<T>* gradient = nullptr) {
  T loss = -7, row = -7, statistics[2];
  const T one = 1;
  std::vector<T> dx(x.size());
  const kernel::CrossEntropyParams<T> p{1,         static_cast<int64_t>(x.size()),
                                        x.data(),  0,
                                        &label,    nullptr,
                                        0,         smoothing,
                                        -100,      LossReduction::kSum,
                                        &loss,     &row,
                                        statistics};
  kernel::cross_entropy(p);
  kernel::cross_entropy_vjp<T>({p, &one, dx.data(), nullptr});
  if (gradient) *gradient = dx;
  return loss;
}

}  // namespace

TEST_CASE("cross_entropy kernel matches its definition for labels and soft targets, smoothed or not") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int64_t classes : {1, 2, 3, 10, 15, 16, 17, 31, 33, 100, 1003}) {
      for (const auto reduction : {LossReduction::kNone, LossReduction::kMean, LossReduction::kSum}) {
        for (const bool soft : {false, true}) {
          for (const double smoothing : {0.0, 0.1}) {
            CAPTURE(isa);
            CAPTURE(classes);
            CAPTURE(soft);
            CAPTURE(smoothing);
            CAPTURE(static_cast<int>(reduction));
            const Problem c{7, classes, soft, smoothing, reduction, 3, classes % 2 ? 5 : 0};
            const Result want = run<double>(c, true), single = run<float>(c, false), wide = run<double>(c, false);
            if (classes > 1) {  // the loss of one class is 0, and rounding is all there is
              CHECK(error(single.loss, want.loss) < 2e-6);
              CHECK(error(single.dlogits, want.dlogits) < 2e-6);
              CHECK(error(wide.loss, want.loss) < 1e-13);
              CHECK(error(wide.dlogits, want.dlogits) < 1e-13);
            }
            if (soft && classes > 1) {
              CHECK(error(single.dsoft, want.dsoft) < 2e-6);
              CHECK(error(wide.dsoft, want.dsoft) < 1e-13);
            }
          }
        }
      }
    }
  }
  force_isa("");
}

TEST_CASE("cross_entropy kernel gives the same bits for 1, 2, 3 and 7 threads") {
  const Problem c{3001, 37, true, 0.1, LossReduction::kMean};
  set_num_threads(1);
  const Result want = run<float>(c, false);
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    const Result got = run<float>(c, false);
    CHECK(got.loss == want.loss);
    CHECK(got.dlogits == want.dlogits);
    CHECK(got.dsoft == want.dsoft);
  }
  set_num_threads(0);
}

TEST_CASE("cross_entropy is exact where the logits are huge or masked") {
  std::vector<float> gradient;
  CHECK(loss_of<float>({1e30f, -1e30f, 0}, 0) == 0);
  CHECK(loss_of<float>({1e8f, 1e8f}, 0, 0, &gradient) == doctest::Approx(std::log(2.0)));
  CHECK(gradient[0] == doctest::Approx(-0.5));
  CHECK(gradient[1] == doctest::Approx(0.5));
  CHECK(loss_of<float>({3e38f, -3e38f}, 1) == std::numeric_limits<float>::infinity());
  CHECK(loss_of<float>({static_cast<float>(-kInf), 1, 1}, 1, 0, &gradient) == doctest::Approx(std::log(2.0)));
  CHECK(gradient == std::vector<float>{0, gradient[1], gradient[2]});
}

TEST_CASE("cross_entropy gives NaN for a label that is no class and for NaN logits, in that row alone") {
  for (const int32_t label : {-1, 3, 1000}) {
    std::vector<float> gradient;
    CHECK(std::isnan(loss_of<float>({1, 2, 3}, label, 0, &gradient)));
    for (const float g : gradient) CHECK(std::isnan(g));
  }
  CHECK(std::isnan(loss_of<float>({1, NAN, 3}, 0)));
  const float x[] = {1, NAN, 1, 2, 1, 1};
  const int32_t labels[] = {0, 5, 1};
  float loss[3], statistics[6];
  kernel::cross_entropy<float>(
      {3, 2, x, 2, labels, nullptr, 0, 0, -100, LossReduction::kNone, loss, loss, statistics});
  CHECK(std::isnan(loss[0]));
  CHECK(std::isnan(loss[1]));
  CHECK(loss[2] == doctest::Approx(std::log(2.0)));
}
