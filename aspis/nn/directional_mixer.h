#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/nn/module.h"
#include "aspis/nn/norm.h"
#include "aspis/nn/scan_order.h"
#include "aspis/nn/sequence_mixer.h"

namespace aspis {

/// "mamba1", "mamba2", "mamba3".
const std::vector<std::string>& mixer_names();

/// Sizes of a Mamba block of any kind.
struct MixerConfig {
  std::string kind = "mamba1";  ///< of `mixer_names`
  int64_t width = 384;
  int64_t state = 16;
  int64_t conv = 4;  ///< taps; Mamba-3 has no convolution
  int64_t expand = 2;

  /// Throws Error(kUsage), `where` in front, for another kind and sizes that do not fit:
  /// Mamba-3 needs at least four states.
  void check(const std::string& where) const;
  /// Channels of a head of Mamba-2 and 3: 64, or the largest number below that divides expand * width.
  int64_t headdim() const;
};

std::unique_ptr<SequenceMixer> make_mixer(const MixerConfig& config, const Init& init);

/// K directions over the tokens of a grid: 1 forwards, 2 forwards and backwards, or both
/// along every axis (4, 6, 8 on 2, 3, 4 axes; see grid_directions). With `middle`, one more
/// token stands in the middle of the tokens and is visited in the middle of every pass.
/// Throws Error(kUsage), naming `where`, for other numbers.
std::vector<ScanDirection> mixer_directions(int64_t count, const std::vector<int64_t>& grid, bool middle = false,
                                            const std::string& where = "mixer_directions",
                                            ScanOrder order = ScanOrder::kAxisFastest);

/// K Mamba blocks of one kind with weights of their own over the same tokens, block k in
/// direction k; the outputs are added (or averaged). Children: mixers.k.
class DirectionalMixer final : public Module {
 public:
  DirectionalMixer(const MixerConfig& config, int64_t directions, const Init& init, bool mean = false);
  std::string type_name() const override { return "DirectionalMixer"; }
  /// {B, L, width} -> the same. Runs the first `directions.size()` blocks.
  mx::array operator()(const mx::array& h, const std::vector<ScanDirection>& directions) const;

  std::vector<std::unique_ptr<SequenceMixer>> mixers;

 private:
  bool mean_;
};

/// h + mixer(norm(h)). Children: norm, mixers.k.
class DirectionalBlock final : public Module {
 public:
  DirectionalBlock(const MixerConfig& config, int64_t directions, const Init& init, bool mean = false);
  std::string type_name() const override { return "DirectionalBlock"; }
  Residual forward(const Residual& h, const std::vector<ScanDirection>& directions) const;

  LayerNorm norm;
  DirectionalMixer mixer;
};

}  // namespace aspis
