#include "aspis/models/vision_transformer.h"

#include <fmt/format.h>

#include "aspis/models/config_fields.h"

namespace aspis {
namespace {

template <typename V>
void visit_fields(V&& v, VisionTransformerConfig& c) {
  v("img_size", c.img_size);
  v("patch_size", c.patch_size);
  v("in_channels", c.in_channels);
  v("embed_dim", c.embed_dim);
  v("depth", c.depth);
  v("num_heads", c.num_heads);
  v("mlp_ratio", c.mlp_ratio);
  v("input_dim", c.input_dim);
  v("temporal_patch_size", c.temporal_patch_size);
  v("num_temporal_frames", c.num_temporal_frames);
  v("num_classes", c.num_classes);
  v("init", c.init);
}

const VisionTransformerConfig& checked(const VisionTransformerConfig& config) {
  config.check();
  return config;
}

}  // namespace

void VisionTransformerConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  require(
      num_heads >= 1 && embed_dim % num_heads == 0,
      [&] {
        return Error::Parts{.where = where,
                            .required = "num_heads must divide embed_dim",
                            .got = fmt::format("{} and {}", num_heads, embed_dim),
                            .hint = ""};
      },
      kind);
  require(
      mlp_ratio >= 1 && mlp_ratio <= 64,
      [&] {
        return Error::Parts{.where = where,
                            .required = "mlp_ratio must lie between 1 and 64",
                            .got = std::to_string(mlp_ratio),
                            .hint = ""};
      },
      kind);
  try {
    parse_init_recipe(init, where);
  } catch (const Error& e) {
    throw Error(kind, e.parts());
  }
}

std::string VisionTransformerConfig::to_json() const {
  return config::write(*this, "vision_transformer",
                       [](auto&& v, VisionTransformerConfig& c) { visit_fields(v, c); });
}

VisionTransformerConfig VisionTransformerConfig::from_json(std::string_view text, const std::string& where,
                                                           ErrorKind kind) {
  return config::read<VisionTransformerConfig>(text, "vision_transformer", where, kind,
                                               [](auto&& v, VisionTransformerConfig& c) { visit_fields(v, c); });
}

VisionTransformer::VisionTransformer(const VisionTransformerConfig& config, uint64_t seed)
    : PatchEncoder(checked(config), Init(seed, parse_init_recipe(config.init))), config_(config) {
  const Init init(seed, parse_init_recipe(config.init));
  for (int64_t i = 0; i < config.depth; i++) {
    const std::string name = fmt::format("blocks.{}", i);
    blocks.push_back(std::make_unique<TransformerBlock>(config.embed_dim, config.num_heads, config.mlp_ratio,
                                                        init.child(name)));
    add_child(name, *blocks.back());
  }
  add_tail();
}

Residual VisionTransformer::block(int64_t i, const Residual& tokens, const std::vector<ScanDirection>&) const {
  auto& layer = *blocks[static_cast<size_t>(i)];
  return pass(layer, tokens, [&layer](const Residual& x) { return layer.forward(x); });
}

ModelCost VisionTransformer::cost() const {
  // Per block and token: four projections 4 E^2, MLP 2 r E^2, and attention 2 L E
  // (q k^T and the sum over v). Exponentials: heads L in the softmax, r E in GELU.
  const int64_t L = config_.tokens(), E = config_.embed_dim, r = config_.mlp_ratio, H = config_.num_heads;
  ModelCost cost = common_cost();
  cost.macs += config_.depth * L * (4 * E * E + 2 * r * E * E + 2 * L * E);
  cost.exps = config_.depth * L * (H * L + r * E);
  // Kept: both streams and norms 4 E, q, k, v and the heads' output 4 E, the
  // hidden layer before and after GELU 2 r E, and at most the L^2 weights of each head.
  const int64_t layer = L * (8 * E + 2 * r * E) + H * L * L;
  cost.kept_bytes += 4 * config_.depth * layer;
  cost.transient_bytes = 4 * (L * E * 2 + std::max(L * E * 4 + H * L * L, 2 * L * r * E));
  cost.backward_bytes = 4 * layer;
  return cost;
}

}  // namespace aspis
