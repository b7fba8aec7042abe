#include "aspis/ops/cross_entropy/cross_entropy_cases.h"

#include "aspis/ops/cross_entropy/cases.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"
#include "aspis/ops/cross_entropy/kernel/reference.h"

namespace aspis {
namespace {

harness::OpInstance make_instance(const CrossEntropyCase& c) {
  static const char* const kReductions[] = {"none", "mean", "sum"};
  harness::OpCase plain;
  plain.name = std::to_string(c.rows) + "x" + std::to_string(c.classes) + (c.soft ? " soft" : " labels") +
               (c.smoothing > 0 ? " smoothed " : " ") + kReductions[c.reduction];
  plain.uses = c.uses;
  plain.inputs = {{"logits", {c.rows, c.classes}, harness::Fill::normal(2)}};
  if (c.soft) {
    plain.inputs.push_back({"targets", {c.rows, c.classes}, harness::Fill::probabilities()});
  } else {
    plain.inputs.push_back({"targets", {c.rows}, harness::Fill::labels(c.classes)});
  }
  const kernel::LossReduction reductions[] = {kernel::LossReduction::kNone, kernel::LossReduction::kMean,
                                              kernel::LossReduction::kSum};
  plain.reference = [c, reduction = reductions[c.reduction]](const harness::Tensors& in) {
    harness::Tensor loss;
    if (c.reduction == 0) loss.shape = {c.rows};
    loss.data.resize(c.reduction == 0 ? c.rows : 1);
    std::vector<int32_t> labels;
    if (!c.soft) {
      for (const double v : in[1].data) labels.push_back(static_cast<int32_t>(v));
    }
    kernel::CrossEntropyParams<double> p;
    p.rows = c.rows;
    p.classes = c.classes;
    p.logits = in[0].data.data();
    p.logits_stride = c.classes;
    p.labels = c.soft ? nullptr : labels.data();
    p.soft = c.soft ? in[1].data.data() : nullptr;
    p.soft_stride = c.classes;
    p.smoothing = c.smoothing;
    p.reduction = reduction;
    p.loss = loss.data.data();
    kernel::cross_entropy_reference(p);
    return harness::Tensors{loss};
  };
  const double n = 1.0 * c.rows * c.classes;
  plain.forward = {.flops = 3 * n, .exps = n, .bytes = (c.soft ? 8 : 4) * n};
  plain.backward = {.flops = 4 * n, .exps = n, .bytes = (c.soft ? 16 : 8) * n};

  CrossEntropyOptions options;
  options.label_smoothing = c.smoothing;
  options.reduction = c.reduction == 0 ? Reduction::kNone : c.reduction == 1 ? Reduction::kMean : Reduction::kSum;
  return {plain,
          [options](const harness::Arrays& in) { return harness::Arrays{cross_entropy(in[0], in[1], options)}; },
          [options](const harness::Arrays& in) {
            return harness::Arrays{cross_entropy_composed(in[0], in[1], options)};
          }};
}

}  // namespace

harness::OpEntry cross_entropy_entry() {
  return {
      "cross_entropy", "softmax cross-entropy with labels or soft targets", {"cpu", "composed"}, true, false, [] {
        std::vector<harness::OpInstance> instances;
        for (const CrossEntropyCase& c : kCrossEntropyCases) instances.push_back(make_instance(c));
        return instances;
      }};
}

}  // namespace aspis
