#include "aspis/models/resnet.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <cmath>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/pool.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/reduce/reduce.h"

namespace aspis {
namespace {

constexpr size_t kLayers = 4;
constexpr int64_t kExpansion = 4;

template <typename V>
void visit_fields(V&& v, ResNetConfig& c) {
  v("img_size", c.img_size);
  v("in_channels", c.in_channels);
  v("stem_width", c.stem_width);
  v("depths", c.depths);
  v("widths", c.widths);
  v("num_classes", c.num_classes);
}

const ResNetConfig& checked(const ResNetConfig& config) {
  config.check();
  return config;
}

/// Start values: N(0, 2 / fan out), for ReLU.
void start_conv(Conv2d& conv, const Init& init) {
  const auto& c = conv.config();
  conv.weight = init.normal("weight", conv.weight.shape(),
                            std::sqrt(2.0 / static_cast<double>(c.kernel * c.kernel * c.out)));
}

Conv2dConfig no_bias(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1) {
  return {.in = in, .out = out, .kernel = kernel, .stride = stride, .padding = kernel / 2, .bias = false};
}

}  // namespace

void ResNetConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  config::in_range(where, kind, "stem_width", stem_width, 1, 1 << 13);
  for (const auto& [key, list] : {std::pair{"depths", &depths}, {"widths", &widths}}) {
    config::in_range(where, kind, fmt::format("the number of values of {}", key).c_str(),
                     static_cast<int64_t>(list->size()), kLayers, kLayers);
    for (const int64_t v : *list) config::in_range(where, kind, key, v, 1, 1 << 13);
  }
}

std::string ResNetConfig::to_json() const {
  return config::write(*this, "resnet", [](auto&& v, ResNetConfig& c) { visit_fields(v, c); });
}

ResNetConfig ResNetConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<ResNetConfig>(text, "resnet", where, kind,
                                    [](auto&& v, ResNetConfig& c) { visit_fields(v, c); });
}

ResNet::Bottleneck::Bottleneck(int64_t in, int64_t width, int64_t stride, const Init& init)
    : conv1(no_bias(in, width, 1), init.child("conv1")),
      bn1(width, init.child("bn1")),
      conv2(no_bias(width, width, 3, stride), init.child("conv2")),
      bn2(width, init.child("bn2")),
      conv3(no_bias(width, kExpansion * width, 1), init.child("conv3")),
      bn3(kExpansion * width, init.child("bn3")) {
  start_conv(conv1, init.child("conv1"));
  start_conv(conv2, init.child("conv2"));
  start_conv(conv3, init.child("conv3"));
  add_child("conv1", conv1);
  add_child("bn1", bn1);
  add_child("conv2", conv2);
  add_child("bn2", bn2);
  add_child("conv3", conv3);
  add_child("bn3", bn3);
  if (stride == 1 && in == kExpansion * width) return;
  shortcut = std::make_unique<Conv2d>(no_bias(in, kExpansion * width, 1, stride), init.child("downsample.0"));
  shortcut_norm = std::make_unique<BatchNorm>(kExpansion * width, init.child("downsample.1"));
  start_conv(*shortcut, init.child("downsample.0"));
  add_child("downsample.0", *shortcut);
  add_child("downsample.1", *shortcut_norm);
}

mx::array ResNet::Bottleneck::operator()(const mx::array& x) const {
  const auto copies = fan_out(x, 2);
  auto y = bn1.after(conv1, copies[0], Activation::kRelu);
  y = bn2.after(conv2, y, Activation::kRelu);
  const auto residual = shortcut ? shortcut_norm->after(*shortcut, copies[1]) : copies[1];
  return bn3.after(conv3, y, Activation::kRelu, residual);
}

ResNet::ResNet(const ResNetConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      conv1(no_bias(c.in_channels, c.stem_width, 7, 2), Init(seed).child("conv1")),
      bn1(c.stem_width, Init(seed).child("bn1")) {
  const Init init(seed);
  start_conv(conv1, init.child("conv1"));
  add_child("conv1", conv1);
  add_child("bn1", bn1);
  int64_t in = c.stem_width;
  for (size_t i = 0; i < kLayers; i++) {
    layers.emplace_back();
    for (int64_t j = 0; j < c.depths[i]; j++) {
      const std::string name = fmt::format("layer{}.{}", i + 1, j);
      layers[i].push_back(
          std::make_unique<Bottleneck>(in, c.widths[i], i > 0 && j == 0 ? 2 : 1, init.child(name)));
      add_child(name, *layers[i].back());
      in = kExpansion * c.widths[i];
    }
  }
  if (c.num_classes > 0) {
    head = std::make_unique<Linear>(in, c.num_classes, true, init.child("fc"));
    add_child("fc", *head);
  }
}

mx::array ResNet::run(const mx::array& images, Maps* maps) const {
  check_images(images);
  auto x = bn1.after(conv1, images, Activation::kRelu);
  if (maps) maps->add(x);
  x = max_pool(x, 3, 2, 1);
  for (const auto& layer : layers) {
    for (const auto& block : layer) x = pass(*block, x, [&b = *block](const mx::array& v) { return b(v); });
    if (maps) maps->add(x);
  }
  return x;
}

mx::array ResNet::forward_features(const mx::array& images) const { return run(images, nullptr); }

mx::array ResNet::pool(const mx::array& features) const { return mean_over(features, {1, 2}); }

std::vector<StageInfo> ResNet::stages() const {
  std::vector<StageInfo> list{{"conv1", 2, config_.stem_width}};
  for (size_t i = 0; i < kLayers; i++) {
    list.push_back({fmt::format("layer{}", i + 1), int64_t{4} << i, kExpansion * config_.widths[i]});
  }
  return list;
}

std::vector<mx::array> ResNet::feature_maps(const mx::array& images, const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

}  // namespace aspis
