#include "aspis/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace aspis::train {

double CosineSchedule::operator()(int64_t step) const {
  if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  const auto span = static_cast<double>(std::max<int64_t>(1, steps - 1 - warmup));
  const double t = std::min(1.0, static_cast<double>(step - warmup) / span);
  return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * t));
}

}  // namespace aspis::train
