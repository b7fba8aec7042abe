#pragma once

#include <utility>

#include "aspis/nn/module.h"
#include "aspis/nn/scan_order.h"
#include "aspis/nn/state.h"

namespace aspis {

/// A layer that mixes along a sequence in linear time, {B, L, width} -> the same,
/// without norm and residual: the Mamba blocks.
class SequenceMixer : public Module {
 public:
  /// All tokens, from a state of zeros, visited in a direction.
  virtual mx::array operator()(const mx::array& h, const ScanDirection& direction) const = 0;
  mx::array operator()(const mx::array& h) const { return (*this)(h, ScanDirection{}); }

  /// The state before the first token: zeros.
  virtual State initial_state(int64_t batch) const = 0;
  /// Many tokens, forwards, from a state: {out {B, L, width}, state after the last
  /// token}. Throws Error(kUsage) for a state of another kind or other sizes.
  virtual std::pair<mx::array, State> prefill(const mx::array& h, const State& state) const = 0;
  /// One token: h {B, width}; returns {out {B, width}, next state}.
  virtual std::pair<mx::array, State> step(const mx::array& h, const State& state) const = 0;

 protected:
  /// Checks the state and that it has as many sequences as `batch`.
  void check_state(const State& state, int64_t batch) const;
};

/// h {B, L, width} with its tokens in the order in which a direction visits them,
/// and back: for layers whose kernels do not follow an order.
mx::array visit_tokens(const mx::array& h, const ScanDirection& direction);
mx::array unvisit_tokens(const mx::array& h, const ScanDirection& direction);

}  // namespace aspis
