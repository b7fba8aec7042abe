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
#include "aspis/nn/scan_order.h"

namespace aspis {

/// config.json with model_type "vmamba". Defaults are those of the first ("vanilla") VMamba-T.
struct VMambaConfig : BackboneConfig, MixerChoice {
  int64_t dim = 96;  ///< channels of the first level; they double from level to level
  std::vector<int64_t> depths = {2, 2, 9, 2};
  int64_t d_state = 16;
  int64_t ssm_ratio = 2;  ///< inner width over width
  bool gate = true;       ///< multiply by silu(z) before the last projection
  int64_t d_conv = 3;     ///< taps of the depthwise convolution along each axis, odd
  bool conv_bias = true;
  int64_t mlp_ratio = 0;            ///< 0: no MLP
  std::string patch_embed = "v1";   ///< "v1" one convolution of 4 pixels, "v2" two of 3 with stride 2
  std::string downsample = "v1";    ///< "v1" merging of 2 x 2 pixels, "v3" a convolution
  std::string scan_mode = "cross";  ///< or "unidirectional", "bidirectional", "cascade"
  std::string ssm_init = "v0";      ///< start of A, D and the steps: "v0" as Mamba, or "v1", "v2"

  int64_t width(size_t level) const { return dim << level; }
  void check(const std::string& where = "vmamba", ErrorKind kind = ErrorKind::kUsage) const;

  std::string to_json() const;
  /// As VisionMambaConfig::from_json.
  static VMambaConfig from_json(std::string_view text, const std::string& where = "config.json",
                                ErrorKind kind = ErrorKind::kModel);
};

/// VMamba's mixer (Liu et al. 2024): one inner sequence scanned in four passes over the
/// map, each with its own projections, states and steps,
///
///     x, z = in_proj(h);  x = silu(conv2d(x))
///     y    = out_norm(sum_k scan_k(x));  out = out_proj(y silu(z))
///
/// Passes: rows, columns, and both backwards (cross); rows four times (unidirectional);
/// rows twice and backwards twice (bidirectional); each row both ways, a norm, then each
/// column both ways (cascade). No pass copies the tokens. Parameters as in R2: in_proj,
/// conv2d, x_proj_weight {4, R + 2N, D}, dt_projs_weight {4, D, R}, dt_projs_bias {4, D},
/// A_logs {4D, N}, Ds {4D}, out_norm, out_proj.
class Ss2d final : public Module {
 public:
  Ss2d(int64_t width, const VMambaConfig& config, const Init& init);
  std::string type_name() const override { return "SS2D"; }
  /// h {B, H, W, width} -> the same.
  mx::array operator()(const mx::array& h) const;

 private:
  /// The sum of passes first .. first + directions over x {b, L, D}.
  mx::array scans(const mx::array& x, int64_t first, const std::vector<ScanDirection>& directions) const;
  mx::array passes(const mx::array& x) const;

  int64_t inner_;
  std::string mode_;
  bool gate_;

 public:
  Linear in_proj;
  Conv2d conv2d;
  mx::array x_proj_weight, dt_projs_weight, dt_projs_bias, A_logs, Ds;
  LayerNorm out_norm;
  Linear out_proj;
};

/// VMamba (Liu et al. 2024), the first one and the later fast ones: a stem of 4 pixels,
/// four levels of SS2D blocks with or without MLPs, a norm and a classifier. Names as
/// there: patch_embed.{0, 2, 5, 7}, layers.i.{blocks.j.{norm, op, norm2, mlp},
/// downsample}, classifier.{norm, head}.
///
/// Another mixer, or the directions of `num_directions`, replace SS2D by DirectionalMixer
/// over the map.
///
/// Any image size from 4 pixels. Stages are the four levels before their downsampling.
class VMamba final : public Backbone {
 public:
  explicit VMamba(const VMambaConfig& config, uint64_t seed = 0);
  ~VMamba() override;
  std::string type_name() const override { return "VMamba"; }
  std::string model_type() const override { return "vmamba"; }
  const Linear* classifier() const override { return head.get(); }
  std::string config_json() const override { return config_.to_json(); }
  const VMambaConfig& config() const { return config_; }

  /// {B, h, w, 8 dim}, normalised.
  mx::array forward_features(const mx::array& images) const override;
  mx::array pool(const mx::array& features) const override;
  std::vector<StageInfo> stages() const override;
  std::vector<mx::array> feature_maps(const mx::array& images, const std::vector<int>& out_indices) const override;

 private:
  struct Block;
  struct Level;
  mx::array run(const mx::array& images, Maps* maps) const;

  VMambaConfig config_;

 public:
  Conv2d stem1;
  LayerNorm stem_norm1;
  std::unique_ptr<Conv2d> stem2;  ///< patch_embed "v2"
  std::unique_ptr<LayerNorm> stem_norm2;
  std::vector<std::unique_ptr<Level>> levels;
  LayerNorm norm;
  std::unique_ptr<Linear> head;
};

}  // namespace aspis
