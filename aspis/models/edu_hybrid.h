#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/backbone.h"
#include "aspis/nn/conv.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/norm.h"

namespace aspis {

/// config.json with model_type "edu_hybrid". Defaults are those of the teaching script.
struct EduHybridConfig : BackboneConfig {
  int64_t version = 1;  ///< of the Mamba block, 1 or 2
  int64_t patch_size = 16;
  int64_t embed_dim = 768;
  int64_t depth = 12;
  int64_t num_heads = 12;
  int64_t mlp_ratio = 4;
  double use_mamba_ratio = 0.5;  ///< part of the blocks, the first ones, that is of the Mamba kind
  double dropout = 0.1;
  int64_t state_size = 16;

  int64_t mamba_blocks() const { return static_cast<int64_t>(static_cast<double>(depth) * use_mamba_ratio); }
  /// Patches along one axis of an image of `size` pixels, the last one padded.
  int64_t patches(int64_t size) const { return (size + patch_size - 1) / patch_size; }
  void check(const std::string& where = "edu_hybrid", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static EduHybridConfig from_json(std::string_view text, const std::string& where = "config.json",
                                   ErrorKind kind = ErrorKind::kModel);
};

/// The hybrid of a teaching script, in the versions of its text (1) and its code (2):
/// patches with learned positions, first blocks that the script calls Mamba, then
/// transformer blocks, a norm, the mean and a classifier. Kept for its lessons: **neither
/// block has a state or a scan**; tokens meet only in a convolution of four taps and
/// in the attention of the later blocks. For the real mixers see MambaVision and Vim.
///
///     1:  x, r = in_proj(h);  x = conv1d(silu(x));  h + out_proj(x softplus(dt_proj(x)) silu(r))
///     2:  l, r = in_proj(layer_norm(h));  l = (l B) C^T sigmoid(dt_proj(l))
///         h + linear_left(conv1d_left(silu(l))) linear_right(conv1d_right(silu(r)))
///
/// x_proj (1) and ssm_A (2) are parameters that nothing uses, as there. Names as there:
/// patch_embed.proj, pos_embed, blocks.i, norm, head.
///
/// Any image size, as in Vit. Every block is a stage.
class EduHybrid final : public Backbone {
 public:
  explicit EduHybrid(const EduHybridConfig& config, uint64_t seed = 0);
  ~EduHybrid() override;
  std::string type_name() const override { return "EduHybrid"; }
  std::string model_type() const override { return "edu_hybrid"; }
  const Linear* classifier() const override { return head.get(); }
  std::optional<mx::array> fitted(const std::string& name, const mx::array& value,
                                  const mx::Shape& want) const override;
  std::string config_json() const override { return config_.to_json(); }
  const EduHybridConfig& config() const { return config_; }

  /// {B, M, E}, normalised.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

  /// What the blocks have in common.
  struct Block : Module {
    virtual mx::array forward(const mx::array& h) const = 0;
  };

 private:
  mx::array run(const mx::array& images, Maps* maps) const;

  EduHybridConfig config_;

 public:
  mx::array pos_embed;
  Conv2d patch_embed;
  Dropout pos_drop;
  std::vector<std::unique_ptr<Block>> blocks;
  LayerNorm norm;
  std::unique_ptr<Linear> head;
};

}  // namespace aspis
