#include "aspis/base/rng.h"

#include <cmath>
#include <numbers>

namespace aspis {
namespace {

uint64_t mix64(uint64_t x) {  // the finaliser of SplitMix64
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

uint64_t hash64(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325ull;
  for (const char ch : text) h = (h ^ static_cast<unsigned char>(ch)) * 0x100000001b3ull;
  return mix64(h);
}

Rng::Rng(uint64_t seed, std::string_view name, uint64_t index, uint64_t subindex) {
  const uint64_t key = mix64(seed ^ mix64(hash64(name)));
  const uint64_t high = mix64(mix64(index + 0x9e3779b97f4a7c15ull) ^ subindex);
  key_ = {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
  counter_ = {0, 0, static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32)};
}

uint32_t Rng::next_u32() {
  if (used_ == 4) {
    block_ = philox4x32(counter_, key_);
    if (++counter_[0] == 0) ++counter_[1];
    used_ = 0;
  }
  return block_[used_++];
}

uint64_t Rng::next_u64() {
  const uint64_t lo = next_u32();
  return lo | (uint64_t{next_u32()} << 32);
}

double Rng::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }

uint64_t Rng::below(uint64_t n) {
  // Lemire's method: multiply and reject the short low part.
  const uint64_t threshold = (0 - n) % n;
  for (;;) {
    const unsigned __int128 product = static_cast<unsigned __int128>(next_u64()) * n;
    if (static_cast<uint64_t>(product) >= threshold) return static_cast<uint64_t>(product >> 64);
  }
}

double Rng::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  const double u = 1.0 - uniform();  // in (0, 1]
  const double v = 2 * std::numbers::pi * uniform();
  const double r = std::sqrt(-2 * std::log(u));
  spare_normal_ = r * std::sin(v);
  has_spare_ = true;
  return r * std::cos(v);
}

}  // namespace aspis
