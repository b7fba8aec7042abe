#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/models/registry.h"
#include "aspis/models/weights.h"

namespace aspis {

/// What is known of the published weights of a named model.
struct PublishedWeights {
  std::string model;    ///< name in the table of models
  std::string weights;  ///< where they come from: "nvidia/MambaVision-T-1K"
  std::string licence;  ///< of the weights: "CC-BY-NC-SA-4.0"
  double top1 = 0;      ///< per cent on ImageNet-1K's validation set, as published; 0: not stated
  double top5 = 0;
  std::string source;  ///< of these figures
  // What a picture goes through, in timm's words.
  double crop_pct = 0.875;
  std::string crop_mode = "center", interpolation = "bicubic";
  std::vector<double> mean = {0.485, 0.456, 0.406}, std = {0.229, 0.224, 0.225};
};

/// Null for models without published weights.
const PublishedWeights* published_weights(std::string_view model);

/// Config keys that published weights of a family need and that are not its
/// default: `compat` for MambaVision, `scan_order` for mlx-vision-mamba's volumes.
Overrides published_overrides(const ModelEntry& entry, const WeightFile& file);

/// Names of the 1000 classes of ImageNet-1K in the usual order: the number of the
/// WordNet entry and its first word, "n01440764 tench".
const std::vector<std::string>& imagenet_classes();

/// The root of the cache that the tools of the model hub share: HF_HUB_CACHE, else
/// HF_HOME/hub, else ~/.cache/huggingface/hub.
std::filesystem::path hub_cache();

/// The place of a model that a user names: a file or folder that exists, or the
/// name of a repository on the model hub ("nvidia/MambaVision-T-1K", with
/// "@revision" if it is not main), which is looked up in `hub_cache()` and never
/// downloaded. Throws Error(kModel) that names the command which downloads it.
std::filesystem::path find_model_files(const std::string& name);

/// The weight file in a model folder: model.safetensors, its index,
/// pytorch_model.bin, or the only file of a known ending. Throws Error(kModel).
std::filesystem::path weights_in_folder(const std::filesystem::path& folder);

/// Of several models with the same tensors the one whose published weights `path`
/// names ("models--nvidia--MambaVision-B-21K/..."), "" if none or several.
std::string model_named_in(const std::filesystem::path& path, const std::vector<std::string>& models);

/// A model with weights that were not made by `aspis train`.
struct Pretrained {
  std::unique_ptr<ImageModel> model;  ///< in inference mode
  std::string name;                   ///< in the table of models; "" if its config says more than a name
  WeightReport report;
  std::filesystem::path file;
  std::string preprocessor;  ///< preprocessor_config.json of the folder, "" if there is none
};

/// The overrides that a fine-tuned copy of these weights needs: those of the config.json
/// beside them if it is ours, else `published_overrides`.
Overrides overrides_for_weights(const ModelEntry& entry, const std::filesystem::path& path,
                                const WeightFile& file);

/// Opens a weight file or a model folder. Which model it is says, in this order:
/// `name` with `overrides`, config.json of the folder, the shapes of the tensors and,
/// where they leave a choice, the names in the path.
/// Throws Error(kModel) if it is none or several.
Pretrained open_pretrained(const std::filesystem::path& path, const std::string& name = "",
                           const Overrides& overrides = {}, const WeightOptions& options = {}, uint64_t seed = 0);

}  // namespace aspis
