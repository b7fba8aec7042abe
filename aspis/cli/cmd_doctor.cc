#include <fmt/format.h>
#include <mlx/mlx.h>

#include <cmath>

#include "aspis/base/clock.h"
#include "aspis/base/cpu.h"
#include "aspis/base/parallel.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/data/dataset.h"
#include "aspis/models/registry.h"
#include "aspis/nn/module.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/simd/isa.h"
#include "aspis/train/run_folder.h"

namespace aspis::cli {
namespace {

namespace mx = mlx::core;

// One training step of a small model: finite loss, finite gradients, a loss
// that falls when the parameters follow them.
std::string tiny_training_step() {
  auto model = make_model("vision_mamba_fmnist", {{"depth", "1"}, {"embed_dim", "16"}});
  const auto shape = model->input_shape();
  const auto images = mx::reshape(
      mx::sin(mx::arange(0.0f, static_cast<float>(4 * shape[0] * shape[1] * shape[2]))),
      {4, static_cast<int>(shape[0]), static_cast<int>(shape[1]), static_cast<int>(shape[2])});
  const auto labels = mx::array({0, 1, 2, 3}, mx::int32);
  const LossFn loss = [&](const std::vector<mx::array>& in) {
    return std::vector<mx::array>{cross_entropy(model->logits(in[0]), in[1])};
  };
  auto [before, gradients] = value_and_grad(*model, loss, {images, labels});
  std::vector<mx::array> moved;
  const auto parameters = model->trainable_parameters();
  for (size_t i = 0; i < parameters.size(); i++) {
    moved.push_back(mx::subtract(parameters[i].second, mx::multiply(mx::array(0.05f), gradients[i])));
  }
  model->update(moved);
  auto after = loss({images, labels});
  mx::eval({before[0], after[0]});
  const double b = before[0].item<float>(), a = after[0].item<float>();
  if (!std::isfinite(b) || !std::isfinite(a) || a >= b) {
    return fmt::format("FAILED: the loss went from {} to {}", b, a);
  }
  return fmt::format("ok: loss {:.4f} -> {:.4f} after one gradient step", b, a);
}

}  // namespace

void add_doctor(CLI::App& app, Context& context) {
  add_command(
      app, "doctor", "Look inside", "Look at the machine and run a tiny forward and backward pass",
      {"aspis doctor", "aspis doctor --json"}, [&context] {
        report::Table table({{"what", "what"}, {"value", "value"}});
        const CpuReport cpu = cpu_report();
        std::string features, isas;
        for (const auto& f : cpu.features) features += (features.empty() ? "" : " ") + f;
        for (const auto& i : supported_isas()) isas += (isas.empty() ? "" : " ") + i;
        table.add_row({"aspis", train::version() + " (" + train::commit() + ")"});
        table.add_row({"engine", std::string("MLX ") + mx::version() +
                                     (mx::is_available(mx::Device::gpu) ? ", GPU available" : ", CPU")});
        table.add_row({"processor", fmt::format("{} ({})", cpu.model, cpu.architecture)});
        table.add_row({"features", features});
        table.add_row({"instruction set", fmt::format("{} in use; compiled and present: {}", active_isa(), isas)});
        table.add_row({"threads", fmt::format("{} of {} cores", num_threads(), available_cores())});
        table.add_row({"caches", fmt::format("L1d {}, L2 {}, L3 {}", format_bytes(static_cast<double>(cpu.l1d_bytes)),
                                             format_bytes(static_cast<double>(cpu.l2_bytes)),
                                             format_bytes(static_cast<double>(cpu.l3_bytes)))});
        table.add_row({"memory", fmt::format("{}, {} available", format_bytes(static_cast<double>(cpu.memory_bytes)),
                                             format_bytes(static_cast<double>(cpu.memory_available_bytes)))});
        for (const auto& d : data::list_datasets()) {
          if (d.name.find(':') == std::string::npos) {
            table.add_row({"data set " + d.name, d.available ? "found" + (d.where.empty() ? "" : " in " + d.where) : "not found"});
          }
        }
        const std::string step = tiny_training_step();
        table.add_row({"training step", step});
        std::string back_ends;
        for (const auto& [op, back_end] : ops::back_ends_used()) back_ends += (back_ends.empty() ? "" : ", ") + op + ": " + back_end;
        table.add_row({"back ends used", back_ends});
        print_table(context, table, "");
        if (step.rfind("ok", 0) != 0) context.exit_code = 1;
      });
}

}  // namespace aspis::cli
