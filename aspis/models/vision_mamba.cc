#include "aspis/models/vision_mamba.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include "aspis/models/config_fields.h"

namespace aspis {
namespace {

template <typename V>
void visit_fields(V&& v, VisionMambaConfig& c) {
  v("img_size", c.img_size);
  v("patch_size", c.patch_size);
  v("in_channels", c.in_channels);
  v("embed_dim", c.embed_dim);
  v("depth", c.depth);
  v("d_state", c.d_state);
  v("d_conv", c.d_conv);
  v("expand_factor", c.expand_factor);
  v("input_dim", c.input_dim);
  v("temporal_patch_size", c.temporal_patch_size);
  v("num_temporal_frames", c.num_temporal_frames);
  v("num_directions", c.num_directions);
  v("mixer", c.mixer);
  v("scan_order", c.scan_order);
  v("merge", c.merge);
  v("scan_mode", c.scan_mode);
  v("num_classes", c.num_classes);
  v("init", c.init);
}

const VisionMambaConfig& checked(const VisionMambaConfig& config) {
  config.check();
  return config;
}

}  // namespace

void VisionMambaConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  const auto in_range = [&](const char* key, int64_t value, int64_t hi) {
    require(
        value >= 1 && value <= hi,
        [&] {
          return Error::Parts{.where = where,
                              .required = fmt::format("{} must be {}", key,
                                                      value < 1 ? "at least 1" : fmt::format("at most {}", hi)),
                              .got = std::to_string(value),
                              .hint = ""};
        },
        kind);
  };
  in_range("d_state", d_state, 256);
  in_range("d_conv", d_conv, 1024);
  in_range("expand_factor", expand_factor, 64);
  require(
      num_directions == 0 || num_directions == 1 || num_directions == 2 || num_directions == 2 * input_dim,
      [&] {
        return Error::Parts{.where = where,
                            .required = fmt::format("num_directions must be 1, 2 or {} for input_dim {}",
                                                    2 * input_dim, input_dim),
                            .got = std::to_string(num_directions),
                            .hint = ""};
      },
      kind);
  config::one_of(where, kind, "mixer", mixer, mixer_names());
  if (mixer == "mamba3") config::in_range(where, kind, "d_state (with mixer mamba3)", d_state, 4, 256);
  if (directional())
    config::one_of(where, kind, "merge (with another mixer or one direction)", merge, {"sum", "mean"});
  // The words are checked by the parsers, whose errors get the caller's kind.
  try {
    parse_scan_order(scan_order, where);
    parse_direction_merge(merge, where);
    check_scan_mode(scan_mode, where);
    parse_init_recipe(init, where);
  } catch (const Error& e) {
    throw Error(kind, e.parts());
  }
}

std::string VisionMambaConfig::to_json() const {
  auto resolved = *this;
  resolved.num_directions = directions();
  return config::write(resolved, "vision_mamba", [](auto&& v, VisionMambaConfig& c) { visit_fields(v, c); });
}

VisionMambaConfig VisionMambaConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<VisionMambaConfig>(text, "vision_mamba", where, kind,
                                         [](auto&& v, VisionMambaConfig& c) { visit_fields(v, c); });
}

VisionMamba::VisionMamba(const VisionMambaConfig& config, uint64_t seed)
    : PatchEncoder(checked(config), Init(seed, parse_init_recipe(config.init))), config_(config) {
  const Init init(seed, parse_init_recipe(config.init));
  for (int64_t i = 0; i < config.depth; i++) {
    const std::string name = fmt::format("blocks.{}", i);
    if (config.directional()) {
      mixer_blocks.push_back(std::make_unique<DirectionalBlock>(MixerConfig{.kind = config.mixer,
                                                                            .width = config.embed_dim,
                                                                            .state = config.d_state,
                                                                            .conv = config.d_conv,
                                                                            .expand = config.expand_factor},
                                                                config.directions(), init.child(name),
                                                                config.merge == "mean"));
      add_child(name, *mixer_blocks.back());
      continue;
    }
    blocks.push_back(std::make_unique<MultiDirectionalMambaBlock>(
        config.block(), static_cast<int>(config.directions()), config.grid(), parse_scan_order(config.scan_order),
        init.child(name), config.scan_mode, parse_direction_merge(config.merge)));
    add_child(name, *blocks.back());
  }
  add_tail();
}

Residual VisionMamba::block(int64_t i, const Residual& tokens,
                            const std::vector<ScanDirection>& directions) const {
  const auto n = static_cast<size_t>(i);
  const auto run = [&](auto& layer) {
    return pass(layer, tokens, [&layer, directions](const Residual& x) { return layer.forward(x, directions); });
  };
  return config_.directional() ? run(*mixer_blocks[n]) : run(*blocks[n]);
}

std::vector<ScanDirection> VisionMamba::scan_directions(const std::vector<int64_t>& grid, bool subset) const {
  if (!config_.directional()) return blocks.front()->directions(grid, subset);
  // Tokens of no grid go forwards and backwards, as in MultiDirectionalMambaBlock.
  const int64_t count = subset ? std::min<int64_t>(config_.directions(), 2) : config_.directions();
  return mixer_directions(count, grid, false, model_type(), parse_scan_order(config_.scan_order));
}

ModelCost VisionMamba::cost() const {
  if (config_.directional()) {
    mx::Shape shape{1};
    for (const int64_t n : input_shape()) shape.push_back(static_cast<mx::ShapeElem>(n));
    const auto pooled = pool(forward_features(mx::zeros(shape, mx::float32)));
    return count_work({head ? classify(pooled) : pooled});
  }
  // Per block of one direction, with I = expand E, per token:
  //   in_proj 2 E I, conv W I, x_proj I (R + 2 N), dt_proj R I, out_proj I E,
  //   scan 3 I N (dt A and dt u B, half a multiply-add each; a h + b; C h) + I for D u.
  // Exponentials: I N in the scan, 3 I in softplus (exp, log1p) and gate, I in the conv's SiLU.
  const auto b = config_.block();
  const int64_t L = config_.tokens(), E = config_.embed_dim, I = b.inner(), R = b.rank(), N = b.state;
  const int64_t blocks_total = config_.depth * config_.directions();
  const int64_t scan = L * (3 * I * N + I);
  ModelCost cost = common_cost();
  // The VMamba merge has one pair of large projections a layer, and a norm (as the other norms not counted).
  const int64_t projections = config_.merge == "vmamba" ? config_.depth : blocks_total;
  cost.macs += projections * L * 3 * E * I + blocks_total * (L * (b.conv * I + I * (2 * R + 2 * N)) + scan);
  cost.scan_macs = blocks_total * scan;
  cost.exps = blocks_total * L * (I * N + 4 * I);
  // Kept for the backward pass, per layer: the stream and its norm, 2 E; per
  // direction x, conv output, z, delta, y (5 I), x_proj's output, and the scan's
  // states, one per 32 tokens. Without gradients: stream, norm, branches and one
  // direction's arrays at a time. The backward pass of a direction holds the
  // gradients of the same arrays besides.
  const int64_t direction = L * (5 * I + R + 2 * N);
  if (config_.merge != "vmamba") cost.in_one_from = mamba_in_one_from(L, I, true);
  // As one operation a direction keeps its input and output alone.
  cost.in_one_kept_bytes = cost.kept_bytes + 4 * config_.depth * L * E * (2 + config_.directions());
  cost.in_one_backward_bytes = 4 * L * E * (2 + 2 * config_.directions());
  cost.kept_bytes +=
      4 * config_.depth * (2 * L * E + config_.directions() * (direction + I * N * ((L + 31) / 32)));
  cost.transient_bytes = 4 * (L * E * (2 + config_.directions()) + direction);
  cost.backward_bytes = 4 * (L * E * (2 + 2 * config_.directions()) + direction);
  return cost;
}

}  // namespace aspis
