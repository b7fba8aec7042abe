#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/nn/init.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/module.h"
#include "aspis/nn/norm.h"
#include "aspis/nn/patch_embed.h"

namespace aspis {

/// What all encoders of image patches are configured by; keys of config.json in
/// the same words.
struct ImageModelConfig {
  int64_t img_size = 224;           ///< height and width (and depth, for volumes)
  int64_t patch_size = 16;          ///< divides img_size
  int64_t in_channels = 1;          ///< channels, last axis of the input
  int64_t embed_dim = 384;          ///< width of a token
  int64_t depth = 6;                ///< number of layers
  int64_t num_classes = 0;          ///< 0: an encoder without head
  int64_t input_dim = 2;            ///< 2 images, 3 volumes, 4 volumes over time
  int64_t temporal_patch_size = 1;  ///< frames of one token, input_dim 4 only
  int64_t num_temporal_frames = 1;  ///< input_dim 4 only
  std::string init = "standard";    ///< "standard" or "s0", see InitRecipe

  /// Patches along each axis, slowest first: {g, g}, {g, g, g} or {t, g, g, g}.
  std::vector<int64_t> grid() const;
  int64_t tokens() const;
  /// Shape of one input: {H, W, C}, {D, H, W, C} or {T, D, H, W, C}.
  std::vector<int64_t> input_shape() const;
  /// Numbers that a patch is made of.
  int64_t patch_length() const;
  /// Throws `kind` if a size is not positive or does not divide, naming the key.
  void check_common(const std::string& where, ErrorKind kind) const;
};

/// What one input costs. Counts are of multiply-adds (a multiplication and an
/// addition are one); bytes are of float32.
struct ModelCost {
  int64_t macs = 0;             ///< forward, all of the model
  int64_t scan_macs = 0;        ///< of these, in selective scans
  int64_t exps = 0;             ///< exponentials, which bound the scan on a CPU
  int64_t kept_bytes = 0;       ///< activations kept for the backward pass
  int64_t transient_bytes = 0;  ///< largest set of activations alive at one time without gradients
  int64_t backward_bytes = 0;   ///< working memory of the widest layer's backward pass

  int64_t inference_bytes(int64_t batch) const { return batch * transient_bytes; }
  /// The engine dispatches operations ahead of those that free their inputs,
  /// and the branches of a layer overlap: 2.0 to 2.4 times the sum of what a
  /// step needs was measured at the peak (train_test.cc).
  int64_t training_bytes(int64_t batch) const { return batch * (kept_bytes + backward_bytes) * 22 / 10; }
};

/// An encoder of image patches with an optional classification head:
///
///     tokens = patch_embed(x) + pos_embed;  tokens = norm(layers(tokens));  logits = head(mean(tokens))
///
/// The families (VisionMamba, VisionTransformer) add the layers. Children and
/// parameters: patch_embed, pos_embed {1, N, E}, blocks.i, norm, head.
class ImageModel : public Module {
 public:
  /// Encodes images {B, H, W, C} or tokens {B, n, E} that are embedded already
  /// (three axes mean tokens) to {B, n, E}.
  ///
  /// `patch_indices`, integers {n} or {B, n}, selects tokens of the grid: images
  /// and full token sets are gathered after embedding; tokens whose number is
  /// that of the indices count as gathered by the caller. Each keeps the
  /// position entry of its place. Throws Error(kUsage) on shapes that do not
  /// fit and indices outside the grid.
  mx::array encode(const mx::array& x, const std::optional<mx::array>& patch_indices = {}) const;
  /// Patch tokens without positions: images {B, H, W, C} -> {B, N, E}.
  mx::array embed_patches(const mx::array& images) const;
  /// {B, num_classes}. Throws Error(kUsage) for a model without head.
  mx::array logits(const mx::array& x) const;

  const ImageModelConfig& base_config() const { return base_; }
  int64_t num_classes() const { return base_.num_classes; }
  /// Shape of one input, without the batch: {H, W, C}.
  std::vector<int64_t> input_shape() const { return base_.input_shape(); }

  /// The word that picks the class: "vision_mamba".
  virtual std::string model_type() const = 0;
  /// The content of config.json, model_type included.
  virtual std::string config_json() const = 0;
  virtual ModelCost cost() const = 0;

 protected:
  ImageModel(const ImageModelConfig& config, const Init& init);
  /// Registers norm and head; called last by the constructor of a family.
  void add_tail();
  virtual Residual layers(Residual tokens, bool subset) const = 0;
  /// Patch embedding and head; the families add their layers.
  ModelCost common_cost() const;

 private:
  ImageModelConfig base_;

 public:
  PatchEmbed patch_embed;
  mx::array pos_embed;
  LayerNorm norm;
  std::unique_ptr<Linear> head;  ///< null without classes
};

}  // namespace aspis
