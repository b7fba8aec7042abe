#pragma once

#include <functional>

#include "aspis/nn/module.h"
#include "aspis/nn/norm.h"

namespace aspis {

/// f(inputs), where f runs `module` and may use its parameters, without keeping what f
/// computes on the way: the backward pass computes it again (Chen et al. 2016,
/// gradient checkpointing). Values and gradients have the same bits as without.
///
/// Dropped samples are the same the second time, and buffers (running statistics)
/// change once. `module` must outlive the gradients' graph, not their evaluation.
std::vector<mx::array> recomputed(Module& module,
                                  const std::function<std::vector<mx::array>(const std::vector<mx::array>&)>& f,
                                  const std::vector<mx::array>& inputs);

/// The same for a block over a residual stream.
Residual recomputed(Module& module, const std::function<Residual(const Residual&)>& f, const Residual& x);

}  // namespace aspis
