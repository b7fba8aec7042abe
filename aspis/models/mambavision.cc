#include "aspis/models/mambavision.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <numeric>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/directional_mixer.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/reduce/reduce.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

constexpr size_t kLevels = 4;

template <typename V>
void visit_fields(V&& v, MambaVisionConfig& c) {
  v("img_size", c.img_size);
  v("in_channels", c.in_channels);
  v("dim", c.dim);
  v("in_dim", c.in_dim);
  v("depths", c.depths);
  v("num_heads", c.num_heads);
  v("window_size", c.window_size);
  v("mlp_ratio", c.mlp_ratio);
  v("layer_scale", c.layer_scale);
  v("drop_path_rate", c.drop_path_rate);
  v("d_state", c.d_state);
  v("d_conv", c.d_conv);
  v("compat", c.compat);
  v("mixer", c.mixer);
  v("num_directions", c.num_directions);
  v("num_classes", c.num_classes);
}

const MambaVisionConfig& checked(const MambaVisionConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

/// A map {B, H, W, C} cut into windows of side w, padded with zeros to the right and
/// below: {B nH nW, w w, C}.
struct Windows {
  mx::array tokens;
  WindowMask real;
  mx::ShapeElem batch, height, width, rows, columns, side;

  mx::array map(const mx::array& t) const {
    const auto C = t.shape(2);
    auto whole = t;
    if (rows * columns > 1) {
      whole = mx::transpose(mx::reshape(t, {batch, rows, columns, side, side, C}), {0, 1, 3, 2, 4, 5});
    }
    whole = mx::reshape(whole, {batch, rows * side, columns * side, C});
    if (rows * side == height && columns * side == width) return whole;
    return mx::slice(whole, {0, 0, 0, 0}, {batch, height, width, C});
  }
};

mx::array cut(const mx::array& padded, mx::ShapeElem rows, mx::ShapeElem columns, mx::ShapeElem side) {
  const auto B = padded.shape(0), C = padded.shape(3);
  auto whole = padded;
  if (rows * columns > 1) {
    whole = mx::transpose(mx::reshape(padded, {B, rows, side, columns, side, C}), {0, 1, 3, 2, 4, 5});
  }
  return mx::reshape(whole, {B * rows * columns, side * side, C});
}

Windows windows_of(const mx::array& map, int64_t window, bool mask) {
  const auto side = elem(window), B = map.shape(0), H = map.shape(1), W = map.shape(2);
  const auto rows = (H + side - 1) / side, columns = (W + side - 1) / side;
  const auto pad = [&](const mx::array& a) {
    return mx::pad(a, {{0, 0}, {0, rows * side - H}, {0, columns * side - W}, {0, 0}}, mx::array(0, a.dtype()));
  };
  const bool padded = rows * side != H || columns * side != W;
  Windows w{cut(padded ? pad(map) : map, rows, columns, side), {}, B, H, W, rows, columns, side};
  if (padded && mask) {
    const auto inside = pad(mx::ones({B, H, W, 1}, map.dtype()));
    w.real = mx::squeeze(cut(inside, rows, columns, side), 2);
  }
  return w;
}

}  // namespace

void MambaVisionConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  const auto in_range = [&](const char* key, int64_t value, int64_t lo, int64_t hi) {
    config::in_range(where, kind, key, value, lo, hi);
  };
  in_range("dim", dim, 2, 1 << 13);
  in_range("in_dim", in_dim, 1, 1 << 13);
  in_range("mlp_ratio", mlp_ratio, 1, 64);
  in_range("d_state", d_state, 1, 256);
  in_range("d_conv", d_conv, 1, 64);
  check_mixer(where, kind, d_state);
  config::in_range(where, kind, "layer_scale", layer_scale, 0.0, 1e6);
  for (const auto& [key, list] :
       {std::pair{"depths", &depths}, {"num_heads", &num_heads}, {"window_size", &window_size}}) {
    in_range(fmt::format("the number of values of {}", key).c_str(), static_cast<int64_t>(list->size()), 4, 4);
    for (const int64_t v : *list) in_range(key, v, 1, 1 << 10);
  }
  for (size_t i = 2; i < kLevels; i++) {
    config::divides(where, kind, "num_heads", num_heads[i], "the width of its level", width(i));
    config::divides(where, kind, "2", 2, "the width of a level", width(i));
  }
}

std::string MambaVisionConfig::to_json() const {
  return config::write(*this, "mambavision", [](auto&& v, MambaVisionConfig& c) { visit_fields(v, c); });
}

MambaVisionConfig MambaVisionConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<MambaVisionConfig>(text, "mambavision", where, kind,
                                         [](auto&& v, MambaVisionConfig& c) { visit_fields(v, c); });
}

MambaVisionMixer::Conv::Conv(int64_t channels, int64_t taps, const Init& init)
    : weight(init.kaiming_uniform("weight", {elem(channels), elem(taps)}, taps)) {
  add_parameter("weight", weight);
}

MambaVisionMixer::MambaVisionMixer(int64_t width, const MambaVisionConfig& c, const Init& init)
    : half_(width / 2),
      twice_(c.compat),
      in_proj(width, width, false, init.child("in_proj")),
      x_proj(half_, (width + 15) / 16 + 2 * c.d_state, false, init.child("x_proj")),
      dt_proj((width + 15) / 16, half_, true, init.child("dt_proj")),
      A_log(init.a_log(half_, c.d_state)),
      D(init.constant({elem(half_)}, 1)),
      out_proj(width, width, false, init.child("out_proj")),
      conv1d_x(half_, c.d_conv, init.child("conv1d_x")),
      conv1d_z(half_, c.d_conv, init.child("conv1d_z")) {
  if (c.compat) {
    for (auto& [name, layer] :
         {std::pair{"in_proj", &in_proj}, {"x_proj", &x_proj}, {"dt_proj", &dt_proj}, {"out_proj", &out_proj}})
      start_small(*layer, init.child(name));
  } else {
    dt_proj.bias = init.child("dt_proj").dt_bias("bias", half_);
  }
  add_parameter("A_log", A_log, Decay::kNo);
  add_parameter("D", D, Decay::kNo);
  add_child("in_proj", in_proj);
  add_child("x_proj", x_proj);
  add_child("dt_proj", dt_proj);
  add_child("out_proj", out_proj);
  add_child("conv1d_x", conv1d_x);
  add_child("conv1d_z", conv1d_z);
}

mx::array MambaVisionMixer::forward(const mx::array& h, const WindowMask& mask,
                                    const std::optional<mx::array>& scale) const {
  const int64_t rank = dt_proj.weight.shape(1), state = A_log.shape(1);
  const auto copies = fan_out(h, 2);
  const auto halves = split_sizes(in_proj.weight, {half_, half_}, 0);
  const std::optional<mx::array> real = mask ? std::optional(mx::expand_dims(*mask, 2)) : std::nullopt;
  const auto branch = [&](const mx::array& x, const mx::array& weight, const Conv& conv) {
    Conv1dOptions o;
    o.symmetric = true;
    o.silu = true;
    auto v = linear(x, weight);
    if (real) v = v * *real;  // padding looks like the border of an image
    return causal_conv1d(v, conv.weight, o);
  };
  auto x = branch(copies[0], halves[0], conv1d_x);
  const auto z = branch(copies[1], halves[1], conv1d_z);
  if (real) x = x * *real;
  const auto u = fan_out(x, 2);
  const auto parts = split_sizes(x_proj(u[0]), {rank, state, state}, -1);
  auto delta = linear(parts[0], dt_proj.weight);
  // A step of zero keeps the state as it is.
  if (real) delta = delta + (*real - mx::array(1, real->dtype())) * mx::array(1e4f, real->dtype());
  ScanOptions o;
  o.D = D;
  o.delta_bias = twice_ ? *dt_proj.bias * mx::array(2, dt_proj.bias->dtype()) : *dt_proj.bias;
  o.delta_softplus = true;
  const auto y = selective_scan(u[1], delta, mx::negative(ops::exp(A_log)), parts[1], parts[2], o);
  // [y, z] is never put together: each meets its half of the weight.
  const auto weight = scale ? broadcast_multiply(out_proj.weight, mx::expand_dims(*scale, 1)) : out_proj.weight;
  const auto out = split_sizes(weight, {half_, half_}, 1);
  return add_n({linear(y, out[0]), linear(z, out[1])});
}

/// x + drop(norm2(conv2(gelu(norm1(conv1(x))))))
struct MambaVision::ConvBlock final : Module {
  ConvBlock(int64_t width, double drop_rate, const Init& init)
      : conv1({.in = width, .out = width, .kernel = 3, .padding = 1}, init.child("conv1")),
        norm1(width, init.child("norm1")),
        conv2({.in = width, .out = width, .kernel = 3, .padding = 1}, init.child("conv2")),
        norm2(width, init.child("norm2")),
        drop_path(drop_rate, init) {
    add_child("conv1", conv1);
    add_child("norm1", norm1);
    add_child("conv2", conv2);
    add_child("norm2", norm2);
    add_child("drop_path", drop_path);
  }
  std::string type_name() const override { return "ConvBlock"; }
  mx::array operator()(const mx::array& x) const {
    const auto copies = fan_out(x, 2);
    return drop_path(norm2.after(conv2, norm1.after(conv1, copies[1], Activation::kGeluTanh)), copies[0]);
  }

  Conv2d conv1;
  BatchNorm norm1;
  Conv2d conv2;
  BatchNorm norm2;
  DropPath drop_path;
};

/// x + drop(gamma_1 mixer(norm1(x)));  x + drop(gamma_2 mlp(norm2(x)))
struct MambaVision::Block final : Module {
  Block(const MambaVisionConfig& c, size_t level, bool scans, double drop_rate, const Init& init)
      : norm1(c.width(level), init.child("norm1")),
        norm2(c.width(level), init.child("norm2")),
        mlp(c.width(level), c.mlp_ratio * c.width(level), init.child("mlp")),
        drop_path(drop_rate, init) {
    add_child("norm1", norm1);
    if (scans && !c.own()) {
      const int64_t width = c.width(level), side = c.window_size[level], count = c.directions(1);
      directional = std::make_unique<DirectionalMixer>(
          MixerConfig{.kind = c.mixer, .width = width, .state = c.d_state, .conv = c.d_conv, .expand = 1}, count,
          init.child("mixer"));
      directions = mixer_directions(count, {side, side});
      add_child("mixer", *directional);
    } else if (scans) {
      mamba = std::make_unique<MambaVisionMixer>(c.width(level), c, init.child("mixer"));
      add_child("mixer", *mamba);
    } else {
      attention = std::make_unique<QkvAttention>(c.width(level), c.num_heads[level], init.child("mixer"));
      add_child("mixer", *attention);
    }
    add_child("norm2", norm2);
    add_child("mlp", mlp);
    if (c.compat) {
      if (attention) {
        start_small(attention->qkv, init.child("mixer").child("qkv"));
        start_small(attention->proj, init.child("mixer").child("proj"));
      }
      start_small(mlp.fc1, init.child("mlp").child("fc1"));
      start_small(mlp.fc2, init.child("mlp").child("fc2"));
    }
    if (c.layer_scale > 0) {
      gamma_1 = init.constant({elem(c.width(level))}, static_cast<float>(c.layer_scale));
      gamma_2 = init.constant({elem(c.width(level))}, static_cast<float>(c.layer_scale));
      add_parameter("gamma_1", *gamma_1, Decay::kNo);
      add_parameter("gamma_2", *gamma_2, Decay::kNo);
    }
    add_child("drop_path", drop_path);
  }
  std::string type_name() const override { return attention ? "AttentionBlock" : "MambaBlock"; }
  Residual forward(const Residual& x, const WindowMask& mask) const {
    auto [n1, before] = norm1(x);
    const auto mixed = mamba       ? mamba->forward(n1, mask, gamma_1)
                       : attention ? attention->forward(n1, mask, gamma_1)
                                   : mix(n1, mask);
    auto [n2, middle] = norm2(Residual{before, drop_path(mixed)});
    return {std::move(middle), drop_path(scaled(mlp.fc2, mlp.fc1(n2, Activation::kGelu), gamma_2))};
  }

  mx::array mix(const mx::array& h, const WindowMask& mask) const {
    const auto y = (*directional)(mask ? h * mx::expand_dims(*mask, 2) : h, directions);
    return gamma_1 ? y * *gamma_1 : y;
  }

  LayerNorm norm1;
  std::unique_ptr<MambaVisionMixer> mamba;  // one of the three
  std::unique_ptr<DirectionalMixer> directional;
  std::vector<ScanDirection> directions;  // of `directional`
  std::unique_ptr<QkvAttention> attention;
  LayerNorm norm2;
  Mlp mlp;
  std::optional<mx::array> gamma_1, gamma_2;
  DropPath drop_path;
};

struct MambaVision::Level final : Module {
  Level(const MambaVisionConfig& c, size_t index, const std::vector<double>& rates, const Init& init)
      : window(c.window_size[index]), mask(!c.compat) {
    const int64_t depth = c.depths[index], scans = (depth + 1) / 2;
    for (int64_t j = 0; j < depth; j++) {
      const std::string name = fmt::format("blocks.{}", j);
      const double rate = rates[static_cast<size_t>(j)];
      if (index < 2) {
        convs.push_back(std::make_unique<ConvBlock>(c.width(index), rate, init.child(name)));
        add_child(name, *convs.back());
      } else {
        blocks.push_back(std::make_unique<Block>(c, index, j < scans, rate, init.child(name)));
        add_child(name, *blocks.back());
      }
    }
    if (index + 1 < kLevels) {
      const int64_t width = c.width(index);
      reduction = std::make_unique<Conv2d>(
          Conv2dConfig{.in = width, .out = 2 * width, .kernel = 3, .stride = 2, .padding = 1, .bias = false},
          init.child("downsample.reduction.0"));
      add_child("downsample.reduction.0", *reduction);
    }
  }
  std::string type_name() const override { return "Level"; }

  int64_t window;
  bool mask;
  std::vector<std::unique_ptr<ConvBlock>> convs;
  std::vector<std::unique_ptr<Block>> blocks;
  std::unique_ptr<Conv2d> reduction;
};

MambaVision::~MambaVision() = default;

MambaVision::MambaVision(const MambaVisionConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      stem1({.in = c.in_channels, .out = c.in_dim, .kernel = 3, .stride = 2, .padding = 1, .bias = false},
            Init(seed).child("patch_embed.conv_down.0")),
      stem_norm1(c.in_dim, Init(seed), 1e-4f),
      stem2({.in = c.in_dim, .out = c.dim, .kernel = 3, .stride = 2, .padding = 1, .bias = false},
            Init(seed).child("patch_embed.conv_down.3")),
      stem_norm2(c.dim, Init(seed), 1e-4f),
      norm(c.width(kLevels - 1), Init(seed)) {
  const Init init(seed);
  add_child("patch_embed.conv_down.0", stem1);
  add_child("patch_embed.conv_down.1", stem_norm1);
  add_child("patch_embed.conv_down.3", stem2);
  add_child("patch_embed.conv_down.4", stem_norm2);
  const auto rates =
      drop_path_rates(c.drop_path_rate, std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0}));
  auto next = rates.begin();
  for (size_t i = 0; i < kLevels; i++) {
    const std::string name = fmt::format("levels.{}", i);
    const auto end = next + static_cast<std::ptrdiff_t>(c.depths[i]);
    levels.push_back(std::make_unique<Level>(c, i, std::vector<double>(next, end), init.child(name)));
    next = end;
    add_child(name, *levels.back());
  }
  add_child("norm", norm);
  if (c.num_classes > 0) {
    head = std::make_unique<Linear>(c.width(kLevels - 1), c.num_classes, true, init.child("head"));
    if (c.compat) start_small(*head, init.child("head"));
    add_child("head", *head);
  }
}

mx::array MambaVision::run(const mx::array& images, Maps* maps) const {
  check_images(images);
  auto x = stem_norm1.after(stem1, images, Activation::kRelu);
  x = stem_norm2.after(stem2, x, Activation::kRelu);
  for (const auto& level : levels) {
    for (const auto& conv : level->convs) x = pass(*conv, x, [&b = *conv](const mx::array& v) { return b(v); });
    if (!level->blocks.empty()) {
      const Windows w = windows_of(x, level->window, level->mask);
      Residual tokens{w.tokens, std::nullopt};
      for (const auto& block : level->blocks) {
        tokens =
            pass(*block, tokens, [&b = *block, real = w.real](const Residual& r) { return b.forward(r, real); });
      }
      x = w.map(tokens.value());
    }
    if (maps) maps->add(x);
    if (level->reduction) x = (*level->reduction)(x);
  }
  return x;
}

mx::array MambaVision::forward_features(const mx::array& images) const { return norm(run(images, nullptr)); }

mx::array MambaVision::pool(const mx::array& features) const { return mean_over(features, {1, 2}); }

std::vector<StageInfo> MambaVision::stages() const {
  std::vector<StageInfo> list;
  for (size_t i = 0; i < kLevels; i++)
    list.push_back({fmt::format("levels.{}", i), int64_t{4} << i, config_.width(i)});
  return list;
}

std::vector<mx::array> MambaVision::feature_maps(const mx::array& images,
                                                 const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

}  // namespace aspis
