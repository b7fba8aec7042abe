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

/// config.json with model_type "convnext". Defaults are those of ConvNeXt-Tiny.
struct ConvNextConfig : BackboneConfig {
  std::vector<int64_t> depths = {3, 3, 9, 3};
  std::vector<int64_t> dims = {96, 192, 384, 768};
  int64_t kernel_size = 7;    ///< of the depthwise convolutions, odd
  double layer_scale = 1e-6;  ///< initial value of gamma; 0: none

  void check(const std::string& where = "convnext", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static ConvNextConfig from_json(std::string_view text, const std::string& where = "config.json",
                                  ErrorKind kind = ErrorKind::kModel);
};

/// ConvNeXt (Liu et al. 2022): patches of 4 pixels, four stages of depthwise
/// convolutions and pointwise MLPs with downsampling between them, a norm and a
/// classifier after the mean. Names as in timm: stem.{0, 1}, stages.i.{downsample.{0, 1},
/// blocks.j.{gamma, conv_dw, norm, mlp.{fc1, fc2}}}, head.{norm, fc}.
///
/// Images of at least 32 pixels; of other sizes than multiples of 32 the rest is cut
/// off, as there. Stages are the four levels.
class ConvNext final : public Backbone {
 public:
  explicit ConvNext(const ConvNextConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "ConvNext"; }
  std::string model_type() const override { return "convnext"; }
  const Linear* classifier() const override { return head.get(); }
  std::string config_json() const override { return config_.to_json(); }
  const ConvNextConfig& config() const { return config_; }

  /// {B, h, w, dims[3]}.
  mx::array forward_features(const mx::array& images) const override;
  /// The norm of the mean.
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

 private:
  struct Block final : Module {
    Block(const ConvNextConfig& config, int64_t width, double drop_rate, const Init& init);
    std::string type_name() const override { return "ConvNextBlock"; }
    mx::array operator()(const mx::array& x) const;

    std::optional<mx::array> gamma;
    Conv2d conv_dw;
    LayerNorm norm;
    Mlp mlp;
    DropPath drop_path;
  };
  struct Stage final : Module {
    Stage(const ConvNextConfig& config, size_t index, const std::vector<double>& rates, const Init& init);
    std::string type_name() const override { return "ConvNextStage"; }

    std::unique_ptr<LayerNorm> norm;  ///< before the downsampling; none in the first stage
    std::unique_ptr<Conv2d> reduction;
    std::vector<std::unique_ptr<Block>> blocks;
  };
  mx::array run(const mx::array& images, Maps* maps) const;

  ConvNextConfig config_;

 public:
  Conv2d stem;
  LayerNorm stem_norm;
  std::vector<std::unique_ptr<Stage>> levels;
  LayerNorm head_norm;
  std::unique_ptr<Linear> head;
};

/// The name here of a tensor of torchvision's ConvNeXt ("features.1.0.block.3.weight" ->
/// "stages.0.blocks.0.mlp.fc1.weight"); none for other names.
std::optional<std::string> convnext_name_from_torchvision(std::string_view name);

}  // namespace aspis
