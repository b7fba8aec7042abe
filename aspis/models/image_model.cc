#include "aspis/models/image_model.h"

#include <fmt/format.h>

#include <cmath>
#include <unordered_set>

#include "aspis/base/error.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {

ModelCost count_work(const std::vector<mx::array>& outputs) {
  ops::Work total;
  std::unordered_set<std::uintptr_t> seen;
  std::vector<mx::array> open = outputs;
  while (!open.empty()) {
    const mx::array a = open.back();
    open.pop_back();
    if (!a.has_primitive() || !seen.insert(a.id()).second) continue;
    for (const auto& sibling : a.siblings()) seen.insert(sibling.id());
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
  return cost;
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
