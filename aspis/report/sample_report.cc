#include "aspis/report/sample_report.h"

#include <algorithm>
#include <cmath>

namespace aspis::report {
namespace {

// A small generator of its own keeps the sample independent of base/rng.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed) {}
  double uniform() {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return static_cast<double>(state_ >> 33) / 2147483648.0;
  }
  double normal() { return uniform() + uniform() + uniform() + uniform() - 2; }

 private:
  uint64_t state_;
};

void put32(std::string& out, uint32_t v) {
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(v >> shift & 255);
}

uint32_t crc32(const std::string& bytes) {
  uint32_t c = 0xFFFFFFFFU;
  for (const char b : bytes) {
    c ^= static_cast<unsigned char>(b);
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? c >> 1 ^ 0xEDB88320U : c >> 1;
  }
  return ~c;
}

void put_chunk(std::string& out, const std::string& type, const std::string& body) {
  put32(out, static_cast<uint32_t>(body.size()));
  out += type + body;
  put32(out, crc32(type + body));
}

bool inside(int kind, double x, double y) {
  const double w = std::abs(x);
  switch (kind) {
    case 0:
      return (w < 0.45 && y > -0.7 && y < 0.75) || (w < 0.85 && y > -0.7 - w * -0.1 && y < -0.25 + w * 0.1);
    case 1:
      return w < 0.42 && w > (y > -0.45 ? 0.06 + y * 0.04 : -1) && std::abs(y) < 0.9;
    case 2:
      return (w < 0.45 || (w < 0.8 && w > 0.55)) && std::abs(y) < 0.78 && y > -0.85 + w * 0.4;
    case 3:
      return w < 0.22 + (y + 0.9) * 0.17 && std::abs(y) < 0.9;
    case 4:
      return w > 0.03 && w < 0.85 - (y < 0 ? -y * 0.35 : 0) && std::abs(y) < 0.85;
    case 5:
      return y > 0.2 && y < 0.3 + x * 0.1 && w < 0.85;
    case 6:
      return (w < 0.48 && std::abs(y) < 0.78) || (w < 0.85 && y > -0.6 && y < 0.45);
    case 7:
      return y > -0.05 + x * 0.35 - (x < -0.4 ? 0.3 : 0) && y < 0.4 && w < 0.9;
    case 8:
      return (w < 0.8 && y > -0.2 && y < 0.75) || std::abs(std::hypot(x, y + 0.2) - 0.42) < 0.08;
    default:
      return (x > -0.75 && x < -0.05 && std::abs(y) < 0.7) || (w < 0.85 && y > 0.1 + x * 0.2 && y < 0.7);
  }
}

std::string picture(int kind, Noise& noise) {
  constexpr int kSide = 28;
  const double shade = 120 + 110 * noise.uniform();
  const double stretch = 0.88 + 0.2 * noise.uniform();
  std::string pixels;
  for (int r = 0; r < kSide; ++r) {
    for (int c = 0; c < kSide; ++c) {
      const double x = (c - 13.5) / 14 / stretch;
      const double y = (r - 13.5) / 14;
      const double v = inside(kind, x, y) ? shade + 24 * noise.normal() - 30 * std::abs(x) : 0;
      pixels += static_cast<char>(std::clamp(v, 0.0, 255.0));
    }
  }
  return make_png(kSide, pixels);
}

ReportScan scan(const std::string& name, int side, bool columns, bool reverse) {
  ReportScan s{name, {}};
  for (int k = 0; k < side * side; ++k) s.order.push_back(columns ? k % side * side + k / side : k);
  if (reverse) std::reverse(s.order.begin(), s.order.end());
  return s;
}

void add_curves(ReportData& d, Noise& noise) {
  constexpr int kEpochs = 6;
  constexpr int kPerEpoch = 468;
  d.steps_per_epoch = kPerEpoch;
  const int total = kEpochs * kPerEpoch;
  for (int s = 1; s <= total; ++s) {
    const double t = s / static_cast<double>(total);
    const double loss = 0.24 + 2.05 * std::exp(-s / 95.0) + 0.34 * std::exp(-t * 2.2);
    const auto put = [&](ReportSeries& series, double v) {
      series.step.push_back(s);
      series.value.push_back(v);
    };
    put(d.train_loss, std::max(0.05, loss * (1 + 0.16 * noise.normal())));
    put(d.train_accuracy, std::clamp(1 - loss * 0.36 + 0.035 * noise.normal(), 0.05, 1.0));
    const double warm = std::min(1.0, s / 150.0);
    put(d.learning_rate, 1e-5 + 0.002 * warm * 0.5 * (1 + std::cos(3.14159 * t)));
    put(d.grad_norm, (0.7 + 2.5 * std::exp(-s / 120.0)) * (1 + 0.3 * std::abs(noise.normal())) *
                         (noise.uniform() < 0.004 ? 3 : 1));
    put(d.throughput, 1530 + 60 * noise.normal() - (noise.uniform() < 0.01 ? 500 : 0));
    if (s % kPerEpoch == 0) {
      put(d.val_loss, 0.285 + 0.32 * std::exp(-t * 3.1) + 0.008 * noise.normal());
      put(d.val_accuracy, 0.8988 - 0.13 * std::exp(-t * 4.2) - (s == total ? 0.0040 : 0));
    }
  }
}

}  // namespace

std::string make_png(int side, const std::string& pixels) {
  std::string head;
  put32(head, static_cast<uint32_t>(side));
  put32(head, static_cast<uint32_t>(side));
  head += std::string("\x08\0\0\0\0", 5);  // 8 bit grey
  std::string rows;
  for (int r = 0; r < side; ++r)
    rows += '\0' + pixels.substr(static_cast<size_t>(r) * static_cast<size_t>(side), static_cast<size_t>(side));
  // One stored deflate block: fine up to 65535 bytes.
  const auto n = static_cast<uint16_t>(rows.size());
  std::string body("\x78\x01\x01", 3);
  for (const uint16_t v : {n, static_cast<uint16_t>(~n)}) {
    body += static_cast<char>(v & 255);
    body += static_cast<char>(v >> 8);
  }
  body += rows;
  uint32_t a = 1;
  uint32_t b = 0;
  for (const char c : rows) {
    a = (a + static_cast<unsigned char>(c)) % 65521;
    b = (b + a) % 65521;
  }
  put32(body, b << 16 | a);
  std::string out = "\x89PNG\r\n\x1a\n";
  put_chunk(out, "IHDR", head);
  put_chunk(out, "IDAT", body);
  put_chunk(out, "IEND", "");
  return out;
}

ReportData sample_report() {
  Noise noise(7);
  ReportData d;
  d.title = "VisionMamba on Fashion-MNIST";
  d.model_name = "vision_mamba";
  d.dataset = "Fashion-MNIST";
  d.state = "done";
  d.created = "2026-11-24T04:12:09Z";
  d.command =
      "aspis train --model vision_mamba --data fashion-mnist --patch 4 --width 64 --depth 4 --directions 4 "
      "--epochs 6 --batch 128 --lr 2e-3 --out runs/demo";
  d.result = {.accuracy = 0.8973,
              .loss = 0.2874,
              .best_epoch = 5,
              .epochs = 6,
              .train_seconds = 271,
              .images_per_second = 1532,
              .peak_memory_bytes = 1.24e9,
              .parameters = 264330};
  d.extra_results = {
      {"test images", "10,000"}, {"best validation accuracy", "89.85 %"}, {"last training loss", "0.2769"}};
  d.model_facts = {{"parameters", "264,330"}, {"multiply-adds", "15.8 M"},
                   {"image", "28 x 28 x 1"},  {"patch", "4 x 4"},
                   {"width", "64"},           {"depth", "4"},
                   {"state size", "16"},      {"directions", "4"}};
  d.training_facts = {{"optimizer", "AdamW (0.9, 0.999)"},
                      {"learning rate", "2e-3, cosine, 150 warm-up steps"},
                      {"weight decay", "0.05"},
                      {"batch", "128"},
                      {"gradient clip", "1.0"},
                      {"seed", "42"}};
  d.dataset_facts = {{"training images", "60,000"},
                     {"test images", "10,000"},
                     {"classes", "10"},
                     {"augmentation", "flip, crop with 2 pixels"}};
  d.environment = {{"aspis", "0.1.0"},
                   {"engine", "MLX 0.32.4, CPU"},
                   {"processor", "AMD EPYC 9B14, 2 threads"},
                   {"instruction set", "AVX-512"},
                   {"system", "Debian GNU/Linux 12"}};
  add_curves(d, noise);
  d.class_names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                   "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  d.confusion = {{846, 1, 16, 18, 4, 1, 107, 0, 7, 0},  {2, 979, 0, 13, 3, 0, 2, 0, 1, 0},
                 {14, 1, 853, 9, 61, 0, 62, 0, 0, 0},   {17, 5, 10, 908, 29, 0, 29, 0, 2, 0},
                 {1, 0, 58, 28, 846, 0, 66, 0, 1, 0},   {0, 0, 0, 0, 0, 968, 0, 22, 1, 9},
                 {114, 1, 64, 25, 69, 0, 719, 0, 8, 0}, {0, 0, 0, 0, 0, 11, 0, 969, 0, 20},
                 {3, 1, 4, 4, 3, 2, 5, 3, 975, 0},      {0, 0, 0, 0, 0, 6, 1, 33, 0, 960}};
  const int mistakes[][2] = {{6, 0}, {0, 6}, {4, 2}, {2, 4}, {6, 4}, {9, 7},
                             {3, 4}, {5, 7}, {6, 2}, {2, 6}, {7, 9}, {0, 3}};
  for (const auto& m : mistakes) {
    d.images.push_back({picture(m[0], noise), m[0], m[1], 0.45 + 0.5 * noise.uniform(),
                        "test " + std::to_string(static_cast<int>(noise.uniform() * 10000))});
  }
  for (int i = 0; i < 24; ++i) {
    d.images.push_back({picture(i % 10, noise), i % 10, i % 10, 0.8 + 0.2 * noise.uniform(),
                        "test " + std::to_string(static_cast<int>(noise.uniform() * 10000))});
  }
  d.grid_height = d.grid_width = 7;
  d.scans = {scan("rows, forward", 7, false, false), scan("rows, backward", 7, false, true),
             scan("columns, forward", 7, true, false), scan("columns, backward", 7, true, true)};
  d.timings = {{"selective_scan backward", 44928, 88.4, "71 % of the exp bound"},
               {"linear", 134784, 62.9, "83 % of FMA peak"},
               {"selective_scan", 44928, 41.2, "68 % of the exp bound"},
               {"causal_conv1d", 44928, 18.6, "memory bound"},
               {"layer_norm", 25272, 9.8, ""},
               {"adamw", 2808, 4.1, "1.2 x of the memory bound"},
               {"cross_entropy", 2808, 0.7, ""}};
  return d;
}

}  // namespace aspis::report
