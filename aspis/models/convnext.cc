#include "aspis/models/convnext.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <tuple>
#include <utility>

#include "aspis/models/config_fields.h"
#include "aspis/nn/branch.h"
#include "aspis/ops/add_n/add_n.h"
#include "aspis/ops/reduce/reduce.h"

namespace aspis {
namespace {

constexpr size_t kStages = 4;
constexpr float kEpsilon = 1e-6f;

template <typename V>
void visit_fields(V&& v, ConvNextConfig& c) {
  v("img_size", c.img_size);
  v("in_channels", c.in_channels);
  v("depths", c.depths);
  v("dims", c.dims);
  v("kernel_size", c.kernel_size);
  v("layer_scale", c.layer_scale);
  v("drop_path_rate", c.drop_path_rate);
  v("num_classes", c.num_classes);
}

const ConvNextConfig& checked(const ConvNextConfig& config) {
  config.check();
  return config;
}

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

void start_conv(Conv2d& conv, const Init& init) {
  conv.weight = init.truncated_normal("weight", conv.weight.shape(), 0.02);
  conv.bias = init.constant(conv.bias->shape(), 0);
}

}  // namespace

void ConvNextConfig::check(const std::string& where, ErrorKind kind) const {
  check_common(where, kind);
  config::in_range(where, kind, "img_size", img_size, 32, 1 << 16);
  for (const auto& [key, list, most] : {std::tuple{"depths", &depths, 1 << 10}, {"dims", &dims, 1 << 14}}) {
    config::in_range(where, kind, fmt::format("the number of values of {}", key).c_str(),
                     static_cast<int64_t>(list->size()), kStages, kStages);
    for (const int64_t v : *list) config::in_range(where, kind, key, v, 1, most);
  }
  config::in_range(where, kind, "kernel_size", kernel_size, 1, 63);
  config::divides(where, kind, "2", 2, "kernel_size + 1", kernel_size + 1);
  config::in_range(where, kind, "layer_scale", layer_scale, 0.0, 1e6);
}

std::string ConvNextConfig::to_json() const {
  return config::write(*this, "convnext", [](auto&& v, ConvNextConfig& c) { visit_fields(v, c); });
}

ConvNextConfig ConvNextConfig::from_json(std::string_view text, const std::string& where, ErrorKind kind) {
  return config::read<ConvNextConfig>(text, "convnext", where, kind,
                                      [](auto&& v, ConvNextConfig& c) { visit_fields(v, c); });
}

ConvNext::Block::Block(const ConvNextConfig& c, int64_t width, double drop_rate, const Init& init)
    : conv_dw({.in = width, .out = width, .kernel = c.kernel_size, .padding = c.kernel_size / 2, .groups = width},
              init.child("conv_dw")),
      norm(width, init.child("norm"), kEpsilon),
      mlp(width, 4 * width, init.child("mlp")),
      drop_path(drop_rate, init) {
  start_conv(conv_dw, init.child("conv_dw"));
  start_small(mlp.fc1, init.child("mlp.fc1"));
  start_small(mlp.fc2, init.child("mlp.fc2"));
  if (c.layer_scale > 0) {
    gamma = init.constant({elem(width)}, static_cast<float>(c.layer_scale));
    add_parameter("gamma", *gamma, Decay::kNo);
  }
  add_child("conv_dw", conv_dw);
  add_child("norm", norm);
  add_child("mlp", mlp);
  add_child("drop_path", drop_path);
}

mx::array ConvNext::Block::operator()(const mx::array& x) const {
  const auto copies = fan_out(x, 2);
  return add_n(
      {copies[0], drop_path(scaled(mlp.fc2, mlp.fc1(norm(conv_dw(copies[1])), Activation::kGelu), gamma))});
}

ConvNext::Stage::Stage(const ConvNextConfig& c, size_t index, const std::vector<double>& rates, const Init& init) {
  if (index > 0) {
    norm = std::make_unique<LayerNorm>(c.dims[index - 1], init.child("downsample.0"), kEpsilon);
    reduction = std::make_unique<Conv2d>(
        Conv2dConfig{.in = c.dims[index - 1], .out = c.dims[index], .kernel = 2, .stride = 2},
        init.child("downsample.1"));
    start_conv(*reduction, init.child("downsample.1"));
    add_child("downsample.0", *norm);
    add_child("downsample.1", *reduction);
  }
  for (size_t j = 0; j < rates.size(); j++) {
    const std::string name = fmt::format("blocks.{}", j);
    blocks.push_back(std::make_unique<Block>(c, c.dims[index], rates[j], init.child(name)));
    add_child(name, *blocks.back());
  }
}

ConvNext::ConvNext(const ConvNextConfig& c, uint64_t seed)
    : Backbone(checked(c)),
      config_(c),
      stem({.in = c.in_channels, .out = c.dims[0], .kernel = 4, .stride = 4}, Init(seed).child("stem.0")),
      stem_norm(c.dims[0], Init(seed).child("stem.1"), kEpsilon),
      head_norm(c.dims[kStages - 1], Init(seed).child("head.norm"), kEpsilon) {
  const Init init(seed);
  start_conv(stem, init.child("stem.0"));
  add_child("stem.0", stem);
  add_child("stem.1", stem_norm);
  const auto rates =
      drop_path_rates(c.drop_path_rate, std::accumulate(c.depths.begin(), c.depths.end(), int64_t{0}));
  auto next = rates.begin();
  for (size_t i = 0; i < kStages; i++) {
    const std::string name = fmt::format("stages.{}", i);
    const auto end = next + static_cast<std::ptrdiff_t>(c.depths[i]);
    levels.push_back(std::make_unique<Stage>(c, i, std::vector<double>(next, end), init.child(name)));
    next = end;
    add_child(name, *levels.back());
  }
  add_child("head.norm", head_norm);
  if (c.num_classes > 0) {
    head = std::make_unique<Linear>(c.dims[kStages - 1], c.num_classes, true, init.child("head.fc"));
    start_small(*head, init.child("head.fc"));
    add_child("head.fc", *head);
  }
}

mx::array ConvNext::run(const mx::array& images, Maps* maps) const {
  check_images(images, 32);
  auto x = stem_norm(stem(images));
  for (const auto& level : levels) {
    if (level->reduction) x = (*level->reduction)((*level->norm)(x));
    for (const auto& block : level->blocks)
      x = pass(*block, x, [&b = *block](const mx::array& v) { return b(v); });
    if (maps) maps->add(x);
  }
  return x;
}

mx::array ConvNext::forward_features(const mx::array& images) const { return run(images, nullptr); }

mx::array ConvNext::pool(const mx::array& features) const { return head_norm(mean_over(features, {1, 2})); }

std::vector<StageInfo> ConvNext::stages() const {
  std::vector<StageInfo> list;
  for (size_t i = 0; i < kStages; i++)
    list.push_back({fmt::format("stages.{}", i), int64_t{4} << i, config_.dims[i]});
  return list;
}

std::vector<mx::array> ConvNext::feature_maps(const mx::array& images, const std::vector<int>& out_indices) const {
  Maps maps(stage_places(out_indices));
  run(images, &maps);
  return maps.list();
}

std::optional<std::string> convnext_name_from_torchvision(std::string_view name) {
  std::vector<std::string_view> parts;
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    parts.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  const auto last = parts.back();
  if (parts.size() == 3 && parts[0] == "classifier") {
    if (parts[1] == "0") return fmt::format("head.norm.{}", last);
    if (parts[1] == "2") return fmt::format("head.fc.{}", last);
    return std::nullopt;
  }
  int place = -1;
  if (parts.size() < 4 || parts.size() > 6 || parts[0] != "features" ||
      std::from_chars(parts[1].data(), parts[1].data() + parts[1].size(), place).ec != std::errc() || place < 0 ||
      place > 7)
    return std::nullopt;
  if (parts.size() == 4 && place == 0) return fmt::format("stem.{}.{}", parts[2], last);
  if (place == 0) return std::nullopt;
  // Stages at the odd places, downsampling at the even ones.
  if (place % 2 == 0) {
    if (parts.size() != 4) return std::nullopt;
    return fmt::format("stages.{}.downsample.{}.{}", place / 2, parts[2], last);
  }
  const std::string block = fmt::format("stages.{}.blocks.{}.", place / 2, parts[2]);
  if (parts.size() == 4) return last == "layer_scale" ? std::optional(block + "gamma") : std::nullopt;
  if (parts.size() != 6 || parts[3] != "block") return std::nullopt;
  const std::pair<std::string_view, const char*> layers[] = {
      {"0", "conv_dw"}, {"2", "norm"}, {"3", "mlp.fc1"}, {"5", "mlp.fc2"}};
  for (const auto& [number, layer] : layers) {
    if (parts[4] == number) return block + layer + "." + std::string(last);
  }
  return std::nullopt;
}

}  // namespace aspis
