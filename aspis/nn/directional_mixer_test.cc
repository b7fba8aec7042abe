#include "aspis/nn/directional_mixer.h"

#include <mlx/ops.h>

#include <numeric>

#include "aspis/base/error.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::normalised_error;

mx::array tokens(int L, int width) { return mx::sin(mx::reshape(mx::arange(2.0 * L * width), {2, L, width})); }

/// What a direction means, by permuted copies.
mx::array by_copies(const SequenceMixer& mixer, const mx::array& h, const std::vector<int32_t>& steps) {
  const mx::array order(steps.begin(), {static_cast<int>(steps.size())}, mx::int32);
  return mx::take(mixer(mx::take(h, order, 1)), mx::argsort(order), 1);
}

}  // namespace

TEST_CASE("directional_mixer_is_the_sum_of_its_blocks_over_permuted_tokens") {
  const std::pair<int64_t, std::vector<int64_t>> forms[] = {
      {1, {3, 4}}, {2, {3, 4}}, {4, {3, 4}}, {6, {2, 3, 2}}, {8, {2, 2, 3, 2}}};
  for (const auto& kind : mixer_names()) {
    CAPTURE(kind);
    for (const auto& [count, grid] : forms) {
      CAPTURE(count);
      const MixerConfig config{.kind = kind, .width = 12, .state = 4, .conv = 3};
      const DirectionalMixer sum(config, count, Init(3)), mean(config, count, Init(3), true);
      const int L = static_cast<int>(std::accumulate(grid.begin(), grid.end(), int64_t{1}, std::multiplies<>()));
      const auto h = tokens(L, 12);
      const auto directions = mixer_directions(count, grid);
      REQUIRE(directions.size() == static_cast<size_t>(count));
      std::vector<GridDirection> wanted{{{0, 1}, false}};
      if (count == 2) wanted = {{{0, 1}, false}, {{0, 1}, true}};
      if (count > 2) wanted = grid_directions(static_cast<int>(grid.size()), ScanOrder::kAxisFastest);
      auto want = mx::zeros({2, L, 12});
      for (size_t k = 0; k < wanted.size(); k++) {
        want = want + by_copies(*sum.mixers[k], h, token_order(grid, wanted[k]));
      }
      CHECK(normalised_error(sum(h, directions), want) < 1e-5);
      CHECK(normalised_error(mean(h, directions), want / mx::array(static_cast<float>(count))) < 1e-5);
    }
  }
}

TEST_CASE("mixer_directions_with_a_token_in_the_middle_mirror_each_other") {
  const auto directions = mixer_directions(4, {2, 3}, true);
  const std::vector<std::vector<double>> want{
      {0, 1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1, 0}, {0, 4, 1, 3, 5, 2, 6}, {6, 2, 5, 3, 1, 4, 0}};
  for (size_t k = 0; k < 4; k++) CHECK(golden::values_of(*directions[k].order) == want[k]);
  const auto odd = mixer_directions(4, {1, 3}, true);
  CHECK(golden::values_of(*odd[0].order) == std::vector<double>{0, 1, 2, 3});
  CHECK(golden::values_of(*odd[1].order) == std::vector<double>{3, 2, 1, 0});
}

TEST_CASE("directional_mixer_refuses_what_does_not_fit") {
  CHECK_THROWS_WITH_AS(mixer_directions(6, {2, 3}), doctest::Contains("1, 2 or 4 on 2 axes"), Error);
  CHECK_THROWS_WITH_AS(mixer_directions(3, {2, 3}), doctest::Contains("got 3"), Error);
  CHECK_THROWS_WITH_AS(make_mixer({.kind = "mamba4"}, Init(1)), doctest::Contains("mamba1, mamba2, mamba3"),
                       Error);
  CHECK_THROWS_WITH_AS(make_mixer({.kind = "mamba3", .state = 2}, Init(1)), doctest::Contains("at least 4"),
                       Error);
  CHECK(MixerConfig{.width = 33, .expand = 2}.headdim() == 33);
  CHECK(MixerConfig{.width = 192, .expand = 2}.headdim() == 64);
}

}  // namespace aspis
