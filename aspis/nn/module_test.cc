#include "aspis/nn/module.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <memory>
#include <string>

#include "aspis/base/error.h"

namespace aspis {
namespace {

/// y = scale * x + shift, with a buffer that counts nothing.
struct Affine final : Module {
  Affine(float s, float t)
      : scale(mx::array({s, s}, {2})), shift(mx::array({t, t}, {2})), seen(mx::array({0.0f}, {1})) {
    add_parameter("scale", scale);
    add_parameter("shift", shift, Decay::kNo);
    add_buffer("seen", seen);
  }
  std::string type_name() const override { return "Affine"; }
  mx::array operator()(const mx::array& x) const { return scale * x + shift; }
  mx::array scale, shift, seen;
};

struct Chain final : Module {
  Chain() : first(2, 1) {
    add_child("first", first);
    for (int i = 0; i < 2; i++) {
      rest.push_back(std::make_unique<Affine>(3.0f, 0.0f));
      add_child("rest." + std::to_string(i), *rest.back());
    }
  }
  std::string type_name() const override { return "Chain"; }
  mx::array operator()(const mx::array& x) const { return (*rest[1])((*rest[0])(first(x))); }
  Affine first;
  std::vector<std::unique_ptr<Affine>> rest;
};

std::vector<std::string> names(const NamedArrays& list) {
  std::vector<std::string> out;
  for (const auto& [name, value] : list) out.push_back(name);
  return out;
}

float first_value(mx::array a) {
  mx::eval(a);
  return a.data<float>()[0];
}

std::string message_of(const std::function<void()>& f, ErrorKind kind) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.kind() == kind);
    return e.what();
  }
  FAIL("no error");
  return "";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

LossFn sum_loss(const Chain& chain) {
  return [&chain](const std::vector<mx::array>& batch) {
    const auto y = chain(batch[0]);
    return std::vector<mx::array>{mx::sum(y), y};
  };
}

const mx::array kX({1.0f, 10.0f}, {2});

}  // namespace

TEST_CASE("names_are_dotted_and_in_order_of_registration") {
  Chain chain;
  CHECK(names(chain.parameters()) == std::vector<std::string>{"first.scale", "first.shift", "rest.0.scale",
                                                              "rest.0.shift", "rest.1.scale", "rest.1.shift"});
  CHECK(names(chain.buffers()) == std::vector<std::string>{"first.seen", "rest.0.seen", "rest.1.seen"});
  CHECK(chain.state().size() == 9);
  CHECK(chain.parameter_count() == 12);
  CHECK(chain.parameter_bytes() == 48);
  const auto refs = chain.parameter_refs();
  CHECK(refs[0].decay);
  CHECK_FALSE(refs[1].decay);
}

TEST_CASE("two_entries_of_one_name_are_refused") {
  struct Twice final : Module {
    Twice() : a(1.0f), b(2.0f) {
      add_parameter("w", a);
      add_parameter("w", b);
    }
    std::string type_name() const override { return "Twice"; }
    mx::array a, b;
  };
  CHECK_THROWS_AS(Twice(), Error);
}

TEST_CASE("globs_match_dotted_names") {
  CHECK(glob_match("*", ""));
  CHECK(glob_match("blocks.*.norm.?ias", "blocks.0.mamba.norm.bias"));
  CHECK(glob_match("*.weight", "a.weight.weight"));
  CHECK_FALSE(glob_match("a*b", "acbd"));
  CHECK_FALSE(glob_match("a.*", "b.a.c"));
  CHECK_FALSE(glob_match("?", ""));
  CHECK_FALSE(glob_match("", "a"));
}

TEST_CASE("freeze_takes_parameters_out_of_training_by_pattern") {
  Chain chain;
  CHECK(chain.freeze("rest.*") == 4);
  CHECK(names(chain.trainable_parameters()) == std::vector<std::string>{"first.scale", "first.shift"});
  CHECK(chain.trainable_count() == 4);
  CHECK(chain.parameters().size() == 6);
  CHECK(chain.unfreeze("rest.1.scale") == 1);
  CHECK(names(chain.trainable_parameters()) ==
        std::vector<std::string>{"first.scale", "first.shift", "rest.1.scale"});
  const auto text = message_of([&] { chain.freeze("first.scal"); }, ErrorKind::kUsage);
  CHECK(contains(text, "first.scale"));
  // Buffers are not parameters.
  CHECK_THROWS_AS(chain.freeze("first.seen"), Error);
}

TEST_CASE("train_and_eval_reach_all_children") {
  Chain chain;
  CHECK(chain.training());
  chain.eval();
  CHECK_FALSE(chain.rest[1]->training());
  chain.train();
  CHECK(chain.rest[1]->training());
}

TEST_CASE("update_replaces_by_order_and_by_name") {
  Chain chain;
  chain.freeze("*.shift");
  auto values = chain.trainable_parameters();
  std::vector<mx::array> doubled;
  for (const auto& [name, value] : values) doubled.push_back(value * mx::array(2.0f));
  chain.update(doubled);
  CHECK(first_value(chain.first.scale) == 4.0f);
  CHECK(first_value(chain.rest[1]->scale) == 6.0f);
  CHECK(first_value(chain.first.shift) == 1.0f);
  chain.update(NamedArrays{{"rest.1.shift", mx::array({7.0f, 7.0f}, {2})}});
  CHECK(first_value(chain.rest[1]->shift) == 7.0f);

  doubled.pop_back();
  CHECK_THROWS_AS(chain.update(doubled), Error);
  CHECK(contains(message_of(
                     [&] {
                       chain.update(NamedArrays{{"rest.1.shfit", kX}});
                     },
                     ErrorKind::kUsage),
                 "rest.1.shift"));
  CHECK_THROWS_AS(chain.update(NamedArrays{{"rest.1.shift", mx::array(1.0f)}}), Error);
}

TEST_CASE("load_round_trips_state") {
  Chain from, to;
  from.update(NamedArrays{{"first.scale", mx::array({5.0f, 6.0f}, {2})}, {"rest.0.seen", mx::array({9.0f}, {1})}});
  to.load(from.state());
  CHECK(first_value(to.first.scale) == 5.0f);
  CHECK(first_value(to.rest[0]->seen) == 9.0f);
}

TEST_CASE("load_reports_everything_that_does_not_fit_and_changes_nothing") {
  Chain chain;
  auto state = chain.state();
  state[0].second = mx::array({5.0f, 6.0f, 7.0f}, {3});  // first.scale
  state[1].second = mx::array({8.0f, 8.0f}, {2});        // fits
  std::erase_if(state, [](const auto& e) { return e.first == "rest.0.seen"; });
  state.emplace_back("head.weight", kX);
  const auto text = message_of([&] { chain.load(state); }, ErrorKind::kModel);
  CHECK(contains(text, "1 missing (rest.0.seen)"));
  CHECK(contains(text, "1 unknown (head.weight)"));
  CHECK(contains(text, "1 of another shape (first.scale is {3} not {2})"));
  CHECK(first_value(chain.first.shift) == 1.0f);
  // Not strict: names may differ, shapes may not.
  CHECK_FALSE(contains(message_of([&] { chain.load(state, false); }, ErrorKind::kModel), "missing"));
  state.erase(state.begin());
  chain.load(state, false);
  CHECK(first_value(chain.first.shift) == 8.0f);
}

TEST_CASE("load_counts_what_it_does_not_name") {
  Chain chain;
  CHECK(contains(message_of([&] { chain.load(NamedArrays{}); }, ErrorKind::kModel),
                 "9 missing (first.scale, first.shift, first.seen, rest.0.scale and 5 more)"));
}

TEST_CASE("load_ignores_axes_of_size_one_and_keeps_the_dtype") {
  Chain chain;
  auto state = chain.state();
  state[0].second = mx::astype(mx::array({5.0f, 6.0f}, {2, 1}), mx::float64, mx::Device::cpu);
  chain.load(state);
  CHECK(chain.first.scale.shape() == mx::Shape{2});
  CHECK(chain.first.scale.dtype() == mx::float32);
  CHECK(first_value(chain.first.scale) == 5.0f);
}

TEST_CASE("value_and_grad_differentiates_the_trainable_parameters_in_order") {
  Chain chain;  // y = 3 (3 (2 x + 1))
  auto [values, gradients] = value_and_grad(chain, sum_loss(chain), {kX});
  CHECK(values.size() == 2);
  CHECK(first_value(values[0]) == 9 * (2 * 11 + 2));
  REQUIRE(gradients.size() == 6);
  CHECK(first_value(gradients[0]) == 9);  // first.scale: 9 x
  CHECK(first_value(gradients[1]) == 9);  // first.shift
  CHECK(first_value(gradients[2]) == 9);  // rest.0.scale: 3 (2 x + 1)
  CHECK(first_value(gradients[5]) == 1);  // rest.1.shift
  chain.freeze("first.*");
  auto fewer = value_and_grad(chain, sum_loss(chain), {kX});
  REQUIRE(fewer.gradients.size() == 4);
  CHECK(first_value(fewer.gradients[0]) == 9);
}

TEST_CASE("value_and_grad_puts_the_arrays_back_also_after_an_error") {
  Chain chain;
  const auto id = chain.first.scale.id();
  value_and_grad(chain, sum_loss(chain), {kX});
  CHECK(chain.first.scale.id() == id);
  CHECK_THROWS_AS(
      value_and_grad(chain, [](const auto&) -> std::vector<mx::array> { throw std::runtime_error("broken"); },
                     {kX}),
      std::runtime_error);
  CHECK(chain.first.scale.id() == id);
  const auto not_scalar = [&](const std::vector<mx::array>& b) { return std::vector<mx::array>{chain(b[0])}; };
  CHECK_THROWS_AS(value_and_grad(chain, not_scalar, {kX}), Error);
  CHECK(chain.first.scale.id() == id);
  chain.freeze();
  CHECK_THROWS_AS(value_and_grad(chain, sum_loss(chain), {kX}), Error);
}

TEST_CASE("summary_lists_every_module_with_its_counts") {
  Chain chain;
  chain.freeze("first.*");
  const auto rows = chain.summary_rows();
  REQUIRE(rows.size() == 4);
  CHECK(rows[0].parameters == 12);
  CHECK(rows[0].trainable == 8);
  CHECK(rows[2].name == "rest.0");
  CHECK(rows[2].shapes == "scale {2}, shift {2}, seen {1} (buffer)");
  const auto text = chain.summary();
  CHECK(contains(text, "total 12 parameters, 8 trainable"));
  CHECK(contains(text, "rest.1"));
  CHECK_FALSE(contains(chain.summary(0), "rest.1"));
}

TEST_CASE("cast_changes_floating_point_arrays") {
  Chain chain;
  chain.cast(mx::float64);
  CHECK(chain.first.scale.dtype() == mx::float64);
  CHECK(chain.parameter_bytes() == 96);
}

}  // namespace aspis
