#include "aspis/ops/attention/attention_cases.h"

#include <cmath>
#include <memory>

#include <mlx/ops.h>

#include "aspis/ops/attention/attention.h"
#include "aspis/ops/attention/cases.h"
#include "aspis/ops/attention/kernel/reference.h"

namespace aspis {
namespace {

namespace mx = mlx::core;

// Flags are 0, 1 or 2: a third of the keys is not seen.
constexpr int kFlags = 3;

harness::Tensors reference(const AttentionCase& c, const harness::Tensors& in) {
  harness::Tensor o{in[0].shape, std::vector<double>(in[0].data.size())};
  kernel::AttentionParams<double> p;
  p.batch = c.batch;
  p.queries = c.queries;
  p.keys = c.keys;
  p.heads = c.heads;
  p.kv_heads = c.kv_heads;
  p.dim = c.dim;
  p.scale = c.scale != 0 ? c.scale : 1 / std::sqrt(static_cast<double>(c.dim));
  p.causal = c.mask == AttentionCase::kCausal;
  const int64_t row = p.heads * p.dim, kv_row = p.kv_heads * p.dim;
  p.q_strides = {p.queries * row, row, p.dim};
  p.k_strides = p.v_strides = {p.keys * kv_row, kv_row, p.dim};
  p.q = in[0].data.data();
  p.k = in[1].data.data();
  p.v = in[2].data.data();
  p.o = o.data.data();
  std::unique_ptr<bool[]> allow;
  p.mask.column = 1;
  if (c.mask == AttentionCase::kBias) {  // {H, L, S}
    p.mask.bias = in[3].data.data();
    p.mask.head = p.queries * p.keys;
    p.mask.row = p.keys;
  } else if (c.mask == AttentionCase::kKeyBias) {  // {B, 1, 1, S}
    p.mask.bias = in[3].data.data();
    p.mask.batch = p.keys;
  } else if (c.mask == AttentionCase::kAllow) {  // {L, S}
    allow.reset(new bool[in[3].data.size()]);
    for (size_t i = 0; i < in[3].data.size(); i++) allow[i] = in[3].data[i] != 0;
    p.mask.allow = allow.get();
    p.mask.row = p.keys;
  }
  kernel::attention_reference(p);
  return {o};
}

AttentionOptions options_of(const AttentionCase& c, const harness::Arrays& in) {
  AttentionOptions o{.scale = c.scale, .causal = c.mask == AttentionCase::kCausal};
  if (in.size() == 4) o.mask = c.mask == AttentionCase::kAllow ? mx::not_equal(in[3], mx::array(0)) : in[3];
  return o;
}

harness::OpInstance instance_of(const AttentionCase& c) {
  harness::OpCase plain;
  plain.name = std::to_string(c.batch) + "x" + std::to_string(c.queries) + "x" + std::to_string(c.heads) + "x" +
               std::to_string(c.dim);
  if (c.keys != c.queries) plain.name += " on " + std::to_string(c.keys) + " keys";
  if (c.kv_heads != c.heads) plain.name += " of " + std::to_string(c.kv_heads) + " heads";
  plain.uses = c.uses;
  const std::vector<int> keys{c.batch, c.keys, c.kv_heads, c.dim};
  plain.inputs = {{"q", {c.batch, c.queries, c.heads, c.dim}}, {"k", keys}, {"v", keys}};
  switch (c.mask) {
    case AttentionCase::kNone:
      break;
    case AttentionCase::kCausal:
      plain.name += " causal";
      break;
    case AttentionCase::kBias:
      plain.name += " with bias";
      plain.inputs.push_back({"bias", {c.heads, c.queries, c.keys}});
      break;
    case AttentionCase::kKeyBias:
      plain.name += " with bias of keys";
      // A gradient of such a mask has the size of the scores: in timing it is a constant.
      plain.inputs.push_back(
          {"bias", {c.batch, 1, 1, c.keys}, harness::Fill::normal(), (c.uses & harness::kPerf) == 0});
      break;
    case AttentionCase::kAllow:
      plain.name += " with flags";
      plain.inputs.push_back({"flags", {c.queries, c.keys}, harness::Fill::labels(kFlags)});
      break;
  }
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  const double heads = 1.0 * c.batch * c.heads, all = heads * c.queries * c.keys;
  // Causal with as many keys as queries: half of the scores count.
  const double scores = c.mask == AttentionCase::kCausal && c.keys == c.queries ? all / 2 : all;
  const double rows = heads * c.dim * 2.0 * c.queries + 2.0 * c.batch * c.kv_heads * c.dim * c.keys;
  // Backward: scores once more and four products of the same size.
  plain.forward = {.flops = 4 * scores * c.dim, .exps = scores, .bytes = 4 * rows};
  plain.backward = {.flops = 10 * scores * c.dim, .exps = scores, .bytes = 8 * rows};
  return {plain,
          [c](const harness::Arrays& in) {
            return harness::Arrays{attention(in[0], in[1], in[2], options_of(c, in))};
          },
          [c](const harness::Arrays& in) {
            return harness::Arrays{attention_composed(in[0], in[1], in[2], options_of(c, in))};
          }};
}

harness::Tensors window_reference(const WindowAttentionCase& c, const harness::Tensors& in) {
  harness::Tensor o{in[0].shape, std::vector<double>(in[0].data.size())};
  kernel::AttentionParams<double> p;
  p.batch = c.batch;
  p.heads = c.heads;
  p.kv_heads = c.kv_heads;
  p.dim = c.dim;
  p.scale = 1 / std::sqrt(static_cast<double>(c.dim));
  p.height = c.height;
  p.width = c.width;
  p.side = c.side;
  p.queries = p.keys = p.side * p.side;
  const int64_t row = p.heads * p.dim, kv_row = p.kv_heads * p.dim;
  p.q_strides = {p.height * p.width * row, row, p.dim, p.width * row};
  p.k_strides = p.v_strides = {p.height * p.width * kv_row, kv_row, p.dim, p.width * kv_row};
  p.q = in[0].data.data();
  p.k = in[1].data.data();
  p.v = in[2].data.data();
  p.o = o.data.data();
  kernel::attention_reference(p);
  return {o};
}

harness::OpInstance instance_of(const WindowAttentionCase& c) {
  harness::OpCase plain;
  plain.name = std::to_string(c.batch) + "x" + std::to_string(c.height) + "x" + std::to_string(c.width) + "x" +
               std::to_string(c.heads) + "x" + std::to_string(c.dim) + " by " + std::to_string(c.side);
  if (c.kv_heads != c.heads) plain.name += " of " + std::to_string(c.kv_heads) + " heads";
  plain.uses = c.uses;
  const std::vector<int> keys{c.batch, c.height, c.width, c.kv_heads, c.dim};
  plain.inputs = {{"q", {c.batch, c.height, c.width, c.heads, c.dim}}, {"k", keys}, {"v", keys}};
  plain.reference = [c](const harness::Tensors& in) { return window_reference(c, in); };
  double scores = 0;
  for (int y = 0; y < c.height; y += c.side) {
    for (int x = 0; x < c.width; x += c.side) {
      const double n = 1.0 * std::min(c.side, c.height - y) * std::min(c.side, c.width - x);
      scores += n * n * c.batch * c.heads;
    }
  }
  const double rows = 1.0 * c.batch * c.height * c.width * c.dim * (2 * c.heads + 2 * c.kv_heads);
  plain.forward = {.flops = 4 * scores * c.dim, .exps = scores, .bytes = 4 * rows};
  plain.backward = {.flops = 10 * scores * c.dim, .exps = scores, .bytes = 8 * rows};
  return {
      plain,
      [c](const harness::Arrays& in) { return harness::Arrays{window_attention(in[0], in[1], in[2], c.side)}; },
      [c](const harness::Arrays& in) {
        return harness::Arrays{window_attention_composed(in[0], in[1], in[2], c.side)};
      }};
}

template <typename Case>
std::vector<harness::OpInstance> instances_of(const std::vector<Case>& cases) {
  std::vector<harness::OpInstance> instances;
  for (const Case& c : cases) instances.push_back(instance_of(c));
  return instances;
}

}  // namespace

harness::OpEntry attention_entry() {
  return {"attention", "softmax(scale q k^T + mask) v for all heads", {"cpu", "composed"}, true,
          false,       [] { return instances_of(kAttentionCases); }};
}

harness::OpEntry window_attention_entry() {
  return {"window_attention", "attention inside the windows of a map", {"cpu", "composed"}, true, false, [] {
            return instances_of(kWindowAttentionCases);
          }};
}

}  // namespace aspis
