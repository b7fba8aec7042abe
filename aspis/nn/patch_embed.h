#pragma once

#include <vector>

#include "aspis/nn/linear.h"
#include "aspis/nn/module.h"

namespace aspis {

/// Cuts channel-last images into patches and projects each to a token; equal to
/// a convolution whose kernel is its stride:
///
///     {B, n_1, .., n_k, C} -> {B, n_1/p .. n_k/p, width}, grid flattened row-major
///
/// k = 2 for images, 3 for volumes. Parameters, in MLX's order of axes:
/// proj.weight {width, p, .., p, C}, proj.bias {width}.
class PatchEmbed final : public Module {
 public:
  PatchEmbed(int spatial_axes, int64_t channels, int64_t width, int64_t patch, const Init& init);
  std::string type_name() const override { return "PatchEmbed"; }
  /// Throws Error(kUsage) if the image has other axes or channels, or a size
  /// that the patch does not divide.
  mx::array operator()(const mx::array& images) const;

 private:
  struct Projection final : Module {
    Projection(mx::array w, mx::array b);
    std::string type_name() const override { return "PatchProjection"; }
    mx::array weight, bias;
  };
  int spatial_axes_;
  int64_t channels_, patch_;

 public:
  Projection proj;
};

}  // namespace aspis
