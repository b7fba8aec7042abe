#include "aspis/data/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace aspis::data {
namespace {

using Color = std::array<double, 3>;

Color color_of(double share) {
  // Rising brightness, so that the map also reads in gray.
  static constexpr Color kStops[] = {{0, 0, 4}, {85, 15, 109}, {187, 55, 84}, {249, 142, 9}, {252, 255, 164}};
  const double at = std::clamp(share, 0.0, 1.0) * 4;
  const int low = std::min(3, static_cast<int>(at));
  Color c{};
  for (size_t k = 0; k < 3; ++k) c[k] = kStops[low][k] + (at - low) * (kStops[low + 1][k] - kStops[low][k]);
  return c;
}

// Linear interpolation between the middles of the cells.
double value_at(const std::vector<float>& map, int height, int width, double y, double x) {
  const auto clamp = [](double v, int n) { return std::clamp(v, 0.0, static_cast<double>(n - 1)); };
  y = clamp(y, height);
  x = clamp(x, width);
  const int y0 = static_cast<int>(y), x0 = static_cast<int>(x);
  const int y1 = std::min(y0 + 1, height - 1), x1 = std::min(x0 + 1, width - 1);
  const auto at = [&](int r, int c) { return static_cast<double>(map[static_cast<size_t>(r) * width + c]); };
  const double top = at(y0, x0) + (x - x0) * (at(y0, x1) - at(y0, x0));
  const double bottom = at(y1, x0) + (x - x0) * (at(y1, x1) - at(y1, x0));
  return top + (y - y0) * (bottom - top);
}

}  // namespace

Image overlay_heat_map(const Image& picture, const std::vector<float>& map, int height, int width,
                       int least_side) {
  const bool finite = std::all_of(map.begin(), map.end(), [](float v) { return std::isfinite(v); });
  require(picture.height >= 1 && picture.width >= 1 && height >= 1 && width >= 1 && finite &&
              map.size() == static_cast<size_t>(height) * width,
          [&] {
            return Error::Parts{.where = "overlay_heat_map",
                                .required = "a picture and as many finite values as height x width",
                                .got = fmt::format("{} x {}, {} values for {} x {}", picture.height, picture.width,
                                                   map.size(), height, width)};
          });
  std::vector<float> sorted = map;
  std::sort(sorted.begin(), sorted.end());
  const auto percentile = [&](double p) {
    return static_cast<double>(sorted[static_cast<size_t>(p * static_cast<double>(sorted.size() - 1))]);
  };
  const double low = percentile(0.01), high = percentile(0.99);
  const double range = high > low ? high - low : 1;  // an even map is black
  const int side = std::min(picture.height, picture.width);
  const int factor = std::max(1, (least_side + side - 1) / side);
  const Image gray = to_channels(picture, 1);
  Image out(gray.height * factor, gray.width * factor, 3);
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      const double my = (y + 0.5) / out.height * height - 0.5, mx = (x + 0.5) / out.width * width - 0.5;
      const Color heat = color_of((value_at(map, height, width, my, mx) - low) / range);
      const int shade = gray.row(y / factor)[x / factor];
      for (size_t k = 0; k < 3; ++k) {
        out.row(y)[3 * x + static_cast<int>(k)] = static_cast<uint8_t>(std::lround(0.4 * shade + 0.6 * heat[k]));
      }
    }
  }
  return out;
}

}  // namespace aspis::data
