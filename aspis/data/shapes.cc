#include "aspis/data/shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "aspis/base/rng.h"

namespace aspis::data {
namespace {

constexpr int64_t kTrainSize = 20000, kEvalSize = 2000;

struct Point {
  double x, y;
};

bool in_box(Point p, double half_w, double half_h) { return std::fabs(p.x) <= half_w && std::fabs(p.y) <= half_h; }
double length(Point p) { return std::sqrt(p.x * p.x + p.y * p.y); }

bool in_triangle(Point p) {
  // Equilateral, around the origin, inside all three edges: normals at 0, 120 and 240 degrees.
  const double along = 0.5 * p.x, across = 0.5 * std::numbers::sqrt3 * p.y;
  return p.x <= 0.5 && across - along <= 0.5 && -across - along <= 0.5;
}

bool in_star(Point p) {
  // Five points: the radius of the edge as a function of the angle, folded into
  // one half of a point (outer radius 1, inner radius 0.42).
  constexpr double kPoint = std::numbers::pi / 5, kInner = 0.42;
  const double r = length(p);
  if (r > 1) return false;
  const double folded = std::fabs(std::remainder(std::atan2(p.y, p.x), 2 * kPoint));
  const Point tip{1, 0}, notch{kInner * std::cos(kPoint), kInner * std::sin(kPoint)};
  const Point q{r * std::cos(folded), r * std::sin(folded)};
  return (notch.x - tip.x) * (q.y - tip.y) - (notch.y - tip.y) * (q.x - tip.x) >= 0;
}

// Shapes around the origin with a radius of about 1.
struct Shape {
  const char* name;
  bool (*inside)(Point);
};
constexpr std::array<Shape, 10> kShapes = {{
    {"disc", [](Point p) { return length(p) <= 0.85; }},
    {"ring", [](Point p) { return length(p) <= 0.95 && length(p) >= 0.55; }},
    {"square", [](Point p) { return in_box(p, 0.75, 0.75); }},
    {"frame", [](Point p) { return in_box(p, 0.8, 0.8) && !in_box(p, 0.45, 0.45); }},
    {"triangle", [](Point p) { return in_triangle(p); }},
    {"cross", [](Point p) { return in_box(p, 1.0, 0.3) || in_box(p, 0.3, 1.0); }},
    {"star", [](Point p) { return in_star(p); }},
    {"crescent",
     [](Point p) {
       return length(p) <= 0.95 && length({p.x - 0.42, p.y}) > 0.75;
     }},
    {"bar", [](Point p) { return in_box(p, 1.05, 0.33); }},
    {"ell",
     [](Point p) {
       return in_box({p.x + 0.5, p.y}, 0.3, 0.9) || in_box({p.x, p.y + 0.6}, 0.8, 0.3);
     }},
}};

using Color = std::array<double, 3>;

double distance(const Color& a, const Color& b) {
  return std::sqrt((a[0] - b[0]) * (a[0] - b[0]) + (a[1] - b[1]) * (a[1] - b[1]) + (a[2] - b[2]) * (a[2] - b[2]));
}

Color random_color(Rng& rng) { return {rng.uniform(0, 255), rng.uniform(0, 255), rng.uniform(0, 255)}; }

// Share of a pixel's 3 x 3 sub-samples for which `inside` holds.
template <typename Inside>
double coverage(int x, int y, Inside&& inside) {
  int hits = 0;
  for (int j = 0; j < 3; ++j) {
    for (int i = 0; i < 3; ++i) hits += inside(x + (i + 0.5) / 3, y + (j + 0.5) / 3);
  }
  return hits / 9.0;
}

void mix(std::vector<double>& pixels, size_t at, const Color& color, double share) {
  for (size_t c = 0; c < 3; ++c) pixels[at + c] += share * (color[c] - pixels[at + c]);
}

void paint_ground(Rng& rng, const Color& color, int size, std::vector<double>& pixels) {
  const double angle = rng.uniform(0, 2 * std::numbers::pi), slope = rng.uniform(0, 50);
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const double along = ((x + 0.5) / size - 0.5) * std::cos(angle) + ((y + 0.5) / size - 0.5) * std::sin(angle);
      for (size_t c = 0; c < 3; ++c)
        pixels[(static_cast<size_t>(y) * size + x) * 3 + c] = color[c] + slope * along;
    }
  }
}

// Small dots that are no shape: the model must look at form, not at area.
void paint_clutter(Rng& rng, int size, std::vector<double>& pixels) {
  const uint64_t dots = rng.below(5);
  for (uint64_t d = 0; d < dots; ++d) {
    const double cx = rng.uniform(0, size), cy = rng.uniform(0, size), r = rng.uniform(0.02, 0.06) * size;
    const Color color = random_color(rng);
    for (int y = std::max(0, static_cast<int>(cy - r)); y <= std::min(size - 1, static_cast<int>(cy + r)); ++y) {
      for (int x = std::max(0, static_cast<int>(cx - r)); x <= std::min(size - 1, static_cast<int>(cx + r)); ++x) {
        const double share = coverage(x, y, [&](double u, double v) { return length({u - cx, v - cy}) <= r; });
        mix(pixels, (static_cast<size_t>(y) * size + x) * 3, color, share);
      }
    }
  }
}

void paint_shape(Rng& rng, const Shape& shape, const Color& color, int size, std::vector<double>& pixels) {
  constexpr double kReach = 1.2;  // no shape goes farther from its centre, in radii
  const double radius = rng.uniform(0.24, 0.42) * size;
  const double room = std::max(0.0, 0.5 * size - radius);
  const double cx = 0.5 * size + rng.uniform(-room, room), cy = 0.5 * size + rng.uniform(-room, room);
  const double angle = rng.uniform(0, 2 * std::numbers::pi);
  const double cos = std::cos(angle) / radius, sin = std::sin(angle) / radius;
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      if (length({x + 0.5 - cx, y + 0.5 - cy}) > kReach * radius + 1) continue;
      const double share = coverage(x, y, [&](double u, double v) {
        return shape.inside({(u - cx) * cos + (v - cy) * sin, (v - cy) * cos - (u - cx) * sin});
      });
      if (share > 0) mix(pixels, (static_cast<size_t>(y) * size + x) * 3, color, share);
    }
  }
}

class ShapesDataset final : public Dataset {
 public:
  ShapesDataset(Split split, uint64_t seed, int size)
      : Dataset("shapes", split, shape_names(), {size, size, 3}, fmt::format("drawn from seed {}", seed)),
        seed_(seed),
        size_(size),
        stream_(fmt::format("data.shapes.{}", to_string(split))) {}

  int64_t size() const override { return split_ == Split::kTrain ? kTrainSize : kEvalSize; }
  int32_t label(int64_t index) const override {
    check_index(index);
    return static_cast<int32_t>(index % static_cast<int64_t>(kShapes.size()));
  }
  Sample get(int64_t index) const override {
    const int32_t label = this->label(index);
    Rng rng(seed_, stream_, static_cast<uint64_t>(index));
    constexpr double kLeastContrast = 80;
    const Color ground = random_color(rng);
    Color ink = random_color(rng);
    while (distance(ground, ink) < kLeastContrast) ink = random_color(rng);
    std::vector<double> pixels(static_cast<size_t>(size_) * size_ * 3);
    paint_ground(rng, ground, size_, pixels);
    paint_clutter(rng, size_, pixels);
    paint_shape(rng, kShapes[static_cast<size_t>(label)], ink, size_, pixels);
    const double noise = rng.uniform(4, 24);
    Sample sample{Image(size_, size_, 3), label};
    for (size_t i = 0; i < pixels.size(); ++i) {
      sample.image.pixels[i] =
          static_cast<uint8_t>(std::clamp(pixels[i] + noise * rng.normal() + 0.5, 0.0, 255.0));
    }
    return sample;
  }

 private:
  uint64_t seed_;
  int size_;
  std::string stream_;
};

}  // namespace

const std::vector<std::string>& shape_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    list.reserve(std::size(kShapes));
    for (const Shape& s : kShapes) list.emplace_back(s.name);
    return list;
  }();
  return names;
}

DatasetPtr open_shapes(Split split, uint64_t seed, int size) {
  require(size >= 16 && size <= 512, [&] {
    return Error::Parts{
        .where = "shapes", .required = "the picture size must lie in 16 to 512", .got = fmt::format("{}", size)};
  });
  return std::make_shared<ShapesDataset>(split, seed, size);
}

}  // namespace aspis::data
