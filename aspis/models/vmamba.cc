#include "aspis/models/vmamba.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <cmath>
#include <numeric>
#include <utility>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/directional_mixer.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/layer_norm/layer_norm.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/reduce/reduce.h"
#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {
namespace {

constexpr size_t kLevels = 4;
constexpr int64_t kPasses = 4;

template <typename V>
void visit_fields(V&& v, VMambaConfig& c) {
  v("img_size", c.img_size);
  v("in_channels", c.in_channels);
  v("dim", c.dim);
  v("depths", c.depths);
  v("d_state", c.d_state);
  v("ssm_ratio", c.ssm_ratio);
  v("gate", c.gate);
  v("d_conv", c.d_conv);
  v("conv_bias", c.conv_bias);
  v("mlp_ratio", c.mlp_ratio);
  v("patch_embed", c.patch_embed);
  v("downsample", c.downsample);
  v("scan_mode", c.scan_mode);
  v("ssm_init", c.ssm_init);
  v("mixer", c.mixer);
  v("num_directions", c.num_directions);
  v("drop_path_rate", c.drop_path_rate);
  v("num_classes", c.num_classes);
}

const VMambaConfig& checked(const VMambaConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

int64_t rank_of(int64_t width) { return (width + 15) / 16; }

Conv2dConfig first_conv(const VMambaConfig& c) {
  if (c.patch_embed == "v1") return {.in = c.in_channels, .out = c.dim, .kernel = 4, .stride = 4};
  return {.in = c.in_channels, .out = c.dim / 2, .kernel = 3, .stride = 2, .padding = 1};
}

/// Part `first` .. `first + count` of a parameter's leading axis.
mx::array part(const mx::array& a, int64_t first, int64_t count) {
  if (count == a.shape(0)) return a;
  mx::Shape start(a.ndim(), 0), stop = a.shape();
  start[0] = elem(first);
  stop[0] = elem(first + count);
  return mx::slice(a, start, stop);
}

}  // namespace

void VMambaConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  const auto in_range = [&](const char* key, int64_t value, int64_t lo, int64_t hi) {
    config::in_range(where, kind, key, value, lo, hi);
  };
  in_range("img_size", img_size, 4, 1 << 16);
  in_range("dim", dim, 2, 1 << 13);
  in_range("the number of values of depths", static_cast<int64_t>(depths.size()), kLevels, kLevels);
  for (const int64_t v : depths) in_range("depths", v, 1, 1 << 10);
  in_range("d_state", d_state, 1, 256);
  in_range("ssm_ratio", ssm_ratio, 1, 64);
  check_mixer(where, kind, d_state);
  in_range("d_conv", d_conv, 1, 63);
  config::divides(where, kind, "2", 2, "d_conv + 1", d_conv + 1);
  in_range("mlp_ratio", mlp_ratio, 0, 64);
  config::one_of(where, kind, "patch_embed", patch_embed, {"v1", "v2"});
  config::one_of(where, kind, "downsample", downsample, {"v1", "v3"});
  config::one_of(where, kind, "scan_mode", scan_mode, {"cross", "unidirectional", "bidirectional", "cascade"});
  config::one_of(where, kind, "ssm_init", ssm_init, {"v0", "v1", "v2"});
  if (patch_embed == "v2") config::divides(where, kind, "2", 2, "dim", dim);
}

std::string VMambaConfig::to_json() const {
  return config::write(*this, "vmamba", [](auto&& v, VMambaConfig& c) { visit_fields(v, c); });
}

VMambaConfig VMambaConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<VMambaConfig>(text, "vmamba", where, kind,
                                    [](auto&& v, VMambaConfig& c) { visit_fields(v, c); });
}

Ss2d::Ss2d(int64_t width, const VMambaConfig& c, const Init& init)
    : inner_(c.ssm_ratio * width),
      mode_(c.scan_mode),
      gate_(c.gate),
      in_proj(width, (c.gate ? 2 : 1) * inner_, false, init.child("in_proj")),
      conv2d({.in = inner_,
              .out = inner_,
              .kernel = c.d_conv,
              .padding = c.d_conv / 2,
              .groups = inner_,
              .bias = c.conv_bias},
             init.child("conv2d")),
      x_proj_weight(init.kaiming_uniform(
          "x_proj_weight", {elem(kPasses), elem(rank_of(width) + 2 * c.d_state), elem(inner_)}, inner_)),
      dt_projs_weight(init.kaiming_uniform("dt_projs_weight", {elem(kPasses), elem(inner_), elem(rank_of(width))},
                                           rank_of(width))),
      dt_projs_bias(mx::reshape(init.dt_bias("dt_projs_bias", kPasses * inner_), {elem(kPasses), elem(inner_)})),
      A_logs(init.a_log(kPasses * inner_, c.d_state)),
      Ds(init.constant({elem(kPasses * inner_)}, 1)),
      out_norm(inner_, init.child("out_norm")),
      out_proj(inner_, width, false, init.child("out_proj")) {
  start_small(in_proj, init.child("in_proj"));
  start_small(out_proj, init.child("out_proj"));
  if (c.ssm_init == "v1") {
    A_logs = init.normal("A_logs", A_logs.shape(), 1);
    dt_projs_weight = init.normal("dt_projs_weight", dt_projs_weight.shape(), 0.1);
    dt_projs_bias = init.normal("dt_projs_bias", dt_projs_bias.shape(), 0.1);
  } else if (c.ssm_init == "v2") {
    const auto positive = [&](const char* name, const mx::Shape& shape) {
      return init.uniform(name, shape, 0.05) + mx::array(0.05f);
    };
    A_logs = init.constant(A_logs.shape(), 0);
    dt_projs_weight = positive("dt_projs_weight", dt_projs_weight.shape());
    dt_projs_bias = positive("dt_projs_bias", dt_projs_bias.shape());
  }
  add_child("in_proj", in_proj);
  add_child("conv2d", conv2d);
  add_parameter("x_proj_weight", x_proj_weight);
  add_parameter("dt_projs_weight", dt_projs_weight);
  add_parameter("dt_projs_bias", dt_projs_bias, Decay::kNo);
  add_parameter("A_logs", A_logs, Decay::kNo);
  add_parameter("Ds", Ds, Decay::kNo);
  add_child("out_norm", out_norm);
  add_child("out_proj", out_proj);
}

mx::array Ss2d::scans(const mx::array& x, int64_t first, const std::vector<ScanDirection>& directions) const {
  const auto K = static_cast<int64_t>(directions.size());
  const int64_t N = A_logs.shape(1), R = dt_projs_weight.shape(2), D = inner_;
  const auto copies = fan_out(x, static_cast<int>(K) + 1);
  // What a pass projects does not depend on its order: one product serves all.
  const auto projected = linear(copies[static_cast<size_t>(K)],
                                mx::reshape(part(x_proj_weight, first, K), {elem(K * (R + 2 * N)), elem(D)}));
  std::vector<int64_t> sizes;
  for (int64_t k = 0; k < K; k++) sizes.insert(sizes.end(), {R, N, N});
  const auto parts = split_sizes(projected, sizes, -1);
  const std::vector<int64_t> ones(static_cast<size_t>(K), 1), channels(static_cast<size_t>(K), D);
  const auto dt_weights = split_sizes(part(dt_projs_weight, first, K), ones, 0);
  const auto dt_biases = split_sizes(part(dt_projs_bias, first, K), ones, 0);
  const auto A = split_sizes(mx::negative(ops::exp(part(A_logs, first * D, K * D))), channels, 0);
  const auto skips = split_sizes(part(Ds, first * D, K * D), channels, 0);
  std::vector<mx::array> outs;
  for (size_t k = 0; k < directions.size(); k++) {
    ScanOptions o;
    o.D = skips[k];
    o.delta_bias = mx::squeeze(dt_biases[k], 0);
    o.delta_softplus = true;
    o.reverse = directions[k].reverse;
    o.order = directions[k].order;
    const auto delta = linear(parts[3 * k], mx::squeeze(dt_weights[k], 0));
    outs.push_back(selective_scan(copies[k], delta, A[k], parts[3 * k + 1], parts[3 * k + 2], o));
  }
  return add_n(outs);
}

mx::array Ss2d::passes(const mx::array& x) const {
  const auto B = x.shape(0), H = x.shape(1), W = x.shape(2), D = x.shape(3);
  const ScanDirection forwards{}, backwards{std::nullopt, true};
  if (mode_ == "cascade") {
    const auto rows = mx::reshape(scans(mx::reshape(x, {B * H, W, D}), 0, {forwards, backwards}), {B, H, W, D});
    const auto columns = mx::transpose(layer_norm(rows, std::nullopt, std::nullopt), {0, 2, 1, 3});
    const auto y = scans(mx::reshape(columns, {B * W, H, D}), 2, {forwards, backwards});
    return mx::transpose(mx::reshape(y, {B, W, H, D}), {0, 2, 1, 3});
  }
  std::vector<ScanDirection> directions{forwards, forwards, forwards, forwards};
  if (mode_ == "bidirectional") directions = {forwards, forwards, backwards, backwards};
  if (mode_ == "cross") {
    const std::vector<int64_t> grid{H, W};
    directions = {forwards, scan_direction(grid, {{1, 0}, false}), backwards,
                  scan_direction(grid, {{1, 0}, true})};
  }
  return mx::reshape(scans(mx::reshape(x, {B, H * W, D}), 0, directions), {B, H, W, D});
}

mx::array Ss2d::operator()(const mx::array& h) const {
  if (!gate_) return out_proj(out_norm(passes(silu(conv2d(in_proj(h))))));
  const auto copies = fan_out(h, 2);
  const auto halves = split_sizes(in_proj.weight, {inner_, inner_}, 0);
  GatedNormOptions o;
  o.z = linear(copies[1], halves[1]);
  o.weight = out_norm.weight;
  o.bias = out_norm.bias;
  o.norm_before_gate = true;
  return out_proj(layer_norm_gated(passes(silu(conv2d(linear(copies[0], halves[0])))), o));
}

/// x + drop(op(norm(x)));  x + drop(mlp(norm2(x)))
struct VMamba::Block final : Module {
  Block(const VMambaConfig& c, size_t level, double drop_rate, const Init& init)
      : norm(c.width(level), init.child("norm")), drop_path(drop_rate, init) {
    add_child("norm", norm);
    if (c.own()) {
      op = std::make_unique<Ss2d>(c.width(level), c, init.child("op"));
      add_child("op", *op);
    } else {
      directional = std::make_unique<DirectionalMixer>(MixerConfig{.kind = c.mixer,
                                                                   .width = c.width(level),
                                                                   .state = c.d_state,
                                                                   .conv = c.d_conv,
                                                                   .expand = c.ssm_ratio},
                                                       c.directions(kPasses), init.child("op"));
      add_child("op", *directional);
    }
    if (c.mlp_ratio > 0) {
      norm2 = std::make_unique<LayerNorm>(c.width(level), init.child("norm2"));
      mlp = std::make_unique<Mlp>(c.width(level), c.mlp_ratio * c.width(level), init.child("mlp"));
      start_small(mlp->fc1, init.child("mlp.fc1"));
      start_small(mlp->fc2, init.child("mlp.fc2"));
      add_child("norm2", *norm2);
      add_child("mlp", *mlp);
    }
    add_child("drop_path", drop_path);
  }
  std::string type_name() const override { return "VSSBlock"; }
  Residual forward(const Residual& x) const {
    auto [n1, before] = norm(x);
    Residual mixed{std::move(before), drop_path(op ? (*op)(n1) : mix(n1))};
    if (!mlp) return mixed;
    auto [n2, middle] = (*norm2)(mixed);
    return {std::move(middle), drop_path((*mlp)(n2))};
  }
  mx::array mix(const mx::array& h) const {
    const auto B = h.shape(0), H = h.shape(1), W = h.shape(2), C = h.shape(3);
    const auto directions = mixer_directions(static_cast<int64_t>(directional->mixers.size()), {H, W});
    return mx::reshape((*directional)(mx::reshape(h, {B, H * W, C}), directions), {B, H, W, C});
  }

  LayerNorm norm;
  std::unique_ptr<Ss2d> op;  // one of the two
  std::unique_ptr<DirectionalMixer> directional;
  std::unique_ptr<LayerNorm> norm2;
  std::unique_ptr<Mlp> mlp;
  DropPath drop_path;
};

struct VMamba::Level final : Module {
  Level(const VMambaConfig& c, size_t index, const std::vector<double>& rates, const Init& init) {
    for (size_t j = 0; j < rates.size(); j++) {
      const std::string name = fmt::format("blocks.{}", j);
      blocks.push_back(std::make_unique<Block>(c, index, rates[j], init.child(name)));
      add_child(name, *blocks.back());
    }
    if (index + 1 == kLevels) return;
    const int64_t w = c.width(index);
    if (c.downsample == "v1") {
      norm = std::make_unique<LayerNorm>(4 * w, init.child("downsample.norm"));
      merge = std::make_unique<Linear>(4 * w, 2 * w, false, init.child("downsample.reduction"));
      start_small(*merge, init.child("downsample.reduction"));
      add_child("downsample.reduction", *merge);
      add_child("downsample.norm", *norm);
    } else {
      conv = std::make_unique<Conv2d>(Conv2dConfig{.in = w, .out = 2 * w, .kernel = 3, .stride = 2, .padding = 1},
                                      init.child("downsample.1"));
      norm = std::make_unique<LayerNorm>(2 * w, init.child("downsample.3"));
      add_child("downsample.1", *conv);
      add_child("downsample.3", *norm);
    }
  }
  std::string type_name() const override { return "Level"; }

  mx::array reduce(const mx::array& x) const {
    if (conv) return (*norm)((*conv)(x));
    const int H = x.shape(1), W = x.shape(2);
    const auto whole =
        H % 2 + W % 2 > 0 ? mx::pad(x, {{0, 0}, {0, H % 2}, {0, W % 2}, {0, 0}}, mx::array(0, x.dtype())) : x;
    // {B, h, 2, w, 2, C}: columns of a pair slower than its rows, as there.
    const auto B = x.shape(0), h = (H + 1) / 2, w = (W + 1) / 2, C = x.shape(3);
    const auto pairs = mx::transpose(mx::reshape(whole, {B, h, 2, w, 2, C}), {0, 1, 3, 4, 2, 5});
    return (*merge)((*norm)(mx::reshape(pairs, {B, h, w, 4 * C})));
  }

  std::vector<std::unique_ptr<Block>> blocks;
  std::unique_ptr<LayerNorm> norm;
  std::unique_ptr<Linear> merge;  // one of the two, or none
  std::unique_ptr<Conv2d> conv;
};

VMamba::~VMamba() = default;

VMamba::VMamba(const VMambaConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      stem1(first_conv(c), Init(seed).child("patch_embed.0")),
      stem_norm1(first_conv(c).out, Init(seed).child("patch_embed.2")),
      norm(c.width(kLevels - 1), Init(seed).child("classifier.norm")) {
  const Init init(seed);
  add_child("patch_embed.0", stem1);
  add_child("patch_embed.2", stem_norm1);
  if (c.patch_embed == "v2") {
    stem2 = std::make_unique<Conv2d>(
        Conv2dConfig{.in = c.dim / 2, .out = c.dim, .kernel = 3, .stride = 2, .padding = 1},
        init.child("patch_embed.5"));
    stem_norm2 = std::make_unique<LayerNorm>(c.dim, init.child("patch_embed.7"));
    add_child("patch_embed.5", *stem2);
    add_child("patch_embed.7", *stem_norm2);
  }
  const auto rates =
      drop_path_rates(c.drop_path_rate, std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0}));
  auto next = rates.begin();
  for (size_t i = 0; i < kLevels; i++) {
    const std::string name = fmt::format("layers.{}", i);
    const auto end = next + static_cast<std::ptrdiff_t>(c.depths[i]);
    levels.push_back(std::make_unique<Level>(c, i, std::vector<double>(next, end), init.child(name)));
    next = end;
    add_child(name, *levels.back());
  }
  add_child("classifier.norm", norm);
  if (c.num_classes > 0) {
    head = std::make_unique<Linear>(c.width(kLevels - 1), c.num_classes, true, init.child("classifier.head"));
    start_small(*head, init.child("classifier.head"));
    add_child("classifier.head", *head);
  }
}

mx::array VMamba::run(const mx::array& images, Maps* maps) const {
  check_images(images, config_.patch_embed == "v1" ? 4 : 1);
  auto x = stem_norm1(stem1(images));
  if (stem2) x = (*stem_norm2)((*stem2)(gelu(x)));
  for (const auto& level : levels) {
    Residual r{x, std::nullopt};
    for (const auto& block : level->blocks) {
      r = pass(*block, r, [&b = *block](const Residual& v) { return b.forward(v); });
    }
    x = r.value();
    if (maps) maps->add(x);
    if (level->norm) x = level->reduce(x);
  }
  return x;
}

mx::array VMamba::forward_features(const mx::array& images) const { return norm(run(images, nullptr)); }

mx::array VMamba::pool(const mx::array& features) const { return mean_over(features, {1, 2}); }

std::vector<StageInfo> VMamba::stages() const {
  std::vector<StageInfo> list;
  for (size_t i = 0; i < kLevels; i++)
    list.push_back({fmt::format("layers.{}", i), int64_t{4} << i, config_.width(i)});
  return list;
}

std::vector<mx::array> VMamba::feature_maps(const mx::array& images, const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

}  // namespace aspis
