#pragma once

#include <vector>

#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/common/sequences.h"

namespace aspis {

/// `causal_conv1d_with_state` out of MLX operations, one shifted product per tap:
/// oracle, export form and fallback. Arguments are taken as checked; with
/// `symmetric` the second array has no meaning. All arrays share one dtype.
std::pair<mx::array, mx::array> causal_conv1d_composed(const mx::array& x, const mx::array& weight,
                                                       const Conv1dOptions& options = {},
                                                       mx::StreamOrDevice s = {});

/// The sequences that the options name; evaluates `seq_idx`.
std::vector<kernel::Sequence> conv1d_sequences(const mx::array& x, const Conv1dOptions& options,
                                               mx::StreamOrDevice s = {});

}  // namespace aspis
