#include "aspis/models/edifice_mambavision.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/directional_mixer.h"
#include "aspis/nn/pool.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/attention/attention.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/reduce/reduce.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

constexpr size_t kStages = 4;

template <typename V>
void visit_fields(V&& v, EdificeConfig& c) {
  v("image_size", c.img_size);
  v("in_channels", c.in_channels);
  v("dim", c.dim);
  v("depths", c.depths);
  v("num_heads", c.num_heads);
  v("mlp_ratio", c.mlp_ratio);
  v("dropout", c.dropout);
  v("d_state", c.d_state);
  v("d_conv", c.d_conv);
  v("num_classes", c.num_classes);
  v("compat", c.compat);
  v("mixer", c.mixer);
  v("num_directions", c.num_directions);
}

const EdificeConfig& checked(const EdificeConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

/// Size of the last map of an image of `size` pixels: five convolutions of stride 2.
int64_t last_map(int64_t size) { return (size + 31) / 32; }

/// Start values: Glorot uniform, zero bias.
double glorot(int64_t in, int64_t out) { return std::sqrt(6.0 / static_cast<double>(in + out)); }

Linear& start(Linear& layer, const Init& init) {
  layer.weight =
      init.uniform("weight", layer.weight.shape(), glorot(layer.weight.shape(1), layer.weight.shape(0)));
  layer.bias = init.constant(layer.bias->shape(), 0);
  return layer;
}

Conv2d& start(Conv2d& conv, const Init& init) {
  const auto& c = conv.config();
  const int64_t taps = c.kernel * c.kernel;
  conv.weight = init.uniform("weight", conv.weight.shape(), glorot(taps * c.in, taps * c.out));
  conv.bias = init.constant(conv.bias->shape(), 0);
  return conv;
}

std::unique_ptr<Linear> dense(int64_t in, int64_t out, const Init& init) {
  auto layer = std::make_unique<Linear>(in, out, true, init);
  start(*layer, init);
  return layer;
}

Conv2dConfig three(int64_t in, int64_t out, int64_t stride = 1) {
  return {.in = in, .out = out, .kernel = 3, .stride = stride, .padding = 1};
}

/// silu(conv(x) + bias) over tokens, centred.
struct TokenConv final : Module {
  TokenConv(int64_t channels, int64_t taps, const Init& init)
      : weight(init.uniform("weight", {elem(channels), elem(taps)}, glorot(taps, taps * channels))),
        bias(init.constant({elem(channels)}, 0)) {
    add_parameter("weight", weight);
    add_parameter("bias", bias, Decay::kNo);
  }
  std::string type_name() const override { return "DepthwiseConv1d"; }
  mx::array operator()(const mx::array& x) const {
    Conv1dOptions o;
    o.bias = bias;
    o.symmetric = true;
    o.silu = true;
    return causal_conv1d(x, weight, o);
  }
  mx::array weight, bias;
};

/// A block whose layers the model lists as its own, with a prefix instead of a dot.
struct FlatBlock : Module {
  void part(const std::string& name, Module& layer) {
    add_child(name, layer);
    layers.emplace_back(name, &layer);
  }
  std::vector<std::pair<std::string, Module*>> layers;
};

int64_t stem_width(const EdificeConfig& c) { return std::min<int64_t>(c.dim, 64); }

}  // namespace

EdificeConfig EdificeConfig::tiny() { return {}; }

EdificeConfig EdificeConfig::small() {
  EdificeConfig c;
  c.dim = 96;
  c.depths = {3, 3, 7, 5};
  return c;
}

EdificeConfig EdificeConfig::base() {
  EdificeConfig c;
  c.dim = 128;
  c.depths = {3, 3, 10, 5};
  return c;
}

void EdificeConfig::check(const std::string& where, ErrorKind kind) const {
  config::in_range(where, kind, "image_size", img_size, 1, 1 << 16);
  check_common(where, kind);
  config::in_range(where, kind, "dim", dim, 1, 1 << 13);
  for (const auto& [key, list] : {std::pair{"depths", &depths}, {"num_heads", &num_heads}}) {
    config::in_range(where, kind, fmt::format("the number of values of {}", key).c_str(),
                     static_cast<int64_t>(list->size()), kStages, kStages);
    for (const int64_t v : *list) config::in_range(where, kind, key, v, 1, 1 << 10);
  }
  config::in_range(where, kind, "mlp_ratio", mlp_ratio, 1, 64);
  config::in_range(where, kind, "dropout", dropout, 0.0, 0.99);
  config::in_range(where, kind, "d_state", d_state, 1, 256);
  config::in_range(where, kind, "d_conv", d_conv, 1, 64);
  check_mixer(where, kind, d_state);
  for (size_t i = 2; i < kStages; i++)
    config::divides(where, kind, "num_heads", num_heads[i], "the width of its stage", width(i));
}

std::string EdificeConfig::to_json() const {
  return config::write(*this, "edifice_mambavision", [](auto&& v, EdificeConfig& c) { visit_fields(v, c); });
}

EdificeConfig EdificeConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<EdificeConfig>(text, "edifice_mambavision", where, kind,
                                     [](auto&& v, EdificeConfig& c) { visit_fields(v, c); });
}

/// x + bn2(conv2(gelu(bn1(conv1(x)))))
struct EdificeMambaVision::ConvBlock final : FlatBlock {
  ConvBlock(int64_t width, const Init& root, const std::string& prefix)
      : conv1(three(width, width), root.child(prefix + "conv1")),
        bn1(width, root),
        conv2(three(width, width), root.child(prefix + "conv2")),
        bn2(width, root) {
    part("conv1", start(conv1, root.child(prefix + "conv1")));
    part("bn1", bn1);
    part("conv2", start(conv2, root.child(prefix + "conv2")));
    part("bn2", bn2);
  }
  std::string type_name() const override { return "ConvBlock"; }
  mx::array operator()(const mx::array& x) const {
    const auto copies = fan_out(x, 2);
    return add_n({copies[0], bn2.after(conv2, gelu(bn1.after(conv1, copies[1])))});
  }
  Conv2d conv1;
  BatchNorm bn1;
  Conv2d conv2;
  BatchNorm bn2;
};

/// x + drop(mixer(norm1(x)));  x + drop(mlp(norm2(x)))
struct EdificeMambaVision::Block final : FlatBlock {
  Block(const EdificeConfig& c, size_t stage, bool scans, const Init& root, const std::string& prefix)
      : norm1(c.width(stage), root),
        norm2(c.width(stage), root),
        drop1(c.dropout, root.child(prefix + "mixer")),
        drop2(c.dropout, root.child(prefix + "mlp")),
        compat(c.compat),
        heads(c.num_heads[stage]) {
    const int64_t width = c.width(stage), half = width / 2, rank = std::max<int64_t>(half / 16, 1);
    const auto linear_layer = [&](const char* name, std::unique_ptr<Linear>& layer, int64_t in, int64_t out) {
      layer = dense(in, out, root.child(prefix + name));
      part(name, *layer);
    };
    part("norm1", norm1);
    if (scans && !c.own()) {
      directional = std::make_unique<DirectionalMixer>(
          MixerConfig{.kind = c.mixer, .width = width, .state = c.d_state, .conv = c.d_conv, .expand = 1},
          c.directions(1), root.child(prefix + "mixer"));
      part("mixer", *directional);
    } else if (scans) {
      linear_layer("mixer_in_proj", in_proj, width, width);
      ssm_conv = std::make_unique<TokenConv>(half, c.d_conv, root.child(prefix + "mixer_ssm_conv"));
      part("mixer_ssm_conv", *ssm_conv);
      linear_layer("mixer_ssm_x_proj", x_proj, half, rank + 2 * c.d_state);
      linear_layer("mixer_ssm_dt_proj", dt_proj, rank, half);
      if (!c.compat) {
        dt_proj->bias = root.child(prefix + "mixer_ssm_dt_proj").dt_bias("bias", half);
        A_log = root.a_log(half, c.d_state);
        D = root.constant({elem(half)}, 1);
        add_parameter("mixer_ssm_A_log", *A_log, Decay::kNo);
        add_parameter("mixer_ssm_D", *D, Decay::kNo);
      }
      sym_conv = std::make_unique<TokenConv>(half, c.d_conv, root.child(prefix + "mixer_sym_conv"));
      part("mixer_sym_conv", *sym_conv);
      linear_layer("mixer_out_proj", out_proj, width, width);
    } else {
      linear_layer("attn_qkv", qkv, width, 3 * width);
      linear_layer("attn_proj", out_proj, width, width);
    }
    part("norm2", norm2);
    linear_layer("mlp_up", mlp_up, width, c.mlp_ratio * width);
    linear_layer("mlp_down", mlp_down, c.mlp_ratio * width, width);
    part("drop1", drop1);
    part("drop2", drop2);
    if (scans && c.compat && c.own()) {
      std::vector<float> decays;
      for (int64_t d = 0; d < half; d++) {
        for (int64_t n = 1; n <= c.d_state; n++) decays.push_back(-std::log(static_cast<float>(n)));
      }
      fixed_A = mx::array(decays.begin(), {elem(half), elem(c.d_state)});
    }
  }
  std::string type_name() const override { return qkv ? "AttentionBlock" : "MambaBlock"; }
  Residual forward(const Residual& x, const std::vector<int64_t>& grid) const {
    auto [n1, before] = norm1(x);
    const auto mixed = qkv ? attend(n1) : directional ? mix(n1, grid) : scan(n1);
    auto [n2, middle] = norm2(Residual{before, drop1(mixed)});
    return {std::move(middle), drop2((*mlp_down)((*mlp_up)(n2, Activation::kGelu)))};
  }
  mx::array mix(const mx::array& h, const std::vector<int64_t>& grid) const {
    return (*directional)(h, mixer_directions(static_cast<int64_t>(directional->mixers.size()), grid));
  }

  mx::array scan(const mx::array& h) const {
    const int64_t half = h.shape(2) / 2, rank = dt_proj->weight.shape(1);
    const int64_t state = (x_proj->weight.shape(0) - rank) / 2;
    const auto copies = fan_out(h, 2);
    const auto weights = split_sizes(in_proj->weight, {half, half}, 0),
               biases = split_sizes(*in_proj->bias, {half, half}, 0);
    const auto u = fan_out((*ssm_conv)(linear(copies[0], weights[0], biases[0])), 2);
    const auto z = (*sym_conv)(linear(copies[1], weights[1], biases[1]));
    const auto parts = split_sizes((*x_proj)(u[0]), {rank, state, state}, -1);
    ScanOptions o;
    o.D = D;
    o.delta_bias = dt_proj->bias;
    o.delta_softplus = true;
    const auto A = compat ? mx::astype(*fixed_A, h.dtype()) : mx::negative(ops::exp(*A_log));
    const auto y = selective_scan(u[1], linear(parts[0], dt_proj->weight), A, parts[1], parts[2], o);
    const auto out = split_sizes(out_proj->weight, {half, half}, 1);
    return add_n({linear(y, out[0], *out_proj->bias), linear(z, out[1])});
  }

  mx::array attend(const mx::array& h) const {
    const auto B = h.shape(0), L = h.shape(1), E = h.shape(2), H = compat ? 1 : elem(heads), d = E / H;
    const auto parts = split_sizes(mx::reshape((*qkv)(h), {B, L, 3, H, d}), {1, 1, 1}, 2);
    const auto scale_width = E / elem(heads);  // with compat not the width of its one head
    AttentionOptions o;
    o.scale = 1 / std::sqrt(static_cast<float>(scale_width));
    const auto y = attention(mx::squeeze(parts[0], 2), mx::squeeze(parts[1], 2), mx::squeeze(parts[2], 2), o);
    return (*out_proj)(mx::reshape(y, {B, L, E}));
  }

  LayerNorm norm1, norm2;
  std::unique_ptr<Linear> in_proj, x_proj, dt_proj, qkv, out_proj, mlp_up, mlp_down;
  std::unique_ptr<TokenConv> ssm_conv, sym_conv;
  std::unique_ptr<DirectionalMixer> directional;  // instead of those
  std::optional<mx::array> A_log, D, fixed_A;
  Dropout drop1, drop2;
  bool compat;
  int64_t heads;
};

EdificeMambaVision::~EdificeMambaVision() = default;

EdificeMambaVision::EdificeMambaVision(const EdificeConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      stem_conv1(three(c.in_channels, stem_width(c), 2), Init(seed)),
      stem_bn1(stem_width(c), Init(seed)),
      stem_conv2(three(stem_width(c), c.dim, 2), Init(seed)),
      stem_bn2(c.dim, Init(seed)),
      norm(c.compat ? last_map(c.img_size) : c.width(kStages - 1), Init(seed)) {
  const Init init(seed);
  add_child("stem_conv1", start(stem_conv1, init.child("stem_conv1")));
  add_child("stem_bn1", stem_bn1);
  add_child("stem_conv2", start(stem_conv2, init.child("stem_conv2")));
  add_child("stem_bn2", stem_bn2);
  const auto adopt = [this](const std::string& prefix, const FlatBlock& block) {
    for (const auto& [name, layer] : block.layers) add_child(prefix + name, *layer);
  };
  conv_blocks.resize(2);
  blocks.resize(2);
  for (size_t i = 0; i < kStages; i++) {
    for (int64_t j = 0; j < c.depths[i]; j++) {
      if (i < 2) {
        const std::string prefix = fmt::format("stage_{}_block_{}_", i, j);
        conv_blocks[i].push_back(std::make_unique<ConvBlock>(c.width(i), init, prefix));
        adopt(prefix, *conv_blocks[i].back());
      } else {
        const bool scans = j < (c.depths[i] + 1) / 2;
        const std::string prefix = fmt::format("stage_{}_{}_{}_", i, scans ? "mamba" : "attn", j);
        blocks[i - 2].push_back(std::make_unique<Block>(c, i, scans, init, prefix));
        Block& block = *blocks[i - 2].back();
        adopt(prefix, block);
        if (block.A_log) {
          add_parameter(prefix + "mixer_ssm_A_log", *block.A_log, Decay::kNo);
          add_parameter(prefix + "mixer_ssm_D", *block.D, Decay::kNo);
        }
      }
    }
    if (i + 1 == kStages) continue;
    const std::string name = fmt::format("downsample_{}", i);
    downsample.push_back(std::make_unique<Conv2d>(three(c.width(i), c.width(i + 1), 2), init.child(name)));
    add_child(name, start(*downsample.back(), init.child(name)));
  }
  add_child("final_norm", norm);
  if (c.num_classes > 0) {
    head = dense(c.width(kStages - 1), c.num_classes, init.child("classifier"));
    add_child("classifier", *head);
  }
}

mx::array EdificeMambaVision::run(const mx::array& images, Maps* maps) const {
  check_images(images);
  auto x = relu(stem_bn1.after(stem_conv1, images));
  x = relu(stem_bn2.after(stem_conv2, x));
  for (size_t i = 0; i < kStages; i++) {
    if (i < 2) {
      for (const auto& b : conv_blocks[i]) x = pass(*b, x, [&b = *b](const mx::array& v) { return b(v); });
    } else {
      const auto shape = x.shape();
      Residual r{mx::reshape(x, {shape[0], shape[1] * shape[2], shape[3]}), std::nullopt};
      const std::vector<int64_t> grid{shape[1], shape[2]};
      for (const auto& b : blocks[i - 2]) {
        r = pass(*b, r, [&b = *b, grid](const Residual& v) { return b.forward(v, grid); });
      }
      x = mx::reshape(r.value(), shape);
    }
    if (maps) maps->add(x);
    if (i < downsample.size()) x = (*downsample[i])(x);
  }
  return x;
}

mx::array EdificeMambaVision::forward_features(const mx::array& images) const {
  const auto x = run(images, nullptr);
  if (!config_.compat) return norm(x);
  require(x.shape(2) == norm.weight.shape(0), [&] {
    return Error::Parts{
        .where = model_type(),
        .required = fmt::format("images about {} pixels wide: with compat the last norm goes over the "
                                "width of the map, {}",
                                config_.img_size, norm.weight.shape(0)),
        .got = fmt::format("{} pixels", images.shape(2)),
        .hint = "another image_size, or compat false"};
  });
  return mx::transpose(norm(mx::transpose(x, {0, 1, 3, 2})), {0, 1, 3, 2});
}

mx::array EdificeMambaVision::pool(const mx::array& features) const { return mean_over(features, {1, 2}); }

mx::array EdificeMambaVision::operator()(const mx::array& images) const {
  const auto pooled = pool(forward_features(images));
  return head ? classify(pooled) : pooled;
}

std::vector<StageInfo> EdificeMambaVision::stages() const {
  std::vector<StageInfo> list;
  for (size_t i = 0; i < kStages; i++)
    list.push_back({fmt::format("stage_{}", i), int64_t{4} << i, config_.width(i)});
  return list;
}

std::vector<mx::array> EdificeMambaVision::feature_maps(const mx::array& images,
                                                        const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

NamedArrays EdificeMambaVision::from_axon(const NamedArrays& values) const {
  std::map<std::string, mx::Shape> shapes;
  for (const auto& [name, value] : state()) shapes.emplace(name, value.shape());
  const std::pair<const char*, const char*> words[] = {{"kernel", "weight"},
                                                       {"gamma", "weight"},
                                                       {"beta", "bias"},
                                                       {"mean", "running_mean"},
                                                       {"var", "running_var"}};
  NamedArrays out;
  for (const auto& [name, value] : values) {
    const size_t dot = name.rfind('.');
    std::string here = name;
    for (const auto& [theirs, ours] : words) {
      if (dot != std::string::npos && name.substr(dot + 1) == theirs) here = name.substr(0, dot + 1) + ours;
    }
    const auto want = shapes.find(here);
    if (name.substr(dot + 1) != "kernel" || want == shapes.end()) {
      out.emplace_back(here, value);
      continue;
    }
    // The first order of axes whose shape fits; one that does not is left to `load` to report.
    const std::vector<std::vector<int>> orders =
        value.ndim() == 2   ? std::vector<std::vector<int>>{{1, 0}}
        : value.ndim() == 3 ? std::vector<std::vector<int>>{{2, 0, 1}, {0, 1, 2}}
        : value.ndim() == 4 ? std::vector<std::vector<int>>{{0, 2, 3, 1}, {3, 0, 1, 2}}
                            : std::vector<std::vector<int>>{};
    auto fitting = value;
    for (const auto& order : orders) {
      auto turned = mx::transpose(value, order);
      if (value.ndim() == 3 &&
          turned.size() == static_cast<size_t>(want->second[0]) * static_cast<size_t>(want->second[1]) &&
          turned.shape(0) == want->second[0])
        turned = mx::reshape(turned, want->second);
      if (turned.shape() != want->second) continue;
      fitting = turned;
      break;
    }
    out.emplace_back(here, fitting);
  }
  return out;
}

std::unique_ptr<EdificeMambaVision> build_edifice(const EdificeConfig& config, uint64_t seed) {
  return std::make_unique<EdificeMambaVision>(config, seed);
}

std::unique_ptr<EdificeMambaVision> build_edifice_backbone(EdificeConfig config, uint64_t seed) {
  config.num_classes = 0;
  return build_edifice(config, seed);
}

}  // namespace aspis
