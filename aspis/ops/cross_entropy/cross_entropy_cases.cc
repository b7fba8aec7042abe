#include "aspis/ops/cross_entropy/cross_entropy_cases.h"

#include "aspis/ops/cross_entropy/cases.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"
#include "aspis/ops/cross_entropy/kernel/reference.h"

namespace aspis {
namespace {

harness::Tensors reference(const CrossEntropyCase& c, const harness::Tensors& in) {
  kernel::CrossEntropyParams<double> p;
  p.rows = c.rows;
  p.classes = c.classes;
  p.x = in[0].data.data();
  p.x_stride = p.t_stride = c.classes;
  std::vector<int64_t> labels;
  if (c.soft) {
    p.t = in[1].data.data();
  } else {
    labels.assign(in[1].data.begin(), in[1].data.end());
    p.labels = labels.data();
  }
  p.smoothing = c.smoothing;
  p.ignore_index = c.ignore_index;
  p.mean = c.reduction == 0;
  p.reduce = c.reduction != 2;
  harness::Tensor loss{{}, std::vector<double>(p.reduce ? 1 : c.rows)};
  if (!p.reduce) loss.shape = {c.rows};
  p.loss = loss.data.data();
  kernel::cross_entropy_reference(p);
  return {loss};
}

harness::OpInstance instance_of(const CrossEntropyCase& c) {
  harness::OpCase plain;
  plain.name = c.name;
  plain.uses = c.uses;
  plain.inputs = {{"logits", {c.rows, c.classes}, harness::Fill::normal(2)}};
  if (c.soft) {
    plain.inputs.push_back({"targets", {c.rows, c.classes}, harness::Fill::probabilities()});
  } else {
    plain.inputs.push_back({"targets", {c.rows}, harness::Fill::labels(c.classes)});
  }
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  const double n = static_cast<double>(c.rows) * c.classes, reads = c.soft ? 2 : 1;
  plain.forward = {.flops = (c.soft ? 8 : 4) * n, .exps = n, .bytes = 4 * reads * n};
  plain.backward = {.flops = (c.soft ? 12 : 6) * n, .exps = 2 * n, .bytes = 4 * (reads + (c.soft ? 2 : 1)) * n};
  CrossEntropyOptions options;
  options.label_smoothing = c.smoothing;
  options.reduction = static_cast<Reduction>(c.reduction);
  options.ignore_index = c.ignore_index;
  return {plain,
          [options](const harness::Arrays& in) { return harness::Arrays{cross_entropy(in[0], in[1], options)}; },
          [options](const harness::Arrays& in) {
            return harness::Arrays{cross_entropy_composed(in[0], in[1], options)};
          }};
}

}  // namespace

harness::OpEntry cross_entropy_entry() {
  return {"cross_entropy", "softmax cross-entropy with labels or weights", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const CrossEntropyCase& c : kCrossEntropyCases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace aspis
