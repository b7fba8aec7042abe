#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/backbone.h"
#include "aspis/nn/conv.h"
#include "aspis/nn/directional_mixer.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/mamba_block.h"

namespace aspis {

/// config.json with model_type "vim". Defaults are those of Vim-Tiny.
struct VimConfig : BackboneConfig, MixerChoice {
  int64_t patch_size = 16;
  int64_t stride = 16;  ///< of the patches: smaller than patch_size, they overlap
  int64_t embed_dim = 192;
  int64_t depth = 24;
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t expand = 2;
  bool divide_out = true;  ///< the mean of both directions, not their sum

  /// Patches along one axis of an image of `size` pixels.
  int64_t patches(int64_t size) const { return (size - patch_size) / stride + 1; }
  MambaConfig block() const { return {embed_dim, d_state, d_conv, expand, 0}; }
  void check(const std::string& where = "vim", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static VimConfig from_json(std::string_view text, const std::string& where = "config.json",
                             ErrorKind kind = ErrorKind::kModel);
};

/// Vim's bidirectional mixer (Zhu et al. 2024, "v2"): one in_proj and one
/// out_proj, and between them two branches with weights of their own, the second
/// over the reversed tokens:
///
///     x, z = in_proj(h);  out = out_proj((branch(x, z) + reversed branch_b(x, z)) / 2)
///
/// Parameters as in hustvl/Vim: those of MambaBlock, and conv1d_b, x_proj_b,
/// dt_proj_b, A_b_log, D_b. Both branches start from the dt bias of Mamba.
class VimMixer final : public Module {
 public:
  VimMixer(const MambaConfig& config, bool divide_out, const Init& init);
  std::string type_name() const override { return "VimMixer"; }
  mx::array operator()(const mx::array& h) const;

 private:
  int64_t inner_;
  bool divide_out_;

 public:
  Linear in_proj;
  mx::array A_log, D, A_b_log, D_b;
  DepthwiseConv1d conv1d;
  Linear x_proj, dt_proj;
  DepthwiseConv1d conv1d_b;
  Linear x_proj_b, dt_proj_b;
  Linear out_proj;
};

/// Vim (Zhu et al. 2024): patches with the class token in their middle, learned
/// positions, residual blocks of RMSNorm and VimMixer, and a classifier on the
/// class token. Names as in hustvl/Vim: cls_token, pos_embed, patch_embed.proj,
/// layers.i.{norm, mixer}, norm_f, head.
///
/// Another mixer, or the directions of `num_directions`, replace VimMixer by
/// DirectionalMixer over the patches, the class token staying in the middle of every pass.
///
/// Any image size of at least a patch: positions are interpolated.
class Vim final : public Backbone {
 public:
  explicit Vim(const VimConfig& config, uint64_t seed = 0);
  std::string type_name() const override { return "Vim"; }
  std::string model_type() const override { return "vim"; }
  const Linear* classifier() const override { return head.get(); }
  std::optional<mx::array> fitted(const std::string& name, const mx::array& value,
                                  const mx::Shape& want) const override;
  std::string config_json() const override { return config_.to_json(); }
  const VimConfig& config() const { return config_; }

  /// {B, M + 1, E}: M patches, row-major, and the class token before patch M / 2.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  /// Patches and class token with their positions: what the first layer gets.
  Residual tokens(const mx::array& images) const;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

 private:
  struct Layer final : Module {
    Layer(const VimConfig& config, double drop_rate, const Init& init);
    std::string type_name() const override { return "VimBlock"; }
    Residual forward(const Residual& x, const std::vector<ScanDirection>& directions) const;

    RMSNorm norm;
    std::unique_ptr<VimMixer> mixer;  ///< one of the two
    std::unique_ptr<DirectionalMixer> directional;
    DropPath drop_path;
  };
  Residual run(const mx::array& images, Maps* maps) const;

  VimConfig config_;

 public:
  mx::array cls_token, pos_embed;
  Conv2d patch_embed;
  std::vector<std::unique_ptr<Layer>> layers;
  RMSNorm norm_f;
  std::unique_ptr<Linear> head;
};

}  // namespace aspis
