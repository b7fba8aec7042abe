#include "aspis/simd/isa.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "aspis/base/error.h"

namespace aspis {
namespace {

TEST_CASE("the best instruction set comes first and is active by default") {
  force_isa("");
  const auto isas = supported_isas();
  REQUIRE(!isas.empty());
  CHECK(active_isa() == isas.front());
}

TEST_CASE("a forced instruction set becomes active and can be released") {
  const auto isas = supported_isas();
  for (const auto& name : isas) {
    force_isa(name);
    CHECK(active_isa() == name);
    // The list does not shrink to what is forced.
    CHECK(supported_isas() == isas);
  }
  force_isa("");
  CHECK(active_isa() == isas.front());
}

TEST_CASE("units for bfloat16 belong to the level that is named after them") {
  for (const auto& name : supported_isas()) {
    force_isa(name);
    CHECK(bf16_units() == (name == "avx512_bf16"));
  }
  force_isa("");
  CHECK(bf16_units() == (supported_isas().front() == "avx512_bf16"));
}

TEST_CASE("an unknown instruction set is a usage error that lists what exists") {
  try {
    force_isa("avx9000");
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kUsage);
    CHECK(std::string(e.what()).find("avx9000") != std::string::npos);
    CHECK(std::string(e.what()).find(supported_isas().back()) != std::string::npos);
  }
}

}  // namespace
}  // namespace aspis
