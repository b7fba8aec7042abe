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

/// config.json with model_type "mambavision". Defaults are those of MambaVision-T.
struct MambaVisionConfig : BackboneConfig, MixerChoice {
  int64_t dim = 80;     ///< channels of the first level; they double from level to level
  int64_t in_dim = 32;  ///< channels inside the stem
  std::vector<int64_t> depths = {1, 3, 8, 4};
  std::vector<int64_t> num_heads = {2, 4, 8, 16};
  std::vector<int64_t> window_size = {8, 8, 14, 7};  ///< of levels 2 and 3; the others have none
  int64_t mlp_ratio = 4;
  double layer_scale = 0;  ///< initial value of gamma in levels 2 and 3; 0: no layer scale
  int64_t d_state = 8;
  int64_t d_conv = 3;
  /// What the published weights were trained with: the bias of dt_proj counts twice,
  /// padded tokens of a window take part, and linear layers start from a truncated
  /// normal with zero biases.
  bool compat = false;

  int64_t width(size_t level) const { return dim << level; }
  void check(const std::string& where = "mambavision", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static MambaVisionConfig from_json(std::string_view text, const std::string& where = "config.json",
                                     ErrorKind kind = ErrorKind::kModel);
};

/// Tokens of a window that lie behind the border of the map: {windows, tokens} true
/// for real ones, repeated for every image. Null if there is no padding.
using WindowMask = TokenMask;

/// MambaVision's mixer (Hatamizadeh and Kautz 2024): half of the channels go through a
/// scan, the other half past it, each after a symmetric convolution of its own:
///
///     x, z = in_proj(h);  x = silu(conv1d_x(x)), z = silu(conv1d_z(z))
///     out  = out_proj([scan(x, softplus(dt_proj(dt)), -exp(A_log), B, C, D), z])
///
/// Parameters: in_proj, x_proj, dt_proj, A_log, D, out_proj, conv1d_x, conv1d_z.
class MambaVisionMixer final : public Module {
 public:
  MambaVisionMixer(int64_t width, const MambaVisionConfig& config, const Init& init);
  std::string type_name() const override { return "MambaVisionMixer"; }
  /// h {B, L, width}; the output is multiplied by `scale` {width} if there is one.
  mx::array forward(const mx::array& h, const WindowMask& mask, const std::optional<mx::array>& scale) const;

 private:
  struct Conv final : Module {
    Conv(int64_t channels, int64_t taps, const Init& init);
    std::string type_name() const override { return "DepthwiseConv1d"; }
    mx::array weight;
  };
  int64_t half_;
  bool twice_;

 public:
  Linear in_proj, x_proj, dt_proj;
  mx::array A_log, D;
  Linear out_proj;
  Conv conv1d_x, conv1d_z;
};

/// MambaVision (Hatamizadeh and Kautz 2024): a stem of two convolutions, two levels of
/// residual convolutions and two of windows, in which the first half of the blocks
/// mixes by a scan and the second by attention. Names as in NVlabs/MambaVision:
/// patch_embed.conv_down, levels.i.{blocks.j, downsample.reduction.0}, norm, head.
///
/// Another mixer, or the directions of `num_directions`, replace MambaVisionMixer by
/// DirectionalMixer over the tokens of a window; padding then counts as tokens of zeros.
///
/// Any image size: maps are padded to whole windows, and padding takes no part unless
/// `compat`. Stages are the four levels before their downsampling.
class MambaVision final : public Backbone {
 public:
  explicit MambaVision(const MambaVisionConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "MambaVision"; }
  std::string model_type() const override { return "mambavision"; }
  const Linear* classifier() const override { return head.get(); }
  std::string config_json() const override { return config_.to_json(); }
  const MambaVisionConfig& config() const { return config_; }

  /// {B, h, w, 8 dim}, normalised.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

 private:
  struct ConvBlock;
  struct Block;
  struct Level;
  mx::array run(const mx::array& images, Maps* maps) const;

  MambaVisionConfig config_;

 public:
  Conv2d stem1;
  BatchNorm stem_norm1;
  Conv2d stem2;
  BatchNorm stem_norm2;
  std::vector<std::unique_ptr<Level>> levels;
  BatchNorm norm;
  std::unique_ptr<Linear> head;

  ~MambaVision() override;
};

}  // namespace aspis
