#include "aspis/models/edu_hybrid.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <cmath>
#include <utility>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/pool.h"
#include "aspis/nn/position_table.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/attention/attention.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/reduce/reduce.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {
namespace {

constexpr int kTaps = 4;

template <typename V>
void visit_fields(V&& v, EduHybridConfig& c) {
  v("version", c.version);
  v("img_size", c.img_size);
  v("patch_size", c.patch_size);
  v("in_channels", c.in_channels);
  v("embed_dim", c.embed_dim);
  v("depth", c.depth);
  v("num_heads", c.num_heads);
  v("mlp_ratio", c.mlp_ratio);
  v("use_mamba_ratio", c.use_mamba_ratio);
  v("dropout", c.dropout);
  v("state_size", c.state_size);
  v("num_classes", c.num_classes);
}

const EduHybridConfig& checked(const EduHybridConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

/// A linear layer with the start values of the script.
std::unique_ptr<Linear> layer(int64_t in, int64_t out, const Init& init) {
  auto made = std::make_unique<Linear>(in, out, true, init);
  start_small(*made, init);
  return made;
}

/// Depthwise convolution over tokens, as many after as before (one more after), with bias.
struct SameConv final : Module {
  SameConv(int64_t channels, const Init& init)
      : weight(init.kaiming_uniform("weight", {elem(channels), kTaps}, kTaps)),
        bias(init.kaiming_uniform("bias", {elem(channels)}, kTaps)) {
    add_parameter("weight", weight);
    add_parameter("bias", bias, Decay::kNo);
  }
  std::string type_name() const override { return "DepthwiseConv1d"; }
  mx::array operator()(const mx::array& x) const {
    Conv1dOptions o;
    o.bias = bias;
    o.symmetric = true;
    return causal_conv1d(x, weight, o);
  }
  mx::array weight, bias;
};

struct BlockV1 final : EduHybrid::Block {
  BlockV1(const EduHybridConfig& c, const Init& init)
      : in_proj(layer(c.embed_dim, 2 * c.embed_dim, init.child("in_proj"))),
        conv1d(c.embed_dim, init.child("conv1d")),
        x_proj(layer(c.embed_dim, c.state_size, init.child("x_proj"))),
        dt_proj(layer(c.embed_dim, c.embed_dim, init.child("dt_proj"))),
        out_proj(layer(c.embed_dim, c.embed_dim, init.child("out_proj"))) {
    add_child("in_proj", *in_proj);
    add_child("conv1d", conv1d);
    add_child("x_proj", *x_proj);
    add_child("dt_proj", *dt_proj);
    add_child("out_proj", *out_proj);
  }
  std::string type_name() const override { return "EduMambaBlock1"; }
  mx::array forward(const mx::array& h) const override {
    const auto width = h.shape(2);
    const auto copies = fan_out(h, 2);
    const auto xr = split_sizes((*in_proj)(copies[0]), {width, width}, -1);
    const auto x = fan_out(conv1d(silu(xr[0])), 2);
    const auto delta = ops::softplus((*dt_proj)(x[0]));
    return add_n({(*out_proj)(x[1] * delta * silu(xr[1])), copies[1]});
  }
  std::unique_ptr<Linear> in_proj;
  SameConv conv1d;
  std::unique_ptr<Linear> x_proj, dt_proj, out_proj;
};

struct BlockV2 final : EduHybrid::Block {
  BlockV2(const EduHybridConfig& c, const Init& init)
      : in_proj(layer(c.embed_dim, 2 * c.embed_dim, init.child("in_proj"))),
        ssm_A(init.normal("ssm_A", {elem(c.embed_dim), elem(c.state_size)}, 0.01)),
        ssm_B(init.normal("ssm_B", {elem(c.embed_dim), elem(c.state_size)}, 0.01)),
        ssm_C(init.normal("ssm_C", {elem(c.embed_dim), elem(c.state_size)}, 0.01)),
        dt_proj(layer(c.embed_dim, c.embed_dim, init.child("dt_proj"))),
        conv1d_left(c.embed_dim, init.child("conv1d_left")),
        conv1d_right(c.embed_dim, init.child("conv1d_right")),
        linear_left(layer(c.embed_dim, c.embed_dim, init.child("linear_left"))),
        linear_right(layer(c.embed_dim, c.embed_dim, init.child("linear_right"))),
        layer_norm(c.embed_dim, init.child("layer_norm")),
        drop_left(c.dropout, init.child("drop_left")),
        drop_right(c.dropout, init.child("drop_right")) {
    add_parameter("ssm_A", ssm_A);
    add_parameter("ssm_B", ssm_B);
    add_parameter("ssm_C", ssm_C);
    add_child("in_proj", *in_proj);
    add_child("dt_proj", *dt_proj);
    add_child("conv1d_left", conv1d_left);
    add_child("conv1d_right", conv1d_right);
    add_child("linear_left", *linear_left);
    add_child("linear_right", *linear_right);
    add_child("layer_norm", layer_norm);
    add_child("drop_left", drop_left);
    add_child("drop_right", drop_right);
  }
  std::string type_name() const override { return "EduMambaBlock2"; }
  mx::array forward(const mx::array& h) const override {
    const auto width = h.shape(2);
    const auto copies = fan_out(h, 2);
    const auto lr = split_sizes((*in_proj)(layer_norm(copies[0])), {width, width}, -1);
    const auto l = fan_out(lr[0], 2);
    const auto left = linear(linear(l[0], mx::transpose(ssm_B)), ssm_C) * mx::sigmoid((*dt_proj)(l[1]));
    const auto a = drop_left((*linear_left)(conv1d_left(silu(left))));
    const auto b = drop_right((*linear_right)(conv1d_right(silu(lr[1]))));
    return add_n({a * b, copies[1]});
  }
  std::unique_ptr<Linear> in_proj;
  mx::array ssm_A, ssm_B, ssm_C;
  std::unique_ptr<Linear> dt_proj;
  SameConv conv1d_left, conv1d_right;
  std::unique_ptr<Linear> linear_left, linear_right;
  LayerNorm layer_norm;
  Dropout drop_left, drop_right;
};

/// torch.nn.MultiheadAttention over one sequence, with dropout of the weights.
struct Attention final : Module {
  Attention(const EduHybridConfig& c, const Init& init)
      : in_proj_weight(init.uniform("in_proj_weight", {elem(3 * c.embed_dim), elem(c.embed_dim)},
                                    std::sqrt(6.0 / static_cast<double>(4 * c.embed_dim)))),
        in_proj_bias(init.constant({elem(3 * c.embed_dim)}, 0)),
        out_proj(layer(c.embed_dim, c.embed_dim, init.child("out_proj"))),
        drop(c.dropout, init),
        heads(c.num_heads) {
    add_parameter("in_proj_weight", in_proj_weight);
    add_parameter("in_proj_bias", in_proj_bias, Decay::kNo);
    add_child("out_proj", *out_proj);
    add_child("drop", drop);
  }
  std::string type_name() const override { return "MultiheadAttention"; }
  mx::array operator()(const mx::array& x) const {
    const auto B = x.shape(0), L = x.shape(1), E = x.shape(2), H = elem(heads), d = E / H;
    const auto parts =
        split_sizes(mx::reshape(linear(x, in_proj_weight, in_proj_bias), {B, L, 3, H, d}), {1, 1, 1}, 2);
    const auto q = mx::squeeze(parts[0], 2), k = mx::squeeze(parts[1], 2), v = mx::squeeze(parts[2], 2);
    if (!(drop.training() && drop.rate() > 0)) return (*out_proj)(mx::reshape(attention(q, k, v), {B, L, E}));
    // The kernel never has the weights in memory, and dropout needs them.
    const auto scores = mx::matmul(mx::transpose(q, {0, 2, 1, 3}), mx::transpose(k, {0, 2, 3, 1}));
    const auto scale = mx::array(1 / std::sqrt(static_cast<float>(d)), x.dtype());
    const auto weights = drop(mx::softmax(scores * scale, -1));
    const auto y = mx::transpose(mx::matmul(weights, mx::transpose(v, {0, 2, 1, 3})), {0, 2, 1, 3});
    return (*out_proj)(mx::reshape(y, {B, L, E}));
  }
  mx::array in_proj_weight, in_proj_bias;
  std::unique_ptr<Linear> out_proj;
  Dropout drop;
  int64_t heads;
};

struct TransformerLayer final : EduHybrid::Block {
  TransformerLayer(const EduHybridConfig& c, const Init& init)
      : norm1(c.embed_dim, init.child("norm1")),
        attn(c, init.child("attn")),
        norm2(c.embed_dim, init.child("norm2")),
        fc1(layer(c.embed_dim, c.mlp_ratio * c.embed_dim, init.child("mlp.0"))),
        fc2(layer(c.mlp_ratio * c.embed_dim, c.embed_dim, init.child("mlp.3"))),
        drop1(c.dropout, init.child("mlp.2")),
        drop2(c.dropout, init.child("mlp.4")) {
    add_child("norm1", norm1);
    add_child("attn", attn);
    add_child("norm2", norm2);
    add_child("mlp.0", *fc1);
    add_child("mlp.2", drop1);
    add_child("mlp.3", *fc2);
    add_child("mlp.4", drop2);
  }
  std::string type_name() const override { return "TransformerBlock"; }
  mx::array forward(const mx::array& h) const override {
    auto [n1, before] = norm1(Residual{h, std::nullopt});
    auto [n2, middle] = norm2(Residual{before, attn(n1)});
    return add_n({drop2((*fc2)(drop1((*fc1)(n2, Activation::kGelu)))), middle});
  }
  LayerNorm norm1;
  Attention attn;
  LayerNorm norm2;
  std::unique_ptr<Linear> fc1, fc2;
  Dropout drop1, drop2;
};

}  // namespace

void EduHybridConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  config::in_range(where, kind, "version", version, 1, 2);
  config::in_range(where, kind, "patch_size", patch_size, 1, 1 << 12);
  config::in_range(where, kind, "embed_dim", embed_dim, 1, 1 << 16);
  config::in_range(where, kind, "depth", depth, 1, 1 << 12);
  config::in_range(where, kind, "num_heads", num_heads, 1, 1 << 16);
  config::in_range(where, kind, "mlp_ratio", mlp_ratio, 1, 64);
  config::in_range(where, kind, "use_mamba_ratio", use_mamba_ratio, 0.0, 1.0);
  config::in_range(where, kind, "dropout", dropout, 0.0, 0.99);
  config::in_range(where, kind, "state_size", state_size, 1, 1 << 12);
  config::divides(where, kind, "num_heads", num_heads, "embed_dim", embed_dim);
}

std::string EduHybridConfig::to_json() const {
  return config::write(*this, "edu_hybrid", [](auto&& v, EduHybridConfig& c) { visit_fields(v, c); });
}

EduHybridConfig EduHybridConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<EduHybridConfig>(text, "edu_hybrid", where, kind,
                                       [](auto&& v, EduHybridConfig& c) { visit_fields(v, c); });
}

EduHybrid::~EduHybrid() = default;

EduHybrid::EduHybrid(const EduHybridConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      pos_embed(Init(seed).truncated_normal(
          "pos_embed", {1, elem(c.patches(c.img_size) * c.patches(c.img_size)), elem(c.embed_dim)}, 0.02)),
      patch_embed({.in = c.in_channels, .out = c.embed_dim, .kernel = c.patch_size, .stride = c.patch_size},
                  Init(seed).child("patch_embed.proj")),
      pos_drop(c.dropout, Init(seed).child("pos_drop")),
      norm(c.embed_dim, Init(seed).child("norm")) {
  const Init init(seed);
  add_parameter("pos_embed", pos_embed, Decay::kNo);
  add_child("patch_embed.proj", patch_embed);
  add_child("pos_drop", pos_drop);
  for (int64_t i = 0; i < c.depth; i++) {
    const std::string name = fmt::format("blocks.{}", i);
    const Init own = init.child(name);
    if (i >= c.mamba_blocks()) {
      blocks.push_back(std::make_unique<TransformerLayer>(c, own));
    } else if (c.version == 1) {
      blocks.push_back(std::make_unique<BlockV1>(c, own));
    } else {
      blocks.push_back(std::make_unique<BlockV2>(c, own));
    }
    add_child(name, *blocks.back());
  }
  add_child("norm", norm);
  if (c.num_classes > 0) {
    head = layer(c.embed_dim, c.num_classes, init.child("head"));
    add_child("head", *head);
  }
}

mx::array EduHybrid::run(const mx::array& images, Maps* maps) const {
  check_images(images);
  const int64_t h = config_.patches(images.shape(1)), w = config_.patches(images.shape(2));
  const auto B = images.shape(0), E = elem(config_.embed_dim);
  const auto patches = patch_embed(padded_to_patches(images, config_.patch_size));
  auto x = pos_drop(mx::reshape(patches, {B, elem(h * w), E}) + resize_square_positions(pos_embed, h, w));
  for (const auto& block : blocks) {
    x = pass(*block, x, [&b = *block](const mx::array& v) { return b.forward(v); });
    if (maps) maps->add(mx::reshape(x, {B, elem(h), elem(w), E}));
  }
  return x;
}

std::optional<mx::array> EduHybrid::fitted(const std::string& name, const mx::array& value,
                                           const mx::Shape& want) const {
  if (name != "pos_embed") return Backbone::fitted(name, value, want);
  const int64_t side = config_.patches(config_.img_size);
  return resize_square_positions(value, side, side);
}

mx::array EduHybrid::forward_features(const mx::array& images) const { return norm(run(images, nullptr)); }

mx::array EduHybrid::pool(const mx::array& features) const { return mean_over(features, {1}); }

std::vector<StageInfo> EduHybrid::stages() const {
  std::vector<StageInfo> list;
  for (int64_t i = 0; i < config_.depth; i++)
    list.push_back({fmt::format("blocks.{}", i), config_.patch_size, config_.embed_dim});
  return list;
}

std::vector<mx::array> EduHybrid::feature_maps(const mx::array& images,
                                               const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

}  // namespace aspis
