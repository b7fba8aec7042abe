#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aspis/nn/depthwise_conv1d.h"
#include "aspis/nn/init.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/module.h"
#include "aspis/nn/norm.h"
#include "aspis/nn/scan_order.h"
#include "aspis/nn/sequence_mixer.h"
#include "aspis/ops/mamba_block/mamba_block.h"

namespace aspis {

/// Sizes of a Mamba-1 block. inner = expand * width; dt_rank 0 means ceil(width / 16).
struct MambaConfig {
  int64_t width = 384;
  int64_t state = 16;
  int64_t conv = 4;
  int64_t expand = 2;
  int64_t dt_rank = 0;

  int64_t inner() const { return expand * width; }
  int64_t rank() const { return dt_rank > 0 ? dt_rank : (width + 15) / 16; }
  /// Throws Error(kUsage) if a size is not positive.
  void check(const std::string& where) const;
};

/// What lies between the two large projections of a Mamba-1 block.
struct MambaBranch {
  const DepthwiseConv1d& conv1d;
  const Linear& x_proj;   ///< inner -> rank + 2 N
  const Linear& dt_proj;  ///< rank -> inner, with bias
  const mx::array& A_log;
  const mx::array& D;

  /// Convolution, projections and scan of x {B, L, inner} in one direction, gated with z if there is one.
  mx::array operator()(const mx::array& x, const std::optional<mx::array>& z,
                       const ScanDirection& direction) const;
  /// The same as a branch of `mamba_block`.
  MambaBlockBranch weights(const ScanDirection& direction) const;
};

/// The batch from which a block of so many tokens and inner channels runs as one
/// operation (ops/mamba_block), 0: never. Depends on `planned_cores`.
int64_t mamba_in_one_from(int64_t tokens, int64_t inner, bool training);

/// The Mamba-1 block (Gu and Dao 2023, figure 3), without norm and residual:
///
///     x, z      = in_proj(h)                     width -> 2 inner, no bias
///     x         = silu(conv1d(x))                depthwise, causal, with bias
///     dt, B, C  = x_proj(x)                      inner -> rank + 2 N, no bias
///     delta     = softplus(dt_proj(dt))          rank -> inner, with bias
///     y         = selective_scan(x, delta, -exp(A_log), B, C, D) silu(z)
///     out       = out_proj(y)                    inner -> width, no bias
///
/// {B, L, width} -> the same. Parameter names are those of state-spaces/mamba
/// and mlx-vision-mamba: in_proj.weight, conv1d.{weight, bias}, x_proj.weight,
/// dt_proj.{weight, bias}, A_log {inner, N}, D {inner}, out_proj.weight.
class MambaBlock final : public SequenceMixer {
 public:
  MambaBlock(const MambaConfig& config, const Init& init, std::string_view scan_mode = "sequential");
  std::string type_name() const override { return "MambaBlock"; }
  const MambaConfig& config() const { return config_; }

  using SequenceMixer::operator();
  mx::array operator()(const mx::array& h, const ScanDirection& direction) const override;
  /// The same for a caller that has fanned `h` out already: one copy for each half of in_proj.
  /// The output is multiplied by `scale`.
  mx::array forward(const mx::array& h_for_x, const mx::array& h_for_z, const ScanDirection& direction,
                    float scale = 1) const;
  /// Whether `operator()` and the blocks over one norm run it as one operation.
  bool runs_in_one(const mx::array& h) const;
  /// The same as one operation, which computes everything again in the backward.
  mx::array in_one(const mx::array& h, const ScanDirection& direction, float scale = 1) const;

  State initial_state(int64_t batch) const override;
  std::pair<mx::array, State> prefill(const mx::array& h, const State& state) const override;
  std::pair<mx::array, State> step(const mx::array& h, const State& state) const override;

 private:
  MambaConfig config_;

 public:
  Linear in_proj;
  DepthwiseConv1d conv1d;
  Linear x_proj;
  Linear dt_proj;
  mx::array A_log, D;
  Linear out_proj;
};

/// h + mamba(norm(h)).
class ResidualMambaBlock final : public Module {
 public:
  ResidualMambaBlock(const MambaConfig& config, const Init& init, std::string_view scan_mode = "sequential");
  std::string type_name() const override { return "ResidualMambaBlock"; }
  mx::array operator()(const mx::array& h) const { return forward({h, {}}).value(); }
  Residual forward(const Residual& h) const;

  LayerNorm norm;
  MambaBlock mamba;
};

/// h + f(n) + rev(b(rev(n))) with n = norm(h) and two blocks of their own.
/// Children: norm, forward_mamba, backward_mamba.
class BidirectionalMambaBlock final : public Module {
 public:
  BidirectionalMambaBlock(const MambaConfig& config, const Init& init, std::string_view scan_mode = "sequential");
  std::string type_name() const override { return "BidirectionalMambaBlock"; }
  mx::array operator()(const mx::array& h) const { return forward({h, {}}).value(); }
  Residual forward(const Residual& h) const;

  LayerNorm norm;
  MambaBlock forward_mamba, backward_mamba;
};

/// How the K directions of a layer come together.
enum class DirectionMerge {
  kSum,     ///< sum of K blocks (mlx-vision-mamba)
  kMean,    ///< their mean
  kVmamba,  ///< one block with K scans: out_proj(layer_norm(sum of the scans) silu(z)), VMamba's SS2D
};

/// "sum", "mean", "vmamba".
std::string to_string(DirectionMerge merge);
/// Throws Error(kUsage) with the nearest word for other names.
DirectionMerge parse_direction_merge(std::string_view name, const std::string& where = "merge");

/// One Mamba-1 block whose inner sequence is scanned in K directions (VMamba's
/// SS2D over any grid): convolution, projections and scan belong to a direction,
/// the two large projections and the gate are shared,
///
///     x, z = in_proj(h);   y = sum_k scan_k(x);   out = out_proj(out_norm(y) silu(z))
///
/// Children: in_proj, scans.k.{conv1d, x_proj, dt_proj, A_log, D}, out_norm, out_proj.
class MultiScanMixer final : public Module {
 public:
  MultiScanMixer(const MambaConfig& config, int num_directions, const Init& init);
  std::string type_name() const override { return "MultiScanMixer"; }
  /// Runs the first `directions.size()` scans.
  mx::array operator()(const mx::array& h, const std::vector<ScanDirection>& directions) const;

 private:
  struct Scan final : Module {
    Scan(const MambaConfig& c, const Init& init);
    std::string type_name() const override { return "Scan"; }
    DepthwiseConv1d conv1d;
    Linear x_proj, dt_proj;
    mx::array A_log, D;
  };
  int64_t inner_;

 public:
  Linear in_proj;
  std::vector<std::unique_ptr<Scan>> scans;
  LayerNorm out_norm;
  Linear out_proj;
};

/// h + sum_k block_k(norm(h)), block k visiting the tokens of a grid in
/// direction k: one norm, K blocks of their own. No permuted copy of the tokens
/// is made; the kernels follow the order.
///
/// K = 2 runs forwards and backwards over any tokens. K = 4, 6, 8 need a grid of
/// 2, 3, 4 axes; if the number of tokens is not that of the grid (a subset of
/// patches), only blocks 0 and 1 run, forwards and backwards over the tokens as
/// given, and the parameters of the others get no gradient. Other merges than
/// the sum: see DirectionMerge.
/// Children: norm, mamba_blocks.k; with kVmamba norm, mixer.
class MultiDirectionalMambaBlock final : public Module {
 public:
  /// Throws Error(kUsage) unless K is 2, 4, 6 or 8 and `grid` has K/2 axes
  /// (K = 2: any, it is not used).
  MultiDirectionalMambaBlock(const MambaConfig& config, int num_directions, std::vector<int64_t> grid,
                             ScanOrder order, const Init& init, std::string_view scan_mode = "sequential",
                             DirectionMerge merge = DirectionMerge::kSum);
  std::string type_name() const override { return "MultiDirectionalMambaBlock"; }
  /// `subset`: the tokens are a part of the grid or shuffled, whatever their number.
  mx::array operator()(const mx::array& h, bool subset = false) const { return forward({h, {}}, subset).value(); }
  Residual forward(const Residual& h, bool subset = false) const;
  /// The directions over a grid of another size (as many axes), and with
  /// `subset` the two over tokens that are no grid; for the next function.
  std::vector<ScanDirection> directions(const std::vector<int64_t>& grid, bool subset = false) const;
  Residual forward(const Residual& h, const std::vector<ScanDirection>& directions) const;

  LayerNorm norm;
  std::vector<std::unique_ptr<MambaBlock>> mamba_blocks;
  std::unique_ptr<MultiScanMixer> mixer;  ///< with kVmamba, instead of the blocks

 private:
  int num_directions_;
  std::vector<int64_t> grid_;
  ScanOrder order_;
  DirectionMerge merge_;
  int64_t tokens_ = 0;  // of the grid
  std::vector<ScanDirection> directions_;
};

}  // namespace aspis
