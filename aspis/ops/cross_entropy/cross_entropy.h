#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

enum class Reduction { kMean, kSum, kNone };

struct CrossEntropyOptions {
  double label_smoothing = 0;  ///< in [0, 1]: this share of each target is spread over all classes
  Reduction reduction = Reduction::kMean;
  int ignore_index = -100;  ///< samples with this label count nothing; labels only
};

/// Cross-entropy of softmax(logits) with the targets, as
/// `torch.nn.functional.cross_entropy`: -sum_c q_c log softmax(x)_c with q the
/// target after smoothing. Softmax, logarithm and reduction are one kernel.
///
/// @param logits   {N, C}, C at least 1, floating point; float16 and bfloat16
///                 are computed in float32
/// @param targets  integer {N}: labels; or floating {N, C}: weights of the
///                 classes, usually with row sum 1
/// @return a scalar, or {N} for kNone, in float32 (float64 if an input is).
///         kMean divides by the samples that are not ignored (NaN if all are).
///         Values cannot be checked without waiting for them: a label outside
///         [0, C) that is not `ignore_index` gives its sample the loss NaN and
///         a gradient of NaN.
/// Gradients: logits, and targets where they are weights.
/// Throws `aspis::Error(kUsage)` for shapes, dtypes and options that do not fit.
mlx::core::array cross_entropy(const mlx::core::array& logits, const mlx::core::array& targets,
                               const CrossEntropyOptions& options = {}, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array cross_entropy_composed(const mlx::core::array& logits, const mlx::core::array& targets,
                                        const CrossEntropyOptions& options = {}, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
