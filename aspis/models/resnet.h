#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/backbone.h"
#include "aspis/nn/conv.h"

namespace aspis {

/// config.json with model_type "resnet". Defaults are those of ResNet-50.
struct ResNetConfig : BackboneConfig {
  int64_t stem_width = 64;
  std::vector<int64_t> depths = {3, 4, 6, 3};
  std::vector<int64_t> widths = {64, 128, 256, 512};  ///< inside the bottlenecks; outside four times that

  void check(const std::string& where = "resnet", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static ResNetConfig from_json(std::string_view text, const std::string& where = "config.json",
                                ErrorKind kind = ErrorKind::kModel);
};

/// ResNet of bottlenecks (He et al. 2016) as torchvision builds it: the stride is in the
/// 3 x 3 convolution. Names as there and in timm: conv1, bn1, layer{1..4}.j.{conv1, bn1,
/// conv2, bn2, conv3, bn3, downsample.{0, 1}}, fc.
///
/// Any image size. Stages are the stem before its pooling and the four layers, as in timm.
class ResNet final : public Backbone {
 public:
  explicit ResNet(const ResNetConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "ResNet"; }
  std::string model_type() const override { return "resnet"; }
  const Linear* classifier() const override { return head.get(); }
  std::string config_json() const override { return config_.to_json(); }
  const ResNetConfig& config() const { return config_; }

  /// {B, h, w, 4 widths[3]}.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

 private:
  struct Bottleneck final : Module {
    Bottleneck(int64_t in, int64_t width, int64_t stride, const Init& init);
    std::string type_name() const override { return "Bottleneck"; }
    mx::array operator()(const mx::array& x) const;

    Conv2d conv1;
    BatchNorm bn1;
    Conv2d conv2;
    BatchNorm bn2;
    Conv2d conv3;
    BatchNorm bn3;
    std::unique_ptr<Conv2d> shortcut;  ///< where size or width change
    std::unique_ptr<BatchNorm> shortcut_norm;
  };
  mx::array run(const mx::array& images, Maps* maps) const;

  ResNetConfig config_;

 public:
  Conv2d conv1;
  BatchNorm bn1;
  std::vector<std::vector<std::unique_ptr<Bottleneck>>> layers;
  std::unique_ptr<Linear> head;
};

}  // namespace aspis
