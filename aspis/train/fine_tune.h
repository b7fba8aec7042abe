#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "aspis/models/image_model.h"

namespace aspis::train {

/// How deep each parameter lies, in the order of `parameter_refs()`: 0 before the
/// first stage (patch embedding, positions, class token), i + 1 in stage i of
/// `stages()`, and one more than that of the last stage behind it (norm, classifier).
std::vector<int64_t> stage_depths(ImageModel& model);

/// Stops training of a part of a model. `what` is
///
///   all          every stage and what lies before it; the final norm and the classifier go on
///   a number N   the first N stages and what lies before them; 0 means that alone
///   otherwise    names with commas between them: of stages ("blocks.0"), or globs over parameters
///
/// Returns the number of parameter arrays that are frozen. Throws Error(kUsage)
/// for a number above that of the stages and a name that nothing has. Running
/// statistics of frozen batch norms go on.
int64_t freeze_part(ImageModel& model, std::string_view what);

/// Layer-wise decay of the learning rate (Clark et al. 2020; BEiT): the share of
/// the learning rate for every parameter that is trained, in the order of
/// `trainable_parameters()`: 1 behind the last stage, `decay` in the last stage,
/// decay^2 in the one before, and so on.
std::vector<double> learning_rate_shares(ImageModel& model, double decay);

}  // namespace aspis::train
