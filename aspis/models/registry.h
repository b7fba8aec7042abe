#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/models/image_model.h"

namespace aspis {

/// A named model: a family and its config.
struct ModelEntry {
  std::string name;         ///< "vision_mamba_fmnist"
  std::string model_type;   ///< family: "vision_mamba"
  std::string description;  ///< one line
  std::string config;       ///< the config.json it starts from
};

/// Config keys to change, as (key, value) text: {"depth", "2"}, {"scan_order", "compat"}.
using Overrides = std::vector<std::pair<std::string, std::string>>;

/// The one table of models, in the order they are shown.
const std::vector<ModelEntry>& model_table();

/// Entries whose name matches the glob.
std::vector<ModelEntry> list_models(std::string_view filter = "*");

/// Throws Error(kUsage) with the nearest name for an unknown one.
const ModelEntry& find_model(std::string_view name);

/// The full config.json of a named model after the overrides. Throws
/// Error(kUsage) naming the key for one that is unknown, of the wrong type or does not fit.
std::string resolve_config(std::string_view name, const Overrides& overrides = {});

/// Builds a named model with start values from `seed`.
std::unique_ptr<ImageModel> make_model(std::string_view name, const Overrides& overrides = {}, uint64_t seed = 0);

/// Builds the model of a config.json, whose model_type picks the family. Throws
/// `kind` for text that is no JSON, another model_type, and keys or values that do not fit.
std::unique_ptr<ImageModel> make_model_from_config(std::string_view config, uint64_t seed = 0,
                                                   const std::string& where = "config.json",
                                                   ErrorKind kind = ErrorKind::kModel);

/// The same weights in a model with other config keys: another number of classes (the
/// classifier starts anew from `seed`; {"num_classes", "0"} removes it), of input channels
/// (`adapt_input_channels`), or another image size (positions are interpolated). Throws
/// Error(kUsage) naming the first tensor that other changes leave without values.
std::unique_ptr<ImageModel> rebuild_model(const ImageModel& model, const Overrides& changes, uint64_t seed = 0);

}  // namespace aspis
