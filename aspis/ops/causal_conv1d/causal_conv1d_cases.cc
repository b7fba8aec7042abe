#include "aspis/ops/causal_conv1d/causal_conv1d_cases.h"

#include "aspis/ops/causal_conv1d/cases.h"
#include "aspis/ops/causal_conv1d/causal_conv1d.h"
#include "aspis/ops/causal_conv1d/composed.h"
#include "aspis/ops/causal_conv1d/kernel/reference.h"

namespace aspis {
namespace {

// Positions of the inputs that a case has.
struct Places {
  explicit Places(const Conv1dCase& c) {
    int next = 2;
    if (c.bias) bias = next++;
    if (c.initial_state) initial = next++;
    if (c.order) order = next++;
  }
  int bias = -1, initial = -1, order = -1;
};

std::string name_of(const Conv1dCase& c) {
  std::string name = (c.grid.empty() ? "" : c.grid + " ") + "B" + std::to_string(c.batch) + " L" +
                     std::to_string(c.length) + " D" + std::to_string(c.channels) + " W" + std::to_string(c.width);
  const std::pair<bool, const char*> flags[] = {{!c.silu, "no silu"},
                                                {!c.bias, "no bias"},
                                                {c.symmetric, "symmetric"},
                                                {c.reverse, "reverse"},
                                                {c.order, "order"},
                                                {c.initial_state, "initial state"},
                                                {c.final_state, "final state"},
                                                {c.packed == 'c', "cu_seqlens"},
                                                {c.packed == 'i', "seq_idx"}};
  for (const auto& [on, text] : flags) name += on ? std::string(" ") + text : "";
  return name;
}

// Short, empty and long sequences.
std::vector<int32_t> bounds_of(const Conv1dCase& c) {
  if (c.packed != 'c') return {};
  return {0, 1, c.length / 3, c.length / 3, c.length / 2, c.length};
}

// Rows that begin with sequence 0, another one, or padding.
std::vector<int32_t> ids_of(const Conv1dCase& c) {
  std::vector<int32_t> ids;
  for (int b = 0; c.packed == 'i' && b < c.batch; b++) {
    for (int t = 0; t < c.length; t++) {
      const int part = 3 * t / c.length;
      ids.push_back(b == 0 ? (part == 1 ? -1 : part / 2) : b == 1 ? (part == 0 ? 4 : 0) : part - 1);
    }
  }
  return ids;
}

int states_of(const Conv1dCase& c) {
  return c.packed == 'c' ? static_cast<int>(bounds_of(c).size()) - 1 : c.batch;
}

harness::Tensors reference(const Conv1dCase& c, const harness::Tensors& in) {
  const Places at(c);
  const int states = c.width - 1;
  std::vector<int32_t> order;
  if (c.order) order.assign(in[at.order].data.begin(), in[at.order].data.end());
  harness::Tensors out = {in[0]};
  kernel::Conv1dParams<double> p;
  p.batch = c.batch, p.length = c.length, p.channels = c.channels, p.width = c.width;
  p.reach = c.symmetric ? states / 2 : states;
  p.silu = c.silu, p.reverse = c.reverse;
  p.x = in[0].data.data(), p.x_token = c.channels, p.x_batch = int64_t{c.length} * c.channels;
  p.weight = in[1].data.data();
  if (c.bias) p.bias = in[at.bias].data.data();
  if (c.order) p.order = order.data();
  if (c.initial_state) {
    p.initial = in[at.initial].data.data();
    p.initial_token = c.channels, p.initial_batch = int64_t{states} * c.channels;
  }
  if (c.final_state) {
    out.push_back(
        {{states_of(c), states, c.channels}, std::vector<double>(int64_t{states_of(c)} * states * c.channels)});
    p.final_state = out[1].data.data();
  }
  p.out = out[0].data.data();
  if (c.packed == ' ') {
    kernel::conv1d_reference(p);
    return out;
  }
  // Every sequence on its own.
  std::fill(out[0].data.begin(), out[0].data.end(), 0.0);
  const auto ids = ids_of(c);
  const auto sequences = c.packed == 'c' ? kernel::bounded_sequences(bounds_of(c))
                                         : kernel::id_sequences(c.batch, c.length, ids.data(), c.reverse);
  for (const kernel::Sequence& q : sequences) {
    if (q.padding) continue;
    kernel::Conv1dParams<double> one = p;
    one.batch = 1, one.length = q.length;
    const int64_t begin = (q.row * c.length + q.first) * c.channels, state = int64_t{states} * c.channels;
    one.x = p.x + begin, one.out = p.out + begin;
    one.initial = p.initial && q.initial >= 0 ? p.initial + q.initial * state : nullptr;
    one.final_state = p.final_state && q.last >= 0 ? p.final_state + q.last * state : nullptr;
    kernel::conv1d_reference(one);
  }
  return out;
}

Conv1dOptions options_of(const Conv1dCase& c, const harness::Arrays& in) {
  const Places at(c);
  Conv1dOptions options;
  options.silu = c.silu, options.symmetric = c.symmetric, options.reverse = c.reverse;
  if (c.bias) options.bias = in[at.bias];
  if (c.initial_state) options.initial_state = in[at.initial];
  if (c.order) options.order = in[at.order];
  options.cu_seqlens = bounds_of(c);
  if (const auto ids = ids_of(c); !ids.empty())
    options.seq_idx = mx::array(ids.data(), {c.batch, c.length}, mx::int32);
  return options;
}

harness::OpInstance instance_of(const Conv1dCase& c) {
  harness::OpCase plain;
  plain.name = name_of(c);
  plain.uses = c.uses;
  plain.inputs = {{"x", {c.batch, c.length, c.channels}}, {"weight", {c.channels, c.width}}};
  if (c.bias) plain.inputs.push_back({"bias", {c.channels}});
  if (c.initial_state) plain.inputs.push_back({"initial_state", {states_of(c), c.width - 1, c.channels}});
  if (c.order) plain.inputs.push_back({"order", {c.length}, harness::Fill::permutation(), false});
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  const double n = 1.0 * c.batch * c.length * c.channels, taps = c.width, exps = c.silu ? n : 0;
  plain.forward = {.flops = 2 * taps * n + 4 * exps, .exps = exps, .bytes = 8 * n};
  // Pre-activation again, dx and dweight; reads x and dout, writes dx.
  plain.backward = {.flops = 6 * taps * n + 8 * exps, .exps = exps, .bytes = 12 * n};
  return {plain,
          [c](const harness::Arrays& in) {
            if (!c.final_state) return harness::Arrays{causal_conv1d(in[0], in[1], options_of(c, in))};
            const auto [out, state] = causal_conv1d_with_state(in[0], in[1], options_of(c, in));
            return harness::Arrays{out, state};
          },
          [c](const harness::Arrays& in) {
            const auto [out, state] = causal_conv1d_composed(in[0], in[1], options_of(c, in));
            return c.final_state ? harness::Arrays{out, state} : harness::Arrays{out};
          }};
}

}  // namespace

harness::OpEntry causal_conv1d_entry() {
  return {"causal_conv1d",
          "depthwise convolution over tokens with SiLU, causal or symmetric",
          {"cpu", "composed"},
          true,
          true,
          [] {
            std::vector<harness::OpInstance> instances;
            for (const Conv1dCase& c : kConv1dCases) instances.push_back(instance_of(c));
            for (const Conv1dCase& c : conv1d_grid()) {
              instances.push_back(instance_of(c));
              instances.back().composed = {};  // the oracle in double checks gradients too
            }
            return instances;
          }};
}

}  // namespace aspis
