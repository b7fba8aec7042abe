#include "aspis/nn/patch_embed.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {
namespace {

int64_t patch_size(int spatial_axes, int64_t channels, int64_t patch) {
  int64_t n = channels;
  for (int i = 0; i < spatial_axes; i++) n *= patch;
  return n;
}

mx::Shape weight_shape(int spatial_axes, int64_t channels, int64_t width, int64_t patch) {
  mx::Shape shape{static_cast<mx::ShapeElem>(width)};
  for (int i = 0; i < spatial_axes; i++) shape.push_back(static_cast<mx::ShapeElem>(patch));
  shape.push_back(static_cast<mx::ShapeElem>(channels));
  return shape;
}

mx::array initial_bias(int64_t width, int64_t fan_in, const Init& init) {
  const mx::Shape shape{static_cast<mx::ShapeElem>(width)};
  if (init.recipe() == InitRecipe::kS0) return init.constant(shape, 0);
  return init.kaiming_uniform("proj.bias", shape, fan_in);
}

}  // namespace

PatchEmbed::Projection::Projection(mx::array w, mx::array b) : weight(std::move(w)), bias(std::move(b)) {
  add_parameter("weight", weight);
  add_parameter("bias", bias, Decay::kNo);
}

PatchEmbed::PatchEmbed(int spatial_axes, int64_t channels, int64_t width, int64_t patch, const Init& init)
    : spatial_axes_(spatial_axes),
      channels_(channels),
      patch_(patch),
      proj(init.kaiming_uniform("proj.weight", weight_shape(spatial_axes, channels, width, patch),
                                patch_size(spatial_axes, channels, patch)),
           initial_bias(width, patch_size(spatial_axes, channels, patch), init)) {
  add_child("proj", proj);
}

mx::array PatchEmbed::operator()(const mx::array& images) const {
  require(static_cast<int>(images.ndim()) == spatial_axes_ + 2 && images.shape(-1) == channels_, [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("images must have {} axes, batch first and {} channel{} last",
                                                spatial_axes_ + 2, channels_, channels_ == 1 ? "" : "s"),
                        .got = fmt::format("shape {{{}}}", fmt::join(images.shape(), ", ")),
                        .hint = ""};
  });
  const auto p = static_cast<mx::ShapeElem>(patch_);
  // {B, n/p, p, .., C}: the grid axes go in front of the axes inside a patch.
  mx::Shape cut{images.shape(0)};
  std::vector<int> grid_first{0};
  mx::ShapeElem tokens = 1;
  for (int i = 1; i <= spatial_axes_; i++) {
    require(images.shape(i) % p == 0, [&] {
      return Error::Parts{.where = type_name(),
                          .required = fmt::format("the patch size {} must divide every image size", p),
                          .got = std::to_string(images.shape(i)),
                          .hint = ""};
    });
    cut.push_back(images.shape(i) / p);
    cut.push_back(p);
    grid_first.push_back(2 * i - 1);
    tokens *= images.shape(i) / p;
  }
  cut.push_back(images.shape(-1));
  for (int i = 1; i <= spatial_axes_; i++) grid_first.push_back(2 * i);
  grid_first.push_back(2 * spatial_axes_ + 1);
  const auto width = proj.weight.shape(0);
  const auto length = static_cast<mx::ShapeElem>(proj.weight.size()) / width;
  const auto patches =
      mx::reshape(mx::transpose(mx::reshape(images, cut), grid_first), {images.shape(0), tokens, length});
  return linear(patches, mx::reshape(proj.weight, {width, length}), proj.bias);
}

}  // namespace aspis
