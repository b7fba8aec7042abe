#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "aspis/nn/linear.h"
#include "aspis/nn/module.h"
#include "aspis/nn/recompute.h"

namespace aspis {

/// What one input costs. Counts are of multiply-adds (a multiplication and an
/// addition are one); bytes are of float32.
struct ModelCost {
  int64_t macs = 0;             ///< forward, all of the model
  int64_t scan_macs = 0;        ///< of these, in selective scans
  int64_t exps = 0;             ///< exponentials, which bound the scan on a CPU
  int64_t kept_bytes = 0;       ///< activations kept for the backward pass
  int64_t transient_bytes = 0;  ///< largest set of activations alive at one time without gradients
  int64_t backward_bytes = 0;   ///< working memory of the widest layer's backward pass
  /// From this batch on Mamba blocks run as one operation each, which computes again
  /// instead of keeping; 0: never. The two as above for such batches.
  int64_t in_one_from = 0;
  int64_t in_one_kept_bytes = 0, in_one_backward_bytes = 0;

  int64_t inference_bytes(int64_t batch) const { return batch * transient_bytes; }
  /// The engine dispatches operations ahead of those that free their inputs,
  /// and the branches of a layer overlap: 2.0 to 2.4 times the sum of what a
  /// step needs was measured at the peak, 1.8 to 1.9 with blocks in one (train_test.cc).
  int64_t training_bytes(int64_t batch) const {
    if (in_one_from > 0 && batch >= in_one_from) {
      return batch * (in_one_kept_bytes + in_one_backward_bytes) * 185 / 100;
    }
    return batch * (kept_bytes + backward_bytes) * 22 / 10;
  }
};

/// The work of one forward pass over a single input, counted on the operations
/// of its graph; nothing is computed. The bytes are an upper estimate: every
/// result is kept for the backward pass.
ModelCost count_work(const std::vector<mx::array>& outputs);

/// A place where a backbone hands out a feature map, as timm's `feature_info`.
struct StageInfo {
  std::string name;       ///< "levels.0"
  int64_t reduction = 1;  ///< input pixels per step of the map
  int64_t channels = 0;
};

/// The weight of a first convolution {O, .., C} for another number of input channels, as
/// timm does it: for one channel the sum over the old ones, else the old ones over and
/// over again, multiplied by old / new so that sums stay.
mx::array adapt_input_channels(const mx::array& weight, int64_t channels);

/// A model over images, channels last. Every family can be used as a
/// classifier, for embeddings, and as a backbone:
///
///     logits = classify(pool(forward_features(images)))
class ImageModel : public Module {
 public:
  /// Images {B, H, W, C} to the features that `pool` reduces: a map {B, h, w, C'}
  /// or tokens {B, n, C'}. Throws Error(kUsage) for shapes that do not fit.
  virtual mx::array forward_features(const mx::array& images) const = 0;
  /// Features to one vector per image: {B, C'}.
  virtual mx::array pool(const mx::array& features) const = 0;
  /// {B, C'} to {B, num_classes}. Throws Error(kUsage) for a model without head.
  virtual mx::array classify(const mx::array& pooled) const = 0;

  /// {B, num_classes}. Throws Error(kUsage) for a model without head.
  mx::array logits(const mx::array& images) const { return classify(pool(forward_features(images))); }

  /// The stages that can be asked for, first to last.
  virtual std::vector<StageInfo> stages() const = 0;
  /// Feature maps {B, h, w, channels} of the stages with these numbers (negative
  /// ones count from the end), in the order of the list; all for an empty list.
  virtual std::vector<mx::array> feature_maps(const mx::array& images,
                                              const std::vector<int>& out_indices = {}) const = 0;

  /// In training, keep only what lies between blocks and compute the rest again in
  /// the backward pass: less memory, a third more time, the same bits.
  void checkpoint_gradients(bool on) { recompute_ = on; }

  /// The layer of `classify`; null without classes.
  virtual const Linear* classifier() const = 0;
  /// A tensor that a model of the same kind, but of another image size or other input
  /// channels, has under this name, made into one of shape `want`; none if it cannot be.
  virtual std::optional<mx::array> fitted(const std::string& name, const mx::array& value,
                                          const mx::Shape& want) const;

  virtual int64_t num_classes() const = 0;
  /// Shape of one input, without the batch: {H, W, C}.
  virtual std::vector<int64_t> input_shape() const = 0;

  /// The word that picks the class: "vision_mamba".
  virtual std::string model_type() const = 0;
  /// The content of config.json, model_type included.
  virtual std::string config_json() const = 0;
  virtual ModelCost cost() const = 0;

 protected:
  /// `out_indices` as places in `stages()`. Throws Error(kUsage) for others.
  std::vector<size_t> stage_places(const std::vector<int>& out_indices) const;
  /// f(x), f being what `block` does, under `checkpoint_gradients`.
  Residual pass(Module& block, const Residual& x, const std::function<Residual(const Residual&)>& f) const;
  mx::array pass(Module& block, const mx::array& x, const std::function<mx::array(const mx::array&)>& f) const;

 private:
  bool recompute_ = false;
};

}  // namespace aspis
