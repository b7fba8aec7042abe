#pragma once

#include <string>
#include <vector>

#include "aspis/io/weight_file.h"
#include "aspis/models/image_model.h"

namespace aspis {

/// How strictly weights must fit. By default every tensor of the model must be in
/// the file with its shape, and nothing else.
struct WeightOptions {
  bool ema = false;  ///< take the running average of the weights that the file holds beside them
  /// Resize position tables, change the channels of the first convolution, and keep
  /// the model's own classifier if the classes differ.
  bool adapt = false;
  bool partial = false;  ///< take what fits and leave the rest
};

/// What became, or would become, of every tensor of a file and of a model.
struct WeightReport {
  std::string file, kind;  ///< path, and "PyTorch checkpoint"
  std::string model;       ///< type_name of the model
  std::string group;       ///< dict of the file that was taken: "state_dict"
  std::string prefix;      ///< what its names begin with: "module."
  bool channels_first = false;
  int64_t expected = 0;                ///< tensors of the model
  int64_t fitting = 0;                 ///< of these, found with their shape
  std::vector<std::string> missing;    ///< names in the model
  std::vector<std::string> extra;      ///< names in the file
  std::vector<std::string> misshapen;  ///< "head.weight is {10, 640}, not {1000, 640}"
  std::vector<std::string> adapted;    ///< what `adapt` did, as sentences
  bool adaptable = false;              ///< with `adapt` nothing would be wrong
  std::vector<std::string> unused;     ///< names in the file that no model needs: counters, other copies

  bool complete() const { return missing.empty() && extra.empty() && misshapen.empty(); }
  /// All of it for people: every missing, extra and misshapen tensor, and what to do.
  std::string text() const;
  /// One sentence of what is wrong; "" if nothing is.
  std::string faults() const;
  /// What to try.
  std::string hint() const;
};

/// Compares a file with a model and changes nothing. The tensors are searched in
/// every dict of the file and behind the prefixes of training programs (module.,
/// model., backbone., encoder., _orig_mod., and those of running averages); the
/// place with most names of the model is taken. Names of other implementations of
/// the same family are translated, and convolutions may be in PyTorch's order of
/// axes {O, I, k, k} or in MLX's {O, k, k, I}, which the shapes tell; axes of size
/// 1 do not count.
WeightReport match_weights(const ImageModel& model, const WeightFile& file, const WeightOptions& options = {});

/// The same, and loads what fits. Throws Error(kModel) with the faults of the
/// report, and changes nothing, if it is not complete and not `partial`; also if
/// nothing fits at all.
WeightReport load_weights(ImageModel& model, const WeightFile& file, const WeightOptions& options = {});

/// Names of the known models whose tensors are those of the file, in the order of the table.
std::vector<std::string> models_of(const WeightFile& file);

}  // namespace aspis
