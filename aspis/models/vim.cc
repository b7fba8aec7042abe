#include "aspis/models/vim.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <optional>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/position_table.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {
namespace {

template <typename V>
void visit_fields(V&& v, VimConfig& c) {
  v("img_size", c.img_size);
  v("patch_size", c.patch_size);
  v("stride", c.stride);
  v("in_channels", c.in_channels);
  v("embed_dim", c.embed_dim);
  v("depth", c.depth);
  v("d_state", c.d_state);
  v("d_conv", c.d_conv);
  v("expand", c.expand);
  v("divide_out", c.divide_out);
  v("mixer", c.mixer);
  v("num_directions", c.num_directions);
  v("drop_path_rate", c.drop_path_rate);
  v("num_classes", c.num_classes);
}

const VimConfig& checked(const VimConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

}  // namespace

void VimConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  const auto in_range = [&](const char* key, int64_t value, int64_t lo, int64_t hi) {
    config::in_range(where, kind, key, value, lo, hi);
  };
  in_range("patch_size", patch_size, 1, std::min<int64_t>(img_size, 1 << 12));
  in_range("stride", stride, 1, 1 << 12);
  in_range("embed_dim", embed_dim, 1, 1 << 16);
  in_range("depth", depth, 1, 1 << 12);
  in_range("d_state", d_state, 1, 1 << 12);
  check_mixer(where, kind, d_state);
  in_range("d_conv", d_conv, 1, 1 << 8);
  in_range("expand", expand, 1, 64);
}

std::string VimConfig::to_json() const {
  return config::write(*this, "vim", [](auto&& v, VimConfig& c) { visit_fields(v, c); });
}

VimConfig VimConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<VimConfig>(text, "vim", where, kind, [](auto&& v, VimConfig& c) { visit_fields(v, c); });
}

VimMixer::VimMixer(const MambaConfig& c, bool divide_out, const Init& init)
    : inner_(c.inner()),
      divide_out_(divide_out),
      in_proj(c.width, 2 * c.inner(), false, init.child("in_proj")),
      A_log(init.a_log(c.inner(), c.state)),
      D(init.constant({elem(c.inner())}, 1)),
      A_b_log(init.a_log(c.inner(), c.state)),
      D_b(init.constant({elem(c.inner())}, 1)),
      conv1d(c.inner(), c.conv, init.child("conv1d")),
      x_proj(c.inner(), c.rank() + 2 * c.state, false, init.child("x_proj")),
      dt_proj(c.rank(), c.inner(), true, init.child("dt_proj")),
      conv1d_b(c.inner(), c.conv, init.child("conv1d_b")),
      x_proj_b(c.inner(), c.rank() + 2 * c.state, false, init.child("x_proj_b")),
      dt_proj_b(c.rank(), c.inner(), true, init.child("dt_proj_b")),
      out_proj(c.inner(), c.width, false, init.child("out_proj")) {
  dt_proj.bias = init.child("dt_proj").dt_bias("bias", c.inner());
  dt_proj_b.bias = init.child("dt_proj_b").dt_bias("bias", c.inner());
  add_parameter("A_log", A_log, Decay::kNo);
  add_parameter("D", D, Decay::kNo);
  add_parameter("A_b_log", A_b_log, Decay::kNo);
  add_parameter("D_b", D_b, Decay::kNo);
  add_child("in_proj", in_proj);
  add_child("conv1d", conv1d);
  add_child("x_proj", x_proj);
  add_child("dt_proj", dt_proj);
  add_child("conv1d_b", conv1d_b);
  add_child("x_proj_b", x_proj_b);
  add_child("dt_proj_b", dt_proj_b);
  add_child("out_proj", out_proj);
}

mx::array VimMixer::operator()(const mx::array& h) const {
  // Halving the weights is exact, and cheaper than halving the activations.
  const auto weight = divide_out_ ? out_proj.weight * mx::array(0.5f, out_proj.weight.dtype()) : out_proj.weight;
  const MambaBranch forwards{conv1d, x_proj, dt_proj, A_log, D}, backwards{conv1d_b, x_proj_b, dt_proj_b, A_b_log, D_b};
  const int64_t from = mamba_in_one_from(h.shape(1), inner_, training());
  const bool half = h.dtype() == mx::bfloat16 || h.dtype() == mx::float16;
  if (!half && from > 0 && h.shape(0) >= from) {
    return mamba_block(h, in_proj.weight, {forwards.weights({}), backwards.weights({std::nullopt, true})}, weight);
  }
  const auto copies = fan_out(h, 2);
  const auto halves = split_sizes(in_proj.weight, {inner_, inner_}, 0);
  const auto x = fan_out(linear(copies[0], halves[0]), 2), z = fan_out(linear(copies[1], halves[1]), 2);
  const auto y = add_n({forwards(x[0], z[0], {}), backwards(x[1], z[1], {std::nullopt, true})});
  return linear(y, weight);
}

Vim::Layer::Layer(const VimConfig& c, double drop_rate, const Init& init)
    : norm(c.embed_dim, init.child("norm")), drop_path(drop_rate, init) {
  if (c.own()) {
    mixer = std::make_unique<VimMixer>(c.block(), c.divide_out, init.child("mixer"));
    add_child("mixer", *mixer);
  } else {
    directional = std::make_unique<DirectionalMixer>(
        MixerConfig{
            .kind = c.mixer, .width = c.embed_dim, .state = c.d_state, .conv = c.d_conv, .expand = c.expand},
        c.directions(2), init.child("mixer"), c.divide_out);
    add_child("mixer", *directional);
  }
  add_child("norm", norm);
  add_child("drop_path", drop_path);
}

Residual Vim::Layer::forward(const Residual& x, const std::vector<ScanDirection>& directions) const {
  auto [n, sum] = norm(x);
  return {std::move(sum), drop_path(mixer ? (*mixer)(n) : (*directional)(n, directions))};
}

Vim::Vim(const VimConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      cls_token(Init(seed).truncated_normal("cls_token", {1, 1, elem(c.embed_dim)}, 0.02)),
      pos_embed(Init(seed).truncated_normal(
          "pos_embed", {1, elem(c.patches(c.img_size) * c.patches(c.img_size) + 1), elem(c.embed_dim)}, 0.02)),
      patch_embed({.in = c.in_channels, .out = c.embed_dim, .kernel = c.patch_size, .stride = c.stride},
                  Init(seed).child("patch_embed.proj")),
      norm_f(c.embed_dim, Init(seed).child("norm_f")) {
  const Init init(seed);
  add_parameter("cls_token", cls_token, Decay::kNo);
  add_parameter("pos_embed", pos_embed, Decay::kNo);
  add_child("patch_embed.proj", patch_embed);
  const auto rates = drop_path_rates(c.drop_path_rate, c.depth);
  for (int64_t i = 0; i < c.depth; i++) {
    const std::string name = fmt::format("layers.{}", i);
    layers.push_back(std::make_unique<Layer>(c, rates[static_cast<size_t>(i)], init.child(name)));
    add_child(name, *layers.back());
  }
  add_child("norm_f", norm_f);
  if (c.num_classes > 0) {
    head = std::make_unique<Linear>(c.embed_dim, c.num_classes, true, init.child("head"));
    add_child("head", *head);
  }
}

Residual Vim::tokens(const mx::array& images) const {
  check_images(images, config_.patch_size);
  const auto map = patch_embed(images);
  const auto B = map.shape(0), M = map.shape(1) * map.shape(2), E = map.shape(3);
  const auto patches = mx::reshape(map, {B, M, E});
  const auto cls = mx::broadcast_to(cls_token, {B, 1, E});
  const int middle = M / 2;
  return {
      mx::concatenate(
          {mx::slice(patches, {0, 0, 0}, {B, middle, E}), cls, mx::slice(patches, {0, middle, 0}, {B, M, E})}, 1) +
          resize_square_positions(pos_embed, map.shape(1), map.shape(2), -2),
      std::nullopt};
}

Residual Vim::run(const mx::array& images, Maps* maps) const {
  Residual x = tokens(images);
  const auto B = images.shape(0), h = elem(config_.patches(images.shape(1))),
             w = elem(config_.patches(images.shape(2))), E = elem(config_.embed_dim);
  const int M = h * w, middle = M / 2;
  std::vector<ScanDirection> directions;
  if (!config_.own()) directions = mixer_directions(config_.directions(2), {h, w}, true, model_type());
  for (const auto& layer : layers) {
    x = pass(*layer, x, [&layer = *layer, directions](const Residual& r) { return layer.forward(r, directions); });
    if (!maps) continue;
    if (!maps->wanted()) {
      maps->skip();
      continue;
    }
    x = {x.value(), std::nullopt};
    const auto patches = mx::concatenate(
        {mx::slice(x.sum, {0, 0, 0}, {B, middle, E}), mx::slice(x.sum, {0, middle + 1, 0}, {B, M + 1, E})}, 1);
    maps->add(mx::reshape(patches, {B, h, w, E}));
  }
  return x;
}

mx::array Vim::forward_features(const mx::array& images) const { return norm_f(run(images, nullptr)).first; }

std::optional<mx::array> Vim::fitted(const std::string& name, const mx::array& value,
                                     const mx::Shape& want) const {
  if (name != "pos_embed") return Backbone::fitted(name, value, want);
  const int64_t side = config_.patches(config_.img_size);
  return resize_square_positions(value, side, side, -2);
}

mx::array Vim::pool(const mx::array& features) const { return mx::take(features, (features.shape(1) - 1) / 2, 1); }

std::vector<StageInfo> Vim::stages() const {
  std::vector<StageInfo> list;
  for (int64_t i = 0; i < config_.depth; i++)
    list.push_back({fmt::format("layers.{}", i), config_.stride, config_.embed_dim});
  return list;
}

std::vector<mx::array> Vim::feature_maps(const mx::array& images, const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

}  // namespace aspis
