#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

enum class Reduction { kNone, kMean, kSum };

struct CrossEntropyOptions {
  double label_smoothing = 0;  ///< in [0, 1]: q = (1 - smoothing) target + smoothing / classes
  Reduction reduction = Reduction::kMean;
  int ignore_index = -100;  ///< rows with this label have loss 0 and do not count in the mean
};

/// Cross-entropy of softmax(logits) and the targets, with the logarithm of the
/// softmax fused in; the meaning is that of torch.nn.functional.cross_entropy.
///
/// @param logits   {N, C}, floating point
/// @param targets  {N} integers: class numbers; or {N, C} floating point: weights of the classes
/// @return {N} for kNone, else a scalar; dtype of the logits, float32 for
///         bfloat16, which is read and written as such, and for float16. The mean is over
///         the rows that are not ignored; over no rows it is NaN.
///
/// Labels are data and so unknown when the graph is built: a label that is
/// neither in [0, C) nor `ignore_index` gives a NaN loss and gradient for its row
/// (and thus a NaN mean). Class numbers must fit in 32 bits.
/// Gradients for the logits and for soft targets.
/// Throws `aspis::Error(kUsage)` when shapes, dtypes or the smoothing do not fit.
mlx::core::array cross_entropy(const mlx::core::array& logits, const mlx::core::array& targets,
                               const CrossEntropyOptions& options = {}, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array cross_entropy_composed(const mlx::core::array& logits, const mlx::core::array& targets,
                                        const CrossEntropyOptions& options = {}, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
