#include "aspis/nn/drop_path.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <vector>

#include "aspis/base/error.h"
#include "aspis/base/rng.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/elementwise/elementwise.h"

namespace aspis {
namespace {

thread_local uint64_t current_key = 0;

}  // namespace

RandomStep::RandomStep(uint64_t seed, int64_t step) : before_(current_key) {
  current_key = Rng(seed, "step", static_cast<uint64_t>(step)).next_u64();
}

RandomStep::RandomStep(uint64_t key) : before_(current_key) { current_key = key; }

RandomStep::~RandomStep() { current_key = before_; }

uint64_t RandomStep::key() { return current_key; }

DropPath::DropPath(double rate, const Init& init) : rate_(rate), stream_(init.key("drop_path")) {
  require(rate >= 0 && rate < 1, [&] {
    return Error::Parts{.where = type_name(),
                        .required = "the rate must lie in [0, 1)",
                        .got = fmt::format("{}", rate),
                        .hint = ""};
  });
}

std::optional<mx::array> DropPath::keep(const mx::array& x) const {
  if (!training() || rate_ == 0) return std::nullopt;
  Rng rng(RandomStep::key(), "drop_path", stream_);
  std::vector<float> factors(static_cast<size_t>(x.shape(0)));
  const float scale = static_cast<float>(1 / (1 - rate_));
  for (float& k : factors) k = rng.uniform() < rate_ ? 0 : scale;
  mx::Shape shape(x.ndim(), 1);
  shape[0] = x.shape(0);
  return mx::astype(mx::array(factors.begin(), shape), x.dtype());
}

mx::array DropPath::operator()(const mx::array& x) const {
  const auto factors = keep(x);
  return factors ? broadcast_multiply(x, *factors) : x;
}

mx::array DropPath::operator()(const mx::array& x, const mx::array& residual) const {
  const auto factors = keep(x);
  return factors ? multiply_add(x, *factors, residual) : add_n({residual, x});
}

Dropout::Dropout(double rate, const Init& init) : rate_(rate), stream_(init.key("dropout")) {
  require(rate >= 0 && rate < 1, [&] {
    return Error::Parts{.where = type_name(),
                        .required = "the rate must lie in [0, 1)",
                        .got = fmt::format("{}", rate),
                        .hint = ""};
  });
}

mx::array Dropout::operator()(const mx::array& x) const {
  if (!training() || rate_ == 0) return x;
  return dropout(x, rate_, RandomStep::key(), stream_);
}

std::vector<double> drop_path_rates(double rate, int64_t blocks) {
  std::vector<double> rates;
  for (int64_t i = 0; i < blocks; i++) {
    rates.push_back(blocks > 1 ? rate * static_cast<double>(i) / static_cast<double>(blocks - 1) : 0);
  }
  return rates;
}

}  // namespace aspis
