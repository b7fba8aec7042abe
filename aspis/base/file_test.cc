#include <doctest/doctest.h>

#include "aspis/base/file.h"

using namespace aspis;

TEST_CASE("sha256 gives the published values") {
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
