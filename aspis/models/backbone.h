#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/models/image_model.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/recompute.h"

namespace aspis {

/// What the families that take images of many sizes have in common; keys of
/// config.json in the same words.
struct BackboneConfig {
  int64_t img_size = 224;       ///< the size the model was made for
  int64_t in_channels = 3;      ///< channels, last axis of the input
  int64_t num_classes = 1000;   ///< 0: no head
  double drop_path_rate = 0.0;  ///< of the last block; rates rise evenly from 0

  /// Throws `kind` for sizes that do not fit, naming the key.
  void check_common(const std::string& where, ErrorKind kind) const;
};

/// The shared part of those families: sizes, head and cost.
class Backbone : public ImageModel {
 public:
  int64_t num_classes() const override { return base_.num_classes; }
  std::vector<int64_t> input_shape() const override { return {base_.img_size, base_.img_size, base_.in_channels}; }
  /// Counted on the graph of one image of `img_size`.
  ModelCost cost() const override;
  mx::array classify(const mx::array& pooled) const override;
  void checkpoint_gradients(bool on) override { recompute_ = on; }

 protected:
  explicit Backbone(const BackboneConfig& config) : base_(config) {}
  /// Throws Error(kUsage) unless the images are {B, H, W, in_channels} with H, W >= `smallest`.
  void check_images(const mx::array& images, int64_t smallest = 1) const;
  /// The classifier of `classify`; null without classes.
  virtual const Linear* classifier() const = 0;

  /// f(x), f being what `block` does, under `checkpoint_gradients`.
  Residual pass(Module& block, const Residual& x, const std::function<Residual(const Residual&)>& f) const;
  mx::array pass(Module& block, const mx::array& x, const std::function<mx::array(const mx::array&)>& f) const;

  /// Receives the maps of the stages in turn and keeps those that are asked for.
  class Maps {
   public:
    explicit Maps(std::vector<size_t> places) : places_(std::move(places)) {}
    /// Whether the next stage's map is wanted.
    bool wanted() const;
    /// The map of the next stage; anything where it is not wanted.
    void add(const mx::array& map);
    void skip() { kept_.emplace_back(); }
    std::vector<mx::array> list() const;

   private:
    std::vector<size_t> places_;
    std::vector<std::optional<mx::array>> kept_;
  };

 private:
  BackboneConfig base_;
  bool recompute_ = false;
};

}  // namespace aspis
