#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/backbone.h"
#include "aspis/nn/attention.h"
#include "aspis/nn/conv.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/norm.h"

namespace aspis {

/// config.json with model_type "vit". Defaults are those of ViT-Tiny/16.
struct VitConfig : BackboneConfig {
  int64_t patch_size = 16;
  int64_t embed_dim = 192;
  int64_t depth = 12;
  int64_t num_heads = 3;
  int64_t mlp_ratio = 4;

  /// Patches along one axis of an image of `size` pixels, the last one padded.
  int64_t patches(int64_t size) const { return (size + patch_size - 1) / patch_size; }
  void check(const std::string& where = "vit", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static VitConfig from_json(std::string_view text, const std::string& where = "config.json",
                             ErrorKind kind = ErrorKind::kModel);
};

/// ViT (Dosovitskiy et al. 2021) as timm builds it: a class token before the patches,
/// learned positions, pre-norm blocks, a classifier on the class token. Names as in
/// timm: cls_token, pos_embed, patch_embed.proj, blocks.i.{norm1, attn.{qkv, proj},
/// norm2, mlp.{fc1, fc2}}, norm, head.
///
/// Any image size: images are padded with zeros to whole patches and the positions
/// interpolated (timm's dynamic_img_size and dynamic_img_pad). Every block is a stage.
class Vit final : public Backbone {
 public:
  explicit Vit(const VitConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "Vit"; }
  std::string model_type() const override { return "vit"; }
  const Linear* classifier() const override { return head.get(); }
  std::optional<mx::array> fitted(const std::string& name, const mx::array& value,
                                  const mx::Shape& want) const override;
  std::string config_json() const override { return config_.to_json(); }
  const VitConfig& config() const { return config_; }

  /// {B, 1 + M, E}: the class token and M patches, row-major, normalised.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

 private:
  struct Block final : Module {
    Block(const VitConfig& config, double drop_rate, const Init& init);
    std::string type_name() const override { return "VitBlock"; }
    Residual forward(const Residual& x) const;

    LayerNorm norm1;
    QkvAttention attn;
    LayerNorm norm2;
    Mlp mlp;
    DropPath drop_path;
  };
  Residual run(const mx::array& images, Maps* maps) const;

  VitConfig config_;

 public:
  mx::array cls_token, pos_embed;
  Conv2d patch_embed;
  std::vector<std::unique_ptr<Block>> blocks;
  LayerNorm norm;
  std::unique_ptr<Linear> head;
};

}  // namespace aspis
