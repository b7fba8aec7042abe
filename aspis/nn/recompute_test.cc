#include "aspis/nn/recompute.h"

#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/nn/attention.h"
#include "aspis/nn/conv.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

/// Everything that could come out differently the second time.
struct Layer final : Module {
  explicit Layer(const Init& init)
      : mlp(16, 256, init.child("mlp")),
        frozen(16, init.child("frozen")),
        norm(16, init),
        drop(0.4, init.child("drop")) {
    add_child("mlp", mlp);
    add_child("frozen", frozen);
    add_child("norm", norm);
    add_child("drop", drop);
    freeze("frozen.*");
  }
  std::string type_name() const override { return "Layer"; }
  Residual forward(const Residual& x) const {
    auto [n, sum] = frozen(x);
    return {std::move(sum), drop(norm(mlp(n)))};
  }
  Mlp mlp;
  LayerNorm frozen;
  BatchNorm norm;
  DropPath drop;
};

struct Stack final : Module {
  Stack() {
    for (int i = 0; i < 12; i++) {
      layers.push_back(std::make_unique<Layer>(Init(3).child(std::to_string(i))));
      add_child(std::to_string(i), *layers.back());
    }
  }
  std::string type_name() const override { return "Stack"; }
  std::vector<std::unique_ptr<Layer>> layers;
};

struct Result {
  std::vector<mx::array> arrays;  // loss, gradients, buffers
  size_t peak;
};

Result run(bool again) {
  Stack stack;
  const auto x = mx::sin(mx::reshape(mx::arange(8.0 * 512 * 16), {8, 512, 16}));
  mx::eval(x);
  mx::synchronize();
  mx::reset_peak_memory();
  const size_t before = mx::get_active_memory();
  auto [values, gradients] =
      value_and_grad(stack,
                     [&](const std::vector<mx::array>& in) {
                       const RandomStep step(5, 2);  // over when gradients are asked for
                       Residual r{in[0], {}};
                       for (auto& layer : stack.layers) {
                         const auto f = [&layer = *layer](const Residual& v) { return layer.forward(v); };
                         r = again ? recomputed(*layer, f, r) : f(r);
                       }
                       return std::vector<mx::array>{mx::mean(mx::square(r.value()))};
                     },
                     {x});
  Result out{values, 0};
  out.arrays.insert(out.arrays.end(), gradients.begin(), gradients.end());
  for (const auto& [name, buffer] : stack.buffers()) out.arrays.push_back(buffer);
  values.clear(), gradients.clear();
  mx::eval(out.arrays);
  mx::synchronize();
  out.peak = mx::get_peak_memory() - before;
  return out;
}

}  // namespace

TEST_CASE("recomputed_layers_give_the_same_bits_and_need_less_memory") {
  const Result plain = run(false), again = run(true);
  REQUIRE(plain.arrays.size() == again.arrays.size());
  for (size_t i = 0; i < plain.arrays.size(); i++) {
    CAPTURE(i);
    CHECK(golden::values_of(plain.arrays[i]) == golden::values_of(again.arrays[i]));
  }
  // Kept of each layer: 2 rows of 16 instead of about 2 of 256 and 8 of 16.
  CAPTURE(plain.peak);
  CAPTURE(again.peak);
  CHECK(again.peak * 2 < plain.peak);
}

}  // namespace aspis
