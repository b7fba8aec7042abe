#include "aspis/bench/measure.h"

#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/models/image_model.h"
#include "aspis/nn/attention.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/mamba2_block.h"
#include "aspis/nn/mamba3_block.h"
#include "aspis/nn/mamba_block.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"
#include "aspis/simd/isa.h"
#include "aspis/train/optimizer.h"

namespace aspis::bench {

namespace {

mx::array random_input(const mx::Shape& shape) {
  return mx::random::normal(shape, mx::float32, 0.0f, 1.0f, mx::random::key(11));
}

std::string joined(const mx::Shape& shape) { return fmt::format("{}", fmt::join(shape, "x")); }

// A block from a module type that is called on {B, L, width}.
template <typename Block>
Subject block_subject(const std::string& name, std::unique_ptr<Block> block, const mx::Shape& shape,
                      const std::string& sizes) {
  Subject s;
  s.kind = "block";
  s.name = name;
  s.case_name = joined(shape) + (sizes.empty() ? "" : " " + sizes);
  s.input = random_input(shape);
  s.forward = [b = block.get()](const mx::array& x) { return (*b)(x); };
  s.module = std::move(block);
  return s;
}

MambaConfig mamba(int64_t width, int64_t state) {
  MambaConfig c;
  c.width = width;
  c.state = state;
  return c;
}

harness::Cost work_of(const mx::array& output) {
  const ModelCost cost = count_work({output});
  return {2 * static_cast<double>(cost.macs), static_cast<double>(cost.exps), 0};
}

}  // namespace

const std::vector<BlockEntry>& block_registry() {
  const Init init(3);
  static const std::vector<BlockEntry> list{
      {"mamba_block", "Mamba-1 block with norm and residual, the sizes of Vim-Ti",
       [init] {
         return block_subject("mamba_block", std::make_unique<ResidualMambaBlock>(mamba(192, 16), init),
                              {8, 197, 192}, "N16");
       }},
      {"bidirectional_mamba_block", "two Mamba-1 blocks, one backwards",
       [init] {
         return block_subject("bidirectional_mamba_block",
                              std::make_unique<BidirectionalMambaBlock>(mamba(192, 16), init), {8, 197, 192},
                              "N16");
       }},
      {"multi_directional_mamba_block", "the demo's block, two directions",
       [init] {
         return block_subject("multi_directional_mamba_block",
                              std::make_unique<MultiDirectionalMambaBlock>(
                                  mamba(64, 8), 2, std::vector<int64_t>{7, 7}, ScanOrder{}, init),
                              {128, 49, 64}, "N8 K2");
       }},
      {"mamba2_block", "Mamba-2 block, the sizes of mamba2-130m",
       [init] {
         return block_subject("mamba2_block", std::make_unique<Mamba2Block>(Mamba2Config{}, init), {1, 2048, 768},
                              "N128");
       }},
      {"mamba3_block", "Mamba-3 block, SISO, of the same sizes",
       [init] {
         return block_subject("mamba3_block", std::make_unique<Mamba3Block>(Mamba3Config{}, init), {1, 2048, 768},
                              "N128");
       }},
      {"mamba3_mimo_block", "Mamba-3 block, MIMO of rank 4",
       [init] {
         Mamba3Config c;
         c.rank = 4;
         return block_subject("mamba3_mimo_block", std::make_unique<Mamba3Block>(c, init), {1, 1024, 768},
                              "N128 R4");
       }},
      {"attention_block", "self-attention with its projections",
       [init] {
         return block_subject("attention_block", std::make_unique<MultiHeadAttention>(384, 6, true, init),
                              {8, 196, 384}, "H6");
       }},
      {"transformer_block", "attention and MLP with norms and residuals, the sizes of ViT-Ti",
       [init] {
         return block_subject("transformer_block", std::make_unique<TransformerBlock>(192, 3, 4, init),
                              {8, 197, 192}, "H3");
       }},
  };
  return list;
}

Subject model_subject(const std::string& name, int64_t batch, const Overrides& overrides) {
  Subject s;
  s.kind = "model";
  s.name = name;
  s.case_name = fmt::format("batch {}", batch);
  for (const auto& [key, value] : overrides) s.case_name += fmt::format(" {}={}", key, value);
  auto model = make_model(name, overrides);
  mx::Shape shape{static_cast<int>(batch)};
  for (const int64_t d : model->input_shape()) shape.push_back(static_cast<int>(d));
  s.input = random_input(shape);
  s.classes = model->num_classes();
  s.forward = [m = model.get()](const mx::array& x) {
    return m->num_classes() > 0 ? m->logits(x) : m->forward_features(x);
  };
  s.module = std::move(model);
  return s;
}

Measurement measure_subject(Subject& s, const Passes& passes, double seconds, mx::Dtype dtype) {
  Measurement m{s.kind, s.name, s.case_name, active_isa(), ops::to_string(dtype), num_threads(), {}, {}, {}};
  const harness::MachineBounds& bounds = harness::machine_bounds();
  if (dtype != mx::float32) s.module->cast(dtype);
  const mx::array input = mx::astype(s.input, dtype);
  mx::eval(input);
  const double each = seconds / std::max(1, int{passes.forward} + int{passes.both} + int{passes.step});

  s.module->eval();
  const harness::Cost forward = work_of(s.forward(input));
  const auto weights = static_cast<double>(s.module->parameter_bytes());
  const auto timed = [&](Pass& pass, const std::function<void()>& run, const harness::Cost& cost) {
    pass.time = harness::time_repeatedly(run, each);
    pass.bound = harness::bound_seconds(cost, bounds, &pass.limit);
  };
  if (passes.forward) {
    timed(m.forward, [&] { mx::eval(s.forward(input)); }, {forward.flops, forward.exps, weights});
  }
  if (!passes.both && !passes.step) return m;

  s.module->train();
  const auto batch = input.shape(0);
  const auto labels =
      mx::remainder(mx::arange(0, batch, mx::int32), mx::array(static_cast<int>(std::max<int64_t>(1, s.classes))));
  mx::eval(labels);
  const LossFn loss = [&](const std::vector<mx::array>& in) {
    const auto out = s.forward(in[0]);
    if (s.classes > 0 && out.ndim() == 2) return std::vector<mx::array>{cross_entropy(out, in[1])};
    return std::vector<mx::array>{mx::mean(out)};
  };
  int64_t step = 0;
  // Batch norm's running statistics are part of what a step computes.
  const auto with_buffers = [&](std::vector<mx::array> wanted) {
    for (const auto& [name, buffer] : s.module->buffers()) wanted.push_back(buffer);
    return wanted;
  };
  if (passes.both) {
    timed(m.both,
          [&] {
            const RandomStep random(0, step++);
            auto [wanted, gradients] = value_and_grad(*s.module, loss, {input, labels});
            wanted.insert(wanted.end(), gradients.begin(), gradients.end());
            gradients.clear();
            mx::eval(with_buffers(std::move(wanted)));
          },
          {3 * forward.flops, 2 * forward.exps, 3 * weights});
  }
  if (passes.step && dtype == mx::float32) {
    train::OptimizerSettings settings;
    train::Optimizer optimizer(*s.module, settings);
    // Reads and writes of weight and two moments, and the gradient: 7 values of 4 bytes.
    timed(m.step,
          [&] {
            const RandomStep random(0, step++);
            auto [wanted, gradients] = value_and_grad(*s.module, loss, {input, labels});
            wanted.push_back(optimizer.update(gradients, wanted[0], 1e-6));
            gradients.clear();
            for (const auto& a : optimizer.pending()) wanted.push_back(a);
            mx::eval(with_buffers(std::move(wanted)));
            optimizer.confirm(true);
          },
          {3 * forward.flops, 2 * forward.exps, (3 + 7) * weights});
  }
  return m;
}

Measurement measure_operator(const harness::OpEntry& entry, const harness::OpInstance& instance, double seconds,
                             bool composed, mx::Dtype dtype) {
  const harness::PerfResult r = harness::measure_case(entry, instance, seconds, composed, dtype);
  return {composed ? "composed" : "operator",
          r.op,
          r.case_name,
          active_isa(),
          ops::to_string(dtype),
          num_threads(),
          {r.forward, r.forward_bound, r.forward_limit},
          {r.forward_backward, r.forward_backward_bound, r.forward_backward_limit},
          {}};
}

mx::Dtype parse_dtype(const std::string& name) {
  if (name == "float32" || name == "f32") return mx::float32;
  if (name == "bfloat16" || name == "bf16") return mx::bfloat16;
  if (name == "float16" || name == "f16") return mx::float16;
  throw Error(ErrorKind::kUsage,
              {.where = "--dtype-list",
               .required = "float32, bfloat16 or float16 is needed",
               .got = "'" + name + "'",
               .hint = nearest_word(name, std::vector<std::string>{"float32", "bfloat16", "float16"})});
}

}  // namespace aspis::bench
