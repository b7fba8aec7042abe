#include "aspis/models/registry.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include "aspis/io/config_json.h"
#include "aspis/models/convnext.h"
#include "aspis/models/edifice_mambavision.h"
#include "aspis/models/edu_hybrid.h"
#include "aspis/models/mambavision.h"
#include "aspis/models/resnet.h"
#include "aspis/models/vim.h"
#include "aspis/models/vision_mamba.h"
#include "aspis/models/vision_transformer.h"
#include "aspis/models/vit.h"
#include "aspis/models/vmamba.h"

namespace aspis {
namespace {

/// What the registry needs of a family.
struct Family {
  const char* model_type;
  std::unique_ptr<ImageModel> (*make)(std::string_view config, uint64_t seed, const std::string& where,
                                      ErrorKind kind);
  /// Checks a config and writes it with every key.
  std::string (*resolve)(std::string_view config, const std::string& where, ErrorKind kind);
};

template <typename Model, typename Config>
constexpr Family family(const char* model_type) {
  return {model_type,
          [](std::string_view text, uint64_t seed, const std::string& where, ErrorKind kind) {
            return std::unique_ptr<ImageModel>(new Model(Config::from_json(text, where, kind), seed));
          },
          [](std::string_view text, const std::string& where, ErrorKind kind) {
            return Config::from_json(text, where, kind).to_json();
          }};
}

/// A new family is one line here; a new model one entry in `model_table`.
const std::vector<Family>& families() {
  static const std::vector<Family> list{
      family<VisionMamba, VisionMambaConfig>("vision_mamba"),
      family<VisionTransformer, VisionTransformerConfig>("vision_transformer"),
      family<Vim, VimConfig>("vim"),
      family<MambaVision, MambaVisionConfig>("mambavision"),
      family<VMamba, VMambaConfig>("vmamba"),
      family<EduHybrid, EduHybridConfig>("edu_hybrid"),
      family<EdificeMambaVision, EdificeConfig>("edifice_mambavision"),
      family<Vit, VitConfig>("vit"),
      family<ConvNext, ConvNextConfig>("convnext"),
      family<ResNet, ResNetConfig>("resnet"),
  };
  return list;
}

const Family& find_family(const std::string& model_type, const std::string& where, ErrorKind kind) {
  std::vector<std::string> known;
  for (const auto& f : families()) {
    if (model_type == f.model_type) return f;
    known.emplace_back(f.model_type);
  }
  throw Error(kind, {.where = where,
                     .required = fmt::format("model_type must be one of {}", fmt::join(known, ", ")),
                     .got = model_type.empty() ? "none" : fmt::format("\"{}\"", model_type),
                     .hint = nearest_word(model_type, known)});
}

using Json = nlohmann::ordered_json;

/// `text` as the JSON value it spells, or as a string.
Json value_of(const std::string& text) {
  auto value = Json::parse(text, nullptr, false);
  return value.is_discarded() ? Json(text) : value;
}

}  // namespace

const std::vector<ModelEntry>& model_table() {
  static const std::vector<ModelEntry> table{
      {"vision_mamba_fmnist", "vision_mamba", "small vision Mamba for 28x28 grey images, 10 classes (the demo)",
       R"({"model_type": "vision_mamba", "img_size": 28, "patch_size": 4, "in_channels": 1, "num_classes": 10,
           "embed_dim": 64, "depth": 3, "d_state": 8, "num_directions": 2})"},
      {"vision_mamba_small", "vision_mamba", "vision Mamba encoder with the defaults of mlx-vision-mamba, 224x224",
       R"({"model_type": "vision_mamba"})"},
      {"vision_mamba_3d_small", "vision_mamba", "the same over volumes, 64x64x64, six directions",
       R"({"model_type": "vision_mamba", "input_dim": 3, "img_size": 64})"},
      {"vision_mamba_4d_small", "vision_mamba", "the same over volumes in time, 4 x 32x32x32, eight directions",
       R"({"model_type": "vision_mamba", "input_dim": 4, "img_size": 32, "num_temporal_frames": 4})"},
      {"vit_fmnist", "vision_transformer", "small vision transformer for 28x28 grey images, 10 classes",
       R"({"model_type": "vision_transformer", "img_size": 28, "patch_size": 4, "in_channels": 1, "num_classes": 10,
           "embed_dim": 128, "depth": 4, "num_heads": 4})"},
      {"vit_small", "vision_transformer", "vision transformer encoder, the twin of vision_mamba_small",
       R"({"model_type": "vision_transformer"})"},
      {"vit_3d_small", "vision_transformer", "vision transformer over volumes, the twin of vision_mamba_3d_small",
       R"({"model_type": "vision_transformer", "input_dim": 3, "img_size": 64})"},
      {"vim_tiny_patch16_224", "vim",
       "Vim-Ti (Zhu et al. 2024), 24 bidirectional blocks, class token in the middle", R"({"model_type": "vim"})"},
      {"vim_tiny_patch16_stride8_224", "vim", "Vim-Ti with overlapping patches, as fine-tuned",
       R"({"model_type": "vim", "stride": 8})"},
      {"vim_small_patch16_224", "vim", "Vim-S", R"({"model_type": "vim", "embed_dim": 384})"},
      {"vim_small_patch16_stride8_224", "vim", "Vim-S with overlapping patches, as fine-tuned",
       R"({"model_type": "vim", "embed_dim": 384, "stride": 8})"},
      {"vim_base_patch16_224", "vim", "Vim-B", R"({"model_type": "vim", "embed_dim": 768})"},
      {"mamba_vision_T", "mambavision", "MambaVision-T (Hatamizadeh and Kautz 2024)",
       R"({"model_type": "mambavision", "dim": 80, "in_dim": 32, "depths": [1, 3, 8, 4], "num_heads": [2, 4, 8, 16], "drop_path_rate": 0.2})"},
      {"mamba_vision_T2", "mambavision", "MambaVision-T2",
       R"({"model_type": "mambavision", "dim": 80, "in_dim": 32, "depths": [1, 3, 11, 4], "num_heads": [2, 4, 8, 16], "drop_path_rate": 0.2})"},
      {"mamba_vision_S", "mambavision", "MambaVision-S",
       R"({"model_type": "mambavision", "dim": 96, "in_dim": 64, "depths": [3, 3, 7, 5], "num_heads": [2, 4, 8, 16], "drop_path_rate": 0.2})"},
      {"mamba_vision_B", "mambavision", "MambaVision-B",
       R"({"model_type": "mambavision", "dim": 128, "in_dim": 64, "depths": [3, 3, 10, 5], "num_heads": [2, 4, 8, 16], "drop_path_rate": 0.3, "layer_scale": 1e-5})"},
      {"mamba_vision_B_21k", "mambavision", "MambaVision-B, for weights from ImageNet-21K",
       R"({"model_type": "mambavision", "dim": 128, "in_dim": 64, "depths": [3, 3, 10, 5], "num_heads": [2, 4, 8, 16], "drop_path_rate": 0.3, "layer_scale": 1e-5})"},
      {"mamba_vision_L", "mambavision", "MambaVision-L",
       R"({"model_type": "mambavision", "dim": 196, "in_dim": 64, "depths": [3, 3, 10, 5], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.3, "layer_scale": 1e-5})"},
      {"mamba_vision_L_21k", "mambavision", "MambaVision-L, for weights from ImageNet-21K",
       R"({"model_type": "mambavision", "dim": 196, "in_dim": 64, "depths": [3, 3, 10, 5], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.3, "layer_scale": 1e-5})"},
      {"mamba_vision_L2", "mambavision", "MambaVision-L2",
       R"({"model_type": "mambavision", "dim": 196, "in_dim": 64, "depths": [3, 3, 12, 5], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.3, "layer_scale": 1e-5})"},
      {"mamba_vision_L2_512_21k", "mambavision", "MambaVision-L2 at 512 x 512",
       R"({"model_type": "mambavision", "img_size": 512, "window_size": [8, 8, 32, 16], "dim": 196, "in_dim": 64, "depths": [3, 3, 12, 5], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.3, "layer_scale": 1e-5})"},
      {"mamba_vision_L3_256_21k", "mambavision", "MambaVision-L3 at 256 x 256",
       R"({"model_type": "mambavision", "img_size": 256, "window_size": [8, 8, 16, 8], "dim": 256, "in_dim": 64, "depths": [3, 3, 20, 10], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.5, "layer_scale": 1e-5})"},
      {"mamba_vision_L3_512_21k", "mambavision", "MambaVision-L3 at 512 x 512",
       R"({"model_type": "mambavision", "img_size": 512, "window_size": [8, 8, 32, 16], "dim": 256, "in_dim": 64, "depths": [3, 3, 20, 10], "num_heads": [4, 8, 16, 32], "drop_path_rate": 0.5, "layer_scale": 1e-5})"},
      {"vmamba_tiny_vanilla", "vmamba", "VMamba-T (Liu et al. 2024), the first one",
       R"({"model_type": "vmamba", "drop_path_rate": 0.2})"},
      {"vmamba_small_vanilla", "vmamba", "VMamba-S, the first one",
       R"({"model_type": "vmamba", "depths": [2, 2, 27, 2], "drop_path_rate": 0.3})"},
      {"vmamba_base_vanilla", "vmamba", "VMamba-B, the first one",
       R"({"model_type": "vmamba", "dim": 128, "depths": [2, 2, 27, 2], "drop_path_rate": 0.6})"},
      {"vmamba_tiny_s2l5", "vmamba", "VMamba-T, inner width 2, 5 blocks in level 2",
       R"({"model_type": "vmamba", "depths": [2, 2, 5, 2], "drop_path_rate": 0.2, "d_state": 1, "gate": false, "conv_bias": false, "mlp_ratio": 4, "patch_embed": "v2", "downsample": "v3"})"},
      {"vmamba_small_s2l15", "vmamba", "VMamba-S, inner width 2, 15 blocks in level 2",
       R"({"model_type": "vmamba", "depths": [2, 2, 15, 2], "drop_path_rate": 0.3, "d_state": 1, "gate": false, "conv_bias": false, "mlp_ratio": 4, "patch_embed": "v2", "downsample": "v3"})"},
      {"vmamba_base_s2l15", "vmamba", "VMamba-B, inner width 2, 15 blocks in level 2",
       R"({"model_type": "vmamba", "dim": 128, "depths": [2, 2, 15, 2], "drop_path_rate": 0.6, "d_state": 1, "gate": false, "conv_bias": false, "mlp_ratio": 4, "patch_embed": "v2", "downsample": "v3"})"},
      {"vmamba_tiny_s1l8", "vmamba", "VMamba-T, inner width 1, 8 blocks in level 2",
       R"({"model_type": "vmamba", "depths": [2, 2, 8, 2], "ssm_ratio": 1, "drop_path_rate": 0.2, "d_state": 1, "gate": false, "conv_bias": false, "mlp_ratio": 4, "patch_embed": "v2", "downsample": "v3"})"},
      {"vmamba_small_s1l20", "vmamba", "VMamba-S, inner width 1, 20 blocks in level 2",
       R"({"model_type": "vmamba", "depths": [2, 2, 20, 2], "ssm_ratio": 1, "drop_path_rate": 0.3, "d_state": 1, "gate": false, "conv_bias": false, "mlp_ratio": 4, "patch_embed": "v2", "downsample": "v3"})"},
      {"vmamba_base_s1l20", "vmamba", "VMamba-B, inner width 1, 20 blocks in level 2",
       R"({"model_type": "vmamba", "dim": 128, "depths": [2, 2, 20, 2], "ssm_ratio": 1, "drop_path_rate": 0.5, "d_state": 1, "gate": false, "conv_bias": false, "mlp_ratio": 4, "patch_embed": "v2", "downsample": "v3"})"},
      {"edifice_mambavision_tiny", "edifice_mambavision",
       "MambaVision as Edifice 0.2.0 builds it, tiny; without classes",
       R"({"model_type": "edifice_mambavision", "compat": true})"},
      {"edifice_mambavision_small", "edifice_mambavision",
       "MambaVision as Edifice 0.2.0 builds it, small; without classes",
       R"({"model_type": "edifice_mambavision", "compat": true, "dim": 96, "depths": [3, 3, 7, 5]})"},
      {"edifice_mambavision_base", "edifice_mambavision",
       "MambaVision as Edifice 0.2.0 builds it, base; without classes",
       R"({"model_type": "edifice_mambavision", "compat": true, "dim": 128, "depths": [3, 3, 10, 5]})"},
      {"edu_v1_tiny", "edu_hybrid",
       "teaching hybrid as in the text of its script, 10 classes; no state space in it",
       R"({"model_type": "edu_hybrid", "version": 1, "embed_dim": 192, "depth": 6, "num_heads": 6, "num_classes": 10})"},
      {"edu_v1_small", "edu_hybrid",
       "teaching hybrid as in the text of its script, 10 classes; no state space in it",
       R"({"model_type": "edu_hybrid", "version": 1, "embed_dim": 384, "depth": 8, "num_heads": 8, "num_classes": 10})"},
      {"edu_v2_tiny", "edu_hybrid",
       "teaching hybrid as in the code of its script, 10 classes; no state space in it",
       R"({"model_type": "edu_hybrid", "version": 2, "embed_dim": 192, "depth": 6, "num_heads": 6, "num_classes": 10})"},
      {"edu_v2_small", "edu_hybrid",
       "teaching hybrid as in the code of its script, 10 classes; no state space in it",
       R"({"model_type": "edu_hybrid", "version": 2, "embed_dim": 384, "depth": 8, "num_heads": 8, "num_classes": 10})"},
      {"vit_tiny_patch16_224", "vit", "ViT-Ti/16 (Dosovitskiy et al. 2021), timm's layout",
       R"({"model_type": "vit"})"},
      {"vit_small_patch16_224", "vit", "ViT-S/16", R"({"model_type": "vit", "embed_dim": 384, "num_heads": 6})"},
      {"vit_base_patch16_224", "vit", "ViT-B/16", R"({"model_type": "vit", "embed_dim": 768, "num_heads": 12})"},
      {"convnext_tiny", "convnext", "ConvNeXt-T (Liu et al. 2022), timm's layout",
       R"({"model_type": "convnext", "drop_path_rate": 0.1})"},
      {"convnext_small", "convnext", "ConvNeXt-S",
       R"({"model_type": "convnext", "depths": [3, 3, 27, 3], "drop_path_rate": 0.4})"},
      {"convnext_base", "convnext", "ConvNeXt-B",
       R"({"model_type": "convnext", "depths": [3, 3, 27, 3], "dims": [128, 256, 512, 1024], "drop_path_rate": 0.5})"},
      {"resnet50", "resnet", "ResNet-50 (He et al. 2016), torchvision's layout", R"({"model_type": "resnet"})"},
  };
  return table;
}

std::vector<ModelEntry> list_models(std::string_view filter) {
  std::vector<ModelEntry> list;
  for (const auto& entry : model_table()) {
    if (glob_match(filter, entry.name)) list.push_back(entry);
  }
  return list;
}

const ModelEntry& find_model(std::string_view name) {
  std::vector<std::string> names;
  for (const auto& entry : model_table()) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
  }
  const std::string near = nearest_word(name, names);
  throw Error(ErrorKind::kUsage, {.where = "model",
                                  .required = "the name of a known model",
                                  .got = fmt::format("'{}'", name),
                                  .hint = near.empty() ? fmt::format("one of {}", fmt::join(names, ", ")) : near});
}

std::string resolve_config(std::string_view name, const Overrides& overrides) {
  const auto& entry = find_model(name);
  auto object = Json::parse(entry.config);
  for (const auto& [key, value] : overrides) {
    require(key != "model_type", [&] {
      return Error::Parts{.where = entry.name,
                          .required = "model_type is fixed by the name of the model",
                          .got = fmt::format("'{}'", value),
                          .hint = "another model"};
    });
    object[key] = value_of(value);
  }
  return find_family(entry.model_type, entry.name, ErrorKind::kUsage)
      .resolve(object.dump(-1, ' ', false, Json::error_handler_t::replace), entry.name, ErrorKind::kUsage);
}

std::unique_ptr<ImageModel> make_model(std::string_view name, const Overrides& overrides, uint64_t seed) {
  return make_model_from_config(resolve_config(name, overrides), seed, std::string(name), ErrorKind::kUsage);
}

std::unique_ptr<ImageModel> rebuild_model(const ImageModel& model, const Overrides& changes, uint64_t seed) {
  auto object = Json::parse(model.config_json());
  for (const auto& [key, value] : changes) object[key] = value_of(value);
  auto made = make_model_from_config(object.dump(-1, ' ', false, Json::error_handler_t::replace), seed,
                                     model.model_type(), ErrorKind::kUsage);
  std::map<std::string, mx::array> old;
  for (const auto& [name, value] : model.state()) old.emplace(name, value);
  std::set<const mx::array*> fresh;
  if (const Linear* head = made->classifier(); head && made->num_classes() != model.num_classes()) {
    fresh = {&head->weight, head->bias ? &*head->bias : nullptr};
  }
  std::map<std::string, const mx::array*> places;
  for (const auto& ref : made->parameter_refs()) places.emplace(ref.name, ref.value);
  NamedArrays values;
  for (const auto& [name, start] : made->state()) {
    if (const auto place = places.find(name); place != places.end() && fresh.contains(place->second)) continue;
    const auto at = old.find(name);
    std::optional<mx::array> value;
    if (at != old.end()) {
      value = at->second.shape() == start.shape() ? at->second : made->fitted(name, at->second, start.shape());
    }
    require(value && value->shape() == start.shape(), [&, &n = name] {
      return Error::Parts{
          .where = model.model_type(),
          .required = "a change that leaves the layers: num_classes, in_channels or the image size",
          .got = fmt::format("no values for {}", n),
          .hint = ""};
    });
    values.emplace_back(name, *value);
  }
  made->update(values);
  return made;
}

std::unique_ptr<ImageModel> make_model_from_config(std::string_view config, uint64_t seed,
                                                   const std::string& where, ErrorKind kind) {
  std::string model_type;
  ConfigReader(config, where, kind).text("model_type", model_type);
  return find_family(model_type, where, kind).make(config, seed, where, kind);
}

}  // namespace aspis
