#include "aspis/models/backbone.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>

#include "aspis/models/config_fields.h"
#include "aspis/nn/directional_mixer.h"

namespace aspis {

void BackboneConfig::check_common(const std::string& where, ErrorKind kind) const {
  // The upper limits only keep products of sizes inside 64 bits.
  config::in_range(where, kind, "img_size", img_size, 1, 1 << 16);
  config::in_range(where, kind, "in_channels", in_channels, 1, 1 << 12);
  config::in_range(where, kind, "num_classes", num_classes, 0, 1 << 24);
  config::in_range(where, kind, "drop_path_rate", drop_path_rate, 0.0, 0.99);
}

void MixerChoice::check_mixer(const std::string& where, ErrorKind kind, int64_t d_state) const {
  config::one_of(where, kind, "mixer", mixer, mixer_names());
  if (num_directions != 0 && num_directions != 4)
    config::in_range(where, kind, "num_directions", num_directions, 0, 2);
  if (mixer == "mamba3") config::in_range(where, kind, "d_state (with mixer mamba3)", d_state, 4, 1 << 12);
}

ModelCost Backbone::cost() const {
  mx::Shape shape{1};
  for (const int64_t n : input_shape()) shape.push_back(static_cast<mx::ShapeElem>(n));
  const auto pooled = pool(forward_features(mx::zeros(shape, mx::float32)));
  return count_work({base_.num_classes > 0 ? classify(pooled) : pooled});
}

mx::array Backbone::classify(const mx::array& pooled) const {
  const Linear* head = classifier();
  require(head != nullptr, [&] {
    return Error::Parts{.where = model_type(),
                        .required = "a model with a classification head",
                        .got = "num_classes 0",
                        .hint = "set num_classes, or use the features"};
  });
  return (*head)(pooled);
}

bool Backbone::Maps::wanted() const {
  return std::find(places_.begin(), places_.end(), kept_.size()) != places_.end();
}

void Backbone::Maps::add(const mx::array& map) {
  kept_.emplace_back(wanted() ? std::optional(map) : std::nullopt);
}

std::vector<mx::array> Backbone::Maps::list() const {
  std::vector<mx::array> out;
  for (const size_t p : places_) out.push_back(*kept_[p]);
  return out;
}

void Backbone::check_images(const mx::array& images, int64_t smallest) const {
  require(images.ndim() == 4 && images.shape(3) == base_.in_channels && images.shape(1) >= smallest &&
              images.shape(2) >= smallest,
          [&] {
            return Error::Parts{
                .where = model_type(),
                .required = fmt::format("images must have shape {{B, H, W, {}}} with H and W at least {}",
                                        base_.in_channels, smallest),
                .got = fmt::format("{{{}}}", fmt::join(images.shape(), ", ")),
                .hint = images.ndim() == 3 ? "add the axis of the batch or of the channels" : ""};
          });
}

}  // namespace aspis
