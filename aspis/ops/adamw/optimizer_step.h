#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "aspis/ops/adamw/kernel/params.h"

namespace aspis {

/// What a step of any optimizer takes besides its own constants.
struct StepControl {
  double lr = 1e-3;
  int64_t step = 1;  ///< number of this step from 1; for bias correction. A stopped step does not count.
  /// Multiplies every gradient first, e.g. 1 / (accumulated batches).
  double gradient_scale = 1;
  /// Norm of the gradients as they are passed (`global_norm`), a scalar. Needed for
  /// clipping; a norm that is not finite stops the step.
  std::optional<mlx::core::array> norm = {};
  /// Gradients (after the scale) are clipped to this norm; 0: no clipping.
  double max_norm = 0;
  /// A scalar; a loss that is not finite stops the step.
  std::optional<mlx::core::array> loss = {};
  /// Moving averages of the parameters, one each, or none at all: in the same pass
  /// they become average_decay average + (1 - average_decay) parameter. Pass by move.
  std::vector<mlx::core::array> averages = {};
  double average_decay = 0.9999;
  /// Also give the new parameters rounded to bfloat16: the passed ones are then the
  /// float32 master copies of those that the model computes with.
  bool half = false;
};

namespace ops {

/// An optimizer's kernel over all arrays; see kernel/params.h. The arithmetic
/// type is float or double.
struct UpdateKernel {
  std::function<void(const kernel::UpdateParams<float>&)> f32;
  std::function<void(const kernel::UpdateParams<double>&)> f64;
};

struct UpdateResult {
  std::vector<std::vector<mlx::core::array>> updated;  ///< in the order of the argument
  std::vector<mlx::core::array> averages, half;        ///< as asked for in StepControl
  mlx::core::array applied;
};

/// Checks shared by all optimizers: equal counts and shapes, one floating-point
/// dtype for parameters and states, scalar norm and loss, control numbers in range.
/// `names` name the lists of `updated` in messages.
void check_step(const char* op, const std::vector<const char*>& names,
                const std::vector<std::vector<mlx::core::array>>& updated,
                const std::vector<mlx::core::array>& gradients, const std::vector<bool>& decay,
                const StepControl& control);

/// One primitive over all arrays. `updated` holds the parameters and the states
/// (at most kernel::kMaxUpdated lists), all float32 or all float64. Gradients in
/// bfloat16 are read as they are.
///
/// A buffer is updated in place when nothing but this step holds its array:
/// MLX's own donation never happens in a primitive with several outputs, and its
/// cost grows with their square, so the work is one node with one output
/// (`applied`), and the results are handed out by one node each.
UpdateResult update_step(const char* op, std::vector<std::vector<mlx::core::array>> updated,
                         std::vector<mlx::core::array> gradients, const std::vector<bool>& decay,
                         StepControl control, UpdateKernel kernel, mlx::core::Stream stream);

}  // namespace ops
}  // namespace aspis
