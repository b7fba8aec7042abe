#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <string>
#include <string_view>
#include <vector>

#include "aspis/ops/adamw/optimizer_step.h"

namespace aspis {

enum class OptimizerKind { kAdamW, kSgd, kLion, kLamb, kMuon };

/// "adamw", "sgd", "lion", "lamb", "muon".
const char* to_string(OptimizerKind kind);
/// Throws `aspis::Error(kUsage)` that lists the names for any other.
OptimizerKind optimizer_kind(std::string_view name);

/// Which optimizer, and its constants. What each does with them is in
/// kernel/params.h here and in adamw/.
struct OptimizerRule {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double beta1 = 0.9;  ///< decay of the first moment; the momentum of SGD and Muon
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
  bool nesterov = false;         ///< SGD and Muon
  int iterations = 5;            ///< Muon: steps of Newton and Schulz
  bool original_factor = false;  ///< Muon: sqrt(max(1, rows / columns)) instead of 0.2 sqrt(larger side)
};

/// Arrays of state that a parameter has: 2 for AdamW and LAMB (m, v), else 1.
int state_count(OptimizerKind kind);

struct OptimizerResult {
  std::vector<mlx::core::array> params;
  std::vector<std::vector<mlx::core::array>> states;
  std::vector<mlx::core::array> averages, half;  ///< as asked for in StepControl
  mlx::core::array applied;                      ///< float32 scalar: 1, or 0 if the guard stopped the step
};

/// One step of an optimizer over all parameters in one primitive: clipping, scale,
/// guard, moving averages and bfloat16 copies happen in the same passes over memory.
///
/// @param params     any shapes, all float32 (or all float64); Muon: at least two axes, rows first
/// @param gradients  one per parameter, same shape, any floating dtype; bfloat16 is read as it is
/// @param states     state_count lists like the parameters; zeros at first
/// @param decay      one flag per parameter
///
/// Buffers, guard and results are those of `adamw`: pass lists by move.
/// Throws `aspis::Error(kUsage)` when counts, shapes, dtypes or numbers do not fit.
OptimizerResult optimizer_step(const OptimizerRule& rule, std::vector<mlx::core::array> params,
                               std::vector<mlx::core::array> gradients,
                               std::vector<std::vector<mlx::core::array>> states, const std::vector<bool>& decay,
                               StepControl control, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle and fallback.
OptimizerResult optimizer_step_composed(const OptimizerRule& rule, const std::vector<mlx::core::array>& params,
                                        const std::vector<mlx::core::array>& gradients,
                                        const std::vector<std::vector<mlx::core::array>>& states,
                                        const std::vector<bool>& decay, const StepControl& control,
                                        mlx::core::StreamOrDevice s = {});

}  // namespace aspis
