#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <string>
#include <vector>

#include "aspis/nn/module.h"

namespace aspis::train {

struct AdamWSettings {
  double beta1 = 0.9, beta2 = 0.99, eps = 1e-8;
  double weight_decay = 0.05;
  double clip = 1.0;  ///< largest global gradient norm; 0: none
};

/// AdamW over the trainable parameters of a module, one kernel call an update.
/// Clipping and the guard against NaN happen inside that call: when the loss or
/// the gradient norm is not finite, nothing changes.
class Optimizer {
 public:
  Optimizer(Module& module, const AdamWSettings& settings);

  /// Puts the updated parameters into the module, lazily; evaluate `pending()`
  /// with the loss. Returns the global gradient norm before clipping.
  mx::array update(const std::vector<mx::array>& gradients, const mx::array& loss, double learning_rate);

  /// Tells whether the update that was evaluated last took place.
  void confirm(bool applied);

  /// Parameters and moments after `update`, for one `eval` call.
  std::vector<mx::array> pending() const;

  /// Number of updates that took place.
  int64_t steps() const { return steps_; }

  /// Moments with names "m.<parameter>", "v.<parameter>", for a checkpoint.
  NamedArrays state() const;
  void load(const NamedArrays& arrays, int64_t steps, const std::string& where);

 private:
  Module& module_;
  AdamWSettings settings_;
  std::vector<std::string> names_;
  std::vector<bool> decay_;
  std::vector<mx::array> first_, second_;
  int64_t steps_ = 0;
};

}  // namespace aspis::train
