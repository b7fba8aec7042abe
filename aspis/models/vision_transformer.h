#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/patch_encoder.h"
#include "aspis/nn/attention.h"

namespace aspis {

/// config.json with model_type "vision_transformer". Defaults are those of mlx-vision-mamba 0.1.1.
struct VisionTransformerConfig : PatchEncoderConfig {
  int64_t num_heads = 6;
  int64_t mlp_ratio = 4;

  /// Throws `kind` for sizes and words that do not fit, naming the key.
  void check(const std::string& where = "vision_transformer", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static VisionTransformerConfig from_json(std::string_view text, const std::string& where = "config.json",
                                           ErrorKind kind = ErrorKind::kModel);
};

/// The ViT twin of VisionMamba: the same interface, `depth` pre-norm blocks of
/// attention without biases and an MLP with exact GELU; no class token.
class VisionTransformer final : public PatchEncoder {
 public:
  explicit VisionTransformer(const VisionTransformerConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "VisionTransformer"; }
  std::string model_type() const override { return "vision_transformer"; }
  std::string config_json() const override { return config_.to_json(); }
  ModelCost cost() const override;
  const VisionTransformerConfig& config() const { return config_; }

 protected:
  Residual block(int64_t i, const Residual& tokens, const std::vector<ScanDirection>& directions) const override;

 private:
  VisionTransformerConfig config_;

 public:
  std::vector<std::unique_ptr<TransformerBlock>> blocks;
};

}  // namespace aspis
