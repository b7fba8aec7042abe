#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/patch_encoder.h"
#include "aspis/nn/directional_mixer.h"
#include "aspis/nn/mamba_block.h"
namespace aspis {

/// config.json with model_type "vision_mamba". Defaults are those of mlx-vision-mamba 0.1.1.
struct VisionMambaConfig : PatchEncoderConfig {
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand_factor = 2;
  int64_t num_directions = 0;               ///< 1, 2, or 2 * input_dim; 0 means the latter
  std::string mixer = "mamba1";             ///< or "mamba2", "mamba3": DirectionalBlocks of these
  std::string scan_order = "axis_fastest";  ///< or "compat", see ScanOrder
  std::string merge = "sum";                ///< of the directions: "sum", "mean" or "vmamba", see DirectionMerge
  std::string scan_mode = "sequential";     ///< a name of mlx-vision-mamba; all run one kernel

  int64_t directions() const { return num_directions > 0 ? num_directions : 2 * input_dim; }
  MambaConfig block() const { return {embed_dim, d_state, d_conv, expand_factor, 0}; }
  /// Whether layers are DirectionalBlocks and no MultiDirectionalMambaBlocks.
  bool directional() const { return mixer != "mamba1" || num_directions == 1; }
  /// Throws `kind` for sizes and words that do not fit, naming the key.
  void check(const std::string& where = "vision_mamba", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// Keys that are left out keep their defaults. Unknown keys, wrong types and
  /// sizes that do not fit throw `kind`, with `where` and the key.
  static VisionMambaConfig from_json(std::string_view text, const std::string& where = "config.json",
                                     ErrorKind kind = ErrorKind::kModel);
};

/// The encoder of mlx-vision-mamba: patch tokens, learned positions, `depth`
/// MultiDirectionalMambaBlocks, LayerNorm; see PatchEncoder for the interface.
class VisionMamba final : public PatchEncoder {
 public:
  explicit VisionMamba(const VisionMambaConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "VisionMamba"; }
  std::string model_type() const override { return "vision_mamba"; }
  std::string config_json() const override { return config_.to_json(); }
  ModelCost cost() const override;
  const VisionMambaConfig& config() const { return config_; }

 protected:
  Residual block(int64_t i, const Residual& tokens, const std::vector<ScanDirection>& directions) const override;
  std::vector<ScanDirection> scan_directions(const std::vector<int64_t>& grid, bool subset) const override;

 private:
  VisionMambaConfig config_;

 public:
  std::vector<std::unique_ptr<MultiDirectionalMambaBlock>> blocks;
  std::vector<std::unique_ptr<DirectionalBlock>>
      mixer_blocks;  ///< another mixer, or one direction: instead of those
};

}  // namespace aspis
