#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "aspis/models/image_model.h"
#include "aspis/nn/mamba_block.h"

namespace aspis {

/// A selective scan written as a matrix over its tokens, y_t = sum_s alpha_ts u_s
/// (Ali et al. 2024, "The hidden attention of Mamba models"):
///
///     alpha_ts = C_t^T prod_{r = s+1..t} exp(delta_r A) delta_s B_s        for s at or before t
///
/// x {1, L, inner} are the inputs of the branch. Returns {L, L}, row t, in the
/// order of the tokens whatever the direction: the mean over the channels of
/// |alpha_ts|. Skip and gate do not count. Costs L^2 inner N / 2 multiply-adds.
std::vector<float> scan_matrix(const MambaBranch& branch, const mx::array& x, const ScanDirection& direction);

/// How much each patch of an image has reached the pooled features through the
/// scans of all layers: rows of the mean matrix of a layer's directions made to
/// add up to 1, half of them mixed with the identity for the residual stream, and
/// the layers multiplied (rollout, Abnar and Zuidema 2020); then the mean over
/// the tokens, or the row of the class token where the model has one.
struct PatchRelevance {
  int64_t height = 0, width = 0;  ///< of the grid
  std::vector<float> values;      ///< {height, width}, at least 0, adding up to at most 1
};

/// Of one image {1, H, W, C}. VisionMamba over images and Vim have it; throws
/// Error(kUsage) for other models, volumes and more than 4096 tokens.
PatchRelevance scan_relevance(const ImageModel& model, const mx::array& image);

/// |sum over channels of d logit[target] / d pixel * pixel| of one image
/// {1, H, W, C}: {H, W} values. Works for every classifier.
std::vector<float> gradient_times_input(const ImageModel& model, const mx::array& image, int64_t target);

}  // namespace aspis
