#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "aspis/base/rng.h"

namespace aspis {

namespace mx = mlx::core;

/// Which start values modules take.
///
/// | parameter              | kStandard (Mamba-1, PyTorch layers)         | kS0 (mlx-vision-mamba 0.1.1)  |
/// |------------------------|---------------------------------------------|-------------------------------|
/// | linear weight and bias | U(+-1/sqrt(fan_in))                         | the same                      |
/// | depthwise conv weight  | U(+-1/sqrt(W))                              | U(+-1/sqrt(D W))              |
/// | depthwise, patch bias  | U(+-1/sqrt(fan_in))                         | 0                             |
/// | dt_proj.weight         | U(+-1/sqrt(R))                              | the same                      |
/// | dt_proj.bias           | inverse softplus of log-uniform 0.001 .. 0.1 | U(+-1/sqrt(R))               |
/// | A_log, D               | ln(1 .. N), 1                               | the same                      |
/// | pos_embed              | truncated normal, 0.02                      | N(0, 1) / sqrt(width)         |
enum class InitRecipe { kStandard, kS0 };

/// "standard", "s0".
std::string to_string(InitRecipe recipe);
/// Throws Error(kUsage), `where` naming the place, for other words.
InitRecipe parse_init_recipe(std::string_view name, const std::string& where = "init");

/// While one lives, every `Init` of this thread gives zeros that take no time
/// and, until they are read, no memory: for a model whose weights are loaded
/// next, and for counting parameters.
class BlankWeights {
 public:
  BlankWeights();
  ~BlankWeights();
  BlankWeights(const BlankWeights&) = delete;
  BlankWeights& operator=(const BlankWeights&) = delete;

 private:
  bool before_;
};

/// Source of start values. Each parameter has its own random stream, made from
/// the seed and its dotted name, so that a value depends neither on the order
/// of construction nor on what else the model holds. All arrays are float32.
class Init {
 public:
  explicit Init(uint64_t seed = 0, InitRecipe recipe = InitRecipe::kStandard) : seed_(seed), recipe_(recipe) {}

  /// The source for a child: parameter names get "<name>." in front.
  Init child(std::string_view name) const;
  /// A number that belongs to the dotted name, for random streams at run time.
  uint64_t key(std::string_view name) const;
  InitRecipe recipe() const { return recipe_; }

  mx::array constant(const mx::Shape& shape, float value) const;
  /// Uniform in [-bound, bound).
  mx::array uniform(std::string_view parameter, const mx::Shape& shape, double bound) const;
  mx::array normal(std::string_view parameter, const mx::Shape& shape, double std) const;
  /// Normal with deviation `std`, drawn again outside [-limit, limit].
  mx::array truncated_normal(std::string_view parameter, const mx::Shape& shape, double std,
                             double limit = 2) const;
  /// Kaiming uniform with a = sqrt(5), the default of PyTorch's layers: bound 1/sqrt(fan_in).
  mx::array kaiming_uniform(std::string_view parameter, const mx::Shape& shape, int64_t fan_in) const;
  /// {channels}: t = max(exp(U(ln lo, ln hi)), floor); t + ln(1 - exp(-t)), the inverse of softplus.
  mx::array dt_bias(std::string_view parameter, int64_t channels, double lo = 1e-3, double hi = 0.1,
                    double floor = 1e-4) const;
  /// {channels, states}: ln(n + 1), so that A = -exp(A_log) = -(n + 1).
  mx::array a_log(int64_t channels, int64_t states) const;

 private:
  Rng stream(std::string_view parameter) const;

  uint64_t seed_;
  InitRecipe recipe_;
  std::string prefix_;
};

}  // namespace aspis
