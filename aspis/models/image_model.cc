#include "aspis/models/image_model.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <unordered_set>

#include "aspis/base/error.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {

ModelCost count_work(const std::vector<mx::array>& outputs) {
  ops::Work total;
  int64_t kept = 0, widest = 0;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> open = outputs;
  while (!open.empty()) {
    const mx::array a = open.back();
    open.pop_back();
    if (!a.has_primitive() || !seen.insert(a.id()).second) continue;
    for (const auto& sibling : a.siblings()) seen.insert(sibling.id());
    // Views take no memory, and neither do constants that are spread out.
    static const std::set<std::string, std::less<>> free_of_charge{
        "Broadcast", "BroadcastAxes", "Reshape",   "Transpose", "Slice", "Split",      "ExpandDims",
        "Squeeze",   "Flatten",       "Unflatten", "AsStrided", "Full",  "Contiguous", "StopGradient"};
    if (!free_of_charge.contains(a.primitive().name())) {
      int64_t bytes = 0;
      for (const auto& out : a.outputs()) bytes += static_cast<int64_t>(out.nbytes());
      kept += bytes;
      for (const auto& input : a.inputs()) {
        if (input.has_primitive()) bytes += static_cast<int64_t>(input.nbytes());
      }
      widest = std::max(widest, bytes);
    }
    if (const auto* p = dynamic_cast<const ops::CpuPrimitive*>(&a.primitive())) {
      auto outs = a.outputs();
      const ops::Work w = p->work(a.inputs(), outs);
      total.macs += w.macs;
      total.exps += w.exps;
      total.scan_macs += w.scan_macs;
    }
    for (const auto& input : a.inputs()) open.push_back(input);
  }
  ModelCost cost;
  cost.macs = std::llround(total.macs);
  cost.exps = std::llround(total.exps);
  cost.scan_macs = std::llround(total.scan_macs);
  cost.kept_bytes = kept;
  cost.transient_bytes = 2 * widest;  // the operation at work, and the residual streams beside it
  cost.backward_bytes = 2 * widest;
  return cost;
}

mx::array adapt_input_channels(const mx::array& weight, int64_t channels) {
  const auto old = weight.shape(-1);
  if (channels == old) return weight;
  if (channels == 1) return mx::sum(weight, -1, true);
  std::vector<int32_t> from;
  for (int64_t c = 0; c < channels; c++) from.push_back(static_cast<int32_t>(c % old));
  const auto repeated = mx::take(weight, mx::array(from.begin(), {static_cast<int>(channels)}, mx::int32), -1);
  return repeated * mx::array(static_cast<float>(old) / static_cast<float>(channels), weight.dtype());
}

std::optional<mx::array> ImageModel::fitted(const std::string&, const mx::array& value,
                                            const mx::Shape& want) const {
  if (value.ndim() < 4 || value.ndim() != want.size()) return std::nullopt;
  for (size_t i = 0; i + 1 < want.size(); i++) {
    if (value.shape(static_cast<int>(i)) != want[i]) return std::nullopt;
  }
  return adapt_input_channels(value, want.back());
}

Residual ImageModel::pass(Module& block, const Residual& x,
                          const std::function<Residual(const Residual&)>& f) const {
  return recompute_ && training() ? recomputed(block, f, x) : f(x);
}

mx::array ImageModel::pass(Module& block, const mx::array& x,
                           const std::function<mx::array(const mx::array&)>& f) const {
  if (!recompute_ || !training()) return f(x);
  return recomputed(block, [f](const std::vector<mx::array>& in) { return std::vector<mx::array>{f(in[0])}; },
                    {x})[0];
}

std::vector<size_t> ImageModel::stage_places(const std::vector<int>& out_indices) const {
  const int count = static_cast<int>(stages().size());
  std::vector<size_t> places;
  for (int i = 0; out_indices.empty() && i < count; i++) places.push_back(static_cast<size_t>(i));
  for (const int index : out_indices) {
    require(index >= -count && index < count, [&] {
      return Error::Parts{.where = model_type(),
                          .required = fmt::format("out_indices must lie in [{}, {})", -count, count),
                          .got = std::to_string(index),
                          .hint = ""};
    });
    places.push_back(static_cast<size_t>(index < 0 ? index + count : index));
  }
  return places;
}

}  // namespace aspis
