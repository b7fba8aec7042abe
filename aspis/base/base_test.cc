#include <doctest/doctest.h>

#include "aspis/base/error.h"

using namespace aspis;

TEST_CASE("an error renders its four facts as one sentence") {
  const Error e(ErrorKind::kUsage, {.where = "op", .required = "x must be y", .got = "z", .hint = "do w"});
  CHECK(std::string(e.what()) == "[op] x must be y; got z. Try: do w");
}
