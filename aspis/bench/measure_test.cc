#include "aspis/bench/measure.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <set>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"

using namespace aspis;

TEST_CASE("every block has three passes with a bound, and a name of its own") {
  std::set<std::string> names;
  for (const auto& entry : bench::block_registry()) {
    CAPTURE(entry.name);
    CHECK(names.insert(entry.name).second);
    CHECK(list_models(entry.name).empty());
    bench::Subject s = entry.make();
    CHECK(s.name == entry.name);
    // A part of the input is enough here.
    s.input = mx::slice(s.input, {0, 0, 0}, {std::min(2, s.input.shape(0)), 49, s.input.shape(2)});
    const auto m = bench::measure_subject(s, {}, 0.001);
    for (const bench::Pass* p : {&m.forward, &m.both, &m.step}) {
      CHECK(p->time.median > 0);
      CHECK(p->time.runs >= 3);
      CHECK(p->bound > 0);
      CHECK_FALSE(p->limit.empty());
    }
    CHECK(m.both.bound > m.forward.bound);
    CHECK(m.kind == "block");
  }
  CHECK(names.size() >= 8);
}

TEST_CASE("a training step of a model changes its parameters and keeps them finite") {
  bench::Subject s = bench::model_subject("vision_mamba_fmnist", 2);
  CHECK(s.classes == 10);
  const auto before = s.module->parameters();
  std::vector<mx::array> copies;
  for (const auto& [name, value] : before) copies.push_back(mx::contiguous(value + 0.0f));
  mx::eval(copies);
  const auto m = bench::measure_subject(s, {.forward = false, .both = false, .step = true}, 0.001);
  CHECK(m.forward.time.median == 0);
  CHECK(m.step.time.median > 0);
  bool changed = false;
  const auto after = s.module->parameters();
  for (size_t i = 0; i < after.size(); i++) {
    CHECK(mx::all(mx::isfinite(after[i].second)).item<bool>());
    changed = changed || !mx::array_equal(after[i].second, copies[i]).item<bool>();
  }
  CHECK(changed);
}

TEST_CASE("dtypes by name") {
  CHECK(bench::parse_dtype("bf16") == mx::bfloat16);
  CHECK(bench::parse_dtype("float32") == mx::float32);
  CHECK_THROWS_WITH_AS(bench::parse_dtype("bfloat61"), doctest::Contains("bfloat16"), Error);
}
