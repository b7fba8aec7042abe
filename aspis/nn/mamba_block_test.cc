#include "aspis/nn/mamba_block.h"

#include <mlx/ops.h>
#include <mlx/random.h>

#include <functional>

#include "aspis/base/error.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::expect_gradients;
using golden::load_case;
using golden::load_params;
using golden::normalised_error;
using golden::tolerance;

constexpr MambaConfig kSmall{.width = 12, .state = 5, .conv = 4, .expand = 2, .dt_rank = 0};

mx::array part(const mx::array& x, int start, int stop) {
  return mx::slice(x, {0, start, 0}, {x.shape(0), stop, x.shape(2)});
}

mx::array reversed(const mx::array& x) { return mx::take(x, mx::arange(x.shape(1) - 1, -1, -1, mx::int32), 1); }

}  // namespace

TEST_CASE("mamba_block_matches_the_golden_values_and_gradients") {
  const auto golden = load_case("mamba_block");
  for (const auto dtype : {mx::float64, mx::float32}) {
    CAPTURE(dtype == mx::float64);
    MambaBlock block(kSmall, Init());
    load_params(block, golden, dtype);
    const auto x = mx::astype(golden.at("in/x"), dtype);
    CHECK(normalised_error(block(x), golden.at("out/y")) < tolerance(dtype));
    expect_gradients(block, golden, dtype, [&] { return block(x); });
  }
}

TEST_CASE("a_block_in_bfloat16_is_near_the_one_in_float32_and_its_parameters_stay_float32") {
  const auto golden = load_case("mamba_block");
  MambaBlock block(kSmall, Init());
  load_params(block, golden, mx::float32);
  const auto x = mx::astype(golden.at("in/x"), mx::bfloat16);
  const auto y = block(x);
  CHECK(y.dtype() == mx::bfloat16);
  // Four roundings to 8 bits lie between x and y.
  CHECK(normalised_error(y, golden.at("out/y")) < 0.03);
  const auto cotangent = mx::astype(golden.at("in/cotangent"), mx::float32);
  const LossFn loss = [&](const std::vector<mx::array>&) {
    return std::vector<mx::array>{mx::sum(mx::astype(block(x), mx::float32) * cotangent)};
  };
  const auto names = block.trainable_parameters();
  const auto gradients = value_and_grad(block, loss, {}).gradients;
  for (size_t i = 0; i < names.size(); i++) {
    CAPTURE(names[i].first);
    CHECK(gradients[i].dtype() == mx::float32);
    CHECK(normalised_error(gradients[i], golden.at("grad/" + names[i].first)) < 0.05);
  }
}

TEST_CASE("the_gradient_of_the_input_matches_the_golden_one") {
  const auto golden = load_case("mamba_block");
  MambaBlock block(kSmall, Init());
  load_params(block, golden, mx::float64);
  const auto cotangent = mx::astype(golden.at("in/cotangent"), mx::float64);
  const auto f = [&](const mx::array& x) { return mx::sum(block(x) * cotangent); };
  const auto gradient =
      mx::grad(std::function<mx::array(const mx::array&)>(f))(mx::astype(golden.at("in/x"), mx::float64));
  CHECK(normalised_error(gradient, golden.at("grad/x")) < 2e-7);
}

TEST_CASE("prefill_and_steps_give_what_the_whole_sequence_gives") {
  const auto golden = load_case("mamba_block");
  for (const auto dtype : {mx::float64, mx::float32}) {
    MambaBlock block(kSmall, Init());
    load_params(block, golden, dtype);
    const auto x = mx::astype(golden.at("in/x"), dtype);
    const double limit = tolerance(dtype);
    for (const int first : {0, 1, 4, 7}) {  // prefill this many tokens, then step
      CAPTURE(first);
      auto state = block.initial_state(2);
      std::vector<mx::array> outs;
      if (first > 0) {
        auto [y, next] = block.prefill(part(x, 0, first), state);
        outs.push_back(y);
        state = next;
      }
      for (int t = first; t < 7; t++) {
        auto [y, next] = block.step(mx::squeeze(part(x, t, t + 1), 1), state);
        outs.push_back(mx::expand_dims(y, 1));
        state = next;
      }
      CHECK(normalised_error(mx::concatenate(outs, 1), golden.at("out/y")) < limit);
      CHECK(normalised_error(state.at("conv"), golden.at("out/conv_state")) < limit);
      CHECK(normalised_error(state.at("ssm"), golden.at("out/scan_state")) < limit);
    }
    // A prefill may also start from a state.
    auto [y1, middle] = block.prefill(part(x, 0, 2), block.initial_state(2));
    auto [y2, last] = block.prefill(part(x, 2, 7), middle);
    CHECK(normalised_error(mx::concatenate({y1, y2}, 1), golden.at("out/y")) < limit);
    CHECK(normalised_error(last.at("ssm"), golden.at("out/scan_state")) < limit);
  }
}

TEST_CASE("directions_equal_permuted_copies") {
  const MambaBlock block(kSmall, Init(3));
  const auto x = load_case("mamba_block").at("in/x");
  CHECK(normalised_error(block(x, {std::nullopt, true}), reversed(block(reversed(x)))) < 1e-6);
  const mx::array order({3, 0, 6, 1, 5, 2, 4}, {7}, mx::int32);
  const auto want = mx::take(block(mx::take(x, order, 1)), mx::argsort(order), 1);
  CHECK(normalised_error(block(x, {order, false}), want) < 1e-6);
  CHECK(normalised_error(block(x), want) > 1e-3);
}

TEST_CASE("multi_directional_blocks_match_the_golden_values") {
  const auto golden = load_case("multi");
  const MambaConfig config{.width = 6, .state = 3, .conv = 3, .expand = 2, .dt_rank = 0};
  const auto first_blocks = [&](int count) {
    NamedArrays list;
    for (const auto& [name, value] : golden::under(golden, "param")) {
      const bool later = name.rfind("mamba_blocks.", 0) == 0 && name[13] - '0' >= count;
      if (!later) list.emplace_back(name, value);
    }
    return list;
  };
  for (const auto dtype : {mx::float64, mx::float32}) {
    const auto x2 = mx::astype(golden.at("in/x2"), dtype), x3 = mx::astype(golden.at("in/x3"), dtype);
    MultiDirectionalMambaBlock planar(config, 4, {2, 3}, ScanOrder::kAxisFastest, Init());
    planar.load(first_blocks(4));
    planar.cast(dtype);
    CHECK(normalised_error(planar(x2), golden.at("out/grid_2_3")) < tolerance(dtype));
    // A subset runs blocks 0 and 1 only, and so does any set said to be one.
    CHECK(normalised_error(planar(part(x2, 0, 5)), golden.at("out/subset")) < tolerance(dtype));
    MultiDirectionalMambaBlock two(config, 2, {}, ScanOrder::kAxisFastest, Init());
    two.load(first_blocks(2));
    two.cast(dtype);
    CHECK(normalised_error(planar(x2, true), two(x2)) < 1e-6);
    for (const auto order : {ScanOrder::kAxisFastest, ScanOrder::kCompat}) {
      MultiDirectionalMambaBlock solid(config, 6, {2, 3, 4}, order, Init());
      solid.load(first_blocks(6));
      solid.cast(dtype);
      CHECK(normalised_error(solid(x3), golden.at("out/grid_2_3_4_" + to_string(order))) < tolerance(dtype));
    }
  }
}

TEST_CASE("residual_and_bidirectional_blocks_are_sums_over_their_norm") {
  const auto x = load_case("mamba_block").at("in/x");
  const ResidualMambaBlock one(kSmall, Init(5));
  CHECK(normalised_error(one(x), x + one.mamba(one.norm(x))) < 1e-6);
  const BidirectionalMambaBlock both(kSmall, Init(5));
  const auto n = both.norm(x);
  CHECK(normalised_error(both(x), x + both.forward_mamba(n) + reversed(both.backward_mamba(reversed(n)))) < 1e-6);
  CHECK(both.parameters().size() == 2 + 2 * 9);
  CHECK(both.parameters()[2].first == "forward_mamba.in_proj.weight");
}

TEST_CASE("blocks_have_the_sizes_of_the_specification") {
  const MambaConfig config;
  CHECK(config.rank() == 24);
  CHECK(MambaBlock(config, Init()).parameter_count() == 963840);
  CHECK(MultiDirectionalMambaBlock(config, 4, {14, 14}, ScanOrder::kAxisFastest, Init()).parameter_count() ==
        3856128);
  CHECK(MultiDirectionalMambaBlock(config, 6, {4, 4, 4}, ScanOrder::kAxisFastest, Init()).parameter_count() ==
        5783808);
  CHECK(MultiDirectionalMambaBlock(config, 8, {4, 2, 2, 2}, ScanOrder::kAxisFastest, Init()).parameter_count() ==
        7711488);
}

TEST_CASE("parameters_exempt_from_decay_are_biases_norms_and_the_scan_constants") {
  MultiDirectionalMambaBlock block(kSmall, 2, {}, ScanOrder::kAxisFastest, Init());
  for (const auto& p : block.parameter_refs()) {
    INFO(p.name);
    const bool plain_weight = p.name.ends_with("proj.weight") || p.name.ends_with("conv1d.weight");
    CHECK(p.decay == plain_weight);
  }
}

TEST_CASE("recipes_differ_where_s0_does") {
  const MambaBlock standard({}, Init(1)), s0({}, Init(1, InitRecipe::kS0));
  const auto largest = [](const mx::array& a) { return mx::max(mx::abs(a)).item<float>(); };
  CHECK(largest(standard.conv1d.weight) == doctest::Approx(0.5).epsilon(0.01));
  CHECK(largest(s0.conv1d.weight) == doctest::Approx(0.018).epsilon(0.02));
  CHECK(largest(s0.conv1d.bias) == 0);
  CHECK(largest(*s0.dt_proj.bias) == doctest::Approx(1 / std::sqrt(24.0)).epsilon(0.02));
  CHECK(mx::max(*standard.dt_proj.bias).item<float>() < -2);  // softplus(-2.25) = 0.1
  CHECK(largest(standard.dt_proj.weight) == doctest::Approx(1 / std::sqrt(24.0)).epsilon(0.02));
}

TEST_CASE("bad_sizes_and_modes_are_refused") {
  MambaConfig none = kSmall;
  none.state = 0;
  CHECK_THROWS_WITH_AS(MambaBlock(none, Init()), doctest::Contains("state must be at least 1; got 0"), Error);
  none.state = -3;
  CHECK_THROWS_AS(MambaBlock(none, Init()), Error);
  for (const auto& mode : scan_mode_names()) CHECK_NOTHROW(MambaBlock(kSmall, Init(), mode));
  CHECK_THROWS_WITH_AS(MambaBlock(kSmall, Init(), "chunkd"), doctest::Contains("Try: chunked"), Error);
  CHECK_THROWS_AS(MultiDirectionalMambaBlock(kSmall, 3, {}, ScanOrder::kAxisFastest, Init()), Error);
  CHECK_THROWS_AS(MultiDirectionalMambaBlock(kSmall, 6, {2, 2}, ScanOrder::kAxisFastest, Init()), Error);
  const MambaBlock block(kSmall, Init());
  CHECK_THROWS_WITH_AS(block(mx::zeros({2, 5, 11})), doctest::Contains("{B, L, 12}"), Error);
  CHECK_THROWS_AS(block(mx::zeros({2, 12})), Error);
}

TEST_CASE("a large batch runs as one operation and gives what its parts give") {
  const MambaConfig config{.width = 6, .state = 3};
  MambaBlock block(config, Init(3));
  const int64_t from = mamba_in_one_from(5, config.inner(), true);
  if (from == 0) return;  // a machine with many cores
  const int B = static_cast<int>(from), half = B / 2;
  const auto h = mx::random::normal({B, 5, 6}, mx::random::key(1));
  const auto rows = [&](int first, int last) { return mx::slice(h, {first, 0, 0}, {last, 5, 6}); };
  REQUIRE(block.runs_in_one(h));
  REQUIRE(!block.runs_in_one(rows(0, half)));
  for (const bool reverse : {false, true}) {
    const ScanDirection direction{std::nullopt, reverse};
    const auto whole = [&] { return block(h, direction); };
    const auto parts = [&] {
      return mx::concatenate({block(rows(0, half), direction), block(rows(half, B), direction)}, 0);
    };
    CHECK(normalised_error(whole(), parts()) < 1e-5);
    const auto gradients = [&](const std::function<mx::array()>& f) {
      const LossFn loss = [&](const std::vector<mx::array>&) {
        return std::vector<mx::array>{mx::sum(mx::square(f()))};
      };
      return value_and_grad(block, loss, {}).gradients;
    };
    const auto got = gradients(whole), want = gradients(parts);
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < got.size(); i++) CHECK(normalised_error(got[i], want[i]) < 1e-4);
  }
}

}  // namespace aspis
