#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "aspis/nn/module.h"
#include "aspis/ops/optimizers/optimizers.h"

namespace aspis::train {

/// Which optimizer updates the parameters, and its constants.
struct OptimizerSettings {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double beta1 = 0.9;  ///< decay of the first moment; momentum of SGD. Muon's is 0.95.
  double beta2 = 0.99, eps = 1e-8;
  double weight_decay = 0.05;
  double clip = 1.0;      ///< largest global gradient norm; 0: none
  bool nesterov = false;  ///< SGD; Muon's momentum always is
  /// Decay of the moving average of the parameters, 0: none. Young averages forget
  /// faster: after t updates the decay is at most (1 + t) / (10 + t).
  double ema = 0;
};

/// Updates the trainable parameters of a module in one kernel call (two with Muon,
/// which takes the matrices that decay and leaves the rest to AdamW). Clipping,
/// moving averages and the guard against NaN happen inside that call: when the loss
/// or the gradient norm is not finite, nothing changes.
class Optimizer {
 public:
  /// `rates`: the share of the learning rate for each trainable parameter, in their
  /// order; all 1 without. Every different share is a kernel call of its own.
  Optimizer(Module& module, const OptimizerSettings& settings, const std::vector<double>& rates = {});

  /// Puts the updated parameters into the module, lazily; evaluate `pending()`
  /// with the loss. Returns the global gradient norm before clipping.
  mx::array update(const std::vector<mx::array>& gradients, const mx::array& loss, double learning_rate);

  /// Tells whether the update that was evaluated last took place.
  void confirm(bool applied);

  /// Parameters, moments and averages after `update`, for one `eval` call.
  std::vector<mx::array> pending() const;

  /// Number of updates that took place.
  int64_t steps() const { return steps_; }

  /// Exchanges the parameters of the module and their averages, and back with the
  /// next call. Nothing happens without averages.
  void swap_averages();

  /// Moments with names "m.<parameter>", "v.<parameter>" where there is one, for a
  /// checkpoint; with averages also the parameters themselves, "p.<parameter>", as the
  /// weights of the checkpoint are then the averages.
  NamedArrays state() const;
  /// Takes such a state. With averages those come from the module, and the
  /// parameters go there.
  void load(const NamedArrays& arrays, int64_t steps, const std::string& where);

 private:
  // Parameters that one call updates.
  struct Group {
    OptimizerRule rule;
    double rate = 1;              // share of the learning rate
    std::vector<size_t> members;  // indices of the lists below
  };

  std::vector<mx::array> parameters() const;

  Module& module_;
  OptimizerSettings settings_;
  std::vector<Group> groups_;
  std::vector<std::string> names_;
  std::vector<bool> decay_;
  std::vector<mx::array> first_;
  std::vector<std::optional<mx::array>> second_;  // only of AdamW and LAMB
  std::vector<mx::array> averages_;               // empty without
  int64_t steps_ = 0;
};

}  // namespace aspis::train
