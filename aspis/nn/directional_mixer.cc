#include "aspis/nn/directional_mixer.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>

#include "aspis/base/error.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/mamba2_block.h"
#include "aspis/nn/mamba3_block.h"
#include "aspis/nn/mamba_block.h"
#include "aspis/ops/add_n/add_n.h"

namespace aspis {

const std::vector<std::string>& mixer_names() {
  static const std::vector<std::string> names{"mamba1", "mamba2", "mamba3"};
  return names;
}

int64_t MixerConfig::headdim() const {
  int64_t d = std::min<int64_t>(64, expand * width);
  while (expand * width % d != 0) d--;
  return d;
}

void MixerConfig::check(const std::string& where) const {
  const auto& names = mixer_names();
  require(std::find(names.begin(), names.end(), kind) != names.end(), [&] {
    return Error::Parts{.where = where,
                        .required = fmt::format("mixer must be one of {}", fmt::join(names, ", ")),
                        .got = fmt::format("\"{}\"", kind),
                        .hint = nearest_word(kind, names)};
  });
  for (const auto& [name, value, least] : {std::tuple{"width", width, int64_t{1}},
                                           {"d_state", state, int64_t{kind == "mamba3" ? 4 : 1}},
                                           {"d_conv", conv, int64_t{1}},
                                           {"expand", expand, int64_t{1}}}) {
    require(value >= least, [&, n = name, v = value, l = least] {
      return Error::Parts{.where = where,
                          .required = fmt::format("{} must be at least {} for mixer {}", n, l, kind),
                          .got = std::to_string(v),
                          .hint = ""};
    });
  }
}

std::unique_ptr<SequenceMixer> make_mixer(const MixerConfig& c, const Init& init) {
  c.check("make_mixer");
  if (c.kind == "mamba1")
    return std::make_unique<MambaBlock>(MambaConfig{c.width, c.state, c.conv, c.expand, 0}, init);
  if (c.kind == "mamba2") {
    Mamba2Config m;
    m.width = c.width;
    m.state = c.state;
    m.conv = c.conv;
    m.expand = c.expand;
    m.headdim = c.headdim();
    return std::make_unique<Mamba2Block>(m, init);
  }
  Mamba3Config m;
  m.width = c.width;
  m.state = c.state;
  m.expand = c.expand;
  m.headdim = c.headdim();
  return std::make_unique<Mamba3Block>(m, init);
}

std::vector<ScanDirection> mixer_directions(int64_t count, const std::vector<int64_t>& grid, bool middle,
                                            const std::string& where, ScanOrder order) {
  if (count == 1) return {{}};
  if (count == 2) return {{std::nullopt, false}, {std::nullopt, true}};
  require(grid.size() >= 2 && count == static_cast<int64_t>(2 * grid.size()), [&] {
    return Error::Parts{.where = where,
                        .required = fmt::format("the number of directions must be 1, 2 or {} on {} axes",
                                                2 * grid.size(), grid.size()),
                        .got = std::to_string(count),
                        .hint = ""};
  });
  std::vector<ScanDirection> list;
  for (const auto& d : grid_directions(static_cast<int>(grid.size()), order)) {
    if (!middle) {
      list.push_back(scan_direction(grid, d));
      continue;
    }
    auto steps = token_order(grid, d);
    const auto half = static_cast<int32_t>(steps.size() / 2);
    for (auto& token : steps) token += token >= half;
    // Backwards the same tokens in reverse, so that both passes of an axis mirror each other.
    steps.insert(d.reverse ? steps.end() - half : steps.begin() + half, half);
    list.push_back({mx::array(steps.begin(), {static_cast<mx::ShapeElem>(steps.size())}, mx::int32), false});
  }
  return list;
}

DirectionalMixer::DirectionalMixer(const MixerConfig& config, int64_t directions, const Init& init, bool mean)
    : mean_(mean) {
  for (int64_t k = 0; k < directions; k++) {
    const std::string name = fmt::format("mixers.{}", k);
    mixers.push_back(make_mixer(config, init.child(name)));
    add_child(name, *mixers.back());
  }
}

mx::array DirectionalMixer::operator()(const mx::array& h, const std::vector<ScanDirection>& directions) const {
  const auto copies = fan_out(h, static_cast<int>(directions.size()));
  std::vector<mx::array> outs;
  for (size_t k = 0; k < directions.size(); k++) outs.push_back((*mixers[k])(copies[k], directions[k]));
  auto sum = outs.size() == 1 ? outs[0] : add_n(outs);
  if (!mean_ || outs.size() == 1) return sum;
  return sum * mx::array(1 / static_cast<float>(outs.size()), sum.dtype());
}

DirectionalBlock::DirectionalBlock(const MixerConfig& config, int64_t directions, const Init& init, bool mean)
    : norm(config.width, init.child("norm")), mixer(config, directions, init, mean) {
  add_child("norm", norm);
  for (size_t k = 0; k < mixer.mixers.size(); k++) add_child(fmt::format("mixers.{}", k), *mixer.mixers[k]);
}

Residual DirectionalBlock::forward(const Residual& h, const std::vector<ScanDirection>& directions) const {
  auto [n, sum] = norm(h);
  return {std::move(sum), mixer(n, directions)};
}

}  // namespace aspis
