#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/models/image_model.h"
#include "aspis/nn/init.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/norm.h"
#include "aspis/nn/patch_embed.h"
#include "aspis/nn/scan_order.h"

namespace aspis {

/// What all encoders of image patches are configured by; keys of config.json in
/// the same words.
struct PatchEncoderConfig {
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

/// An encoder of image patches with an optional classification head:
///
///     tokens = patch_embed(x) + pos_embed;  tokens = norm(blocks(tokens));  logits = head(mean(tokens))
///
/// The families (VisionMamba, VisionTransformer) add the blocks. Children and
/// parameters: patch_embed, pos_embed {1, N, E}, blocks.i, norm, head. As a
/// backbone every block is a stage.
class PatchEncoder : public ImageModel {
 public:
  /// Encodes images {B, H, W, C} or tokens {B, n, E} that are embedded already
  /// (three axes mean tokens) to {B, n, E}. Volumes are {B, D, H, W, C},
  /// volumes over time {B, T, D, H, W, C}.
  ///
  /// Images may have any size that the patches divide; the table of positions
  /// is interpolated to their grid (resize_positions). Tokens are those of
  /// `img_size`.
  ///
  /// `patch_indices`, integers {n} or {B, n}, selects tokens of the grid: images
  /// and full token sets are gathered after embedding; tokens whose number is
  /// that of the indices count as gathered by the caller. Each keeps the
  /// position entry of its place. Throws Error(kUsage) on shapes that do not
  /// fit and indices outside the grid.
  mx::array encode(const mx::array& x, const std::optional<mx::array>& patch_indices = {}) const;
  /// Patch tokens without positions: images {B, H, W, C} -> {B, N, E}.
  mx::array embed_patches(const mx::array& images) const;

  const PatchEncoderConfig& base_config() const { return base_; }

  mx::array forward_features(const mx::array& images) const override { return encode(images); }
  mx::array pool(const mx::array& features) const override;
  mx::array classify(const mx::array& pooled) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;
  int64_t num_classes() const override { return base_.num_classes; }
  const Linear* classifier() const override { return head.get(); }
  std::optional<mx::array> fitted(const std::string& name, const mx::array& value,
                                  const mx::Shape& want) const override;
  std::vector<int64_t> input_shape() const override { return base_.input_shape(); }

 protected:
  PatchEncoder(const PatchEncoderConfig& config, const Init& init);
  /// Registers norm and head; called last by the constructor of a family.
  void add_tail();
  /// Block `i` of `depth`.
  /// Visits the tokens in these directions, if it has any.
  virtual Residual block(int64_t i, const Residual& tokens,
                         const std::vector<ScanDirection>& directions) const = 0;
  /// The directions over the tokens of a grid, or with `subset` over tokens that
  /// are a part of it or shuffled. None by default.
  virtual std::vector<ScanDirection> scan_directions(const std::vector<int64_t>& grid, bool subset) const;
  /// Patch embedding and head; the families add their blocks.
  ModelCost common_cost() const;

 private:
  struct Start {
    Residual tokens;
    std::vector<int64_t> grid;
    std::vector<ScanDirection> directions;
  };
  /// Patches along each axis of these images. Throws Error(kUsage) for shapes that do not fit.
  std::vector<int64_t> grid_of(const mx::array& images) const;
  Start start(const mx::array& x, const std::optional<mx::array>& patch_indices) const;

  PatchEncoderConfig base_;

 public:
  PatchEmbed patch_embed;
  mx::array pos_embed;
  LayerNorm norm;
  std::unique_ptr<Linear> head;  ///< null without classes
};

}  // namespace aspis
