#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "aspis/nn/init.h"
#include "aspis/nn/module.h"

namespace aspis {

/// Says which step of a training run the graphs built in this scope belong to,
/// so that dropped samples differ from step to step and a resumed run drops the
/// same ones. One per thread; scopes nest.
class RandomStep {
 public:
  RandomStep(uint64_t seed, int64_t step);
  ~RandomStep();
  RandomStep(const RandomStep&) = delete;
  RandomStep& operator=(const RandomStep&) = delete;

  /// Key of the innermost scope; 0 outside of all.
  static uint64_t key();
  /// A scope with the key of another, to draw the same again.
  static RandomStep again(uint64_t key) { return RandomStep(key); }

 private:
  explicit RandomStep(uint64_t key);

  uint64_t before_;
};

/// Stochastic depth (Huang et al. 2016): in training each sample of a residual
/// branch is dropped with probability `rate` and the others divided by 1 - rate.
/// In inference, and with rate 0, nothing happens.
class DropPath final : public Module {
 public:
  /// Throws Error(kUsage) unless 0 <= rate < 1.
  DropPath(double rate, const Init& init);
  std::string type_name() const override { return "DropPath"; }
  /// {B, ...} -> the same.
  mx::array operator()(const mx::array& x) const;
  /// residual + drop(x), in one pass.
  mx::array operator()(const mx::array& x, const mx::array& residual) const;
  double rate() const { return rate_; }

 private:
  /// Factor of each sample, {B, 1, ...}; none where nothing is dropped.
  std::optional<mx::array> keep(const mx::array& x) const;

  double rate_;
  uint64_t stream_;
};

/// Inverted dropout (Srivastava et al. 2014): in training each value is 0 with
/// probability `rate`, and the others divided by 1 - rate. In inference, and with
/// rate 0, nothing happens.
class Dropout final : public Module {
 public:
  /// Throws Error(kUsage) unless 0 <= rate < 1.
  Dropout(double rate, const Init& init);
  std::string type_name() const override { return "Dropout"; }
  mx::array operator()(const mx::array& x) const;
  double rate() const { return rate_; }

 private:
  double rate_;
  uint64_t stream_;
};

/// The rates of `blocks` blocks: 0 at the first, `rate` at the last, evenly spaced.
std::vector<double> drop_path_rates(double rate, int64_t blocks);

}  // namespace aspis
