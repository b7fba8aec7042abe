#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/backbone.h"
#include "aspis/nn/conv.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/norm.h"

namespace aspis {

/// The ten options of Edifice's MambaVision, with its names and defaults, and `compat`;
/// config.json with model_type "edifice_mambavision". num_classes 0 stands for nil:
/// features instead of logits.
struct EdificeConfig : BackboneConfig, MixerChoice {
  int64_t dim = 80;  ///< channels of the first stage; they double from stage to stage
  std::vector<int64_t> depths = {1, 3, 8, 4};
  std::vector<int64_t> num_heads = {2, 4, 8, 16};
  int64_t mlp_ratio = 4;
  double dropout = 0;  ///< of the two branches of a block, in training; ignored there
  int64_t d_state = 8;
  int64_t d_conv = 3;
  /// The model as it is there: decays -ln n that are not trained, no D, attention with
  /// one head whose scale is that of num_heads, and a last norm over the width of the map,
  /// which fixes the width of the images. Without: -exp(A_log), D, several heads, norm
  /// over channels.
  bool compat = false;

  EdificeConfig() { num_classes = 0; }
  static EdificeConfig tiny();
  static EdificeConfig small();
  static EdificeConfig base();

  int64_t width(size_t stage) const { return dim << stage; }
  void check(const std::string& where = "edifice_mambavision", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static EdificeConfig from_json(std::string_view text, const std::string& where = "config.json",
                                 ErrorKind kind = ErrorKind::kModel);
};

/// MambaVision as Edifice.Vision.MambaVision 0.2.0 builds it: the plan of MambaVision with
/// other layers: biases everywhere, exact GELU, no windows. Layers have its names:
/// stem_conv1, stem_bn1, .., stage_i_block_j_{conv1, bn1, conv2, bn2}, downsample_i,
/// stage_i_mamba_j_{norm1, mixer_in_proj, mixer_ssm_conv, mixer_ssm_x_proj,
/// mixer_ssm_dt_proj, mixer_sym_conv, mixer_out_proj, norm2, mlp_up, mlp_down},
/// stage_i_attn_j_{norm1, attn_qkv, attn_proj, norm2, mlp_up, mlp_down}, final_norm, classifier.
///
/// Another mixer, or the directions of `num_directions`, replace the mixer by
/// DirectionalMixer ("mixer" in the names) over the map.
///
/// Stages are the four levels before their downsampling.
class EdificeMambaVision final : public Backbone {
 public:
  explicit EdificeMambaVision(const EdificeConfig& config, uint64_t seed = 0);
  ~EdificeMambaVision() override;
  std::string type_name() const override { return "EdificeMambaVision"; }
  std::string model_type() const override { return "edifice_mambavision"; }
  const Linear* classifier() const override { return head.get(); }
  std::string config_json() const override { return config_.to_json(); }
  const EdificeConfig& config() const { return config_; }

  /// 8 dim.
  int64_t feature_size() const { return config_.width(3); }
  /// num_classes, or feature_size() without.
  int64_t output_size() const { return num_classes() > 0 ? num_classes() : feature_size(); }
  /// {B, output_size()}: logits, or features without classes.
  mx::array operator()(const mx::array& images) const;

  /// {B, h, w, 8 dim}, normalised.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

  /// Parameters as Axon keeps them ("stem_conv1.kernel", "stem_bn1.gamma", ...), for `load`:
  /// dense kernels (in, out), convolutions channels first or last. Other names stay as they are.
  NamedArrays from_axon(const NamedArrays& values) const;

 private:
  struct ConvBlock;
  struct Block;
  mx::array run(const mx::array& images, Maps* maps) const;

  EdificeConfig config_;

 public:
  Conv2d stem_conv1;
  BatchNorm stem_bn1;
  Conv2d stem_conv2;
  BatchNorm stem_bn2;
  std::vector<std::vector<std::unique_ptr<ConvBlock>>> conv_blocks;  ///< of stages 0 and 1
  std::vector<std::vector<std::unique_ptr<Block>>> blocks;           ///< of stages 2 and 3
  std::vector<std::unique_ptr<Conv2d>> downsample;
  LayerNorm norm;
  std::unique_ptr<Linear> head;
};

/// build(opts): the model of these options, with num_classes logits or, without, features.
std::unique_ptr<EdificeMambaVision> build_edifice(const EdificeConfig& config, uint64_t seed = 0);
/// build_backbone(opts): the same without classes.
std::unique_ptr<EdificeMambaVision> build_edifice_backbone(EdificeConfig config, uint64_t seed = 0);

}  // namespace aspis
