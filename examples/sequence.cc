// A Mamba block over a sequence, token by token with a state of fixed size, and all at once.
#include <mlx/ops.h>
#include <mlx/random.h>

#include <algorithm>
#include <cstdio>

#include "aspis/base/error.h"
#include "aspis/nn/mamba_block.h"

namespace mx = mlx::core;

int main() try {
  const aspis::MambaBlock block({.width = 32, .state = 8}, aspis::Init(1));
  const auto tokens = mx::random::normal({1, 20, 32}, mx::float32, 0.0f, 1.0f, mx::random::key(2));
  const auto whole = block(tokens);  // {1, 20, 32}
  aspis::State state = block.initial_state(1);
  float largest = 0;
  for (int t = 0; t < 20; t++) {
    auto [out, next] = block.step(mx::take(tokens, t, 1), state);
    state = next;
    largest = std::max(largest, mx::max(mx::abs(out - mx::take(whole, t, 1))).item<float>());
  }
  std::printf("20 steps, %ld bytes of state, largest difference %.1e\n", static_cast<long>(state.bytes()),
              static_cast<double>(largest));
  return largest < 1e-5f ? 0 : 1;
} catch (const aspis::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return e.exit_code();
}
