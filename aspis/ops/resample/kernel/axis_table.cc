#include "aspis/ops/resample/kernel/axis_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace aspis::kernel {
namespace {

// Collects the taps of one output after the other. Taps that fall on one input
// (a border) are one.
class Builder {
 public:
  Builder(int64_t in, int64_t out) {
    table_.in = in;
    table_.out = out;
    table_.first.push_back(0);
  }
  void tap(int64_t index, double weight) { taps_.emplace_back(index, weight); }
  void end_output() {
    std::stable_sort(taps_.begin(), taps_.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto begin = static_cast<size_t>(table_.first.back());
    for (const auto& [index, weight] : taps_) {
      if (table_.index.size() > begin && table_.index.back() == index) {
        table_.weight.back() += weight;
      } else {
        table_.index.push_back(static_cast<int32_t>(index));
        table_.weight.push_back(weight);
      }
    }
    taps_.clear();
    table_.first.push_back(static_cast<int64_t>(table_.index.size()));
  }
  AxisTable take() { return std::move(table_); }

 private:
  AxisTable table_;
  std::vector<std::pair<int64_t, double>> taps_;
};

// Keys (1981): the cubic convolution kernel.
double cubic(double x, double a) {
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
double triangle(double x) { return std::max(0.0, 1 - std::abs(x)); }

AxisTable antialias_table(int64_t in, int64_t out, bool is_cubic, double scale) {
  Builder b(in, out);
  const double reach = (is_cubic ? 2.0 : 1.0) * std::max(scale, 1.0), inverse = scale >= 1 ? 1 / scale : 1;
  for (int64_t i = 0; i < out; i++) {
    const double centre = scale * (static_cast<double>(i) + 0.5);
    const int64_t low = std::max<int64_t>(static_cast<int64_t>(centre - reach + 0.5), 0);
    const int64_t high = std::min<int64_t>(static_cast<int64_t>(centre + reach + 0.5), in);
    const auto weight = [&](int64_t j) {
      const double x = (static_cast<double>(j) - centre + 0.5) * inverse;
      return is_cubic ? cubic(x, -0.5) : triangle(x);
    };
    double total = 0;
    for (int64_t j = low; j < high; j++) total += weight(j);
    for (int64_t j = low; j < high; j++) b.tap(j, total != 0 ? weight(j) / total : weight(j));
    b.end_output();
  }
  return b.take();
}

}  // namespace

bool AxisTable::is_identity() const {
  if (in != out || static_cast<int64_t>(index.size()) != out) return false;
  for (int64_t i = 0; i < out; i++) {
    if (index[i] != i || weight[i] != 1) return false;
  }
  return true;
}

AxisTable AxisTable::transposed() const {
  AxisTable t;
  t.in = out;
  t.out = in;
  t.first.assign(static_cast<size_t>(in) + 1, 0);
  for (const int32_t i : index) t.first[i + 1]++;
  for (int64_t i = 0; i < in; i++) t.first[i + 1] += t.first[i];
  t.index.resize(index.size());
  t.weight.resize(index.size());
  std::vector<int64_t> next(t.first.begin(), t.first.end() - 1);
  for (int64_t o = 0; o < out; o++) {
    for (int64_t k = first[o]; k < first[o + 1]; k++) {
      const int64_t place = next[index[k]]++;
      t.index[place] = static_cast<int32_t>(o);
      t.weight[place] = weight[k];
    }
  }
  return t;
}

AxisTable identity_table(int64_t size) {
  Builder b(size, size);
  for (int64_t i = 0; i < size; i++) {
    b.tap(i, 1);
    b.end_output();
  }
  return b.take();
}

int64_t pooled_size(int64_t in, int64_t window, int64_t stride, int64_t padding, int64_t dilation,
                    bool ceil_mode) {
  const int64_t room = in + 2 * padding - dilation * (window - 1) - 1;
  if (room < 0) return 0;
  int64_t out = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (ceil_mode && (out - 1) * stride >= in + padding) out--;
  return out;
}

AxisTable average_table(int64_t in, int64_t window, int64_t stride, int64_t padding, bool ceil_mode,
                        bool count_padding) {
  const int64_t out = pooled_size(in, window, stride, padding, 1, ceil_mode);
  Builder b(in, out);
  for (int64_t i = 0; i < out; i++) {
    const int64_t start = i * stride - padding, end = std::min(start + window, in + padding);
    const int64_t low = std::max<int64_t>(start, 0), high = std::min(end, in);
    const double count = static_cast<double>(count_padding ? end - start : high - low);
    for (int64_t j = low; j < high; j++) b.tap(j, 1 / count);
    b.end_output();
  }
  return b.take();
}

AxisTable adaptive_average_table(int64_t in, int64_t out) {
  Builder b(in, out);
  for (int64_t i = 0; i < out; i++) {
    const int64_t low = i * in / out, high = ((i + 1) * in + out - 1) / out;
    for (int64_t j = low; j < high; j++) b.tap(j, 1 / static_cast<double>(high - low));
    b.end_output();
  }
  return b.take();
}

AxisTable window_table(int64_t in, int64_t window, int64_t stride, int64_t padding, int64_t dilation,
                       bool ceil_mode) {
  const int64_t out = pooled_size(in, window, stride, padding, dilation, ceil_mode);
  Builder b(in, out);
  for (int64_t i = 0; i < out; i++) {
    double number = 0;
    for (int64_t k = 0; k < window; k++) {
      const int64_t j = i * stride - padding + k * dilation;
      if (j >= 0 && j < in) b.tap(j, number++);
    }
    b.end_output();
  }
  return b.take();
}

AxisTable adaptive_window_table(int64_t in, int64_t out) {
  AxisTable t = adaptive_average_table(in, out);
  for (int64_t i = 0; i < out; i++) {
    for (int64_t k = t.first[i]; k < t.first[i + 1]; k++) t.weight[k] = static_cast<double>(k - t.first[i]);
  }
  return t;
}

AxisTable interpolation_table(int64_t in, int64_t out, Interpolation mode, bool align_corners, bool antialias,
                              double scale) {
  const double width = static_cast<double>(in);
  double step = scale > 0 ? 1 / scale : width / static_cast<double>(out);
  Builder b(in, out);
  if (mode == Interpolation::kNearest || mode == Interpolation::kNearestExact) {
    // PyTorch takes this step and its multiples in float32; other roundings would
    // choose other neighbours.
    const float step32 =
        scale > 0 ? static_cast<float>(1 / scale) : static_cast<float>(in) / static_cast<float>(out);
    const float shift = mode == Interpolation::kNearestExact ? 0.5f : 0.f;
    for (int64_t i = 0; i < out; i++) {
      const float at = (static_cast<float>(i) + shift) * step32;
      b.tap(std::min<int64_t>(static_cast<int64_t>(std::floor(at)), in - 1), 1);
      b.end_output();
    }
    return b.take();
  }
  if (align_corners) step = out > 1 ? (width - 1) / static_cast<double>(out - 1) : 0;
  if (antialias) return antialias_table(in, out, mode == Interpolation::kCubic, step);
  for (int64_t i = 0; i < out; i++) {
    const double x = static_cast<double>(i);
    double at = align_corners ? x * step : (x + 0.5) * step - 0.5;
    if (mode == Interpolation::kLinear) {
      at = std::max(at, 0.0);
      const int64_t low = std::min<int64_t>(static_cast<int64_t>(at), in - 1);
      const double part = std::min(at - static_cast<double>(low), 1.0);
      b.tap(low, 1 - part);
      if (low + 1 < in) {
        b.tap(low + 1, part);
      } else {
        b.tap(low, part);
      }
    } else {
      const double base = std::floor(at);
      for (int64_t k = -1; k <= 2; k++) {
        const int64_t j = std::clamp<int64_t>(static_cast<int64_t>(base) + k, 0, in - 1);
        b.tap(j, cubic(at - base - static_cast<double>(k), -0.75));
      }
    }
    b.end_output();
  }
  return b.take();
}

}  // namespace aspis::kernel
