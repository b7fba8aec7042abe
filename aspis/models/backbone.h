#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/models/image_model.h"
#include "aspis/nn/linear.h"

namespace aspis {

/// What the families that take images of many sizes have in common; keys of
/// config.json in the same words.
struct BackboneConfig {
  int64_t img_size = 224;       ///< the size the model was made for
  int64_t in_channels = 3;      ///< channels, last axis of the input
  int64_t num_classes = 1000;   ///< 0: no head
  double drop_path_rate = 0.0;  ///< of the last block; rates rise evenly from 0

  /// Throws `kind` for sizes that do not fit, naming the key.
  void check_common(const std::string& where, ErrorKind kind) const;
};

/// Which Mamba block a family mixes with; keys of config.json in the same words.
struct MixerChoice {
  std::string mixer = "mamba1";  ///< "mamba1", "mamba2", "mamba3"
  int64_t num_directions = 0;  ///< over the map: 1, 2 or 4, each with a block of its own; 0: what the family does

  /// The layer of the family itself and no DirectionalMixer.
  bool own() const { return mixer == "mamba1" && num_directions == 0; }
  int64_t directions(int64_t usual) const { return num_directions > 0 ? num_directions : usual; }
  /// Throws `kind`, naming the key.
  void check_mixer(const std::string& where, ErrorKind kind, int64_t d_state) const;
};

/// The shared part of those families: sizes, head and cost.
class Backbone : public ImageModel {
 public:
  int64_t num_classes() const override { return base_.num_classes; }
  std::vector<int64_t> input_shape() const override { return {base_.img_size, base_.img_size, base_.in_channels}; }
  /// Counted on the graph of one image of `img_size`.
  ModelCost cost() const override;
  mx::array classify(const mx::array& pooled) const override;

 protected:
  explicit Backbone(const BackboneConfig& config) : base_(config) {}
  /// Throws Error(kUsage) unless the images are {B, H, W, in_channels} with H, W >= `smallest`.
  void check_images(const mx::array& images, int64_t smallest = 1) const;
  /// Receives the maps of the stages in turn and keeps those that are asked for.
  class Maps {
   public:
    explicit Maps(std::vector<size_t> places) : places_(std::move(places)) {}
    /// Whether the next stage's map is wanted.
    bool wanted() const;
    /// The map of the next stage; anything where it is not wanted.
    void add(const mx::array& map);
    void skip() { kept_.emplace_back(); }
    std::vector<mx::array> list() const;

   private:
    std::vector<size_t> places_;
    std::vector<std::optional<mx::array>> kept_;
  };

 private:
  BackboneConfig base_;
};

}  // namespace aspis
