#include "aspis/ops/attention/attention_cases.h"

#include <cmath>

#include "aspis/ops/attention/attention.h"
#include "aspis/ops/attention/cases.h"
#include "aspis/ops/attention/kernel/reference.h"

namespace aspis {
namespace {

harness::Tensors reference(const AttentionCase& c, const harness::Tensors& in) {
  harness::Tensor o{in[0].shape, std::vector<double>(in[0].data.size())};
  kernel::AttentionParams<double> p;
  p.batch = c.batch;
  p.queries = c.queries;
  p.keys = c.keys;
  p.heads = c.heads;
  p.dim = c.dim;
  p.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.dim));
  p.causal = c.causal;
  const int64_t row = p.heads * p.dim;
  p.q_strides = {p.queries * row, row, p.dim};
  p.k_strides = p.v_strides = {p.keys * row, row, p.dim};
  p.q = in[0].data.data();
  p.k = in[1].data.data();
  p.v = in[2].data.data();
  p.o = o.data.data();
  kernel::attention_reference(p);
  return {o};
}

harness::OpInstance instance_of(const AttentionCase& c) {
  harness::OpCase plain;
  plain.name = std::to_string(c.batch) + "x" + std::to_string(c.queries) + "x" + std::to_string(c.heads) + "x" +
               std::to_string(c.dim);
  if (c.keys != c.queries) plain.name += " on " + std::to_string(c.keys) + " keys";
  if (c.causal) plain.name += " causal";
  plain.uses = c.uses;
  const std::vector<int> keys{c.batch, c.keys, c.heads, c.dim};
  plain.inputs = {{"q", {c.batch, c.queries, c.heads, c.dim}}, {"k", keys}, {"v", keys}};
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  const double heads = 1.0 * c.batch * c.heads, scores = heads * c.queries * c.keys;
  const double rows = heads * c.dim * (2.0 * c.queries + 2.0 * c.keys);
  // Backward: scores once more and four products of the same size.
  plain.forward = {.flops = 4 * scores * c.dim, .exps = scores, .bytes = 4 * rows};
  plain.backward = {.flops = 10 * scores * c.dim, .exps = scores, .bytes = 8 * rows};
  const AttentionOptions options{c.scale, c.causal};
  return {
      plain,
      [options](const harness::Arrays& in) { return harness::Arrays{attention(in[0], in[1], in[2], options)}; },
      [options](const harness::Arrays& in) {
        return harness::Arrays{attention_composed(in[0], in[1], in[2], options)};
      }};
}

}  // namespace

harness::OpEntry attention_entry() {
  return {"attention", "softmax(scale q k^T) v for all heads", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const AttentionCase& c : kAttentionCases) instances.push_back(instance_of(c));
            return instances;
          }};
}

}  // namespace aspis
