#include "aspis/models/vit.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <optional>

#include "aspis/models/config_fields.h"
#include "aspis/nn/pool.h"
#include "aspis/nn/position_table.h"

namespace aspis {
namespace {

constexpr float kEpsilon = 1e-6f;

template <typename V>
void visit_fields(V&& v, VitConfig& c) {
  v("img_size", c.img_size);
  v("patch_size", c.patch_size);
  v("in_channels", c.in_channels);
  v("embed_dim", c.embed_dim);
  v("depth", c.depth);
  v("num_heads", c.num_heads);
  v("mlp_ratio", c.mlp_ratio);
  v("drop_path_rate", c.drop_path_rate);
  v("num_classes", c.num_classes);
}

const VitConfig& checked(const VitConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

}  // namespace

void VitConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  config::in_range(where, kind, "patch_size", patch_size, 1, 1 << 12);
  config::in_range(where, kind, "embed_dim", embed_dim, 1, 1 << 16);
  config::in_range(where, kind, "depth", depth, 1, 1 << 12);
  config::in_range(where, kind, "num_heads", num_heads, 1, 1 << 16);
  config::in_range(where, kind, "mlp_ratio", mlp_ratio, 1, 64);
  config::divides(where, kind, "num_heads", num_heads, "embed_dim", embed_dim);
}

std::string VitConfig::to_json() const {
  return config::write(*this, "vit", [](auto&& v, VitConfig& c) { visit_fields(v, c); });
}

VitConfig VitConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<VitConfig>(text, "vit", where, kind, [](auto&& v, VitConfig& c) { visit_fields(v, c); });
}

Vit::Block::Block(const VitConfig& c, double drop_rate, const Init& init)
    : norm1(c.embed_dim, init.child("norm1"), kEpsilon),
      attn(c.embed_dim, c.num_heads, init.child("attn")),
      norm2(c.embed_dim, init.child("norm2"), kEpsilon),
      mlp(c.embed_dim, c.mlp_ratio * c.embed_dim, init.child("mlp")),
      drop_path(drop_rate, init) {
  start_small(attn.qkv, init.child("attn.qkv"));
  start_small(attn.proj, init.child("attn.proj"));
  start_small(mlp.fc1, init.child("mlp.fc1"));
  start_small(mlp.fc2, init.child("mlp.fc2"));
  add_child("norm1", norm1);
  add_child("attn", attn);
  add_child("norm2", norm2);
  add_child("mlp", mlp);
  add_child("drop_path", drop_path);
}

Residual Vit::Block::forward(const Residual& x) const {
  auto [n1, before] = norm1(x);
  auto [n2, middle] = norm2(Residual{before, drop_path(attn(n1))});
  return {std::move(middle), drop_path(mlp(n2))};
}

Vit::Vit(const VitConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      cls_token(Init(seed).normal("cls_token", {1, 1, elem(c.embed_dim)}, 1e-6)),
      pos_embed(Init(seed).truncated_normal(
          "pos_embed", {1, elem(c.patches(c.img_size) * c.patches(c.img_size) + 1), elem(c.embed_dim)}, 0.02)),
      patch_embed({.in = c.in_channels, .out = c.embed_dim, .kernel = c.patch_size, .stride = c.patch_size},
                  Init(seed).child("patch_embed.proj")),
      norm(c.embed_dim, Init(seed).child("norm"), kEpsilon) {
  const Init init(seed);
  add_parameter("cls_token", cls_token, Decay::kNo);
  add_parameter("pos_embed", pos_embed, Decay::kNo);
  add_child("patch_embed.proj", patch_embed);
  const auto rates = drop_path_rates(c.drop_path_rate, c.depth);
  for (int64_t i = 0; i < c.depth; i++) {
    const std::string name = fmt::format("blocks.{}", i);
    blocks.push_back(std::make_unique<Block>(c, rates[static_cast<size_t>(i)], init.child(name)));
    add_child(name, *blocks.back());
  }
  add_child("norm", norm);
  if (c.num_classes > 0) {
    head = std::make_unique<Linear>(c.embed_dim, c.num_classes, true, init.child("head"));
    start_small(*head, init.child("head"));
    add_child("head", *head);
  }
}

Residual Vit::run(const mx::array& images, Maps* maps) const {
  check_images(images);
  const int64_t h = config_.patches(images.shape(1)), w = config_.patches(images.shape(2));
  const auto B = images.shape(0), M = elem(h * w), E = elem(config_.embed_dim);
  const auto positions = resize_square_positions(pos_embed, h, w, 0);
  const auto patches = mx::reshape(patch_embed(padded_to_patches(images, config_.patch_size)), {B, M, E});
  Residual x{mx::concatenate({mx::broadcast_to(cls_token, {B, 1, E}), patches}, 1) + positions, std::nullopt};
  for (const auto& block : blocks) {
    x = pass(*block, x, [&block = *block](const Residual& r) { return block.forward(r); });
    if (!maps) continue;
    if (!maps->wanted()) {
      maps->skip();
      continue;
    }
    x = {x.value(), std::nullopt};
    maps->add(mx::reshape(mx::slice(x.sum, {0, 1, 0}, {B, M + 1, E}), {B, elem(h), elem(w), E}));
  }
  return x;
}

std::optional<mx::array> Vit::fitted(const std::string& name, const mx::array& value,
                                     const mx::Shape& want) const {
  if (name != "pos_embed") return Backbone::fitted(name, value, want);
  const int64_t side = config_.patches(config_.img_size);
  return resize_square_positions(value, side, side, 0);
}

mx::array Vit::forward_features(const mx::array& images) const { return norm(run(images, nullptr)).first; }

mx::array Vit::pool(const mx::array& features) const { return mx::take(features, 0, 1); }

std::vector<StageInfo> Vit::stages() const {
  std::vector<StageInfo> list;
  for (int64_t i = 0; i < config_.depth; i++)
    list.push_back({fmt::format("blocks.{}", i), config_.patch_size, config_.embed_dim});
  return list;
}

std::vector<mx::array> Vit::feature_maps(const mx::array& images, const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

}  // namespace aspis
