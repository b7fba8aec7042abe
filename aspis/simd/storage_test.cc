#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "aspis/base/rng.h"
#include "aspis/simd/isa.h"
#include "aspis/simd/math.h"

namespace aspis {

TEST_CASE("every bfloat16 survives the way through float on every instruction set") {
  std::vector<Bf16> all(1 << 16), back(all.size());
  for (size_t i = 0; i < all.size(); i++) all[i].bits = static_cast<uint16_t>(i);
  std::vector<float> wide(all.size());
  for (const auto& isa : supported_isas()) {
    CAPTURE(isa);
    force_isa(isa);
    float_array(all.data(), wide.data(), all.size());
    bf16_array(wide.data(), back.data(), all.size());
    for (size_t i = 0; i < all.size(); i++) {
      if (std::isnan(to_float(all[i]))) {
        REQUIRE(std::isnan(wide[i]));
        REQUIRE(std::isnan(to_float(back[i])));
      } else {
        REQUIRE(std::bit_cast<uint32_t>(wide[i]) == static_cast<uint32_t>(i) << 16);
        REQUIRE(back[i] == all[i]);
      }
    }
  }
  force_isa("");
}

TEST_CASE("floats are rounded to the nearest bfloat16, ties to even, and nothing past the end is touched") {
  // A tie below and above, the largest float, a NaN whose upper half alone would be an infinity.
  std::vector<float> x = {std::bit_cast<float>(0x3f808000u), std::bit_cast<float>(0x3f818000u),
                          std::bit_cast<float>(0x7f7fffffu), std::bit_cast<float>(0x7f800001u), -0.f};
  Rng rng(4, "bf16");
  while (x.size() < 77) x.push_back(std::bit_cast<float>(rng.next_u32()));
  CHECK(to_bf16(x[0]).bits == 0x3f80);
  CHECK(to_bf16(x[1]).bits == 0x3f82);
  CHECK(to_bf16(x[2]).bits == 0x7f80);
  for (const auto& isa : supported_isas()) {
    CAPTURE(isa);
    force_isa(isa);
    for (const size_t n : {1, 3, 5, 16, 31, 77}) {
      std::vector<Bf16> y(n + 1, Bf16{7});
      bf16_array(x.data(), y.data(), n);
      for (size_t i = 0; i < n; i++) {
        CAPTURE(x[i]);
        REQUIRE(std::isnan(to_float(y[i])) == std::isnan(x[i]));
        if (!std::isnan(x[i])) REQUIRE(y[i] == to_bf16(x[i]));
      }
      CHECK(y[n].bits == 7);
    }
  }
  force_isa("");
}

}  // namespace aspis
