#include "aspis/ops/mamba_block/mamba_block_cases.h"

#include <string>

#include "aspis/ops/mamba_block/cases.h"
#include "aspis/ops/mamba_block/kernel/reference.h"
#include "aspis/ops/mamba_block/mamba_block.h"

namespace aspis {
namespace {

// Inputs: h, in_proj, out_proj, then conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D of each branch, and
// the order, if there is one, behind all.
constexpr size_t kShared = 3, kOfBranch = 7;

harness::Tensors reference(const MambaBlockCase& c, const harness::Tensors& in) {
  harness::Tensor out{in[0].shape, std::vector<double>(in[0].data.size())};
  kernel::MambaBlockParams<double> p;
  p.batch = c.batch;
  p.length = c.length;
  p.width = c.width;
  p.inner = c.inner;
  p.state = c.state;
  p.taps = c.taps;
  p.rank = c.rank;
  p.h = in[0].data.data();
  p.in_proj = in[1].data.data();
  p.out_proj = in[2].data.data();
  p.out = out.data.data();
  std::vector<int32_t> order;
  if (c.order) order.assign(in.back().data.begin(), in.back().data.end());
  for (int b = 0; b < c.branches; b++) {
    const auto at = [&](size_t i) { return in[kShared + static_cast<size_t>(b) * kOfBranch + i].data.data(); };
    p.branches.push_back(
        {at(0), at(1), at(2), at(3), at(4), at(5), at(6), b % 2 == 1, c.order ? order.data() : nullptr});
  }
  kernel::mamba_block_reference(p);
  return {out};
}

harness::OpInstance make_instance(const MambaBlockCase& c) {
  harness::OpCase plain;
  plain.name = std::to_string(c.batch) + "x" + std::to_string(c.length) + "x" + std::to_string(c.width) +
               " inner " + std::to_string(c.inner) + " state " + std::to_string(c.state);
  if (c.branches > 1) plain.name += ", " + std::to_string(c.branches) + " branches";
  if (c.order) plain.name += ", permuted";
  plain.uses = c.uses;
  const int wide = c.rank + 2 * c.state;
  const auto small = harness::Fill::normal(0.4);
  plain.inputs = {{"h", {c.batch, c.length, c.width}},
                  {"in_proj", {2 * c.inner, c.width}, small},
                  {"out_proj", {c.width, c.inner}, small}};
  for (int b = 0; b < c.branches; b++) {
    const std::string n = std::to_string(b);
    plain.inputs.insert(plain.inputs.end(), {{"conv_weight" + n, {c.inner, c.taps}, small},
                                             {"conv_bias" + n, {c.inner}, small},
                                             {"x_proj" + n, {wide, c.inner}, harness::Fill::normal(0.5)},
                                             {"dt_proj" + n, {c.inner, c.rank}, small},
                                             {"dt_bias" + n, {c.inner}, harness::Fill::uniform(-2, 0)},
                                             {"A" + n, {c.inner, c.state}, harness::Fill::uniform(-1.5, -0.2)},
                                             {"D" + n, {c.inner}}});
  }
  if (c.order) plain.inputs.push_back({"order", {c.length}, harness::Fill::permutation()});
  plain.reference = [c](const harness::Tensors& in) { return reference(c, in); };
  // Six operations one after another, each rounded.
  plain.tolerance.forward = 2e-5;
  plain.tolerance.gradient = 1e-4;
  plain.tolerance.forward_double = 1e-11;
  const double tokens = 1.0 * c.batch * c.length, branches = c.branches;
  const double products =
      2 * tokens * c.inner * (3.0 * c.width + branches * (2.0 * c.rank + 2.0 * c.state + c.taps));
  const double scan = tokens * branches * c.inner;
  plain.forward = {.flops = products + 2 * scan * (3.0 * c.state + 1),
                   .exps = scan * (c.state + 4.0),
                   .bytes = 8 * tokens * c.width};
  // Forward once more, and twice as much for the gradients.
  plain.backward = {
      .flops = 3 * plain.forward.flops, .exps = 2 * plain.forward.exps, .bytes = 12 * tokens * c.width};
  const auto branches_of = [c](const harness::Arrays& in) {
    std::vector<MambaBlockBranch> list;
    for (int b = 0; b < c.branches; b++) {
      const size_t at = kShared + static_cast<size_t>(b) * kOfBranch;
      list.push_back({in[at], in[at + 1], in[at + 2], in[at + 3], in[at + 4], in[at + 5], in[at + 6], b % 2 == 1});
      if (c.order) list.back().order = in.back();
    }
    return list;
  };
  return {plain,
          [=](const harness::Arrays& in) {
            return harness::Arrays{mamba_block(in[0], in[1], branches_of(in), in[2])};
          },
          [=](const harness::Arrays& in) {
            return harness::Arrays{mamba_block_composed(in[0], in[1], branches_of(in), in[2])};
          }};
}

}  // namespace

harness::OpEntry mamba_block_entry() {
  return {"mamba_block", "the Mamba-1 block as one operation", {"cpu", "composed"}, true, false, [] {
            std::vector<harness::OpInstance> instances;
            for (const MambaBlockCase& c : kMambaBlockCases) instances.push_back(make_instance(c));
            return instances;
          }};
}

}  // namespace aspis
