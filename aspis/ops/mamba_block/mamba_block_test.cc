#include "aspis/ops/mamba_block/mamba_block.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/mamba_block/mamba_block_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("mamba_block conforms on every instruction set") { harness::expect_conforms(mamba_block_entry()); }

TEST_CASE("mamba_block refuses what does not fit with one sentence") {
  const auto h = mx::ones({2, 3, 4}), in_proj = mx::ones({12, 4}), out_proj = mx::ones({4, 6});
  MambaBlockBranch b{mx::ones({6, 4}), mx::ones({6}),    mx::ones({7, 6}), mx::ones({6, 1}),
                     mx::ones({6}),    mx::ones({6, 3}), mx::ones({6})};
  CHECK(mamba_block(h, in_proj, {b}, out_proj).shape() == h.shape());
  CHECK_THROWS_WITH_AS(mamba_block(h, mx::ones({6, 4}), {b}, out_proj),
                       "[mamba_block] in_proj must have shape {2 I, W} = {12, 4}; got {6, 4}", Error);
  CHECK_THROWS_WITH_AS(mamba_block(h, in_proj, {}, out_proj),
                       "[mamba_block] at least one branch is needed; got none", Error);
  CHECK_THROWS_AS(mamba_block(mx::ones({2, 0, 4}), in_proj, {b}, out_proj), Error);
  b.order = mx::zeros({2}, mx::int32);
  CHECK_THROWS_WITH_AS(mamba_block(h, in_proj, {b}, out_proj),
                       "[mamba_block] order must have shape {L} = {3}; got {2}", Error);
  b.order = std::nullopt;
  b.x_proj = mx::ones({6, 6});
  CHECK_THROWS_WITH_AS(mamba_block(h, in_proj, {b}, out_proj),
                       "[mamba_block] x_proj must have shape {R + 2 N, I} = {7, 6}; got {6, 6}", Error);
}
